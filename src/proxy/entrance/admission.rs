//! Whether a new connection gets a place, and whose it is.
//!
//! Behind a load balancer the first thing on a connection is the PROXY header with the client's address. It is
//! awaited in the connection's own task, so that no balancer can hold up the others.

use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use async_io::Async;
use rustix::process::{Resource, getrlimit};

use crate::config::{Config, Reject};
use crate::guard::limits::{Caps, Preemption};
use crate::net::{deadline, turn};
use crate::outcome::{Outcome, Stranger};
use crate::proto::proxy_protocol::{self, Origin, Parsed};
use crate::proxy::visit::places::warn_of_cap;
use crate::proxy::{Shared, Visit, memory};

/// Descriptors that are not a connection's: standard streams, listener, pollers, resolver, files.
const RESERVED_DESCRIPTORS: u64 = 24;
/// Descriptors of a connection.
const DESCRIPTORS_EACH: u64 = 2;
/// The part of the descriptors that is for attempts to connect beside the first one of a connection, and their number at
/// most.
const RACERS_PART: u64 = 16;
const RACERS_MAX: u64 = 256;
/// How long a balancer may take for its header; it has it when it connects.
const HEADER_LIMIT: Duration = Duration::from_secs(5);
/// Bytes looked at together in search of a header.
const HEADER_CHUNK: usize = 256;

/// The caps that configuration, descriptors and memory allow.
pub(in crate::proxy) fn caps(config: &Config, memory: &memory::Shares) -> Caps {
    let affordable = connections_within(descriptors());
    let wanted = u64::from(config.concurrency);
    let total = wanted.min(affordable).min(memory.connections).max(2);
    if total >= wanted {
        log::info!("connection limit concurrency={total}");
    } else if total < affordable {
        // Every small router is like that, and its owner has nothing to do about it.
        log::info!("connection limit by memory concurrency={total}");
    } else {
        log::warn!("fewer connections than configured, the limit of open files is low concurrency={total}");
    }
    let total = usize::try_from(total).unwrap_or(usize::MAX);
    let per_address = usize::try_from(config.handshakes_per_ip).unwrap_or(usize::MAX);
    Caps {
        total,
        strangers: total.div_ceil(2),
        undecided_per_address: if per_address == 0 { usize::MAX } else { per_address },
        hello_bytes: memory.hellos,
    }
}

/// How many connections there may be at the same time with so many descriptors.
pub(crate) fn connections_within(descriptors: u64) -> u64 {
    descriptors.saturating_sub(RESERVED_DESCRIPTORS + racers_within(descriptors)) / DESCRIPTORS_EACH
}

/// How many descriptors are enough for so many connections.
pub(crate) fn descriptors_for(connections: u64) -> u64 {
    let without_racers = RESERVED_DESCRIPTORS + DESCRIPTORS_EACH * connections;
    (without_racers * RACERS_PART).div_ceil(RACERS_PART - 1).min(without_racers + RACERS_MAX)
}

/// How many attempts to connect there may be beside the first one of each connection.
pub(in crate::proxy) fn racers() -> usize {
    usize::try_from(racers_within(descriptors())).unwrap_or_default()
}

fn racers_within(descriptors: u64) -> u64 {
    (descriptors / RACERS_PART).min(RACERS_MAX)
}

fn descriptors() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Gives a connection its place, or says why there is none.
pub(in crate::proxy) fn admit(shared: &Shared, peer: SocketAddr) -> Result<Visit, Outcome> {
    let config = shared.config();
    let (is_behind_balancer, trusted) = (config.proxy_protocol_listener, &config.proxy_protocol_trusted);
    let is_trusted = trusted.is_empty() || trusted.iter().any(|network| network.contains(peer.ip()));
    if is_behind_balancer && !is_trusted {
        return Err(Outcome::UntrustedBalancer);
    }
    let place = shared.places.admit(peer.ip()).ok_or(Outcome::ConcurrencyLimited)?;
    let shut_out = if is_behind_balancer { None } else { shut_out(shared, &config, peer.ip())? };
    let mut visit = Visit::new(shared, peer, place, config);
    visit.shut_out = shut_out;
    Ok(visit)
}

/// Gives a stream of the WEB proxy a client's place: it belongs to a session, so it is one's already.
pub(in crate::proxy) fn admit_stream(shared: &Shared, peer: SocketAddr) -> Result<Visit, Outcome> {
    let place = shared.places.admit(peer.ip()).ok_or(Outcome::ConcurrencyLimited)?;
    place.authenticated();
    Ok(Visit::new(shared, peer, place, shared.config()).over_web())
}

/// Learns from the PROXY header whose connection it is, where one is required, and whether that address may have it.
pub(in crate::proxy) async fn identify(
    shared: &Shared,
    client: &Async<TcpStream>,
    visit: &mut Visit,
) -> Result<(), Outcome> {
    if !visit.config.proxy_protocol_listener {
        return Ok(());
    }
    // Until then nobody knows whom the front would be shown to, so there is nothing but the end for who gives way.
    match visit.place.unless_preempted(read_header(client)).await {
        Err(Preemption::Evicted | Preemption::Outweighed) => return Err(Outcome::Evicted),
        Err(Preemption::AddressLimited | Preemption::MemoryLimited) => {
            warn_of_cap(visit.peer.ip());
            return Err(Outcome::AddressLimited);
        }
        Ok(origin) => {
            if let Origin::Proxied { source, destination } = origin? {
                visit.peer = source;
                visit.connected_to = Some(destination);
                visit.place.identify(source.ip());
            }
        }
    }
    visit.shut_out = shut_out(shared, &visit.config, visit.peer.ip())?;
    Ok(())
}

/// Why an address is to see the front and nothing else, if so. Whom a list refuses is closed if the owner prefers that.
fn shut_out(shared: &Shared, config: &Config, ip: IpAddr) -> Result<Option<Stranger>, Outcome> {
    let Some(refusal) = shared.lists.refusal(ip) else { return Ok(None) };
    match (config.defense.reject, refusal) {
        (Reject::Front, Outcome::Blocklisted) => Ok(Some(Stranger::Blocklisted)),
        (Reject::Front, Outcome::NotAllowlisted) => Ok(Some(Stranger::NotAllowlisted)),
        _ => Err(refusal),
    }
}

/// Tells an owner who has not said which load balancers there are. Whoever sends a header may claim any address, and
/// so get round lists and limits.
pub(in crate::proxy) fn warn_of_trust(config: &Config) {
    if config.proxy_protocol_listener && config.proxy_protocol_trusted.is_empty() {
        log::warn!(
            "proxy-protocol-listener believes everybody who connects what address he has; set proxy-protocol-trusted \
             to the address of your load balancer"
        );
    }
}

/// Reads the header and leaves what follows it where it is.
async fn read_header(client: &Async<TcpStream>) -> Result<Origin, Outcome> {
    let mut header = Vec::new();
    let read = async {
        loop {
            turn::wait().await;
            client.readable().await.map_err(|_| Outcome::Silent)?;
            let read_before = header.len();
            match peek(client.get_ref(), &mut header) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                // The health check of a balancer that only looks whether somebody listens.
                Err(_) | Ok(0) if read_before == 0 => return Err(Outcome::Silent),
                Err(_) | Ok(0) => return Err(Outcome::BadProxyHeader),
                Ok(_) => {}
            }
            let (origin, length) = match proxy_protocol::parse(&header) {
                Parsed::Partial => (None, header.len()),
                Parsed::Done { origin, length } => (Some(origin), length),
                Parsed::Invalid => return Err(Outcome::BadProxyHeader),
            };
            take(client.get_ref(), length.saturating_sub(read_before)).map_err(|_| Outcome::BadProxyHeader)?;
            if let Some(origin) = origin {
                return Ok(origin);
            }
        }
    };
    deadline::within(HEADER_LIMIT, read).await.unwrap_or(Err(Outcome::BadProxyHeader))
}

/// Appends what has arrived and leaves it there.
fn peek(client: &TcpStream, header: &mut Vec<u8>) -> io::Result<usize> {
    let mut chunk = [0; HEADER_CHUNK];
    let length = client.peek(&mut chunk)?;
    header.extend_from_slice(chunk.get(..length).unwrap_or_default());
    Ok(length)
}

/// Takes bytes that have arrived.
fn take(mut client: &TcpStream, length: usize) -> io::Result<()> {
    let mut chunk = [0; HEADER_CHUNK];
    client.read_exact(chunk.get_mut(..length).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_open_files_that_is_asked_for_is_enough_and_not_much_more() {
        for connections in [1, 10, 200, 500, 2000, 8192, 100_000] {
            let limit = descriptors_for(connections);
            assert!(connections_within(limit) >= connections, "{limit} for {connections}");
            assert!(connections_within(limit - limit.div_ceil(20)) < connections, "{limit} for {connections}");
        }
    }
}
