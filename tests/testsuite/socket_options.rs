//! What the owner may set of the sockets, seen from their other ends.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::Command;

use crate::support::client::session;
use crate::support::dc::EchoDc;
use crate::support::front::FakeFront;
use crate::support::hello::Hello;
use crate::support::proxy::Setup;
use crate::support::{DEADLINE, socket};
use socket2::SockRef;

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
    assert_eq!(reply_packets(whole.address), 1);
    // On a busy machine the kernel may put two of them together.
    socket::wait_for("the parts", DEADLINE, || (reply_packets(proxy.address) == 3).then_some(()));
}

/// What the kernel's timer of each connection of the proxy with one end there is for: 0 nothing, 2 probes.
fn timers(end: SocketAddr) -> Vec<u8> {
    let SocketAddr::V4(end) = end else { panic!("the tests listen on IPv4") };
    let wanted = format!("{:08X}:{:04X}", u32::from(*end.ip()).swap_bytes(), end.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let timer = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        // Local address, remote address, state, queues, timer. Both ends are in this table; ours is the one meant.
        let is_ours = fields[3] == "01" && fields[1..3].contains(&wanted.as_str());
        is_ours.then(|| fields[5].split(':').next().unwrap().parse().unwrap())
    };
    table.lines().skip(1).filter_map(timer).collect()
}

#[test]
fn only_clients_and_telegram_are_probed() {
    let (dc, front) = (EchoDc::listen(), FakeFront::listen());
    let proxy = Setup::new().front(front.address).dc(2, dc.address).start();
    let probes = |end| timers(end).iter().filter(|timer| **timer == 2).count();
    let (silent, mut fronted) = (socket::connect(proxy.address), socket::connect(proxy.address));
    fronted.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let _visit = front.visit(b"GET / HTTP/1.1\r\n\r\n");
    socket::wait_for("both at the front", DEADLINE, || (timers(front.address).len() >= 4).then_some(()));
    // Bytes without acknowledgement have a timer of their own for a moment.
    socket::wait_for("quiet", DEADLINE, || (timers(proxy.address) == [0; 4]).then_some(()));
    assert_eq!(probes(front.address), 0);
    let mut client = session(proxy.address, 2);
    client.ping(100, 1);
    for end in [proxy.address, dc.address] {
        socket::wait_for("probes", DEADLINE, || (probes(end) == 1).then_some(()));
    }
    drop(silent);
}

/// How many packets the answer to a hello has come in, as the kernel counts them.
fn reply_packets(proxy: SocketAddr) -> usize {
    let mut stream = socket::connect(proxy);
    stream.write_all(&Hello::default().sign().wire).unwrap();
    // The records of the reply: hello, change of cipher, and the front's answers.
    for _ in 0..3 {
        let mut header = [0; 5];
        stream.read_exact(&mut header).unwrap();
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        stream.read_exact(&mut vec![0; length]).unwrap();
    }
    let port = format!(":{}", stream.local_addr().unwrap().port());
    let told = Command::new("ss").args(["-tinH", "sport", "=", &port]).output();
    let told = told.expect("ss tells of packets: apt-get install iproute2");
    let told = String::from_utf8(told.stdout).unwrap();
    let count = told.split_whitespace().find_map(|word| word.strip_prefix("data_segs_in:"));
    count.unwrap_or_else(|| panic!("no number of packets in {told:?}")).parse().unwrap()
}
