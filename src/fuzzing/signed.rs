//! Hellos with the right digest: what somebody who knows the secret may send, or who may have any hello signed.
//!
//! A fuzzer cannot make an HMAC, so it never gets past the digest by itself. Here each hello is signed and each
//! obfuscated2 frame gets a tag before the machine sees them.

use mtg_aes_ctr::Aes256Ctr;
use sha2::{Digest as _, Sha256};

use super::seeded;
use crate::proto::faketls::{self, Digest};
use crate::proto::handshake::{Env, Handshake, Step};
use crate::proto::obfuscated2::FRAME_LEN;
use crate::proto::secret::Secret;
use crate::proto::tls::client_hello::ClientHello;
use crate::proto::tls::server_hello::ReplyShape;
use crate::proto::tls::{RECORD_HEADER, RecordHeader, content_type};

const KEY: [u8; 16] = *b"0123456789abcdef";
/// Unix time of all these hellos.
const NOW: i64 = 1_800_000_000;

/// The verdict on a connection: DC and early payload of a client, or why it is none.
type Verdict = Result<(i16, Vec<u8>), &'static str>;

/// A hello as one record; then one byte for the frame's tag, one for the size of pieces, 64 bytes of a frame and records as
/// they are: whole, in pieces and byte by byte the verdict is the same. Only a broken record behind others is seen the
/// earlier the more comes at once: before the frame is looked at, or not until the relay has the connection.
pub(super) fn signed_hello(input: &[u8]) {
    let Some([whole, pieces, bytes]) = verdicts(input) else { return };
    // In pieces the early payload may still be on its way when the client is known.
    let known = |verdict: &Option<Verdict>| verdict.clone().map(|verdict| verdict.map(|(dc, _)| dc));
    for (larger, smaller) in [(&whole, &pieces), (&pieces, &bytes), (&whole, &bytes)] {
        let (larger, smaller) = (known(larger), known(smaller));
        let is_early = larger == Some(Err("bad_record")) && matches!(smaller, Some(Ok(_) | Err("bad_frame")));
        assert!(larger == smaller || is_early, "{larger:?} is not {smaller:?}");
    }
    if let (Some(Ok((_, whole))), Some(Ok((_, pieces)))) = (&whole, &pieces) {
        assert!(whole.starts_with(pieces), "payload is lost or made up");
    }
}

/// The verdicts on a connection that comes whole, in pieces, and byte by byte; none if the input has no hello.
fn verdicts(input: &[u8]) -> Option<[Option<Verdict>; 3]> {
    let (header, _) = RecordHeader::split_from(input)?;
    let (hello, rest) = input.split_at_checked(header.record_len())?;
    let ([tag, size], rest) = rest.split_first_chunk().unwrap_or((&[0, 7], rest));
    let parsed = ClientHello::parse(&hello[RECORD_HEADER..]).ok()?;
    let name = parsed.server_name.and_then(|name| std::str::from_utf8(name).ok()).unwrap_or("front.example");
    let secret = Secret::new(KEY, name).ok()?;
    let mut stream = hello.to_vec();
    faketls::sign_hello(&mut stream, NOW, &secret)?;
    if let Some((frame, records)) = rest.split_first_chunk() {
        stream.extend_from_slice(&RecordHeader::new(content_type::APPLICATION_DATA, FRAME_LEN as u16).encode());
        stream.extend_from_slice(&tagged(frame, *tag));
        stream.extend_from_slice(records);
    }
    let sizes = [stream.len(), usize::from(*size).max(1), 1];
    Some(sizes.map(|size| verdict(&stream, size, &secret)))
}

/// The frame with one of the three tags that exist, encrypted as a client does it.
fn tagged(frame: &[u8; FRAME_LEN], tag: u8) -> [u8; FRAME_LEN] {
    let mut frame = *frame;
    let key: [u8; 32] = Sha256::new().chain_update(&frame[8..40]).chain_update(KEY).finalize().into();
    let mut key_stream = [0; FRAME_LEN];
    Aes256Ctr::new(&key, frame[40..56].first_chunk().unwrap_or(&[0; 16])).apply_keystream(&mut key_stream);
    let tag = [0xef, 0xee, 0xdd][usize::from(tag % 3)];
    for (place, key_stream) in frame[56..60].iter_mut().zip(&key_stream[56..60]) {
        *place = tag ^ key_stream;
    }
    frame
}

fn verdict(stream: &[u8], size: usize, secret: &Secret) -> Option<Verdict> {
    let (mut machine, mut reply, mut fill) = (Handshake::new(), Vec::new(), seeded());
    for piece in stream.chunks(size) {
        let mut piece = piece;
        loop {
            let mut first_seen = |_: &Digest| true;
            let reply_shape = |_: &ClientHello<'_>, fill: &mut dyn FnMut(&mut [u8])| ReplyShape::usual(fill);
            let mut env = Env {
                now: NOW,
                tolerance: 60,
                fill: &mut fill,
                first_seen: &mut first_seen,
                reply_shape: &reply_shape,
            };
            match machine.handle(piece, secret, &mut env, &mut reply) {
                Step::Read => break,
                Step::Reply { .. } => piece = &[],
                Step::Front(reason) | Step::Close { reason, .. } => return Some(Err(reason.as_str())),
                Step::Established(session) => {
                    let dc = session.dc();
                    let link = session.link(dc, true, &mut fill);
                    let payload = link.opening.len() - FRAME_LEN;
                    assert_eq!(payload, link.opening_payload);
                    return Some(Ok((dc.number(), link.opening[FRAME_LEN..].to_vec())));
                }
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorded_hello_gets_past_the_digest_and_its_frame_is_opened() {
        let seed = include_bytes!("../../fuzz/seeds/signed_hello/tdlib-with-frame-and-record");
        let [whole, pieces, bytes] = verdicts(seed).unwrap();
        let (_, payload) = whole.unwrap().unwrap();
        assert_eq!(payload.len(), 32);
        assert!(pieces.unwrap().is_ok() && bytes.unwrap().is_ok());
    }
}
