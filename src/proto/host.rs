//! Who is meant: a name or an address, and perhaps a port, as files and URLs write them (RFC 3986 section 3.2).

use std::fmt;
use std::net::IpAddr;

/// A DNS name or an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// A DNS name in lower case.
    Name(String),
    /// An IPv4 or IPv6 address.
    Ip(IpAddr),
}

/// As it is looked up: an IPv6 address without brackets.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Ip(ip) => ip.fmt(f),
        }
    }
}

/// Why a text names nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressError {
    /// Neither a name nor an address.
    Host,
    /// An IPv6 address that a port could be part of.
    Brackets,
    /// A port that there is not.
    Port,
}

impl AddressError {
    /// The same in words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Host => "the host is neither a name nor an address",
            Self::Brackets => "an IPv6 address stands in brackets here",
            Self::Port => "the port is not from 1 to 65535",
        }
    }
}

impl Host {
    /// Reads an address or a DNS name, not in brackets. Underscores are let pass: containers are named so.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if let Ok(ip) = text.parse() {
            return Some(Self::Ip(ip));
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        let is_label = |label: &str| {
            let is_plain = label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
            is_plain && !matches!(label.len(), 0 | 64..) && !label.starts_with('-') && !label.ends_with('-')
        };
        // A name whose last label is a number is an IPv4 address with a typing error.
        let is_number = name.rsplit('.').next().is_some_and(|label| label.bytes().all(|b| b.is_ascii_digit()));
        let is_name = name.len() <= 253 && !is_number && name.split('.').all(is_label);
        is_name.then(|| Self::Name(name.to_ascii_lowercase()))
    }

    /// Reads `host[:port]`, an IPv6 address in brackets; the port is from 1 to 65535.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse_with_port(text: &str) -> Result<(Self, Option<u16>), AddressError> {
        let (host, rest) = match text.strip_prefix('[') {
            Some(bracketed) => {
                let (address, rest) = bracketed.split_once(']').ok_or(AddressError::Host)?;
                (Self::Ip(IpAddr::V6(address.parse().map_err(|_| AddressError::Host)?)), rest)
            }
            None => {
                let (name, rest) = text.split_at(text.find(':').unwrap_or(text.len()));
                if rest.get(1..).is_some_and(|rest| rest.contains(':')) {
                    return Err(AddressError::Brackets);
                }
                (Self::parse(name).ok_or(AddressError::Host)?, rest)
            }
        };
        if rest.is_empty() {
            return Ok((host, None));
        }
        // Digits alone; the standard library takes a sign before them.
        let digits = rest.strip_prefix(':').filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
        let port = digits.and_then(|digits| digits.parse().ok()).filter(|&port| port != 0);
        port.map(|port| (host, Some(port))).ok_or(AddressError::Port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names_or_addresses() {
        let name = |text: &str| Some(Host::Name(text.into()));
        assert_eq!(Host::parse("Front.Example"), name("front.example"));
        assert_eq!(Host::parse("sing_box"), name("sing_box"));
        assert_eq!(Host::parse("example.com."), name("example.com"));
        assert_eq!(Host::parse("::1"), Some(Host::Ip("::1".parse().unwrap())));
        for text in
            ["", ".", "a..b", "a b", "1.2.3", "1.2.3.256", "01.2.3.4", "fe80::1%eth0", "[::1]", "-a", "ä", "a:1"]
        {
            assert_eq!(Host::parse(text), None, "{text}");
        }
    }

    #[test]
    fn ports_are_from_1_to_65535() {
        let ip = |text: &str| Host::Ip(text.parse().unwrap());
        assert_eq!(Host::parse_with_port("1.2.3.4:80"), Ok((ip("1.2.3.4"), Some(80))));
        assert_eq!(Host::parse_with_port("[::1]:65535"), Ok((ip("::1"), Some(65535))));
        assert_eq!(Host::parse_with_port("[::1]"), Ok((ip("::1"), None)));
        assert_eq!(Host::parse_with_port("a:1"), Ok((Host::Name("a".into()), Some(1))));
        for text in [":", ":800", "[::1", "[1.2.3.4]:80", "[a]:80", "[]:80"] {
            assert_eq!(Host::parse_with_port(text), Err(AddressError::Host), "{text}");
        }
        for text in ["::1:80", "a:b:c"] {
            assert_eq!(Host::parse_with_port(text), Err(AddressError::Brackets), "{text}");
        }
        for text in [
            "a:",
            "1.2.3.4:0",
            "1.2.3.4:65536",
            "1.2.3.4:+80",
            "[::1]:+80",
            "[::1]80",
            "a:-1",
            "a:00000000000000000000",
        ] {
            assert_eq!(Host::parse_with_port(text), Err(AddressError::Port), "{text}");
        }
    }
}
