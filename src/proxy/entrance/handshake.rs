//! Driving the handshake's state machine: from a client's first byte to the verdict on it.

use std::io::{self, Read, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use async_io::{Async, Timer};
use futures_lite::FutureExt as _;

use crate::clock::UnixTime;
use crate::config::Reject;
use crate::guard::front_profile::Fault;
use crate::guard::limits::Preemption;
use crate::guard::pieces::PIECE;
use crate::net::{deadline, sockopts, turn};
use crate::outcome::{Outcome, Stranger};
use crate::proto::faketls::Digest;
use crate::proto::handshake::{Env, Handshake, Session, Step};
use crate::proto::tls::client_hello::ClientHello;
use crate::proto::tls::{RecordHeader, content_type};
use crate::proxy::front::shadow::Shadow;
use crate::proxy::front::splice::{self, Visitor};
use crate::proxy::relay::farewell;
use crate::proxy::visit::places::{Place, warn_of_cap};
use crate::proxy::{Shared, Visit, keep_alive, random};

/// Bytes received at once; more than the hello of any client that is known.
const CHUNK: usize = 4096;
/// The front's patience while it is not known: that of nginx.
const USUAL_PATIENCE: Duration = Duration::from_secs(60);
/// Time from our start to the front's first answer at most.
const FIRST_LOOK: Duration = Duration::from_secs(1);

/// What the handshake found out.
pub(in crate::proxy) enum Verdict {
    /// A client, which knows where it wants to go.
    Client(Box<Session>),
    /// Somebody for the front.
    Stranger(Visitor),
    /// Nobody worth any further act.
    Over(Outcome),
}

/// What comes next from somebody whose hello is not whole.
enum Next {
    Bytes(Vec<u8>),
    /// It ends its side.
    End,
    /// It breaks the connection.
    Reset,
    /// The front has taken over.
    Front,
    /// It has to give way.
    Preempted(Preemption),
}

/// A client's hello, with the reply that is to be sent.
struct Answered {
    machine: Handshake,
    reply: Vec<u8>,
    /// How far the client's clock is ahead of ours, seconds.
    skew_secs: i64,
}

/// Drives the machine until it is known who has connected.
pub(in crate::proxy) async fn drive(shared: &Shared, client: &Async<TcpStream>, visit: &mut Visit) -> Verdict {
    let verdict = match read_hello(shared, client, visit).await {
        Ok(Answered { machine, reply, skew_secs }) => {
            visit.place.answered(visit.ip());
            visit.authenticated(Some(skew_secs));
            await_frame(shared, client, visit, machine, reply).await
        }
        Err(verdict) => verdict,
    };
    // Not before: a hello may be a recording, of which neither a place nor a probe on the wire must come.
    if matches!(verdict, Verdict::Client(_)) {
        visit.place.authenticated();
        sockopts::watch_over(client.get_ref(), &keep_alive(&visit.config.network));
    }
    verdict
}

/// Reads the hello. If it is a client's, there is a reply to it; otherwise the verdict is clear already. Until it is
/// whole, its place may be given to another.
async fn read_hello(shared: &Shared, client: &Async<TcpStream>, visit: &mut Visit) -> Result<Answered, Verdict> {
    let mut shadow = Shadow::new(shared, visit, splice::proxy_header(client.get_ref(), visit));
    let mut machine = Handshake::new();
    let stranger = loop {
        // Whom a list shuts out is none the wiser.
        if let Some(stranger) = visit.shut_out {
            break stranger;
        }
        let has_spoken = !machine.received().is_empty();
        let input = match next(client, &mut shadow, machine.received(), &visit.place).await {
            Next::Bytes(input) => input,
            // Somebody who looks whether a port is open, as scanners and balancers do again and again. Every server
            // closes at that.
            Next::End if !has_spoken && !shadow.has_begun() => return Err(Verdict::Over(Outcome::Silent)),
            Next::End => break if has_spoken { Stranger::Incomplete } else { Stranger::Silent },
            Next::Front => break if has_spoken { Stranger::Slow } else { Stranger::Silent },
            Next::Preempted(Preemption::AddressLimited) => {
                warn_of_cap(visit.peer.ip());
                match visit.config.defense.reject {
                    Reject::Front => break Stranger::AddressLimited,
                    Reject::Close => return Err(Verdict::Over(Outcome::AddressLimited)),
                }
            }
            Next::Preempted(Preemption::MemoryLimited) => break Stranger::Slow,
            Next::Preempted(Preemption::Evicted | Preemption::Outweighed) => {
                return Err(Verdict::Over(Outcome::Evicted));
            }
            Next::Reset => {
                shadow.reset();
                return Err(Verdict::Over(if has_spoken { Outcome::ClientReset } else { Outcome::Silent }));
            }
        };
        if !has_spoken && is_whole_hello(&input) {
            wait_for_first_look(shared).await;
        }
        let mut reply = Vec::new();
        match step(shared, visit, &mut machine, &input, &mut reply) {
            Step::Read => visit.place.hold(machine.held()),
            Step::Reply { skew_secs } => return Ok(Answered { machine, reply, skew_secs }),
            Step::Front(reason) => break Stranger::Rejected(reason),
            Step::Established(session) => return Err(Verdict::Client(session)),
            Step::Close { reason, .. } => return Err(Verdict::Over(Outcome::BadClient(reason))),
        }
    };
    let has_place = visit.place.fronted(machine.held());
    let link = if has_place { visit.place.unless_preempted(shadow.into_link()).await.ok() } else { None };
    let Some(link) = link else { return Err(Verdict::Over(Outcome::Evicted)) };
    Err(Verdict::Stranger(Visitor { stranger, received: machine.into_received(), link }))
}

async fn next(client: &Async<TcpStream>, shadow: &mut Shadow<'_>, received: &[u8], place: &Place) -> Next {
    let bytes = async {
        match receive(client).await {
            Ok(bytes) if bytes.is_empty() => Next::End,
            Ok(bytes) => Next::Bytes(bytes),
            Err(_) => Next::Reset,
        }
    };
    let front = async {
        shadow.follow(received).await;
        Next::Front
    };
    // What has arrived counts first: whoever has sent a hello in time is a client.
    place.unless_preempted(bytes.or(front)).await.unwrap_or_else(Next::Preempted)
}

/// Sends our reply and waits for the client's obfuscated2 frame.
async fn await_frame(
    shared: &Shared,
    client: &Async<TcpStream>,
    visit: &mut Visit,
    mut machine: Handshake,
    mut reply: Vec<u8>,
) -> Verdict {
    wait_as_long_as_the_front(shared, visit).await;
    let deadline = Instant::now() + visit.config.network.timeout.handshake;
    let piece = if shared.lock_front_profile().pieces.are_written() { PIECE } else { reply.len().max(1) };
    let rest = send_parts(client.get_ref(), &reply, visit.config.network.hello_parts.into());
    // The first piece ends where the front's would, whatever of it is out.
    let (first, others) = rest.split_at(rest.len().min(piece.saturating_sub(reply.len() - rest.len())));
    for piece in [first].into_iter().chain(others.chunks(piece)) {
        match visit.place.unless_preempted(deadline::until(deadline, turn::write_all(client, piece))).await {
            Ok(Some(Ok(()))) => {}
            Ok(_) => return Verdict::Over(Outcome::HandshakeAborted),
            Err(_) => return Verdict::Over(Outcome::Evicted),
        }
    }
    // Somebody who says nothing now may have repeated a client's hello to see how long we bear that.
    // A front that is broken or in a hurry must not cost a client on a slow line its time.
    let patience = shared.lock_front_profile().patience.unwrap_or(USUAL_PATIENCE);
    let patience = patience.max(visit.config.network.timeout.handshake);
    let (deadline, mut input) = (visit.started() + patience, Vec::new());
    loop {
        match step(shared, visit, &mut machine, &input, &mut reply) {
            Step::Established(session) => return Verdict::Client(session),
            Step::Front(reason) => return Verdict::Over(Outcome::BadClient(reason)),
            Step::Close { reason, after_alert } => {
                let fault = if after_alert { Fault::Alert } else { Fault::Other };
                farewell::end(client.get_ref(), shared.lock_front_profile().farewell(fault));
                return Verdict::Over(Outcome::BadClient(reason));
            }
            Step::Read | Step::Reply { .. } => {
                match visit.place.unless_preempted(deadline::until(deadline, receive(client))).await {
                    Ok(Some(Ok(more))) if !more.is_empty() => input = more,
                    Ok(_) => return Verdict::Over(Outcome::HandshakeAborted),
                    Err(_) => return Verdict::Over(Outcome::Evicted),
                }
            }
        }
    }
}

/// Says whether this is a hello as clients send it. Nobody else is to wait for anything.
fn is_whole_hello(input: &[u8]) -> bool {
    RecordHeader::split_from(input).is_some_and(|(header, rest)| {
        header.content_type == content_type::HANDSHAKE && rest.len() == usize::from(header.length)
    })
}

/// Before the front has answered for the first time, it is not known how it does.
async fn wait_for_first_look(shared: &Shared) {
    let long_enough = async {
        Timer::at(shared.started + FIRST_LOOK).await;
    };
    shared.first_look.wait().or(long_enough).await;
}

/// A reply that comes sooner than the front could have given it tells that it is not the front's.
async fn wait_as_long_as_the_front(shared: &Shared, visit: &Visit) {
    let wanted = shared.lock_front_profile().answer_time(&mut random::fill).unwrap_or_default();
    let due = visit.heard + wanted.min(visit.config.defense.reply_delay);
    if due > Instant::now() {
        Timer::at(due).await;
    }
}

/// Sends all but the last of the `parts` that the first record of our reply is cut into, and returns what is left. The
/// socket holds nothing back, so that each is a packet; what it does not take is left, too.
fn send_parts<'a>(mut client: &TcpStream, reply: &'a [u8], parts: usize) -> &'a [u8] {
    let hello_len = RecordHeader::split_from(reply).map_or(0, |(header, _)| header.record_len());
    let mut rest = reply;
    for _ in 1..parts {
        let part = rest.get(..(hello_len / parts).max(1)).unwrap_or_default();
        let Ok(taken) = client.write(part) else { break };
        rest = rest.get(taken..).unwrap_or_default();
    }
    rest
}

/// One step of the machine, with the world as it is now.
fn step(shared: &Shared, visit: &mut Visit, machine: &mut Handshake, input: &[u8], reply: &mut Vec<u8>) -> Step {
    visit.heard = Instant::now();
    let config = &visit.config;
    let now = UnixTime::now().secs();
    let tolerance = i64::try_from(config.tolerate_time_skewness.as_secs()).unwrap_or(i64::MAX);
    let mut first_seen = |digest: &Digest| !config.defense.anti_replay || shared.replays.first_seen(digest);
    let reply_shape =
        |hello: &ClientHello<'_>, fill: &mut dyn FnMut(&mut [u8])| shared.lock_front_profile().reply_shape(hello, fill);
    let fill = &mut random::fill;
    let mut env = Env { now, tolerance, fill, first_seen: &mut first_seen, reply_shape: &reply_shape };
    machine.handle(input, &config.secret, &mut env, reply)
}

/// Waits for bytes; none at all mean that the client has ended its side. The buffer exists only while there are bytes.
async fn receive(client: &Async<TcpStream>) -> io::Result<Vec<u8>> {
    loop {
        turn::wait().await;
        match receive_now(client.get_ref()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => client.readable().await?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

fn receive_now(mut client: &TcpStream) -> io::Result<Vec<u8>> {
    let mut chunk = [0; CHUNK];
    let length = client.read(&mut chunk)?;
    Ok(chunk.get(..length).unwrap_or_default().to_vec())
}
