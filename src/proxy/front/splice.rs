//! Whoever is not a client is spliced to the front, as if we were not there. If the front wants to know who that is,
//! a PROXY header goes before the first byte.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use async_io::Async;

use crate::config::Config;
use crate::guard::limits::source;
use crate::net::sockopts::reset_on_close;
use crate::outcome::{Outcome, Stranger};
use crate::proto::proxy_protocol;
use crate::proxy::front::connect::{IDLE, Link, connect, loop_found, warn_unreachable};
use crate::proxy::front::watch;
use crate::proxy::relay::{Codec, Job};
use crate::proxy::visit::HandedOn;
use crate::proxy::{Shared, Visit};

/// Somebody for the front.
pub(in crate::proxy) struct Visitor {
    /// Why.
    pub(in crate::proxy) stranger: Stranger,
    /// What came so far.
    pub(in crate::proxy) received: Vec<u8>,
    /// The connection to the front, if there is one already.
    pub(in crate::proxy) link: Option<Link>,
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
        _ => visit.place.unless_preempted(dial(shared, visit.config.clone(), visit.peer)).await,
    };
    let Ok(dialled) = dialled else { return Err((visit, Outcome::Evicted)) };
    let Ok(client) = client.into_inner() else { return Err((visit, Outcome::NoResources)) };
    let Link { socket: remote, sent, is_reset, own_end } = match dialled {
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
    visit.front_end = Some(own_end);
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

/// Connects to the front for a visitor, unless it leads back to us.
pub(in crate::proxy) async fn dial(shared: &Shared, config: Arc<Config>, visitor: SocketAddr) -> io::Result<Link> {
    if !shared.loops.is_found() && shared.loops.own_ends.has(visitor) {
        watch::check_loop(shared).await;
    }
    if shared.loops.is_found() {
        return Err(io::Error::other("it leads back to this proxy"));
    }
    connect(shared, &config, &shared.front_dialer).await
}
