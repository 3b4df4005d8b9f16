//! Floods of every kind: clients do not notice them, and they cost little.
//!
//! [`FLOODS`] is the table: who comes, how many, what of the set-up is theirs, what each does. What must hold in each is in
//! [`withstand`]. `tests/testsuite/places.rs` says who gives way, `tests/testsuite/never_freezes.rs` has the peers that are fast.

use std::any::Any;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use crate::support;
use crate::support::client::{Session, greeted_over, session};
use crate::support::crowd::{allow_open_files, endless_server, patient_server, stuff};
use crate::support::dc::EchoDc;
use crate::support::hello::{Hello, Shape, Signed};
use crate::support::obfuscated2::PADDED;
use crate::support::proxy::{Proxy, Setup};
use crate::support::socket::{self, End};

/// What the process may occupy beside its own file with `memory = 8MB`, KiB.
const BUDGET_KIB: u64 = 12 << 10;
/// Clients that come in during a flood, and those that were there before.
const NEWCOMERS: u64 = 20;
const BEFORE: usize = 5;
/// Files that come and go without any visitor: looks at the front, lists.
const OWN_FILES: usize = 4;

/// What there is around a proxy.
struct Ground {
    proxy: SocketAddr,
    /// What a balancer says first, if one is expected.
    header: &'static [u8],
    /// A hello that has been answered.
    known: Signed,
}

/// A connection of a flood, whatever it takes to keep it.
type Visitor = Option<Box<dyn Any>>;

/// A flood.
struct Flood {
    name: &'static str,
    /// How many connections.
    size: usize,
    /// How many of them come from one address.
    each: usize,
    /// The address is that of a server that sends without end.
    setup: fn(Setup, SocketAddr) -> Setup,
    visit: fn(&Ground, Ipv4Addr) -> Visitor,
}

const FLOODS: [Flood; 13] = [
    Flood {
        name: "silence",
        size: 900,
        each: 250,
        setup: |setup, _| setup,
        visit: |ground, from| keep(socket::connect_from(from, ground.proxy)),
    },
    Flood {
        name: "visits of the site that the front keeps open",
        size: 900,
        each: 250,
        setup: |setup, _| setup,
        visit: |ground, from| says(ground, from, b"GET / HTTP/1.1\r\nHost: front.example\r\n\r\n"),
    },
    Flood {
        name: "strangers who read nothing of what the front sends",
        size: 500,
        each: 100,
        setup: |setup, endless| setup.front(endless),
        visit: |ground, from| says(ground, from, b"GET / HTTP/1.1\r\n\r\n"),
    },
    Flood {
        name: "strangers who send more than the front reads",
        size: 300,
        each: 100,
        setup: |setup, _| setup,
        visit: |ground, from| {
            let mut stream = socket::connect_from(from, ground.proxy);
            stuff(&mut stream, 1 << 20);
            keep(stream)
        },
    },
    Flood {
        name: "half hellos",
        size: 900,
        each: 250,
        setup: |setup, _| setup,
        visit: |ground, from| says(ground, from, &Hello::default().sign().wire[..300]),
    },
    Flood {
        name: "half hellos behind the address of the clients",
        size: 400,
        each: 400,
        setup: |setup, _| setup,
        visit: |ground, _| says(ground, Ipv4Addr::LOCALHOST, &Hello::default().sign().wire[..300]),
    },
    Flood {
        name: "hellos of 16 KB that are not whole",
        size: 500,
        each: 100,
        setup: |setup, _| setup,
        visit: |ground, from| {
            let hello = Hello { shape: Shape::Huge, ..Hello::default() }.sign().wire;
            says(ground, from, &hello[..15_900])
        },
    },
    Flood {
        name: "copies of one hello",
        size: 500,
        each: 100,
        setup: |setup, _| setup,
        visit: |ground, from| says(ground, from, &ground.known.wire),
    },
    Flood {
        name: "connections of a balancer without a header",
        size: 1200,
        each: 1200,
        setup: |setup, _| setup.set("proxy-protocol-listener", "true").set("proxy-protocol-trusted", "127.0.0.0/8"),
        visit: |ground, _| keep(socket::connect(ground.proxy)),
    },
    Flood {
        name: "visits that end with a reset",
        size: 1500,
        each: 250,
        setup: |setup, _| setup,
        visit: |ground, from| {
            socket::reset(socket::connect_from(from, ground.proxy));
            None
        },
    },
    Flood {
        name: "a fast list server",
        size: 0,
        each: 1,
        setup: |setup, endless| {
            setup
                .set("defense.blocklist.enabled", "true")
                .set("defense.blocklist.urls", &format!("http://{}/", endless))
        },
        visit: |_, _| None,
    },
    Flood {
        name: "clients who read nothing",
        size: 300,
        each: 100,
        setup: |setup, _| setup,
        visit: |ground, from| keep(client(ground, from, 3)?),
    },
    Flood {
        name: "clients who send more than their DC reads",
        size: 300,
        each: 100,
        setup: |setup, _| setup,
        visit: |ground, from| {
            let mut session = client(ground, from, 4)?;
            let _ = session.upload.try_send(&vec![0x55; 100_000]);
            keep(session)
        },
    },
];

fn keep<T: 'static>(connection: T) -> Visitor {
    Some(Box::new(connection))
}

fn says(ground: &Ground, from: Ipv4Addr, words: &[u8]) -> Visitor {
    let mut stream = socket::connect_from(from, ground.proxy);
    // It may have had to give way already.
    let _ = stream.write_all(words);
    keep(stream)
}

/// A client of that DC; none if it has to give way.
fn client(ground: &Ground, from: Ipv4Addr, dc: i16) -> Option<Session> {
    let mut stream = socket::connect_from(from, ground.proxy);
    stream.write_all(ground.header).ok()?;
    Some(greeted_over(stream, &Hello::default()).ok()?.open(PADDED, dc))
}

/// In a flood clients come in and stay, memory stays within the budget, nothing is said but what the owner should know;
/// and when the flood is over, nothing of it is left.
fn withstand(flood: &Flood) {
    let started = Instant::now();
    let (dc, (patient, kept), (endless, _)) = (EchoDc::listen(), patient_server(), endless_server());
    // DC 2 echoes, 3 sends without end, 4 reads nothing.
    let setup = Setup::new().front(patient).dc(2, dc.address).dc(3, endless).dc(4, patient).set("memory", "8MB");
    let setup = (flood.setup)(setup, endless);
    let header: &[u8] = match setup.value("proxy-protocol-listener") {
        Some("true") => b"PROXY TCP4 192.0.2.1 192.0.2.2 40000 443\r\n",
        _ => b"",
    };
    let proxy = setup.start();
    let ground = Ground { proxy: proxy.address, header, known: known(&proxy, header) };
    let mut before: Vec<_> = (0..BEFORE).map(|_| client(&ground, Ipv4Addr::LOCALHOST, 2).unwrap()).collect();
    let files = proxy.open_files();

    let address = |number: usize| Ipv4Addr::new(127, 0, 5, 1 + (number / flood.each) as u8);
    let visitors: Vec<_> = (0..flood.size).map(|number| (flood.visit)(&ground, address(number))).collect();
    for round in 0..NEWCOMERS {
        // Who gives way keeps its place until it has been told, so a newcomer may have to try again.
        socket::wait_for("a newcomer to be served", support::DEADLINE, || {
            client(&ground, Ipv4Addr::LOCALHOST, 2)?.try_ping(1000, round).ok()
        });
    }
    before.iter_mut().zip(0..).for_each(|(client, number)| client.ping(20_000, number));
    let memory = proxy.own_memory_kib();
    assert!(memory < BUDGET_KIB, "{}: {memory} KiB", flood.name);

    drop(visitors);
    socket::wait_for(&format!("{} to leave nothing open", flood.name), support::DEADLINE * 3, || {
        kept.lock().unwrap().clear();
        (proxy.open_files() <= files + OWN_FILES).then_some(())
    });
    before.iter_mut().zip(0..).for_each(|(client, number)| client.ping(1000, number));
    let warnings: Vec<String> = proxy.log().lines().filter(|line| line.contains("WARN")).map(String::from).collect();
    assert!(warnings.len() <= 4, "{}: {warnings:#?}", flood.name);
    println!("{}: {} visitors, {memory} KiB, {:?}", flood.name, flood.size, started.elapsed());
}

/// A hello that has been answered.
fn known(proxy: &Proxy, header: &[u8]) -> Signed {
    let hello = Hello::default().sign();
    let mut stream = socket::connect(proxy.address);
    stream.write_all(&[header, &hello.wire].concat()).unwrap();
    assert_eq!(socket::read_exactly(&mut stream, 3).unwrap(), [0x16, 3, 3]);
    hello
}

#[test]
fn clients_do_not_notice_any_flood_of_the_table() {
    FLOODS.iter().for_each(withstand);
}

const PROBES: usize = 1000;
const CLIENTS: usize = 200;
/// Probes from one address; fewer than it may have.
const EACH: usize = 200;
/// What the proxy may occupy with all of them connected, KiB.
const MEMORY_KIB: u64 = 32 << 10;

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
    allow_open_files(8192);
    let (dc, (front, at_the_front)) = (EchoDc::listen(), patient_server());
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
