//! HTTP/1.1 on one connection: a question, and its answer, whose body goes to a sink piece by piece.

use std::fmt;
use std::io;
use std::time::Duration;

use super::deadline;
use super::stream::Stream;
use crate::proto::url::Url;

/// Some servers refuse programs that they do not know.
const USER_AGENT: &str = "curl/8.5.0";
/// The longest head of an answer, bytes.
const HEAD_MAX: usize = 16 << 10;
/// Fields of a head.
const FIELDS_MAX: usize = 64;
/// The longest line that announces a chunk, bytes.
const CHUNK_LINE_MAX: usize = 256;
/// Answers before the answer, with statuses below 200.
const INTERIM_MAX: usize = 8;
/// The status of an answer after which another protocol is spoken.
const SWITCHED: u16 = 101;
/// Bytes received at once.
const CHUNK: usize = 8 << 10;

/// What is asked.
pub(crate) struct Request<'a> {
    pub(crate) method: &'static str,
    pub(crate) url: &'a Url,
    /// Further fields. The connection is closed after the answer, unless they say something else of it.
    pub(crate) fields: Vec<(&'static str, &'a str)>,
    pub(crate) body: Option<&'a [u8]>,
    /// Which statuses' bodies are wanted.
    pub(crate) wanted: Wanted,
    /// The longest body of an answer, bytes.
    pub(crate) body_max: u64,
    /// For each pause of the server.
    pub(crate) patience: Duration,
}

/// Which answers have a body that is of interest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Those with the status 200; of others the head says enough.
    Found,
    #[cfg_attr(not(feature = "web"), allow(dead_code, reason = "doctor alone looks at those, along the WEB chain"))]
    Any,
}

/// A sink that keeps everything, for answers that are small.
pub(crate) fn keep(text: &mut Vec<u8>) -> impl FnMut(&[u8]) -> bool + Send {
    |part| {
        text.extend_from_slice(part);
        true
    }
}

/// What the head of an answer says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) status: u16,
    /// Those that are text.
    fields: Vec<(String, String)>,
}

impl Head {
    /// The last field of that name, which has lower case.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// Why there is no whole answer.
#[derive(Debug)]
pub(crate) enum HttpError {
    Io(io::Error),
    /// It is not HTTP, or not as we want it.
    Malformed,
    /// The connection ended in the middle.
    Cut,
    /// The server says nothing any more.
    Silent,
    /// The body is longer than allowed, or than its sink can take.
    TooLarge,
}

/// Takes the pieces of a body, and says whether it can take more.
pub(crate) type Sink<'a> = &'a mut (dyn FnMut(&[u8]) -> bool + Send);

/// Asks, and gives the body to `sink` if it is wanted. The connection is of no use after that, unless its protocol was
/// switched: nothing of the new one has been read then by a server that waits for the client's first word.
///
/// # Errors
/// See [`HttpError`]; the sink may have got a part of the body by then.
pub(crate) async fn exchange(stream: &mut Stream, request: &Request<'_>, sink: Sink<'_>) -> Result<Head, HttpError> {
    let patience = request.patience;
    deadline::within(patience, stream.write_all(&request.wire())).await.ok_or(HttpError::Silent)??;
    let mut answer = Answer { stream, buffer: Vec::new(), used: 0, left: request.body_max, patience };
    for _ in 0..=INTERIM_MAX {
        let (head, framing) = answer.head().await?;
        if (100..200).contains(&head.status) && head.status != SWITCHED {
            continue;
        }
        let is_wanted = head.status == 200 || request.wanted == Wanted::Any;
        if is_wanted && !matches!(head.status, SWITCHED | 204 | 304) {
            match framing {
                Framing::Length(length) if length > answer.left => return Err(HttpError::TooLarge),
                Framing::Length(length) => answer.exactly(length, sink).await?,
                Framing::Chunks => answer.chunks(sink).await?,
                Framing::End => answer.until_end(sink).await?,
                Framing::Unknown => return Err(HttpError::Malformed),
            }
        }
        return Ok(head);
    }
    Err(HttpError::Malformed)
}

impl Request<'_> {
    fn wire(&self) -> Vec<u8> {
        let mut head = format!(
            "{} {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: {USER_AGENT}\r\n",
            self.method,
            self.url.target,
            self.url.authority()
        );
        if !self.fields.iter().any(|(name, _)| *name == "Connection") {
            head += "Connection: close\r\n";
        }
        for (name, value) in &self.fields {
            head += &format!("{name}: {value}\r\n");
        }
        if let Some(body) = self.body {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        let mut wire = (head + "\r\n").into_bytes();
        wire.extend_from_slice(self.body.unwrap_or_default());
        wire
    }
}

/// How the end of a body is known (RFC 9112 section 6.3).
enum Framing {
    Length(u64),
    Chunks,
    /// The end of the connection.
    End,
    /// An encoding that we did not ask for.
    Unknown,
}

struct Answer<'a> {
    stream: &'a mut Stream,
    /// What has come, of which `used` bytes are done with. They are taken out when more comes and not one by one: chunks
    /// may be of one byte.
    buffer: Vec<u8>,
    used: usize,
    /// Bytes that the body may still have.
    left: u64,
    patience: Duration,
}

impl Answer<'_> {
    async fn head(&mut self) -> Result<(Head, Framing), HttpError> {
        // It is parsed when it may be whole, and not again with each byte that a slow server sends.
        let mut searched = 0;
        loop {
            let bytes = self.rest();
            if ends_lines(bytes.get(searched..).unwrap_or_default())
                && let Some((head, framing, length)) = parse_head(bytes)?
            {
                self.used += length;
                return Ok((head, framing));
            }
            if bytes.len() >= HEAD_MAX {
                return Err(HttpError::Malformed);
            }
            searched = bytes.len().saturating_sub(3);
            self.more().await?;
        }
    }

    /// What has come and was not looked at yet.
    fn rest(&self) -> &[u8] {
        self.buffer.get(self.used..).unwrap_or_default()
    }

    /// Takes in what comes next.
    async fn more(&mut self) -> Result<(), HttpError> {
        if self.receive().await? == 0 { Err(HttpError::Cut) } else { Ok(()) }
    }

    async fn receive(&mut self) -> Result<usize, HttpError> {
        self.buffer.drain(..self.used.min(self.buffer.len()));
        self.used = 0;
        let held = self.buffer.len();
        self.buffer.resize(held + CHUNK, 0);
        let read = self.stream.read(self.buffer.get_mut(held..).unwrap_or_default());
        let count = deadline::within(self.patience, read).await.ok_or(HttpError::Silent)??;
        self.buffer.truncate(held + count);
        Ok(count)
    }

    /// Passes the first `count` bytes of what has come on.
    fn pass(&mut self, count: usize, sink: Sink<'_>) -> Result<(), HttpError> {
        self.left = self.left.checked_sub(count as u64).ok_or(HttpError::TooLarge)?;
        let is_open = sink(self.rest().get(..count).unwrap_or_default());
        self.used += count;
        if is_open { Ok(()) } else { Err(HttpError::TooLarge) }
    }

    async fn exactly(&mut self, mut count: u64, sink: Sink<'_>) -> Result<(), HttpError> {
        while count > 0 {
            if self.rest().is_empty() {
                self.more().await?;
            }
            let part = usize::try_from(count).unwrap_or(usize::MAX).min(self.rest().len());
            self.pass(part, sink)?;
            count -= part as u64;
        }
        Ok(())
    }

    async fn until_end(&mut self, sink: Sink<'_>) -> Result<(), HttpError> {
        loop {
            self.pass(self.rest().len(), sink)?;
            if self.receive().await? == 0 {
                return Ok(());
            }
        }
    }

    async fn chunks(&mut self, sink: Sink<'_>) -> Result<(), HttpError> {
        loop {
            let size = self.chunk_size().await?;
            if size == 0 {
                // Nobody needs the trailers.
                return Ok(());
            }
            self.exactly(size, sink).await?;
            while self.rest().len() < 2 {
                self.more().await?;
            }
            if !self.rest().starts_with(b"\r\n") {
                return Err(HttpError::Malformed);
            }
            self.used += 2;
        }
    }

    async fn chunk_size(&mut self) -> Result<u64, HttpError> {
        loop {
            match httparse::parse_chunk_size(self.rest()) {
                Ok(httparse::Status::Complete((length, size))) => {
                    self.used += length;
                    return Ok(size);
                }
                Ok(httparse::Status::Partial) if self.rest().len() < CHUNK_LINE_MAX => self.more().await?,
                _ => return Err(HttpError::Malformed),
            }
        }
    }
}

/// Whether there is an empty line among `bytes`.
fn ends_lines(bytes: &[u8]) -> bool {
    bytes.windows(2).any(|pair| pair == b"\n\n") || bytes.windows(3).any(|three| three == b"\n\r\n")
}

/// The head at the beginning of `bytes` and its length, if it is there as a whole.
fn parse_head(bytes: &[u8]) -> Result<Option<(Head, Framing, usize)>, HttpError> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    let length = match response.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(HttpError::Malformed),
    };
    let mut head = Head { status: response.code.unwrap_or_default(), ..Head::default() };
    let mut framing = Framing::End;
    for field in response.headers.iter() {
        let Ok(value) = std::str::from_utf8(field.value) else { continue };
        let (name, value) = (field.name.to_ascii_lowercase(), value.trim());
        match name.as_str() {
            "transfer-encoding" if value.eq_ignore_ascii_case("chunked") => framing = Framing::Chunks,
            "transfer-encoding" => framing = Framing::Unknown,
            "content-encoding" if !value.eq_ignore_ascii_case("identity") => framing = Framing::Unknown,
            "content-length" if matches!(framing, Framing::End) => {
                framing = Framing::Length(value.parse().map_err(|_| HttpError::Malformed)?);
            }
            _ => {}
        }
        head.fields.push((name, value.to_owned()));
    }
    Ok(Some((head, framing, length)))
}

impl From<io::Error> for HttpError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof { Self::Cut } else { Self::Io(error) }
    }
}

impl From<HttpError> for io::Error {
    fn from(error: HttpError) -> Self {
        let kind = match error {
            HttpError::Io(error) => return error,
            HttpError::Malformed | HttpError::TooLarge => io::ErrorKind::InvalidData,
            HttpError::Cut => io::ErrorKind::UnexpectedEof,
            HttpError::Silent => io::ErrorKind::TimedOut,
        };
        Self::new(kind, error.to_string())
    }
}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Malformed => f.write_str("the server's answer is not HTTP as we know it"),
            Self::Cut => f.write_str("the server's answer ended in the middle"),
            Self::Silent => f.write_str("the server says nothing"),
            Self::TooLarge => f.write_str("the server's answer is too large"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    const BODY_MAX: u64 = 100_000;
    const PATIENCE: Duration = Duration::from_secs(20);

    /// What a server gets, what we make of its answer, and the body; the answer comes in pieces of `piece` bytes.
    fn asked(answer: &[u8], piece: usize) -> (String, Result<Head, HttpError>, Vec<u8>) {
        exchanged(answer, piece, |_| {})
    }

    /// The same with a request that is changed before.
    fn exchanged(
        answer: &[u8],
        piece: usize,
        change: impl FnOnce(&mut Request<'_>),
    ) -> (String, Result<Head, HttpError>, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let answer = answer.to_vec();
        let server = std::thread::spawn(move || {
            let (mut peer, _) = listener.accept().unwrap();
            peer.set_nodelay(true).unwrap();
            let mut request = [0; 4096];
            let length = peer.read(&mut request).unwrap();
            for piece in answer.chunks(piece) {
                // The client may have seen enough.
                let _ = peer.write_all(piece);
            }
            String::from_utf8_lossy(&request[..length]).into_owned()
        });
        let url = format!("http://{address}/a?b").parse::<Url>().unwrap();
        let fields = vec![("If-None-Match", "\"x\"")];
        let (method, wanted) = ("GET", Wanted::Found);
        let mut request =
            Request { method, url: &url, fields, body: None, wanted, body_max: BODY_MAX, patience: PATIENCE };
        change(&mut request);
        let mut body = Vec::new();
        let mut stream = Stream::plain(TcpStream::connect(address).unwrap()).unwrap();
        let head = async_io::block_on(exchange(&mut stream, &request, &mut keep(&mut body)));
        drop(stream);
        (server.join().unwrap(), head, body)
    }

    #[test]
    fn a_question_looks_like_one_of_curl() {
        let (request, head, _) = asked(b"HTTP/1.1 304 Not Modified\r\nETag: \"y\"\r\n\r\n", 1000);
        let start = "GET /a?b HTTP/1.1\r\nHost: 127.0.0.1:";
        assert!(request.starts_with(start) && request.contains("User-Agent: curl/8.5.0\r\n"), "{request}");
        assert!(request.ends_with("If-None-Match: \"x\"\r\n\r\n"), "{request}");
        let head = head.unwrap();
        assert_eq!((head.status, head.field("etag"), head.field("location")), (304, Some("\"y\""), None));
    }

    #[test]
    fn bodies_of_every_framing_are_read_in_pieces_of_any_size() {
        for answer in [
            "HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nhello world and more",
            "HTTP/1.0 200 OK\r\n\r\nhello world",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
             5;x=y\r\nhello\r\n6\r\n world\r\n0\r\nTrailer: x\r\n\r\n",
        ] {
            for piece in [1, 7, 1000] {
                let (_, head, body) = asked(answer.as_bytes(), piece);
                assert_eq!(head.unwrap().status, 200);
                assert_eq!(String::from_utf8_lossy(&body), "hello world", "{answer}");
            }
        }
    }

    #[test]
    fn a_body_that_is_cut_is_an_error() {
        for answer in [
            "HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nhello world",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
            "HTTP/1.1 200 OK\r\nContent-",
            "",
        ] {
            let (_, head, _) = asked(answer.as_bytes(), 1000);
            assert!(matches!(head, Err(HttpError::Cut)), "{answer}: {head:?}");
        }
    }

    #[test]
    fn what_is_not_http_is_refused() {
        let long = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(HEAD_MAX));
        for answer in [
            "SSH-2.0-x\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nx",
            "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\nx",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nhello",
            &long,
        ] {
            let (_, head, _) = asked(answer.as_bytes(), 1000);
            assert!(matches!(head, Err(HttpError::Malformed)), "{answer}: {head:?}");
        }
    }

    #[test]
    fn the_cap_of_the_body_holds() {
        let body = "x".repeat(150_000);
        for answer in [
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()),
            format!("HTTP/1.1 200 OK\r\n\r\n{body}"),
            format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len()),
        ] {
            let (_, head, got) = asked(answer.as_bytes(), 1 << 20);
            assert!(matches!(head, Err(HttpError::TooLarge)), "{head:?}");
            assert!(got.len() as u64 <= BODY_MAX);
        }
    }

    #[test]
    fn the_body_of_another_status_is_left_alone_unless_it_is_wanted() {
        let answer = b"HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nxyz";
        let (_, head, body) = asked(answer, 1000);
        assert_eq!((head.unwrap().status, body.len()), (404, 0));
        let (_, head, body) = exchanged(answer, 7, |request| request.wanted = Wanted::Any);
        assert_eq!((head.unwrap().status, body.as_slice()), (404, b"xyz".as_slice()));
    }

    #[test]
    fn every_method_is_asked_with_its_fields_and_no_content_where_there_is_none() {
        let answer = b"HTTP/1.1 204 No Content\r\nX-Up-Ack:  1 \r\n\r\n";
        for (method, body, length) in [("POST", Some(b"x".as_slice()), "1"), ("POST", Some(b"".as_slice()), "0")] {
            let (request, head, _) = exchanged(answer, 7, |request| {
                (request.method, request.body, request.wanted) = (method, body, Wanted::Any);
            });
            assert!(request.starts_with("POST /a?b HTTP/1.1\r\n"), "{request}");
            assert!(request.contains(&format!("\r\nContent-Length: {length}\r\n")), "{request}");
            assert!(request.contains("\r\nConnection: close\r\n"), "{request}");
            assert_eq!(head.unwrap().field("x-up-ack"), Some("1"));
        }
        let (request, ..) = exchanged(answer, 7, |request| request.method = "DELETE");
        assert!(request.starts_with("DELETE /a?b HTTP/1.1\r\n") && !request.contains("Content-Length"), "{request}");
    }

    #[test]
    fn an_answer_that_switches_protocols_ends_with_its_head() {
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n";
        let (request, head, _) = exchanged(answer, 1000, |request| {
            request.fields = vec![("Connection", "Upgrade"), ("Upgrade", "websocket")];
            request.wanted = Wanted::Any;
        });
        assert!(request.contains("\r\nConnection: Upgrade\r\n") && !request.contains("close"), "{request}");
        assert_eq!(head.unwrap().status, 101);
    }
}
