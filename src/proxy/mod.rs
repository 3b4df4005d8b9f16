//! The story of a connection.
//!
//! ```text
//!  listener ─► admission ─► handshake ─────────► dial ─────► relay
//!              place,        │ not a client       │ no DC     client ⇄ DC
//!              PROXY header  └──────► front ──────┴─────────► relay
//!                                     client ⇄ front
//! ```
//! While a slow hello is not decided, a shadow connection keeps the front in the picture (`shadow`).
//!
//! `front_watch` asks the front from time to time how it answers, so that our own answer to a client looks the same.
//! `serve_client` awaits one act after the other; each hands on, or names the [`Outcome`] that ends the story. The
//! acts run as tasks on one executor; the relay has threads of its own.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::cast_possible_truncation)
)]

mod admission;
mod dial;
mod front;
mod front_watch;
mod handshake;
mod listener;
mod loops;
mod random;
mod relay;
mod route;
mod shadow;

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_io::{Async, Timer};
use futures_lite::FutureExt as _;
use smol::Executor;
use smol::lock::Semaphore;

use crate::config::{Config, Network};
use crate::guard::antireplay::AntiReplay;
use crate::guard::front_profile::FrontProfile;
use crate::guard::limits::{Limits, Permit};
use crate::net::connect::Dialer;
use crate::net::resolve::Resolver;
use crate::net::sockopts::KeepAlive;
use crate::outcome::Outcome;
use crate::proto::dc::DcId;
use handshake::Verdict;
use listener::Listener;
use loops::{Loops, Path};
use relay::{Budget, Cause, Relay, Traffic};
use route::Routes;

/// A running proxy.
///
/// Dropping it closes the listener and cuts every connection.
pub struct Proxy {
    executor: Executor<'static>,
    listener: Listener,
    shared: Arc<Shared>,
}

/// Why a proxy cannot start.
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// The address of `bind-to` cannot be listened on.
    Listen(SocketAddr, io::Error),
    /// The system has no threads or descriptors for the relay.
    Relay(io::Error),
    /// The system has no randomness.
    Random(getrandom::Error),
}

/// What all connections share.
struct Shared {
    config: Config,
    limits: Limits,
    /// Places for shadow connections.
    shadows: Arc<Semaphore>,
    anti_replay: Mutex<AntiReplay>,
    front_profile: Mutex<FrontProfile>,
    loops: Arc<Loops>,
    relay: Relay,
    resolver: Resolver,
    routes: Routes,
    telegram_dialer: Dialer,
    front_dialer: Dialer,
    started: Instant,
    next_id: AtomicU32,
}

impl Proxy {
    /// Listens on the configured address and starts the relay's threads. Connections are served by
    /// [`Proxy::serve`].
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn new(config: Config) -> Result<Self, StartError> {
        random::check().map_err(StartError::Random)?;
        let network = &config.network;
        let keep_alive = keep_alive(network);
        let listener = Listener::bind(config.bind_to, &keep_alive, network.reuse_port)
            .map_err(|error| StartError::Listen(config.bind_to, error))?;
        let idle = network.timeout.idle;
        let relay = Relay::start(relay_threads(&config), &Budget::new(BUFFERS_MAX), idle).map_err(StartError::Relay)?;
        let caps = admission::caps(&config);
        let shared = Shared {
            // A part of the strangers' places, so that they cannot all be undecided at the front's expense.
            shadows: Arc::new(Semaphore::new(caps.strangers.div_ceil(2))),
            limits: Limits::new(caps),
            anti_replay: Mutex::new(AntiReplay::new(config.defense.anti_replay_max_size.0)),
            front_profile: Mutex::default(),
            loops: Arc::default(),
            relay,
            resolver: Resolver::default(),
            routes: Routes::new(&network.proxies),
            telegram_dialer: Dialer::new(keep_alive, (network.bind_ipv4, network.bind_ipv6)),
            front_dialer: Dialer::new(keep_alive, (None, None)),
            started: Instant::now(),
            next_id: AtomicU32::new(1),
            config,
        };
        Ok(Self { executor: Executor::new(), listener, shared: Arc::new(shared) })
    }

    /// The address that is listened on.
    ///
    /// # Errors
    /// What the system says about the socket.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Accepts and serves connections for as long as the future is polled.
    pub async fn serve(&self) {
        let accept = self.listener.accept_forever(|socket, peer| {
            let shared = self.shared.clone();
            match admission::admit(&shared, peer) {
                Ok(visit) => self.executor.spawn(serve_client(shared, socket, visit)).detach(),
                Err(outcome) => {
                    log::debug!("connection refused ip={} reason={}", peer.ip().to_canonical(), outcome.as_str());
                }
            }
        });
        self.executor.run(accept.or(front_watch::watch(&self.shared))).await;
    }

    /// Serves the connections that there are, without accepting new ones, until the last has ended, or for as long as
    /// `shutdown-grace` says.
    pub async fn drain(self) {
        let Self { executor, listener, shared } = self;
        drop(listener);
        let deadline = Instant::now() + shared.config.shutdown_grace;
        let ended = async {
            while shared.limits.total() > 0 && Instant::now() < deadline {
                Timer::after(DRAIN_STEP).await;
            }
        };
        executor.run(ended).await;
    }
}

/// Bytes that the relay's buffers may take.
const BUFFERS_MAX: usize = 16 << 20;
/// Data-plane threads at most, unless configured.
const THREADS_MAX: usize = 4;
/// Time between two looks at what is still running.
const DRAIN_STEP: Duration = Duration::from_millis(50);

fn keep_alive(network: &Network) -> KeepAlive {
    let wanted = network.keep_alive;
    let count = u32::from(wanted.count);
    KeepAlive { is_on: !wanted.disabled, idle: wanted.idle, interval: wanted.interval, count }
}

fn relay_threads(config: &Config) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    config.threads.map_or(cores.min(THREADS_MAX), usize::from)
}

/// The story of one connection, up to where the relay takes over.
async fn serve_client(shared: Arc<Shared>, client: Async<TcpStream>, mut visit: Visit) {
    if let Err(outcome) = admission::identify(&shared, &client, &mut visit).await {
        return visit.end(outcome, Traffic::default());
    }
    let told = match handshake::greet(&shared, &client, &mut visit).await {
        Verdict::Client(session) => dial::to_dc(&shared, client, *session, visit).await,
        Verdict::Stranger(visitor) => front::splice(&shared, client, visitor, visit).await,
        Verdict::Over(outcome) => Err((visit, outcome)),
    };
    if let Err((visit, outcome)) = told {
        visit.end(outcome, Traffic::default());
    }
}

/// A connection that has been admitted: who it is, and its place. Every visit ends with [`Visit::end`].
struct Visit {
    id: u32,
    /// The client, or the load balancer until its header is read.
    peer: SocketAddr,
    /// The address that the client connected to, if a load balancer says so.
    connected_to: Option<SocketAddr>,
    started: Instant,
    permit: Permit,
    dc: Option<DcId>,
    /// Set while it is relayed to the front.
    front_path: Option<Path>,
}

impl Visit {
    fn new(shared: &Shared, peer: SocketAddr, permit: Permit) -> Self {
        let id = shared.next_id.fetch_add(1, Ordering::Relaxed);
        let started = Instant::now();
        Self { id, peer, connected_to: None, started, permit, dc: None, front_path: None }
    }

    /// The client's address without the port, IPv4 as such.
    fn ip(&self) -> std::net::IpAddr {
        self.peer.ip().to_canonical()
    }

    /// Writes the connection's line into the log and frees its place.
    fn end(self, outcome: Outcome, traffic: Traffic) {
        log::debug!(
            "connection ended conn={} ip={} dc={} reason={} bytes_in={} bytes_out={} ms={}",
            self.id,
            self.ip(),
            self.dc.map_or(0, DcId::number),
            outcome.as_str(),
            traffic.from_client,
            traffic.to_client,
            self.started.elapsed().as_millis()
        );
    }

    /// What the relay calls at the end; `finished` is the outcome when both sides have said all they had to.
    fn into_on_end(self, finished: Outcome) -> relay::OnEnd {
        Box::new(move |cause, traffic| {
            let outcome = match cause {
                Cause::Finished => finished,
                Cause::ClientReset => Outcome::ClientReset,
                Cause::RemoteReset => Outcome::RemoteReset,
                Cause::BadRecord => Outcome::BadClient(crate::proto::handshake::Reason::BadRecord),
                Cause::Idle => Outcome::Idle,
                Cause::Shutdown => Outcome::Shutdown,
                Cause::NoResources => Outcome::NoResources,
            };
            self.end(outcome, traffic);
        })
    }
}

/// An act's failure: the visit comes back with the outcome that ends it.
type Told = Result<(), (Visit, Outcome)>;

impl Shared {
    /// The set is whole whenever the lock is free, so a poisoned lock is as good as any.
    fn lock_anti_replay(&self) -> MutexGuard<'_, AntiReplay> {
        self.anti_replay.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The profile is whole whenever the lock is free, so a poisoned lock is as good as any.
    fn lock_front_profile(&self) -> MutexGuard<'_, FrontProfile> {
        self.front_profile.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen(address, error) => {
                write!(f, "cannot listen on {address}: {}", listener::explain(error))
            }
            Self::Relay(error) => write!(f, "cannot start the relay: {error}"),
            Self::Random(error) => write!(f, "the system gives no random numbers: {error}"),
        }
    }
}

impl std::error::Error for StartError {}
