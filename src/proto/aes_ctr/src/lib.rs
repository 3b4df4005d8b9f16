//! AES-256 in counter mode with a 128-bit big-endian counter (NIST SP 800-38A section 6.5).
//!
//! The crate `ctr` does the same, and the tests hold this to it. Here a batch fills the processor's widest vectors, and of
//! its counters only what differs from the last batch's is written.
//!
//! A crate of its own, because the compiler's level is set by crate and generic code takes that of the crate it is
//! used in: this is for speed, and everything around it for size. What is done for the program as a whole at the end,
//! unrolling and vectors where the code has none, is left out for this one too.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

use aes::Aes256Enc;
use aes::cipher::consts::U16;
use aes::cipher::typenum::Unsigned as _;
use aes::cipher::{
    Array, BlockCipherEncBackend, BlockCipherEncClosure, BlockCipherEncrypt as _, BlockSizeUser, KeyInit as _,
    ParBlocks,
};

const BLOCK: usize = 16;
/// Fewer blocks than this are what software encrypts at once, beside which their counters cost nothing.
const FEW: usize = 8;

/// A key stream and the place in it.
pub struct Aes256Ctr {
    cipher: Aes256Enc,
    /// The counter of the next block.
    counter: u128,
    /// The key stream of the block before it, of which `left` bytes at the end have not been used.
    block: [u8; BLOCK],
    left: u8,
}

impl Aes256Ctr {
    /// The stream of a key that begins with the counter `iv`.
    #[must_use]
    pub fn new(key: &[u8; 32], iv: &[u8; BLOCK]) -> Self {
        let cipher = Aes256Enc::new(key.into());
        Self { cipher, counter: u128::from_be_bytes(*iv), block: [0; BLOCK], left: 0 }
    }

    /// Changes `data` by exclusive or with the next bytes of the key stream.
    pub fn apply_keystream(&mut self, data: &mut [u8]) {
        let (head, rest) = data.split_at_mut(data.len().min(self.left.into()));
        let unused = self.block.iter().skip(BLOCK - usize::from(self.left));
        head.iter_mut().zip(unused).for_each(|(byte, key)| *byte ^= key);
        self.left -= u8::try_from(head.len()).unwrap_or_default();

        let (whole, tail) = rest.as_chunks_mut::<BLOCK>();
        self.apply_blocks(whole);
        if !tail.is_empty() {
            let mut block = [[0; BLOCK]];
            self.apply_blocks(&mut block);
            [self.block] = block;
            tail.iter_mut().zip(self.block).for_each(|(byte, key)| *byte ^= key);
            self.left = u8::try_from(BLOCK - tail.len()).unwrap_or_default();
        }
    }
}

impl Aes256Ctr {
    /// The one place where blocks are encrypted, so that the cipher becomes part of it: with calls for each of its steps it
    /// takes a quarter more without AES instructions.
    #[inline(never)]
    fn apply_blocks(&mut self, data: &mut [[u8; BLOCK]]) {
        let counter = self.counter;
        self.counter = counter.wrapping_add(data.len() as u128);
        self.cipher.encrypt_with_backend(Blocks { counter, data });
    }

    /// Leaves `bytes` bytes of the key stream out, at the cost of one block at most.
    pub fn skip(&mut self, bytes: u64) {
        let in_block = bytes.min(self.left.into());
        self.left -= u8::try_from(in_block).unwrap_or_default();
        let rest = bytes - in_block;
        self.counter = self.counter.wrapping_add(u128::from(rest / BLOCK as u64));
        let mut skipped = [0; BLOCK];
        let over = usize::try_from(rest % BLOCK as u64).unwrap_or_default();
        self.apply_keystream(skipped.get_mut(..over).unwrap_or_default());
    }
}

/// Whole blocks and the counter of the first.
struct Blocks<'a> {
    counter: u128,
    data: &'a mut [[u8; BLOCK]],
}

impl BlockSizeUser for Blocks<'_> {
    type BlockSize = U16;
}

impl BlockCipherEncClosure for Blocks<'_> {
    #[inline(always)]
    fn call<B: BlockCipherEncBackend<BlockSize = U16>>(self, backend: &B) {
        let batch = B::ParBlocksSize::USIZE;
        // A whole batch at once costs about as much as a quarter of it block by block.
        let over = self.data.len() % batch;
        let over = if over * 4 > batch { 0 } else { over };
        let (in_batches, one_by_one) = self.data.split_at_mut(self.data.len() - over);
        let mut counter = self.counter;
        if !in_batches.is_empty() {
            let (mut counters, mut keys) = (ParBlocks::<B>::default(), ParBlocks::<B>::default());
            let mut upper = None;
            for data in in_batches.chunks_mut(batch) {
                upper = count(Array::cast_slice_to_core_mut(&mut counters), counter, upper);
                backend.encrypt_par_blocks((&counters, &mut keys).into());
                mix(data, Array::cast_slice_to_core(&keys));
                counter = counter.wrapping_add(data.len() as u128);
            }
        }
        for data in one_by_one {
            let mut key = counter.to_be_bytes().into();
            backend.encrypt_block_inplace(&mut key);
            *data = xor(*data, key.into());
            counter = counter.wrapping_add(1);
        }
    }
}

/// Writes the counters from `first` on. Returns their upper half if all of them have the same; `upper` is what the last call
/// for these counters returned, for what is there already is not written again.
#[inline(always)]
fn count(counters: &mut [[u8; BLOCK]], first: u128, upper: Option<u64>) -> Option<u64> {
    if counters.len() < FEW {
        write_all(counters, first);
        return None;
    }
    let (half, mut lower) = halves(first);
    let same = lower.checked_add(counters.len() as u64).map(|_| half);
    if same.is_none() || same != upper {
        write_all_apart(counters, first);
        return same;
    }
    // By fours, because nothing unrolls this loop.
    let (fours, ones) = counters.as_chunks_mut();
    for [a, b, c, d] in fours {
        set_lower(a, lower);
        set_lower(b, lower + 1);
        set_lower(c, lower + 2);
        set_lower(d, lower + 3);
        lower += 4;
    }
    for one in ones {
        set_lower(one, lower);
        lower += 1;
    }
    same
}

#[inline(always)]
fn write_all(counters: &mut [[u8; BLOCK]], first: u128) {
    for (counter, number) in counters.iter_mut().zip(0..) {
        *counter = first.wrapping_add(number).to_be_bytes();
    }
}

/// The same, once for all kinds of processors.
#[inline(never)]
fn write_all_apart(counters: &mut [[u8; BLOCK]], first: u128) {
    write_all(counters, first);
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "each half is what it is cut down to")]
fn halves(counter: u128) -> (u64, u64) {
    ((counter >> u64::BITS) as u64, counter as u64)
}

#[inline(always)]
fn set_lower(counter: &mut [u8; BLOCK], lower: u64) {
    if let Some(half) = counter.last_chunk_mut() {
        *half = lower.to_be_bytes();
    }
}

/// Changes as many blocks as there are by exclusive or with their keys; by fours, too.
#[inline(always)]
fn mix(data: &mut [[u8; BLOCK]], keys: &[[u8; BLOCK]]) {
    let (fours, ones) = data.as_chunks_mut::<4>();
    let (key_fours, rest) = keys.split_at(fours.as_flattened().len());
    for ([a, b, c, d], [e, f, g, h]) in fours.iter_mut().zip(key_fours.as_chunks().0) {
        (*a, *b, *c, *d) = (xor(*a, *e), xor(*b, *f), xor(*c, *g), xor(*d, *h));
    }
    ones.iter_mut().zip(rest).for_each(|(data, key)| *data = xor(*data, *key));
}

#[inline(always)]
fn xor(a: [u8; BLOCK], b: [u8; BLOCK]) -> [u8; BLOCK] {
    (u128::from_ne_bytes(a) ^ u128::from_ne_bytes(b)).to_ne_bytes()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "tests")]
mod tests {
    use super::*;
    use ctr::Ctr128BE;
    use ctr::cipher::{KeyIvInit as _, StreamCipher as _};

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<_> = text.chars().filter_map(|c| c.to_digit(16)).collect();
        digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
    }

    #[test]
    fn the_vector_of_nist_holds() {
        // SP 800-38A, F.5.5.
        let key = hex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4");
        let iv = hex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff");
        let mut text = hex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51
            30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710");
        Aes256Ctr::new(&key.try_into().unwrap(), &iv.try_into().unwrap()).apply_keystream(&mut text);
        assert_eq!(
            text,
            hex("601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5
            2b0930daa23de94ce87017ba2d84988ddfc9c58db67aada613c2dd08457941a6")
        );
    }

    /// The same pieces of one stream through ours and through the crate's.
    fn assert_agrees(iv: [u8; 16], sizes: &[usize]) {
        let (mut ours, mut oracle) =
            (Aes256Ctr::new(&[7; 32], &iv), Ctr128BE::<Aes256Enc>::new(&[7; 32].into(), &iv.into()));
        for &size in sizes {
            let (mut a, mut b) = (vec![0x55; size], vec![0x55; size]);
            ours.apply_keystream(&mut a);
            oracle.apply_keystream(&mut b);
            assert_eq!(a, b, "{sizes:?}");
        }
    }

    #[test]
    fn a_stream_is_the_same_however_it_is_cut() {
        let mut random = Aes256Ctr::new(&[5; 32], &[0; BLOCK]);
        for size in 0..200 {
            assert_agrees([9; 16], &[size, 3, 16, 200 - size, 0, 1, 2878]);
        }
        for _ in 0..50 {
            let mut cuts = [0; 40];
            random.apply_keystream(&mut cuts);
            let sizes: Vec<_> = cuts.chunks(2).map(|pair| usize::from(pair[0]) * usize::from(pair[1]) / 16).collect();
            assert_agrees([cuts[0]; 16], &sizes);
        }
    }

    #[test]
    fn what_is_left_out_is_as_if_it_had_been_used() {
        for first in [0, 1, 15, 16, 17, 40] {
            for skipped in [0, 1, 2, 14, 15, 16, 17, 31, 33, 1000] {
                let (mut skipping, mut using) =
                    (Aes256Ctr::new(&[7; 32], &[255; 16]), Aes256Ctr::new(&[7; 32], &[255; 16]));
                for stream in [&mut skipping, &mut using] {
                    stream.apply_keystream(&mut vec![0; first]);
                }
                skipping.skip(skipped as u64);
                using.apply_keystream(&mut vec![0; skipped]);
                let (mut a, mut b) = ([0; 50], [0; 50]);
                skipping.apply_keystream(&mut a);
                using.apply_keystream(&mut b);
                assert_eq!(a, b, "{first} {skipped}");
            }
        }
    }

    #[test]
    fn the_counter_runs_over_all_128_bits() {
        for last in 0..=0xff {
            let mut iv = [0xff; 16];
            iv[15] = last;
            assert_agrees(iv, &[5, 4096, 11]);
            iv[0] = 0;
            assert_agrees(iv, &[300, 4096, 11]);
        }
    }
}
