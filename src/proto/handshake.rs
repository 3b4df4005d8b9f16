//! A connection from its first byte until it is known what it is: `Hello → Frame → Done`.
//!
//! The machine is fed what the client sends, in pieces of any size, and says what is to be done. It keeps every byte
//! until the client is known to be one, so that whoever is not can be handed to the front as if nothing had looked.

use super::dc::DcId;
use super::faketls::{self, Digest};
use super::obfuscated2::{ClientFrame, DcFrame, FRAME_LEN};
use super::packets::Packets;
pub use super::reason::Reason;
use super::secret::Secret;
use super::tls::CIPHERTEXT_MAX;
use super::tls::client_hello::{Assembler, ClientHello, Progress};
use super::tls::record::{Deframer, RecordError};
use super::tls::server_hello::{self, ReplyShape};
use super::transcode::{ClientToDc, DcToClient};

/// What the driver of the machine has to do next.
pub(crate) enum Step {
    /// Read more from the client.
    Read,
    /// Write what is in `out`, then call [`Handshake::handle`] again, with no input. The client's clock is ahead of ours
    /// by so many seconds, if this is no copy of its hello.
    Reply { skew_secs: i64 },
    /// The client is one, and where it wants to go is known.
    Established(Box<Session>),
    /// Hand the connection to the front, with [`Handshake::into_received`].
    Front(Reason),
    /// End as the front would. Our reply is out, so the front itself is no choice any more.
    Close {
        reason: Reason,
        /// The client's last word was an alert.
        after_alert: bool,
    },
}

/// What the machine needs of the world.
pub(crate) struct Env<'a> {
    /// Unix time in seconds.
    pub(crate) now: i64,
    /// How far a client's clock may be off, seconds.
    pub(crate) tolerance: i64,
    /// Fills a slice with random bytes.
    pub(crate) fill: &'a mut dyn FnMut(&mut [u8]),
    /// Says whether a hello was never seen before, and remembers it.
    pub(crate) first_seen: &'a mut dyn FnMut(&Digest) -> bool,
    /// Says how the front would answer a hello.
    pub(crate) reply_shape: &'a ShapeOf<'a>,
}

/// A hello and a source of random bytes to the shape of a reply.
pub(crate) type ShapeOf<'a> = dyn Fn(&ClientHello<'_>, &mut dyn FnMut(&mut [u8])) -> ReplyShape + 'a;

/// Room that is made at once for a hello that comes in small pieces, bytes.
const GROWTH: usize = 512;

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

    /// Bytes of memory that are held for the client's; as long as the front is a choice, no more than it has sent and
    /// [`GROWTH`].
    pub(crate) fn held(&self) -> usize {
        let behind_the_hello = match &self.state {
            State::Hello(_) => 0,
            State::Frame { payload, .. } => payload.capacity(),
        };
        self.received.capacity() + behind_the_hello
    }

    /// What the client has sent; all of it as long as the front is a choice.
    pub(crate) fn received(&self) -> &[u8] {
        &self.received
    }

    /// Everything that the client has sent; for the front.
    pub(crate) fn into_received(self) -> Vec<u8> {
        self.received
    }

    /// Takes what the client sent since the last call.
    pub(crate) fn handle(&mut self, input: &[u8], secret: &Secret, env: &mut Env<'_>, out: &mut Vec<u8>) -> Step {
        self.keep(input);
        match &mut self.state {
            State::Hello(assembler) => match assembler.advance(&self.received) {
                Progress::Partial => Step::Read,
                Progress::Impossible => Step::Front(Reason::NotClientHello),
                Progress::Complete(end) => match answer(assembler, &self.received, secret, env, out) {
                    Err(reason) => Step::Front(reason),
                    Ok(skew_secs) => {
                        // Not drained: the memory goes with the hello.
                        self.received = self.received.split_off(end);
                        self.state = State::Frame { deframer: Deframer::default(), payload: Vec::new() };
                        Step::Reply { skew_secs }
                    }
                },
            },
            State::Frame { deframer, payload } => {
                let length = match deframer.deframe(&mut self.received) {
                    Ok(length) => length,
                    Err(error) => {
                        let after_alert = error == RecordError::Alert;
                        return Step::Close { reason: Reason::BadRecord, after_alert };
                    }
                };
                payload.extend_from_slice(self.received.get(..length).unwrap_or_default());
                self.received.clear();
                let Some((frame, early)) = payload.split_first_chunk::<FRAME_LEN>() else {
                    // Clients have it in one record. Somebody's Finished is shorter, and gets its answer at once.
                    let is_other = !payload.is_empty() && deframer.is_between_records();
                    let other = Step::Close { reason: Reason::BadFrame, after_alert: false };
                    return if is_other { other } else { Step::Read };
                };
                match ClientFrame::open(frame, secret.key()) {
                    // Nobody can tell what a record is before it is whole.
                    None if !deframer.is_between_records() && payload.len() <= CIPHERTEXT_MAX => Step::Read,
                    None => Step::Close { reason: Reason::BadFrame, after_alert: false },
                    Some(frame) => {
                        let (early, mut deframer) = (early.to_vec(), std::mem::take(deframer));
                        deframer.begin_session();
                        Step::Established(Box::new(Session { frame, deframer, early }))
                    }
                }
            }
        }
    }

    /// Keeps what came; a stranger who stalls shall not hold twice of what it has sent.
    fn keep(&mut self, input: &[u8]) {
        if input.len() > self.received.capacity() - self.received.len() {
            let room = if self.received.is_empty() { input.len() } else { input.len().max(GROWTH) };
            self.received.reserve_exact(room);
        }
        self.received.extend_from_slice(input);
    }
}

/// Checks the whole hello at the start of `stream`, writes the reply to it and says how far the client's clock is ahead of ours, seconds.
fn answer(
    assembler: &Assembler,
    stream: &[u8],
    secret: &Secret,
    env: &mut Env<'_>,
    out: &mut Vec<u8>,
) -> Result<i64, Reason> {
    let message = assembler.message(stream);
    let hello = assembler.hello(&message).ok_or(Reason::NotClientHello)?;
    let verified = faketls::verify(hello, assembler.record_version(), secret, env.now)?;
    // Before the clock, and remembered even if that is wrong: a hello that was refused for its time could otherwise be
    // recorded and sent again with a better one.
    if !(env.first_seen)(verified.digest) {
        return Err(Reason::Replay);
    }
    verified.check_clock(env.tolerance)?;
    let hello = verified.hello;
    let wanted = (env.reply_shape)(&hello, env.fill);
    let shape = ReplyShape::for_client(&hello, wanted).ok_or(Reason::NoTls13)?;
    let share = server_hello::key_share(shape.group, env.fill);
    server_hello::write(out, shape, hello.session_id, &share, env.fill);
    faketls::sign_reply(out, hello.random, secret);
    Ok(verified.skew_secs)
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
        let DcFrame { bytes, to_dc, from_dc, .. } = DcFrame::new(tag, dc, fast.then_some(&to_client), fill);
        let packets = Packets::new(tag, to_client.clone());
        let dc_to_client = if fast {
            DcToClient::fast(packets)
        } else {
            DcToClient::recrypting(packets, from_dc.stream(), to_client.stream())
        };
        let mut client_to_dc = ClientToDc::new(deframer, from_client, to_dc);
        client_to_dc.recrypt(&mut early);
        let opening_payload = early.len();
        let mut opening = bytes.to_vec();
        opening.append(&mut early);
        Link { client_to_dc, dc_to_client, opening, opening_payload }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::obfuscated2::tests::client_frame;
    use crate::proto::testing::{
        RecordedHello, VECTOR_HELLO, VECTOR_SECRET, VECTOR_TIME, hex, recorded_hellos, seeded,
    };
    use crate::proto::tls::RecordHeader;
    use crate::proto::transcode::Layout;
    use hmac::{Hmac, KeyInit, Mac};
    use mtg_aes_ctr::Aes256Ctr;

    const EARLY: &[u8] = b"what the client says right after its frame";

    /// What drives a machine in these tests.
    struct World {
        secret: Secret,
        now: i64,
        seen: Vec<Digest>,
    }

    impl World {
        fn of(recorded: &RecordedHello) -> Self {
            Self { secret: recorded.secret(), now: recorded.client_time, seen: Vec::new() }
        }

        fn of_the_vector() -> Self {
            Self { secret: VECTOR_SECRET.parse().unwrap(), now: VECTOR_TIME, seen: Vec::new() }
        }

        fn handle(&mut self, machine: &mut Handshake, input: &[u8], out: &mut Vec<u8>) -> Step {
            let Self { secret, now, seen } = self;
            let mut first_seen = |digest: &Digest| {
                let is_new = !seen.contains(digest);
                seen.push(*digest);
                is_new
            };
            let mut fill = seeded(9);
            let reply_shape = |_: &ClientHello<'_>, fill: &mut dyn FnMut(&mut [u8])| ReplyShape::usual(fill);
            let mut env = Env {
                now: *now,
                tolerance: 120,
                fill: &mut fill,
                first_seen: &mut first_seen,
                reply_shape: &reply_shape,
            };
            machine.handle(input, secret, &mut env, out)
        }

        /// Feeds pieces of the given sizes, the last one repeated, until the machine wants no more of them.
        fn drive(&mut self, stream: &[u8], sizes: &[usize]) -> (Step, Handshake, Vec<u8>, usize) {
            let (mut machine, mut reply, mut fed) = (Handshake::new(), Vec::new(), 0);
            let mut sizes = sizes.iter().chain(std::iter::repeat(sizes.last().unwrap()));
            loop {
                let end = stream.len().min(fed + sizes.next().unwrap());
                let mut step = self.handle(&mut machine, &stream[fed..end], &mut reply);
                fed = end;
                if matches!(step, Step::Reply { .. }) {
                    step = self.handle(&mut machine, &[], &mut reply);
                }
                if !matches!(step, Step::Read) || fed == stream.len() {
                    return (step, machine, reply, fed);
                }
            }
        }
    }

    /// CCS, then the frame and what follows it in two records.
    fn after_the_reply(key: [u8; 16], tag: u8, dc: i16) -> (Vec<u8>, Aes256Ctr) {
        let (frame, mut to_proxy, from_proxy) = client_frame(key, [tag; 4], dc, &mut seeded(5));
        let mut payload = EARLY.to_vec();
        to_proxy.apply_keystream(&mut payload);
        let mut payload = [frame.to_vec(), payload].concat();
        let second = payload.split_off(70);
        let mut stream = vec![0x14, 3, 3, 0, 1, 1];
        for part in [payload, second] {
            stream.extend([0x17, 3, 3, 0, u8::try_from(part.len()).unwrap()]);
            stream.extend(part);
        }
        (stream, from_proxy.stream())
    }

    #[test]
    fn a_client_is_established_wherever_its_bytes_are_cut() {
        let recorded = &recorded_hellos()[0];
        let (rest, _) = after_the_reply(*recorded.secret().key(), 0xdd, -4);
        let stream = [recorded.record.as_slice(), &rest].concat();
        // An interpreter takes minutes for the keys of each reply.
        let each = if cfg!(miri) { 900 } else { 1 };
        for cut in (1..stream.len()).step_by(each) {
            let (step, ..) = World::of(recorded).drive(&stream, &[cut, stream.len()]);
            let Step::Established(session) = step else { panic!("cut at {cut}") };
            assert_eq!(session.dc().number(), -4);
            // What arrived in one piece with the end of the frame is not lost.
            let link = session.link(DcId::new(-4), true, &mut seeded(6));
            assert_eq!(link.opening.len(), FRAME_LEN + link.opening_payload);
        }
        let (step, _, reply, fed) = World::of(recorded).drive(&stream, &[1]);
        assert!(matches!(step, Step::Established(_)) && fed < stream.len());
        assert_eq!(reply[..3], [0x16, 3, 3]);
    }

    #[test]
    fn what_follows_the_frame_reaches_the_dc_and_its_answer_the_client() {
        let recorded = &recorded_hellos()[1];
        for (tag, fast) in [(0xdd, true), (0xee, true), (0xef, false)] {
            let (rest, mut client_reads) = after_the_reply(*recorded.secret().key(), tag, 2);
            let stream = [recorded.record.as_slice(), &rest].concat();
            let (step, ..) = World::of(recorded).drive(&stream, &[stream.len()]);
            let Step::Established(session) = step else { panic!() };
            assert!(session.has_early_payload());
            let mut link = session.link(DcId::new(2), fast, &mut seeded(7));
            assert_eq!(link.opening_payload, EARLY.len());

            // The DC knows no secret: its keys stand in the frame.
            let (frame, early) = link.opening.split_first_chunk::<FRAME_LEN>().unwrap();
            let mut dc = ClientFrame::open_without_secret(frame).unwrap();
            let mut early = early.to_vec();
            dc.from_client.apply_keystream(&mut early);
            assert_eq!(early, EARLY);

            let mut answer = vec![0; 5];
            let mut body = b"an answer of 21 bytes".to_vec();
            dc.to_client.stream().apply_keystream(&mut body);
            answer.extend(body);
            let framed = link.dc_to_client.transcode(&mut answer, Layout::Largest, 21, false, 0);
            assert_eq!((framed, &answer[..5]), (26, &[0x17, 3, 3, 0, 21][..]));
            client_reads.apply_keystream(&mut answer[5..]);
            assert_eq!(&answer[5..], b"an answer of 21 bytes", "fast: {fast}");
        }
    }

    #[test]
    fn the_reply_is_what_clients_check() {
        for recorded in recorded_hellos() {
            let (_, _, mut reply, _) = World::of(&recorded).drive(&recorded.record, &[usize::MAX]);
            let (hello, _) = RecordHeader::split_from(&reply).unwrap();
            assert_eq!(reply[hello.record_len()..][..6], [0x14, 3, 3, 0, 1, 1]);
            let (header, flight) = RecordHeader::split_from(&reply[hello.record_len() + 6..]).unwrap();
            assert_eq!(header, RecordHeader::new(0x17, u16::try_from(flight.len()).unwrap()));
            assert!((2500..4700).contains(&flight.len()));

            let random: [u8; 32] = reply[11..43].try_into().unwrap();
            reply[11..43].fill(0);
            let mut mac = Hmac::<sha2::Sha256>::new_from_slice(recorded.secret().key()).unwrap();
            mac.update(&recorded.record[11..43]);
            mac.update(&reply);
            assert_eq!(mac.finalize().into_bytes()[..], random);
        }
    }

    #[test]
    fn strangers_keep_every_byte_they_have_sent() {
        let hello = hex(VECTOR_HELLO);
        let mut wrong = hello.clone();
        wrong[12] ^= 1;
        let cases: [(&[u8], i64, Reason); 4] = [
            (b"GET / HTTP/1.1\r\n\r\n", 0, Reason::NotClientHello),
            (&wrong, 0, Reason::WrongDigest),
            (&hello, 121, Reason::ClockSkew(-121)),
            (&hello, -121, Reason::ClockSkew(121)),
        ];
        for (stream, later, reason) in cases {
            for size in [1, 7, stream.len()] {
                let mut world = World::of_the_vector();
                world.now += later;
                let (step, machine, reply, fed) = world.drive(stream, &[size]);
                let Step::Front(found) = step else { panic!("{reason:?}") };
                assert_eq!((found, reply.len()), (reason, 0));
                assert_eq!(machine.into_received(), stream[..fed]);
            }
        }
    }

    #[test]
    fn an_undecided_hello_is_held_once() {
        let mut hello = hex(VECTOR_HELLO);
        // One record of the greatest length, with padding that never ends.
        hello[3..5].copy_from_slice(&0x4000u16.to_be_bytes());
        hello[6..9].copy_from_slice(&[0, 0x3f, 0xfc]);
        let at = 5 + 6 + 32 + 33 + 2 + usize::from(u16::from_be_bytes([hello[76], hello[77]])) + 2;
        hello[at..at + 2].copy_from_slice(&u16::try_from(0x4000 + 5 - at - 2).unwrap().to_be_bytes());
        let end = hello.len();
        hello.extend([0x55, 0x55]);
        hello.extend(u16::try_from(0x4000 + 5 - end - 4).unwrap().to_be_bytes());
        hello.resize(0x4000 + 4, 0);
        for size in [1, 100, 1448, 4096, hello.len()] {
            let (step, machine, _, fed) = World::of_the_vector().drive(&hello, &[size]);
            assert!(matches!(step, Step::Read) && fed == hello.len(), "{size}");
            assert!(machine.held() <= hello.len() + GROWTH, "{size}: {} for {}", machine.held(), hello.len());
        }
        // A client's is given back with its reply.
        let hello = hex(VECTOR_HELLO);
        let (_, machine, ..) = World::of_the_vector().drive(&hello, &[hello.len()]);
        assert_eq!(machine.held(), 0);
    }

    #[test]
    fn a_hello_is_answered_once() {
        let (hello, mut world) = (hex(VECTOR_HELLO), World::of_the_vector());
        assert!(matches!(world.drive(&hello, &[hello.len()]).0, Step::Read));
        let (step, machine, ..) = world.drive(&hello, &[hello.len()]);
        assert!(matches!(step, Step::Front(Reason::Replay)));
        assert_eq!(machine.into_received(), hello);
    }

    #[test]
    fn a_clock_that_steps_back_opens_nothing() {
        let (hello, mut world) = (hex(VECTOR_HELLO), World::of_the_vector());
        for step in [0, 119, 3600, -3600, 86_400, -86_400, 0] {
            world.now = VECTOR_TIME + step;
            let answered = matches!(world.drive(&hello, &[hello.len()]).0, Step::Read);
            assert_eq!(answered, world.seen.len() == 1, "{step}");
        }
    }

    #[test]
    fn a_hello_that_was_refused_for_its_clock_is_not_answered_with_a_better_one() {
        let (mut hello, mut world) = (hex(VECTOR_HELLO), World::of_the_vector());
        world.now += 1000;
        assert!(matches!(world.drive(&hello, &[hello.len()]).0, Step::Front(Reason::ClockSkew(-1000))));
        let change = u32::try_from(VECTOR_TIME ^ world.now).unwrap().to_le_bytes();
        hello[39..43].iter_mut().zip(change).for_each(|(byte, change)| *byte ^= change);
        assert!(matches!(world.drive(&hello, &[hello.len()]).0, Step::Front(Reason::Replay)));
    }

    #[test]
    fn after_the_reply_rubbish_is_closed() {
        let recorded = &recorded_hellos()[2];
        let (frame, _) = after_the_reply([7; 16], 0xdd, 2);
        for (rest, reason) in [(frame, Reason::BadFrame), (b"GET / HTTP/1.1".to_vec(), Reason::BadRecord)] {
            let stream = [recorded.record.as_slice(), &rest].concat();
            for size in [1, stream.len()] {
                let (step, ..) = World::of(recorded).drive(&stream, &[size]);
                assert!(matches!(step, Step::Close { reason: found, .. } if found == reason), "{reason:?}");
            }
        }
    }
}
