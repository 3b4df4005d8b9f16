//! `domain-fronting.*`: where strangers go, and the old names of these keys.

use crate::config::field::Field::*;
use crate::config::spec::DefaultText::{Is, Unset};
use crate::config::spec::Status::{Alias, Deprecated};
use crate::config::spec::{KeySpec, live};

pub(super) static KEYS: &[KeySpec] = &[
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
];
