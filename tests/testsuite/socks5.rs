//! Telegram is reached through SOCKS5 proxies where there are some, and a bad one costs its clients little.

use std::io::Write;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use crate::support;
use crate::support::client::session;
use crate::support::dc::{BlackHole, EchoDc, FakeDc};
use crate::support::front::FakeFront;
use crate::support::pattern::Pattern;
use crate::support::proxy::{Proxy, Setup};
use crate::support::socket;
use crate::support::socks5::{FakeSocks5, Mood};

fn through(dc: SocketAddr, proxies: &[String]) -> Setup {
    Setup::new().dc(2, dc).set("network.proxies", &format!("{proxies:?}"))
}

/// Fails unless the client's connection is closed without a byte, and says how long that took.
fn time_to_refusal(proxy: &Proxy) -> Duration {
    let started = Instant::now();
    session(proxy.address, 2).download.expect_end();
    started.elapsed()
}

fn wait_for_line(proxy: &Proxy, words: &str) {
    socket::wait_for(words, support::DEADLINE, || proxy.log().contains(words).then_some(()));
}

#[test]
fn dc_is_reached_through_the_proxy() {
    let (dc, socks5) = (EchoDc::listen(), FakeSocks5::listen(Mood::Good));
    let proxy = through(dc.address, &[socks5.url("")]).start();
    for seed in 0..3 {
        session(proxy.address, 2).ping(100_000, seed);
    }
    assert_eq!(socks5.targets(), vec![dc.address.to_string(); 3]);
    assert_eq!(dc.served(), 3);
}

#[test]
fn proxy_without_ipv6_is_asked_for_ipv4_before_it_is_blamed() {
    for code in [Some(1), Some(2), None, Some(0)] {
        let (dc, socks5) = (EchoDc::listen(), FakeSocks5::listen(Mood::WithoutIpv6(code)));
        let url = socks5.url("") + "?open_threshold=1";
        let setup = Setup::new().dc(2, "[2001:db8::1]:9000".parse().unwrap()).dc(2, dc.address);
        let proxy = setup.set("network.proxies", &url).start();
        let mut client = session(proxy.address, 2);
        if code == Some(0) {
            // Success was promised, so the client has to try again, as clients do.
            client.try_ping(100, 1).unwrap_err();
            drop(client);
            wait_for_line(&proxy, "connection ended");
            client = session(proxy.address, 2);
        }
        client.ping(100, 1);
        assert_eq!(socks5.targets(), ["[2001:db8::1]:9000".to_owned(), dc.address.to_string()], "{code:?}");
        session(proxy.address, 2).ping(100, 2);
        assert!(!proxy.log().contains("left alone"), "{code:?}: {}", proxy.log());
    }
}

#[test]
fn proxy_that_resets_what_it_promised_is_asked_for_ipv4_even_if_the_client_had_not_spoken_yet() {
    let (dc, socks5) = (EchoDc::listen(), FakeSocks5::listen(Mood::ResetsIpv6));
    let setup = Setup::new().dc(2, "[2001:db8::1]:9000".parse().unwrap()).dc(2, dc.address);
    let proxy = setup.set("network.proxies", &socks5.url("")).start();
    let client = session(proxy.address, 2);
    wait_for_line(&proxy, "reason=remote_reset bytes_in=0");
    drop(client);
    session(proxy.address, 2).ping(100, 1);
    assert_eq!(socks5.targets(), ["[2001:db8::1]:9000".to_owned(), dc.address.to_string()]);
}

#[test]
fn proxy_that_fails_for_both_families_is_blamed() {
    let (dc, socks5) = (FakeDc::listen(), FakeSocks5::listen(Mood::Refusing(1)));
    let url = socks5.url("") + "?open_threshold=1";
    let setup = Setup::new().dc(2, "[2001:db8::1]:9000".parse().unwrap()).dc(2, dc.address);
    let proxy = setup.set("network.proxies", &url).start();
    time_to_refusal(&proxy);
    wait_for_line(&proxy, "WARN a SOCKS5 proxy fails and is left alone for 60s");
    assert_eq!(socks5.targets().len(), 2);
}

#[test]
fn proxy_may_have_a_name() {
    let (dc, socks5) = (EchoDc::listen(), FakeSocks5::listen(Mood::Good));
    let proxy = through(dc.address, &[format!("socks5h://localhost:{}", socks5.address.port())]).start();
    session(proxy.address, 2).ping(100, 1);
    assert_eq!(socks5.targets().len(), 1);
}

/// A name server that says `127.0.0.1`, good for five seconds, to the first question for that, and is silent from then on.
fn name_server_that_dies() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut question = [0; 512];
        loop {
            let (length, peer) = socket.recv_from(&mut question).unwrap();
            let is_v4 = question[length - 3] == 1;
            let mut answer = question[..length].to_vec();
            answer[2..4].copy_from_slice(&[0x81, 0x80]);
            answer[7] = u8::from(is_v4);
            if is_v4 {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 127, 0, 0, 1]);
            }
            socket.send_to(&answer, peer).unwrap();
            if is_v4 {
                break;
            }
        }
        // It holds the port, so that nobody is told that there is no server.
        loop {
            socket.recv_from(&mut question).unwrap();
        }
    });
    address
}

#[test]
fn proxy_with_a_name_is_found_by_everybody_after_the_name_server_has_died() {
    let (dc, socks5) = (EchoDc::listen(), FakeSocks5::listen(Mood::Good));
    let setup = through(dc.address, &[format!("socks5://proxy.test:{}", socks5.address.port())]);
    let proxy = setup.set("network.dns", &format!("udp://{}", name_server_that_dies())).start();
    session(proxy.address, 2).ping(100, 1);
    // The answer is over, then so is the time that it is used without asking again.
    for pause in [6, 12, 0] {
        std::thread::sleep(Duration::from_secs(pause));
        let started = Instant::now();
        session(proxy.address, 2).ping(100, pause);
        let took = started.elapsed();
        assert!(took < Duration::from_secs(4), "after {pause} s it took {took:?}");
    }
    assert_eq!(socks5.targets().len(), 4);
}

#[cfg(feature = "tls")]
#[test]
fn addresses_are_learned_over_another_proxy_as_soon_as_there_is_one() {
    let (dc, socks5) = (EchoDc::listen(), [(); 2].map(|()| FakeSocks5::listen(Mood::Refusing(1))));
    let dns = format!("udp://{}", name_server_that_dies());
    let [old, new] = socks5
        .each_ref()
        .map(|socks5| through(dc.address, &[socks5.url("")]).set("auto-update", "true").set("network.dns", &dns));
    let proxy = old.start();
    socket::wait_for("both pages to fail", support::DEADLINE, || (socks5[0].targets().len() == 2).then_some(()));
    proxy.reload(&new);
    // By themselves they are tried again after ten seconds.
    socket::wait_for("another attempt", Duration::from_secs(8), || (socks5[1].targets().len() == 2).then_some(()));
}

#[test]
fn user_name_and_password_are_told() {
    let (dc, socks5) = (EchoDc::listen(), FakeSocks5::with_login("us:er", "p@ss"));
    let proxy = through(dc.address, &[socks5.url("us%3Aer:p%40ss@")]).start();
    session(proxy.address, 2).ping(100, 1);
    assert_eq!(socks5.targets().len(), 1);
}

#[test]
fn wrong_password_closes_the_connection_and_is_never_logged() {
    let (dc, socks5) = (FakeDc::listen(), FakeSocks5::with_login("user", "right"));
    let proxy = through(dc.address, &[socks5.url("user:hunter2@") + "?open_threshold=1"]).start();
    time_to_refusal(&proxy);
    wait_for_line(&proxy, "it refuses the user name or the password");
    wait_for_line(&proxy, "WARN a SOCKS5 proxy fails and is left alone for 60s");
    assert!(!proxy.log().contains("hunter2") && !proxy.log().contains("user:"), "{}", proxy.log());

    let proxy = through(dc.address, &[socks5.url("")]).start();
    time_to_refusal(&proxy);
    wait_for_line(&proxy, "it wants a user name and a password");
    dc.assert_undialled(Duration::ZERO);
}

#[test]
fn half_close_passes_through_the_proxy_both_ways() {
    let (dc, socks5) = (FakeDc::listen(), FakeSocks5::listen(Mood::Good));
    let proxy = through(dc.address, &[socks5.url("")]).start();

    let mut client = session(proxy.address, 2);
    client.upload.send(&Pattern::new(1).take(50_000));
    client.upload.half_close();
    let mut stream = dc.accept();
    stream.expect_to_end(&mut Pattern::new(1), 50_000);
    stream.send_pattern(&mut Pattern::new(2), 70_000);
    stream.half_close();
    client.download.expect_to_end(&mut Pattern::new(2), 70_000);

    let mut client = session(proxy.address, 2);
    client.upload.send(b"hello");
    let mut stream = dc.accept();
    stream.send_pattern(&mut Pattern::new(3), 70_000);
    stream.half_close();
    client.download.expect_to_end(&mut Pattern::new(3), 70_000);
    client.upload.send(b"late");
    assert_eq!(stream.receive(9), b"hellolate");
}

#[test]
fn front_is_never_reached_through_the_proxy() {
    let (front, socks5) = (FakeFront::listen(), FakeSocks5::listen(Mood::Good));
    let proxy = Setup::new().front(front.address).set("network.proxies", &socks5.url("")).start();
    let mut stranger = socket::connect(proxy.address);
    stranger.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut visit = front.visit(b"GET /");
    visit.send(b"answer");
    assert_eq!(socket::read_exactly(&mut stranger, 6).unwrap(), b"answer");
    assert_eq!(socks5.accepted(), 0);
}

#[test]
fn empty_element_is_a_direct_connection() {
    let dc = EchoDc::listen();
    let proxy = through(dc.address, &[String::new()]).start();
    session(proxy.address, 2).ping(100, 1);

    let socks5 = FakeSocks5::listen(Mood::Good);
    let proxy = through(dc.address, &[String::new(), socks5.url("")]).start();
    for seed in 0..40 {
        session(proxy.address, 2).ping(100, seed);
    }
    let proxied = socks5.targets().len();
    assert!((1..40).contains(&proxied), "{proxied} of 40 through the proxy");
}

#[test]
fn several_proxies_share_the_work_and_stand_in_for_each_other() {
    let dc = EchoDc::listen();
    let proxies = [FakeSocks5::listen(Mood::Good), FakeSocks5::listen(Mood::Good), FakeSocks5::listen(Mood::Good)];
    let proxy = through(dc.address, &proxies.each_ref().map(|socks5| socks5.url(""))).start();
    for seed in 0..30 {
        session(proxy.address, 2).ping(100, seed);
    }
    assert!(proxies.iter().all(|socks5| socks5.accepted() > 0));
    proxies[0].set_mood(Mood::Refusing(1));
    proxies[1].set_mood(Mood::Refusing(2));
    for seed in 0..30 {
        session(proxy.address, 2).ping(100, seed);
    }
}

#[test]
fn addresses_are_asked_for_in_their_order_until_one_is_reached() {
    let (refused, dc, socks5) = (socket::free_address(), EchoDc::listen(), FakeSocks5::listen(Mood::Good));
    let proxy = through(refused, &[socks5.url("")]).dc(2, dc.address).start();
    session(proxy.address, 2).ping(100, 1);
    assert_eq!(socks5.targets(), [refused, dc.address].map(|address| address.to_string()));
    // What was refused is asked for last from then on.
    session(proxy.address, 2).ping(100, 2);
    assert_eq!(socks5.targets().len(), 3);
}

#[test]
fn targets_that_refuse_are_not_the_proxys_fault() {
    let (dc, socks5) = (EchoDc::listen(), FakeSocks5::listen(Mood::Refusing(5)));
    let proxy = through(dc.address, &[socks5.url("") + "?open_threshold=2"]).start();
    for _ in 0..5 {
        time_to_refusal(&proxy);
    }
    wait_for_line(&proxy, "the connection was refused there");
    socks5.set_mood(Mood::Good);
    session(proxy.address, 2).ping(100, 1);
}

#[test]
fn dcs_without_an_address_are_not_the_proxys_fault() {
    let (dc, socks5) = (EchoDc::listen(), FakeSocks5::listen(Mood::Good));
    let setup = through(dc.address, &[socks5.url("") + "?open_threshold=2"]).set("prefer-ip", "only-ipv4");
    let proxy = setup.dc(1, "[::1]:443".parse().unwrap()).start();
    for _ in 0..3 {
        session(proxy.address, 1).download.expect_end();
    }
    session(proxy.address, 2).ping(100, 1);
}

#[test]
fn proxy_that_never_answers_ends_the_stream_in_time_and_is_then_left_alone() {
    let (dc, hole) = (FakeDc::listen(), BlackHole::listen());
    let silent = [FakeSocks5::listen(Mood::Silent), FakeSocks5::listen(Mood::Stuck)];
    let urls = silent.iter().map(|socks5| socks5.url("")).chain([format!("socks5://{}", hole.address)]);
    for url in urls {
        let setup = through(dc.address, &[url + "?open_threshold=2"]).set("network.timeout.tcp", "1s");
        let proxy = setup.start();
        for _ in 0..2 {
            let took = time_to_refusal(&proxy);
            assert!((Duration::from_millis(900)..Duration::from_secs(5)).contains(&took), "{took:?}");
        }
        wait_for_line(&proxy, "WARN a SOCKS5 proxy fails and is left alone");
        let took = time_to_refusal(&proxy);
        assert!(took < Duration::from_millis(900), "the breaker is not open: {took:?}");
        wait_for_line(&proxy, "left alone for a while, because it failed");
    }
    dc.assert_undialled(Duration::ZERO);
}

#[test]
fn others_go_on_while_one_proxy_hangs() {
    let (dc, silent, good) = (EchoDc::listen(), FakeSocks5::listen(Mood::Silent), FakeSocks5::listen(Mood::Good));
    let urls = [silent.url("") + "?open_threshold=3&reset_failures_timeout=1h", good.url("")];
    let proxy = through(dc.address, &urls).set("network.timeout.tcp", "1s").start();
    let mut seed = 0;
    socket::wait_for("the breaker to open", Duration::from_secs(60), || {
        seed += 1;
        session(proxy.address, 2).ping(100, seed);
        proxy.log().contains("left alone").then_some(())
    });
    assert_eq!(silent.accepted(), 3);
    let started = Instant::now();
    for seed in 0..20 {
        session(proxy.address, 2).ping(100, seed);
    }
    assert!(started.elapsed() < Duration::from_secs(5), "20 clients took {:?}", started.elapsed());
    assert_eq!(silent.accepted(), 3);
}

#[test]
fn proxy_that_works_again_is_used_again() {
    let (dc, socks5) = (EchoDc::listen(), FakeSocks5::listen(Mood::Refusing(1)));
    let url = socks5.url("") + "?open_threshold=1&half_open_timeout=2s";
    let proxy = through(dc.address, &[url]).start();
    time_to_refusal(&proxy);
    socks5.set_mood(Mood::Good);
    assert!(session(proxy.address, 2).try_ping(100, 1).is_err(), "the breaker is open for two seconds");
    assert_eq!(socks5.accepted(), 1);
    std::thread::sleep(Duration::from_millis(2100));
    session(proxy.address, 2).ping(100, 1);
    wait_for_line(&proxy, "INFO a SOCKS5 proxy works again");
}

#[test]
fn client_that_leaves_during_the_negotiation_leaves_nothing_behind() {
    let (dc, socks5) = (FakeDc::listen(), FakeSocks5::listen(Mood::Stuck));
    let proxy = through(dc.address, &[socks5.url("")]).set("network.timeout.tcp", "60s").start();
    let before = proxy.open_files();
    let clients: Vec<_> = (0..20).map(|_| session(proxy.address, 2)).collect();
    socket::wait_for("20 requests", support::DEADLINE, || (socks5.targets().len() == 20).then_some(()));
    drop(clients);
    // The log's end and the reactor may have opened one or two.
    proxy.wait_for_open_files(before + 2);
    assert!(!proxy.log().contains("left alone"), "clients that leave are no failures of the proxy");
}
