//! The streams of a session that have been closed lately. An app may still speak of these, and of no others that are
//! not open.

use std::collections::VecDeque;

/// Ids that are remembered.
const KEPT: usize = 4096;

/// A set that forgets its oldest.
#[derive(Default)]
pub(crate) struct Closed {
    by_age: VecDeque<u32>,
    /// In order: a hostile client asks for thousands at once.
    sorted: Vec<u32>,
}

impl Closed {
    pub(crate) fn contains(&self, id: u32) -> bool {
        self.sorted.binary_search(&id).is_ok()
    }

    /// Adds one that is not in the set.
    pub(crate) fn add(&mut self, id: u32) {
        if self.by_age.len() == KEPT
            && let Some(oldest) = self.by_age.pop_front()
            && let Ok(place) = self.sorted.binary_search(&oldest)
        {
            self.sorted.remove(place);
        }
        if let Err(place) = self.sorted.binary_search(&id) {
            self.sorted.insert(place, id);
            self.by_age.push_back(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_4096_are_known() {
        let mut closed = Closed::default();
        // In an order that is not that of the ids.
        let id = |n: u32| n * 7919 % 10_007;
        for n in 0..6000 {
            closed.add(id(n));
        }
        let known = (0..6000).filter(|n| closed.contains(id(*n))).count();
        assert_eq!(known, KEPT);
        assert!(closed.contains(id(5999)) && closed.contains(id(6000 - 4096)) && !closed.contains(id(1903)));
        assert!(!closed.contains(10_007));
    }
}
