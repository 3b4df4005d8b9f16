//! Accepting connections, whatever happens.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use async_io::{Async, Timer};
use futures_lite::future::yield_now;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};

use crate::log::{Limited, notice};
use crate::net::sockopts::{self, ClientSide, KeepAlive};

/// Connections that are accepted before those that are there already get their turn.
const BATCH: usize = 16;
/// Bounds of the pause after an error that only time mends.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// The listening socket.
pub(in crate::proxy) struct Listener {
    socket: Async<TcpListener>,
}

impl Listener {
    /// With `shares_port` another process may listen on the same address, if it wants that, too.
    ///
    /// # Errors
    /// Those of bind and listen; see [`explain`].
    pub(in crate::proxy) fn bind(
        address: SocketAddr,
        keep_alive: &KeepAlive,
        client_side: &ClientSide,
        shares_port: bool,
    ) -> io::Result<Self> {
        match Self::bind_exactly(address, keep_alive, client_side, shares_port) {
            // A kernel without IPv6 has all its addresses at 0.0.0.0.
            Err(error) if has_no_family(&error) && address.ip().is_unspecified() && address.is_ipv6() => {
                let address = (Ipv4Addr::UNSPECIFIED, address.port()).into();
                let listener = Self::bind_exactly(address, keep_alive, client_side, shares_port)?;
                notice(format_args!("this machine has no IPv6, so IPv4 alone is served bind-to={address}"));
                Ok(listener)
            }
            bound => bound,
        }
    }

    fn bind_exactly(
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
        sockopts::prepare(&socket);
        sockopts::set_probes(&socket, keep_alive);
        sockopts::prepare_client_side(&socket, client_side);
        rustix::net::bind(&socket, &address)?;
        rustix::net::listen(&socket, client_side.backlog.into())?;
        Ok(Self { socket: Async::new_nonblocking(TcpListener::from(socket))? })
    }

    pub(in crate::proxy) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.get_ref().local_addr()
    }

    pub(in crate::proxy) fn congestion_control(&self) -> String {
        sockopts::congestion_control(self.socket.get_ref())
    }

    /// Passes every connection on. Nothing that a peer does is awaited here, and no error ends it.
    pub(in crate::proxy) async fn accept_forever(&self, mut accepted: impl FnMut(Async<TcpStream>, SocketAddr)) {
        let mut pause = PAUSE.0;
        loop {
            for _ in 0..BATCH {
                self.accept(&mut accepted, &mut pause).await;
            }
            // While there are connections to accept nothing above waits, and nothing else would run.
            yield_now().await;
        }
    }

    async fn accept(&self, accepted: &mut impl FnMut(Async<TcpStream>, SocketAddr), pause: &mut Duration) {
        static WARNINGS: Limited = Limited::new(Duration::from_secs(60));
        match self.socket.accept().await {
            Ok((socket, peer)) => {
                *pause = PAUSE.0;
                accepted(socket, peer);
            }
            Err(error) if is_the_connections_own(&error) => log::debug!("a connection was lost error={error}"),
            Err(error) => {
                if let Some(left_out) = WARNINGS.pass(Instant::now()) {
                    log::warn!("cannot accept connections, trying again error={error}{left_out}");
                }
                Timer::after(*pause).await;
                *pause = (*pause * 2).min(PAUSE.1);
            }
        }
    }
}

fn has_no_family(error: &io::Error) -> bool {
    rustix::io::Errno::from_io_error(error) == Some(rustix::io::Errno::AFNOSUPPORT)
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
pub(in crate::proxy) fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "another program uses this port (or mtg runs already)".to_owned(),
        io::ErrorKind::PermissionDenied => {
            format!("{error}; ports below 1024 need root or the capability CAP_NET_BIND_SERVICE")
        }
        _ if has_no_family(error) => {
            "this machine has no IPv6; write an IPv4 address, 0.0.0.0 for all that it has".to_owned()
        }
        io::ErrorKind::AddrNotAvailable => "this machine has no such address".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    use futures_lite::FutureExt as _;

    #[test]
    fn a_flood_of_connections_does_not_hold_up_those_that_are_there() {
        const FLOOD: usize = 500;
        let keep_alive =
            KeepAlive { is_on: false, idle: Duration::from_secs(60), interval: Duration::from_secs(15), count: 9 };
        let client_side = ClientSide { mss: None, notsent_lowat: None, buffer: None, backlog: 1024 };
        let accepted = Cell::new(0);
        let most_at_once = async_io::block_on(async {
            let listener = Listener::bind(([127, 0, 0, 1], 0).into(), &keep_alive, &client_side, false).unwrap();
            let address = listener.local_addr().unwrap();
            let _flood: Vec<_> = (0..FLOOD).map(|_| TcpStream::connect(address).unwrap()).collect();
            let accept = async {
                listener.accept_forever(|_, _| accepted.set(accepted.get() + 1)).await;
                0
            };
            let others = async {
                let (mut most, mut before) = (0, 0);
                while accepted.get() < FLOOD {
                    yield_now().await;
                    most = most.max(accepted.get() - before);
                    before = accepted.get();
                }
                most
            };
            accept.or(others).await
        });
        assert!((1..=FLOOD / 4).contains(&most_at_once), "{most_at_once} connections while the others waited");
    }
}
