//! Connections to the front, for whoever wants one.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::config::{Config, Host};
use crate::log::Limited;
use crate::net::connect::Dialer;
use crate::net::deadline;
use crate::net::own_ends::OwnEnd;
use crate::proxy::Shared;

/// When a fronted connection without a byte is closed. Far beyond the patience of web servers: theirs is what a
/// prober shall see.
pub(in crate::proxy) const IDLE: Duration = Duration::from_secs(60 * 60);
/// Time for all addresses of the front together, in units of the limit for one of them.
const ATTEMPTS: u32 = 2;

/// A connection to the front.
pub(in crate::proxy) struct Link {
    pub(in crate::proxy) socket: TcpStream,
    /// How much the front has got of our PROXY header and what the visitor sent.
    pub(in crate::proxy) sent: usize,
    /// The front has reset it.
    pub(in crate::proxy) is_reset: bool,
    pub(in crate::proxy) own_end: OwnEnd,
}

/// Connects to the front.
pub(in crate::proxy) async fn connect(shared: &Shared, config: &Config, dialer: &Dialer) -> io::Result<Link> {
    let limit = config.network.timeout.tcp;
    let dialled = deadline::within(limit * ATTEMPTS, connect_any(shared, config, dialer)).await;
    let socket = dialled.unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into()))?;
    let own_end = shared.loops.own_ends.note(socket.local_addr()?);
    Ok(Link { socket, sent: 0, is_reset: false, own_end })
}

async fn connect_any(shared: &Shared, config: &Config, dialer: &Dialer) -> io::Result<TcpStream> {
    let port = config.domain_fronting.port;
    if let Some(dial) = &shared.dial {
        let host = match &config.domain_fronting.host {
            Some(Host::Ip(ip)) => ip.to_string(),
            Some(Host::Name(name)) => name.clone(),
            None => config.secret.host().to_owned(),
        };
        let stream = dial.front(&host, port).await?.stream;
        stream.set_nonblocking(true)?;
        return Ok(stream);
    }
    let ips = match &config.domain_fronting.host {
        Some(Host::Ip(ip)) => vec![*ip],
        Some(Host::Name(name)) => shared.resolver.resolve(name).await?,
        None => shared.resolver.resolve(config.secret.host()).await?,
    };
    let addresses: Vec<_> = ips.into_iter().map(|ip| SocketAddr::new(ip, port)).collect();
    if addresses.iter().any(|&address| is_ourselves(address, config.bind_to)) {
        return Err(io::Error::other(
            "the front is this proxy itself; set domain-fronting.host to the real web server",
        ));
    }
    let (socket, _) = dialer.connect(addresses, config.network.timeout.tcp).await?;
    Ok(socket)
}

/// Says whether a front's address is obviously the one that we listen on.
pub(crate) fn is_ourselves(front: SocketAddr, listening: SocketAddr) -> bool {
    let is_wildcard = |ip: IpAddr| ip.is_unspecified();
    front.port() == listening.port()
        && (front.ip() == listening.ip() || is_wildcard(listening.ip()) && front.ip().is_loopback())
}

/// Tells the owner; not about a loop, which has a warning of its own.
pub(in crate::proxy) fn warn_unreachable(shared: &Shared, error: &io::Error) {
    static WARNINGS: Limited = Limited::new(Duration::from_secs(60 * 60));
    if shared.loops.is_found() {
        return;
    }
    if let Some(left_out) = WARNINGS.pass(Instant::now()) {
        let front = shared.config().front();
        log::warn!(
            "the front cannot be reached, whoever probes this proxy finds nothing there front={front} error={error}{left_out}"
        );
    }
}

/// Tells the owner, and has the front looked at more often until there is no loop any more.
pub(in crate::proxy) fn loop_found(shared: &Shared) {
    if shared.loops.set_found(true) {
        shared.front_changes.send();
        let front = shared.config().front();
        log::warn!(
            "the front leads back to this proxy, whoever probes it is refused; set domain-fronting.host to the address \
             of the web server itself front={front}"
        );
    }
}
