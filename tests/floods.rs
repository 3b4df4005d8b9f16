//! Scanners in numbers: clients do not notice them, and they cost little.

mod support;

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::client::session;
use support::dc::EchoDc;
use support::hello::Hello;
use support::proxy::Setup;
use support::socket::{self, End};

const PROBES: usize = 1000;
const CLIENTS: usize = 200;
/// Probes from one address; fewer than it may have.
const EACH: usize = 200;
/// What the proxy may occupy with all of them connected, KiB.
const MEMORY_KIB: u64 = 32 << 10;

/// A front that takes every connection and never says a word.
fn patient_front() -> (SocketAddr, Arc<Mutex<Vec<TcpStream>>>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let (address, kept) = (listener.local_addr().unwrap(), <Arc<Mutex<Vec<TcpStream>>>>::default());
    thread::spawn({
        let kept = kept.clone();
        move || listener.incoming().for_each(|stream| kept.lock().unwrap().push(stream.unwrap()))
    });
    (address, kept)
}

/// How many connections have got exactly `count` bytes.
fn with_bytes(streams: &Mutex<Vec<TcpStream>>, count: usize) -> usize {
    let mut buffer = vec![0; count + 1];
    let streams = streams.lock().unwrap();
    let has = |stream: &&TcpStream| {
        stream.set_nonblocking(true).unwrap();
        stream.peek(&mut buffer).is_ok_and(|got| got == count)
    };
    streams.iter().filter(has).count()
}

#[test]
fn a_thousand_half_open_probes_leave_clients_unaffected() {
    let wanted = Rlimit { current: Some(8192), ..getrlimit(Resource::Nofile) };
    setrlimit(Resource::Nofile, wanted).unwrap();
    let (dc, (front, at_the_front)) = (EchoDc::listen(), patient_front());
    let proxy = Setup::new().front(front).dc(2, dc.address).start();

    let half = Hello::default().sign().wire[..300].to_vec();
    let mut probes: Vec<_> = (0..PROBES)
        .map(|number| socket::connect_from(Ipv4Addr::new(127, 0, 1, 1 + (number / EACH) as u8), proxy.address))
        .collect();
    probes.iter_mut().for_each(|probe| probe.write_all(&half).unwrap());
    let all_there = || (with_bytes(&at_the_front, half.len()) == PROBES).then_some(());
    socket::wait_for("every probe to reach the front", Duration::from_secs(60), all_there);

    let started = Instant::now();
    let clients: Vec<_> = (0..CLIENTS as u64)
        .map(|number| {
            let address = proxy.address;
            thread::spawn(move || {
                let mut client = session(address, 2);
                for round in 0..5 {
                    client.ping(20_000, number * 10 + round);
                }
                client
            })
        })
        .collect();
    let clients: Vec<_> = clients.into_iter().map(|client| client.join().unwrap()).collect();
    let (elapsed, memory) = (started.elapsed(), proxy.peak_memory_kib());
    println!("{CLIENTS} clients beside {PROBES} probes: {elapsed:?}, {memory} KiB at most");
    assert!(memory < MEMORY_KIB, "{memory} KiB");

    // The probes are still undecided: nobody has cut them, and each is ended as soon as the front ends it.
    assert!(probes.iter().all(|probe| !socket::is_readable(probe, Duration::ZERO)));
    at_the_front.lock().unwrap().clear();
    probes.iter_mut().for_each(|probe| {
        let (bytes, end) = socket::read_to_end(probe);
        // The front has not read what it got, so its end is a reset.
        assert_eq!((bytes.len(), end), (0, End::Reset));
    });
    drop(clients);
}

#[test]
fn silent_strangers_make_room_for_newcomers() {
    let dc = EchoDc::listen();
    // 20 places for strangers.
    let proxy = Setup::new().dc(2, dc.address).set("concurrency", "40").start();
    // Somebody whose line is slow, before all others.
    let hello = Hello::default().sign();
    let mut slow = socket::connect_from(Ipv4Addr::new(127, 0, 2, 9), proxy.address);
    slow.write_all(&hello.wire[..300]).unwrap();
    let mut silent: Vec<_> =
        (0..60).map(|number| socket::connect_from(Ipv4Addr::new(127, 0, 2, 1 + number % 4), proxy.address)).collect();
    let started = Instant::now();
    let mut clients: Vec<_> = (0..10).map(|_| session(proxy.address, 2)).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.ping(5000, number as u64);
    }
    assert!(started.elapsed() < Duration::from_secs(8), "it took the clients {:?}", started.elapsed());
    socket::wait_for("the silent ones to have left", Duration::from_secs(20), || {
        (proxy.log().matches("reason=evicted").count() >= 42).then_some(())
    });
    silent.retain_mut(|stream| !socket::is_readable(stream, Duration::ZERO));
    assert_eq!(silent.len(), 18, "silent ones that are still there");
    slow.write_all(&hello.wire[300..]).unwrap();
    assert_eq!(socket::read_exactly(&mut slow, 3).unwrap(), [0x16, 0x03, 0x03]);
}
