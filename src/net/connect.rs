//! Connecting to one of several addresses: happy eyeballs (RFC 8305), and a memory of what failed.

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_io::{Async, Timer};

use super::{deadline, sockopts};

/// Head start of an attempt before the next one begins beside it.
const HEAD_START: Duration = Duration::from_millis(300);
/// How long a failing address is tried last.
const REMEMBERED: Duration = Duration::from_secs(60);
/// Failing addresses that are remembered.
const FAILURES_MAX: usize = 64;

/// Addresses that failed lately.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    at: Mutex<HashMap<SocketAddr, Instant>>,
}

impl Failures {
    fn lock(&self) -> MutexGuard<'_, HashMap<SocketAddr, Instant>> {
        self.at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, address: SocketAddr, now: Instant) {
        let mut failures = self.lock();
        failures.retain(|_, at| now.duration_since(*at) < REMEMBERED);
        if failures.len() < FAILURES_MAX {
            failures.insert(address, now);
        }
    }

    fn forget(&self, address: &SocketAddr) {
        self.lock().remove(address);
    }

    /// Puts the addresses that failed lately behind the others.
    fn order(&self, addresses: &mut [SocketAddr], now: Instant) {
        let failures = self.lock();
        let failed =
            |address: &SocketAddr| failures.get(address).is_some_and(|at| now.duration_since(*at) < REMEMBERED);
        addresses.sort_by_key(failed);
    }
}

/// Connects to the first of `addresses` that answers. They are tried in their order, after what failed lately has
/// moved to the end; each has a head start of 300 ms before the next and `limit` for itself.
///
/// # Errors
/// That of the last attempt to fail; `NotFound` if there is no address.
pub(crate) async fn connect(
    mut addresses: Vec<SocketAddr>,
    limit: Duration,
    failures: &Failures,
) -> io::Result<(TcpStream, SocketAddr)> {
    failures.order(&mut addresses, Instant::now());
    let mut race =
        Race { waiting: addresses.into_iter(), running: Vec::new(), failures, limit, next: None, last: None };
    poll_fn(|context| race.poll(context)).await
}

type Attempt<'a> = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send + 'a>>;

struct Race<'a> {
    waiting: std::vec::IntoIter<SocketAddr>,
    running: Vec<(SocketAddr, Attempt<'a>)>,
    failures: &'a Failures,
    limit: Duration,
    /// When the next address joins.
    next: Option<Timer>,
    last: Option<io::Error>,
}

impl Race<'_> {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
        loop {
            let mut index = 0;
            while let Some((address, attempt)) = self.running.get_mut(index) {
                match attempt.as_mut().poll(context) {
                    Poll::Pending => index += 1,
                    Poll::Ready(Ok(socket)) => {
                        self.failures.forget(address);
                        return Poll::Ready(Ok((socket, *address)));
                    }
                    Poll::Ready(Err(error)) => {
                        self.failures.remember(*address, Instant::now());
                        self.last = Some(error);
                        drop(self.running.swap_remove(index));
                        self.next = None;
                    }
                }
            }
            let may_start = match &mut self.next {
                Some(timer) => Pin::new(timer).poll(context).is_ready(),
                None => true,
            };
            if !may_start {
                return Poll::Pending;
            }
            if let Some(address) = self.waiting.next() {
                self.running.push((address, Box::pin(attempt(address, self.limit))));
                self.next = Some(Timer::after(HEAD_START));
            } else if self.running.is_empty() {
                return Poll::Ready(Err(self.last.take().unwrap_or_else(|| io::ErrorKind::NotFound.into())));
            } else {
                self.next = Some(Timer::never());
            }
        }
    }
}

async fn attempt(address: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let socket = deadline::within(limit, Async::<TcpStream>::connect(address))
        .await
        .ok_or(io::ErrorKind::TimedOut)??
        .into_inner()?;
    sockopts::prepare(&socket);
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    const LIMIT: Duration = Duration::from_secs(5);

    /// An address that refuses connections.
    fn refusing() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
    }

    #[test]
    fn a_refused_address_gives_way_at_once_and_is_tried_last_from_then_on() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (good, bad) = (listener.local_addr().unwrap(), refusing());
        let failures = Failures::default();
        let (_, reached) = async_io::block_on(connect(vec![bad, good], LIMIT, &failures)).unwrap();
        assert_eq!(reached, good);
        let mut addresses = [bad, good];
        failures.order(&mut addresses, Instant::now());
        assert_eq!(addresses, [good, bad]);
        failures.order(&mut addresses, Instant::now() + REMEMBERED);
        assert_eq!(addresses, [good, bad], "the order of equals is kept");
    }

    #[test]
    fn the_last_error_is_told_when_all_fail() {
        let failures = Failures::default();
        let error = async_io::block_on(connect(vec![refusing(), refusing()], LIMIT, &failures)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        let error = async_io::block_on(connect(vec![], LIMIT, &failures)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn the_memory_of_failures_is_bounded() {
        let (failures, now) = (Failures::default(), Instant::now());
        for port in 1..1000 {
            failures.remember(SocketAddr::from(([127, 0, 0, 1], port)), now);
        }
        assert_eq!(failures.lock().len(), FAILURES_MAX);
        failures.remember(SocketAddr::from(([127, 0, 0, 1], 1)), now + REMEMBERED);
        assert_eq!(failures.lock().len(), 1);
    }
}
