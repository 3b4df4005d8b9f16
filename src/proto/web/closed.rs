//! The streams of a session that have been closed lately. An app may still speak of these, and of no others that are
//! not open.

use std::mem;

/// Ids that are remembered at least, and half of what are at most.
const KEPT: usize = 4096;

/// A set that forgets its oldest, many at once: a hostile client asks for thousands of streams in one batch, and none
/// of them may cost a walk through all the others.
#[derive(Default)]
pub(crate) struct Closed {
    /// In order, both.
    recent: Vec<u32>,
    older: Vec<u32>,
}

impl Closed {
    pub(crate) fn contains(&self, id: u32) -> bool {
        self.recent.binary_search(&id).is_ok() || self.older.binary_search(&id).is_ok()
    }

    /// Adds one that is not in the set.
    pub(crate) fn add(&mut self, id: u32) {
        if self.recent.len() >= KEPT {
            self.older = mem::take(&mut self.recent);
        }
        // Apps count upwards, so this is the end nearly always.
        if let Err(place) = self.recent.binary_search(&id) {
            self.recent.insert(place, id);
        }
    }

    /// Bytes that it takes.
    pub(crate) fn held(&self) -> usize {
        (self.recent.len() + self.older.len()) * size_of::<u32>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "60 000 ids")]
    fn the_last_4096_are_known_and_no_more_than_twice_as_many() {
        let mut closed = Closed::default();
        // In an order that is not that of the ids.
        let id = |n: u32| n * 7919 % 100_003;
        for n in 0..60_000 {
            closed.add(id(n));
            assert!(closed.held() <= 2 * 4 * KEPT);
        }
        assert!((60_000 - 4096..60_000).all(|n| closed.contains(id(n))));
        assert!((0..60_000 - 2 * 4096).all(|n| !closed.contains(id(n))));
        assert!(!closed.contains(100_003));
    }
}
