//! The little of TLS 1.3 (RFC 8446) that FakeTLS wears: records, ClientHello, ServerHello.

pub(crate) mod client_hello;
pub(crate) mod first_flight;
pub(crate) mod front_hello;
mod mlkem;
pub(crate) mod record;
#[cfg(feature = "tls")]
pub(crate) mod record_gaps;
pub(crate) mod record_header;
pub(crate) mod refusal;
pub(crate) mod server_hello;
pub(crate) mod x25519;

pub(crate) use record_header::{RECORD_HEADER, RecordHeader};

/// `ContentType` (RFC 8446 section 5.1).
pub(crate) mod content_type {
    pub(crate) const CHANGE_CIPHER_SPEC: u8 = 0x14;
    pub(crate) const ALERT: u8 = 0x15;
    pub(crate) const HANDSHAKE: u8 = 0x16;
    pub(crate) const APPLICATION_DATA: u8 = 0x17;
}

/// `HandshakeType` (RFC 8446 section 4).
pub(crate) mod handshake_type {
    pub(crate) const CLIENT_HELLO: u8 = 0x01;
    pub(crate) const SERVER_HELLO: u8 = 0x02;
}

/// `ExtensionType` (RFC 8446 section 4.2).
pub(crate) mod extension {
    pub(crate) const SERVER_NAME: u16 = 0x0000;
    pub(crate) const SUPPORTED_VERSIONS: u16 = 0x002b;
    pub(crate) const KEY_SHARE: u16 = 0x0033;
}

/// `NamedGroup` (RFC 8446 section 4.2.7).
pub(crate) mod group {
    pub(crate) const X25519: u16 = 0x001d;
    /// ML-KEM-768 and X25519 together (draft-ietf-tls-ecdhe-mlkem).
    pub(crate) const X25519_MLKEM768: u16 = 0x11ec;
}

/// `legacy_version` of records and hellos: TLS 1.2.
pub(crate) const TLS_1_2: [u8; 2] = [0x03, 0x03];
/// Record version of a first ClientHello: TLS 1.0 (RFC 8446 section 5.1).
pub(crate) const TLS_1_0: [u8; 2] = [0x03, 0x01];
/// The value in `supported_versions`: TLS 1.3.
pub(crate) const TLS_1_3: [u8; 2] = [0x03, 0x04];

/// The largest fragment of a plaintext record (RFC 8446 section 5.1), bytes.
pub(crate) const PLAINTEXT_MAX: usize = 1 << 14;
/// The largest fragment of an encrypted record that is to be accepted (RFC 8446 section 5.2), bytes.
pub(crate) const CIPHERTEXT_MAX: usize = PLAINTEXT_MAX + 256;
/// What encryption adds to a record's content: its type, and the tag of any cipher suite of TLS 1.3.
const SEAL: usize = 1 + 16;
/// The shortest and the longest fragment of an encrypted record that a server sends, bytes.
pub(crate) const SEALED_MIN: usize = SEAL;
pub(crate) const SEALED_MAX: usize = PLAINTEXT_MAX + SEAL;
/// The fragment of an encrypted alert: level and description.
pub(crate) const SEALED_ALERT: usize = 2 + SEAL;
