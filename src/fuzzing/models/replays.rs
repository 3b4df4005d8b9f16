//! The set of hellos beside all hellos that there ever were.

use std::collections::HashSet;

use crate::guard::antireplay::AntiReplay;
use crate::proto::faketls::Digest;

/// Bytes that the set may use; small, so that it forgets early.
const SIZE: u64 = 2048;
/// Hellos that it knows at least: with 16 parts of 16 slots, 13 of which are filled, all but the oldest part.
const KNOWN: usize = 15 * 13;

/// Pairs that are looked at: enough to fill the set several times.
const PAIRS_MAX: usize = 1500;

/// Each two bytes are a hello, 0xff and anything a restart that keeps the set: what is refused was seen, and what is let
/// in is not among the last [`KNOWN`].
pub(in crate::fuzzing) fn replays(input: &[u8]) {
    let (mut set, mut ever, mut order) = (AntiReplay::new(SIZE), HashSet::new(), Vec::new());
    for pair in input.chunks_exact(2).take(PAIRS_MAX) {
        if pair[0] == 0xff {
            set = restarted(&set);
            continue;
        }
        let is_new = set.first_seen(&digest(pair));
        let recent = &order[order.len().saturating_sub(KNOWN)..];
        assert!(is_new || ever.contains(pair), "{pair:?} is refused and was never there");
        assert!(!is_new || !recent.contains(&pair), "{pair:?} is let in again");
        if is_new {
            ever.insert(pair);
            order.push(pair);
        }
    }
}

fn restarted(set: &AntiReplay) -> AntiReplay {
    let (mut other, mut number) = (AntiReplay::new(SIZE), 0);
    while let Some((found, words)) = set.segment(number) {
        other.merge(&words);
        number = found + 1;
    }
    other
}

/// Digests that look random, as real ones do.
fn digest(pair: &[u8]) -> Digest {
    let number = pair.iter().fold(1u64, |number, &byte| (number << 8) + u64::from(byte));
    let mut digest = [0; size_of::<Digest>()];
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number.rotate_left(40);
    digest[..8].copy_from_slice(&mixed.to_be_bytes());
    digest
}
