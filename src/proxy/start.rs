//! Starting a proxy: what can fail fails here, before anybody is served.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustix::thread::sched_getaffinity;
use smol::Executor;

use crate::config::Config;
use crate::event::Observer;
use crate::proxy::entrance::admission;
use crate::proxy::entrance::listener::{self, Listener};
use crate::proxy::relay::{Budget, Relay};
use crate::proxy::shared::Shared;
use crate::proxy::telegram::dial::Dial;
use crate::proxy::upkeep::reporting::Reporting;
use crate::proxy::web::{self, Web};
use crate::proxy::{Proxy, memory, random, sockets};

/// Data-plane threads at most, unless configured.
const THREADS_MAX: usize = 4;

/// What an embedding program may add.
#[derive(Clone, Default)]
pub struct Hooks {
    /// Sees every event.
    pub observer: Option<Arc<dyn Observer>>,
    /// Reaches Telegram and the front.
    pub dial: Option<Arc<dyn Dial>>,
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

pub(super) fn start(config: Config, hooks: Hooks) -> Result<Proxy, StartError> {
    random::check().map_err(StartError::Random)?;
    let network = &config.network;
    let mut memory = memory::shares(&config);
    let for_web = memory::for_web(&config, &mut memory);
    let (keep_alive, client_side) = (sockets::keep_alive(network), sockets::client_side(network, &memory));
    let bind = |address| Listener::bind(address, &keep_alive, &client_side, network.reuse_port);
    let listener = bind(config.bind_to).map_err(|error| StartError::Listen(config.bind_to, error))?;
    let web_listener = match config.web.bind_to {
        // A file that says so is refused; with this, all of the WEB proxy is left out of such a build.
        Some(address) if !cfg!(feature = "web") => return Err(StartError::Web(address, without_web())),
        Some(address) => Some(bind(address).map_err(|error| StartError::Web(address, error))?),
        None => None,
    };
    sockets::warn_of_missing_mark(network);
    admission::warn_of_trust(&config);
    let budget = Budget::new(memory.buffers, memory.kernel).on_machine(memory.socket.is_some(), memory::is_short);
    let relay = Relay::start(relay_threads(&config), budget).map_err(StartError::Relay)?;
    let executor = Arc::new(Executor::new());
    let web = Web::new(&config, &for_web, &executor);
    let shared = Arc::new(Shared::new(config, hooks, &memory, relay, web));
    shared.recorder.stats.show(shared.routes().states());
    // Said again, for the compiler does not see from above that there is none.
    let web_listener = if cfg!(feature = "web") { web_listener } else { None };
    let web = web_listener.map(|listener| executor.spawn(web::serve(shared.clone(), listener)));
    let proxy = Proxy { executor, listener, reporting: Reporting::default(), shared, web };
    proxy.apply(proxy.shared.config())?;
    Ok(proxy)
}

fn without_web() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, crate::config::WITHOUT_WEB)
}

fn relay_threads(config: &Config) -> usize {
    let cores = || sched_getaffinity(None).map_or(1, |cores| usize::try_from(cores.count()).unwrap_or(1));
    config.threads.map_or_else(|| cores().clamp(1, THREADS_MAX), usize::from)
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen(address, error) => {
                write!(f, "cannot listen on {address}: {}", listener::explain(error))
            }
            Self::Web(address, error) => {
                write!(f, "cannot listen for the WEB proxy on {address}: {}", listener::explain(error))
            }
            Self::Metrics(address, error) => {
                write!(f, "cannot serve metrics on {address}: {}", listener::explain(error))
            }
            Self::Relay(error) => write!(f, "cannot start the relay: {error}"),
            Self::Random(error) => write!(f, "the system gives no random numbers: {error}"),
        }
    }
}

impl std::error::Error for StartError {}
