//! Under which addresses of its own this machine can be reached from the internet. Nothing is sent to find out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use crate::proto::dc::DcId;

/// The machine's own global addresses on which a listener at `bind_to` is reached: one of each family, at most.
pub(crate) fn reachable(bind_to: SocketAddr) -> (Option<Ipv4Addr>, Option<Ipv6Addr>) {
    match bind_to.ip() {
        IpAddr::V4(ip) if is_global_v4(ip) => (Some(ip), None),
        IpAddr::V6(ip) if is_global_v6(ip) => (None, Some(ip)),
        // Something forwards to a private address, and most likely it owns the address that we go out with.
        IpAddr::V4(_) => (source_v4(), None),
        IpAddr::V6(ip) if ip.is_unspecified() => (source_v4(), source_v6()),
        IpAddr::V6(_) => (None, source_v6()),
    }
}

fn source_v4() -> Option<Ipv4Addr> {
    match source(|target| target.is_ipv4(), Ipv4Addr::UNSPECIFIED.into())? {
        IpAddr::V4(ip) if is_global_v4(ip) => Some(ip),
        _ => None,
    }
}

fn source_v6() -> Option<Ipv6Addr> {
    match source(|target| target.is_ipv6(), Ipv6Addr::UNSPECIFIED.into())? {
        IpAddr::V6(ip) if is_global_v6(ip) => Some(ip),
        _ => None,
    }
}

/// The address that the kernel would send from. Connecting a UDP socket asks for a route and sends nothing.
fn source(is_wanted: impl Fn(&SocketAddr) -> bool, any: IpAddr) -> Option<IpAddr> {
    let target = DcId::DEFAULT.addresses().find(is_wanted)?;
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(target).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// Source: IANA's registry of special-purpose addresses (RFC 6890).
fn is_global_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let is_shared = a == 100 && b & 0xc0 == 64;
    let is_protocol = (a, b, c) == (192, 0, 0);
    let is_benchmark = a == 198 && b & 0xfe == 18;
    !(a == 0
        || a >= 224
        || ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_documentation()
        || is_shared
        || is_protocol
        || is_benchmark)
}

/// Source: as above; only 2000::/3 is handed out.
fn is_global_v6(ip: Ipv6Addr) -> bool {
    let [a, b, ..] = ip.segments();
    let is_protocol = a == 0x2001 && b < 0x0200;
    let is_documentation = (a, b) == (0x2001, 0x0db8) || (a == 0x3fff && b < 0x1000);
    a & 0xe000 == 0x2000 && !is_protocol && !is_documentation
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_addresses_are_not_global() {
        for ip in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "169.254.1.1",
            "172.16.0.1",
            "192.0.0.8",
            "192.0.2.1",
            "192.168.1.1",
            "198.19.0.1",
            "203.0.113.1",
            "224.0.0.1",
            "255.255.255.255",
        ] {
            assert!(!is_global_v4(ip.parse().unwrap()), "{ip}");
        }
        for ip in ["::", "::1", "fe80::1", "fd00::1", "2001::1", "2001:db8::1", "3fff::1", "ff02::1", "::ffff:1.1.1.1"]
        {
            assert!(!is_global_v6(ip.parse().unwrap()), "{ip}");
        }
    }

    #[test]
    fn addresses_of_the_internet_are_global() {
        for ip in ["1.1.1.1", "100.63.255.255", "100.128.0.1", "172.32.0.1", "192.0.1.1", "198.20.0.1", "223.255.255.1"]
        {
            assert!(is_global_v4(ip.parse().unwrap()), "{ip}");
        }
        for ip in ["2001:67c:4e8:f002::a", "2606:4700::1111", "2a0a:f280::1", "3fff:1000::1"] {
            assert!(is_global_v6(ip.parse().unwrap()), "{ip}");
        }
    }

    #[test]
    fn a_global_address_to_listen_on_is_the_only_one() {
        let bind_to = "1.1.1.1:443".parse().unwrap();
        assert_eq!(reachable(bind_to), (Some(Ipv4Addr::new(1, 1, 1, 1)), None));
        let bind_to = "[2606:4700::1111]:443".parse().unwrap();
        assert_eq!(reachable(bind_to), (None, Some("2606:4700::1111".parse().unwrap())));
    }

    #[test]
    fn families_that_are_not_listened_on_are_not_offered() {
        assert_eq!(reachable("0.0.0.0:443".parse().unwrap()).1, None);
        assert_eq!(reachable("[fd00::1]:443".parse().unwrap()).0, None);
    }
}
