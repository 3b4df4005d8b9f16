//! The configuration: what the file says, checked and typed.
//!
//! Parsing makes no system call but reading the file: no name is looked up, no list file is opened.
//! The way of a text: `raw` (lines to statements) → `load` (statements to keys of the table in `keys`) → `field`
//! and `value` (texts to types) → [`Config`]; `checks` looks at what keys mean together.

mod checks;
mod dc_overrides;
mod defense;
mod field;
mod issue;
mod keys;
mod load;
mod manual;
mod network;
mod raw;
mod reload;
mod spec;
mod stats;
pub(crate) mod suggest;
mod uri;
mod value;
mod web;

use std::fs::File;
use std::io::{self, Read};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

pub(crate) use self::checks::WITHOUT_WEB;
pub use self::defense::{Cidr, Defense, Doppelganger, IpListSource, ListUrl, Reject};
pub use self::issue::{ConfigErrors, Issue, Warnings};
pub use self::manual::{markdown, other_names, reference, sample};
pub use self::network::{Dns, DomainFronting, KeepAlive, Network, PreferIp, Socks5, Timeouts, Upstream};
pub use self::stats::{Prometheus, Stats, Statsd, TagFormat};
pub use self::web::{Carrier, Web};
pub use crate::proto::host::{AddressError, Host};
use crate::proto::secret::Secret;
pub use crate::proto::url::{Url, UrlError};

/// The largest file that is read, bytes: a wrong path must not fill the memory of a router.
const FILE_MAX: u64 = 256 << 10;

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
    /// `handshakes-per-ip`: undecided connections of one address; 0 = no limit.
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
    /// `log-time`: whether lines of the log have the time in front; none = where nobody else adds it.
    pub log_time: Option<bool>,
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
    /// `web.*`.
    pub web: Web,
}

impl Config {
    /// A configuration with all defaults.
    pub fn new(secret: Secret, bind_to: SocketAddr) -> Self {
        Self {
            secret,
            bind_to,
            concurrency: 8192,
            handshakes_per_ip: 256,
            prefer_ip: PreferIp::PreferIpv6,
            tolerate_time_skewness: Duration::from_secs(120),
            allow_fallback_on_unknown_dc: false,
            auto_update: false,
            fast_mode: true,
            log_level: log::LevelFilter::Warn,
            log_time: None,
            memory: None,
            threads: None,
            shutdown_grace: Duration::from_secs(5),
            public_host: None,
            public_ipv4: None,
            public_ipv6: None,
            proxy_protocol_listener: false,
            proxy_protocol_trusted: Vec::new(),
            dc_override: Vec::new(),
            domain_fronting: DomainFronting::default(),
            network: Network::default(),
            defense: Defense::default(),
            stats: Stats::default(),
            web: Web::default(),
        }
    }

    /// The host of the WEB proxy's site: that of the secret unless it is set.
    pub(crate) fn web_host(&self) -> &str {
        self.web.host.as_deref().unwrap_or(self.secret.host())
    }

    /// Where strangers go, for people to read: host and port.
    pub(crate) fn front(&self) -> String {
        let DomainFronting { host, port, .. } = &self.domain_fronting;
        match host {
            None => format!("{}:{port}", self.secret.host()),
            Some(Host::Name(name)) => format!("{name}:{port}"),
            Some(Host::Ip(ip)) => SocketAddr::new(*ip, *port).to_string(),
        }
    }

    /// Reads a file: `key = value` lines, or mtg v2's `config.toml`.
    ///
    /// # Errors
    /// Everything that is wrong with the file, each with its line; or that it cannot be read.
    pub fn load(path: &Path) -> Result<(Self, Warnings), ConfigErrors> {
        let name = path.display().to_string();
        let bytes = match read_file(path) {
            Ok(bytes) => bytes,
            Err(error) => return Err(ConfigErrors::unreadable(name, &error)),
        };
        match std::str::from_utf8(&bytes) {
            Ok(text) => Self::parse(text, &name),
            Err(error) => {
                let good = bytes.get(..error.valid_up_to()).unwrap_or_default().iter();
                let line = good.filter(|&&byte| byte == b'\n').fold(1, |line: u32, _| line.saturating_add(1));
                let text = "not a text in UTF-8".to_owned();
                Err(ConfigErrors::new(vec![Issue { origin: name, line: Some(line), text }]))
            }
        }
    }

    /// Reads the text of a file; `name` is what errors call it.
    ///
    /// ```
    /// let text = "secret = ee000102030405060708090a0b0c0d0e0f66726f6e742e6578616d706c65\nbind-to = [::]:3128\n";
    /// let (config, warnings) = mtg::config::Config::parse(text, "mtg.conf").unwrap();
    /// assert_eq!(config.secret.host(), "front.example");
    /// assert!(warnings.is_empty());
    /// ```
    ///
    /// # Errors
    /// Everything that is wrong with the text, each with its line.
    pub fn parse(text: &str, name: &str) -> Result<(Self, Warnings), ConfigErrors> {
        load::from_text(text, name)
    }

    /// Takes settings that are not in a file, such as arguments: key, value, and where it was given. Errors start
    /// with the last: `--concurrency: …`.
    ///
    /// # Errors
    /// Everything that is wrong with the settings.
    pub fn from_settings<'a>(
        settings: impl IntoIterator<Item = (&'a str, &'a str, &'a str)>,
    ) -> Result<(Self, Warnings), ConfigErrors> {
        load::from_settings(&mut settings.into_iter())
    }
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let size = File::open(path)?.take(FILE_MAX + 1).read_to_end(&mut bytes)?;
    let is_too_large = u64::try_from(size).is_ok_and(|size| size > FILE_MAX);
    if is_too_large { Err(io::Error::other("larger than 256 KiB")) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "ee000102030405060708090a0b0c0d0e0f66726f6e742e6578616d706c65";
    const MTG_FILE: &str = include_str!("../../tests/data/mtg-v2-example.toml");
    const MTG_FILE_WITH_TLS: &str = include_str!("../../tests/data/mtg-v2-example-https.toml");

    /// A good deal less random than needed for anything else.
    struct Xorshift(u64);

    impl Xorshift {
        fn below(&mut self, limit: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            usize::try_from(self.0 >> 33).unwrap() % limit
        }
    }

    #[test]
    fn defaults_are_those_of_the_contract() {
        let config = Config::new(SECRET.parse().unwrap(), "0.0.0.0:3128".parse().unwrap());
        let timeout = config.network.timeout;
        assert_eq!([timeout.tcp, timeout.http, timeout.handshake, timeout.idle].map(|t| t.as_secs()), [5, 10, 10, 300]);
        assert_eq!((config.concurrency, config.handshakes_per_ip), (8192, 256));
        assert_eq!((config.tolerate_time_skewness.as_secs(), config.shutdown_grace.as_secs()), (120, 5));
        assert!(config.fast_mode && config.defense.anti_replay);
        assert_eq!(config.log_level, log::LevelFilter::Warn);
        assert_eq!(config.stats.prometheus.bind_to.to_string(), "127.0.0.1:3129");
    }

    #[test]
    fn files_of_the_first_mtg_v2_load_unchanged() {
        for (text, overrides, old) in [
            (include_str!("../../tests/data/mtg-v2.0-example.toml"), 0, "tcp-buffer has no effect"),
            (include_str!("../../tests/data/mtg-v2.1-example.toml"), 3, "[[dc-overrides]] is deprecated"),
        ] {
            let (config, warnings) = Config::parse(text, "config.toml").unwrap();
            assert_eq!(config.secret, SECRET.parse().unwrap());
            assert_eq!((config.concurrency, config.tolerate_time_skewness.as_secs()), (8192, 5));
            assert_eq!((config.dc_override.len(), config.defense.blocklist.urls.len()), (overrides, 1));
            assert!(warnings.iter().any(|warning| warning.text().starts_with(old)), "{warnings}");
        }
    }

    #[test]
    fn a_file_of_mtg_v2_loads_unchanged() {
        let (config, warnings) = Config::parse(MTG_FILE, "config.toml").unwrap();
        assert_eq!(config.secret, SECRET.parse().unwrap());
        assert_eq!((config.concurrency, config.log_level), (8192, log::LevelFilter::Debug));
        assert_eq!(config.domain_fronting.host, Some(Host::Ip("10.0.0.10".parse().unwrap())));
        assert_eq!((config.domain_fronting.port, config.network.timeout.idle.as_secs()), (8443, 60));
        assert_eq!(config.network.dns, Dns::Udp("9.9.9.9:53".parse().unwrap()));
        let [Upstream::Socks5(first), Upstream::Socks5(second), Upstream::Direct] = &config.network.proxies[..] else {
            panic!("{:?}", config.network.proxies)
        };
        assert_eq!(first.credentials, Some(("proxy".into(), "p@ss".into())));
        assert_eq!((&second.host, second.port), (&Host::Ip("2001:db8::20".parse().unwrap()), 1080));
        assert_eq!(config.defense.blocklist.urls, [ListUrl::File("/etc/mtg/blocklist.netset".into())]);
        assert!(config.defense.blocklist.enabled && config.stats.prometheus.enabled);
        assert!(warnings.iter().any(|warning| warning.text().starts_with("domain-fronting-port is deprecated")));
        assert!(warnings.iter().map(Issue::line).is_sorted());
    }

    #[test]
    #[cfg(feature = "tls")]
    fn a_file_of_mtg_v2_that_needs_tls_loads_unchanged() {
        let (config, _) = Config::parse(MTG_FILE_WITH_TLS, "config.toml").unwrap();
        assert_eq!(config.network.dns, Dns::Https("https://1.1.1.1/dns-query".parse().unwrap()));
    }

    #[test]
    #[cfg(not(feature = "tls"))]
    fn of_a_file_of_mtg_v2_only_what_needs_tls_is_refused() {
        let errors = Config::parse(MTG_FILE_WITH_TLS, "config.toml").unwrap_err();
        let lines: Vec<_> = errors.iter().map(|issue| issue.line().unwrap()).collect();
        let with_tls = (1u32..).zip(MTG_FILE_WITH_TLS.lines()).filter(|(_, line)| line.contains("https://"));
        // The pages of doppelganger stand last, and without doppelganger.enabled nobody fetches them.
        let mut with_tls: Vec<_> = with_tls.map(|(number, _)| number).collect();
        with_tls.pop();
        assert_eq!(lines, with_tls);
        assert_eq!(lines.len(), 2);
        assert!(errors.iter().all(|issue| issue.text().contains("mtg-tls")), "{errors}");
    }

    #[test]
    fn five_mistakes_are_five_errors_with_their_lines() {
        let text = "bind-to = 0.0.0.0:3128\nconcurrency = lots\n\nnonsense\n[network]\ndsn = system\n\
                    timeout.tcp = 5s\ntimeout.tcp = 6s\n";
        let errors = Config::parse(text, "/etc/mtg.conf").unwrap_err();
        assert_eq!(errors.iter().map(Issue::line).collect::<Vec<_>>(), [Some(2), Some(4), Some(6), Some(8), None]);
        let shown = errors.to_string();
        assert_eq!(shown.lines().count(), 5);
        assert!(shown.starts_with("/etc/mtg.conf:2: concurrency: \"lots\" is not a whole number from 1 to 65535\n"));
        assert!(shown.contains("\n/etc/mtg.conf:8: network.timeout.tcp is set twice, first in line 7\n"), "{shown}");
    }

    #[test]
    fn no_error_and_no_warning_shows_a_secret_or_a_password() {
        let base64 = "7gABAgMEBQYHCAkKCwwNDg9mcm9udC5leGFtcGxl";
        let wrong_secrets = [
            SECRET.replacen("ee", "dd", 1),
            SECRET.replacen("ee", "", 1),
            format!("{SECRET}zz"),
            format!("{base64}==="),
        ];
        let proxies =
            ["socks5://user:hunter2@", "socks5://user:hunter2@h:0", "socks5://user:hunter2", "http://user:hunter2@h"];
        let mut values: Vec<String> = [SECRET.to_owned(), base64.into()].into_iter().chain(wrong_secrets).collect();
        values.extend(proxies.map(String::from));
        values.push("user:hunter2@h".into());
        let names: Vec<String> = sample()
            .lines()
            .filter_map(|line| line.split_once(" ="))
            .map(|(name, _)| name.trim_start_matches('#').into())
            .collect();
        assert!(names.len() > 50);
        let mut complaints = 0;
        for value in &values {
            let mut texts = vec![
                value.clone(),
                format!("{value} = 1"),
                format!("{value}="),
                format!("[{value}]\na = 1"),
                format!("a = {value}"),
            ];
            for name in &names {
                texts.push(format!("{name} = {value}"));
                texts.push(format!("{name} = \"{value}\" x"));
                texts.push(format!("{name} = [\"{value}\", {value}"));
                texts.push(format!("{name} = [\"{value}\"]"));
                texts.push(format!("{name}{value}"));
                texts.push(format!("{name}: {value} = 1"));
            }
            for text in texts {
                let shown = match Config::parse(&text, "f") {
                    Ok((_, warnings)) => format!("{warnings} {warnings:?}"),
                    Err(errors) => format!("{errors} {errors:?}"),
                };
                complaints += shown.lines().count();
                for private in ["hunter2", "0102030405", "CAkKCwwN"] {
                    assert!(!shown.contains(private), "{text}\n{shown}");
                }
            }
        }
        assert!(complaints > 1000);
    }

    #[test]
    fn nothing_in_a_file_makes_the_parser_panic() {
        let mut random = Xorshift(0x6d74_6720_7632_2121);
        let pieces: Vec<&str> =
            vec!["\"", "'", "[", "]", "=", "#", "\n", "\\", "\\u12", ",", "0", "é", "99999999999999999999", "."];
        let (mut good, mut bad) = (0, 0);
        for _ in 0..4000 {
            let mut chars: Vec<char> = MTG_FILE.chars().collect();
            for _ in 0..=random.below(4) {
                let at = random.below(chars.len());
                let end = (at + random.below(6)).min(chars.len());
                let piece = pieces[random.below(pieces.len())];
                chars.splice(at..end, piece.chars());
            }
            let text: String = chars.into_iter().collect();
            match Config::parse(&text, "f") {
                Ok(_) => good += 1,
                Err(errors) => bad += usize::from(errors.iter().count() > 0),
            }
        }
        assert!(good > 100 && bad > 1000 && good + bad == 4000, "{good} {bad}");
        for _ in 0..2000 {
            let bytes: Vec<u8> = (0..random.below(300)).map(|_| u8::try_from(random.below(256)).unwrap()).collect();
            assert!(Config::parse(&String::from_utf8_lossy(&bytes), "f").is_err());
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_is_told_from_a_bad_one() {
        let errors = Config::load(Path::new("/nonexistent/mtg.conf")).unwrap_err();
        assert!(errors.is_unreadable());
        assert!(errors.to_string().starts_with("/nonexistent/mtg.conf: cannot be read: "), "{errors}");
        assert!(Config::load(Path::new("/")).unwrap_err().is_unreadable());

        let path = std::env::temp_dir().join(format!("mtg-config-test-{}", std::process::id()));
        std::fs::write(&path, b"# \n# \xff\n").unwrap();
        let errors = Config::load(&path).unwrap_err();
        std::fs::remove_file(&path).unwrap();
        assert!(!errors.is_unreadable());
        assert!(errors.to_string().ends_with(":2: not a text in UTF-8"), "{errors}");
    }
}
