//! Nobody stops the proxy by talking much or slowly: neither a server that it asks nor a client of one of its listeners.
//!
//! Each row of the tables is a hostile peer, faster than the proxy reads or a byte at a time. While it goes on, clients
//! are answered as soon as by a proxy beside it that is left in peace, and SIGTERM ends it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::client::greeted;
use crate::support::hello::Hello;
use crate::support::obfuscated2::PADDED;
use crate::support::proxy::{Proxy, Setup, binary};
use crate::support::socket::End;
use crate::support::{DEADLINE, socket};

/// What a client waits for its answer at most, and the proxy for its end; on a machine that does nothing else.
const ANSWER: Duration = Duration::from_millis(100);
const END: Duration = Duration::from_secs(1);
/// On one that does, so many times what the proxy in peace takes.
const BUSY: u32 = 5;
/// Looks at each row; the one in the middle counts.
const LOOKS: usize = 7;
/// A row is tried again if it fails: a machine may be busy for a moment with one of the two proxies only.
const TRIES: usize = 3;
/// Clients of a listener that do the same at the same time.
const CLIENTS: usize = 8;

/// What a peer says: a beginning, and then this again and again.
#[derive(Clone, Copy)]
struct Talk {
    start: &'static [u8],
    again: &'static [u8],
    pace: Pace,
}

#[derive(Clone, Copy, PartialEq)]
enum Pace {
    Floods,
    Drips,
}

const fn floods(start: &'static [u8], again: &'static [u8]) -> Talk {
    Talk { start, again, pace: Pace::Floods }
}

const fn drips(start: &'static [u8], again: &'static [u8]) -> Talk {
    Talk { start, again, pace: Pace::Drips }
}

/// Ends all threads of a row.
#[derive(Clone, Default)]
struct Stop(Arc<AtomicBool>);

impl Stop {
    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Talks until the other end has had enough or the row is over.
fn talk(mut stream: TcpStream, talk: Talk, stop: &AtomicBool) {
    socket::with_deadlines(&stream, Duration::from_millis(200));
    let block = match talk.pace {
        Pace::Floods => talk.again.repeat((64 << 10) / talk.again.len()),
        Pace::Drips => talk.again.to_vec(),
    };
    let mut bytes: Vec<u8> = talk.start.to_vec();
    loop {
        let pieces = if talk.pace == Pace::Floods { bytes.len().max(1) } else { 1 };
        for piece in bytes.chunks(pieces) {
            match stream.write_all(piece) {
                Err(error) if !matches!(error.kind(), std::io::ErrorKind::WouldBlock) => return,
                _ if stop.load(Ordering::Relaxed) => return,
                _ => {}
            }
            if talk.pace == Pace::Drips {
                thread::sleep(Duration::from_millis(2));
            }
        }
        bytes.clone_from(&block);
    }
}

/// A server that talks like that to everybody who has asked it something, and how many have.
fn tcp_server(words: Talk) -> (SocketAddr, Arc<AtomicUsize>, Stop) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    serve(listener, words, address)
}

fn serve(listener: TcpListener, words: Talk, address: SocketAddr) -> (SocketAddr, Arc<AtomicUsize>, Stop) {
    let (visits, stop) = (Arc::new(AtomicUsize::new(0)), Stop::default());
    let (counted, flag) = (visits.clone(), stop.0.clone());
    thread::spawn(move || {
        while !flag.load(Ordering::Relaxed) {
            let Some(mut stream) = socket::accept(&listener, Duration::from_millis(50)) else { continue };
            let (counted, flag) = (counted.clone(), flag.clone());
            thread::spawn(move || {
                if stream.read(&mut [0; 4096]).is_ok_and(|length| length > 0) {
                    counted.fetch_add(1, Ordering::SeqCst);
                    talk(stream, words, &flag);
                }
            });
        }
    });
    (address, visits, stop)
}

/// A server that answers one question over UDP without end.
fn udp_server(answer: fn(&[u8]) -> Vec<u8>) -> (SocketAddr, Arc<AtomicUsize>, Stop) {
    let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = server.local_addr().unwrap();
    serve_udp(server, answer, address)
}

fn serve_udp(
    server: UdpSocket,
    answer: fn(&[u8]) -> Vec<u8>,
    address: SocketAddr,
) -> (SocketAddr, Arc<AtomicUsize>, Stop) {
    server.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let (visits, stop) = (Arc::new(AtomicUsize::new(0)), Stop::default());
    let (counted, flag) = (visits.clone(), stop.0.clone());
    thread::spawn(move || {
        let mut question = [0; 1500];
        while !flag.load(Ordering::Relaxed) {
            let Ok((length, peer)) = server.recv_from(&mut question) else { continue };
            counted.fetch_add(1, Ordering::SeqCst);
            let (server, flag, answer) = (server.try_clone().unwrap(), flag.clone(), answer(&question[..length]));
            thread::spawn(move || {
                // The socket that has asked is gone some time.
                while !flag.load(Ordering::Relaxed) && server.send_to(&answer, peer).is_ok() {}
            });
        }
    });
    (address, visits, stop)
}

/// The answer to another question.
fn of_another(question: &[u8]) -> Vec<u8> {
    let mut answer = question.to_vec();
    answer.iter_mut().for_each(|byte| *byte ^= 0x55);
    answer
}

/// "Ask again over TCP" (RFC 1035 section 4.1.1).
fn truncated(question: &[u8]) -> Vec<u8> {
    let mut answer = question.to_vec();
    answer[2] |= 0x82;
    answer
}

/// How long a client waits for the first byte of its answer.
fn answer_time(proxy: SocketAddr, header: &[u8]) -> Duration {
    let hello = Hello::default().sign();
    let started = Instant::now();
    let mut stream = socket::connect(proxy);
    stream.write_all(&[header, &hello.wire].concat()).unwrap();
    let first = socket::read_exactly(&mut stream, 1);
    assert_eq!(first, Ok(vec![0x16]), "a client is not answered");
    started.elapsed()
}

/// A proxy in peace.
fn calm() -> Proxy {
    Setup::new().start()
}

/// Asserts that clients are answered and that SIGTERM is heeded.
fn assert_unmoved(name: &str, mut proxy: Proxy, calm: &Proxy, header: &[u8]) -> Result<(), String> {
    let (mut here, mut there): (Vec<_>, Vec<_>) =
        (0..LOOKS).map(|_| (answer_time(proxy.address, header), answer_time(calm.address, b""))).unzip();
    here.sort();
    there.sort();
    let (answer, in_peace) = (here[LOOKS / 2], there[LOOKS / 2]);
    let started = Instant::now();
    proxy.terminate();
    let status = proxy.wait(Duration::from_secs(60));
    let end = started.elapsed();
    proxy.assert_ended_well(status);
    println!("{name}: answers after {answer:?}, in peace after {in_peace:?}, the end after {end:?}");
    if answer > ANSWER.max(in_peace * BUSY) {
        return Err(format!("{name}: an answer takes {answer:?}, in peace {in_peace:?}"));
    }
    if end > END + in_peace * BUSY * 4 {
        return Err(format!("{name}: the end takes {end:?}"));
    }
    Ok(())
}

fn try_again(mut attempt: impl FnMut() -> Result<(), String>) {
    let mut last = Ok(());
    for _ in 0..TRIES {
        last = attempt();
        if last.is_ok() {
            return;
        }
    }
    last.unwrap();
}

fn plain() -> Setup {
    Setup::new().set("shutdown-grace", "100ms").set("log-level", "warn")
}

fn wait_for_visits(name: &str, visits: &AtomicUsize, count: usize) {
    socket::wait_for(&format!("{name} to be asked"), DEADLINE, || {
        (visits.load(Ordering::SeqCst) >= count).then_some(())
    });
}

fn asking_list(server: SocketAddr) -> Setup {
    plain()
        .set("defense.blocklist.enabled", "true")
        .set("defense.blocklist.urls", &format!("http://{server}/list"))
        .set("network.timeout.http", "2s")
}

fn asking_socks5(server: SocketAddr) -> Setup {
    plain().set("network.proxies", &format!("[\"socks5://{server}\"]"))
}

/// A server over TCP: its name, how the proxy is made to ask it, and what it says.
type Server = (&'static str, fn(SocketAddr) -> Setup, Talk);

const SERVERS: [Server; 11] = [
    (
        "list server with chunks of one byte",
        asking_list,
        floods(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n#\r\n"),
    ),
    ("list server without end", asking_list, floods(b"HTTP/1.1 200 OK\r\n\r\n", b"# nothing\n")),
    ("list server with a long line", asking_list, floods(b"HTTP/1.1 200 OK\r\n\r\n", b"1")),
    ("list server with a head without end", asking_list, floods(b"HTTP/1.1 200 OK\r\n", b"x: y\r\n")),
    ("list server that will answer soon", asking_list, floods(b"", b"HTTP/1.1 100 Continue\r\n\r\n")),
    (
        "list server that drips",
        asking_list,
        drips(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n#\r\n"),
    ),
    ("list server whose head drips", asking_list, drips(b"HTTP/1.1 200 OK\r\n", b"x: y\r\n")),
    ("front that floods", |front| plain().front(front), floods(b"", b"\x17\x03\x03\x00\x01x")),
    ("front that drips", |front| plain().front(front), drips(b"\x16\x03\x03\x40\x00", b"x")),
    ("SOCKS5 proxy that floods", asking_socks5, floods(b"\x05\x00", b"\x05\x00\x00\x03\xff")),
    ("SOCKS5 proxy that drips", asking_socks5, drips(b"\x05\x00", b"\x05\x00\x00\x03\xff")),
];

#[test]
fn no_server_that_is_asked_stops_the_proxy() {
    let calm = calm();
    for (name, setup, words) in SERVERS {
        try_again(|| {
            let (server, visits, _stop) = tcp_server(words);
            let proxy = setup(server).start();
            let sessions: Vec<_> = (0..CLIENTS)
                .filter(|_| name.starts_with("SOCKS5"))
                .map(|_| greeted(proxy.address).unwrap().open(PADDED, 2))
                .collect();
            wait_for_visits(name, &visits, 1);
            let unmoved = assert_unmoved(name, proxy, &calm, b"");
            drop(sessions);
            unmoved
        });
    }
}

#[test]
fn no_name_server_stops_the_proxy() {
    let calm = calm();
    let setup = |server: SocketAddr| {
        plain().set("domain-fronting.host", "front.example").set("network.dns", &format!("udp://{server}"))
    };
    try_again(|| {
        let (server, visits, _stop) = udp_server(of_another);
        let proxy = setup(server).start();
        wait_for_visits("the name server", &visits, 1);
        assert_unmoved("name server that floods", proxy, &calm, b"")
    });
    for words in [floods(b"", b"\xff\xff"), floods(b"\xff\xff", b"\0"), drips(b"\xff\xff", b"\0")] {
        try_again(|| {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let address = listener.local_addr().unwrap();
            let (_, _, _stop_udp) = serve_udp(UdpSocket::bind(address).unwrap(), truncated, address);
            let (_, visits, _stop) = serve(listener, words, address);
            let proxy = setup(address).start();
            wait_for_visits("the name server over TCP", &visits, 1);
            assert_unmoved("name server over TCP", proxy, &calm, b"")
        });
    }
}

#[cfg(feature = "tls")]
#[test]
fn no_server_over_tls_stops_the_proxy() {
    let calm = calm();
    let named = || plain().set("domain-fronting.host", "front.example");
    let setups: [(&str, &dyn Fn(SocketAddr) -> Setup); 4] = [
        ("DNS over TLS", &|server| named().set("network.dns", &format!("tls://{server}"))),
        ("DNS over HTTPS", &|server| named().set("network.dns", &format!("https://{server}/dns-query"))),
        ("list over HTTPS", &|server| asking_list(server).set("defense.blocklist.urls", &format!("https://{server}/"))),
        ("web page", &|server| {
            plain()
                .set("defense.doppelganger.enabled", "true")
                .set("defense.doppelganger.urls", &format!("https://{server}/"))
        }),
    ];
    let words = [
        // Changes of the cipher that mean nothing, a message without an end, and no TLS at all.
        floods(b"", b"\x14\x03\x03\x00\x01\x01"),
        floods(b"", b"\x16\x03\x03\x40\x00\x02\xff\xff\xff"),
        floods(b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        drips(b"\x16\x03\x03\x40\x00\x02\x00\x40\x00", b"\0"),
    ];
    for (name, setup) in setups {
        for words in words {
            try_again(|| {
                let (server, visits, _stop) = tcp_server(words);
                let proxy = setup(server).start();
                wait_for_visits(name, &visits, 1);
                assert_unmoved(name, proxy, &calm, b"")
            });
        }
    }
}

/// Clients: of which listener, and what they say.
const LISTENERS: [(&str, Talk); 10] = [
    ("metrics", floods(b"", b"x")),
    ("metrics", floods(b"GET / HTTP/1.1\r\n\r\n", b"more")),
    ("metrics", drips(b"GET / HTTP/1.1\r\n\r\n", b"more")),
    ("metrics", drips(b"GET / HTTP/1.1\r\n", b"x: y\r\n")),
    ("proxy", floods(b"", b"GET / HTTP/1.1\r\n\r\n")),
    // A hello that is not whole, in records of one byte.
    ("proxy", floods(b"\x16\x03\x01\x00\x04\x01\x00\x20\x00", b"\x16\x03\x01\x00\x01x")),
    ("proxy", drips(b"\x16\x03\x01\x20\x04\x01\x00\x20\x00\x03\x03", b"x")),
    ("header", floods(b"PROXY UNKNOWN", b" x")),
    ("header", floods(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff", b"x")),
    ("header", drips(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff", b"x")),
];

#[test]
fn no_client_of_any_listener_stops_the_proxy() {
    let calm = calm();
    let (front, _, _stop_front) = tcp_server(drips(b"HTTP/1.1 200 OK\r\n\r\n", b"x"));
    for (listener, words) in LISTENERS {
        try_again(|| {
            let metrics = socket::free_address();
            let setup = plain()
                .front(front)
                .set("stats.prometheus.enabled", "true")
                .set("stats.prometheus.bind-to", &metrics.to_string())
                .set("proxy-protocol-listener", &(listener == "header").to_string());
            let proxy = setup.start();
            let (address, stop) = (if listener == "metrics" { metrics } else { proxy.address }, Stop::default());
            for _ in 0..CLIENTS {
                let flag = stop.0.clone();
                thread::spawn(move || {
                    while !flag.load(Ordering::Relaxed) {
                        // Those that are cut come again.
                        let Ok(stream) = TcpStream::connect(address) else { continue };
                        talk(stream, words, &flag);
                    }
                });
            }
            thread::sleep(Duration::from_millis(100));
            let header: &[u8] = if listener == "header" { b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" } else { b"" };
            let pace = if words.pace == Pace::Floods { "floods" } else { "drips" };
            let unmoved = assert_unmoved(&format!("client of {listener} that {pace}"), proxy, &calm, header);
            assert!(!stop.is_set());
            unmoved
        });
    }
}

#[test]
fn no_server_stops_access_and_doctor() {
    let (stun, asked_for_address, _stop_stun) = udp_server(of_another);
    let (time, asked_for_time, _stop_time) = udp_server(of_another);
    let (front, visits, _stop_front) = tcp_server(floods(b"\x16\x03\x03\x40\x00", b"x"));
    let proxy = plain()
        .front(front)
        .dc(2, front)
        .set("network.stun-servers", &stun.to_string())
        .set("network.public-ip-urls", &format!("http://{front}/"))
        .start();
    let run = |args: &[&str], limit: Duration| {
        let started = Instant::now();
        let mut command = Command::new(binary());
        let command = command.args(args).arg(proxy.config_file()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let ended = socket::wait_for(&args.join(" "), DEADLINE * 3, || child.try_wait().unwrap());
        println!("{args:?}: {ended} after {:?}", started.elapsed());
        assert!(started.elapsed() < limit, "{args:?} takes {:?}", started.elapsed());
    };
    run(&["access"], DEADLINE);
    run(&["doctor", "--json", "--time-server", &time.to_string()], DEADLINE * 2);
    assert!(asked_for_address.load(Ordering::SeqCst) > 0 && asked_for_time.load(Ordering::SeqCst) > 0);
    assert!(visits.load(Ordering::SeqCst) > 0);
}

#[test]
fn slow_list_source_holds_up_neither_other_sources_nor_their_reload() {
    let (slow, visits, _stop) = tcp_server(drips(b"HTTP/1.1 200 OK\r\n\r\n", b"# slow\n"));
    let (good, _, _stop_good) =
        tcp_server(floods(b"HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n127.0.9.0/24\n\n", b"x"));
    let (other, _, _stop_other) =
        tcp_server(floods(b"HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n127.0.8.0/24\n\n", b"x"));
    let setup = Setup::new().set("defense.blocklist.enabled", "true").set("defense.blocklist.update-each", "1h");
    let with = |urls: &[SocketAddr]| {
        let urls: Vec<_> = urls.iter().map(|server| format!("http://{server}/")).collect();
        setup.clone().set("defense.blocklist.urls", &format!("{urls:?}"))
    };
    let proxy = with(&[slow, good]).start();
    wait_for_visits("the slow server", &visits, 1);
    let loaded = |proxy: &Proxy, server: SocketAddr| {
        proxy.log().contains(&format!("list loaded list=blocklist source=http://{server}/")).then_some(())
    };
    socket::wait_for("the good list beside the slow one", DEADLINE * 2, || loaded(&proxy, good));
    proxy.reload(&with(&[slow, other]));
    socket::wait_for("the list of a new configuration", DEADLINE, || loaded(&proxy, other));
    assert_eq!(visits.load(Ordering::SeqCst), 1, "the slow list is still being loaded");
}

#[test]
fn stderr_that_nobody_reads_stops_nothing_and_the_log_tells_what_is_missing() {
    let front = socket::free_address();
    let mut proxy = Setup::new().front(front).start();
    let address = proxy.address;
    // The front cannot be reached, so the answer is a reset. Each visit leaves some 200 bytes in the log.
    let visit = || {
        let mut stream = socket::connect(address);
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        assert_eq!(socket::read_to_end(&mut stream), (Vec::new(), End::Reset));
    };
    proxy.leave_log_unread(true);
    (0..1500).for_each(|_| visit());
    assert!(answer_time(address, b"") < DEADLINE);
    proxy.leave_log_unread(false);
    socket::wait_for("the number of missing lines", DEADLINE, || {
        proxy.log().contains("WARN log lines were left out, nobody has read them in time lines=").then_some(())
    });
    proxy.leave_log_unread(true);
    (0..1500).for_each(|_| visit());
    let started = Instant::now();
    proxy.terminate();
    let status = proxy.wait(DEADLINE);
    println!("the end after {:?}", started.elapsed());
    assert!(status.success(), "{status}");
    proxy.leave_log_unread(false);
}
