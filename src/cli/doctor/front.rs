//! Whether the front can be reached and is fit to hide behind.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use super::greeting::{Answerer, greet};
use super::{Case, Finding};
use crate::config::Host;
use crate::proto::tls::first_flight::FirstFlight;
use crate::proto::tls::group::X25519_MLKEM768;
use crate::proxy::is_ourselves;

const SUBJECT: &str = "front";
const LOOP: &str = "it leads back to this proxy";
const LOOP_ADVICE: &str = "set domain-fronting.host to the address of the real web server, not to one that leads here; \
                           until then whoever probes the proxy finds nothing";

pub(super) async fn check(case: Arc<Case>) -> Vec<Finding> {
    let (addresses, name) = match addresses(&case).await {
        Ok(found) => found,
        Err((name, error)) => {
            return vec![Finding::fail(
                SUBJECT,
                format!("{name} has no address: {error}"),
                "see whether the name is right and DNS works on this machine (network.dns)",
            )];
        }
    };
    if addresses.iter().any(|&address| is_ourselves(address, case.config.bind_to)) {
        return vec![Finding::fail(SUBJECT, format!("{name}: {LOOP}"), LOOP_ADVICE)];
    }
    let reached = case.dialer.connect(addresses, case.config.network.timeout.tcp).await;
    let (socket, address) = match reached {
        Ok(reached) => reached,
        Err(error) => {
            return vec![Finding::fail(
                SUBJECT,
                format!("{name} cannot be reached: {error}"),
                "choose a host that this machine can reach, in the secret or with domain-fronting.host; until then \
                 whoever probes the proxy finds nothing",
            )];
        }
    };
    match greet(socket, &preface(&case), &case.config.secret).await {
        Ok(Answerer::Ourselves) => vec![Finding::fail(SUBJECT, format!("{name}: {LOOP}"), LOOP_ADVICE)],
        Ok(Answerer::Server(flight)) => grade(&name, address, &flight),
        Ok(Answerer::Refusing(alert)) => {
            let host = case.config.secret.host();
            vec![not_tls(&name, &format!("it refuses a browser that asks for {host} (TLS alert {alert})"))]
        }
        Ok(Answerer::Other) => vec![not_tls(&name, "it answers, but not in TLS 1.3")],
        Err(error) => vec![not_tls(&name, &format!("it does not answer in TLS: {error}"))],
    }
}

/// The front's addresses and what it is called; or the name without address.
async fn addresses(case: &Case) -> Result<(Vec<SocketAddr>, String), (String, io::Error)> {
    let port = case.config.domain_fronting.port;
    let host = case.config.secret.host();
    let (ips, name) = match &case.config.domain_fronting.host {
        Some(Host::Ip(ip)) => (Ok(vec![*ip]), ip.to_string()),
        Some(Host::Name(name)) => (case.resolver.resolve(name).await, name.clone()),
        None => (case.resolver.resolve(host).await, host.to_owned()),
    };
    match ips {
        Ok(ips) => Ok((ips.into_iter().map(|ip| SocketAddr::new(ip, port)).collect(), name)),
        Err(error) => Err((name, error)),
    }
}

/// What a front gets first that wants a PROXY header.
fn preface(case: &Case) -> Vec<u8> {
    let wants = case.config.domain_fronting.proxy_protocol;
    if wants { b"PROXY UNKNOWN\r\n".to_vec() } else { Vec::new() }
}

fn grade(name: &str, address: SocketAddr, flight: &FirstFlight) -> Vec<Finding> {
    let is_hybrid = flight.group == X25519_MLKEM768;
    let key_exchange = if is_hybrid { "X25519MLKEM768" } else { "no post-quantum key exchange" };
    let text = format!("{name} answers at {} in TLS 1.3 ({key_exchange})", address.ip());
    let mut findings = vec![if flight.is_retry {
        let advice = "it asks clients for another key, which mtg cannot imitate; choose another host";
        Finding::warn(SUBJECT, format!("{text}, after a retry"), advice)
    } else {
        Finding::ok(SUBJECT, text)
    }];
    if flight.records.len() > 1 && !flight.is_retry {
        findings.push(Finding::warn(
            "front's answer",
            format!("it comes in {} records where mtg's comes in one", flight.records.len()),
            "whoever compares can see that; the web servers of large providers often answer in one record, nginx and Apache \
             do not",
        ));
    }
    findings
}

fn not_tls(name: &str, what: &str) -> Finding {
    Finding::fail(
        SUBJECT,
        format!("{name}: {what}"),
        "choose a web server with TLS 1.3 that knows the secret's host name, or set domain-fronting.port",
    )
}
