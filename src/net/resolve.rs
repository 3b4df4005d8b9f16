//! Names to addresses, with a memory.
//!
//! Which addresses a name has is asked as the system would (`system_names`), or of one name server.

use std::io;
use std::net::{IpAddr, SocketAddr};
#[cfg(feature = "tls")]
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use smol::channel::{Receiver, Sender, bounded};

use super::deadline;
#[cfg(feature = "tls")]
use super::name_server::{Bootstrap, Secured};
use super::name_server::{NameServer, UDP_PATIENCE};
use super::system_names;
use crate::proto::dns::Addresses;
#[cfg(feature = "tls")]
use crate::proto::url::Url;

/// Names that are remembered.
const NAMES_MAX: usize = 150;
/// The least and the most that an answer is used: whoever knocks at our door shall not make us ask for each knock, and
/// nobody waits longer than an hour for a change.
const TTL: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60 * 60));
/// How long an answer is used when no new one can be had.
const STALE: Duration = Duration::from_secs(24 * 60 * 60);
/// For one look-up.
const PATIENCE: Duration = Duration::from_secs(5);
/// The same for whoever waits where there is an old answer to go on with. A server may need longer and a datagram may be
/// lost, so the name is asked for once more when nobody waits.
const PATIENCE_WITH_ANSWER: Duration = Duration::from_secs(1);
/// Time between a failure and the next attempt, with and without an old answer to go on with.
const RETRY: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(1));
/// Names that are to be asked for once more. One that finds no room comes again.
const OVERDUE_MAX: usize = 8;

/// Whom to ask, and what was answered.
pub(crate) struct Resolver {
    source: Source,
    known: Mutex<Vec<Entry>>,
    /// Names with an old answer whose look-up was broken off for the sake of whoever waited.
    overdue: (Sender<String>, Receiver<String>),
}

enum Source {
    System,
    Server(NameServer),
    #[cfg(not(feature = "tls"))]
    Nobody,
}

/// What is known of a name.
struct Entry {
    name: String,
    answer: Option<Answer>,
    failure: Option<Failure>,
    /// Held by whoever asks.
    flight: Arc<smol::lock::Mutex<()>>,
}

#[derive(Clone)]
struct Answer {
    ips: Vec<IpAddr>,
    since: Instant,
    ttl: Duration,
}

struct Failure {
    kind: io::ErrorKind,
    text: String,
    since: Instant,
}

/// A look-up that somebody waits for. With an old answer to go on with, one that he breaks off counts as a failure, as one
/// that we break off: else each would wait for the same silent server again.
struct Awaited<'a> {
    resolver: &'a Resolver,
    name: &'a str,
    is_over: bool,
}

impl Resolver {
    /// Asks the system: `hosts` and `resolv.conf`.
    pub(crate) fn system() -> Self {
        Self::new(Source::System)
    }

    /// Asks a name server over UDP, and over TCP for what does not fit.
    pub(crate) fn udp(address: SocketAddr) -> Self {
        Self::new(Source::Server(NameServer::Udp { address, patience: UDP_PATIENCE }))
    }

    /// Asks a name server over TLS; `host` is a name or an address.
    #[cfg(feature = "tls")]
    pub(crate) fn tls(host: String, port: u16) -> Self {
        Self::new(Source::Server(NameServer::Tls(Secured::new(host, port, Box::new(Self::system())))))
    }

    /// Asks a name server over HTTPS.
    #[cfg(feature = "tls")]
    pub(crate) fn https(url: Url) -> Self {
        let server = Secured::new(url.host.clone(), url.port, Box::new(Self::system()));
        Self::new(Source::Server(NameServer::Https(server, url)))
    }

    /// Asks nobody: what is wanted takes TLS, which this build does not have.
    #[cfg(not(feature = "tls"))]
    pub(crate) fn refusing() -> Self {
        Self::new(Source::Nobody)
    }

    fn new(source: Source) -> Self {
        Self { source, known: Mutex::default(), overdue: bounded(OVERDUE_MAX) }
    }

    /// The addresses of a name, in the order in which the resolver tells them. An answer that has become old is used as
    /// long as no new one can be had. A name may be an address itself.
    ///
    /// # Errors
    /// The resolver's error, if no answer of the last day is known either; never later than after 5 s for each that
    /// asks for the same name.
    pub(crate) async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        if let Ok(ip) = name.parse() {
            return Ok(vec![ip]);
        }
        let flight = match self.recall(name, false) {
            Recalled::Answer(answer) => return answer,
            Recalled::Unknown(flight) => flight,
        };
        let _flying = flight.lock().await;
        // Another may have landed meanwhile.
        if let Recalled::Answer(answer) = self.recall(name, true) {
            return answer;
        }
        let patience = if self.has_answer(name) { PATIENCE_WITH_ANSWER } else { PATIENCE };
        let mut awaited = Awaited { resolver: self, name, is_over: false };
        // Boxed, for most connections ask for nothing and shall not carry the room for it.
        let looked_up = deadline::within(patience, Box::pin(self.look_up(name))).await;
        awaited.is_over = true;
        if looked_up.is_none() {
            self.put_off(name);
        }
        self.remember(name, looked_up.unwrap_or_else(late))
    }

    /// Has a name asked for once more where there is an old answer to go on with; says whether there is.
    fn put_off(&self, name: &str) -> bool {
        self.has_answer(name) && {
            let _ = self.overdue.0.try_send(name.to_owned());
            true
        }
    }

    /// Asks with all patience for the names whose answer somebody could not wait for, so that a slow server is heard as
    /// well; never ends. Meanwhile everybody gets the old answer.
    pub(crate) async fn ask_again(&self) {
        let own = async {
            // It cannot be closed, for we hold both of its ends.
            while let Ok(name) = self.overdue.1.recv().await {
                self.renew(&name).await;
            }
        };
        match &self.source {
            #[cfg(feature = "tls")]
            Source::Server(NameServer::Tls(server) | NameServer::Https(server, _)) => {
                futures_lite::future::zip(own, server.ask_again()).await;
            }
            _ => own.await,
        }
    }

    async fn renew(&self, name: &str) {
        let flight = entry(&mut self.lock(), name).flight.clone();
        let _flying = flight.lock().await;
        let looked_up = deadline::within(PATIENCE, Box::pin(self.look_up(name))).await;
        let _ = self.remember(name, looked_up.unwrap_or_else(late));
    }

    /// What is known without asking; else what is to be held while asking.
    fn recall(&self, name: &str, is_flying: bool) -> Recalled {
        let mut known = self.lock();
        let entry = entry(&mut known, name);
        let answer = entry.usable_answer();
        let failed_within = |limit| entry.failure.as_ref().filter(|failure: &&Failure| failure.since.elapsed() < limit);
        let recalled = match answer {
            Some(answer) => {
                let is_fresh = answer.since.elapsed() < answer.ttl || failed_within(RETRY.0).is_some();
                // Where somebody asks already, the old answer is better than a queue.
                let is_asked_for = !is_flying && entry.flight.try_lock().is_none();
                (is_fresh || is_asked_for).then(|| Ok(answer.ips.clone()))
            }
            None => failed_within(RETRY.1).map(|failure| Err(failure.error())),
        };
        recalled.map_or_else(|| Recalled::Unknown(entry.flight.clone()), Recalled::Answer)
    }

    fn has_answer(&self, name: &str) -> bool {
        entry(&mut self.lock(), name).usable_answer().is_some()
    }

    fn remember(&self, name: &str, result: io::Result<Addresses>) -> io::Result<Vec<IpAddr>> {
        let mut known = self.lock();
        let entry = entry(&mut known, name);
        let since = Instant::now();
        match result {
            Ok(Addresses { ips, ttl }) => {
                entry.failure = None;
                entry.answer = Some(Answer { ips: ips.clone(), since, ttl: ttl.clamp(TTL.0, TTL.1) });
                Ok(ips)
            }
            Err(error) => {
                log::debug!("cannot resolve a name name={name} error={error}");
                entry.failure = Some(Failure { kind: error.kind(), text: error.to_string(), since });
                entry.usable_answer().map(|answer| answer.ips.clone()).ok_or(error)
            }
        }
    }

    async fn look_up(&self, name: &str) -> io::Result<Addresses> {
        match &self.source {
            Source::System => system_names::ask(name).await,
            // What only this machine and its network know is in its files and at its own servers: names of the hosts
            // file, of containers, of machines at home.
            Source::Server(server) => match system_names::in_hosts(name) {
                Some(addresses) => Ok(addresses),
                None if name.contains('.') => server.ask_both(name).await,
                None => system_names::ask(name).await,
            },
            #[cfg(not(feature = "tls"))]
            Source::Nobody => Err(io::Error::new(io::ErrorKind::Unsupported, "this build has no TLS")),
        }
    }

    /// The table is whole whenever the lock is free, so a poisoned lock is as good as any.
    fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The system knows where a name server is.
#[cfg(feature = "tls")]
impl Bootstrap for Resolver {
    fn addresses<'a>(&'a self, host: &'a str) -> Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send + 'a>> {
        Box::pin(self.resolve(host))
    }

    fn ask_again<'a>(&'a self) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(self.ask_again())
    }
}

enum Recalled {
    Answer(io::Result<Vec<IpAddr>>),
    Unknown(Arc<smol::lock::Mutex<()>>),
}

/// What is known of a name; for a new one, if the table is full, the name whose answer is the oldest is forgotten.
#[expect(clippy::indexing_slicing, reason = "the place has been found or made")]
fn entry<'a>(known: &'a mut Vec<Entry>, name: &str) -> &'a mut Entry {
    let place = known.iter().position(|entry| entry.name == name).unwrap_or_else(|| {
        let age = |entry: &Entry| entry.answer.as_ref().map(|answer| answer.since);
        let oldest = (0..known.len()).min_by_key(|&place| age(&known[place]));
        if let Some(oldest) = oldest.filter(|_| known.len() >= NAMES_MAX) {
            known.swap_remove(oldest);
        }
        known.push(Entry { name: name.to_owned(), answer: None, failure: None, flight: Arc::default() });
        known.len() - 1
    });
    &mut known[place]
}

impl Entry {
    /// The last answer, if it is not too old to go on with.
    fn usable_answer(&self) -> Option<&Answer> {
        self.answer.as_ref().filter(|answer| answer.since.elapsed() < STALE)
    }
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        if !self.is_over && self.resolver.put_off(self.name) {
            let _ = self.resolver.remember(self.name, late());
        }
    }
}

fn late() -> io::Result<Addresses> {
    Err(io::Error::new(io::ErrorKind::TimedOut, "the resolver does not answer"))
}

impl Failure {
    fn error(&self) -> io::Error {
        io::Error::new(self.kind, self.text.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_this_machine_are_asked_of_no_server() {
        let server = Server::new(Does::Answers(Family::V4, 60));
        let resolver = Resolver::udp(server.address);
        let ips = async_io::block_on(resolver.resolve("localhost")).unwrap();
        assert!(!ips.is_empty() && ips.iter().all(IpAddr::is_loopback), "{ips:?}");
        // Whether the system knows it or not.
        let _ = async_io::block_on(resolver.resolve("mtg-no-such-machine"));
        assert_eq!(server.asked.load(Ordering::SeqCst), 0);
    }
    use crate::proto::dns::Family;
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, UdpSocket};
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// What a scripted name server does with a question.
    #[derive(Clone, Copy)]
    enum Does {
        /// One address of that family, good for so many seconds.
        Answers(Family, u8),
        AnswersIPv6Only,
        Truncates,
        Denies,
        Nothing,
        /// First an answer with another id.
        AnswersTwice,
        /// As `Answers`, after more than the patience of whoever has an old answer.
        AnswersLate(Family, u8),
    }

    struct Server {
        address: SocketAddr,
        asked: Arc<AtomicUsize>,
        does: Arc<Mutex<Does>>,
    }

    impl Server {
        fn new(does: Does) -> Self {
            let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = tcp.local_addr().unwrap();
            let udp = UdpSocket::bind(address).unwrap();
            let server = Self { address, asked: Arc::default(), does: Arc::new(Mutex::new(does)) };
            let (asked, script) = (server.asked.clone(), server.does.clone());
            std::thread::spawn(move || {
                let mut question = [0; 512];
                while let Ok((length, peer)) = udp.recv_from(&mut question) {
                    asked.fetch_add(1, Ordering::SeqCst);
                    let does = *script.lock().unwrap();
                    let (answers, udp) = (answers(&question[..length], does), udp.try_clone().unwrap());
                    let answer = move || answers.iter().for_each(|answer| _ = udp.send_to(answer, peer).unwrap());
                    if matches!(does, Does::AnswersLate(..)) {
                        std::thread::spawn(move || {
                            std::thread::sleep(2 * PATIENCE_WITH_ANSWER);
                            answer();
                        });
                    } else {
                        answer();
                    }
                }
            });
            std::thread::spawn(move || {
                for stream in tcp.incoming() {
                    let mut stream = stream.unwrap();
                    let mut length = [0; 2];
                    stream.read_exact(&mut length).unwrap();
                    let mut question = vec![0; u16::from_be_bytes(length).into()];
                    stream.read_exact(&mut question).unwrap();
                    let answer = &answers(&question, Does::Answers(Family::V4, 60))[0];
                    stream.write_all(&(answer.len() as u16).to_be_bytes()).unwrap();
                    stream.write_all(answer).unwrap();
                }
            });
            server
        }

        fn resolver(&self) -> Resolver {
            Resolver::udp(self.address)
        }

        fn does(&self, does: Does) {
            *self.does.lock().unwrap() = does;
        }

        fn asked(&self) -> usize {
            self.asked.load(Ordering::SeqCst)
        }
    }

    fn answers(question: &[u8], does: Does) -> Vec<Vec<u8>> {
        let is_v6 = question[question.len() - 3] == 28;
        let answer = |flags: [u8; 2], record: Option<&[u8]>| {
            let mut message = question.to_vec();
            message[2..4].copy_from_slice(&flags);
            message[7] = u8::from(record.is_some());
            message.extend_from_slice(record.unwrap_or_default());
            message
        };
        let v4 = |ttl| [&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, ttl, 0, 4], &[192, 0, 2, 1][..]].concat();
        let v6 = |ttl| [&[0xc0, 12, 0, 28, 0, 1, 0, 0, 0, ttl, 0, 16], &[0x20; 16][..]].concat();
        const GOOD: [u8; 2] = [0x81, 0x80];
        match does {
            Does::AnswersLate(family, ttl) => answers(question, Does::Answers(family, ttl)),
            Does::Answers(Family::V4, ttl) if !is_v6 => vec![answer(GOOD, Some(&v4(ttl)))],
            Does::Answers(Family::V6, ttl) if is_v6 => vec![answer(GOOD, Some(&v6(ttl)))],
            Does::AnswersIPv6Only if is_v6 => vec![answer(GOOD, Some(&v6(60)))],
            Does::AnswersTwice if !is_v6 => {
                let mut forged = answer(GOOD, Some(&v4(60)));
                forged[0] ^= 1;
                *forged.last_mut().unwrap() = 66;
                vec![forged, answer(GOOD, Some(&v4(60)))]
            }
            Does::Answers(..) | Does::AnswersTwice => vec![answer(GOOD, None)],
            Does::Truncates => vec![answer([0x83, 0x80], None)],
            Does::Denies => vec![answer([0x81, 0x83], None)],
            Does::Nothing | Does::AnswersIPv6Only => vec![],
        }
    }

    fn resolve(resolver: &Resolver, name: &str) -> io::Result<Vec<IpAddr>> {
        async_io::block_on(resolver.resolve(name))
    }

    fn v4() -> Vec<IpAddr> {
        vec!["192.0.2.1".parse().unwrap()]
    }

    /// Makes what is known of `name` older.
    fn age(resolver: &Resolver, name: &str, by: Duration) {
        let mut known = resolver.lock();
        let entry = entry(&mut known, name);
        if let Some(answer) = &mut entry.answer {
            answer.since -= by;
        }
        if let Some(failure) = &mut entry.failure {
            failure.since -= by;
        }
    }

    #[test]
    fn an_answer_is_used_until_its_time_is_over() {
        let server = Server::new(Does::Answers(Family::V4, 60));
        let resolver = server.resolver();
        for _ in 0..3 {
            assert_eq!(resolve(&resolver, "a.b").unwrap(), v4());
        }
        assert_eq!(server.asked(), 2, "once for each family");
        age(&resolver, "a.b", Duration::from_secs(61));
        assert_eq!(resolve(&resolver, "a.b").unwrap(), v4());
        assert_eq!(server.asked(), 4);
    }

    #[test]
    fn a_truncated_answer_is_asked_for_over_tcp() {
        let server = Server::new(Does::Truncates);
        assert_eq!(resolve(&server.resolver(), "a.b").unwrap(), v4());
    }

    #[test]
    fn a_family_that_is_not_answered_is_not_waited_for_long() {
        let server = Server::new(Does::AnswersIPv6Only);
        let started = Instant::now();
        let ips = resolve(&server.resolver(), "a.b").unwrap();
        assert!(ips.len() == 1 && ips[0].is_ipv6(), "{ips:?}");
        assert!(started.elapsed() < Duration::from_secs(3));
    }

    #[test]
    fn an_answer_with_another_id_is_not_believed() {
        let server = Server::new(Does::AnswersTwice);
        assert_eq!(resolve(&server.resolver(), "a.b").unwrap(), v4());
    }

    #[test]
    fn the_last_good_answer_is_kept_when_the_server_dies() {
        let server = Server::new(Does::Answers(Family::V4, 10));
        let resolver = server.resolver();
        resolve(&resolver, "a.b").unwrap();
        server.does(Does::Nothing);
        age(&resolver, "a.b", Duration::from_secs(11));
        let started = Instant::now();
        assert_eq!(resolve(&resolver, "a.b").unwrap(), v4());
        assert!(started.elapsed() >= PATIENCE_WITH_ANSWER && started.elapsed() < PATIENCE, "{:?}", started.elapsed());
        let started = Instant::now();
        assert_eq!(resolve(&resolver, "a.b").unwrap(), v4());
        assert!(started.elapsed() < PATIENCE_WITH_ANSWER, "it is not asked again at once");
        server.does(Does::Answers(Family::V6, 10));
        age(&resolver, "a.b", RETRY.0);
        assert!(resolve(&resolver, "a.b").unwrap()[0].is_ipv6(), "a new answer replaces the old one");
    }

    #[test]
    fn a_slow_server_is_waited_for_where_the_old_answer_is_of_no_use_any_more() {
        let server = Server::new(Does::AnswersLate(Family::V4, 60));
        let resolver = server.resolver();
        assert_eq!(resolve(&resolver, "a.b").unwrap(), v4());
        age(&resolver, "a.b", STALE + Duration::from_secs(60 * 60));
        assert_eq!(resolve(&resolver, "a.b").unwrap(), v4());
    }

    /// Goes on with what nobody waits for until `is_done`.
    fn ask_again_until(resolver: &Resolver, is_done: impl Fn() -> bool) {
        let step = Duration::from_millis(10);
        let watch = async {
            while !is_done() {
                deadline::rest(step).await;
            }
        };
        async_io::block_on(futures_lite::future::or(resolver.ask_again(), watch));
    }

    #[test]
    fn a_slow_server_is_heard_though_nobody_waits_for_it() {
        let server = Server::new(Does::AnswersLate(Family::V4, 10));
        let resolver = server.resolver();
        assert_eq!(resolve(&resolver, "a.b").unwrap(), v4());
        server.does(Does::AnswersLate(Family::V6, 10));
        age(&resolver, "a.b", Duration::from_secs(11));
        assert_eq!(resolve(&resolver, "a.b").unwrap(), v4(), "it is not waited for long");
        ask_again_until(&resolver, || resolve(&resolver, "a.b").unwrap() != v4());
        assert!(resolve(&resolver, "a.b").unwrap()[0].is_ipv6(), "the new answer is known");
    }

    #[test]
    fn whoever_cannot_wait_for_a_silent_server_is_the_last_who_has_to() {
        let server = Server::new(Does::Answers(Family::V4, 10));
        let resolver = server.resolver();
        resolve(&resolver, "a.b").unwrap();
        server.does(Does::Nothing);
        for patience in [PATIENCE_WITH_ANSWER / 10, 2 * PATIENCE_WITH_ANSWER] {
            age(&resolver, "a.b", Duration::from_secs(11));
            let resolve = async || deadline::within(patience, resolver.resolve("a.b")).await.map(Result::unwrap);
            let first = async_io::block_on(resolve());
            assert_eq!(first.is_some(), patience > PATIENCE_WITH_ANSWER);
            let asked = server.asked();
            assert_eq!(async_io::block_on(resolve()), Some(v4()), "the old answer is of use to the next one");
            assert_eq!(server.asked(), asked, "and nobody is asked for it");
        }
    }

    #[test]
    fn a_server_that_never_answers_fails_everybody_within_the_limit() {
        let server = Server::new(Does::Nothing);
        let resolver = server.resolver();
        let started = Instant::now();
        let failures = async_io::block_on(async {
            let (one, other) = futures_lite::future::zip(resolver.resolve("a.b"), resolver.resolve("a.b")).await;
            [one, other].into_iter().filter(Result::is_err).count()
        });
        assert_eq!(failures, 2);
        assert!(started.elapsed() < PATIENCE + Duration::from_secs(3), "{:?}", started.elapsed());
    }

    #[test]
    fn a_name_that_does_not_exist_is_told() {
        let server = Server::new(Does::Denies);
        let resolver = server.resolver();
        assert_eq!(resolve(&resolver, "a.b").unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(resolve(&resolver, "a.b").unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(server.asked(), 2, "the refusal is remembered for a moment");
        assert_eq!(resolve(&resolver, "a..b").unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn the_memory_is_bounded_and_the_newest_names_stay() {
        let server = Server::new(Does::Answers(Family::V4, 60));
        let resolver = server.resolver();
        for number in 0..=NAMES_MAX {
            resolve(&resolver, &format!("a{number}.b")).unwrap();
        }
        let known = resolver.lock();
        assert_eq!(known.len(), NAMES_MAX);
        let is_known = |name: &str| known.iter().any(|entry| entry.name == name);
        assert!(!is_known("a0.b") && is_known(&format!("a{NAMES_MAX}.b")));
    }

    #[test]
    fn an_address_is_its_own() {
        let server = Server::new(Does::Denies);
        for ip in ["192.0.2.7", "2001:db8::7"] {
            assert_eq!(resolve(&server.resolver(), ip).unwrap(), [ip.parse::<IpAddr>().unwrap()]);
        }
        assert_eq!(server.asked(), 0);
    }

    #[test]
    fn the_system_knows_localhost() {
        let ips = resolve(&Resolver::system(), "localhost").unwrap();
        assert!(ips.iter().all(IpAddr::is_loopback) && !ips.is_empty());
    }
}
