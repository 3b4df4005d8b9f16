//! Grading web sites as fronts, side by side: what clients' connections will look like, and whether the choice gives us
//! away.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use futures_lite::future::zip;
use smol::Executor;

use super::hellos::{self, Answerer};
use super::{Finding, Grade};
use crate::cli::{Failure, address, secret};
use crate::config::Config;
use crate::net::connect::Dialer;
use crate::net::deadline;
use crate::net::resolve::Resolver;
#[cfg(feature = "tls")]
use crate::net::stream::Stream;
use crate::proto::tls::first_flight::{FLIGHT_MAX, FirstFlight};
use crate::proto::tls::group::X25519_MLKEM768;
use crate::proxy::upkeep::names;

const PORT: u16 = 443;
/// Sites that are graded at once.
const HOSTS_MAX: usize = 32;
/// Time for one of them.
const LIMIT: Duration = Duration::from_secs(12);
/// Time to connect.
const CONNECT: Duration = Duration::from_secs(5);
/// The shortest flight with a certificate in it that anybody has, bytes.
const FLIGHT_MIN: usize = 500;

/// What was found out about a site.
struct Candidate {
    host: String,
    seen: Result<Seen, String>,
}

struct Seen {
    address: IpAddr,
    flight: FirstFlight,
    /// From the hello to its answer.
    millis: u128,
    /// Whether the certificate is good for the name; none if this build cannot tell.
    certificate: Option<Result<(), String>>,
    /// Whether it is in the network of this machine; none if nobody knows where that is.
    is_near: Option<bool>,
}

/// Looks at all of them and returns a finding for each, the best first.
///
/// # Errors
/// Too many hosts, one that is none, or a configuration that cannot be read.
pub(super) fn grade_all<'a>(
    hosts: impl Iterator<Item = &'a str>,
    config: Option<&Path>,
) -> Result<Vec<Finding>, Failure> {
    let secrets = hosts.take(HOSTS_MAX + 1).map(secret::fresh).collect::<Result<Vec<_>, _>>()?;
    let Some(first) = secrets.first().filter(|_| secrets.len() <= HOSTS_MAX) else {
        return Err(Failure::usage(format!("doctor: --front takes from 1 to {HOSTS_MAX} hosts")));
    };
    let config = match config {
        Some(path) => Config::load(path)?.0,
        None => Config::new(first.clone(), ([0, 0, 0, 0], PORT).into()),
    };
    let resolver = names::resolver(&config);
    let dialer = Dialer::brief();
    let executor = Executor::new();
    let mut candidates = async_io::block_on(executor.run(async {
        let (resolver, dialer) = (&resolver, &dialer);
        let looks: Vec<_> = secrets
            .into_iter()
            .map(|secret| {
                executor.spawn(async move {
                    let host = secret.host().to_owned();
                    let seen = deadline::within(LIMIT, look(&secret, resolver, dialer)).await;
                    let seen = seen.unwrap_or_else(|| Err(format!("no result within {} seconds", LIMIT.as_secs())));
                    Candidate { host, seen }
                })
            })
            .collect();
        let all = async {
            let mut all = Vec::new();
            for look in looks {
                all.push(look.await);
            }
            all
        };
        let (mut candidates, ours) = zip(all, own_addresses(&config, resolver)).await;
        candidates.iter_mut().filter_map(|candidate| candidate.seen.as_mut().ok()).for_each(|seen| {
            seen.is_near = (!ours.is_empty()).then(|| ours.iter().any(|ip| is_same_network(*ip, seen.address)));
        });
        candidates
    }));
    candidates.sort_by_key(Candidate::faults);
    Ok(candidates.iter().map(Candidate::finding).collect())
}

/// Where clients find us, as far as it is known.
async fn own_addresses(config: &Config, resolver: &Resolver) -> Vec<IpAddr> {
    let v4 = config.public_ipv4.map(IpAddr::V4);
    let known: Vec<_> = v4.into_iter().chain(config.public_ipv6.map(IpAddr::V6)).collect();
    if !known.is_empty() {
        return known;
    }
    let found = address::look_up(config, resolver).await.public;
    found.v4.map(IpAddr::V4).into_iter().chain(found.v6.map(IpAddr::V6)).collect()
}

/// Asks one of them as a client's hello would.
async fn look(secret: &crate::proto::secret::Secret, resolver: &Resolver, dialer: &Dialer) -> Result<Seen, String> {
    let ips = resolver.resolve(secret.host()).await.map_err(|error| format!("it has no address: {error}"))?;
    let addresses = ips.into_iter().map(|ip| SocketAddr::new(ip, PORT)).collect();
    let connected = dialer.connect(addresses, CONNECT).await;
    let (socket, address) = connected.map_err(|error| format!("it cannot be reached: {error}"))?;
    let (flight, took) = match hellos::exchange(socket, b"", secret).await {
        Ok(Answerer::Server(flight, took)) => (flight, took),
        Ok(Answerer::Refusing(refusal)) => return Err(refusal.to_string()),
        Ok(Answerer::Ourselves) => return Err("it leads back to this proxy".to_owned()),
        Err(error) => return Err(format!("it does not answer: {error}")),
    };
    let certificate = certificate(secret.host(), address, dialer).await;
    Ok(Seen { address: address.ip(), flight, millis: took.as_millis(), certificate, is_near: None })
}

/// Whether the certificate is good for the name, which takes a whole handshake.
#[cfg(feature = "tls")]
async fn certificate(host: &str, address: SocketAddr, dialer: &Dialer) -> Option<Result<(), String>> {
    let (socket, _) = dialer.connect(vec![address], CONNECT).await.ok()?;
    Some(Stream::tls(socket, host).await.map(drop).map_err(|error| error.to_string()))
}

/// As above; without TLS it is not known.
#[cfg(not(feature = "tls"))]
#[expect(clippy::unused_async, reason = "it waits in the other build")]
async fn certificate(_: &str, _: SocketAddr, _: &Dialer) -> Option<Result<(), String>> {
    None
}

/// Whether two addresses are likely to belong to one provider: no table of networks would fit here.
fn is_same_network(one: IpAddr, other: IpAddr) -> bool {
    match (one.to_canonical(), other.to_canonical()) {
        (IpAddr::V4(one), IpAddr::V4(other)) => one.to_bits() >> 16 == other.to_bits() >> 16,
        (IpAddr::V6(one), IpAddr::V6(other)) => one.to_bits() >> 96 == other.to_bits() >> 96,
        _ => false,
    }
}

impl Candidate {
    /// What speaks against it, the worst first; the fewer the better.
    fn faults(&self) -> (bool, bool, bool, bool, bool, bool, bool, u128) {
        let Ok(seen) = &self.seen else { return (true, true, true, true, true, true, true, 0) };
        let flight = &seen.flight;
        let total = flight.total().unwrap_or(0);
        (
            false,
            matches!(seen.certificate, Some(Err(_))),
            flight.is_retry,
            !(FLIGHT_MIN..=FLIGHT_MAX).contains(&total),
            flight.records.len() > 1,
            seen.is_near == Some(false),
            flight.group != X25519_MLKEM768,
            seen.millis,
        )
    }

    fn finding(&self) -> Finding {
        let seen = match &self.seen {
            Ok(seen) => seen,
            Err(why) => return Finding::fail(&self.host, why, "take another one"),
        };
        let Seen { address, flight, millis, certificate, is_near } = seen;
        let total = flight.total().unwrap_or(0);
        let mut parts = vec![format!("TLS 1.3 at {address}")];
        parts.push(if flight.group == X25519_MLKEM768 { "ML-KEM" } else { "no ML-KEM" }.to_owned());
        parts.push(match flight.records.len() {
            0 | 1 => format!("one record of {total} bytes"),
            count => format!("{count} records of {total} bytes together"),
        });
        parts.push(match certificate {
            Some(Ok(())) => "a certificate for the name".to_owned(),
            Some(Err(error)) => format!("no good certificate for the name ({error})"),
            None => "certificate not looked at (take mtg-tls)".to_owned(),
        });
        parts.push(format!("answers in {millis} ms"));
        parts.extend(is_near.map(|is_near| if is_near { "our network" } else { "another network" }.to_owned()));
        let (_, has_bad_certificate, is_retry, is_odd_size, has_many, ..) = self.faults();
        let (grade, advice) = if has_bad_certificate {
            (Grade::Fail, "browsers do not trust it, so nobody visits it: take another one")
        } else if is_retry {
            (Grade::Warn, "it asks a browser for another key first, and mtg does not: whoever compares can see that")
        } else if is_odd_size {
            (Grade::Warn, "its answer is of a size that mtg's cannot have: whoever compares can see that")
        } else if has_many {
            (Grade::Warn, "its answer comes in several records, mtg's in one: whoever compares can see that")
        } else {
            (Grade::Ok, "")
        };
        Finding::new(grade, &self.host, &parts.join(", "), advice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(host: &str, change: impl FnOnce(&mut Seen)) -> Candidate {
        let flight = FirstFlight {
            suite: [0x13, 0x01],
            group: X25519_MLKEM768,
            key_share_first: true,
            is_retry: false,
            records: vec![4000],
        };
        let mut seen =
            Seen { address: [192, 0, 2, 1].into(), flight, millis: 30, certificate: Some(Ok(())), is_near: Some(true) };
        change(&mut seen);
        Candidate { host: host.to_owned(), seen: Ok(seen) }
    }

    #[test]
    fn the_best_stands_first_and_each_fault_is_named() {
        let mut all = [
            Candidate { host: "away".to_owned(), seen: Err("it cannot be reached".to_owned()) },
            candidate("untrusted", |seen| seen.certificate = Some(Err("expired".to_owned()))),
            candidate("long", |seen| seen.flight.records = vec![16_401, 16_401, 12_000]),
            candidate("two", |seen| seen.flight.records = vec![50, 4000]),
            candidate("far", |seen| seen.is_near = Some(false)),
            candidate("old", |seen| seen.flight.group = 0x1d),
            candidate("slow", |seen| seen.millis = 300),
            candidate("best", |_| {}),
        ];
        all.sort_by_key(Candidate::faults);
        let hosts = all.each_ref().map(|candidate| candidate.host.as_str());
        assert_eq!(hosts, ["best", "slow", "old", "far", "two", "long", "untrusted", "away"]);
        let grades = all.each_ref().map(|candidate| candidate.finding().grade);
        use Grade::{Fail, Ok, Warn};
        assert_eq!(grades, [Ok, Ok, Ok, Ok, Warn, Warn, Fail, Fail]);
        assert_eq!(
            all[0].finding().text,
            "TLS 1.3 at 192.0.2.1, ML-KEM, one record of 4000 bytes, a certificate for the name, answers in 30 ms, our network"
        );
        assert!(all.iter().map(Candidate::finding).all(|finding| finding.grade == Ok || !finding.advice.is_empty()));
    }

    #[test]
    fn networks_are_compared_by_their_first_half_or_quarter() {
        let same = |one: &str, other: &str| is_same_network(one.parse().unwrap(), other.parse().unwrap());
        assert!(same("192.0.2.1", "192.0.77.1") && same("2001:db8:1::1", "2001:db8:2::1"));
        assert!(!same("192.0.2.1", "192.1.2.1") && !same("2001:db8::1", "2001:db9::1") && !same("192.0.2.1", "::1"));
    }
}
