//! Names as the system looks them up: in `hosts`, then at the name servers of `resolv.conf`.
//!
//! `getaddrinfo` of the C library would keep a thread for as long as `resolv.conf` says, tell nothing of how long its
//! answers are good, and take 30 KB. The rules here are nearly musl's: all servers are asked at once and the first to know
//! decides, each name has `timeout` seconds; a name with fewer dots than `ndots` is tried in the domains of `search`
//! before it is tried as it is.

use std::fs::{self, File};
use std::future::{Future as _, poll_fn};
use std::io::{self, BufRead as _, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::task::Poll;
use std::time::Duration;

use super::name_server::{NameServer, UDP_PATIENCE};
use crate::proto::dns::Addresses;

const HOSTS: &str = "/etc/hosts";
const RESOLV_CONF: &str = "/etc/resolv.conf";
const PORT: u16 = 53;
/// How long an entry of `hosts` is used.
const HOSTS_TTL: Duration = Duration::from_secs(60);
/// Servers that are asked, as everywhere.
const SERVERS_MAX: usize = 3;

/// Looks up the addresses of `name` in the system's files as they are now.
///
/// # Errors
/// `NotFound` for a name without addresses, and whatever keeps the servers from answering.
pub(super) async fn ask(name: &str) -> io::Result<Addresses> {
    if let Some(addresses) = in_hosts(name) {
        return Ok(addresses);
    }
    // Without the file a server is expected on this machine.
    let text = fs::read(RESOLV_CONF).unwrap_or_default();
    ask_servers(&ResolvConf::parse(&String::from_utf8_lossy(&text)), name).await
}

async fn ask_servers(conf: &ResolvConf, name: &str) -> io::Result<Addresses> {
    let mut told = Err(io::ErrorKind::NotFound.into());
    let servers: Vec<_> =
        conf.servers.iter().map(|&address| NameServer::Udp { address, patience: conf.timeout }).collect();
    for candidate in conf.candidates(name) {
        told = first_to_know(&servers, &candidate).await;
        // Whatever the failure: servers refuse to answer for domains that are not theirs.
        if told.is_ok() {
            break;
        }
    }
    told
}

/// Asks all servers at once. Errors count when none knows better.
async fn first_to_know(servers: &[NameServer], name: &str) -> io::Result<Addresses> {
    let mut asked: Vec<_> = servers.iter().map(|server| Box::pin(server.ask_both(name))).collect();
    let mut failure = io::Error::from(io::ErrorKind::NotFound);
    poll_fn(|context| {
        let mut number = 0;
        while let Some(answer) = asked.get_mut(number) {
            match answer.as_mut().poll(context) {
                Poll::Pending => number += 1,
                Poll::Ready(Err(error)) if error.kind() != io::ErrorKind::NotFound => {
                    failure = error;
                    drop(asked.swap_remove(number));
                }
                Poll::Ready(told) => return Poll::Ready(told),
            }
        }
        if asked.is_empty() {
            return Poll::Ready(Err(std::mem::replace(&mut failure, io::ErrorKind::NotFound.into())));
        }
        Poll::Pending
    })
    .await
}

/// The addresses that `hosts` has for a name.
pub(super) fn in_hosts(name: &str) -> Option<Addresses> {
    let mut ips = Vec::new();
    if let Ok(file) = File::open(HOSTS) {
        // By lines: against advertisements, people have files of megabytes.
        for line in BufReader::new(file).split(b'\n').map_while(Result::ok) {
            ips.extend(in_hosts_line(&String::from_utf8_lossy(&line), name));
        }
    }
    if ips.is_empty() && name.eq_ignore_ascii_case("localhost") {
        ips = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    }
    (!ips.is_empty()).then_some(Addresses { ips, ttl: HOSTS_TTL })
}

/// The address of a line `address name...`, if one of the names is that.
fn in_hosts_line(line: &str, name: &str) -> Option<IpAddr> {
    let mut words = words(line);
    let ip = words.next()?.parse().ok()?;
    words.any(|word| word.eq_ignore_ascii_case(name)).then_some(ip)
}

/// What `resolv.conf` says.
struct ResolvConf {
    servers: Vec<SocketAddr>,
    search: Vec<String>,
    /// A name with so many dots is tried as it is and no other way.
    ndots: usize,
    /// How long the servers are waited for, for each name that is tried.
    timeout: Duration,
}

impl ResolvConf {
    fn parse(text: &str) -> Self {
        let mut conf = Self { servers: Vec::new(), search: Vec::new(), ndots: 1, timeout: UDP_PATIENCE };
        for line in text.lines() {
            let mut words = words(line);
            match words.next() {
                Some("nameserver") if conf.servers.len() < SERVERS_MAX => {
                    conf.servers.extend(words.next().and_then(server));
                }
                Some("search" | "domain") => conf.search = words.map(str::to_owned).collect(),
                Some("options") => words.for_each(|word| conf.set(word)),
                _ => {}
            }
        }
        if conf.servers.is_empty() {
            conf.servers.push((Ipv4Addr::LOCALHOST, PORT).into());
        }
        conf
    }

    /// Heeds an option `name:number`, if it is one of those that matter here.
    fn set(&mut self, option: &str) {
        let Some((name, Ok(number))) = option.split_once(':').map(|(name, number)| (name, number.parse::<u16>()))
        else {
            return;
        };
        match name {
            "ndots" => self.ndots = number.into(),
            // Who has asked us waits no longer than that in any case.
            "timeout" => self.timeout = Duration::from_secs(number.max(1).into()).min(UDP_PATIENCE),
            _ => {}
        }
    }

    /// The names that may be meant, the likeliest first.
    fn candidates(&self, name: &str) -> Vec<String> {
        let is_whole = name.matches('.').count() >= self.ndots;
        let domains = self.search.iter().filter(|_| !is_whole);
        let mut names: Vec<_> = domains.map(|domain| [name, domain].join(".")).collect();
        names.push(name.to_owned());
        names
    }
}

/// The address of a name server, `fe80::1%eth0` among them.
fn server(text: &str) -> Option<SocketAddr> {
    let Some((ip, zone)) = text.split_once('%') else { return Some(SocketAddr::new(text.parse().ok()?, PORT)) };
    let number = |text: &str| text.trim().parse().ok();
    let interface =
        number(zone).or_else(|| number(&fs::read_to_string(format!("/sys/class/net/{zone}/ifindex")).ok()?));
    Some(SocketAddrV6::new(ip.parse().ok()?, PORT, 0, interface?).into())
}

/// The words before a comment.
fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(['#', ';']).take(1).flat_map(str::split_ascii_whitespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(conf: &ResolvConf) -> Vec<String> {
        conf.servers.iter().map(SocketAddr::to_string).collect()
    }

    #[test]
    fn hosts_are_found_by_each_of_their_names() {
        let line = "192.0.2.7\tfront.example  FRONT # not.this";
        for (name, is_there) in [("front.example", true), ("front", true), ("not.this", false), ("192.0.2.7", false)] {
            assert_eq!(in_hosts_line(line, name).is_some(), is_there, "{name}");
        }
        assert_eq!(in_hosts_line("::1 ip6-localhost", "ip6-localhost"), Some(Ipv6Addr::LOCALHOST.into()));
        assert_eq!(in_hosts_line("", "a"), None);
        assert_eq!(in_hosts_line("# 192.0.2.7 a", "a"), None);
        assert!(in_hosts("no.such.name.example").is_none());
    }

    #[test]
    fn servers_are_read_up_to_three() {
        let text = "# by dhcp\nnameserver 192.0.2.1 ; first\nnameserver nonsense\nnameserver fe80::1%7\n\
                    nameserver\nnameserver 2001:db8::1\nnameserver 192.0.2.4\n";
        assert_eq!(addresses(&ResolvConf::parse(text)), ["192.0.2.1:53", "[fe80::1%7]:53", "[2001:db8::1]:53"]);
        assert_eq!(addresses(&ResolvConf::parse("")), ["127.0.0.1:53"]);
        assert_eq!(server("fe80::1%lo").map(|address| address.to_string()), Some("[fe80::1%1]:53".to_owned()));
        assert_eq!(server("fe80::1%no-such-interface"), None);
    }

    #[test]
    fn the_timeout_is_heeded_as_far_as_somebody_waits() {
        let seconds = |text| ResolvConf::parse(text).timeout.as_secs();
        assert_eq!(seconds("nameserver 192.0.2.1\noptions rotate timeout:2 attempts:1\n"), 2);
        assert_eq!((seconds("options timeout:0"), seconds("options timeout:30")), (1, 5));
        assert_eq!((seconds(""), seconds("options timeout: timeout:x timeout:-1")), (5, 5));
    }

    #[test]
    fn short_names_are_tried_in_the_search_domains_first() {
        let conf = ResolvConf::parse("domain old.example\nsearch a.example b.example\noptions edns0 ndots:2\n");
        assert_eq!(conf.candidates("x.y"), ["x.y.a.example", "x.y.b.example", "x.y"]);
        assert_eq!(conf.candidates("x.y.z"), ["x.y.z"]);
        assert_eq!(conf.candidates("x.y."), ["x.y."]);
        assert_eq!(ResolvConf::parse("search lan\n").candidates("x.y"), ["x.y"]);
    }
}
