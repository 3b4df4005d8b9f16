//! `mtg simple-run`: the proxy without a file; flags become settings.

use std::io::{self, BufRead as _, IsTerminal as _, Read as _};
use std::net::IpAddr;
use std::str::FromStr;

use super::access::{self, Servers};
use super::args::{Command, Flag, Words};
use super::link::Link;
use super::{Failure, check_threads, note, print, secret};
use crate::config::{Config, ConfigErrors};
use crate::daemon;
use crate::log as logging;
use crate::net::public_ip;
use crate::proto::secret::Secret;

pub(crate) static COMMAND: Command = Command {
    name: "simple-run",
    arguments: &["BIND", "[SECRET_OR_HOST]"],
    about: "run the proxy without a configuration file",
    flags: &[
        &DEBUG,
        &CONCURRENCY,
        &TCP_BUFFER,
        &PREFER_IP,
        &FRONTING_PORT,
        &FRONTING_IP,
        &FRONTING_HOST,
        &PROXY_PROTOCOL,
        &DOH_IP,
        &TIMEOUT,
        &SOCKS5,
        &ANTI_REPLAY,
        &SET,
    ],
    notes,
    act,
};

static DEBUG: Flag = Flag { short: "-d", long: "--debug", value: "", about: "log everything" };
static CONCURRENCY: Flag =
    Flag { short: "-c", long: "--concurrency", value: "N", about: "connections at the same time (8192)" };
static TCP_BUFFER: Flag = Flag { short: "-b", long: "--tcp-buffer", value: "SIZE", about: "accepted and ignored" };
static PREFER_IP: Flag =
    Flag { short: "-i", long: "--prefer-ip", value: "MODE", about: "prefer-ipv4, prefer-ipv6, only-ipv4 or only-ipv6" };
static FRONTING_PORT: Flag = Flag {
    short: "-p",
    long: "--domain-fronting-port",
    value: "N",
    about: "port of the web site for everybody else (443)",
};
static FRONTING_IP: Flag =
    Flag { short: "", long: "--domain-fronting-ip", value: "IP", about: "address of that web site" };
static FRONTING_HOST: Flag = Flag {
    short: "",
    long: "--domain-fronting-host",
    value: "HOST",
    about: "name or address of that web site, if it is not the secret's",
};
static PROXY_PROTOCOL: Flag = Flag {
    short: "",
    long: "--proxy-protocol-listener",
    value: "",
    about: "clients come through a load balancer that sends a PROXY header",
};
static DOH_IP: Flag =
    Flag { short: "-n", long: "--doh-ip", value: "IP", about: "ask this DNS-over-HTTPS server, not the system" };
static TIMEOUT: Flag =
    Flag { short: "-t", long: "--timeout", value: "TIME", about: "limit for connecting and for HTTP requests" };
static SOCKS5: Flag = Flag {
    short: "-s",
    long: "--socks5-proxy",
    value: "URL",
    about: "reach Telegram through it; repeatable, or with commas",
};
static ANTI_REPLAY: Flag =
    Flag { short: "-a", long: "--antireplay-cache-size", value: "SIZE", about: "memory against replays" };
static SET: Flag =
    Flag { short: "", long: "--set", value: "KEY=VALUE", about: "any key of the configuration; repeatable" };

/// Flags whose value is the value of keys.
const SAME_VALUE: [(&Flag, &[&str]); 5] = [
    (&CONCURRENCY, &["concurrency"]),
    (&PREFER_IP, &["prefer-ip"]),
    (&FRONTING_PORT, &["domain-fronting.port"]),
    // Not network.timeout.idle, which mtg v2 shortened as well: phones that sleep would stall.
    (&TIMEOUT, &["network.timeout.tcp", "network.timeout.http"]),
    (&ANTI_REPLAY, &["defense.anti-replay.max-size"]),
];

/// Key, value and where it comes from.
type Setting = (String, String, String);

struct SimpleRun {
    settings: Vec<Setting>,
    /// The secret, if it was made here.
    fresh: Option<Secret>,
    ignores_tcp_buffer: bool,
}

fn act(words: Words) -> Result<(), Failure> {
    check_threads()?;
    let SimpleRun { settings, fresh, ignores_tcp_buffer } = parse(words)?;
    let settings = settings.iter().map(|(key, value, origin)| (key.as_str(), value.as_str(), origin.as_str()));
    let (config, warnings) = Config::from_settings(settings).map_err(misused)?;
    logging::init(config.log_level, config.log_time);
    if ignores_tcp_buffer {
        log::warn!("--tcp-buffer has no effect");
    }
    for warning in warnings.iter() {
        log::warn!("{warning}");
    }
    if let Some(secret) = fresh {
        let servers = servers(&config);
        if servers.is_empty() {
            note("no public address is known; put it in the place of ADDRESS");
        }
        print(&links(&servers, config.bind_to.port(), &secret))?;
        if io::stdout().is_terminal() && !servers.is_empty() {
            print(&access::drawings(&servers, config.bind_to.port(), &secret.to_base64()))?;
        }
    }
    daemon::run(config, None, None).map_err(|error| Failure::Work(error.to_string()))
}

/// There is no file: what is wrong stands on the command line.
fn misused(errors: ConfigErrors) -> Failure {
    Failure::Usage(errors.iter().map(|error| error.to_string()).collect())
}

fn parse(mut words: Words) -> Result<SimpleRun, Failure> {
    let mut settings = Vec::new();
    for text in words.texts(&SET)? {
        let (key, value) = text.split_once('=').ok_or_else(|| words.fail("--set needs KEY=VALUE"))?;
        settings.push((key.trim().to_owned(), value.trim().to_owned(), SET.long.to_owned()));
    }
    for (flag, keys) in SAME_VALUE {
        if let Some(value) = words.text(flag)? {
            settings.extend(keys.iter().map(|&key| setting(key, &value, flag.long)));
        }
    }
    // In mtg v2 an empty address is the default of this flag.
    let fronting_ip = words.text(&FRONTING_IP)?.filter(|text| !text.is_empty());
    if let Some(ip) = fronting_ip {
        let ip = parse_ip(&words, &FRONTING_IP, &ip)?;
        settings.push(setting("domain-fronting.host", &ip.to_string(), FRONTING_IP.long));
    }
    if let Some(host) = words.text(&FRONTING_HOST)? {
        settings.push(setting("domain-fronting.host", &host, FRONTING_HOST.long));
    }
    if let Some(ip) = words.text(&DOH_IP)? {
        let server = match parse_ip(&words, &DOH_IP, &ip)? {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        };
        if !cfg!(feature = "tls") {
            return Err(words.fail(format_args!(
                "{} asks over HTTPS, which this build cannot: take the mtg-tls build, or ask over UDP: mtg simple-run --set network.dns=udp://{server} BIND SECRET, with your other flags",
                DOH_IP.long
            )));
        }
        settings.push(setting("network.dns", &format!("https://{server}"), DOH_IP.long));
    }
    for urls in words.texts(&SOCKS5)? {
        settings.extend(urls.split(',').map(|url| setting("network.proxies", url.trim(), SOCKS5.long)));
    }
    let ignores_tcp_buffer = words.text(&TCP_BUFFER)?.is_some();
    if words.switch(&DEBUG) {
        settings.push(setting("log-level", "debug", DEBUG.long));
    }
    if words.switch(&PROXY_PROTOCOL) {
        settings.push(setting("proxy-protocol-listener", "true", PROXY_PROTOCOL.long));
    }
    if !settings.iter().any(|(key, ..)| key == "allow-fallback-on-unknown-dc") {
        settings.push(setting("allow-fallback-on-unknown-dc", "true", COMMAND.name));
    }
    let [bind_to, secret] = words.positionals()?;
    let (secret, fresh) = secret_or_host(&given_secret(secret)?)?;
    settings.push(setting("bind-to", &bind_to.unwrap_or_default(), "BIND"));
    settings.push(setting("secret", &secret.to_hex(), "SECRET"));
    Ok(SimpleRun { settings, fresh: fresh.then_some(secret), ignores_tcp_buffer })
}

fn setting(key: &str, value: &str, origin: &str) -> Setting {
    (key.to_owned(), value.to_owned(), origin.to_owned())
}

fn parse_ip(words: &Words, flag: &Flag, text: &str) -> Result<IpAddr, Failure> {
    text.parse().map_err(|_| words.fail(format_args!("{}: {text:?} is not an IP address", flag.long)))
}

/// Where a secret is looked for that is not on the command line, which every user of the machine can see.
const VARIABLE: &str = "MTG_SECRET";
/// Bytes of the line with the secret on stdin.
const LINE_MAX: u64 = 4096;

/// What the owner gave as secret: an argument, a line of stdin in the place of `-`, or a variable of the environment.
fn given_secret(argument: Option<String>) -> Result<String, Failure> {
    let text = match argument.as_deref() {
        Some("-") => {
            let mut line = String::new();
            let read = io::stdin().lock().take(LINE_MAX).read_line(&mut line);
            read.map_err(|error| Failure::Work(format!("cannot read the secret from stdin: {error}")))?;
            line
        }
        Some(text) => return Ok(text.to_owned()),
        None => std::env::var(VARIABLE).map_err(|_| {
            Failure::usage(format!(
                "{} takes a secret: as the second argument, as a line of stdin with - in its place, or in the variable {VARIABLE}",
                COMMAND.name
            ))
        })?,
    };
    Ok(text.trim().to_owned())
}

/// The secret, and whether it was made here. A dot tells a host name: no form of a secret has one.
fn secret_or_host(text: &str) -> Result<(Secret, bool), Failure> {
    if text.contains('.') {
        return Ok((secret::fresh(text)?, true));
    }
    let secret = Secret::from_str(text).map_err(|error| Failure::usage(error.to_string()))?;
    Ok((secret, false))
}

fn servers(config: &Config) -> Servers {
    match config.bind_to.ip() {
        ip if ip.is_unspecified() => Servers::new(None, None, config, |config| public_ip::own_global(config.bind_to)),
        IpAddr::V4(ip) => Servers { ipv4: Some(ip.to_string()), ipv6: None },
        IpAddr::V6(ip) => Servers { ipv4: None, ipv6: Some(ip.to_string()) },
    }
}

fn links(servers: &Servers, port: u16, secret: &Secret) -> String {
    let text = secret.to_base64();
    let unknown = servers.is_empty().then_some("ADDRESS");
    let known = [&servers.ipv4, &servers.ipv6].into_iter().flatten().map(String::as_str);
    known
        .chain(unknown)
        .map(|server| Link { server, port, secret: &text })
        .map(|link| format!("{}\n{}\n", link.tg(), link.tme()))
        .collect()
}

fn notes() -> String {
    "BIND is the address and port to listen on, such as 0.0.0.0:443. With a host name in place of the\n\
     secret, a new secret is made for this run, and the links with it are printed. A secret on the\n\
     command line can be seen by every user of the machine: write - in its place and put it into\n\
     stdin, or leave it out and put it into the variable MTG_SECRET.\n\
     Unknown DCs are served by DC 2. What no flag sets has the default of the configuration: see\n\
     'mtg run --help'. Example of --set: --set dc-override.2=127.0.0.1:9000"
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "ee000102030405060708090a0b0c0d0e0f66726f6e742e6578616d706c65";

    fn parsed(flags: &[&str]) -> Result<SimpleRun, Failure> {
        let words = flags.iter().copied().chain(["0.0.0.0:443", SECRET]).map(str::to_owned).collect();
        parse(Words::new(&COMMAND, words))
    }

    /// Without those that are always there, which come last.
    fn settings(flags: &[&str]) -> Vec<String> {
        let mut all: Vec<_> = parsed(flags)
            .unwrap()
            .settings
            .into_iter()
            .map(|(key, value, from)| format!("{key}={value} {from}"))
            .collect();
        let fixed = all.split_off(all.len() - 3);
        assert_eq!(fixed[0], "allow-fallback-on-unknown-dc=true simple-run");
        assert_eq!(fixed[1..], ["bind-to=0.0.0.0:443 BIND".to_owned(), format!("secret={SECRET} SECRET")]);
        all
    }

    #[test]
    fn each_flag_becomes_its_setting() {
        for (flags, expected) in [
            (&[][..], &[][..]),
            (&["-d"], &["log-level=debug --debug"]),
            (&["-c", "7"], &["concurrency=7 --concurrency"]),
            (&["-i", "only-ipv4"], &["prefer-ip=only-ipv4 --prefer-ip"]),
            (&["-p", "8443"], &["domain-fronting.port=8443 --domain-fronting-port"]),
            (&["--domain-fronting-ip", "192.0.2.1"], &["domain-fronting.host=192.0.2.1 --domain-fronting-ip"]),
            (&["--domain-fronting-ip", ""], &[]),
            (&["-di", "only-ipv4"], &["prefer-ip=only-ipv4 --prefer-ip", "log-level=debug --debug"]),
            (&["-ionly-ipv6"], &["prefer-ip=only-ipv6 --prefer-ip"]),
            (&["-i=only-ipv6"], &["prefer-ip=only-ipv6 --prefer-ip"]),
            (&["--domain-fronting-host", "a.example"], &["domain-fronting.host=a.example --domain-fronting-host"]),
            (&["--proxy-protocol-listener"], &["proxy-protocol-listener=true --proxy-protocol-listener"]),
            (&["-t", "3s"], &["network.timeout.tcp=3s --timeout", "network.timeout.http=3s --timeout"]),
            (&["-a", "2MB"], &["defense.anti-replay.max-size=2MB --antireplay-cache-size"]),
            (&["--set", "dc-override.2=127.0.0.1:9000"], &["dc-override.2=127.0.0.1:9000 --set"]),
            (&["--set=public-host = a=b"], &["public-host=a=b --set"]),
        ] {
            assert_eq!(settings(flags), expected, "{flags:?}");
        }
    }

    #[test]
    fn dns_over_https_is_asked_for_or_answered_with_what_this_build_can() {
        for (ip, server) in [("1.1.1.1", "1.1.1.1"), ("2606:4700::1111", "[2606:4700::1111]")] {
            let flags = ["-n", ip];
            if cfg!(feature = "tls") {
                assert_eq!(settings(&flags), [format!("network.dns=https://{server} --doh-ip")]);
                continue;
            }
            let Err(Failure::Usage(lines)) = parsed(&flags) else { panic!("{ip}") };
            let command = lines[0].split_once("or ask over UDP: mtg simple-run ").unwrap().1;
            let (works, rest) = command.split_once(" BIND").unwrap();
            assert_eq!(rest, " SECRET, with your other flags");
            assert_eq!(works, format!("--set network.dns=udp://{server}"));
            assert_eq!(settings(&works.split(' ').collect::<Vec<_>>()), [format!("network.dns=udp://{server} --set")]);
        }
    }

    #[test]
    fn proxies_are_split_at_commas_and_repeatable() {
        let expected =
            ["socks5://a:1", "socks5://b:2", "socks5://c:3"].map(|url| format!("network.proxies={url} --socks5-proxy"));
        assert_eq!(settings(&["-s", "socks5://a:1,socks5://b:2", "--socks5-proxy", "socks5://c:3"]), expected);
    }

    #[test]
    fn the_buffer_size_is_only_remarked() {
        assert!(parsed(&["-b", "64KB"]).unwrap().ignores_tcp_buffer);
        assert!(settings(&["-b", "64KB"]).is_empty());
    }

    #[test]
    fn the_fallback_can_be_set_to_off() {
        let run = parsed(&["--set", "allow-fallback-on-unknown-dc=false"]).unwrap();
        let values: Vec<_> = run.settings.iter().filter(|(key, ..)| key.starts_with("allow-")).collect();
        assert_eq!(values, [&setting("allow-fallback-on-unknown-dc", "false", "--set")]);
    }

    #[test]
    fn a_host_name_makes_a_secret_and_a_broken_secret_does_not() {
        assert!(matches!(secret_or_host("example.com"), Ok((secret, true)) if secret.host() == "example.com"));
        assert!(matches!(secret_or_host(SECRET), Ok((_, false))));
        for text in ["", "ee0102", "dd000102030405060708090a0b0c0d0e0f", "localhost", "1.2.3.4", "::1", "a..b"] {
            let Err(Failure::Usage(lines)) = secret_or_host(text) else { panic!("{text}") };
            assert!(text.is_empty() || !lines[0].contains(text), "{lines:?}");
        }
    }

    #[test]
    fn addresses_in_flags_are_checked() {
        for flags in [["-n", "dns.example"], ["--domain-fronting-ip", "example.com"]] {
            assert!(matches!(parsed(&flags), Err(Failure::Usage(_))), "{flags:?}");
        }
        assert!(matches!(parsed(&["--set", "debug"]), Err(Failure::Usage(_))));
    }

    #[test]
    fn links_name_the_address_that_is_listened_on() {
        let secret: Secret = SECRET.parse().unwrap();
        let config = Config::new(secret.clone(), "[2001:db8::1]:443".parse().unwrap());
        let query = "proxy?port=443&secret=7gABAgMEBQYHCAkKCwwNDg9mcm9udC5leGFtcGxl&server=2001%3Adb8%3A%3A1";
        assert_eq!(links(&servers(&config), 443, &secret), format!("tg://{query}\nhttps://t.me/{query}\n"));
        assert!(links(&Servers::default(), 443, &secret).contains("&server=ADDRESS\n"));
    }
}
