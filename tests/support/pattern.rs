//! Endless bytes that a seed determines, so that a receiver knows each byte to expect and names the first wrong one.

/// Too much for the length of a packet of Telegram's, so that the proxy does not wait for the rest of one.
const NO_LENGTH: [u8; 4] = [0x00, 0x00, 0x00, 0x02];

/// A position in such a sequence.
#[derive(Clone)]
pub struct Pattern {
    seed: u64,
    at: u64,
}

impl Pattern {
    /// The start of the sequence of `seed`.
    pub fn new(seed: u64) -> Self {
        Self { seed: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15), at: 0 }
    }

    /// The next `len` bytes.
    pub fn take(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.fill(&mut bytes);
        bytes
    }

    /// Fails unless `bytes` are the next ones.
    pub fn expect(&mut self, bytes: &[u8]) {
        let start = self.at;
        let wanted = self.take(bytes.len());
        if wanted != bytes {
            let offset = wanted.iter().zip(bytes).take_while(|(a, b)| a == b).count();
            panic!("byte {} of the stream is wrong", start + offset as u64);
        }
    }

    /// How many bytes have been taken or expected.
    pub fn position(&self) -> u64 {
        self.at
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        let lead = (self.at % 8) as usize;
        let mut word = self.word(self.at / 8);
        let (head, tail) = bytes.split_at_mut(bytes.len().min(8 - lead));
        head.copy_from_slice(&word[lead..lead + head.len()]);
        let mut number = self.at / 8;
        for chunk in tail.chunks_mut(8) {
            number += 1;
            word = self.word(number);
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
        self.at += bytes.len() as u64;
    }

    /// SplitMix64, which needs no state between words.
    fn word(&self, number: u64) -> [u8; 8] {
        let mut z = self.seed.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let mut word = (z ^ (z >> 31)).to_le_bytes();
        if number == 0 {
            word[..4].copy_from_slice(&NO_LENGTH);
        }
        word
    }
}
