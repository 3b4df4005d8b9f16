//! Whoever is not a client is spliced to the front, as if we were not there. If the front wants to know who that is,
//! a PROXY header goes before the first byte.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_io::Async;

use crate::config::{Config, Host};
use crate::guard::limits::source;
use crate::log::Limited;
use crate::net::connect::Dialer;
use crate::net::deadline;
use crate::outcome::{Outcome, Stranger};
use crate::proto::proxy_protocol;
use crate::proxy::front::loops::Path;
use crate::proxy::front::watch;
use crate::proxy::relay::{Codec, Job, reset_on_close};
use crate::proxy::visit::HandedOn;
use crate::proxy::{Shared, Visit};

/// When a fronted connection without a byte is closed. Far beyond the patience of web servers: theirs is what a
/// prober shall see.
pub(in crate::proxy) const IDLE: Duration = Duration::from_secs(60 * 60);
/// Time for all addresses of the front together, in units of the limit for one of them.
const ATTEMPTS: u32 = 2;

/// Somebody for the front.
pub(in crate::proxy) struct Visitor {
    /// Why.
    pub(in crate::proxy) stranger: Stranger,
    /// What came so far.
    pub(in crate::proxy) received: Vec<u8>,
    /// The connection to the front, if there is one already.
    pub(in crate::proxy) link: Option<Link>,
}

/// A connection to the front.
pub(in crate::proxy) struct Link {
    pub(in crate::proxy) socket: TcpStream,
    /// How much the front has got of our PROXY header and what the visitor sent.
    pub(in crate::proxy) sent: usize,
    /// The front has reset it.
    pub(in crate::proxy) is_reset: bool,
    pub(in crate::proxy) path: Path,
}

/// Connects to the front, unless that is done, and hands both over to the relay; the front gets what was received
/// first.
pub(in crate::proxy) async fn splice(
    shared: &Shared,
    client: Async<TcpStream>,
    visitor: Visitor,
    mut visit: Visit,
) -> HandedOn {
    let Visitor { stranger, received, link } = visitor;
    if shared.loops.is_question(&received).await {
        loop_found(shared);
    }
    let dialled = match link {
        Some(link) if !shared.loops.is_found() => Ok(Ok(link)),
        _ => visit.place.unless_told(dial(shared, visit.config.clone(), visit.peer)).await,
    };
    let Ok(dialled) = dialled else { return Err((visit, Outcome::Evicted)) };
    let Ok(client) = client.into_inner() else { return Err((visit, Outcome::NoResources)) };
    let Link { socket: remote, sent, is_reset, path } = match dialled {
        Ok(link) => link,
        Err(error) => {
            warn_unreachable(shared, &error);
            log::debug!("cannot reach the front conn={} ip={} error={error}", visit.id, visit.ip());
            // A host without a web server answers with RST.
            reset_on_close(&client);
            return Err((visit, Outcome::FrontUnreachable(stranger)));
        }
    };
    if is_reset {
        reset_on_close(&client);
        return Err((visit, Outcome::RemoteReset));
    }
    let seat = shared.relay.seat();
    if !visit.place.take_seat(seat.clone()) {
        return Err((visit, Outcome::Evicted));
    }
    visit.front_path = Some(path);
    let opening_payload = received.len();
    let mut opening = proxy_header(&client, &visit);
    opening.extend(received);
    opening.drain(..sent.min(opening.len()));
    shared.relay.add(Job {
        client,
        remote,
        codec: Codec::Splice,
        source: source(visit.ip()),
        opening,
        opening_payload,
        idle: IDLE,
        delivery: None,
        seat: Some(seat),
        watch: visit.into_watch(Outcome::Fronted(stranger)),
    });
    Ok(())
}

/// What the front gets before the client's first byte.
pub(in crate::proxy) fn proxy_header(client: &TcpStream, visit: &Visit) -> Vec<u8> {
    if !visit.config.domain_fronting.proxy_protocol {
        return Vec::new();
    }
    // Without a connection there is no address, and nobody to tell about it.
    let connected_to = visit.connected_to.map_or_else(|| client.local_addr(), Ok);
    connected_to.map(|connected_to| proxy_protocol::v2_header(visit.peer, connected_to)).unwrap_or_default()
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

/// Connects to the front for a visitor, unless it leads back to us.
pub(in crate::proxy) async fn dial(shared: &Shared, config: Arc<Config>, visitor: SocketAddr) -> io::Result<Link> {
    if !shared.loops.is_found() && shared.loops.is_path(visitor) {
        watch::check_loop(shared).await;
    }
    if shared.loops.is_found() {
        return Err(io::Error::other("it leads back to this proxy"));
    }
    connect(shared, &config, &shared.front_dialer).await
}

/// Connects to the front.
pub(in crate::proxy) async fn connect(shared: &Shared, config: &Config, dialer: &Dialer) -> io::Result<Link> {
    let limit = config.network.timeout.tcp;
    let dialled = deadline::within(limit * ATTEMPTS, connect_any(shared, config, dialer)).await;
    let socket = dialled.unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into()))?;
    let path = shared.loops.path(socket.local_addr()?);
    Ok(Link { socket, sent: 0, is_reset: false, path })
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
