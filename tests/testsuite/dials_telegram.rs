//! What happens between a client's frame and its data centre.

use std::net::{Ipv4Addr, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

use crate::support;
use crate::support::client::{greeted, session};
use crate::support::dc::{BlackHole, EchoDc, FakeDc};
use crate::support::front::{FLIGHT, bytes, front_of_patience};
use crate::support::obfuscated2::PADDED;
use crate::support::proxy::{Proxy, Setup};
use crate::support::socket;

#[test]
fn unknown_dc_closes_the_connection() {
    let dc = FakeDc::listen();
    let proxy = Setup::new().dc(2, dc.address).start();
    for number in [6, 999, -999, 10_002, i16::MAX, i16::MIN] {
        session(proxy.address, number).download.expect_end();
    }
    dc.assert_undialled(Duration::ZERO);
}

#[test]
fn unknown_dc_falls_back_to_dc_2_where_that_is_allowed() {
    let dc = FakeDc::listen();
    let proxy = Setup::new().dc(2, dc.address).set("allow-fallback-on-unknown-dc", "true").start();
    for number in [999, -999, 10_002] {
        let mut client = session(proxy.address, number);
        let mut stream = dc.accept();
        assert_eq!(stream.dc, 2, "for {number}");
        stream.send(b"answer");
        assert_eq!(client.download.receive(6).unwrap(), b"answer");
    }
}

#[test]
fn refusing_dc_closes_the_connection() {
    let proxy = Setup::new().dc(2, socket::free_address()).start();
    session(proxy.address, 2).download.expect_end();
}

#[test]
fn second_address_is_tried_when_the_first_refuses() {
    let dc = EchoDc::listen();
    let refused = socket::free_address();
    for addresses in [[refused, dc.address], [dc.address, refused]] {
        let setup = addresses.iter().fold(Setup::new(), |setup, address| setup.dc(2, *address));
        let proxy = setup.start();
        for seed in 0..4 {
            session(proxy.address, 2).ping(100, seed);
        }
    }
    assert_eq!(dc.served(), 8);
}

#[test]
fn second_address_is_tried_when_the_first_does_not_answer() {
    let (hole, dc) = (BlackHole::listen(), EchoDc::listen());
    let setup = Setup::new().dc(2, hole.address).dc(2, dc.address).set("network.timeout.tcp", "2s");
    let proxy = setup.start();
    for seed in 0..3 {
        let started = Instant::now();
        session(proxy.address, 2).ping(100, seed);
        assert!(started.elapsed() < Duration::from_secs(6), "it took {:?}", started.elapsed());
    }
    assert_eq!(dc.served(), 3);
}

#[test]
fn dc_that_never_answers_closes_the_connection() {
    let hole = BlackHole::listen();
    let proxy = Setup::new().dc(2, hole.address).set("network.timeout.tcp", "1s").start();
    session(proxy.address, 2).download.expect_end();
}

#[test]
fn dc_that_answers_late_is_served() {
    let hole = BlackHole::listen();
    let proxy = Setup::new().dc(2, hole.address).start();
    let mut client = session(proxy.address, 2);
    client.upload.send(b"question");
    socket::assert_open_and_silent(&client.upload, Duration::from_millis(500));
    // The kernel repeats the attempt 1 s and 3 s after the first.
    let dc = hole.open();
    let mut stream = dc.accept();
    assert_eq!((stream.dc, stream.receive(8)), (2, b"question".to_vec()));
    stream.send(b"answer");
    assert_eq!(client.download.receive(6).unwrap(), b"answer");
}

#[test]
fn client_that_leaves_during_the_dial_leaves_nothing_behind() {
    let (hole, dc) = (BlackHole::listen(), EchoDc::listen());
    let setup = Setup::new().dc(1, dc.address).dc(2, hole.address).set("network.timeout.tcp", "60s");
    let proxy = setup.start();
    let mut other = session(proxy.address, 1);
    other.ping(100, 1);
    let before = proxy.open_files();
    let clients: Vec<_> = (0..20).map(|_| session(proxy.address, 2)).collect();
    socket::wait_for("20 dials", support::DEADLINE, || (proxy.open_files() >= before + 40).then_some(()));
    for (number, client) in clients.into_iter().enumerate() {
        if number % 2 == 0 { client.reset() } else { drop(client) }
    }
    proxy.wait_for_open_files(before + 2);
    other.ping(100, 2);
}

#[test]
fn dc_is_dialled_from_the_address_that_the_owner_wants() {
    let dc = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let proxy = Setup::new().dc(2, dc.local_addr().unwrap()).set("network.bind-ipv4", "127.9.8.7").start();
    let _client = session(proxy.address, 2);
    let stream = socket::accept(&dc, support::DEADLINE).unwrap();
    assert_eq!(stream.peer_addr().unwrap().ip(), Ipv4Addr::new(127, 9, 8, 7));
}

#[test]
fn frame_with_another_tag_closes_the_connection() {
    let dc = FakeDc::listen();
    let proxy = Setup::new().dc(2, dc.address).start();
    for tag in [[0; 4], [0xdd, 0xdd, 0xdd, 0xee], [0xcc; 4]] {
        let mut client = greeted(proxy.address).unwrap().open(tag, 2);
        // What a web server says that cannot read somebody's Finished.
        assert_eq!(client.download.next_record().unwrap().map(|alert| alert.len()), Some(19));
        client.download.expect_end();
    }
    dc.assert_undialled(Duration::ZERO);
}

/// Waits until the front's patience has been measured, or was none.
fn wait_for_patience(proxy: &Proxy, seconds: &str) {
    let line = format!("patience of the front seconds={seconds}");
    socket::wait_for(&line, Duration::from_secs(60), || proxy.log().contains(&line).then_some(()));
}

#[test]
fn client_without_a_frame_is_closed_when_the_front_would_close() {
    let (dc, front) = (FakeDc::listen(), front_of_patience(bytes(FLIGHT), Duration::from_secs(3)));
    let proxy = Setup::new().dc(2, dc.address).front(front).set("network.timeout.handshake", "1s").start();
    wait_for_patience(&proxy, "Some(3)");
    let started = Instant::now();
    let mut silent = greeted(proxy.address).unwrap();
    assert_eq!(socket::read_to_end(&mut silent.stream).0, b"");
    assert!(started.elapsed() > Duration::from_secs(2), "{:?}", started.elapsed());
    dc.assert_undialled(Duration::ZERO);
}

#[test]
fn front_without_tls_1_3_or_without_patience_shows_none() {
    let cases = [(b"no flight, but an answer".to_vec(), Duration::from_secs(2)), (bytes(FLIGHT), Duration::ZERO)];
    for (answer, patience) in cases {
        let proxy = Setup::new().front(front_of_patience(answer, patience)).start();
        wait_for_patience(&proxy, "None");
    }
}

#[test]
fn front_of_less_patience_than_clients_have_costs_none_its_time() {
    let (dc, front) = (EchoDc::listen(), front_of_patience(bytes(FLIGHT), Duration::from_secs(1)));
    let proxy = Setup::new().dc(2, dc.address).front(front).start();
    wait_for_patience(&proxy, "Some(1)");
    let client = greeted(proxy.address).unwrap();
    thread::sleep(Duration::from_millis(2500));
    client.open(PADDED, 2).ping(100, 1);
}

#[test]
fn client_may_pause_longer_than_the_handshake_limit_once_it_is_served() {
    let dc = EchoDc::listen();
    let proxy = Setup::new().dc(2, dc.address).set("network.timeout.handshake", "1s").start();
    let mut client = greeted(proxy.address).unwrap().open(PADDED, 2);
    client.ping(100, 1);
    socket::assert_open_and_silent(&client.upload, Duration::from_millis(2500));
    client.ping(100, 2);
}

#[test]
fn idle_connection_is_closed_at_the_time_limit() {
    let dc = FakeDc::listen();
    let proxy = Setup::new().dc(2, dc.address).set("network.timeout.idle", "1s").start();
    let mut client = session(proxy.address, 2);
    let mut stream = dc.accept();
    for _ in 0..5 {
        // One direction is enough to keep both alive.
        std::thread::sleep(Duration::from_millis(400));
        stream.send(b"tick");
        assert_eq!(client.download.receive(4).unwrap(), b"tick");
    }
    client.download.expect_end();
    stream.expect_end();
}
