//! The proxy keeps serving its clients whatever happens, and ends as it is told to.

use std::io::Write;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use crate::support::client::{Greeted, Session, greeted, greeted_over, session};
use crate::support::crowd::patient_server;
use crate::support::dc::{EchoDc, FakeDc};
use crate::support::front::FakeFront;
use crate::support::hello::Hello;
use crate::support::obfuscated2::PADDED;
use crate::support::pattern::Pattern;
use crate::support::proxy::{Proxy, Setup};
use crate::support::socket::{self, End};
use crate::support::{self, DEADLINE, random};

const MIB: u64 = 1 << 20;
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: front.example\r\n\r\n";

/// The time within which a connection that is not wanted has to be closed.
const AT_ONCE: Duration = Duration::from_secs(3);

fn is_closed_at_once(stream: &mut TcpStream) -> bool {
    let closed = socket::is_readable(stream, AT_ONCE);
    if closed {
        assert_eq!(socket::read_to_end(stream).0, b"", "bytes before the close");
    }
    closed
}

/// A served client, as soon as there is room for one.
fn session_when_possible(proxy: &Proxy) -> Session {
    socket::wait_for("a place for a good client", DEADLINE, || {
        let mut session = greeted(proxy.address).ok()?.open(PADDED, 2);
        session.try_ping(10, 1).is_ok().then_some(session)
    })
}

#[test]
fn authenticated_clients_do_not_count_as_handshakes() {
    let dc = EchoDc::listen();
    let proxy = Setup::new().dc(2, dc.address).set("handshakes-per-ip", "2").start();
    let mut clients: Vec<_> = (0..10)
        .map(|_| {
            // The ping shows that the one before has authenticated and left its place.
            let mut client = session(proxy.address, 2);
            client.ping(100, 1);
            client
        })
        .collect();
    clients.iter_mut().for_each(|client| client.ping(100, 2));
}

/// Whether whoever answers there has a value of that name.
fn shows_metric(metrics: SocketAddr, name: &str) -> bool {
    let Ok(mut stream) = TcpStream::connect(metrics) else { return false };
    let _ = stream.write_all(b"GET / HTTP/1.1\r\n\r\n");
    String::from_utf8_lossy(&socket::read_to_end(&mut stream).0).contains(&format!("\n{name} "))
}

#[test]
fn another_process_takes_over_where_the_port_is_shared() {
    let dc = EchoDc::listen();
    let metrics = socket::free_address();
    let setup = Setup::new().dc(2, dc.address).set("network.reuse-port", "true").set("shutdown-grace", "20s");
    let setup = setup.set("stats.prometheus.enabled", "true").set("stats.prometheus.bind-to", &metrics.to_string());
    let mut old = setup.start();
    let mut client = session(old.address, 2);
    client.ping(100, 1);
    let new = setup.set("stats.prometheus.metric-prefix", "new").spawn(old.address);
    socket::wait_for("the new process to listen", DEADLINE, || new.log().contains("listening").then_some(()));
    old.terminate();
    socket::wait_for("the old process to stop", DEADLINE, || old.log().contains("stopping").then_some(()));
    for seed in 0..10 {
        session_when_possible(&new).ping(100, seed);
    }
    // Two that answer by turns would look like one whose counters jump.
    socket::wait_for("the metrics of the new process alone", DEADLINE, || {
        (0..40).all(|_| shows_metric(metrics, "new_replay_attacks")).then_some(())
    });
    client.ping(100, 2);
    drop(client);
    let status = old.wait(DEADLINE);
    old.assert_ended_well(status);
}

#[test]
fn connection_above_the_concurrency_is_closed_at_once() {
    let dc = EchoDc::listen();
    let proxy = Setup::new().dc(2, dc.address).set("concurrency", "4").start();
    let mut clients: Vec<_> = (0..4)
        .map(|_| {
            let mut client = session(proxy.address, 2);
            client.ping(100, 1);
            client
        })
        .collect();
    assert!(is_closed_at_once(&mut socket::connect(proxy.address)), "the fifth connection is kept");
    clients.iter_mut().for_each(|client| client.ping(100, 2));
    clients.pop();
    session_when_possible(&proxy).ping(100, 3);
    clients.iter_mut().for_each(|client| client.ping(100, 4));
}

#[test]
fn strangers_take_at_most_half_of_the_places() {
    let dc = EchoDc::listen();
    let proxy = Setup::new().dc(2, dc.address).set("concurrency", "16").start();
    let strangers: Vec<_> =
        (1..=16).map(|host| socket::connect_from(Ipv4Addr::new(127, 0, 1, host), proxy.address)).collect();
    let closed = || strangers.iter().filter(|stream| socket::is_readable(*stream, Duration::ZERO)).count();
    socket::wait_for("half of the strangers to be closed", DEADLINE, || (closed() >= 8).then_some(()));
    assert_eq!(closed(), 8, "silent strangers that are closed");
    drop(strangers);
    session_when_possible(&proxy).ping(100, 1);
}

#[test]
fn lack_of_open_files_is_survived() {
    let dc = EchoDc::listen();
    let proxy = Setup::new().dc(2, dc.address).open_files(40).start();
    let mut client = session(proxy.address, 2);
    client.ping(100, 1);
    let mut strangers: Vec<_> = (0..100).map(|_| socket::connect(proxy.address)).collect();
    for stranger in &mut strangers {
        // The proxy may have closed it already.
        let _ = stranger.write_all(&[0x16]);
    }
    thread::sleep(Duration::from_secs(1));
    client.ping(100, 2);
    drop(strangers);
    session_when_possible(&proxy).ping(100, 3);
    client.ping(100, 4);
}

#[test]
fn two_thousand_mixed_connections_leave_no_file_open() {
    let (dc, front) = (EchoDc::listen(), FakeFront::listen().answer_all(b"HTTP/1.1 400 Bad Request\r\n\r\n"));
    let proxy = Setup::new().front(front.address).dc(2, dc.address).set("log-level", "warn").start();
    mixed_connections(&proxy, 16);
    thread::sleep(Duration::from_secs(1));
    let (before, memory) = (proxy.open_files(), proxy.memory_kib());
    for _ in 0..40 {
        mixed_connections(&proxy, 50);
    }
    proxy.wait_for_open_files(before + 2);
    let growth = proxy.memory_kib().saturating_sub(memory);
    assert!(growth < 4 * 1024, "the proxy grew by {growth} KiB");
    assert!(dc.served() >= 400 && front.answered() >= 1000, "{} served, {} fronted", dc.served(), front.answered());
    session(proxy.address, 2).ping(100, 1);
}

/// Opens `count` connections of eight kinds at the same time and closes them in different ways.
fn mixed_connections(proxy: &Proxy, count: usize) {
    let greeted_as = |hello: &Hello| greeted_over(socket::connect(proxy.address), hello);
    let mut open: Vec<TcpStream> = Vec::new();
    let mut clients: Vec<Session> = Vec::new();
    let mut early: Vec<Greeted> = Vec::new();
    for number in 0..count {
        let sent = match number % 8 {
            0 => Vec::new(),
            1 => REQUEST.to_vec(),
            2 => random::<300>().map(|byte| byte | 0x80).to_vec(),
            3 => Hello { key: random(), ..Hello::default() }.sign().wire,
            4 => Hello { clock_offset_secs: 9000, ..Hello::default() }.sign().wire,
            5 => {
                early.push(greeted_as(&Hello::default()).unwrap());
                continue;
            }
            _ => {
                clients.push(session(proxy.address, 2));
                continue;
            }
        };
        let mut stream = socket::connect(proxy.address);
        stream.write_all(&sent).unwrap();
        open.push(stream);
    }
    for (number, mut stream) in open.into_iter().enumerate() {
        // The silent ones leave first; the others wait for the front's answer.
        if number % 5 != 0 {
            assert!(socket::read_exactly(&mut stream, 12).is_ok(), "no answer of the front");
        }
        if number % 2 == 0 { socket::reset(stream) } else { drop(stream) }
    }
    for (number, mut client) in clients.into_iter().enumerate() {
        client.ping(500, number as u64);
        if number % 2 == 0 { client.reset() } else { drop(client) }
    }
}

#[test]
fn front_that_is_the_proxy_itself_makes_no_loop() {
    let dc = EchoDc::listen();
    let proxy = Setup::new().dc(2, dc.address).set("domain-fronting.port", "PORT").start();
    thread::sleep(Duration::from_secs(1));
    let before = proxy.open_files();
    let mut strangers: Vec<_> = (0..3).map(|_| socket::connect(proxy.address)).collect();
    strangers.iter_mut().for_each(|stream| stream.write_all(REQUEST).unwrap());
    strangers.iter_mut().for_each(|stream| assert_eq!(socket::read_to_end(stream).0, b""));
    proxy.wait_for_open_files(before + 2);
    session(proxy.address, 2).ping(100, 1);
}

/// Passes every connection to `listener` on to `to`.
fn route(listener: TcpListener, to: SocketAddr) {
    thread::spawn(move || {
        for client in listener.incoming() {
            let (client, server) = (client.unwrap(), socket::connect(to));
            for (mut from, mut into) in [(client.try_clone(), server.try_clone()), (Ok(server), Ok(client))]
                .map(|(from, into)| (from.unwrap(), into.unwrap()))
            {
                thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut into);
                    let _ = into.shutdown(Shutdown::Both);
                });
            }
        }
    });
}

#[test]
fn front_that_leads_back_through_a_router_is_refused() {
    let (dc, router) = (EchoDc::listen(), TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    let proxy = Setup::new().front(router.local_addr().unwrap()).dc(2, dc.address).start();
    route(router, proxy.address);
    let warned = || proxy.log().contains("leads back to this proxy").then_some(());
    socket::wait_for("a warning about the loop", Duration::from_secs(30), warned);
    let mut stranger = socket::connect(proxy.address);
    stranger.write_all(REQUEST).unwrap();
    assert_eq!(socket::read_to_end(&mut stranger), (Vec::new(), End::Reset));
    // The hellos with which the proxy asks the front, in both directions, and no more.
    proxy.wait_for_open_files(30);
    session(proxy.address, 2).ping(100, 1);
    assert_eq!(proxy.log().matches("WARN").count(), 1, "{}", proxy.log());
}

/// Where visitors come from our own host, one may have the port of one of our own connections by chance.
#[test]
fn visitor_with_a_port_of_our_own_makes_no_loop_of_a_front_that_is_mute() {
    let (dc, (front, kept)) = (EchoDc::listen(), patient_server());
    let proxy = Setup::new().front(front).dc(2, dc.address).set("proxy-protocol-listener", "true").start();
    let visit = |port: u16| {
        let mut stream = socket::connect(proxy.address);
        let header = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {port} 443\r\n");
        stream.write_all(&[header.as_bytes(), REQUEST].concat()).unwrap();
        stream
    };
    let _first = visit(1);
    let own_end = socket::wait_for("a connection of ours", support::DEADLINE, || {
        let is_first = |stream: &&TcpStream| stream.peek(&mut [0; 1000]).is_ok_and(|count| count == REQUEST.len());
        kept.lock().unwrap().iter().find(is_first).map(|stream| stream.peer_addr().unwrap())
    });
    let mut second = visit(own_end.port());
    // Until the proxy has asked the front in vain.
    assert!(!socket::is_readable(&second, Duration::from_secs(12)), "{:?}", socket::read_to_end(&mut second));
    assert!(!proxy.log().contains("leads back"), "{}", proxy.log());
}

#[test]
fn strangers_write_nothing_to_the_log() {
    let front = FakeFront::listen().answer_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    let dc = EchoDc::listen();
    let proxy = Setup::new().front(front.address).dc(2, dc.address).set("log-level", "info").start();
    mixed_connections(&proxy, 8);
    thread::sleep(Duration::from_secs(1));
    let before = proxy.log();
    for _ in 0..5 {
        mixed_connections(&proxy, 8);
    }
    thread::sleep(Duration::from_secs(1));
    let (log, kept) = (proxy.log(), before.len());
    assert_eq!(&log[kept..], "", "log lines that strangers caused");
}

#[test]
fn secret_is_never_logged() {
    let (dc, front) = (EchoDc::listen(), FakeFront::listen());
    let proxy = Setup::new().front(front.address).dc(2, dc.address).start();
    session(proxy.address, 2).ping(100, 1);
    socket::connect(proxy.address).write_all(REQUEST).unwrap();
    let _visit = front.visit(REQUEST);
    let log = socket::wait_for("a line of the log", DEADLINE, || Some(proxy.log()).filter(|log| !log.is_empty()));
    assert!(!log.contains(&support::hex(&support::KEY)), "the key is in the log");
    assert!(!log.contains("AAECAwQFBgcICQoLDA0ODw"), "the key is in the log, in base64");
}

#[test]
fn running_download_is_finished_before_the_end() {
    let dc = FakeDc::listen();
    let mut proxy = Setup::new().dc(2, dc.address).set("shutdown-grace", "20s").start();
    let mut client = session(proxy.address, 2);
    let mut stream = dc.accept();
    let mut sent = Pattern::new(1);
    let mut received = Pattern::new(1);
    stream.send_pattern(&mut sent, 100_000);
    received.expect(&client.download.receive(100_000).unwrap());
    proxy.terminate();
    socket::wait_for("the proxy to stop listening", DEADLINE, || TcpStream::connect(proxy.address).err());
    let sender = thread::spawn(move || {
        stream.send_pattern(&mut sent, 4 * MIB - 100_000);
        stream.half_close();
        stream
    });
    client.download.expect_to_end(&mut received, 4 * MIB);
    drop(client);
    drop(sender.join().unwrap());
    let status = proxy.wait(Duration::from_secs(10));
    proxy.assert_ended_well(status);
}

#[test]
fn grace_limits_how_long_the_end_takes() {
    let dc = FakeDc::listen();
    let mut proxy = Setup::new().dc(2, dc.address).set("shutdown-grace", "1s").start();
    let mut client = session(proxy.address, 2);
    let _stream = dc.accept();
    proxy.terminate();
    let status = proxy.wait(Duration::from_secs(8));
    proxy.assert_ended_well(status);
    client.download.expect_end();
}

#[test]
fn second_sigterm_ends_at_once() {
    let dc = FakeDc::listen();
    let mut proxy = Setup::new().dc(2, dc.address).set("shutdown-grace", "60s").start();
    let _client = session(proxy.address, 2);
    let _stream = dc.accept();
    proxy.terminate();
    socket::wait_for("the proxy to stop listening", DEADLINE, || TcpStream::connect(proxy.address).err());
    proxy.terminate();
    proxy.wait(Duration::from_secs(5));
    assert!(!proxy.log().contains("panicked"));
}

#[test]
fn port_in_use_is_an_error() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut proxy = Setup::new().spawn(taken.local_addr().unwrap());
    let status = proxy.wait(DEADLINE);
    assert_eq!(status.code(), Some(1));
    let said = socket::wait_for("an error", AT_ONCE, || Some(proxy.log()).filter(|log| log.ends_with('\n')));
    let error = format!("mtg: error: cannot listen on {}", taken.local_addr().unwrap());
    assert!(said.lines().any(|line| line.starts_with(&error)), "{said}");
}
