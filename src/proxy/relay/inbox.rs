//! What other threads tell an engine, and how a connection is found again that has been handed over.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use smol::channel::Sender;

use super::Job;

/// What other threads have for an engine.
pub(super) struct Inbox {
    wake: OwnedFd,
    letters: Mutex<Letters>,
}

#[derive(Default)]
pub(super) struct Letters {
    pub(super) jobs: Vec<Job>,
    /// Whoever waits for a report holds the other ends.
    pub(super) promises: Vec<Sender<()>>,
    pub(super) cut: Vec<Arc<Seat>>,
    pub(super) must_stop: bool,
}

impl Inbox {
    /// Whatever comes in is told by the event descriptor.
    pub(super) fn new(wake: OwnedFd) -> Self {
        Self { wake, letters: Mutex::default() }
    }

    fn write(&self, change: impl FnOnce(&mut Letters)) {
        change(&mut self.letters.lock().unwrap_or_else(PoisonError::into_inner));
        // The counter cannot overflow in a lifetime, and its only reader never goes away before us.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// Hands a connection over.
    pub(super) fn add(&self, job: Job) {
        self.write(|letters| letters.jobs.push(job));
    }

    /// Makes the engine tell what has moved, and then drop the promise.
    pub(super) fn report(&self, promise: Sender<()>) {
        self.write(|letters| letters.promises.push(promise));
    }

    /// Has a connection closed.
    pub(super) fn cut(&self, seat: Arc<Seat>) {
        self.write(|letters| letters.cut.push(seat));
    }

    /// Makes the engine close everything and end.
    pub(super) fn stop(&self) {
        self.write(|letters| letters.must_stop = true);
    }

    pub(super) fn read(&self) -> Letters {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.wake, &mut count);
        std::mem::take(&mut *self.letters.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Where a connection is. Known to the engine, which keeps it up to date, and to whoever may want to cut it.
pub(crate) struct Seat {
    inbox: Arc<Inbox>,
    key: AtomicUsize,
    is_cut: AtomicBool,
}

impl Seat {
    pub(super) fn new(inbox: Arc<Inbox>) -> Arc<Self> {
        Arc::new(Self { inbox, key: AtomicUsize::new(usize::MAX), is_cut: AtomicBool::new(false) })
    }

    /// Has the connection closed as soon as its thread has it, as if the front had done that. It may be over already.
    pub(crate) fn cut(self: Arc<Self>) {
        self.is_cut.store(true, Ordering::Release);
        self.inbox.clone().cut(self);
    }

    /// The mailbox of its thread.
    pub(super) fn inbox(&self) -> &Arc<Inbox> {
        &self.inbox
    }

    /// Says whether the connection is to be closed, however early that was said.
    pub(super) fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::Acquire)
    }

    /// The place in the thread's table, which is another's once the connection is over.
    pub(super) fn key(&self) -> usize {
        self.key.load(Ordering::Relaxed)
    }

    /// For the thread of the connection, the only one that reads it.
    pub(super) fn set_key(&self, key: usize) {
        self.key.store(key, Ordering::Relaxed);
    }
}
