//! A visitor of the own web site: requests as an app's hidden browser makes them, one connection for each.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::Case;
use crate::net::stream::Stream;
use crate::net::{deadline, turn};
use crate::proto::web::BATCH_MAX;

/// Time for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest head of an answer, bytes.
const HEAD_MAX: usize = 16 << 10;
/// Bytes that are received at once.
const CHUNK: usize = 8 << 10;
const FIELDS_MAX: usize = 96;

/// What a server says.
pub(super) struct Answer {
    pub(super) status: u16,
    fields: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub(super) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap_or_default()
    }
}

/// Where requests go.
pub(super) struct Visitor<'a> {
    pub(super) case: &'a Case,
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) host: &'a str,
    pub(super) is_secure: bool,
}

impl Visitor<'_> {
    /// A connection with its TLS done.
    pub(super) async fn connect(&self) -> io::Result<Stream> {
        let (socket, _) = self.case.dialer.connect(self.addresses.clone(), PATIENCE).await?;
        if !self.is_secure {
            return Stream::plain(socket);
        }
        let connected = deadline::within(PATIENCE, Stream::tls(socket, self.host)).await;
        connected.unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Asks and reads all of the answer. `line` is method and target.
    pub(super) async fn ask(&self, line: &str, fields: &[String], body: Option<&[u8]>) -> io::Result<Answer> {
        let mut stream = self.connect().await?;
        self.ask_over(&mut stream, line, &[fields, &["Connection: close".to_owned()]].concat(), body).await
    }

    /// The same over a connection that there is. An answer that switches protocols ends with its head.
    pub(super) async fn ask_over(
        &self,
        stream: &mut Stream,
        line: &str,
        fields: &[String],
        body: Option<&[u8]>,
    ) -> io::Result<Answer> {
        let mut wire = format!("{line} HTTP/1.1\r\nHost: {}\r\n", self.host);
        for field in fields {
            wire += &format!("{field}\r\n");
        }
        if let Some(body) = body {
            wire += &format!("Content-Type: application/octet-stream\r\nContent-Length: {}\r\n", body.len());
        } else if line.starts_with("POST") {
            wire += "Content-Length: 0\r\n";
        }
        let wire = [(wire + "\r\n").as_bytes(), body.unwrap_or_default()].concat();
        let answered = async {
            stream.write_all(&wire).await?;
            receive(stream).await
        };
        deadline::within(PATIENCE, answered).await.unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into()))
    }
}

async fn receive(stream: &mut Stream) -> io::Result<Answer> {
    let mut received = Vec::new();
    let (mut answer, head) = loop {
        if let Some(found) = parse(&received)? {
            break found;
        }
        if received.len() > HEAD_MAX || !more(stream, &mut received).await? {
            return Err(io::ErrorKind::InvalidData.into());
        }
    };
    let mut body = received.split_off(head.min(received.len()));
    let length = answer.field("content-length").and_then(|length| length.parse().ok());
    let is_chunked = answer.field("transfer-encoding").is_some();
    let is_empty = matches!(answer.status, 101 | 204 | 304);
    let wanted = if is_empty { Some(0) } else { length };
    while wanted.is_none_or(|wanted| body.len() < wanted) && body.len() < BATCH_MAX {
        if !more(stream, &mut body).await? {
            break;
        }
    }
    answer.body = if is_chunked { unchunked(&body) } else { body };
    Ok(answer)
}

/// Receives some; says whether anything came. An end that a server does not announce is one all the same.
async fn more(stream: &mut Stream, received: &mut Vec<u8>) -> io::Result<bool> {
    let before = received.len();
    received.resize(before + CHUNK, 0);
    let read = turn::take(stream.read(received.get_mut(before..).unwrap_or_default())).await;
    let count = match read {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => 0,
        read => read?,
    };
    received.truncate(before + count);
    Ok(count > 0)
}

/// The head at the start of what came, and its length.
fn parse(bytes: &[u8]) -> io::Result<Option<(Answer, usize)>> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    let length = match response.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(io::ErrorKind::InvalidData.into()),
    };
    let text = |value: &[u8]| String::from_utf8_lossy(value).trim().to_owned();
    let fields = response.headers.iter().map(|field| (field.name.to_owned(), text(field.value))).collect();
    Ok(Some((Answer { status: response.code.unwrap_or_default(), fields, body: Vec::new() }, length)))
}

/// A body without the lengths between its pieces, as far as it is whole.
fn unchunked(mut body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Ok(httparse::Status::Complete((head, size))) = httparse::parse_chunk_size(body) {
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let Some((chunk, rest)) = body.get(head..).and_then(|rest| rest.split_at_checked(size)) else { break };
        whole.extend_from_slice(chunk);
        body = rest.get(2..).unwrap_or_default();
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_joined() {
        assert_eq!(unchunked(b"4\r\nabcd\r\n2;x=y\r\nef\r\n0\r\n\r\n"), b"abcdef");
        assert_eq!(unchunked(b"4\r\nab"), b"");
        assert_eq!(unchunked(b""), b"");
    }

    #[test]
    fn heads_are_read_when_they_are_whole() {
        assert!(parse(b"HTTP/1.1 200 OK\r\nX: y").unwrap().is_none());
        let (answer, length) = parse(b"HTTP/1.1 404 Not Found\r\nX-Up-Ack:  1 \r\n\r\nrest").unwrap().unwrap();
        assert_eq!((answer.status, answer.field("x-up-ack"), length), (404, Some("1"), 41));
        assert!(parse(b"\x16\x03\x01 no HTTP").is_err());
    }
}
