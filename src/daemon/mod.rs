//! The process around the proxy: limits, signals, the order of start and stop.

mod held;
mod notify;
mod reload;
mod signals;
pub(crate) mod status;

use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use futures_lite::FutureExt as _;
use futures_lite::future::pending;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::set_no_new_privs;

use crate::config::Config;
use crate::log::notice;
use crate::net::sockopts::CONGESTION_CONTROL;
use crate::net::turn;
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
        let front = config.front();
        let proxy = Proxy::new(config).map_err(RunError::Start)?;
        let links = match path {
            Some(path) => format!("mtg access {}", path.display()),
            None => "put the secret and bind-to into a FILE, then: mtg access FILE".to_owned(),
        };
        match proxy.local_addr() {
            Ok(address) => {
                let version = env!("CARGO_PKG_VERSION");
                notice(format_args!("listening bind-to={address} version={version} front={front} links='{links}'"));
            }
            Err(error) => log::warn!("listening at an unknown address error={error}"),
        }
        note_congestion_control(&proxy.congestion_control());
        supervisor.ready();
        let obey = async {
            while signals.next().await == Wish::Reload {
                reload::reload(&proxy, path, &supervisor);
            }
        };
        let held = async {
            match lock {
                Some(lock) => held::hold(lock).await,
                None => pending().await,
            }
        };
        turn::first_over(vec![
            proxy.serve().boxed(),
            supervisor.keep_watchdog().boxed(),
            obey.boxed(),
            held.boxed(),
            status::tell(&proxy).boxed(),
        ])
        .await;
        log::info!("stopping, running connections may end");
        supervisor.stopping();
        proxy.shutdown().or(supervisor.keep_watchdog()).or(signals.stop()).await;
        notice(format_args!("stopped"));
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

/// Whether everybody on the machine can read a file: who has the secret in it can use and find the proxy.
pub(crate) fn is_open_to_all(path: &Path) -> bool {
    const OTHERS: u32 = 0o004;
    std::fs::metadata(path).is_ok_and(|file| file.mode() & OTHERS != 0)
}

/// Tells the owner of such a configuration.
pub(crate) fn warn_of_readers(path: &Path) {
    if is_open_to_all(path) {
        log::warn!(
            "every user of this machine can read the configuration and the secret in it: chmod o-r {0} file={0}",
            path.display()
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
