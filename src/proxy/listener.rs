//! Accepting connections, whatever happens.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use async_io::{Async, Timer};
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};

use crate::log::Limited;
use crate::net::sockopts::{self, ClientSide, KeepAlive};

/// Connections that the kernel may hold for us.
const BACKLOG: i32 = 4096;
/// Bounds of the pause after an error that only time mends.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// The listening socket.
pub(super) struct Listener {
    socket: Async<TcpListener>,
}

impl Listener {
    /// With `shares_port` another process may listen on the same address, if it wants that, too.
    ///
    /// # Errors
    /// Those of bind and listen; see [`explain`].
    pub(super) fn bind(
        address: SocketAddr,
        keep_alive: &KeepAlive,
        client_side: &ClientSide,
        shares_port: bool,
    ) -> io::Result<Self> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        if shares_port {
            sockopt::set_socket_reuseport(&socket, true)?;
        }
        // Accepted connections have these from here.
        sockopts::prepare(&socket, keep_alive);
        sockopts::prepare_client_side(&socket, client_side);
        rustix::net::bind(&socket, &address)?;
        rustix::net::listen(&socket, BACKLOG)?;
        Ok(Self { socket: Async::new_nonblocking(TcpListener::from(socket))? })
    }

    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.get_ref().local_addr()
    }

    /// Passes every connection on. Nothing that a peer does is awaited here, and no error ends it.
    pub(super) async fn accept_forever(&self, mut accepted: impl FnMut(Async<TcpStream>, SocketAddr)) {
        static WARNINGS: Limited = Limited::new(Duration::from_secs(60));
        let mut pause = PAUSE.0;
        loop {
            match self.socket.accept().await {
                Ok((socket, peer)) => {
                    pause = PAUSE.0;
                    accepted(socket, peer);
                }
                Err(error) if is_the_connections_own(&error) => log::debug!("a connection was lost error={error}"),
                Err(error) => {
                    if let Some(left_out) = WARNINGS.pass(Instant::now()) {
                        log::warn!("cannot accept connections, trying again error={error}{left_out}");
                    }
                    Timer::after(pause).await;
                    pause = (pause * 2).min(PAUSE.1);
                }
            }
        }
    }
}

/// Says whether an accept error is about one connection only, as accept(2) lists them.
fn is_the_connections_own(error: &io::Error) -> bool {
    use rustix::io::Errno;
    rustix::io::Errno::from_io_error(error).is_some_and(|errno| {
        matches!(
            errno,
            Errno::CONNABORTED
                | Errno::INTR
                | Errno::NETDOWN
                | Errno::PROTO
                | Errno::NOPROTOOPT
                | Errno::HOSTDOWN
                | Errno::NONET
                | Errno::HOSTUNREACH
                | Errno::OPNOTSUPP
                | Errno::NETUNREACH
        )
    })
}

/// What a bind error means to the owner.
pub(super) fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "another program uses this port (or mtg runs already)".to_owned(),
        io::ErrorKind::PermissionDenied => {
            format!("{error}; ports below 1024 need root or the capability CAP_NET_BIND_SERVICE")
        }
        io::ErrorKind::AddrNotAvailable => "this machine has no such address".to_owned(),
        _ => error.to_string(),
    }
}
