//! Clients with the right secret get through to their data centre, whatever way their bytes arrive in.

use std::io::Write;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::client::{self, CHANGE_CIPHER_SPEC, Session, greet, greeted, greeted_over, session};
use crate::support::dc::{EchoDc, FakeDc};
use crate::support::front::FakeFront;
use crate::support::hello::{Hello, Recorded, Shape, Signed};
use crate::support::obfuscated2::{ABRIDGED, INTERMEDIATE, PADDED};
use crate::support::pattern::Pattern;
use crate::support::proxy::{Proxy, Setup};
use crate::support::socket::{self, End};
use crate::support::{self, HOST, KEY, MAX_RECORD};

const MIB: u64 = 1 << 20;

fn serving(dc: &FakeDc) -> Proxy {
    Setup::new().dc(2, dc.address).start()
}

fn echoing(dc: &EchoDc) -> Proxy {
    Setup::new().dc(2, dc.address).start()
}

/// Sends the bytes of a hello as `send` does and expects to be served.
fn assert_served(proxy: &Proxy, hello: &Signed, send: impl FnOnce(&mut std::net::TcpStream)) {
    let mut stream = socket::connect(proxy.address);
    send(&mut stream);
    greet(stream, hello, &KEY).unwrap().open(PADDED, 2).ping(1000, 1);
}

#[test]
fn each_dc_number_reaches_its_dc_with_its_sign() {
    let dcs = [1, 2, 3, 4, 5, 203].map(|number| (number, FakeDc::listen()));
    let setup = dcs.iter().fold(Setup::new(), |setup, (number, dc)| setup.dc(*number, dc.address));
    let proxy = setup.start();
    for (number, dc) in &dcs {
        for signed in [*number as i16, -(*number as i16)] {
            let mut client = session(proxy.address, signed);
            client.upload.send(b"question");
            let mut stream = dc.accept();
            assert_eq!((stream.dc, stream.tag), (signed, PADDED));
            assert_eq!(stream.receive(8), b"question");
            stream.send(b"answer");
            assert_eq!(client.download.receive(6).unwrap(), b"answer");
        }
    }
}

#[test]
fn dc_number_zero_is_dc_2() {
    let dc = FakeDc::listen();
    let proxy = serving(&dc);
    let _client = session(proxy.address, 0);
    assert_eq!(dc.accept().dc, 2);
}

#[test]
fn every_transport_tag_is_passed_on() {
    let dc = FakeDc::listen();
    let proxy = serving(&dc);
    for tag in [PADDED, INTERMEDIATE, ABRIDGED] {
        let mut client = greeted(proxy.address).unwrap().open(tag, 2);
        let mut stream = dc.accept();
        assert_eq!((stream.dc, stream.tag), (2, tag));
        client.upload.send(b"question");
        assert_eq!(stream.receive(8), b"question");
        stream.send(b"a long enough answer");
        assert_eq!(client.download.receive(20).unwrap(), b"a long enough answer");
    }
}

#[test]
fn fast_mode_hands_the_client_key_to_the_dc_and_slow_mode_does_not() {
    for fast in [true, false] {
        let dc = FakeDc::listen();
        let proxy = Setup::new().dc(2, dc.address).set("fast-mode", &fast.to_string()).start();
        let client = session(proxy.address, 2);
        assert_eq!(dc.accept().download_key == client.download_key, fast, "fast-mode = {fast}");
    }
}

#[test]
fn hybrid_key_share_hello_is_served() {
    let dc = EchoDc::listen();
    let proxy = echoing(&dc);
    let hello = Hello { shape: Shape::Browser, ..Hello::default() };
    greeted_over(socket::connect(proxy.address), &hello).unwrap().open(PADDED, 2).ping(1000, 1);
}

#[test]
fn hello_of_16000_bytes_is_served() {
    let dc = EchoDc::listen();
    let proxy = echoing(&dc);
    let hello = Hello { shape: Shape::Huge, ..Hello::default() }.sign();
    assert_eq!(hello.wire.len(), 16_000);
    assert_served(&proxy, &hello, |stream| stream.write_all(&hello.wire).unwrap());
}

#[test]
fn recorded_hellos_of_real_clients_are_served() {
    let dc = EchoDc::listen();
    let mut all = Recorded::all();
    all.sort_by(|a, b| a.host.cmp(&b.host));
    for recorded in all.chunk_by(|a, b| a.host == b.host) {
        let proxy = Setup::new().secret(&KEY, &recorded[0].host).dc(2, dc.address).start();
        for recorded in recorded {
            let hello = Signed::again(&recorded.wire(), &KEY);
            assert_served(&proxy, &hello, |stream| stream.write_all(&hello.wire).unwrap());
        }
    }
    assert_eq!(dc.served(), all.len());
}

#[test]
fn hello_one_byte_at_a_time_is_served() {
    let (dc, front) = (EchoDc::listen(), FakeFront::listen());
    let proxy = Setup::new().front(front.address).dc(2, dc.address).start();
    for shape in [Shape::Compact, Shape::Browser] {
        let hello = Hello { shape, ..Hello::default() }.sign();
        assert_served(&proxy, &hello, |stream| {
            for byte in &hello.wire {
                stream.write_all(&[*byte]).unwrap();
                thread::sleep(Duration::from_micros(300));
            }
        });
    }
}

#[test]
fn hello_that_pauses_is_served() {
    let (dc, front) = (EchoDc::listen(), FakeFront::listen());
    let proxy = Setup::new().front(front.address).dc(2, dc.address).start();
    let hello = Hello::default().sign();
    let (first, second) = hello.wire.split_at(300);
    assert_served(&proxy, &hello, |stream| {
        stream.write_all(first).unwrap();
        // Long enough for the front to have seen the first part by now.
        thread::sleep(Duration::from_secs(2));
        stream.write_all(second).unwrap();
    });
}

#[test]
fn hello_in_up_to_11_records_is_served() {
    let dc = EchoDc::listen();
    let proxy = echoing(&dc);
    for records in [2, 3, 10, 11] {
        let hello = Hello::default().sign();
        assert_served(&proxy, &hello, |stream| stream.write_all(&hello.in_records(records)).unwrap());
    }
}

#[test]
fn hello_with_a_first_record_of_one_byte_is_served() {
    let dc = EchoDc::listen();
    let proxy = echoing(&dc);
    for first in [1, 3, 4, 42] {
        let hello = Hello::default().sign();
        let payload = &hello.wire[5..];
        let len = (payload.len() - first) as u16;
        let start = [&[0x16, 0x03, 0x01, 0x00, first as u8], &payload[..first]].concat();
        let rest = [&[0x16, 0x03, 0x01], &len.to_be_bytes()[..], &payload[first..]].concat();
        assert_served(&proxy, &hello, |stream| stream.write_all(&[start, rest].concat()).unwrap());
    }
}

#[test]
fn hello_with_record_version_0303_is_served() {
    let dc = EchoDc::listen();
    let proxy = echoing(&dc);
    let hello = Hello { record_version: [0x03, 0x03], ..Hello::default() };
    greeted_over(socket::connect(proxy.address), &hello).unwrap().open(PADDED, 2).ping(1000, 1);
}

#[test]
fn server_name_in_another_case_is_served() {
    let dc = EchoDc::listen();
    let proxy = echoing(&dc);
    let hello = Hello { sni: Some(HOST.to_uppercase()), ..Hello::default() };
    greeted_over(socket::connect(proxy.address), &hello).unwrap().open(PADDED, 2).ping(1000, 1);
}

#[test]
fn clock_ahead_within_the_tolerance_is_served() {
    let dc = EchoDc::listen();
    let proxy = echoing(&dc);
    let hello = Hello { clock_offset_secs: 100, ..Hello::default() };
    greeted_over(socket::connect(proxy.address), &hello).unwrap().open(PADDED, 2).ping(1000, 1);
}

#[test]
fn replies_differ_in_every_place_that_is_random() {
    let dc = FakeDc::listen();
    let proxy = serving(&dc);
    let replies: Vec<_> = (0..8).map(|_| greeted(proxy.address).unwrap()).collect();
    let share = |reply: &client::Greeted| reply.server_hello[reply.server_hello.len() - 32..].to_vec();
    let noise: Vec<_> = replies.iter().map(|reply| reply.noise_len).collect();
    assert!(noise.iter().any(|len| *len != noise[0]), "all noise is {} bytes", noise[0]);
    for pair in replies.windows(2) {
        assert_ne!(share(&pair[0]), share(&pair[1]), "the key share repeats");
    }
}

#[test]
fn payload_in_the_record_of_the_frame_is_relayed() {
    let dc = FakeDc::listen();
    let proxy = serving(&dc);
    let payload = Pattern::new(1).take(3000);
    // All in one record, a frame that ends inside a record, and one by itself.
    for record in [16_384, 100, 65, 64] {
        let greeted = greeted(proxy.address).unwrap();
        let mut client = greeted.open_with(PADDED, 2, &payload, record);
        let mut stream = dc.accept();
        Pattern::new(1).expect(&stream.receive(payload.len()));
        client.upload.half_close();
        assert_eq!(stream.expect_end(), End::Fin);
    }
}

#[test]
fn frame_without_a_change_cipher_spec_is_served() {
    let dc = FakeDc::listen();
    let proxy = serving(&dc);
    let mut greeted = greeted(proxy.address).unwrap();
    let frame = support::obfuscated2::send(Some(&KEY), PADDED, 2);
    greeted.stream.write_all(&client::in_records(&frame.wire, 64)).unwrap();
    assert_eq!(dc.accept().dc, 2);
}

/// What follows `words` on a connection.
fn answer_to(stream: &mut TcpStream, words: &[u8]) -> (Vec<u8>, End) {
    stream.write_all(words).unwrap();
    let (answer, end) = socket::read_to_end(stream);
    assert!(answer.is_empty() || answer.len() == 24 && answer[..5] == [0x17, 3, 3, 0, 19], "{answer:?}");
    (answer, end)
}

#[test]
fn faults_after_the_hello_end_as_at_a_web_server() {
    let dc = FakeDc::listen();
    let proxy = serving(&dc);
    let finished = client::in_records(&[7; 53], 53);
    let garbage = [0x80; 100];
    let (alert, empty, handshake) = ([0x15, 3, 3, 0, 2, 2, 40], [0x17, 3, 3, 0, 0], [0x16, 3, 3, 0, 1, 20]);
    for words in [&finished[..], &client::in_records(&[7; 200], 200), &garbage, &empty, &handshake] {
        for leading in [&[][..], &CHANGE_CIPHER_SPEC] {
            let mut greeted = greeted(proxy.address).unwrap();
            let (answer, end) = answer_to(&mut greeted.stream, &[leading, words].concat());
            assert_eq!((answer.len(), end), (24, End::Fin), "{words:?}");
        }
    }
    // Of a record that is not whole nobody can tell what it is, and an alert is none yet.
    for words in [&client::in_records(&[7; 200], 200)[..150], &alert[..5]] {
        let mut greeted = greeted(proxy.address).unwrap();
        greeted.stream.write_all(words).unwrap();
        socket::assert_open_and_silent(&greeted.stream, Duration::from_millis(300));
    }
    let many = answer_to(&mut greeted(proxy.address).unwrap().stream, &CHANGE_CIPHER_SPEC.repeat(33));
    assert_eq!((many.0.len(), many.1), (24, End::Fin));
    let (answer, end) = answer_to(&mut greeted(proxy.address).unwrap().stream, &alert);
    assert_eq!((answer.len(), end), (0, End::Fin));
    dc.assert_undialled(Duration::ZERO);
}

#[test]
fn faults_inside_a_session_end_as_at_a_web_server() {
    let dc = EchoDc::listen();
    let proxy = echoing(&dc);
    let (second, alert, handshake) = (CHANGE_CIPHER_SPEC, [0x15, 3, 3, 0, 2, 1, 0], [0x16, 3, 3, 0, 1, 20]);
    for (words, length) in [(&second[..], 19), (&handshake, 19), (&[0x17, 3, 3, 0, 0], 19), (&alert, 0)] {
        let mut client = session(proxy.address, 2);
        client.ping(500, 1);
        client.download.records.clear();
        client.upload.send_raw(words);
        while client.download.next_record().unwrap().is_some() {}
        assert_eq!(client.download.records.iter().sum::<usize>(), length, "{words:?}");
    }
}

#[test]
fn records_of_every_size_are_relayed() {
    let dc = EchoDc::listen();
    let proxy = echoing(&dc);
    let mut client = session(proxy.address, 2);
    for (seed, record) in [1, 2, 5, 15, 16, 17, 1400, 2878, 4096, 8192, 16_384].into_iter().enumerate() {
        client.upload.record = record;
        client.ping(3 * record + 17, seed as u64);
    }
}

#[test]
fn record_above_the_limit_closes_the_connection() {
    let dc = FakeDc::listen();
    let proxy = serving(&dc);
    for len in [16_641_u16, 0xffff] {
        let mut client = session(proxy.address, 2);
        let mut stream = dc.accept();
        client.upload.send_raw(&[&[0x17, 0x03, 0x03], &len.to_be_bytes()[..]].concat());
        assert_eq!(client.download.next_record().unwrap().map(|alert| alert.len()), Some(19));
        client.download.expect_end();
        stream.expect_end();
    }
}

#[test]
fn records_start_small_and_grow_when_asked_for() {
    for fast in ["true", "false"] {
        let dc = FakeDc::listen();
        let setup = Setup::new().dc(2, dc.address).set("fast-mode", fast).set("defense.doppelganger.drs", "true");
        let proxy = setup.start();
        let mut client = session(proxy.address, 2);
        let mut stream = dc.accept();
        let sender = thread::spawn(move || {
            stream.send_pattern(&mut Pattern::new(1), 3 << 20);
            stream
        });
        client.download.receive(3 << 20).unwrap();
        let records = &client.download.records;
        // As those of Go's servers; one may have less when no more was there.
        let limits = (1..).map(|number| (number * 1186 + 17).min(MAX_RECORD));
        assert!(records.iter().zip(limits).all(|(&size, limit)| size <= limit), "{records:?}");
        assert!(records[0] == 1203 && records.contains(&MAX_RECORD), "{records:?}");
        drop(sender.join().unwrap());
    }
}

#[test]
fn downloads_are_spaced_when_asked_for_and_messages_are_not() {
    for drs in ["false", "true"] {
        let dc = EchoDc::listen();
        let setup = Setup::new().dc(2, dc.address).set("defense.doppelganger.drs", drs);
        let proxy = setup.set("defense.doppelganger.enabled", "true").start();
        let mut client = session(proxy.address, 2);
        let started = Instant::now();
        client.ping(3 << 20, 1);
        let (elapsed, records) = (started.elapsed(), std::mem::take(&mut client.download.records));
        println!("drs = {drs}: 3 MiB in {elapsed:?}, {} records", records.len());
        // 192 records at least, 6.8 ms each on average.
        assert!(elapsed > Duration::from_millis(400), "3 MiB in {elapsed:?}");
        assert!(records.contains(&MAX_RECORD), "{records:?}");
        assert_eq!(records[0] <= 1203 && records[1] <= 2389, drs == "true", "{records:?}");
        // Held back, some of them would take more than 30 ms. On a busy machine others do as well, of which a client of a
        // proxy without pauses, at the same time, tells.
        let unspaced = Setup::new().dc(2, dc.address).start();
        let mut others = session(unspaced.address, 2);
        let (mut late, mut late_others) = (0, 0);
        for seed in 0..50 {
            thread::sleep(Duration::from_millis(30));
            for (client, late) in [(&mut client, &mut late), (&mut others, &mut late_others)] {
                let started = Instant::now();
                client.ping(1000, seed);
                *late += usize::from(started.elapsed() > Duration::from_millis(15));
            }
        }
        assert!(late < 5 + 2 * late_others, "{late} of 50 messages were late, {late_others} without pauses");
    }
}

#[test]
fn what_is_held_back_stays_with_the_dc() {
    let dc = FakeDc::listen();
    let proxy = Setup::new().dc(2, dc.address).set("defense.doppelganger.enabled", "true").start();
    let client = session(proxy.address, 2);
    let mut stream = dc.accept();
    let before = proxy.memory_kib();
    stream.socket().set_nonblocking(true).unwrap();
    let (started, mut sent) = (Instant::now(), 0);
    while started.elapsed() < Duration::from_secs(2) {
        match stream.socket().write(&[0; 0x1_0000]) {
            Ok(count) => sent += count,
            Err(_) => thread::sleep(Duration::from_millis(5)),
        }
    }
    println!("{sent} bytes were taken in 2 s, {} KiB more memory", proxy.memory_kib().saturating_sub(before));
    assert!(sent < 32 << 20, "{sent} bytes");
    assert!(proxy.memory_kib() < before + 2048, "{} KiB instead of {before}", proxy.memory_kib());
    drop(client);
}

#[test]
fn small_messages_go_back_and_forth_at_once() {
    let dc = EchoDc::listen();
    let proxy = echoing(&dc);
    let mut client = session(proxy.address, 2);
    let started = Instant::now();
    for number in 0..500 {
        client.ping(17 + number as usize % 200, number);
    }
    // A message that waits for more, or for a delayed acknowledgement, takes 40 ms; 500 of them 20 s.
    assert!(started.elapsed() < Duration::from_secs(8), "500 round trips took {:?}", started.elapsed());
}

#[test]
fn a_hundred_clients_are_served_at_the_same_time() {
    let dc = EchoDc::listen();
    let proxy = echoing(&dc);
    let clients: Vec<Session> = (0..100).map(|_| session(proxy.address, 2)).collect();
    let threads: Vec<_> = clients
        .into_iter()
        .enumerate()
        .map(|(number, mut client)| {
            thread::spawn(move || (0..10).for_each(|round| client.ping(5000, 1000 * number as u64 + round)))
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(dc.served(), 100);
}

#[test]
fn download_outlives_the_end_of_the_upload() {
    for fast in ["true", "false"] {
        let dc = FakeDc::listen();
        let proxy = Setup::new().dc(2, dc.address).set("fast-mode", fast).start();
        let mut client = session(proxy.address, 2);
        let mut stream = dc.accept();
        let mut pattern = Pattern::new(3);
        let half = thread::spawn(move || {
            stream.send_pattern(&mut pattern, 4 * MIB);
            stream.expect_to_end(&mut Pattern::new(4), 1000);
            stream.send_pattern(&mut pattern, 4 * MIB);
            stream.half_close();
            stream
        });
        client.upload.send(&Pattern::new(4).take(1000));
        client.upload.half_close();
        client.download.expect_to_end(&mut Pattern::new(3), 8 * MIB);
        half.join().unwrap();
    }
}

#[test]
fn upload_outlives_the_end_of_the_download() {
    for fast in ["true", "false"] {
        let dc = FakeDc::listen();
        let proxy = Setup::new().dc(2, dc.address).set("fast-mode", fast).start();
        let mut client = session(proxy.address, 2);
        let mut stream = dc.accept();
        client.upload.send(&Pattern::new(5).take(100_000));
        stream.send(&Pattern::new(6).take(1000));
        stream.half_close();
        client.download.expect_to_end(&mut Pattern::new(6), 1000);
        let receiver = thread::spawn(move || stream.expect_to_end(&mut Pattern::new(5), 4 * MIB));
        let mut pattern = Pattern::new(5);
        pattern.take(100_000);
        while pattern.position() < 4 * MIB {
            let count = (4 * MIB - pattern.position()).min(50_000);
            client.upload.send(&pattern.take(count as usize));
        }
        client.upload.half_close();
        receiver.join().unwrap();
    }
}

#[test]
fn lost_client_ends_the_connection_to_the_dc() {
    let dc = FakeDc::listen();
    let proxy = serving(&dc);
    let client = session(proxy.address, 2);
    let mut stream = dc.accept();
    client.reset();
    stream.expect_end();
}

#[test]
fn lost_dc_ends_the_connection_to_the_client() {
    let dc = FakeDc::listen();
    let proxy = serving(&dc);
    let mut client = session(proxy.address, 2);
    dc.accept().reset();
    client.download.expect_end();
}

#[test]
fn slow_reader_gets_every_byte_in_bounded_memory() {
    thread::scope(|scope| {
        for fast in ["true", "false"] {
            scope.spawn(move || assert_download_in_bounded_memory(fast));
        }
    });
}

fn assert_download_in_bounded_memory(fast: &str) {
    let dc = FakeDc::listen();
    let proxy = Setup::new().dc(2, dc.address).set("fast-mode", fast).start();
    let mut client = session(proxy.address, 2);
    let mut stream = dc.accept();
    stream.send(b"warm");
    assert_eq!(client.download.receive(4).unwrap(), b"warm");
    let before = proxy.memory_kib();
    let sender = thread::spawn(move || {
        stream.send_pattern(&mut Pattern::new(7), 64 * MIB);
        stream.half_close();
        stream
    });
    let mut pattern = Pattern::new(7);
    for _ in 0..8 {
        thread::sleep(Duration::from_millis(200));
        pattern.expect(&client.download.receive(100_000).unwrap());
    }
    client.download.expect_to_end(&mut pattern, 64 * MIB);
    let growth = proxy.peak_memory_kib().saturating_sub(before);
    assert!(growth < 8 * 1024, "fast-mode = {fast}: the proxy grew by {growth} KiB");
    assert!(client.download.records.iter().any(|len| *len > 8000), "a bulk download in small records only");
    sender.join().unwrap();
}

#[test]
fn slow_dc_gets_every_byte_in_bounded_memory() {
    thread::scope(|scope| {
        for fast in ["true", "false"] {
            scope.spawn(move || assert_upload_in_bounded_memory(fast));
        }
    });
}

fn assert_upload_in_bounded_memory(fast: &str) {
    let dc = FakeDc::listen();
    let proxy = Setup::new().dc(2, dc.address).set("fast-mode", fast).start();
    let mut client = session(proxy.address, 2);
    let mut stream = dc.accept();
    let before = proxy.memory_kib();
    let receiver = thread::spawn(move || {
        let mut pattern = Pattern::new(8);
        for _ in 0..8 {
            thread::sleep(Duration::from_millis(200));
            pattern.expect(&stream.receive(100_000));
        }
        stream.expect_to_end(&mut pattern, 32 * MIB);
    });
    let mut pattern = Pattern::new(8);
    while pattern.position() < 32 * MIB {
        client.upload.send(&pattern.take(0x4_0000));
    }
    client.upload.half_close();
    receiver.join().unwrap();
    let growth = proxy.peak_memory_kib().saturating_sub(before);
    assert!(growth < 8 * 1024, "fast-mode = {fast}: the proxy grew by {growth} KiB");
}
