//! Our answer to a client's hello: what a TLS 1.3 server's first flight looks like from outside.

use super::client_hello::ClientHello;
use super::record::application_data_header;
use super::{RECORD_HEADER, TLS_1_2, TLS_1_3, content_type, extension, group, handshake_type};

/// Bytes of an X25519 key share.
const SHARE_LEN: u16 = 32;
/// Cipher suites of TLS 1.3 (RFC 8446 appendix B.4) in the order in which web servers choose.
const SUITES: [[u8; 2]; 3] = [[0x13, 0x01], [0x13, 0x02], [0x13, 0x03]];
/// Offset of the server random in the reply.
pub(crate) const RANDOM_AT: usize = RECORD_HEADER + 6;

/// What the visible part of the reply says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReplyShape {
    /// The cipher suite, one that the client offered.
    pub(crate) suite: [u8; 2],
    /// Bytes of the one application-data record that stands for the encrypted rest of the flight.
    pub(crate) flight_len: u16,
}

impl ReplyShape {
    /// The shape for a client; `None` if its hello offers nothing that a TLS 1.3 server could choose, or no
    /// X25519 share among the shares it sends.
    pub(crate) fn for_client(hello: &ClientHello<'_>, flight_len: u16) -> Option<Self> {
        let suite = SUITES.into_iter().find(|suite| hello.suites().any(|offered| offered == *suite))?;
        let share = (group::X25519, usize::from(SHARE_LEN));
        let has_share = !hello.has_key_share || hello.key_shares().any(|offered| offered == share);
        has_share.then_some(Self { suite, flight_len })
    }
}

/// Writes ServerHello, ChangeCipherSpec and one application-data record, with a server random of zeros.
///
/// ```text
/// 16 0303 len | 02 len24 0303 random[32] n session_id[n] suite[2] 00 002e
///             |   002b 0002 0304    0033 0024 001d 0020 share[32]
/// 14 0303 0001 | 01
/// 17 0303 len  | random bytes
/// ```
pub(crate) fn write(
    out: &mut Vec<u8>,
    shape: ReplyShape,
    session_id: &[u8],
    share: &[u8; 32],
    fill: &mut dyn FnMut(&mut [u8]),
) {
    let mut extensions = Vec::with_capacity(46);
    write_extension(&mut extensions, extension::SUPPORTED_VERSIONS, &[&TLS_1_3]);
    let share_header = [group::X25519.to_be_bytes(), SHARE_LEN.to_be_bytes()];
    write_extension(&mut extensions, extension::KEY_SHARE, &[share_header.as_flattened(), share]);

    let mut body = Vec::with_capacity(128);
    body.extend(TLS_1_2);
    body.extend([0; 32]);
    body.push(u8::try_from(session_id.len()).unwrap_or_default());
    body.extend(session_id);
    body.extend(shape.suite);
    body.push(0);
    body.extend(length_of(&extensions));
    body.extend(extensions);

    out.push(content_type::HANDSHAKE);
    out.extend(TLS_1_2);
    out.extend(u16::try_from(body.len() + 4).unwrap_or_default().to_be_bytes());
    out.extend([handshake_type::SERVER_HELLO, 0]);
    out.extend(length_of(&body));
    out.extend(body);

    out.push(content_type::CHANGE_CIPHER_SPEC);
    out.extend(TLS_1_2);
    out.extend([0, 1, 1]);

    out.extend(application_data_header(shape.flight_len));
    let flight = out.len();
    out.resize(flight + usize::from(shape.flight_len), 0);
    fill(out.get_mut(flight..).unwrap_or_default());
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
    use crate::proto::testing::{counting, hex};

    #[test]
    fn the_layout_is_that_of_the_vector() {
        let shape = ReplyShape { suite: [0x13, 0x01], flight_len: 16 };
        let session_id: Vec<u8> = (0x40..0x60).collect();
        let share: Vec<u8> = (0x80..0xa0).collect();
        let mut reply = Vec::new();
        write(&mut reply, shape, &session_id, share.as_slice().try_into().unwrap(), &mut counting(0xc0));
        let expected = hex("160303007a020000760303 0000000000000000000000000000000000000000000000000000000000000000
             20404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f130100002e002b0002030400330024001d0020
             808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f
             1403030001011703030010c0c1c2c3c4c5c6c7c8c9cacbcccdcecf");
        assert_eq!(reply, expected);
    }
}
