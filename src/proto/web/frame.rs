//! Frames: what streams are made of.
//!
//! ```text
//! offset  0      1            4                  8
//!         +------+------------+------------------+---------+
//!         | type | stream id  | payload length   | payload |     big endian
//!         +------+------------+------------------+---------+
//! ```

use super::{FRAMES_MAX, Violation};

/// Bytes before the payload.
pub(crate) const HEADER: usize = 8;
/// Payload of a frame at most.
const PAYLOAD_MAX: usize = 1 << 20;
/// Payload of a PONG at most.
const PONG_MAX: usize = 64;
/// Payload of our DATA frames at most: apps of the first builds take no message of a mebibyte.
pub(crate) const DATA_MAX: usize = 64 << 10;

const OPEN: u8 = 0x01;
const DATA: u8 = 0x02;
const CLOSE: u8 = 0x03;
const WINDOW: u8 = 0x04;
const PONG: u8 = 0x06;

/// What a client says first, and our answer.
pub(crate) const HELLO: [u8; 9] = [0x10, 0, 0, 0, 0, 0, 0, 1, 1];
pub(crate) const WELCOME: [u8; 8] = [0x11, 0, 0, 0, 0, 0, 0, 0];

/// A frame that a client may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Frame<'a> {
    Open(u32),
    Data(u32, &'a [u8]),
    Close(u32),
    Window(u32, u32),
    Pong,
}

/// The frames of a batch, up to the first that is none.
pub(crate) struct Frames<'a> {
    batch: &'a [u8],
    left: usize,
}

impl<'a> Frames<'a> {
    pub(crate) fn new(batch: &'a [u8]) -> Self {
        Self { batch, left: FRAMES_MAX }
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<Frame<'a>, Violation>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.batch.is_empty() {
            return None;
        }
        let frame = if self.left == 0 { Err(Violation) } else { parse(self.batch) };
        let Ok((frame, rest)) = frame else {
            self.batch = &[];
            return Some(Err(Violation));
        };
        (self.batch, self.left) = (rest, self.left - 1);
        Some(Ok(frame))
    }
}

/// What a batch has in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Content {
    /// Payload of its DATA frames, bytes.
    pub(crate) payload: usize,
    /// Frames that carry little or nothing.
    pub(crate) small: usize,
}

/// A DATA frame with less payload costs more than it carries.
const SMALL: usize = 1 << 10;

/// Says what is in a batch of whole, well-formed frames, of which there is at least one.
pub(crate) fn check(batch: &[u8]) -> Result<Content, Violation> {
    if batch.is_empty() {
        return Err(Violation);
    }
    Frames::new(batch).try_fold(Content::default(), |Content { payload, small }, frame| {
        let more = if let Frame::Data(_, payload) = frame? { payload.len() } else { 0 };
        Ok(Content { payload: payload + more, small: small + usize::from(more < SMALL) })
    })
}

fn parse(bytes: &[u8]) -> Result<(Frame<'_>, &[u8]), Violation> {
    let (&[kind, a, b, c, d, e, f, g], rest) = bytes.split_first_chunk::<HEADER>().ok_or(Violation)?;
    let id = u32::from_be_bytes([0, a, b, c]);
    let length = usize::try_from(u32::from_be_bytes([d, e, f, g])).map_err(|_| Violation)?;
    if length > PAYLOAD_MAX {
        return Err(Violation);
    }
    let (payload, rest) = rest.split_at_checked(length).ok_or(Violation)?;
    let frame = match (kind, id, payload) {
        (PONG, 0, payload) if payload.len() <= PONG_MAX => Frame::Pong,
        (_, 0, _) => return Err(Violation),
        (OPEN, id, []) => Frame::Open(id),
        (CLOSE, id, []) => Frame::Close(id),
        (DATA, id, [_, ..]) => Frame::Data(id, payload),
        (WINDOW, id, [a, b, c, d]) => match u32::from_be_bytes([*a, *b, *c, *d]) {
            0 => return Err(Violation),
            credit => Frame::Window(id, credit),
        },
        _ => return Err(Violation),
    };
    Ok((frame, rest))
}

/// The start of a DATA frame.
pub(crate) fn data_header(id: u32, payload: usize) -> [u8; HEADER] {
    header(DATA, id, u32::try_from(payload).unwrap_or_default())
}

/// A CLOSE frame.
pub(crate) fn close(id: u32) -> [u8; HEADER] {
    header(CLOSE, id, 0)
}

/// What an app sends for a new stream: OPEN, and DATA behind it.
#[cfg(feature = "web")]
pub(crate) fn opening(id: u32, payload: &[u8]) -> Vec<u8> {
    [header(OPEN, id, 0).as_slice(), &data_header(id, payload.len()), payload].concat()
}

/// What an app reads of one stream in a batch: its bytes, and whether it was closed.
#[cfg(feature = "web")]
pub(crate) fn of_stream(mut batch: &[u8], id: u32) -> (Vec<u8>, bool) {
    let (mut bytes, mut is_closed) = (Vec::new(), false);
    while let Ok((frame, rest)) = parse(batch) {
        match frame {
            Frame::Data(of, payload) if of == id => bytes.extend_from_slice(payload),
            Frame::Close(of) if of == id => is_closed = true,
            _ => {}
        }
        batch = rest;
    }
    (bytes, is_closed)
}

/// A WINDOW frame.
pub(crate) fn window(id: u32, credit: u32) -> Vec<u8> {
    [header(WINDOW, id, 4).as_slice(), &credit.to_be_bytes()].concat()
}

fn header(kind: u8, id: u32, length: u32) -> [u8; HEADER] {
    let [_, a, b, c] = id.to_be_bytes();
    let [d, e, f, g] = length.to_be_bytes();
    [kind, a, b, c, d, e, f, g]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::testing::hex;

    fn all(batch: &[u8]) -> Result<Vec<Frame<'_>>, Violation> {
        Frames::new(batch).collect()
    }

    #[test]
    fn the_vectors_are_read_and_written() {
        let batch = hex("0100000100000000 0200000300000003616263 040001020000000400010000 03ffffff00000000");
        let frames = [Frame::Open(1), Frame::Data(3, b"abc"), Frame::Window(258, 65_536), Frame::Close(0xff_ffff)];
        assert_eq!(all(&batch).unwrap(), frames);
        assert_eq!(check(&batch), Ok(Content { payload: 3, small: 4 }));
        assert_eq!(window(258, 65_536), hex("040001020000000400010000"));
        assert_eq!([data_header(3, 3).as_slice(), b"abc"].concat(), hex("0200000300000003616263"));
        assert_eq!(close(0xff_ffff)[..], hex("03ffffff00000000"));
    }

    #[test]
    fn a_batch_that_is_cut_anywhere_between_its_frames_is_none() {
        let batch = hex("0100000100000000 0200000300000003616263 040001020000000400010000");
        for cut in 0..batch.len() {
            let is_whole = [8, 19].contains(&cut);
            assert_eq!(check(&batch[..cut]).is_ok(), is_whole, "{cut}");
        }
    }

    #[test]
    fn what_no_client_may_send_is_refused() {
        for bad in [
            "0000000100000000",
            "0100000000000000",
            "010000010000000100",
            "0200000100000000",
            "030000010000000100",
            "0400000100000003000001",
            "040000010000000400000000",
            "0500000000000000",
            "0600000100000000",
            "100000000000000101",
            "1100000000000000",
            "1200000000000000",
            "1f00000000000000",
            "0200000100100001",
        ] {
            assert_eq!(all(&hex(bad)), Err(Violation), "{bad}");
        }
        assert_eq!(all(&hex("0600000000000000")).unwrap(), [Frame::Pong]);
        let most = close(1).repeat(FRAMES_MAX);
        assert!(check(&most).is_ok());
        assert_eq!(check(&[most.as_slice(), &close(1)].concat()), Err(Violation));
    }
}
