//! One relayed connection: two sockets, two directions, and what is done to the bytes on their way.

use std::io::{IoSliceMut, Read};
use std::net::{IpAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use super::direction::{Direction, Failure, Fault, Received, Room, Turn};
use super::inbox::Seat;
use super::pool::{Budget, Holder, Owner, Pool};
use super::{Cause, Farewells, Job, Watch};
use crate::event::Traffic;
use crate::net::sockopts;
use crate::proto::transcode::{ClientToDc, DcToClient, RECORD_PAYLOAD_MAX, RecordError};
use crate::proxy::relay::farewell;

/// Whoever weighs no more has little to say, bytes.
const MESSAGE: u64 = RECORD_PAYLOAD_MAX as u64;

/// What is done to the bytes.
#[expect(
    clippy::large_enum_variant,
    reason = "in memory of their own the ciphers would be scattered and not given back"
)]
pub(crate) enum Codec {
    /// Nothing: the other end is the front.
    Splice,
    /// TLS records on the client's side, obfuscated2 on the DC's.
    Telegram(ClientToDc, DcToClient, Farewells),
}

impl Codec {
    fn owner(&self) -> Owner {
        match self {
            Self::Splice => Owner::Stranger,
            Self::Telegram(..) => Owner::Client,
        }
    }
}

/// A socket's end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Remote,
}

/// What the poller said about one socket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Readiness {
    pub(super) readable: bool,
    pub(super) writable: bool,
    pub(super) hung_up: bool,
    pub(super) urgent: bool,
    pub(super) failed: bool,
}

/// A connection of the engine.
pub(super) struct Conn {
    client: TcpStream,
    remote: TcpStream,
    codec: Codec,
    to_remote: Direction,
    to_client: Direction,
    /// When the last byte moved, milliseconds on the engine's clock.
    pub(super) last_active: u64,
    /// How long no byte may move, milliseconds.
    pub(super) idle: u64,
    /// How long bytes may be without acknowledgement; none is the kernel's business alone.
    delivery: Option<Duration>,
    /// Nothing is on its way, and only probes tell whether the ends are still there.
    is_quiet: bool,
    /// The address that it is counted for.
    source: IpAddr,
    /// Bytes that its last turn has moved.
    pub(super) last_turn: u64,
    /// The same of its heaviest turn; each turn since then counts for half of the one before.
    weight: u64,
    /// It stands in one of the engine's queues.
    pub(super) is_queued: bool,
    /// When it is looked at again, if it stands among those that wait for their time; milliseconds.
    pub(super) delayed_until: Option<u64>,
    seat: Option<Arc<Seat>>,
    watch: Option<Box<dyn Watch>>,
    /// What the watch knows of.
    reported: Traffic,
}

impl Conn {
    pub(super) fn new(job: Job, pool: &mut Pool, now: u64) -> Self {
        let mut room = Room::new(pool, job.codec.owner(), now, 0);
        let conn = Self {
            client: job.client,
            remote: job.remote,
            codec: job.codec,
            to_remote: Direction::with_opening(job.opening, job.opening_payload, &mut room),
            to_client: Direction::default(),
            last_active: now,
            idle: u64::try_from(job.idle.as_millis()).unwrap_or(u64::MAX),
            delivery: job.delivery,
            is_quiet: false,
            source: job.source,
            last_turn: 0,
            weight: 0,
            is_queued: false,
            delayed_until: None,
            seat: job.seat,
            watch: Some(job.watch),
            reported: Traffic::default(),
        };
        conn.limit_delivery(job.delivery);
        conn
    }

    /// Leaves it to the probes to find out whether the ends are there, once nothing can be on its way any more: while
    /// the kernel knows a limit for the delivery, it takes one lost probe after that time for the end, however many
    /// may get lost.
    pub(super) fn rest_if_quiet(&mut self, now: u64) {
        let Some(delivery) = self.delivery.filter(|_| !self.is_quiet) else { return };
        // The kernel may be late by an eighth.
        let limit = u64::try_from((delivery + delivery / 4).as_millis()).unwrap_or(u64::MAX);
        if now.saturating_sub(self.last_active) >= limit && self.blocked_for(now).is_none() {
            self.is_quiet = true;
            self.limit_delivery(None);
        }
    }

    fn limit_delivery(&self, limit: Option<Duration>) {
        if self.delivery.is_some() {
            sockopts::limit_delivery(&self.client, limit);
            sockopts::limit_delivery(&self.remote, limit);
        }
    }

    pub(super) fn socket(&self, side: Side) -> &TcpStream {
        match side {
            Side::Client => &self.client,
            Side::Remote => &self.remote,
        }
    }

    /// Takes note of its place in the engine's table, and says whether it is to be cut.
    pub(super) fn sits_at(&self, key: usize) -> bool {
        let Some(seat) = &self.seat else { return false };
        seat.set_key(key);
        seat.is_cut()
    }

    /// Says whether a seat is the one of this connection.
    pub(super) fn has(&self, seat: &Arc<Seat>) -> bool {
        self.seat.as_ref().is_some_and(|own| Arc::ptr_eq(own, seat))
    }

    /// Whose bytes are held for it.
    pub(super) fn owner(&self) -> Owner {
        self.codec.owner()
    }

    /// For how many milliseconds one of its ends has refused bytes that are held for it; none if none are.
    fn blocked_for(&self, now: u64) -> Option<u32> {
        self.to_remote.blocked_for(now).max(self.to_client.blocked_for(now))
    }

    /// What is held for it because one of its ends refuses it, if anything is.
    pub(super) fn holder(&self, key: usize, now: u64) -> Option<Holder> {
        let blocked = self.blocked_for(now)?;
        Some(Holder { blocked, bytes: self.to_remote.held() + self.to_client.held(), key, source: self.source })
    }

    /// What the kernel keeps for it, if one of its ends has taken nothing for longer than its owner may.
    pub(super) fn stuck(&self, key: usize, now: u64, budget: &Budget) -> Option<Holder> {
        let least = budget.patience(self.owner());
        let mut holder = self.holder(key, now).filter(|holder| holder.blocked >= least)?;
        let is_stuck = |direction: &Direction| direction.blocked_for(now).is_some_and(|blocked| blocked >= least);
        let directions = [(&self.to_client, &self.remote, &self.client), (&self.to_remote, &self.client, &self.remote)];
        let stuck = directions.into_iter().filter(|(direction, ..)| is_stuck(direction));
        holder.bytes = stuck.map(|(direction, source, sink)| direction.kernel_bytes(source, sink)).sum();
        Some(holder)
    }

    /// Takes note of what the poller said.
    pub(super) fn wake(&mut self, side: Side, readiness: Readiness) {
        let (outbound, inbound) = match side {
            Side::Client => (&mut self.to_remote, &mut self.to_client),
            Side::Remote => (&mut self.to_client, &mut self.to_remote),
        };
        outbound.readable |= readiness.readable;
        outbound.hung_up |= readiness.hung_up;
        outbound.is_marked |= readiness.urgent;
        outbound.failed |= readiness.failed;
        inbound.writable |= readiness.writable;
    }

    /// Says whether it is somebody whom others do not have to wait long for.
    pub(super) fn goes_first(&self) -> bool {
        self.owner() == Owner::Stranger || self.weight <= MESSAGE
    }

    /// Moves bytes, up to `most` each way, until both ways have to wait or have had their turn.
    ///
    /// # Errors
    /// The cause of the connection's end.
    pub(super) fn take_turn(&mut self, pool: &mut Pool, now: u64, most: u64) -> Result<Turn, Cause> {
        let Self { client, remote, codec, to_remote, to_client, .. } = self;
        let before = to_remote.payload + to_client.payload;
        let mut room = Room::new(pool, codec.owner(), now, most);
        let due = |codec: &Codec| match codec {
            Codec::Splice => None,
            Codec::Telegram(_, dc_to_client, _) => dc_to_client.due(),
        };
        // Bytes that have waited long enough are received again, so to speak.
        to_client.readable |= due(codec).is_some_and(|due| due <= now);
        // First what the remote end has said: it may have said it just before it broke.
        let down = to_client
            .take_turn(remote, client, &mut room, |source, buffer| match codec {
                Codec::Splice => receive(source, buffer),
                Codec::Telegram(_, dc_to_client, _) => receive_into_slots(source, buffer, dc_to_client, now),
            })
            .map_err(|failure| cause(failure, Side::Remote))?;
        let up = to_remote
            .take_turn(client, remote, &mut room, |source, buffer| match codec {
                Codec::Splice => receive(source, buffer),
                Codec::Telegram(client_to_dc, ..) => receive_records(source, buffer, client_to_dc),
            })
            .map_err(|failure| cause(failure, Side::Client))?;
        self.last_turn = to_remote.payload + to_client.payload - before;
        self.weight = self.last_turn.max(self.weight / 2);
        if std::mem::take(&mut to_remote.has_moved) | std::mem::take(&mut to_client.has_moved) {
            self.last_active = now;
            if std::mem::take(&mut self.is_quiet) {
                self.limit_delivery(self.delivery);
            }
        }
        match (up, down) {
            _ if self.to_remote.is_over && self.to_client.is_over => Err(Cause::Finished),
            (Turn::Unfinished, _) | (_, Turn::Unfinished) => Ok(Turn::Unfinished),
            // Only what goes to clients is ever held back.
            (_, Turn::Waiting) => Ok(due(&self.codec).filter(|due| *due > now).map_or(Turn::Waiting, Turn::Later)),
            (_, later) => Ok(later),
        }
    }

    /// Gives the memory back and closes both sockets.
    ///
    /// A reset of one end of a spliced connection is passed on to the other. Towards a Telegram client it is not: the
    /// bytes that the kernel still holds for it are worth more. Who gives way for memory loses them all the same.
    pub(super) fn close(mut self, pool: &mut Pool, cause: Cause) {
        if let Codec::Telegram(.., farewells) = self.codec
            && let Some(farewell) = farewells.after(cause)
        {
            // In the middle of a record an alert would be none.
            farewell::end(&self.client, farewell.with_alert(!self.to_client.has_rest()));
        }
        let account = pool.account(self.owner());
        self.to_remote.give_back(account);
        self.to_client.give_back(account);
        let is_spliced = matches!(self.codec, Codec::Splice);
        match cause {
            Cause::ClientReset | Cause::ClientTimeout if is_spliced => sockopts::reset_on_close(&self.remote),
            Cause::RemoteReset | Cause::RemoteTimeout if is_spliced => sockopts::reset_on_close(&self.client),
            // What has not been taken so far would stay in the kernel for minutes.
            Cause::NoResources => [&self.client, &self.remote].into_iter().for_each(sockopts::reset_on_close),
            _ => {}
        }
        self.report();
        let (watch, traffic) = (self.watch.take(), self.reported);
        // The places that the end of the watch frees are the sockets', so these go first.
        drop(self);
        if let Some(watch) = watch {
            watch.ended(cause, traffic);
        }
    }

    /// Tells the watch how many bytes have moved since it was told last.
    pub(super) fn report(&mut self) {
        let traffic = Traffic { from_client: self.to_remote.payload, to_client: self.to_client.payload };
        let moved = traffic.since(self.reported);
        if moved != Traffic::default()
            && let Some(watch) = &mut self.watch
        {
            self.reported = traffic;
            watch.moved(moved);
        }
    }
}

/// What a failure of the direction that starts at `source` means for the connection.
fn cause(failure: Failure, source: Side) -> Cause {
    let (broken, fault) = match (failure, source) {
        (Failure::BadRecord, _) => return Cause::BadRecord,
        (Failure::Alert, _) => return Cause::Alert,
        (Failure::Source(fault), _) => (source, fault),
        (Failure::Sink(fault), Side::Client) => (Side::Remote, fault),
        (Failure::Sink(fault), Side::Remote) => (Side::Client, fault),
    };
    match (broken, fault) {
        (Side::Client, Fault::Reset) => Cause::ClientReset,
        (Side::Client, Fault::Silent) => Cause::ClientTimeout,
        (Side::Remote, Fault::Reset) => Cause::RemoteReset,
        (Side::Remote, Fault::Silent) => Cause::RemoteTimeout,
    }
}

fn receive(mut source: &TcpStream, buffer: &mut [u8]) -> Result<Received, Failure> {
    Received::from_result(source.read(buffer), buffer.len())
}

/// Receives TLS records and leaves what the DC is to get of them.
fn receive_records(source: &TcpStream, buffer: &mut [u8], codec: &mut ClientToDc) -> Result<Received, Failure> {
    match receive(source, buffer)? {
        Received::Bytes { to_send, is_full, .. } => {
            let records = buffer.get_mut(..to_send).unwrap_or_default();
            let payload = codec.transcode(records).map_err(|error| match error {
                RecordError::Alert => Failure::Alert,
                _ => Failure::BadRecord,
            })?;
            Ok(Received::Bytes { to_send: payload, payload, is_full, tail_waits: is_full })
        }
        other => Ok(other),
    }
}

/// Receives the DC's bytes with room for record headers between them and makes records of them.
fn receive_into_slots(
    source: &TcpStream,
    buffer: &mut [u8],
    codec: &mut DcToClient,
    now: u64,
) -> Result<Received, Failure> {
    if codec.is_over {
        return Ok(Received::End);
    }
    if let Some(due) = codec.sizer.as_ref().and_then(|sizer| sizer.held_until(now)) {
        return Ok(Received::Later(due));
    }
    let layout = codec.layout();
    let received = receive_in_parts(source, codec.places(buffer, layout))?;
    match received {
        Received::Bytes { payload, is_full, .. } => {
            let to_send = codec.transcode(buffer, layout, payload, is_full, now);
            let tail_waits = is_full && codec.sizer.is_none();
            Ok(Received::Bytes { to_send, payload, is_full, tail_waits })
        }
        other => match codec.release(buffer, matches!(other, Received::End), now) {
            0 => Ok(other),
            // The end has to be seen again behind it.
            to_send => Ok(Received::Bytes { to_send, payload: 0, is_full: true, tail_waits: false }),
        },
    }
}

/// Receives into one part after the other. Several cost more than a single one, in the kernel and here, and one is enough
/// for messages.
fn receive_in_parts<'a>(
    mut source: &TcpStream,
    mut parts: impl Iterator<Item = &'a mut [u8]>,
) -> Result<Received, Failure> {
    let first = parts.next().unwrap_or_default();
    let Some(second) = parts.next() else { return receive(source, first) };
    let mut slots: [IoSliceMut<'_>; super::SLOTS] = std::array::from_fn(|_| IoSliceMut::new(&mut []));
    let mut capacity = 0;
    for (slot, part) in slots.iter_mut().zip([first, second].into_iter().chain(parts)) {
        capacity += part.len();
        *slot = IoSliceMut::new(part);
    }
    Received::from_result(source.read_vectored(&mut slots), capacity)
}
