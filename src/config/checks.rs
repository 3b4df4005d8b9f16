//! What no key can see alone: keys that are missing, and keys that make sense only together.

use std::net::IpAddr;

use super::spec::DefaultText;
use super::{Config, Dns, keys};
use crate::proto::web::site::check_host;

/// Why a build without the feature `web` takes no `web.bind-to`.
pub(crate) const WITHOUT_WEB: &str =
    "this build has no WEB proxy; the package mtg-tls has it (a build of one's own: --features web)";

/// Something to say about a key, in the words of its owner.
pub(super) struct Finding {
    /// The key whose line it is about; a missing one has none.
    pub(super) key: &'static str,
    /// An error refuses the file; anything else is a warning.
    pub(super) is_error: bool,
    pub(super) text: String,
}

/// Looks at all keys together; `is_set` says whether the owner gave a key a value.
pub(super) fn across_keys(config: &Config, is_set: &dyn Fn(&str) -> bool) -> Vec<Finding> {
    let required = keys::all().filter(|spec| matches!(spec.default, DefaultText::Required));
    let mut findings: Vec<_> =
        required.filter(|spec| !is_set(spec.name)).map(|spec| error(spec.name, missing(spec.name))).collect();
    if config.stats.statsd.enabled && !is_set("stats.statsd.address") {
        let text = "stats.statsd.enabled is true, but stats.statsd.address is missing";
        findings.push(error("stats.statsd.enabled", text));
    }
    if let Some(address) = config.web.bind_to {
        if !cfg!(feature = "web") {
            findings.push(error("web.bind-to", WITHOUT_WEB));
        }
        if !address.ip().is_loopback() && config.web.trusted.is_empty() {
            let text = "web.bind-to can be reached from other machines, so web.trusted must say whose requests are \
                        believed; or take 127.0.0.1";
            findings.push(error("web.bind-to", text));
        }
        if let Err(why) = check_host(config.web_host()) {
            let text = format!("web.bind-to needs web.host, for Telegram's apps do not take the secret's host: {why}");
            findings.push(error("web.bind-to", text));
        }
    }
    let without_effect = warnings(config).into_iter().filter(|(key, _)| is_set(key));
    findings.extend(without_effect.map(|(key, text)| Finding { key, is_error: false, text: text.into() }));
    findings
}

/// Whether the section that a key stands in is switched off, so that its other values are of no use.
pub(super) fn is_off(config: &Config, key: &str) -> bool {
    let defense = &config.defense;
    match key.rsplit_once('.') {
        // What switches is never off itself.
        Some((_, "enabled" | "drs")) => false,
        Some(("defense.blocklist", _)) => !defense.blocklist.enabled,
        Some(("defense.allowlist", _)) => !defense.allowlist.enabled,
        Some(("defense.anti-replay", _)) => !defense.anti_replay,
        Some(("stats.prometheus", _)) => !config.stats.prometheus.enabled,
        Some(("stats.statsd", _)) => !config.stats.statsd.enabled,
        Some(("defense.doppelganger", _)) => !fetches_pages(config),
        _ => false,
    }
}

/// Whether the pages of `defense.doppelganger.urls` are of any use: without TLS they are not fetched for `drs`.
fn fetches_pages(config: &Config) -> bool {
    let doppelganger = &config.defense.doppelganger;
    doppelganger.enabled || doppelganger.drs && cfg!(feature = "tls")
}

fn error(key: &'static str, text: impl Into<String>) -> Finding {
    Finding { key, is_error: true, text: text.into() }
}

fn missing(key: &str) -> String {
    let help = match key {
        "secret" => "make one with 'mtg generate-secret HOST'",
        _ => "it says where clients come in, for example 0.0.0.0:3128",
    };
    format!("{key} is missing; {help}")
}

/// What works, but hardly as its owner thinks: the key, and why.
fn warnings(config: &Config) -> Vec<(&'static str, &'static str)> {
    let defense = &config.defense;
    let mut found = Vec::new();
    if defense.blocklist.enabled && defense.blocklist.urls.is_empty() {
        let text = "defense.blocklist.enabled is true without defense.blocklist.urls, so nobody is blocked";
        found.push(("defense.blocklist.enabled", text));
    }
    if defense.allowlist.enabled && defense.allowlist.urls.is_empty() {
        let text = "defense.allowlist.enabled is true without defense.allowlist.urls, so NOBODY may connect";
        found.push(("defense.allowlist.enabled", text));
    }
    // Where they need the other build they are not even read, but they are set all the same.
    if !fetches_pages(config) {
        let text = if cfg!(feature = "tls") {
            "defense.doppelganger.urls has no effect without defense.doppelganger.enabled or defense.doppelganger.drs"
        } else {
            "defense.doppelganger.urls has no effect without defense.doppelganger.enabled"
        };
        found.push(("defense.doppelganger.urls", text));
    }
    if let Dns::Https(server) = &config.network.dns
        && (server.host.parse().is_ok_and(is_quad9) || server.host.ends_with("quad9.net"))
    {
        // Asked over HTTP/1.1 it answers with status 400.
        let text = "this name server wants HTTP/2, which mtg does not speak, so that no name will be found; set network.dns to tls:// or udp:// and the same address";
        found.extend(["network.dns", "network.doh-ip"].map(|key| (key, text)));
    }
    found
}

/// The one well-known server of DNS over HTTPS that speaks HTTP/2 only.
fn is_quad9(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => matches!(ip.octets(), [9, 9, 9, 9..=12] | [149, 112, 112, _]),
        IpAddr::V6(ip) => ip.segments().starts_with(&[0x2620, 0xfe]),
    }
}
