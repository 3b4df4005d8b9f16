//! The connection to the front that stands behind whoever has not sent a whole hello.
//!
//! A hello that is not there, or only in part, may be a client's on a bad line, or somebody's who wants to see how we
//! end it. So such a peer gets its connection to the front as soon as behind any TCP relay, and what it sends is passed
//! on as it arrives: the front's own patience decides, from the beginning, and what the front says or does is what the
//! peer sees. The front never gets a whole hello of a client, for the byte that completes it is passed on after the
//! verdict only; if it is a client's, the shadow is dropped.

use std::future::Future;
use std::io::{self, ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_io::{Async, Timer};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::config::Config;
use crate::net::deadline;
use crate::net::own_ends::OwnEnd;
use crate::net::sockopts::reset_on_close;
use crate::proxy::front::connect::{IDLE, Link};
use crate::proxy::front::splice;
use crate::proxy::{Shared, Visit};

/// How long a whole hello may take before the front is dialled. A client's arrives with the last packet of the
/// connection's own handshake, so that the front has nothing of those; to be early costs the front a connection, and to
/// be late shows in its patience.
const HEAD_START: Duration = Duration::from_millis(10);

/// What stands behind an undecided client.
pub(in crate::proxy) struct Shadow<'a> {
    shared: &'a Shared,
    config: Arc<Config>,
    peer: SocketAddr,
    /// What the front gets before the client's first byte.
    header: Vec<u8>,
    state: State<'a>,
    /// When a hello is given up that has no shadow.
    deadline: Instant,
}

enum State<'a> {
    /// A client's hello is here before this moment.
    Waiting(Instant),
    Dialling(Dial<'a>),
    Open {
        socket: Async<TcpStream>,
        progress: Progress,
        own_end: OwnEnd,
    },
    /// The front cannot be reached.
    Missing,
}

type Dial<'a> = Pin<Box<dyn Future<Output = io::Result<Link>> + Send + 'a>>;

/// What the front knows of the client.
#[derive(Clone, Copy, Default)]
struct Progress {
    /// Bytes that it has got, our PROXY header included.
    sent: usize,
    is_reset: bool,
}

impl<'a> Shadow<'a> {
    /// To be made when the connection has been accepted and it is known whose it is.
    pub(in crate::proxy) fn new(shared: &'a Shared, visit: &Visit, header: Vec<u8>) -> Self {
        let now = Instant::now();
        let deadline = now + visit.config.network.timeout.handshake;
        let state = State::Waiting(now + HEAD_START);
        Self { shared, config: visit.config.clone(), peer: visit.peer, header, state, deadline }
    }

    /// Keeps the front up to date with what was `received`, until the connection is the front's for good: it has
    /// spoken, or ended its side, or there is no shadow and the time is over. May be dropped and called again at
    /// any moment.
    pub(in crate::proxy) async fn follow(&mut self, received: &[u8]) {
        loop {
            match &mut self.state {
                State::Waiting(until) => {
                    Timer::at(*until).await;
                    self.state = State::Dialling(Box::pin(splice::dial(self.shared, self.config.clone(), self.peer)));
                }
                State::Dialling(dial) => {
                    let dialled = dial.await.and_then(|link| Ok((Async::new(link.socket)?, link.own_end)));
                    self.state = dialled.map_or(State::Missing, |(socket, own_end)| State::Open {
                        socket,
                        progress: Progress::default(),
                        own_end,
                    });
                }
                State::Open { socket, progress, .. } => {
                    if pass_on(socket.get_ref(), [&self.header, received], progress) {
                        deadline::within(IDLE, spoken(socket)).await;
                        return;
                    } else if progress.is_reset {
                        return;
                    }
                    let _ = socket.writable().await;
                }
                State::Missing => {
                    Timer::at(self.deadline).await;
                    return;
                }
            }
        }
    }

    /// Says whether the front knows of the connection, or is about to.
    pub(in crate::proxy) fn has_begun(&self) -> bool {
        !matches!(self.state, State::Waiting(_))
    }

    /// The peer has reset its connection.
    pub(in crate::proxy) fn reset(self) {
        if let State::Open { socket, .. } = &self.state {
            reset_on_close(socket.get_ref());
        }
    }

    /// The connection to the front, if there is one or there is going to be one.
    pub(in crate::proxy) async fn into_link(self) -> Option<Link> {
        match self.state {
            State::Open { socket, progress: Progress { sent, is_reset }, own_end } => {
                socket.into_inner().ok().map(|socket| Link { socket, sent, is_reset, own_end })
            }
            State::Dialling(dial) => dial.await.ok(),
            State::Waiting(_) | State::Missing => None,
        }
    }
}

/// Passes on what is new and says whether all of it is gone.
fn pass_on(mut socket: &TcpStream, [header, received]: [&[u8]; 2], progress: &mut Progress) -> bool {
    loop {
        let rest = match header.get(progress.sent..) {
            Some(rest) if !rest.is_empty() => rest,
            _ => received.get(progress.sent - header.len()..).unwrap_or_default(),
        };
        if rest.is_empty() {
            return true;
        }
        match socket.write(rest) {
            Ok(taken) => progress.sent += taken,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => {
                progress.is_reset = error.kind() != ErrorKind::WouldBlock;
                return false;
            }
        }
    }
}

/// Waits until the front has sent something, or has ended or reset the connection. Nothing is read: the relay has to
/// see the same, and a reset is told only once.
async fn spoken(socket: &Async<TcpStream>) {
    while socket.readable().await.is_ok() {
        let mut fds = [PollFd::new(socket, PollFlags::IN)];
        if !matches!(poll(&mut fds, Some(&Timespec::default())), Ok(0)) {
            return;
        }
    }
}
