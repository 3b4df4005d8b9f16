//! Socket options, each best effort: a kernel without one is no reason to lose a connection.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use socket2::SockRef;

/// The algorithm that keeps long paths with some loss fast. A kernel that has it not keeps its default.
pub(crate) const CONGESTION_CONTROL: &str = "bbr";
/// The longest time and the largest number that Linux takes.
const SECS_MAX: u64 = 32_767;
const COUNT_MAX: u32 = 127;
/// Options that have been complained of, a bit for each.
static COMPLAINED: AtomicU32 = AtomicU32::new(0);

/// When a peer that no longer answers is given up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeepAlive {
    /// Whether quiet connections are probed at all.
    pub(crate) is_on: bool,
    /// Quiet time before the first probe.
    pub(crate) idle: Duration,
    /// Time between probes.
    pub(crate) interval: Duration,
    /// Lost probes that end the connection.
    pub(crate) count: u32,
}

/// What connections of clients have beyond that.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientSide {
    /// The largest segment: we announce it, and the other side's first message comes in pieces of this size, which
    /// some censors do not put together.
    pub(crate) mss: Option<u16>,
    /// Bytes that may wait unsent in the kernel. More of them only make a slow client's memory grow here, and its
    /// small messages wait behind them. Never for the other side: it has held up uploads on long paths.
    pub(crate) notsent_lowat: Option<u32>,
    /// See [`limit_buffers`].
    pub(crate) buffer: Option<usize>,
    /// Connections that may wait in the kernel to be accepted.
    pub(crate) backlog: u16,
}

/// Makes a connection send small messages at once and share a long path well. Connections that a listening socket
/// accepts have its options.
pub(crate) fn prepare(socket: impl AsFd) {
    let socket = socket.as_fd();
    complain_once(3, "TCP_NODELAY", sockopt::set_tcp_nodelay(socket, true).map_err(io::Error::from));
    let congestion = sockopt::set_tcp_congestion(socket, CONGESTION_CONTROL);
    complain_once(9, "TCP_CONGESTION", congestion.map_err(io::Error::from));
}

/// Says when a connection is probed that is watched over, now or later. Connections that a listening socket accepts
/// have it from there.
pub(crate) fn set_probes(socket: impl AsFd, keep_alive: &KeepAlive) {
    let (socket, [idle, interval], count) = (socket.as_fd(), keep_alive.times(), keep_alive.count());
    let options: [(&str, Result<(), Errno>); 3] = [
        ("TCP_KEEPIDLE", sockopt::set_tcp_keepidle(socket, idle)),
        ("TCP_KEEPINTVL", sockopt::set_tcp_keepintvl(socket, interval)),
        ("TCP_KEEPCNT", sockopt::set_tcp_keepcnt(socket, count)),
    ];
    for (number, (option, result)) in (5..).zip(options) {
        complain_once(number, option, result.map_err(io::Error::from));
    }
}

/// Makes a connection notice a peer that has vanished. Strangers' connections, and theirs to the front, have nothing of
/// that: probes and their times can be seen on the wire, and what the front does about it cannot be copied.
pub(crate) fn watch_over(socket: impl AsFd, keep_alive: &KeepAlive) {
    let (socket, [idle, interval], count) = (socket.as_fd(), keep_alive.times(), keep_alive.count());
    let is_on = sockopt::set_socket_keepalive(socket, keep_alive.is_on);
    complain_once(4, "SO_KEEPALIVE", is_on.map_err(io::Error::from));
    limit_delivery(socket, Some(idle + interval * count));
}

impl KeepAlive {
    /// Quiet time and time between probes, as the kernel takes them.
    fn times(&self) -> [Duration; 2] {
        [self.idle, self.interval].map(|time| Duration::from_secs(time.as_secs().clamp(1, SECS_MAX)))
    }

    fn count(&self) -> u32 {
        self.count.clamp(1, COUNT_MAX)
    }
}

/// Bounds what the kernel keeps for a connection, received and unread or sent and not acknowledged, to about twice
/// `bytes` each. Before the connection is made, for the window that can be told to the other side depends on it.
/// Without a bound the kernel finds the size that a fast and long path needs.
pub(crate) fn limit_buffers(socket: impl AsFd, bytes: usize) {
    let socket = socket.as_fd();
    let options = [
        ("SO_RCVBUF", sockopt::set_socket_recv_buffer_size(socket, bytes)),
        ("SO_SNDBUF", sockopt::set_socket_send_buffer_size(socket, bytes)),
    ];
    for (number, (option, result)) in (16..).zip(options) {
        complain_once(number, option, result.map_err(io::Error::from));
    }
}

/// Gives a listening socket what its connections shall have; their first packets depend on it.
pub(crate) fn prepare_client_side(listener: impl AsFd, client_side: &ClientSide) {
    let socket = SockRef::from(&listener);
    if let Some(mss) = client_side.mss {
        limit_segments(&listener, mss);
    }
    if let Some(bytes) = client_side.notsent_lowat {
        complain_once(1, "TCP_NOTSENT_LOWAT", socket.set_tcp_notsent_lowat(bytes.min(i32::MAX.unsigned_abs())));
    }
    if let Some(bytes) = client_side.buffer {
        limit_buffers(&listener, bytes);
    }
}

/// Announces the largest segment that this side takes. Before the connection is made.
pub(crate) fn limit_segments(socket: impl AsFd, mss: u16) {
    complain_once(0, "TCP_MAXSEG", SockRef::from(&socket).set_tcp_mss(mss.into()));
}

/// The congestion control of a socket, empty if the system does not say.
pub(crate) fn congestion_control(socket: impl AsFd) -> String {
    sockopt::tcp_congestion(socket.as_fd()).unwrap_or_default()
}

/// Ends a connection when bytes are without acknowledgement for that long. With none, the kernel repeats them for a
/// quarter of an hour, and counts lost probes as it was told.
pub(crate) fn limit_delivery(socket: impl AsFd, limit: Option<Duration>) {
    let result = sockopt::set_tcp_user_timeout(socket, limit.map_or(0, user_timeout));
    complain_once(8, "TCP_USER_TIMEOUT", result.map_err(io::Error::from));
}

/// Makes the kernel send RST in place of FIN when the socket is closed.
pub(crate) fn reset_on_close(socket: impl AsFd) {
    if let Err(error) = sockopt::set_socket_linger(socket, Some(Duration::ZERO)) {
        log::debug!("cannot set SO_LINGER: {error}");
    }
}

/// Makes a connection send what was given to it with MSG_MORE and fills no packet.
pub(crate) fn push(socket: impl AsFd) {
    // Linux sends all there is when this is set, even if it was before.
    complain_once(3, "TCP_NODELAY", sockopt::set_tcp_nodelay(socket, true).map_err(io::Error::from));
}

/// Marks a socket that is not connected yet for the system's routing rules.
pub(crate) fn mark(socket: impl AsFd, mark: u32) {
    complain_once(2, "SO_MARK", SockRef::from(&socket).set_mark(mark));
}

/// Says whether this process may mark sockets.
///
/// # Errors
/// That of the attempt.
pub(crate) fn try_mark(mark: u32) -> io::Result<()> {
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    SockRef::from(&socket).set_mark(mark)
}

fn complain_once(number: u32, option: &str, result: io::Result<()>) {
    if let Err(error) = result
        && COMPLAINED.fetch_or(1 << number, Ordering::Relaxed) & 1 << number == 0
    {
        log::debug!("a socket option cannot be set, said once option={option} error={error}");
    }
}

/// How long sent bytes may wait for their acknowledgement, milliseconds.
fn user_timeout(limit: Duration) -> u32 {
    u32::try_from(limit.as_millis()).unwrap_or(u32::MAX).min(i32::MAX.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    const KEEP_ALIVE: KeepAlive =
        KeepAlive { is_on: true, idle: Duration::from_secs(61), interval: Duration::from_secs(16), count: 8 };

    /// A connection that a prepared listener has accepted, and that is watched over.
    fn accepted(keep_alive: &KeepAlive) -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        prepare(&listener);
        set_probes(&listener, keep_alive);
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let accepted = listener.accept().unwrap().0;
        assert!(!sockopt::socket_keepalive(&accepted).unwrap(), "it is not known yet whose it is");
        assert_eq!(sockopt::tcp_user_timeout(&accepted).unwrap(), 0);
        watch_over(&accepted, keep_alive);
        accepted
    }

    /// Both ends of a connection to a listener with these options.
    fn connected(client_side: &ClientSide) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        prepare_client_side(&listener, client_side);
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    #[test]
    fn accepted_connections_have_the_options_of_their_listener() {
        let socket = accepted(&KEEP_ALIVE);
        assert!(sockopt::tcp_nodelay(&socket).unwrap() && sockopt::socket_keepalive(&socket).unwrap());
        assert_eq!(sockopt::tcp_keepidle(&socket).unwrap().as_secs(), 61);
        assert_eq!(sockopt::tcp_keepintvl(&socket).unwrap().as_secs(), 16);
        assert_eq!(sockopt::tcp_keepcnt(&socket).unwrap(), 8);
        assert_eq!(sockopt::tcp_user_timeout(&socket).unwrap(), (61 + 8 * 16) * 1000);
    }

    #[test]
    fn bbr_is_used_where_the_kernel_lets_us() {
        let probe = TcpListener::bind("127.0.0.1:0").unwrap();
        let default = sockopt::tcp_congestion(&probe).unwrap();
        let is_there = sockopt::set_tcp_congestion(&probe, CONGESTION_CONTROL).is_ok();
        let wanted = if is_there { CONGESTION_CONTROL } else { &default };
        assert_eq!(sockopt::tcp_congestion(accepted(&KEEP_ALIVE)).unwrap(), wanted);
    }

    #[test]
    fn clients_send_small_segments_only_if_they_are_asked_to() {
        let mss = |client_side| SockRef::from(&connected(&client_side).0).tcp_mss().unwrap();
        let usual = ClientSide { mss: None, notsent_lowat: None, buffer: None, backlog: 128 };
        assert!(mss(usual) > 536);
        for size in [536, 88] {
            assert!((1..=u32::from(size)).contains(&mss(ClientSide { mss: Some(size), ..usual })), "{size}");
        }
    }

    #[test]
    fn accepted_connections_have_small_buffers_where_memory_is_short() {
        let (_client, small) =
            connected(&ClientSide { mss: None, notsent_lowat: None, buffer: Some(16 << 10), backlog: 128 });
        // The kernel takes it twice, for what it needs itself.
        assert_eq!(sockopt::socket_recv_buffer_size(&small).unwrap(), 32 << 10);
        assert_eq!(sockopt::socket_send_buffer_size(&small).unwrap(), 32 << 10);
    }

    #[test]
    fn accepted_connections_keep_little_unsent_in_the_kernel() {
        let lowat = |notsent_lowat| {
            let (_client, accepted) = connected(&ClientSide { mss: None, notsent_lowat, buffer: None, backlog: 128 });
            SockRef::from(&accepted).tcp_notsent_lowat().unwrap()
        };
        assert_eq!((lowat(Some(0x2_0000)), lowat(Some(u32::MAX))), (0x2_0000, i32::MAX.unsigned_abs()));
        assert_eq!(lowat(None), 0, "0 is the system's choice");
    }

    #[test]
    fn sockets_have_the_mark_if_this_process_may_set_one() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        mark(&socket, 0x64);
        let wanted = try_mark(0x64).map_or_else(
            |error| {
                assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
                0
            },
            |()| 0x64,
        );
        assert_eq!(SockRef::from(&socket).mark().unwrap(), wanted);
    }

    #[test]
    fn odd_times_are_brought_into_what_the_kernel_takes() {
        let short = KeepAlive { is_on: true, idle: Duration::from_millis(1), interval: Duration::ZERO, count: 0 };
        let socket = accepted(&short);
        assert_eq!((sockopt::tcp_keepidle(&socket).unwrap().as_secs(), sockopt::tcp_keepcnt(&socket).unwrap()), (1, 1));
        assert_eq!(sockopt::tcp_user_timeout(&socket).unwrap(), 2000);
        let long = KeepAlive { is_on: true, idle: Duration::MAX, interval: Duration::MAX, count: u32::MAX };
        let socket = accepted(&long);
        assert_eq!(sockopt::tcp_keepintvl(&socket).unwrap().as_secs(), SECS_MAX);
        assert_eq!(sockopt::tcp_user_timeout(&socket).unwrap(), i32::MAX.unsigned_abs());
        let off = KeepAlive { is_on: false, ..KEEP_ALIVE };
        assert!(!sockopt::socket_keepalive(accepted(&off)).unwrap());
    }
}
