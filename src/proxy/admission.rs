//! Whether a new connection gets a place.

use std::net::SocketAddr;

use rustix::process::{Resource, getrlimit};

use super::{Shared, Visit};
use crate::config::Config;
use crate::guard::limits::{Caps, Refused};
use crate::outcome::Outcome;

/// Descriptors that are not a connection's: standard streams, listener, pollers, resolver, files.
const RESERVED_DESCRIPTORS: u64 = 24;
/// Descriptors of a connection.
const DESCRIPTORS_EACH: u64 = 2;

/// The caps that configuration and descriptors allow.
pub(super) fn caps(config: &Config) -> Caps {
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let affordable = descriptors.saturating_sub(RESERVED_DESCRIPTORS) / DESCRIPTORS_EACH;
    let total = u64::from(config.concurrency).min(affordable).max(2);
    if total < u64::from(config.concurrency) {
        log::warn!("fewer connections than configured, the limit of open files is low concurrency={total}");
    } else {
        log::info!("connection limit concurrency={total}");
    }
    let total = usize::try_from(total).unwrap_or(usize::MAX);
    let per_address = usize::try_from(config.handshakes_per_ip).unwrap_or(usize::MAX);
    Caps {
        total,
        strangers: total.div_ceil(2),
        strangers_per_address: if per_address == 0 { usize::MAX } else { per_address },
    }
}

/// Gives a connection its place, or says why there is none.
pub(super) fn admit(shared: &Shared, peer: SocketAddr) -> Result<Visit, NotAdmitted> {
    let permit = shared.limits.admit(peer.ip()).map_err(NotAdmitted)?;
    Ok(Visit::new(shared, peer, permit))
}

/// A connection without a place; it is closed.
pub(super) struct NotAdmitted(Refused);

impl NotAdmitted {
    pub(super) fn log(self, peer: SocketAddr) {
        let outcome = match self.0 {
            Refused::Total => Outcome::ConcurrencyLimited,
            Refused::Strangers => Outcome::StrangersLimited,
            Refused::Address => Outcome::AddressLimited,
        };
        log::debug!("connection refused ip={} reason={}", peer.ip().to_canonical(), outcome.as_str());
    }
}
