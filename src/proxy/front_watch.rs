//! Looking at the front from time to time, as a client would: how it answers a hello, whether it leads back to us, and
//! how long it waits for somebody who says nothing.

use std::io::{self, ErrorKind};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use async_io::{Async, Timer};
use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _, FutureExt as _, future};

use super::loops::Path;
use super::{Shared, front, front_fault, random};
use crate::config::Config;
use crate::guard::front_profile::SAMPLES;
use crate::net::deadline;
use crate::proto::proxy_protocol;
use crate::proto::reader::ReadError;
use crate::proto::tls::first_flight::FirstFlight;
use crate::proto::tls::front_hello::{self, Offer};
use crate::proto::tls::refusal::Refusal;

/// From one look to the next; between the two bounds, at random.
const EVERY: (Duration, Duration) = (Duration::from_secs(5 * 60 * 60), Duration::from_secs(7 * 60 * 60));
/// The same after a look that showed nothing: a front that starts later than we do shall be known before its visitors.
const SOON: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3));
/// The same when that has gone on for `PATIENCE`.
const RETRY: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(20));
const PATIENCE: Duration = Duration::from_secs(10 * 60);
/// Between two samples of a look.
const PAUSE: (Duration, Duration) = (Duration::from_millis(300), Duration::from_millis(1500));
/// Time before the front's patience is measured; the samples of a new front are wanted first.
const LATER: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(10));
/// Time for one answer.
const ANSWER: Duration = Duration::from_secs(10);
/// Time for a sample, which is more than a silent front is waited for.
const SAMPLE: Duration = Duration::from_secs(15);
/// A flight is over when nothing has come for so long.
const QUIET: Duration = Duration::from_secs(1);
/// Bytes of a flight that are read at most.
const FLIGHT_MAX: usize = 64 << 10;
const CHUNK: usize = 4096;

/// Looks at the front for as long as the future is polled.
pub(super) async fn watch(shared: &Shared) {
    future::zip(watch_answers(shared), watch_patience(shared)).await;
}

async fn watch_answers(shared: &Shared) {
    let mut answered = Instant::now();
    loop {
        let pause = if look(shared).await {
            answered = Instant::now();
            EVERY
        } else if answered.elapsed() < PATIENCE {
            SOON
        } else {
            RETRY
        };
        let pause = async {
            Timer::after(random::between(pause)).await;
        };
        // Another front is looked at as soon as it is configured, and one that seems to be ourselves to make sure.
        pause.or(shared.front_changes.wait()).await;
    }
}

/// Takes samples of all kinds and says whether there was any answer.
async fn look(shared: &Shared) -> bool {
    let mut is_answered = false;
    for _ in 0..SAMPLES {
        let mut refused = None;
        for offer in [Offer::Hybrid, Offer::Classic] {
            match deadline::within(SAMPLE, sample(shared, offer, sends_header(shared))).await {
                Some(Ok(flight)) => {
                    is_answered = true;
                    shared.front_fault.forget();
                    learn(shared, offer, &flight);
                }
                Some(Err(error)) => {
                    log::debug!("no sample of the front offer={offer:?} error={error}");
                    refused = Some(error);
                }
                None => log::debug!("no sample of the front offer={offer:?} error=time is over"),
            }
            Timer::after(random::between(PAUSE)).await;
        }
        if !is_answered {
            if let Some(error) = refused {
                let otherwise = deadline::within(SAMPLE, sample(shared, Offer::Classic, !sends_header(shared)));
                let otherwise = async { matches!(otherwise.await, Some(Ok(_))) };
                front_fault::tell(shared, &error, otherwise).await;
            }
            return false;
        }
    }
    true
}

/// Whether the front gets a PROXY header, as configured.
fn sends_header(shared: &Shared) -> bool {
    shared.config().domain_fronting.proxy_protocol
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
/// alone is no proof: where visitors come from our own host, they may have the same port by chance.
pub(super) async fn check_loop(shared: &Shared) {
    let _one_at_a_time = shared.loops.checking.lock().await;
    if !shared.loops.is_found() && ask(shared, Offer::Classic, sends_header(shared)).await.is_err() {
        front::loop_found(shared);
    }
}

/// Sends the front a hello and reads its first flight.
async fn sample(shared: &Shared, offer: Offer, sends_header: bool) -> io::Result<FirstFlight> {
    let Answer { mut socket, mut arrived, _path } = ask(shared, offer, sends_header).await?;
    let mut chunk = vec![0; CHUNK];
    loop {
        let flight = FirstFlight::parse(&arrived);
        // What is no start of TLS 1.3 does not become one by waiting.
        if flight == Err(ReadError::Malformed) {
            return Err(io::Error::new(ErrorKind::InvalidData, Refusal::of(&arrived)));
        }
        let limit = if flight.is_ok() { QUIET } else { ANSWER };
        let received = match deadline::within(limit, socket.read(&mut chunk)).await {
            Some(received) => received?,
            None => 0,
        };
        if received == 0 || arrived.len() > FLIGHT_MAX {
            return flight.map_err(|_| io::Error::new(ErrorKind::InvalidData, Refusal::of(&arrived)));
        }
        arrived.extend_from_slice(chunk.get(..received).unwrap_or_default());
    }
}

/// The start of the front's answer to a hello.
struct Answer {
    socket: Async<TcpStream>,
    arrived: Vec<u8>,
    _path: Path,
}

/// Sends the front a hello and waits for the first bytes of its answer.
async fn ask(shared: &Shared, offer: Offer, sends_header: bool) -> io::Result<Answer> {
    let config = shared.config();
    // Made first: clients speak as soon as they are connected.
    let mut hello = Vec::new();
    let question = front_hello::write(&mut hello, config.secret.host(), offer, &mut random::fill);
    let question = shared.loops.question(question);
    let connected = connect(shared, &config, sends_header).await;
    let (mut socket, path) = connected.inspect_err(|error| front::warn_unreachable(shared, error))?;
    socket.write_all(&hello).await?;
    let mut arrived = vec![0; CHUNK];
    let received = deadline::within(ANSWER, socket.read(&mut arrived)).await;
    let received = match received {
        Some(Err(error)) if error.kind() != ErrorKind::ConnectionReset => return Err(error),
        // Silence, a reset and the end say the same: nothing.
        received => received.and_then(Result::ok).unwrap_or(0),
    };
    arrived.truncate(received);
    if arrived.is_empty() {
        return Err(io::Error::new(ErrorKind::UnexpectedEof, Refusal::Silent));
    }
    question.answered();
    if shared.loops.set_found(false) {
        log::info!("the front does not lead back to this proxy any more");
    }
    Ok(Answer { socket, arrived, _path: path })
}

/// Connects to the front and says who it is that comes, if it wants to know.
async fn connect(shared: &Shared, config: &Config, sends_header: bool) -> io::Result<(Async<TcpStream>, Path)> {
    let front::Link { socket, path, .. } = front::connect(shared, config).await?;
    let header =
        if sends_header { proxy_protocol::v2_header(socket.local_addr()?, socket.peer_addr()?) } else { Vec::new() };
    let mut socket = Async::new(socket)?;
    socket.write_all(&header).await?;
    Ok((socket, path))
}

async fn watch_patience(shared: &Shared) {
    loop {
        let measure = async {
            Timer::after(random::between(LATER)).await;
            let patience = measure_patience(shared).await.ok().filter(|_| !shared.loops.is_found());
            log::debug!("patience of the front seconds={:?}", patience.map(|patience| patience.as_secs()));
            if patience.is_some() {
                shared.lock_front_profile().patience = patience;
            }
            Timer::after(random::between(if patience.is_some() { EVERY } else { RETRY })).await;
        };
        // That of another front is measured as soon as it is configured.
        measure.or(shared.patience_changes.wait()).await;
    }
}

/// Says nothing to the front, to see how long it bears that.
async fn measure_patience(shared: &Shared) -> io::Result<Duration> {
    let config = shared.config();
    let (mut socket, _path) = connect(shared, &config, config.domain_fronting.proxy_protocol).await?;
    let started = Instant::now();
    match deadline::within(front::IDLE, socket.read(&mut [0])).await {
        None => Ok(front::IDLE),
        Some(Ok(0)) => Ok(started.elapsed()),
        Some(Ok(_)) => Err(io::Error::other("it speaks first")),
        Some(Err(error)) => Err(error),
    }
}
