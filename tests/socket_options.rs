//! What the owner may set of the sockets, seen from their other ends.

mod support;

use std::io::Write;
use std::net::SocketAddr;

use socket2::SockRef;
use support::client::session;
use support::dc::EchoDc;
use support::hello::Hello;
use support::proxy::Setup;
use support::{DEADLINE, socket};

const WARNING: &str = "WARN connections to Telegram have no mark";

#[test]
fn client_sends_small_segments_where_the_owner_wants_them() {
    let dc = EchoDc::listen();
    let setup = Setup::new().dc(2, dc.address);
    let (usual, small) = (setup.start(), setup.set("network.client-mss", "536").start());
    let mss = |proxy| SockRef::from(&socket::connect(proxy)).tcp_mss().unwrap();
    assert!(mss(usual.address) > 536);
    assert!((1..=536).contains(&mss(small.address)));
    session(small.address, 2).ping(100_000, 1);
}

#[test]
fn marks_that_cannot_be_set_are_warned_of_and_clients_are_served() {
    let dc = EchoDc::listen();
    let proxy = Setup::new().dc(2, dc.address).set("network.mark", "0x64").without_marks().start();
    session(proxy.address, 2).ping(100, 1);
    let log = proxy.log();
    assert!(log.contains(WARNING) && log.contains("CAP_NET_ADMIN mark=0x64 "), "{log}");
    assert_eq!(log.matches("option=SO_MARK").count(), 1, "{log}");
}

#[test]
fn marks_that_can_be_set_are_not_warned_of() {
    let dc = EchoDc::listen();
    let proxy = Setup::new().dc(2, dc.address).set("network.mark", "100").start();
    session(proxy.address, 2).ping(100, 1);
    let probe = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let may_mark = SockRef::from(&probe).set_mark(100).is_ok();
    assert_eq!(proxy.log().contains(WARNING), !may_mark, "{}", proxy.log());
}

#[test]
fn the_server_hello_comes_in_as_many_packets_as_asked_for() {
    let proxy = Setup::new().set("network.hello-parts", "3").start();
    let whole = Setup::new().start();
    assert_eq!(sizes_seen(whole.address).len(), 0);
    // Somebody else may have the processor between two looks.
    let seen =
        socket::wait_for("the parts", DEADLINE, || Some(sizes_seen(proxy.address)).filter(|seen| seen.len() == 2));
    let (_, hello_len) = seen[0];
    assert_eq!(seen, [(hello_len / 3, hello_len), (2 * (hello_len / 3), hello_len)]);
}

/// How much of the reply was there at looks that found less than its first record, and how long that is.
fn sizes_seen(proxy: SocketAddr) -> Vec<(usize, usize)> {
    let mut stream = socket::connect(proxy);
    stream.write_all(&Hello::default().sign().wire).unwrap();
    let (mut seen, mut start) = (Vec::new(), [0; 2048]);
    loop {
        let count = stream.peek(&mut start).unwrap();
        let hello_len = 5 + usize::from(u16::from_be_bytes([start[3], start[4]]));
        if count >= hello_len {
            return seen;
        }
        seen.push((count, hello_len));
        seen.dedup();
    }
}
