//! How list servers and Telegram's web site are reached: the way that Telegram is, for they are blocked as often.

use std::io;
use std::net::SocketAddr;

use crate::net::fetch::{Connect, Connecting};
use crate::proxy::{Means, Shared};

/// Dials over the owner's SOCKS5 proxies, if there are any. Names are looked up here.
pub(in crate::proxy) struct Detour<'a>(pub(in crate::proxy) &'a Shared);

impl Connect for Detour<'_> {
    fn connect<'a>(&'a self, host: &'a str, port: u16) -> Connecting<'a> {
        Box::pin(async move {
            let ips = self.0.resolver.resolve(host).await?;
            let addresses: Vec<_> = ips.into_iter().map(|ip| SocketAddr::new(ip, port)).collect();
            let limit = self.0.config().network.timeout.tcp;
            let means = Means { resolver: &self.0.resolver, dialer: &self.0.telegram_dialer, limit };
            let connected = self.0.routes().connect(&means, &addresses).await;
            connected.map(|(socket, _)| socket).map_err(|error| io::Error::other(error.to_string()))
        })
    }
}
