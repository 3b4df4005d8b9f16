//! The metrics tell exactly what clients, Telegram and the front counted themselves.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixStream};
use std::process::Command;
use std::time::Duration;

use crate::support::client::{greet, session};
use crate::support::dc::{EchoDc, FakeDc};
use crate::support::front::FakeFront;
use crate::support::hello::{Hello, Signed};
use crate::support::obfuscated2::PADDED;
use crate::support::pattern::Pattern;
use crate::support::proxy::{Proxy, Setup};
use crate::support::socket::{self, free_address};
use crate::support::socks5::{FakeSocks5, Mood};
use crate::support::{self, DEADLINE, KEY, random};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: front.example\r\n\r\n";

/// What an HTTP server at `address` answers: head and body.
fn http(address: SocketAddr, request: &str) -> (String, String) {
    let mut stream = socket::connect(address);
    stream.write_all(format!("{request}\r\n\r\n").as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

fn scrape(address: SocketAddr) -> String {
    let (head, body) = http(address, "GET /metrics HTTP/1.1\r\nHost: metrics");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    body
}

/// Waits until a scrape has that line.
fn wait_for_line(address: SocketAddr, line: &str) {
    let mut last = String::new();
    let has_line = || {
        last = scrape(address);
        last.lines().any(|found| found == line).then_some(())
    };
    let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| socket::wait_for(line, DEADLINE, has_line)));
    assert!(found.is_ok(), "{line} is not in:\n{last}");
}

fn serving_metrics(setup: Setup) -> (Proxy, SocketAddr) {
    let address = free_address();
    (with_metrics(setup, address).start(), address)
}

fn with_metrics(setup: Setup, address: SocketAddr) -> Setup {
    let setup = setup.set("stats.prometheus.enabled", "true").set("stats.prometheus.bind-to", &address.to_string());
    setup.set("stats.prometheus.http-path", "/metrics")
}

#[test]
fn traffic_with_telegram_is_right_to_the_byte() {
    let dc = FakeDc::listen();
    let (proxy, metrics) = serving_metrics(Setup::new().dc(2, dc.address));
    let (mut up, mut down) = (0, 0);
    for (number, (sent, received)) in [(1, 0), (0, 17), (70_000, 64), (5, 2_000_001)].into_iter().enumerate() {
        let mut client = session(proxy.address, 2);
        client.upload.send(&Pattern::new(1).take(sent));
        let mut stream = dc.accept();
        assert_eq!(stream.receive(sent).len(), sent);
        stream.send(&Pattern::new(2).take(received));
        assert_eq!(client.download.receive(received).unwrap().len(), received);
        if number == 0 {
            wait_for_line(metrics, "mtg_client_connections{ip_family=\"ipv4\"} 1");
            wait_for_line(metrics, "mtg_telegram_connections{telegram_ip=\"127.0.0.1\",dc=\"2\"} 1");
        }
        drop((client, stream));
        (up, down) = (up + sent, down + received);
    }
    let labels = "telegram_ip=\"127.0.0.1\",dc=\"2\"";
    wait_for_line(metrics, "mtg_client_connections{ip_family=\"ipv4\"} 0");
    for line in [
        format!("mtg_telegram_connections{{{labels}}} 0"),
        format!("mtg_telegram_traffic{{{labels},direction=\"from_client\"}} {up}"),
        format!("mtg_telegram_traffic{{{labels},direction=\"to_client\"}} {down}"),
        "mtg_connection_duration_seconds_count 4".to_owned(),
        "mtg_domain_fronting 0".to_owned(),
    ] {
        wait_for_line(metrics, &line);
    }
}

#[test]
fn traffic_of_a_running_connection_shows_before_its_end() {
    let dc = EchoDc::listen();
    let (proxy, metrics) = serving_metrics(Setup::new().dc(2, dc.address).set("network.timeout.idle", "4s"));
    let mut client = session(proxy.address, 2);
    client.ping(12_345, 1);
    let labels = "telegram_ip=\"127.0.0.1\",dc=\"2\"";
    wait_for_line(metrics, &format!("mtg_telegram_traffic{{{labels},direction=\"to_client\"}} 12345"));
    wait_for_line(metrics, &format!("mtg_telegram_connections{{{labels}}} 1"));
    client.ping(5, 2);
    wait_for_line(metrics, &format!("mtg_telegram_traffic{{{labels},direction=\"from_client\"}} 12350"));
}

#[test]
fn client_that_takes_nothing_ends_as_a_timeout_and_one_that_resets_as_a_reset() {
    let dc = FakeDc::listen();
    let setup = Setup::new().dc(2, dc.address).set("network.timeout.delivery", "1s").set("log-level", "debug");
    let (proxy, metrics) = serving_metrics(setup);
    let sleeper = session(proxy.address, 2);
    let mut download = dc.accept();
    // More than all buffers on the way hold; the proxy's end of it is what stops this.
    while download.socket().write_all(&[0; 0x1_0000]).is_ok() {}
    wait_for_line(metrics, "mtg_sessions_ended{reason=\"client_timeout\"} 1");
    assert!(proxy.log().contains("reason=client_timeout "), "{}", proxy.log());
    drop(sleeper);

    let leaver = session(proxy.address, 2);
    let mut stream = dc.accept();
    leaver.reset();
    stream.expect_end();
    wait_for_line(metrics, "mtg_sessions_ended{reason=\"client_reset\"} 1");
}

#[test]
fn a_scrape_shows_what_moved_a_second_ago() {
    let dc = EchoDc::listen();
    let (proxy, metrics) = serving_metrics(Setup::new().dc(2, dc.address));
    let mut client = session(proxy.address, 2);
    let bytes = |direction: &str| {
        let start = format!("mtg_telegram_traffic{{telegram_ip=\"127.0.0.1\",dc=\"2\",direction=\"{direction}\"}} ");
        let text = scrape(metrics);
        text.lines().find_map(|line| line.strip_prefix(&start)?.parse::<u64>().ok()).unwrap_or(0)
    };
    // The engine tells of itself every 15 seconds; each of these would be missed by one that is not asked.
    for round in 1..=3 {
        client.ping(10_000, round);
        // The answer of a busy machine may be late, but no third of those 15 seconds.
        let all = 10_000 * round;
        let shows_all = || (bytes("from_client") == all && bytes("to_client") == all).then_some(());
        socket::wait_for("the bytes of the last second", Duration::from_secs(5), shows_all);
    }
}

#[test]
fn silent_readers_of_the_metrics_keep_no_scraper_out() {
    let (_proxy, metrics) = serving_metrics(Setup::new());
    let silent: Vec<_> = (0..20).map(|_| socket::connect(metrics)).collect();
    let began = std::time::Instant::now();
    assert!(scrape(metrics).contains("\nmtg_domain_fronting 0\n"));
    // A place that is waited for takes the 5 seconds of a silent reader's patience.
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    assert_eq!(silent.len(), 20);
}

#[test]
fn strangers_are_counted_by_reason_and_to_the_byte() {
    let front = FakeFront::listen();
    let (proxy, metrics) = serving_metrics(Setup::new().front(front.address));
    let mut stranger = socket::connect(proxy.address);
    stranger.write_all(REQUEST).unwrap();
    let mut visit = front.visit(REQUEST);
    visit.send(&[7; 1000]);
    assert_eq!(socket::read_exactly(&mut stranger, 1000).unwrap(), [7; 1000]);
    wait_for_line(metrics, "mtg_domain_fronting_connections{ip_family=\"ipv4\"} 1");
    drop((stranger, visit));

    let bad_key = Hello { key: random(), ..Hello::default() }.sign();
    let late = Hello { clock_offset_secs: -9000, ..Hello::default() }.sign();
    for hello in [&bad_key, &late] {
        let mut stream = socket::connect(proxy.address);
        stream.write_all(&hello.wire).unwrap();
        drop(front.visit(&hello.wire[..100]));
        assert_eq!(socket::read_to_end(&mut stream).0, b"");
    }
    drop(socket::connect(proxy.address));

    let sent = REQUEST.len() + bad_key.wire.len() + late.wire.len();
    for line in [
        "mtg_domain_fronting_connections{ip_family=\"ipv4\"} 0".to_owned(),
        "mtg_domain_fronting 3".to_owned(),
        format!("mtg_domain_fronting_traffic{{direction=\"from_client\"}} {sent}"),
        "mtg_domain_fronting_traffic{direction=\"to_client\"} 1000".to_owned(),
        "mtg_handshake_failures{reason=\"not_client_hello\"} 1".to_owned(),
        "mtg_handshake_failures{reason=\"wrong_digest\"} 1".to_owned(),
        "mtg_handshake_failures{reason=\"clock_skew\"} 1".to_owned(),
        "mtg_handshake_failures{reason=\"silent\"} 1".to_owned(),
        "mtg_connection_duration_seconds_count 4".to_owned(),
    ] {
        wait_for_line(metrics, &line);
    }
}

#[test]
fn replays_and_connections_above_the_limit_are_counted() {
    let (dc, front) = (EchoDc::listen(), FakeFront::listen());
    let setup = Setup::new().dc(2, dc.address).front(front.address).set("concurrency", "2");
    let (proxy, metrics) = serving_metrics(setup);
    let hello = Hello::default().sign();
    let mut first = socket::connect(proxy.address);
    first.write_all(&hello.wire).unwrap();
    assert!(socket::read_exactly(&mut first, 100).is_ok());
    let mut again = socket::connect(proxy.address);
    again.write_all(&hello.wire).unwrap();
    let visit = front.visit(&hello.wire[..100]);
    wait_for_line(metrics, "mtg_replay_attacks 1");
    assert_eq!(socket::read_to_end(&mut socket::connect(proxy.address)).0, b"");
    wait_for_line(metrics, "mtg_concurrency_limited 1");
    wait_for_line(metrics, "mtg_handshake_failures{reason=\"concurrency_limited\"} 1");
    drop((first, again, visit));
}

#[test]
fn the_server_of_metrics_answers_as_due_and_drops_who_is_slow() {
    let (_proxy, metrics) = serving_metrics(Setup::new());
    let (head, body) = http(metrics, "HEAD /metrics HTTP/1.1");
    assert!(head.contains("\r\nContent-Type: text/plain; version=0.0.4") && body.is_empty(), "{head}");
    assert!(http(metrics, "GET / HTTP/1.1").0.starts_with("HTTP/1.1 404 "));
    let (head, _) = http(metrics, "POST /metrics HTTP/1.1\r\nContent-Length: 0");
    assert!(head.starts_with("HTTP/1.1 405 ") && head.contains("\r\nAllow: GET, HEAD"), "{head}");

    // Eight who say nothing take all places, for a time.
    let silent: Vec<TcpStream> = (0..8).map(|_| socket::connect(metrics)).collect();
    scrape(metrics);
    for mut stream in silent {
        assert_eq!(socket::read_to_end(&mut stream).0, b"");
    }
}

#[test]
fn a_taken_port_for_metrics_is_an_error() {
    let taken = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = taken.local_addr().unwrap();
    let setup = Setup::new().set("stats.prometheus.enabled", "true");
    let mut proxy = setup.set("stats.prometheus.bind-to", &address.to_string()).spawn(free_address());
    assert_eq!(proxy.wait(DEADLINE).code(), Some(1));
    let error = format!("mtg: error: cannot serve metrics on {address}: another program uses this port");
    socket::wait_for("an error", DEADLINE, || proxy.log().contains(&error).then_some(()));
}

#[test]
fn a_statsd_server_has_heard_everything_when_the_proxy_is_gone() {
    let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    server.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let dc = EchoDc::listen();
    let setup = Setup::new().dc(2, dc.address).set("stats.statsd.enabled", "true");
    // A host name, for mtg v2 takes none.
    let setup = setup.set("stats.statsd.address", &format!("localhost:{}", server.local_addr().unwrap().port()));
    let mut proxy = setup.set("stats.statsd.tag-format", "graphite").start();
    let mut client = session(proxy.address, 2);
    client.ping(1000, 1);
    proxy.terminate();
    client.ping(234, 2);
    drop(client);
    let status = proxy.wait(DEADLINE);
    proxy.assert_ended_well(status);
    let mut lines = Vec::new();
    let mut buffer = [0; 2048];
    while let Ok(length) = server.recv(&mut buffer) {
        assert!(length <= 1432);
        lines.extend(String::from_utf8(buffer[..length].to_vec()).unwrap().lines().map(str::to_owned));
    }
    let sum = |name: &str| -> u64 {
        let counts = lines.iter().filter_map(|line| line.strip_prefix(name)?.strip_suffix("|c")?.parse::<u64>().ok());
        counts.sum()
    };
    for direction in ["from_client", "to_client"] {
        let name = format!("mtg.telegram_traffic;telegram_ip=127.0.0.1;dc=2;direction={direction}:");
        assert_eq!(sum(&name), 1234, "{lines:?}");
    }
    let gauges: Vec<_> =
        lines.iter().filter(|line| line.starts_with("mtg.client_connections;ip_family=ipv4:")).collect();
    assert_eq!(gauges.last().unwrap().as_str(), "mtg.client_connections;ip_family=ipv4:0|g");
}

#[test]
fn lists_and_whom_they_shut_out_are_counted() {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("blocklist-{}", std::process::id()));
    std::fs::write(&path, "127.0.0.3\n192.0.2.0/24\n").unwrap();
    let setup = Setup::new().set("defense.blocklist.enabled", "true");
    let (proxy, metrics) = serving_metrics(setup.set("defense.blocklist.urls", path.to_str().unwrap()));
    wait_for_line(metrics, "mtg_iplist_size{ip_list=\"blocklist\"} 2");
    let mut unwanted = socket::connect_from(Ipv4Addr::new(127, 0, 0, 3), proxy.address);
    assert_eq!(socket::read_to_end(&mut unwanted).0, b"");
    wait_for_line(metrics, "mtg_ip_blocklisted{ip_list=\"blocklist\"} 1");
    wait_for_line(metrics, "mtg_ip_blocklisted{ip_list=\"allowlist\"} 0");
    wait_for_line(metrics, "mtg_client_connections{ip_family=\"ipv4\"} 0");
    proxy.reload(&with_metrics(Setup::new().set("defense.blocklist.enabled", "false"), metrics));
    wait_for_line(metrics, "mtg_iplist_size{ip_list=\"blocklist\"} 0");

    // Sent to the front, whoever is on the list counts all the same.
    let front = FakeFront::listen();
    let setup = Setup::new().front(front.address);
    let setup = setup.set("defense.blocklist.enabled", "true");
    let (proxy, metrics) = serving_metrics(setup.set("defense.blocklist.urls", path.to_str().unwrap()));
    wait_for_line(metrics, "mtg_iplist_size{ip_list=\"blocklist\"} 2");
    let mut unwanted = socket::connect_from(Ipv4Addr::new(127, 0, 0, 3), proxy.address);
    unwanted.write_all(REQUEST).unwrap();
    drop(front.visit(REQUEST));
    for line in [
        "mtg_ip_blocklisted{ip_list=\"blocklist\"} 1",
        "mtg_ip_blocklisted{ip_list=\"allowlist\"} 0",
        "mtg_handshake_failures{reason=\"blocklisted\"} 1",
        "mtg_domain_fronting 1",
    ] {
        wait_for_line(metrics, line);
    }
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_proxy_that_fails_shows_until_it_works_again() {
    let (dc, socks5) = (EchoDc::listen(), FakeSocks5::listen(Mood::Refusing(1)));
    let setup = Setup::new().dc(2, dc.address);
    let url = socks5.url("user:hunter2@") + "?open_threshold=1&half_open_timeout=1s";
    let (proxy, metrics) = serving_metrics(setup.set("network.proxies", &url));
    let line = |is_up| format!("mtg_proxy_up{{proxy=\"{}\"}} {is_up}", socks5.address);
    wait_for_line(metrics, &line(1));
    session(proxy.address, 2).download.expect_end();
    wait_for_line(metrics, &line(0));
    assert!(!scrape(metrics).contains("hunter2"));
    socks5.set_mood(Mood::Good);
    let works = || session(proxy.address, 2).try_ping(100, 1).is_ok().then_some(());
    socket::wait_for("the proxy to be tried again", DEADLINE, works);
    wait_for_line(metrics, &line(1));
}

#[test]
fn the_log_sums_up_a_minute_and_says_whose_clock_is_wrong() {
    let (dc, front) = (EchoDc::listen(), FakeFront::listen());
    let setup = Setup::new().dc(2, dc.address).front(front.address).set("log-level", "info");
    let proxy = setup.start();
    let visit = |host: u8, hello: &Signed| {
        let mut stream = socket::connect_from(Ipv4Addr::new(127, 0, 0, host), proxy.address);
        stream.write_all(&hello.wire).unwrap();
        stream
    };
    // Clients in good order, but for a clock that is 50 s ahead of ours; one of their hellos comes again.
    for host in 2..5 {
        let hello = Hello { clock_offset_secs: 50, ..Hello::default() }.sign();
        greet(visit(host, &hello), &hello, &KEY).unwrap().open(PADDED, 2).ping(100, 1);
        if host == 4 {
            let _again = visit(9, &hello);
            drop(front.visit(&hello.wire[..100]));
        }
    }
    // An old hello, which somebody may have recorded, says nothing of a clock.
    let old = Hello { clock_offset_secs: -9000, ..Hello::default() }.sign();
    let _late = visit(9, &old);
    drop(front.visit(&old.wire[..100]));
    let minute = "INFO the last minute clients=3 fronted=2 replays=1 skewed=1";
    let wrong = "WARN the clock of this machine is wrong: it differs from the clocks of all clients";
    let log = socket::wait_for("the line of a minute", Duration::from_secs(90), || {
        Some(proxy.log()).filter(|log| log.contains(minute) && log.contains(wrong))
    });
    let ahead = log.lines().find(|line| line.starts_with(wrong)).unwrap();
    assert!(
        ["-51", "-50", "-49"].iter().any(|secs| ahead.ends_with(&format!(" clients=3 ahead_secs={secs}"))),
        "{ahead}"
    );
    assert!(!log.contains("127.0.0.9"), "a stranger shows above debug: {log}");
}

#[test]
fn where_all_clients_are_turned_away_for_their_clocks_the_log_says_so() {
    let front = FakeFront::listen();
    let proxy = Setup::new().front(front.address).start();
    // As on a router that has begun in the past: all are of one phone, which tries again and again.
    let phone: Vec<_> = (0..3)
        .map(|_| {
            let hello = Hello { clock_offset_secs: 9000, ..Hello::default() }.sign();
            let mut stream = socket::connect(proxy.address);
            stream.write_all(&hello.wire).unwrap();
            stream
        })
        .collect();
    let line = "WARN nobody gets in: whoever has the secret is turned away, because the clocks differ";
    let log =
        socket::wait_for("the warning", Duration::from_secs(90), || Some(proxy.log()).filter(|log| log.contains(line)));
    let line = log.lines().find(|log| log.starts_with(line)).unwrap();
    assert!(
        ["8999", "9000", "9001"].iter().any(|secs| line.ends_with(&format!(" hellos=3 ahead_secs={secs}"))),
        "{line}"
    );
    drop(phone);
}

/// What `mtg status` says of a proxy.
fn status(proxy: &Proxy, flags: &[&str]) -> String {
    let mut command = Command::new(support::proxy::binary());
    let output = command.arg("status").args(flags).arg(proxy.config_file()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn status_tells_of_clients_strangers_and_traffic_without_any_metrics() {
    let (dc, front) = (FakeDc::listen(), FakeFront::listen());
    let proxy = Setup::new().dc(2, dc.address).front(front.address).start();
    let mut client = session(proxy.address, 2);
    client.upload.send(&Pattern::new(1).take(70_000));
    let mut stream = dc.accept();
    stream.receive(70_000);
    stream.send(&Pattern::new(2).take(5));
    client.download.receive(5).unwrap();
    let mut stranger = socket::connect(proxy.address);
    stranger.write_all(REQUEST).unwrap();
    let visit = front.visit(REQUEST);
    let wanted = [
        "\"running\": true",
        "\"clients\": 1",
        "\"strangers\": 1",
        "\"arriving\": 0",
        "\"bytes_to_clients\": 5",
        "\"bytes_from_clients\": 70000",
        concat!("\"version\": \"", env!("CARGO_PKG_VERSION"), "\""),
    ];
    socket::wait_for("all of it", DEADLINE, || {
        let shown = status(&proxy, &["--json"]);
        wanted.iter().all(|part| shown.contains(&format!("  {part},\n"))).then_some(())
    });
    let shown = status(&proxy, &[]);
    for part in
        [" 1 connections\n", " 1 at the front, 0 not known yet\n", " 5 bytes to clients, 70.0 KB from clients\n"]
    {
        assert!(shown.contains(part), "{shown}");
    }
    drop((client, stream, stranger, visit));
    socket::wait_for("nobody", DEADLINE, || status(&proxy, &[]).contains(" 0 connections\n").then_some(()));
}

#[test]
fn who_asks_for_the_status_and_does_not_read_stops_nobody() {
    let dc = EchoDc::listen();
    let proxy = Setup::new().dc(2, dc.address).start();
    let name = UnixAddress::from_abstract_name(format!("mtg-status {}", proxy.address)).unwrap();
    // More than may wait at once.
    let _idle: Vec<_> = (0..100).map(|_| UnixStream::connect_addr(&name).unwrap()).collect();
    assert!(status(&proxy, &[]).starts_with("running "));
    session(proxy.address, 2).ping(1000, 1);
}
