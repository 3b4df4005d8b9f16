//! The data plane. Once it is known where a connection goes, both sockets and the ciphers are handed over here and
//! the task that did the handshake ends.
//!
//! It is a hand-written state machine over edge-triggered epoll, and not tasks on an executor, because of what the
//! difference costs on a small machine: async-io's reactor makes about twice the system calls for each message, and a
//! future holds about twice the memory of the state that it stands for.

mod conn;
mod direction;
mod engine;
mod pool;
mod sized;

use std::io;
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

pub(crate) use conn::{Codec, reset_on_close};
pub(crate) use pool::Budget;

use crate::event::Traffic;
use engine::{Engine, Inbox};

/// TLS records that a buffer has room for.
const SLOTS: usize = 4;
/// Stack of an engine's thread, bytes. It is reserved, not used.
const STACK: usize = 128 << 10;

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
    /// What the remote end gets first.
    pub(crate) opening: Vec<u8>,
    /// How many bytes of that count as payload.
    pub(crate) opening_payload: usize,
    /// How long no byte may move.
    pub(crate) idle: Duration,
    pub(crate) watch: Box<dyn Watch>,
}

/// Why a relayed connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Both sides have said all they had to say.
    Finished,
    ClientReset,
    RemoteReset,
    /// The client sent something that is no TLS record.
    BadRecord,
    Idle,
    Shutdown,
    NoResources,
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
    pub(crate) fn start(threads: usize, budget: &Budget) -> io::Result<Self> {
        let mut relay = Self { inboxes: Vec::new(), next: AtomicUsize::new(0), threads: Mutex::default() };
        for number in 0..threads.max(1) {
            let (engine, inbox) = Engine::new(budget.clone())?;
            let thread = thread::Builder::new().name(format!("relay-{number}")).stack_size(STACK);
            relay.lock_threads().push(thread.spawn(move || engine.run())?);
            relay.inboxes.push(inbox);
        }
        Ok(relay)
    }

    /// Hands a connection over, to each thread in turn.
    pub(crate) fn add(&self, job: Job) {
        let next = self.next.fetch_add(1, Ordering::Relaxed) % self.inboxes.len();
        if let Some(inbox) = self.inboxes.get(next) {
            inbox.add(job);
        }
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

    fn lock_threads(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop();
    }
}
