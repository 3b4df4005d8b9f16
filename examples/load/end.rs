//! One end of a relayed connection, as a client or as the data centre.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};

use rustix::event::epoll::EventFlags;
use rustix::net::RecvFlags;

use crate::support::client::{CHANGE_CIPHER_SPEC, CLIENT_RECORD, in_records};
use crate::support::hello::Hello;
use crate::support::{KEY, obfuscated2};

/// What the connections are for; the number is what each has to do, but that of all for `Connect`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scenario {
    /// The data centre sends that many bytes and its FIN.
    Download(u64),
    /// The client sends that many bytes and its FIN.
    Upload(u64),
    /// The client sends a message and waits for it to come back, that often.
    PingPong(u64),
    /// The same twice, with a small message and a burst, and then nothing.
    Idle,
    /// The same once, with the frame, and the connection is closed.
    Connect(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Client,
    Dc,
}

/// What all ends share.
pub(crate) struct Shared {
    is_plain: bool,
    scenario: Scenario,
    /// The handshakes are over and the work may begin.
    pub(crate) has_begun: bool,
    pub(crate) open_clients: usize,
    pub(crate) open_dcs: usize,
    /// Clients that are done.
    pub(crate) finished: usize,
    pub(crate) bytes: u64,
    /// Bulk data on the wire: records where a client sends, anything else without form.
    records: Vec<u8>,
    noise: Vec<u8>,
    buffer: Vec<u8>,
}

const NOISE: usize = 256 << 10;
const RECORDS: usize = 90;
/// Records of the proxy's answer to a hello.
const REPLY_RECORDS: usize = 3;
/// Bytes of the message in `Connect`.
const PING: usize = 100;

impl Shared {
    pub(crate) fn new(is_plain: bool, scenario: Scenario) -> Self {
        let mut noise = vec![0; NOISE];
        getrandom::fill(&mut noise).unwrap();
        let records = in_records(&noise[..RECORDS * CLIENT_RECORD], CLIENT_RECORD);
        let (open_clients, open_dcs, finished, bytes) = (0, 0, 0, 0);
        let buffer = vec![0; NOISE];
        Self { is_plain, scenario, has_begun: false, open_clients, open_dcs, finished, bytes, records, noise, buffer }
    }

    /// The size of the `round`th message.
    fn message_len(&self, round: u64) -> usize {
        match self.scenario {
            Scenario::Idle => [1024, 16_384][(round % 2) as usize],
            Scenario::PingPong(_) => 100 + (round as usize * 331) % 925,
            _ => PING,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Waits for the connection.
    Connecting,
    /// Waits for the answer to the hello, or for the frame.
    Greeting,
    Open,
}

pub(crate) struct End {
    socket: TcpStream,
    role: Role,
    stage: Stage,
    /// Bytes to send first.
    out: Vec<u8>,
    sent: usize,
    /// Bytes of the shared bulk data to send then, and the place in these.
    bulk: u64,
    bulk_at: usize,
    ends_after: bool,
    deframer: Deframer,
    /// Payload bytes that the current stage or message still lacks.
    missing: usize,
    round: u64,
}

impl End {
    pub(crate) fn new(socket: TcpStream, role: Role, shared: &mut Shared) -> Self {
        let missing = if role == Role::Dc { 64 } else { 0 };
        let stage = if role == Role::Dc { Stage::Greeting } else { Stage::Connecting };
        let deframer = Deframer::default();
        let (out, sent, bulk, bulk_at) = (Vec::new(), 0, 0, 0);
        let mut end =
            Self { socket, role, stage, out, sent, bulk, bulk_at, ends_after: false, deframer, missing, round: 0 };
        if role == Role::Dc && shared.is_plain {
            end.become_open(shared);
        }
        end
    }

    /// Does what can be done and says whether the end is over.
    pub(crate) fn drive(&mut self, ready: EventFlags, shared: &mut Shared) -> io::Result<bool> {
        let is_writable = ready.contains(EventFlags::OUT);
        let has_ended = ready.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
        let mut is_readable = has_ended || ready.contains(EventFlags::IN);
        if self.stage == Stage::Connecting && is_writable {
            self.connected(shared);
        }
        if self.stage == Stage::Open && shared.has_begun && self.round == 0 {
            self.begin(shared);
        }
        if is_writable {
            self.flush(shared)?;
        }
        while is_readable {
            match self.receive(shared) {
                Ok(0) => return self.hung_up(shared),
                Ok(count) => {
                    // The FIN makes no event of its own if it came with the last bytes.
                    is_readable = has_ended || count == shared.buffer.len();
                    self.flush(shared)?;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
            if self.is_done(shared) {
                shared.finished += 1;
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn connected(&mut self, shared: &mut Shared) {
        if shared.is_plain {
            return self.become_open(shared);
        }
        self.out = Hello::default().sign().wire;
        self.stage = Stage::Greeting;
    }

    fn become_open(&mut self, shared: &mut Shared) {
        self.stage = Stage::Open;
        match self.role {
            Role::Client => shared.open_clients += 1,
            Role::Dc => shared.open_dcs += 1,
        }
        if shared.has_begun {
            self.begin(shared);
        }
    }

    fn begin(&mut self, shared: &mut Shared) {
        self.round = 1;
        match (shared.scenario, self.role) {
            (Scenario::Download(bytes), Role::Dc) => (self.bulk, self.ends_after) = (bytes, true),
            (Scenario::Upload(bytes), Role::Client) => {
                let records = bytes.div_ceil(CLIENT_RECORD as u64);
                let header = if shared.is_plain { 0 } else { 5 };
                (self.bulk, self.ends_after) = (records * (CLIENT_RECORD as u64 + header), true);
                shared.bytes += records * CLIENT_RECORD as u64;
            }
            (Scenario::PingPong(_) | Scenario::Idle | Scenario::Connect(_), Role::Client) => self.send_message(shared),
            _ => {}
        }
    }

    fn send_message(&mut self, shared: &Shared) {
        self.missing = shared.message_len(self.round);
        let message = &shared.noise[..self.missing];
        if shared.is_plain { self.out.extend(message) } else { self.out.extend(in_records(message, CLIENT_RECORD)) }
    }

    fn is_done(&self, shared: &Shared) -> bool {
        self.role == Role::Client
            && matches!(shared.scenario, Scenario::Connect(_))
            && self.stage == Stage::Open
            && self.missing == 0
    }

    /// Sends until nothing is left or the socket is full.
    fn flush(&mut self, shared: &Shared) -> io::Result<()> {
        loop {
            let template = match self.role {
                Role::Client if !shared.is_plain => &shared.records,
                _ => &shared.noise,
            };
            let from_out = self.sent < self.out.len();
            let bytes = if from_out { &self.out[self.sent..] } else { &template[self.bulk_at..] };
            let most = if from_out { bytes.len() } else { bytes.len().min(self.bulk as usize) };
            if most == 0 {
                break;
            }
            match self.socket.write(&bytes[..most]) {
                Ok(count) if from_out => self.sent += count,
                Ok(count) => {
                    self.bulk -= count as u64;
                    self.bulk_at = (self.bulk_at + count) % template.len();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.out.clear();
        self.sent = 0;
        if std::mem::take(&mut self.ends_after) {
            self.socket.shutdown(Shutdown::Write)?;
        }
        Ok(())
    }

    fn receive(&mut self, shared: &mut Shared) -> io::Result<usize> {
        let is_bulk =
            self.stage == Stage::Open && matches!(shared.scenario, Scenario::Download(_) | Scenario::Upload(_));
        if is_bulk {
            // The kernel throws the bytes away without copying them.
            let (_, count) = rustix::net::recv(&self.socket, &mut shared.buffer[..], RecvFlags::TRUNC)?;
            return Ok(count);
        }
        let count = self.socket.read(&mut shared.buffer)?;
        let mut buffer = std::mem::take(&mut shared.buffer);
        self.received(&buffer[..count], shared);
        std::mem::swap(&mut buffer, &mut shared.buffer);
        Ok(count)
    }

    fn received(&mut self, bytes: &[u8], shared: &mut Shared) {
        match (self.stage, self.role) {
            (Stage::Connecting, _) => {}
            (Stage::Greeting, Role::Client) => {
                self.deframer.payload(bytes);
                if self.deframer.records == REPLY_RECORDS {
                    let frame = obfuscated2::send(Some(&KEY), obfuscated2::PADDED, 2);
                    self.out.extend(CHANGE_CIPHER_SPEC);
                    self.out.extend(in_records(&frame.wire, CLIENT_RECORD));
                    self.become_open(shared);
                }
            }
            (Stage::Greeting, Role::Dc) => {
                let frame = self.missing.min(bytes.len());
                self.missing -= frame;
                if self.missing == 0 {
                    self.become_open(shared);
                    self.received(&bytes[frame..], shared);
                }
            }
            (Stage::Open, Role::Dc) => self.out.extend(bytes),
            (Stage::Open, Role::Client) => {
                let count = if shared.is_plain { bytes.len() } else { self.deframer.payload(bytes) };
                self.missing = self.missing.checked_sub(count).expect("more came back than was sent");
                if self.missing == 0 {
                    self.came_back(shared);
                }
            }
        }
    }

    fn came_back(&mut self, shared: &mut Shared) {
        shared.bytes += shared.message_len(self.round) as u64;
        let rounds = match shared.scenario {
            Scenario::PingPong(rounds) => rounds,
            Scenario::Idle => 2,
            _ => return,
        };
        if self.round == rounds {
            shared.finished += 1;
        } else {
            self.round += 1;
            self.send_message(shared);
        }
    }

    /// The other end has said all it had to say.
    fn hung_up(&mut self, shared: &mut Shared) -> io::Result<bool> {
        match (self.role, shared.scenario) {
            (Role::Client, Scenario::Download(bytes)) => {
                shared.bytes += bytes;
                shared.finished += 1;
            }
            (Role::Client, Scenario::Upload(_)) => shared.finished += 1,
            (Role::Client, _) => return Err(io::Error::other("the relay closed a connection")),
            (Role::Dc, _) => {}
        }
        Ok(true)
    }
}

/// Counts records and their payload.
#[derive(Default)]
struct Deframer {
    header: [u8; 5],
    header_len: usize,
    left: usize,
    records: usize,
}

impl Deframer {
    /// Payload bytes of application data in the next bytes of the stream.
    fn payload(&mut self, mut bytes: &[u8]) -> usize {
        let mut payload = 0;
        while !bytes.is_empty() {
            if self.left == 0 {
                let taken = (5 - self.header_len).min(bytes.len());
                self.header[self.header_len..][..taken].copy_from_slice(&bytes[..taken]);
                self.header_len += taken;
                bytes = &bytes[taken..];
                if self.header_len == 5 {
                    self.left = usize::from(u16::from_be_bytes([self.header[3], self.header[4]]));
                    self.header_len = 0;
                }
                continue;
            }
            let taken = self.left.min(bytes.len());
            self.left -= taken;
            bytes = &bytes[taken..];
            payload += taken;
            self.records += usize::from(self.left == 0);
        }
        payload
    }
}
