//! What the owner should know although nothing fails here: told at most once an hour for each cause.
//!
//! Strangers must not be able to write into the log. So a PROXY header, or the lack of one, is told only of peers whose
//! address is none of the internet, as a load balancer's is that stands beside us.

use std::future::pending;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::log::Limited;
use crate::net::public_ip::{self, is_global};
use crate::outcome::Outcome;
use crate::proto::dc::DcId;
use crate::proxy::{Shared, Visit};

/// Time between two lines of one cause.
const EVERY: Duration = Duration::from_secs(60 * 60);
/// How a PROXY header begins (version 1, version 2).
const HEADERS: [&[u8]; 2] = [b"PROXY ", b"\r\n\r\n\0\r\nQUIT\n"];

/// A connection was refused whose fault may be the set-up's.
pub(super) fn on_refusal(peer: SocketAddr, outcome: Outcome) {
    static WITHOUT_HEADER: Limited = Limited::new(EVERY);
    static UNTRUSTED: Limited = Limited::new(EVERY);
    let ip = peer.ip().to_canonical();
    if is_global(ip) {
        return;
    }
    match outcome {
        Outcome::BadProxyHeader => {
            if let Some(left_out) = WITHOUT_HEADER.pass(Instant::now()) {
                log::warn!(
                    "a connection comes without a PROXY header and is closed: let the load balancer send one (HAProxy: send-proxy-v2, nginx: proxy_protocol on), or set proxy-protocol-listener = false ip={ip}{left_out}"
                );
            }
        }
        Outcome::UntrustedBalancer => {
            if let Some(left_out) = UNTRUSTED.pass(Instant::now()) {
                log::warn!(
                    "a connection is closed because its address is not in proxy-protocol-trusted: if that is your load balancer, add it ip={ip}{left_out}"
                );
            }
        }
        _ => {}
    }
}

/// A stranger began with a PROXY header where none is wanted.
pub(super) fn on_unexpected_header(visit: &Visit, received: &[u8]) {
    static WARNINGS: Limited = Limited::new(EVERY);
    let ip = visit.ip();
    if visit.config.proxy_protocol_listener || is_global(ip) || !HEADERS.iter().any(|start| received.starts_with(start))
    {
        return;
    }
    if let Some(left_out) = WARNINGS.pass(Instant::now()) {
        log::warn!(
            "a load balancer sends PROXY headers, so that no client of it is recognised: set proxy-protocol-listener = true ip={ip}{left_out}"
        );
    }
}

/// A DC was reached, or was not.
pub(super) fn on_dialled(shared: &Shared, dc: DcId, is_reached: bool) {
    let now_secs = shared.started.elapsed().as_secs();
    let mut health = shared.lock_dc_health();
    if health.note(dc.site(), is_reached, now_secs) {
        log::warn!(
            "a data centre of Telegram cannot be reached while others can, its users are not served; 'mtg doctor' shows more, a SOCKS5 proxy (network.proxies) is a way around dc={}",
            dc.site()
        );
    }
}

/// Says once whether the secret's name leads elsewhere, as whoever compares can see; and then waits for ever. Nobody is
/// asked for our address: unless the owner or an interface tells it, it is not known.
pub(super) async fn compare_name(shared: &Shared) {
    let config = shared.config();
    if let Ok(Some((theirs, ours))) = foreign_name(shared, &config).await {
        log::warn!(
            "the name in the secret leads to another machine, which whoever compares can see; safest is a name of your own that leads here host={} leads_to={theirs} here={ours}",
            config.secret.host()
        );
    }
    pending().await
}

/// Where the name leads, and where we are, if the two have nothing in common.
async fn foreign_name(shared: &Shared, config: &Config) -> io::Result<Option<(String, String)>> {
    let own = public_ip::own_global(config.bind_to);
    let v4 = config.public_ipv4.or(own.v4).map(IpAddr::V4);
    let ours: Vec<_> = v4.into_iter().chain(config.public_ipv6.or(own.v6).map(IpAddr::V6)).collect();
    if ours.is_empty() {
        return Ok(None);
    }
    let theirs = shared.resolver.resolve(config.secret.host()).await?;
    let list = |ips: &[IpAddr]| ips.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(",");
    Ok((!theirs.iter().any(|ip| ours.contains(ip))).then(|| (list(&theirs), list(&ours))))
}
