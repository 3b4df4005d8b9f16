//! What a server means that does not answer a TLS 1.3 hello with a TLS 1.3 ServerHello.

use std::fmt;

use super::{RecordHeader, content_type, handshake_type};

/// Why it is not one to hide behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It said nothing and hung up, or said nothing.
    Silent,
    /// A ServerHello of an older version (RFC 8446 section 4.1.3), or the alert `protocol_version`.
    OldTls,
    /// It has no site of that name: the alert `unrecognized_name` (RFC 6066 section 3).
    UnknownName,
    /// Another alert (RFC 8446 section 6), by its number.
    Alert(u8),
    /// No TLS at all.
    NotTls,
}

/// `AlertDescription` (RFC 8446 section 6, RFC 6066 section 9).
const PROTOCOL_VERSION: u8 = 70;
const UNRECOGNIZED_NAME: u8 = 112;

impl Refusal {
    /// What the start of an answer means that is no TLS 1.3 ServerHello.
    pub(crate) fn of(answer: &[u8]) -> Self {
        if answer.is_empty() {
            return Self::Silent;
        }
        let Some((RecordHeader { content_type, version: [0x03, _], length }, fragment)) =
            RecordHeader::split_from(answer)
        else {
            return Self::NotTls;
        };
        match (content_type, length, fragment) {
            // Level and description.
            (content_type::ALERT, 2, [_, PROTOCOL_VERSION, ..]) => Self::OldTls,
            (content_type::ALERT, 2, [_, UNRECOGNIZED_NAME, ..]) => Self::UnknownName,
            (content_type::ALERT, 2, &[_, alert, ..]) => Self::Alert(alert),
            (content_type::HANDSHAKE, _, [handshake_type::SERVER_HELLO, ..]) => Self::OldTls,
            _ => Self::NotTls,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent => f.write_str("it hangs up without a word"),
            Self::OldTls => f.write_str("it answers in an older TLS, and clients ask for TLS 1.3"),
            Self::UnknownName => f.write_str("it has no site of that name"),
            Self::Alert(alert) => write!(f, "it refuses a browser that asks for that name (TLS alert {alert})"),
            Self::NotTls => f.write_str("it answers, but not in TLS"),
        }
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_understood_by_their_first_bytes() {
        for (answer, refusal) in [
            (&b""[..], Refusal::Silent),
            (&[0x15, 3, 3, 0, 2, 2, 70], Refusal::OldTls),
            (&[0x15, 3, 1, 0, 2, 2, 112], Refusal::UnknownName),
            (&[0x15, 3, 3, 0, 2, 2, 40], Refusal::Alert(40)),
            (&[0x16, 3, 3, 0, 61, 2, 0, 0, 57, 3, 3], Refusal::OldTls),
            (b"HTTP/1.1 400 Bad Request\r\n", Refusal::NotTls),
            (b"220 mail\r\n", Refusal::NotTls),
        ] {
            assert_eq!(Refusal::of(answer), refusal, "{answer:02x?}");
        }
    }
}
