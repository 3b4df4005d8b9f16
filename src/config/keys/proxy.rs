//! The keys without a section: who comes in, and how many.

use crate::config::field::Field::*;
use crate::config::spec::DefaultText::{Is, Required, Unset};
use crate::config::spec::Status::Ignored;
use crate::config::spec::{KeySpec, key, live};

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
        "connections of one address (IPv6: /64) that are not known to be a client's or the front's; 0 is no limit",
    ),
    key("tcp-buffer", Unused, Unset("none"), "without effect: an idle connection has no buffer")
        .status(Ignored("an idle connection has no buffer, and a busy one has what it needs")),
    key("threads", Threads(|c| &mut c.threads), Unset("one per core, at most 4"), "threads that move the data"),
    key(
        "memory",
        Budget(|c| &mut c.memory),
        Unset("1/8 of the RAM or of the cgroup's limit"),
        "budget for connections, the bytes on their way and lists; how many connections there may be follows from it",
    ),
    live(
        "shutdown-grace",
        Grace(|c| &mut c.shutdown_grace),
        Is("5s"),
        "how long running connections may go on after SIGTERM (on OpenWrt 10s at most)",
    ),
    live("log-level", LogLevel, Is("warn"), "how much is written to the log"),
    live(
        "log-time",
        LogTime,
        Is("auto"),
        "the time in front of each line of the log; auto: at a terminal and in a file, where nobody else adds it",
    ),
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
        Seconds(|c| &mut c.tolerate_time_skewness),
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
];
