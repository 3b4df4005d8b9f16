//! Telegram's WEB proxy: where its requests come in, and what its links say.

use std::net::SocketAddr;

use super::Cidr;

/// `web.*`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Web {
    /// `bind-to`: where the web server passes requests to; none is off.
    pub bind_to: Option<SocketAddr>,
    /// `host`: the name of the web site; none is the secret's host.
    pub host: Option<String>,
    /// `path`: below which the proxy is reached; empty is the root.
    pub path: String,
    /// `carrier`: how bytes travel.
    pub carrier: Carrier,
    /// `trusted`: web servers on other machines.
    pub trusted: Vec<Cidr>,
}

/// `web.carrier`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Carrier {
    /// `https`: requests and long polls.
    #[default]
    Https,
    /// `websocket`.
    Websocket,
}

impl Carrier {
    /// The word of the configuration, which is that of the protocol, too.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Https => "https",
            Self::Websocket => "websocket",
        }
    }
}
