//! Sizes of the records to the client as those of a web server that cares for the first paint: records that fit one
//! packet at the start of a connection, larger ones as it goes on.
//!
//! Those are Go's, and so those of Caddy and Traefik: the n-th record has room for n packets' worth of content, up to the
//! largest there is (crypto/tls, `maxPayloadSizeForWrite`). Servers with OpenSSL do not vary theirs.
//! Also the times between them, if they are to be a web server's. What comes after a pause is never held back.

use super::pacing::Pacing;
use super::tls::{SEALED_MAX, SEALED_MIN};

/// Content of the first record: what fits a packet of 1208 bytes with header, type and tag.
const STEP: u16 = 1186;
/// What encryption adds.
#[expect(clippy::cast_possible_truncation, reason = "it is 17")]
const SEAL: u16 = SEALED_MIN as u16;
/// The largest payload of all.
#[expect(clippy::cast_possible_truncation, reason = "it is 16401")]
const MAX: u16 = SEALED_MAX as u16;
/// Records that are made at once.
pub(crate) const SIZES: usize = 4;

/// What a connection remembers of its records.
#[derive(Debug)]
pub(crate) struct RecordSizer {
    /// Records so far, as far as it matters.
    sent: u16,
    /// State of a xorshift generator for the pace; nobody gains anything from guessing that.
    noise: u32,
    /// Records are as large as they may be from the first one on.
    is_constant: bool,
    /// Holds them apart; none if each goes as soon as it can.
    pacing: Option<Pacing>,
}

/// Payload bytes of the next records.
pub(crate) type Sizes = [u16; SIZES];

impl RecordSizer {
    /// `seed` makes the paces of connections differ. Without `grows` all are as large as they may be.
    pub(crate) fn new(seed: u32, grows: bool, pacing: Option<Pacing>) -> Self {
        Self { sent: 0, noise: seed | 1, is_constant: !grows, pacing }
    }

    /// When the next record may be made, if that is later than `now`, milliseconds.
    pub(crate) fn held_until(&self, now: u64) -> Option<u64> {
        self.pacing.as_ref().map(Pacing::due).filter(|due| *due > now)
    }

    /// The sizes of the next records; they count once they are [`RecordSizer::made`].
    pub(crate) fn next(&self) -> Sizes {
        let mut number = self.sent;
        let mut sizes = [(); SIZES].map(|()| {
            number = number.saturating_add(1);
            self.size_of(number)
        });
        if self.pacing.is_some() {
            // Each waits for itself.
            sizes.iter_mut().skip(1).for_each(|size| *size = 0);
        }
        sizes
    }

    fn size_of(&self, number: u16) -> u16 {
        if self.is_constant { MAX } else { number.saturating_mul(STEP).saturating_add(SEAL).min(MAX) }
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
        let noise = self.next_noise();
        if let Some(pacing) = &mut self.pacing {
            pacing.made(is_more, noise, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_grow_by_a_packet_each_and_stay_large() {
        let mut sizer = RecordSizer::new(7, true, None);
        for number in 1..40 {
            let [size, second, ..] = sizer.next();
            assert_eq!(size, if number < 14 { number * 1186 + 17 } else { 16_401 });
            assert!(second == size + 1186 || second == 16_401);
            // After a pause, too.
            sizer.made(1, true, u64::from(number) * 10_000);
        }
    }

    #[test]
    fn sizes_that_were_not_used_do_not_count() {
        let sizer = RecordSizer::new(9, true, None);
        assert_eq!(sizer.next(), sizer.next());
        assert_eq!(RecordSizer::new(9, false, None).next(), [MAX; SIZES]);
        assert_eq!(RecordSizer::new(9, true, Some(Pacing::new(None))).next(), [1203, 0, 0, 0]);
    }
}
