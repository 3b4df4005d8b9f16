//! How many connections there may be, and who gives way when there are more.
//!
//! A newcomer may be a client, so it always finds a place as long as clients have not taken all of them: whoever has not
//! authenticated gives way to it, in the order of [`Crowd`]. A client never does. A part of the strangers' places is
//! never taken by those at the front, so that a newcomer has the time to say what it is.
//!
//! A client's hello may be a recording, and only what follows takes the secret. Until that comes its connection gives way
//! to no stranger, but there may be only so many of them, and where clients have all other places they give way, too.
//!
//! Whose a connection is may only be known later: behind a load balancer, the client's address is the first thing that
//! is read. Until then the balancer's counts.

use std::collections::VecDeque;
use std::net::IpAddr;

use slab::Slab;

use super::crowd::{Crowd, Groups, Kind};
use super::queue::Neighbours;
use super::ranking::Ranking;

/// The part of the strangers' places that those at the front never take.
const NEWCOMERS_PART: usize = 4;
/// The part of all places that those have whose hello has been answered and who have not gone on, and what they have at
/// least.
const ANSWERED_PART: usize = 4;
const ANSWERED_MIN: usize = 8;
/// The part of all places that strangers leave free, since who gives way takes a moment to go.
const SPARE_PART: usize = 16;
/// Bytes by which one hello is larger than another at least. All that clients send, of 2 KB and some room, are of one
/// size: of equals the one goes that has been here for longest, so no crowd of half hellos, each smaller than the first
/// packet of a client's, makes every client the largest.
const SIZE_STEP: usize = 4096;

/// The caps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caps {
    /// Connections of any kind.
    pub(crate) total: usize,
    /// Connections that have not authenticated, fronted ones included.
    pub(crate) strangers: usize,
    /// Connections of one address that are not known to be a client's or the front's; an IPv6 address stands for its
    /// /64.
    pub(crate) undecided_per_address: usize,
    /// Bytes of hellos that are not whole, and once more of those that are on their way to the front.
    pub(crate) hello_bytes: usize,
}

/// A connection's place, by its number. Another connection may have it once it is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket(u32);

impl Ticket {
    /// Below the number of connections that there may be.
    pub(crate) fn number(self) -> usize {
        self.0 as usize
    }
}

/// Why a connection has to give way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Preemption {
    /// It has no place any more.
    Evicted,
    /// The same, since what is kept for those that wait for the front takes too much memory, and it has most.
    Outweighed,
    /// Its address has too many that are undecided, of which it is the oldest: it counts as one at the front.
    AddressLimited,
    /// The hellos that are not whole take too much memory, and its is the largest: it counts as one at the front.
    MemoryLimited,
}

/// Who is here.
#[derive(Debug)]
pub(crate) struct Limits {
    caps: Caps,
    places: Slab<Place>,
    crowd: Crowd,
    /// Those who have been answered and have not gone on.
    answered: Crowd,
    waited_for: usize,
    fronted: usize,
    undecided: usize,
    /// Evicted, and not gone yet.
    leaving: usize,
    hellos: Hellos,
    /// Those that a connection to the front is awaited for.
    on_their_way: Hellos,
    preempted: VecDeque<(Ticket, Preemption)>,
}

/// The bytes of hellos, by the numbers of their places.
#[derive(Debug, Default)]
struct Hellos {
    held: Vec<usize>,
    total: usize,
    by_size: Ranking,
    neighbours: Neighbours,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    Stranger(Kind, Groups),
    /// Its hello was a client's.
    Answered(Groups),
    Client,
    /// Given to a newcomer; the connection is still to be closed.
    Leaving,
}

impl Limits {
    pub(crate) fn new(caps: Caps) -> Self {
        Self {
            caps,
            places: Slab::new(),
            crowd: Crowd::default(),
            answered: Crowd::default(),
            waited_for: 0,
            fronted: 0,
            undecided: 0,
            leaving: 0,
            hellos: Hellos::default(),
            on_their_way: Hellos::default(),
            preempted: VecDeque::new(),
        }
    }

    /// Gives a place to a new connection; none if clients have them all, or those who are to leave have not left yet.
    pub(crate) fn admit(&mut self, address: IpAddr) -> Option<Ticket> {
        let staying = self.places.len() - self.leaving;
        let is_full = staying + self.caps.total / SPARE_PART >= self.caps.total;
        if is_full || self.fronted + self.undecided >= self.caps.strangers {
            self.evict(self.crowd.first_to_go().or_else(|| self.answered.first_to_go()));
        }
        if self.places.len() >= self.caps.total {
            return None;
        }
        let ticket = Ticket(u32::try_from(self.places.insert(Place::Leaving)).ok()?);
        self.leaving += 1;
        self.enter(ticket, address);
        Some(ticket)
    }

    /// Counts a place for the address that it is known to be of now. Only for one whose connection is undecided.
    pub(crate) fn identify(&mut self, ticket: Ticket, address: IpAddr) {
        if matches!(self.place(ticket), Some(Place::Stranger(..))) {
            self.exit(ticket);
            self.enter(ticket, address);
        }
    }

    /// Takes note of how many bytes of a hello are kept for a connection that is undecided.
    pub(crate) fn hold(&mut self, ticket: Ticket, bytes: usize) {
        if !matches!(self.place(ticket), Some(Place::Stranger(Kind::Undecided, _))) {
            return;
        }
        self.hellos.set(ticket, bytes);
        while self.hellos.total > self.caps.hello_bytes
            && let Some(largest) = self.hellos.largest()
        {
            self.hellos.set(largest, 0);
            if self.fronted(largest) {
                self.preempted.push_back((largest, Preemption::MemoryLimited));
            }
        }
    }

    /// The connection turned out to be one for the front, which keeps its place; says whether it still has one.
    pub(crate) fn fronted(&mut self, ticket: Ticket) -> bool {
        if let Some(Place::Stranger(Kind::Undecided, groups)) = self.place(ticket) {
            self.hellos.set(ticket, 0);
            self.requeue(ticket, groups, (Kind::Undecided, Kind::Fronted));
            if self.fronted > self.fronted_cap() {
                self.evict(self.crowd.first_fronted_to_go());
            }
        }
        matches!(self.place(ticket), Some(Place::Stranger(..)))
    }

    /// Takes note of how many bytes are kept for a connection at the front until that can be reached, and says whether
    /// the connection still has its place. While the front cannot be reached, nothing of it bounds them, so whoever has
    /// most gives way.
    pub(crate) fn carry(&mut self, ticket: Ticket, bytes: usize) -> bool {
        let is_fronted = |place| matches!(place, Some(Place::Stranger(Kind::Fronted, _)));
        if is_fronted(self.place(ticket)) {
            self.on_their_way.set(ticket, bytes);
        }
        while self.on_their_way.total > self.caps.hello_bytes
            && let Some(largest) = self.on_their_way.largest()
        {
            self.exit(largest);
            self.preempted.push_back((largest, Preemption::Outweighed));
        }
        is_fronted(self.place(ticket))
    }

    /// The connection has moved bytes: of those at the front it has been idle for the shortest time.
    pub(crate) fn moved(&mut self, ticket: Ticket) {
        if let Some(Place::Stranger(Kind::Fronted, groups)) = self.place(ticket) {
            self.requeue(ticket, groups, (Kind::Fronted, Kind::Fronted));
        }
    }

    /// The connection's hello was a client's or a recording of one, even if it had to give way at the same moment.
    pub(crate) fn answered(&mut self, ticket: Ticket, address: IpAddr) {
        self.exit(ticket);
        if !matches!(self.place(ticket), Some(Place::Leaving)) {
            return;
        }
        let groups = self.answered.join(ticket.0, address, Kind::Undecided);
        self.stay(ticket, Place::Answered(groups));
        self.waited_for += 1;
        if self.waited_for > (self.caps.total / ANSWERED_PART).max(ANSWERED_MIN) {
            self.evict(self.answered.first_to_go());
        }
    }

    /// The connection turned out to be a client's, even if it had to give way at the same moment.
    pub(crate) fn authenticated(&mut self, ticket: Ticket) {
        self.exit(ticket);
        self.stay(ticket, Place::Client);
    }

    /// The connection is closed.
    pub(crate) fn release(&mut self, ticket: Ticket) {
        self.exit(ticket);
        if self.places.try_remove(ticket.0 as usize).is_some() {
            self.leaving -= 1;
        }
    }

    /// The next of those who have to give way because of the calls before.
    pub(crate) fn next_preempted(&mut self) -> Option<(Ticket, Preemption)> {
        self.preempted.pop_front()
    }

    /// Connections that are not closed yet.
    pub(crate) fn total(&self) -> usize {
        self.places.len()
    }

    fn fronted_cap(&self) -> usize {
        (self.caps.strangers - self.caps.strangers / NEWCOMERS_PART).max(1)
    }

    /// Makes a place that is to be left one of an undecided stranger.
    fn enter(&mut self, ticket: Ticket, address: IpAddr) {
        let groups = self.crowd.join(ticket.0, address, Kind::Undecided);
        self.stay(ticket, Place::Stranger(Kind::Undecided, groups));
        self.undecided += 1;
        let (count, oldest) = self.crowd.undecided_of(groups);
        if count > self.caps.undecided_per_address
            && let Some(oldest) = oldest.map(Ticket)
            && oldest != ticket
            && self.fronted(oldest)
        {
            self.preempted.push_back((oldest, Preemption::AddressLimited));
        }
    }

    /// Makes a place one that is to be left.
    fn exit(&mut self, ticket: Ticket) {
        match self.place(ticket) {
            Some(Place::Stranger(kind, groups)) => {
                self.hellos.set(ticket, 0);
                self.on_their_way.set(ticket, 0);
                self.crowd.leave(ticket.0, groups, kind);
                *self.count(kind) -= 1;
            }
            Some(Place::Answered(groups)) => {
                self.answered.leave(ticket.0, groups, Kind::Undecided);
                self.waited_for -= 1;
            }
            Some(Place::Client) => {}
            Some(Place::Leaving) | None => return,
        }
        self.set(ticket, Place::Leaving);
        self.leaving += 1;
    }

    /// Makes a place that is to be left another one.
    fn stay(&mut self, ticket: Ticket, place: Place) {
        if matches!(self.place(ticket), Some(Place::Leaving)) {
            self.leaving -= 1;
            self.set(ticket, place);
        }
    }

    fn evict(&mut self, stranger: Option<u32>) {
        if let Some(ticket) = stranger.map(Ticket) {
            self.exit(ticket);
            self.preempted.push_back((ticket, Preemption::Evicted));
        }
    }

    fn requeue(&mut self, ticket: Ticket, groups: Groups, (from, to): (Kind, Kind)) {
        self.crowd.requeue(ticket.0, groups, (from, to));
        *self.count(from) -= 1;
        *self.count(to) += 1;
        self.set(ticket, Place::Stranger(to, groups));
    }

    fn count(&mut self, kind: Kind) -> &mut usize {
        match kind {
            Kind::Undecided => &mut self.undecided,
            Kind::Fronted => &mut self.fronted,
        }
    }

    fn place(&self, ticket: Ticket) -> Option<Place> {
        self.places.get(ticket.0 as usize).copied()
    }

    fn set(&mut self, ticket: Ticket, place: Place) {
        if let Some(known) = self.places.get_mut(ticket.0 as usize) {
            *known = place;
        }
    }
}

impl Hellos {
    fn set(&mut self, ticket: Ticket, bytes: usize) {
        if bytes > 0 {
            self.held.resize(self.held.len().max(ticket.number() + 1), 0);
        }
        let Some(held) = self.held.get_mut(ticket.number()) else { return };
        let before = std::mem::replace(held, bytes);
        self.total = self.total - before + bytes;
        let [from, to] = [before, bytes].map(|bytes| bytes.div_ceil(SIZE_STEP));
        self.by_size.change(&mut self.neighbours, ticket.0, from, to);
    }

    fn largest(&self) -> Option<Ticket> {
        self.by_size.highest().map(|(number, _)| Ticket(number))
    }
}

/// What counts as one address: an IPv4 address, or the /64 that every IPv6 customer has at least.
pub(crate) fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) >> 64 << 64).into()),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::testing::rounds;

    const CAPS: Caps = Caps { total: 40, strangers: 16, undecided_per_address: 256, hello_bytes: 40_000 };

    /// The limits, with everybody by their addresses.
    struct World {
        limits: Limits,
        here: Vec<(Ticket, String)>,
    }

    impl World {
        fn new(caps: Caps) -> Self {
            Self { limits: Limits::new(caps), here: Vec::new() }
        }

        /// A newcomer of that address, and the addresses of those who have to give way to it.
        fn admit(&mut self, address: &str) -> (Ticket, Vec<(String, Preemption)>) {
            let ticket = self.limits.admit(address.parse().unwrap()).expect("no place");
            self.here.push((ticket, address.to_owned()));
            (ticket, self.preempted())
        }

        fn fronted(&mut self, address: &str) -> (Ticket, Vec<(String, Preemption)>) {
            let (ticket, mut preempted) = self.admit(address);
            self.limits.fronted(ticket);
            preempted.extend(self.preempted());
            (ticket, preempted)
        }

        fn client(&mut self, address: &str) -> Vec<(String, Preemption)> {
            let (ticket, preempted) = self.admit(address);
            self.limits.authenticated(ticket);
            preempted
        }

        /// Who has to give way; those who are evicted leave.
        fn preempted(&mut self) -> Vec<(String, Preemption)> {
            let all = std::iter::from_fn(|| self.limits.next_preempted()).collect::<Vec<_>>();
            let address = |ticket| self.here.iter().find(|(known, _)| *known == ticket).unwrap().1.clone();
            let named = all.iter().map(|&(ticket, preempted)| (address(ticket), preempted)).collect();
            for (ticket, preempted) in all {
                if matches!(preempted, Preemption::Evicted | Preemption::Outweighed) {
                    self.release(ticket);
                }
            }
            named
        }

        fn release(&mut self, ticket: Ticket) {
            self.here.retain(|(known, _)| *known != ticket);
            self.limits.release(ticket);
        }
    }

    fn evicted(address: &str) -> Vec<(String, Preemption)> {
        vec![(address.to_owned(), Preemption::Evicted)]
    }

    #[test]
    fn a_newcomer_takes_the_place_of_the_address_with_most() {
        let mut world = World::new(CAPS);
        for number in 0..7 {
            world.fronted("192.0.2.1");
            world.admit(&format!("198.51.{number}.1"));
        }
        world.admit("203.0.113.1");
        world.admit("203.0.113.1");
        assert_eq!(world.admit("203.0.114.1").1, evicted("192.0.2.1"));
        // Its own newcomers displace its own, and those first who have been idle.
        let (first, preempted) = world.admit("192.0.2.1");
        assert_eq!(preempted, evicted("192.0.2.1"));
        assert_eq!(world.admit("192.0.2.1").1, evicted("192.0.2.1"));
        assert!(world.limits.fronted(first), "it may have been a client");
    }

    #[test]
    fn a_client_behind_an_address_that_keeps_many_visits_open_has_the_time_to_say_so() {
        let mut world = World::new(CAPS);
        for _ in 0..12 {
            world.fronted("192.0.2.1");
        }
        let clients: Vec<_> = (0..4).map(|_| world.admit("192.0.2.1").0).collect();
        for number in 0..4 {
            assert_eq!(world.admit(&format!("198.51.{number}.1")).1, evicted("192.0.2.1"));
        }
        for ticket in clients {
            assert!(matches!(world.limits.place(ticket), Some(Place::Stranger(Kind::Undecided, _))), "it had to go");
        }
    }

    #[test]
    fn of_a_crowd_the_oldest_undecided_go_while_they_are_most_then_the_longest_idle_fronted() {
        let mut limits = Limits::new(CAPS);
        let mut crowd: Vec<_> = (0..16).map(|_| limits.admit([192, 0, 2, 1].into()).unwrap()).collect();
        let undecided = crowd.split_off(6);
        assert!(crowd.iter().all(|&ticket| limits.fronted(ticket)));
        limits.moved(crowd[0]);
        let gone = (0..14u8).map(|number| {
            let newcomer = limits.admit([198, 51, number, 1].into()).unwrap();
            limits.authenticated(newcomer);
            // A stranger takes the place that the client has made free.
            limits.admit([203, 0, number, 1].into()).unwrap();
            let (ticket, preempted) = limits.next_preempted().unwrap();
            limits.release(ticket);
            assert_eq!((preempted, limits.next_preempted()), (Preemption::Evicted, None));
            ticket
        });
        let gone: Vec<_> = gone.collect();
        assert_eq!(gone[..4], undecided[..4]);
        // The first has moved bytes last, and at last there are more of the others again each time.
        assert_eq!([gone[4], gone[6], gone[8], gone[10], gone[12]], crowd[1..6]);
        assert_eq!([gone[5], gone[7], gone[9], gone[11], gone[13]], undecided[4..9]);
    }

    #[test]
    fn a_network_gives_way_when_it_is_more_than_the_addresses_that_it_counts_as() {
        // A line's /56, a server's /48 with /64s of many /56s, and a /24.
        let crowds: [&dyn Fn(u32) -> String; 3] = [
            &|number| format!("2001:db8:0:{number:x}::1"),
            &|number| format!("2001:db8:0:{:x}::1", number * 0x100),
            &|number| format!("192.0.2.{number}"),
        ];
        for (crowd, bystander) in crowds.iter().zip(["2001:db8:1::1", "2001:db8:1::1", "198.51.100.1"]) {
            let mut world = World::new(Caps { total: 400, strangers: 100, ..CAPS });
            // Nobody has more than two of one address, and the bystander was here first.
            let addresses = (0..98).map(|number| crowd(number / 2));
            let addresses = std::iter::repeat_n(bystander.to_owned(), 2).chain(addresses);
            let preempted: Vec<_> = addresses.flat_map(|address| world.fronted(&address).1).collect();
            assert!(preempted.len() > 20 && preempted.iter().all(|(address, _)| address != bystander), "{preempted:?}");
        }
    }

    #[test]
    fn those_at_the_front_leave_room_for_newcomers_to_say_what_they_are() {
        let mut world = World::new(CAPS);
        for number in 0..40 {
            world.fronted(&format!("192.0.{number}.1"));
        }
        assert_eq!(world.limits.fronted, 12);
        let newcomers: Vec<_> = (0..4).map(|number| world.admit(&format!("198.51.{number}.1")).0).collect();
        assert!(newcomers.iter().all(|newcomer| world.here.iter().any(|(ticket, _)| ticket == newcomer)));
        // Among equals the one that has been idle for longest goes.
        let (_, preempted) = world.fronted("203.0.113.1");
        assert_eq!(preempted.last(), evicted("192.0.28.1").last());
    }

    #[test]
    fn hellos_that_are_answered_and_go_no_further_keep_nobody_out() {
        let mut world = World::new(CAPS);
        let other = world.admit("198.51.100.7").0;
        world.limits.answered(other, [198, 51, 100, 7].into());
        for _ in 0..40 {
            let (ticket, preempted) = world.admit("192.0.2.1");
            assert_eq!(preempted, []);
            world.limits.answered(ticket, [192, 0, 2, 1].into());
            assert!(world.preempted().iter().all(|one| *one == evicted("192.0.2.1")[0]));
        }
        assert_eq!((world.limits.waited_for, world.limits.total()), (10, 10));
        // Where clients have all other places, these go, and clients never.
        for _ in 0..40 {
            let (ticket, preempted) = world.admit("203.0.113.1");
            assert!(preempted.iter().all(|(_, preemption)| *preemption == Preemption::Evicted));
            world.limits.authenticated(ticket);
            if world.limits.waited_for == 0 {
                break;
            }
        }
        assert_eq!(world.limits.waited_for, 0);
        assert_eq!(world.here.iter().filter(|(_, address)| address == "203.0.113.1").count(), world.limits.total());
    }

    #[test]
    fn no_crowd_of_strangers_takes_the_place_of_one_whose_hello_is_answered() {
        let mut world = World::new(CAPS);
        let client = world.admit("192.0.2.1").0;
        world.limits.answered(client, [192, 0, 2, 1].into());
        for number in 0..200 {
            world.admit(&format!("198.51.{number}.1"));
        }
        world.limits.authenticated(client);
        assert!(matches!(world.limits.place(client), Some(Place::Client)));
    }

    #[test]
    fn an_address_at_its_cap_loses_its_oldest_undecided_to_the_front() {
        let mut world = World::new(Caps { undecided_per_address: 2, ..CAPS });
        for _ in 0..3 {
            // Those at the front do not count.
            world.fronted("192.0.2.1");
        }
        let (first, _) = world.admit("192.0.2.1");
        assert_eq!(world.admit("::ffff:192.0.2.1").1, []);
        assert_eq!(world.admit("192.0.2.1").1, [("192.0.2.1".to_owned(), Preemption::AddressLimited)]);
        assert!(world.limits.fronted(first), "it keeps its place");
        let (ticket, preempted) = world.admit("198.51.100.7");
        assert_eq!(preempted, []);
        world.limits.identify(ticket, "192.0.2.1".parse().unwrap());
        assert_eq!(world.preempted(), [("::ffff:192.0.2.1".to_owned(), Preemption::AddressLimited)]);
        for number in 1..5 {
            let preempted = world.admit(&format!("2001:db8::{number}")).1;
            assert_eq!(preempted.len(), usize::from(number > 2), "a /64 is one address");
        }
    }

    #[test]
    fn the_largest_hello_goes_to_the_front_when_they_take_too_much_memory() {
        let mut world = World::new(CAPS);
        let large = world.admit("192.0.2.1").0;
        let small: Vec<_> = (0..10).map(|number| world.admit(&format!("198.51.{number}.1")).0).collect();
        small.iter().for_each(|&ticket| world.limits.hold(ticket, 1700));
        for bytes in (4096..=16_384).step_by(4096) {
            world.limits.hold(large, bytes);
        }
        assert_eq!(world.preempted(), []);
        let larger = world.admit("192.0.2.2").0;
        world.limits.hold(larger, 7000);
        assert_eq!(world.preempted(), [("192.0.2.1".to_owned(), Preemption::MemoryLimited)]);
        assert!(world.limits.fronted(large), "it keeps its place");
        // What is decided is not kept any more, one way or another.
        world.limits.authenticated(small[0]);
        world.release(small[1]);
        world.limits.fronted(small[2]);
        world.limits.hold(small[2], 16_000);
        assert_eq!(world.limits.hellos.total, 7 * 1700 + 7000);
    }

    #[test]
    fn the_largest_hello_gives_way_when_those_that_wait_for_the_front_take_too_much_memory() {
        let mut world = World::new(CAPS);
        let small: Vec<_> = (0..5).map(|number| world.fronted(&format!("198.51.{number}.1")).0).collect();
        assert!(small.iter().all(|&ticket| world.limits.carry(ticket, 500)));
        let large: Vec<_> = (1..5).map(|number| world.fronted(&format!("192.0.2.{number}")).0).collect();
        assert!(large[..2].iter().all(|&ticket| world.limits.carry(ticket, 16_000)));
        assert_eq!(world.preempted(), []);
        assert!(world.limits.carry(large[2], 16_000));
        assert_eq!(world.preempted(), [("192.0.2.1".to_owned(), Preemption::Outweighed)]);
        assert!(!world.limits.carry(large[0], 0), "it has no place any more");
        // The front has got one.
        world.limits.carry(large[1], 0);
        world.limits.carry(large[3], 16_000);
        assert_eq!(world.preempted(), []);
        // Neither an undecided one's nor a client's are on their way.
        let (undecided, _) = world.admit("203.0.113.1");
        world.limits.carry(undecided, 16_000);
        world.limits.authenticated(large[3]);
        assert_eq!((world.preempted(), world.limits.on_their_way.total), (vec![], 5 * 500 + 16_000));
    }

    #[test]
    fn clients_never_give_way() {
        let mut world = World::new(CAPS);
        for number in 0..38 {
            assert_eq!(world.client(&format!("192.0.2.{number}")), []);
        }
        let (stranger, _) = world.admit("198.51.100.1");
        // The last places go to whoever comes, at the expense of strangers only.
        assert_eq!(world.client("198.51.100.2"), evicted("198.51.100.1"));
        assert!(world.here.iter().all(|(ticket, _)| *ticket != stranger));
        world.client("198.51.100.3");
        assert_eq!(world.limits.admit([198, 51, 100, 4].into()), None);
    }

    #[test]
    fn a_hello_that_came_at_the_same_moment_makes_a_client() {
        let mut world = World::new(Caps { strangers: 1, ..CAPS });
        let first = world.limits.admit([192, 0, 2, 1].into()).unwrap();
        let second = world.limits.admit([192, 0, 2, 2].into()).unwrap();
        assert_eq!(world.limits.next_preempted(), Some((first, Preemption::Evicted)));
        assert!(!world.limits.fronted(first));
        world.limits.authenticated(first);
        world.limits.authenticated(second);
        assert_eq!((world.limits.total(), world.limits.leaving, world.limits.undecided), (2, 0, 0));
    }

    #[test]
    fn everything_is_given_back_whatever_happened() {
        let mut world = World::new(Caps { undecided_per_address: 3, ..CAPS });
        let mut random = crate::proto::testing::seeded(7);
        for _ in 0..rounds(20_000) {
            let mut bytes = [0; 4];
            random(&mut bytes);
            let [action, place, address, network] = bytes;
            let chosen = world.here.get(usize::from(place) % world.here.len().max(1)).map(|(ticket, _)| *ticket);
            let name = if action & 0x80 == 0 {
                format!("192.0.{}.{}", network % 4, address % 4)
            } else {
                format!("2001:db8:{:x}:{:x}::", network % 4, u32::from(address) * 64)
            };
            match (action % 6, chosen) {
                (0 | 1, _) if world.limits.total() < CAPS.total => drop(world.admit(&name)),
                (2, Some(ticket)) => drop(world.limits.fronted(ticket)),
                (3, Some(ticket)) if place % 4 == 0 => world.limits.authenticated(ticket),
                (4, Some(ticket)) if place % 2 == 0 => world.limits.moved(ticket),
                (4, Some(ticket)) => drop(world.limits.carry(ticket, usize::from(address) * 64)),
                (5, Some(ticket)) => world.release(ticket),
                (3, Some(ticket)) => world.limits.hold(ticket, usize::from(address) * 64),
                _ => {}
            }
            world.preempted();
            let Limits { undecided, fronted, leaving, .. } = world.limits;
            assert!(undecided + fronted <= CAPS.strangers && fronted <= world.limits.fronted_cap() && leaving == 0);
        }
        for (ticket, _) in std::mem::take(&mut world.here) {
            world.limits.release(ticket);
        }
        let Limits { undecided, fronted, leaving, ref crowd, .. } = world.limits;
        assert_eq!((world.limits.total(), undecided, fronted, leaving, crowd.is_empty()), (0, 0, 0, 0, true));
        for hellos in [&world.limits.hellos, &world.limits.on_their_way] {
            assert_eq!((hellos.total, hellos.largest()), (0, None));
        }
    }
}
