//! What ML-KEM-768 (FIPS 203) puts on the wire, without its mathematics: nobody but the owner of a key can tell a
//! ciphertext or a key from values of the right distribution, and nobody ever opens ours.
//!
//! Plain random bytes would not do: coefficients below 3329 that are packed or compressed have a distribution of their
//! own, which a likelihood test tells from random bytes in a single handshake.

/// The modulus of the coefficients.
const Q: u16 = 3329;
/// Coefficients of a vector of three polynomials.
const VECTOR: usize = 3 * 256;
/// Coefficients of one polynomial.
const POLYNOMIAL: usize = 256;
/// Bytes of randomness taken at once; three of them are two attempts at a coefficient.
const CHUNK: usize = 384;

/// Bytes of an encapsulation key: 768 coefficients of 12 bits, and a seed.
pub(crate) const KEY_LEN: usize = 1184;
/// Bytes of a ciphertext: 768 coefficients of 10 bits, and 256 of 4 bits.
pub(crate) const CIPHERTEXT_LEN: usize = 1088;

/// Appends what looks like an encapsulation key: coefficients of 12 bits, little-endian bit order, then 32 bytes.
pub(crate) fn write_encapsulation_key(out: &mut Vec<u8>, fill: &mut dyn FnMut(&mut [u8])) {
    let coefficients = coefficients(VECTOR, fill);
    pack(out, coefficients, 12);
    let mut seed = [0; 32];
    fill(&mut seed);
    out.extend(seed);
}

/// Appends what looks like a ciphertext: coefficients compressed to 10 bits, then to 4 bits.
pub(crate) fn write_ciphertext(out: &mut Vec<u8>, fill: &mut dyn FnMut(&mut [u8])) {
    let vector = coefficients(VECTOR, fill);
    pack(out, vector.into_iter().map(|x| compress(x, 10)), 10);
    let polynomial = coefficients(POLYNOMIAL, fill);
    pack(out, polynomial.into_iter().map(|x| compress(x, 4)), 4);
}

/// The nearest multiple of q / 2^bits, as FIPS 203 section 4.2.1 has it.
fn compress(x: u16, bits: u32) -> u16 {
    let scaled = ((u32::from(x) << bits) + u32::from(Q) / 2) / u32::from(Q);
    u16::try_from(scaled & ((1 << bits) - 1)).unwrap_or_default()
}

/// Uniform coefficients, by rejection.
fn coefficients(count: usize, fill: &mut dyn FnMut(&mut [u8])) -> Vec<u16> {
    let mut found = Vec::with_capacity(count);
    while found.len() < count {
        let mut chunk = [0; CHUNK];
        fill(&mut chunk);
        let attempts = chunk
            .as_chunks::<3>()
            .0
            .iter()
            .flat_map(|&[a, b, c]| [u16::from_le_bytes([a, b & 0x0f]), u16::from(b >> 4) | u16::from(c) << 4]);
        let missing = count - found.len();
        found.extend(attempts.filter(|&x| x < Q).take(missing));
    }
    found
}

/// Appends the low `bits` of each value, least significant bit first.
fn pack(out: &mut Vec<u8>, values: impl IntoIterator<Item = u16>, bits: u32) {
    let (mut pending, mut pending_bits) = (0u32, 0);
    for value in values {
        pending |= u32::from(value) << pending_bits;
        pending_bits += bits;
        while pending_bits >= 8 {
            let [low, ..] = pending.to_le_bytes();
            out.push(low);
            pending >>= 8;
            pending_bits -= 8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::testing::seeded;

    fn unpack(bytes: &[u8], bits: usize) -> Vec<u16> {
        let bit = |at: usize| u16::from(bytes[at / 8] >> (at % 8) & 1);
        (0..bytes.len() * 8 / bits).map(|n| (0..bits).map(|k| bit(n * bits + k) << k).sum()).collect()
    }

    #[test]
    fn a_key_has_coefficients_below_the_modulus() {
        let (mut key, mut fill) = (Vec::new(), seeded(1));
        write_encapsulation_key(&mut key, &mut fill);
        assert_eq!(key.len(), KEY_LEN);
        let coefficients = unpack(&key[..KEY_LEN - 32], 12);
        assert_eq!(coefficients.len(), VECTOR);
        assert!(coefficients.iter().all(|&x| x < Q));
        let mean = coefficients.iter().map(|&x| u32::from(x)).sum::<u32>() / VECTOR as u32;
        assert!((1550..1780).contains(&mean), "mean {mean}");
    }

    #[test]
    #[cfg_attr(miri, ignore = "6658 divisions, twice")]
    fn compression_is_that_of_fips_203() {
        // The nearest integer to x * 2^bits / q, modulo 2^bits.
        for bits in [4, 10] {
            for x in 0..Q {
                let exact = f64::from(x) * f64::from(1 << bits) / f64::from(Q);
                assert_eq!(u32::from(compress(x, bits)), exact.round() as u32 % (1 << bits), "{x}");
            }
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "statistics of 200 ciphertexts")]
    fn a_ciphertext_has_the_weights_that_compression_gives() {
        // Of 1024 values, 257 have 4 pre-images and the others 3; random bytes would hit the 257 in a quarter of cases.
        let mut preimages = [0u32; 1024];
        (0..Q).for_each(|x| preimages[usize::from(compress(x, 10))] += 1);
        let heavy = preimages.iter().filter(|&&count| count == 4).count();
        assert_eq!((heavy, preimages.iter().sum::<u32>()), (257, u32::from(Q)));
        let (mut fill, mut hits, rounds) = (seeded(2), 0, 200);
        for _ in 0..rounds {
            let mut ciphertext = Vec::new();
            write_ciphertext(&mut ciphertext, &mut fill);
            assert_eq!(ciphertext.len(), CIPHERTEXT_LEN);
            hits += unpack(&ciphertext[..960], 10).iter().filter(|&&x| preimages[usize::from(x)] == 4).count();
        }
        let share = hits as f64 / (rounds * VECTOR) as f64;
        assert!((share - 257.0 * 4.0 / f64::from(Q)).abs() < 0.005, "{share}");
    }
}
