//! What `examples` measure of the inside. Not a part of the public face.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use crate::guard::iplist::{Builder, IpList, Room};

/// A list of made-up networks.
pub struct IpListBench(IpList);

impl IpListBench {
    /// Reads a text with so many networks, half of them single addresses, the others up to /20.
    ///
    /// # Panics
    /// If the list is too large.
    pub fn new(networks: u32) -> Self {
        let mut builder = Builder::new(Room::new(usize::MAX), usize::MAX);
        let mut text = String::new();
        for number in 0..networks {
            let length = 32 - mixed(number.into(), 1) % 24 % 13;
            let length = if number % 2 == 0 { 32 } else { length };
            let _ = writeln!(text, "{}/{length}", Self::address(number));
            if text.len() > 1 << 16 {
                builder.feed(text.as_bytes());
                text.clear();
            }
        }
        builder.feed(text.as_bytes());
        Self(builder.finish().expect("a list").0)
    }

    /// One of the addresses that the networks are made from.
    pub fn address(number: u32) -> IpAddr {
        // The upper half of 64 mixed bits.
        IpAddr::V4(Ipv4Addr::from((mixed(number.into(), 0) >> 32) as u32))
    }

    /// Whether the address is in the list.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.0.contains(ip)
    }

    /// Networks that were read.
    pub fn networks(&self) -> usize {
        self.0.networks()
    }

    /// Memory of the list.
    pub fn bytes(&self) -> usize {
        self.0.bytes()
    }
}

/// SplitMix64.
fn mixed(number: u64, stream: u64) -> u64 {
    let state = (number * 2 + stream + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let state = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (state ^ state >> 27).wrapping_mul(0x94d0_49bb_1331_11eb)
}
