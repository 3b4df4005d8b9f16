//! `memory` is a budget: whoever reads slowly, stalls or publishes a list that is too long, the process stays within it
//! and clients are served.
//!
//! `MTG_BINARY` names the binary for a router, for which the figure counts; see `scripts/appliance`.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::support::client::{Session, greeted, greeted_over};
use crate::support::crowd::endless_server;
use crate::support::dc::EchoDc;
use crate::support::hello::Hello;
use crate::support::obfuscated2::PADDED;
use crate::support::proxy::Setup;
use crate::support::{DEADLINE, socket};

/// Peers of each kind.
const EACH: usize = 500;
/// Of one address; fewer than it may have.
const OF_ADDRESS: usize = 100;
/// What the process may occupy with `memory = 8MB`, KiB.
const MEMORY_KIB: u64 = 12 << 10;

/// A list of four million networks that do not touch each other.
fn endless_list() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let mut text = "HTTP/1.1 200 OK\r\n\r\n".to_owned();
            for number in 0..4_000_000u128 {
                let network = Ipv6Addr::from(0x2000 << 112 | (number * 0x9e37_79b1 % (1 << 40)) << 70);
                writeln!(text, "{network}/64").unwrap();
                if text.len() > 1 << 16 {
                    if stream.write_all(text.as_bytes()).is_err() {
                        break;
                    }
                    text.clear();
                }
            }
        }
    });
    address
}

fn source(kind: u8, number: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, kind, 1 + (number / OF_ADDRESS) as u8)
}

/// A client of the DC that floods, which reads nothing but the handshake.
fn slow_client(proxy: SocketAddr, number: usize) -> Option<Session> {
    let stream = socket::connect_from(source(1, number), proxy);
    Some(greeted_over(stream, &Hello::default()).ok()?.open(PADDED, 3))
}

#[test]
fn eight_megabytes_are_enough_for_slow_readers_stalled_hellos_and_a_list_that_is_too_long() {
    let (dc, (endless_dc, to_clients), (front, to_strangers)) = (EchoDc::listen(), endless_server(), endless_server());
    let proxy = Setup::new()
        .set("memory", "8MB")
        .set("threads", "1")
        .set("log-level", "warn")
        .front(front)
        .dc(2, dc.address)
        .dc(3, endless_dc)
        .set("defense.blocklist.enabled", "true")
        .set("defense.blocklist.urls", &format!("http://{}/", endless_list()))
        .start();
    let clients: Vec<_> = (0..EACH).filter_map(|number| slow_client(proxy.address, number)).collect();
    assert!(clients.len() > EACH * 9 / 10, "only {} clients were answered", clients.len());
    let strangers: Vec<_> = (0..EACH)
        .map(|number| {
            let mut stream = socket::connect_from(source(2, number), proxy.address);
            stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
            stream
        })
        .collect();
    socket::wait_for("most of them to be served", DEADLINE * 3, || {
        let served = |count: &AtomicUsize| count.load(Ordering::SeqCst) > EACH / 2;
        (served(&to_clients) && served(&to_strangers)).then_some(())
    });
    // All but the end of a hello that fills its record.
    let mut hello = vec![0x16, 0x03, 0x01, 0x40, 0x00, 0x01, 0x00, 0x3f, 0xfc, 0x03, 0x03];
    hello.resize(16_000, 0x11);
    let stalled: Vec<_> = (0..EACH)
        .map(|number| {
            let mut stream = socket::connect_from(source(3, number), proxy.address);
            // It may have had to give way already.
            let _ = stream.write_all(&hello);
            stream
        })
        .collect();
    socket::wait_for("the warning of the list", DEADLINE * 2, || {
        proxy.log().contains("it takes more than the 1024 KB that are left for it").then_some(())
    });
    for number in 0..10 {
        // At the cap, whoever gives way still has a place for a moment.
        let greeted = socket::wait_for("a client to be served", DEADLINE, || greeted(proxy.address).ok());
        greeted.open(PADDED, 2).ping(20_000, number);
    }
    let (most, own) = (proxy.peak_memory_kib(), proxy.own_memory_kib());
    println!("{most} KiB at most, {own} KiB of it not of the binary's file at the end");
    // The binary of the tests is large; that of a router is not.
    let counted = if std::env::var_os("MTG_BINARY").is_some() { most } else { own };
    assert!(counted < MEMORY_KIB, "{counted} KiB");
    assert_eq!(proxy.log().matches("cannot load a list").count(), 1, "one warning");
    drop((clients, strangers, stalled));
}
