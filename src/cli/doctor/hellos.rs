//! Exchanging hellos with somebody as a client of ours would: whoever answers rightly knows the secret, so it is this proxy.

use std::io;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use async_io::Async;
use futures_lite::AsyncReadExt as _;

use crate::clock::UnixTime;
use crate::net::{deadline, turn};
use crate::proto::faketls;
use crate::proto::secret::Secret;
use crate::proto::tls::first_flight::FirstFlight;
use crate::proto::tls::front_hello::{self, Offer};
use crate::proto::tls::refusal::Refusal;

/// How long a flight may pause.
const QUIET: Duration = Duration::from_secs(1);
/// Time until the first byte.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of a flight that are read.
const FLIGHT_MAX: usize = 64 << 10;

/// Who answered.
pub(super) enum Answerer {
    /// Somebody who knows the secret.
    Ourselves,
    /// A TLS 1.3 server, and how long it took from the hello to the first byte of its answer.
    Server(FirstFlight, Duration),
    /// Somebody who does not answer this hello in TLS 1.3.
    Refusing(Refusal),
}

/// Sends a client's hello, behind what has to come before it, and reads the answer.
///
/// # Errors
/// Those of the socket, except that a connection which is reset before an answer is as good as one that ends;
/// `TimedOut` if nothing comes and it does not end.
pub(super) async fn exchange(socket: TcpStream, preface: &[u8], secret: &Secret) -> io::Result<Answerer> {
    let socket = Async::new(socket)?;
    let mut hello = Vec::new();
    front_hello::write(&mut hello, secret.host(), Offer::Hybrid, &mut |bytes| {
        // A hello that nobody can tell from another harms nobody here.
        let _ = getrandom::fill(bytes);
    });
    let random = faketls::sign_hello(&mut hello, UnixTime::now().secs(), secret).ok_or(io::ErrorKind::InvalidInput)?;
    turn::write_all(&socket, preface).await?;
    turn::write_all(&socket, &hello).await?;
    let asked = Instant::now();
    let (mut flight, began) = match receive(&socket).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => (Vec::new(), asked),
        received => received?,
    };
    let server = FirstFlight::parse(&flight);
    if faketls::is_signed_reply(&mut flight, &random, secret) {
        return Ok(Answerer::Ourselves);
    }
    let took = began.saturating_duration_since(asked);
    Ok(server.map_or_else(|_| Answerer::Refusing(Refusal::of(&flight)), |server| Answerer::Server(server, took)))
}

/// Reads until the other end waits for us, and says when it began to answer.
async fn receive(mut socket: &Async<TcpStream>) -> io::Result<(Vec<u8>, Instant)> {
    let (mut flight, mut began) = (Vec::new(), None);
    let mut chunk = vec![0; 4096];
    let mut patience = PATIENCE;
    while flight.len() < FLIGHT_MAX {
        match deadline::within(patience, turn::take(socket.read(&mut chunk))).await {
            Some(Ok(length @ 1..)) => {
                began.get_or_insert_with(Instant::now);
                flight.extend_from_slice(chunk.get(..length).unwrap_or_default());
            }
            Some(Err(error)) if flight.is_empty() => return Err(error),
            None if flight.is_empty() => return Err(io::ErrorKind::TimedOut.into()),
            _ => break,
        }
        patience = QUIET;
    }
    Ok((flight, began.unwrap_or_else(Instant::now)))
}
