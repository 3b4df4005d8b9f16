//! A circuit breaker: who fails again and again is left alone for a while, then tried with one connection.
//!
//! ```text
//!           open_threshold failures in a row                 half_open_timeout is over
//!  closed ────────────────────────────────────► open ────────────────────────────────► half-open
//!    ▲                                            ▲                                      │  │
//!    └── success ─────────────────────────────────┼──────────────────────────────────────┘  │
//!                                                 └── failure ──────────────────────────────┘
//! ```
//! A breaker that opens too early costs the use of a proxy for a while; one that opens too late costs every client the
//! wait for it.

use std::time::{Duration, Instant};

/// When a breaker changes its state.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy {
    /// Failures in a row that open it.
    pub(crate) open_threshold: u32,
    /// How long it is open.
    pub(crate) half_open_timeout: Duration,
    /// After how long without a failure the earlier ones are forgotten.
    pub(crate) reset_failures_timeout: Duration,
}

/// The state of one proxy.
#[derive(Debug)]
pub(crate) struct Breaker {
    policy: Policy,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed { failures: u32, last: Option<Instant> },
    Open { since: Instant },
    HalfOpen { is_tried: bool },
}

/// Leave to try. It has to come back with what came of it: [`Breaker::succeeded`], [`Breaker::failed`] or
/// [`Breaker::abandoned`].
#[derive(Debug)]
#[must_use]
pub(crate) struct Attempt {
    /// The one attempt of a half-open breaker.
    is_trial: bool,
}

/// What a verdict changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Opened,
    Closed,
    Nothing,
}

impl Breaker {
    pub(crate) fn new(policy: Policy) -> Self {
        Self { policy, state: State::Closed { failures: 0, last: None } }
    }

    /// Gives leave to try, unless the breaker is open, or half-open with an attempt on its way.
    pub(crate) fn admit(&mut self, now: Instant) -> Option<Attempt> {
        if let State::Open { since } = self.state
            && now.saturating_duration_since(since) >= self.policy.half_open_timeout
        {
            self.state = State::HalfOpen { is_tried: false };
        }
        match self.state {
            State::Closed { .. } => Some(Attempt { is_trial: false }),
            State::HalfOpen { is_tried: false } => {
                self.state = State::HalfOpen { is_tried: true };
                Some(Attempt { is_trial: true })
            }
            State::Open { .. } | State::HalfOpen { is_tried: true } => None,
        }
    }

    /// The attempt was good.
    pub(crate) fn succeeded(&mut self, attempt: Attempt) -> Change {
        let was_closed = matches!(self.state, State::Closed { .. });
        // What was begun before the breaker opened says nothing about now.
        if !was_closed && !attempt.is_trial {
            return Change::Nothing;
        }
        self.state = State::Closed { failures: 0, last: None };
        if was_closed { Change::Nothing } else { Change::Closed }
    }

    /// The attempt failed at `now`.
    pub(crate) fn failed(&mut self, attempt: Attempt, now: Instant) -> Change {
        let opens = match &mut self.state {
            State::Closed { failures, last } => {
                let quiet = last.map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
                *failures = if quiet < self.policy.reset_failures_timeout { failures.saturating_add(1) } else { 1 };
                *last = Some(now);
                *failures >= self.policy.open_threshold
            }
            State::HalfOpen { .. } => attempt.is_trial,
            State::Open { .. } => false,
        };
        if !opens {
            return Change::Nothing;
        }
        self.state = State::Open { since: now };
        Change::Opened
    }

    /// The attempt was given up by whoever wanted it, so nothing is known.
    pub(crate) fn abandoned(&mut self, attempt: Attempt) {
        if attempt.is_trial {
            self.state = State::HalfOpen { is_tried: false };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy = Policy {
        open_threshold: 3,
        half_open_timeout: Duration::from_secs(60),
        reset_failures_timeout: Duration::from_secs(10),
    };

    /// A breaker and a clock that only moves when told to.
    struct Bench {
        breaker: Breaker,
        now: Instant,
    }

    impl Bench {
        fn new() -> Self {
            Self { breaker: Breaker::new(POLICY), now: Instant::now() }
        }

        fn opened() -> Self {
            let mut bench = Self::new();
            assert_eq!([bench.fail(), bench.fail(), bench.fail()], [Change::Nothing, Change::Nothing, Change::Opened]);
            bench
        }

        fn wait(&mut self, secs: u64) {
            self.now += Duration::from_secs(secs);
        }

        fn admit(&mut self) -> Option<Attempt> {
            self.breaker.admit(self.now)
        }

        fn fail(&mut self) -> Change {
            let attempt = self.admit().unwrap();
            self.breaker.failed(attempt, self.now)
        }
    }

    #[test]
    fn failures_in_a_row_open_it_and_a_success_between_them_starts_anew() {
        let mut bench = Bench::new();
        assert_eq!([bench.fail(), bench.fail()], [Change::Nothing; 2]);
        let attempt = bench.admit().unwrap();
        assert_eq!(bench.breaker.succeeded(attempt), Change::Nothing);
        assert_eq!([bench.fail(), bench.fail(), bench.fail()], [Change::Nothing, Change::Nothing, Change::Opened]);
        assert!(bench.admit().is_none());
    }

    #[test]
    fn failures_are_forgotten_after_a_quiet_time() {
        let mut bench = Bench::new();
        for _ in 0..10 {
            assert_eq!(bench.fail(), Change::Nothing);
            bench.wait(10);
        }
        let in_a_row = [(); 3].map(|()| {
            bench.wait(9);
            bench.fail()
        });
        assert_eq!(in_a_row, [Change::Nothing, Change::Nothing, Change::Opened], "9 s are not quiet");
    }

    #[test]
    fn half_open_lets_one_attempt_through_and_its_success_closes_it() {
        let mut bench = Bench::opened();
        bench.wait(59);
        assert!(bench.admit().is_none());
        bench.wait(1);
        let trial = bench.admit().unwrap();
        assert!(bench.admit().is_none());
        assert_eq!(bench.breaker.succeeded(trial), Change::Closed);
        assert!(bench.admit().is_some() && bench.admit().is_some());
    }

    #[test]
    fn a_failed_trial_opens_it_for_another_while() {
        let mut bench = Bench::opened();
        for _ in 0..3 {
            bench.wait(60);
            assert_eq!(bench.fail(), Change::Opened);
            assert!(bench.admit().is_none());
            bench.wait(59);
            assert!(bench.admit().is_none());
            bench.wait(1);
        }
    }

    #[test]
    fn an_abandoned_trial_makes_room_for_the_next() {
        let mut bench = Bench::opened();
        bench.wait(60);
        for _ in 0..3 {
            let trial = bench.admit().unwrap();
            bench.breaker.abandoned(trial);
        }
        assert_eq!(bench.fail(), Change::Opened);
    }

    #[test]
    fn attempts_from_before_it_opened_change_nothing() {
        let mut bench = Bench::new();
        let [good, bad, given_up] = [(); 3].map(|()| bench.admit().unwrap());
        for _ in 0..3 {
            let _ = bench.fail();
        }
        assert_eq!(bench.breaker.succeeded(good), Change::Nothing);
        assert!(bench.admit().is_none());
        bench.wait(60);
        let trial = bench.admit().unwrap();
        assert_eq!(bench.breaker.failed(bad, bench.now), Change::Nothing);
        bench.breaker.abandoned(given_up);
        assert!(bench.admit().is_none());
        assert_eq!(bench.breaker.succeeded(trial), Change::Closed);
    }
}
