//! What `mtg status` is told: a few lines at a socket of this machine, for the metrics are off unless somebody wants them.
//!
//! The socket has a name and no file (unix(7), "abstract"), so it takes no folder that mtg may write to and leaves
//! nothing behind, works out of a jail, and is gone with the process whatever that dies of. The name has the address of
//! `bind-to` in it, which no two processes have at a time. Whoever can connect is on this machine, and learns no more
//! than numbers; he is sent what fits into a socket's buffer and is never waited for.

use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as Name, UnixListener, UnixStream};
use std::time::Duration;

use async_io::{Async, Timer};
use futures_lite::future::pending;

use crate::net::turn;
use crate::proxy::Proxy;
use crate::stats::Figures;

/// Pause after an error that only time mends: another process on the same port may be about to end.
const PAUSE: Duration = Duration::from_secs(1);
/// Time for which one who asks makes the next one wait, so that nobody keeps the relay busy with reports.
const BETWEEN: Duration = Duration::from_millis(20);
/// Bytes of an answer that are read, and how long it may take.
const ANSWER_MAX: u64 = 4 << 10;
const PATIENCE: Duration = Duration::from_secs(5);

/// How a proxy fares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) version: String,
    pub(crate) congestion_control: String,
    pub(crate) uptime_secs: u64,
    pub(crate) figures: Figures,
}

/// Answers whoever asks, for as long as it is polled; it never ends.
pub(super) async fn tell(proxy: &Proxy) {
    let Ok(address) = proxy.local_addr() else { return pending().await };
    let listener = loop {
        match listen(address) {
            Ok(listener) => break listener,
            Err(error) => log::debug!("'mtg status' cannot be answered yet error={error}"),
        }
        Timer::after(PAUSE).await;
    };
    loop {
        match turn::take(listener.accept()).await {
            Ok((socket, _)) => {
                let text = Status::of(proxy).await.to_lines();
                // A fresh socket has room for it; who does not read is not waited for.
                let _ = socket.get_ref().write_all(text.as_bytes());
                Timer::after(BETWEEN).await;
            }
            Err(error) => {
                log::debug!("one who asked for the status was lost error={error}");
                Timer::after(PAUSE).await;
            }
        }
    }
}

/// Asks the proxy that listens on `address`.
///
/// # Errors
/// `ConnectionRefused` if there is none; else those of the socket, or `InvalidData`.
pub(crate) fn ask(address: SocketAddr) -> io::Result<Status> {
    let socket = UnixStream::connect_addr(&name(address)?)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut text = String::new();
    socket.take(ANSWER_MAX).read_to_string(&mut text)?;
    Status::from_lines(&text).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn listen(address: SocketAddr) -> io::Result<Async<UnixListener>> {
    Async::new(UnixListener::bind_addr(&name(address)?)?)
}

fn name(address: SocketAddr) -> io::Result<Name> {
    Name::from_abstract_name(format!("mtg-status {address}"))
}

impl Status {
    async fn of(proxy: &Proxy) -> Self {
        let (figures, uptime) = proxy.figures().await;
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            congestion_control: proxy.congestion_control(),
            uptime_secs: uptime.as_secs(),
            figures,
        }
    }

    /// `NAME VALUE` lines.
    fn to_lines(&self) -> String {
        let Self { version, congestion_control, uptime_secs, mut figures } = self.clone();
        let mut text =
            format!("version {version}\ncongestion_control {congestion_control}\nuptime_secs {uptime_secs}\n");
        for (name, value) in figures.each() {
            text += &format!("{name} {value}\n");
        }
        text
    }

    /// None if it is something else. Lines of another version are passed over.
    fn from_lines(text: &str) -> Option<Self> {
        let mut status = Self::default();
        for (name, value) in text.lines().filter_map(|line| line.split_once(' ')) {
            // It is shown in terminals, and anybody on this machine could have taken the name of a proxy that is down.
            if !value.bytes().all(|byte| byte.is_ascii_graphic()) {
                return None;
            }
            match name {
                "version" => value.clone_into(&mut status.version),
                "congestion_control" => value.clone_into(&mut status.congestion_control),
                "uptime_secs" => status.uptime_secs = value.parse().ok()?,
                _ => {
                    if let Some((_, figure)) = status.figures.each().into_iter().find(|(known, _)| *known == name) {
                        *figure = value.parse().ok()?;
                    }
                }
            }
        }
        (!status.version.is_empty()).then_some(status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_what_is_understood() {
        let mut status = Status { version: "1.2.3".into(), congestion_control: "bbr".into(), ..Status::default() };
        status.uptime_secs = 7;
        status.figures.each().into_iter().zip(1 << 40..).for_each(|((_, figure), value)| *figure = value);
        let lines = status.to_lines();
        assert!(lines.lines().count() == 9 && lines.len() < 1024, "{lines}");
        assert_eq!(Status::from_lines(&format!("{lines}news 1,2,3\n")), Some(status));
        for other in ["", "HTTP/1.1 400 Bad Request\n", "version 1.2.3\nclients many\n", "version \x1b[31m\n"] {
            assert_eq!(Status::from_lines(other), None, "{other}");
        }
    }
}
