//! One direction of a relayed connection: receive, change in place, send, until one of the sockets has had enough.

use std::io::{self, ErrorKind};
use std::net::{Shutdown, TcpStream};

use rustix::io::Errno;
use rustix::net::{SendFlags, sockopt};

use super::pool::{Account, Owner, Pool};
use crate::net::sockopts;
use crate::proto::transcode::{self, RECORD_PAYLOAD_MAX};

/// Receive and send pairs in a turn at most.
const PAIRS: usize = 8;

/// Memory of the kernel for a byte that it has received, roughly.
const OVERHEAD: usize = 2;
/// Doublings of what is received at once.
const SWIFT_MAX: u8 = 5;

/// How a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nothing to do until the poller says something.
    Waiting,
    /// There is more to do, after the others.
    Unfinished,
    /// There may be more to do at that time of the engine's clock, milliseconds.
    Later(u64),
}

/// What ends a direction, and with it the connection, before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Receiving failed.
    Source(Fault),
    /// Sending failed.
    Sink(Fault),
    /// The client sent something that is no TLS record.
    BadRecord,
    /// It sent an alert in clear.
    Alert,
}

/// What became of the far end of a broken connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It said that it is over.
    Reset,
    /// It has not answered for too long, or the way there is gone.
    Silent,
}

impl From<Errno> for Fault {
    fn from(error: Errno) -> Self {
        // A way that is known to be gone is named in place of the time that is over.
        match error {
            Errno::TIMEDOUT | Errno::HOSTUNREACH | Errno::NETUNREACH => Self::Silent,
            _ => Self::Reset,
        }
    }
}

/// What one attempt to receive brought.
pub(super) enum Received {
    /// Nothing was there.
    Nothing,
    /// Nothing is to be received before that time.
    Later(u64),
    /// The sender's FIN.
    End,
    /// Something.
    Bytes {
        /// Bytes at the front of the buffer that are to be sent.
        to_send: usize,
        /// How many of them, or for how many of them, the far ends count.
        payload: usize,
        /// The buffer was filled, so there may be more.
        is_full: bool,
        /// What fills no packet may wait for the bytes that are received next.
        tail_waits: bool,
    },
}

impl Received {
    /// Reads a system call's result for a buffer of `capacity` bytes.
    ///
    /// # Errors
    /// [`Failure::Source`].
    pub(super) fn from_result(result: io::Result<usize>, capacity: usize) -> Result<Self, Failure> {
        match result {
            Ok(0) => Ok(Self::End),
            Ok(length) => {
                Ok(Self::Bytes { to_send: length, payload: length, is_full: length == capacity, tail_waits: false })
            }
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock => Ok(Self::Nothing),
                ErrorKind::Interrupted => Ok(Self::Bytes { to_send: 0, payload: 0, is_full: true, tail_waits: false }),
                _ => Err(Failure::Source(
                    error.raw_os_error().map_or(Fault::Reset, |code| Errno::from_raw_os_error(code).into()),
                )),
            },
        }
    }
}

/// The state of a direction. Without bytes in flight it owns no memory.
#[derive(Default)]
pub(super) struct Direction {
    rest: Option<Rest>,
    /// The source may have bytes.
    pub(super) readable: bool,
    /// The sink may take bytes.
    pub(super) writable: bool,
    /// The source's FIN has arrived, maybe behind bytes that are still to be read. With edge-triggered polling
    /// nothing announces it again, so a short read proves nothing any more.
    pub(super) hung_up: bool,
    /// The source has sent urgent data. A receive ends before it and the next one behind it (the byte itself is left
    /// out, as by any server that does not ask for it), so a short read proves nothing until there is nothing left.
    pub(super) is_marked: bool,
    /// The source is broken. Reading tells that, too, but nothing is read any more once its FIN has arrived.
    pub(super) failed: bool,
    at_end: bool,
    /// The kernel keeps the end of what was sent, less than a packet, until more follows.
    is_corked: bool,
    /// The end has been passed on: this direction is over.
    pub(super) is_over: bool,
    /// Full receives in a row that the sink took at once. Each doubles the next: who may get stuck holds one
    /// record, and bulk gets the whole buffer.
    swift: u8,
    /// A byte has moved since somebody looked.
    pub(super) has_moved: bool,
    /// Payload bytes.
    pub(super) payload: u64,
}

/// Bytes that the sink has not taken yet, in memory of just their size.
struct Rest {
    bytes: Box<[u8]>,
    sent: u32,
    /// When the sink last took any, milliseconds modulo 2^32.
    since: u32,
}

/// What a direction works with.
pub(super) struct Room<'a> {
    scratch: &'a mut [u8],
    account: &'a mut Account,
    now: u32,
    most: u64,
}

impl<'a> Room<'a> {
    /// `now` is the engine's clock in milliseconds, `most` what a turn may move, bytes, and no more than what makes the
    /// last record a whole one.
    pub(super) fn new(pool: &'a mut Pool, owner: Owner, now: u64, most: u64) -> Self {
        let (scratch, account) = pool.split(owner);
        Self { scratch, account, now: wrapped(now), most }
    }
}

fn wrapped(millis: u64) -> u32 {
    u32::try_from(millis & u64::from(u32::MAX)).unwrap_or_default()
}

impl Direction {
    /// A direction whose sink gets `opening` before anything else; `payload` of its bytes count.
    pub(super) fn with_opening(opening: Vec<u8>, payload: usize, room: &mut Room<'_>) -> Self {
        let mut direction = Self { payload: payload as u64, ..Self::default() };
        direction.keep(opening.into(), room);
        direction
    }

    /// Moves bytes from `source`, through `receive`, to `sink`.
    ///
    /// # Errors
    /// See [`Failure`].
    pub(super) fn take_turn(
        &mut self,
        source: &TcpStream,
        sink: &TcpStream,
        room: &mut Room<'_>,
        mut receive: impl FnMut(&TcpStream, &mut [u8]) -> Result<Received, Failure>,
    ) -> Result<Turn, Failure> {
        let enough = self.payload + room.most;
        for _ in 0..PAIRS {
            if !self.send_rest(sink, room)? {
                return Ok(Turn::Waiting);
            }
            if self.at_end {
                if !self.is_over {
                    self.is_over = true;
                    // A sink that is gone will say so on its own direction.
                    let _ = sink.shutdown(Shutdown::Write);
                }
                return if self.failed { Err(Failure::Source(fault_of(source))) } else { Ok(Turn::Waiting) };
            }
            if !self.readable || !self.writable {
                if std::mem::take(&mut self.is_corked) {
                    sockopts::push(sink);
                }
                return Ok(Turn::Waiting);
            }
            let left = usize::try_from(enough - self.payload).unwrap_or(usize::MAX);
            let left = left.div_ceil(RECORD_PAYLOAD_MAX).saturating_mul(RECORD_PAYLOAD_MAX);
            let most = (RECORD_PAYLOAD_MAX << self.swift).min(room.account.allowance()).min(left);
            let length = transcode::buffer_len(most).min(room.scratch.len());
            let buffer = room.scratch.get_mut(..length).unwrap_or_default();
            match receive(source, buffer)? {
                Received::Bytes { to_send, payload, is_full, tail_waits } => {
                    self.readable = is_full || self.hung_up || self.is_marked;
                    self.has_moved = true;
                    self.payload += payload as u64;
                    let received = buffer.get(..to_send).unwrap_or_default();
                    let flags = if tail_waits { SendFlags::MORE } else { SendFlags::empty() };
                    let unsent = received.get(send(sink, received, flags, &mut self.writable)?..).unwrap_or_default();
                    // What brings nothing to send, half a header, leaves the tail where it is.
                    if to_send > 0 {
                        self.is_corked = tail_waits && unsent.is_empty();
                    }
                    self.swift = if unsent.is_empty() { (self.swift + u8::from(is_full)).min(SWIFT_MAX) } else { 0 };
                    self.keep(unsent.into(), room);
                    if self.payload >= enough {
                        break;
                    }
                }
                Received::Nothing => (self.readable, self.is_marked) = (false, false),
                Received::Later(due) => return Ok(Turn::Later(due)),
                Received::End => (self.readable, self.at_end) = (false, true),
            }
        }
        Ok(Turn::Unfinished)
    }

    fn keep(&mut self, bytes: Box<[u8]>, room: &mut Room<'_>) {
        if !bytes.is_empty() {
            room.account.hold(bytes.len());
            self.rest = Some(Rest { bytes, sent: 0, since: room.now });
        }
    }

    /// Sends what was left over and says whether all of it is gone.
    fn send_rest(&mut self, sink: &TcpStream, room: &mut Room<'_>) -> Result<bool, Failure> {
        let Some(rest) = &mut self.rest else { return Ok(true) };
        if !self.writable {
            return Ok(false);
        }
        let unsent = rest.bytes.get(rest.sent as usize..).unwrap_or_default();
        let (left, taken) = (unsent.len(), send(sink, unsent, SendFlags::empty(), &mut self.writable)?);
        if taken > 0 {
            self.has_moved = true;
            rest.since = room.now;
            rest.sent += u32::try_from(taken).unwrap_or_default();
        }
        if taken == left {
            self.give_back(room.account);
        }
        Ok(self.rest.is_none())
    }

    /// For how many milliseconds the sink has not taken what is left over; none if there is nothing.
    pub(super) fn blocked_for(&self, now: u64) -> Option<u32> {
        self.rest.as_ref().map(|rest| wrapped(now).wrapping_sub(rest.since))
    }

    /// Says whether something is left over.
    pub(super) fn has_rest(&self) -> bool {
        self.rest.is_some()
    }

    /// Bytes that are left over.
    pub(super) fn held(&self) -> usize {
        self.rest.as_ref().map_or(0, |rest| rest.bytes.len())
    }

    /// What the kernel keeps for this direction, bytes, if its sink takes nothing any more: what it has been sent and
    /// what is not received from the source any more.
    pub(super) fn kernel_bytes(&self, source: &TcpStream, sink: &TcpStream) -> usize {
        let sent = sockopt::socket_send_buffer_size(sink).unwrap_or_default();
        let unread = rustix::io::ioctl_fionread(source).unwrap_or_default();
        sent + usize::try_from(unread).unwrap_or_default() * OVERHEAD
    }

    /// Forgets what was left over.
    pub(super) fn give_back(&mut self, account: &mut Account) {
        if let Some(rest) = self.rest.take() {
            account.release(rest.bytes.len());
        }
    }
}

/// Sends bytes and says how many the sink has taken, and in `writable` whether it would take more.
fn send(sink: &TcpStream, bytes: &[u8], flags: SendFlags, writable: &mut bool) -> Result<usize, Failure> {
    if bytes.is_empty() {
        return Ok(0);
    }
    loop {
        let taken = match rustix::net::send(sink, bytes, flags | SendFlags::NOSIGNAL) {
            Ok(taken) => taken,
            Err(Errno::AGAIN) => 0,
            Err(Errno::INTR) => continue,
            Err(error) => return Err(Failure::Sink(error.into())),
        };
        // A short write means that the socket is full; the poller will say when it is not.
        *writable = taken == bytes.len();
        return Ok(taken);
    }
}

/// What broke a connection, unless a system call has said it before.
fn fault_of(socket: &TcpStream) -> Fault {
    match rustix::net::sockopt::socket_error(socket) {
        Ok(Err(error)) => error.into(),
        _ => Fault::Reset,
    }
}

#[cfg(test)]
mod tests {
    use super::super::pool::Budget;
    use super::*;
    use std::io::Read;
    use std::net::TcpListener;
    use std::time::Duration;

    /// What the kernel does by itself after 200 ms is too late.
    const SOON: Duration = Duration::from_millis(100);

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        near.set_nonblocking(true).unwrap();
        (listener.accept().unwrap().0, near)
    }

    /// Whether all of a full buffer arrives at once if `next` is received after it.
    fn full_buffer_arrives(next: Received) -> bool {
        let ((_source, near_source), (mut client, near_client)) = (pair(), pair());
        let mut pool = Pool::new(Budget::new(16 << 20, 0));
        let mut room = Room::new(&mut pool, Owner::Client, 0, 1 << 20);
        let mut direction = Direction { readable: true, writable: true, ..Direction::default() };
        let full = Received::Bytes { to_send: 16_389, payload: 16_384, is_full: true, tail_waits: true };
        let mut received = vec![next, full];
        let receive = |_: &TcpStream, _: &mut [u8]| received.pop().ok_or(Failure::BadRecord);
        assert_eq!(direction.take_turn(&near_source, &near_client, &mut room, receive), Ok(Turn::Waiting));
        client.set_read_timeout(Some(SOON)).unwrap();
        client.read_exact(&mut [0; 16_389]).is_ok()
    }

    #[test]
    fn a_tail_waits_no_longer_than_for_the_next_look() {
        let half_a_header = || Received::Bytes { to_send: 0, payload: 0, is_full: false, tail_waits: false };
        // A busy machine may be late now and then, the kernel would be each time.
        assert!((0..20).any(|_| full_buffer_arrives(Received::Nothing)));
        assert!((0..20).any(|_| full_buffer_arrives(half_a_header())));
    }
}
