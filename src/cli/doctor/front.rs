//! Whether the front can be reached and is fit to hide behind.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use super::hellos::{self, Answerer};
use super::{Case, Finding};
use crate::config::Host;
use crate::proto::tls::first_flight::{FLIGHT_MAX, FirstFlight};
use crate::proto::tls::group::X25519_MLKEM768;
use crate::proxy::front::fault::Fault;
use crate::proxy::is_ourselves;

const SUBJECT: &str = "front";
const LOOP_ADVICE: &str = "strangers shall see a web site: set domain-fronting.host to the address of the real web \
                           server, not to one that leads here; until then they see nothing, and a censor wonders";
const CHOOSE: &str = "choose another web site (mtg generate-secret HOST; the links change), or name a server that works \
                      in domain-fronting.host; until then strangers see nothing, and a censor wonders";

pub(super) async fn check(case: Arc<Case>) -> Vec<Finding> {
    let (addresses, name) = match addresses(&case).await {
        Ok(found) => found,
        Err((name, error)) => {
            return vec![Finding::fail(
                SUBJECT,
                &format!("{name} has no address: {error}"),
                "see whether the name is right and 'nslookup' finds it here; if it does not, set network.dns",
            )];
        }
    };
    if addresses.iter().any(|&address| is_ourselves(address, case.config.bind_to)) {
        return vec![leads_back(&name)];
    }
    let reached = case.dialer.connect(addresses, case.config.network.timeout.tcp).await;
    let sends_header = case.config.domain_fronting.proxy_protocol;
    let (socket, address) = match reached {
        Ok(reached) => reached,
        Err(error) => {
            return vec![Finding::fail(SUBJECT, &format!("{name} cannot be reached: {error}"), CHOOSE)];
        }
    };
    match hellos::exchange(socket, preface(sends_header), &case.config.secret).await {
        Ok(Answerer::Ourselves) => vec![leads_back(&name)],
        Ok(Answerer::Server(flight, _)) => grade(&name, address, &flight),
        Ok(Answerer::Refusing(refusal)) => {
            let otherwise = Fault::may_be_a_header(refusal) && answers(&case, address, !sends_header).await;
            let fault = Fault::new(refusal, sends_header, otherwise);
            let text = format!("{name}, asked for {}: {fault}", case.config.secret.host());
            vec![Finding::fail(SUBJECT, &text, fault.remedy())]
        }
        Err(error) => vec![Finding::fail(SUBJECT, &format!("{name}: it does not answer in TLS: {error}"), CHOOSE)],
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

/// Whether it answers in TLS 1.3, with a PROXY header or without.
async fn answers(case: &Case, address: SocketAddr, sends_header: bool) -> bool {
    let Ok((socket, _)) = case.dialer.connect(vec![address], case.config.network.timeout.tcp).await else {
        return false;
    };
    matches!(hellos::exchange(socket, preface(sends_header), &case.config.secret).await, Ok(Answerer::Server(..)))
}

/// What a front gets first that wants a PROXY header.
fn preface(sends_header: bool) -> &'static [u8] {
    if sends_header { b"PROXY UNKNOWN\r\n" } else { b"" }
}

fn grade(name: &str, address: SocketAddr, flight: &FirstFlight) -> Vec<Finding> {
    const KEY: &str = "front's key";
    const ANSWER: &str = "front's answer";
    let reached =
        Finding::ok(SUBJECT, &format!("{name}, the site that strangers see, answers at {} in TLS 1.3", address.ip()));
    if flight.is_retry {
        let text = "it asks a browser for another key first, and mtg does not";
        let advice =
            "whoever compares can see that; choose another web site (mtg generate-secret HOST; the links change)";
        return vec![reached, Finding::warn(KEY, text, advice)];
    }
    let key = if flight.group == X25519_MLKEM768 {
        Finding::ok(KEY, "X25519MLKEM768, as most large sites have it")
    } else {
        let advice = "no fault, mtg answers as the site does; a site that has it is one among more";
        Finding::warn(KEY, "of an older kind, not X25519MLKEM768", advice)
    };
    let total = flight.total().unwrap_or(0);
    let answer = match flight.records.len() {
        _ if total > FLIGHT_MAX => Finding::warn(
            ANSWER,
            &format!(
                "its certificates make it {} KB long, and mtg's answer has {} at most",
                total >> 10,
                FLIGHT_MAX >> 10
            ),
            "whoever compares can see that; choose another web site (mtg generate-secret HOST; the links change)",
        ),
        0 | 1 => Finding::ok(ANSWER, "it comes in one record, as mtg's does"),
        count => Finding::warn(
            ANSWER,
            &format!("it comes in {count} records where mtg's comes in one"),
            "it works, but whoever compares can see that; sites of Google and Cloudflare answer in one record, nginx and \
             Apache do not",
        ),
    };
    vec![reached, key, answer]
}

fn leads_back(name: &str) -> Finding {
    Finding::fail(SUBJECT, &format!("{name}: it leads back to this proxy"), LOOP_ADVICE)
}
