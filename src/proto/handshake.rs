//! A connection from its first byte until it is known what it is: `Hello → Frame → Done`.
//!
//! The machine is fed what the client sends, in pieces of any size, and says what is to be done. It keeps every byte
//! until the client is known to be one, so that whoever is not can be handed to the front as if nothing had looked.

use super::dc::DcId;
use super::faketls::{self, Verified};
use super::obfuscated2::{ClientFrame, DcFrame, FRAME_LEN, StreamKey};
use super::secret::Secret;
use super::tls::client_hello::{Assembler, Progress};
use super::tls::record::Deframer;
use super::tls::server_hello::{self, ReplyShape};
use super::tls::x25519;
use super::transcode::{ClientToDc, DcToClient};

/// Why a connection is not a client's, or no good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The first bytes are no ClientHello that a Telegram client could have sent.
    NotClientHello,
    /// The digest was not made with the secret.
    WrongDigest,
    /// The server name is missing or not the secret's.
    WrongSni,
    /// The client's clock is too far off; its distance from ours in seconds, positive if it is ahead.
    ClockSkew(i64),
    /// This hello was seen before.
    Replay,
    /// It offers nothing that a TLS 1.3 server could choose.
    NoTls13,
    /// After our reply: something that is no TLS record.
    BadRecord,
    /// After our reply: an obfuscated2 frame with an unknown tag, as of a client with another secret.
    BadFrame,
}

impl Reason {
    /// One word for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotClientHello => "not_client_hello",
            Self::WrongDigest => "wrong_digest",
            Self::WrongSni => "wrong_sni",
            Self::ClockSkew(_) => "clock_skew",
            Self::Replay => "replay",
            Self::NoTls13 => "no_tls13",
            Self::BadRecord => "bad_record",
            Self::BadFrame => "bad_frame",
        }
    }
}

/// What the driver of the machine has to do next.
pub(crate) enum Step {
    /// Read more from the client.
    Read,
    /// Write what is in `out`, then call [`Handshake::handle`] again, with no input.
    Reply,
    /// The client is one, and where it wants to go is known.
    Established(Box<Session>),
    /// Hand the connection to the front, with [`Handshake::into_received`].
    Front(Reason),
    /// Close. Our reply is out, so the front is no choice any more.
    Close(Reason),
}

/// What the machine needs of the world.
pub(crate) struct Env<'a> {
    /// Unix time in seconds.
    pub(crate) now: i64,
    /// How far a client's clock may be off, seconds.
    pub(crate) tolerance: i64,
    /// Fills a slice with random bytes.
    pub(crate) fill: &'a mut dyn FnMut(&mut [u8]),
    /// Says whether a hello, by its random and its time, was never seen before, and remembers it.
    pub(crate) first_seen: &'a mut dyn FnMut(&[u8; 32], i64) -> bool,
}

/// The connection state machine.
pub(crate) struct Handshake {
    /// What came from the client and is not understood yet; all of it as long as the front is a choice.
    received: Vec<u8>,
    state: State,
}

enum State {
    Hello(Assembler),
    Frame { deframer: Deframer, payload: Vec<u8> },
}

impl Handshake {
    pub(crate) fn new() -> Self {
        Self { received: Vec::new(), state: State::Hello(Assembler::default()) }
    }

    /// Everything that the client has sent; for the front.
    pub(crate) fn into_received(self) -> Vec<u8> {
        self.received
    }

    /// Takes what the client sent since the last call.
    pub(crate) fn handle(&mut self, input: &[u8], secret: &Secret, env: &mut Env<'_>, out: &mut Vec<u8>) -> Step {
        self.received.extend_from_slice(input);
        match &mut self.state {
            State::Hello(assembler) => match assembler.advance(&self.received) {
                Progress::Partial => Step::Read,
                Progress::Impossible => Step::Front(Reason::NotClientHello),
                Progress::Complete(end) => match answer(assembler, secret, env, out) {
                    Err(reason) => Step::Front(reason),
                    Ok(()) => {
                        self.received.drain(..end);
                        self.state = State::Frame { deframer: Deframer::default(), payload: Vec::new() };
                        Step::Reply
                    }
                },
            },
            State::Frame { deframer, payload } => {
                let Ok(length) = deframer.deframe(&mut self.received) else {
                    return Step::Close(Reason::BadRecord);
                };
                payload.extend(self.received.drain(..).take(length));
                let Some((frame, early)) = payload.split_first_chunk::<FRAME_LEN>() else { return Step::Read };
                match ClientFrame::open(frame, secret.key()) {
                    None => Step::Close(Reason::BadFrame),
                    Some(frame) => {
                        let (early, deframer) = (early.to_vec(), std::mem::take(deframer));
                        Step::Established(Box::new(Session { frame, deframer, early }))
                    }
                }
            }
        }
    }
}

/// Checks a whole hello and writes the reply to it.
fn answer(assembler: &Assembler, secret: &Secret, env: &mut Env<'_>, out: &mut Vec<u8>) -> Result<(), Reason> {
    let Verified { hello, time } =
        faketls::verify(assembler.message(), assembler.record_version(), secret, env.now, env.tolerance)?;
    if !(env.first_seen)(hello.random, time) {
        return Err(Reason::Replay);
    }
    let shape = ReplyShape::for_client(&hello, flight_len(env.fill)).ok_or(Reason::NoTls13)?;
    let share = x25519::random_public_key(env.fill);
    server_hello::write(out, shape, hello.session_id, &share, env.fill);
    faketls::sign_reply(out, hello.random, secret);
    Ok(())
}

/// A length of the encrypted flight as web servers with usual certificates have it, 2500 to 4699 bytes.
fn flight_len(fill: &mut dyn FnMut(&mut [u8])) -> u16 {
    let mut bytes = [0; 4];
    fill(&mut bytes);
    2500 + u16::try_from(u32::from_le_bytes(bytes) % 2200).unwrap_or_default()
}

/// A client that has said where it wants to go. Only the machine makes one.
pub(crate) struct Session {
    frame: ClientFrame,
    deframer: Deframer,
    /// Payload that followed the frame.
    early: Vec<u8>,
}

/// A session on its way to a DC.
pub(crate) struct Link {
    pub(crate) client_to_dc: ClientToDc,
    pub(crate) dc_to_client: DcToClient,
    /// The first bytes for the DC: our frame and what the client has sent behind its own.
    pub(crate) opening: Vec<u8>,
    /// How many of these are the client's.
    pub(crate) opening_payload: usize,
}

impl Session {
    /// The DC that the client asked for.
    pub(crate) fn dc(&self) -> DcId {
        self.frame.dc
    }

    /// Says whether the client has sent more than its frame.
    pub(crate) fn has_early_payload(&self) -> bool {
        !self.early.is_empty()
    }

    /// Makes the ciphers and the opening of a stream to `dc`, which may be another than the client asked for.
    pub(crate) fn link(self, dc: DcId, fast: bool, fill: &mut dyn FnMut(&mut [u8])) -> Link {
        let Self { frame: ClientFrame { tag, from_client, to_client, .. }, deframer, mut early } = self;
        let DcFrame { bytes, to_dc, from_dc } = DcFrame::new(tag, dc, fast.then_some(&to_client), fill);
        let dc_to_client = download(fast, &from_dc, &to_client);
        let mut client_to_dc = ClientToDc::new(deframer, from_client, to_dc);
        client_to_dc.recrypt(&mut early);
        let opening_payload = early.len();
        let mut opening = bytes.to_vec();
        opening.append(&mut early);
        Link { client_to_dc, dc_to_client, opening, opening_payload }
    }
}

fn download(fast: bool, from_dc: &StreamKey, to_client: &StreamKey) -> DcToClient {
    if fast { DcToClient::fast() } else { DcToClient::recrypting(from_dc.stream(), to_client.stream()) }
}
