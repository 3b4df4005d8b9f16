//! Greeting somebody as a client of ours would: whoever answers rightly knows the secret, so it is this proxy.

use std::io;
use std::net::TcpStream;
use std::time::Duration;

use async_io::Async;
use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _};

use super::clock::now_secs;
use crate::net::deadline;
use crate::proto::faketls;
use crate::proto::secret::Secret;
use crate::proto::tls::first_flight::FirstFlight;
use crate::proto::tls::front_hello::{self, Offer};

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
    /// A TLS 1.3 server.
    Server(FirstFlight),
    /// Somebody who wants nothing of this hello, with the number of a TLS alert (RFC 8446 section 6).
    Refusing(u8),
    /// Somebody who does not speak TLS 1.3, or not with us.
    Other,
}

/// Sends a client's hello, behind what has to come before it, and reads the answer.
///
/// # Errors
/// Those of the socket; `UnexpectedEof` if it was closed without an answer.
pub(super) async fn greet(socket: TcpStream, preface: &[u8], secret: &Secret) -> io::Result<Answerer> {
    let socket = Async::new(socket)?;
    let mut hello = Vec::new();
    front_hello::write(&mut hello, secret.host(), Offer::Hybrid, &mut |bytes| {
        // A hello that nobody can tell from another harms nobody here.
        let _ = getrandom::fill(bytes);
    });
    let random = faketls::sign_hello(&mut hello, now_secs(), secret).ok_or(io::ErrorKind::InvalidInput)?;
    (&socket).write_all(preface).await?;
    (&socket).write_all(&hello).await?;
    let mut flight = receive(&socket).await?;
    if flight.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let server = FirstFlight::parse(&flight);
    if faketls::is_signed_reply(&mut flight, &random, secret) {
        return Ok(Answerer::Ourselves);
    }
    Ok(match (server, flight.as_slice()) {
        (Ok(server), _) => Answerer::Server(server),
        (Err(_), &[0x15, 0x03, _, 0x00, 0x02, _, alert, ..]) => Answerer::Refusing(alert),
        _ => Answerer::Other,
    })
}

/// Reads until the other end waits for us.
async fn receive(mut socket: &Async<TcpStream>) -> io::Result<Vec<u8>> {
    let mut flight = Vec::new();
    let mut chunk = vec![0; 4096];
    let mut patience = PATIENCE;
    while flight.len() < FLIGHT_MAX {
        match deadline::within(patience, socket.read(&mut chunk)).await {
            Some(Ok(length @ 1..)) => flight.extend_from_slice(chunk.get(..length).unwrap_or_default()),
            Some(Err(error)) if flight.is_empty() => return Err(error),
            _ => break,
        }
        patience = QUIET;
    }
    Ok(flight)
}
