//! A reload changes what it can for connections to come, and nothing for those that are there.

use std::io::Write;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
#[cfg(feature = "tls")]
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::support::client::{greeted_over, session};
use crate::support::dc::{EchoDc, FakeDc};
use crate::support::front::{FLIGHT, FakeFront, bytes, front_of_patience};
use crate::support::hello::Hello;
use crate::support::obfuscated2::PADDED;
use crate::support::proxy::{Proxy, Setup};
use crate::support::{DEADLINE, HOST, KEY, random, socket};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: front.example\r\n\r\n";
const LOADED: &str = "the configuration was loaded again";

fn reload(proxy: &Proxy, setup: &Setup) {
    let count = |proxy: &Proxy| proxy.log().matches(LOADED).count();
    let before = count(proxy);
    proxy.reload(setup);
    socket::wait_for("the reload", DEADLINE, || (count(proxy) > before).then_some(()));
}

#[test]
fn a_new_secret_counts_for_new_clients_and_the_old_ones_go_on() {
    let dc = EchoDc::listen();
    let setup = Setup::new().dc(2, dc.address);
    let proxy = setup.start();
    let mut client = session(proxy.address, 2);
    client.ping(1000, 1);
    let key: [u8; 16] = random();
    reload(&proxy, &setup.clone().secret(&key, HOST));
    client.ping(1000, 2);
    let new = Hello { key, ..Hello::default() };
    greeted_over(socket::connect(proxy.address), &new).unwrap().open(PADDED, 2).ping(1000, 3);
    let old = Hello { key: KEY, ..Hello::default() };
    assert!(greeted_over(socket::connect(proxy.address), &old).is_err());
    client.ping(1000, 4);
}

#[test]
fn front_and_data_centres_move() {
    let (old_dc, new_dc, old_front, new_front) =
        (EchoDc::listen(), EchoDc::listen(), FakeFront::listen(), FakeFront::listen());
    let setup = Setup::new().dc(2, old_dc.address).front(old_front.address);
    let proxy = setup.start();
    session(proxy.address, 2).ping(100, 1);
    let setup = Setup::new().dc(2, new_dc.address).front(new_front.address);
    reload(&proxy, &setup);
    session(proxy.address, 2).ping(100, 1);
    assert_eq!((old_dc.served(), new_dc.served()), (1, 1));
    let mut stranger = socket::connect(proxy.address);
    stranger.write_all(REQUEST).unwrap();
    new_front.visit(REQUEST).expect(REQUEST);
}

#[test]
fn a_bad_file_is_refused_and_the_old_one_stays() {
    let dc = EchoDc::listen();
    let setup = Setup::new().dc(2, dc.address);
    let proxy = setup.start();
    proxy.reload(&setup.clone().set("concurrency", "lots").set("secret", "ee0102"));
    let refused = "the configuration was not loaded again";
    let log = socket::wait_for("a refusal", DEADLINE, || Some(proxy.log()).filter(|log| log.contains(refused)));
    assert!(log.contains("concurrency: \"lots\" is not a whole number") && log.contains("mtg.conf:"), "{log}");
    assert!(!log.contains("ee0102"), "{log}");
    session(proxy.address, 2).ping(100, 1);

    // A port for metrics that is taken is found out before anything changes.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let metrics = taken.local_addr().unwrap().to_string();
    let key: [u8; 16] = random();
    let other = setup.clone().secret(&key, HOST).set("stats.prometheus.enabled", "true");
    proxy.reload(&other.set("stats.prometheus.bind-to", &metrics));
    let refused = format!("cannot serve metrics on {metrics}");
    socket::wait_for("a refusal", DEADLINE, || proxy.log().contains(&refused).then_some(()));
    session(proxy.address, 2).ping(100, 1);
}

#[test]
fn keys_that_take_a_restart_are_named() {
    let dc = EchoDc::listen();
    let setup = Setup::new().dc(2, dc.address);
    let proxy = setup.start();
    reload(&proxy, &setup.clone().set("concurrency", "1").set("threads", "3"));
    let log = proxy.log();
    assert!(log.contains("changed keys that take effect with a restart only keys=concurrency,threads"), "{log}");
    let clients = [session(proxy.address, 2), session(proxy.address, 2)];
    clients.into_iter().for_each(|mut client| client.ping(10, 1));
}

#[test]
fn metrics_come_and_go_with_a_reload() {
    let setup = Setup::new();
    let proxy = setup.start();
    let metrics = socket::free_address();
    let on = setup.clone().set("stats.prometheus.enabled", "true");
    let on = on.set("stats.prometheus.bind-to", &metrics.to_string());
    let ask = |path: &str| {
        let mut stream = socket::connect(metrics);
        stream.write_all(format!("GET {path} HTTP/1.1\r\n\r\n").as_bytes()).unwrap();
        String::from_utf8(socket::read_to_end(&mut stream).0).unwrap()
    };
    reload(&proxy, &on);
    assert!(ask("/").contains("\nmtg_domain_fronting 0\n"));
    reload(&proxy, &on.clone().set("stats.prometheus.metric-prefix", "other").set("stats.prometheus.http-path", "/m"));
    assert!(ask("/m").contains("\nother_domain_fronting 0\n"));
    assert!(ask("/").starts_with("HTTP/1.1 404 "));
    reload(&proxy, &setup);
    let refused = || TcpStream::connect(metrics).is_err().then_some(());
    socket::wait_for("the metrics to be gone", DEADLINE, refused);
}

#[test]
fn metrics_move_between_one_address_and_all_of_them() {
    let on = Setup::new().set("stats.prometheus.enabled", "true").set("log-level", "info");
    let port = socket::free_address().port();
    let at = |ip: &str| on.clone().set("stats.prometheus.bind-to", &format!("{ip}:{port}"));
    let proxy = at("127.0.0.1").start();
    let answers = |ip: Ipv4Addr| {
        let mut stream = socket::connect((ip, port).into());
        stream.write_all(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap();
        socket::read_exactly(&mut stream, 15).unwrap() == b"HTTP/1.1 200 OK"
    };
    let elsewhere = Ipv4Addr::new(127, 0, 0, 2);
    reload(&proxy, &at("0.0.0.0"));
    assert!(answers(elsewhere) && answers(Ipv4Addr::LOCALHOST));
    reload(&proxy, &at("127.0.0.1"));
    let refused = || TcpStream::connect((elsewhere, port)).is_err().then_some(());
    socket::wait_for("the other addresses to be closed", DEADLINE, refused);
    assert!(answers(Ipv4Addr::LOCALHOST));
    // Nobody else can have joined on the port.
    assert!(TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_err());
}

#[test]
fn a_thousand_reloads_under_load_lose_nothing() {
    let dc = EchoDc::listen();
    let metrics = socket::free_address().to_string();
    let setup = Setup::new().dc(2, dc.address).set("log-level", "info");
    let setup = setup.set("stats.prometheus.enabled", "true").set("stats.prometheus.bind-to", &metrics);
    let proxy = setup.start();
    let other = setup.clone().set("network.timeout.idle", "4m").set("fast-mode", "false");
    let other = other.set("stats.statsd.enabled", "true").set("stats.statsd.address", "127.0.0.1:9");
    let (stop, moved) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let lasting = {
        let (stop, moved, address) = (stop.clone(), moved.clone(), proxy.address);
        thread::spawn(move || {
            let mut client = session(address, 2);
            while !stop.load(Ordering::SeqCst) {
                client.ping(50_000, 1);
                moved.fetch_add(1, Ordering::SeqCst);
            }
        })
    };
    let coming = {
        let (stop, address) = (stop.clone(), proxy.address);
        thread::spawn(move || {
            let mut served = 0;
            while !stop.load(Ordering::SeqCst) {
                session(address, 2).ping(1000, served);
                served += 1;
            }
            served
        })
    };
    let mut settled = None;
    for number in 0..1000 {
        // Each one is taken up before the next, or signals would merge.
        reload(&proxy, if number % 2 == 0 { &other } else { &setup });
        if number == 200 {
            settled = Some((proxy.open_files(), proxy.memory_kib()));
        }
    }
    stop.store(true, Ordering::SeqCst);
    lasting.join().unwrap();
    let served = coming.join().unwrap();
    let (files, memory) = settled.unwrap();
    proxy.wait_for_open_files(files + 2);
    let growth = proxy.memory_kib().saturating_sub(memory);
    assert!(growth < 1024, "the proxy grew by {growth} KiB");
    assert!(served > 20 && moved.load(Ordering::SeqCst) > 20, "{served} {moved:?}");
}

#[test]
fn a_supervisor_is_told_of_start_reload_and_stop() {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("notify-{}", std::process::id()));
    let supervisor = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    supervisor.set_read_timeout(Some(DEADLINE)).unwrap();
    let next = || {
        let mut buffer = [0; 200];
        let length = supervisor.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    };
    let wait_for = |wanted: &str| {
        // Between the others the watchdog is fed.
        while !next().starts_with(wanted) {}
    };
    let setup = Setup::new().env("NOTIFY_SOCKET", path.to_str().unwrap()).env("WATCHDOG_USEC", "100000");
    let mut proxy = setup.start();
    wait_for("READY=1");
    wait_for("WATCHDOG=1");
    wait_for("WATCHDOG=1");
    reload(&proxy, &setup);
    wait_for("RELOADING=1\nMONOTONIC_USEC=");
    wait_for("READY=1");
    proxy.terminate();
    wait_for("STOPPING=1");
    let status = proxy.wait(DEADLINE);
    proxy.assert_ended_well(status);
    std::fs::remove_file(path).unwrap();
}

#[test]
fn the_tail_of_a_relay_survives_a_reload() {
    let dc = FakeDc::listen();
    let setup = Setup::new().dc(2, dc.address);
    let proxy = setup.start();
    let mut client = session(proxy.address, 2);
    let mut stream = dc.accept();
    reload(&proxy, &setup.clone().set("network.timeout.idle", "1s"));
    // The connection keeps the patience that it began with.
    thread::sleep(Duration::from_millis(2500));
    stream.send(b"late");
    assert_eq!(client.download.receive(4).unwrap(), b"late");
}

#[test]
fn the_patience_of_another_front_is_measured_soon() {
    let setup = Setup::new().front(front_of_patience(bytes(FLIGHT), Duration::from_secs(3600)));
    let proxy = setup.start();
    let log_has = |text: &str| {
        let has_it = || proxy.log().contains(text).then_some(());
        socket::wait_for(text, Duration::from_secs(60), has_it);
    };
    log_has("measuring the patience of the front");
    reload(&proxy, &setup.front(front_of_patience(bytes(FLIGHT), Duration::from_secs(1))));
    log_has("patience of the front seconds=Some(1)");
}

/// A front that closes on everybody, and the hellos of those who want to measure it: with the suites that our TLS knows,
/// while whoever only looks offers those of a browser.
#[cfg(feature = "tls")]
fn front_to_measure() -> (std::net::SocketAddr, Arc<Mutex<Vec<Vec<u8>>>>) {
    use std::io::Read;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let (address, hellos) = (listener.local_addr().unwrap(), Arc::<Mutex<Vec<Vec<u8>>>>::default());
    let seen = hellos.clone();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut hello = vec![0; 4096];
            let length = stream.read(&mut hello).unwrap_or(0);
            hello.truncate(length);
            // Where the session's id ends.
            let suites = hello.get(43).map_or(0, |length| 44 + usize::from(*length));
            if hello.get(suites..suites + 2) == Some(&[0, 4]) {
                seen.lock().unwrap().push(hello);
            }
        }
    });
    (address, hellos)
}

#[cfg(feature = "tls")]
#[test]
fn the_page_of_another_front_is_measured_and_the_old_one_is_left_alone() {
    let (front, hellos) = front_to_measure();
    let count = |name: &str| {
        let hellos = hellos.lock().unwrap();
        hellos.iter().filter(|hello| hello.windows(name.len()).any(|part| part == name.as_bytes())).count()
    };
    let wait_for = |wanted: usize, name: &str| {
        socket::wait_for(name, DEADLINE, || (count(name) >= wanted).then_some(()));
    };
    let setup = Setup::new().front(front).set("defense.doppelganger.drs", "true");
    let setup = setup.set("defense.doppelganger.raid-each", "1s");
    let proxy = setup.start();
    wait_for(2, HOST);
    reload(&proxy, &setup.clone().secret(&KEY, "another.example"));
    wait_for(1, "another.example");
    let before = count(HOST);
    wait_for(4, "another.example");
    assert_eq!(count(HOST), before);
}
