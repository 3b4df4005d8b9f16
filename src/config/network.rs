//! The ways out: the front, the resolver, SOCKS5 proxies, timeouts.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::{ByteSize, Host, Url};

/// `domain-fronting.*`: where everybody goes who is not a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainFronting {
    /// `host` (alias `ip`): a name or an address to dial in place of the secret's host.
    pub host: Option<Host>,
    /// `port`.
    pub port: u16,
    /// `proxy-protocol`: send a PROXY v2 header to the front.
    pub proxy_protocol: bool,
}

impl Default for DomainFronting {
    fn default() -> Self {
        Self { host: None, port: 443, proxy_protocol: false }
    }
}

/// `prefer-ip`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PreferIp {
    /// `prefer-ipv4`: IPv4 first.
    PreferIpv4,
    /// `prefer-ipv6`: IPv6 first.
    PreferIpv6,
    /// `only-ipv4`.
    OnlyIpv4,
    /// `only-ipv6`.
    OnlyIpv6,
}

/// `network.*`.
#[derive(Clone, Debug)]
pub struct Network {
    /// `dns`: which resolver to ask.
    pub dns: Dns,
    /// `proxies`: SOCKS5 proxies on the way to Telegram.
    pub proxies: Vec<Upstream>,
    /// `timeout.*`.
    pub timeout: Timeouts,
    /// `keep-alive.*`.
    pub keep_alive: KeepAlive,
    /// `bind-ipv4`: our own address on the way to Telegram.
    pub bind_ipv4: Option<Ipv4Addr>,
    /// `bind-ipv6`: the same for IPv6.
    pub bind_ipv6: Option<Ipv6Addr>,
    /// `mark`: the mark (SO_MARK) of connections to Telegram, for routing rules.
    pub mark: Option<u32>,
    /// `client-mss`: the largest segment that clients are asked to send; none is the system's choice.
    pub client_mss: Option<u16>,
    /// `hello-parts`: writes, and so packets, that our ServerHello goes in.
    pub hello_parts: u16,
    /// `notsent-lowat`: bytes on the way to a client that may wait in the kernel before their first transmission; 0 is
    /// the system's choice, none is by `memory`.
    pub notsent_lowat: Option<ByteSize>,
    /// `reuse-port`: another mtg may listen on the same port.
    pub reuse_port: bool,
    /// `stun-servers`: who tells `access` and `doctor` our public address; empty = some public ones.
    pub stun_servers: Vec<(Host, u16)>,
    /// `public-ip-urls`: pages that do the same; empty = some public ones.
    pub public_ip_urls: Vec<Url>,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            dns: Dns::System,
            proxies: Vec::new(),
            timeout: Timeouts::default(),
            keep_alive: KeepAlive::default(),
            bind_ipv4: None,
            bind_ipv6: None,
            mark: None,
            client_mss: None,
            hello_parts: 1,
            notsent_lowat: None,
            reuse_port: false,
            stun_servers: Vec::new(),
            public_ip_urls: Vec::new(),
        }
    }
}

/// `network.dns`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dns {
    /// `resolv.conf` and `hosts`.
    System,
    /// `udp://ip[:port]`.
    Udp(SocketAddr),
    /// `tls://host[:port]`.
    Tls(Host, u16),
    /// `https://host[:port][/path]`.
    Https(Url),
}

/// One entry of `network.proxies`.
#[derive(Clone, PartialEq, Eq)]
pub enum Upstream {
    /// An empty string: no proxy.
    Direct,
    /// `socks5://[user:password@]host[:port]`.
    Socks5(Socks5),
}

/// A SOCKS5 proxy. No `Debug`: it has credentials.
#[derive(Clone, PartialEq, Eq)]
pub struct Socks5 {
    /// Where it is.
    pub host: Host,
    /// Its port.
    pub port: u16,
    /// User name and password, percent-decoded.
    pub credentials: Option<(String, String)>,
    /// `open_threshold`: failures in a row before the proxy is left alone.
    pub open_threshold: u32,
    /// `half_open_timeout`: how long it is left alone.
    pub half_open_timeout: Duration,
    /// `reset_failures_timeout`: after how much quiet failures are forgotten.
    pub reset_failures_timeout: Duration,
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct => f.write_str("direct"),
            Self::Socks5(proxy) => write!(f, "socks5://{:?}:{}", proxy.host, proxy.port),
        }
    }
}

/// `network.timeout.*`.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// `tcp`: one connection attempt.
    pub tcp: Duration,
    /// `http`: until an HTTP server answers, and each pause in its answer.
    pub http: Duration,
    /// `handshake`: from a client's first byte to its obfuscated2 frame.
    pub handshake: Duration,
    /// `idle`: a relay without a byte in either direction.
    pub idle: Duration,
    /// `delivery`: a client or Telegram acknowledges nothing of what was sent to it.
    pub delivery: Duration,
}

impl Default for Timeouts {
    /// `delivery`: the kernel repeats what is not acknowledged after ever longer pauses, so the first attempt after a
    /// tunnel of 20 s comes at 40 s at the latest, and the connection must outlive that. A phone that wakes up later
    /// would wait for an attempt that is due after as long as it has slept; a connection that is over by then is
    /// answered by a reset, and a new one is there within three round trips.
    fn default() -> Self {
        Self {
            tcp: Duration::from_secs(5),
            http: Duration::from_secs(10),
            handshake: Duration::from_secs(10),
            idle: Duration::from_secs(300),
            delivery: Duration::from_secs(45),
        }
    }
}

/// `network.keep-alive.*`.
#[derive(Clone, Copy, Debug)]
pub struct KeepAlive {
    /// `disabled`.
    pub disabled: bool,
    /// `idle`: quiet time before the first probe.
    pub idle: Duration,
    /// `interval` between probes.
    pub interval: Duration,
    /// `count` of lost probes that end a connection.
    pub count: u16,
}

impl Default for KeepAlive {
    /// Two packets every 90 s keep what address translators know of a connection (they forget after 4 minutes at the
    /// earliest), and cost the battery of a phone little. After 195 s without an answer it is given up.
    fn default() -> Self {
        Self { disabled: false, idle: Duration::from_secs(90), interval: Duration::from_secs(15), count: 7 }
    }
}
