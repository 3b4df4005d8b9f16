//! The keys explained: for the terminal, as a file to start from, for the manual page.

use super::keys;
use super::spec::{DefaultText, KeySpec, Status};

/// The text about the keys for `mtg run --help`.
pub fn reference() -> String {
    let mut text = String::new();
    for spec in keys::all() {
        text += &format!("  {}{}\n      {}\n", spec.name, assignment(spec), spec.doc);
        text += &format!("      {}{}\n", spec.field.allowed(), remarks(spec));
    }
    text
}

/// A configuration file that explains itself: all keys with their defaults, all but the required ones as comments.
pub fn sample() -> String {
    let mut text = String::from(
        "# The configuration of mtg: 'key = value' lines. A value may stand in quotes; a # at the start of a line or\n\
         # after white space starts a comment. What is commented out is the default.\n",
    );
    for spec in keys::all().filter(|spec| is_current(spec)) {
        text += &format!("\n# {}\n# {}{}\n", spec.doc, spec.field.allowed(), remarks(spec));
        let name = spec.name.replace("<n>", "2");
        text += &match (spec.default, name.as_str()) {
            (DefaultText::Required, "bind-to") => "bind-to = 0.0.0.0:3128\n".to_owned(),
            (DefaultText::Required, _) => format!("{name} =\n"),
            (DefaultText::Is(value), _) => format!("#{name} = {value}\n"),
            (DefaultText::Unset(_), _) => format!("#{name} =\n"),
        };
    }
    text
}

/// The table of the keys for mtg.conf(5).
pub fn markdown() -> String {
    let mut text = String::from("| key | value | default | reload | meaning |\n|---|---|---|---|---|\n");
    for spec in keys::all() {
        let default = match spec.default {
            DefaultText::Is(value) => format!("`{value}`"),
            DefaultText::Unset(words) => words.to_owned(),
            DefaultText::Required => "required".to_owned(),
        };
        let reload = if spec.is_reloadable { "yes" } else { "no" };
        let allowed = spec.field.allowed();
        text += &format!("| `{}` | {allowed} | {default} | {reload} | {} |\n", spec.name, spec.doc);
    }
    text
}

/// The keys of mtg v2 that have another name here, or no effect, for mtg.conf(5).
pub fn other_names() -> String {
    let mut text = String::from("| key | meaning |\n|---|---|\n");
    for spec in keys::all() {
        text += &match spec.status {
            Status::Works => continue,
            Status::Ignored(why) => format!("| `{}` | no effect: {why} |\n", spec.name),
            Status::Alias(name) | Status::Deprecated(name) => format!("| `{}` | the same as `{name}` |\n", spec.name),
        };
    }
    text
}

/// ` = default`, where there is one.
fn assignment(spec: &KeySpec) -> String {
    match spec.default {
        DefaultText::Is(value) => format!(" = {value}"),
        _ => String::new(),
    }
}

/// What follows the type: `; default: none; takes a restart`.
fn remarks(spec: &KeySpec) -> String {
    let mut text = String::new();
    match spec.default {
        DefaultText::Required => text += "; required",
        DefaultText::Unset(words) => text += &format!("; default: {words}"),
        DefaultText::Is(_) => {}
    }
    if !spec.is_reloadable {
        text += "; takes a restart";
    }
    text
}

/// Old and second names are for files that exist already.
fn is_current(spec: &KeySpec) -> bool {
    !matches!(spec.status, Status::Alias(_) | Status::Deprecated(_) | Status::Ignored(_))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::config::keys::find;

    const SECRET: &str = "ee000102030405060708090a0b0c0d0e0f66726f6e742e6578616d706c65";

    fn pristine() -> Config {
        Config::new(SECRET.parse().unwrap(), "0.0.0.0:3128".parse().unwrap())
    }

    /// A value that is not the default, for each key; none for those that this build refuses or ignores.
    const OTHERS: &[(&str, &str)] = &[
        ("secret", "ee000102030405060708090a0b0c0d0e0f61"),
        ("bind-to", "[::1]:443"),
        ("public-host", "a.example"),
        ("public-ipv4", "203.0.113.7"),
        ("public-ipv6", "2001:db8::7"),
        ("concurrency", "1"),
        ("handshakes-per-ip", "0"),
        ("threads", "1"),
        ("memory", "16MB"),
        ("shutdown-grace", "0"),
        ("log-level", "info"),
        ("log-time", "always"),
        ("debug", "true"),
        ("prefer-ip", "only-ipv4"),
        ("fast-mode", "false"),
        ("tolerate-time-skewness", "3s"),
        ("allow-fallback-on-unknown-dc", "true"),
        ("dc-override.<n>", "192.0.2.1:443"),
        ("proxy-protocol-listener", "true"),
        ("proxy-protocol-trusted", "10.0.0.0/8"),
        ("domain-fronting.host", "b.example"),
        ("domain-fronting.port", "8443"),
        ("domain-fronting.proxy-protocol", "true"),
        ("domain-fronting.ip", "192.0.2.1"),
        ("domain-fronting-ip", "192.0.2.1"),
        ("domain-fronting-port", "8443"),
        ("domain-fronting-proxy-protocol", "true"),
        ("network.dns", "udp://192.0.2.1"),
        ("network.proxies", "socks5://192.0.2.1"),
        ("network.stun-servers", "a.example:3478"),
        ("network.public-ip-urls", "http://a.example"),
        ("network.timeout.tcp", "1s"),
        ("network.timeout.http", "1s"),
        ("network.timeout.handshake", "1s"),
        ("network.timeout.idle", "1s"),
        ("network.timeout.delivery", "1s"),
        ("network.keep-alive.disabled", "true"),
        ("network.keep-alive.idle", "1s"),
        ("network.keep-alive.interval", "1s"),
        ("network.keep-alive.count", "1"),
        ("network.bind-ipv4", "192.0.2.1"),
        ("network.bind-ipv6", "2001:db8::1"),
        ("network.mark", "0x64"),
        ("network.client-mss", "536"),
        ("network.hello-parts", "2"),
        ("network.notsent-lowat", "0"),
        ("network.tcp-not-sent-lowat", "0"),
        ("network.reuse-port", "true"),
        ("defense.anti-replay.enabled", "false"),
        ("defense.anti-replay.max-size", "16KB"),
        ("defense.anti-replay.file", "/a/b"),
        ("defense.reject", "close"),
        ("defense.reply-delay", "1s"),
        ("defense.blocklist.enabled", "true"),
        ("defense.blocklist.urls", "/a"),
        ("defense.blocklist.update-each", "1h"),
        ("defense.blocklist.download-concurrency", "2"),
        ("defense.allowlist.enabled", "true"),
        ("defense.allowlist.urls", "/a"),
        ("defense.allowlist.update-each", "1h"),
        ("defense.allowlist.download-concurrency", "2"),
        ("defense.doppelganger.enabled", "true"),
        ("defense.doppelganger.repeats-per-raid", "1"),
        ("defense.doppelganger.raid-each", "1h"),
        ("defense.doppelganger.drs", "true"),
        ("stats.statsd.enabled", "true"),
        ("stats.statsd.address", "192.0.2.1:8125"),
        ("stats.statsd.metric-prefix", "other"),
        ("stats.statsd.tag-format", "graphite"),
        ("stats.prometheus.enabled", "true"),
        ("stats.prometheus.bind-to", "[::1]:1"),
        ("stats.prometheus.http-path", "/metrics"),
        ("stats.prometheus.metric-prefix", "other"),
        ("web.bind-to", "127.0.0.1:8081"),
        ("web.host", "other.example"),
        ("web.path", "other"),
        ("web.carrier", "websocket"),
        ("web.trusted", "192.0.2.0/24"),
    ];

    /// The keys that no value changes, or none in a build without TLS.
    const WITHOUT_OTHER: [&str; 5] =
        ["auto-update", "tcp-buffer", "network.doh-ip", "defense.anti-replay.error-rate", "defense.doppelganger.urls"];

    #[test]
    fn printed_defaults_are_those_in_effect_and_each_key_sets_a_field_of_its_own() {
        let defaults = format!("{:?}", pristine());
        let mut effects = Vec::new();
        for spec in keys::all() {
            let Some((_, other)) = OTHERS.iter().find(|(name, _)| *name == spec.name) else {
                assert!(WITHOUT_OTHER.contains(&spec.name), "{}", spec.name);
                continue;
            };
            let name = spec.name.replace("<n>", "2");
            let mut config = pristine();
            spec.field.set(&mut config, &name, other).unwrap();
            let changed = format!("{config:?}");
            assert_ne!(changed, defaults, "{name}");
            if is_current(spec) && spec.name != "debug" {
                assert!(!effects.contains(&changed), "{name} sets the field of another key");
                effects.push(changed);
            }
            if let (DefaultText::Is(default), true) = (spec.default, spec.name != "debug") {
                spec.field.set(&mut config, &name, default).unwrap();
                assert_eq!(format!("{config:?}"), defaults, "{name}");
            }
        }
        assert_eq!(OTHERS.len(), keys::all().count() - WITHOUT_OTHER.len());
    }

    #[test]
    fn what_takes_a_restart_stays_as_it_runs_and_is_named() {
        let running = pristine();
        for (name, other) in OTHERS {
            let spec = find(&name.replace("<n>", "2")).unwrap();
            let mut config = pristine();
            spec.field.set(&mut config, &name.replace("<n>", "2"), other).unwrap();
            let named = config.keep_fixed(&running);
            let changes = config.changes(&running);
            if spec.is_reloadable {
                assert!(named.is_empty(), "{name}: {named:?}");
                let name = if spec.name == "debug" { "log-level" } else { keys::target(spec).name };
                assert_eq!(changes, [name.trim_end_matches(".<n>")], "{name}");
            } else {
                assert!(changes.is_empty(), "{name}: {changes:?}");
                assert_eq!(named, [keys::target(spec).name], "{name}");
                assert_eq!(format!("{config:?}"), format!("{running:?}"), "{name}");
            }
        }
    }

    #[test]
    fn names_are_unique_and_other_names_lead_to_a_key() {
        for (n, spec) in keys::all().enumerate() {
            assert!(keys::all().skip(n + 1).all(|other| other.name != spec.name), "{}", spec.name);
            assert!(std::ptr::eq(find(&spec.name.replace("<n>", "7")).unwrap(), spec), "{}", spec.name);
            if let Status::Alias(name) | Status::Deprecated(name) = spec.status {
                assert_eq!((keys::target(spec).name, is_current(keys::target(spec))), (name, true));
            }
        }
    }

    #[test]
    fn the_sample_is_the_default_with_and_without_its_comments() {
        let sample = sample().replace("secret =\n", &format!("secret = {SECRET}\n"));
        let uncommented: String = sample
            .lines()
            .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line))
            .flat_map(|line| [line, "\n"])
            .collect();
        for text in [sample, uncommented] {
            let (config, warnings) = Config::parse(&text, "sample").unwrap();
            assert_eq!(format!("{config:?}"), format!("{:?}", pristine()));
            assert!(warnings.is_empty(), "{warnings}");
        }
    }

    #[test]
    fn every_key_is_in_every_text() {
        let (reference, sample, markdown, others) = (reference(), sample(), markdown(), other_names());
        for spec in keys::all() {
            assert!(reference.contains(&format!("  {}", spec.name)), "{}", spec.name);
            assert!(markdown.contains(&format!("| `{}` |", spec.name)), "{}", spec.name);
            assert_eq!(others.contains(&format!("| `{}` |", spec.name)), !is_current(spec), "{}", spec.name);
            let setting = format!("\n#{} =", spec.name.replace("<n>", "2"));
            let is_required = matches!(spec.default, DefaultText::Required);
            assert_eq!(sample.contains(&setting), is_current(spec) && !is_required, "{}", spec.name);
            assert!(spec.doc.len() < 120 && !spec.doc.contains(['|', '\n']), "{}", spec.name);
        }
    }
}
