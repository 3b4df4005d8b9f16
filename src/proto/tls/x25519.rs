//! Public keys for the key_share of a ServerHello that nobody will ever agree on a secret with.
//!
//! A random string will not do: half of all 32-byte strings are no point of Curve25519 and most points are
//! outside of the subgroup of the base point, so one look would tell. Here a random x-coordinate of the curve
//! is multiplied by the cofactor 8, which gives a uniformly distributed point of that subgroup, as a client's or a
//! server's own key is, for a fraction of the work of a scalar multiplication. There is no secret to protect,
//! hence no constant time.
#![expect(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "loops over arrays of fixed size, and limbs that are meant to be cut"
)]

use std::mem;

/// The machine's word, and what holds a product of two. Half-size words would cost a 64-bit machine four times as much.
#[cfg(target_pointer_width = "64")]
type Limb = u64;
#[cfg(target_pointer_width = "64")]
type Wide = u128;
#[cfg(not(target_pointer_width = "64"))]
type Limb = u32;
#[cfg(not(target_pointer_width = "64"))]
type Wide = u64;

/// Limbs of a field element.
const LIMBS: usize = 256 / Limb::BITS as usize;
/// An integer below 2^256 that stands for its residue modulo p = 2^255 - 19; little-endian limbs.
type Field = [Limb; LIMBS];

/// 2^256 modulo p.
const FOLD: Limb = 38;
const ONE: Field = small(1);
/// (A - 2) / 4 of the curve y^2 = x^3 + Ax^2 + x (RFC 7748 section 4.1).
const A24: Field = small(121_665);

const P: Field = {
    let mut p = [Limb::MAX; LIMBS];
    p[0] = Limb::MAX - 18;
    p[LIMBS - 1] >>= 1;
    p
};
/// 1 / 19 modulo 2^64, and so modulo each smaller word.
const ONE_19TH: Limb = 0x86bc_a1af_286b_ca1b_u64 as Limb;

const fn small(value: Limb) -> Field {
    let mut field = [0; LIMBS];
    field[0] = value;
    field
}

/// Makes a public key, 32 bytes little-endian (RFC 7748 section 5), from the randomness of `fill`.
pub(crate) fn random_public_key(fill: &mut dyn FnMut(&mut [u8])) -> [u8; 32] {
    loop {
        let mut bytes = [0; 32];
        fill(&mut bytes);
        if let Some(key) = public_key_from(bytes) {
            return key;
        }
    }
}

/// Multiplies the point of the given x-coordinate by 8; `None` if there is no such point or the product is zero.
fn public_key_from(x: [u8; 32]) -> Option<[u8; 32]> {
    let mut limbs = [0; LIMBS];
    for (limb, bytes) in limbs.iter_mut().zip(x.as_chunks().0) {
        *limb = Limb::from_le_bytes(*bytes);
    }
    limbs[LIMBS - 1] &= Limb::MAX >> 1;
    let (mut x, mut z) = (limbs, ONE);
    for _ in 0..3 {
        (x, z) = double(&x, &z);
    }
    // Doubling makes z four times what y^2 would be, times a fourth power, and a multiple of a point that is not on the
    // curve is not on it either: so z is a square if and only if x is of the curve, and zero if the product is.
    let key = to_bytes(mul(&x, &invert_square(&z)?));
    (key != [0; 32]).then_some(key)
}

/// Doubles a point in projective coordinates (RFC 7748 section 5, the doubling part of the ladder).
fn double(x: &Field, z: &Field) -> (Field, Field) {
    let (sum, difference) = (add(x, z), sub(x, z));
    let (aa, bb) = (mul(&sum, &sum), mul(&difference, &difference));
    let e = sub(&aa, &bb);
    (mul(&aa, &bb), mul(&e, &add(&aa, &mul(&A24, &e))))
}

/// 1 / z; `None` if z is no square, or zero. This is the binary algorithm of Euclid in Kaliski's form ("The Montgomery
/// inverse and its applications", 1995): r * z = u * 2^doublings and s * z = -v * 2^doublings, or both with the other
/// sign, where v is odd and r and s stay below 2p. On the way it tells the Jacobi symbol.
fn invert_square(z: &Field) -> Option<Field> {
    let (mut u, mut r) = (reduced(*z), ONE);
    let (mut v, mut s) = (P, [0; LIMBS]);
    let (mut doublings, mut is_square, mut is_negative) = (0, true, true);
    // Only one that ends in a limb of zeros can be zero.
    while u[0] != 0 || u != [0; LIMBS] {
        let zeros = u[0].trailing_zeros().min(Limb::BITS - 1);
        if zeros > 0 {
            shift(&mut u, 0, zeros);
            shift_left(&mut s, zeros);
            doublings += zeros;
            is_square ^= zeros % 2 == 1 && matches!(v[0] % 8, 3 | 5);
        }
        // There may have been more of them.
        if u[0] % 2 == 0 {
            continue;
        }
        let mut difference = u;
        if subtract(&mut difference, &v) {
            difference = v;
            subtract(&mut difference, &u);
            is_square ^= u[0] % 4 == 3 && v[0] % 4 == 3;
            v = u;
            mem::swap(&mut r, &mut s);
            is_negative = !is_negative;
        }
        u = difference;
        r = add(&r, &s);
    }
    if !is_square || v != ONE {
        return None;
    }
    while doublings > 0 {
        let times = doublings.min(Limb::BITS - 1);
        halve(&mut s, times);
        doublings -= times;
    }
    Some(if is_negative { sub(&[0; LIMBS], &s) } else { s })
}

/// Divides modulo p by 2^times, where `times` is less than a limb has bits and not zero.
fn halve(value: &mut Field, times: u32) {
    // So many times p are added that the lowest bits are zero.
    let factor = value[0].wrapping_mul(ONE_19TH) & ((1 << times) - 1);
    let mut carry = 0;
    for i in 0..LIMBS {
        (value[i], carry) = split(Wide::from(value[i]) + Wide::from(factor) * Wide::from(P[i]) + Wide::from(carry));
    }
    shift(value, carry, times);
}

/// Shifts the value, and the limb above it, to the right by `times` bits, as many as for `halve`.
fn shift(value: &mut Field, mut above: Limb, times: u32) {
    for i in (0..LIMBS).rev() {
        (above, value[i]) = (value[i], value[i] >> times | above << (Limb::BITS - times));
    }
}

fn shift_left(value: &mut Field, times: u32) {
    let mut below = 0;
    for limb in value {
        (below, *limb) = (*limb, *limb << times | below >> (Limb::BITS - times));
    }
}

fn mul(a: &Field, b: &Field) -> Field {
    let mut wide = [0; 2 * LIMBS];
    for i in 0..LIMBS {
        let mut carry = 0;
        for j in 0..LIMBS {
            let sum = Wide::from(a[i]) * Wide::from(b[j]) + Wide::from(wide[i + j]) + Wide::from(carry);
            (wide[i + j], carry) = split(sum);
        }
        wide[i + LIMBS] = carry;
    }
    let mut product = [0; LIMBS];
    let mut carry = 0;
    for i in 0..LIMBS {
        let sum = Wide::from(wide[i]) + Wide::from(FOLD) * Wide::from(wide[i + LIMBS]) + Wide::from(carry);
        (product[i], carry) = split(sum);
    }
    fold(product, carry)
}

fn add(a: &Field, b: &Field) -> Field {
    let mut sum = [0; LIMBS];
    let mut carry = 0;
    for i in 0..LIMBS {
        (sum[i], carry) = split(Wide::from(a[i]) + Wide::from(b[i]) + Wide::from(carry));
    }
    fold(sum, carry)
}

/// Adds `over` times 2^256; `over` is at most 38.
fn fold(mut value: Field, over: Limb) -> Field {
    let mut carry = over * FOLD;
    while carry > 0 {
        for limb in &mut value {
            (*limb, carry) = split(Wide::from(*limb) + Wide::from(carry));
        }
        carry *= FOLD;
    }
    value
}

/// The low and the high half.
fn split(wide: Wide) -> (Limb, Limb) {
    (wide as Limb, (wide >> Limb::BITS) as Limb)
}

fn sub(a: &Field, b: &Field) -> Field {
    let mut difference = *a;
    let mut borrow = subtract(&mut difference, b);
    while borrow {
        borrow = subtract(&mut difference, &small(FOLD));
    }
    difference
}

/// Subtracts modulo 2^256 and says whether it had to borrow.
fn subtract(a: &mut Field, b: &Field) -> bool {
    let mut borrow = 0;
    for i in 0..LIMBS {
        let difference = Wide::from(a[i]).wrapping_sub(Wide::from(b[i]) + Wide::from(borrow));
        (a[i], borrow) = (difference as Limb, (difference >> Limb::BITS) as Limb & 1);
    }
    borrow > 0
}

/// The residue below p.
fn reduced(mut value: Field) -> Field {
    // 2^256 - 1 is 2p + 37, so this ends after two rounds at most.
    loop {
        let mut less = value;
        if subtract(&mut less, &P) {
            return value;
        }
        value = less;
    }
}

/// The residue below p, little-endian.
fn to_bytes(value: Field) -> [u8; 32] {
    let mut bytes = [0; 32];
    for (place, limb) in bytes.as_chunks_mut().0.iter_mut().zip(reduced(value)) {
        *place = limb.to_le_bytes();
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::testing::{rounds, seeded};
    use curve25519_dalek::montgomery::MontgomeryPoint;
    use curve25519_dalek::scalar::Scalar;

    #[test]
    fn every_key_is_a_point_of_the_base_points_subgroup() {
        let mut fill = seeded(1);
        for _ in 0..rounds(200) {
            let key = random_public_key(&mut fill);
            let point = MontgomeryPoint(key).to_edwards(0).expect("on the curve, not on its twist");
            assert!(point.is_torsion_free());
            assert_eq!(point.to_montgomery().to_bytes(), key, "the encoding is canonical");
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "statistics of 100 points, and the oracle is slow")]
    fn multiplying_by_eight_agrees_with_the_oracle() {
        let (mut fill, mut points) = (seeded(2), 0);
        for _ in 0..100 {
            let mut x = [0; 32];
            fill(&mut x);
            x[31] &= 0x7f;
            let on_curve = MontgomeryPoint(x).to_edwards(0).is_some();
            let ours = public_key_from(x);
            assert_eq!(ours.is_some(), on_curve);
            if let Some(ours) = ours {
                assert_eq!(ours, (MontgomeryPoint(x) * Scalar::from(8u8)).to_bytes());
                points += 1;
            }
        }
        assert!((30..70).contains(&points), "{points} of 100 strings were points");
    }

    #[test]
    fn points_of_small_order_are_not_used() {
        for x in [0u8, 1] {
            let mut bytes = [0; 32];
            bytes[0] = x;
            assert_eq!(public_key_from(bytes), None);
        }
    }

    #[test]
    fn arithmetic_holds_at_the_edges() {
        let p_minus_1 = sub(&[0; LIMBS], &ONE);
        assert_eq!(to_bytes(mul(&p_minus_1, &p_minus_1)), to_bytes(ONE));
        assert_eq!(to_bytes(add(&p_minus_1, &ONE)), [0; 32]);
        let largest = [!0; LIMBS];
        assert_eq!(to_bytes(add(&largest, &[0; LIMBS])), to_bytes(small(37)));
        assert_eq!(to_bytes(mul(&largest, &largest)), to_bytes(small(37 * 37)));
    }

    #[test]
    fn squares_are_inverted_and_nothing_else_is() {
        let (two, p_minus_1) = (small(2), sub(&[0; LIMBS], &ONE));
        let mut low_zeros = [0; LIMBS];
        low_zeros[LIMBS - 1] = 1 << 20;
        let mut roots = vec![ONE, p_minus_1, low_zeros, [!0; LIMBS], small(7)];
        let mut fill = seeded(3);
        roots.extend((0..rounds(200)).map(|_| {
            let mut bytes = [0; 32];
            fill(&mut bytes);
            let mut limbs = [0; LIMBS];
            for (limb, bytes) in limbs.iter_mut().zip(bytes.as_chunks().0) {
                *limb = Limb::from_le_bytes(*bytes);
            }
            limbs
        }));
        for root in roots {
            let square = mul(&root, &root);
            let inverse = invert_square(&square).expect("a square");
            assert_eq!(to_bytes(mul(&square, &inverse)), to_bytes(ONE), "{square:x?}");
            // 2 is no square, since p is 5 modulo 8.
            assert_eq!(invert_square(&mul(&two, &square)), None, "{square:x?}");
        }
        // -1 is one, and stands here for what is not reduced, as p does for zero.
        assert_eq!(invert_square(&p_minus_1).map(to_bytes), Some(to_bytes(p_minus_1)));
        assert_eq!(invert_square(&[0; LIMBS]), None);
        assert_eq!(invert_square(&P), None);
    }
}
