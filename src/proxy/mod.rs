//! The story of a connection.
//!
//! ```text
//!  listener ─► admission ─► handshake ─────────► dial ─────► relay
//!              place,        │ not a client       │ no DC     client ⇄ DC
//!              PROXY header  └──────► front ──────┴─────────► relay
//!                                     client ⇄ front
//! ```
//! While a slow hello is not decided, a shadow connection keeps the front in the picture (`front::shadow`).
//!
//! `front::watch` asks the front from time to time how it answers, so that our own answer to a client looks the same.
//! `serve_client` awaits one act after the other; each hands on, or names the [`Outcome`] that ends the story. The
//! acts run as tasks on one executor; the relay has threads of its own.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::cast_possible_truncation)
)]

mod advice;
mod entrance;
pub(crate) mod front;
mod memory;
mod random;
mod relay;
mod telegram;
pub(crate) mod upkeep;
mod visit;
mod web;

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_io::{Async, Timer};
use futures_lite::FutureExt as _;
use futures_lite::future::zip;
use rustix::thread::sched_getaffinity;
use smol::channel::{Receiver, Sender, bounded};
use smol::lock::Semaphore;
use smol::{Executor, Task};

use crate::config::{Config, Network};
use crate::event::{Observer, Traffic};
use crate::guard::dc_health::DcHealth;
use crate::guard::front_profile::FrontProfile;
use crate::net::connect::Dialer;
use crate::net::resolve::Resolver;
use crate::net::sockopts::{self, ClientSide, KeepAlive};
use crate::outcome::Outcome;
use crate::stats::Figures;
use entrance::handshake::Verdict;
use entrance::listener::Listener;
use front::loops::Loops;
pub(crate) use front::splice::is_ourselves;
use memory::Shares;
use relay::{Budget, Relay};
pub(crate) use telegram::dial::candidates;
pub use telegram::dial::{Dial, Dialled, Dialling};
use telegram::learned::Learned;
pub(crate) use telegram::route::{Means, NoRoute, Routes};
use upkeep::lists::Lists;
use upkeep::replays::Replays;
use upkeep::reporting::Reporting;
use visit::places::Places;
use visit::{Recorder, Visit};

/// A running proxy.
///
/// Dropping it closes the listener and cuts every connection.
pub struct Proxy {
    executor: Arc<Executor<'static>>,
    listener: Listener,
    reporting: Reporting,
    shared: Arc<Shared>,
    /// Serves the WEB proxy, if there is one.
    web: Option<Task<()>>,
}

/// What an embedding program may add.
#[derive(Clone, Default)]
pub struct Hooks {
    /// Sees every event.
    pub observer: Option<Arc<dyn Observer>>,
    /// Reaches Telegram and the front.
    pub dial: Option<Arc<dyn Dial>>,
}

/// What another configuration has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reloaded {
    /// Keys whose new values are in effect.
    pub changed: Vec<&'static str>,
    /// Keys whose new values take a restart, so that the old ones stay in effect.
    pub after_restart: Vec<&'static str>,
}

/// Why a proxy cannot start.
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// The address of `bind-to` cannot be listened on.
    Listen(SocketAddr, io::Error),
    /// The address of `web.bind-to` cannot be listened on.
    Web(SocketAddr, io::Error),
    /// The address of `stats.prometheus.bind-to` cannot be listened on.
    Metrics(SocketAddr, io::Error),
    /// The system has no threads or descriptors for the relay.
    Relay(io::Error),
    /// The system has no randomness.
    Random(getrandom::Error),
}

/// What all connections share.
struct Shared {
    config: Mutex<Arc<Config>>,
    recorder: Arc<Recorder>,
    dial: Option<Arc<dyn Dial>>,
    places: Places,
    lists: Lists,
    learned: Learned,
    #[cfg(feature = "tls")]
    measured: upkeep::pages::Measured,
    replays: Arc<Replays>,
    front_profile: Mutex<FrontProfile>,
    front_fault: front::fault::Told,
    dc_health: Mutex<DcHealth>,
    front_changes: Signal,
    /// Open once the front has answered for the first time, or has not.
    first_look: Gate,
    patience_changes: Signal,
    loops: Arc<Loops>,
    relay: Relay,
    resolver: Resolver,
    routes: Mutex<Arc<Routes>>,
    telegram_dialer: Arc<Dialer>,
    front_dialer: Dialer,
    /// The same with shorter packets, for looks that those of a usual length have left without an answer.
    tunnel_dialer: Dialer,
    web: web::Web,
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
        Self::with(config, Hooks::default())
    }

    /// Does the same as [`Proxy::new`], with additions.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn with(config: Config, hooks: Hooks) -> Result<Self, StartError> {
        random::check().map_err(StartError::Random)?;
        let network = &config.network;
        let keep_alive = keep_alive(network);
        let mut memory = memory::shares(&config);
        let for_web = memory::for_web(&config, &mut memory);
        let client_side = client_side(network, &memory);
        let listener = Listener::bind(config.bind_to, &keep_alive, &client_side, network.reuse_port)
            .map_err(|error| StartError::Listen(config.bind_to, error))?;
        let web_listener = match config.web.bind_to {
            // A file that says so is refused; with this, all of the WEB proxy is left out of such a build.
            Some(address) if !cfg!(feature = "web") => return Err(StartError::Web(address, without_web())),
            Some(address) => {
                let bound = Listener::bind(address, &keep_alive, &client_side, network.reuse_port);
                Some(bound.map_err(|error| StartError::Web(address, error))?)
            }
            None => None,
        };
        warn_of_missing_mark(network);
        entrance::admission::warn_of_trust(&config);
        let budget = Budget::new(memory.buffers, memory.kernel);
        let relay = Relay::start(relay_threads(&config), budget).map_err(StartError::Relay)?;
        let racers = Arc::new(Semaphore::new(entrance::admission::racers()));
        let executor = Arc::new(Executor::new());
        let front_dialer = || {
            let buffer = memory.socket.unwrap_or(usize::MAX).min(memory::FRONT_SOCKET);
            Dialer::new(None, (None, None)).buffered(Some(buffer)).racing(&racers)
        };
        let shared = Shared {
            recorder: Arc::new(Recorder::new(hooks.observer)),
            dial: hooks.dial,
            places: Places::new(entrance::admission::caps(&config, &memory)),
            lists: Lists::new(&config.defense, memory.lists),
            learned: Learned::default(),
            #[cfg(feature = "tls")]
            measured: upkeep::pages::Measured::default(),
            replays: Replays::open(&config),
            front_profile: Mutex::default(),
            front_fault: front::fault::Told::default(),
            dc_health: Mutex::default(),
            front_changes: Signal::default(),
            first_look: Gate::default(),
            patience_changes: Signal::default(),
            loops: Arc::default(),
            relay,
            resolver: upkeep::names::resolver(&config),
            routes: Mutex::new(Arc::new(Routes::new(&network.proxies))),
            telegram_dialer: Arc::new(
                Dialer::new(Some(keep_alive), (network.bind_ipv4, network.bind_ipv6))
                    .marked(network.mark)
                    .buffered(memory.socket)
                    .racing(&racers),
            ),
            tunnel_dialer: front_dialer().tunnelled(),
            front_dialer: front_dialer(),
            web: web::Web::new(&config, &for_web, &executor),
            started: Instant::now(),
            next_id: AtomicU32::new(1),
            config: Mutex::new(Arc::new(config)),
        };
        shared.recorder.stats.show(shared.routes().states());
        let shared = Arc::new(shared);
        // Said again, for the compiler does not see from above that there is none.
        let web_listener = if cfg!(feature = "web") { web_listener } else { None };
        let web = web_listener.map(|listener| executor.spawn(web::serve(shared.clone(), listener)));
        let proxy = Self { executor, listener, reporting: Reporting::default(), shared, web };
        proxy.apply(proxy.shared.config())?;
        Ok(proxy)
    }

    /// The address that is listened on.
    ///
    /// # Errors
    /// What the system says about the socket.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The congestion control that clients get, by the name that the system gives it.
    pub(crate) fn congestion_control(&self) -> String {
        self.listener.congestion_control()
    }

    /// The numbers of the moment, and the time since the start.
    pub(crate) async fn figures(&self) -> (Figures, Duration) {
        self.shared.relay.report_now().await;
        (self.shared.recorder.stats.snapshot().figures(), self.shared.started.elapsed())
    }

    /// Accepts and serves connections for as long as the future is polled.
    pub async fn serve(&self) {
        let accept = self.listener.accept_forever(|socket, peer| {
            let shared = self.shared.clone();
            match entrance::admission::admit(&shared, peer) {
                Ok(visit) => self.executor.spawn(serve_client(shared, socket, visit)).detach(),
                Err(outcome) => {
                    advice::on_refusal(peer, outcome);
                    shared.recorder.refuse(peer, outcome);
                }
            }
        });
        let log = async { self.shared.recorder.summary.log_forever().await };
        // Boxed, for the compiler does not look that deep into futures within futures.
        let upkeep = front::watch::watch(&self.shared).boxed();
        let upkeep = upkeep
            .or(upkeep::lists::keep_fresh(&self.shared).boxed())
            .or(telegram::learned::keep_fresh(&self.shared).boxed());
        let upkeep = upkeep.or(advice::compare_name(&self.shared).boxed());
        let upkeep = upkeep.or(self.shared.replays.keep().boxed());
        #[cfg(feature = "tls")]
        let upkeep = upkeep.or(upkeep::pages::keep_measured(&self.shared).boxed());
        self.executor.run(accept.or(log).or(upkeep)).await;
    }

    /// Takes another configuration for all connections to come; those that there are go on as they began.
    ///
    /// # Errors
    /// See [`StartError`]; then nothing has changed.
    pub fn reload(&self, mut config: Config) -> Result<Reloaded, StartError> {
        let old = self.shared.config();
        let after_restart = config.keep_fixed(&old);
        let changed = config.changes(&old);
        let is_front_another =
            config.secret.host() != old.secret.host() || config.domain_fronting != old.domain_fronting;
        let proxies = (old.network.proxies != config.network.proxies).then(|| Routes::new(&config.network.proxies));
        self.apply(Arc::new(config))?;
        if let Some(routes) = proxies {
            self.shared.recorder.stats.show(routes.states());
            *self.shared.lock_routes() = Arc::new(routes);
        }
        if is_front_another {
            *self.shared.lock_front_profile() = FrontProfile::default();
            self.shared.loops.set_found(false);
            self.shared.front_fault.forget();
            self.shared.front_changes.send();
            self.shared.patience_changes.send();
        }
        Ok(Reloaded { changed, after_restart })
    }

    /// Makes a configuration the one in effect.
    fn apply(&self, config: Arc<Config>) -> Result<(), StartError> {
        let metrics = config.stats.prometheus.bind_to;
        let prepared = self.reporting.prepare(&config).map_err(|error| StartError::Metrics(metrics, error))?;
        *self.shared.lock_config() = config.clone();
        self.shared.lists.apply(&config.defense);
        self.shared.web.apply(&config);
        self.reporting.apply(&config, prepared, &self.shared, &self.executor);
        Ok(())
    }

    /// Serves the connections that there are, without accepting new ones, until the last has ended, or for as long as
    /// `shutdown-grace` says; then closes everything.
    pub async fn shutdown(self) {
        let Self { executor, listener, reporting, shared, web } = self;
        drop(listener);
        let deadline = Instant::now() + shared.config().shutdown_grace;
        let drained = async {
            while shared.places.total() > 0 && Instant::now() < deadline {
                Timer::after(DRAIN_STEP).await;
            }
        };
        let ended = async {
            // At once, for whoever has stopped us may not wait for the end.
            zip(drained, shared.replays.keep_at_stop()).await;
            // The last report has what the last connections did.
            drop(web);
            shared.web.stop().await;
            shared.relay.stop();
            reporting.finish().await;
            shared.replays.keep_at_stop().await;
        };
        executor.run(ended).await;
    }
}

fn without_web() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, crate::config::WITHOUT_WEB)
}

/// Data-plane threads at most, unless configured.
const THREADS_MAX: usize = 4;
/// Time between two looks at what is still running.
const DRAIN_STEP: Duration = Duration::from_millis(50);

pub(crate) fn keep_alive(network: &Network) -> KeepAlive {
    let wanted = network.keep_alive;
    let count = u32::from(wanted.count);
    KeepAlive { is_on: !wanted.disabled, idle: wanted.idle, interval: wanted.interval, count }
}

fn client_side(network: &Network, memory: &Shares) -> ClientSide {
    let bytes = network.notsent_lowat.map_or(memory.notsent, |size| u32::try_from(size.0).unwrap_or(u32::MAX));
    ClientSide { mss: network.client_mss, notsent_lowat: (bytes > 0).then_some(bytes), buffer: memory.socket }
}

/// Connections that leave by another way than the owner wants, because they have no mark, work as well as any; so
/// nobody would notice.
fn warn_of_missing_mark(network: &Network) {
    if let Some(mark) = network.mark
        && let Err(error) = sockopts::try_mark(mark)
    {
        log::warn!(
            "connections to Telegram have no mark and take the usual way; network.mark needs root or the capability CAP_NET_ADMIN mark={mark:#x} error={error}"
        );
    }
}

fn relay_threads(config: &Config) -> usize {
    let cores = || sched_getaffinity(None).map_or(1, |cores| usize::try_from(cores.count()).unwrap_or(1));
    config.threads.map_or_else(|| cores().clamp(1, THREADS_MAX), usize::from)
}

/// The story of one connection, up to where the relay takes over.
async fn serve_client(shared: Arc<Shared>, client: Async<TcpStream>, mut visit: Visit) {
    if let Err(outcome) = entrance::admission::identify(&shared, &client, &mut visit).await {
        advice::on_refusal(visit.peer, outcome);
        return visit.refuse(outcome);
    }
    visit.start();
    let told = match entrance::handshake::greet(&shared, &client, &mut visit).await {
        Verdict::Client(session) => telegram::dial::to_dc(&shared, client, *session, visit).await,
        Verdict::Stranger(visitor) => {
            visit.fronting(visitor.stranger);
            advice::on_unexpected_header(&visit, &visitor.received);
            front::splice::splice(&shared, client, visitor, visit).await
        }
        Verdict::Over(outcome) => Err((visit, outcome)),
    };
    if let Err((visit, outcome)) = told {
        visit.end(outcome, Traffic::default());
    }
}

/// Wakes one waiter; a signal that nobody waits for is kept for the next.
struct Signal(Sender<()>, Receiver<()>);

impl Default for Signal {
    fn default() -> Self {
        let (sender, receiver) = bounded(1);
        Self(sender, receiver)
    }
}

impl Signal {
    fn send(&self) {
        // A full channel has a signal in it already.
        let _ = self.0.try_send(());
    }

    async fn wait(&self) {
        // It cannot be closed, for we hold both of its ends.
        let _ = self.1.recv().await;
    }
}

/// Lets everybody through once it has been opened.
struct Gate(Sender<()>, Receiver<()>);

impl Default for Gate {
    fn default() -> Self {
        let (sender, receiver) = bounded(1);
        Self(sender, receiver)
    }
}

impl Gate {
    fn open(&self) {
        self.0.close();
    }

    async fn wait(&self) {
        // Nothing is ever sent, so this ends when the channel is closed.
        let _ = self.1.recv().await;
    }
}

/// An act's failure: the visit comes back with the outcome that ends it.
type Told = Result<(), (Visit, Outcome)>;

impl Shared {
    /// The configuration in effect.
    fn config(&self) -> Arc<Config> {
        self.lock_config().clone()
    }

    /// The profile is whole whenever the lock is free, so a poisoned lock is as good as any.
    fn lock_front_profile(&self) -> MutexGuard<'_, FrontProfile> {
        self.front_profile.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The ways to Telegram now.
    fn routes(&self) -> Arc<Routes> {
        self.lock_routes().clone()
    }

    /// A pointer is never half written, so a poisoned lock is as good as any.
    fn lock_routes(&self) -> MutexGuard<'_, Arc<Routes>> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A pointer is never half written, so a poisoned lock is as good as any.
    fn lock_config(&self) -> MutexGuard<'_, Arc<Config>> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen(address, error) => {
                write!(f, "cannot listen on {address}: {}", entrance::listener::explain(error))
            }
            Self::Web(address, error) => {
                write!(f, "cannot listen for the WEB proxy on {address}: {}", entrance::listener::explain(error))
            }
            Self::Metrics(address, error) => {
                write!(f, "cannot serve metrics on {address}: {}", entrance::listener::explain(error))
            }
            Self::Relay(error) => write!(f, "cannot start the relay: {error}"),
            Self::Random(error) => write!(f, "the system gives no random numbers: {error}"),
        }
    }
}

impl std::error::Error for StartError {}
