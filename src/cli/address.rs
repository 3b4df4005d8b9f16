//! Where the proxy is reached from outside, as `access` and `doctor` find it out; `run` never does.

use std::time::Duration;

use crate::config::Config;
use crate::net::public_ip::{self, PublicIps, Witnesses};
use crate::net::resolve::Resolver;

/// Who tells our address if the configuration names nobody.
const STUN_SERVERS: [(&str, u16); 3] =
    [("stun.cloudflare.com", 3478), ("stun.l.google.com", 19302), ("stun.nextcloud.com", 3478)];
/// The same over HTTP.
const PAGES: [&str; 2] = if cfg!(feature = "tls") {
    ["https://ifconfig.co/ip", "https://icanhazip.com"]
} else {
    ["http://ifconfig.co/ip", "http://icanhazip.com"]
};

/// For all of them together.
const PATIENCE: Duration = Duration::from_secs(8);

/// The addresses that the internet sees.
pub(crate) async fn look_up(config: &Config, resolver: &Resolver) -> PublicIps {
    let network = &config.network;
    let mut stun: Vec<_> = network.stun_servers.iter().map(|(host, port)| (host.to_string(), *port)).collect();
    let mut pages = network.public_ip_urls.clone();
    if stun.is_empty() {
        stun.extend(STUN_SERVERS.map(|(host, port)| (host.to_owned(), port)));
    }
    if pages.is_empty() {
        pages.extend(PAGES.into_iter().filter_map(|page| page.parse().ok()));
    }
    let witnesses = Witnesses { stun: &stun, pages: &pages, resolver };
    public_ip::look_up(config.bind_to, &witnesses, PATIENCE).await
}
