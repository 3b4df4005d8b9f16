//! The proxy's secret: what a link carries and what both ends authenticate with.
//!
//! ```text
//! offset  0     1                  17
//!         +-----+------------------+---------------------+
//!         | 0xee| key (16 bytes)   | host name (1..=182) |
//!         +-----+------------------+---------------------+
//! ```
//! Written as lower-case hex or as base64url without padding. Only FakeTLS (`ee`) secrets exist here:
//! `dd` and bare secrets are refused, because what they make a client say is easy to find on the wire.

use std::fmt;
use std::str::FromStr;

use super::base64url;

/// First byte of a FakeTLS secret.
const FAKE_TLS: u8 = 0xee;
/// First byte of a "secure" secret, which needs no TLS and is refused.
const SECURE: u8 = 0xdd;
/// Bytes of the key.
pub const KEY_LEN: usize = 16;
/// The longest host name that Telegram's clients fit into their ClientHello, bytes.
pub const HOST_MAX: usize = 182;

/// A FakeTLS secret: the 16-byte key and the host name that clients put into the SNI.
///
/// `Debug` shows the host only. The host is kept in lower case; it is compared without regard to case.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    key: [u8; KEY_LEN],
    host: String,
}

/// Why a text is not a usable secret. No variant carries a byte of the secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretError {
    /// Nothing was given.
    Empty,
    /// Neither hex nor base64url.
    Encoding,
    /// A `dd` secret.
    Secure,
    /// A bare key of 16 bytes.
    Bare,
    /// The first byte is not `ee`.
    Prefix,
    /// Fewer than 16 key bytes follow the prefix; the number of bytes found.
    Short(usize),
    /// The key is all zero.
    ZeroKey,
    /// The host name is missing or no DNS name.
    Host(HostError),
}

/// Why a text is not a DNS host name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostError {
    /// No name at all.
    Empty,
    /// Longer than [`HOST_MAX`]; the length found.
    Long(usize),
    /// An empty label, or one longer than 63 bytes or with a hyphen at its edge.
    Label,
    /// Something else than letters, digits, hyphens and dots.
    Character,
    /// An IP address: a ClientHello cannot carry one as its server name.
    Address,
}

impl Secret {
    /// Makes a secret from its parts.
    ///
    /// # Errors
    /// [`SecretError::ZeroKey`] and [`SecretError::Host`].
    pub fn new(key: [u8; KEY_LEN], host: &str) -> Result<Self, SecretError> {
        if key == [0; KEY_LEN] {
            return Err(SecretError::ZeroKey);
        }
        check_host(host).map_err(SecretError::Host)?;
        Ok(Self { key, host: host.to_ascii_lowercase() })
    }

    /// The key of the HMACs of FakeTLS and of obfuscated2's key derivation.
    pub fn key(&self) -> &[u8; KEY_LEN] {
        &self.key
    }

    /// The host name, lower case.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The text form in lower-case hex.
    pub fn to_hex(&self) -> String {
        let mut text = String::new();
        for byte in self.to_bytes() {
            for nibble in [byte >> 4, byte & 0x0f] {
                text.extend(char::from_digit(u32::from(nibble), 16));
            }
        }
        text
    }

    /// The text form in base64url without padding, the shorter one.
    pub fn to_base64(&self) -> String {
        base64url::encode(&self.to_bytes())
    }

    fn to_bytes(&self) -> Vec<u8> {
        [&[FAKE_TLS], self.key.as_slice(), self.host.as_bytes()].concat()
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, SecretError> {
        let (&prefix, rest) = bytes.split_first().ok_or(SecretError::Empty)?;
        match prefix {
            FAKE_TLS => {}
            SECURE if bytes.len() == KEY_LEN + 1 => return Err(SecretError::Secure),
            _ if bytes.len() == KEY_LEN => return Err(SecretError::Bare),
            _ => return Err(SecretError::Prefix),
        }
        let (&key, host) = rest.split_first_chunk::<KEY_LEN>().ok_or(SecretError::Short(rest.len()))?;
        let host = std::str::from_utf8(host).map_err(|_| SecretError::Host(HostError::Character))?;
        Self::new(key, host)
    }
}

impl FromStr for Secret {
    type Err = SecretError;

    /// Reads either text form. They cannot be mixed up: the hex form starts with `ee`, and base64url of a
    /// first byte `ee` starts with `7`.
    fn from_str(text: &str) -> Result<Self, SecretError> {
        if text.is_empty() {
            return Err(SecretError::Empty);
        }
        // Some tools pad base64, and what is behind a secret cannot be mistaken for anything else.
        let unpadded = text.strip_suffix("==").or_else(|| text.strip_suffix('=')).unwrap_or(text);
        let bytes = decode_hex(text).or_else(|| base64url::decode(unpadded)).ok_or(SecretError::Encoding)?;
        Self::from_bytes(&bytes)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").field("key", &"..").field("host", &self.host).finish()
    }
}

impl fmt::Display for SecretError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const HOW: &str = "make one with 'mtg generate-secret HOST'";
        match self {
            Self::Empty => write!(f, "the secret is empty; {HOW}"),
            Self::Encoding => write!(f, "the secret is neither hex nor base64url; {HOW}"),
            Self::Secure => write!(f, "this is a 'dd' secret, only FakeTLS secrets ('ee') work here; {HOW}"),
            Self::Bare => {
                write!(f, "this is a bare secret of 16 bytes, only FakeTLS secrets ('ee') work here; {HOW}")
            }
            Self::Prefix => write!(f, "the secret does not start with 'ee' (hex) or '7' (base64); {HOW}"),
            Self::Short(found) => {
                write!(f, "the secret has {found} bytes after 'ee', at least 16 and a host name are needed; {HOW}")
            }
            Self::ZeroKey => write!(f, "the secret's key is all zero; {HOW}"),
            Self::Host(error) => write!(f, "the secret's host name {error}"),
        }
    }
}

impl std::error::Error for SecretError {}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("is missing"),
            Self::Long(found) => write!(f, "has {found} bytes, at most {HOST_MAX} are allowed"),
            Self::Label => f.write_str("has a label that is empty, longer than 63 bytes or has a hyphen at its edge"),
            Self::Character => f.write_str("has something else than letters, digits, hyphens and dots"),
            Self::Address => f.write_str("is an IP address, a DNS name such as example.com is needed"),
        }
    }
}

impl std::error::Error for HostError {}

/// Checks that a text is a DNS name that fits into a ClientHello.
///
/// # Errors
/// See [`HostError`].
pub fn check_host(host: &str) -> Result<(), HostError> {
    if host.is_empty() {
        return Err(HostError::Empty);
    }
    if host.len() > HOST_MAX {
        return Err(HostError::Long(host.len()));
    }
    if !host.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.' || b == b':') {
        return Err(HostError::Character);
    }
    if host.parse::<std::net::IpAddr>().is_ok() {
        return Err(HostError::Address);
    }
    if host.contains(':') {
        return Err(HostError::Character);
    }
    let is_label = |label: &str| !matches!(label.len(), 0 | 64..) && !label.starts_with('-') && !label.ends_with('-');
    if host.split('.').all(is_label) { Ok(()) } else { Err(HostError::Label) }
}

fn decode_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.chars().map(|c| u8::try_from(c.to_digit(16)?).ok()).collect::<Option<_>>()?;
    let (pairs, rest) = digits.as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "ee000102030405060708090a0b0c0d0e0f66726f6e742e6578616d706c65";
    const BASE64: &str = "7gABAgMEBQYHCAkKCwwNDg9mcm9udC5leGFtcGxl";

    #[test]
    fn both_text_forms_of_the_vector_are_equal() {
        let secret: Secret = HEX.parse().unwrap();
        assert_eq!(secret, BASE64.parse().unwrap());
        assert_eq!(secret.host(), "front.example");
        assert_eq!(secret.key()[..3], [0, 1, 2]);
        assert_eq!((secret.to_hex().as_str(), secret.to_base64().as_str()), (HEX, BASE64));
        assert_eq!(secret, HEX.to_uppercase().parse().unwrap());
        for padded in [format!("{BASE64}="), format!("{BASE64}==")] {
            assert_eq!(secret, padded.parse().unwrap());
        }
    }

    #[test]
    fn every_length_of_host_survives_base64() {
        for length in 1..=HOST_MAX {
            let host = "abcdefghi.".repeat(19)[..length].trim_end_matches('.').to_owned();
            let secret = Secret::new([0xa5; KEY_LEN], &host).unwrap();
            assert_eq!(secret, secret.to_base64().parse().unwrap(), "{length}");
        }
    }

    #[test]
    fn refusals_name_the_reason() {
        for (text, error) in [
            ("", SecretError::Empty),
            ("ee00010203", SecretError::Short(4)),
            ("ee000102030405060708090a0b0c0d0e0f", SecretError::Host(HostError::Empty)),
            ("dd000102030405060708090a0b0c0d0e0f", SecretError::Secure),
            ("000102030405060708090a0b0c0d0e0f", SecretError::Bare),
            ("ff000102030405060708090a0b0c0d0e0f66", SecretError::Prefix),
            ("ee0000000000000000000000000000000066", SecretError::ZeroKey),
            ("ee000102030405060708090a0b0c0d0e0f2e", SecretError::Host(HostError::Label)),
            ("ee000102030405060708090a0b0c0d0e0fff", SecretError::Host(HostError::Character)),
            ("7gAB=gMEBQYHCAkKCwwNDg9mcm9udC5leGFtcGxl", SecretError::Encoding),
            ("7gABAgMEBQYHCAkKCwwNDg9mcm9udC5leGFtcGxl===", SecretError::Encoding),
            ("7+", SecretError::Encoding),
        ] {
            assert_eq!(text.parse::<Secret>(), Err(error), "{text}");
        }
    }

    #[test]
    fn host_names_are_checked() {
        for good in ["a", "example.com", "xn--e1afmkfd.xn--p1ai", "A-B.c", "1.2.3.4.example"] {
            assert_eq!(check_host(good), Ok(()), "{good}");
        }
        for (bad, error) in [
            ("a..b", HostError::Label),
            ("-a.b", HostError::Label),
            ("example.com.", HostError::Label),
            ("exämple.com", HostError::Character),
            ("a b", HostError::Character),
            ("1.2.3.4", HostError::Address),
            ("2001:db8::1", HostError::Address),
            ("example.com:443", HostError::Character),
        ] {
            assert_eq!(check_host(bad), Err(error), "{bad}");
        }
        assert_eq!(check_host(&"a.".repeat(100)), Err(HostError::Long(200)));
    }

    #[test]
    fn debug_output_hides_the_key() {
        let shown = format!("{:?}", HEX.parse::<Secret>().unwrap());
        assert!(shown.contains("front.example") && !shown.contains("01"), "{shown}");
    }
}
