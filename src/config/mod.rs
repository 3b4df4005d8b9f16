//! The configuration: what the file says, checked and typed.
//!
//! Parsing makes no system call but reading the file: no name is looked up, no list file is opened.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use crate::proto::secret::Secret;

/// Everything that the owner can set; a field is the key of the file in snake case.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// `secret`: key and host name.
    pub secret: Secret,
    /// `bind-to`: where clients come in.
    pub bind_to: SocketAddr,
    /// `concurrency`: connections at the same time, fronted ones included.
    pub concurrency: u16,
    /// `handshakes-per-ip`: connections of one address that have not authenticated yet; 0 = no limit.
    pub handshakes_per_ip: u32,
    /// `prefer-ip`: which family to dial Telegram with.
    pub prefer_ip: PreferIp,
    /// `tolerate-time-skewness`: how far a client's clock may be off.
    pub tolerate_time_skewness: Duration,
    /// `allow-fallback-on-unknown-dc`: an unknown DC number is served by DC 2.
    pub allow_fallback_on_unknown_dc: bool,
    /// `auto-update`: learn DC addresses from Telegram.
    pub auto_update: bool,
    /// `fast-mode`: the DC encrypts for the client, downloads cost no AES.
    pub fast_mode: bool,
    /// `log-level`, and `debug = true`.
    pub log_level: log::LevelFilter,
    /// `memory`: budget for buffers and tables, bytes.
    pub memory: Option<ByteSize>,
    /// `threads`: data-plane threads.
    pub threads: Option<u16>,
    /// `shutdown-grace`: how long running connections may go on after SIGTERM.
    pub shutdown_grace: Duration,
    /// `public-host`: a host name to use in links.
    pub public_host: Option<String>,
    /// `public-ipv4`: the address to use in links.
    pub public_ipv4: Option<Ipv4Addr>,
    /// `public-ipv6`: the address to use in links.
    pub public_ipv6: Option<Ipv6Addr>,
    /// `proxy-protocol-listener`: clients come through a load balancer that sends a PROXY header.
    pub proxy_protocol_listener: bool,
    /// `proxy-protocol-trusted`: whose PROXY header is believed; empty = everybody's.
    pub proxy_protocol_trusted: Vec<Cidr>,
    /// `dc-override.<n>`: addresses that replace the built-in ones of a DC; the number has no sign.
    pub dc_override: Vec<(u16, SocketAddr)>,
    /// `domain-fronting.*`.
    pub domain_fronting: DomainFronting,
    /// `network.*`.
    pub network: Network,
    /// `defense.*`.
    pub defense: Defense,
    /// `stats.*`.
    pub stats: Stats,
}

/// `domain-fronting.*`: where everybody goes who is not a client.
#[derive(Clone, Debug)]
pub struct DomainFronting {
    /// `host` (alias `ip`): a name or an address to dial in place of the secret's host.
    pub host: Option<Host>,
    /// `port`.
    pub port: u16,
    /// `proxy-protocol`: send a PROXY v2 header to the front.
    pub proxy_protocol: bool,
}

/// A DNS name or an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// A DNS name in lower case.
    Name(String),
    /// An IPv4 or IPv6 address.
    Ip(IpAddr),
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
    /// `https://host[:port][/path]`; the path starts with a slash.
    Https(Host, u16, String),
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
    /// `http`: one whole HTTP request.
    pub http: Duration,
    /// `handshake`: from a client's first byte to its obfuscated2 frame.
    pub handshake: Duration,
    /// `idle`: a relay without a byte in either direction.
    pub idle: Duration,
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

/// `defense.*`.
#[derive(Clone, Debug)]
pub struct Defense {
    /// `anti-replay.enabled`.
    pub anti_replay: bool,
    /// `anti-replay.max-size`: cap of the table's memory, bytes.
    pub anti_replay_max_size: ByteSize,
    /// `reject`: what happens to listed and over-limit sources.
    pub reject: Reject,
    /// `blocklist.*`.
    pub blocklist: IpListSource,
    /// `allowlist.*`.
    pub allowlist: IpListSource,
    /// `doppelganger.*`.
    pub doppelganger: Doppelganger,
}

/// `defense.reject`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reject {
    /// Close at once, as mtg does.
    Close,
    /// Send them to the front.
    Front,
}

/// `defense.blocklist.*` and `defense.allowlist.*`.
#[derive(Clone, Debug)]
pub struct IpListSource {
    /// `enabled`.
    pub enabled: bool,
    /// `download-concurrency`: sources fetched at the same time.
    pub download_concurrency: u16,
    /// `urls`: files and URLs.
    pub urls: Vec<ListUrl>,
    /// `update-each`.
    pub update_each: Duration,
}

/// One source of an IP list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListUrl {
    /// A local file.
    File(std::path::PathBuf),
    /// An `http://` or `https://` URL.
    Url(String),
}

/// `defense.doppelganger.*`.
#[derive(Clone, Debug)]
pub struct Doppelganger {
    /// `enabled`: delays between records.
    pub enabled: bool,
    /// `urls`: pages whose timing is learned.
    pub urls: Vec<String>,
    /// `repeats-per-raid`.
    pub repeats_per_raid: u16,
    /// `raid-each`.
    pub raid_each: Duration,
    /// `drs`: small records first.
    pub drs: bool,
}

/// `stats.*`.
#[derive(Clone, Debug)]
pub struct Stats {
    /// `statsd.*`.
    pub statsd: Statsd,
    /// `prometheus.*`.
    pub prometheus: Prometheus,
}

/// `stats.statsd.*`.
#[derive(Clone, Debug)]
pub struct Statsd {
    /// `enabled`.
    pub enabled: bool,
    /// `address`.
    pub address: Option<(Host, u16)>,
    /// `metric-prefix`, without the dot.
    pub metric_prefix: String,
    /// `tag-format`.
    pub tag_format: TagFormat,
}

/// `stats.statsd.tag-format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TagFormat {
    /// `name:1|c|#tag:value`.
    Datadog,
    /// `name,tag=value:1|c`.
    Influxdb,
    /// `name;tag=value:1|c`.
    Graphite,
}

/// `stats.prometheus.*`.
#[derive(Clone, Debug)]
pub struct Prometheus {
    /// `enabled`.
    pub enabled: bool,
    /// `bind-to`.
    pub bind_to: SocketAddr,
    /// `http-path`, with its leading slash.
    pub http_path: String,
    /// `metric-prefix`, without the underscore.
    pub metric_prefix: String,
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

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// A network: an address and the number of its leading bits that count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// The address with the bits that do not count set to zero.
    pub address: IpAddr,
    /// 0 to 32 or 0 to 128.
    pub prefix_len: u8,
}
