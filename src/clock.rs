//! The wall clock: the one place that asks the system for the time of day.
//!
//! It may be wrong, stand at 1970 and be set at any moment. Only what is shown to people and what clients and servers
//! say of their own clocks goes by it; how long something takes is for [`std::time::Instant`].

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A moment of the wall clock, as the time since the start of 1970 in UTC, without leap seconds; negative before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct UnixTime {
    millis: i64,
}

impl UnixTime {
    /// What the clock says now.
    pub(crate) fn now() -> Self {
        let millis = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or_else(|before| -millis(before.duration()), millis);
        #[cfg(test)]
        let now = now + tests::STEP.get();
        Self { millis: now }
    }

    /// Milliseconds.
    pub(crate) fn millis(self) -> i64 {
        self.millis
    }

    /// Whole seconds that have passed.
    pub(crate) fn secs(self) -> i64 {
        self.millis.div_euclid(1000)
    }

    /// The same for what never shows a time before 1970.
    pub(crate) fn secs_since_1970(self) -> u64 {
        u64::try_from(self.secs()).unwrap_or_default()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        /// How far the clock of this thread's tests is set ahead, milliseconds.
        pub(super) static STEP: Cell<i64> = const { Cell::new(0) };
    }

    /// Does `act` with a clock that has been set so far ahead, or back.
    pub(crate) fn with_step<T>(secs: i64, act: impl FnOnce() -> T) -> T {
        let before = STEP.replace(secs * 1000);
        let result = act();
        STEP.set(before);
        result
    }

    #[test]
    fn a_step_of_the_clock_is_seen_and_over() {
        let before = UnixTime::now();
        let later = with_step(3600, UnixTime::now);
        assert!((3600..3660).contains(&(later.secs() - before.secs())));
        assert!((before..later).contains(&UnixTime::now()));
    }

    #[test]
    fn before_1970_seconds_are_those_that_have_begun() {
        assert_eq!(UnixTime { millis: -1 }.secs(), -1);
        assert_eq!(UnixTime { millis: -1000 }.secs(), -1);
        assert_eq!(UnixTime { millis: 1999 }.secs(), 1);
        assert_eq!(UnixTime { millis: -1 }.secs_since_1970(), 0);
        assert_eq!(with_step(-(1 << 40), UnixTime::now).secs_since_1970(), 0);
    }
}
