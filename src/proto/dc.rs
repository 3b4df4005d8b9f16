//! Telegram's data centres: their numbers and their published addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The number of a data centre as a client asks for it.
///
/// Negative numbers mean "the media servers of that DC"; the sign is kept towards the DC, and both signs
/// have the same addresses. 10000 is added for the test environment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DcId(i16);

impl DcId {
    /// The DC that a client means with number 0, and the one that unknown numbers may fall back to.
    pub const DEFAULT: DcId = DcId(2);

    /// Takes the number as it stands in an obfuscated2 frame; 0 is [`DcId::DEFAULT`].
    pub fn new(number: i16) -> Self {
        if number == 0 { Self::DEFAULT } else { Self(number) }
    }

    /// The number with its sign, as it goes into the frame to the DC.
    pub fn number(self) -> i16 {
        self.0
    }

    /// The number without the sign, which selects the addresses.
    pub fn site(self) -> u16 {
        self.0.unsigned_abs()
    }

    /// The built-in addresses of this DC; empty if the number is not known.
    pub fn addresses(self) -> impl Iterator<Item = SocketAddr> {
        BUILT_IN.iter().filter(move |(site, _)| *site == self.site()).map(|&(_, ip)| SocketAddr::new(ip, PORT))
    }
}

/// The addresses of a DC in a page of `https://core.telegram.org/getProxyConfig`; lines of interest are
/// `proxy_for <number> <ip>:<port>;`.
pub(crate) fn published(page: &str, site: u16) -> Vec<SocketAddr> {
    let address = |line: &str| {
        let mut words = line.trim().strip_suffix(';')?.split_ascii_whitespace();
        let is_meant = words.next()? == "proxy_for" && words.next()?.parse() == Ok(site);
        let address = words.next()?.parse::<SocketAddr>().ok()?;
        (is_meant && words.next().is_none() && address.port() != 0).then_some(address)
    };
    let mut addresses: Vec<_> = page.lines().filter_map(address).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

impl fmt::Display for DcId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for DcId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DC {}", self.0)
    }
}

/// The port of every published address.
const PORT: u16 = 443;

const fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

const fn v6(s: [u16; 8]) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7]))
}

/// Source: the addresses compiled into Telegram's own clients (TDLib `ConnectionCreator`, tdesktop
/// `mtproto_dc_options`); 203 is the CDN, from help.getConfig.
const BUILT_IN: [(u16, IpAddr); 13] = [
    (1, v4(149, 154, 175, 50)),
    (2, v4(149, 154, 167, 51)),
    (2, v4(95, 161, 76, 100)),
    (3, v4(149, 154, 175, 100)),
    (4, v4(149, 154, 167, 91)),
    (5, v4(149, 154, 171, 5)),
    (203, v4(91, 105, 192, 100)),
    (1, v6([0x2001, 0xb28, 0xf23d, 0xf001, 0, 0, 0, 0xa])),
    (2, v6([0x2001, 0x67c, 0x4e8, 0xf002, 0, 0, 0, 0xa])),
    (3, v6([0x2001, 0xb28, 0xf23d, 0xf003, 0, 0, 0, 0xa])),
    (4, v6([0x2001, 0x67c, 0x4e8, 0xf004, 0, 0, 0, 0xa])),
    (5, v6([0x2001, 0xb28, 0xf23f, 0xf005, 0, 0, 0, 0xa])),
    (203, v6([0x2a0a, 0xf280, 0x203, 0xa, 0x5000, 0, 0, 0x100])),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_numbers_share_the_addresses_of_their_dc() {
        for number in [1, 2, 3, 4, 5, 203] {
            let plain: Vec<_> = DcId::new(number).addresses().collect();
            assert!(plain.iter().any(SocketAddr::is_ipv4) && plain.iter().any(SocketAddr::is_ipv6));
            assert_eq!(plain, DcId::new(-number).addresses().collect::<Vec<_>>());
        }
    }

    #[test]
    fn published_addresses_are_read_and_rubbish_is_not() {
        let page = "# force_probability 10 10\ndefault 2;\nproxy_for 1 149.154.175.50:8888;\n\
            proxy_for 203 91.105.192.110:443;\n  proxy_for 203\t91.105.192.110:443 ;\nproxy_for -203 1.1.1.1:443;\n\
            proxy_for 203 [2a0a:f280:203:a:5000::101]:443;\nproxy_for 203 91.105.192.111:443\n\
            proxy_for 203 91.105.192.111:0;\nproxy_for 203 a.b:443;\nproxy_for 203 1.1.1.1:443 x;\nproxy_for;\n;\n<html>\n";
        let addresses = published(page, 203);
        let expected = ["91.105.192.110:443", "[2a0a:f280:203:a:5000::101]:443"];
        assert_eq!(addresses, expected.map(|address| address.parse().unwrap()));
        assert!(published("", 203).is_empty());
    }

    #[test]
    fn odd_numbers_have_no_addresses_and_do_not_overflow() {
        for number in [6, 10_002, -10_002, i16::MIN, i16::MAX] {
            assert_eq!(DcId::new(number).addresses().count(), 0, "{number}");
        }
        assert_eq!(DcId::new(0).number(), 2);
        assert_eq!(DcId::new(i16::MIN).site(), 32768);
    }
}
