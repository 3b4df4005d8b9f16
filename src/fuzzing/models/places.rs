//! The places beside a list of who is here, in which everything is counted anew each time.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::guard::limits::{Caps, Limits, Preemption, Ticket};

const CAPS: Caps = Caps { total: 24, strangers: 12, undecided_per_address: 4, hello_bytes: 1 << 14 };
/// Strangers at the front at most: all but a quarter.
const FRONTED: usize = 9;
/// Those who have been answered and have not gone on at most.
const ANSWERED: usize = 8;
/// Leading bits of the networks, and how many addresses each counts as.
const LEVELS: [(u32, u32, usize); 3] = [(32, 64, 1), (24, 56, 4), (16, 48, 16)];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Undecided,
    Fronted,
    Answered,
    Client,
    Leaving,
}

#[derive(Clone, Copy, Debug)]
struct Guest {
    ticket: Ticket,
    address: IpAddr,
    kind: Kind,
    /// When it came, or moved bytes for the last time.
    since: usize,
}

struct World {
    limits: Limits,
    guests: Vec<Guest>,
    clock: usize,
}

/// Each two bytes are something that happens to a connection: who gives way is who has to by the rules.
pub(in crate::fuzzing) fn places(input: &[u8]) {
    let mut world = World { limits: Limits::new(CAPS), guests: Vec::new(), clock: 0 };
    for pair in input.chunks_exact(2) {
        world.clock += 1;
        world.step(pair[0], pair[1]);
        assert_eq!(world.limits.total(), world.guests.len());
        assert!(world.guests.len() <= CAPS.total);
        assert!(world.of(&[Kind::Fronted]).count() <= FRONTED);
        assert!(world.of(&[Kind::Answered]).count() <= ANSWERED);
        assert!(world.of(&[Kind::Fronted, Kind::Undecided]).count() <= CAPS.strangers);
    }
    while let Some(guest) = world.guests.pop() {
        world.limits.release(guest.ticket);
    }
    assert_eq!(world.limits.total(), 0);
}

impl World {
    fn step(&mut self, what: u8, who: u8) {
        let chosen = usize::from(who) % self.guests.len().max(1);
        match (what % 9, self.guests.get(chosen).copied()) {
            (0..3, _) => self.admit(address((what / 9) ^ who)),
            (3, Some(guest)) if guest.kind == Kind::Undecided => {
                self.limits.identify(guest.ticket, address(what / 9));
                self.guests[chosen] = Guest { address: address(what / 9), since: self.clock, ..guest };
                self.expect_one_decided(chosen);
            }
            (4, Some(guest)) if guest.kind == Kind::Undecided => {
                assert!(self.limits.fronted(guest.ticket));
                self.front(chosen);
            }
            (5, Some(guest)) => {
                self.limits.moved(guest.ticket);
                if guest.kind == Kind::Fronted {
                    self.guests[chosen].since = self.clock;
                }
            }
            (6, Some(guest)) if guest.kind != Kind::Fronted => {
                self.limits.authenticated(guest.ticket);
                self.guests[chosen].kind = Kind::Client;
            }
            (8, Some(guest)) if matches!(guest.kind, Kind::Undecided | Kind::Answered) => {
                self.limits.answered(guest.ticket, guest.address);
                self.guests[chosen] = Guest { kind: Kind::Answered, since: self.clock, ..guest };
                if self.of(&[Kind::Answered]).count() > ANSWERED {
                    self.expect_leave(&[Kind::Answered]);
                }
            }
            (7, Some(guest)) => {
                self.limits.release(guest.ticket);
                self.guests.remove(chosen);
            }
            _ => {}
        }
        assert_eq!(self.limits.next_preempted(), None);
    }

    fn admit(&mut self, address: IpAddr) {
        let leaving = self.of(&[Kind::Leaving]).count();
        let is_full = self.guests.len() - leaving + CAPS.total / 16 >= CAPS.total;
        let gives_way = is_full || self.of(&[Kind::Undecided, Kind::Fronted]).count() >= CAPS.strangers;
        let ticket = self.limits.admit(address);
        if gives_way {
            let strangers = [Kind::Undecided, Kind::Fronted];
            let has_strangers = self.of(&strangers).next().is_some();
            self.expect_leave(if has_strangers { &strangers } else { &[Kind::Answered] });
        }
        assert_eq!(ticket.is_some(), self.guests.len() < CAPS.total, "a newcomer and {} guests", self.guests.len());
        let Some(ticket) = ticket else { return };
        self.guests.push(Guest { ticket, address, kind: Kind::Undecided, since: self.clock });
        self.expect_one_decided(self.guests.len() - 1);
    }

    /// If the address of this newcomer has too many undecided, its oldest counts as one at the front.
    fn expect_one_decided(&mut self, newcomer: usize) {
        let address = self.guests[newcomer].address;
        let same = |guest: &Guest| guest.kind == Kind::Undecided && source(guest.address) == source(address);
        let all = (0..self.guests.len()).filter(|&at| same(&self.guests[at]));
        let (count, oldest) = (all.clone().count(), all.min_by_key(|&at| self.guests[at].since));
        if count > CAPS.undecided_per_address {
            let oldest = oldest.unwrap_or(newcomer);
            self.front(oldest);
            let preempted = (self.guests[oldest].kind == Kind::Fronted)
                .then_some((self.guests[oldest].ticket, Preemption::AddressLimited));
            assert_eq!(self.limits.next_preempted(), preempted);
        }
    }

    /// A guest goes to the front; another has to leave it if there are too many.
    fn front(&mut self, chosen: usize) {
        self.guests[chosen].kind = Kind::Fronted;
        self.guests[chosen].since = self.clock;
        if self.of(&[Kind::Fronted]).count() > FRONTED {
            self.expect_leave(&[Kind::Fronted]);
        }
    }

    /// One of these kinds was evicted, by the rules: of the address or network that is most, for what it counts
    /// as, the first of it.
    fn expect_leave(&mut self, kinds: &[Kind]) {
        let preempted = self.limits.next_preempted();
        let mut victims = Vec::new();
        let mut worst = 0;
        for level in LEVELS {
            for guest in self.of(kinds) {
                let crowd: Vec<_> =
                    self.of(kinds).filter(|other| network(other, level) == network(guest, level)).collect();
                let score = if crowd.len() > level.2 { crowd.len() * 16 / level.2 } else { 0 };
                // Of equals any of the narrowest kind.
                if score > worst {
                    (worst, victims) = (score, vec![(level.0, first(&crowd))]);
                } else if score == worst && score > 0 && victims.first().is_some_and(|victim| victim.0 == level.0) {
                    victims.push((level.0, first(&crowd)));
                }
            }
        }
        if worst == 0 {
            let all: Vec<_> = self.of(kinds).collect();
            if all.is_empty() {
                return assert_eq!(preempted, None);
            }
            victims.push((0, first(&all)));
        }
        let Some((ticket, Preemption::Evicted)) = preempted else { panic!("nobody has to leave: {preempted:?}") };
        assert!(victims.iter().any(|victim| victim.1 == ticket), "{ticket:?} leaves and not one of {victims:?}");
        for guest in &mut self.guests {
            if guest.ticket == ticket {
                guest.kind = Kind::Leaving;
            }
        }
    }

    fn of<'a>(&'a self, kinds: &'a [Kind]) -> impl Iterator<Item = &'a Guest> + 'a {
        self.guests.iter().filter(|guest| kinds.contains(&guest.kind))
    }
}

/// The one that has been idle at the front for longest, unless somebody undecided has been here for longer and there are
/// more of these.
fn first(crowd: &[&Guest]) -> Ticket {
    let kind_of = |guest: &Guest| if guest.kind == Kind::Answered { Kind::Undecided } else { guest.kind };
    let of = |kind| crowd.iter().filter(move |guest| kind_of(guest) == kind);
    let [undecided, fronted] = [Kind::Undecided, Kind::Fronted].map(|kind| of(kind).min_by_key(|guest| guest.since));
    let is_more = of(Kind::Undecided).count() > of(Kind::Fronted).count();
    let first = match (undecided, fronted) {
        (Some(oldest), Some(idlest)) => Some(if is_more && oldest.since <= idlest.since { oldest } else { idlest }),
        (oldest, idlest) => oldest.or(idlest),
    };
    first.map(|guest| guest.ticket).unwrap_or_else(|| panic!("an empty crowd"))
}

fn network(guest: &Guest, (v4, v6, _): (u32, u32, usize)) -> (bool, u128) {
    match guest.address {
        IpAddr::V4(ip) => (true, u128::from(ip.to_bits() >> (32 - v4))),
        IpAddr::V6(ip) => (false, ip.to_bits() >> (128 - v6)),
    }
}

fn source(address: IpAddr) -> (bool, u128) {
    match address {
        IpAddr::V4(ip) => (true, ip.to_bits().into()),
        IpAddr::V6(ip) => (false, ip.to_bits() >> 64),
    }
}

/// One of few addresses, some of which share their networks.
fn address(choice: u8) -> IpAddr {
    let [a, b] = [(choice >> 2) & 3, choice & 3];
    if choice & 0x10 == 0 {
        Ipv4Addr::new(192, 0, a, b).into()
    } else {
        Ipv6Addr::new(0x2001, 0xdb8, 0, u16::from(a) << 8 | u16::from(b), 0, 0, 0, choice.into()).into()
    }
}
