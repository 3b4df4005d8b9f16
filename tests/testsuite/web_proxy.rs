//! Telegram's WEB proxy: what apps get through a web server, and what everybody else gets.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::support::client;
use crate::support::dc::{BlackHole, EchoDc, FakeDc};
use crate::support::hello::Hello;
use crate::support::obfuscated2::PADDED;
use crate::support::pattern::Pattern;
use crate::support::proxy::{Proxy, Setup};
use crate::support::socket::{self, End};
use crate::support::web::{
    self, App, CLOSE, CREDIT, DATA, Http, NOTHING, OPEN, PATH, WINDOW, bearer, capability, create, frame, frames,
    masked, message, quoted, upgrade, url,
};
use crate::support::{self, KEY};

const MIB: usize = 1 << 20;
const CARRIERS: [&str; 2] = ["https", "websocket"];

/// A proxy with a WEB listener there.
fn start(setup: Setup, carrier: &str) -> (Proxy, SocketAddr) {
    let address = socket::free_address();
    let setup = setup.set("web.bind-to", &address.to_string()).set("web.path", PATH).set("web.carrier", carrier);
    (setup.start(), address)
}

fn with_dc(dc: SocketAddr, carrier: &str) -> (Proxy, SocketAddr) {
    start(Setup::new().dc(2, dc), carrier)
}

#[test]
fn both_forms_of_the_secret_load_the_page_and_no_other() {
    let (_proxy, web) = start(Setup::new(), "https");
    for secret in [KEY.to_vec(), [&[0xdd], KEY.as_slice()].concat()] {
        let page = web::page(web, &secret);
        assert_eq!((page.status, page.field("Cache-Control")), (200, Some("no-store")));
        let text = String::from_utf8(page.body).unwrap();
        assert_eq!(quoted(&text, "relayBase=\""), format!("https://{}/{PATH}/", support::HOST));
        assert_eq!(quoted(&text, "carrierMode=\""), "https");
        assert_eq!(quoted(&text, "bootstrap=\"").len(), 43);
    }
    assert_eq!(web::page(web, &[7; 16]).status, 404);
    assert_eq!(web::page(web, &[&[0xee], KEY.as_slice()].concat()).status, 404);
}

#[test]
fn another_process_takes_over_the_pages_where_the_port_is_shared() {
    let (dc, web) = (EchoDc::listen(), socket::free_address());
    let setup = Setup::new().dc(2, dc.address).set("network.reuse-port", "true").set("shutdown-grace", "60s");
    let setup = setup.set("web.bind-to", &web.to_string()).set("web.path", PATH);
    let mut old = setup.start();
    let mut client = client::session(old.address, 2);
    client.ping(100, 1);
    let new = setup.spawn(old.address);
    let log_has = |proxy: &Proxy, word: &str| {
        socket::wait_for(word, support::DEADLINE, || proxy.log().contains(word).then_some(()));
    };
    log_has(&new, "listening");
    old.terminate();
    log_has(&old, "stopping");
    // It says so a moment before it has left its port.
    socket::wait_for("pages of the new process alone", Duration::from_secs(20), || {
        (0..20).all(|_| TcpStream::connect(web).is_ok() && web::page(web, &KEY).status == 200).then_some(())
    });
    client.ping(100, 2);
    drop(client);
    let status = old.wait(support::DEADLINE);
    old.assert_ended_well(status);
}

#[test]
fn megabytes_go_both_ways_at_once_over_every_carrier() {
    for carrier in CARRIERS {
        for fast in ["true", "false"] {
            let dc = EchoDc::listen();
            let (_proxy, web) = start(Setup::new().dc(2, dc.address).set("fast-mode", fast), carrier);
            let mut app = App::connect(web);
            app.open(7, 2);
            app.open(3, 2);
            for round in 0..6 {
                let bytes = Pattern::new(round).take(MIB);
                app.write(7, &bytes);
                app.write(3, b"ping");
                assert_eq!(app.read(3, 4), b"ping", "{carrier}");
                Pattern::new(round).expect(&app.read(7, MIB));
            }
        }
    }
}

#[test]
fn every_dc_and_every_end_reaches_the_other_side() {
    for carrier in CARRIERS {
        let dc = FakeDc::listen();
        let (proxy, web) = with_dc(dc.address, carrier);
        let mut app = App::connect(web);
        // The DC ends: what it sent comes before the end.
        app.open(1, -2);
        let mut stream = dc.accept();
        assert_eq!(stream.dc, -2);
        stream.send(&Pattern::new(1).take(300_000));
        stream.half_close();
        app.wait_closed(1);
        Pattern::new(1).expect(&app.read(1, 300_000));
        // The app ends: the DC's connection is closed.
        app.open(2, 2);
        let mut stream = dc.accept();
        app.write(2, b"question");
        assert_eq!(stream.receive(8), b"question");
        app.close(2);
        stream.expect_end();
        // The DC breaks.
        app.open(3, 2);
        dc.accept().reset();
        app.wait_closed(3);
        // There is none.
        app.open(4, 77);
        app.wait_closed(4);
        assert!(socket::wait_for("the log", support::DEADLINE, || {
            proxy.log().contains("ip=203.0.113.7 dc=0 reason=unknown_dc").then_some(true)
        }));
    }
}

#[test]
fn a_frame_with_another_secret_closes_its_stream_alone() {
    let dc = EchoDc::listen();
    let (_proxy, web) = with_dc(dc.address, "https");
    let mut app = App::connect(web);
    app.open(1, 2);
    app.open(2, 2);
    let wrong = support::obfuscated2::send(Some(&[9; 16]), support::obfuscated2::PADDED, 2);
    app.send(&[frame(OPEN, 9, &[]), frame(DATA, 9, &wrong.wire[..30]), frame(DATA, 9, &wrong.wire[30..])].concat());
    app.close(1);
    app.write(2, b"still here");
    // A frame for stream 9, which the app does not know, is the CLOSE that it expects.
    app.streams.insert(9, web::Stream::idle());
    assert_eq!(app.read(2, 10), b"still here");
    app.wait_closed(9);
}

#[test]
fn strangers_get_one_answer_whatever_they_ask() {
    let (_proxy, web) = start(Setup::new(), "https");
    let page = format!("/{PATH}/?bridge={}", capability(&KEY));
    let token = web::base64url(&[5; 32]);
    let wrong = format!("Authorization: Bearer {token}\r\nContent-Type: application/octet-stream\r\n");
    let requests = [
        "GET / HTTP/1.1\r\nHost: front.example\r\n\r\n".to_owned(),
        format!("GET /{PATH} HTTP/1.1\r\nHost: front.example\r\n\r\n"),
        format!("GET /{PATH}/ HTTP/1.1\r\nHost: front.example\r\n\r\n"),
        format!("GET /{PATH}/?bridge={token} HTTP/1.1\r\nHost: front.example\r\n\r\n"),
        format!("HEAD {page} HTTP/1.1\r\nHost: front.example\r\n\r\n"),
        format!("GET {page} HTTP/1.1\r\nHost: other.example\r\n\r\n"),
        format!("GET {page}&x=y HTTP/1.1\r\nHost: front.example\r\n\r\n"),
        format!("DELETE {} HTTP/1.1\r\nHost: front.example\r\n\r\n", url("session")),
        format!("DELETE {} HTTP/1.1\r\nHost: front.example\r\nAuthorization: Bearer {token}\r\n\r\n", url("session")),
        format!(
            "POST {} HTTP/1.1\r\nHost: front.example\r\nX-Down-Cursor: 0\r\nAuthorization: Bearer {token}\r\n\r\n",
            url("down")
        ),
        format!(
            "GET {} HTTP/1.1\r\nHost: front.example\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                 Sec-WebSocket-Protocol: tproxy-v1.{token}\r\n\r\n",
            url("ws")
        ),
        "BREW /tea HTTP/1.1\r\nHost: front.example\r\n\r\n".to_owned(),
    ];
    let mut http = Http::connect(web);
    for request in &requests {
        http.write(request.as_bytes());
        assert_eq!(http.receive().head, format!("{NOTHING}\r\n"), "{request}");
    }
    // With a body, or what is none of HTTP's, the connection ends after the same answer.
    let body = "x".repeat(300_000);
    for (request, is_sent) in [
        (
            format!(
                "POST {} HTTP/1.1\r\nHost: front.example\r\n{wrong}Content-Length: 9\r\n\r\n123456789",
                url("session")
            ),
            true,
        ),
        (
            format!(
                "POST {} HTTP/1.1\r\nHost: front.example\r\n{wrong}X-Up-Seq: 1\r\nContent-Length: 300000\r\n\r\n{body}",
                url("up")
            ),
            true,
        ),
        // Decided before the body.
        (
            format!(
                "POST {} HTTP/1.1\r\nHost: front.example\r\n{wrong}X-Up-Seq: 1\r\nContent-Length: 300000\r\n\r\n",
                url("up")
            ),
            false,
        ),
        ("PUT / HTTP/1.1\r\nHost: front.example\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(), false),
        ("\x16\x03\x01\r\n\r\n".to_owned(), true),
        (format!("GET / HTTP/1.1\r\nX: {body}\r\n\r\n"), true),
        ("GET / HTTP/1.0\r\n\r\n".to_owned(), true),
    ] {
        let mut http = Http::connect(web);
        http.write(request.as_bytes());
        assert_eq!(http.receive().head, format!("{NOTHING}Connection: close\r\n\r\n"), "{}", &request[..40]);
        if is_sent {
            assert_eq!(socket::read_to_end(http.socket()), (vec![], End::Fin), "{}", &request[..40]);
        }
    }
}

#[test]
fn a_lost_answer_of_any_call_does_no_harm() {
    let dc = EchoDc::listen();
    let (_proxy, web) = with_dc(dc.address, "https");
    let page = String::from_utf8(web::page(web, &KEY).body).unwrap();
    let bootstrap = quoted(&page, "bootstrap=\"");
    let tokens: Vec<_> = (0..2).map(|_| create(web, bootstrap).field("X-Session-Token").unwrap().to_owned()).collect();
    assert_eq!(tokens[0], tokens[1], "a session for each answer that is lost");

    let mut app = App::connect(web);
    app.open(1, 2);
    // The same batch again, over another connection.
    let (number, _) = app.place();
    let credit = frame(CREDIT, 1, &1u32.to_be_bytes());
    app.send(&credit);
    let again = app.call(&format!("POST {}", url("up")), &[format!("X-Up-Seq: {number}")], Some(&credit));
    assert_eq!((again.status, again.field("X-Up-Ack")), (204, Some(number.to_string().as_str())));
    // The same poll again.
    app.write(1, b"echo");
    let poll = |cursor: u64| app.call(&format!("POST {}", url("down")), &[format!("X-Down-Cursor: {cursor}")], None);
    let (first, second) = (poll(0), poll(0));
    assert_eq!((first.status, &first.body, first.field("X-Down-Cursor")), (200, &second.body, Some("1")));
    assert!(frames(&first.body).iter().any(|(kind, ..)| *kind == DATA));
    // Another body under the same number is the end of the session.
    let other = app.call(&format!("POST {}", url("up")), &[format!("X-Up-Seq: {}", number + 1)], Some(&credit));
    assert_eq!(other.status, 404);
    assert_eq!(poll(1).status, 404);
}

#[test]
fn a_poll_takes_the_place_of_one_whose_connection_died() {
    let dc = EchoDc::listen();
    let (_proxy, web) = with_dc(dc.address, "https");
    let mut app = App::connect(web);
    app.open(1, 2);
    let mut parked = Http::connect(web);
    let fields = [bearer(&app.token), "X-Down-Cursor: 0".to_owned()];
    parked.send(&format!("POST {}", url("down")), &fields, None);
    socket::assert_open_and_silent(parked.socket(), Duration::from_millis(300));
    let mut second = Http::connect(web);
    second.send(&format!("POST {}", url("down")), &fields, None);
    let replaced = parked.receive();
    assert_eq!((replaced.status, replaced.field("X-Down-Cursor")), (204, Some("0")));
    app.write(1, b"echo");
    assert_eq!(second.receive().status, 200);
}

#[test]
fn a_deleted_session_is_gone_with_its_streams() {
    let dc = FakeDc::listen();
    let (_proxy, web) = with_dc(dc.address, "https");
    let mut app = App::connect(web);
    app.open(1, 2);
    let mut stream = dc.accept();
    for _ in 0..2 {
        assert_eq!(app.call(&format!("DELETE {}", url("session")), &[], None).status, 204);
    }
    stream.expect_end();
    assert_eq!(app.call(&format!("POST {}", url("down")), &["X-Down-Cursor: 0".to_owned()], None).status, 404);
}

#[test]
fn calls_of_the_other_carrier_are_nobodys() {
    let (_proxy, web) = start(Setup::new(), "websocket");
    let app = App::connect(web);
    let frames = frame(OPEN, 1, &[]);
    assert_eq!(app.call(&format!("POST {}", url("up")), &["X-Up-Seq: 1".to_owned()], Some(&frames)).status, 404);
    assert_eq!(app.call(&format!("POST {}", url("down")), &["X-Down-Cursor: 0".to_owned()], None).status, 404);
    // A second socket is none.
    assert_eq!(upgrade(web, &app.token).err(), Some(404));
    let (_proxy, web) = start(Setup::new(), "https");
    assert_eq!(upgrade(web, &App::connect(web).token).err(), Some(404));
}

#[test]
fn a_socket_that_ends_or_lies_ends_the_session() {
    let dc = FakeDc::listen();
    let (_proxy, web) = with_dc(dc.address, "websocket");
    let text = masked(0x81, b"text");
    let unknown = masked(0x82, &frame(DATA, 99, b"x"));
    let bare = [0x82, 1, 0];
    let big = [&[0x82, 0xff], (3u64 << 20).to_be_bytes().as_slice(), &[0; 4]].concat();
    for (bytes, code) in [(text.as_slice(), 1002u16), (&unknown, 1002), (&bare, 1002), (&big, 1009)] {
        let mut app = App::connect(web);
        app.open(1, 2);
        let mut stream = dc.accept();
        app.http().write(bytes);
        assert_eq!(message(app.http()), (0x88, code.to_be_bytes().to_vec()));
        stream.expect_end();
    }
    let mut app = App::connect(web);
    app.open(1, 2);
    let mut stream = dc.accept();
    app.http().write(&masked(0x89, b"are you there"));
    assert_eq!(message(app.http()), (0x8a, b"are you there".to_vec()));
    drop(app);
    stream.expect_end();
}

#[test]
fn an_app_that_does_not_read_holds_up_nobody_else() {
    for carrier in CARRIERS {
        let dc = FakeDc::listen();
        let (proxy, web) = start(Setup::new().dc(2, dc.address).set("memory", "8MB"), carrier);
        let mut slow = App::connect(web);
        slow.gives_credit = false;
        slow.open(1, 2);
        let mut bulk = dc.accept();
        let flood = std::thread::spawn(move || {
            let mut pattern = Pattern::new(1);
            // Until the window, and what the kernel holds, is full.
            bulk.socket().set_write_timeout(Some(Duration::from_millis(500))).unwrap();
            use std::io::Write as _;
            while bulk.socket().write_all(&pattern.take(MIB)).is_ok() {}
        });
        let mut app = App::connect(web);
        app.open(1, 2);
        let mut stream = dc.accept();
        let started = Instant::now();
        for round in 0..50 {
            app.write(1, &Pattern::new(round).take(1000));
            Pattern::new(round).expect(&stream.receive(1000));
            stream.send(&Pattern::new(round).take(1000));
            Pattern::new(round).expect(&app.read(1, 1000));
        }
        println!("{carrier}: 50 round trips in {:?}, {} KiB", started.elapsed(), proxy.peak_memory_kib());
        flood.join().unwrap();
        assert!(proxy.peak_memory_kib() < 16 << 10, "{} KiB", proxy.peak_memory_kib());
    }
}

#[test]
fn an_upload_stops_at_the_window_when_the_dc_does_not_read() {
    let dc = FakeDc::listen();
    let (_proxy, web) = with_dc(dc.address, "https");
    let mut app = App::connect(web);
    app.open(1, 2);
    let _stream = dc.accept();
    let mut sent = 64;
    while sent + (64 << 10) <= WINDOW {
        app.write(1, &vec![0; 64 << 10]);
        sent += 64 << 10;
    }
    // Beyond it the app breaks the protocol, unless it was given credit for what the kernel took.
    let (number, _) = app.place();
    let beyond = frame(DATA, 1, &vec![0; 1 << 20]).repeat(1);
    let mut status = 204;
    for more in 0..5 {
        let field = format!("X-Up-Seq: {}", number + more);
        status = app.call(&format!("POST {}", url("up")), &[field], Some(&beyond)).status;
        if status != 204 {
            break;
        }
    }
    assert_eq!(status, 404);
}

#[test]
fn floods_of_streams_are_refused_one_by_one() {
    let dc = EchoDc::listen();
    let (_proxy, web) = with_dc(dc.address, "https");
    let mut app = App::connect(web);
    app.open(1, 2);
    let flood: Vec<u8> = (2..2000).flat_map(|id| frame(OPEN, id, &[])).collect();
    for id in 2..2000 {
        app.streams.insert(id, web::Stream::idle());
    }
    app.send(&flood);
    app.write(1, b"still here");
    assert_eq!(app.read(1, 10), b"still here");
    let refused = app.streams.values().filter(|stream| stream.is_closed).count();
    assert!(refused >= 1800, "{refused} of 1998 streams were refused");
}

/// However fast they come: else they would keep a router busy.
#[test]
fn frames_that_carry_nothing_are_taken_at_a_pace() {
    for carrier in CARRIERS {
        let dc = EchoDc::listen();
        let (_proxy, web) = with_dc(dc.address, carrier);
        let mut app = App::connect(web);
        app.open(1, 2);
        let windows = frame(CREDIT, 1, &1_u32.to_be_bytes()).repeat(4096);
        let began = Instant::now();
        for _ in 0..12 {
            app.send(&windows);
        }
        app.write(1, b"after all of them");
        assert_eq!(app.read(1, 17), b"after all of them", "{carrier}");
        // 20 000 a second, and 8192 at once.
        assert!(began.elapsed() >= Duration::from_millis(2040), "{carrier}: {:?}", began.elapsed());
    }
}

#[test]
fn streams_take_places_and_leave_them() {
    let dc = EchoDc::listen();
    let (_proxy, web) = start(Setup::new().dc(2, dc.address).set("concurrency", "10"), "https");
    let mut app = App::connect(web);
    for id in 1..=10 {
        app.open(id, 2);
        app.write(id, b"in");
        assert_eq!(app.read(id, 2), b"in");
    }
    app.open(11, 2);
    app.wait_closed(11);
    app.close(5);
    socket::wait_for("a place", support::DEADLINE, || {
        let id = 100 + app.streams.len() as u32 * 50 + app.place().0 as u32;
        app.open(id, 2);
        app.write(id, b"in");
        while app.streams[&id].received.len() < 2 && !app.streams[&id].is_closed {
            app.pump();
        }
        (!app.streams[&id].is_closed).then_some(())
    });
}

#[test]
fn a_stream_that_its_app_closes_leaves_its_place_although_its_dc_takes_nothing() {
    let dc = FakeDc::listen();
    let setup = Setup::new().dc(2, dc.address).set("memory", "8MB").set("concurrency", "2");
    let (_proxy, web) = start(setup, "https");
    let mut app = App::connect(web);
    app.open(1, 2);
    app.open(2, 2);
    let (mut deaf, _idle) = (dc.accept(), dc.accept());
    let (mut number, _) = app.place();
    let mut up = |batch: &[u8]| {
        let status = app.call(&format!("POST {}", url("up")), &[format!("X-Up-Seq: {number}")], Some(batch)).status;
        number += u64::from(status == 204);
        status
    };
    // Until neither kernel takes any more.
    let mut full = 0;
    while full < 10 {
        match up(&frame(DATA, 1, &[0; 48 << 10])) {
            204 => full = 0,
            status => {
                assert_eq!(status, 503);
                full += 1;
                // Whoever is woken by this tries to send once more.
                deaf.send(b"x");
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
    let mut id = 2;
    let mut another = |up: &mut dyn FnMut(&[u8]) -> u16| {
        id += 1;
        assert_eq!(up(&frame(OPEN, id, &[])), 204);
        let opening = support::obfuscated2::send(Some(&KEY), PADDED, 2).wire;
        while up(&frame(DATA, id, &opening)) == 503 {
            std::thread::sleep(Duration::from_millis(20));
        }
        dc.accept_within(Duration::from_millis(200))
    };
    assert!(another(&mut up).is_none(), "more streams than places");
    assert_eq!(up(&frame(CLOSE, 1, &[])), 204);
    socket::wait_for("a place", support::DEADLINE, || another(&mut up));
}

#[test]
fn a_stream_that_its_app_closes_waits_for_nobodys_dc() {
    let dc = BlackHole::listen();
    let (proxy, web) = start(Setup::new().dc(2, dc.address).set("network.timeout.tcp", "60s"), "https");
    let mut app = App::connect(web);
    // More than are dialled at once.
    for id in 1..=70 {
        app.open(id, 2);
    }
    (65..=70).for_each(|id| app.close(id));
    let ends = || (proxy.log().matches("connection ended").count() == 6).then_some(());
    socket::wait_for("the ends of the streams", support::DEADLINE, ends);
}

#[test]
fn a_stream_that_gets_no_turn_at_its_dc_is_closed_as_one_whose_dc_does_not_answer() {
    let dc = BlackHole::listen();
    let (_proxy, web) = start(Setup::new().dc(2, dc.address).set("network.timeout.tcp", "1s"), "https");
    let mut app = App::connect(web);
    let began = Instant::now();
    // Six times as many as are dialled at once.
    for id in 1..=384 {
        app.open(id, 2);
    }
    (1..=384).for_each(|id| app.wait_closed(id));
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}

#[test]
fn whoever_loads_the_page_too_often_gets_what_strangers_get() {
    let (_proxy, web) = start(Setup::new(), "https");
    let refused = (0..600).map(|_| web::page(web, &KEY)).find(|page| page.status != 200).expect("all pages came");
    assert!(refused.head.starts_with(NOTHING), "{}", refused.head);
}

/// An upload over a connection of its own; the status.
fn up(app: &App, number: u64, batch: &[u8]) -> u16 {
    app.call(&format!("POST {}", url("up")), &[format!("X-Up-Seq: {number}")], Some(batch)).status
}

#[test]
fn first_batches_of_many_sessions_stay_within_memory() {
    let dc = BlackHole::listen();
    let (proxy, web) = start(Setup::new().dc(2, dc.address).set("memory", "8MB"), "https");
    let opening = support::obfuscated2::send(Some(&KEY), PADDED, 2).wire;
    let small = [frame(OPEN, 1, &[]), frame(DATA, 1, &opening)].concat();
    let large = [small.clone(), frame(DATA, 1, &[0; 1 << 20]), frame(DATA, 1, &[0; 900 << 10])].concat();
    let apps: Vec<_> = (0..30).map(|_| App::connect(web)).collect();
    let statuses: Vec<_> = apps.iter().map(|app| up(app, 1, &large)).collect();
    assert!(statuses.iter().filter(|status| **status == 204).count() <= 2, "{statuses:?}");
    assert!(statuses.contains(&204) && statuses.contains(&503), "{statuses:?}");
    // Whoever asks for little has room.
    assert_eq!(up(&App::connect(web), 1, &small), 204);
    assert!(proxy.peak_memory_kib() < 16 << 10, "{} KiB", proxy.peak_memory_kib());
}

/// A web server's connection over which a request comes of whose body only this much follows.
fn begun(web: SocketAddr, line: &str, fields: &[String], length: &str, part: &[u8]) -> Http {
    let mut http = Http::connect(web);
    let fields = [fields, &["Content-Type: application/octet-stream".to_owned(), length.to_owned()]].concat();
    http.send(&format!("POST {}", url(line)), &fields, None);
    http.write(part);
    http
}

#[test]
fn bodies_that_stop_coming_are_to_be_sent_again() {
    let dc = EchoDc::listen();
    let (_proxy, web) = with_dc(dc.address, "https");
    let page = String::from_utf8(web::page(web, &KEY).body).unwrap();
    let bootstrap = quoted(&page, "bootstrap=\"");
    let mut app = App::connect(web);
    let fields = [bearer(&app.token), "X-Up-Seq: 1".to_owned()];
    let half = frame(OPEN, 1, &[]);
    let mut silent = [
        begun(web, "up", &fields, "Content-Length: 16", &half),
        begun(web, "up", &fields, "Transfer-Encoding: chunked", &[b"10\r\n", half.as_slice()].concat()),
        begun(web, "up", &fields, "Transfer-Encoding: chunked", &[b"8\r\n", half.as_slice(), b"\r\n"].concat()),
        begun(web, "session", &[bearer(bootstrap)], "Content-Length: 9", &[0x10]),
    ];
    for http in &mut silent {
        // Silence is borne for 30 s.
        http.socket().set_read_timeout(Some(6 * support::DEADLINE)).unwrap();
        let answer = http.receive();
        assert_eq!((answer.status, answer.field("Retry-After")), (503, Some("1")));
        assert_eq!(answer.field("Connection"), Some("close"));
        assert_eq!(socket::read_to_end(http.socket()), (vec![], End::Fin));
    }
    assert_eq!(create(web, bootstrap).status, 200);
    app.open(1, 2);
    app.write(1, b"the same number");
    assert_eq!(app.read(1, 15), b"the same number");
}

#[test]
fn who_asks_for_little_has_room_beside_a_slow_body_when_no_memory_is_left() {
    let dc = BlackHole::listen();
    let (_proxy, web) = start(Setup::new().dc(2, dc.address).set("memory", "8MB"), "https");
    let page = String::from_utf8(web::page(web, &KEY).body).unwrap();
    let opening = support::obfuscated2::send(Some(&KEY), PADDED, 2).wire;
    let small = [frame(OPEN, 1, &[]), frame(DATA, 1, &opening)].concat();
    let large = [small.clone(), frame(DATA, 1, &[0; 1 << 20]), frame(DATA, 1, &[0; 900 << 10])].concat();
    let [mut other, slow, app] = [(); 3].map(|()| App::connect(web));
    // All that is left, and more.
    while up(&other, 1, &large) == 204 {
        other = App::connect(web);
    }
    // What one body at a time has although nothing is left.
    let fields = [bearer(&slow.token), "X-Up-Seq: 1".to_owned()];
    let length = format!("Content-Length: {}", large.len());
    let mut slow = begun(web, "up", &fields, &length, &small);
    socket::assert_open_and_silent(slow.socket(), Duration::from_millis(500));
    assert_eq!(up(&other, 1, &large), 503, "a second body has room");
    assert_eq!(create(web, quoted(&page, "bootstrap=\"")).status, 200);
    assert_eq!(up(&app, 1, &small), 204);
    assert_eq!(up(&app, 2, &frame(CREDIT, 1, &1_u32.to_be_bytes())), 204);
    assert_eq!(up(&app, 3, &frame(CLOSE, 1, &[])), 204);
}

#[test]
fn answers_that_nobody_reads_stop_the_next_and_their_end_lets_it_go() {
    let dc = FakeDc::listen();
    let (proxy, web) = start(Setup::new().dc(2, dc.address).set("memory", "8MB"), "https");
    let mut app = App::connect(web);
    let mut floods = Vec::new();
    for id in 1..=100 {
        app.open(id, 2);
        let mut flood = dc.accept();
        flood.socket().set_nonblocking(true).unwrap();
        floods.push(flood);
    }
    let poll = |cursor: usize| {
        let mut http = Http::over(socket::connect_deaf(web));
        let fields = [bearer(&app.token), format!("X-Down-Cursor: {cursor}")];
        http.send(&format!("POST {}", url("down")), &fields, None);
        http
    };
    let (mut unread, most) = (Vec::new(), 60);
    let mut parked = loop {
        for flood in &mut floods {
            use std::io::Write as _;
            let _ = flood.socket().write(&[7; 16 << 10]);
        }
        std::thread::sleep(Duration::from_millis(50));
        let mut http = poll(unread.len());
        if !socket::is_readable(http.socket(), Duration::from_secs(1)) {
            break http;
        }
        unread.push(http);
        assert!(unread.len() < most, "{most} answers wait unread: {} KiB", proxy.peak_memory_kib());
    };
    assert!(unread.len() >= 2, "an answer that is lost with its connection stops the next");
    assert!(proxy.peak_memory_kib() < 16 << 10, "{} KiB", proxy.peak_memory_kib());
    drop(unread);
    assert_eq!(parked.bytes(15), b"HTTP/1.1 200 OK");
}

#[test]
fn a_stream_is_no_witness_of_the_clock() {
    let dc = EchoDc::listen();
    let (proxy, web) = start(Setup::new().dc(2, dc.address).set("log-level", "info"), "https");
    let mut app = App::connect(web);
    app.open(1, 2);
    app.write(1, b"in");
    assert_eq!(app.read(1, 2), b"in");
    for host in 2..5 {
        let hello = Hello { clock_offset_secs: 50, ..Hello::default() };
        let stream = socket::connect_from(Ipv4Addr::new(127, 0, 0, host), proxy.address);
        client::greeted_over(stream, &hello).unwrap().open(PADDED, 2).ping(100, 1);
    }
    let log = socket::wait_for("the line of a minute", Duration::from_secs(90), || {
        Some(proxy.log()).filter(|log| log.contains("INFO the last minute clients=4") && log.contains("WARN the clock"))
    });
    assert!(log.contains("the clock of this machine is wrong: it differs from the clocks of all clients"), "{log}");
    assert!(log.contains(" clients=3 ahead_secs=-"), "{log}");
}

#[test]
fn a_reload_moves_the_page_and_keeps_the_sessions() {
    let dc = EchoDc::listen();
    let address = socket::free_address();
    let setup = Setup::new().dc(2, dc.address).set("web.bind-to", &address.to_string()).set("web.path", PATH);
    let proxy = setup.start();
    let mut app = App::connect(address);
    app.open(1, 2);
    app.write(1, b"before");
    assert_eq!(app.read(1, 6), b"before");
    // As web servers keep theirs.
    let mut kept = [Http::connect(address), Http::connect(address)];
    let page = |secret: &[u8]| format!("GET /{PATH}/?bridge={}", capability(secret));
    for http in &mut kept {
        assert_eq!(http.ask(&page(&KEY), &[], None).status, 200);
    }
    proxy.reload(&setup.clone().secret(&[3; 16], support::HOST));
    socket::wait_for("the reload", support::DEADLINE, || (web::page(address, &[3; 16]).status == 200).then_some(()));
    assert_eq!(web::page(address, &KEY).status, 404);
    let [new, old] = &mut kept;
    assert_eq!(new.ask(&page(&[3; 16]), &[], None).status, 200, "the new link over a kept connection");
    assert_eq!(old.ask(&page(&KEY), &[], None).status, 404, "the old link over a kept connection");
    app.write(1, b"after");
    assert_eq!(app.read(1, 5), b"after");
}

#[test]
fn tokens_of_a_proxy_that_was_started_anew_are_nobodys() {
    let (_proxy, web) = start(Setup::new(), "https");
    let page = String::from_utf8(web::page(web, &KEY).body).unwrap();
    let (_other, there) = start(Setup::new(), "https");
    assert_eq!(create(there, quoted(&page, "bootstrap=\"")).status, 404);
    assert_eq!(create(web, quoted(&page, "bootstrap=\"")).status, 200);
}

#[test]
fn while_it_drains_streams_go_on_and_nothing_new_begins() {
    for carrier in CARRIERS {
        let dc = EchoDc::listen();
        let (mut proxy, web) = start(Setup::new().dc(2, dc.address).set("shutdown-grace", "60s"), carrier);
        let page = String::from_utf8(web::page(web, &KEY).body).unwrap();
        let mut app = App::connect(web);
        app.open(1, 2);
        app.write(1, b"before");
        assert_eq!(app.read(1, 6), b"before");
        proxy.terminate();
        let page_is_busy = || (web::page(web, &KEY).status == 503).then_some(());
        socket::wait_for("pages to be refused", support::DEADLINE, page_is_busy);
        // An app repeats this, and loads the page of the next proxy when this one is gone.
        let made = create(web, quoted(&page, "bootstrap=\""));
        assert_eq!((made.status, made.field("Retry-After")), (503, Some("1")));
        app.open(2, 2);
        app.wait_closed(2);
        app.write(1, b"goes on");
        assert_eq!(app.read(1, 7), b"goes on", "{carrier}");
        // Whoever has nothing else open is waited for no longer.
        app.close(1);
        let status = proxy.wait(support::DEADLINE);
        proxy.assert_ended_well(status);
    }
}
