//! A SOCKS5 proxy whose mood the test sets.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::socket;

/// What the proxy does with whoever connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// It connects, and relays with half-close.
    Good,
    /// It takes connections and never says a word.
    Silent,
    /// It takes the request and never answers it.
    Stuck,
    /// It answers every request with this code.
    Refusing(u8),
    /// It has no IPv6: a request for that is answered with this code, success included, or not at all; then it ends the
    /// connection.
    WithoutIpv6(Option<u8>),
    /// The same, but it says success and resets the connection.
    ResetsIpv6,
}

/// A listener on loopback. Dropping it ends its listening, not what it relays.
pub struct FakeSocks5 {
    /// Where it listens.
    pub address: SocketAddr,
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

struct State {
    mood: Mutex<Mood>,
    login: Option<(String, String)>,
    accepted: Mutex<Vec<TcpStream>>,
    targets: Mutex<Vec<String>>,
    stop: AtomicBool,
}

impl FakeSocks5 {
    /// A proxy for everybody.
    pub fn listen(mood: Mood) -> Self {
        Self::start(mood, None)
    }

    /// A proxy for who knows user name and password.
    pub fn with_login(user: &str, password: &str) -> Self {
        Self::start(Mood::Good, Some((user.to_owned(), password.to_owned())))
    }

    /// The value of `network.proxies` that leads here; `login` is empty or ends with an `@`.
    pub fn url(&self, login: &str) -> String {
        format!("socks5://{login}{}", self.address)
    }

    /// Changes what happens to those who come from now on.
    pub fn set_mood(&self, mood: Mood) {
        *self.state.mood.lock().unwrap() = mood;
    }

    /// How many connections came.
    pub fn accepted(&self) -> usize {
        self.state.accepted.lock().unwrap().len()
    }

    /// What was asked for, one after the other.
    pub fn targets(&self) -> Vec<String> {
        self.state.targets.lock().unwrap().clone()
    }

    fn start(mood: Mood, login: Option<(String, String)>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            mood: Mutex::new(mood),
            login,
            accepted: Mutex::default(),
            targets: Mutex::default(),
            stop: AtomicBool::new(false),
        });
        let thread = std::thread::spawn({
            let state = state.clone();
            move || serve_until_stopped(&state, &listener)
        });
        Self { address, state, thread: Some(thread) }
    }
}

impl Drop for FakeSocks5 {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::SeqCst);
        let ended = self.thread.take().unwrap().join();
        if !std::thread::panicking() {
            ended.unwrap();
        }
    }
}

fn serve_until_stopped(state: &Arc<State>, listener: &TcpListener) {
    while !state.stop.load(Ordering::SeqCst) {
        let Some(stream) = socket::accept(listener, Duration::from_millis(50)) else { continue };
        // This handle keeps silent connections open.
        state.accepted.lock().unwrap().push(stream.try_clone().unwrap());
        let mood = *state.mood.lock().unwrap();
        let state = state.clone();
        std::thread::spawn(move || {
            let accepted = stream.try_clone().unwrap();
            if mood != Mood::Silent && talk(&state, mood, stream).is_err() {
                let _ = accepted.shutdown(Shutdown::Both);
            }
        });
    }
}

/// An error ends the connection; clients that leave are none of the proxy's business.
fn talk(state: &State, mood: Mood, mut stream: TcpStream) -> Result<(), String> {
    let greeting = socket::read_exactly(&mut stream, 2)?;
    assert_eq!(greeting[0], 5, "the version of the greeting");
    let methods = socket::read_exactly(&mut stream, greeting[1].into())?;
    let method = if state.login.is_some() { 2 } else { 0 };
    if !methods.contains(&method) {
        return send(&mut stream, &[5, 0xff]).and(Err("no method".to_owned()));
    }
    send(&mut stream, &[5, method])?;
    if let Some(wanted) = &state.login {
        assert_eq!(socket::read_exactly(&mut stream, 1)?, [1], "the version of the login");
        let told = (text(&mut stream)?, text(&mut stream)?);
        if told != *wanted {
            return send(&mut stream, &[1, 1]).and(Err("bad login".to_owned()));
        }
        send(&mut stream, &[1, 0])?;
    }
    assert_eq!(socket::read_exactly(&mut stream, 3)?, [5, 1, 0], "the start of the request");
    let target = target(&mut stream)?;
    state.targets.lock().unwrap().push(target.clone());
    let reply = |code| [5, code, 0, 1, 0, 0, 0, 0, 0, 0];
    match mood {
        Mood::Stuck => return Ok(()),
        Mood::Refusing(code) => return send(&mut stream, &reply(code)).and(Err("refused".to_owned())),
        Mood::WithoutIpv6(code) if target.starts_with('[') => {
            return code.map_or(Ok(()), |code| send(&mut stream, &reply(code))).and(Err("no IPv6".to_owned()));
        }
        Mood::ResetsIpv6 if target.starts_with('[') => {
            send(&mut stream, &reply(0))?;
            // Unlike a close with linger, this resets although there are other handles.
            return rustix::net::connect_unspec(&stream).map_err(|error| error.to_string());
        }
        Mood::Good | Mood::Silent | Mood::WithoutIpv6(_) | Mood::ResetsIpv6 => {}
    }
    match TcpStream::connect(&target) {
        Ok(remote) => send(&mut stream, &reply(0)).map(|()| relay(stream, remote)),
        Err(_) => send(&mut stream, &reply(5)).and(Err("refused there".to_owned())),
    }
}

fn send(stream: &mut TcpStream, bytes: &[u8]) -> Result<(), String> {
    stream.write_all(bytes).map_err(|error| error.to_string())
}

fn text(stream: &mut TcpStream) -> Result<String, String> {
    let length = socket::read_exactly(stream, 1)?[0];
    String::from_utf8(socket::read_exactly(stream, length.into())?).map_err(|error| error.to_string())
}

fn target(stream: &mut TcpStream) -> Result<String, String> {
    let host = match socket::read_exactly(stream, 1)?[0] {
        1 => IpAddr::from(Ipv4Addr::from(<[u8; 4]>::try_from(socket::read_exactly(stream, 4)?).unwrap())).to_string(),
        3 => text(stream)?,
        4 => format!("[{}]", Ipv6Addr::from(<[u8; 16]>::try_from(socket::read_exactly(stream, 16)?).unwrap())),
        other => panic!("address type {other}"),
    };
    let port = socket::read_exactly(stream, 2)?;
    Ok(format!("{host}:{}", u16::from_be_bytes([port[0], port[1]])))
}

fn relay(client: TcpStream, remote: TcpStream) {
    let (from_client, from_remote) = (client.try_clone().unwrap(), remote.try_clone().unwrap());
    let upload = std::thread::spawn(move || pump(from_client, remote));
    pump(from_remote, client);
    upload.join().unwrap();
}

/// Passes bytes on until the end, and then the end.
fn pump(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = vec![0; 0x4000];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
