//! A Telegram client behind FakeTLS, as strict about the proxy's reply as the strictest real one.

use std::io::{BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use ctr::cipher::StreamCipher;

use super::MAX_RECORD;
use super::hello::{Hello, RANDOM, Signed, hmac, word};
use super::obfuscated2::{self, Cipher, PADDED};
use super::pattern::Pattern;
use super::socket::{self, End};

/// What TDLib puts into one record at most.
pub const CLIENT_RECORD: usize = 2878;

/// The record that clients send before their first data.
pub const CHANGE_CIPHER_SPEC: [u8; 6] = [0x14, 0x03, 0x03, 0x00, 0x01, 0x01];

/// A client whose hello has been answered well.
pub struct Greeted {
    /// The connection.
    pub stream: TcpStream,
    /// The reply's ServerHello record.
    pub server_hello: Vec<u8>,
    /// How long the application-data record of the reply is.
    pub noise_len: usize,
    key: [u8; 16],
}

/// A client that has sent its frame.
pub struct Session {
    /// Client to DC.
    pub upload: Upload,
    /// DC to client.
    pub download: Download,
    /// The key and IV of the download.
    pub download_key: [u8; 48],
}

/// The sending half of a client.
pub struct Upload {
    stream: TcpStream,
    cipher: Cipher,
    /// How many bytes go into one record.
    pub record: usize,
}

/// The receiving half of a client.
pub struct Download {
    stream: BufReader<TcpStream>,
    cipher: Cipher,
    pending: Vec<u8>,
    /// How long each record was.
    pub records: Vec<usize>,
}

/// Reads the reply to `hello` and checks all that real clients check.
pub fn greet(mut stream: TcpStream, hello: &Signed, key: &[u8; 16]) -> Result<Greeted, String> {
    let server_hello = read_record(&mut stream, 0x16).map_err(|error| format!("ServerHello: {error}"))?;
    let change_cipher_spec = read_record(&mut stream, 0x14).map_err(|error| format!("ChangeCipherSpec: {error}"))?;
    let noise = read_record(&mut stream, 0x17).map_err(|error| format!("first application data: {error}"))?;
    let reply = [&server_hello[..], &change_cipher_spec, &noise].concat();
    let mut zeroed = reply.clone();
    zeroed.get_mut(RANDOM).ok_or("a ServerHello without a random")?.fill(0);
    if hmac(key, &[hello.random(), &zeroed])[..] != reply[RANDOM] {
        return Err("the digest of the reply is wrong".to_owned());
    }
    if change_cipher_spec != CHANGE_CIPHER_SPEC {
        return Err("the ChangeCipherSpec is not one byte 01".to_owned());
    }
    check_server_hello(&server_hello, hello)?;
    let noise_len = noise.len() - 5;
    if noise_len == 0 || noise_len > MAX_RECORD {
        return Err(format!("{noise_len} bytes of application data in the reply"));
    }
    Ok(Greeted { stream, server_hello, noise_len, key: *key })
}

/// Connects, sends the hello and reads the reply.
pub fn greeted(proxy: SocketAddr) -> Result<Greeted, String> {
    greeted_over(socket::connect(proxy), &Hello::default())
}

/// Sends the hello over `stream` and reads the reply.
pub fn greeted_over(mut stream: TcpStream, hello: &Hello) -> Result<Greeted, String> {
    let signed = hello.sign();
    stream.write_all(&signed.wire).map_err(|error| format!("sending the hello: {error}"))?;
    greet(stream, &signed, &hello.key)
}

/// A client that everything is right about, ready to talk to `dc`.
pub fn session(proxy: SocketAddr, dc: i16) -> Session {
    greeted(proxy).unwrap().open(PADDED, dc)
}

impl Greeted {
    /// Sends a ChangeCipherSpec and the frame.
    pub fn open(self, tag: [u8; 4], dc: i16) -> Session {
        self.open_with(tag, dc, &[], 64)
    }

    /// Sends a ChangeCipherSpec, the frame and the first payload, all in records of `record` bytes.
    pub fn open_with(mut self, tag: [u8; 4], dc: i16, payload: &[u8], record: usize) -> Session {
        let mut frame = obfuscated2::send(Some(&self.key), tag, dc);
        let mut payload = payload.to_vec();
        frame.write.apply_keystream(&mut payload);
        let mut wire = CHANGE_CIPHER_SPEC.to_vec();
        wire.extend(in_records(&[&frame.wire[..], &payload].concat(), record));
        self.stream.write_all(&wire).unwrap();
        let stream = self.stream.try_clone().unwrap();
        Session {
            upload: Upload { stream: self.stream, cipher: frame.write, record: CLIENT_RECORD },
            download: Download {
                stream: BufReader::with_capacity(0x1_0000, stream),
                cipher: frame.read,
                pending: Vec::new(),
                records: Vec::new(),
            },
            download_key: frame.answer_key,
        }
    }
}

impl Session {
    /// Sends `len` bytes of the pattern and expects them back from a DC that echoes.
    pub fn ping(&mut self, len: usize, seed: u64) {
        self.try_ping(len, seed).unwrap();
    }

    /// Like [`Session::ping`], for connections that may be closed.
    pub fn try_ping(&mut self, len: usize, seed: u64) -> Result<(), String> {
        self.upload.try_send(&Pattern::new(seed).take(len)).map_err(|error| format!("ping: {error}"))?;
        let back = self.download.receive(len).map_err(|error| format!("pong: {error}"))?;
        Pattern::new(seed).expect(&back);
        Ok(())
    }

    /// Closes with a reset.
    pub fn reset(self) {
        drop(self.download);
        socket::reset(self.upload.stream);
    }
}

impl Upload {
    /// Sends `bytes`, encrypted and in records.
    pub fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).unwrap_or_else(|error| panic!("sending {} bytes: {error}", bytes.len()));
    }

    /// Like [`Upload::send`], for connections that may be closed.
    pub fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let wire = self.seal(bytes);
        self.stream.write_all(&wire)
    }

    /// `bytes` encrypted and in records, to be sent by [`Upload::send_raw`] in the same order.
    pub fn seal(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        self.cipher.apply_keystream(&mut bytes);
        in_records(&bytes, self.record)
    }

    /// Sends bytes as they are.
    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Ends this direction and keeps the other one.
    pub fn half_close(&mut self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }
}

impl Download {
    /// Exactly `len` bytes, decrypted.
    pub fn receive(&mut self, len: usize) -> Result<Vec<u8>, String> {
        while self.pending.len() < len {
            let Some(payload) = self.next_record()? else {
                return Err(format!("the end after {} of {len} bytes", self.pending.len()));
            };
            self.pending.extend(payload);
        }
        let rest = self.pending.split_off(len);
        Ok(std::mem::replace(&mut self.pending, rest))
    }

    /// Fails unless exactly these bytes come and then the end in order.
    pub fn expect_to_end(&mut self, pattern: &mut Pattern, len: u64) {
        pattern.expect(&std::mem::take(&mut self.pending));
        while let Some(payload) = self.next_record().unwrap() {
            pattern.expect(&payload);
        }
        assert_eq!(pattern.position(), len, "bytes before the end of the download");
    }

    /// Waits for the end; fails if a byte comes before it.
    pub fn expect_end(&mut self) -> End {
        let (bytes, end) = socket::read_to_end(self.stream.get_mut());
        let read = self.pending.len() + self.stream.buffer().len() + bytes.len();
        assert_eq!(read, 0, "bytes instead of the end of the download");
        end
    }

    /// The payload of the next record, decrypted; `None` at an end between records.
    pub fn next_record(&mut self) -> Result<Option<Vec<u8>>, String> {
        let mut header = [0; 5];
        match self.stream.read(&mut header[..1]) {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(error) => return Err(format!("record: {error}")),
        }
        self.stream.read_exact(&mut header[1..]).map_err(|error| format!("record header: {error}"))?;
        let len = word(&header, 3);
        if header[..3] != [0x17, 0x03, 0x03] || len == 0 || len > MAX_RECORD {
            return Err(format!("a record with the header {}", super::hex(&header)));
        }
        let mut payload = vec![0; len];
        self.stream.read_exact(&mut payload).map_err(|error| format!("record payload: {error}"))?;
        self.cipher.apply_keystream(&mut payload);
        self.records.push(len);
        Ok(Some(payload))
    }
}

impl std::os::fd::AsFd for Upload {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Application-data records of at most `size` bytes each.
pub fn in_records(bytes: &[u8], size: usize) -> Vec<u8> {
    let mut wire = Vec::with_capacity(bytes.len() + 5 * (bytes.len() / size + 1));
    for payload in bytes.chunks(size) {
        wire.extend([0x17, 0x03, 0x03]);
        wire.extend((payload.len() as u16).to_be_bytes());
        wire.extend(payload);
    }
    wire
}

fn read_record(stream: &mut TcpStream, kind: u8) -> Result<Vec<u8>, String> {
    let header = socket::read_exactly(stream, 5)?;
    if header[..3] != [kind, 0x03, 0x03] {
        return Err(format!("a record with the header {}", super::hex(&header)));
    }
    let payload = socket::read_exactly(stream, word(&header, 3))?;
    Ok([header, payload].concat())
}

/// One TLS 1.3 ServerHello and nothing else in the record, with a suite and a group that the client offered.
fn check_server_hello(record: &[u8], hello: &Signed) -> Result<(), String> {
    let session_id = hello.session_id();
    let after_id = 44 + session_id.len();
    if record.len() < after_id + 5 || record[5..11] != handshake_start(record.len() - 9) {
        return Err("not one ServerHello of version 0303".to_owned());
    }
    if usize::from(record[43]) != session_id.len() || &record[44..after_id] != session_id {
        return Err("the session id is not the client's".to_owned());
    }
    let suite = word(record, after_id) as u16;
    if !(0x1301..=0x1303).contains(&suite) || !hello.suites().contains(&suite) {
        return Err(format!("cipher suite {suite:04x}"));
    }
    if record[after_id + 2] != 0x00 || after_id + 5 + word(record, after_id + 3) != record.len() {
        return Err("compression, or the extensions do not fill the record".to_owned());
    }
    check_extensions(&record[after_id + 5..], hello)
}

fn handshake_start(body_len: usize) -> [u8; 6] {
    let [_, a, b, c] = (body_len as u32).to_be_bytes();
    [0x02, a, b, c, 0x03, 0x03]
}

fn check_extensions(mut extensions: &[u8], hello: &Signed) -> Result<(), String> {
    let mut kinds = Vec::new();
    while !extensions.is_empty() {
        if extensions.len() < 4 || extensions.len() < 4 + word(extensions, 2) {
            return Err("an extension is cut off".to_owned());
        }
        let (kind, body) = (word(extensions, 0), &extensions[4..4 + word(extensions, 2)]);
        match kind {
            0x002b if body == [0x03, 0x04] => {}
            0x0033 => check_share(body, hello)?,
            _ => return Err(format!("extension {kind:04x} or its content")),
        }
        kinds.push(kind);
        extensions = &extensions[4 + body.len()..];
    }
    kinds.sort_unstable();
    if kinds == [0x002b, 0x0033] { Ok(()) } else { Err(format!("extensions {kinds:04x?}")) }
}

fn check_share(body: &[u8], hello: &Signed) -> Result<(), String> {
    if body.len() < 4 {
        return Err("a key share that is cut off".to_owned());
    }
    let (group, len) = (word(body, 0) as u16, word(body, 2));
    let right = match group {
        0x001d => 32,
        0x11ec => 1088 + 32,
        _ => return Err(format!("key share of group {group:04x}")),
    };
    if len != right || body.len() != 4 + len || !hello.share_groups().contains(&group) {
        return Err(format!("key share of group {group:04x} with {len} bytes"));
    }
    Ok(())
}
