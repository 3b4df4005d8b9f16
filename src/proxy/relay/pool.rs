//! Buffers for the moment in which bytes pass through: few, capped in bytes over all threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::proto::transcode;

/// Bytes of a buffer.
pub(super) const BUFFER_LEN: usize = transcode::buffer_len(super::SLOTS);
/// Free buffers that a thread keeps for its next bytes.
const KEPT: usize = 4;

pub(super) type Buffer = Box<[u8]>;

/// The bytes that all threads together may hold in buffers.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    used: Arc<AtomicUsize>,
    cap: usize,
}

impl Budget {
    pub(crate) fn new(cap: usize) -> Self {
        Self { used: Arc::default(), cap }
    }

    fn take(&self, bytes: usize) -> bool {
        let fits = |used: usize| used.checked_add(bytes).filter(|&sum| sum <= self.cap);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok()
    }

    fn has(&self, bytes: usize) -> bool {
        self.used.load(Ordering::Relaxed).saturating_add(bytes) <= self.cap
    }

    fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// One thread's buffers.
pub(super) struct Pool {
    budget: Budget,
    free: Vec<Buffer>,
    /// Buffers of this thread that are in use. The first one never counts against the budget, so that a thread
    /// always has one to go on with.
    lent: usize,
}

impl Pool {
    pub(super) fn new(budget: Budget) -> Self {
        Self { budget, free: Vec::with_capacity(KEPT), lent: 0 }
    }

    /// Lends a buffer; `None` while the budget is used up.
    pub(super) fn take(&mut self) -> Option<Buffer> {
        let buffer = match self.free.pop() {
            Some(buffer) => buffer,
            None if self.lent == 0 || self.budget.take(BUFFER_LEN) => vec![0; BUFFER_LEN].into_boxed_slice(),
            None => return None,
        };
        self.lent += 1;
        Some(buffer)
    }

    /// Says whether [`Pool::take`] would lend a buffer.
    pub(super) fn has_some(&self) -> bool {
        !self.free.is_empty() || self.lent == 0 || self.budget.has(BUFFER_LEN)
    }

    /// Takes a buffer back.
    pub(super) fn give_back(&mut self, buffer: Buffer) {
        self.lent -= 1;
        if self.free.len() < KEPT {
            self.free.push(buffer);
        } else {
            self.budget.give_back(BUFFER_LEN);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_has_one_buffer_whatever_the_others_hold() {
        let budget = Budget::new(2 * BUFFER_LEN);
        let (mut greedy, mut modest) = (Pool::new(budget.clone()), Pool::new(budget));
        let taken: Vec<_> = std::iter::from_fn(|| greedy.take()).collect();
        assert_eq!(taken.len(), 3);
        let only = modest.take().unwrap();
        assert!(modest.take().is_none());
        taken.into_iter().for_each(|buffer| greedy.give_back(buffer));
        modest.give_back(only);
        assert!(modest.take().is_some());
    }

    #[test]
    fn what_is_not_kept_goes_back_to_the_budget() {
        let budget = Budget::new(100 * BUFFER_LEN);
        let mut pool = Pool::new(budget.clone());
        let taken: Vec<_> = std::iter::from_fn(|| pool.take()).collect();
        assert_eq!(taken.len(), 101);
        taken.into_iter().for_each(|buffer| pool.give_back(buffer));
        assert!(budget.used.load(Ordering::Relaxed) <= KEPT * BUFFER_LEN);
    }
}
