//! Behind a load balancer the client's address is the one in the PROXY header, and the front can be told of it.

use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::support;
use crate::support::client::{Greeted, greet, greeted_over};
use crate::support::dc::EchoDc;
use crate::support::front::FakeFront;
use crate::support::hello::{Hello, Shape};
use crate::support::obfuscated2::PADDED;
use crate::support::proxy::{Proxy, Setup};
use crate::support::socket::{self, End};

const CLIENT: &str = "192.0.2.1:54321";
const SERVICE: &str = "203.0.113.7:443";
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: front.example\r\n\r\n";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fn v1(client: &str) -> Vec<u8> {
    let (from, to): (SocketAddr, SocketAddr) = (client.parse().unwrap(), SERVICE.parse().unwrap());
    format!("PROXY TCP4 {} {} {} {}\r\n", from.ip(), to.ip(), from.port(), to.port()).into_bytes()
}

/// A header with one TLV at its end.
fn v2(client: &str) -> Vec<u8> {
    v2_between(client.parse().unwrap(), SERVICE.parse().unwrap(), b"\x04\x00\x03abc")
}

fn v2_between(from: SocketAddr, to: SocketAddr, tlvs: &[u8]) -> Vec<u8> {
    let mut addresses = Vec::new();
    let family = match (from, to) {
        (SocketAddr::V4(from), SocketAddr::V4(to)) => {
            addresses.extend([from.ip().octets(), to.ip().octets()].concat());
            0x11
        }
        (SocketAddr::V6(from), SocketAddr::V6(to)) => {
            addresses.extend([from.ip().octets(), to.ip().octets()].concat());
            0x21
        }
        _ => panic!("one family only"),
    };
    addresses.extend(from.port().to_be_bytes());
    addresses.extend(to.port().to_be_bytes());
    v2_raw(0x21, family, &[&addresses, tlvs].concat())
}

fn v2_raw(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    [SIGNATURE, &[command, family], &(rest.len() as u16).to_be_bytes(), rest].concat()
}

/// A proxy that requires the header, and a DC behind it.
fn behind_balancer(dc: &EchoDc) -> Setup {
    Setup::new().dc(2, dc.address).set("proxy-protocol-listener", "true")
}

fn connect_with(proxy: &Proxy, header: &[u8]) -> TcpStream {
    let mut stream = socket::connect(proxy.address);
    stream.write_all(header).unwrap();
    stream
}

fn greeted_with(proxy: &Proxy, header: &[u8]) -> Result<Greeted, String> {
    greeted_over(connect_with(proxy, header), &Hello::default())
}

fn ping_with(proxy: &Proxy, header: &[u8]) {
    greeted_with(proxy, header).unwrap().open(PADDED, 2).ping(1000, 1);
}

/// Waits for the line of a connection's end.
fn wait_for_end(proxy: &Proxy, ip: &str, reason: &str) {
    let (ip, reason) = (format!(" ip={ip} "), format!(" reason={reason}"));
    socket::wait_for(&format!("{ip}{reason}"), support::DEADLINE, || {
        proxy.log().lines().any(|line| line.contains(&ip) && line.contains(&reason)).then_some(())
    });
}

#[test]
fn clients_address_is_the_one_in_the_header() {
    let dc = EchoDc::listen();
    let proxy = behind_balancer(&dc).start();
    ping_with(&proxy, &v1("192.0.2.11:1000"));
    ping_with(&proxy, &v2("192.0.2.12:1000"));
    ping_with(&proxy, &v2_between("[2001:db8::13]:1000".parse().unwrap(), "[::1]:443".parse().unwrap(), &[]));
    for ip in ["192.0.2.11", "192.0.2.12", "2001:db8::13"] {
        wait_for_end(&proxy, ip, "served");
    }
    assert!(!proxy.log().contains("ip=127.0.0.1"), "{}", proxy.log());
}

#[test]
fn header_without_a_clients_address_leaves_that_of_the_socket() {
    let dc = EchoDc::listen();
    let proxy = behind_balancer(&dc).start();
    let headers = [b"PROXY UNKNOWN\r\n".to_vec(), v2_raw(0x20, 0x00, &[]), v2_raw(0x21, 0x00, &[])];
    for header in &headers {
        ping_with(&proxy, header);
    }
    let served = || proxy.log().lines().filter(|line| line.contains("ip=127.0.0.1") && line.contains("served")).count();
    socket::wait_for("three clients from the balancer", support::DEADLINE, || (served() == 3).then_some(()));
}

#[test]
fn header_and_hello_may_come_in_any_pieces() {
    let dc = EchoDc::listen();
    let proxy = behind_balancer(&dc).start();
    for header in [v1(CLIENT), v2(CLIENT)] {
        let hello = Hello::default().sign();
        let mut whole = socket::connect(proxy.address);
        whole.write_all(&[&header[..], &hello.wire].concat()).unwrap();
        greet(whole, &hello, &support::KEY).unwrap().open(PADDED, 2).ping(1000, 1);

        let hello = Hello::default().sign();
        let mut pieces = socket::connect(proxy.address);
        for piece in [&header[..], &hello.wire].concat().chunks(7).take(20) {
            pieces.write_all(piece).unwrap();
            std::thread::sleep(Duration::from_millis(2));
        }
        pieces.write_all(&[&header[..], &hello.wire].concat()[140..]).unwrap();
        greet(pieces, &hello, &support::KEY).unwrap().open(PADDED, 2).ping(1000, 1);
    }
}

#[test]
fn connection_without_a_header_is_closed() {
    let (dc, front) = (EchoDc::listen(), FakeFront::listen());
    let proxy = behind_balancer(&dc).front(front.address).start();
    let hello = Hello { shape: Shape::Browser, ..Hello::default() }.sign();
    for start in [REQUEST, &hello.wire, b"PROXY TCP4 nonsense\r\n", &SIGNATURE[..11]] {
        let mut stream = connect_with(&proxy, start);
        // What is no header at all may have been closed by now.
        let _ = stream.shutdown(Shutdown::Write);
        assert_eq!(socket::read_to_end(&mut stream).0, b"");
    }
    wait_for_end(&proxy, "127.0.0.1", "bad_proxy_header");
    assert_eq!(front.count_of(&[b"GET", &hello.wire[..40], b"PROXY", b"\r\n"]), 0);
    ping_with(&proxy, &v2(CLIENT));
}

#[test]
fn families_other_than_tcp_are_closed_without_harm() {
    let dc = EchoDc::listen();
    let proxy = behind_balancer(&dc).start();
    for family in [0x12, 0x22, 0x31, 0x32, 0x10, 0x20] {
        let mut stream = connect_with(&proxy, &v2_raw(0x21, family, &[1; 216]));
        assert_eq!(socket::read_to_end(&mut stream).0, b"", "family {family:02x}");
    }
    ping_with(&proxy, &v2(CLIENT));
}

#[test]
fn silent_balancer_is_closed_after_five_seconds_and_holds_nobody_up() {
    let dc = EchoDc::listen();
    let proxy = behind_balancer(&dc).start();
    let started = Instant::now();
    let mut silent: Vec<_> = (0..20).map(|_| socket::connect(proxy.address)).collect();
    silent.push(connect_with(&proxy, &v2(CLIENT)[..20]));
    ping_with(&proxy, &v1(CLIENT));
    assert!(started.elapsed() < Duration::from_secs(4), "a client waited {:?}", started.elapsed());
    for stream in &mut silent {
        assert_eq!(socket::read_to_end(stream).0, b"");
    }
    assert!(started.elapsed() > Duration::from_secs(4), "closed after {:?}", started.elapsed());
}

#[test]
fn balancer_that_is_not_trusted_is_closed() {
    let dc = EchoDc::listen();
    let proxy = behind_balancer(&dc).set("proxy-protocol-trusted", "127.7.0.0/16").start();
    let from = |source: [u8; 4]| {
        let mut stream = socket::connect_from(Ipv4Addr::from(source), proxy.address);
        // The proxy may have closed already.
        let _ = stream.write_all(&v2(CLIENT));
        stream
    };
    greeted_over(from([127, 7, 1, 1]), &Hello::default()).unwrap().open(PADDED, 2).ping(1000, 1);
    assert_eq!(socket::read_to_end(&mut from([127, 8, 1, 1])).0, b"");
    wait_for_end(&proxy, "127.8.1.1", "untrusted_balancer");
}

#[test]
fn each_client_behind_a_balancer_has_its_own_share_of_places() {
    let (dc, front) = (EchoDc::listen(), FakeFront::listen());
    let proxy =
        behind_balancer(&dc).front(front.address).set("handshakes-per-ip", "2").set("defense.reject", "close").start();
    // Until its header is read, a connection is the balancer's; once the front sees it, it is the client's.
    let silent = |port| (connect_with(&proxy, &v2(&format!("192.0.2.1:{port}"))), front.silent_visit());
    let mut streams: Vec<_> = (1..=2).map(silent).collect();
    let _last = connect_with(&proxy, &v2("192.0.2.1:3"));
    assert_eq!(socket::read_to_end(&mut streams[0].0), (Vec::new(), End::Fin));
    wait_for_end(&proxy, "192.0.2.1", "address_limited");
    assert!(!socket::is_readable(&streams[1].0, Duration::ZERO), "the younger one was closed");
    assert_eq!(proxy.log().matches("reason=address_limited").count(), 1);
    for last in 2..10 {
        ping_with(&proxy, &v2(&format!("192.0.2.{last}:1000")));
    }
}

#[test]
fn front_gets_what_follows_the_header_and_nothing_of_it() {
    let front = FakeFront::listen();
    let proxy = Setup::new().front(front.address).set("proxy-protocol-listener", "true").start();
    let hello = Hello { key: support::random(), shape: Shape::Browser, ..Hello::default() }.sign();
    for (header, sent) in [(v1(CLIENT), REQUEST), (v2(CLIENT), &hello.wire[..])] {
        let mut stream = connect_with(&proxy, &header);
        stream.write_all(sent).unwrap();
        let mut visit = front.visit(&sent[..sent.len().min(40)]);
        visit.expect(sent);
        visit.send(b"answer");
        assert_eq!(socket::read_exactly(&mut stream, 6).unwrap(), b"answer");
    }
}

#[test]
fn front_is_told_who_visits_and_where() {
    let front = FakeFront::listen();
    let setup = Setup::new().front(front.address).set("domain-fronting.proxy-protocol", "true");

    let proxy = setup.start();
    let mut stream = connect_with(&proxy, REQUEST);
    let header = v2_between(stream.local_addr().unwrap(), proxy.address, &[]);
    let mut visit = front.visit(&header);
    visit.expect(&[&header, REQUEST].concat());
    visit.send(b"answer");
    assert_eq!(socket::read_exactly(&mut stream, 6).unwrap(), b"answer");

    let behind_balancer = setup.set("proxy-protocol-listener", "true").start();
    let header = v2_between(CLIENT.parse().unwrap(), SERVICE.parse().unwrap(), &[]);
    let _stream = connect_with(&behind_balancer, &[&v1(CLIENT), REQUEST].concat());
    front.visit(&header).expect(&[&header, REQUEST].concat());
}

#[test]
fn front_on_ipv6_is_told_of_an_ipv4_visitor() {
    let front = FakeFront::listen_on(Ipv6Addr::LOCALHOST.into());
    let setup = Setup::new().front(front.address).set("domain-fronting.proxy-protocol", "true");
    let proxy = setup.start();
    let stream = connect_with(&proxy, REQUEST);
    let header = v2_between(stream.local_addr().unwrap(), proxy.address, &[]);
    front.visit(&header).expect(&[&header, REQUEST].concat());
}
