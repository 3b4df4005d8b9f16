//! Telegram's WEB proxy: the requests that a web server passes on, from browsers that apps hide.
//!
//! ```text
//!  app ─► browser ═ TLS ═► web server ─► listener ─► calls ─► link ◄─► streams ─► DCs
//!                                        http        │ page            (dial, as for FakeTLS)
//!                                                    └ socket: a WebSocket in place of calls
//! ```
//! `http` reads requests and writes answers, `calls` decides, and everything that is not ours gets one and the same
//! answer, in whose place the web server puts its site. `link` is a session and the memory it takes; `stream` connects
//! it to a DC, and `flow` moves the bytes between them.
//!
//! Streams are tasks, and not connections of the relay's engine: their client's end is no socket but two queues, which
//! belong to requests that come and go. A stream at rest holds its ciphers and no buffer, as in the engine.

mod calls;
mod flow;
mod http;
mod link;
mod socket;
mod stream;
mod upload;

use std::collections::BTreeMap;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use async_io::{Async, Timer};
use smol::Executor;

use crate::config::{Carrier, Config};
use crate::event::Event;
use crate::guard::rate::Rate;
use crate::proto::web::portion::Portion;
use crate::proto::web::site::Site;
use crate::proto::web::token::{Bootstrap, Name};
use crate::proxy::entrance::listener::Listener;
use crate::proxy::memory::WebShares;
use crate::proxy::{Shared, random};
use link::{Account, Link};

/// Time between two looks for sessions that nobody asks for any more, and for streams that say nothing.
const SWEEP: Duration = Duration::from_secs(5);
/// Time between two looks whether the streams of ended sessions have told of their ends.
const STOP_STEP: Duration = Duration::from_millis(10);
/// How long a session lives without a request, and is remembered after its end.
const GRACE_SECS: u32 = 120;
/// Connections of web servers at most: each session has up to two at a time, and every stranger has one for a moment.
const CONNECTIONS_MIN: usize = 512;
const CONNECTIONS_EACH: usize = 4;
/// Streams that connect to Telegram at the same time.
const DIALS: usize = 64;
/// Bytes of a batch, with little and with enough memory.
const BATCHES: (usize, usize) = (256 << 10, 1 << 20);

/// What all sessions share.
pub(super) struct Web {
    site: Mutex<Arc<Site>>,
    links: Mutex<BTreeMap<Name, Arc<Link>>>,
    bootstrap: Bootstrap,
    account: Arc<Account>,
    rates: Mutex<Rates>,
    connections: AtomicUsize,
    streams: AtomicUsize,
    dials: smol::lock::Semaphore,
    sessions_max: usize,
    batch_len: usize,
    is_draining: AtomicBool,
    executor: Weak<Executor<'static>>,
    started: Instant,
}

/// How often those who have the secret may ask for what costs something.
struct Rates {
    pages: Rate,
    sessions: Rate,
    opens: Rate,
}

impl Web {
    pub(super) fn new(config: &Config, shares: &WebShares, executor: &Arc<Executor<'static>>) -> Self {
        let mut key = [0; 32];
        random::fill(&mut key);
        Self {
            site: Mutex::new(Arc::new(site(config))),
            links: Mutex::default(),
            bootstrap: Bootstrap::new(key),
            account: Arc::new(Account::new(shares.bytes)),
            rates: Mutex::new(Rates {
                pages: Rate::new(1200, 256),
                sessions: Rate::new(600, 128),
                opens: Rate::new(6000, 512),
            }),
            connections: AtomicUsize::new(0),
            streams: AtomicUsize::new(0),
            dials: smol::lock::Semaphore::new(DIALS),
            sessions_max: shares.sessions,
            batch_len: if shares.is_ample { BATCHES.1 } else { BATCHES.0 },
            is_draining: AtomicBool::new(false),
            executor: Arc::downgrade(executor),
            started: Instant::now(),
        }
    }

    /// Takes what a reload has changed. Sessions go on; whoever loads the page gets the new one.
    pub(super) fn apply(&self, config: &Config) {
        *self.site.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(site(config));
    }

    /// Takes no pages, sessions and streams any more: they would be cut off in a moment, and as long as apps open more of
    /// them the last would never have ended. Those that there are go on.
    pub(super) fn drain(&self) {
        self.is_draining.store(true, Ordering::Relaxed);
    }

    /// Batches to an app. One that is asked for is all that comes in a round trip. What goes over a WebSocket is sent as
    /// long as there is room, the sooner the better: while it is still in the processor's cache.
    fn portion_of(&self, carrier: Carrier) -> Portion {
        match carrier {
            Carrier::Https => Portion::paced(self.batch_len),
            Carrier::Websocket => Portion::fixed(BATCHES.0),
        }
    }

    fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed)
    }

    /// Ends all sessions, and waits a moment for their streams to have told of their ends.
    pub(super) async fn stop(&self) {
        let links = std::mem::take(&mut *self.lock_links());
        for link in links.into_values() {
            link.end();
        }
        let deadline = Instant::now() + Duration::from_secs(1);
        while self.streams.load(Ordering::Relaxed) > 0 && Instant::now() < deadline {
            Timer::after(STOP_STEP).await;
        }
    }

    fn site(&self) -> Arc<Site> {
        self.site.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The table is whole whenever the lock is free, so a poisoned lock is as good as any.
    fn lock_links(&self) -> MutexGuard<'_, BTreeMap<Name, Arc<Link>>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an allowance of one kind.
    fn may(&self, kind: impl FnOnce(&mut Rates) -> &mut Rate) -> bool {
        kind(&mut self.rates.lock().unwrap_or_else(PoisonError::into_inner)).take(self.millis())
    }

    /// Milliseconds since the start.
    fn millis(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Seconds since the start.
    fn now(&self) -> u32 {
        u32::try_from(self.started.elapsed().as_secs()).unwrap_or(u32::MAX)
    }

    /// Runs a task beside the others; it ends when the proxy does.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(executor) = self.executor.upgrade() {
            executor.spawn(task).detach();
        }
    }

    /// Forgets the session that has been without a stream and without a request for longest, if there is one: so many
    /// are made by somebody who does not use them, and an app that is at rest makes another.
    fn make_room(&self, links: &mut BTreeMap<Name, Arc<Link>>) -> bool {
        let unused = links.iter().filter(|(_, link)| !link.lock().has_streams());
        let oldest = unused.min_by_key(|(_, link)| link.last_seen()).map(|(name, _)| *name);
        oldest.and_then(|name| links.remove(&name)).map(|link| link.end()).is_some()
    }

    /// Ends the sessions that nobody has asked for lately, and forgets those that ended long ago.
    fn sweep(&self) {
        let now = self.now();
        self.lock_links().retain(|_, link| {
            link.lock().turn();
            let is_old = now.saturating_sub(link.last_seen()) >= GRACE_SECS;
            if is_old {
                link.end();
            }
            !is_old
        });
        self.account.tidy();
    }
}

/// Whom requests are for.
fn site(config: &Config) -> Site {
    Site::new(config.web_host(), &config.web.path, config.secret.key())
}

/// Counts a request that was refused.
fn refused(shared: &Shared, client: IpAddr, reason: &'static str) {
    shared.recorder.record(&Event::WebRefused { client, reason });
    log::debug!("request refused ip={client} reason={reason}");
}

/// Serves web servers for as long as it is polled.
pub(super) async fn serve(shared: Arc<Shared>, listener: Listener) {
    let accept = listener.accept_forever(|socket, peer| {
        if let Some(place) = Place::take(&shared, peer) {
            shared.web.spawn(serve_connection(shared.clone(), socket, place));
        }
    });
    let sweep = async {
        loop {
            Timer::after(SWEEP).await;
            shared.web.sweep();
        }
    };
    smol::future::or(accept, sweep).await;
}

async fn serve_connection(shared: Arc<Shared>, socket: Async<std::net::TcpStream>, place: Place) {
    let mut connection = http::Connection::new(socket);
    while let Some(request) = connection.next_request(|| shared.web.site()).await {
        // In memory of its own: between two requests a connection holds next to nothing.
        if !Box::pin(calls::answer(&shared, &mut connection, request, place.peer)).await {
            break;
        }
    }
}

/// A web server's connection, counted.
struct Place {
    shared: Arc<Shared>,
    peer: IpAddr,
}

impl Place {
    /// None for strangers: tokens are in clear here, and addresses are believed.
    fn take(shared: &Arc<Shared>, peer: SocketAddr) -> Option<Self> {
        let (peer, web) = (peer.ip().to_canonical(), &shared.web);
        let is_trusted = shared.config().web.trusted.iter().any(|network| network.contains(peer));
        if !is_trusted && !peer.is_loopback() {
            log::debug!("not a web server that is trusted ip={peer}");
            return None;
        }
        let most = CONNECTIONS_MIN + CONNECTIONS_EACH * web.sessions_max;
        if web.connections.fetch_add(1, Ordering::Relaxed) >= most {
            web.connections.fetch_sub(1, Ordering::Relaxed);
            log::debug!("too many connections of web servers ip={peer}");
            return None;
        }
        Some(Self { shared: shared.clone(), peer })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.web.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The size of what a function returns.
    fn returned<A, F>(_: impl FnOnce(A) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn connections_at_rest_take_half_a_kibibyte_and_parked_polls_one_more() {
        type Visitor = (Arc<Shared>, Async<std::net::TcpStream>, Place);
        let rests = returned(|(shared, socket, place): Visitor| serve_connection(shared, socket, place));
        type Asked<'a> = (&'a Arc<Shared>, &'a mut http::Connection, http::Request, IpAddr);
        let waits = returned(|(shared, to, request, peer): Asked<'static>| calls::answer(shared, to, request, peer));
        assert!(rests <= 512 && waits <= 1024, "{rests} and {waits}");
    }
}
