//! From statements to a [`Config`]: finds the keys and sets the values; what no key can see alone is in `checks`.
//!
//! Nothing stops at the first error, the owner gets all of them.

use std::net::{Ipv4Addr, SocketAddr};

use super::issue::{Issue, Shown, is_showable_key};
use super::raw::{self, RawValue};
use super::spec::{KeySpec, Status};
use super::value::ValueError;
use super::{Config, ConfigErrors, Warnings, checks, dc_overrides, keys, suggest};
use crate::proto::secret::{KEY_LEN, Secret};

/// Errors that are kept: a wrong file may have one in each line.
const ERRORS_MAX: usize = 100;

/// Reads the text of a file.
pub(super) fn from_text(text: &str, name: &str) -> Result<(Config, Warnings), ConfigErrors> {
    let mut loader = Loader::new(name);
    let place = |line| Place { origin: name.into(), line: Some(line) };
    let (statements, syntax_errors) = raw::read(text, &[dc_overrides::SECTION]);
    for (line, error) in syntax_errors {
        loader.error(&place(line), error.to_string());
    }
    let (statements, old_errors) = dc_overrides::rewrite(statements);
    for (line, error) in old_errors {
        loader.error(&place(line), error);
    }
    for statement in statements {
        if statement.element.is_some() {
            loader.warn(&place(statement.line), dc_overrides::ADVICE);
        }
        loader.add(&statement.key, &statement.section, statement.value, &place(statement.line));
    }
    loader.finish()
}

/// Takes settings from elsewhere: key, value, and where it was given.
pub(super) fn from_settings(
    settings: &mut dyn Iterator<Item = (&str, &str, &str)>,
) -> Result<(Config, Warnings), ConfigErrors> {
    let mut loader = Loader::new("");
    for (key, value, origin) in settings {
        loader.add(key, "", RawValue::One(value.into()), &Place { origin: origin.into(), line: None });
    }
    loader.finish()
}

#[derive(Clone)]
struct Place {
    origin: String,
    /// Within a file.
    line: Option<u32>,
}

impl Place {
    fn issue(&self, text: String) -> Issue {
        Issue { origin: self.origin.clone(), line: self.line, text }
    }
}

/// A value that is to be set.
struct Setting {
    spec: &'static KeySpec,
    key: String,
    text: String,
    /// An element of an array: an empty one means something, an empty value elsewhere does not.
    is_element: bool,
    place: Place,
}

impl Setting {
    /// Nothing is to be set: mtg takes an empty value as an absent one.
    fn is_absent(&self) -> bool {
        self.text.is_empty() && !self.is_element
    }

    /// mtg takes these as absent, where another name of the key has a value.
    fn is_zero(&self) -> bool {
        matches!(self.text.as_str(), "" | "0" | "false")
    }
}

struct Loader<'a> {
    name: &'a str,
    settings: Vec<Setting>,
    errors: Vec<Issue>,
    warnings: Vec<Issue>,
}

impl<'a> Loader<'a> {
    fn new(name: &'a str) -> Self {
        Self { name, settings: Vec::new(), errors: Vec::new(), warnings: Vec::new() }
    }

    fn add(&mut self, key: &str, section: &str, value: RawValue, place: &Place) {
        let Some(spec) = keys::find(key) else {
            // To find what was meant takes its time, and a file may have thousands.
            let text = if self.errors.len() < ERRORS_MAX { unknown(key, section) } else { String::new() };
            self.error(place, text);
            return;
        };
        let is_list = spec.field.is_list();
        let earlier = self.settings.iter().find(|setting| !is_list && setting.key == key);
        if let Some(earlier) = earlier {
            let text = match earlier.place.line {
                Some(line) => format!("{key} is set twice, first in line {line}"),
                None => "given twice".into(),
            };
            self.error(place, text);
            return;
        }
        let setting = |text, is_element, place| Setting { spec, key: key.into(), text, is_element, place };
        match value {
            RawValue::One(text) => self.settings.push(setting(text, false, place.clone())),
            RawValue::Nothing => {
                self.settings.push(setting(String::new(), spec.field.takes_nothing(), place.clone()));
            }
            RawValue::List(elements) if is_list => {
                for (text, line) in elements {
                    self.settings.push(setting(text, true, Place { line: Some(line), ..place.clone() }));
                }
            }
            RawValue::List(_) => {
                self.error(place, format!("{key}: a list is not {}", spec.field.allowed()));
                // Present, so that it is not missed as well.
                self.settings.push(setting(String::new(), true, place.clone()));
            }
        }
    }

    fn finish(mut self) -> Result<(Config, Warnings), ConfigErrors> {
        let mut config = placeholder();
        let mut settings = std::mem::take(&mut self.settings);
        // The order of the table: what comes later there wins, whatever the order in the file.
        settings.sort_by_key(|setting| keys::all().position(|spec| spec.name == setting.spec.name));
        for setting in settings.iter().filter(|setting| !setting.is_absent()) {
            match winner(&settings, setting) {
                Some(_) if setting.is_zero() => {}
                Some(winner) => {
                    let is_old = matches!(setting.spec.status, Status::Deprecated(_));
                    let how = if is_old { "deprecated and ignored" } else { "ignored" };
                    let text = format!("{} is {how}, because {} is set", setting.key, winner.key);
                    self.warn(&setting.place, text);
                }
                None => self.set(&mut config, setting),
            }
        }
        self.check(&config, &settings);
        if self.errors.is_empty() {
            Ok((config, Warnings::new(self.warnings)))
        } else {
            Err(ConfigErrors::new(self.errors))
        }
    }

    fn set(&mut self, config: &mut Config, setting: &Setting) {
        let Setting { spec, key, text, place, .. } = setting;
        let is_refused_already = setting.is_element && !spec.field.is_list();
        if is_refused_already {
            return;
        }
        let is_zero_argument = place.line.is_none() && spec.field.zero_is_unset() && setting.is_zero();
        let set = if is_zero_argument { Err(ValueError::Invalid) } else { spec.field.set(config, key, text) };
        if let Err(error) = set {
            // What is off is not used, so this build need not be able to; the switch stands before the rest in the table.
            let is_off = checks::is_off(config, spec.name);
            if matches!(error, ValueError::NeedsTls(_)) && is_off {
                return;
            }
            // A key with a number at its end may have something private there.
            let shown = if is_showable_key(key) { key } else { spec.name };
            let subject = if place.line.is_some() { format!("{shown}: ") } else { String::new() };
            let why = subject + &explain(spec, text, error);
            if is_off {
                self.warn(place, why + "; it has no effect while its section is off")
            } else {
                self.error(place, why)
            }
            return;
        }
        match spec.status {
            Status::Deprecated(new) if !setting.is_zero() => {
                self.warn(place, format!("{key} is deprecated, write {new} instead"));
            }
            Status::Ignored(why) => self.warn(place, format!("{key} has no effect: {why}")),
            _ => {}
        }
    }

    /// What no key can see alone.
    fn check(&mut self, config: &Config, settings: &[Setting]) {
        let place_of = |key: &str| settings.iter().find(|s| s.key == key && !s.is_absent()).map(|s| s.place.clone());
        for finding in checks::across_keys(config, &|key| place_of(key).is_some()) {
            let place = place_of(finding.key).unwrap_or_else(|| Place { origin: self.name.into(), line: None });
            match finding.is_error {
                true => self.error(&place, finding.text),
                false => self.warn(&place, finding.text),
            }
        }
    }

    fn error(&mut self, place: &Place, text: impl Into<String>) {
        match self.errors.len() {
            0..ERRORS_MAX => self.errors.push(place.issue(text.into())),
            ERRORS_MAX => {
                let whole = Place { origin: self.name.into(), line: None };
                self.errors.push(whole.issue("too many errors, the others are not shown".into()));
            }
            _ => {}
        }
    }

    fn warn(&mut self, place: &Place, text: impl Into<String>) {
        let text = text.into();
        // Once for all lines of a list.
        if !self.warnings.iter().any(|issue| issue.text == text) {
            self.warnings.push(place.issue(text));
        }
    }
}

/// What the values are put into; without `secret` and `bind-to` there is an error, and nobody gets to see it.
fn placeholder() -> Config {
    let secret = Secret::new([0xff; KEY_LEN], "invalid").expect("a constant that is a good secret");
    Config::new(secret, SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)))
}

/// Another name of the same key that is set too and counts more.
fn winner<'a>(settings: &'a [Setting], loser: &Setting) -> Option<&'a Setting> {
    if loser.spec.field.is_list() {
        return None;
    }
    let mut is_before = true;
    settings.iter().find(|other| {
        is_before &= other.key != loser.key;
        let is_other_name = other.key != loser.key && keys::target(other.spec).name == keys::target(loser.spec).name;
        is_other_name && !other.is_zero() && (is_before || loser.is_zero())
    })
}

fn unknown(key: &str, section: &str) -> String {
    let tail = key.strip_prefix(section).and_then(|tail| tail.strip_prefix('.')).filter(|_| is_showable_key(key));
    if let Some((tail, place)) = tail.and_then(|tail| Some((tail, suggest::section_of(tail)?))) {
        return match place {
            "" => format!("{tail} stands under [{section}]; write it above the first section"),
            _ => format!("{tail} stands under [{section}]; write it under [{place}]"),
        };
    }
    let shown = if is_showable_key(key) { format!("unknown key {key:?}") } else { "unknown key".into() };
    match suggest::nearest(key) {
        Some(name) => format!("{shown}, did you mean {name:?}?"),
        None => format!("{shown}; 'mtg run --help' lists all keys"),
    }
}

/// What was found and what is allowed. Here alone a value gets into an error.
fn explain(spec: &KeySpec, text: &str, error: ValueError) -> String {
    let shown = if spec.field.is_private() { "this value".into() } else { Shown(text).to_string() };
    let allowed = spec.field.allowed();
    match error {
        ValueError::Invalid => format!("{shown} is not {allowed}"),
        ValueError::Because(why) => format!("{shown} is not {allowed}: {why}"),
        ValueError::Secret(error) => error.to_string(),
        ValueError::Host(error) => format!("{shown} {error}"),
        ValueError::NeedsTls(alternative) => {
            format!("{shown} needs TLS, which this build does not have: take the mtg-tls build, or {alternative}")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECRET: &str = "ee000102030405060708090a0b0c0d0e0f66726f6e742e6578616d706c65";

    /// The texts of warnings (of a good file) or errors, below the two required lines; the first line is 3.
    fn complaints(text: &str) -> Vec<String> {
        let text = format!("secret = {SECRET}\nbind-to = 0.0.0.0:3128\n{text}");
        match from_text(&text, "f") {
            Ok((_, warnings)) => warnings.iter().map(|issue| format!("warning: {issue}")).collect(),
            Err(errors) => errors.iter().map(ToString::to_string).collect(),
        }
    }

    fn config(text: &str) -> Config {
        match from_text(&format!("secret = {SECRET}\nbind-to = 0.0.0.0:3128\n{text}"), "f") {
            Ok((config, _)) => config,
            Err(errors) => panic!("{text}: {errors}"),
        }
    }

    #[test]
    fn each_mistake_is_explained_with_what_was_found_and_what_is_allowed() {
        for (text, error) in [
            ("concurrency = lots", "concurrency: \"lots\" is not a whole number from 1 to 65535"),
            (
                "network.timeout.tcp = 10",
                "network.timeout.tcp: \"10\" is not a duration such as 500ms, 10s or 1h30m: the unit is missing, such as s for seconds or m for minutes",
            ),
            ("fast-mode = 1", "fast-mode: \"1\" is not true or false"),
            ("public-ipv4 = ::1", "public-ipv4: \"::1\" is not an IPv4 address"),
            ("public-ipv6 = 1.2.3.4", "public-ipv6: \"1.2.3.4\" is not an IPv6 address"),
            ("public-host = a b", "public-host: \"a b\" has something else than letters, digits, hyphens and dots"),
            (
                "prefer-ip = [\"only-ipv4\"]",
                "prefer-ip: a list is not prefer-ipv4, prefer-ipv6, only-ipv4 or only-ipv6",
            ),
            (
                "dc-override.0 = 1.2.3.4:443",
                "dc-override.0: \"1.2.3.4:443\" is not ip:port (an IPv6 address in brackets): the number of the DC in the key is not from 1 to 32767",
            ),
            (
                "network.proxies = http://u:p@h",
                "network.proxies: this value is not a URL socks5://[user:password@]host[:port]: only socks5:// is supported",
            ),
            (
                "defense.anti-replay.file = replays",
                "defense.anti-replay.file: \"replays\" is not a file, its path from the root such as /var/lib/mtg/replays",
            ),
            ("bind-to = 1.1.1.1:1", "bind-to is set twice, first in line 2"),
            ("stats.statsd.enabled = true", "stats.statsd.enabled is true, but stats.statsd.address is missing"),
            ("urls", "neither 'key = value' nor '[section]'"),
        ] {
            assert_eq!(complaints(text), [format!("f:3: {error}")]);
        }
        assert_eq!(
            complaints("stats.prometheus.enabled = true\nstats.prometheus.metric-prefix = 1a"),
            [
                "f:4: stats.prometheus.metric-prefix: \"1a\" is not a word of lower-case letters and digits: Prometheus wants a letter first"
            ]
        );
    }

    #[test]
    #[cfg(not(feature = "tls"))]
    fn what_needs_tls_is_refused_with_the_alternative() {
        for (text, error) in [
            (
                "network.dns = tls://dns.google",
                "network.dns: \"tls://dns.google\" needs TLS, which this build does not have: take the mtg-tls build, or use udp://IP",
            ),
            (
                "network.doh-ip = ::1",
                "network.doh-ip: \"::1\" needs TLS, which this build does not have: take the mtg-tls build, or set network.dns to udp://IP",
            ),
            (
                "defense.blocklist.urls = https://a.b/c\ndefense.blocklist.enabled = true",
                "defense.blocklist.urls: \"https://a.b/c\" needs TLS, which this build does not have: take the mtg-tls build, or use a local file",
            ),
            (
                "auto-update = true",
                "auto-update: \"true\" needs TLS, which this build does not have: take the mtg-tls build, or remove the line, the built-in addresses serve",
            ),
            (
                "network.mark = 0xlan",
                "network.mark: \"0xlan\" is not a whole number from 0 to 4294967295, which may be in hex such as 0x64",
            ),
            ("network.client-mss = 87", "network.client-mss: \"87\" is not 0 or a whole number from 88 to 32767"),
        ] {
            assert_eq!(complaints(text), [format!("f:3: {error}")]);
        }
    }

    #[test]
    fn required_keys_are_missed_without_a_line() {
        let errors = from_text("secret =\n", "/etc/mtg.conf").unwrap_err();
        let lines: Vec<_> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(lines[0], "/etc/mtg.conf: secret is missing; make one with 'mtg generate-secret HOST'");
        assert!(lines[1].starts_with("/etc/mtg.conf: bind-to is missing"), "{}", lines[1]);
        assert_eq!(lines.len(), 2);
    }

    #[test]
    fn a_refused_required_key_is_not_missed_as_well() {
        let errors = from_text("secret = [\"x\"]\nbind-to = localhost:1\n", "f").unwrap_err().to_string();
        assert_eq!(errors.lines().count(), 2, "{errors}");
        assert!(errors.starts_with("f:1: secret: a list is not") && !errors.contains("missing"), "{errors}");
    }

    #[test]
    fn unknown_keys_bring_the_nearest_one() {
        for (key, nearest) in [
            ("concurency", "concurrency"),
            ("Log-Level", "log-level"),
            ("bind_to_", "bind-to"),
            ("dns", "network.dns"),
            ("timeout.idle", "network.timeout.idle"),
            ("network.concurrency", "concurrency"),
            ("network.timeouts.tcp", "network.timeout.tcp"),
        ] {
            let [error] = &complaints(&format!("{key} = 1"))[..] else { panic!("{key}") };
            assert!(error.ends_with(&format!(", did you mean {nearest:?}?")), "{error}");
        }
        assert_eq!(complaints("web-ui = on"), ["f:3: unknown key \"web-ui\"; 'mtg run --help' lists all keys"]);
    }

    #[test]
    fn a_key_in_a_wrong_section_is_led_to_the_right_one() {
        for (text, error) in [
            (
                "[stats.prometheus]\npublic-ipv4 = 192.0.2.7",
                "public-ipv4 stands under [stats.prometheus]; write it above the first section",
            ),
            ("[domain-fronting]\ndns = system", "dns stands under [domain-fronting]; write it under [network]"),
            ("[network.timeouts]\ntcp = 5s", "tcp stands under [network.timeouts]; write it under [network.timeout]"),
            (
                "[domain-fronting]\nenabled = true",
                "unknown key \"domain-fronting.enabled\", did you mean \"domain-fronting.host\"?",
            ),
        ] {
            assert_eq!(complaints(text), [format!("f:4: {error}")]);
        }
    }

    #[test]
    fn mistakes_in_what_is_off_are_told_and_keep_nobody_from_starting() {
        for text in [
            "[stats.prometheus]\nbind-to = \"prom:3129\"",
            "[stats.statsd]\nenabled = false\nmetric-prefix = \"bad.prefix\"",
            "[defense.anti-replay]\nenabled = false\nmax-size = \"banana\"",
        ] {
            let [warning] = &complaints(text)[..] else { panic!("{text}") };
            let is_told =
                warning.starts_with("warning: f:") && warning.ends_with("; it has no effect while its section is off");
            assert!(is_told, "{warning}");
        }
        for text in
            ["[stats.prometheus]\nenabled = maybe", "[stats.prometheus]\nenabled = true\nbind-to = \"prom:3129\""]
        {
            let [error] = &complaints(text)[..] else { panic!("{text}") };
            assert!(!error.starts_with("warning"), "{error}");
        }
    }

    #[test]
    fn what_is_off_is_not_judged() {
        let source = "urls = [\"https://lists.example/level1.netset\"]";
        for (text, complaints_with, complaints_without) in [
            (format!("[defense.blocklist]\nenabled = false\n{source}"), 0, 0),
            (format!("[defense.allowlist]\n{source}\nenabled = false"), 0, 0),
            (format!("[defense.blocklist]\n{source}"), 0, 0),
            (format!("[defense.blocklist]\nenabled = true\n{source}"), 0, 1),
            // What has no effect is told of in either build.
            ("[defense.doppelganger]\nurls = [\"https://front.example/\"]".to_owned(), 1, 1),
            ("[defense.doppelganger]\nurls = []".to_owned(), 0, 0),
        ] {
            let expected = if cfg!(feature = "tls") { complaints_with } else { complaints_without };
            assert_eq!(complaints(&text).len(), expected, "{text}: {:?}", complaints(&text));
        }
    }

    #[test]
    #[cfg(feature = "tls")]
    fn a_name_server_that_speaks_http_2_only_is_told_of() {
        for text in ["[network]\ndoh-ip = \"9.9.9.9\"", "[network]\ndns = \"https://149.112.112.112\""] {
            let warnings = complaints(text);
            assert!(warnings.iter().any(|warning| warning.contains("wants HTTP/2")), "{warnings:?}");
        }
        assert_eq!(complaints("network.dns = https://1.1.1.1"), [""; 0]);
    }

    #[test]
    fn the_switch_of_a_section_stands_before_the_rest_of_it() {
        let mut seen = Vec::new();
        for spec in keys::all() {
            let (section, name) = spec.name.rsplit_once('.').unwrap_or(("", spec.name));
            assert!(name != "enabled" || !seen.contains(&section), "{}", spec.name);
            seen.push(section);
        }
    }

    #[test]
    fn tables_of_old_become_addresses_of_data_centres() {
        let text = "[[dc-overrides]]\ndc = 101\nips = [\"127.0.0.1:443\", \"[::1]:443\"]\n[[dc-overrides]]\nips = [\"127.0.0.2:1\"]\ndc = 2";
        let expected = [(101, "127.0.0.1:443"), (101, "[::1]:443"), (2, "127.0.0.2:1")];
        assert_eq!(config(text).dc_override, expected.map(|(dc, address)| (dc, address.parse().unwrap())));
        assert_eq!(complaints(text), [format!("warning: f:5: {}", dc_overrides::ADVICE)]);
        for (text, error) in [
            ("[[dc-overrides]]\ndc = many\nips = []", "f:4: dc is not a whole number from 1 to 32767"),
            ("[[dc-overrides]]\ndc = 1", "f:3: [[dc-overrides]] lacks its dc or its ips"),
            (
                "[[dc-overrides]]\ndc = 1\nips = []\nip = 1",
                "f:6: [[dc-overrides]] has one dc and one ips, and nothing else",
            ),
        ] {
            assert_eq!(complaints(text), [error]);
        }
    }

    #[test]
    fn keys_of_old_versions_are_ignored_or_mean_those_of_today() {
        let [warning] = &complaints("tcp-buffer = \"128kb\"")[..] else { panic!() };
        assert!(warning.starts_with("warning: f:3: tcp-buffer has no effect: "), "{warning}");
        let network = config("[network]\ntcp-not-sent-lowat = \"16kb\"").network;
        assert_eq!(network.notsent_lowat, Some(super::super::ByteSize(16 << 10)));
    }

    #[test]
    fn empty_and_zero_mean_the_default() {
        let zeros = "concurrency = 0\nnetwork.timeout.idle = \"0s\"\nnetwork.timeout.tcp = 0\nnetwork.dns = \"\"\n\
                     domain-fronting.port = 0\nnetwork.proxies = []\nprefer-ip =\ndefense.anti-replay.max-size = 0\n\
                     memory = 0\nthreads = 0\ntolerate-time-skewness = 0\nstats.prometheus.bind-to = ''\n";
        assert_eq!(format!("{:?}", config(zeros)), format!("{:?}", config("")));
        assert_eq!(complaints(zeros), [""; 0]);
    }

    #[test]
    fn values_that_cannot_work_are_refused_with_what_can() {
        for (text, error) in [
            ("tolerate-time-skewness = 500ms", "only whole seconds can be told apart"),
            ("memory = 1KB", "less than 512KB is not enough to run with"),
            ("defense.anti-replay.max-size = 1B", "it is not from 16KB to 256MB"),
            ("defense.anti-replay.max-size = 1TB", "it is not from 16KB to 256MB"),
            ("threads = 65535", "\"65535\" is not a whole number from 1 to 64"),
            ("proxy-protocol-trusted = 10.0.0.0/+8", "the number after the slash is too large or no number"),
            ("dc-override.2 = 127.0.0.1:+80", "the port is not from 1 to 65535"),
            ("concurrency = +5", "\"+5\" is not a whole number from 1 to 65535"),
        ] {
            let [complaint] = &complaints(text)[..] else { panic!("{text}") };
            assert!(complaint.ends_with(error), "{complaint}");
        }
        assert_eq!(config("tolerate-time-skewness = 1m30s\nthreads = 64").tolerate_time_skewness.as_secs(), 90);
    }

    #[test]
    fn zero_is_no_argument() {
        for (key, allowed) in [("concurrency", "from 1 to 65535"), ("domain-fronting.port", "from 1 to 65535")] {
            let required = [("secret", SECRET, "SECRET"), ("bind-to", "0.0.0.0:3128", "BIND"), (key, "0", "-c")];
            let error = Config::from_settings(required).unwrap_err().to_string();
            assert!(error.starts_with("-c: \"0\" is not a") && error.ends_with(allowed), "{error}");
        }
    }

    #[test]
    fn of_thousands_of_unknown_keys_the_nearest_is_sought_for_those_that_are_shown() {
        assert_eq!(complaints(&"defence.blocklist.ulrs = 1\n".repeat(14_000)).len(), ERRORS_MAX + 1);
        assert_eq!(suggest::SEARCHES.get(), ERRORS_MAX);
    }

    #[test]
    fn false_and_our_own_zeros_are_values() {
        let config =
            config("fast-mode = false\ndefense.anti-replay.enabled = false\nhandshakes-per-ip = 0\nshutdown-grace = 0");
        assert!(!config.fast_mode && !config.defense.anti_replay);
        assert_eq!((config.handshakes_per_ip, config.shutdown_grace), (0, Duration::ZERO));
    }

    #[test]
    fn marks_and_segments_may_be_written_in_hex_or_switched_off() {
        let network =
            config("network.mark = 0xfFffFfff\nnetwork.client-mss = 88\nnetwork.notsent-lowat = 16KB").network;
        assert_eq!((network.mark, network.client_mss), (Some(u32::MAX), Some(88)));
        assert_eq!(network.notsent_lowat, Some(super::super::ByteSize(16 << 10)));
        let network = config("network.mark = 0x0\nnetwork.client-mss = 0\nnetwork.notsent-lowat = 0").network;
        assert_eq!((network.mark, network.client_mss), (None, None));
        assert_eq!(network.notsent_lowat, Some(super::super::ByteSize(0)), "no limit is not the default");
        assert_eq!(config("").network.notsent_lowat, None);
        for bad in ["mark = 0x", "mark = 0x+1", "mark = 4294967296", "mark = -1", "client-mss = 32768"] {
            assert_eq!(complaints(&format!("network.{bad}")).len(), 1, "{bad}");
        }
    }

    #[test]
    fn an_empty_element_is_a_direct_connection() {
        let lines =
            "network.proxies = socks5://192.0.2.1\nnetwork.proxies = \"\"\nnetwork.proxies = ''\nnetwork.proxies =\n";
        let proxies = config(lines).network.proxies;
        assert_eq!(proxies.len(), 3, "nothing without quotes is nothing");
        assert_eq!(proxies[1..], [super::super::Upstream::Direct, super::super::Upstream::Direct]);
        assert_eq!(config("network.proxies = [\"\"]").network.proxies, [super::super::Upstream::Direct]);
        assert_eq!(complaints("defense.blocklist.urls = [\"\"]").len(), 1);
    }

    #[test]
    fn lists_grow_with_each_line() {
        let config = config(
            "proxy-protocol-trusted = [\"10.0.0.0/8\"]\nproxy-protocol-trusted = ::1\ndc-override.2 = 1.2.3.4:1\ndc-override.2 = [::1]:2",
        );
        assert_eq!(config.proxy_protocol_trusted.len(), 2);
        assert_eq!(config.dc_override, [(2, "1.2.3.4:1".parse().unwrap()), (2, "[::1]:2".parse().unwrap())]);
    }

    #[test]
    fn old_names_work_and_the_new_ones_win() {
        let old = "domain-fronting-ip = 10.0.0.1\ndomain-fronting-port = 8443\ndomain-fronting-proxy-protocol = true\n";
        let front = config(old).domain_fronting;
        let ip = |text: &str| Some(super::super::Host::Ip(text.parse().unwrap()));
        assert_eq!((front.host, front.port, front.proxy_protocol), (ip("10.0.0.1"), 8443, true));
        assert_eq!(
            complaints("domain-fronting-port = 8443"),
            ["warning: f:3: domain-fronting-port is deprecated, write domain-fronting.port instead"]
        );

        let both = format!("{old}[domain-fronting]\nip = 10.0.0.2\nport = 443\nproxy-protocol = false");
        let front = config(&both).domain_fronting;
        assert_eq!((front.host, front.port, front.proxy_protocol), (ip("10.0.0.2"), 443, true));
        let warnings = complaints(&both);
        assert_eq!(
            warnings[0],
            "warning: f:3: domain-fronting-ip is deprecated and ignored, because domain-fronting.ip is set"
        );

        let silent = config("domain-fronting.ip = 10.0.0.3").domain_fronting;
        assert_eq!((silent.host, complaints("domain-fronting.ip = 10.0.0.3")), (ip("10.0.0.3"), vec![]));
        assert_eq!(complaints("network.doh-ip = 1.1.1.1\nnetwork.dns = system").len(), 1);
    }

    #[test]
    fn debug_wins_over_the_log_level_in_any_order() {
        for text in ["debug = true\nlog-level = warn", "log-level = info\ndebug = true"] {
            assert_eq!((config(text).log_level, complaints(text)), (log::LevelFilter::Debug, vec![]));
        }
        assert_eq!(config("debug = false\nlog-level = INFO").log_level, log::LevelFilter::Info);
    }

    #[test]
    fn what_has_no_effect_yet_is_said_bluntly_unless_it_changes_nothing() {
        for (text, words) in [
            ("defense.allowlist.enabled = true", "so NOBODY may connect"),
            ("defense.anti-replay.error-rate = 0.001", "has no effect: the table"),
        ] {
            let [warning] = &complaints(text)[..] else { panic!("{text}") };
            assert!(warning.starts_with("warning: f:3: ") && warning.contains(words), "{warning}");
        }
        let unchanged =
            "defense.reject = front\nnetwork.dns = system\nstats.statsd.enabled = false\nauto-update = false";
        assert_eq!(complaints(unchanged), [""; 0]);
        let warnings = complaints("defense.blocklist.enabled = true");
        assert!(warnings.iter().any(|warning| warning.contains("without defense.blocklist.urls")), "{warnings:?}");
    }

    #[test]
    fn a_file_full_of_errors_is_cut_short() {
        let errors = complaints(&"nonsense\n".repeat(1000));
        assert_eq!(errors.len(), ERRORS_MAX + 1);
        assert_eq!(errors[ERRORS_MAX], "f: too many errors, the others are not shown");
    }

    #[test]
    fn settings_from_arguments_carry_their_origin() {
        let required = [("secret", SECRET, "SECRET"), ("bind-to", "0.0.0.0:3128", "BIND")];
        let with = |more: &[(&'static str, &'static str, &'static str)]| {
            let all: Vec<_> = required.iter().chain(more).copied().collect();
            Config::from_settings(all)
        };
        let (config, warnings) =
            with(&[("concurrency", "5", "--concurrency"), ("prefer-ip", "", "--prefer-ip")]).unwrap();
        assert!(config.concurrency == 5 && warnings.is_empty());
        for (settings, error) in [
            (
                [("concurrency", "lots", "--concurrency")].as_slice(),
                "--concurrency: \"lots\" is not a whole number from 1 to 65535",
            ),
            (&[("concurrency", "1", "-c"), ("concurrency", "2", "-c")], "-c: given twice"),
            (
                &[("network.proxies", "x", "--socks5-proxy")],
                "--socks5-proxy: this value is not a URL socks5://[user:password@]host[:port]",
            ),
        ] {
            assert_eq!(with(settings).unwrap_err().to_string(), error);
        }
        let missing = Config::from_settings([required[1]]).unwrap_err().to_string();
        assert_eq!(missing, "secret is missing; make one with 'mtg generate-secret HOST'");
    }
}
