//! An app behind a hidden browser and a web server, as the WEB listener sees both: requests, frames, windows.
//!
//! It is as strict as the apps are: a frame for a stream that it does not know fails, and so does a byte beyond the
//! window that it gave.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use ctr::cipher::StreamCipher;
use hmac::{Hmac, KeyInit, Mac};

use super::obfuscated2::{self, Cipher};
use super::{HOST, KEY, socket};

/// The path of every test's site.
pub const PATH: &str = "some/Hidden_path";
/// What anybody gets who is not ours.
pub const NOTHING: &str = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nCache-Control: no-store\r\n";
/// What each side may send at first.
pub const WINDOW: usize = 4 << 20;
/// Payload of the app's DATA frames.
const CHUNK: usize = 64 << 10;

pub const OPEN: u8 = 1;
pub const DATA: u8 = 2;
pub const CLOSE: u8 = 3;
pub const CREDIT: u8 = 4;

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// The head as it came.
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    /// The value of a header field.
    pub fn field(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }
}

/// A web server's connection.
pub struct Http(BufReader<TcpStream>);

impl Http {
    pub fn connect(to: SocketAddr) -> Self {
        Self::over(socket::connect(to))
    }

    pub fn over(stream: TcpStream) -> Self {
        Self(BufReader::with_capacity(1 << 16, stream))
    }

    /// Sends bytes as they are.
    pub fn write(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).unwrap();
    }

    pub fn socket(&mut self) -> &mut TcpStream {
        self.0.get_mut()
    }

    pub fn send(&mut self, line: &str, fields: &[String], body: Option<&[u8]>) {
        let mut head = format!("{line} HTTP/1.1\r\nHost: {HOST}\r\nX-Forwarded-For: 203.0.113.7\r\n");
        for field in fields {
            head += &format!("{field}\r\n");
        }
        if let Some(body) = body {
            head += &format!("Content-Type: application/octet-stream\r\nContent-Length: {}\r\n", body.len());
        }
        self.write(format!("{head}\r\n").as_bytes());
        self.write(body.unwrap_or_default());
    }

    pub fn receive(&mut self) -> Answer {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(self.0.read_line(&mut head).unwrap() > 0, "the end in a head: {head:?}");
        }
        let mut answer = Answer { status: head.split(' ').nth(1).unwrap().parse().unwrap(), head, body: Vec::new() };
        let length = answer.field("Content-Length").map_or(0, |length| length.parse().unwrap());
        answer.body = vec![0; length];
        self.0.read_exact(&mut answer.body).unwrap();
        answer
    }

    pub fn ask(&mut self, line: &str, fields: &[String], body: Option<&[u8]>) -> Answer {
        self.send(line, fields, body);
        self.receive()
    }

    /// Exactly `len` bytes.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }
}

/// What shows that somebody knows the secret.
pub fn capability(secret: &[u8]) -> String {
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(secret).unwrap();
    mac.update(format!("tdesktop-web-proxy-bridge-v2\n{HOST}\n{PATH}").as_bytes());
    base64url(&mac.finalize().into_bytes())
}

pub fn base64url(bytes: &[u8]) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bits: Vec<u8> = bytes.iter().flat_map(|byte| (0..8).map(move |at| byte >> (7 - at) & 1)).collect();
    let digit = |bits: &[u8]| (0..6).fold(0, |value, at| value << 1 | bits.get(at).copied().unwrap_or(0));
    bits.chunks(6).map(|bits| char::from(DIGITS[usize::from(digit(bits))])).collect()
}

/// The page for a form of the secret.
pub fn page(to: SocketAddr, secret: &[u8]) -> Answer {
    Http::connect(to).ask(&format!("GET /{PATH}/?bridge={}", capability(secret)), &[], None)
}

/// The text between `before` and the next quotation mark.
pub fn quoted<'a>(text: &'a str, before: &str) -> &'a str {
    text.split_once(before).and_then(|(_, rest)| rest.split_once('"')).map(|(value, _)| value).expect(before)
}

pub fn frame(kind: u8, id: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (u32::from(kind) << 24 | id).to_be_bytes().to_vec();
    frame.extend((payload.len() as u32).to_be_bytes());
    frame.extend(payload);
    frame
}

/// The frames of a batch: kind, id, payload.
pub fn frames(mut batch: &[u8]) -> Vec<(u8, u32, Vec<u8>)> {
    let mut all = Vec::new();
    while !batch.is_empty() {
        let word = u32::from_be_bytes(batch[..4].try_into().unwrap());
        let length = u32::from_be_bytes(batch[4..8].try_into().unwrap()) as usize;
        all.push(((word >> 24) as u8, word & 0xff_ffff, batch[8..8 + length].to_vec()));
        batch = &batch[8 + length..];
    }
    all
}

/// A stream as the app has it.
pub struct Stream {
    write: Cipher,
    read: Cipher,
    /// What it may still send.
    pub credit: usize,
    /// What we may still send it.
    window: usize,
    /// What has come, decrypted.
    pub received: Vec<u8>,
    pub is_closed: bool,
}

/// How a session's bytes travel.
enum Carrier {
    Https { up: Http, down: Http, sequence: u64, cursor: u64 },
    Websocket(Http),
}

/// A session of an app.
pub struct App {
    carrier: Carrier,
    pub token: String,
    pub streams: BTreeMap<u32, Stream>,
    closed: Vec<u32>,
    to: SocketAddr,
    /// The app gives credit back for what it receives.
    pub gives_credit: bool,
}

pub fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}")
}

pub fn url(call: &str) -> String {
    format!("/{PATH}/api/v1/{call}")
}

/// Makes a session with the page's token.
pub fn create(to: SocketAddr, bootstrap: &str) -> Answer {
    let hello = frame(0x10, 0, &[1]);
    Http::connect(to).ask(&format!("POST {}", url("session")), &[bearer(bootstrap)], Some(&hello))
}

impl App {
    /// Loads the page and makes a session.
    pub fn connect(to: SocketAddr) -> Self {
        let page = page(to, &[&[0xdd], KEY.as_slice()].concat());
        assert_eq!(page.status, 200, "{}", page.head);
        let page = String::from_utf8(page.body).unwrap();
        let made = create(to, quoted(&page, "bootstrap=\""));
        assert_eq!(made.status, 200, "{}", made.head);
        assert_eq!(made.body, frame(0x11, 0, &[]));
        let token = made.field("X-Session-Token").unwrap().to_owned();
        let mode = quoted(&page, "carrierMode=\"");
        assert_eq!(made.field("X-Carrier-Mode"), Some(mode));
        let carrier = match mode {
            "https" => Carrier::Https { up: Http::connect(to), down: Http::connect(to), sequence: 1, cursor: 0 },
            _ => Carrier::Websocket(upgrade(to, &token).expect("no upgrade")),
        };
        Self { carrier, token, streams: BTreeMap::new(), closed: Vec::new(), to, gives_credit: true }
    }

    /// Opens a stream to a DC with the frame that apps send.
    pub fn open(&mut self, id: u32, dc: i16) {
        let sent = obfuscated2::send(Some(&KEY), obfuscated2::PADDED, dc);
        let stream = Stream {
            write: sent.write,
            read: sent.read,
            credit: WINDOW - 64,
            window: WINDOW,
            received: Vec::new(),
            is_closed: false,
        };
        self.streams.insert(id, stream);
        self.send(&[frame(OPEN, id, &[]), frame(DATA, id, &sent.wire)].concat());
    }

    pub fn close(&mut self, id: u32) {
        self.streams.remove(&id);
        self.closed.push(id);
        self.send(&frame(CLOSE, id, &[]));
    }

    /// Sends bytes over a stream, waiting for credit.
    pub fn write(&mut self, id: u32, bytes: &[u8]) {
        for chunk in bytes.chunks(CHUNK) {
            while self.streams[&id].credit < chunk.len() {
                self.pump();
            }
            let stream = self.streams.get_mut(&id).unwrap();
            stream.credit -= chunk.len();
            let mut chunk = chunk.to_vec();
            stream.write.apply_keystream(&mut chunk);
            self.send(&frame(DATA, id, &chunk));
        }
    }

    /// Exactly `len` bytes of a stream.
    pub fn read(&mut self, id: u32, len: usize) -> Vec<u8> {
        while self.streams[&id].received.len() < len {
            assert!(!self.streams[&id].is_closed, "closed after {} bytes", self.streams[&id].received.len());
            self.pump();
        }
        let stream = self.streams.get_mut(&id).unwrap();
        let rest = stream.received.split_off(len);
        std::mem::replace(&mut stream.received, rest)
    }

    /// Waits until a stream is closed by the other side.
    pub fn wait_closed(&mut self, id: u32) {
        while !self.streams[&id].is_closed {
            self.pump();
        }
    }

    /// Sends a batch.
    pub fn send(&mut self, batch: &[u8]) {
        match &mut self.carrier {
            Carrier::Https { up, sequence, .. } => {
                let fields = [bearer(&self.token), format!("X-Up-Seq: {sequence}")];
                let answer = loop {
                    let answer = up.ask(&format!("POST {}", url("up")), &fields, Some(batch));
                    if answer.status != 503 {
                        break answer;
                    }
                    std::thread::sleep(std::time::Duration::from_millis(50));
                };
                assert_eq!(answer.status, 204, "{}", answer.head);
                assert_eq!(answer.field("X-Up-Ack"), Some(sequence.to_string().as_str()));
                *sequence += 1;
            }
            Carrier::Websocket(socket) => socket.write(&masked(0x82, batch)),
        }
    }

    /// Takes the next batch.
    pub fn pump(&mut self) {
        let batch = self.next_batch();
        self.take(&batch);
    }

    fn next_batch(&mut self) -> Vec<u8> {
        match &mut self.carrier {
            Carrier::Https { down, cursor, .. } => {
                let fields = [bearer(&self.token), format!("X-Down-Cursor: {cursor}")];
                let answer = down.ask(&format!("POST {}", url("down")), &fields, None);
                let next = answer.field("X-Down-Cursor").expect("no cursor").parse().unwrap();
                match answer.status {
                    200 => assert_eq!(next, *cursor + 1),
                    204 => assert_eq!((next, answer.body.len()), (*cursor, 0)),
                    status => panic!("status {status}"),
                }
                *cursor = next;
                answer.body
            }
            Carrier::Websocket(socket) => loop {
                let (opcode, message) = message(socket);
                match opcode {
                    0x82 => break message,
                    0x89 => socket.write(&masked(0x8a, &message)),
                    _ => panic!("a message {opcode:x} {}", super::hex(&message)),
                }
            },
        }
    }

    fn take(&mut self, batch: &[u8]) {
        let mut credit = Vec::new();
        for (kind, id, payload) in frames(batch) {
            let Some(stream) = self.streams.get_mut(&id) else {
                assert!(self.closed.contains(&id), "a frame {kind} for stream {id}");
                continue;
            };
            assert!(!stream.is_closed, "a frame {kind} after CLOSE");
            match kind {
                DATA => {
                    assert!(!payload.is_empty() && payload.len() <= CHUNK);
                    stream.window = stream.window.checked_sub(payload.len()).expect("bytes beyond the window");
                    let length = payload.len();
                    let mut payload = payload;
                    stream.read.apply_keystream(&mut payload);
                    stream.received.extend(payload);
                    if self.gives_credit {
                        stream.window += length;
                        credit.extend(frame(CREDIT, id, &(length as u32).to_be_bytes()));
                    }
                }
                CREDIT => {
                    stream.credit += u32::from_be_bytes(payload.try_into().unwrap()) as usize;
                    assert!(stream.credit <= WINDOW, "more credit than was used");
                }
                CLOSE => stream.is_closed = true,
                _ => panic!("a frame {kind}"),
            }
        }
        if !credit.is_empty() {
            self.send(&credit);
        }
    }

    /// The carrier's connection for uploads.
    pub fn http(&mut self) -> &mut Http {
        match &mut self.carrier {
            Carrier::Https { up, .. } => up,
            Carrier::Websocket(socket) => socket,
        }
    }

    /// Where the next batches stand: number and cursor.
    pub fn place(&self) -> (u64, u64) {
        match &self.carrier {
            Carrier::Https { sequence, cursor, .. } => (*sequence, *cursor),
            Carrier::Websocket(_) => (0, 0),
        }
    }

    /// A call of this session over a connection of its own.
    pub fn call(&self, line: &str, fields: &[String], body: Option<&[u8]>) -> Answer {
        let fields = [fields, &[bearer(&self.token)]].concat();
        Http::connect(self.to).ask(line, &fields, body)
    }
}

/// A WebSocket for a session; the status if there is none.
pub fn upgrade(to: SocketAddr, token: &str) -> Result<Http, u16> {
    let mut http = Http::connect(to);
    let fields = [
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Cookie: a=b",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Extensions: permessage-deflate",
        &format!("Sec-WebSocket-Protocol: tproxy-v1.{token}"),
    ];
    let answer = http.ask(&format!("GET {}", url("ws")), &fields.map(String::from), None);
    if answer.status != 101 {
        return Err(answer.status);
    }
    assert_eq!(answer.field("Sec-WebSocket-Accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!(answer.field("Sec-WebSocket-Protocol"), Some(format!("tproxy-v1.{token}").as_str()));
    assert_eq!(answer.field("Sec-WebSocket-Extensions"), None);
    Ok(http)
}

/// A client's WebSocket frame.
pub fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = super::random::<4>();
    let mut bytes = vec![first];
    match payload.len() {
        0..126 => bytes.push(0x80 | payload.len() as u8),
        126..0x1_0000 => {
            bytes.push(0x80 | 126);
            bytes.extend((payload.len() as u16).to_be_bytes());
        }
        _ => {
            bytes.push(0x80 | 127);
            bytes.extend((payload.len() as u64).to_be_bytes());
        }
    }
    bytes.extend(mask);
    bytes.extend(payload.iter().zip(mask.into_iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// The next message of a server: its first byte and its payload.
pub fn message(http: &mut Http) -> (u8, Vec<u8>) {
    let head = http.bytes(2);
    let length = match head[1] {
        126 => usize::from(u16::from_be_bytes(http.bytes(2).try_into().unwrap())),
        127 => u64::from_be_bytes(http.bytes(8).try_into().unwrap()) as usize,
        length => usize::from(length),
    };
    (head[0], http.bytes(length))
}

impl Stream {
    /// One that was opened by hand and is not spoken over.
    pub fn idle() -> Self {
        let sent = obfuscated2::send(Some(&KEY), obfuscated2::PADDED, 2);
        Self { write: sent.write, read: sent.read, credit: WINDOW, window: WINDOW, received: vec![], is_closed: false }
    }
}
