//! How many connections there may be: in all, without authentication, and of one address without authentication.
//!
//! A place is given when a connection is accepted. Whose it is may only be known later: behind a load balancer, the
//! client's address is the first thing that is read.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
    by_address: HashMap<IpAddr, usize>,
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
    /// Somebody at this address.
    Stranger(IpAddr),
    /// A client that has authenticated.
    Client,
}

impl Limits {
    pub(crate) fn new(caps: Caps) -> Self {
        let counts = Counts { caps, total: 0, strangers: 0, by_address: HashMap::new() };
        Self { counts: Arc::new(Mutex::new(counts)) }
    }

    /// Gives a place to a new connection.
    pub(crate) fn admit(&self) -> Result<Permit, Refused> {
        let mut counts = self.lock();
        let caps = counts.caps;
        if counts.total >= caps.total {
            return Err(Refused::Total);
        }
        if counts.strangers >= caps.strangers {
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
    fn forget(&mut self, holder: Holder) {
        if holder != Holder::Client {
            self.strangers -= 1;
        }
        if let Holder::Stranger(address) = holder
            && let Some(count) = self.by_address.get_mut(&address)
        {
            *count -= 1;
            if *count == 0 {
                self.by_address.remove(&address);
            }
        }
    }
}

impl Permit {
    /// Counts the place for the address that it is known to be of now, unless that has its share already.
    pub(crate) fn identify(&mut self, address: IpAddr) -> Result<(), Refused> {
        if self.holder != Holder::Unknown {
            return Ok(());
        }
        let address = source(address);
        let mut counts = self.limits.lock();
        let cap = counts.caps.strangers_per_address;
        let of_address = counts.by_address.get(&address).copied().unwrap_or_default();
        if of_address >= cap {
            return Err(Refused::Address);
        }
        counts.by_address.insert(address, of_address + 1);
        self.holder = Holder::Stranger(address);
        Ok(())
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
        assert_eq!(admit(&limits, "198.51.100.1").unwrap_err(), Refused::Strangers);
        places.iter_mut().for_each(Permit::authenticated);
        places.extend((0..5).map(|n| admit(&limits, &format!("192.0.2.{n}")).unwrap()));
        assert_eq!(admit(&limits, "198.51.100.1").unwrap_err(), Refused::Total);
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
            }
        }
        let counts = limits.lock();
        assert_eq!((counts.total, counts.strangers, counts.by_address.len()), (0, 0, 0));
    }
}
