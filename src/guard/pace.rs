//! How fast somebody may go on: who is ahead of the pace waits, and who was slow may catch up a little.

use std::time::Duration;

/// A pace for things that cost something; times are in microseconds of the owner's clock.
#[derive(Debug)]
pub(crate) struct Pace {
    /// What one of them takes.
    each: u64,
    /// How far one may be ahead without a wait.
    ahead: u64,
    /// When all that was done so far is due.
    due: u64,
}

/// The longest wait. Several that go the same pace at the same time add up.
const WAIT_MAX: u64 = 10_000_000;

impl Pace {
    /// `per_second` of them, and after a quiet time `burst` at once.
    pub(crate) fn new(per_second: u32, burst: u32) -> Self {
        let each = 1_000_000 / u64::from(per_second.max(1));
        Self { each, ahead: each * u64::from(burst), due: 0 }
    }

    /// Does `count` of them and says how long to wait before the next; `now` never goes back.
    pub(crate) fn take(&mut self, count: usize, now: u64) -> Duration {
        let cost = self.each.saturating_mul(u64::try_from(count).unwrap_or(u64::MAX));
        let latest = now.saturating_add(self.ahead + WAIT_MAX);
        self.due = self.due.max(now).saturating_add(cost).min(latest);
        Duration::from_micros((self.due - now).saturating_sub(self.ahead))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_goes_the_pace_never_waits() {
        let mut pace = Pace::new(1000, 10);
        assert!((0..10_000).all(|done| pace.take(1, done * 1000).is_zero()));
    }

    #[test]
    fn a_burst_is_let_through_and_then_the_pace_holds() {
        let mut pace = Pace::new(1000, 10);
        assert_eq!(pace.take(10, 50), Duration::ZERO);
        assert_eq!(pace.take(5, 50), Duration::from_millis(5));
        assert_eq!(pace.take(1, 5_050), Duration::from_millis(1));
        assert_eq!(pace.take(10, 1_000_000), Duration::ZERO);
    }

    #[test]
    fn nobody_waits_for_good() {
        let mut pace = Pace::new(1000, 10);
        assert_eq!(pace.take(usize::MAX, 50), Duration::from_micros(WAIT_MAX));
        assert_eq!(pace.take(usize::MAX, u64::MAX), Duration::ZERO);
    }
}
