//! What passes between two ends arrives, whatever they do with their sockets, and costs bounded memory.

use std::io::{ErrorKind, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, sockopt};

use crate::support::client::{Session, greeted_over, session};
use crate::support::dc::{DcStream, EchoDc, FakeDc};
use crate::support::front::FakeFront;
use crate::support::hello::Hello;
use crate::support::obfuscated2::PADDED;
use crate::support::pattern::Pattern;
use crate::support::proxy::{Proxy, Setup};
use crate::support::socket::{self, End};
use crate::support::{DEADLINE, MAX_RECORD, random};

/// The smallest receive buffer that the kernel gives.
const TINY: usize = 2304;

fn tcp_socket(receive_buffer: usize) -> rustix::fd::OwnedFd {
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    sockopt::set_socket_recv_buffer_size(&socket, receive_buffer).unwrap();
    socket
}

/// A connection whose receive window is tiny from its start.
fn connect_tiny(to: SocketAddr) -> TcpStream {
    let socket = tcp_socket(TINY);
    rustix::net::connect(&socket, &to).unwrap();
    let stream = TcpStream::from(socket);
    socket::with_deadlines(&stream, DEADLINE);
    stream
}

/// A listener whose connections have tiny receive windows.
fn listen_tiny() -> TcpListener {
    let socket = tcp_socket(TINY);
    rustix::net::bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).unwrap();
    rustix::net::listen(&socket, 1024).unwrap();
    TcpListener::from(socket)
}

fn session_over(stream: TcpStream, dc: i16) -> Session {
    greeted_over(stream, &Hello::default()).unwrap().open(PADDED, dc)
}

#[test]
fn urgent_data_leaves_nothing_unread() {
    let front = FakeFront::listen();
    let proxy = Setup::new().front(front.address).start();
    for round in 0..20 {
        let start = format!("GET /{round} HTTP/1.1\r\n");
        let mut stranger = socket::connect(proxy.address);
        stranger.write_all(start.as_bytes()).unwrap();
        let mut visit = front.visit(start.as_bytes());
        visit.expect(start.as_bytes());
        // One wake-up for all of it, as often as not: bytes, an urgent one, and more behind it.
        rustix::net::send(&stranger, b"before!", SendFlags::OOB).unwrap();
        stranger.write_all(b"behind").unwrap();
        // What a web server reads that does not ask for the urgent byte.
        visit.expect(b"beforebehind");
        visit.send(b"answer");
        assert_eq!(socket::read_exactly(&mut stranger, 6).unwrap(), b"answer");
    }
}

#[test]
fn tiny_windows_pass_every_byte_both_ways() {
    for fast in ["true", "false"] {
        let dc = FakeDc::from(listen_tiny());
        let proxy = Setup::new().dc(2, dc.address).set("fast-mode", fast).start();
        let mut client = session_over(connect_tiny(proxy.address), 2);
        let mut stream = dc.accept();
        let far = thread::spawn(move || {
            stream.send_pattern(&mut Pattern::new(1), 300_000);
            stream.half_close();
            stream.expect_to_end(&mut Pattern::new(2), 200_000);
        });
        client.download.expect_to_end(&mut Pattern::new(1), 300_000);
        client.upload.send(&Pattern::new(2).take(200_000));
        client.upload.half_close();
        far.join().unwrap();
    }
}

#[test]
fn records_cut_at_every_byte_are_put_together() {
    let dc = FakeDc::listen();
    let proxy = Setup::new().dc(2, dc.address).start();
    let mut client = session(proxy.address, 2);
    let mut stream = dc.accept();
    let (mut sent, mut received) = (Pattern::new(1), Pattern::new(1));
    client.upload.record = 7;
    // Three records of 7, 7 and 6 bytes, with their headers.
    for cut in 1..35 {
        let wire = client.upload.seal(&sent.take(20));
        assert_eq!(wire.len(), 35);
        client.upload.send_raw(&wire[..cut]);
        // The relay has to see the parts one by one.
        let whole = cut / 12 * 7 + (cut % 12).saturating_sub(5);
        received.expect(&stream.receive(whole));
        client.upload.send_raw(&wire[cut..]);
        received.expect(&stream.receive(20 - whole));
    }
}

#[test]
fn bytes_that_come_with_the_fin_arrive_before_it() {
    let dc = FakeDc::listen();
    let proxy = Setup::new().dc(2, dc.address).start();
    for round in 0..100 {
        let mut client = session(proxy.address, 2);
        let mut stream = dc.accept();
        stream.send(&Pattern::new(round).take(300));
        stream.half_close();
        client.upload.send(&Pattern::new(round).take(300));
        client.upload.half_close();
        client.download.expect_to_end(&mut Pattern::new(round), 300);
        stream.expect_to_end(&mut Pattern::new(round), 300);
    }
}

/// A packet of the (padded) intermediate transport.
fn packet(len: usize) -> Vec<u8> {
    [&(len as u32).to_le_bytes()[..], &vec![0x55; len]].concat()
}

#[test]
fn no_record_is_shorter_or_longer_than_those_of_tls_1_3() {
    let acknowledgement = [1, 2, 3, 0x80];
    for settings in [&[("fast-mode", "true")][..], &[("fast-mode", "false")], &[("defense.doppelganger.drs", "true")]] {
        let dc = FakeDc::listen();
        let setup = settings.iter().fold(Setup::new().dc(2, dc.address), |setup, (key, value)| setup.set(key, value));
        let proxy = setup.start();
        let mut client = session(proxy.address, 2);
        let mut stream = dc.accept();
        for tail in (1..40).step_by(3) {
            // An answer whose last bytes come late, one that ends just past a whole record, an acknowledgement and then
            // the answer to it; the relay has to see the parts one by one.
            let (late, long) = (packet(100 + tail), packet(2 * MAX_RECORD + tail));
            let parts = [&late[..104], &late[104..], &long, &acknowledgement, &packet(20)];
            for part in parts {
                stream.send(part);
                thread::sleep(Duration::from_millis(5));
            }
            let sent = parts.concat();
            assert_eq!(client.download.receive(sent.len()).unwrap(), sent);
        }
        let records = &client.download.records;
        assert!(records.iter().all(|size| (17..=MAX_RECORD).contains(size)), "{settings:?}: {records:?}");
        assert!(records.contains(&MAX_RECORD) || settings[0].0 == "defense.doppelganger.drs", "{records:?}");
    }
}

#[test]
fn error_of_the_transport_is_the_last_that_a_client_gets() {
    let dc = FakeDc::listen();
    let proxy = Setup::new().dc(2, dc.address).start();
    let mut client = session(proxy.address, 2);
    let mut stream = dc.accept();
    let error = [4, 0, 0, 0, 0x6c, 0xfe, 0xff, 0xff];
    stream.send(&error);
    assert_eq!(client.download.receive(error.len()).unwrap(), error);
    // As long as the alert that ends a connection of a web server.
    assert_eq!(client.download.records, [19]);
    client.download.receive(19 - error.len()).unwrap();
    assert_eq!(client.download.expect_end(), End::Fin);
}

#[test]
fn reset_in_the_middle_of_a_record_ends_only_its_connection() {
    let dc = FakeDc::listen();
    let proxy = Setup::new().dc(2, dc.address).start();
    let mut other = session(proxy.address, 2);
    let mut others = dc.accept();
    for cut in [1, 4, 5, 6, 700, 1004] {
        let mut client = session(proxy.address, 2);
        let mut stream = dc.accept();
        client.upload.record = 1000;
        let wire = client.upload.seal(&[0x55; 1000]);
        client.upload.send_raw(&wire[..cut]);
        assert_eq!(stream.receive(cut.saturating_sub(5)), vec![0x55; cut.saturating_sub(5)]);
        client.reset();
        stream.expect_end();
        other.upload.send(b"still here");
        assert_eq!(others.receive(10), b"still here");
    }
}

#[test]
fn idle_connection_is_closed_and_a_byte_a_second_keeps_one_open() {
    let dc = FakeDc::listen();
    let proxy = Setup::new().dc(2, dc.address).set("network.timeout.idle", "3s").set("threads", "1").start();
    let mut slow = session(proxy.address, 2);
    let mut slows = dc.accept();
    let mut idle = session(proxy.address, 2);
    let mut idles = dc.accept();
    let started = Instant::now();
    slow.upload.record = 8;
    let wire = slow.upload.seal(b"8 bytes.");
    for byte in &wire {
        slow.upload.send_raw(&[*byte]);
        thread::sleep(Duration::from_millis(700));
    }
    assert!(started.elapsed() > Duration::from_secs(8));
    assert_eq!(slows.receive(8), b"8 bytes.");
    idle.download.expect_end();
    idles.expect_end();
    slow.download.expect_end();
    slows.expect_end();
}

/// Runs `test` while so many downloads go on as fast as they can; each has brought something before.
fn beside_downloads(count: usize, proxy: &Proxy, bulk: &FakeDc, test: impl FnOnce()) {
    let (stop, under_way) = (AtomicBool::new(false), Barrier::new(count + 1));
    thread::scope(|scope| {
        for _ in 0..count {
            let mut client = session(proxy.address, 2);
            let mut stream = bulk.accept();
            let (stop, under_way) = (&stop, &under_way);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    stream.send(&[0; 0x1_0000]);
                }
                stream.half_close();
            });
            scope.spawn(move || {
                let first = client.download.receive(0x10_0000);
                under_way.wait();
                first.unwrap();
                while client.download.receive(0x1_0000).is_ok() {}
            });
        }
        under_way.wait();
        let tested = std::panic::catch_unwind(std::panic::AssertUnwindSafe(test));
        stop.store(true, Ordering::Relaxed);
        tested.unwrap_or_else(|fault| std::panic::resume_unwind(fault));
    });
}

/// Says how long one in two of these takes at most. The machine may stop any of them for as long as it likes.
fn median_of(count: u64, mut once: impl FnMut(u64)) -> Duration {
    let mut times: Vec<_> = (0..count)
        .map(|number| {
            let started = Instant::now();
            once(number);
            started.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[times.len() / 2]
}

#[test]
fn bulk_does_not_hold_up_messages_on_the_same_thread() {
    let (bulk, echo) = (FakeDc::listen(), EchoDc::listen());
    let proxy = Setup::new().dc(2, bulk.address).dc(4, echo.address).set("threads", "1").start();
    beside_downloads(4, &proxy, &bulk, || {
        let mut client = session(proxy.address, 4);
        let usual = median_of(100, |number| client.ping(100, number));
        assert!(usual < Duration::from_secs(1), "one message in two took {usual:?}");
    });
}

#[test]
fn stranger_is_answered_beside_fifty_downloads_on_the_same_thread() {
    let (bulk, front) = (FakeDc::listen(), FakeFront::listen());
    let proxy = Setup::new().dc(2, bulk.address).front(front.address).set("threads", "1").start();
    beside_downloads(50, &proxy, &bulk, || {
        let mut stranger = socket::connect(proxy.address);
        stranger.write_all(b"GET / HTTP/1.1\r\n").unwrap();
        let mut visit = front.visit(b"GET / HTTP/1.1\r\n");
        visit.expect(b"GET / HTTP/1.1\r\n");
        let usual = median_of(50, |_| {
            stranger.write_all(b"question").unwrap();
            visit.expect(b"question");
            visit.send(b"answer");
            assert_eq!(socket::read_exactly(&mut stranger, 6).unwrap(), b"answer");
        });
        assert!(usual < Duration::from_secs(2), "one answer in two took {usual:?}");
    });
}

#[test]
fn ten_thousand_connections_leave_no_file_and_no_memory() {
    let dc = EchoDc::listen();
    let proxy = Setup::new().dc(2, dc.address).set("log-level", "warn").start();
    let crowd = |count: usize| {
        for _ in 0..count / 100 {
            let mut clients: Vec<_> = (0..100).map(|_| session(proxy.address, 2)).collect();
            for (number, mut client) in clients.drain(..).enumerate() {
                client.ping(200, number as u64);
                if number % 2 == 0 { client.reset() } else { drop(client) }
            }
        }
    };
    let files = proxy.open_files();
    crowd(2000);
    proxy.wait_for_open_files(files + 2);
    let memory = proxy.memory_kib();
    crowd(8000);
    proxy.wait_for_open_files(files + 2);
    let growth = proxy.memory_kib().saturating_sub(memory);
    // The table of seen handshakes is a part of that.
    assert!(growth < 3 * 1024, "the proxy grew by {growth} KiB");
    assert_eq!(dc.served(), 10_000);
}

/// Clients and strangers that are sent more than their sockets hold and that never read.
struct Stuck {
    peers: Vec<TcpStream>,
    clients: Vec<(Session, DcStream)>,
    fronts: Vec<TcpStream>,
}

impl Stuck {
    fn new(count: (usize, usize), proxy: &Proxy, dc: &FakeDc, front: &TcpListener) -> Self {
        let (mut peers, mut clients, mut fronts) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..count.0 {
            let client = session_over(connect_tiny(proxy.address), 2);
            clients.push((client, dc.accept()));
        }
        for _ in 0..count.1 {
            let mut peer = connect_tiny(proxy.address);
            peer.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
            peers.push(peer);
            let visit = socket::accept(front, DEADLINE).unwrap();
            visit.set_nonblocking(true).unwrap();
            fronts.push(visit);
        }
        Self { peers, clients, fronts }
    }

    /// Fills all sockets. The relay closes some; that shows as an error and is counted.
    fn fill(&mut self) -> usize {
        let (noise, mut closed) = (random::<0x4000>(), 0);
        let far = self.clients.iter_mut().map(|(_, stream)| stream.socket()).chain(self.fronts.iter_mut());
        for stream in far {
            stream.set_nonblocking(true).unwrap();
            loop {
                match stream.write(&noise) {
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(_) => {
                        closed += 1;
                        break;
                    }
                }
            }
        }
        closed
    }
}

#[test]
fn peers_that_do_not_read_cost_bounded_memory_and_nobody_else_starves() {
    let (dc, echo) = (FakeDc::listen(), EchoDc::listen());
    let front = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let proxy = Setup::new()
        .front(front.local_addr().unwrap())
        .dc(2, dc.address)
        .dc(4, echo.address)
        .set("handshakes-per-ip", "0")
        .set("log-level", "warn")
        .set("threads", "1")
        // 2 MiB for bytes on their way, half a MiB of it for strangers: less than buffers of 16 KiB would take.
        .set("memory", "4MB")
        .start();
    let mut good = session(proxy.address, 4);
    good.ping(300_000, 1);
    let before = proxy.memory_kib();
    let mut stuck = Stuck::new((160, 240), &proxy, &dc, &front);
    let mut closed = 0;
    for round in 0..10 {
        closed = closed.max(stuck.fill());
        good.ping(300_000, round);
    }
    let growth = proxy.peak_memory_kib().saturating_sub(before);
    assert!(growth < 6 * 1024, "the proxy grew by {growth} KiB");
    assert!(growth > 1024, "the proxy grew by {growth} KiB only, so nobody was stuck");
    assert!(closed < 100, "{closed} of 400 connections were closed to make room");
    let mut newcomer = session(proxy.address, 4);
    newcomer.ping(300_000, 3);
    println!("grew by {growth} KiB, {closed} closed");
    stuck.peers.iter().for_each(|peer| drop(peer.shutdown(Shutdown::Both)));
}

#[test]
fn fewer_connections_are_admitted_where_memory_is_short() {
    let dc = EchoDc::listen();
    // Room for 64 connections, half of them strangers.
    let proxy = Setup::new().dc(2, dc.address).set("memory", "512KB").start();
    let mut clients: Vec<_> = (0..64)
        .map(|_| {
            let mut client = session(proxy.address, 2);
            client.ping(10, 1);
            client
        })
        .collect();
    let mut refused = socket::connect(proxy.address);
    assert_eq!(socket::read_to_end(&mut refused), (Vec::new(), End::Fin));
    assert!(proxy.log().contains("by memory"), "{}", proxy.log());
    clients.iter_mut().for_each(|client| client.ping(10_000, 2));
}
