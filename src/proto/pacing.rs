//! Times between the records of a download as between those of a web server's (`defense.doppelganger.enabled`).
//!
//! The time is drawn, from what was measured, when a record is made, and the next one is not made before it is over:
//! nothing is received from the DC meanwhile, so that its own window holds it back. A record that comes when nothing
//! has come for [`PAUSE`] is the first of something new and goes at once.

use std::sync::Arc;

/// The longest time that is drawn, microseconds; beyond it a server has thought, not sent.
pub(crate) const GAP_MAX: u32 = 300_000;
/// A rest of the DC after which nothing is held back, milliseconds.
const PAUSE: u64 = 20;
/// A timer that fires late is made up for as far as this, microseconds: a record more at once, but the same pace.
const CATCH_UP: u64 = 4000;

/// The means of 64 equal parts of a Weibull distribution (k = 0.378, λ = 1.73 ms) that mtg's author measured at a large
/// site, microseconds; 6.76 ms on average.
static USUAL: [u32; 64] = [
    0, 0, 0, 1, 2, 3, 5, 7, 10, 14, 18, 24, 31, 39, 48, 59, 71, 85, 101, 119, 140, 164, 190, 220, 253, 290, 331, 377,
    429, 486, 549, 620, 698, 785, 882, 990, 1109, 1242, 1391, 1556, 1741, 1948, 2180, 2441, 2735, 3066, 3443, 3871,
    4361, 4924, 5576, 6335, 7226, 8284, 9553, 11_098, 13_013, 15_440, 18_612, 22_927, 29_161, 39_084, 58_171, 143_820,
];

/// What a connection remembers of its pace.
#[derive(Debug, Default)]
pub(crate) struct Pacing {
    /// Measured times, microseconds; none if there are only the usual ones.
    measured: Option<Arc<[u32]>>,
    /// When the next record may be made, microseconds.
    due: u64,
}

impl Pacing {
    pub(crate) fn new(measured: Option<Arc<[u32]>>) -> Self {
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
        self.due = start + u64::from(drawn.min(GAP_MAX));
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
    fn bulk_goes_at_the_measured_pace() {
        for (measured, millis) in [(None, 67_554), (Some(vec![2000, 4000]), 30_000)] {
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
        let mut pacing = Pacing::new(Some([GAP_MAX].into()));
        pacing.made(false, 0, 5000);
        assert_eq!(pacing.due(), 5000 + PAUSE);
        pacing.made(true, 0, 6000);
        assert!(pacing.due() > 6000 + 290);
    }
}
