//! `mtg access`: the links as JSON, keys and order as in mtg v2.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;

use super::args::{Command, Flag, Words};
use super::json::Json;
use super::link::Link;
use super::{Failure, address, check_threads, config_path, note, print, qr};
use crate::config::Config;
use crate::net::public_ip::Ips;
use crate::proto::secret::Secret;
use crate::proto::web::site;
use crate::proxy::upkeep::names;

pub(crate) static COMMAND: Command = Command {
    name: "access",
    arguments: &["[CONFIG]"],
    about: "print the links for Telegram clients as JSON",
    flags: &[&IPV4, &IPV6, &PORT, &HEX, &QR, &JSON],
    notes,
    act,
};

static IPV4: Flag = Flag { short: "-i", long: "--ipv4", value: "IP", about: "the IPv4 address to put into links" };
static IPV6: Flag = Flag { short: "-I", long: "--ipv6", value: "IP", about: "the IPv6 address to put into links" };
static PORT: Flag = Flag { short: "-p", long: "--port", value: "N", about: "the port to put into links" };
static HEX: Flag = Flag { short: "-x", long: "--hex", value: "", about: "secrets of links in hex, not in base64url" };
static QR: Flag = Flag { short: "", long: "--qr", value: "", about: "draw QR codes for a terminal, not JSON" };

static JSON: Flag = Flag { short: "", long: "--json", value: "", about: "JSON, as without it" };

/// What goes into links as the server.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Servers {
    /// An IPv4 address or a host name.
    pub(crate) ipv4: Option<String>,
    /// An IPv6 address.
    pub(crate) ipv6: Option<String>,
}

impl Servers {
    /// What the user said wins, then the configuration, then what `found` says: it is asked only if needed.
    pub(crate) fn new(
        ipv4: Option<Ipv4Addr>,
        ipv6: Option<Ipv6Addr>,
        config: &Config,
        found: impl FnOnce(&Config) -> Ips,
    ) -> Self {
        let host = config.public_host.clone().filter(|_| ipv4.is_none() && ipv6.is_none());
        let ipv6 = ipv6.or(config.public_ipv6);
        if let Some(host) = host {
            return Self { ipv4: Some(host), ipv6: ipv6.map(|ip| ip.to_string()) };
        }
        let ipv4 = ipv4.or(config.public_ipv4);
        let found = if ipv4.is_some() && ipv6.is_some() { Ips::default() } else { found(config) };
        Self { ipv4: ipv4.or(found.v4).map(|ip| ip.to_string()), ipv6: ipv6.or(found.v6).map(|ip| ip.to_string()) }
    }

    /// No link can be made.
    pub(crate) fn is_empty(&self) -> bool {
        self.ipv4.is_none() && self.ipv6.is_none()
    }
}

fn act(mut words: Words) -> Result<(), Failure> {
    let ipv4 = words.value(&IPV4, "an IPv4 address")?;
    let ipv6 = words.value(&IPV6, "an IPv6 address")?;
    let port: Option<NonZeroU16> = words.value(&PORT, "a port from 1 to 65535")?;
    let hex = words.switch(&HEX);
    let draws = words.switch(&QR);
    // What is printed without it, too: who has asked 'status' and 'doctor' for JSON asks for it here.
    words.switch(&JSON);
    let [config] = words.positionals()?;
    check_threads()?;
    let (config, _) = Config::load(&config_path(config))?;
    let servers = Servers::new(ipv4, ipv6, &config, look_up);
    let port = port.map_or(config.bind_to.port(), NonZeroU16::get);
    let secret = if hex { config.secret.to_hex() } else { config.secret.to_base64() };
    let web = config.web.bind_to.map(|_| web_link(&config));
    if draws {
        let web = web.as_ref().map(|link| drawing(&link.tg())).unwrap_or_default();
        print(&(drawings(&servers, port, &secret) + &web))?;
    } else {
        print(&document(&servers, port, (&config.secret, &secret), web.as_ref()))?;
    }
    if servers.is_empty() && web.is_none() {
        return Err(Failure::Work(
            "no public address is known, so there is no link: set public-host, public-ipv4 or public-ipv6, or give one with --ipv4 or --ipv6"
                .to_owned(),
        ));
    }
    Ok(())
}

/// The addresses that the internet sees; notes what stands in the way of those who want to come in.
fn look_up(config: &Config) -> Ips {
    let resolver = names::resolver(config);
    let found = async_io::block_on(address::look_up(config, &resolver));
    if found.is_behind_carrier_nat() {
        note(
            "this machine is behind carrier-grade NAT (100.64.0.0/10), nobody gets in by IPv4; use IPv6 or ask the provider for a public address",
        );
    }
    found.public
}

/// The link and its QR code for each address; without any, a link in which it is missing.
pub(crate) fn drawings(servers: &Servers, port: u16, secret: &str) -> String {
    if servers.is_empty() {
        return Link { server: "ADDRESS", port, secret }.tg() + "\n";
    }
    let known = [&servers.ipv4, &servers.ipv6].into_iter().flatten();
    let links = known.map(|server| Link { server, port, secret }.tg());
    links.map(|link| drawing(&link)).collect()
}

fn drawing(link: &str) -> String {
    format!("{link}\n{}", qr::half_blocks(link).unwrap_or_default())
}

/// The link for apps that go through the WEB proxy.
fn web_link(config: &Config) -> site::Link<'_> {
    site::Link { host: config.web_host(), path: &config.web.path, key: config.secret.key() }
}

fn document(servers: &Servers, port: u16, (secret, text): (&Secret, &str), web: Option<&site::Link<'_>>) -> String {
    let mut json = Json::new();
    for (family, server) in [("ipv4", &servers.ipv4), ("ipv6", &servers.ipv6)] {
        let Some(server) = server else { continue };
        let link = Link { server, port, secret: text };
        json.object(family, |address| {
            address.string("ip", server);
            address.number("port", u64::from(port));
            links(address, &link.tg(), &link.tme());
        });
    }
    json.object("secret", |forms| {
        forms.string("hex", &secret.to_hex());
        forms.string("base64", &secret.to_base64());
    });
    if let Some(web) = web {
        json.object("web", |door| {
            door.string("server", &web.server());
            links(door, &web.tg(), &web.tme());
        });
    }
    json.finish()
}

/// Both forms of a link, and their codes.
fn links(object: &mut Json, tg: &str, tme: &str) {
    for (url, code, link) in [("tg_url", "tg_qrcode", tg), ("tme_url", "tme_qrcode", tme)] {
        object.string(url, link);
        object.string(code, &qr::data_uri(link).unwrap_or_default());
    }
}

fn notes() -> String {
    "CONFIG is /etc/mtg.conf if it is left out. The address in the links is, in this order:\n\
     - that of the flag;\n\
     - public-host, shown as \"ipv4\" though it stands for both (not with --ipv4 or --ipv6);\n\
     - public-ipv4 and public-ipv6;\n\
     - an address of this machine, if it is a global one;\n\
     - what a STUN server sees (network.stun-servers);\n\
     - what a web page shows (network.public-ip-urls).\n\
     The port is that of bind-to if no flag says otherwise.\n\
     With web.bind-to there is a link for Telegram's WEB proxy, too: web.host, web.path, port 443."
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX_SECRET: &str = "ee000102030405060708090a0b0c0d0e0f66726f6e742e6578616d706c65";

    fn config() -> Config {
        Config::new(HEX_SECRET.parse().unwrap(), "192.0.2.7:3128".parse().unwrap())
    }

    fn servers(ipv4: &str, ipv6: &str) -> Servers {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Servers { ipv4: some(ipv4), ipv6: some(ipv6) }
    }

    fn nothing(_: &Config) -> Ips {
        Ips::default()
    }

    #[test]
    fn document_has_the_keys_and_the_order_of_mtg() {
        let expected = r#"{
  "ipv4": {
    "ip": "203.0.113.5",
    "port": 443,
    "tg_url": "tg://proxy?port=443&secret=7gABAgMEBQYHCAkKCwwNDg9mcm9udC5leGFtcGxl&server=203.0.113.5",
    "tme_url": "https://t.me/proxy?port=443&secret=7gABAgMEBQYHCAkKCwwNDg9mcm9udC5leGFtcGxl&server=203.0.113.5",
  },
  "ipv6": {
    "ip": "2001:db8::5",
    "port": 443,
    "tg_url": "tg://proxy?port=443&secret=7gABAgMEBQYHCAkKCwwNDg9mcm9udC5leGFtcGxl&server=2001%3Adb8%3A%3A5",
    "tme_url": "https://t.me/proxy?port=443&secret=7gABAgMEBQYHCAkKCwwNDg9mcm9udC5leGFtcGxl&server=2001%3Adb8%3A%3A5",
  },
  "secret": {
    "hex": "ee000102030405060708090a0b0c0d0e0f66726f6e742e6578616d706c65",
    "base64": "7gABAgMEBQYHCAkKCwwNDg9mcm9udC5leGFtcGxl"
  }
}
"#;
        let secret = config().secret;
        let text = document(&servers("203.0.113.5", "2001:db8::5"), 443, (&secret, &secret.to_base64()), None);
        let (codes, others): (Vec<_>, Vec<_>) = text.split_inclusive('\n').partition(|line| line.contains("_qrcode"));
        assert_eq!(others.concat(), expected);
        assert_eq!(codes.len(), 4);
        for (line, name) in codes.iter().zip(["tg_qrcode", "tme_qrcode"].into_iter().cycle()) {
            let start = format!("    \"{name}\": \"data:image/svg+xml;base64,PHN2ZyB4");
            assert!(line.starts_with(&start), "{line}");
        }
        let keys: Vec<_> = text.lines().filter_map(|line| line.trim().split('"').nth(1)).take(7).collect();
        assert_eq!(keys, ["ipv4", "ip", "port", "tg_url", "tg_qrcode", "tme_url", "tme_qrcode"]);
    }

    #[test]
    fn document_without_an_address_is_the_secret_alone() {
        let text = document(&Servers::default(), 443, (&config().secret, HEX_SECRET), None);
        assert!(text.starts_with("{\n  \"secret\": {\n    \"hex\""), "{text}");
    }

    #[test]
    fn the_web_proxy_has_links_of_its_own() {
        let mut config = config();
        config.web.path = "some/path".to_owned();
        let link = web_link(&config);
        let text = document(&Servers::default(), 443, (&config.secret, HEX_SECRET), Some(&link));
        for line in [
            "  \"web\": {\n    \"server\": \"front.example/some/path\",\n",
            "\"tg://webproxy?server=front.example%2Fsome%2Fpath&secret=cN0AAQIDBAUGBwgJCgsMDQ4P\"",
            "\"https://t.me/webproxy?server=front.example%2Fsome%2Fpath&secret=cN0AAQIDBAUGBwgJCgsMDQ4P\"",
        ] {
            assert!(text.contains(line), "{text}");
        }
        assert_eq!(text.matches("_qrcode").count(), 2);
    }

    #[test]
    fn hex_reaches_the_links() {
        let text = document(&servers("203.0.113.5", ""), 443, (&config().secret, HEX_SECRET), None);
        assert!(text.contains(&format!("secret={HEX_SECRET}&server=203.0.113.5")), "{text}");
        assert!(!text.contains("ipv6"), "{text}");
    }

    #[test]
    fn flags_beat_the_configuration_and_the_host_name() {
        let (v4, v6) = (Ipv4Addr::new(203, 0, 113, 5), "2001:db8::5".parse().unwrap());
        let mut config = config();
        config.public_ipv4 = Some(Ipv4Addr::new(203, 0, 113, 9));
        config.public_ipv6 = Some("2001:db8::9".parse().unwrap());
        assert_eq!(Servers::new(None, None, &config, nothing), servers("203.0.113.9", "2001:db8::9"));
        assert_eq!(Servers::new(Some(v4), None, &config, nothing), servers("203.0.113.5", "2001:db8::9"));
        config.public_host = Some("home.example".to_owned());
        assert_eq!(Servers::new(None, None, &config, nothing), servers("home.example", "2001:db8::9"));
        assert_eq!(Servers::new(Some(v4), Some(v6), &config, nothing), servers("203.0.113.5", "2001:db8::5"));
        config.public_ipv6 = None;
        assert_eq!(Servers::new(None, None, &config, |_| panic!("not needed")), servers("home.example", ""));
        (config.public_host, config.public_ipv4) = (None, None);
        let found = |_: &Config| Ips { v4: Some(v4), v6: Some(v6) };
        assert_eq!(Servers::new(None, None, &config, found), servers("203.0.113.5", "2001:db8::5"));
    }
}
