//! Times between the records of a download as between those of a web server's (`defense.doppelganger.enabled`).
//!
//! The time is drawn, from what was measured, when a record is made, and the next one is not made before it is over:
//! nothing is received from the DC meanwhile, so that its own window holds it back. A record that comes when nothing
//! has come for [`PAUSE`] is the first of something new and goes at once.

use std::sync::Arc;

/// Times are kept in units of so many microseconds.
pub(crate) const UNIT: u32 = 10;
/// A rest of the DC after which nothing is held back, milliseconds.
const PAUSE: u64 = 20;
/// A timer that fires late is made up for as far as this, microseconds: a record more at once, but the same pace.
const CATCH_UP: u64 = 4000;

/// The means of 32 equal parts of a Weibull distribution (k = 0.378, λ = 1.73 ms) that mtg's author measured at a large
/// site, units; 6.76 ms on average.
static USUAL: [u16; 32] = [
    0, 0, 0, 1, 1, 2, 3, 5, 8, 11, 15, 20, 27, 35, 46, 58, 74, 94, 118, 147, 184, 231, 290, 366, 464, 596, 775, 1033,
    1423, 2077, 3412, 10100,
];

/// What a connection remembers of its pace.
#[derive(Debug, Default)]
pub(crate) struct Pacing {
    /// Measured times, units; none if there are only the usual ones.
    measured: Option<Arc<[u16]>>,
    /// When the next record may be made, microseconds.
    due: u64,
}

impl Pacing {
    pub(crate) fn new(measured: Option<Arc<[u16]>>) -> Self {
        Self { measured, due: 0 }
    }

    /// When the next record may be made, milliseconds.
    pub(crate) fn due(&self) -> u64 {
        self.due / 1000
    }

    /// Draws the time until the next record. `noise` is any number.
    pub(crate) fn made(&mut self, is_more: bool, noise: u32, now: u64) {
        let times = self.measured.as_deref().unwrap_or(&USUAL);
        // The upper bits of a xorshift generator are its better ones.
        let index = (u64::from(noise) * times.len() as u64) >> 32;
        let drawn = usize::try_from(index).ok().and_then(|index| times.get(index)).copied().unwrap_or_default();
        let start = self.due.max((now * 1000).saturating_sub(CATCH_UP));
        self.due = start + u64::from(drawn) * u64::from(UNIT);
        if !is_more {
            self.due = self.due.min((now + PAUSE) * 1000);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::testing::seeded;

    fn number(fill: &mut impl FnMut(&mut [u8])) -> u32 {
        let mut bytes = [0; 4];
        fill(&mut bytes);
        u32::from_le_bytes(bytes)
    }

    #[test]
    #[cfg_attr(miri, ignore = "statistics of 20 000 records")]
    fn bulk_goes_at_the_measured_pace() {
        for (measured, millis) in [(None, 67_554), (Some(vec![200, 400]), 30_000)] {
            let (mut pacing, mut fill, mut now) = (Pacing::new(measured.map(Arc::from)), seeded(1), 1000);
            for _ in 0..10_000 {
                // The poller's timer is late, as they are.
                now = now.max(pacing.due() + 1);
                pacing.made(true, number(&mut fill), now);
            }
            let elapsed = now - 1000;
            assert!(elapsed.abs_diff(millis) < millis / 10, "10000 records in {elapsed} ms");
        }
    }

    #[test]
    fn what_comes_after_a_pause_is_not_held_back() {
        let mut pacing = Pacing::new(Some([30_000].into()));
        pacing.made(false, 0, 5000);
        assert_eq!(pacing.due(), 5000 + PAUSE);
        pacing.made(true, 0, 6000);
        assert!(pacing.due() > 6000 + 290);
    }
}
