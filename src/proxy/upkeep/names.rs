//! Which resolver the configuration means.

use crate::config::{Config, Dns};
use crate::net::resolve::Resolver;

/// The resolver behind `network.dns`.
pub(crate) fn resolver(config: &Config) -> Resolver {
    match &config.network.dns {
        Dns::System => Resolver::system(),
        Dns::Udp(server) => Resolver::udp(*server),
        #[cfg(feature = "tls")]
        Dns::Tls(host, port) => Resolver::tls(host.to_string(), *port),
        #[cfg(feature = "tls")]
        Dns::Https(url) => Resolver::https(url.clone()),
        // No file gets so far; a program that embeds us may.
        #[cfg(not(feature = "tls"))]
        Dns::Tls(..) | Dns::Https(..) => Resolver::refusing(),
    }
}
