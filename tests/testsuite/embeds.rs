//! The proxy as a library: inside another program, with an observer and a way of dialling of its own.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::support::client::session;
use crate::support::dc::EchoDc;
use crate::support::front::FakeFront;
use crate::support::{self, DEADLINE, HOST, KEY, socket};
use mtg::{
    Config, Connection, DcId, Dial, Dialled, Dialling, Event, Hooks, Observer, Outcome, Proxy, Route, Secret, Traffic,
};
use smol::channel::{Sender, bounded};
use smol::future::FutureExt as _;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: front.example\r\n\r\n";

/// Keeps all events.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<Event>>>);

impl Observer for Kept {
    fn observe(&self, event: &Event) {
        self.0.lock().unwrap().push(*event);
    }
}

/// Leads to the test's own servers, whatever is asked for.
struct Detour {
    dc: SocketAddr,
    front: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

/// What metrics and summary would name as the far end.
const FAR_END: &str = "192.0.2.1:443";

impl Detour {
    fn dial(&self, asked: String, to: SocketAddr) -> Dialling<'_> {
        self.asked.lock().unwrap().push(asked);
        Box::pin(async move {
            let stream = smol::unblock(move || TcpStream::connect(to)).await?;
            Ok::<_, io::Error>(Dialled { stream, address: FAR_END.parse().unwrap() })
        })
    }
}

impl Dial for Detour {
    fn telegram<'a>(&'a self, dc: DcId, addresses: &'a [SocketAddr]) -> Dialling<'a> {
        self.dial(format!("DC {dc}: {}", addresses.len()), self.dc)
    }

    fn front<'a>(&'a self, host: &'a str, port: u16) -> Dialling<'a> {
        self.dial(format!("{host}:{port}"), self.front)
    }
}

/// A proxy in a thread of its own until it is told to stop.
struct Embedded {
    address: SocketAddr,
    stop: Sender<()>,
    thread: thread::JoinHandle<()>,
}

fn embed(config: Config, hooks: Hooks) -> Embedded {
    let proxy = Proxy::with(config, hooks).unwrap();
    let address = proxy.local_addr().unwrap();
    let (stop, stopped) = bounded(1);
    let thread = thread::spawn(move || {
        smol::block_on(async {
            let stopped = async {
                stopped.recv().await.unwrap();
            };
            proxy.serve().or(stopped).await;
            proxy.shutdown().await;
        });
    });
    Embedded { address, stop, thread }
}

fn config() -> Config {
    let mut config = Config::new(Secret::new(KEY, HOST).unwrap(), "127.0.0.1:0".parse().unwrap());
    config.shutdown_grace = Duration::from_secs(5);
    config
}

#[test]
fn an_embedding_program_sees_everything_and_dials_itself() {
    let (dc, front, kept) = (EchoDc::listen(), FakeFront::listen(), Kept::default());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let dial = Detour { dc: dc.address, front: front.address, asked: asked.clone() };
    let hooks = Hooks { observer: Some(Arc::new(kept.clone())), dial: Some(Arc::new(dial)) };
    let proxy = embed(config(), hooks);

    let mut client = session(proxy.address, -4);
    client.ping(10_000, 1);
    drop(client);
    let mut stranger = socket::connect(proxy.address);
    stranger.write_all(REQUEST).unwrap();
    let mut visit = front.visit(REQUEST);
    visit.expect(REQUEST);
    visit.send(b"bye");
    drop(visit);
    assert_eq!(socket::read_to_end(&mut stranger).0, b"bye");
    drop(stranger);
    proxy.stop.send_blocking(()).unwrap();
    proxy.thread.join().unwrap();

    let mut stories: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    let mut totals: BTreeMap<u32, Traffic> = BTreeMap::new();
    let events = kept.0.lock().unwrap().clone();
    for event in events {
        let (connection, word): (Connection, _) = match event {
            Event::Started(connection) => (connection, "started".to_owned()),
            Event::Authenticated { connection, skew_secs } => {
                assert!(skew_secs.abs() < 5);
                (connection, "authenticated".to_owned())
            }
            Event::Fronting { connection, stranger } => (connection, stranger.as_str().to_owned()),
            Event::Connected(connection) => (connection, format!("{:?}", connection.route)),
            Event::Traffic { connection, traffic } => {
                let total = totals.entry(connection.id).or_default();
                total.from_client += traffic.from_client;
                total.to_client += traffic.to_client;
                continue;
            }
            Event::Ended { connection, outcome, traffic, .. } => {
                assert_eq!(totals.get(&connection.id), Some(&traffic), "the sum of what was told");
                assert!(connection.route != Route::Undecided && connection.client.ip().is_loopback());
                (connection, if outcome == Outcome::Served { "served" } else { outcome.as_str() }.to_owned())
            }
            other => panic!("{other:?}"),
        };
        stories.entry(connection.id).or_default().push(word);
    }
    let telegram = format!("Telegram {{ dc: DC -4, address: {FAR_END} }}");
    let stories: Vec<_> = stories.into_values().collect();
    assert_eq!(stories[0][..3], ["started".to_owned(), "authenticated".to_owned(), telegram]);
    assert_eq!(stories[1], ["started", "not_client_hello", "not_client_hello"]);
    assert_eq!((stories[0].len(), stories.len()), (4, 2));
    let sent = REQUEST.len() as u64;
    assert_eq!(totals.values().map(|total| total.to_client).collect::<Vec<_>>(), [10_000, 3]);
    assert_eq!(totals.values().map(|total| total.from_client).collect::<Vec<_>>(), [10_000, sent]);
    let asked = asked.lock().unwrap().clone();
    assert_eq!(asked.iter().filter(|what| what.starts_with("DC -4: ")).count(), 1, "{asked:?}");
    assert!(asked.iter().any(|what| what == "front.example:443"), "{asked:?}");
}

#[test]
fn an_embedded_proxy_takes_another_configuration() {
    let (dc, front) = (EchoDc::listen(), FakeFront::listen().answer_all(b"HTTP/1.1 400 Bad Request\r\n\r\n"));
    let dial = || Detour { dc: dc.address, front: front.address, asked: Arc::default() };
    let hooks = Hooks { dial: Some(Arc::new(dial())), ..Hooks::default() };
    let proxy = Proxy::with(config(), hooks).unwrap();
    let mut other = config();
    other.secret = Secret::new([9; 16], HOST).unwrap();
    other.concurrency = 7;
    assert_eq!(proxy.reload(other).unwrap().after_restart, ["concurrency"]);
    let address = proxy.local_addr().unwrap();
    let client = thread::spawn(move || support::client::greeted(address).is_err());
    let refused = smol::block_on(async {
        let over = async { smol::unblock(move || client.join().unwrap()).await };
        let serve = async {
            proxy.serve().await;
            false
        };
        let late = async {
            smol::Timer::after(DEADLINE).await;
            false
        };
        serve.or(over).or(late).await
    });
    assert!(refused, "a client with the old secret was served");
}
