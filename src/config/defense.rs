//! What keeps strangers out and observers in the dark: replay cache, address lists, traffic shaping.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::{ByteSize, Url};

/// How often lists are loaded again and pages are measured again.
const SIX_HOURS: Duration = Duration::from_secs(6 * 60 * 60);

/// `defense.*`.
#[derive(Clone, Debug)]
pub struct Defense {
    /// `anti-replay.enabled`.
    pub anti_replay: bool,
    /// `anti-replay.max-size`: cap of the table's memory, bytes.
    pub anti_replay_max_size: ByteSize,
    /// `anti-replay.file`: where the table is kept over a restart.
    pub anti_replay_file: Option<PathBuf>,
    /// `reject`: what happens to listed and over-limit sources.
    pub reject: Reject,
    /// `reply-delay`: the longest that a reply to a client waits to take as long as the front's.
    pub reply_delay: Duration,
    /// `blocklist.*`.
    pub blocklist: IpListSource,
    /// `allowlist.*`.
    pub allowlist: IpListSource,
    /// `doppelganger.*`.
    pub doppelganger: Doppelganger,
}

impl Default for Defense {
    fn default() -> Self {
        Self {
            anti_replay: true,
            anti_replay_max_size: ByteSize(1 << 20),
            anti_replay_file: None,
            reject: Reject::Front,
            reply_delay: Duration::from_millis(60),
            blocklist: IpListSource::default(),
            allowlist: IpListSource::default(),
            doppelganger: Doppelganger::default(),
        }
    }
}

/// `defense.reject`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reject {
    /// Close at once, as mtg does.
    Close,
    /// Send them to the front.
    Front,
}

/// `defense.blocklist.*` and `defense.allowlist.*`.
#[derive(Clone, Debug)]
pub struct IpListSource {
    /// `enabled`.
    pub enabled: bool,
    /// `download-concurrency`: sources fetched at the same time.
    pub download_concurrency: u16,
    /// `urls`: files and URLs.
    pub urls: Vec<ListUrl>,
    /// `update-each`.
    pub update_each: Duration,
}

impl Default for IpListSource {
    fn default() -> Self {
        Self { enabled: false, download_concurrency: 1, urls: Vec::new(), update_each: SIX_HOURS }
    }
}

/// One source of an IP list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListUrl {
    /// A local file.
    File(PathBuf),
    /// An `http://` or `https://` URL.
    Url(Url),
}

/// `defense.doppelganger.*`.
#[derive(Clone, Debug)]
pub struct Doppelganger {
    /// `enabled`: times between records.
    pub enabled: bool,
    /// `urls`: pages whose timing is learned.
    pub urls: Vec<Url>,
    /// `repeats-per-raid`.
    pub repeats_per_raid: u16,
    /// `raid-each`.
    pub raid_each: Duration,
    /// `drs`: small records first.
    pub drs: bool,
}

impl Default for Doppelganger {
    fn default() -> Self {
        Self { enabled: false, urls: Vec::new(), repeats_per_raid: 10, raid_each: SIX_HOURS, drs: false }
    }
}

/// A network: an address and the number of its leading bits that count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// The address with the bits that do not count set to zero.
    pub address: IpAddr,
    /// 0 to 32 or 0 to 128.
    pub prefix_len: u8,
}

impl Cidr {
    /// Says whether an address is of this network; an IPv4-mapped address is an IPv4 address.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let differs = match (self.address, ip.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(ip)) => u128::from(network.to_bits() ^ ip.to_bits()) << 96,
            (IpAddr::V6(network), IpAddr::V6(ip)) => network.to_bits() ^ ip.to_bits(),
            _ => return false,
        };
        u32::from(self.prefix_len) <= differs.leading_zeros()
    }
}

#[cfg(test)]
mod tests {
    use crate::config::value::cidr;

    #[test]
    fn a_network_contains_the_addresses_with_its_leading_bits() {
        for (network, inside, outside) in [
            ("192.0.2.0/24", "192.0.2.255", "192.0.3.0"),
            ("192.0.2.0/24", "::ffff:192.0.2.1", "2001:db8::1"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.6"),
            ("0.0.0.0/0", "255.0.0.1", "::1"),
            ("2001:db8::/33", "2001:db8:7fff::1", "2001:db8:8000::1"),
            ("::1", "::1", "::2"),
            ("::/0", "ffff::", "127.0.0.1"),
        ] {
            let cidr = cidr(network).unwrap();
            assert!(cidr.contains(inside.parse().unwrap()), "{inside} in {network}");
            assert!(!cidr.contains(outside.parse().unwrap()), "{outside} in {network}");
        }
    }
}
