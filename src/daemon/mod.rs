//! The process around the proxy: limits, signals, the order of start and stop.

mod held;
mod notify;
mod reload;
mod signals;

use std::fmt;
use std::path::Path;

use futures_lite::FutureExt as _;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::set_no_new_privs;

use crate::config::Config;
use crate::net::sockopts::CONGESTION_CONTROL;
use crate::proxy::{Proxy, StartError};
use notify::Supervisor;
use signals::{Signals, Wish};

/// Why the daemon ended with a failure.
#[derive(Debug)]
#[non_exhaustive]
pub enum RunError {
    /// The proxy cannot start.
    Start(StartError),
    /// Signals cannot be received.
    Signals(std::io::Error),
}

/// Runs the proxy until a signal ends it. `path` is the file that `config` came from, if there is one; `lock` is a file
/// to keep locked while clients can come in.
///
/// # Errors
/// See [`RunError`].
pub fn run(config: Config, path: Option<&Path>, lock: Option<&Path>) -> Result<(), RunError> {
    raise_descriptor_limit();
    // Before there are threads. procd does it in a jail only; a kernel that cannot has no use for it either.
    let _ = set_no_new_privs(true);
    let supervisor = Supervisor::from_env();
    async_io::block_on(async {
        let mut signals = Signals::new().map_err(RunError::Signals)?;
        let proxy = Proxy::new(config).map_err(RunError::Start)?;
        match proxy.local_addr() {
            Ok(address) => log::info!("listening bind-to={address}"),
            Err(error) => log::warn!("listening at an unknown address error={error}"),
        }
        note_congestion_control(&proxy.congestion_control());
        let held = match lock {
            Some(lock) => held::hold(lock).await,
            None => None,
        };
        supervisor.ready();
        let obey = async {
            while signals.next().await == Wish::Reload {
                reload::reload(&proxy, path, &supervisor);
            }
        };
        proxy.serve().or(supervisor.keep_watchdog()).or(obey).await;
        drop(held);
        log::info!("stopping, running connections may end");
        supervisor.stopping();
        proxy.shutdown().or(supervisor.keep_watchdog()).or(signals.stop()).await;
        log::info!("stopped");
        Ok(())
    })
}

fn note_congestion_control(control: &str) {
    if control == CONGESTION_CONTROL {
        log::info!("clients get congestion control {control}");
    } else {
        log::info!(
            "clients get congestion control {control}, which is slow on bad lines; 'mtg doctor' tells how to get {CONGESTION_CONTROL}"
        );
    }
}

/// Takes as many descriptors as the system lets us have.
fn raise_descriptor_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        log::warn!("cannot raise the limit of open files error={error}");
    }
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start(error) => error.fmt(f),
            Self::Signals(error) => write!(f, "cannot receive signals: {error}"),
        }
    }
}

impl std::error::Error for RunError {}
