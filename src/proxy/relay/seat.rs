//! Finding a connection again that has been handed over, to cut it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::engine::Inbox;

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
