//! Our own ends of connections, for as long as these last: a peer that has such an address may be ourselves.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The addresses of our ends. One may be there more than once.
#[derive(Default)]
pub(crate) struct OwnEnds(Mutex<Vec<SocketAddr>>);

impl OwnEnds {
    /// Notes our end of a connection for as long as what is returned is kept.
    pub(crate) fn note(self: &Arc<Self>, local: SocketAddr) -> OwnEnd {
        let local = canonical(local);
        self.lock().push(local);
        OwnEnd { ends: self.clone(), local }
    }

    /// Says whether a peer may be ourselves.
    pub(crate) fn has(&self, peer: SocketAddr) -> bool {
        self.lock().contains(&canonical(peer))
    }

    /// The list is whole whenever the lock is free, so a poisoned lock is as good as any.
    fn lock(&self) -> MutexGuard<'_, Vec<SocketAddr>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Our end of one connection; dropped with it.
pub(crate) struct OwnEnd {
    ends: Arc<OwnEnds>,
    local: SocketAddr,
}

impl Drop for OwnEnd {
    fn drop(&mut self) {
        let mut ends = self.ends.lock();
        if let Some(place) = ends.iter().position(|end| *end == self.local) {
            ends.swap_remove(place);
        }
    }
}

/// IPv4 addresses as such, also when a socket of IPv6 tells them.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_known_for_as_long_as_it_is_kept() {
        let ends = Arc::new(OwnEnds::default());
        let end = ends.note("192.0.2.1:1000".parse().unwrap());
        let peer = "[::ffff:192.0.2.1]:1000".parse().unwrap();
        assert!(ends.has(peer) && !ends.has("192.0.2.1:1001".parse().unwrap()));
        drop(end);
        assert!(!ends.has(peer));
    }
}
