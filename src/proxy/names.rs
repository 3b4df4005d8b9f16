//! Which resolver the configuration means.

#[cfg(feature = "tls")]
use crate::config::Host;
use crate::config::{Config, Dns};
use crate::net::resolve::Resolver;

/// The resolver behind `network.dns`.
pub(crate) fn resolver(config: &Config) -> Resolver {
    match &config.network.dns {
        Dns::System => Resolver::system(),
        Dns::Udp(server) => Resolver::udp(*server),
        #[cfg(feature = "tls")]
        Dns::Tls(host, port) => Resolver::tls(text(host), *port),
        #[cfg(feature = "tls")]
        Dns::Https(host, port, path) => Resolver::https(text(host), *port, path.clone()),
        // No file gets so far; a program that embeds us may.
        #[cfg(not(feature = "tls"))]
        Dns::Tls(..) | Dns::Https(..) => Resolver::refusing(),
    }
}

#[cfg(feature = "tls")]
fn text(host: &Host) -> String {
    match host {
        Host::Name(name) => name.clone(),
        Host::Ip(ip) => ip.to_string(),
    }
}
