//! A thread of the data plane: one edge-triggered epoll, many connections, no futures.
//!
//! Each socket is registered once and never touched again at the poller; what it said is kept as flags in the
//! connection until a system call says otherwise.

use std::io;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use slab::Slab;

use super::Cause;
use super::conn::{Conn, Readiness, Side};
use super::direction::Turn;
use super::inbox::{Inbox, Letters};
use super::pool::{self, Budget, Holder, Owner, Pool};
use super::turns::{Share, Turns};

/// Events taken from the kernel at once.
const EVENTS: usize = 128;
/// How often they are taken before anybody is served.
const LOOKS: usize = 16;
/// The token of the eventfd.
const WAKE: u64 = u64::MAX;
/// Bounds of the time between two looks for idle connections and for traffic to report.
const SCAN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(15));
/// The same while somebody is blocked.
const SCAN_BLOCKED: Duration = Duration::from_secs(1);
/// Time between two reports that somebody asks for.
const REPORTS_APART: Duration = Duration::from_millis(500);

/// What is asked of the poller: everything, and each change once.
const INTEREST: EventFlags =
    EventFlags::IN.union(EventFlags::PRI).union(EventFlags::OUT).union(EventFlags::RDHUP).union(EventFlags::ET);
/// The table is made smaller when fewer of its places than one in this many are taken, but not below `SMALL` places.
const SPARSE: usize = 4;
const SMALL: usize = 256;

pub(super) struct Engine {
    poller: OwnedFd,
    inbox: Arc<Inbox>,
    conns: Slab<Conn>,
    pool: Pool,
    budget: Budget,
    /// Connections that have something to do.
    turns: Turns,
    /// Connections that have something to do at a time of the engine's clock, milliseconds. An entry may be stale.
    delayed: Vec<(u64, usize)>,
    started: Instant,
    scan_every: Duration,
    next_scan: Instant,
    next_report: Instant,
}

impl Engine {
    /// # Errors
    /// Those of epoll_create and eventfd.
    pub(super) fn new(budget: Budget) -> io::Result<(Self, Arc<Inbox>)> {
        let poller = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&poller, &wake, EventData::new_u64(WAKE), EventFlags::IN)?;
        let inbox = Arc::new(Inbox::new(wake));
        let now = Instant::now();
        let engine = Self {
            poller,
            inbox: inbox.clone(),
            conns: Slab::new(),
            pool: Pool::new(budget),
            budget,
            turns: Turns::default(),
            delayed: Vec::new(),
            started: now,
            scan_every: SCAN.1,
            next_scan: now,
            next_report: now,
        };
        Ok((engine, inbox))
    }

    /// Serves until told to stop.
    pub(super) fn run(mut self) {
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            let mut must_stop = self.look(&mut events, self.timeout());
            // Whoever stands far behind in the poller's queue is to be seen before the others are served.
            for _ in 1..LOOKS {
                if events.len() < EVENTS {
                    break;
                }
                must_stop |= self.look(&mut events, Some(Timespec::default()));
            }
            if must_stop {
                return self.close_all();
            }
            let now = Instant::now();
            if !self.delayed.is_empty() {
                self.wake_delayed(now);
            }
            self.serve_round(now);
            if now >= self.next_scan {
                self.scan(now);
            }
            self.shrink();
        }
    }

    /// Asks the poller what has happened, takes note of it and says whether to stop.
    fn look(&mut self, events: &mut Vec<epoll::Event>, timeout: Option<Timespec>) -> bool {
        events.clear();
        if let Err(error) = epoll::wait(&self.poller, spare_capacity(events), timeout.as_ref())
            && error != rustix::io::Errno::INTR
        {
            log::error!("the relay cannot wait for its sockets: {error}");
            std::thread::sleep(SCAN.0);
        }
        let mut must_stop = false;
        for event in events.iter() {
            let (flags, data) = (event.flags, event.data.u64());
            if data == WAKE { must_stop |= self.open_letters() } else { self.wake(data, flags) }
        }
        must_stop
    }

    /// How long nothing has to be done.
    fn timeout(&self) -> Option<Timespec> {
        let wait = if !self.turns.is_empty() {
            Duration::ZERO
        } else if self.conns.is_empty() {
            return None;
        } else {
            let due = self.delayed.iter().map(|(due, _)| *due).min();
            let next = due.map_or(self.next_scan, |due| self.next_scan.min(self.started + Duration::from_millis(due)));
            next.saturating_duration_since(Instant::now())
        };
        Timespec::try_from(wait).ok()
    }

    fn millis(&self, now: Instant) -> u64 {
        u64::try_from(now.duration_since(self.started).as_millis()).unwrap_or(u64::MAX)
    }

    /// Takes in new connections and says whether to stop.
    fn open_letters(&mut self) -> bool {
        let Letters { jobs, cut, promises, must_stop } = self.inbox.read();
        if !promises.is_empty() {
            self.report(Instant::now());
        }
        let now = self.millis(Instant::now());
        for job in jobs {
            let scan_every = (job.idle / 8).clamp(SCAN.0, SCAN.1);
            if scan_every < self.scan_every {
                self.scan_every = scan_every;
                self.next_scan = self.next_scan.min(Instant::now() + scan_every);
            }
            let key = self.conns.insert(Conn::new(job, &mut self.pool, now));
            // The poller reports what a socket is ready for as soon as it is added.
            if let Err(error) = self.register(key) {
                log::debug!("the relay cannot watch a socket: {error}");
                self.close(key, Cause::NoResources);
            } else if self.conns.get(key).is_some_and(|conn| conn.sits_at(key)) {
                self.close(key, Cause::Cut);
            }
        }
        for seat in cut {
            if self.conns.get(seat.key()).is_some_and(|conn| conn.has(&seat)) {
                self.close(seat.key(), Cause::Cut);
            }
        }
        must_stop
    }

    /// Tells what has moved, unless it was told a moment ago: however many ask, the relay's time is for the bytes.
    fn report(&mut self, now: Instant) {
        if now >= self.next_report {
            self.next_report = now + REPORTS_APART;
            self.conns.iter_mut().for_each(|(_, conn)| conn.report());
        }
    }

    fn register(&self, key: usize) -> io::Result<()> {
        let Some(conn) = self.conns.get(key) else { return Ok(()) };
        watch(conn, key, |socket, token| epoll::add(&self.poller, socket, token, INTEREST))
    }

    /// Passes what the poller said to the connection. An event for a place that has been given to another
    /// connection meanwhile only makes that one try in vain.
    fn wake(&mut self, token: u64, flags: EventFlags) {
        let Ok(key) = usize::try_from(token >> 1) else { return };
        let Some(conn) = self.conns.get_mut(key) else { return };
        let broken = flags.intersects(EventFlags::ERR | EventFlags::HUP);
        let readiness = Readiness {
            readable: broken || flags.intersects(EventFlags::IN | EventFlags::PRI | EventFlags::RDHUP),
            writable: broken || flags.contains(EventFlags::OUT),
            hung_up: broken || flags.contains(EventFlags::RDHUP),
            urgent: flags.contains(EventFlags::PRI),
            failed: flags.contains(EventFlags::ERR),
        };
        conn.wake(if token & 1 == 0 { Side::Client } else { Side::Remote }, readiness);
        enqueue(&mut self.turns, conn, key, conn.goes_first());
    }

    /// Queues those whose time has come.
    fn wake_delayed(&mut self, now: Instant) {
        let now = self.millis(now);
        self.delayed.retain(|&(due, key)| {
            if due <= now
                && let Some(conn) = self.conns.get_mut(key).filter(|conn| conn.delayed_until == Some(due))
            {
                conn.delayed_until = None;
                enqueue(&mut self.turns, conn, key, false);
            }
            due > now
        });
    }

    /// Gives connections that have something to do their turns, for one round.
    fn serve_round(&mut self, now: Instant) {
        let now = self.millis(now);
        self.turns.begin();
        while let Some((key, share)) = self.turns.next() {
            self.serve(key, share, now);
        }
    }

    fn serve(&mut self, key: usize, share: Share, now: u64) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        conn.is_queued = false;
        let owner = conn.owner();
        let told = conn.take_turn(&mut self.pool, now, share.most);
        self.turns.moved(share, conn.last_turn);
        match told {
            Ok(Turn::Waiting) => {}
            Ok(Turn::Unfinished) => enqueue(&mut self.turns, conn, key, false),
            Ok(Turn::Later(due)) if conn.delayed_until.is_none_or(|until| due < until) => {
                conn.delayed_until = Some(due);
                self.delayed.push((due, key));
            }
            Ok(Turn::Later(_)) => {}
            Err(cause) => self.close(key, cause),
        }
        let account = self.pool.account(owner);
        if account.is_used() {
            self.next_scan = self.next_scan.min(self.started + Duration::from_millis(now) + SCAN_BLOCKED);
        }
        if let Some(overdraft) = account.overdraft() {
            let of_owner = self.conns.iter().filter(|(_, conn)| conn.owner() == owner);
            let holders = of_owner.filter_map(|(key, conn)| conn.holder(key, now)).collect();
            self.relieve(holders, overdraft);
        }
    }

    /// Closes connections until so many bytes are free.
    fn relieve(&mut self, holders: Vec<Holder>, wanted: usize) {
        for key in pool::who_gives_way(holders, wanted) {
            self.close(key, Cause::NoResources);
        }
    }

    /// Closes some of those that are stuck if the kernel keeps too much for them: what it has for all connections of the
    /// machine is not much, and once that is used up the others stall. Strangers have less while the machine is short of
    /// memory; clients do not, for that may last.
    fn relieve_kernel(&mut self, now: u64) {
        if self.pool.is_used() && (self.budget.is_short)() {
            self.relieve_kernel_of(now, self.budget.when_short(), |owner| owner == Owner::Stranger);
        }
        self.relieve_kernel_of(now, self.budget, |_| true);
    }

    fn relieve_kernel_of(&mut self, now: u64, budget: Budget, counts: impl Fn(Owner) -> bool) {
        let counted = self.conns.iter().filter(|(_, conn)| counts(conn.owner()));
        let stuck: Vec<_> = counted.filter_map(|(key, conn)| conn.stuck(key, now, &budget)).collect();
        let kept = stuck.iter().map(|holder| holder.bytes).sum();
        if let Some(overdraft) = pool::overdraft(kept, budget.kernel) {
            self.relieve(stuck, overdraft);
        }
    }

    fn close(&mut self, key: usize, cause: Cause) {
        if let Some(conn) = self.conns.try_remove(key) {
            conn.close(&mut self.pool, cause);
        }
    }

    /// Closes what is idle, reports what the others have moved and looks which of them are quiet.
    fn scan(&mut self, now: Instant) {
        let may_wait = if self.pool.is_used() { SCAN_BLOCKED } else { SCAN.1 };
        self.next_scan = now + self.scan_every.min(may_wait);
        let now = self.millis(now);
        let is_idle = |conn: &Conn| now.saturating_sub(conn.last_active) >= conn.idle;
        let idle: Vec<_> = self.conns.iter().filter(|(_, conn)| is_idle(conn)).map(|(key, _)| key).collect();
        for key in idle {
            self.close(key, Cause::Idle);
        }
        self.relieve_kernel(now);
        for (_, conn) in &mut self.conns {
            conn.report();
            conn.rest_if_quiet(now);
        }
        if self.conns.is_empty() {
            self.scan_every = SCAN.1;
        }
    }

    /// Gives memory back when most of a crowd have left: those who stay move together.
    fn shrink(&mut self) {
        let is_sparse = self.conns.len() < self.conns.capacity() / SPARSE && self.conns.capacity() > SMALL;
        // Keys in the queues would go stale.
        if !is_sparse || !self.turns.is_empty() || !self.delayed.is_empty() {
            return;
        }
        // The poller reports again what it has reported under the old key. To change what it says needs no memory
        // and so does not fail.
        self.conns.compact(|conn, _, key| {
            conn.sits_at(key);
            watch(conn, key, |socket, token| epoll::modify(&self.poller, socket, token, INTEREST)).is_ok()
        });
        self.conns.shrink_to_fit();
        self.turns.shrink();
    }

    fn close_all(mut self) {
        for conn in self.conns.drain() {
            conn.close(&mut self.pool, Cause::Shutdown);
        }
    }
}

/// Tells the poller of both sockets, with tokens that say which is which.
fn watch(conn: &Conn, key: usize, tell: impl Fn(&TcpStream, EventData) -> rustix::io::Result<()>) -> io::Result<()> {
    for (side, bit) in [(Side::Client, 0), (Side::Remote, 1)] {
        tell(conn.socket(side), EventData::new_u64((key as u64) << 1 | bit))?;
    }
    Ok(())
}

fn enqueue(turns: &mut Turns, conn: &mut Conn, key: usize, goes_first: bool) {
    if !conn.is_queued {
        conn.is_queued = true;
        turns.add(key, goes_first);
    }
}
