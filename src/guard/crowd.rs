//! Who is here without having authenticated, by address and by network, and who of them gives way first.
//!
//! An attacker with one address must not keep out anybody else, nor one with all addresses of a line or of a server.
//! So whoever is most gives way: the address with most connections or, if that is more, a network with its connections
//! divided by the number of addresses that it counts as. Of that crowd the one at the front goes that has been idle for
//! longest; the oldest that has not said yet what it wants goes before it if it has been here for longer and the crowd
//! has more of its kind. If it always went first, somebody who keeps visits of the site open would keep out every client
//! behind the same address, for a client has not said what it wants either while its hello is on the way.

use std::collections::BTreeMap;
use std::net::IpAddr;

use slab::Slab;

use super::queue::{Neighbours, Queue};
use super::ranking::Ranking;

/// Leading bits of a crowd: an address, which for IPv6 is the least that a customer has, then networks; the last is
/// everybody.
const IPV6_BITS: [u32; LEVELS] = [64, 56, 48, 0];
const IPV4_BITS: [u32; LEVELS] = [32, 24, 16, 0];
const LEVELS: usize = 4;
/// How many addresses a network counts as. A line often has a /56 and a server a /48, but many lines of others may be
/// in it, too.
const COUNTS_AS: [usize; LEVELS - 1] = [1, 4, 16];
/// What makes the numbers of an IPv4 address different from those of any IPv6 network in use.
const IPV4_MARK: u64 = 1 << 40;

/// What a stranger is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Its hello is not whole yet.
    Undecided,
    /// It is relayed to the front.
    Fronted,
}

/// The strangers, by the numbers of their places.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    groups: Slab<Group>,
    by_network: BTreeMap<Network, u32>,
    /// The neighbours of each stranger in the queues of its groups, for each level.
    strangers: [Neighbours; LEVELS],
    all: Rankings,
    fronted: Rankings,
    /// The number of what each stranger did last: come, or move bytes at the front.
    since: Vec<u64>,
    events: u64,
}

/// A level and the leading bits that count at it.
type Network = (u8, u64);

/// The groups that a stranger belongs to, the address first.
pub(super) type Groups = [u32; LEVELS];

/// Strangers with the same leading bits.
#[derive(Debug)]
struct Group {
    network: Network,
    undecided: Members,
    fronted: Members,
}

#[derive(Debug, Default)]
struct Members {
    count: usize,
    /// The undecided in the order of their coming, the fronted with those first that have been idle for longest.
    queue: Queue,
}

/// The groups of each level but the last by the number of their strangers.
#[derive(Debug, Default)]
struct Rankings {
    by_level: [Ranking; LEVELS - 1],
    neighbours: Neighbours,
}

impl Crowd {
    /// Takes in a stranger.
    pub(super) fn join(&mut self, stranger: u32, address: IpAddr, kind: Kind) -> Groups {
        let groups = networks(address).map(|network| self.group(network));
        self.enter(stranger, groups, kind);
        groups
    }

    /// Takes a stranger out.
    pub(super) fn leave(&mut self, stranger: u32, groups: Groups, kind: Kind) {
        self.exit(stranger, groups, kind);
        for group in groups {
            let is_empty = |group: &Group| group.undecided.count + group.fronted.count == 0;
            if let Some(empty) = self.groups.get(group as usize).filter(|group| is_empty(group)) {
                self.by_network.remove(&empty.network);
                self.groups.remove(group as usize);
            }
        }
    }

    /// Puts a stranger behind all others of its kind, which may be another than before.
    pub(super) fn requeue(&mut self, stranger: u32, groups: Groups, (from, to): (Kind, Kind)) {
        self.exit(stranger, groups, from);
        self.enter(stranger, groups, to);
    }

    /// How many undecided there are of an address, and the oldest of them.
    pub(super) fn undecided_of(&self, groups: Groups) -> (usize, Option<u32>) {
        let [address, ..] = groups;
        let members = self.groups.get(address as usize).map(|group| &group.undecided);
        members.map_or((0, None), |members| (members.count, members.queue.first()))
    }

    /// Who gives way to a newcomer.
    pub(super) fn first_to_go(&self) -> Option<u32> {
        let group = self.all.worst().or_else(|| self.everybody())?;
        let Group { undecided, fronted, .. } = self.groups.get(group as usize)?;
        let since = |stranger: u32| self.since.get(stranger as usize);
        match (undecided.queue.first(), fronted.queue.first()) {
            (Some(oldest), Some(idlest)) => {
                let is_first = undecided.count > fronted.count && since(oldest) < since(idlest);
                Some(if is_first { oldest } else { idlest })
            }
            (oldest, idlest) => oldest.or(idlest),
        }
    }

    /// Who of those at the front gives way first.
    pub(super) fn first_fronted_to_go(&self) -> Option<u32> {
        let group = self.fronted.worst().or_else(|| self.everybody())?;
        self.groups.get(group as usize)?.fronted.queue.first()
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty() && self.by_network.is_empty() && self.all.worst().is_none()
    }

    fn everybody(&self) -> Option<u32> {
        self.by_network.last_key_value().map(|(_, group)| *group)
    }

    /// The group of a network, made if there is none.
    fn group(&mut self, network: Network) -> u32 {
        let groups = &mut self.groups;
        *self.by_network.entry(network).or_insert_with(|| {
            let group = Group { network, undecided: Members::default(), fronted: Members::default() };
            u32::try_from(groups.insert(group)).unwrap_or(u32::MAX)
        })
    }

    fn enter(&mut self, stranger: u32, groups: Groups, kind: Kind) {
        self.since.resize(self.since.len().max(stranger as usize + 1), 0);
        self.events += 1;
        if let Some(since) = self.since.get_mut(stranger as usize) {
            *since = self.events;
        }
        for (level, group) in groups.into_iter().enumerate() {
            self.change(level, group, kind, |members, neighbours| {
                members.count += 1;
                neighbours.join(&mut members.queue, stranger);
            });
        }
    }

    fn exit(&mut self, stranger: u32, groups: Groups, kind: Kind) {
        for (level, group) in groups.into_iter().enumerate() {
            self.change(level, group, kind, |members, neighbours| {
                members.count -= 1;
                neighbours.leave(&mut members.queue, stranger);
            });
        }
    }

    /// Changes the members of a group, and its rank with them.
    fn change(&mut self, level: usize, key: u32, kind: Kind, change: impl FnOnce(&mut Members, &mut Neighbours)) {
        let group = self.groups.get_mut(key as usize);
        let (Some(group), Some(neighbours)) = (group, self.strangers.get_mut(level)) else { return };
        let counts = |group: &Group| (group.undecided.count + group.fronted.count, group.fronted.count);
        let (all_before, fronted_before) = counts(group);
        let members = match kind {
            Kind::Undecided => &mut group.undecided,
            Kind::Fronted => &mut group.fronted,
        };
        change(members, neighbours);
        let (all, fronted) = counts(group);
        self.all.change(level, key, all_before, all);
        self.fronted.change(level, key, fronted_before, fronted);
    }
}

impl Rankings {
    fn change(&mut self, level: usize, group: u32, from: usize, to: usize) {
        if let Some(ranking) = self.by_level.get_mut(level) {
            ranking.change(&mut self.neighbours, group, from, to);
        }
    }

    /// The group with most strangers for what it counts as; none if nobody has more than one.
    fn worst(&self) -> Option<u32> {
        let of_levels = self.by_level.iter().zip(COUNTS_AS);
        let scores = of_levels.filter_map(|(ranking, counts_as)| {
            let (group, count) = ranking.highest()?;
            (count > counts_as).then(|| (count * (COUNTS_AS[2] / counts_as), group))
        });
        // Of equals the narrowest, which is the first: the others may be in it by chance.
        scores.reduce(|worst, other| if other.0 > worst.0 { other } else { worst }).map(|(_, group)| group)
    }
}

/// What an address belongs to, the narrowest first.
fn networks(address: IpAddr) -> [Network; LEVELS] {
    let (number, width, bits) = match address.to_canonical() {
        IpAddr::V4(v4) => (u64::from(v4.to_bits()), 32, IPV4_BITS),
        IpAddr::V6(v6) => (u64::try_from(v6.to_bits() >> 64).unwrap_or_default(), 64, IPV6_BITS),
    };
    let mark = if width == 32 { IPV4_MARK } else { 0 };
    let mut level = 0;
    bits.map(|bits| {
        let leading = number.checked_shr(width - bits).unwrap_or(0).checked_shl(width - bits).unwrap_or(0);
        let network = (level, if bits == 0 { 0 } else { leading | mark });
        level += 1;
        network
    })
}
