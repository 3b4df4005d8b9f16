//! Looking at the front from time to time, as a client would: how and when it answers a hello, what it does to somebody
//! who goes on wrongly, how long it waits for somebody who does not go on, and whether it leads back to us.

use std::io::{self, ErrorKind};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use async_io::{Async, Timer};
use futures_lite::{AsyncReadExt as _, FutureExt as _, future};

use crate::config::Config;
use crate::guard::front_profile::{Farewell, Fault};
use crate::guard::pieces::{Arrival, PIECE, Packets};
use crate::net::connect::Dialer;
use crate::net::own_ends::OwnEnd;
use crate::net::{deadline, segments, turn};
use crate::proto::proxy_protocol;
use crate::proto::reader::ReadError;
use crate::proto::tls::first_flight::FirstFlight;
use crate::proto::tls::front_hello::{self, Offer};
use crate::proto::tls::refusal::Refusal;
use crate::proto::tls::{RecordHeader, content_type};
use crate::proxy::front::{connect, fault};
use crate::proxy::{Shared, random};

/// The first looks of each kind, which come soon after one another. So do those at a front that does not answer: one that
/// starts later than we do shall be known before its visitors.
const HANDFUL: u32 = 4;
const SOON: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3));
/// From one look to the next later on; between the two bounds, at random.
const SELDOM: (Duration, Duration) = (Duration::from_secs(10 * 60), Duration::from_secs(40 * 60));
/// The same after looks that have shown nothing for `PATIENCE`.
const RETRY: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(20));
const PATIENCE: Duration = Duration::from_secs(10 * 60);
/// Of so many looks of a kind one is at what follows a fault.
const FAULT_EACH: u32 = 12;
/// Between two measurements of the front's patience.
const EVERY: (Duration, Duration) = (Duration::from_secs(5 * 60 * 60), Duration::from_secs(7 * 60 * 60));
/// Time before the first one; the samples of a new front are wanted first.
const LATER: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(10));
/// A front that goes sooner has not waited at all.
const AT_LEAST: Duration = Duration::from_secs(1);
/// Time for one answer.
const ANSWER: Duration = Duration::from_secs(10);
/// Time in which a question of ours arrives here if the front leads back to us, and is found unanswered.
const RETURN: Duration = Duration::from_secs(4);
/// Time for a sample, which is more than a silent front is waited for.
const SAMPLE: Duration = Duration::from_secs(15);
/// A flight is over when nothing has come for so long.
const QUIET: Duration = Duration::from_secs(1);
/// The same while nothing is known of the front, and clients wait.
const FIRST_QUIET: Duration = Duration::from_millis(50);
/// Time for what follows a fault.
const FAREWELL: Duration = Duration::from_secs(3);
/// The payload of a record that stands for a client's Finished: with SHA-256 that has 36 bytes.
const FINISHED: u16 = 53;
/// Bytes of a flight that are read at most.
const FLIGHT_MAX: usize = 64 << 10;
const CHUNK: usize = 16 << 10;

/// Looks at the front for as long as the future is polled.
pub(in crate::proxy) async fn watch(shared: &Shared) {
    future::zip(watch_answers(shared), watch_patience(shared)).await;
}

async fn watch_answers(shared: &Shared) {
    loop {
        // Another front is looked at as soon as it is configured, and one that seems to be ourselves to make sure.
        keep_looking(shared).or(shared.front_changes.wait()).await;
    }
}

async fn keep_looking(shared: &Shared) {
    let (hybrid, classic) = future::zip(look(shared, Offer::Hybrid, 0), look(shared, Offer::Classic, 0)).await;
    shared.first_look.open();
    let (mut is_answered, mut answered) = (hybrid || classic, Instant::now());
    let mut seen = u32::from(hybrid) + u32::from(classic);
    for offer in [Offer::Hybrid, Offer::Classic].into_iter().cycle() {
        let pause = match (is_answered, seen / 2) {
            (true, ..HANDFUL) => SOON,
            (true, _) => SELDOM,
            _ if answered.elapsed() < PATIENCE => SOON,
            _ => RETRY,
        };
        Timer::after(random::between(pause)).await;
        is_answered = look(shared, offer, seen / 2).await;
        if is_answered {
            (seen, answered) = (seen.saturating_add(1), Instant::now());
        }
    }
}

/// Takes a sample and says whether there was any answer. `number` counts those of its kind.
async fn look(shared: &Shared, offer: Offer, number: u32) -> bool {
    let (flight, answer) = match deadline::within(SAMPLE, sample(shared, offer, sends_header(shared))).await {
        Some(Ok(sample)) => sample,
        Some(Err(error)) => {
            log::debug!("no sample of the front offer={offer:?} error={error}");
            // The other kind is looked at by its own.
            if offer == Offer::Classic {
                let otherwise = deadline::within(SAMPLE, sample(shared, Offer::Classic, !sends_header(shared)));
                let otherwise = async { matches!(otherwise.await, Some(Ok(_))) };
                fault::tell(shared, &error, otherwise).await;
            }
            return false;
        }
        None => {
            log::debug!("no sample of the front offer={offer:?} error=time is over");
            return false;
        }
    };
    shared.front_fault.forget();
    learn(shared, offer, &flight);
    shared.lock_front_profile().learn_time(answer.took);
    if number == 0 {
        shared.first_look.open();
    }
    if number.is_multiple_of(FAULT_EACH) {
        let fault = if offer == Offer::Hybrid { Fault::Other } else { Fault::Alert };
        if let Some(Some(farewell)) = deadline::within(FAREWELL, provoke(answer.socket, fault)).await {
            log::debug!("the front's answer to a fault fault={fault:?} {farewell:?}");
            shared.lock_front_profile().learn_farewell(fault, farewell);
        }
    }
    true
}

/// Whether the front gets a PROXY header, as configured.
fn sends_header(shared: &Shared) -> bool {
    shared.config().domain_fronting.proxy_protocol
}

/// Commits a fault behind the front's flight and says how it ends the connection.
async fn provoke(mut socket: Async<TcpStream>, fault: Fault) -> Option<Farewell> {
    let header = |content_type, length| RecordHeader::new(content_type, length).encode();
    let mut words = match fault {
        // Fatal, internal_error.
        Fault::Alert => [header(content_type::ALERT, 2).as_slice(), &[2, 80]].concat(),
        Fault::Other => {
            let mut sealed = [0; FINISHED as usize];
            random::fill(&mut sealed);
            let change = header(content_type::CHANGE_CIPHER_SPEC, 1);
            [&change, &[1][..], &header(content_type::APPLICATION_DATA, FINISHED), &sealed].concat()
        }
    };
    turn::write_all(&socket, &words).await.ok()?;
    words.clear();
    let mut chunk = [0; CHUNK];
    loop {
        match turn::take(socket.read(&mut chunk)).await {
            Ok(0) => return Some(Farewell { has_alert: !words.is_empty(), is_reset: false }),
            Ok(received) if words.len() < FLIGHT_MAX => {
                words.extend_from_slice(chunk.get(..received).unwrap_or_default());
            }
            Ok(_) => return None,
            Err(_) => return Some(Farewell { has_alert: !words.is_empty(), is_reset: true }),
        }
    }
}

fn learn(shared: &Shared, offer: Offer, flight: &FirstFlight) {
    let is_useful = shared.lock_front_profile().learn(offer, flight);
    let FirstFlight { suite: [_, suite], group, is_retry, records, .. } = flight;
    log::debug!(
        "sample of the front offer={offer:?} suite=13{suite:02x} group={group:04x} retry={is_retry} records={records:?} \
         useful={is_useful}"
    );
}

/// Asks the front whether it leads back to us, because a visitor has the address of one of our own connections. That
/// alone is no proof: where visitors come from our own host, they may have the same port by chance. Nor is silence; only
/// our own question is, when it arrives here.
pub(in crate::proxy) async fn check_loop(shared: &Shared) {
    let _one_at_a_time = shared.loops.checking.lock().await;
    if !shared.loops.is_found() {
        let _answer = deadline::within(RETURN, ask(shared, Offer::Classic, sends_header(shared))).await;
    }
}

/// Sends the front a hello and reads its first flight.
async fn sample(shared: &Shared, offer: Offer, sends_header: bool) -> io::Result<(FirstFlight, Answer)> {
    let mut answer = ask(shared, offer, sends_header).await?;
    let (mut chunk, mut parted) = (vec![0; CHUNK], false);
    loop {
        let flight = FirstFlight::parse(&answer.arrived);
        let limit = match &flight {
            // What is no start of TLS 1.3 does not become one by waiting.
            Err(ReadError::Malformed) => {
                return Err(io::Error::new(ErrorKind::InvalidData, Refusal::of(&answer.arrived)));
            }
            Err(_) => ANSWER,
            Ok(flight) if !flight.records.is_empty() && !shared.lock_front_profile().has_samples() => FIRST_QUIET,
            Ok(_) => QUIET,
        };
        let received = match deadline::within(limit, turn::take(answer.socket.read(&mut chunk))).await {
            Some(received) => received?,
            None => 0,
        };
        parted |= received > 0 && answer.arrived.len() == PIECE;
        if received == 0 || answer.arrived.len() > FLIGHT_MAX {
            let flight = flight.map_err(|_| io::Error::new(ErrorKind::InvalidData, Refusal::of(&answer.arrived)))?;
            let arrival = Arrival { bytes: answer.arrived.len(), parted, packets: packets(&answer) };
            shared.lock_front_profile().pieces.learn(arrival);
            return Ok((flight, answer));
        }
        answer.arrived.extend_from_slice(chunk.get(..received).unwrap_or_default());
    }
}

/// The packets of all that has arrived, if the system tells.
fn packets(answer: &Answer) -> Option<Packets> {
    let segments = segments::received(answer.socket.get_ref()).ok()?;
    let packets =
        Packets { count: usize::try_from(segments.count).ok()?, longest: usize::try_from(segments.longest).ok()? };
    // The end counts for one of them.
    let arrived = answer.arrived.len() as u64;
    Some(packets).filter(|_| (arrived..=arrived + 1).contains(&segments.bytes))
}

/// The start of the front's answer to a hello.
struct Answer {
    socket: Async<TcpStream>,
    arrived: Vec<u8>,
    /// From dialling to its first byte, as a stranger's hello finds it.
    took: Duration,
    connected: Instant,
    _own_end: OwnEnd,
}

/// Sends the front a hello and waits for the first bytes of its answer.
async fn ask(shared: &Shared, offer: Offer, sends_header: bool) -> io::Result<Answer> {
    let config = shared.config();
    // Made first: clients speak as soon as they are connected.
    let mut hello = Vec::new();
    let question = front_hello::write(&mut hello, config.secret.host(), offer, &mut random::fill);
    let question = shared.loops.question(question);
    let dialled = Instant::now();
    let is_unclear = shared.lock_front_profile().pieces.are_unclear();
    let dialer = if is_unclear { &shared.tunnel_dialer } else { &shared.front_dialer };
    let link = introduce(shared, &config, dialer, sends_header).await;
    let (mut socket, own_end) = link.inspect_err(|error| connect::warn_unreachable(shared, error))?;
    let connected = Instant::now();
    turn::write_all(&socket, &hello).await?;
    let mut arrived = vec![0; CHUNK];
    let received = deadline::within(ANSWER, turn::take(socket.read(&mut arrived))).await;
    let received = match received {
        Some(Err(error)) if error.kind() != ErrorKind::ConnectionReset => return Err(error),
        // Silence, a reset and the end say the same: nothing.
        received => received.and_then(Result::ok).unwrap_or(0),
    };
    arrived.truncate(received);
    if arrived.is_empty() {
        return Err(io::Error::new(ErrorKind::UnexpectedEof, Refusal::Silent));
    }
    let took = dialled.elapsed();
    question.answered();
    if shared.loops.set_found(false) {
        log::info!("the front does not lead back to this proxy any more");
    }
    Ok(Answer { socket, arrived, took, connected, _own_end: own_end })
}

/// Connects to the front and says who it is that comes, if it wants to know.
pub(in crate::proxy) async fn introduce(
    shared: &Shared,
    config: &Config,
    dialer: &Dialer,
    sends_header: bool,
) -> io::Result<(Async<TcpStream>, OwnEnd)> {
    let connect::Link { socket, own_end, .. } = connect::connect(shared, config, dialer).await?;
    let header =
        if sends_header { proxy_protocol::v2_header(socket.local_addr()?, socket.peer_addr()?) } else { Vec::new() };
    let socket = Async::new(socket)?;
    turn::write_all(&socket, &header).await?;
    Ok((socket, own_end))
}

async fn watch_patience(shared: &Shared) {
    loop {
        let measure = async {
            Timer::after(random::between(LATER)).await;
            log::debug!("measuring the patience of the front");
            let measured = measure_patience(shared).await.ok().filter(|_| !shared.loops.is_found());
            log::debug!("patience of the front seconds={:?}", measured.flatten().map(|patience| patience.as_secs()));
            if let Some(patience) = measured {
                shared.lock_front_profile().patience = patience;
            }
            Timer::after(random::between(if measured.is_some() { EVERY } else { RETRY })).await;
        };
        // That of another front is measured as soon as it is configured.
        measure.or(shared.patience_changes.wait()).await;
    }
}

/// Says nothing to the front behind its flight, to see how long it bears that. One that does not answer as a server of
/// TLS 1.3, or goes as soon as it has, shows none: nobody could talk with it.
async fn measure_patience(shared: &Shared) -> io::Result<Option<Duration>> {
    let Answer { mut socket, mut arrived, connected, _own_end, .. } =
        ask(shared, Offer::Hybrid, sends_header(shared)).await?;
    let mut chunk = vec![0; CHUNK];
    let mut has_answered = FirstFlight::parse(&arrived).is_ok();
    // Whether it ends with FIN or RST.
    let ended = async {
        while let Ok(received @ 1..) = turn::take(socket.read(&mut chunk)).await {
            if !has_answered && arrived.len() < FLIGHT_MAX {
                arrived.extend_from_slice(chunk.get(..received).unwrap_or_default());
                has_answered = FirstFlight::parse(&arrived).is_ok();
            }
        }
    };
    let patience = deadline::within(connect::IDLE, ended).await.map_or(connect::IDLE, |()| connected.elapsed());
    Ok(Some(patience).filter(|patience| has_answered && *patience >= AT_LEAST))
}
