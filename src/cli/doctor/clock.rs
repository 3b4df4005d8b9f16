//! Whether the clock is right: a client whose clock is more than `tolerate-time-skewness` away is turned down.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use async_io::{Async, Timer};
use futures_lite::future::zip;

use super::{Case, Finding};
use crate::clock::UnixTime;
use crate::net::{deadline, turn};
use crate::proto::sntp::{self, MESSAGE_LEN};

const SUBJECT: &str = "clock";
/// The first of them that answers counts.
const SERVERS: [&str; 3] = ["0.pool.ntp.org", "time.cloudflare.com", "time.google.com"];
const PORT: u16 = 123;
/// Time for one server.
const PATIENCE: Duration = Duration::from_secs(3);
/// Shares of the tolerance from which the clock is a worry, and wrong; in tenths.
const TENTHS: (u64, u64) = (3, 7);

pub(super) async fn check(case: Arc<Case>) -> Vec<Finding> {
    let servers: Vec<&str> = match &case.time_server {
        Some(server) => vec![server],
        None => SERVERS.to_vec(),
    };
    // Side by side: where the internet is away, each takes its whole time.
    let [first, second, third] = std::array::from_fn(|at| ask_in_time(&case, servers.get(at).copied()));
    let (first, (second, third)) = zip(first, zip(second, third)).await;
    let mut errors = Vec::new();
    for answer in [first, second, third].into_iter().flatten() {
        match answer {
            Ok((offset, server)) => return vec![judge(&case, offset, server)],
            Err(error) => errors.push(error),
        }
    }
    if let Some(offset_secs) = telegram_clock(&case).await {
        return vec![judge(&case, offset_secs * 1000, "Telegram")];
    }
    vec![Finding::warn(
        SUBJECT,
        &format!("nobody could be asked for the right time ({})", errors.join("; ")),
        "type 'date' and compare with a phone: if more than a minute lies between them, set the clock",
    )]
}

/// What a server says, with its name; none if there is no server.
async fn ask_in_time<'a>(case: &Case, server: Option<&'a str>) -> Option<Result<(i64, &'a str), String>> {
    let server = server?;
    Some(match deadline::within(PATIENCE, ask(case, server)).await {
        Some(Ok(offset)) => Ok((offset, server)),
        Some(Err(error)) => Err(format!("{server}: {error}")),
        None => Err(format!("{server}: no answer")),
    })
}

/// How far the server's clock is ahead of ours, milliseconds.
async fn ask(case: &Case, server: &str) -> io::Result<i64> {
    let (host, port) = match server.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') => (host, port.parse().map_err(|_| io::ErrorKind::InvalidInput)?),
        _ => (server, PORT),
    };
    let ip = *case.resolver.resolve(host).await?.first().ok_or(io::ErrorKind::NotFound)?;
    let any: SocketAddr =
        if ip.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = Async::<UdpSocket>::bind(any)?;
    socket.get_ref().connect((ip, port))?;
    let mut nonce = [0; 8];
    getrandom::fill(&mut nonce).map_err(io::Error::other)?;
    let asked = UnixTime::now().millis();
    socket.send(&sntp::question(nonce)).await?;
    let mut message = [0; 4 * MESSAGE_LEN];
    loop {
        let length = turn::take(socket.recv(&mut message)).await?;
        if let Some(answer) = sntp::answer(message.get(..length).unwrap_or_default(), nonce) {
            return Ok(sntp::offset(answer, asked, UnixTime::now().millis()));
        }
    }
}

/// What a data centre's answer said, if one comes while any is asked and before time is over.
async fn telegram_clock(case: &Case) -> Option<i64> {
    let look = || *case.telegram_clock.lock().unwrap_or_else(PoisonError::into_inner);
    let until = case.deadline.checked_sub(Duration::from_secs(1))?;
    deadline::until(until, async {
        loop {
            match look() {
                Some(offset) => return Some(offset),
                None if case.asking.load(Ordering::Relaxed) == 0 => return None,
                None => Timer::after(Duration::from_millis(100)).await,
            };
        }
    })
    .await
    .flatten()
}

fn judge(case: &Case, ahead_millis: i64, server: &str) -> Finding {
    let (off, tolerance) = (Duration::from_millis(ahead_millis.unsigned_abs()), case.config.tolerate_time_skewness);
    let side = if ahead_millis > 0 { "behind" } else { "ahead of" };
    let text = format!("this machine's is {}.{:01} s {side} {server}", off.as_secs(), off.subsec_millis() / 100);
    let tenths = u64::try_from(off.as_millis() * 10 / tolerance.as_millis().max(1)).unwrap_or(u64::MAX);
    let advice = format!(
        "set the clock (OpenWrt: /etc/init.d/sysntpd restart; others: timedatectl set-ntp true); whose clock differs \
         from this one by more than {} s cannot connect",
        tolerance.as_secs()
    );
    match tenths {
        tenths if tenths < TENTHS.0 => Finding::ok(SUBJECT, &text),
        tenths if tenths < TENTHS.1 => Finding::warn(SUBJECT, &text, &advice),
        _ => Finding::fail(SUBJECT, &text, &advice),
    }
}
