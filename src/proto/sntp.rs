//! SNTP (RFC 4330), the client's half: one question, one answer.
//!
//! ```text
//! offset 0      1        2    3         4..24              24         32        40
//!        +------+--------+----+---------+------------------+----------+---------+----------+
//!        | mode | stratum|poll|precision| root, reference  | originate| receive | transmit |
//!        +------+--------+----+---------+------------------+----------+---------+----------+
//! ```
//! A time is 64 bits, big-endian: seconds since 1900 and their fraction. The server sends our transmit time back as
//! originate, whatever it says, so that it can be a random number, and an answer that lacks it is a forgery.

/// Bytes of a message.
pub(crate) const MESSAGE_LEN: usize = 48;

/// From 1900 to 1970, seconds.
const EPOCH: i64 = 2_208_988_800;

/// What a server says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// When it got the question, Unix time in milliseconds.
    pub(crate) received: i64,
    /// When it sent the answer.
    pub(crate) sent: i64,
}

/// The question. `nonce` must be hard to guess.
pub(crate) fn question(nonce: [u8; 8]) -> [u8; MESSAGE_LEN] {
    let mut message = [0; MESSAGE_LEN];
    let [mode, rest @ ..] = &mut message;
    // No leap second warning, version 4, client.
    *mode = 0x23;
    if let Some(transmit) = rest.last_chunk_mut() {
        *transmit = nonce;
    }
    message
}

/// Reads an answer; none if it is not one to this question, or the server does not know the time.
pub(crate) fn answer(message: &[u8], nonce: [u8; 8]) -> Option<Answer> {
    let (&[mode, stratum], rest) = message.split_first_chunk::<2>()?;
    let (originate, rest) = rest.get(22..)?.split_first_chunk::<8>()?;
    let (received, rest) = rest.split_first_chunk::<8>()?;
    let (sent, _) = rest.split_first_chunk::<8>()?;
    let is_from_server = mode & 0x07 == 4;
    let is_synchronised = mode >> 6 != 3 && (1..16).contains(&stratum);
    let is_good = is_from_server && is_synchronised && *originate == nonce && *sent != [0; 8];
    is_good.then_some(Answer { received: unix_millis(*received), sent: unix_millis(*sent) })
}

/// How far the server's clock is ahead of ours, milliseconds. `asked` and `answered` are ours.
pub(crate) fn offset(answer: Answer, asked: i64, answered: i64) -> i64 {
    ((answer.received - asked) + (answer.sent - answered)) / 2
}

fn unix_millis(time: [u8; 8]) -> i64 {
    let [s0, s1, s2, s3, f0, f1, f2, f3] = time;
    let seconds = i64::from(u32::from_be_bytes([s0, s1, s2, s3]));
    let fraction = i64::from(u32::from_be_bytes([f0, f1, f2, f3]));
    // The count starts anew in 2036; times before 1968 are of the next era.
    let era = if seconds < 1 << 31 { 1 << 32 } else { 0 };
    (seconds + era - EPOCH) * 1000 + ((fraction * 1000) >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCE: [u8; 8] = [1, 2, 3, 4, 5, 6, 7, 8];

    fn reply(mode: u8, stratum: u8, seconds: u32) -> Vec<u8> {
        let mut message = vec![0; MESSAGE_LEN];
        message[0] = mode;
        message[1] = stratum;
        message[24..32].copy_from_slice(&NONCE);
        message[32..36].copy_from_slice(&seconds.to_be_bytes());
        message[40..44].copy_from_slice(&seconds.to_be_bytes());
        message[44] = 0x80;
        message
    }

    #[test]
    fn an_answer_tells_the_time() {
        assert_eq!(question(NONCE)[0], 0x23);
        assert_eq!(question(NONCE)[40..], NONCE);
        let read = answer(&reply(0x24, 2, 3_908_988_800), NONCE).unwrap();
        assert_eq!(read, Answer { received: 1_700_000_000_000, sent: 1_700_000_000_500 });
        assert_eq!(offset(read, 1_699_999_990_000, 1_699_999_990_200), 10_150);
        // 2036-02-07 06:28:16 UTC
        assert_eq!(answer(&reply(0x24, 2, 0), NONCE).unwrap().received, 2_085_978_496_000);
    }

    #[test]
    fn what_is_no_answer_is_none() {
        assert_eq!(answer(&reply(0x24, 2, 1), [0; 8]), None, "another question");
        assert_eq!(answer(&reply(0x23, 2, 1), NONCE), None, "not a server");
        assert_eq!(answer(&reply(0xe4, 2, 1), NONCE), None, "not synchronised");
        assert_eq!(answer(&reply(0x24, 0, 1), NONCE), None, "kiss of death");
        for length in 0..MESSAGE_LEN {
            assert_eq!(answer(&reply(0x24, 2, 1)[..length], NONCE), None, "{length}");
        }
    }
}
