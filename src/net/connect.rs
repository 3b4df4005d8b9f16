//! Connecting to one of several addresses: happy eyeballs (RFC 8305), from an address of our own where the owner
//! wants one, and a memory of what failed. What failed because we have no descriptor or memory left is nobody's fault.

use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_io::{Async, Timer};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto};
use smol::lock::{Semaphore, SemaphoreGuardArc};

use super::deadline;
use super::sockopts::{self, KeepAlive};

/// Head start of an attempt before the next one begins beside it.
const HEAD_START: Duration = Duration::from_millis(300);
/// Attempts of one connection that may run beside each other. Each is a descriptor, and whoever connects to us when the
/// front is dead makes us try all of its addresses.
const AT_ONCE: usize = 3;
/// Addresses of one peer that are tried.
const ADDRESSES_MAX: usize = 32;
/// Bytes of a segment where the packets of the way have 1400.
const TUNNEL_MSS: u16 = 1360;
/// How long a failing address is tried last.
const REMEMBERED: Duration = Duration::from_secs(60);
/// Failing addresses that are remembered.
const FAILURES_MAX: usize = 64;

/// How connections are made to one kind of peer, and what is known of its addresses.
#[derive(Debug)]
pub(crate) struct Dialer {
    /// For connections that are watched over.
    keep_alive: Option<KeepAlive>,
    /// Our own addresses, for routers that choose the way by them.
    source: (Option<Ipv4Addr>, Option<Ipv6Addr>),
    /// For routers that choose the way by a mark.
    mark: Option<u32>,
    /// What the kernel may keep for a connection in each direction, bytes.
    buffer: Option<usize>,
    /// The peer is told that packets are only as long as a tunnel takes.
    is_tunnelled: bool,
    /// Places for attempts beside the first one of each connection, which other dialers may use, too.
    racers: Option<Arc<Semaphore>>,
    failures: Failures,
}

/// Addresses that failed lately.
#[derive(Debug, Default)]
struct Failures {
    at: Mutex<Vec<(SocketAddr, Instant)>>,
}

impl Failures {
    fn lock(&self) -> MutexGuard<'_, Vec<(SocketAddr, Instant)>> {
        self.at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, address: SocketAddr, now: Instant) {
        let mut failures = self.lock();
        failures.retain(|(failed, at)| *failed != address && now.duration_since(*at) < REMEMBERED);
        if failures.len() < FAILURES_MAX {
            failures.push((address, now));
        }
    }

    fn forget(&self, address: &SocketAddr) {
        self.lock().retain(|(failed, _)| failed != address);
    }

    /// Puts the addresses that failed lately behind the others.
    fn order(&self, addresses: &mut [SocketAddr], now: Instant) {
        let failures = self.lock();
        let is_recent = |at: Instant| now.duration_since(at) < REMEMBERED;
        addresses.sort_by_key(|address| failures.iter().any(|(failed, at)| failed == address && is_recent(*at)));
    }
}

impl Dialer {
    /// A dialer that binds its sockets to the `source` address of their family, if there is one.
    pub(crate) fn new(keep_alive: Option<KeepAlive>, source: (Option<Ipv4Addr>, Option<Ipv6Addr>)) -> Self {
        Self {
            keep_alive,
            source,
            mark: None,
            buffer: None,
            is_tunnelled: false,
            racers: None,
            failures: Failures::default(),
        }
    }

    /// The same with a mark on its sockets, as far as we may set one.
    pub(crate) fn marked(self, mark: Option<u32>) -> Self {
        Self { mark, ..self }
    }

    /// The same with bounds on what the kernel keeps for its connections.
    pub(crate) fn buffered(self, buffer: Option<usize>) -> Self {
        Self { buffer, ..self }
    }

    /// The same with packets from its peers that are as long as they come through many a tunnel.
    pub(crate) fn tunnelled(self) -> Self {
        Self { is_tunnelled: true, ..self }
    }

    /// The same with a bound on its attempts beside others. Where it is reached, addresses are tried one after the other.
    pub(crate) fn racing(self, racers: &Arc<Semaphore>) -> Self {
        Self { racers: Some(racers.clone()), ..self }
    }

    /// A dialer for connections that end with one answer, which somebody waits for.
    pub(crate) fn brief() -> Self {
        let (idle, interval) = (Duration::from_secs(15), Duration::from_secs(15));
        Self::new(Some(KeepAlive { is_on: false, idle, interval, count: 1 }), (None, None))
    }

    /// Connects to the first of `addresses` that answers. They are tried in their order, after what failed lately has
    /// moved to the end; each has a head start of 300 ms before the next, and `limit` for itself unless it makes room
    /// for those that have not been tried.
    ///
    /// # Errors
    /// That of the last attempt to fail; `NotFound` if there is no address.
    pub(crate) async fn connect(
        &self,
        mut addresses: Vec<SocketAddr>,
        limit: Duration,
    ) -> io::Result<(TcpStream, SocketAddr)> {
        self.order(&mut addresses);
        addresses.truncate(ADDRESSES_MAX);
        let mut race = Race::new(self, addresses, limit);
        poll_fn(|context| race.poll(context)).await
    }

    /// Puts the addresses that failed lately behind the others.
    pub(crate) fn order(&self, addresses: &mut [SocketAddr]) {
        self.failures.order(addresses, Instant::now());
    }

    /// Takes note of an address that could not be reached in some other way.
    pub(crate) fn remember_failure(&self, address: SocketAddr) {
        self.failures.remember(address, Instant::now());
    }

    async fn attempt(&self, address: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
        deadline::within(limit, self.attempt_unlimited(address)).await.ok_or(io::ErrorKind::TimedOut)?
    }

    async fn attempt_unlimited(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
        sockopts::prepare(&socket);
        if let Some(keep_alive) = &self.keep_alive {
            sockopts::set_probes(&socket, keep_alive);
            sockopts::watch_over(&socket, keep_alive);
        }
        if let Some(mark) = self.mark {
            sockopts::mark(&socket, mark);
        }
        if let Some(bytes) = self.buffer {
            sockopts::limit_buffers(&socket, bytes);
        }
        if self.is_tunnelled {
            sockopts::limit_segments(&socket, TUNNEL_MSS);
        }
        let source = match address {
            SocketAddr::V4(_) => self.source.0.map(IpAddr::V4),
            SocketAddr::V6(_) => self.source.1.map(IpAddr::V6),
        };
        if let Some(source) = source {
            // Another way than the one that was asked for may be worse than none.
            rustix::net::bind(&socket, &SocketAddr::new(source, 0))
                .map_err(|error| io::Error::other(format!("no connections from {source}: {error}")))?;
        }
        match rustix::net::connect(&socket, &address) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        let socket = Async::new_nonblocking(TcpStream::from(socket))?;
        socket.writable().await?;
        match socket.get_ref().take_error()? {
            None => socket.into_inner(),
            Some(error) => Err(error),
        }
    }
}

/// Whether a connection could not be made because this machine or this process has no more of something.
pub(crate) fn is_our_own(error: &io::Error) -> bool {
    let ours = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    Errno::from_io_error(error).is_some_and(|errno| ours.contains(&errno))
}

type Attempt<'a> = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send + 'a>>;

struct Race<'a> {
    dialer: &'a Dialer,
    waiting: std::vec::IntoIter<SocketAddr>,
    running: Vec<Runner<'a>>,
    limit: Duration,
    /// When the next address joins.
    next: Option<Timer>,
    last: Option<io::Error>,
}

struct Runner<'a> {
    address: SocketAddr,
    started: Instant,
    attempt: Attempt<'a>,
    _place: Option<SemaphoreGuardArc>,
}

impl<'a> Race<'a> {
    fn new(dialer: &'a Dialer, addresses: Vec<SocketAddr>, limit: Duration) -> Self {
        Self { dialer, waiting: addresses.into_iter(), running: Vec::new(), limit, next: None, last: None }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
        loop {
            let mut index = 0;
            while let Some(Runner { address, started, attempt, .. }) = self.running.get_mut(index) {
                match attempt.as_mut().poll(context) {
                    Poll::Pending => index += 1,
                    Poll::Ready(Ok(socket)) => {
                        let (winner, started) = (*address, *started);
                        self.dialer.failures.forget(&winner);
                        self.remember_overtaken(started);
                        return Poll::Ready(Ok((socket, winner)));
                    }
                    Poll::Ready(Err(error)) => {
                        if !is_our_own(&error) {
                            self.dialer.failures.remember(*address, Instant::now());
                        }
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
            let has_waiting = !self.waiting.as_slice().is_empty();
            let place = if has_waiting { self.place() } else { None };
            if let (Some(place), Some(address)) = (place, self.waiting.as_slice().first().copied()) {
                self.waiting.next();
                self.make_room();
                let attempt = Box::pin(self.dialer.attempt(address, self.limit));
                self.running.push(Runner { address, started: Instant::now(), attempt, _place: place });
                self.next = Some(Timer::after(HEAD_START));
            } else if has_waiting {
                // The one that runs has its limit, and then it is the next one's turn.
                self.next = Some(Timer::after(HEAD_START));
            } else if self.running.is_empty() {
                return Poll::Ready(Err(self.last.take().unwrap_or_else(|| io::ErrorKind::NotFound.into())));
            } else {
                self.next = Some(Timer::never());
            }
        }
    }

    /// A place for another attempt. The first needs none, and whoever is given up leaves its own.
    fn place(&self) -> Option<Option<SemaphoreGuardArc>> {
        let is_counted = !self.running.is_empty();
        match &self.dialer.racers {
            Some(racers) if is_counted => racers.try_acquire_arc().map(Some),
            _ => Some(None),
        }
    }

    /// Gives up the oldest attempt when there are too many: it has had some head starts.
    fn make_room(&mut self) {
        let oldest = self.running.iter().enumerate().min_by_key(|(_, runner)| runner.started);
        if let (AT_ONCE.., Some((index, _))) = (self.running.len(), oldest) {
            let Runner { address, .. } = self.running.swap_remove(index);
            self.dialer.failures.remember(address, Instant::now());
            self.last = Some(io::ErrorKind::TimedOut.into());
        }
    }

    /// Who had a head start and lost nevertheless shall not cost the next connection the same time.
    fn remember_overtaken(&self, winner_started: Instant) {
        for runner in self.running.iter().filter(|runner| runner.started < winner_started) {
            self.dialer.failures.remember(runner.address, Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    const LIMIT: Duration = Duration::from_secs(5);
    const KEEP_ALIVE: KeepAlive =
        KeepAlive { is_on: true, idle: Duration::from_secs(60), interval: Duration::from_secs(15), count: 9 };

    fn dialer() -> Dialer {
        Dialer::new(Some(KEEP_ALIVE), (None, None))
    }

    fn connect(dialer: &Dialer, addresses: &[SocketAddr]) -> io::Result<(TcpStream, SocketAddr)> {
        async_io::block_on(dialer.connect(addresses.to_vec(), LIMIT))
    }

    fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    /// An address that refuses connections.
    fn refusing() -> SocketAddr {
        listener().1
    }

    #[test]
    fn a_refused_address_gives_way_at_once_and_is_tried_last_from_then_on() {
        let (_listener, good) = listener();
        let (dialer, bad) = (dialer(), refusing());
        assert_eq!(connect(&dialer, &[bad, good]).unwrap().1, good);
        let mut addresses = [bad, good];
        dialer.order(&mut addresses);
        assert_eq!(addresses, [good, bad]);
        dialer.failures.order(&mut addresses, Instant::now() + REMEMBERED);
        assert_eq!(addresses, [good, bad], "the order of equals is kept");
    }

    #[test]
    fn a_silent_address_is_overtaken_after_its_head_start_and_tried_last_from_then_on() {
        let (silent_listener, silent) = listener();
        let _fillers = fill(&silent_listener, silent);
        let (_listener, good) = listener();
        let dialer = dialer();
        let started = Instant::now();
        assert_eq!(connect(&dialer, &[silent, good]).unwrap().1, good);
        assert!(started.elapsed() >= HEAD_START);
        let mut addresses = [silent, good];
        dialer.order(&mut addresses);
        assert_eq!(addresses, [good, silent]);
    }

    #[test]
    fn many_silent_addresses_take_few_descriptors() {
        let (silent_listener, silent) = listener();
        let _fillers = fill(&silent_listener, silent);
        let (_listener, good) = listener();
        let (dialer, mut most) = (dialer(), 0);
        let mut race = Race::new(&dialer, [[silent; 6].as_slice(), &[good]].concat(), LIMIT);
        let counted = poll_fn(|context| {
            let outcome = race.poll(context);
            most = most.max(race.running.len());
            outcome
        });
        assert_eq!(async_io::block_on(counted).unwrap().1, good);
        assert_eq!(most, AT_ONCE);
    }

    /// Fills the queue of a listener, so that it answers nobody any more.
    fn fill(listener: &TcpListener, address: SocketAddr) -> Vec<TcpStream> {
        rustix::net::listen(listener, 0).unwrap();
        // The kernel lets one more in than it was told. It is given time to: a busy machine looks like a full queue.
        let first = TcpStream::connect(address).unwrap();
        let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(500)).ok();
        std::iter::once(first).chain(std::iter::from_fn(connect)).collect()
    }

    #[test]
    fn without_places_for_more_the_addresses_are_tried_one_after_the_other() {
        let (silent_listener, silent) = listener();
        let _fillers = fill(&silent_listener, silent);
        let (_listener, good) = listener();
        let (racers, mut most) = (Arc::new(Semaphore::new(0)), 0);
        let dialer = dialer().racing(&racers);
        let mut race = Race::new(&dialer, vec![silent, good], Duration::from_millis(700));
        let counted = poll_fn(|context| {
            let outcome = race.poll(context);
            most = most.max(race.running.len());
            outcome
        });
        assert_eq!(async_io::block_on(counted).unwrap().1, good);
        assert_eq!(most, 1);
    }

    #[test]
    fn what_we_lack_ourselves_is_not_the_fault_of_the_address() {
        for (errno, is_ours) in [(Errno::MFILE, true), (Errno::NFILE, true), (Errno::CONNREFUSED, false)] {
            assert_eq!(is_our_own(&errno.into()), is_ours, "{errno}");
        }
    }

    #[test]
    fn connections_have_small_buffers_where_memory_is_short() {
        let (_listener, address) = listener();
        let (socket, _) = connect(&dialer().buffered(Some(16 << 10)), &[address]).unwrap();
        assert_eq!(rustix::net::sockopt::socket_recv_buffer_size(&socket).unwrap(), 32 << 10);
        assert_eq!(rustix::net::sockopt::socket_send_buffer_size(&socket).unwrap(), 32 << 10);
    }

    #[test]
    fn the_last_error_is_told_when_all_fail() {
        let error = connect(&dialer(), &[refusing(), refusing()]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(connect(&dialer(), &[]).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn connections_come_from_the_address_that_was_asked_for_or_not_at_all() {
        let (listener, address) = listener();
        let from = |source: [u8; 4]| Dialer::new(Some(KEEP_ALIVE), (Some(source.into()), None));
        let (_socket, _) = connect(&from([127, 9, 8, 7]), &[address]).unwrap();
        assert_eq!(listener.accept().unwrap().1.ip().to_string(), "127.9.8.7");
        let error = connect(&from([203, 0, 113, 7]), &[address]).unwrap_err();
        assert!(error.to_string().contains("no connections from 203.0.113.7"), "{error}");
    }

    #[test]
    fn connections_have_the_mark_before_they_are_made() {
        let (_listener, address) = listener();
        let mark_of = |dialer: &Dialer| {
            let (socket, _) = connect(dialer, &[address]).unwrap();
            socket2::SockRef::from(&socket).mark().unwrap()
        };
        let allowed = if sockopts::try_mark(0x64).is_ok() { 0x64 } else { 0 };
        assert_eq!(mark_of(&dialer().marked(Some(0x64))), allowed);
        assert_eq!(mark_of(&dialer()), 0);
    }

    #[test]
    fn the_memory_of_failures_is_bounded() {
        let (failures, now) = (Failures::default(), Instant::now());
        for port in 1..1000 {
            failures.remember(SocketAddr::from(([127, 0, 0, 1], port)), now);
        }
        assert_eq!(failures.lock().len(), FAILURES_MAX);
        let [first, later] = [now, now + REMEMBERED / 2].map(|at| {
            let known = SocketAddr::from(([127, 0, 0, 1], 1));
            failures.remember(known, at);
            failures.lock().iter().find(|(failed, _)| *failed == known).map(|(_, at)| *at)
        });
        assert!(first < later, "a full memory does not learn that a known address fails still");
        failures.remember(SocketAddr::from(([127, 0, 0, 1], 1)), now + REMEMBERED * 2);
        assert_eq!(failures.lock().len(), 1);
    }
}
