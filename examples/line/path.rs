//! One direction: packets that wait for their turn at a bottleneck, and then for the end of their way.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::time::Duration;

use crate::traits::Traits;

/// Packets on their way at most; more is no line.
const UNDERWAY_MAX: usize = 100_000;

pub(crate) struct Path {
    pub(crate) traits: Traits,
    pub(crate) passed: Passed,
    /// When the bottleneck has sent what it was given.
    free_at: Duration,
    /// When the last packet arrives that no other overtakes.
    arrives: Duration,
    underway: BinaryHeap<Reverse<(Duration, u64, Vec<u8>)>>,
    number: u64,
    random: u64,
}

/// What has become of the packets.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Passed {
    packets: u64,
    bytes: u64,
    /// Fell to `loss`.
    lost: u64,
    /// Fell into the `hole`.
    swallowed: u64,
    /// Found the `queue` full.
    full: u64,
    /// Were larger than the `largest`.
    too_large: u64,
    /// Were for an address that the line has no more.
    pub(crate) forgotten: u64,
}

impl Path {
    /// `seed` makes the accidents the same in each run.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            traits: Traits::default(),
            passed: Passed::default(),
            free_at: Duration::ZERO,
            arrives: Duration::ZERO,
            underway: BinaryHeap::new(),
            number: 0,
            random: seed,
        }
    }

    /// Takes a packet, or lets it vanish.
    pub(crate) fn take(&mut self, packet: &[u8], now: Duration) {
        let Traits { delay, jitter, rate, queue, loss, reorder, late, is_hole, largest } = self.traits;
        if is_hole {
            self.passed.swallowed += 1;
            return;
        }
        if largest > 0 && packet.len() > largest {
            self.passed.too_large += 1;
            return;
        }
        let turn = self.free_at.max(now);
        let is_full = rate > 0.0 && queue > 0.0 && (turn - now).as_secs_f64() * rate + packet.len() as f64 > queue;
        if is_full || self.underway.len() >= UNDERWAY_MAX {
            self.passed.full += 1;
            return;
        }
        let sending = if rate > 0.0 { packet.len() as f64 / rate } else { 0.0 };
        self.free_at = turn + Duration::from_secs_f64(sending);
        // What is lost behind the bottleneck has taken its time there.
        if self.happens(loss) {
            self.passed.lost += 1;
            return;
        }
        let mut arrives = self.free_at + delay + jitter.mul_f64(self.chance());
        if self.happens(reorder) {
            arrives += late;
        } else {
            arrives = arrives.max(self.arrives);
            self.arrives = arrives;
        }
        self.number += 1;
        self.underway.push(Reverse((arrives, self.number, packet.to_vec())));
    }

    /// When the next packet arrives.
    pub(crate) fn next_due(&self) -> Option<Duration> {
        self.underway.peek().map(|Reverse((arrives, ..))| *arrives)
    }

    /// The next packet that has arrived.
    pub(crate) fn next(&mut self, now: Duration) -> Option<Vec<u8>> {
        if self.next_due()? > now {
            return None;
        }
        let Reverse((_, _, packet)) = self.underway.pop()?;
        self.passed.packets += 1;
        self.passed.bytes += packet.len() as u64;
        Some(packet)
    }

    fn happens(&mut self, part: f64) -> bool {
        part > 0.0 && self.chance() < part
    }

    /// A number from 0 to 1 (SplitMix64).
    fn chance(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

impl fmt::Display for Passed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { packets, bytes, lost, swallowed, full, too_large, forgotten } = self;
        write!(
            f,
            "{{\"packets\": {packets}, \"bytes\": {bytes}, \"lost\": {lost}, \"swallowed\": {swallowed}, \
             \"full\": {full}, \"too_large\": {too_large}, \"forgotten\": {forgotten}}}"
        )
    }
}
