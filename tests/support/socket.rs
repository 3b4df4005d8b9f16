//! Blocking sockets with deadlines: whatever does not happen fails with a text and never hangs a test.

use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::DEADLINE;

/// How the other end closed its direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// In order.
    Fin,
    /// By a reset.
    Reset,
}

/// A connection to `to`.
pub fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&to, DEADLINE).unwrap_or_else(|error| panic!("connect to {to}: {error}"));
    with_deadlines(&stream, DEADLINE);
    stream
}

/// A connection to `to` from another address of the loopback network.
pub fn connect_from(source: Ipv4Addr, to: SocketAddr) -> TcpStream {
    // Close-on-exec: a proxy that starts meanwhile must not inherit and so keep open a test's socket.
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    rustix::net::bind(&socket, &SocketAddrV4::new(source, 0)).unwrap();
    rustix::net::connect(&socket, &to).unwrap_or_else(|error| panic!("connect from {source} to {to}: {error}"));
    let stream = TcpStream::from(socket);
    with_deadlines(&stream, DEADLINE);
    stream
}

/// A connection to `to` whose kernel takes next to nothing that is not read.
#[cfg(feature = "web")]
pub fn connect_deaf(to: SocketAddr) -> TcpStream {
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    sockopt::set_socket_recv_buffer_size(&socket, 4096).unwrap();
    rustix::net::connect(&socket, &to).unwrap_or_else(|error| panic!("connect to {to}: {error}"));
    let stream = TcpStream::from(socket);
    with_deadlines(&stream, DEADLINE);
    stream
}

/// Gives every read and write of `stream` a deadline.
pub fn with_deadlines(stream: &TcpStream, deadline: Duration) {
    stream.set_read_timeout(Some(deadline)).unwrap();
    stream.set_write_timeout(Some(deadline)).unwrap();
    stream.set_nodelay(true).unwrap();
}

/// The next connection, unless none comes `within` that time.
pub fn accept(listener: &TcpListener, within: Duration) -> Option<TcpStream> {
    if !is_readable(listener, within) {
        return None;
    }
    let (stream, _) = listener.accept().unwrap();
    with_deadlines(&stream, DEADLINE);
    Some(stream)
}

/// Closes with a reset. The stream must be the last handle of its socket.
pub fn reset(stream: TcpStream) {
    sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
}

/// Exactly `len` bytes.
pub fn read_exactly(stream: &mut TcpStream, len: usize) -> Result<Vec<u8>, String> {
    let mut bytes = vec![0; len];
    let mut filled = 0;
    while filled < len {
        match stream.read(&mut bytes[filled..]) {
            Ok(0) => return Err(format!("the end after {filled} of {len} bytes")),
            Ok(count) => filled += count,
            Err(error) => return Err(format!("{error} after {filled} of {len} bytes")),
        }
    }
    Ok(bytes)
}

/// Everything up to the end, and which end it was.
pub fn read_to_end(stream: &mut TcpStream) -> (Vec<u8>, End) {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => (bytes, End::Fin),
        Err(error) if is_reset(&error) => (bytes, End::Reset),
        Err(error) => panic!("no end after {} bytes: {error}", bytes.len()),
    }
}

/// Fails if the other end sends or closes anything `within` that time.
pub fn assert_open_and_silent(stream: &impl std::os::fd::AsFd, within: Duration) {
    assert!(!is_readable(stream, within), "the stream was closed or got bytes");
}

/// Whether there is a byte, an end or a connection to take.
pub fn is_readable(fd: &impl std::os::fd::AsFd, within: Duration) -> bool {
    let timeout = Timespec { tv_sec: within.as_secs() as i64, tv_nsec: i64::from(within.subsec_nanos()) };
    let mut fds = [PollFd::new(fd, PollFlags::IN)];
    loop {
        match poll(&mut fds, Some(&timeout)) {
            Ok(count) => return count > 0,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("poll: {error}"),
        }
    }
}

/// Whether `error` tells of a reset.
pub fn is_reset(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

/// An address where nobody listens. Below the ephemeral range, so that no outgoing connection takes it meanwhile.
pub fn free_address() -> SocketAddr {
    loop {
        let port = 10_000 + u16::from_le_bytes(super::random()) % 22_000;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// Asks until there is an answer; fails with `what` when it takes longer than `within`.
pub fn wait_for<T>(what: &str, within: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(started.elapsed() < within, "waited {within:?} in vain for: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
