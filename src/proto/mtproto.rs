//! The first exchange of MTProto, which anybody may begin: `req_pq_multi` and `resPQ`. Only to tell whether somebody
//! is a data centre; the proxy itself never looks into MTProto.
//!
//! ```text
//! length[4] | auth_key_id[8] = 0 | message_id[8] | length[4] | constructor[4] | nonce[16] | ...
//! ```
//! All little-endian; the first length belongs to the intermediate transport. The upper half of a message id is Unix
//! time. Source: core.telegram.org/mtproto/auth_key.

/// Bytes of a transport packet's length.
pub(crate) const LENGTH_LEN: usize = 4;
/// The longest answer that is read; a `resPQ` has about 100 bytes.
pub(crate) const ANSWER_MAX: usize = 1024;

const REQ_PQ_MULTI: u32 = 0xbe7e_8ef1;
const RES_PQ: u32 = 0x0516_2463;

/// The question as a packet of the intermediate transport; `now` is Unix time in seconds.
pub(crate) fn req_pq(nonce: &[u8; 16], now: i64) -> Vec<u8> {
    let mut message = vec![0; 8];
    message.extend((now << 32).to_le_bytes());
    message.extend(20u32.to_le_bytes());
    message.extend(REQ_PQ_MULTI.to_le_bytes());
    message.extend(nonce);
    let length = u32::try_from(message.len()).unwrap_or_default();
    [length.to_le_bytes().as_slice(), &message].concat()
}

/// Reads a packet behind its length: the data centre's clock, Unix time in seconds, if this is its `resPQ` to `nonce`.
pub(crate) fn res_pq(packet: &[u8], nonce: &[u8; 16]) -> Option<i64> {
    let (auth_key_id, rest) = packet.split_first_chunk::<8>()?;
    let (message_id, rest) = rest.split_first_chunk::<8>()?;
    let (_length, rest) = rest.split_first_chunk::<4>()?;
    let (constructor, rest) = rest.split_first_chunk::<4>()?;
    let is_answer = *auth_key_id == [0; 8] && *constructor == RES_PQ.to_le_bytes() && rest.starts_with(nonce);
    is_answer.then_some(i64::from_le_bytes(*message_id) >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::testing::hex;

    const NONCE: [u8; 16] = [7; 16];

    #[test]
    fn the_question_is_that_of_the_documentation() {
        let expected =
            hex("28000000 0000000000000000 0000000000f15365 14000000 f18e7ebe 07070707070707070707070707070707");
        assert_eq!(req_pq(&NONCE, 0x6553_f100), expected);
    }

    #[test]
    fn only_the_answer_to_the_question_tells_the_time() {
        let mut answer = hex("0000000000000000 0100000000f15365 40000000 63241605 07070707070707070707070707070707 00");
        assert_eq!(res_pq(&answer, &NONCE), Some(1_700_000_000));
        assert_eq!(res_pq(&answer, &[8; 16]), None);
        for length in 0..40 {
            assert_eq!(res_pq(&answer[..length], &NONCE), None, "{length}");
        }
        answer[20] ^= 1;
        assert_eq!(res_pq(&answer, &NONCE), None);
    }
}
