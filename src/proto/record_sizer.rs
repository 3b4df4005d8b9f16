//! Sizes of the records to the client as those of a web server that cares for the first paint: records that fit one
//! packet at the start of a connection, larger ones as it goes on.
//!
//! They are those of a download that was measured. While there is none they are Go's, and so those of Caddy and Traefik:
//! the n-th record has room for n packets' worth of content, up to the largest there is (crypto/tls,
//! `maxPayloadSizeForWrite`). Servers with OpenSSL do not vary theirs.
//! Also the times between them, if they are to be a web server's. What comes after a pause is never held back.

#[cfg(feature = "tls")]
use std::sync::Arc;

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
/// What is shorter is the end of something, a ticket or the head of a page, and no size that a server chooses.
#[cfg(feature = "tls")]
const CHOSEN_MIN: u16 = 1024;
/// Records of a download from which its sizes can be seen.
#[cfg(feature = "tls")]
const SEEN_MIN: usize = 8;
/// Records that are made at once.
pub(crate) const SIZES: usize = 4;

/// What a connection remembers of its records.
#[derive(Debug)]
pub(crate) struct RecordSizer {
    /// Records so far, as far as it matters.
    sent: u16,
    /// State of a xorshift generator for the pace; nobody gains anything from guessing that.
    noise: u32,
    growth: Growth,
    /// Holds them apart; none if each goes as soon as it can.
    pacing: Option<Pacing>,
}

/// How records grow.
#[derive(Clone, Debug)]
pub(crate) enum Growth {
    /// They are as large as they may be from the first one on.
    Largest,
    /// As those of Go's servers.
    Go,
    /// As those of a download, [`growth_of`] which this is.
    #[cfg(feature = "tls")]
    Measured(Arc<[u16]>),
}

/// What can be learned from the lengths of a download's records, if they are enough. The last one is as long as what was
/// left of the page.
#[cfg(feature = "tls")]
pub(crate) fn growth_of(lengths: &[u16]) -> Option<Growth> {
    let (_, lengths) = lengths.split_last()?;
    let chosen: Arc<[u16]> = lengths.iter().copied().filter(|length| (CHOSEN_MIN..=MAX).contains(length)).collect();
    (chosen.len() >= SEEN_MIN).then_some(Growth::Measured(chosen))
}

/// Payload bytes of the next records.
pub(crate) type Sizes = [u16; SIZES];

impl RecordSizer {
    /// `seed` makes the paces of connections differ.
    pub(crate) fn new(seed: u32, growth: Growth, pacing: Option<Pacing>) -> Self {
        Self { sent: 0, noise: seed | 1, growth, pacing }
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
            let [_, following @ ..] = &mut sizes;
            following.fill(0);
        }
        sizes
    }

    /// The size of the `number`th record, from 1 on.
    fn size_of(&self, number: u16) -> u16 {
        match &self.growth {
            Growth::Largest => MAX,
            Growth::Go => number.saturating_mul(STEP).saturating_add(SEAL).min(MAX),
            #[cfg(feature = "tls")]
            Growth::Measured(sizes) => {
                let size = sizes.get(usize::from(number.saturating_sub(1))).or(sizes.last());
                size.copied().unwrap_or(MAX)
            }
        }
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
        let mut sizer = RecordSizer::new(7, Growth::Go, None);
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
        let sizer = RecordSizer::new(9, Growth::Go, None);
        assert_eq!(sizer.next(), sizer.next());
        assert_eq!(RecordSizer::new(9, Growth::Largest, None).next(), [MAX; SIZES]);
        assert_eq!(RecordSizer::new(9, Growth::Go, Some(Pacing::new(None))).next(), [1203, 0, 0, 0]);
    }
    #[test]
    #[cfg(feature = "tls")]
    fn records_are_as_long_as_those_of_a_download_without_its_tickets_head_and_end() {
        let lengths = [250, 250, 300, 4113, 4113, 8209, 8209, 16_401, 16_401, 16_401, 16_401, 40, 8000, 700];
        let mut sizer = RecordSizer::new(7, growth_of(&lengths).unwrap(), None);
        for size in [4113, 4113, 8209, 8209, 16_401, 16_401, 16_401, 16_401, 8000, 8000, 8000] {
            assert_eq!(sizer.next()[0], size);
            sizer.made(1, true, 0);
        }
        // A small page, and what is none of TLS 1.3.
        assert!(growth_of(&lengths[..11]).is_none());
        assert!(growth_of(&[16_408; 64]).is_none() && growth_of(&[]).is_none());
    }
}
