//! Base64 (RFC 4648): that for URLs without padding (section 5), as links, secrets and tokens have it, and the standard
//! one with padding (section 4), as HTTP and `data:` URIs have it.

/// Writes bytes.
pub(crate) fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0u32, |bits, &byte| bits << 8 | u32::from(byte)) << (8 * (3 - group.len()));
        for digit in 0..=group.len() {
            text.push(to_digit(bits >> (18 - 6 * digit) & 0x3f));
        }
    }
    text
}

/// Writes bytes in the standard alphabet, with padding.
pub(crate) fn encode_standard(bytes: &[u8]) -> String {
    let mut text = encode(bytes).replace('-', "+").replace('_', "/");
    text.extend(std::iter::repeat_n('=', text.len().wrapping_neg() % 4));
    text
}

/// Reads a text; spare bits of its last digit may be anything.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    for group in text.as_bytes().chunks(4) {
        if group.len() == 1 {
            return None;
        }
        let mut bits = 0u32;
        for &digit in group {
            bits = bits << 6 | from_digit(digit)?;
        }
        bits <<= 6 * (4 - group.len());
        let [_, three @ ..] = bits.to_be_bytes();
        bytes.extend_from_slice(three.get(..group.len() - 1).unwrap_or_default());
    }
    Some(bytes)
}

/// Reads a text that stands for exactly `N` bytes and is the only one that does: its spare bits are zero.
pub(crate) fn decode_canonical<const N: usize>(text: &str) -> Option<[u8; N]> {
    let bytes: [u8; N] = decode(text)?.try_into().ok()?;
    (encode(&bytes) == text).then_some(bytes)
}

fn to_digit(value: u32) -> char {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    ALPHABET.get(value as usize).map_or('A', |&digit| char::from(digit))
}

fn from_digit(digit: u8) -> Option<u32> {
    Some(u32::from(match digit {
        b'A'..=b'Z' => digit - b'A',
        b'a'..=b'z' => digit - b'a' + 26,
        b'0'..=b'9' => digit - b'0' + 52,
        b'-' => 62,
        b'_' => 63,
        _ => return None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_comes_back() {
        for length in 0..100u8 {
            let bytes: Vec<u8> = (0..length).map(|byte| byte.wrapping_mul(37)).collect();
            assert_eq!(decode(&encode(&bytes)).unwrap(), bytes);
        }
        assert_eq!(encode(b"\xfb\xff"), "-_8");
    }

    #[test]
    fn the_standard_alphabet_is_that_of_the_rfc() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(encode_standard(bytes.as_bytes()), text);
        }
        assert_eq!(encode_standard(&[0xfb, 0xff]), "+/8=");
    }

    #[test]
    fn only_one_text_is_canonical() {
        assert_eq!(decode_canonical::<2>("-_8"), Some([0xfb, 0xff]));
        for other in ["-_9", "-_8=", "-_8A", "+/8", "", "-"] {
            assert_eq!(decode_canonical::<2>(other), None, "{other}");
        }
    }
}
