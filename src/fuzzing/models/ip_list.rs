//! A list of networks beside its lines, each looked at anew for each address.

use std::net::{IpAddr, Ipv6Addr};

use crate::guard::iplist::{Builder, Fault, Room};

/// Lines looked at; the model takes the square of them.
const LINES_MAX: usize = 64;

/// A list of networks: an address is in it if and only if it is in one of its lines.
pub(in crate::fuzzing) fn ip_list(input: &[u8]) {
    let lines: Vec<_> = input.split(|&byte| byte == b'\n').take(LINES_MAX).collect();
    let mut builder = Builder::new(Room::new(1 << 20), 1 << 20);
    builder.feed(&lines.join(&b'\n'));
    let networks: Vec<_> = lines.iter().enumerate().filter_map(|(at, line)| network(line, at == 0)).collect();
    let list = match builder.finish() {
        Ok((list, _)) => list,
        Err(fault) => return assert_eq!(fault, Fault::Garbage),
    };
    assert_eq!(list.networks(), networks.len(), "{}", input.escape_ascii());
    for &(_, first, last) in &networks {
        for bits in [first, last, first.wrapping_sub(1), last.wrapping_add(1), first ^ 1 << 64] {
            let ip = Ipv6Addr::from_bits(bits);
            let is_v4 = ip.to_ipv4_mapped().is_some();
            let is_in = networks.iter().any(|network| network.0 == is_v4 && (network.1..=network.2).contains(&bits));
            assert_eq!(list.contains(ip.into()), is_in, "{ip}");
        }
    }
}

/// Whether a line's network is one of IPv4, and its first and last address, those of IPv4 as mapped into IPv6.
fn network(line: &[u8], is_first: bool) -> Option<(bool, u128, u128)> {
    let line = line.strip_prefix(b"\xef\xbb\xbf").filter(|_| is_first).unwrap_or(line);
    if line.len() > 1024 {
        return None;
    }
    let text = std::str::from_utf8(line.split(|byte| b"#;".contains(byte)).next()?).ok()?.trim_ascii();
    let (address, length) = text.split_once('/').map_or((text, None), |(address, length)| (address, Some(length)));
    let (ip, shorter) = match address.parse().ok()? {
        IpAddr::V4(ip) => (ip.to_ipv6_mapped(), 96),
        IpAddr::V6(ip) => (ip, 0),
    };
    let length = length.map_or(Some(128), |length| {
        let is_number = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
        length.parse::<u32>().ok().filter(|&length| is_number && length <= 128 - shorter).map(|length| length + shorter)
    })?;
    let hosts = u128::MAX.checked_shr(length).unwrap_or(0);
    let is_v4 = ip.to_ipv4_mapped().is_some() && length >= 96;
    Some((is_v4, ip.to_bits() & !hosts, ip.to_bits() | hosts))
}
