//! What all connections share: it knows the state of every wing, and every wing is given it.

use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use smol::lock::Semaphore;

use crate::config::Config;
use crate::guard::dc_health::DcHealth;
use crate::guard::front_profile::FrontProfile;
use crate::net::connect::Dialer;
use crate::net::resolve::Resolver;
use crate::proxy::entrance::admission;
use crate::proxy::front::fault;
use crate::proxy::front::loops::Loops;
use crate::proxy::memory::Shares;
use crate::proxy::relay::Relay;
use crate::proxy::signal::{Gate, Signal};
use crate::proxy::telegram::dial::Dial;
use crate::proxy::telegram::learned::Learned;
use crate::proxy::telegram::route::Routes;
use crate::proxy::upkeep::lists::Lists;
use crate::proxy::upkeep::names;
#[cfg(feature = "tls")]
use crate::proxy::upkeep::pages::Measured;
use crate::proxy::upkeep::replays::Replays;
use crate::proxy::visit::Recorder;
use crate::proxy::visit::places::Places;
use crate::proxy::web::Web;
use crate::proxy::{Hooks, sockets};

pub(super) struct Shared {
    config: Mutex<Arc<Config>>,
    pub(super) recorder: Arc<Recorder>,
    pub(super) dial: Option<Arc<dyn Dial>>,
    pub(super) places: Places,
    pub(super) lists: Lists,
    pub(super) learned: Learned,
    #[cfg(feature = "tls")]
    pub(super) measured: Measured,
    pub(super) replays: Arc<Replays>,
    front_profile: Mutex<FrontProfile>,
    pub(super) front_fault: fault::LastReport,
    dc_health: Mutex<DcHealth>,
    pub(super) front_changes: Signal,
    /// Open once the front has answered for the first time, or has not.
    pub(super) first_look: Gate,
    pub(super) patience_changes: Signal,
    #[cfg(feature = "tls")]
    pub(super) page_changes: Signal,
    pub(super) loops: Arc<Loops>,
    pub(super) relay: Relay,
    pub(super) resolver: Resolver,
    routes: Mutex<Arc<Routes>>,
    pub(super) telegram_dialer: Arc<Dialer>,
    pub(super) front_dialer: Dialer,
    /// The same with shorter packets, for looks that those of a usual length have left without an answer.
    pub(super) tunnel_dialer: Dialer,
    pub(super) web: Web,
    pub(super) started: Instant,
    pub(super) next_id: AtomicU32,
}

impl Shared {
    pub(super) fn new(config: Config, hooks: Hooks, memory: &Shares, relay: Relay, web: Web) -> Self {
        let network = &config.network;
        let racers = Arc::new(Semaphore::new(admission::racers()));
        Self {
            recorder: Arc::new(Recorder::new(hooks.observer)),
            dial: hooks.dial,
            places: Places::new(admission::caps(&config, memory)),
            lists: Lists::new(&config.defense, memory.lists),
            learned: Learned::default(),
            #[cfg(feature = "tls")]
            measured: Measured::default(),
            replays: Replays::open(&config),
            front_profile: Mutex::default(),
            front_fault: fault::LastReport::default(),
            dc_health: Mutex::default(),
            front_changes: Signal::default(),
            first_look: Gate::default(),
            patience_changes: Signal::default(),
            #[cfg(feature = "tls")]
            page_changes: Signal::default(),
            loops: Arc::default(),
            relay,
            resolver: names::resolver(&config),
            routes: Mutex::new(Arc::new(Routes::new(&network.proxies))),
            telegram_dialer: Arc::new(sockets::telegram_dialer(network).buffered(memory.socket).racing(&racers)),
            front_dialer: sockets::front_dialer(memory, &racers),
            tunnel_dialer: sockets::front_dialer(memory, &racers).tunnelled(),
            web,
            started: Instant::now(),
            next_id: AtomicU32::new(1),
            config: Mutex::new(Arc::new(config)),
        }
    }

    /// The configuration in effect.
    pub(super) fn config(&self) -> Arc<Config> {
        self.lock_config().clone()
    }

    /// Makes a configuration the one in effect.
    pub(super) fn set_config(&self, config: Arc<Config>) {
        *self.lock_config() = config;
    }

    /// The ways to Telegram now.
    pub(super) fn routes(&self) -> Arc<Routes> {
        self.lock_routes().clone()
    }

    /// Takes other ways to Telegram, and counts what happens on them.
    pub(super) fn set_routes(&self, routes: Routes) {
        self.recorder.stats.show(routes.states());
        *self.lock_routes() = Arc::new(routes);
        self.learned.reroute();
    }

    /// Forgets a front that is not asked any more, and has the new one looked at.
    pub(super) fn forget_front(&self) {
        *self.lock_front_profile() = FrontProfile::default();
        self.loops.set_found(false);
        self.front_fault.forget();
        self.front_changes.send();
        self.patience_changes.send();
        #[cfg(feature = "tls")]
        self.page_changes.send();
    }

    /// The profile is whole whenever the lock is free, so a poisoned lock is as good as any.
    pub(super) fn lock_front_profile(&self) -> MutexGuard<'_, FrontProfile> {
        self.front_profile.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks are whole whenever the lock is free, so a poisoned lock is as good as any.
    pub(super) fn lock_dc_health(&self) -> MutexGuard<'_, DcHealth> {
        self.dc_health.lock().unwrap_or_else(PoisonError::into_inner)
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
