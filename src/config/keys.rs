//! The one table of all keys. Parser, manual, sample file and README are made from it.

use DefaultText::{Is, Required, Unset};
use Status::{Alias, Deprecated, Ignored};

use super::field::Field::{self, *};

/// All that is known about a key.
pub(super) struct KeySpec {
    /// The path with dots; `<n>` at its end stands for a number.
    pub(super) name: &'static str,
    pub(super) field: Field,
    pub(super) default: DefaultText,
    /// Takes effect with SIGHUP; the others need a restart.
    pub(super) is_reloadable: bool,
    pub(super) status: Status,
    /// What it is for, one line.
    pub(super) doc: &'static str,
}

/// What is in effect when the key is absent.
#[derive(Clone, Copy)]
pub(super) enum DefaultText {
    /// This text.
    Is(&'static str),
    /// Something that no text stands for, in words.
    Unset(&'static str),
    /// The key must be given.
    Required,
}

/// Whether the key does what it says.
#[derive(Clone, Copy)]
pub(super) enum Status {
    Works,
    /// It has no meaning here and never will; why.
    Ignored(&'static str),
    /// Another name of a key.
    Alias(&'static str),
    /// An old name of a key, to be replaced.
    Deprecated(&'static str),
}

impl KeySpec {
    /// Whether a key of the file is meant.
    fn matches(&self, key: &str) -> bool {
        match self.name.strip_suffix("<n>") {
            Some(family) => key.strip_prefix(family).is_some_and(|number| !number.contains('.')),
            None => self.name == key,
        }
    }

    /// The key that this one is another name of, or the key itself.
    pub(super) fn target(&'static self) -> &'static KeySpec {
        match self.status {
            Status::Alias(name) | Status::Deprecated(name) => find(name).unwrap_or(self),
            _ => self,
        }
    }

    const fn status(self, status: Status) -> Self {
        Self { status, ..self }
    }
}

/// Finds what is known about a key of the file.
pub(super) fn find(key: &str) -> Option<&'static KeySpec> {
    KEYS.iter().find(|spec| spec.matches(key))
}

const fn key(name: &'static str, field: Field, default: DefaultText, doc: &'static str) -> KeySpec {
    KeySpec { name, field, default, is_reloadable: false, status: Status::Works, doc }
}

/// A key that takes effect with a reload.
const fn live(name: &'static str, field: Field, default: DefaultText, doc: &'static str) -> KeySpec {
    KeySpec { is_reloadable: true, ..key(name, field, default, doc) }
}

/// Every key. A key stands before its other names, and wins over them.
pub(super) static KEYS: &[KeySpec] = &[
    live("secret", Secret, Required, "what clients must know: key and host name, made by 'mtg generate-secret HOST'"),
    key("bind-to", Address(|c| &mut c.bind_to), Required, "where clients come in"),
    live("public-host", DnsName(|c| &mut c.public_host), Unset("none"), "a host name (DDNS) to use in links"),
    live(
        "public-ipv4",
        Ipv4(|c| &mut c.public_ipv4),
        Unset("looked up when needed"),
        "the IPv4 address to use in links",
    ),
    live(
        "public-ipv6",
        Ipv6(|c| &mut c.public_ipv6),
        Unset("looked up when needed"),
        "the IPv6 address to use in links",
    ),
    key(
        "concurrency",
        Count(|c| &mut c.concurrency),
        Is("8192"),
        "connections at the same time, fronted ones included; the limit of open files bounds it too",
    ),
    key(
        "handshakes-per-ip",
        Limit(|c| &mut c.handshakes_per_ip),
        Is("256"),
        "connections of one address (IPv6: /64) that have not authenticated yet; 0 is no limit",
    ),
    key("threads", OptionalCount(|c| &mut c.threads), Unset("one per core, at most 4"), "threads that move the data"),
    key(
        "memory",
        OptionalBytes(|c| &mut c.memory),
        Unset("1/8 of the RAM or of the cgroup's limit"),
        "budget for connections and the bytes on their way; how many connections there may be follows from it",
    ),
    live(
        "shutdown-grace",
        Grace(|c| &mut c.shutdown_grace),
        Is("5s"),
        "how long running connections may go on after SIGTERM",
    ),
    live("log-level", LogLevel, Is("warn"), "how much is written to the log"),
    live("debug", Debug, Is("false"), "true is the same as log-level = debug"),
    live("prefer-ip", PreferIp, Is("prefer-ipv6"), "which addresses of Telegram are dialled, and in which order"),
    live(
        "fast-mode",
        Bool(|c| &mut c.fast_mode),
        Is("true"),
        "let Telegram encrypt for the client, so that downloads cost no AES here",
    ),
    key(
        "tolerate-time-skewness",
        Duration(|c| &mut c.tolerate_time_skewness),
        Is("2m"),
        "how far a client's clock may be off",
    ),
    live(
        "allow-fallback-on-unknown-dc",
        Bool(|c| &mut c.allow_fallback_on_unknown_dc),
        Is("false"),
        "serve an unknown DC number by DC 2 instead of closing",
    ),
    key("auto-update", AutoUpdate, Is("false"), "learn further addresses of the CDN (DC 203) from Telegram's web site"),
    live(
        "dc-override.<n>",
        DcAddresses,
        Unset("the built-in addresses"),
        "an address to use for DC n instead, for tests; may be repeated",
    ),
    key(
        "proxy-protocol-listener",
        Bool(|c| &mut c.proxy_protocol_listener),
        Is("false"),
        "clients come through a load balancer: a PROXY header is required",
    ),
    key(
        "proxy-protocol-trusted",
        Cidrs(|c| &mut c.proxy_protocol_trusted),
        Unset("everybody"),
        "whose PROXY header is believed, others are closed; may be repeated",
    ),
    live(
        "domain-fronting.host",
        Host(|c| &mut c.domain_fronting.host),
        Unset("the secret's host"),
        "where to send everybody who is not a client",
    ),
    live("domain-fronting.port", Port(|c| &mut c.domain_fronting.port), Is("443"), "the port there"),
    live(
        "domain-fronting.proxy-protocol",
        Bool(|c| &mut c.domain_fronting.proxy_protocol),
        Is("false"),
        "tell the front the address of the visitor with a PROXY v2 header",
    ),
    live(
        "domain-fronting.ip",
        Host(|c| &mut c.domain_fronting.host),
        Unset("none"),
        "the same as domain-fronting.host",
    )
    .status(Alias("domain-fronting.host")),
    live(
        "domain-fronting-ip",
        Host(|c| &mut c.domain_fronting.host),
        Unset("none"),
        "old name of domain-fronting.host",
    )
    .status(Deprecated("domain-fronting.host")),
    live("domain-fronting-port", Port(|c| &mut c.domain_fronting.port), Is("443"), "old name of domain-fronting.port")
        .status(Deprecated("domain-fronting.port")),
    live(
        "domain-fronting-proxy-protocol",
        Bool(|c| &mut c.domain_fronting.proxy_protocol),
        Is("false"),
        "old name of domain-fronting.proxy-protocol",
    )
    .status(Deprecated("domain-fronting.proxy-protocol")),
    key("network.dns", Dns, Is("system"), "which resolver is asked; 'system' is resolv.conf and hosts"),
    key("network.doh-ip", DohIp, Unset("none"), "old way to set network.dns").status(Deprecated("network.dns")),
    live(
        "network.proxies",
        Proxies,
        Unset("none"),
        "SOCKS5 proxies on the way to Telegram; an empty element is a direct connection; may be repeated",
    ),
    live(
        "network.stun-servers",
        HostPorts(|c| &mut c.network.stun_servers),
        Unset("three public ones"),
        "who tells 'access' and 'doctor' our public address; never asked by 'run'; may be repeated",
    ),
    live(
        "network.public-ip-urls",
        PageUrls(|c| &mut c.network.public_ip_urls),
        Unset("two public ones"),
        "pages that show the visitor's address, asked if no STUN server answers; may be repeated",
    ),
    live("network.timeout.tcp", Duration(|c| &mut c.network.timeout.tcp), Is("5s"), "for one attempt to connect"),
    live(
        "network.timeout.http",
        Duration(|c| &mut c.network.timeout.http),
        Is("10s"),
        "until an HTTP server answers, and for each pause in its answer",
    ),
    live(
        "network.timeout.handshake",
        Duration(|c| &mut c.network.timeout.handshake),
        Is("10s"),
        "from a client's first byte to the end of its handshake",
    ),
    live(
        "network.timeout.idle",
        Duration(|c| &mut c.network.timeout.idle),
        Is("5m"),
        "for a connection without a byte in either direction",
    ),
    key(
        "network.keep-alive.disabled",
        Bool(|c| &mut c.network.keep_alive.disabled),
        Is("false"),
        "send no TCP keep-alive probes, neither to clients nor to Telegram",
    ),
    key(
        "network.keep-alive.idle",
        Duration(|c| &mut c.network.keep_alive.idle),
        Is("60s"),
        "quiet time before the first probe",
    ),
    key(
        "network.keep-alive.interval",
        Duration(|c| &mut c.network.keep_alive.interval),
        Is("15s"),
        "time between probes",
    ),
    key(
        "network.keep-alive.count",
        Count(|c| &mut c.network.keep_alive.count),
        Is("9"),
        "lost probes that end a connection",
    ),
    key(
        "network.bind-ipv4",
        Ipv4(|c| &mut c.network.bind_ipv4),
        Unset("the system's choice"),
        "connect to Telegram and to SOCKS5 proxies from this address of ours, for routers with several ways out",
    ),
    key(
        "network.bind-ipv6",
        Ipv6(|c| &mut c.network.bind_ipv6),
        Unset("the system's choice"),
        "the same for connections over IPv6",
    ),
    key(
        "network.mark",
        Mark(|c| &mut c.network.mark),
        Unset("no mark"),
        "mark connections to Telegram and to SOCKS5 proxies for 'ip rule' (fwmark); needs CAP_NET_ADMIN; 0 is off",
    ),
    key(
        "network.client-mss",
        SegmentSize(|c| &mut c.network.client_mss),
        Unset("the system's choice"),
        "largest TCP segment to and from clients, so that their hello is cut up; slows them down; 0 is off",
    ),
    live(
        "network.hello-parts",
        Count(|c| &mut c.network.hello_parts),
        Is("1"),
        "packets that our ServerHello is cut into, against filters that look at the first; 2 or 3 will do",
    ),
    key(
        "network.notsent-lowat",
        OptionalBytes(|c| &mut c.network.notsent_lowat),
        Is("128KB"),
        "bytes that may wait for a slow client in the kernel, unsent; 0 is no limit",
    ),
    key(
        "network.reuse-port",
        Bool(|c| &mut c.network.reuse_port),
        Is("false"),
        "share the port with another mtg, so that a new one can take over before the old one stops",
    ),
    key(
        "defense.anti-replay.enabled",
        Bool(|c| &mut c.defense.anti_replay),
        Is("true"),
        "send replayed handshakes to the front",
    ),
    key(
        "defense.anti-replay.max-size",
        Bytes(|c| &mut c.defense.anti_replay_max_size),
        Is("1MB"),
        "the most memory that the table of seen handshakes takes",
    ),
    key("defense.anti-replay.error-rate", Unused, Unset("none"), "without effect: the table makes no errors")
        .status(Ignored("the table of seen handshakes makes no errors")),
    key(
        "defense.reject",
        Reject,
        Is("close"),
        "what happens to blocked addresses and those over a limit: close, or front (they see the web site)",
    ),
    live(
        "defense.blocklist.enabled",
        Bool(|c| &mut c.defense.blocklist.enabled),
        Is("false"),
        "use the list of who may not connect",
    ),
    live(
        "defense.blocklist.urls",
        ListUrls(|c| &mut c.defense.blocklist.urls),
        Unset("none"),
        "where the list is: files and URLs, one IP address or network per line; may be repeated",
    ),
    live(
        "defense.blocklist.update-each",
        Duration(|c| &mut c.defense.blocklist.update_each),
        Is("6h"),
        "how often it is loaded again",
    ),
    live(
        "defense.blocklist.download-concurrency",
        Count(|c| &mut c.defense.blocklist.download_concurrency),
        Is("1"),
        "sources that are loaded at the same time",
    ),
    live(
        "defense.allowlist.enabled",
        Bool(|c| &mut c.defense.allowlist.enabled),
        Is("false"),
        "use the list of who may connect, and nobody else",
    ),
    live(
        "defense.allowlist.urls",
        ListUrls(|c| &mut c.defense.allowlist.urls),
        Unset("none"),
        "where the list is: files and URLs, one IP address or network per line; may be repeated",
    ),
    live(
        "defense.allowlist.update-each",
        Duration(|c| &mut c.defense.allowlist.update_each),
        Is("6h"),
        "how often it is loaded again",
    ),
    live(
        "defense.allowlist.download-concurrency",
        Count(|c| &mut c.defense.allowlist.download_concurrency),
        Is("1"),
        "sources that are loaded at the same time",
    ),
    key(
        "defense.doppelganger.enabled",
        Bool(|c| &mut c.defense.doppelganger.enabled),
        Is("false"),
        "space the records of downloads as a web server would; costs speed: 19 Mbit/s per connection at most",
    ),
    key(
        "defense.doppelganger.urls",
        HttpsUrls(|c| &mut c.defense.doppelganger.urls),
        Unset("none"),
        "pages whose timing is imitated; the speed that it leaves is in the log; may be repeated",
    ),
    key(
        "defense.doppelganger.repeats-per-raid",
        Count(|c| &mut c.defense.doppelganger.repeats_per_raid),
        Is("10"),
        "how often each page is fetched to measure it",
    ),
    key(
        "defense.doppelganger.raid-each",
        Duration(|c| &mut c.defense.doppelganger.raid_each),
        Is("6h"),
        "how often the pages are measured again",
    ),
    key(
        "defense.doppelganger.drs",
        Bool(|c| &mut c.defense.doppelganger.drs),
        Is("false"),
        "small TLS records at the start of a connection, as web servers do",
    ),
    live(
        "stats.statsd.enabled",
        Bool(|c| &mut c.stats.statsd.enabled),
        Is("false"),
        "send statistics to a statsd server over UDP",
    ),
    live("stats.statsd.address", HostPort(|c| &mut c.stats.statsd.address), Unset("none"), "where it is"),
    live(
        "stats.statsd.metric-prefix",
        StatsdPrefix(|c| &mut c.stats.statsd.metric_prefix),
        Is("mtg"),
        "start of all names; a dot follows",
    ),
    live("stats.statsd.tag-format", TagFormat, Is("datadog"), "how labels are written"),
    live(
        "stats.prometheus.enabled",
        Bool(|c| &mut c.stats.prometheus.enabled),
        Is("false"),
        "serve statistics to Prometheus over HTTP",
    ),
    live(
        "stats.prometheus.bind-to",
        Address(|c| &mut c.stats.prometheus.bind_to),
        Is("127.0.0.1:3129"),
        "where Prometheus comes in",
    ),
    live(
        "stats.prometheus.http-path",
        Path(|c| &mut c.stats.prometheus.http_path),
        Is("/"),
        "the path that it asks for",
    ),
    live(
        "stats.prometheus.metric-prefix",
        PrometheusPrefix(|c| &mut c.stats.prometheus.metric_prefix),
        Is("mtg"),
        "start of all names; an underscore follows",
    ),
];
