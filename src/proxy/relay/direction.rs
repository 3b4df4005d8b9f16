//! One direction of a relayed connection: receive, change in place, send, until one of the sockets has had enough.

use std::io::{self, ErrorKind, Write};
use std::net::{Shutdown, TcpStream};

use super::pool::{Buffer, Pool};

/// Receive and send pairs before the other connections have their turn.
const TURN: usize = 16;

/// How a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nothing to do until the poller says something.
    Waiting,
    /// There is more to do, after the others.
    Unfinished,
    /// There is no buffer to go on with.
    Starved,
}

/// What ends a direction, and with it the connection, before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Receiving failed.
    Source,
    /// Sending failed.
    Sink,
    /// The client sent something that is no TLS record.
    BadRecord,
}

/// What one attempt to receive brought.
pub(super) enum Received {
    /// Nothing was there.
    Nothing,
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
            Ok(length) => Ok(Self::Bytes { to_send: length, payload: length, is_full: length == capacity }),
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock => Ok(Self::Nothing),
                ErrorKind::Interrupted => Ok(Self::Bytes { to_send: 0, payload: 0, is_full: true }),
                _ => Err(Failure::Source),
            },
        }
    }
}

/// The state of a direction. Without bytes in flight it owns no memory.
#[derive(Default)]
pub(super) struct Direction {
    pending: Option<Pending>,
    /// The source may have bytes.
    pub(super) readable: bool,
    /// The sink may take bytes.
    pub(super) writable: bool,
    /// The source's FIN has arrived, maybe behind bytes that are still to be read. With edge-triggered polling
    /// nothing announces it again, so a short read proves nothing any more.
    pub(super) hung_up: bool,
    /// The source is broken. Reading tells that, too, but nothing is read any more once its FIN has arrived.
    pub(super) failed: bool,
    at_end: bool,
    /// The end has been passed on: this direction is over.
    pub(super) is_over: bool,
    /// Payload bytes.
    pub(super) payload: u64,
}

/// Bytes that the sink has not taken yet.
struct Pending {
    buffer: Buffer,
    sent: u32,
    end: u32,
    /// An opening has memory of its own.
    is_pooled: bool,
}

impl Direction {
    /// A direction whose sink gets `opening` before anything else; `payload` of its bytes count.
    pub(super) fn with_opening(opening: Vec<u8>, payload: usize) -> Self {
        let length = u32::try_from(opening.len()).unwrap_or(u32::MAX);
        let pending = Pending { buffer: opening.into(), sent: 0, end: length, is_pooled: false };
        Self { pending: (length > 0).then_some(pending), payload: payload as u64, ..Self::default() }
    }

    /// Moves bytes from `source`, through `receive`, to `sink`.
    ///
    /// # Errors
    /// See [`Failure`].
    pub(super) fn take_turn(
        &mut self,
        source: &TcpStream,
        sink: &TcpStream,
        pool: &mut Pool,
        mut receive: impl FnMut(&TcpStream, &mut [u8]) -> Result<Received, Failure>,
    ) -> Result<Turn, Failure> {
        for _ in 0..TURN {
            if !self.send(sink, pool)? {
                return Ok(Turn::Waiting);
            }
            if self.at_end {
                if !self.is_over {
                    self.is_over = true;
                    // A sink that is gone will say so on its own direction.
                    let _ = sink.shutdown(Shutdown::Write);
                }
                return if self.failed { Err(Failure::Source) } else { Ok(Turn::Waiting) };
            }
            if !self.readable {
                return Ok(Turn::Waiting);
            }
            let Some(mut buffer) = pool.take() else { return Ok(Turn::Starved) };
            match receive(source, &mut buffer) {
                Ok(Received::Bytes { to_send, payload, is_full }) => {
                    self.readable = is_full || self.hung_up;
                    self.payload += payload as u64;
                    let end = u32::try_from(to_send).unwrap_or_default();
                    self.pending = Some(Pending { buffer, sent: 0, end, is_pooled: true });
                }
                other => {
                    pool.give_back(buffer);
                    self.readable = false;
                    self.at_end = matches!(other?, Received::End);
                }
            }
        }
        Ok(Turn::Unfinished)
    }

    /// Sends what is pending and says whether all of it is gone.
    fn send(&mut self, mut sink: &TcpStream, pool: &mut Pool) -> Result<bool, Failure> {
        while let Some(pending) = &mut self.pending {
            let unsent = pending.buffer.get(pending.sent as usize..pending.end as usize).unwrap_or_default();
            if unsent.is_empty() {
                self.give_back(pool);
                break;
            }
            if !self.writable {
                return Ok(false);
            }
            match sink.write(unsent) {
                Ok(taken) => {
                    // A short write means that the socket is full; the poller will say when it is not.
                    self.writable = taken == unsent.len();
                    pending.sent += u32::try_from(taken).unwrap_or_default();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(Failure::Sink),
            }
        }
        Ok(true)
    }

    /// Something that changes whenever a byte moves.
    pub(super) fn progress(&self) -> (u64, u32) {
        (self.payload, self.pending.as_ref().map_or(u32::MAX, |pending| pending.sent))
    }

    /// Gives the buffer back, sent or not.
    pub(super) fn give_back(&mut self, pool: &mut Pool) {
        if let Some(pending) = self.pending.take().filter(|pending| pending.is_pooled) {
            pool.give_back(pending.buffer);
        }
    }
}
