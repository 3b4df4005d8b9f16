//! Socket options, each best effort: a kernel without one is no reason to lose a connection.

use std::net::TcpStream;
use std::time::Duration;

use rustix::net::sockopt;

/// Quiet time before the first keep-alive probe. Phones sleep; waking them more often empties their batteries.
const KEEP_ALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEP_ALIVE_COUNT: u32 = 9;

/// Sends small messages at once and notices peers that have vanished.
pub(crate) fn prepare(socket: &TcpStream) {
    let options = [
        ("TCP_NODELAY", sockopt::set_tcp_nodelay(socket, true)),
        ("SO_KEEPALIVE", sockopt::set_socket_keepalive(socket, true)),
        ("TCP_KEEPIDLE", sockopt::set_tcp_keepidle(socket, KEEP_ALIVE_IDLE)),
        ("TCP_KEEPINTVL", sockopt::set_tcp_keepintvl(socket, KEEP_ALIVE_INTERVAL)),
        ("TCP_KEEPCNT", sockopt::set_tcp_keepcnt(socket, KEEP_ALIVE_COUNT)),
    ];
    for (option, result) in options {
        if let Err(error) = result {
            log::debug!("cannot set a socket option option={option} error={error}");
        }
    }
}
