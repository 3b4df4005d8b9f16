//! What the owner may set of the sockets, seen from their other ends.

mod support;

use socket2::SockRef;
use support::client::session;
use support::dc::EchoDc;
use support::proxy::Setup;
use support::socket;

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
