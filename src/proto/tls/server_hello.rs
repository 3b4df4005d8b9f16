//! Our answer to a client's hello: what a TLS 1.3 server's first flight looks like from outside.

use super::client_hello::ClientHello;
use super::{
    RECORD_HEADER, RecordHeader, TLS_1_2, TLS_1_3, content_type, extension, group, handshake_type, mlkem, x25519,
};

/// Bytes of an X25519 key share.
const X25519_LEN: usize = 32;
/// The key shares that a client may offer: the group and the share's length.
const X25519: (u16, usize) = (group::X25519, X25519_LEN);
const HYBRID: (u16, usize) = (group::X25519_MLKEM768, mlkem::KEY_LEN + X25519_LEN);
/// Cipher suites of TLS 1.3 (RFC 8446 appendix B.4) in the order in which web servers choose.
const SUITES: [[u8; 2]; 3] = [[0x13, 0x01], [0x13, 0x02], [0x13, 0x03]];
/// Offset of the server random in the reply.
pub(crate) const RANDOM_AT: usize = RECORD_HEADER + 6;

/// What the visible part of the reply says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReplyShape {
    /// The cipher suite, one that the client offered.
    pub(crate) suite: [u8; 2],
    /// The group of the key share, one of which the client sent a share.
    pub(crate) group: u16,
    /// `key_share` stands before `supported_versions`.
    pub(crate) key_share_first: bool,
    /// Bytes of the one application-data record that stands for the encrypted rest of the flight.
    pub(crate) flight_len: u16,
}

impl ReplyShape {
    /// The shape for a client that comes nearest to `wanted`; `None` if its hello offers nothing that a TLS 1.3 server
    /// could choose.
    pub(crate) fn for_client(hello: &ClientHello<'_>, wanted: Self) -> Option<Self> {
        let is_offered = |suite: &[u8; 2]| SUITES.contains(suite) && hello.suites().any(|offered| offered == *suite);
        let suite = [wanted.suite].into_iter().chain(SUITES).find(is_offered)?;
        let has_hybrid = offers_hybrid(hello);
        let has_x25519 = !hello.has_key_share || hello.key_shares().any(|share| share == X25519);
        let group = match wanted.group {
            group::X25519_MLKEM768 if has_hybrid => group::X25519_MLKEM768,
            _ if has_x25519 => group::X25519,
            _ if has_hybrid => group::X25519_MLKEM768,
            _ => return None,
        };
        Some(Self { suite, group, ..wanted })
    }

    /// A web server's shape that nothing is known of: the most usual suite and group, and a flight as long as with usual
    /// certificates, 2500 to 4699 bytes.
    pub(crate) fn usual(fill: &mut dyn FnMut(&mut [u8])) -> Self {
        let mut bytes = [0; 4];
        fill(&mut bytes);
        let flight_len = 2500 + u16::try_from(u32::from_le_bytes(bytes) % 2200).unwrap_or_default();
        Self { suite: [0x13, 0x01], group: group::X25519, key_share_first: false, flight_len }
    }
}

/// Says whether a client sent a share of X25519MLKEM768.
pub(crate) fn offers_hybrid(hello: &ClientHello<'_>) -> bool {
    hello.key_shares().any(|share| share == HYBRID)
}

/// A server's key share of that group.
pub(crate) fn key_share(group: u16, fill: &mut dyn FnMut(&mut [u8])) -> Vec<u8> {
    let mut share = Vec::with_capacity(mlkem::CIPHERTEXT_LEN + X25519_LEN);
    if group == group::X25519_MLKEM768 {
        mlkem::write_ciphertext(&mut share, fill);
    }
    share.extend(x25519::random_public_key(fill));
    share
}

/// Writes ServerHello, ChangeCipherSpec and one application-data record, with a server random of zeros.
///
/// ```text
/// 16 0303 len | 02 len24 0303 random[32] n session_id[n] suite[2] 00 len
///             |   002b 0002 0304    0033 len group[2] len share
/// 14 0303 0001 | 01
/// 17 0303 len  | random bytes
/// ```
/// The two extensions stand in the order that the shape asks for.
pub(crate) fn write(
    out: &mut Vec<u8>,
    shape: ReplyShape,
    session_id: &[u8],
    share: &[u8],
    fill: &mut dyn FnMut(&mut [u8]),
) {
    let (mut versions, mut key_share) = (Vec::new(), Vec::with_capacity(share.len() + 8));
    write_extension(&mut versions, extension::SUPPORTED_VERSIONS, &[&TLS_1_3]);
    let share_header = [shape.group.to_be_bytes(), length_of(share)];
    write_extension(&mut key_share, extension::KEY_SHARE, &[share_header.as_flattened(), share]);
    let extensions = if shape.key_share_first { [key_share, versions] } else { [versions, key_share] }.concat();

    let mut body = Vec::with_capacity(96 + extensions.len());
    body.extend(TLS_1_2);
    body.extend([0; 32]);
    body.push(u8::try_from(session_id.len()).unwrap_or_default());
    body.extend(session_id);
    body.extend(shape.suite);
    body.push(0);
    body.extend(length_of(&extensions));
    body.extend(extensions);

    let message_len = u16::try_from(body.len() + 4).unwrap_or_default();
    out.extend(RecordHeader::new(content_type::HANDSHAKE, message_len).encode());
    out.extend([handshake_type::SERVER_HELLO, 0]);
    out.extend(length_of(&body));
    out.extend(body);

    out.extend(RecordHeader::new(content_type::CHANGE_CIPHER_SPEC, 1).encode());
    out.push(0x01);

    out.extend(RecordHeader::new(content_type::APPLICATION_DATA, shape.flight_len).encode());
    let mut flight = vec![0; usize::from(shape.flight_len)];
    fill(&mut flight);
    out.extend(flight);
}

fn write_extension(out: &mut Vec<u8>, kind: u16, parts: &[&[u8]]) {
    let body = parts.concat();
    out.extend(kind.to_be_bytes());
    out.extend(length_of(&body));
    out.extend(body);
}

fn length_of(bytes: &[u8]) -> [u8; 2] {
    u16::try_from(bytes.len()).unwrap_or_default().to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::testing::{VECTOR_HELLO, counting, hex, recorded_hellos, seeded};

    #[test]
    fn the_layout_is_that_of_the_vector() {
        let shape = ReplyShape { suite: [0x13, 0x01], group: group::X25519, key_share_first: false, flight_len: 16 };
        let session_id: Vec<u8> = (0x40..0x60).collect();
        let share: Vec<u8> = (0x80..0xa0).collect();
        let mut reply = Vec::new();
        write(&mut reply, shape, &session_id, &share, &mut counting(0xc0));
        let expected = hex("160303007a020000760303 0000000000000000000000000000000000000000000000000000000000000000
             20404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f130100002e002b0002030400330024001d0020
             808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f
             1403030001011703030010c0c1c2c3c4c5c6c7c8c9cacbcccdcecf");
        assert_eq!(reply, expected);
    }

    #[test]
    fn nothing_is_chosen_that_the_client_did_not_offer() {
        let hybrid = ReplyShape {
            suite: [0x13, 0x03],
            group: group::X25519_MLKEM768,
            key_share_first: true,
            ..ReplyShape::usual(&mut counting(0))
        };
        for recorded in recorded_hellos() {
            let hello = ClientHello::parse(&recorded.record[5..]).unwrap();
            assert_eq!(ReplyShape::for_client(&hello, hybrid), Some(hybrid), "{}", recorded.file);
        }
        // It offers 1301 only, and has no extension for shares.
        let vector = hex(VECTOR_HELLO);
        let hello = ClientHello::parse(&vector[5..]).unwrap();
        let wanted = ReplyShape { suite: [0x13, 0x01], group: group::X25519, ..hybrid };
        assert_eq!(ReplyShape::for_client(&hello, hybrid), Some(wanted));
        let strange = ReplyShape { suite: [0xc0, 0x2f], group: 0x0017, ..hybrid };
        assert_eq!(ReplyShape::for_client(&hello, strange), Some(wanted));
    }

    #[test]
    fn a_hybrid_share_is_a_ciphertext_and_a_point() {
        assert_eq!(key_share(group::X25519_MLKEM768, &mut seeded(1)).len(), 1120);
        assert_eq!(key_share(group::X25519, &mut seeded(1)).len(), 32);
    }
}
