//! How often something may happen: so many times a minute, and some more at once after a quiet time.

/// A bucket of allowances that fills with time.
#[derive(Debug)]
pub(crate) struct Rate {
    per_minute: u32,
    burst: u32,
    left: u32,
    /// When it was filled last, milliseconds of the owner's clock.
    filled: u64,
}

impl Rate {
    pub(crate) fn new(per_minute: u32, burst: u32) -> Self {
        Self { per_minute, burst, left: burst, filled: 0 }
    }

    /// Takes an allowance, if there is one; `now` is in milliseconds and never goes back.
    pub(crate) fn take(&mut self, now: u64) -> bool {
        let each = 60_000 / u64::from(self.per_minute.max(1));
        let due = now.saturating_sub(self.filled) / each.max(1);
        self.filled += due * each;
        self.left = self.left.saturating_add(u32::try_from(due).unwrap_or(u32::MAX)).min(self.burst);
        let is_there = self.left > 0;
        self.left -= u32::from(is_there);
        is_there
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_let_through_and_then_the_rate_holds() {
        let mut rate = Rate::new(600, 128);
        assert_eq!((0..1000).filter(|_| rate.take(5)).count(), 128);
        assert_eq!((0..1000).filter(|now| rate.take(1000 + now)).count(), 19);
        assert_eq!((0..1000).filter(|_| rate.take(10_000_000)).count(), 128);
    }
}
