//! How the set of hellos is written down: a header, then blocks, the oldest first. Blocks may be added at the end.
//!
//! ```text
//! file    | "mtg hellos\r\n" | 00 00 00 01 version | block | block | …
//! block   | n, 4 bytes | n words of 8 bytes | first 8 bytes of SHA-256 over what stands before in the block |
//! ```
//! Numbers are big-endian. No block is longer than [`BLOCK_MAX`] words, so reading takes little memory.

use sha2::{Digest as _, Sha256};

/// What a file begins with.
pub(crate) const HEADER: [u8; 16] = *b"mtg hellos\r\n\0\0\0\x01";
/// Words of a block at most.
pub(crate) const BLOCK_MAX: usize = 512;
/// Bytes that say how many words there are.
pub(crate) const COUNT: usize = 4;
const CHECKSUM: usize = 8;

/// Writes words as blocks.
pub(crate) fn write(words: &[u64]) -> Vec<u8> {
    let mut blocks = Vec::new();
    for part in words.chunks(BLOCK_MAX) {
        let mut block = u32::try_from(part.len()).unwrap_or_default().to_be_bytes().to_vec();
        block.extend(part.iter().flat_map(|word| word.to_be_bytes()));
        block.extend(checksum(&[&block]));
        blocks.append(&mut block);
    }
    blocks
}

/// Bytes of a block that follow its count; none if no block has such a count.
pub(crate) fn rest_len(count: [u8; COUNT]) -> Option<usize> {
    let count = usize::try_from(u32::from_be_bytes(count)).ok()?;
    (1..=BLOCK_MAX).contains(&count).then_some(count * 8 + CHECKSUM)
}

/// The words of a block; none if it is not what was written.
pub(crate) fn read(count: [u8; COUNT], rest: &[u8]) -> Option<Vec<u64>> {
    let (words, sum) = rest.split_last_chunk::<CHECKSUM>()?;
    let is_whole = rest_len(count) == Some(rest.len()) && checksum(&[&count, words]) == *sum;
    is_whole.then(|| words.as_chunks().0.iter().map(|word| u64::from_be_bytes(*word)).collect())
}

fn checksum(parts: &[&[u8]]) -> [u8; CHECKSUM] {
    let mut hash = Sha256::new();
    parts.iter().for_each(|part| hash.update(part));
    hash.finalize().first_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All blocks of what stands behind a header.
    fn read_all(mut bytes: &[u8]) -> Option<Vec<u64>> {
        let mut words = Vec::new();
        while !bytes.is_empty() {
            let (count, rest) = bytes.split_first_chunk()?;
            let (rest, next) = rest.split_at_checked(rest_len(*count)?)?;
            words.extend(read(*count, rest)?);
            bytes = next;
        }
        Some(words)
    }

    #[test]
    fn what_is_written_is_read() {
        for length in [0, 1, 2, BLOCK_MAX, BLOCK_MAX + 1, 3 * BLOCK_MAX] {
            let words: Vec<u64> = (0..length as u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
            assert_eq!(read_all(&write(&words)).unwrap(), words, "{length}");
        }
    }

    #[test]
    fn damage_at_any_byte_is_seen() {
        let good = write(&[1, u64::MAX, 77]);
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert_eq!(read_all(&bad), None, "byte {at}");
            assert!(at == 0 || read_all(&good[..at]).is_none(), "cut at {at}");
        }
        assert_eq!(rest_len([0, 0, 0, 0]), None);
        assert_eq!(rest_len([0, 0, 2, 1]), None);
    }
}
