//! The data plane. Once it is known where a connection goes, both sockets and the ciphers are handed over here and
//! the task that did the handshake ends.
//!
//! It is a hand-written state machine over edge-triggered epoll, and not tasks on an executor, because of what the
//! difference costs on a small machine: async-io's reactor makes about twice the system calls for each message, and a
//! future holds about twice the memory of the state that it stands for.
//!
//! Downloads are copied, with room for record headers between the bytes. To splice the bodies of records between headers that
//! are written into the pipe takes two system calls for each record, and in place of a copy of 512 KiB at once it took 1.3 to
//! 2 times as much on x86-64, about as much on aarch64 and half on mips. Pages as network cards deliver them, of one packet
//! each, even cost plain splicing more than the copy on x86-64; and what lies in a pipe would be nobody's memory.

mod conn;
mod direction;
mod engine;
pub(super) mod farewell;
mod inbox;
mod pool;
mod turns;

use std::io;
use std::net::{IpAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

pub(crate) use conn::Codec;
pub(crate) use inbox::Seat;
pub(crate) use pool::Budget;

use smol::channel::bounded;

use crate::event::Traffic;
use crate::guard::front_profile::Farewell;
use crate::net::deadline;
use engine::Engine;
use inbox::Inbox;

/// TLS records that a buffer has room for at most.
const SLOTS: usize = 32;
/// Stack of an engine's thread, bytes. It is reserved, not used.
const STACK: usize = 128 << 10;

/// How long a report may take; a thread that is busier than that tells its own when it comes to it.
const REPORT: Duration = Duration::from_millis(300);

/// Who is told what becomes of a connection, on the relay's thread.
pub(crate) trait Watch: Send {
    /// Bytes have moved since the last call. Called now and then, and once before the end.
    fn moved(&mut self, traffic: Traffic);

    /// The connection has ended with all this traffic, and its sockets are closed.
    fn ended(self: Box<Self>, cause: Cause, traffic: Traffic);
}

/// A connection that is to be relayed.
pub(crate) struct Job {
    /// Both sockets are in non-blocking mode.
    pub(crate) client: TcpStream,
    /// The DC or the front.
    pub(crate) remote: TcpStream,
    pub(crate) codec: Codec,
    /// The address that it is counted for when somebody has to give way.
    pub(crate) source: IpAddr,
    /// What the remote end gets first.
    pub(crate) opening: Vec<u8>,
    /// How many bytes of that count as payload.
    pub(crate) opening_payload: usize,
    /// How long no byte may move.
    pub(crate) idle: Duration,
    /// How long bytes may be without acknowledgement; none is the kernel's business alone.
    pub(crate) delivery: Option<Duration>,
    /// For a connection that may be cut.
    pub(crate) seat: Option<Arc<Seat>>,
    pub(crate) watch: Box<dyn Watch>,
}

/// How a client is left that is at fault.
#[derive(Clone, Copy)]
pub(crate) struct Farewells {
    pub(crate) after_fault: Farewell,
    pub(crate) after_alert: Farewell,
}

/// Why a relayed connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Both sides have said all they had to say.
    Finished,
    ClientReset,
    /// The client has not acknowledged what was sent to it, or answered a probe, for too long.
    ClientTimeout,
    RemoteReset,
    /// The same at the other end.
    RemoteTimeout,
    /// The client sent something that is no TLS record.
    BadRecord,
    /// It sent an alert in clear.
    Alert,
    Idle,
    Shutdown,
    NoResources,
    /// See [`Seat::cut`].
    Cut,
}

impl Farewells {
    fn after(self, cause: Cause) -> Option<Farewell> {
        match cause {
            Cause::BadRecord => Some(self.after_fault),
            Cause::Alert => Some(self.after_alert),
            _ => None,
        }
    }
}

/// The threads of the data plane.
pub(crate) struct Relay {
    inboxes: Vec<Arc<Inbox>>,
    next: AtomicUsize,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Relay {
    /// Starts the threads.
    ///
    /// # Errors
    /// What the system says when it has no thread or no descriptor left.
    pub(crate) fn start(threads: usize, budget: Budget) -> io::Result<Self> {
        let mut relay = Self { inboxes: Vec::new(), next: AtomicUsize::new(0), threads: Mutex::default() };
        for number in 0..threads.max(1) {
            let (engine, inbox) = Engine::new(budget.share(threads))?;
            let thread = thread::Builder::new().name(format!("relay-{number}")).stack_size(STACK);
            relay.lock_threads().push(thread.spawn(move || engine.run())?);
            relay.inboxes.push(inbox);
        }
        Ok(relay)
    }

    /// Hands a connection over, to each thread in turn, or to that of its seat.
    pub(crate) fn add(&self, job: Job) {
        match &job.seat {
            Some(seat) => seat.inbox().clone().add(job),
            None => self.next_inbox().add(job),
        }
    }

    /// Makes all threads tell what has moved until now, and waits for that; for those that have told it a moment ago it
    /// costs nothing.
    pub(crate) async fn report_now(&self) {
        let (promise, kept) = bounded(1);
        self.inboxes.iter().for_each(|inbox| inbox.report(promise.clone()));
        drop(promise);
        // Nothing is ever sent: the channel ends when all threads have dropped their ends.
        deadline::within(REPORT, async { kept.recv().await.is_ok() }).await;
    }

    /// A seat for a connection that is to be handed over.
    pub(crate) fn seat(&self) -> Arc<Seat> {
        Seat::new(self.next_inbox().clone())
    }

    /// Closes all connections and waits for the threads. What is added later is never relayed.
    pub(crate) fn stop(&self) {
        self.inboxes.iter().for_each(|inbox| inbox.stop());
        for thread in self.lock_threads().drain(..) {
            if thread.join().is_err() {
                log::error!("a relay thread has failed");
            }
        }
    }

    fn next_inbox(&self) -> &Arc<Inbox> {
        let next = self.next.fetch_add(1, Ordering::Relaxed) % self.inboxes.len();
        #[expect(clippy::indexing_slicing, reason = "a remainder is less than what was divided by")]
        &self.inboxes[next]
    }

    fn lock_threads(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{ErrorKind, Read, Write};
    use std::net::TcpListener;
    use std::sync::mpsc::{Sender, channel};

    /// Tells a test which connection has ended, and why.
    struct Reporter(usize, Sender<(usize, Cause)>);

    impl Watch for Reporter {
        fn moved(&mut self, _: Traffic) {}

        fn ended(self: Box<Self>, cause: Cause, _: Traffic) {
            let _ = self.1.send((self.0, cause));
        }
    }

    /// Two connected sockets with small buffers, the second one for the relay.
    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        rustix::net::sockopt::set_socket_recv_buffer_size(&listener, 4096).unwrap();
        rustix::net::sockopt::set_socket_send_buffer_size(&listener, 4096).unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        rustix::net::sockopt::set_socket_send_buffer_size(&near, 4096).unwrap();
        near.set_nonblocking(true).unwrap();
        (listener.accept().unwrap().0, near)
    }

    /// A spliced connection's two far ends; it counts for `127.0.0.SOURCE`.
    fn splice(relay: &Relay, number: usize, source: u8, ended: &Sender<(usize, Cause)>) -> (TcpStream, TcpStream) {
        let ((client, near_client), (front, near_front)) = (pair(), pair());
        relay.add(Job {
            client: near_client,
            remote: near_front,
            codec: Codec::Splice,
            source: [127, 0, 0, source].into(),
            opening: Vec::new(),
            opening_payload: 0,
            idle: Duration::from_secs(600),
            delivery: None,
            seat: None,
            watch: Box::new(Reporter(number, ended.clone())),
        });
        (client, front)
    }

    /// One whose client reads nothing.
    fn stuck(relay: &Relay, number: usize, source: u8, ended: &Sender<(usize, Cause)>) -> (TcpStream, TcpStream) {
        let (client, mut front) = splice(relay, number, source, ended);
        front.set_nonblocking(true).unwrap();
        // One record more than the sockets hold, so that the relay holds something.
        while front.write(&[0; 4096]).is_ok() {
            thread::sleep(Duration::from_millis(1));
        }
        (client, front)
    }

    /// Milliseconds after which the kernel gives up undelivered bytes of this connection.
    fn wait_for_limit(socket: &TcpStream, wanted: u32) {
        for _ in 0..1000 {
            if rustix::net::sockopt::tcp_user_timeout(socket).unwrap() == wanted {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        panic!("the limit of the delivery never became {wanted} ms");
    }

    #[test]
    fn quiet_connections_are_left_to_the_probes_until_a_byte_moves() {
        let relay = Relay::start(1, Budget::new(1 << 20, usize::MAX)).unwrap();
        let (ended, _endings) = channel();
        let ((client, near_client), (mut dc, near_dc)) = (pair(), pair());
        let seen = [near_client.try_clone().unwrap(), near_dc.try_clone().unwrap()];
        relay.add(Job {
            client: near_client,
            remote: near_dc,
            codec: Codec::Splice,
            source: [127, 0, 0, 1].into(),
            opening: Vec::new(),
            opening_payload: 0,
            // The engine looks eight times as often.
            idle: Duration::from_secs(60),
            delivery: Some(Duration::from_secs(1)),
            seat: None,
            watch: Box::new(Reporter(0, ended)),
        });
        seen.iter().for_each(|socket| wait_for_limit(socket, 1000));
        seen.iter().for_each(|socket| wait_for_limit(socket, 0));
        dc.write_all(b"a message").unwrap();
        seen.iter().for_each(|socket| wait_for_limit(socket, 1000));
        drop(client);
    }

    #[test]
    fn the_address_that_holds_most_makes_room() {
        // 16 KiB of it for strangers.
        let relay = Relay::start(1, Budget::new(64 << 10, usize::MAX)).unwrap();
        let (ended, endings) = channel();
        // Blocked for longest.
        let patient = stuck(&relay, 0, 1, &ended);
        let mut crowd = Vec::new();
        for number in 1..1000 {
            crowd.push(stuck(&relay, number, 2, &ended));
            if let Ok(first) = endings.try_recv() {
                assert_eq!(first, (1, Cause::NoResources));
                break;
            }
        }
        assert!((8..500).contains(&crowd.len()), "{} blocked connections filled 16 KiB", crowd.len());
        let (mut client, mut front) = splice(&relay, 1000, 3, &ended);
        front.write_all(b"goes on").unwrap();
        let mut got = [0; 7];
        client.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"goes on");
        drop((patient, crowd));
        relay.stop();
        let causes: Vec<_> = endings.try_iter().filter(|(number, _)| *number == 0).collect();
        assert!(causes.iter().all(|(_, cause)| *cause != Cause::NoResources), "{causes:?}");
    }

    #[test]
    fn what_the_kernel_keeps_for_the_stuck_is_bounded() {
        // Room for few of them: each has some 140 KiB, most of it what has arrived and is not received any more.
        stuck_crowd_gives_way(Budget::new(16 << 20, 512 << 10));
    }

    #[test]
    fn it_is_less_when_the_machine_is_short_of_memory() {
        fn is_short() -> bool {
            true
        }
        // Room for all of them but for that.
        stuck_crowd_gives_way(Budget::new(16 << 20, 4 << 20).on_machine(false, is_short));
    }

    /// One who is patient stays, and of a crowd only some do; what the others have not taken goes with them.
    fn stuck_crowd_gives_way(budget: Budget) {
        let relay = Relay::start(1, budget).unwrap();
        let (ended, endings) = channel();
        let patient = stuck(&relay, 0, 1, &ended);
        let crowd: Vec<_> = (1..=20).map(|number| stuck(&relay, number, 2, &ended)).collect();
        let gone: Vec<_> = std::iter::from_fn(|| endings.recv_timeout(Duration::from_secs(12)).ok()).collect();
        assert!((5..=20).contains(&gone.len()), "{gone:?}");
        assert!(gone.iter().all(|(number, cause)| *number > 0 && *cause == Cause::NoResources), "{gone:?}");
        for (number, _) in gone {
            let mut client = &crowd[number - 1].0;
            let told = io::copy(&mut client, &mut io::sink());
            assert_eq!(told.unwrap_err().kind(), ErrorKind::ConnectionReset);
        }
        drop((patient, crowd));
    }
}
