//! Which private networks this machine is a part of.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Where the kernel tells its routes.
const ROUTES: &str = "/proc/net/route";

/// The first and the last address of each private network that a listener at `bind_to` serves. Only IPv4: nobody
/// publishes lists with the private networks of IPv6.
pub(crate) fn served(bind_to: SocketAddr) -> Vec<(Ipv4Addr, Ipv4Addr)> {
    let routes = fs::read_to_string(ROUTES).unwrap_or_default();
    match bind_to.ip().to_canonical() {
        IpAddr::V4(ip) if ip.is_loopback() => vec![(Ipv4Addr::new(127, 0, 0, 0), Ipv4Addr::new(127, 255, 255, 255))],
        IpAddr::V4(ip) if !ip.is_unspecified() => {
            networks(&routes).into_iter().filter(|(first, last)| (*first..=*last).contains(&ip)).collect()
        }
        IpAddr::V6(ip) if !ip.is_unspecified() => Vec::new(),
        _ => networks(&routes),
    }
}

/// The private networks that are reached without a gateway.
fn networks(routes: &str) -> Vec<(Ipv4Addr, Ipv4Addr)> {
    routes.lines().skip(1).filter_map(network).collect()
}

/// Interface | destination | gateway | flags | references | uses | metric | mask | …; addresses in hex, as they lie in
/// memory.
fn network(line: &str) -> Option<(Ipv4Addr, Ipv4Addr)> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let mut address = |skipped: usize| u32::from_str_radix(fields.nth(skipped)?, 16).ok().map(u32::to_ne_bytes);
    let (destination, gateway, mask) = (address(0)?, address(0)?, address(4)?);
    let (first, mask) = (Ipv4Addr::from(destination), u32::from_be_bytes(mask));
    let is_ours = gateway == [0; 4] && mask != 0 && first.is_private();
    is_ours.then(|| (first, Ipv4Addr::from_bits(first.to_bits() | !mask)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the kernel prints an address: its bytes as a number of this machine.
    fn hex(address: [u8; 4]) -> String {
        format!("{:08X}", u32::from_ne_bytes(address))
    }

    #[test]
    fn private_networks_without_a_gateway_are_ours() {
        let mut routes =
            "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n".to_owned();
        for (interface, destination, gateway, flags, mask) in [
            ("eth0", [0; 4], [10, 0, 2, 1], "0003", [0; 4]),
            ("br-lan", [192, 168, 1, 0], [0; 4], "0001", [255, 255, 255, 0]),
            ("eth0", [0, 113, 0, 0], [0; 4], "0001", [255, 255, 255, 0]),
            ("tun0", [10, 0, 0, 0], [192, 168, 1, 1], "0003", [255, 0, 0, 0]),
        ] {
            let (destination, gateway, mask) = (hex(destination), hex(gateway), hex(mask));
            routes += &format!("{interface}\t{destination}\t{gateway}\t{flags}\t0\t0\t0\t{mask}\t0\t0\t0\n");
        }
        routes += "rubbish\n";
        assert_eq!(networks(&routes), [(Ipv4Addr::new(192, 168, 1, 0), Ipv4Addr::new(192, 168, 1, 255))]);
    }
}
