//! A hello is answered once, whatever time a copy of it tells, and also after a restart and by another process.

use std::fs;
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use crate::support::client::greet;
use crate::support::dc::EchoDc;
use crate::support::front::{AnsweringFront, FakeFront};
use crate::support::hello::{Hello, Signed};
use crate::support::obfuscated2::PADDED;
use crate::support::proxy::{Proxy, Setup};
use crate::support::socket;
use crate::support::{self, DEADLINE};

const YEAR: i64 = 365 * 24 * 3600;
const BY_THE_FRONT: &[u8] = b"by the front";

/// A front that shows that it was reached.
fn front() -> (AnsweringFront, Setup) {
    let front = FakeFront::listen();
    let setup = Setup::new().front(front.address);
    (front.answer_all(BY_THE_FRONT), setup)
}

/// Sends a hello from an address of its own and says whether it was answered by the proxy, and not by the front.
fn is_answered_from(host: u8, proxy: &Proxy, hello: &Signed) -> bool {
    let mut stream = socket::connect_from(Ipv4Addr::new(127, 0, 0, host), proxy.address);
    stream.write_all(&hello.wire).unwrap();
    let answer = socket::read_exactly(&mut stream, BY_THE_FRONT.len()).unwrap();
    assert!(answer == BY_THE_FRONT || answer[..3] == [0x16, 3, 3], "{answer:x?}");
    answer != BY_THE_FRONT
}

fn is_answered(proxy: &Proxy, hello: &Signed) -> bool {
    is_answered_from(1, proxy, hello)
}

/// A file that is not there yet, in a directory of its own.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn file(&self) -> PathBuf {
        self.0.join("replays")
    }

    fn set(&self, setup: Setup) -> Setup {
        setup.set("defense.anti-replay.file", self.file().to_str().unwrap())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn restamped_hello_is_fronted() {
    let (_front, setup) = front();
    let proxy = setup.start();
    let hello = Hello::default().sign();
    assert!(is_answered(&proxy, &hello));
    for later in [0, 1, -1, 60, -60, 119, -119] {
        assert!(!is_answered(&proxy, &hello.restamped(later)), "{later}");
    }
}

#[test]
fn hello_recorded_a_year_ago_is_fronted_however_it_is_restamped() {
    let (_front, setup) = front();
    let proxy = setup.start();
    let old = Hello { clock_offset_secs: -YEAR, ..Hello::default() }.sign();
    assert!(!is_answered(&proxy, &old));
    // It was refused for its clock. Now it tells the right time.
    assert!(!is_answered(&proxy, &old.restamped(YEAR)));
    assert!(!is_answered(&proxy, &old.restamped(YEAR + 3)));
}

#[test]
fn hello_of_before_a_restart_is_fronted_where_a_file_keeps_the_table() {
    let (place, (_front, setup)) = (Place::new("restart"), front());
    let setup = place.set(setup);
    let (answered, refused) = (Hello::default().sign(), Hello { clock_offset_secs: -YEAR, ..Hello::default() }.sign());
    {
        let proxy = setup.start();
        assert!(is_answered(&proxy, &answered) && !is_answered(&proxy, &refused));
    }
    assert_eq!(fs::metadata(place.file()).unwrap().permissions().mode() & 0o777, 0o600);
    let proxy = setup.start();
    for later in [0, 5, -5] {
        assert!(!is_answered(&proxy, &answered.restamped(later)), "{later}");
    }
    assert!(!is_answered(&proxy, &refused.restamped(YEAR)));
    assert!(is_answered(&proxy, &Hello::default().sign()));
}

#[test]
fn client_with_a_slow_clock_is_served_right_after_a_start() {
    let (_front, setup) = front();
    let proxy = setup.start();
    assert!(is_answered(&proxy, &Hello { clock_offset_secs: -100, ..Hello::default() }.sign()));
}

#[test]
fn damaged_file_is_refused_with_one_warning_and_written_anew() {
    let (place, (_front, setup)) = (Place::new("damaged"), front());
    let setup = place.set(setup).set("log-level", "warn");
    let hello = Hello::default().sign();
    for rubbish in [&b""[..], b"rubbish", &[b"mtg hellos\r\n\0\0\0\x01".to_vec(), vec![0; 5000]].concat()] {
        fs::write(place.file(), rubbish).unwrap();
        let mut proxy = setup.start();
        assert!(is_answered(&proxy, &Hello::default().sign()));
        proxy.terminate();
        let status = proxy.wait(DEADLINE);
        proxy.assert_ended_well(status);
        let warnings: Vec<_> = proxy.log().lines().filter(|line| line.contains("damaged")).map(str::to_owned).collect();
        let [warning] = &warnings[..] else { panic!("{warnings:?}") };
        assert!(warning.starts_with("WARN ") && warning.contains(place.file().to_str().unwrap()), "{warning}");
    }
    assert!(is_answered(&setup.start(), &hello));
    let proxy = setup.start();
    assert!(!is_answered(&proxy, &hello) && !proxy.log().contains("damaged"));
}

#[test]
fn file_that_cannot_be_kept_is_told_at_the_start_and_stops_nothing() {
    let (place, (_front, setup)) = (Place::new("unwritable"), front());
    let path = place.0.join("absent/replays");
    let proxy = setup.set("defense.anti-replay.file", path.to_str().unwrap()).start();
    assert!(is_answered(&proxy, &Hello::default().sign()));
    let log = proxy.log();
    assert!(
        log.contains("WARN the handshakes that were seen cannot be kept") && log.contains("absent/replays"),
        "{log}"
    );
}

#[test]
fn hello_answered_by_one_process_is_fronted_by_the_other_on_the_port() {
    let (place, (_front, setup)) = (Place::new("shared"), front());
    let setup = place.set(setup).set("network.reuse-port", "true");
    let old = setup.start();
    let hellos: Vec<_> = (0..40).map(|_| Hello::default().sign()).collect();
    let answer = |range: std::ops::Range<usize>| {
        assert!(hellos[range].iter().all(|hello| is_answered(&old, hello)), "one of the first is taken for a copy");
    };
    answer(0..20);
    let mut new = setup.spawn(old.address);
    socket::wait_for("the new process to listen", DEADLINE, || new.log().contains("listening").then_some(()));
    // Each goes to the one or to the other.
    answer(20..40);
    // Each process writes twice a second and reads as often.
    std::thread::sleep(Duration::from_secs(3));
    let copies = |round: i64| {
        for host in [2, 3, 4] {
            let answered = hellos.iter().filter(|hello| is_answered_from(host, &old, &hello.restamped(round))).count();
            assert_eq!(answered, 0, "copies were answered in round {round}");
        }
    };
    copies(1);
    new.terminate();
    let status = new.wait(DEADLINE);
    new.assert_ended_well(status);
    copies(2);
}

#[test]
fn recording_from_three_addresses_is_no_evidence_that_our_clock_is_wrong() {
    let dc = EchoDc::listen();
    let (_front, setup) = front();
    let proxy = setup.dc(2, dc.address).set("log-level", "info").start();
    // Recordings of three clients, kept from the proxy, and told to be 50 s ahead: they are answered and go no further.
    for host in 2..5 {
        assert!(is_answered_from(host, &proxy, &Hello::default().sign().restamped(50)));
        assert!(!is_answered_from(host + 3, &proxy, &Hello { clock_offset_secs: -9000, ..Hello::default() }.sign()));
    }
    // Somebody who goes on counts, and shows that the minute has come. From this machine comes doctor, too, whose clock is
    // ours: such a one counts for nothing.
    let hello = Hello { clock_offset_secs: 5, ..Hello::default() }.sign();
    let mut client = socket::connect(proxy.address);
    client.write_all(&hello.wire).unwrap();
    greet(client, &hello, &support::KEY).unwrap().open(PADDED, 2).ping(100, 1);
    let minute = "INFO the last minute clients=4 fronted=3 replays=0 skewed=3";
    let log = socket::wait_for("the line of a minute", Duration::from_secs(90), || {
        Some(proxy.log()).filter(|log| log.contains(minute))
    });
    std::thread::sleep(Duration::from_millis(200));
    assert!(!log.contains(" clock") && !proxy.log().contains(" clock"), "{}", proxy.log());
}
