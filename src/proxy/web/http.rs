//! HTTP/1.1 with a web server: requests as they come, and answers.

use std::future::pending;
use std::io::{self, IoSlice};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_io::{Async, Timer};
use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _};

use super::link::Reservation;
use crate::net::{deadline, turn};
use crate::proto::web::BATCH_MAX;
use crate::proto::web::buffer::Bytes;
use crate::proto::web::frame;
use crate::proto::web::request::{self, Body, Call, HEAD_MAX, Head, Parsed};
use crate::proto::web::site::Site;

/// How long a connection may be without a request: longer than web servers keep theirs.
const IDLE: Duration = Duration::from_secs(180);
/// How long a head may take from its first byte on.
const HEAD_LIMIT: Duration = Duration::from_secs(10);
/// How long nothing of a body may come: some web servers pass one on at the pace of the phone that sends it.
const SILENCE: Duration = Duration::from_secs(30);
/// How long a web server may take no byte of an answer.
const WRITE_LIMIT: Duration = Duration::from_secs(30);
/// A body that nobody wants is read so far: a web server that had read all of it for us could not end the connection
/// of its visitor as it does elsewhere.
const UNWANTED_MAX: usize = 64 << 10;
/// How long a web server may take to see the answer and to go.
const LINGER: Duration = Duration::from_secs(1);
/// Bytes that are received at once.
const CHUNK: usize = 64 << 10;
/// Bytes of a head that are received at once.
const HEAD_CHUNK: usize = 4 << 10;
/// Slices of an answer that are sent at once.
const SLICES: usize = 32;

/// What a body may take.
#[derive(Clone, Copy)]
struct Limits {
    bytes: usize,
    time: Duration,
    /// How long nothing of it may come.
    silence: Duration,
}

/// As long as the page waits for an answer.
const BATCH: Limits = Limits { bytes: BATCH_MAX, time: Duration::from_secs(90), silence: SILENCE };
/// Of somebody without a session.
const HELLO: Limits = Limits { bytes: frame::HELLO.len(), time: SILENCE, silence: SILENCE };

/// What everybody gets who is not ours, and everything of ours that makes no sense.
const NOTHING: &str = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nCache-Control: no-store\r\n";

/// A connection of a web server.
pub(super) struct Connection {
    pub(super) socket: Async<TcpStream>,
    /// What has been received and not looked at.
    buffer: Vec<u8>,
}

/// What came.
pub(super) enum Request {
    Head(Head),
    /// No HTTP, or too much.
    Bad,
}

/// Why there is no body.
pub(super) enum NoBody {
    /// There is no memory for it.
    NoRoom,
    /// It is too long, or no body.
    Bad,
    /// It does not come, or not in time.
    Late,
    /// The web server went away.
    Gone,
}

impl Connection {
    pub(super) fn new(socket: Async<TcpStream>) -> Self {
        Self { socket, buffer: Vec::new() }
    }

    /// The next request; none if there is none in time, or the web server has gone.
    /// It is judged by what `site` says when it comes: web servers keep connections for longer than owners keep secrets.
    pub(super) async fn next_request(&mut self, site: impl FnOnce() -> Arc<Site>) -> Option<Request> {
        if self.buffer.is_empty() {
            // Nothing is held while nothing comes.
            self.buffer = Vec::new();
            deadline::within(IDLE, turn::readable(&self.socket)).await?.ok()?;
        }
        deadline::within(HEAD_LIMIT, self.head(&site())).await?
    }

    async fn head(&mut self, site: &Site) -> Option<Request> {
        loop {
            match request::parse(&self.buffer, site) {
                Parsed::Partial => {}
                Parsed::Bad => return Some(Request::Bad),
                Parsed::Head(head) => {
                    self.buffer.drain(..head.length.min(self.buffer.len()));
                    return Some(Request::Head(head));
                }
            }
            if self.receive(HEAD_CHUNK).await.ok()? == 0 {
                return None;
            }
        }
    }

    /// The body of a request.
    pub(super) async fn body(&mut self, head: &Head, memory: &mut Reservation) -> Result<Vec<u8>, NoBody> {
        let limits = if matches!(head.call, Some(Call::Create(_))) { HELLO } else { BATCH };
        self.body_within(limits, head, memory).await
    }

    async fn body_within(&mut self, limits: Limits, head: &Head, memory: &mut Reservation) -> Result<Vec<u8>, NoBody> {
        if head.expects {
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n").await.map_err(|_| NoBody::Gone)?;
        }
        let body = async {
            match head.body {
                Body::Length(length) => {
                    let length =
                        usize::try_from(length).ok().filter(|length| *length <= limits.bytes).ok_or(NoBody::Bad)?;
                    if !memory.grow_to(length) {
                        return Err(NoBody::NoRoom);
                    }
                    let mut body = vec![0; length];
                    self.take(limits.silence, &mut body).await?;
                    Ok(body)
                }
                Body::Chunked => self.chunks(limits, memory).await,
                Body::Unknown => Err(NoBody::Bad),
            }
        };
        deadline::within(limits.time, body).await.unwrap_or(Err(NoBody::Late))
    }

    /// Fills `body`.
    async fn take(&mut self, silence: Duration, body: &mut [u8]) -> Result<(), NoBody> {
        let (begun, mut rest) = body.split_at_mut(body.len().min(self.buffer.len()));
        begun.copy_from_slice(self.buffer.get(..begun.len()).unwrap_or_default());
        self.buffer.drain(..begun.len());
        while !rest.is_empty() {
            let (next, _) = rest.split_at_mut(rest.len().min(CHUNK));
            let read = turn::take(self.socket.read(next));
            let count = deadline::within(silence, read).await.ok_or(NoBody::Late)?.unwrap_or_default();
            if count == 0 {
                return Err(NoBody::Gone);
            }
            rest = rest.get_mut(count..).unwrap_or_default();
        }
        Ok(())
    }

    /// Reads the body of a request and keeps none of it; says whether it is at its end.
    pub(super) async fn skip(&mut self, head: &Head) -> bool {
        let Body::Length(length) = head.body else { return false };
        let skipped = async {
            let mut left = usize::try_from(length).ok()?;
            let mut scrap = vec![0; left.min(CHUNK)];
            while left > 0 {
                scrap.truncate(left);
                self.take(BATCH.silence, &mut scrap).await.ok()?;
                left -= scrap.len();
            }
            Some(())
        };
        deadline::within(BATCH.time, skipped).await.flatten().is_some()
    }

    async fn chunks(&mut self, limits: Limits, memory: &mut Reservation) -> Result<Vec<u8>, NoBody> {
        let mut body = Vec::new();
        loop {
            let size = match httparse::parse_chunk_size(&self.buffer) {
                Ok(httparse::Status::Complete((length, size))) => {
                    self.buffer.drain(..length);
                    usize::try_from(size).ok().filter(|size| *size <= limits.bytes - body.len()).ok_or(NoBody::Bad)?
                }
                Ok(httparse::Status::Partial) if self.buffer.len() < HEAD_MAX => {
                    self.receive_some(limits.silence).await?;
                    continue;
                }
                _ => return Err(NoBody::Bad),
            };
            if !memory.grow_to(body.len() + size) {
                return Err(NoBody::NoRoom);
            }
            let before = body.len();
            body.resize(before + size, 0);
            self.take(limits.silence, body.get_mut(before..).unwrap_or_default()).await?;
            while self.buffer.len() < 2 {
                self.receive_some(limits.silence).await?;
            }
            // Trailers end the connection: no web server makes any.
            if !self.buffer.starts_with(b"\r\n") {
                return Err(NoBody::Bad);
            }
            self.buffer.drain(..2);
            if size == 0 {
                return Ok(body);
            }
        }
    }

    async fn receive_some(&mut self, silence: Duration) -> Result<(), NoBody> {
        match deadline::within(silence, self.receive(CHUNK)).await {
            Some(Ok(1..)) => Ok(()),
            None => Err(NoBody::Late),
            _ => Err(NoBody::Gone),
        }
    }

    /// Receives `most` bytes at most.
    async fn receive(&mut self, most: usize) -> io::Result<usize> {
        // New memory is zeroed at once; Vec::resize, compiled for size, takes seven instructions a byte.
        let mut chunk = vec![0; most.min(CHUNK)];
        let count = turn::take(self.socket.read(&mut chunk)).await?;
        self.buffer.extend_from_slice(chunk.get(..count).unwrap_or_default());
        Ok(count)
    }

    /// What a WebSocket begins with.
    pub(super) fn take_buffer(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.buffer)
    }

    /// Answers as to anybody, and says whether the connection is of use: it is if all of the request has been read.
    pub(super) async fn nothing(&mut self, is_whole: bool) -> bool {
        let answer = format!("{NOTHING}{}\r\n", if is_whole { "" } else { "Connection: close\r\n" });
        if self.write(answer.as_bytes()).await.is_err() {
            return false;
        }
        if !is_whole {
            self.discard().await;
        }
        is_whole
    }

    /// Asks for the same once more, and says whether the connection is of use: as above.
    pub(super) async fn later(&mut self, is_whole: bool) -> bool {
        let close = if is_whole { "" } else { "Connection: close\r\n" };
        let is_sent = self.reply("503 Service Unavailable", &format!("Retry-After: 1\r\n{close}"), &[]).await;
        if is_sent && !is_whole {
            self.discard().await;
        }
        is_sent && is_whole
    }

    /// Reads some of what nobody wants, and waits for the web server to go: one that is cut off while it sends would
    /// show an error of its own in place of its site.
    async fn discard(&mut self) {
        let _ = self.socket.get_ref().shutdown(std::net::Shutdown::Write);
        let mut left = UNWANTED_MAX;
        let read = async {
            loop {
                self.buffer.clear();
                match self.receive(CHUNK).await {
                    Ok(count @ 1..) if count < left => left -= count,
                    Ok(1..) => return Timer::after(LINGER).await,
                    _ => return Instant::now(),
                }
            }
        };
        deadline::within(LINGER, read).await;
    }

    /// Sends an answer, and says whether the connection is of use.
    pub(super) async fn reply(&mut self, status: &str, fields: &str, body: &[Bytes]) -> bool {
        let length: usize = body.iter().map(|part| part.len()).sum();
        // An answer without content has no length either.
        let length = if status.starts_with("204") { String::new() } else { format!("Content-Length: {length}\r\n") };
        let head = format!("HTTP/1.1 {status}\r\nCache-Control: no-store\r\n{length}{fields}\r\n");
        let parts: Vec<&[u8]> = std::iter::once(head.as_bytes()).chain(body.iter().map(|part| &**part)).collect();
        write_all(&self.socket, &parts).await.is_ok()
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        write_all(&self.socket, &[bytes]).await
    }

    /// Becomes ready when the web server has gone. It says nothing while it waits for an answer.
    pub(super) async fn gone(&self) {
        if turn::readable(&self.socket).await.is_ok()
            && self.socket.get_ref().peek(&mut [0]).is_ok_and(|count| count > 0)
        {
            pending().await
        }
    }
}

/// Sends all of it, as long as the other end takes some now and then.
pub(super) async fn write_all(socket: &Async<TcpStream>, parts: &[&[u8]]) -> io::Result<()> {
    let (mut parts, mut sent) = (parts, 0);
    while let Some(first) = parts.first() {
        if first.len() == sent {
            (parts, sent) = (parts.get(1..).unwrap_or_default(), 0);
            continue;
        }
        let rest = IoSlice::new(first.get(sent..).unwrap_or_default());
        let following = parts.iter().skip(1).take(SLICES - 1).map(|part| IoSlice::new(part));
        let slices: Vec<_> = std::iter::once(rest).chain(following).collect();
        let mut socket = socket;
        let written = deadline::within(WRITE_LIMIT, turn::take(socket.write_vectored(&slices))).await;
        let mut written = written.unwrap_or(Err(io::ErrorKind::TimedOut.into()))?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        while let Some(first) = parts.first().filter(|first| first.len() - sent <= written) {
            written -= first.len() - sent;
            (parts, sent) = (parts.get(1..).unwrap_or_default(), 0);
        }
        sent += written;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::TcpListener;
    use std::sync::Arc;
    use std::thread;

    use super::super::link::Account;
    use super::*;

    const QUIET: Duration = Duration::from_secs(2);

    /// A web server that sends so many bytes of a body of ten, one after each pause, and then nothing; whether the body came.
    fn comes(bytes: usize, pause: Duration, limits: Limits) -> Result<Vec<u8>, NoBody> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut connection = Connection::new(Async::new(listener.accept().unwrap().0).unwrap());
        let server = far.try_clone().unwrap();
        let sending = thread::spawn(move || {
            for _ in 0..bytes {
                thread::sleep(pause);
                let _ = far.write_all(b"x");
            }
        });
        let (length, body) = (0, Body::Length(10));
        let head = Head { length, call: None, body, keeps_alive: true, expects: false, forwarded_for: None };
        let mut memory = Reservation::new(&Arc::new(Account::new(1 << 20)));
        let came = async_io::block_on(connection.body_within(limits, &head, &mut memory));
        sending.join().unwrap();
        drop(server);
        came
    }

    #[test]
    fn a_body_may_be_slow_but_neither_silent_nor_without_end() {
        let long = Limits { bytes: 10, time: 30 * QUIET, silence: QUIET };
        let pause = QUIET / 8;
        assert!(comes(10, pause, long).is_ok_and(|body| body == b"xxxxxxxxxx"));
        let began = Instant::now();
        assert!(matches!(comes(5, Duration::ZERO, long), Err(NoBody::Late)));
        assert!((QUIET..10 * QUIET).contains(&began.elapsed()));
        assert!(matches!(comes(10, pause, Limits { time: 4 * pause, ..long }), Err(NoBody::Late)));
    }

    #[test]
    fn what_makes_a_session_is_no_longer_than_a_hello() {
        assert!(matches!(comes(0, QUIET, HELLO), Err(NoBody::Bad)));
    }
}
