//! Whether clients find the way in: the port here, the way from the public address, and what the name says about it.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::Arc;

use super::hellos::{self, Answerer};
use super::{Case, Finding, Grade};
use crate::cli::address;
use crate::daemon::status;
use crate::net::public_ip::PublicIps;
use crate::proto::tls::refusal::Refusal;

const PORT: &str = "port";
const PUBLIC: &str = "public address";
const PUBLIC_HOST: &str = "public host";
const NAME: &str = "name";

pub(super) async fn port(case: Arc<Case>) -> Vec<Finding> {
    let address = case.config.bind_to;
    vec![match TcpListener::bind(address) {
        Ok(_) => Finding::new(
            if case.only_health { Grade::Fail } else { Grade::Warn },
            PORT,
            &format!("nobody listens on {address}: the proxy does not run"),
            "start it (OpenWrt: /etc/init.d/mtg start; others: systemctl start mtg)",
        ),
        Err(error) if error.kind() == ErrorKind::AddrNotAvailable => Finding::fail(
            PORT,
            &format!("this machine has no address {}", address.ip()),
            "set bind-to to 0.0.0.0 and the same port, which means every address of this machine",
        ),
        // A port that is taken, or one that only root may take and so cannot be tried.
        Err(error) => match visit(&case, local(address)).await {
            Ok(Answerer::Ourselves) => Finding::ok(PORT, &format!("the proxy answers on {address}")),
            Ok(Answerer::Refusing(Refusal::Silent)) if !may_be_shut_out(&case) => hangs_up(address),
            Err(refused) if refused.kind() == ErrorKind::ConnectionRefused => Finding::fail(
                PORT,
                &format!("cannot listen on {address}: {error}"),
                "start mtg as root or with CAP_NET_BIND_SERVICE, or set a port above 1023 in bind-to",
            ),
            _ if may_be_shut_out(&case) => Finding::warn(
                PORT,
                &format!("somebody listens on {address} and does not let this machine in"),
                "no fault if the proxy runs, for defense.allowlist, defense.blocklist or proxy-protocol-trusted may say so",
            ),
            _ => taken(address),
        },
    }]
}

/// Whether the owner lets the proxy turn away whom it does not like, which may be this machine.
fn may_be_shut_out(case: &Case) -> bool {
    let defense = &case.config.defense;
    defense.allowlist.enabled || defense.blocklist.enabled || !case.config.proxy_protocol_trusted.is_empty()
}

/// As a proxy does whose places are taken, and a load balancer without a server behind it.
fn hangs_up(address: SocketAddr) -> Finding {
    if status::ask(address).is_ok() {
        return Finding::warn(
            PORT,
            &format!("the proxy runs on {address}, and all its places are taken"),
            "see concurrency, handshakes-per-ip and, on a small machine, memory; 'mtg status' shows how many there are",
        );
    }
    Finding::warn(
        PORT,
        &format!("somebody listens on {address} and hangs up at once"),
        "if that is this proxy, all its places are taken: see concurrency and handshakes-per-ip, and try again; else \
         'netstat -ltnp' names the other program: stop it, or set another port in bind-to",
    )
}

fn taken(address: SocketAddr) -> Finding {
    Finding::fail(
        PORT,
        &format!("another program listens on {address}, or a proxy with another secret"),
        "if you have changed the secret, restart mtg; else 'netstat -ltnp' names the other program: stop it, or set \
         another port in bind-to",
    )
}

pub(super) async fn public_address(case: Arc<Case>) -> Vec<Finding> {
    let (ips, found) = public_ips(&case).await;
    let port = case.config.bind_to.port();
    let mut findings = Vec::new();
    if let Some(own) = found.own.v4.filter(|_| found.is_behind_carrier_nat()) {
        findings.push(Finding::warn(
            "provider",
            &format!("yours shares one IPv4 address among its customers ({own}), so nobody gets in by IPv4"),
            "ask the provider for a public IPv4 address, use IPv6 if you have it, or run mtg on a rented server",
        ));
    }
    if let Some(host) = &case.config.public_host {
        findings.extend(public_host(&case, host).await);
    } else if ips.is_empty() {
        findings.push(Finding::warn(
            PUBLIC,
            "nobody told us the address that this machine has on the internet",
            "see whether the internet works here, or write the address into public-ipv4, public-ipv6 or public-host",
        ));
        return findings;
    }
    for ip in &ips {
        findings.push(from_outside(&case, SocketAddr::new(*ip, port), "").await);
    }
    findings.extend(name(&case, &ips).await);
    findings
}

/// Whether the name in the links leads here.
async fn public_host(case: &Case, host: &str) -> Vec<Finding> {
    let ips = match case.resolver.resolve(host).await {
        Ok(ips) => ips,
        Err(error) => {
            return vec![Finding::fail(
                PUBLIC_HOST,
                &format!("{host}, the name in the links, has no address: {error}"),
                "see whether the name in public-host is right, and whether the program that keeps its address up to date runs",
            )];
        }
    };
    let mut findings = Vec::new();
    for ip in ips {
        let address = SocketAddr::new(ip, case.config.bind_to.port());
        findings.push(from_outside(case, address, &format!("{host}, at ")).await);
    }
    findings
}

/// Whether the proxy answers where clients look for it; `name` is what they know, if it is no address.
async fn from_outside(case: &Case, address: SocketAddr, name: &str) -> Finding {
    let subject = if name.is_empty() { PUBLIC } else { PUBLIC_HOST };
    match visit(case, address).await {
        Ok(Answerer::Ourselves) => Finding::ok(subject, &format!("the proxy answers on {name}{address}")),
        Ok(Answerer::Refusing(Refusal::Silent)) => Finding::warn(
            subject,
            &format!("whoever listens on {name}{address} hangs up at once"),
            "a proxy whose places are all taken does that, and so does a router that forwards the port to nobody",
        ),
        Ok(_) => Finding::fail(
            subject,
            &format!("somebody else answers on {name}{address}"),
            "let the router in front of this machine forward the port to this machine, and to no other",
        ),
        Err(error) => Finding::warn(
            subject,
            &format!("{name}{address} cannot be reached from here: {error}"),
            "if a router stands in front of this machine, let it forward the port here, and open the port in the \
             firewall; some routers cannot show it from inside, so try a link on a phone without Wi-Fi",
        ),
    }
}

/// Compares the addresses of the secret's host with ours.
async fn name(case: &Case, ips: &[IpAddr]) -> Option<Finding> {
    let host = case.config.secret.host();
    // A name without an address is the front's finding.
    let of_name = case.resolver.resolve(host).await.ok()?;
    let list = |ips: &[IpAddr]| ips.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ");
    Some(if of_name.iter().any(|ip| ips.contains(ip)) {
        Finding::ok(NAME, &format!("{host} leads to this machine"))
    } else {
        Finding::warn(
            NAME,
            &format!("{host} is at {}, this machine at {}", list(&of_name), list(ips)),
            "it works, but whoever compares can see that this is another machine; safest is a name of your own that \
             leads here, with a web site behind it (mtg generate-secret NAME)",
        )
    })
}

/// Greets whoever is there.
async fn visit(case: &Case, address: SocketAddr) -> io::Result<Answerer> {
    let (socket, _) = case.dialer.connect(vec![address], case.config.network.timeout.tcp).await?;
    let preface: &[u8] = if case.config.proxy_protocol_listener { b"PROXY UNKNOWN\r\n" } else { b"" };
    hellos::exchange(socket, preface, &case.config.secret).await
}

/// Where a listener is reached from the same machine.
fn local(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => (Ipv4Addr::LOCALHOST, address.port()).into(),
        IpAddr::V6(ip) if ip.is_unspecified() => (Ipv6Addr::LOCALHOST, address.port()).into(),
        _ => address,
    }
}

/// The addresses that clients connect to, as far as they are known, and what the provider gave this machine.
async fn public_ips(case: &Case) -> (Vec<IpAddr>, PublicIps) {
    let config = &case.config;
    let found = address::look_up(config, &case.resolver).await;
    let v4 = config.public_ipv4.or(found.public.v4).map(IpAddr::V4);
    (v4.into_iter().chain(config.public_ipv6.or(found.public.v6).map(IpAddr::V6)).collect(), found)
}
