//! `network.*`: the ways out, timeouts, socket options.

use crate::config::field::Field::*;
use crate::config::spec::DefaultText::{Is, Unset};
use crate::config::spec::Status::{Alias, Deprecated};
use crate::config::spec::{KeySpec, key, live};

pub(super) static KEYS: &[KeySpec] = &[
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
        "for a client to take our reply, and for what follows its hello at least; the front's patience counts if that is longer",
    ),
    live(
        "network.timeout.idle",
        Duration(|c| &mut c.network.timeout.idle),
        Is("5m"),
        "for a connection without a byte in either direction",
    ),
    live(
        "network.timeout.delivery",
        Duration(|c| &mut c.network.timeout.delivery),
        Is("45s"),
        "until unacknowledged bytes end a connection: late enough for 20 s in a tunnel, soon enough for a phone that wakes up",
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
        Is("90s"),
        "quiet time before the first probe: seldom for the battery of phones, but before address translators forget them",
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
        Is("7"),
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
        "largest TCP segment to and from clients: 1200 where large packets get lost; less cuts up their hello; 0 is off",
    ),
    live(
        "network.hello-parts",
        Count(|c| &mut c.network.hello_parts),
        Is("1"),
        "packets that our ServerHello is cut into, against filters that look at the first; 2 or 3 will do",
    ),
    key(
        "network.notsent-lowat",
        OptionalLimit(|c| &mut c.network.notsent_lowat),
        Unset("1/64 of memory, from 128KB to 1MB"),
        "bytes that may wait for a client in the kernel, unsent; few of them slow down fast lines with loss; 0 is no limit",
    ),
    key(
        "network.tcp-not-sent-lowat",
        OptionalLimit(|c| &mut c.network.notsent_lowat),
        Unset("that of network.notsent-lowat"),
        "mtg v2's name of network.notsent-lowat",
    )
    .status(Alias("network.notsent-lowat")),
    key(
        "network.reuse-port",
        Bool(|c| &mut c.network.reuse_port),
        Is("false"),
        "share the port with another mtg, so that a new one can take over before the old one stops",
    ),
];
