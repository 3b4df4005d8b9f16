//! What a supervisor is told, by systemd's protocol: a datagram to the socket that `NOTIFY_SOCKET` names
//! (sd_notify(3)). Without that variable nothing is sent.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use async_io::Timer;
use futures_lite::future::pending;
use rustix::time::{ClockId, clock_gettime};

/// The supervisor, if there is one.
pub(super) struct Supervisor {
    socket: Option<UnixDatagram>,
    watchdog: Option<Duration>,
}

impl Supervisor {
    pub(super) fn from_env() -> Self {
        let address = env::var_os("NOTIFY_SOCKET").filter(|address| !address.is_empty());
        let socket = address.and_then(|address| match connect(&address) {
            Ok(socket) => Some(socket),
            Err(error) => {
                log::warn!("cannot reach the supervisor at NOTIFY_SOCKET error={error}");
                None
            }
        });
        let watchdog = watchdog(env::var_os("WATCHDOG_USEC"), env::var_os("WATCHDOG_PID"));
        Self { socket, watchdog }
    }

    /// The proxy serves, for the first time or again after a reload.
    pub(super) fn ready(&self) {
        self.send("READY=1");
    }

    /// A reload begins.
    pub(super) fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let micros = Duration::try_from(now).map_or(0, |now| now.as_micros());
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
    }

    /// The end begins.
    pub(super) fn stopping(&self) {
        self.send("STOPPING=1");
    }

    /// Says that we are alive, twice as often as the supervisor wants to hear it, for as long as it is polled.
    pub(super) async fn keep_watchdog(&self) {
        let Some(limit) = self.watchdog.filter(|_| self.socket.is_some()) else { return pending().await };
        loop {
            self.send("WATCHDOG=1");
            Timer::after(limit / 2).await;
        }
    }

    fn send(&self, state: &str) {
        if let Some(socket) = &self.socket
            && let Err(error) = socket.send(state.as_bytes())
        {
            log::debug!("cannot tell the supervisor state={state} error={error}");
        }
    }
}

fn connect(address: &OsStr) -> io::Result<UnixDatagram> {
    let address = match address.as_bytes().split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(address)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    // A supervisor that does not listen must not stop us.
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// How often the supervisor wants to hear of us, if it wants to, and of us and not of another process.
fn watchdog(micros: Option<OsString>, process: Option<OsString>) -> Option<Duration> {
    let number = |text: OsString| text.to_str()?.parse::<u64>().ok();
    if process.is_some_and(|process| number(process) != Some(u64::from(std::process::id()))) {
        return None;
    }
    micros.and_then(number).filter(|&micros| micros > 0).map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn supervisors_are_reached_by_path_and_by_abstract_name() {
        let name = format!("mtg-test-{}", std::process::id());
        let path = env::temp_dir().join(&name);
        let abstract_name = SocketAddr::from_abstract_name(&name).unwrap();
        let by_path = UnixDatagram::bind(&path).unwrap();
        let by_name = UnixDatagram::bind_addr(&abstract_name).unwrap();
        for (supervisor, address) in [(by_path, path.clone().into_os_string()), (by_name, format!("@{name}").into())] {
            supervisor.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let told = Supervisor { socket: Some(connect(&address).unwrap()), watchdog: None };
            told.ready();
            told.reloading();
            told.stopping();
            let mut buffer = [0; 200];
            let mut next = || {
                let length = supervisor.recv(&mut buffer).unwrap();
                String::from_utf8(buffer[..length].to_vec()).unwrap()
            };
            assert_eq!(next(), "READY=1");
            let reloading = next();
            let micros = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
            assert!(micros.parse::<u64>().unwrap() > 0);
            assert_eq!(next(), "STOPPING=1");
        }
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn the_watchdog_of_another_process_is_not_ours() {
        let own = OsString::from(std::process::id().to_string());
        assert_eq!(watchdog(Some("3000000".into()), Some(own)), Some(Duration::from_secs(3)));
        assert_eq!(watchdog(Some("3000000".into()), None), Some(Duration::from_secs(3)));
        assert_eq!(watchdog(Some("3000000".into()), Some("1".into())), None);
        for micros in [None, Some("0".into()), Some("soon".into())] {
            assert_eq!(watchdog(micros, None), None);
        }
    }
}
