//! How many connections there may be: in all, without authentication, and of one address without authentication.
//!
//! A place is given when a connection is accepted. Whose it is may only be known later: behind a load balancer, the
//! client's address is the first thing that is read. When the strangers' places are taken, a newcomer gets the place
//! of one who has not said yet what it wants: otherwise a few addresses could shut everybody out by silence.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// The caps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caps {
    /// Connections of any kind.
    pub(crate) total: usize,
    /// Connections that have not authenticated, fronted ones included.
    pub(crate) strangers: usize,
    /// The same of one address; an IPv6 address stands for its /64.
    pub(crate) strangers_per_address: usize,
}

/// Which cap a connection would have passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    Total,
    Strangers,
    Address,
}

/// Counts connections; clones count together.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    counts: Arc<Mutex<Counts>>,
}

#[derive(Debug)]
struct Counts {
    caps: Caps,
    total: usize,
    strangers: usize,
    /// In the order of the addresses.
    by_address: Vec<Share>,
    /// Strangers of known address whose hello is not whole yet, the oldest first.
    undecided: Vec<Undecided>,
    next_ticket: u64,
}

/// The places that are counted for an address.
#[derive(Debug)]
struct Share {
    address: IpAddr,
    all: usize,
    undecided: usize,
}

#[derive(Debug)]
struct Undecided {
    ticket: u64,
    address: IpAddr,
    /// Who wants to know of the eviction.
    waker: Option<Waker>,
}

/// A connection's place. Dropping it frees the place.
#[derive(Debug)]
pub(crate) struct Permit {
    limits: Limits,
    holder: Holder,
}

/// Whom a place is counted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    /// Somebody whose address is not known yet.
    Unknown,
    /// The undecided one with this ticket; if there is none, the place has been given to another.
    Undecided(u64),
    /// Somebody at this address who is for the front.
    Stranger(IpAddr),
    /// A client that has authenticated.
    Client,
}

/// Becomes ready when an undecided connection has lost its place. Not to be polled once it is decided.
pub(crate) struct Eviction {
    limits: Limits,
    ticket: Option<u64>,
}

impl Limits {
    pub(crate) fn new(caps: Caps) -> Self {
        let (by_address, undecided) = (Vec::new(), Vec::new());
        let counts = Counts { caps, total: 0, strangers: 0, by_address, undecided, next_ticket: 0 };
        Self { counts: Arc::new(Mutex::new(counts)) }
    }

    /// Gives a place to a new connection.
    pub(crate) fn admit(&self) -> Result<Permit, Refused> {
        let mut counts = self.lock();
        let caps = counts.caps;
        if counts.total >= caps.total {
            return Err(Refused::Total);
        }
        if counts.strangers >= caps.strangers && !counts.evict() {
            return Err(Refused::Strangers);
        }
        counts.total += 1;
        counts.strangers += 1;
        Ok(Permit { limits: self.clone(), holder: Holder::Unknown })
    }

    /// Connections that have a place.
    pub(crate) fn total(&self) -> usize {
        self.lock().total
    }

    /// The counts are whole whenever the lock is free, so a poisoned lock is as good as any.
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    /// Takes the place of the oldest of the undecided, of the address that has most of them, and says whether there
    /// was any. The connection itself still counts in all until it is closed.
    fn evict(&mut self) -> bool {
        let most = self.by_address.iter().max_by_key(|share| share.undecided);
        let crowd = most.filter(|share| share.undecided > 1).map(|share| share.address);
        let of_crowd = |undecided: &Undecided| crowd.is_none_or(|address| address == undecided.address);
        let Some(index) = self.undecided.iter().position(of_crowd) else { return false };
        let evicted = self.decide(index);
        self.forget(Holder::Stranger(evicted.address));
        if let Some(waker) = evicted.waker {
            waker.wake();
        }
        true
    }

    fn find(&self, ticket: u64) -> Option<usize> {
        // Most are decided soon, so they stand near the end.
        self.undecided.iter().rposition(|undecided| undecided.ticket == ticket)
    }

    /// Takes one out of the undecided.
    fn decide(&mut self, index: usize) -> Undecided {
        let decided = self.undecided.remove(index);
        self.share(decided.address).undecided -= 1;
        decided
    }

    fn forget(&mut self, holder: Holder) {
        let address = match holder {
            Holder::Unknown => None,
            Holder::Stranger(address) => Some(address),
            Holder::Undecided(ticket) => match self.find(ticket).map(|index| self.decide(index)) {
                Some(undecided) => Some(undecided.address),
                None => return,
            },
            Holder::Client => return,
        };
        self.strangers -= 1;
        if let Some(address) = address {
            let share = self.share(address);
            share.all -= 1;
            if share.all == 0 {
                self.by_address.retain(|share| share.all > 0);
            }
        }
    }

    /// The share of an address, made if there is none.
    fn share(&mut self, address: IpAddr) -> &mut Share {
        let place = self.by_address.partition_point(|share| share.address < address);
        if self.by_address.get(place).is_none_or(|share| share.address != address) {
            self.by_address.insert(place, Share { address, all: 0, undecided: 0 });
        }
        &mut self.by_address[place]
    }
}

impl Permit {
    /// Counts the place for the address that it is known to be of now, even if that has its share already, and so may
    /// not have the place.
    pub(crate) fn identify(&mut self, address: IpAddr) -> Result<(), Refused> {
        if self.holder != Holder::Unknown {
            return Ok(());
        }
        let address = source(address);
        let mut counts = self.limits.lock();
        let (cap, ticket) = (counts.caps.strangers_per_address, counts.next_ticket);
        let share = counts.share(address);
        let is_over = share.all >= cap;
        share.all += 1;
        share.undecided += 1;
        counts.next_ticket += 1;
        counts.undecided.push(Undecided { ticket, address, waker: None });
        self.holder = Holder::Undecided(ticket);
        if is_over { Err(Refused::Address) } else { Ok(()) }
    }

    /// To be awaited beside the hello.
    pub(crate) fn eviction(&self) -> Eviction {
        let ticket = if let Holder::Undecided(ticket) = self.holder { Some(ticket) } else { None };
        Eviction { limits: self.limits.clone(), ticket }
    }

    /// The connection turned out to be one for the front, which keeps its place; says whether it still has one.
    pub(crate) fn fronted(&mut self) -> bool {
        let Holder::Undecided(ticket) = self.holder else { return true };
        let mut counts = self.limits.lock();
        let Some(decided) = counts.find(ticket).map(|index| counts.decide(index)) else { return false };
        self.holder = Holder::Stranger(decided.address);
        true
    }

    /// The connection turned out to be a client's: it no longer counts as a stranger's.
    pub(crate) fn authenticated(&mut self) {
        let holder = std::mem::replace(&mut self.holder, Holder::Client);
        self.limits.lock().forget(holder);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.authenticated();
        self.limits.lock().total -= 1;
    }
}

impl Future for Eviction {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let Some(ticket) = self.ticket else { return Poll::Pending };
        let mut counts = self.limits.lock();
        let index = counts.find(ticket);
        match index.and_then(|index| counts.undecided.get_mut(index)) {
            Some(undecided) => undecided.waker = Some(context.waker().clone()),
            None => return Poll::Ready(()),
        }
        Poll::Pending
    }
}

/// What counts as one address: an IPv4 address, or the /64 that every IPv6 customer has at least.
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) >> 64 << 64).into()),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::Wake;

    const CAPS: Caps = Caps { total: 10, strangers: 5, strangers_per_address: 2 };

    fn admit(limits: &Limits, address: &str) -> Result<Permit, Refused> {
        let mut permit = limits.admit()?;
        permit.identify(address.parse().unwrap())?;
        Ok(permit)
    }

    #[test]
    fn one_address_cannot_take_the_places_of_others() {
        let limits = Limits::new(CAPS);
        let mut first = admit(&limits, "192.0.2.1").unwrap();
        let _second = admit(&limits, "::ffff:192.0.2.1").unwrap();
        assert_eq!(admit(&limits, "192.0.2.1").unwrap_err(), Refused::Address);
        let _other = admit(&limits, "192.0.2.2").unwrap();
        first.authenticated();
        assert!(admit(&limits, "192.0.2.1").is_ok());
    }

    #[test]
    fn connections_of_unknown_address_take_places_but_nobodys_share() {
        let limits = Limits::new(CAPS);
        let mut places: Vec<_> = (0..5).map(|_| limits.admit().unwrap()).collect();
        assert_eq!(limits.admit().unwrap_err(), Refused::Strangers);
        let shares: Vec<_> = places.iter_mut().map(|place| place.identify([192, 0, 2, 1].into())).collect();
        assert_eq!(shares.iter().filter(|share| share.is_ok()).count(), CAPS.strangers_per_address);
    }

    #[test]
    fn an_ipv6_network_counts_as_one_address() {
        let limits = Limits::new(CAPS);
        let _places = ["2001:db8::1", "2001:db8::2"].map(|address| admit(&limits, address).unwrap());
        assert_eq!(admit(&limits, "2001:db8::3").unwrap_err(), Refused::Address);
        assert!(admit(&limits, "2001:db8:0:1::3").is_ok());
    }

    #[test]
    fn strangers_leave_room_for_clients() {
        let limits = Limits::new(CAPS);
        let mut places: Vec<_> = (0..5).map(|n| admit(&limits, &format!("192.0.2.{n}")).unwrap()).collect();
        assert!(places.iter_mut().all(Permit::fronted));
        assert_eq!(admit(&limits, "198.51.100.1").unwrap_err(), Refused::Strangers);
        places.iter_mut().for_each(Permit::authenticated);
        places.extend((0..5).map(|n| admit(&limits, &format!("192.0.2.{n}")).unwrap()));
        assert_eq!(admit(&limits, "198.51.100.1").unwrap_err(), Refused::Total);
    }

    fn has_lost(permit: &Permit) -> bool {
        pin!(permit.eviction()).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn a_newcomer_gets_the_oldest_undecided_place_of_the_address_that_has_most() {
        let limits = Limits::new(CAPS);
        let addresses = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.2", "192.0.2.1"];
        let mut places: Vec<_> = addresses.iter().map(|address| admit(&limits, address).unwrap()).collect();
        assert!(places[0].fronted() && !has_lost(&places[0]));
        let newcomer = admit(&limits, "198.51.100.1").unwrap();
        assert_eq!(places.iter().map(has_lost).collect::<Vec<_>>(), [false, true, false, false, false]);
        assert!(!places[1].fronted() && !has_lost(&newcomer));
        // Now nobody has more than one, so the oldest goes.
        let _another = admit(&limits, "198.51.100.2").unwrap();
        assert!(has_lost(&places[2]) && !has_lost(&places[3]) && !has_lost(&places[4]));
        places.clear();
        let counts = limits.lock();
        assert_eq!((counts.total, counts.strangers, counts.by_address.len(), counts.undecided.len()), (2, 2, 2, 2));
    }

    #[test]
    fn who_waits_for_the_eviction_is_woken_and_a_client_does_not_lose_its_place() {
        let limits = Limits::new(Caps { strangers: 1, ..CAPS });
        let mut first = admit(&limits, "192.0.2.1").unwrap();
        let (told, mut eviction) = (Arc::new(Told::default()), pin!(first.eviction()));
        assert!(eviction.as_mut().poll(&mut Context::from_waker(&told.clone().into())).is_pending());
        let mut second = admit(&limits, "192.0.2.2").unwrap();
        assert!(told.0.load(Ordering::Relaxed) && has_lost(&first));
        // Its hello came at the same moment.
        first.authenticated();
        second.authenticated();
        assert_eq!((limits.total(), limits.lock().strangers), (2, 0));
        assert!(admit(&limits, "192.0.2.3").is_ok());
    }

    #[derive(Default)]
    struct Told(AtomicBool);

    impl Wake for Told {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    #[test]
    fn everything_is_given_back() {
        let limits = Limits::new(CAPS);
        for round in 0..100u8 {
            let mut permit = limits.admit().unwrap();
            if round % 3 == 0 {
                permit.identify([192, 0, 2, 1].into()).unwrap();
            }
            if round % 2 == 0 {
                permit.authenticated();
            } else if round % 5 == 0 {
                permit.fronted();
            }
        }
        let counts = limits.lock();
        assert_eq!((counts.total, counts.strangers, counts.by_address.len()), (0, 0, 0));
    }
}
