//! Whether each data centre answers as one: a port that takes connections proves nothing, where censors answer too.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use async_io::Async;
use futures_lite::AsyncReadExt as _;

use super::{Case, Check, Finding};
use crate::clock::UnixTime;
use crate::config::{Host, Upstream};
use crate::net::{deadline, turn};
use crate::proto::dc::DcId;
use crate::proto::mtproto::{self, ANSWER_MAX, LENGTH_LEN};
use crate::proto::obfuscated2::{DcFrame, Tag};
use crate::proxy::{Means, NoRoute, Routes, candidates};

/// The numbers that clients ask for; the last is for pictures and videos only.
pub(super) const NUMBERS: [i16; 6] = [1, 2, 3, 4, 5, 203];
const MEDIA_ONLY: i16 = 203;
/// Time for the answer of a data centre that has been reached.
const ANSWER: Duration = Duration::from_secs(5);

/// One check for each data centre and each proxy on the way.
pub(super) fn checks(case: &Arc<Case>) -> Vec<Check> {
    let mut checks: Vec<Check> = Vec::new();
    for (number, upstream) in case.config.network.proxies.iter().enumerate() {
        if let Upstream::Socks5(proxy) = upstream {
            let subject = format!("proxy {}", number + 1);
            let look = reach_proxy(case.clone(), subject.clone(), proxy.host.clone(), proxy.port);
            checks.push((subject, Box::pin(look)));
        }
    }
    if case.skips_native && checks.is_empty() {
        case.asking.store(0, Ordering::Relaxed);
        return checks;
    }
    for number in NUMBERS {
        let subject = format!("DC {number}");
        let look = check(case.clone(), subject.clone(), DcId::new(number));
        let case = case.clone();
        checks.push((
            subject,
            Box::pin(async move {
                let findings = look.await;
                case.asking.fetch_sub(1, Ordering::Relaxed);
                findings
            }),
        ));
    }
    checks
}

async fn reach_proxy(case: Arc<Case>, subject: String, host: Host, port: u16) -> Vec<Finding> {
    let reached = async {
        let (ips, name) = match host {
            Host::Ip(ip) => (vec![ip], ip.to_string()),
            Host::Name(name) => (case.resolver.resolve(&name).await?, name),
        };
        let addresses = ips.into_iter().map(|ip| SocketAddr::new(ip, port)).collect();
        case.telegram_dialer.connect(addresses, case.config.network.timeout.tcp).await.map(|_| name)
    };
    vec![match reached.await {
        Ok(name) => Finding::ok(&subject, &format!("{name}:{port} can be reached")),
        Err(error) => Finding::fail(
            &subject,
            &format!("cannot be reached: {error}"),
            "see whether that SOCKS5 proxy runs, and whether its address in network.proxies is right",
        ),
    }]
}

async fn check(case: Arc<Case>, subject: String, dc: DcId) -> Vec<Finding> {
    let has_proxy = case.config.network.proxies.iter().any(|upstream| matches!(upstream, Upstream::Socks5(_)));
    let Some((_, addresses)) = candidates(&case.config, dc, &[]).filter(|(_, addresses)| !addresses.is_empty()) else {
        let advice = "set prefer-ip to prefer-ipv6, which allows both kinds";
        return vec![Finding::fail(&subject, "has no address of the kind that prefer-ip allows", advice)];
    };
    let (socket, address) = match reach(&case, &addresses).await {
        Ok(reached) => reached,
        Err(error) => {
            let advice = if has_proxy { UNREACHABLE_OVER_PROXY } else { UNREACHABLE };
            return vec![lost(&subject, dc, &format!("cannot be reached: {error}"), advice)];
        }
    };
    let began = Instant::now();
    let answer = match Async::new(socket) {
        Ok(socket) => deadline::within(ANSWER, ask(&socket, dc)).await,
        Err(error) => Some(Err(error)),
    };
    // The question goes out behind nothing that would have to be waited for.
    let millis = began.elapsed().as_millis();
    let foreign = if has_proxy { FOREIGN_OVER_PROXY } else { FOREIGN };
    vec![match answer {
        Some(Ok(clock)) => {
            *case.telegram_clock.lock().unwrap_or_else(PoisonError::into_inner) = Some(clock - UnixTime::now().secs());
            Finding::ok(&subject, &format!("answers as Telegram at {}, a round trip takes {millis} ms", address.ip()))
        }
        Some(Err(error)) => {
            lost(&subject, dc, &format!("{} does not answer as Telegram: {error}", address.ip()), foreign)
        }
        None => lost(&subject, dc, &format!("{} takes the connection and says nothing", address.ip()), foreign),
    }]
}

const UNREACHABLE: &str = "if other sites work from here, the provider or a firewall blocks Telegram: a SOCKS5 proxy \
                           abroad (network.proxies) is a way around";
const FOREIGN: &str = "somebody on the way answers in place of Telegram; a SOCKS5 proxy abroad (network.proxies) is a \
                       way around";

const UNREACHABLE_OVER_PROXY: &str = "see whether the SOCKS5 proxy of network.proxies lets connections to Telegram \
                                      out and where it stands; if only this one is lost, wait or try another proxy";
const FOREIGN_OVER_PROXY: &str = "somebody answers in place of Telegram even behind the SOCKS5 proxy of \
                                  network.proxies: it stands where Telegram is blocked, or is not to be trusted";

fn lost(subject: &str, dc: DcId, text: &str, advice: &str) -> Finding {
    if dc.number() == MEDIA_ONLY {
        Finding::warn(subject, text, &format!("only some pictures and videos are affected; {advice}"))
    } else {
        Finding::fail(subject, text, advice)
    }
}

/// Connects as the proxy would, over its SOCKS5 proxies if there are any.
async fn reach(case: &Case, addresses: &[SocketAddr]) -> Result<(TcpStream, SocketAddr), NoRoute> {
    let limit = case.config.network.timeout.tcp;
    let means = Means { resolver: &case.resolver, dialer: &case.telegram_dialer, limit };
    Routes::new(&case.config.network.proxies).connect(&means, addresses).await
}

/// Asks the first question of MTProto and returns the data centre's clock, Unix time in seconds.
async fn ask(mut socket: &Async<TcpStream>, dc: DcId) -> io::Result<i64> {
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce).map_err(io::Error::other)?;
    let mut fill = |bytes: &mut [u8]| {
        // The question is not a secret: bytes that stay zero would be as good.
        let _ = getrandom::fill(bytes);
    };
    let DcFrame { bytes, mut to_dc, from_dc, .. } = DcFrame::new(Tag::Intermediate, dc, None, &mut fill);
    let mut question = mtproto::req_pq(&nonce, UnixTime::now().secs());
    to_dc.apply_keystream(&mut question);
    let wire = [bytes.as_slice(), &question].concat();
    turn::write_all(socket, &wire).await?;

    let mut from_dc = from_dc.stream();
    let mut length = [0; LENGTH_LEN];
    turn::take(socket.read_exact(&mut length)).await?;
    from_dc.apply_keystream(&mut length);
    let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    if length > ANSWER_MAX {
        return Err(io::Error::other("not an answer of a data centre"));
    }
    let mut packet = vec![0; length];
    turn::take(socket.read_exact(&mut packet)).await?;
    from_dc.apply_keystream(&mut packet);
    mtproto::res_pq(&packet, &nonce).ok_or_else(|| io::Error::other("not an answer of a data centre"))
}
