//! From a DC's number to a stream to it.

use std::future::pending;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::pin::Pin;
use std::sync::Arc;

use async_io::Async;
use futures_lite::FutureExt as _;

use crate::config::{Config, PreferIp};
use crate::guard::front_profile::Fault;
use crate::guard::limits::source;
use crate::net::deadline;
use crate::outcome::Outcome;
use crate::proto::dc::DcId;
use crate::proto::handshake::Session;
use crate::proto::pacing::Pacing;
use crate::proto::record_sizer::{Growth, RecordSizer};
use crate::proxy::relay::{Codec, Farewells, Job};
use crate::proxy::telegram::route::{ATTEMPTS, Means};
use crate::proxy::visit::HandedOn;
use crate::proxy::{Shared, Visit, advice, random};

/// Reaches Telegram and the front in place of the proxy's own way, which is TCP as configured.
///
/// Both calls are given up when the client leaves or `network.timeout.tcp` is over twice: the future is dropped.
pub trait Dial: Send + Sync + 'static {
    /// Connects to a data centre, at the first of `addresses` that answers. They are in the order of preference.
    fn telegram<'a>(&'a self, dc: DcId, addresses: &'a [SocketAddr]) -> Dialling<'a>;

    /// Connects to the front; `host` is a name or an IP address.
    fn front<'a>(&'a self, host: &'a str, port: u16) -> Dialling<'a>;
}

/// What [`Dial`] returns.
pub type Dialling<'a> = Pin<Box<dyn Future<Output = io::Result<Dialled>> + Send + 'a>>;

/// A connection that [`Dial`] made.
#[derive(Debug)]
pub struct Dialled {
    /// The connection.
    pub stream: TcpStream,
    /// Where it leads, for metrics: the address of the far end, not of something on the way.
    pub address: SocketAddr,
}

/// Connects to the DC that the client asked for and hands both over to the relay.
pub(in crate::proxy) async fn to_dc(
    shared: &Shared,
    client: Async<TcpStream>,
    session: Session,
    mut visit: Visit,
) -> HandedOn {
    let left = until_left(&client, session.has_early_payload());
    let (remote, dc) = match connect(shared, &mut visit, session.dc(), left).await {
        Ok(connected) => connected,
        Err(outcome) => return Err((visit, outcome)),
    };
    let Ok(client) = client.into_inner() else { return Err((visit, Outcome::NoResources)) };
    let config = visit.config.clone();
    let mut link = session.link(dc, config.fast_mode, &mut random::fill);
    let wanted = &config.defense.doppelganger;
    if wanted.drs || wanted.enabled {
        let pacing = wanted.enabled.then(|| Pacing::new(measured_times(shared)));
        let growth = if wanted.drs { growth(shared) } else { Growth::Largest };
        link.dc_to_client.sizer = Some(Box::new(RecordSizer::new(random::number(), growth, pacing)));
    }
    shared.relay.add(Job {
        client,
        remote,
        source: source(visit.ip()),
        codec: Codec::Telegram(link.client_to_dc, link.dc_to_client, farewells(shared)),
        opening_payload: link.opening_payload,
        opening: link.opening,
        idle: config.network.timeout.idle,
        delivery: Some(config.network.timeout.delivery),
        seat: None,
        watch: visit.into_watch(Outcome::Served),
    });
    Ok(())
}

/// How the front leaves those who are at fault.
fn farewells(shared: &Shared) -> Farewells {
    let profile = shared.lock_front_profile();
    Farewells { after_fault: profile.farewell(Fault::Other), after_alert: profile.farewell(Fault::Alert) }
}

/// Connects to the DC that a client asked for or its stand-in, and says which; `left` is when the client has gone.
pub(in crate::proxy) async fn connect(
    shared: &Shared,
    visit: &mut Visit,
    asked: DcId,
    left: impl Future<Output = ()>,
) -> Result<(TcpStream, DcId), Outcome> {
    let config = visit.config.clone();
    let further = shared.learned.addresses(asked);
    let (dc, addresses) = candidates(&config, asked, &further).ok_or(Outcome::UnknownDc)?;
    visit.dc = Some(dc);
    let dialled = async { Some(reach(shared, &config, dc, &addresses).await) };
    let left = async {
        left.await;
        None
    };
    let (remote, address) = match dialled.or(left).await {
        Some(Ok(reached)) => {
            advice::on_dialled(shared, dc, true);
            reached
        }
        None => return Err(Outcome::ClientLeft),
        Some(Err(error)) => {
            advice::on_dialled(shared, dc, false);
            log::debug!("cannot reach a DC conn={} ip={} dc={dc} error={error}", visit.id, visit.ip());
            return Err(Outcome::DcUnreachable);
        }
    };
    visit.connected(dc, address);
    visit.dialled = Some((shared.telegram_dialer.clone(), address));
    Ok((remote, dc))
}

/// The times between the records of the pages that are to be imitated, if any were measured.
#[cfg(feature = "tls")]
fn measured_times(shared: &Shared) -> Option<Arc<[u16]>> {
    shared.measured.times()
}

/// As above; without TLS no page is measured.
#[cfg(not(feature = "tls"))]
fn measured_times(_: &Shared) -> Option<Arc<[u16]>> {
    None
}

/// How records grow: as those of a page that was measured.
#[cfg(feature = "tls")]
fn growth(shared: &Shared) -> Growth {
    shared.measured.growth(random::number()).unwrap_or(Growth::Go)
}

/// As above.
#[cfg(not(feature = "tls"))]
fn growth(_: &Shared) -> Growth {
    Growth::Go
}

async fn reach(
    shared: &Shared,
    config: &Config,
    dc: DcId,
    addresses: &[SocketAddr],
) -> Result<(TcpStream, SocketAddr), String> {
    let limit = config.network.timeout.tcp;
    let Some(dial) = &shared.dial else {
        let means = Means { resolver: &shared.resolver, dialer: &shared.telegram_dialer, limit };
        return shared.routes().connect(&means, addresses).await.map_err(|error| error.to_string());
    };
    let dialled = async {
        let Dialled { stream, address } = dial.telegram(dc, addresses).await?;
        stream.set_nonblocking(true)?;
        Ok((stream, address))
    };
    let dialled: Option<io::Result<_>> = deadline::within(limit * ATTEMPTS, dialled).await;
    dialled.unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into())).map_err(|error| error.to_string())
}

/// The DC to connect to and its addresses, the preferred ones first; none if there is no such DC.
///
/// `further` are addresses of the DC that was asked for which are not built in.
pub(crate) fn candidates(config: &Config, asked: DcId, further: &[SocketAddr]) -> Option<(DcId, Vec<SocketAddr>)> {
    let fallback = config.allow_fallback_on_unknown_dc.then_some(DcId::DEFAULT);
    [Some(asked), fallback].into_iter().flatten().find_map(|dc| {
        let further = if dc == asked { further } else { &[] };
        let known = known_addresses(config, dc, further);
        // A DC without an address of an allowed family is unreachable, not unknown.
        (!known.is_empty()).then(|| (dc, by_preference(known, config.prefer_ip)))
    })
}

fn known_addresses(config: &Config, dc: DcId, further: &[SocketAddr]) -> Vec<SocketAddr> {
    let overrides = config.dc_override.iter().filter(|(site, _)| *site == dc.site());
    let addresses: Vec<_> = overrides.map(|&(_, address)| address).collect();
    if addresses.is_empty() { dc.addresses().chain(further.iter().copied()).collect() } else { addresses }
}

fn by_preference(mut addresses: Vec<SocketAddr>, prefer: PreferIp) -> Vec<SocketAddr> {
    match prefer {
        PreferIp::OnlyIpv4 => addresses.retain(SocketAddr::is_ipv4),
        PreferIp::OnlyIpv6 => addresses.retain(SocketAddr::is_ipv6),
        PreferIp::PreferIpv4 => addresses.sort_by_key(SocketAddr::is_ipv6),
        PreferIp::PreferIpv6 => addresses.sort_by_key(SocketAddr::is_ipv4),
    }
    // The other family joins second: where one does not work at all, none of its addresses does.
    let preferred_is_v4 = addresses.first().is_some_and(SocketAddr::is_ipv4);
    if let Some(other) = addresses.iter().position(|address| address.is_ipv4() != preferred_is_v4) {
        let other = addresses.remove(other);
        addresses.insert(1, other);
    }
    addresses
}

/// Waits until the client is gone. One that has ended its side after it sent something may still want the answer.
async fn until_left(client: &Async<TcpStream>, has_sent_payload: bool) {
    loop {
        match client.get_ref().peek(&mut [0]) {
            Ok(0) if !has_sent_payload => return,
            Ok(_) => return pending().await,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
        if client.readable().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::secret::Secret;

    fn config(prefer: PreferIp) -> Config {
        let secret = Secret::new([1; 16], "front.example").unwrap();
        let mut config = Config::new(secret, "127.0.0.1:0".parse().unwrap());
        config.prefer_ip = prefer;
        config
    }

    #[test]
    fn families_follow_the_preference() {
        for (prefer, first_is_v4, families) in [
            (PreferIp::PreferIpv4, true, 2),
            (PreferIp::PreferIpv6, false, 2),
            (PreferIp::OnlyIpv4, true, 1),
            (PreferIp::OnlyIpv6, false, 1),
        ] {
            let (dc, addresses) = candidates(&config(prefer), DcId::new(-2), &[]).unwrap();
            assert_eq!(dc.number(), -2);
            assert_eq!(addresses[0].is_ipv4(), first_is_v4, "{prefer:?}");
            assert_eq!(addresses.get(1).is_some_and(|next| next.is_ipv4() != first_is_v4), families == 2, "{prefer:?}");
            let v4 = addresses.iter().filter(|address| address.is_ipv4()).count();
            let found = usize::from(v4 > 0) + usize::from(v4 < addresses.len());
            assert_eq!(found, families, "{prefer:?}");
        }
    }

    #[test]
    fn an_unknown_dc_falls_back_only_if_allowed() {
        let mut config = config(PreferIp::PreferIpv4);
        assert!(candidates(&config, DcId::new(99), &[]).is_none());
        config.allow_fallback_on_unknown_dc = true;
        assert_eq!(candidates(&config, DcId::new(99), &[]).unwrap().0, DcId::DEFAULT);
    }

    #[test]
    fn an_override_replaces_the_addresses_of_both_signs() {
        let mut config = config(PreferIp::PreferIpv6);
        let address = "127.0.0.1:4000".parse().unwrap();
        config.dc_override = vec![(99, address)];
        for number in [99, -99] {
            assert_eq!(candidates(&config, DcId::new(number), &[]).unwrap(), (DcId::new(number), vec![address]));
        }
    }
}
