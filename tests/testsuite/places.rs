//! Whoever fills the strangers' places with connections of any kind keeps nobody out: newcomers find a place, clients
//! keep theirs, and it is the crowd that gives way.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Mutex;
use std::time::Duration;

use crate::support;
use crate::support::client::{Session, greeted_over, session};
use crate::support::crowd::patient_server;
use crate::support::dc::EchoDc;
use crate::support::hello::{Hello, Shape};
use crate::support::obfuscated2::PADDED;
use crate::support::proxy::{Proxy, Setup};
use crate::support::socket::{self, End};
use rustix::net::{AddressFamily, SocketType};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: front.example\r\n\r\n";
/// What `handshakes-per-ip` lets one address have.
const EACH: usize = 256;

/// A router of 64 MB: 392 places for strangers.
fn small_router(front: SocketAddr, dc: &EchoDc) -> Setup {
    Setup::new().front(front).dc(2, dc.address).set("memory", "7mib")
}

fn address_of(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 3, 1 + (number / EACH) as u8)
}

/// Strangers who ask the front for a page and get none.
fn fronted(proxy: &Proxy, count: usize, address: impl Fn(usize) -> Ipv4Addr) -> Vec<TcpStream> {
    let visit = |number| {
        let mut stranger = socket::connect_from(address(number), proxy.address);
        stranger.write_all(REQUEST).unwrap();
        stranger
    };
    (0..count).map(visit).collect()
}

/// Clients come in, and everybody who was there before goes on.
fn assert_served(proxy: &Proxy, clients: &mut [Session]) {
    for round in 0..20 {
        session(proxy.address, 2).ping(1000, round);
    }
    for (number, client) in clients.iter_mut().enumerate() {
        client.ping(1000, number as u64);
    }
}

#[test]
fn no_more_connections_wait_to_be_accepted_than_there_is_memory_for() {
    let dc = EchoDc::listen();
    let proxy = Setup::new().set("memory", "8MB").dc(2, dc.address).start();
    proxy.pause(true);
    let connect = |_| TcpStream::connect_timeout(&proxy.address, Duration::from_millis(500)).ok();
    let waiting: Vec<_> = (0..2000).map_while(connect).collect();
    proxy.pause(false);
    assert!((64..=300).contains(&waiting.len()), "{}", waiting.len());
    session(proxy.address, 2).ping(100, 1);
}

#[test]
fn visits_that_two_addresses_keep_open_at_the_front_keep_nobody_out() {
    let (dc, (front, _kept)) = (EchoDc::listen(), patient_server());
    let proxy = small_router(front, &dc).start();
    let mut before: Vec<_> = (0..3).map(|_| session(proxy.address, 2)).collect();
    let mut bystander = fronted(&proxy, 1, |_| Ipv4Addr::new(127, 9, 9, 9));
    let mut crowd = fronted(&proxy, 2 * EACH, address_of);
    assert_served(&proxy, &mut before);
    // Who gave way was ended as the front ends connections: in order. The others are still there.
    let ended = crowd.iter().filter(|stranger| socket::is_readable(*stranger, Duration::ZERO)).count();
    assert!((100..=300).contains(&ended), "{ended} gave way");
    let gone = crowd.iter_mut().find(|stranger| socket::is_readable(*stranger, Duration::ZERO)).unwrap();
    assert_eq!(socket::read_to_end(gone), (Vec::new(), End::Fin));
    assert!(!socket::is_readable(&bystander.pop().unwrap(), Duration::ZERO), "somebody else gave way");
    assert_eq!(proxy.log().matches("WARN strangers have all the places").count(), 1);
}

#[test]
fn visits_of_sixteen_networks_of_one_line_keep_nobody_out() {
    let (dc, (front, _kept)) = (EchoDc::listen(), patient_server());
    let proxy = small_router(front, &dc).set("proxy-protocol-listener", "true").start();
    let connect = |source: &str, first: &[u8]| {
        let mut stream = socket::connect(proxy.address);
        let header = format!("PROXY TCP6 {source} 2001:db8:ffff::1 40000 443\r\n");
        stream.write_all(&[header.as_bytes(), first].concat()).unwrap();
        stream
    };
    // A household with a few phones, and as many visits of each /64 of a /60.
    let household: Vec<_> = (0..30).map(|_| connect("2001:db8:1::1", REQUEST)).collect();
    let _crowd: Vec<_> =
        (0..16 * 40).map(|number| connect(&format!("2001:db8:0:{:x}::1", 0x10 + number % 16), REQUEST)).collect();
    for round in 0..20 {
        let stream = connect("2001:db8:2::1", b"");
        greeted_over(stream, &Hello::default()).unwrap().open(PADDED, 2).ping(1000, round);
    }
    assert!(household.iter().all(|stream| !socket::is_readable(stream, Duration::ZERO)), "a household gave way");
    assert!(proxy.log().contains("WARN proxy-protocol-listener believes everybody"), "{}", proxy.log());
}

#[test]
fn connections_without_a_proxy_header_keep_nobody_out() {
    let (dc, (front, _kept)) = (EchoDc::listen(), patient_server());
    let proxy = small_router(front, &dc)
        .set("proxy-protocol-listener", "true")
        .set("proxy-protocol-trusted", "127.0.0.0/8")
        .start();
    for round in 0..20 {
        // Again and again, for those without a header are given up after a while.
        let _headless: Vec<_> = (0..30 * (20 - round as usize)).map(|_| socket::connect(proxy.address)).collect();
        let mut stream = socket::connect(proxy.address);
        stream.write_all(b"PROXY TCP4 192.0.2.1 192.0.2.2 40000 443\r\n").unwrap();
        greeted_over(stream, &Hello::default()).unwrap().open(PADDED, 2).ping(1000, round);
    }
    assert!(!proxy.log().contains("believes everybody"), "{}", proxy.log());
}

#[test]
fn half_hellos_behind_one_address_keep_nobody_out_and_go_to_the_front() {
    let (dc, (front, kept)) = (EchoDc::listen(), patient_server());
    let proxy = Setup::new().front(front).dc(2, dc.address).start();
    let half = &Hello::default().sign().wire[..300];
    let open = |_| {
        let mut stranger = socket::connect(proxy.address);
        stranger.write_all(half).unwrap();
        stranger
    };
    let half_open: Vec<_> = (0..EACH + 10).map(open).collect();
    let mut clients: Vec<_> = (0..5).map(|_| session(proxy.address, 2)).collect();
    assert_served(&proxy, &mut clients);
    socket::wait_for("all of them at the front", support::DEADLINE, || {
        (kept.lock().unwrap().len() >= half_open.len()).then_some(())
    });
    assert!(half_open.iter().all(|stranger| !socket::is_readable(stranger, Duration::ZERO)), "one was closed");
}

/// How many of these have got exactly that.
fn with(kept: &Mutex<Vec<TcpStream>>, bytes: &[u8]) -> usize {
    let (kept, mut buffer) = (kept.lock().unwrap(), vec![0; bytes.len() + 1]);
    kept.iter().for_each(|stream| stream.set_nonblocking(true).unwrap());
    let mut has = |stream: &TcpStream| stream.peek(&mut buffer).is_ok_and(|count| &buffer[..count] == bytes);
    kept.iter().filter(|stream| has(stream)).count()
}

#[test]
fn a_foreign_hello_of_an_address_over_its_cap_reaches_the_front() {
    let (dc, (front, kept)) = (EchoDc::listen(), patient_server());
    // As long as the front has not answered our first look, hellos wait a while for their verdict.
    let proxy = Setup::new().front(front).dc(2, dc.address).set("handshakes-per-ip", "1").start();
    let hello = Hello { key: [0x11; 16], ..Hello::default() }.sign().wire;
    let mut stranger = socket::connect(proxy.address);
    stranger.write_all(&hello).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let _newcomer = socket::connect(proxy.address);
    socket::wait_for("the hello at the front", support::DEADLINE, || {
        assert!(!socket::is_readable(&stranger, Duration::ZERO), "it was closed");
        (with(&kept, &hello) == 1).then_some(())
    });
}

#[test]
fn a_clients_hello_in_two_packets_is_answered_however_many_half_hellos_there_are() {
    let (dc, (front, kept)) = (EchoDc::listen(), patient_server());
    let proxy = small_router(front, &dc).start();
    let hello = || Hello { shape: Shape::Browser, ..Hello::default() }.sign().wire;
    let half = &hello()[..1280];
    // As many as there is memory for.
    let half_open = |number| {
        let mut stranger = socket::connect_from(Ipv4Addr::new(127, 0, 3, 1 + (number % 2) as u8), proxy.address);
        stranger.write_all(half).unwrap();
        stranger
    };
    let mut crowd = Vec::new();
    for number in 0..358 {
        crowd.push(half_open(number));
        if crowd.len() % 25 == 0 || crowd.len() == 358 {
            socket::wait_for("all of them read", support::DEADLINE, || {
                (with(&kept, half) == crowd.len()).then_some(())
            });
        }
    }
    let hello = hello();
    let mut client = socket::connect(proxy.address);
    client.write_all(&hello[..1448]).unwrap();
    socket::wait_for("the first packet read", support::DEADLINE, || (with(&kept, &hello[..1448]) == 1).then_some(()));
    client.write_all(&hello[1448..]).unwrap();
    assert_eq!(socket::read_exactly(&mut client, 3).unwrap(), [0x16, 3, 3]);
    assert!(crowd.iter().all(|stranger| !socket::is_readable(stranger, Duration::ZERO)), "one was closed");
}

#[test]
fn hellos_of_16_kib_for_a_front_that_cannot_be_reached_take_a_bounded_part_of_the_memory() {
    let dc = EchoDc::listen();
    // The kernel drops what asks for a connection while the queue is full, and nobody empties it.
    let front = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&front, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    rustix::net::listen(&front, 0).unwrap();
    let front = std::net::TcpListener::from(front);
    let address = front.local_addr().unwrap();
    let _queue = TcpStream::connect(address).unwrap();
    let is_full = || TcpStream::connect_timeout(&address, Duration::from_millis(500)).is_err();
    assert!(is_full() || is_full(), "the front takes connections");
    let proxy = small_router(address, &dc).set("network.timeout.tcp", "5m").start();
    let hello = Hello { shape: Shape::Huge, ..Hello::default() };
    let hello = Hello { key: [0x11; 16], ..hello }.sign().wire;
    let visit = |number| {
        let mut stranger = socket::connect_from(Ipv4Addr::new(127, 0, 3, 1 + (number % 2) as u8), proxy.address);
        stranger.write_all(&hello).unwrap();
        stranger
    };
    let strangers: Vec<_> = (0..200).map(visit).collect();
    // The sixteenth of the memory holds 28.
    socket::wait_for("most of them to give way", support::DEADLINE, || {
        let gone = strangers.iter().filter(|stranger| socket::is_readable(*stranger, Duration::ZERO)).count();
        (gone >= 200 - 28).then_some(())
    });
    assert_served(&proxy, &mut []);
    assert!(strangers.iter().any(|stranger| !socket::is_readable(stranger, Duration::ZERO)), "all of them went");
}

#[test]
fn visitors_of_the_site_behind_one_address_keep_nobody_out() {
    let (dc, (front, _kept)) = (EchoDc::listen(), patient_server());
    let proxy = Setup::new().front(front).dc(2, dc.address).start();
    let visitors = fronted(&proxy, EACH + 44, |_| Ipv4Addr::LOCALHOST);
    assert_served(&proxy, &mut []);
    assert!(visitors.iter().all(|visitor| !socket::is_readable(visitor, Duration::ZERO)), "one was closed");
}

#[test]
fn an_address_over_its_cap_loses_its_oldest_if_the_owner_prefers_that() {
    let dc = EchoDc::listen();
    let proxy = Setup::new().dc(2, dc.address).set("handshakes-per-ip", "2").set("defense.reject", "close").start();
    let mut silent: Vec<_> = (0..2).map(|_| socket::connect(proxy.address)).collect();
    let other = socket::connect_from(Ipv4Addr::new(127, 0, 3, 9), proxy.address);
    session(proxy.address, 2).ping(1000, 1);
    assert_eq!(socket::read_to_end(&mut silent[0]), (Vec::new(), End::Fin));
    assert!(!socket::is_readable(&silent[1], Duration::ZERO) && !socket::is_readable(&other, Duration::ZERO));
}

#[test]
fn stalled_hellos_of_16_kib_take_a_bounded_part_of_the_memory() {
    let (dc, (front, kept)) = (EchoDc::listen(), patient_server());
    let proxy = small_router(front, &dc).start();
    let mut hello = Hello { shape: Shape::Huge, ..Hello::default() }.sign().wire;
    hello.truncate(15_900);
    let before = proxy.memory_kib();
    let mut stalled = Vec::new();
    // By and by: a front that is busy accepting hundreds at once refuses some.
    for number in 0..250 {
        let source = Ipv4Addr::new(127, 0, 4 + (number / 200) as u8, 1 + (number % 200) as u8);
        let mut stranger = socket::connect_from(source, proxy.address);
        stranger.write_all(&hello).unwrap();
        stalled.push(stranger);
        if stalled.len() % 25 == 0 {
            socket::wait_for("all of it at the front", support::DEADLINE, || {
                (with(&kept, &hello) >= stalled.len()).then_some(())
            });
        }
    }
    let grown = proxy.memory_kib() - before;
    assert!(grown < 4 << 10, "{} stalled hellos took {grown} KiB", stalled.len());
    assert!(stalled.iter().all(|stranger| !socket::is_readable(stranger, Duration::ZERO)), "one was closed");
    assert_served(&proxy, &mut []);
}

#[test]
fn recorded_hellos_that_are_answered_keep_nobody_out() {
    let (dc, (front, _kept)) = (EchoDc::listen(), patient_server());
    let proxy = Setup::new().front(front).dc(2, dc.address).set("concurrency", "40").start();
    let mut clients = vec![session(proxy.address, 2)];
    // As after a restart: nobody has seen them, each is answered, and nothing follows.
    let recorded = |number: u8| {
        let stream = socket::connect_from(Ipv4Addr::new(127, 0, 5, 1 + number), proxy.address);
        greeted_over(stream, &Hello::default()).ok()
    };
    let silent: Vec<_> = (0..60).map(recorded).collect();
    assert!(silent.iter().flatten().count() > 10, "nobody was answered");
    assert_served(&proxy, &mut clients);
    // Nor does an owner of recordings take the places of those that are to come.
    let mut more: Vec<_> = (0..29).map(|_| session(proxy.address, 2)).collect();
    assert_served(&proxy, &mut more);
}
