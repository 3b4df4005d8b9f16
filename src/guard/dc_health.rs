//! Which data centres are dead while others live: then it is not the way out that is broken, and the owner should know.

/// Data centres that are kept apart.
const SITES_MAX: usize = 32;
/// Failures in a row that make one dead.
const FAILURES: u32 = 3;
/// How long a success speaks for the way out, seconds.
const FRESH_SECS: u64 = 600;
/// Time between two warnings of one data centre, seconds.
const EVERY_SECS: u64 = 3600;

/// What became of the connections to each.
#[derive(Debug, Default)]
pub(crate) struct DcHealth(Vec<Site>);

#[derive(Debug)]
struct Site {
    /// The number without its sign.
    number: u16,
    failures: u32,
    reached: Option<u64>,
    warned: Option<u64>,
}

impl DcHealth {
    /// Takes note of an attempt, and says whether the owner is to be told that this data centre is dead.
    pub(crate) fn note(&mut self, number: u16, is_reached: bool, now_secs: u64) -> bool {
        let at = self.0.iter().position(|site| site.number == number).unwrap_or_else(|| {
            self.0.truncate(SITES_MAX - 1);
            self.0.push(Site { number, failures: 0, reached: None, warned: None });
            self.0.len() - 1
        });
        let is_fresh = |time: Option<u64>, secs: u64| time.is_some_and(|time| now_secs.saturating_sub(time) < secs);
        let others_live = self.0.iter().any(|site| site.number != number && is_fresh(site.reached, FRESH_SECS));
        let Some(site) = self.0.get_mut(at) else { return false };
        if is_reached {
            (site.failures, site.reached) = (0, Some(now_secs));
            return false;
        }
        site.failures = site.failures.saturating_add(1);
        let is_dead = site.failures >= FAILURES && others_live && !is_fresh(site.warned, EVERY_SECS);
        if is_dead {
            site.warned = Some(now_secs);
        }
        is_dead
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_dead_while_others_live_is_told_of_once_an_hour() {
        let mut health = DcHealth::default();
        assert!(!health.note(2, true, 0));
        assert_eq!([1, 2, 3, 4].map(|now| health.note(4, false, now)), [false, false, true, false]);
        assert!(!health.note(2, true, 3600) && !health.note(4, false, 3601));
        assert!(health.note(4, false, 3603));
        assert!(!health.note(4, true, 3604) && !health.note(4, false, 3605), "one failure after a success");
    }

    #[test]
    fn where_all_are_dead_it_is_not_their_fault() {
        let mut health = DcHealth::default();
        assert!((0..100).all(|now| !health.note(1 + u16::try_from(now % 5).unwrap(), false, now)));
        health.note(1, true, 100);
        assert!(!health.note(2, false, 100 + FRESH_SECS), "that success is long ago");
    }

    #[test]
    fn there_are_no_more_than_fit() {
        let mut health = DcHealth::default();
        (0..1000).for_each(|number| {
            health.note(number, false, 0);
        });
        assert_eq!(health.0.len(), SITES_MAX);
    }
}
