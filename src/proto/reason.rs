//! Why a connection is none of a client: what the checks of its hello and the handshake find, in one list.

/// Why a connection is not a client's, or no good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The first bytes are no ClientHello that a Telegram client could have sent.
    NotClientHello,
    /// The digest was not made with the secret.
    WrongDigest,
    /// The server name is missing or not the secret's.
    WrongSni,
    /// The client's clock is too far off; its distance from ours in seconds, positive if it is ahead.
    ClockSkew(i64),
    /// This hello was seen before.
    Replay,
    /// It offers nothing that a TLS 1.3 server could choose.
    NoTls13,
    /// After our reply: something that is no TLS record.
    BadRecord,
    /// After our reply: an obfuscated2 frame with an unknown tag, as of a client with another secret.
    BadFrame,
}

impl Reason {
    /// One word for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotClientHello => "not_client_hello",
            Self::WrongDigest => "wrong_digest",
            Self::WrongSni => "wrong_sni",
            Self::ClockSkew(_) => "clock_skew",
            Self::Replay => "replay",
            Self::NoTls13 => "no_tls13",
            Self::BadRecord => "bad_record",
            Self::BadFrame => "bad_frame",
        }
    }
}
