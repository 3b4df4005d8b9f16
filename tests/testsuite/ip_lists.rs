//! Who may connect and who may not, by lists that are loaded while the proxy runs.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::client::{greet, greeted, session};
use crate::support::dc::EchoDc;
use crate::support::front::FakeFront;
use crate::support::hello::Hello;
use crate::support::proxy::{Proxy, Setup};
use crate::support::socket::{self, End};
use crate::support::{self, DEADLINE, KEY};

/// An address of the loopback network that is listed, and one that is not.
const LISTED: Ipv4Addr = Ipv4Addr::new(127, 0, 9, 5);
const OTHER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
const LIST: &str = "# some list\n127.0.9.0/24\n2001:db8::/32\n";

/// What a list server does with a request.
#[derive(Clone, Copy, PartialEq)]
enum Does {
    Serves(&'static str),
    /// The same, slowly.
    ServesLate(&'static str),
    Fails,
    SendsHtml,
    SendsHalf,
    SendsNothing,
    Hangs,
    Resets,
    SaysUnchanged,
}

struct ListServer {
    address: SocketAddr,
    does: Arc<Mutex<Does>>,
    requests: Arc<Mutex<Vec<String>>>,
    most_at_once: Arc<AtomicUsize>,
}

impl ListServer {
    fn new(does: Does) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            does: Arc::new(Mutex::new(does)),
            requests: Arc::default(),
            most_at_once: Arc::default(),
        };
        let (does, requests) = (server.does.clone(), server.requests.clone());
        let (most, running) = (server.most_at_once.clone(), Arc::new(AtomicUsize::new(0)));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (does, requests, most, running) = (does.clone(), requests.clone(), most.clone(), running.clone());
                std::thread::spawn(move || {
                    most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    let mut stream = stream.unwrap();
                    let request = read_request(&mut stream);
                    let does = *does.lock().unwrap();
                    requests.lock().unwrap().push(request.clone());
                    if matches!(does, Does::ServesLate(_)) {
                        std::thread::sleep(Duration::from_millis(300));
                    }
                    // Not after the answer: whoever has that may ask for the next list at once.
                    running.fetch_sub(1, Ordering::SeqCst);
                    answer(stream, &request, does);
                });
            }
        });
        server
    }

    fn url(&self) -> String {
        format!("http://{}/list.netset", self.address)
    }

    fn does(&self, does: Does) {
        *self.does.lock().unwrap() = does;
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    /// Waits for so many requests from now on.
    fn wait_for_requests(&self, more: usize) {
        let wanted = self.requests().len() + more;
        socket::wait_for("requests for the list", DEADLINE, || (self.requests().len() >= wanted).then_some(()));
    }
}

fn read_request(stream: &mut TcpStream) -> String {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|count| count == 1) {
        request.push(byte[0]);
    }
    String::from_utf8(request).unwrap()
}

fn answer(mut stream: TcpStream, request: &str, does: Does) {
    let whole = |list: &str, length: usize| {
        format!("HTTP/1.1 200 OK\r\nETag: \"v{length}\"\r\nContent-Length: {length}\r\n\r\n{list}")
    };
    let text = match does {
        Does::Serves(list) if request.contains(&format!("If-None-Match: \"v{}\"", list.len())) => {
            "HTTP/1.1 304 Not Modified\r\n\r\n".to_owned()
        }
        Does::Serves(list) | Does::ServesLate(list) => whole(list, list.len()),
        Does::Fails => "HTTP/1.1 500 Sorry\r\nContent-Length: 0\r\n\r\n".to_owned(),
        Does::SendsHtml => whole("<html>\n<body>\n</html>\n", 22),
        Does::SendsHalf => whole("10.0.0.0/8\n", 1000),
        Does::SendsNothing => whole("", 0),
        Does::SaysUnchanged => "HTTP/1.1 304 Not Modified\r\n\r\n".to_owned(),
        Does::Hangs => return std::thread::sleep(DEADLINE),
        Does::Resets => return socket::reset(stream),
    };
    // The proxy may have ended.
    let _ = stream.write_all(text.as_bytes());
}

/// A file that is removed with its owner.
struct ListFile(PathBuf);

impl ListFile {
    fn new(text: &str) -> Self {
        let name = format!("list-{}-{}", std::process::id(), support::hex(&support::random::<4>()));
        let file = Self(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name));
        std::fs::write(&file.0, text).unwrap();
        file
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for ListFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn with_list(setup: Setup, kind: &str, place: &str) -> Setup {
    setup
        .set(&format!("defense.{kind}.enabled"), "true")
        .set(&format!("defense.{kind}.urls"), place)
        .set(&format!("defense.{kind}.update-each"), "200ms")
}

fn wait_for_log(proxy: &Proxy, text: &str) {
    socket::wait_for(&format!("{text:?} in the log"), DEADLINE, || proxy.log().contains(text).then_some(()));
}

/// Whether a client at `source` is answered; if not, it is closed without a byte.
fn is_served(proxy: &Proxy, source: Ipv4Addr) -> bool {
    let mut stream = socket::connect_from(source, proxy.address);
    let hello = Hello::default().sign();
    // A door that closes at once may do so before the hello is sent.
    if stream.write_all(&hello.wire).is_err() {
        return false;
    }
    let mut first = [0];
    match stream.read(&mut first) {
        Ok(0) => false,
        Ok(_) => true,
        Err(error) => {
            assert!(socket::is_reset(&error), "{error}");
            false
        }
    }
}

/// A proxy that closes whom its lists refuse.
fn closing() -> Setup {
    Setup::new().set("defense.reject", "close")
}

#[test]
fn blocked_address_is_closed_and_others_are_served() {
    let dc = EchoDc::listen();
    let file = ListFile::new(LIST);
    let proxy = with_list(closing().dc(2, dc.address), "blocklist", file.path()).start();
    wait_for_log(&proxy, "list loaded list=blocklist");
    for _ in 0..3 {
        assert!(!is_served(&proxy, LISTED));
        assert!(is_served(&proxy, OTHER));
    }
    session(proxy.address, 2).ping(100, 1);
    wait_for_log(&proxy, "reason=blocklisted");
}

#[test]
fn blocked_address_that_says_nothing_is_closed_too() {
    let file = ListFile::new(LIST);
    let proxy = with_list(closing(), "blocklist", file.path()).start();
    wait_for_log(&proxy, "list loaded");
    let mut stream = socket::connect_from(LISTED, proxy.address);
    assert_eq!(socket::read_to_end(&mut stream), (Vec::new(), End::Fin));
}

#[test]
fn blocked_address_sees_the_front_unless_the_owner_wants_it_closed() {
    let front = FakeFront::listen();
    let file = ListFile::new(LIST);
    let proxy = with_list(Setup::new().front(front.address), "blocklist", file.path()).start();
    wait_for_log(&proxy, "list loaded");
    // Even with the secret.
    let hello = Hello::default().sign();
    let mut stream = socket::connect_from(LISTED, proxy.address);
    stream.write_all(&hello.wire).unwrap();
    let mut visit = front.visit(&hello.wire);
    visit.expect(&hello.wire);
    visit.send(b"answer");
    assert_eq!(socket::read_exactly(&mut stream, 6).unwrap(), b"answer");
    assert!(greeted(proxy.address).is_ok());
}

#[test]
fn allowlist_lets_in_whom_it_names_and_nobody_else() {
    let file = ListFile::new("127.0.9.5\n");
    let proxy = with_list(closing(), "allowlist", file.path()).start();
    wait_for_log(&proxy, "list loaded list=allowlist");
    assert!(is_served(&proxy, LISTED));
    assert!(!is_served(&proxy, OTHER));
    wait_for_log(&proxy, "reason=not_allowlisted");
}

#[test]
fn blocklist_wins_where_both_lists_name_an_address() {
    let (allowed, blocked) = (ListFile::new("127.0.0.0/8"), ListFile::new(LIST));
    let setup = with_list(closing(), "allowlist", allowed.path());
    let proxy = with_list(setup, "blocklist", blocked.path()).start();
    wait_for_log(&proxy, "list loaded list=allowlist");
    wait_for_log(&proxy, "list loaded list=blocklist");
    assert!(is_served(&proxy, OTHER));
    assert!(!is_served(&proxy, LISTED));
}

#[test]
fn allowlist_that_cannot_be_loaded_lets_nobody_in_and_says_so() {
    let server = ListServer::new(Does::Fails);
    let proxy = with_list(closing(), "allowlist", &server.url()).start();
    wait_for_log(&proxy, "NOBODY may connect");
    assert!(!is_served(&proxy, OTHER));
    server.does(Does::Serves("127.0.0.1"));
    wait_for_log(&proxy, "list loaded list=allowlist");
    assert!(is_served(&proxy, OTHER));
    server.wait_for_requests(3);
    assert_eq!(proxy.log().matches("NOBODY may connect").count(), 1);
}

#[test]
fn list_that_is_off_is_neither_loaded_nor_looked_at() {
    let server = ListServer::new(Does::Serves("127.0.0.0/8"));
    let mut setup = Setup::new();
    for kind in ["blocklist", "allowlist"] {
        setup = with_list(setup, kind, &server.url()).set(&format!("defense.{kind}.enabled"), "false");
    }
    let proxy = setup.start();
    assert!(is_served(&proxy, OTHER) && is_served(&proxy, LISTED));
    assert_eq!(server.requests().len(), 0);
}

#[test]
fn last_good_copy_stays_whatever_the_server_does() {
    let server = ListServer::new(Does::Serves(LIST));
    let setup = with_list(closing(), "blocklist", &server.url()).set("network.timeout.http", "1s");
    let proxy = setup.start();
    wait_for_log(&proxy, "networks=2");
    for (does, complaint) in [
        (Does::Fails, "status 500"),
        (Does::SendsHtml, "no list of networks"),
        (Does::SendsHalf, "ended in the middle"),
        (Does::SendsNothing, "nothing in it"),
        (Does::Resets, "error="),
        (Does::Hangs, "says nothing"),
    ] {
        server.does(does);
        wait_for_log(&proxy, complaint);
        server.wait_for_requests(2);
        assert!(!is_served(&proxy, LISTED), "{complaint}");
        assert!(is_served(&proxy, OTHER), "{complaint}");
    }
    server.does(Does::Serves("192.0.2.1"));
    socket::wait_for("the new list", DEADLINE, || is_served(&proxy, LISTED).then_some(()));
    let warnings = proxy.log().matches("WARN cannot load a list, the last good copy stays").count();
    assert_eq!(warnings, 1, "one for the whole trouble");
}

#[test]
fn list_that_has_not_changed_is_not_sent_again() {
    let server = ListServer::new(Does::Serves(LIST));
    let proxy = with_list(closing(), "blocklist", &server.url()).start();
    server.wait_for_requests(4);
    let requests = server.requests();
    assert!(!requests[0].contains("If-None-Match"), "{}", requests[0]);
    assert!(requests[1..].iter().all(|request| request.contains("If-None-Match: \"v")), "{requests:?}");
    assert!(!is_served(&proxy, LISTED));
    assert_eq!(proxy.log().matches("list loaded").count(), 1);
}

#[test]
fn start_does_not_wait_for_a_list_server() {
    let dc = EchoDc::listen();
    let server = ListServer::new(Does::Hangs);
    let proxy = with_list(Setup::new().dc(2, dc.address), "blocklist", &server.url()).start();
    session(proxy.address, 2).ping(100, 1);
    server.wait_for_requests(0);
}

#[test]
fn sources_are_loaded_as_many_at_a_time_as_was_set() {
    for most in [1, 2] {
        let server = ListServer::new(Does::ServesLate(LIST));
        let urls: Vec<_> = (0..5).map(|number| format!("\"{}?{number}\"", server.url())).collect();
        let setup = with_list(closing(), "blocklist", &format!("[{}]", urls.join(", ")));
        let setup = setup.set("defense.blocklist.update-each", "1h");
        let proxy = setup.set("defense.blocklist.download-concurrency", &most.to_string()).start();
        socket::wait_for("all five", DEADLINE, || (proxy.log().matches("list loaded").count() == 5).then_some(()));
        assert_eq!(server.most_at_once.load(Ordering::SeqCst), most);
    }
}

#[test]
fn file_that_appears_later_is_loaded_and_one_that_vanishes_is_remembered() {
    let file = ListFile::new(LIST);
    let text = std::fs::read(&file.0).unwrap();
    std::fs::remove_file(&file.0).unwrap();
    let proxy = with_list(closing(), "blocklist", file.path()).start();
    wait_for_log(&proxy, "WARN cannot load a list, there is no copy of it");
    assert!(is_served(&proxy, LISTED));
    std::fs::write(&file.0, text).unwrap();
    wait_for_log(&proxy, "list loaded");
    assert!(!is_served(&proxy, LISTED));
    std::fs::remove_file(&file.0).unwrap();
    wait_for_log(&proxy, "WARN cannot load a list, the last good copy stays");
    assert!(!is_served(&proxy, LISTED));
}

#[test]
fn lines_that_are_no_network_are_counted_and_named_once() {
    let file = ListFile::new("127.0.9.5\n127.0.9.6\n127.0.9.7\nrubbish\n1.2.3.4/33\n");
    let proxy = with_list(closing(), "blocklist", file.path()).start();
    socket::wait_for("three loads", DEADLINE, || (proxy.log().matches("list loaded").count() >= 3).then_some(()));
    assert!(!is_served(&proxy, LISTED));
    assert!(proxy.log().contains("lines=2 first=4"), "{}", proxy.log());
    assert_eq!(proxy.log().matches("lines that are no network").count(), 1);
}

#[test]
fn blocklist_with_our_own_network_is_warned_of() {
    let file = ListFile::new("127.0.0.0/8\n");
    let proxy = with_list(closing(), "blocklist", file.path()).start();
    wait_for_log(&proxy, "shuts out a network of this machine");
    assert!(!is_served(&proxy, OTHER));
}

#[test]
fn password_of_a_list_server_is_sent_and_not_logged() {
    let server = ListServer::new(Does::Serves(LIST));
    let url = server.url().replace("http://", "http://user:hunter2@");
    let proxy = with_list(closing(), "blocklist", &url).start();
    wait_for_log(&proxy, "list loaded");
    assert!(server.requests()[0].contains("Authorization: Basic dXNlcjpodW50ZXIy"));
    assert!(!proxy.log().contains("hunter2"));
}

#[test]
fn listed_client_that_was_let_in_stays() {
    let dc = EchoDc::listen();
    let file = ListFile::new("192.0.2.1\n");
    let proxy = with_list(Setup::new().dc(2, dc.address), "blocklist", file.path()).start();
    wait_for_log(&proxy, "list loaded");
    let hello = Hello::default().sign();
    let mut stream = socket::connect_from(LISTED, proxy.address);
    stream.write_all(&hello.wire).unwrap();
    let mut client = greet(stream, &hello, &KEY).unwrap().open(support::obfuscated2::PADDED, 2);
    client.ping(100, 1);
    std::fs::write(&file.0, LIST).unwrap();
    wait_for_log(&proxy, "networks=2");
    assert!(!is_served(&proxy, LISTED));
    client.ping(100, 2);
}

#[test]
fn reload_reads_a_file_again_that_has_grown() {
    let file = ListFile::new("192.0.2.1\n");
    let setup = with_list(closing(), "blocklist", file.path()).set("defense.blocklist.update-each", "1h");
    let proxy = setup.start();
    wait_for_log(&proxy, "list loaded");
    assert!(is_served(&proxy, LISTED));
    for (list, is_listed) in [(LIST, true), ("192.0.2.1\n", false)] {
        std::fs::write(&file.0, list).unwrap();
        proxy.reload(&setup);
        socket::wait_for(list, DEADLINE, || (is_served(&proxy, LISTED) != is_listed).then_some(()));
    }
}

#[test]
fn reload_reads_a_file_that_was_missing_at_the_start() {
    let file = ListFile::new("");
    std::fs::remove_file(&file.0).unwrap();
    let setup = with_list(closing(), "allowlist", file.path()).set("defense.allowlist.update-each", "1h");
    let proxy = setup.start();
    wait_for_log(&proxy, "NOBODY may connect");
    // As many failures by themselves would take more than a minute, and the next one would come after another.
    for failures in 2..=4 {
        proxy.reload(&setup);
        let has_failed = || (proxy.log().matches("WARN cannot load a list").count() >= failures).then_some(());
        socket::wait_for("one more failure", DEADLINE, has_failed);
    }
    std::fs::write(&file.0, "127.0.0.1\n").unwrap();
    proxy.reload(&setup);
    wait_for_log(&proxy, "list loaded list=allowlist");
    assert!(is_served(&proxy, OTHER) && !is_served(&proxy, LISTED));
}

#[test]
fn reload_with_a_shorter_time_between_updates_counts_at_once() {
    let server = ListServer::new(Does::Serves(LIST));
    let setup = with_list(closing(), "blocklist", &server.url());
    let proxy = setup.clone().set("defense.blocklist.update-each", "1h").start();
    wait_for_log(&proxy, "list loaded");
    proxy.reload(&setup.set("defense.blocklist.update-each", "100ms"));
    server.wait_for_requests(3);
}

#[test]
fn reload_leaves_a_download_alone_that_runs() {
    let server = ListServer::new(Does::Hangs);
    let setup = with_list(closing(), "blocklist", &server.url());
    let setup = setup.set("network.timeout.http", "3s").set("defense.blocklist.update-each", "1h");
    let proxy = setup.start();
    socket::wait_for("the first request", DEADLINE, || (server.requests().len() == 1).then_some(()));
    proxy.reload(&setup);
    wait_for_log(&proxy, "the configuration was loaded again");
    server.does(Does::Serves(LIST));
    wait_for_log(&proxy, "list loaded");
    assert!(proxy.log().contains("says nothing"), "the first download came to its own end: {}", proxy.log());
    assert!(!is_served(&proxy, LISTED));
}

#[test]
fn server_that_has_nothing_new_for_whom_has_nothing_is_complained_of() {
    let server = ListServer::new(Does::SaysUnchanged);
    let proxy = with_list(closing(), "allowlist", &server.url()).start();
    wait_for_log(&proxy, "NOBODY may connect");
    server.does(Does::Serves("127.0.0.1"));
    wait_for_log(&proxy, "list loaded list=allowlist");
}
