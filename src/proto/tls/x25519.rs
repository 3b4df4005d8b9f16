//! Public keys for the key_share of a ServerHello that nobody will ever agree on a secret with.
//!
//! A random string will not do: half of all 32-byte strings are no point of Curve25519 and most points are
//! outside of the subgroup of the base point, so one look would tell. Here a random x-coordinate of the curve
//! is multiplied by the cofactor 8, which gives a uniformly distributed point of that subgroup, as a client's or a
//! server's own key is, for a third of the work of a scalar multiplication. There is no secret to protect,
//! hence no constant time.
#![expect(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "loops over arrays of fixed size, and limbs that are meant to be cut"
)]

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
/// The coefficient A of the curve y^2 = x^3 + Ax^2 + x (RFC 7748 section 4.1).
const A: Field = small(486_662);
/// (A - 2) / 4.
const A24: Field = small(121_665);

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
    if !is_on_curve(&limbs) {
        return None;
    }
    let (mut x, mut z) = (limbs, ONE);
    for _ in 0..3 {
        (x, z) = double(&x, &z);
    }
    let key = to_bytes(mul(&x, &invert(&z)));
    (key != [0; 32]).then_some(key)
}

/// Says whether x^3 + Ax^2 + x is a square and not zero, by Euler's criterion.
fn is_on_curve(x: &Field) -> bool {
    let y_squared = mul(x, &add(&mul(x, &add(x, &A)), &ONE));
    let square = mul(&y_squared, &y_squared);
    let (power, _) = power_2_250_minus_1(&y_squared);
    // (p - 1) / 2 = 2^254 - 10 = (2^250 - 1) * 2^4 + 6
    let euler = mul(&square_times(power, 4), &mul(&square, &mul(&square, &square)));
    to_bytes(euler) == to_bytes(ONE)
}

/// Doubles a point in projective coordinates (RFC 7748 section 5, the doubling part of the ladder).
fn double(x: &Field, z: &Field) -> (Field, Field) {
    let (sum, difference) = (add(x, z), sub(x, z));
    let (aa, bb) = (mul(&sum, &sum), mul(&difference, &difference));
    let e = sub(&aa, &bb);
    (mul(&aa, &bb), mul(&e, &add(&aa, &mul(&A24, &e))))
}

/// 1 / z as z^(p - 2); 0 for 0.
fn invert(z: &Field) -> Field {
    let (power, z11) = power_2_250_minus_1(z);
    // p - 2 = 2^255 - 21 = (2^250 - 1) * 2^5 + 11
    mul(&square_times(power, 5), &z11)
}

/// z^(2^250 - 1) and z^11.
fn power_2_250_minus_1(z: &Field) -> (Field, Field) {
    let z2 = mul(z, z);
    let z9 = mul(z, &square_times(z2, 2));
    let z11 = mul(&z9, &z2);
    // Below, ones_n is z^(2^n - 1).
    let ones_5 = mul(&z9, &mul(&z11, &z11));
    let ones_10 = mul(&square_times(ones_5, 5), &ones_5);
    let ones_20 = mul(&square_times(ones_10, 10), &ones_10);
    let ones_40 = mul(&square_times(ones_20, 20), &ones_20);
    let ones_50 = mul(&square_times(ones_40, 10), &ones_10);
    let ones_100 = mul(&square_times(ones_50, 50), &ones_50);
    let ones_200 = mul(&square_times(ones_100, 100), &ones_100);
    (mul(&square_times(ones_200, 50), &ones_50), z11)
}

fn square_times(mut z: Field, times: u32) -> Field {
    for _ in 0..times {
        z = mul(&z, &z);
    }
    z
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
    let mut borrow = false;
    for (limb, &subtrahend) in a.iter_mut().zip(b) {
        let (difference, first) = limb.overflowing_sub(subtrahend);
        let (difference, second) = difference.overflowing_sub(Limb::from(borrow));
        *limb = difference;
        borrow = first || second;
    }
    borrow
}

/// The residue below p, little-endian.
fn to_bytes(mut value: Field) -> [u8; 32] {
    const P: Field = {
        let mut p = [Limb::MAX; LIMBS];
        p[0] = Limb::MAX - 18;
        p[LIMBS - 1] >>= 1;
        p
    };
    // 2^256 - 1 is 2p + 37, so this ends after two rounds at most.
    loop {
        let mut reduced = value;
        if subtract(&mut reduced, &P) {
            break;
        }
        value = reduced;
    }
    let mut bytes = [0; 32];
    for (place, limb) in bytes.as_chunks_mut().0.iter_mut().zip(value) {
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
        assert_eq!(to_bytes(mul(&largest, &invert(&largest))), to_bytes(ONE));
    }
}
