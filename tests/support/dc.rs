//! A data centre of Telegram, as far as a proxy can tell.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use ctr::cipher::StreamCipher;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::DEADLINE;
use super::obfuscated2::{self, Cipher, Received};
use super::pattern::Pattern;
use super::socket::{self, End};

/// A listener whose connections the test takes one by one.
pub struct FakeDc {
    /// Where it listens.
    pub address: SocketAddr,
    listener: TcpListener,
}

/// A connection whose frame has been read.
pub struct DcStream {
    /// The transport that the proxy asks for.
    pub tag: [u8; 4],
    /// The number that the proxy asks for.
    pub dc: i16,
    /// The key and IV of the download.
    pub download_key: [u8; 48],
    stream: TcpStream,
    read: Cipher,
    write: Cipher,
}

/// A data centre that sends back all that it gets, on as many connections as come.
pub struct EchoDc {
    /// Where it listens.
    pub address: SocketAddr,
    served: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    faults: Arc<Mutex<Vec<String>>>,
    thread: Option<JoinHandle<()>>,
}

/// An address where connections are neither accepted nor refused: the queue of its listener is full.
pub struct BlackHole {
    /// Where it does not answer.
    pub address: SocketAddr,
    listener: TcpListener,
    fillers: Vec<TcpStream>,
}

impl FakeDc {
    /// Listens on a free port.
    pub fn listen() -> Self {
        Self::from(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap())
    }

    /// The next connection that sends a frame.
    pub fn accept(&self) -> DcStream {
        self.accept_within(DEADLINE).expect("the proxy did not dial this DC")
    }

    /// The next connection that sends a frame, if one comes `within` that time.
    pub fn accept_within(&self, within: Duration) -> Option<DcStream> {
        loop {
            let stream = socket::accept(&self.listener, within)?;
            if let Some(stream) = DcStream::new(stream).unwrap() {
                return Some(stream);
            }
        }
    }

    /// Fails if a connection came `within` that time.
    pub fn assert_undialled(&self, within: Duration) {
        assert!(!socket::is_readable(&self.listener, within), "the proxy dialled this DC");
    }

    /// Echoes on this listener from now on.
    pub fn echo(self) -> EchoDc {
        let (served, stop, faults) = <(Arc<AtomicUsize>, Arc<AtomicBool>, Arc<Mutex<Vec<String>>>)>::default();
        let address = self.address;
        let thread = std::thread::spawn({
            let (served, stop, faults) = (served.clone(), stop.clone(), faults.clone());
            move || echo_until(&stop, &self.listener, &served, &faults)
        });
        EchoDc { address, served, stop, faults, thread: Some(thread) }
    }
}

impl From<TcpListener> for FakeDc {
    fn from(listener: TcpListener) -> Self {
        Self { address: listener.local_addr().unwrap(), listener }
    }
}

impl EchoDc {
    /// Listens on a free port and echoes.
    pub fn listen() -> Self {
        FakeDc::listen().echo()
    }

    /// How many connections sent a frame.
    pub fn served(&self) -> usize {
        self.served.load(Ordering::SeqCst)
    }
}

impl Drop for EchoDc {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let ended = self.thread.take().unwrap().join();
        if !std::thread::panicking() {
            ended.unwrap();
            assert_eq!(*self.faults.lock().unwrap(), [""; 0], "what the DC had to complain of");
        }
    }
}

impl BlackHole {
    /// Listens with the shortest queue there is and fills it.
    pub fn listen() -> Self {
        let flags = SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).unwrap();
        rustix::net::bind(&socket, &std::net::SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).unwrap();
        rustix::net::listen(&socket, 0).unwrap();
        let listener = TcpListener::from(socket);
        let address = listener.local_addr().unwrap();
        let mut fillers = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
            fillers.push(stream);
            assert!(fillers.len() < 10, "the queue of the listener does not fill up");
        }
        assert!(!fillers.is_empty(), "the queue of the listener holds nothing");
        Self { address, listener, fillers }
    }

    /// Makes room in the queue, so that a connection attempt that still goes on succeeds when it is repeated.
    pub fn open(self) -> FakeDc {
        for filler in self.fillers {
            drop(filler);
            self.listener.accept().unwrap();
        }
        FakeDc::from(self.listener)
    }
}

impl DcStream {
    /// Reads the frame; `None` if the proxy closed before a whole one.
    fn new(mut stream: TcpStream) -> Result<Option<Self>, String> {
        let mut wire = [0; 64];
        match stream.read_exact(&mut wire) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof || socket::is_reset(&error) => {
                return Ok(None);
            }
            Err(error) => return Err(format!("the frame to the DC: {error}")),
        }
        if let Some(protocol) = obfuscated2::forbidden_prefix(&wire) {
            return Err(format!("the frame to the DC starts like {protocol}"));
        }
        let Received { tag, dc, read, write, answer_key } = obfuscated2::receive(&wire, None);
        if ![obfuscated2::PADDED, obfuscated2::INTERMEDIATE, obfuscated2::ABRIDGED].contains(&tag) {
            return Err(format!("tag {} in the frame to the DC", super::hex(&tag)));
        }
        Ok(Some(Self { tag, dc, download_key: answer_key, stream, read, write }))
    }

    /// Exactly `len` bytes, decrypted.
    pub fn receive(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = socket::read_exactly(&mut self.stream, len).unwrap_or_else(|error| panic!("DC: {error}"));
        self.read.apply_keystream(&mut bytes);
        bytes
    }

    /// Fails unless exactly these bytes come and then the end in order.
    pub fn expect_to_end(&mut self, pattern: &mut Pattern, len: u64) {
        let mut buffer = vec![0; 0x1_0000];
        loop {
            let count = self.stream.read(&mut buffer).unwrap_or_else(|error| panic!("DC: {error}"));
            if count == 0 {
                break;
            }
            self.read.apply_keystream(&mut buffer[..count]);
            pattern.expect(&buffer[..count]);
        }
        assert_eq!(pattern.position(), len, "bytes before the end of the upload");
    }

    /// Waits for the end; fails if a byte comes before it.
    pub fn expect_end(&mut self) -> End {
        let (bytes, end) = socket::read_to_end(&mut self.stream);
        assert_eq!(bytes.len(), 0, "bytes instead of the end of the upload");
        end
    }

    /// Sends `bytes`, encrypted.
    pub fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).unwrap_or_else(|error| panic!("DC: {error}"));
    }

    /// Sends the next `len` bytes of `pattern`, a little at a time.
    pub fn send_pattern(&mut self, pattern: &mut Pattern, len: u64) {
        let end = pattern.position() + len;
        while pattern.position() < end {
            let count = (end - pattern.position()).min(0x4_0000);
            self.send(&pattern.take(count as usize));
        }
    }

    /// Ends this direction and keeps the other one.
    pub fn half_close(&mut self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// The connection, for bytes without meaning.
    pub fn socket(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// Closes with a reset.
    pub fn reset(self) {
        socket::reset(self.stream);
    }

    fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let mut bytes = bytes.to_vec();
        self.write.apply_keystream(&mut bytes);
        self.stream.write_all(&bytes)
    }

    fn echo(mut self) {
        let mut buffer = vec![0; 0x4000];
        // A client that leaves in the middle is not the DC's fault, so errors end the echo and are not reported.
        while let Ok(count @ 1..) = self.stream.read(&mut buffer) {
            self.read.apply_keystream(&mut buffer[..count]);
            if self.try_send(&buffer[..count]).is_err() {
                return;
            }
        }
    }
}

fn echo_until(stop: &AtomicBool, listener: &TcpListener, served: &Arc<AtomicUsize>, faults: &Arc<Mutex<Vec<String>>>) {
    while !stop.load(Ordering::SeqCst) {
        let Some(stream) = socket::accept(listener, Duration::from_millis(50)) else { continue };
        let (served, faults) = (served.clone(), faults.clone());
        std::thread::spawn(move || match DcStream::new(stream) {
            Ok(Some(stream)) => {
                served.fetch_add(1, Ordering::SeqCst);
                stream.echo();
            }
            Ok(None) => {}
            Err(fault) => faults.lock().unwrap().push(fault),
        });
    }
}
