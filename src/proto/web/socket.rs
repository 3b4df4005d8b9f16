//! WebSocket (RFC 6455), a server's side, as far as the WEB proxy needs it: binary messages both ways, pings, closes.
//! By hand, for the crates that there are bring a client, compression and blocking streams with them.
//!
//! ```text
//! offset  0                1              2                (2, 4 or 10)
//!         +----------------+--------------+----------------+----------+---------+
//!         | FIN, opcode    | mask, length | longer length  | mask (4) | payload |
//!         +----------------+--------------+----------------+----------+---------+
//! ```

use sha1::{Digest, Sha1};

use super::BATCH_MAX;
use crate::proto::base64url;

/// What RFC 6455 appends to the client's key.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Payload of a control frame at most.
const CONTROL_MAX: usize = 125;
/// Bytes of a frame's head at most.
const HEAD_MAX: usize = 14;

const CONTINUATION: u8 = 0x0;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;

/// Why a connection is closed.
pub(crate) const PROTOCOL_ERROR: u16 = 1002;
pub(crate) const TOO_BIG: u16 = 1009;

/// What a client said.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// Nothing that is whole yet.
    Nothing,
    Message(Vec<u8>),
    /// To be answered with [`pong`].
    Ping(Vec<u8>),
    Close,
}

/// Puts messages together.
#[derive(Default)]
pub(crate) struct Messages {
    head: Vec<u8>,
    frame: Option<Current>,
    message: Vec<u8>,
    is_in_message: bool,
    control: Vec<u8>,
}

/// A frame whose payload is coming.
struct Current {
    opcode: u8,
    is_final: bool,
    mask: [u8; 4],
    at: usize,
    left: usize,
}

impl Messages {
    /// Bytes of the message that is coming.
    pub(crate) fn held(&self) -> usize {
        self.message.capacity()
    }

    /// Takes bytes from the front of `input` up to the end of something that was said.
    ///
    /// # Errors
    /// The code to close with.
    pub(crate) fn take(&mut self, input: &mut &[u8]) -> Result<Said, u16> {
        while !input.is_empty() {
            if self.frame.is_none() {
                self.take_head(input)?;
            }
            let Some(frame) = &mut self.frame else { continue };
            let (payload, rest) = input.split_at_checked(frame.left).unwrap_or((input, &[]));
            *input = rest;
            let target = if is_control(frame.opcode) { &mut self.control } else { &mut self.message };
            unmask(target, payload, frame.mask, frame.at);
            frame.at += payload.len();
            frame.left -= payload.len();
            if frame.left == 0
                && let Some(frame) = self.frame.take()
            {
                match self.finish(&frame) {
                    Said::Nothing => {}
                    said => return Ok(said),
                }
            }
        }
        Ok(Said::Nothing)
    }

    fn take_head(&mut self, input: &mut &[u8]) -> Result<(), u16> {
        while let Some((byte, rest)) = input.split_first() {
            self.head.push(*byte);
            *input = rest;
            if let Some(frame) = self.parse_head()? {
                self.head.clear();
                self.frame = Some(frame);
                // A frame without payload is over at once.
                return Ok(());
            }
            if self.head.len() >= HEAD_MAX {
                return Err(PROTOCOL_ERROR);
            }
        }
        Ok(())
    }

    fn parse_head(&self) -> Result<Option<Current>, u16> {
        let Some((&[first, second], rest)) = self.head.split_first_chunk::<2>() else { return Ok(None) };
        let (length, mask) = match second & 0x7f {
            126 => match rest.split_first_chunk::<2>() {
                Some((length, mask)) => (u64::from(u16::from_be_bytes(*length)), mask),
                None => return Ok(None),
            },
            127 => match rest.split_first_chunk::<8>() {
                Some((length, mask)) => (u64::from_be_bytes(*length), mask),
                None => return Ok(None),
            },
            length => (u64::from(length), rest),
        };
        let (opcode, is_final) = (first & 0x0f, first & 0x80 != 0);
        let is_expected = match opcode {
            BINARY => !self.is_in_message,
            CONTINUATION => self.is_in_message,
            CLOSE | PING | PONG => is_final && length <= CONTROL_MAX as u64,
            _ => false,
        };
        // Extensions were not agreed on, and clients have to mask.
        if !is_expected || first & 0x70 != 0 || second & 0x80 == 0 {
            return Err(PROTOCOL_ERROR);
        }
        let length = usize::try_from(length).map_err(|_| TOO_BIG)?;
        if !is_control(opcode) && length > BATCH_MAX - self.message.len() {
            return Err(TOO_BIG);
        }
        let Some(mask) = mask.first_chunk() else { return Ok(None) };
        Ok(Some(Current { opcode, is_final, mask: *mask, at: 0, left: length }))
    }

    fn finish(&mut self, frame: &Current) -> Said {
        let control = if is_control(frame.opcode) { std::mem::take(&mut self.control) } else { Vec::new() };
        match frame.opcode {
            PING => return Said::Ping(control),
            CLOSE => return Said::Close,
            PONG => return Said::Nothing,
            _ => {}
        }
        self.is_in_message = !frame.is_final;
        if frame.is_final { Said::Message(std::mem::take(&mut self.message)) } else { Said::Nothing }
    }
}

fn is_control(opcode: u8) -> bool {
    opcode >= CLOSE
}

/// Appends payload without its mask; `at` bytes of the frame came before.
fn unmask(target: &mut Vec<u8>, payload: &[u8], [a, b, c, d]: [u8; 4], at: usize) {
    let mask = match at % 4 {
        0 => [a, b, c, d],
        1 => [b, c, d, a],
        2 => [c, d, a, b],
        _ => [d, a, b, c],
    };
    let start = target.len();
    target.extend_from_slice(payload);
    let (words, tail) = target.get_mut(start..).unwrap_or_default().as_chunks_mut::<4>();
    let mask_word = u32::from_ne_bytes(mask);
    for word in words {
        *word = (u32::from_ne_bytes(*word) ^ mask_word).to_ne_bytes();
    }
    tail.iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
}

/// What proves to a client that its upgrade was understood.
pub(crate) fn accept(key: &str) -> String {
    let digest = Sha1::new().chain_update(key).chain_update(GUID).finalize();
    base64url::encode_standard(&digest)
}

/// The head of a binary message of one frame.
pub(crate) fn message_head(length: usize) -> Vec<u8> {
    let mut head = vec![0x80 | BINARY];
    if let Some(short) = u8::try_from(length).ok().filter(|length| usize::from(*length) <= CONTROL_MAX) {
        head.push(short);
    } else if let Ok(medium) = u16::try_from(length) {
        head.push(126);
        head.extend(medium.to_be_bytes());
    } else {
        head.push(127);
        head.extend((length as u64).to_be_bytes());
    }
    head
}

/// A ping without payload.
pub(crate) fn ping() -> Vec<u8> {
    vec![0x80 | PING, 0]
}

/// The answer to a ping.
pub(crate) fn pong(payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap_or_default();
    [&[0x80 | PONG, length], payload].concat()
}

/// The last frame.
pub(crate) fn close(code: u16) -> Vec<u8> {
    [&[0x80 | CLOSE, 2], code.to_be_bytes().as_slice()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::testing::EACH;

    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = message_head(payload.len());
        (bytes[0], bytes[1]) = (first, bytes[1] | 0x80);
        bytes.extend(MASK);
        bytes.extend(payload.iter().zip(MASK.into_iter().cycle()).map(|(byte, mask)| byte ^ mask));
        bytes
    }

    /// Everything that was said by bytes that come in these pieces.
    fn said(pieces: &[&[u8]]) -> Result<Vec<Said>, u16> {
        let (mut messages, mut all) = (Messages::default(), Vec::new());
        for piece in pieces {
            let mut input = *piece;
            while !input.is_empty() {
                match messages.take(&mut input)? {
                    Said::Nothing => {}
                    said => all.push(said),
                }
            }
        }
        Ok(all)
    }

    #[test]
    fn the_vector_of_the_rfc_is_accepted() {
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn messages_are_whole_wherever_their_bytes_are_cut() {
        let long: Vec<u8> = (0..700u32).map(|n| n as u8).collect();
        let stream = [
            frame(0x02, &long[..130]),
            frame(0x89, b"are you there"),
            frame(0x00, b""),
            frame(0x80, &long[130..]),
            frame(0x82, b"x"),
            frame(0x8a, b""),
            frame(0x88, &[3, 232]),
        ]
        .concat();
        let expected = [
            Said::Ping(b"are you there".to_vec()),
            Said::Message(long.clone()),
            Said::Message(b"x".to_vec()),
            Said::Close,
        ];
        for cut in (0..stream.len()).step_by(EACH) {
            let (a, b) = stream.split_at(cut);
            assert_eq!(said(&[a, b]).unwrap(), expected, "cut at {cut}");
        }
        let bytes: Vec<_> = stream.chunks(1).collect();
        assert_eq!(said(&bytes).unwrap(), expected);
    }

    #[test]
    fn an_empty_frame_at_the_end_is_heard_at_once() {
        assert_eq!(said(&[&frame(0x89, b"")]).unwrap(), [Said::Ping(vec![])]);
        assert_eq!(said(&[&frame(0x82, b"")]).unwrap(), [Said::Message(vec![])]);
    }

    #[test]
    fn what_clients_may_not_send_closes() {
        let mut unmasked = frame(0x82, b"x");
        unmasked[1] &= 0x7f;
        for bad in [
            frame(0x81, b"text"),
            frame(0xc2, b"compressed"),
            frame(0x80, b"of nothing"),
            [frame(0x02, b"a"), frame(0x82, b"b")].concat(),
            frame(0x09, b""),
            frame(0x89, &[0; 126]),
            frame(0x83, b""),
            unmasked,
        ] {
            assert_eq!(said(&[&bad]), Err(PROTOCOL_ERROR), "{bad:?}");
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "mebibytes, byte by byte")]
    fn a_message_that_is_too_long_closes() {
        let big = frame(0x02, &vec![0; BATCH_MAX - 10]);
        assert!(said(&[&[big.clone(), frame(0x80, &[0; 10])].concat()]).is_ok());
        assert_eq!(said(&[&[big, frame(0x80, &[0; 11])].concat()]), Err(TOO_BIG));
        let endless = [&[0x82, 0xff], u64::MAX.to_be_bytes().as_slice(), &MASK].concat();
        assert_eq!(said(&[&endless]), Err(TOO_BIG));
    }

    #[test]
    fn heads_have_the_shortest_length() {
        assert_eq!(message_head(125), [0x82, 125]);
        assert_eq!(message_head(126), [0x82, 126, 0, 126]);
        assert_eq!(message_head(65_536), [0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
    }
}
