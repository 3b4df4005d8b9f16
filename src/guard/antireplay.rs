//! Every hello is answered once.
//!
//! The set is exact: each authenticated hello is remembered as long as its time stamp would let it pass the clock
//! check, and not longer. A false positive would send a client to the front; there is none. A false negative
//! would give the proxy away to whoever records and repeats a hello; there is one only when more clients
//! connect within the window than the memory cap has room for, and then the hellos nearest to their end go first.

use std::collections::VecDeque;

/// Bytes of the client's random that are kept. They are a MAC, so nobody can make two that are equal.
const KEPT: usize = 16;
/// Memory of one entry, bytes: its 24, and as much again twice over while the queue grows.
const ENTRY_COST: u64 = 72;
/// How much older than the process a hello may be, seconds.
const BEFORE_START: i64 = 5;

/// The set of hellos that were answered.
#[derive(Debug)]
pub(crate) struct AntiReplay {
    /// In order, by the client's time first: the entries at the front are the first to be of no use, and new ones go
    /// near the end.
    seen: VecDeque<(i64, [u8; KEPT])>,
    capacity: usize,
}

impl AntiReplay {
    /// Makes a set that uses at most `max_size` bytes.
    pub(crate) fn new(max_size: u64) -> Self {
        Self { seen: VecDeque::new(), capacity: usize::try_from(max_size / ENTRY_COST).unwrap_or(usize::MAX).max(1) }
    }

    /// Says whether a hello was never seen before, and remembers it.
    ///
    /// All times are Unix seconds: `time` the client's, `now` ours, `started` that of our start. `tolerance` is how
    /// far `time` may be from `now`. What was seen before our start is not known, so hellos from that time are
    /// not accepted as long as any of them could be a replay.
    pub(crate) fn first_seen(&mut self, random: &[u8; 32], time: i64, now: i64, started: i64, tolerance: i64) -> bool {
        if time < started - BEFORE_START && now <= started + tolerance {
            return false;
        }
        while self.seen.front().is_some_and(|(oldest, _)| oldest + tolerance < now) {
            self.seen.pop_front();
        }
        let mut kept = [0; KEPT];
        kept.iter_mut().zip(random).for_each(|(place, &byte)| *place = byte);
        let Err(mut place) = self.seen.binary_search(&(time, kept)) else { return false };
        if self.seen.len() == self.capacity {
            self.seen.pop_front();
            place = place.saturating_sub(1);
        }
        self.seen.insert(place, (time, kept));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOLERANCE: i64 = 120;
    const NOW: i64 = 1_700_000_000;
    const LONG_AGO: i64 = NOW - 100_000;

    #[test]
    fn a_hello_passes_once_for_as_long_as_the_clock_check_would_let_it_pass() {
        for ahead in [-TOLERANCE, 0, TOLERANCE] {
            let mut guard = AntiReplay::new(1 << 20);
            let time = NOW + ahead;
            assert!(guard.first_seen(&[1; 32], time, NOW, LONG_AGO, TOLERANCE));
            for now in NOW..=time + TOLERANCE {
                assert!(!guard.first_seen(&[1; 32], time, now, LONG_AGO, TOLERANCE), "{ahead} at {now}");
            }
        }
    }

    #[test]
    fn nothing_is_kept_beyond_the_window() {
        let mut guard = AntiReplay::new(1 << 20);
        for second in 0..10_000i64 {
            let mut random = [0; 32];
            random[..8].copy_from_slice(&second.to_ne_bytes());
            let now = NOW + second;
            assert!(guard.first_seen(&random, now, now, LONG_AGO, TOLERANCE));
        }
        assert_eq!(guard.seen.len(), TOLERANCE as usize + 1);
    }

    #[test]
    fn the_cap_holds_and_the_oldest_go_first() {
        let mut guard = AntiReplay::new(100 * ENTRY_COST);
        for number in 0..=150u8 {
            assert!(guard.first_seen(&[number; 32], NOW + i64::from(number / 2), NOW, LONG_AGO, TOLERANCE));
        }
        assert_eq!(guard.seen.len(), 100);
        assert!(!guard.first_seen(&[150; 32], NOW + 75, NOW, LONG_AGO, TOLERANCE));
    }

    #[test]
    fn hellos_from_before_the_start_are_refused_during_the_first_window() {
        let mut guard = AntiReplay::new(1 << 20);
        let started = NOW;
        assert!(guard.first_seen(&[1; 32], started - BEFORE_START, NOW + 1, started, TOLERANCE));
        assert!(!guard.first_seen(&[2; 32], started - BEFORE_START - 1, NOW + 1, started, TOLERANCE));
        let later = started + TOLERANCE + 1;
        assert!(guard.first_seen(&[3; 32], later - TOLERANCE, later, started, TOLERANCE));
    }
}
