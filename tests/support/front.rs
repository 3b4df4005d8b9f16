//! The web server in front of which strangers believe to stand.
//!
//! The proxy may come on its own account, to learn what the front's hello looks like; so a visit is known by the bytes
//! that it begins with.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::DEADLINE;
use super::socket::{self, End};

/// A TLS 1.3 server's first flight (specification of mtg v2, appendix A.2).
pub const FLIGHT: &str = "160303007a0200007603036f79deae078beb61e612a40c0537d02f724afd8851f4ba281fe1c74130f8a582\
    20404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f130100002e002b0002030400330024001d0020\
    808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f1403030001011703030010\
    c0c1c2c3c4c5c6c7c8c9cacbcccdcecf";

/// What hexadecimal digits stand for.
pub fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// The address of a front that answers everybody with `answer` and closes after that time.
pub fn front_of_patience(answer: Vec<u8>, patience: Duration) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut visit in listener.incoming().flatten() {
            let answer = answer.clone();
            std::thread::spawn(move || {
                let _ = visit.read(&mut [0; 4096]);
                let _ = visit.write_all(&answer);
                std::thread::sleep(patience);
            });
        }
    });
    address
}

/// A listener whose connections the test takes by what they send.
pub struct FakeFront {
    /// Where it listens.
    pub address: SocketAddr,
    listener: TcpListener,
    waiting: Mutex<VecDeque<TcpStream>>,
}

/// A connection to the front, no byte of it read yet.
pub struct Visit {
    /// The connection.
    pub stream: TcpStream,
}

/// A front that answers everybody at once.
pub struct AnsweringFront {
    /// Where it listens.
    pub address: SocketAddr,
    answered: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl FakeFront {
    /// Listens on a free port.
    pub fn listen() -> Self {
        Self::listen_on(Ipv4Addr::LOCALHOST.into())
    }

    /// Listens on a free port of that address.
    pub fn listen_on(ip: IpAddr) -> Self {
        let listener = TcpListener::bind((ip, 0)).unwrap();
        Self { address: listener.local_addr().unwrap(), listener, waiting: Mutex::default() }
    }

    /// The connection that begins with `start`.
    pub fn visit(&self, start: &[u8]) -> Visit {
        assert!(!start.is_empty(), "every visit begins with nothing");
        socket::wait_for("a visit of the front", DEADLINE, || {
            self.accept_all();
            let mut waiting = self.waiting.lock().unwrap();
            let position = waiting.iter().position(|stream| peek(stream, start.len()) == start)?;
            waiting.remove(position).map(|stream| Visit { stream })
        })
    }

    /// A connection that has sent nothing for a while. The proxy's own send something at once, at least in the first
    /// seconds.
    pub fn silent_visit(&self) -> Visit {
        let position = |streams: &VecDeque<TcpStream>| streams.iter().position(|stream| peek(stream, 1).is_empty());
        socket::wait_for("a silent visit of the front", DEADLINE, || {
            self.accept_all();
            position(&self.waiting.lock().unwrap())?;
            std::thread::sleep(Duration::from_millis(200));
            let mut waiting = self.waiting.lock().unwrap();
            let position = position(&waiting)?;
            waiting.remove(position).map(|stream| Visit { stream })
        })
    }

    /// How many connections begin with any of these, or have sent nothing at all.
    pub fn count_of(&self, starts: &[&[u8]]) -> usize {
        self.accept_all();
        let waiting = self.waiting.lock().unwrap();
        let counts = |stream: &&TcpStream| {
            let seen = peek(stream, starts.iter().map(|start| start.len()).max().unwrap_or(1));
            seen.is_empty() || starts.iter().any(|start| seen.starts_with(start))
        };
        waiting.iter().filter(counts).count()
    }

    /// Answers every visit with `answer` and closes, until the front is dropped. For strangers in numbers.
    pub fn answer_all(self, answer: &'static [u8]) -> AnsweringFront {
        let (stop, answered) = <(Arc<AtomicBool>, Arc<AtomicUsize>)>::default();
        let address = self.address;
        let thread = std::thread::spawn({
            let (stop, answered) = (stop.clone(), answered.clone());
            move || answer_until(&stop, &self.listener, answer, &answered)
        });
        AnsweringFront { address, answered, stop, thread: Some(thread) }
    }

    fn accept_all(&self) {
        while let Some(stream) = socket::accept(&self.listener, Duration::ZERO) {
            self.waiting.lock().unwrap().push_back(stream);
        }
    }
}

impl AnsweringFront {
    /// How many visits got their answer.
    pub fn answered(&self) -> usize {
        self.answered.load(Ordering::SeqCst)
    }
}

impl Drop for AnsweringFront {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let ended = self.thread.take().unwrap().join();
        if !std::thread::panicking() {
            ended.unwrap();
        }
    }
}

impl Visit {
    /// Fails unless exactly these bytes come next.
    pub fn expect(&mut self, wanted: &[u8]) {
        let got = socket::read_exactly(&mut self.stream, wanted.len()).unwrap_or_else(|error| panic!("front: {error}"));
        if got != wanted {
            let offset = got.iter().zip(wanted).take_while(|(a, b)| a == b).count();
            panic!("the front got a wrong byte at {offset}");
        }
    }

    /// Waits for the end; fails if a byte comes before it.
    pub fn expect_end(&mut self) -> End {
        let (bytes, end) = socket::read_to_end(&mut self.stream);
        assert_eq!(bytes.len(), 0, "bytes that the client did not send");
        end
    }

    /// Sends `bytes`.
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap_or_else(|error| panic!("front: {error}"));
    }

    /// Ends this direction and keeps the other one.
    pub fn half_close(&mut self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// Closes with a reset.
    pub fn reset(self) {
        socket::reset(self.stream);
    }
}

/// What has come of the first `len` bytes.
fn peek(stream: &TcpStream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    stream.set_nonblocking(true).unwrap();
    let count = stream.peek(&mut bytes).unwrap_or(0);
    stream.set_nonblocking(false).unwrap();
    bytes.truncate(count);
    bytes
}

fn answer_until(stop: &AtomicBool, listener: &TcpListener, answer: &'static [u8], answered: &Arc<AtomicUsize>) {
    while !stop.load(Ordering::SeqCst) {
        let Some(mut stream) = socket::accept(listener, Duration::from_millis(50)) else { continue };
        let answered = answered.clone();
        std::thread::spawn(move || {
            let first = socket::read_exactly(&mut stream, 1);
            if first.is_ok() && stream.write_all(answer).is_ok() {
                answered.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
}
