//! How much of what waits an app is given at once.
//!
//! A browser shows nothing of an answer before its last byte, so all streams wait for that: a mebibyte over a line of
//! some KiB a second is a minute of silence, after which apps give their streams up. What takes still longer the page
//! asks for again, from its first byte. So the first answer is one that any line carries in time, and the next ones are
//! what the line carries in seconds. The page does the same with what it sends.

/// Bytes at first, and at least.
const FIRST: usize = 64 << 10;
const LEAST: usize = 32 << 10;
/// An answer that is full and there sooner shows that the next may be longer, one that takes longer than this that it
/// must not; milliseconds.
const QUICK: u64 = 2000;
const SLOW: u64 = 10_000;

pub(crate) struct Portion {
    bytes: usize,
    most: usize,
    /// When the last was handed out, and its bytes.
    handed: (u64, usize),
}

impl Portion {
    /// Always the same, for a way on which bytes are of use as they come.
    pub(crate) fn fixed(bytes: usize) -> Self {
        Self { bytes, most: bytes, handed: (0, 0) }
    }

    /// What the line carries in seconds, `most` bytes at most.
    pub(crate) fn paced(most: usize) -> Self {
        Self { bytes: FIRST.min(most), ..Self::fixed(most) }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn most(&self) -> usize {
        self.most
    }

    /// So many bytes begin their way.
    pub(crate) fn hand_out(&mut self, bytes: usize, now: u64) {
        self.handed = (now, bytes);
    }

    /// They are there.
    pub(crate) fn arrive(&mut self, now: u64) {
        let (since, bytes) = self.handed;
        let took = now.saturating_sub(since);
        if took > SLOW {
            self.bytes = (self.bytes / 2).max(LEAST.min(self.most));
        } else if took < QUICK && bytes.saturating_mul(2) > self.bytes {
            self.bytes = self.bytes.saturating_mul(2).min(self.most);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What one holds after `count` full answers over a line of so many bytes a second, and how long the longest took,
    /// seconds.
    fn over(portion: &mut Portion, pace: usize, count: usize) -> (usize, u64) {
        let (mut now, mut longest) = (0, 0);
        for _ in 0..count {
            let took = u64::try_from(portion.bytes() * 1000 / pace).unwrap();
            portion.hand_out(portion.bytes(), now);
            now += took;
            longest = longest.max(took / 1000);
            portion.arrive(now);
        }
        (portion.bytes(), longest)
    }

    #[test]
    fn a_slow_line_is_given_what_it_carries_in_seconds() {
        for (kib, bytes, secs) in [(4, LEAST, 16), (8, FIRST, 8), (16, FIRST, 4), (40, 128 << 10, 3)] {
            assert_eq!(over(&mut Portion::paced(1 << 20), kib << 10, 20), (bytes, secs), "{kib} KiB/s");
        }
    }

    #[test]
    fn a_fast_line_has_all_of_it_after_four_answers_and_less_when_it_becomes_slow() {
        let mut portion = Portion::paced(1 << 20);
        assert_eq!(over(&mut portion, 4 << 20, 4), (1 << 20, 0));
        assert_eq!(over(&mut portion, 8 << 10, 20).0, 64 << 10);
        assert_eq!(over(&mut portion, 4 << 20, 4).0, 1 << 20);
    }

    #[test]
    fn answers_that_are_not_full_say_nothing_of_a_line() {
        let mut portion = Portion::paced(1 << 20);
        for _ in 0..20 {
            portion.hand_out(FIRST / 2, 0);
            portion.arrive(1);
        }
        assert_eq!(portion.bytes(), FIRST);
    }

    #[test]
    fn one_that_is_fixed_stays_and_one_of_little_memory_keeps_to_it() {
        assert_eq!(over(&mut Portion::fixed(256 << 10), 1 << 20, 9).0, 256 << 10);
        assert_eq!(over(&mut Portion::paced(10_000), 1 << 20, 9).0, 10_000);
        assert_eq!(over(&mut Portion::paced(10_000), 100, 9).0, 10_000);
    }
}
