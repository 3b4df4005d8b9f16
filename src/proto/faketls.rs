//! FakeTLS: a ClientHello whose random is a digest under the secret, and a reply that proves the same.
//!
//! The client takes HMAC-SHA256 by the secret's key over its ClientHello with a random of zeros, XORs the last 4
//! bytes of it with its clock (Unix seconds, little-endian) and uses that as the random. The server's random is the
//! HMAC over the client's random and the whole reply with a random of zeros. Source: TDLib `td/mtproto/TlsInit.cpp`.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::reason::Reason;
use super::secret::Secret;
use super::tls::client_hello::{ClientHello, RANDOM_AT};
use super::tls::{RECORD_HEADER, RecordHeader, TLS_1_0, content_type, server_hello};

/// Bytes of the random that are the digest alone; the others carry the time.
const DIGEST_LEN: usize = 28;

/// What a hello is known by.
pub(crate) type Digest = [u8; DIGEST_LEN];

/// A ClientHello of somebody who knows the secret, or a copy of one. Only [`verify`] makes one.
#[derive(Clone, Debug)]
pub(crate) struct Verified<'a> {
    pub(crate) hello: ClientHello<'a>,
    /// All that is authentic of the random.
    pub(crate) digest: &'a Digest,
    /// How far the client's clock is ahead of ours, seconds. Nothing vouches for it: whoever has recorded a hello can
    /// put any time into its copy.
    pub(crate) skew_secs: i64,
}

/// Checks digest and server name, in this order.
///
/// `record_version` is the version of the hello's first record, `now` Unix time in seconds.
///
/// # Errors
/// [`Reason::WrongDigest`] and [`Reason::WrongSni`].
pub(crate) fn verify<'a>(
    hello: ClientHello<'a>,
    record_version: [u8; 2],
    secret: &Secret,
    now: i64,
) -> Result<Verified<'a>, Reason> {
    // A client signs its hello as one record of version 03 01. Tools on its way may cut that into records of
    // another version, and a client may have written that other version itself.
    let time = signed_time(&hello, TLS_1_0, secret)
        .or_else(|| (record_version != TLS_1_0).then(|| signed_time(&hello, record_version, secret))?)
        .ok_or(Reason::WrongDigest)?;
    if !hello.server_name.is_some_and(|name| name.eq_ignore_ascii_case(secret.host().as_bytes())) {
        return Err(Reason::WrongSni);
    }
    // The wire has 32 bits; the distance is taken modulo 2^32, so that no year is the last one.
    let skew = time.wrapping_sub(u32::try_from(now & 0xffff_ffff).unwrap_or_default());
    let skew_secs = i64::from(i32::from_ne_bytes(skew.to_ne_bytes()));
    let digest = hello.random.first_chunk().ok_or(Reason::WrongDigest)?;
    Ok(Verified { hello, digest, skew_secs })
}

impl Verified<'_> {
    /// Checks the client's clock, which may be off by `tolerance` seconds.
    ///
    /// # Errors
    /// [`Reason::ClockSkew`].
    pub(crate) fn check_clock(&self, tolerance: i64) -> Result<(), Reason> {
        if self.skew_secs.abs() > tolerance { Err(Reason::ClockSkew(self.skew_secs)) } else { Ok(()) }
    }
}

/// The time in the client's random, if the rest of that is the right digest.
fn signed_time(hello: &ClientHello<'_>, version: [u8; 2], secret: &Secret) -> Option<u32> {
    let message = hello.message;
    let length = u16::try_from(message.len()).ok()?;
    let mut mac = keyed(secret)?;
    mac.update(&RecordHeader { content_type: content_type::HANDSHAKE, version, length }.encode());
    mac.update(message.get(..RANDOM_AT)?);
    mac.update(&[0; 32]);
    mac.update(message.get(RANDOM_AT + 32..)?);
    let (digest, masked) = hello.random.split_first_chunk::<DIGEST_LEN>()?;
    mac.clone().verify_truncated_left(digest).ok()?;
    let mask = mac.finalize().into_bytes();
    let mask = mask.last_chunk::<4>()?;
    Some(u32::from_le_bytes(*masked.first_chunk()?) ^ u32::from_le_bytes(*mask))
}

/// Puts the server random into a reply that was written with zeros there.
pub(crate) fn sign_reply(reply: &mut [u8], client_random: &[u8; 32], secret: &Secret) {
    let Some(mut mac) = keyed(secret) else { return };
    mac.update(client_random);
    mac.update(reply);
    if let Some(random) = reply.get_mut(server_hello::RANDOM_AT..).and_then(|rest| rest.first_chunk_mut::<32>()) {
        *random = mac.finalize().into_bytes().into();
    }
}

/// Signs a hello that is one record, as a client does, and returns its random; none if it is too short to be one.
/// `now` is Unix time in seconds.
pub(crate) fn sign_hello(hello: &mut [u8], now: i64, secret: &Secret) -> Option<[u8; 32]> {
    let place = hello.get_mut(RECORD_HEADER + RANDOM_AT..)?.first_chunk_mut::<32>()?;
    *place = [0; 32];
    let mut mac = keyed(secret)?;
    mac.update(hello);
    let mut random: [u8; 32] = mac.finalize().into_bytes().into();
    let time = u32::try_from(now & 0xffff_ffff).unwrap_or_default();
    let masked = random.last_chunk_mut()?;
    *masked = (u32::from_le_bytes(*masked) ^ time).to_le_bytes();
    *hello.get_mut(RECORD_HEADER + RANDOM_AT..)?.first_chunk_mut::<32>()? = random;
    Some(random)
}

/// Says whether a reply to the hello with that random was made with the secret. The reply's random is erased.
pub(crate) fn is_signed_reply(reply: &mut [u8], client_random: &[u8; 32], secret: &Secret) -> bool {
    let Some(place) = reply.get_mut(server_hello::RANDOM_AT..).and_then(|rest| rest.first_chunk_mut::<32>()) else {
        return false;
    };
    let random = std::mem::take(place);
    let Some(mut mac) = keyed(secret) else { return false };
    mac.update(client_random);
    mac.update(reply);
    mac.verify_slice(&random).is_ok()
}

/// HMAC-SHA256 takes keys of any length, so there always is one.
fn keyed(secret: &Secret) -> Option<Hmac<Sha256>> {
    Hmac::<Sha256>::new_from_slice(secret.key()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::testing::{VECTOR_HELLO, VECTOR_SECRET, VECTOR_TIME, hex, recorded_hellos};

    const TOLERANCE: i64 = 120;

    fn verify_record<'a>(record: &'a [u8], secret: &Secret, now: i64) -> Result<Verified<'a>, Reason> {
        let hello = ClientHello::parse(&record[5..]).map_err(|_| Reason::NotClientHello)?;
        verify(hello, [record[1], record[2]], secret, now)
    }

    #[test]
    fn recorded_hellos_are_accepted_with_their_key_and_time() {
        for recorded in recorded_hellos() {
            let secret = recorded.secret();
            let time = recorded.client_time;
            let verified = verify_record(&recorded.record, &secret, time).unwrap();
            assert_eq!((verified.skew_secs, &verified.digest[..]), (0, &recorded.record[11..39]));
            let check =
                |skew: i64| verify_record(&recorded.record, &secret, time - skew).unwrap().check_clock(TOLERANCE);
            for skew in [-TOLERANCE, TOLERANCE] {
                assert_eq!(check(skew), Ok(()));
                let beyond = skew + skew.signum();
                assert_eq!(check(beyond), Err(Reason::ClockSkew(beyond)));
            }
        }
    }

    #[test]
    fn any_changed_byte_of_a_hello_spoils_it() {
        let secret: Secret = VECTOR_SECRET.parse().unwrap();
        let record = hex(VECTOR_HELLO);
        assert!(verify_record(&record, &secret, VECTOR_TIME).is_ok());
        let time = 39..43;
        for at in (5..record.len()).filter(|at| !time.contains(at)) {
            let mut changed = record.clone();
            changed[at] ^= 0x01;
            assert!(verify_record(&changed, &secret, VECTOR_TIME).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_restamped_copy_is_known_by_the_digest_it_was_made_with() {
        let secret: Secret = VECTOR_SECRET.parse().unwrap();
        let record = hex(VECTOR_HELLO);
        let mut copy = record.clone();
        let year_later = VECTOR_TIME + 365 * 86_400;
        let change = u32::try_from(VECTOR_TIME ^ year_later).unwrap().to_le_bytes();
        copy[39..43].iter_mut().zip(change).for_each(|(byte, change)| *byte ^= change);
        let copy = verify_record(&copy, &secret, year_later).unwrap();
        assert_eq!((copy.check_clock(0), copy.digest), (Ok(()), record[11..39].first_chunk().unwrap()));
    }

    #[test]
    fn another_key_is_refused_before_another_name() {
        let record = hex(VECTOR_HELLO);
        let key: [u8; 16] = hex("000102030405060708090a0b0c0d0e0f").try_into().unwrap();
        let other_name = Secret::new(key, "other.example").unwrap();
        assert_eq!(verify_record(&record, &other_name, VECTOR_TIME).unwrap_err(), Reason::WrongSni);
        let other_key = Secret::new([1; 16], "other.example").unwrap();
        assert_eq!(verify_record(&record, &other_key, VECTOR_TIME).unwrap_err(), Reason::WrongDigest);
        let capitals = Secret::new(key, "FRONT.Example").unwrap();
        assert!(verify_record(&record, &capitals, VECTOR_TIME).is_ok());
    }

    #[test]
    fn the_clock_may_pass_the_32_bit_limit() {
        let secret: Secret = VECTOR_SECRET.parse().unwrap();
        let record = hex(VECTOR_HELLO);
        let next_era = VECTOR_TIME + (1 << 32);
        assert_eq!(verify_record(&record, &secret, next_era + 3).unwrap().skew_secs, -3);
    }

    #[test]
    fn a_hello_in_records_of_another_version_is_still_the_clients() {
        let secret: Secret = VECTOR_SECRET.parse().unwrap();
        let record = hex(VECTOR_HELLO);
        assert!(verify(ClientHello::parse(&record[5..]).unwrap(), [3, 3], &secret, VECTOR_TIME).is_ok());
    }

    #[test]
    fn a_hello_that_we_sign_is_a_clients_and_the_reply_to_it_is_known() {
        let (secret, other): (Secret, _) = (VECTOR_SECRET.parse().unwrap(), Secret::new([1; 16], "a").unwrap());
        let mut hello = hex(VECTOR_HELLO);
        let random = sign_hello(&mut hello, VECTOR_TIME + 7, &secret).unwrap();
        assert_eq!(verify_record(&hello, &secret, VECTOR_TIME).unwrap().skew_secs, 7);
        let mut reply = [0; 100];
        sign_reply(&mut reply, &random, &secret);
        assert!(is_signed_reply(&mut reply.clone(), &random, &secret));
        assert!(!is_signed_reply(&mut reply.clone(), &random, &other));
        assert!(!is_signed_reply(&mut reply[..20], &random, &secret));
        assert_eq!(sign_hello(&mut hello[..40], 0, &secret), None);
    }

    #[test]
    fn the_reply_carries_the_vectors_random() {
        let secret: Secret = VECTOR_SECRET.parse().unwrap();
        let hello = hex(VECTOR_HELLO);
        let mut reply = hex("160303007a0200007603030000000000000000000000000000000000000000000000000000000000000000
            20404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f130100002e002b0002030400330024001d0020
            808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f
            1403030001011703030010c0c1c2c3c4c5c6c7c8c9cacbcccdcecf");
        sign_reply(&mut reply, hello[11..43].try_into().unwrap(), &secret);
        assert_eq!(reply[11..43], hex("6f79deae078beb61e612a40c0537d02f724afd8851f4ba281fe1c74130f8a582"));
    }
}
