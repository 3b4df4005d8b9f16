//! What the owner of a proxy is told without asking, at the log level that nobody has changed.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::support::client::session;
use crate::support::dc::EchoDc;
use crate::support::front::{FLIGHT, bytes};
use crate::support::proxy::{Proxy, Setup};
use crate::support::{self, DEADLINE, socket};
use rustix::process::{Pid, Signal, kill_process};

/// The start of a TLS 1.2 server's.
const OLD_FLIGHT: &str =
    "160303002c0200002803036f79deae078beb61e612a40c0537d02f724afd8851f4ba281fe1c74130f8a58200c02f000000";
const UNKNOWN_NAME: &str = "15030300020270";
/// How a PROXY header of version 2 begins.
const HEADER: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fn quiet() -> Setup {
    Setup::new().set("log-level", "warn")
}

fn wait_for_log(proxy: &Proxy, part: &str) -> String {
    socket::wait_for(part, DEADLINE, || Some(proxy.log()).filter(|log| log.contains(part)))
}

/// A front that says the same to everybody; one that `wants_header` hangs up on whoever has none, one that `minds` it on
/// whoever has one.
fn front(answer: &str, wants_header: bool, minds_header: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, answer) = (listener.local_addr().unwrap(), bytes(answer));
    thread::spawn(move || answer_all(&listener, &answer, wants_header, minds_header));
    address
}

fn answer_all(listener: &TcpListener, answer: &[u8], wants_header: bool, minds_header: bool) {
    for mut visit in listener.incoming().flatten() {
        let answer = answer.to_vec();
        thread::spawn(move || {
            visit.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            let mut hello = [0; 2048];
            let mut length = visit.read(&mut hello).unwrap_or(0);
            let has_header = hello[..length].starts_with(HEADER);
            if (wants_header && !has_header) || (minds_header && has_header) {
                return;
            }
            // The hello may come together with the header, which has 28 bytes for IPv4.
            if has_header && length <= 28 {
                length = visit.read(&mut hello).unwrap_or(0);
            }
            if length > 0 {
                let _ = visit.write_all(&answer);
                let _ = visit.read(&mut hello);
            }
        });
    }
}

#[test]
fn start_reload_and_stop_are_told_at_any_level() {
    let setup = quiet();
    let mut proxy = setup.start();
    let started = wait_for_log(&proxy, "NOTICE listening");
    let line = started.lines().find(|line| line.starts_with("NOTICE ")).unwrap();
    let start =
        format!("NOTICE listening bind-to={} version={} front=127.0.0.1:", proxy.address, env!("CARGO_PKG_VERSION"));
    assert!(line.starts_with(&start) && line.contains(" links='mtg access /"), "{line}");
    proxy.reload(&setup.clone().set("fast-mode", "false").set("network.timeout.idle", "1m").set("threads", "3"));
    let log = wait_for_log(&proxy, "NOTICE the configuration was loaded again changed=");
    assert!(log.contains(" changed=fast-mode,network.timeout.idle\n"), "{log}");
    assert!(log.contains("WARN changed keys that take effect with a restart only keys=threads\n"), "{log}");
    proxy.terminate();
    let status = proxy.wait(DEADLINE);
    proxy.assert_ended_well(status);
    assert!(proxy.log().ends_with("NOTICE stopped\n"), "{}", proxy.log());
}

#[test]
fn without_a_file_the_start_tells_how_to_see_the_links_too() {
    let log = std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("simple.log");
    let mut child = Command::new(support::proxy::binary())
        .args(["simple-run", &socket::free_address().to_string(), "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let secret = format!("ee{}{}\n", support::hex(&support::KEY), support::hex(b"front.example"));
    child.stdin.take().unwrap().write_all(secret.as_bytes()).unwrap();
    let read = || Some(std::fs::read_to_string(&log).unwrap()).filter(|text| text.contains("NOTICE listening"));
    let text = socket::wait_for("the start", DEADLINE, read);
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(text.contains(" links='put the secret and bind-to into a FILE, then: mtg access FILE'\n"), "{text}");
}

#[test]
fn lines_in_a_file_have_the_time() {
    let folder = std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let (config, log) = (folder.join("timed.conf"), folder.join("timed.log"));
    let read = || std::fs::read_to_string(&log).unwrap();
    for (time, has_time) in [("auto", true), ("never", false)] {
        std::fs::write(&config, quiet().set("log-time", time).config(socket::free_address())).unwrap();
        let mut child = Command::new(support::proxy::binary())
            .args(["run".as_ref(), config.as_os_str()])
            .stdin(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let text =
            socket::wait_for("the start", DEADLINE, || Some(read()).filter(|text| text.contains("NOTICE listening")));
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        assert!(child.wait().unwrap().success());
        let line = text.lines().find(|line| line.contains("NOTICE listening")).unwrap();
        let is_time = line.starts_with("20") && line.contains('T') && line[19..].starts_with("Z NOTICE ");
        assert_eq!(is_time, has_time, "{line}");
    }
}

#[test]
fn a_data_centre_that_is_dead_while_others_live_is_told_of() {
    let dc = EchoDc::listen();
    let proxy = quiet().dc(2, dc.address).dc(4, socket::free_address()).start();
    session(proxy.address, 2).ping(100, 1);
    for _ in 0..5 {
        let mut lost = session(proxy.address, 4);
        assert!(lost.try_ping(10, 1).is_err());
    }
    let log = wait_for_log(&proxy, "a data centre of Telegram cannot be reached while others can");
    assert_eq!(log.matches("data centre of Telegram").count(), 1, "{log}");
    assert!(log.contains(" dc=4\n"), "{log}");
}

#[test]
fn proxy_headers_that_are_missing_unexpected_or_untrusted_are_told_of() {
    let hello = |proxy: &Proxy, start: &[u8]| {
        let mut stream = socket::connect(proxy.address);
        let _ = stream.write_all(start);
        stream
    };
    for (setup, start, part) in [
        (
            quiet().set("proxy-protocol-listener", "true"),
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            "comes without a PROXY header",
        ),
        (quiet(), b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", "set proxy-protocol-listener = true ip=127.0.0.1"),
        (
            quiet().set("proxy-protocol-listener", "true").set("proxy-protocol-trusted", "192.0.2.0/24"),
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
            "not in proxy-protocol-trusted",
        ),
    ] {
        let proxy = setup.start();
        let _visits: Vec<TcpStream> = (0..3).map(|_| hello(&proxy, start)).collect();
        let log = wait_for_log(&proxy, part);
        assert_eq!(log.matches(part).count(), 1, "{log}");
    }
}

#[test]
fn clients_that_have_all_the_places_are_told_of() {
    let dc = EchoDc::listen();
    let proxy = quiet().dc(2, dc.address).set("concurrency", "4").start();
    let _clients: Vec<_> = (0..4).map(|_| session(proxy.address, 2)).collect();
    let _others: Vec<_> = (0..3).map(|_| socket::connect(proxy.address)).collect();
    let log = wait_for_log(&proxy, "WARN all places are taken by clients, so that nobody else can connect");
    assert_eq!(log.matches("all places are taken").count(), 1, "{log}");
}

#[test]
fn an_address_at_its_cap_is_told_of_with_the_likely_cause() {
    let proxy = quiet().set("handshakes-per-ip", "2").start();
    let _silent: Vec<_> = (0..6).map(|_| socket::connect(proxy.address)).collect();
    let log = wait_for_log(&proxy, "WARN one address has as many connections as 'handshakes-per-ip' lets it have");
    assert!(log.contains("Docker's proxy hides theirs") && log.contains(" ip=127.0.0.1"), "{log}");
    assert_eq!(log.matches("one address has as many").count(), 1, "{log}");
}

#[test]
fn what_a_front_refuses_is_told_with_its_cause() {
    for (answer, wants_header, minds_header, sends_header, part) in [
        (OLD_FLIGHT, false, false, "false", "it answers in an older TLS"),
        (UNKNOWN_NAME, false, false, "false", "it has no site of that name"),
        (FLIGHT, true, false, "false", "it wants a PROXY header, which mtg does not send it"),
        (FLIGHT, false, true, "true", "it cannot read the PROXY header that mtg sends it"),
        ("2a", false, false, "false", "it answers, but not in TLS"),
    ] {
        let front = front(answer, wants_header, minds_header);
        let proxy = quiet().front(front).set("domain-fronting.proxy-protocol", sends_header).start();
        let log = wait_for_log(&proxy, "the front does not answer as a web site of today");
        assert!(log.contains(part), "{part} is not in {log}");
    }
}

#[test]
fn a_good_front_and_a_private_file_are_not_complained_of() {
    let front = front(FLIGHT, false, false);
    let proxy = quiet().front(front).start();
    wait_for_log(&proxy, "NOTICE listening");
    thread::sleep(Duration::from_secs(3));
    assert!(!proxy.log().contains("WARN"), "{}", proxy.log());
}

#[test]
fn a_file_that_everybody_can_read_is_told_of() {
    let proxy = quiet().mode(0o644).start();
    wait_for_log(
        &proxy,
        "WARN every user of this machine can read the configuration and the secret in it: chmod o-r /",
    );
}

#[test]
fn a_name_that_leads_elsewhere_is_told_of() {
    let setup = quiet().secret(&support::KEY, "localhost").set("network.dns", "system");
    let proxy = setup.set("public-ipv4", "203.0.113.5").start();
    let log = wait_for_log(&proxy, "the name in the secret leads to another machine");
    assert!(log.contains("host=localhost") && log.contains("here=203.0.113.5"), "{log}");
}

/// A small input that once went wrong.
fn case(name: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/cases").join(name)
}

#[test]
fn files_that_went_wrong_once_are_read_or_answered_rightly() {
    for (name, code, wanted) in [
        ("tcp_buffer.toml", 0, "tcp-buffer has no effect"),
        ("disabled_https_list.toml", 0, ""),
        (
            "keys_after_section.toml",
            78,
            "public-ipv4 stands under [stats.prometheus]; write it above the first section",
        ),
        ("all_interfaces.toml", 0, ""),
        ("semicolons.conf", 0, ""),
        #[cfg(feature = "tls")]
        ("doh_http2_only.toml", 0, "this name server wants HTTP/2, which mtg does not speak"),
        #[cfg(not(feature = "tls"))]
        ("doh_http2_only.toml", 78, "mtg-tls"),
    ] {
        let output = Command::new(support::proxy::binary()).args(["run", "--check"]).arg(case(name)).output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{name}: {errors}");
        assert!(if wanted.is_empty() { errors.is_empty() } else { errors.contains(wanted) }, "{name}: {errors}");
    }
}

#[test]
fn a_kernel_without_ipv6_is_served_by_ipv4_alone() {
    let folder = std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let address = socket::free_address();
    let text = std::fs::read_to_string(case("all_interfaces.toml")).unwrap();
    assert!(text.contains("[::]:3443"));
    let config = folder.join("all_interfaces.toml");
    std::fs::write(&config, text.replace("[::]:3443", &format!("[::]:{}", address.port()))).unwrap();
    let log = folder.join("all_interfaces.log");
    let mut child = Command::new("python3")
        .arg(case("no_ipv6.py"))
        .arg(support::proxy::binary())
        .args(["run".as_ref(), config.as_os_str()])
        .stdin(Stdio::null())
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .expect("python3 is missing; install it with: apt-get install python3");
    let read = || std::fs::read_to_string(&log).unwrap();
    let is_up = || TcpStream::connect(address).is_ok().then_some(());
    let came_up = std::panic::catch_unwind(|| socket::wait_for("the proxy to listen", DEADLINE, is_up));
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let status = child.wait().unwrap();
    assert!(came_up.is_ok() && status.success(), "{}", read());
    assert!(read().contains("NOTICE this machine has no IPv6, so IPv4 alone is served"), "{}", read());
}

#[test]
fn a_front_that_starts_late_is_looked_at_within_seconds() {
    let later = socket::free_address();
    let proxy = Setup::new().front(later).start();
    socket::wait_for("a look in vain", DEADLINE, || proxy.log().contains("no sample of the front").then_some(()));
    thread::sleep(Duration::from_secs(4));
    let listener = TcpListener::bind(later).unwrap();
    let sampled = || proxy.log().contains("sample of the front offer=Hybrid suite=").then_some(());
    thread::spawn(move || answer_all(&listener, &bytes(FLIGHT), false, false));
    // It used to take from one minute to two.
    socket::wait_for("a sample", Duration::from_secs(30), sampled);
}
