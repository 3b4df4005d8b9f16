//! Whoever is not a client talks to the front, byte for byte, and cannot tell that there is anything in between.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

use crate::support::client::{greet, greeted_over};
use crate::support::dc::EchoDc;
use crate::support::front::{FakeFront, Visit};
use crate::support::hello::{Hello, RANDOM, Shape, Signed};
use crate::support::obfuscated2::PADDED;
use crate::support::pattern::Pattern;
use crate::support::proxy::{Proxy, Setup};
use crate::support::socket::{self, End};
use crate::support::{KEY, random};

const MIB: u64 = 1 << 20;
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: front.example\r\n\r\n";

/// A proxy that waits for slow hellos for a second only.
fn fronting(front: &FakeFront) -> Proxy {
    Setup::new().front(front.address).set("network.timeout.handshake", "1s").start()
}

/// How much of `sent` is enough to know its visit by: the start of a TLS hello with its random, or a line of text.
fn start_of(sent: &[u8]) -> &[u8] {
    &sent[..sent.len().min(RANDOM.end)]
}

/// Sends `sent` and expects it at the front; then answers and expects the answer, and a second round after it.
fn assert_fronted(sent: &[u8]) {
    let front = FakeFront::listen();
    let proxy = fronting(&front);
    let mut client = socket::connect(proxy.address);
    client.write_all(sent).unwrap();
    assert_talks_to(&mut client, &front, sent);
}

fn assert_talks_to(client: &mut TcpStream, front: &FakeFront, sent: &[u8]) {
    let mut visit = front.visit(start_of(sent));
    visit.expect(sent);
    for round in 0..2 {
        visit.send(&Pattern::new(round).take(5000));
        Pattern::new(round).expect(&socket::read_exactly(client, 5000).unwrap());
        client.write_all(&Pattern::new(10 + round).take(3000)).unwrap();
        visit.expect(&Pattern::new(10 + round).take(3000));
    }
    visit.send(b"bye");
    drop(visit);
    assert_eq!(socket::read_to_end(client), (b"bye".to_vec(), End::Fin));
}

#[test]
fn http_is_fronted() {
    assert_fronted(REQUEST);
}

#[test]
fn garbage_is_fronted() {
    let mut garbage = random::<2000>();
    garbage[0] = 0x80;
    assert_fronted(&garbage);
}

#[test]
fn one_byte_that_no_hello_begins_with_is_fronted() {
    assert_fronted(b"X");
}

#[test]
fn garbage_that_begins_like_a_hello_is_fronted() {
    let mut garbage = random::<600>();
    garbage[..5].copy_from_slice(&[0x16, 0x03, 0x01, 0x02, 0x00]);
    assert_fronted(&garbage);
}

#[test]
fn hello_with_another_digest_is_fronted() {
    let mut sent = Hello::default().sign().wire;
    sent[RANDOM.start + 3] ^= 0x01;
    assert_fronted(&sent);
}

#[test]
fn hello_signed_with_another_key_is_fronted() {
    for shape in [Shape::Compact, Shape::Browser, Shape::Huge] {
        assert_fronted(&Hello { key: random(), shape, ..Hello::default() }.sign().wire);
    }
}

#[test]
fn hello_for_another_host_is_fronted() {
    for sni in ["other.example", "front.exampl", "front.example.org", "afront.example"] {
        assert_fronted(&Hello { sni: Some(sni.to_owned()), ..Hello::default() }.sign().wire);
    }
}

#[test]
fn hello_without_a_host_is_fronted() {
    assert_fronted(&Hello { sni: None, ..Hello::default() }.sign().wire);
}

#[test]
fn hello_with_a_clock_ten_minutes_off_is_fronted() {
    for clock_offset_secs in [600, -600] {
        assert_fronted(&Hello { clock_offset_secs, ..Hello::default() }.sign().wire);
    }
}

#[test]
fn hello_in_12_records_is_fronted() {
    assert_fronted(&Hello::default().sign().in_records(12));
}

#[test]
fn hello_of_more_than_16_kib_is_fronted() {
    // A record of the largest size, and a second one that the length of the handshake message asks for.
    let mut sent = vec![0x16, 0x03, 0x01, 0x40, 0x00, 0x01, 0x00, 0x5f, 0xfc, 0x03, 0x03];
    sent.extend(random::<32>());
    sent.resize(5 + 0x4000, 0x20);
    sent.extend([0x16, 0x03, 0x01, 0x20, 0x00]);
    sent.resize(5 + 0x4000 + 5 + 0x2000, 0x20);
    assert_fronted(&sent);
}

#[test]
fn handshake_that_is_no_client_hello_is_fronted() {
    let mut sent = Hello::default().sign().wire;
    sent[5] = 0x02;
    assert_fronted(&sent);
}

#[test]
fn hello_with_two_mibibytes_behind_it_is_fronted_whole() {
    let mut sent = Hello { key: random(), ..Hello::default() }.sign().wire;
    sent.extend(Pattern::new(1).take(2 << 20));
    assert_fronted(&sent);
}

#[test]
fn foreign_hello_in_pieces_is_fronted() {
    let front = FakeFront::listen();
    let proxy = fronting(&front);
    let sent = Hello { key: random(), ..Hello::default() }.sign().wire;
    let mut client = socket::connect(proxy.address);
    for piece in sent.chunks(10) {
        client.write_all(piece).unwrap();
        thread::sleep(Duration::from_millis(2));
    }
    assert_talks_to(&mut client, &front, &sent);
}

#[test]
fn replayed_hello_is_fronted() {
    let (dc, front) = (EchoDc::listen(), FakeFront::listen());
    let proxy = Setup::new().front(front.address).dc(2, dc.address).start();
    let hello = Hello::default().sign();
    let mut client = socket::connect(proxy.address);
    client.write_all(&hello.wire).unwrap();
    greet(client, &hello, &KEY).unwrap().open(PADDED, 2).ping(100, 1);
    for _ in 0..2 {
        let mut replayer = socket::connect(proxy.address);
        replayer.write_all(&hello.wire).unwrap();
        assert_talks_to(&mut replayer, &front, &hello.wire);
    }
    // The replay protection does not stand in the way of others.
    greeted_over(socket::connect(proxy.address), &Hello::default()).unwrap().open(PADDED, 2).ping(100, 1);
}

#[test]
fn replay_in_other_records_is_fronted() {
    let front = FakeFront::listen();
    let proxy = fronting(&front);
    let hello = Hello::default().sign();
    let mut client = socket::connect(proxy.address);
    client.write_all(&hello.wire).unwrap();
    let _greeted = greet(client, &hello, &KEY).unwrap();
    let mut replayer = socket::connect(proxy.address);
    replayer.write_all(&hello.in_records(2)).unwrap();
    assert_talks_to(&mut replayer, &front, &hello.in_records(2));
}

#[test]
fn half_a_hello_and_silence_is_fronted() {
    assert_fronted(&Hello::default().sign().wire[..300]);
}

#[test]
fn first_byte_of_a_hello_and_silence_is_fronted() {
    let front = FakeFront::listen();
    let proxy = fronting(&front);
    let mut client = socket::connect(proxy.address);
    client.write_all(&[0x16]).unwrap();
    thread::sleep(Duration::from_millis(1500));
    // What follows makes the visit known; a proxy that gave up at the time limit would have closed by now.
    let rest = random::<64>();
    client.write_all(&rest).unwrap();
    assert_talks_to(&mut client, &front, &[&[0x16], &rest[..]].concat());
}

#[test]
fn half_a_hello_and_a_half_close_is_fronted() {
    let front = FakeFront::listen();
    let proxy = fronting(&front);
    let sent = &Hello::default().sign().wire[..300];
    let mut client = socket::connect(proxy.address);
    client.write_all(sent).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut visit = front.visit(start_of(sent));
    visit.expect(sent);
    assert_eq!(visit.expect_end(), End::Fin);
    visit.send(b"alert");
    drop(visit);
    assert_eq!(socket::read_to_end(&mut client), (b"alert".to_vec(), End::Fin));
}

/// A client that has sent all of its hello but the last `held_back` bytes, and its visit at the front, which has got
/// them.
fn undecided(proxy: &Proxy, front: &FakeFront, hello: &Signed, held_back: usize) -> (TcpStream, Visit) {
    let sent = &hello.wire[..hello.wire.len() - held_back];
    let mut client = socket::connect(proxy.address);
    client.write_all(sent).unwrap();
    let mut visit = front.visit(start_of(sent));
    visit.expect(sent);
    (client, visit)
}

#[test]
fn slow_hello_of_a_client_is_served_and_never_whole_at_the_front() {
    let (dc, front) = (EchoDc::listen(), FakeFront::listen());
    let proxy = Setup::new().front(front.address).dc(2, dc.address).set("network.timeout.handshake", "1s").start();
    for (shape, held_back) in [(Shape::Compact, 1), (Shape::Browser, 700)] {
        let hello = Hello { shape, ..Hello::default() }.sign();
        let (mut client, mut visit) = undecided(&proxy, &front, &hello, held_back);
        // Longer than a hello without a shadow may take.
        socket::assert_open_and_silent(&client, Duration::from_millis(1500));
        client.write_all(&hello.wire[hello.wire.len() - held_back..]).unwrap();
        greet(client, &hello, &KEY).unwrap().open(PADDED, 2).ping(1000, 1);
        assert_eq!(visit.expect_end(), End::Fin);
    }
}

#[test]
fn slow_hello_of_a_stranger_reaches_the_front_byte_by_byte() {
    let front = FakeFront::listen();
    let proxy = fronting(&front);
    let hello = Hello { key: random(), ..Hello::default() }.sign();
    let (mut client, mut visit) = undecided(&proxy, &front, &hello, 3);
    let (last, rest) = hello.wire.split_last().unwrap();
    for byte in &rest[rest.len() - 2..] {
        client.write_all(&[*byte]).unwrap();
        visit.expect(&[*byte]);
    }
    client.write_all(&[*last]).unwrap();
    visit.expect(&[*last]);
    visit.send(b"bye");
    drop(visit);
    assert_eq!(socket::read_to_end(&mut client), (b"bye".to_vec(), End::Fin));
}

#[test]
fn front_that_ends_a_half_hello_has_the_last_word() {
    let front = FakeFront::listen();
    let proxy = fronting(&front);
    let hello = Hello::default().sign();
    let (mut client, visit) = undecided(&proxy, &front, &hello, 10);
    drop(visit);
    assert_eq!(socket::read_to_end(&mut client), (Vec::new(), End::Fin));

    let (mut client, visit) = undecided(&proxy, &front, &hello, 10);
    visit.reset();
    assert_eq!(socket::read_to_end(&mut client), (Vec::new(), End::Reset));

    let (mut client, mut visit) = undecided(&proxy, &front, &hello, 10);
    visit.send(b"alert");
    assert_eq!(socket::read_exactly(&mut client, 5).unwrap(), b"alert");
    // The front has spoken: the hello is its business now, even if it is a client's.
    client.write_all(&hello.wire[hello.wire.len() - 10..]).unwrap();
    visit.expect(&hello.wire[hello.wire.len() - 10..]);
}

#[test]
fn stranger_that_resets_a_half_hello_resets_the_front() {
    let front = FakeFront::listen();
    let proxy = fronting(&front);
    let (client, mut visit) = undecided(&proxy, &front, &Hello::default().sign(), 10);
    socket::reset(client);
    assert_eq!(visit.expect_end(), End::Reset);
}

#[test]
fn slow_hello_is_served_when_the_front_is_away() {
    let dc = EchoDc::listen();
    let proxy = Setup::new().dc(2, dc.address).start();
    let hello = Hello::default().sign();
    let mut client = socket::connect(proxy.address);
    client.write_all(&hello.wire[..100]).unwrap();
    socket::assert_open_and_silent(&client, Duration::from_millis(500));
    client.write_all(&hello.wire[100..]).unwrap();
    greet(client, &hello, &KEY).unwrap().open(PADDED, 2).ping(1000, 1);
}

#[test]
fn request_after_long_silence_is_fronted() {
    let front = FakeFront::listen();
    let proxy = fronting(&front);
    let mut client = socket::connect(proxy.address);
    socket::assert_open_and_silent(&client, Duration::from_millis(2500));
    client.write_all(REQUEST).unwrap();
    assert_talks_to(&mut client, &front, REQUEST);
}

#[test]
fn fronted_connection_may_pause_longer_than_the_handshake_limit() {
    let front = FakeFront::listen();
    let proxy = fronting(&front);
    let (mut client, mut visit) = connected(&proxy, &front);
    socket::assert_open_and_silent(&client, Duration::from_millis(2500));
    visit.send(b"late");
    assert_eq!(socket::read_exactly(&mut client, 4).unwrap(), b"late");
    client.write_all(b"later").unwrap();
    visit.expect(b"later");
}

/// A client whose request has reached the front.
fn connected(proxy: &Proxy, front: &FakeFront) -> (TcpStream, Visit) {
    let mut client = socket::connect(proxy.address);
    client.write_all(REQUEST).unwrap();
    let mut visit = front.visit(REQUEST);
    visit.expect(REQUEST);
    (client, visit)
}

#[test]
fn large_answer_comes_back_unchanged() {
    let front = FakeFront::listen();
    let proxy = fronting(&front);
    let (mut client, mut visit) = connected(&proxy, &front);
    let server = thread::spawn(move || {
        let mut pattern = Pattern::new(1);
        while pattern.position() < 4 * MIB {
            visit.send(&pattern.take(0x1_0000));
        }
    });
    let (answer, end) = socket::read_to_end(&mut client);
    server.join().unwrap();
    assert_eq!((answer.len() as u64, end), (4 * MIB, End::Fin));
    Pattern::new(1).expect(&answer);
}

#[test]
fn half_close_of_a_stranger_reaches_the_front_and_its_answer_comes_back() {
    let front = FakeFront::listen();
    let proxy = fronting(&front);
    let (mut client, mut visit) = connected(&proxy, &front);
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(visit.expect_end(), End::Fin);
    let server = thread::spawn(move || visit.send(&Pattern::new(2).take(MIB as usize)));
    let (answer, end) = socket::read_to_end(&mut client);
    server.join().unwrap();
    assert_eq!((answer.len() as u64, end), (MIB, End::Fin));
    Pattern::new(2).expect(&answer);
}

#[test]
fn half_close_of_the_front_leaves_the_other_direction_open() {
    let front = FakeFront::listen();
    let proxy = fronting(&front);
    let (mut client, mut visit) = connected(&proxy, &front);
    visit.send(b"bye");
    visit.half_close();
    assert_eq!(socket::read_to_end(&mut client), (b"bye".to_vec(), End::Fin));
    let upload = Pattern::new(3).take(MIB as usize);
    let server = thread::spawn(move || {
        visit.expect(&Pattern::new(3).take(MIB as usize));
        assert_eq!(visit.expect_end(), End::Fin);
    });
    client.write_all(&upload).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    server.join().unwrap();
}

#[test]
fn reset_of_the_front_resets_the_stranger() {
    let front = FakeFront::listen();
    let proxy = fronting(&front);
    let (mut client, visit) = connected(&proxy, &front);
    visit.reset();
    assert_eq!(socket::read_to_end(&mut client), (Vec::new(), End::Reset));
}

#[test]
fn stranger_that_goes_on_after_the_front_has_closed_is_reset() {
    let front = FakeFront::listen();
    let proxy = fronting(&front);
    let (mut client, visit) = connected(&proxy, &front);
    drop(visit);
    assert_eq!(socket::read_to_end(&mut client), (Vec::new(), End::Fin));
    // The first byte is answered with the reset that the second one meets, as by a closed socket of the front's own.
    client.write_all(b"x").unwrap();
    let is_reset = || client.write_all(b"x").err().filter(socket::is_reset).map(|_| ());
    socket::wait_for("a reset", Duration::from_secs(5), is_reset);
}

#[test]
fn reset_of_the_stranger_resets_the_front() {
    let front = FakeFront::listen();
    let proxy = fronting(&front);
    let (client, mut visit) = connected(&proxy, &front);
    socket::reset(client);
    assert_eq!(visit.expect_end(), End::Reset);
}

#[test]
fn close_of_the_front_closes_the_stranger() {
    let front = FakeFront::listen();
    let proxy = fronting(&front);
    let (mut client, visit) = connected(&proxy, &front);
    drop(visit);
    assert_eq!(socket::read_to_end(&mut client), (Vec::new(), End::Fin));
}

#[test]
fn front_that_refuses_ends_the_connection() {
    let proxy = Setup::new().start();
    let mut client = socket::connect(proxy.address);
    client.write_all(REQUEST).unwrap();
    assert_eq!(socket::read_to_end(&mut client).0, b"");
}

#[test]
fn silent_peer_has_its_connection_to_the_front_which_decides_its_end() {
    let front = FakeFront::listen();
    let proxy = fronting(&front);
    let mut client = socket::connect(proxy.address);
    let visit = front.silent_visit();
    socket::assert_open_and_silent(&client, Duration::from_millis(1500));
    drop(visit);
    assert_eq!(socket::read_to_end(&mut client), (Vec::new(), End::Fin));

    let mut client = socket::connect(proxy.address);
    front.silent_visit().reset();
    assert_eq!(socket::read_to_end(&mut client), (Vec::new(), End::Reset));

    // A front that speaks first.
    let mut client = socket::connect(proxy.address);
    let mut visit = front.silent_visit();
    visit.send(b"220 ready");
    assert_eq!(socket::read_exactly(&mut client, 9).unwrap(), b"220 ready");
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(visit.expect_end(), End::Fin);
}

#[test]
fn half_a_hello_after_silence_goes_where_the_silence_went() {
    let (dc, front) = (EchoDc::listen(), FakeFront::listen());
    let proxy = Setup::new().front(front.address).dc(2, dc.address).start();
    let hello = Hello::default().sign();
    let mut client = socket::connect(proxy.address);
    let mut visit = front.silent_visit();
    client.write_all(&hello.wire[..200]).unwrap();
    visit.expect(&hello.wire[..200]);
    // If it is a client after all, the front sees an end in order.
    client.write_all(&hello.wire[200..]).unwrap();
    greet(client, &hello, &KEY).unwrap().open(PADDED, 2).ping(1000, 1);
    assert_eq!(visit.expect_end(), End::Fin);
}

#[test]
fn hello_that_comes_with_the_connection_causes_no_visit() {
    let (dc, front) = (EchoDc::listen(), FakeFront::listen());
    let proxy = Setup::new().front(front.address).dc(2, dc.address).start();
    // A busy machine may be late now and then.
    let is_visited = |_| {
        let hello = Hello::default().sign();
        let mut client = socket::connect(proxy.address);
        client.write_all(&hello.wire).unwrap();
        greet(client, &hello, &KEY).unwrap().open(PADDED, 2).ping(100, 1);
        front.count_of(&[&hello.wire[..20]]) > 0
    };
    assert!((0..20).map(is_visited).filter(|&is_visited| is_visited).count() < 5);
}

#[test]
fn silent_peer_is_reset_like_others_when_the_front_is_away() {
    let proxy = Setup::new().set("network.timeout.handshake", "1s").start();
    let mut client = socket::connect(proxy.address);
    assert_eq!(socket::read_to_end(&mut client), (Vec::new(), End::Reset));
}

#[test]
fn end_before_any_byte_causes_no_visit() {
    let front = FakeFront::listen();
    let proxy = fronting(&front);
    let mut half_closed = socket::connect(proxy.address);
    half_closed.shutdown(Shutdown::Write).unwrap();
    drop(socket::connect(proxy.address));
    socket::reset(socket::connect(proxy.address));
    assert_eq!(socket::read_to_end(&mut half_closed).0, b"", "bytes for somebody silent");
    // A visit that follows them shows that theirs would have been seen.
    let _later = connected(&proxy, &front);
    assert_eq!(front.count_of(&[]), 0, "the front was visited by somebody silent");
}
