//! The values: a text in, a checked type out.
//!
//! Everything is integer arithmetic: the routers have no floating-point unit.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::{ByteSize, Cidr, Host};
use crate::proto::host::AddressError;
use crate::proto::secret::{HostError, SecretError};
use crate::proto::url::UrlError;

/// Why a value is refused. It carries no part of the value, because a value may be a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ValueError {
    /// Not what the key takes.
    Invalid,
    /// Not what the key takes, and what is wrong with it.
    Because(&'static str),
    /// No usable secret.
    Secret(SecretError),
    /// No usable host name.
    Host(HostError),
    /// A good value that this build cannot honour; what can be done instead.
    NeedsTls(&'static str),
}

impl From<AddressError> for ValueError {
    fn from(error: AddressError) -> Self {
        UrlError::Address(error).into()
    }
}

/// What the key takes says enough of what is missing altogether.
impl From<UrlError> for ValueError {
    fn from(error: UrlError) -> Self {
        match error {
            UrlError::Scheme | UrlError::Address(AddressError::Host) => Self::Invalid,
            error => Self::Because(error.as_str()),
        }
    }
}

/// The longest duration that is accepted: whoever writes more has mistaken the unit.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// A whole number; underscores between digits are TOML's.
pub(super) fn number(text: &str) -> Result<u32, ValueError> {
    let is_spaced = text.bytes().zip(text.bytes().skip(1)).any(|(a, b)| (a, b) == (b'_', b'_'));
    if text.starts_with(['_', '+']) || text.ends_with('_') || is_spaced {
        return Err(ValueError::Invalid);
    }
    text.replace('_', "").parse().map_err(|_| ValueError::Invalid)
}

/// A whole number from 0 to 65535.
pub(super) fn count(text: &str) -> Result<u16, ValueError> {
    number(text)?.try_into().map_err(|_| ValueError::Invalid)
}

/// A packet mark, as `ip rule` writes it: a whole number or `0x` and hex digits.
pub(super) fn mark(text: &str) -> Result<u32, ValueError> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) if !hex.starts_with('+') => u32::from_str_radix(hex, 0x10).map_err(|_| ValueError::Invalid),
        Some(_) => Err(ValueError::Invalid),
        None => number(text),
    }
}

/// The largest TCP segment: what Linux takes, or 0.
pub(super) fn segment_size(text: &str) -> Result<u16, ValueError> {
    match count(text)? {
        size @ (0 | 88..=32767) => Ok(size),
        _ => Err(ValueError::Invalid),
    }
}

/// A duration in Go's grammar, in either case and with blanks: `1h30m`, `1.5s`, `500 ms`.
pub(super) fn duration(text: &str) -> Result<Duration, ValueError> {
    let text: String = text.chars().filter(|c| !matches!(c, ' ' | '\t')).collect::<String>().to_ascii_lowercase();
    let nanos = quantity(&text, &mut |unit| {
        Ok(match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60 * 1_000_000_000,
            "h" => 3600 * 1_000_000_000,
            "" => return Err(ValueError::Because("the unit is missing, such as s for seconds or m for minutes")),
            "d" => return Err(ValueError::Because("there is no unit for days, 24h is a day")),
            _ => return Err(ValueError::Invalid),
        })
    })?;
    let duration = Duration::from_nanos(nanos);
    if duration > LONGEST { Err(ValueError::Because("at most 100 years are allowed")) } else { Ok(duration) }
}

/// A number of bytes with its unit, in either case and with blanks: `1MB` and `1MiB` are both 1048576.
pub(super) fn byte_size(text: &str) -> Result<ByteSize, ValueError> {
    let text: String = text.chars().filter(|c| !matches!(c, ' ' | '\t')).collect::<String>().to_ascii_uppercase();
    let (mut has_short, mut has_long) = (false, false);
    let bytes = quantity(&text, &mut |unit| {
        match unit {
            "" => return Err(ValueError::Because("the unit is missing, such as KB or MB")),
            "B" => return Ok(1),
            _ => {}
        }
        let power = match unit.get(..1).unwrap_or("") {
            "K" => 10,
            "M" => 20,
            "G" => 30,
            "T" => 40,
            "P" => 50,
            "E" => 60,
            _ => return Err(ValueError::Invalid),
        };
        match unit.get(1..).unwrap_or("") {
            "B" => has_short = true,
            "IB" => has_long = true,
            "" => return Err(ValueError::Because("a unit ends in B, such as KB or MB")),
            _ => return Err(ValueError::Invalid),
        }
        Ok(1 << power)
    })?;
    if has_short && has_long { Err(ValueError::Because("KB and KiB cannot be mixed")) } else { Ok(ByteSize(bytes)) }
}

/// Reads `<decimal><unit>` once or more, or a bare 0; `unit` gives what one of a unit is worth.
fn quantity(text: &str, unit: &mut dyn FnMut(&str) -> Result<u64, ValueError>) -> Result<u64, ValueError> {
    const TOO_LARGE: ValueError = ValueError::Because("the number is too large");
    if text.starts_with('-') {
        return Err(ValueError::Because("it is negative"));
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest.is_empty() {
        return Err(ValueError::Invalid);
    }
    if rest == "0" {
        return Ok(0);
    }
    let mut total = 0u64;
    while !rest.is_empty() {
        let (whole, after) = split_while(rest, |c| c.is_ascii_digit());
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => split_while(after, |c| c.is_ascii_digit()),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(ValueError::Invalid);
        }
        let (name, after) = split_while(after, |c| !c.is_ascii_digit() && c != '.');
        let worth = unit(name)?;
        let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| TOO_LARGE)? };
        let sum = whole.checked_mul(worth).and_then(|whole| whole.checked_add(part(fraction, worth)?));
        total = sum.and_then(|sum| total.checked_add(sum)).ok_or(TOO_LARGE)?;
        rest = after;
    }
    Ok(total)
}

/// The worth of the digits after the point; those after the sixth are worth nothing.
fn part(fraction: &str, worth: u64) -> Option<u64> {
    let digits = fraction.get(..fraction.len().min(6))?;
    if digits.is_empty() {
        return Some(0);
    }
    let scale = digits.bytes().fold(1u64, |scale, _| scale * 10);
    Some(digits.parse::<u64>().ok()?.checked_mul(worth)? / scale)
}

fn split_while(text: &str, is_inside: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !is_inside(c)).unwrap_or(text.len()))
}

/// `host:port`, an IPv6 address in brackets.
pub(super) fn host_port(text: &str) -> Result<(Host, u16), ValueError> {
    let (host, port) = Host::parse_with_port(text)?;
    Ok((host, port.ok_or(ValueError::Because("the port is missing"))?))
}

/// Digits alone; the standard library takes a sign before them.
fn plain<T: std::str::FromStr>(digits: &str) -> Option<T> {
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
}

/// A size in that range, or 0.
pub(super) fn size_within(text: &str, range: RangeInclusive<u64>, why: &'static str) -> Result<ByteSize, ValueError> {
    match byte_size(text)? {
        size if size == ByteSize(0) || range.contains(&size.0) => Ok(size),
        _ => Err(ValueError::Because(why)),
    }
}

/// A duration of whole seconds.
pub(super) fn seconds(text: &str) -> Result<Duration, ValueError> {
    match duration(text)? {
        duration if duration.subsec_nanos() == 0 => Ok(duration),
        _ => Err(ValueError::Because("only whole seconds can be told apart")),
    }
}

/// A network `ip/length`, or one address.
pub(super) fn cidr(text: &str) -> Result<Cidr, ValueError> {
    let (address, length) = text.split_once('/').map_or((text, None), |(address, length)| (address, Some(length)));
    let address: IpAddr = address.parse().map_err(|_| ValueError::Invalid)?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let prefix_len = match length.map(plain) {
        None => most,
        Some(Some(length)) if length <= most => length,
        _ => return Err(ValueError::Because("the number after the slash is too large or no number")),
    };
    // What is compared with it is IPv4 if it can be.
    let (address, prefix_len) = match (address.to_canonical(), prefix_len) {
        (IpAddr::V4(ip), 96..) if address.is_ipv6() => (IpAddr::V4(ip), prefix_len - 96),
        _ => (address, prefix_len),
    };
    let address = match address {
        IpAddr::V4(ip) => IpAddr::V4((ip.to_bits() & !u32::MAX.checked_shr(prefix_len.into()).unwrap_or(0)).into()),
        IpAddr::V6(ip) => IpAddr::V6((ip.to_bits() & !u128::MAX.checked_shr(prefix_len.into()).unwrap_or(0)).into()),
    };
    Ok(Cidr { address, prefix_len })
}

/// The prefix of a metric's name.
pub(super) fn metric_prefix(text: &str) -> Result<String, ValueError> {
    let is_plain = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if is_plain && !text.is_empty() { Ok(text.to_owned()) } else { Err(ValueError::Invalid) }
}

/// The path of a URL, with one slash in front and none at the end.
pub(super) fn http_path(text: &str) -> Result<String, ValueError> {
    let path = text.trim_matches('/');
    if path.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'?' | b'#')) {
        Ok(format!("/{path}"))
    } else {
        Err(ValueError::Invalid)
    }
}

/// One of a few words, in either case.
pub(super) fn word<T: Copy>(text: &str, words: &[(&str, T)]) -> Result<T, ValueError> {
    let found = words.iter().find(|(word, _)| word.eq_ignore_ascii_case(text));
    found.map(|&(_, value)| value).ok_or(ValueError::Invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_follow_the_grammar_of_go() {
        for (text, millis) in [
            ("1s", 1_000),
            ("1.5s", 1_500),
            (".5h", 1_800_000),
            ("1.m", 60_000),
            ("1h30m", 5_400_000),
            ("1\tM", 60_000),
            (" 2 M 3 S ", 123_000),
            ("+7ms", 7),
            ("2000us", 2),
            ("2000µs", 2),
            ("2000μs", 2),
            ("3000000ns", 3),
            ("0", 0),
            ("0s", 0),
            ("0.0000001s", 0),
            ("876000h", 876_000 * 3_600_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        let refused = ["", "-1s", "-0s", "1s ago", "1", "10", "1d", "s", ".s", ".", "1,5s", "1s1", "1x", "0x1s", "+"];
        for text in refused.into_iter().chain(["876001h", "99999999999h", "99999999999999999999s", "1e3s", "١s"]) {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn byte_sizes_are_powers_of_1024_and_need_a_unit() {
        for (text, bytes) in [
            ("1MB", 1 << 20),
            ("1mib", 1 << 20),
            ("1.5kb", 1536),
            ("4 KB", 4096),
            ("1KB512B", 1536),
            ("0", 0),
            ("0b", 0),
            ("17B", 17),
            ("1GiB1KiB", (1 << 30) + 1024),
            ("2TB", 2 << 40),
            ("1PB", 1 << 50),
            ("15EB", 15 << 60),
        ] {
            assert_eq!(byte_size(text), Ok(ByteSize(bytes)), "{text}");
        }
        let refused = ["", "1m", "1", "-1kb", "1KB1KiB", "1kib1mb", "16EB", "1XB", "KB", "1KBB", "1IB", "1KI", "lots"];
        for text in refused.into_iter().chain(["1.B.", "99999999999999999999B", "1é"]) {
            assert!(byte_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn counts_have_sixteen_bits() {
        for (text, number) in [("1", 1), ("65535", 65535), ("8_192", 8192), ("0", 0)] {
            assert_eq!(count(text), Ok(number), "{text}");
        }
        for text in ["", "-1", "+1", "1.5", "65536", "70000", "lots", "_1", "1_", "1__0", "1e2", "0x10"] {
            assert_eq!(count(text), Err(ValueError::Invalid), "{text}");
        }
    }

    #[test]
    fn addresses_need_a_port_from_1_to_65535() {
        let ip = |text: &str| Host::Ip(text.parse().unwrap());
        assert_eq!(host_port("1.2.3.4:80"), Ok((ip("1.2.3.4"), 80)));
        assert_eq!(host_port("[::1]:65535"), Ok((ip("::1"), 65535)));
        for text in ["localhost", "1.2.3.4", "[::1]"] {
            assert_eq!(host_port(text), Err(ValueError::Because("the port is missing")), "{text}");
        }
        assert_eq!(host_port(":80"), Err(ValueError::Invalid));
        assert!(host_port("1.2.3.4:0").is_err());
    }

    #[test]
    fn networks_lose_the_bits_that_do_not_count() {
        for (text, address, prefix_len) in [
            ("192.0.2.77/24", "192.0.2.0", 24),
            ("192.0.2.77", "192.0.2.77", 32),
            ("192.0.2.77/0", "0.0.0.0", 0),
            ("2001:db8::1/32", "2001:db8::", 32),
            ("::1", "::1", 128),
            ("::1/0", "::", 0),
            ("::ffff:10.1.2.3/104", "10.0.0.0", 8),
            ("::ffff:10.1.2.3", "10.1.2.3", 32),
            ("::ffff:0:0/95", "::fffe:0:0", 95),
        ] {
            assert_eq!(cidr(text), Ok(Cidr { address: address.parse().unwrap(), prefix_len }), "{text}");
        }
        for text in [
            "",
            "/",
            "1.2.3.4/33",
            "::/129",
            "1.2.3.4/-1",
            "1.2.3.4/+8",
            "::/+8",
            "1.2.3.4/",
            "1.2.3/24",
            "a/8",
            "::/256",
        ] {
            assert!(cidr(text).is_err(), "{text}");
        }
    }

    #[test]
    fn prefixes_and_paths_are_checked() {
        for text in ["mtg", "a1", "1a"] {
            assert_eq!(metric_prefix(text), Ok(text.into()));
        }
        for text in ["", "-", "hello/world", "lala*", "a.b", "a_b", "Mtg"] {
            assert_eq!(metric_prefix(text), Err(ValueError::Invalid), "{text}");
        }
        for (text, path) in [("", "/"), ("/", "/"), ("metrics", "/metrics"), ("//a/b//", "/a/b")] {
            assert_eq!(http_path(text), Ok(path.into()));
        }
        for text in ["/a b", "/a?b", "/a#b", "/ä", "/a\r\nb"] {
            assert_eq!(http_path(text), Err(ValueError::Invalid), "{text}");
        }
    }
}
