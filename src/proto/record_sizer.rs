//! Sizes of the records to the client as web servers choose them that care for the first paint: records that fit one
//! packet at the start of a transfer, larger ones as it goes on, and small ones again after a pause.
//!
//! Also the times between them, if they are to be a web server's. What comes after a pause is never held back.

use super::pacing::Pacing;
use super::tls::SEALED_MAX;

/// The last record of the first phase, and the largest payload there: it fits an Ethernet packet with its header.
const SMALL_UNTIL: u16 = 40;
const SMALL: u16 = 1450;
/// The same of the second phase.
const MIDDLE_UNTIL: u16 = 60;
const MIDDLE: u16 = 4096;
/// The largest payload of all.
#[expect(clippy::cast_possible_truncation, reason = "it is 16401")]
const MAX: u16 = SEALED_MAX as u16;
/// Sizes vary below these by less than this.
const VARIATION: u32 = 100;
/// A pause after which a transfer starts anew, milliseconds.
const PAUSE: u64 = 1000;
/// Records that are made at once.
pub(crate) const SIZES: usize = 4;

/// What a connection remembers of its records.
#[derive(Debug)]
pub(crate) struct RecordSizer {
    /// Records since the last pause, as far as the phases need it.
    sent: u16,
    /// When the last one was made, milliseconds.
    last: u64,
    /// State of a xorshift generator; nobody gains anything from guessing a size.
    noise: u32,
    /// Records are as large as they may be from the first one on.
    is_constant: bool,
    /// Holds them apart; none if each goes as soon as it can.
    pacing: Option<Pacing>,
}

/// Payload bytes of the next records.
pub(crate) type Sizes = [u16; SIZES];

impl RecordSizer {
    /// `seed` makes the sizes of connections differ. Without `grows` all are as large as they may be.
    pub(crate) fn new(seed: u32, grows: bool, pacing: Option<Pacing>) -> Self {
        Self { sent: 0, last: 0, noise: seed | 1, is_constant: !grows, pacing }
    }

    /// When the next record may be made, if that is later than `now`, milliseconds.
    pub(crate) fn held_until(&self, now: u64) -> Option<u64> {
        self.pacing.as_ref().map(Pacing::due).filter(|due| *due > now)
    }

    /// Draws the sizes of the next records at `now`, milliseconds; they count once they are [`RecordSizer::made`].
    pub(crate) fn draw(&mut self, now: u64) -> Sizes {
        if self.pacing.is_some() {
            // Each waits for itself.
            let mut sizes = self.draw_all(now);
            sizes.iter_mut().skip(1).for_each(|size| *size = 0);
            return sizes;
        }
        self.draw_all(now)
    }

    fn draw_all(&mut self, now: u64) -> Sizes {
        if now.saturating_sub(self.last) > PAUSE {
            self.sent = 0;
        }
        let mut number = self.sent;
        [(); SIZES].map(|()| {
            number = number.saturating_add(1);
            self.size_of(number)
        })
    }

    fn size_of(&mut self, number: u16) -> u16 {
        let largest = match number {
            _ if self.is_constant => return MAX,
            _ if number <= SMALL_UNTIL => SMALL,
            _ if number <= MIDDLE_UNTIL => MIDDLE,
            _ => return MAX,
        };
        largest - u16::try_from(self.next_noise() % VARIATION).unwrap_or_default()
    }

    fn next_noise(&mut self) -> u32 {
        self.noise ^= self.noise << 13;
        self.noise ^= self.noise >> 17;
        self.noise ^= self.noise << 5;
        self.noise
    }

    /// Takes note of `count` records that were made, and whether more bytes wait to become some.
    pub(crate) fn made(&mut self, count: u16, is_more: bool, now: u64) {
        self.sent = self.sent.saturating_add(count);
        self.last = now;
        let noise = self.next_noise();
        if let Some(pacing) = &mut self.pacing {
            pacing.made(is_more, noise, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sizes of `count` records that are sent one at a time, one a millisecond.
    fn sizes(sizer: &mut RecordSizer, start: u64, count: u64) -> Vec<u16> {
        let mut one = |now| {
            let [size, ..] = sizer.draw(now);
            sizer.made(1, true, now);
            size
        };
        (start..start + count).map(&mut one).collect()
    }

    #[test]
    fn records_grow_in_two_steps_and_start_small_after_a_pause() {
        let mut sizer = RecordSizer::new(7, true, None);
        for start in [0, 1_100, 10_000] {
            let sizes = sizes(&mut sizer, start, 100);
            assert!(sizes[..40].iter().all(|size| (1351..=1450).contains(size)), "{sizes:?}");
            assert!(sizes[40..60].iter().all(|size| (3997..=4096).contains(size)), "{sizes:?}");
            assert!(sizes[60..].iter().all(|&size| usize::from(size) == SEALED_MAX), "{sizes:?}");
            let distinct: std::collections::BTreeSet<_> = sizes[..40].iter().collect();
            assert!(distinct.len() > 20, "{distinct:?}");
        }
    }

    #[test]
    fn a_short_rest_is_no_pause_and_a_draw_in_vain_does_not_count() {
        let mut sizer = RecordSizer::new(9, true, None);
        sizes(&mut sizer, 0, 60);
        assert!(usize::from(sizer.draw(60 + PAUSE - 1)[0]) == SEALED_MAX);
        assert!(sizer.draw(60 + PAUSE)[0] < 1500);
        assert!(sizer.draw(60 + PAUSE)[0] < 1500);
    }
}
