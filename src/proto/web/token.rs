//! Tokens: 32 bytes in base64url, opaque to clients.
//!
//! ```text
//! bootstrap:  noise (12) | expiry, seconds (4) | HMAC-SHA256 of both, its first half (16)
//! ```
//! A page holds a bootstrap token, and pages cost no memory: whether a token is ours is seen from itself. A session's
//! token is 32 random bytes, and only its hash is kept and looked up, so that the time of a look-up says nothing.

use sha2::{Digest, Sha256};

use super::site::{is_equal, mac};
use crate::proto::base64url;

/// How long a bootstrap token is good, seconds.
pub(crate) const BOOTSTRAP_SECS: u32 = 120;

/// Makes and checks bootstrap tokens.
pub(crate) struct Bootstrap {
    key: [u8; 32],
}

impl Bootstrap {
    /// With a key of random bytes, which must not change while the process runs.
    pub(crate) fn new(key: [u8; 32]) -> Self {
        Self { key }
    }

    /// A token for a page; `now` is seconds of any clock that never goes back.
    pub(crate) fn issue(&self, now: u32, noise: [u8; 12]) -> String {
        let start = [noise.as_slice(), &now.saturating_add(BOOTSTRAP_SECS).to_be_bytes()].concat();
        base64url::encode(&[start.as_slice(), &self.proof(&start)].concat())
    }

    /// Says whether a token is one of ours and still good.
    pub(crate) fn accepts(&self, token: &str, now: u32) -> bool {
        let Some(bytes) = base64url::decode_canonical::<32>(token) else { return false };
        let (start, proof) = bytes.split_at(16);
        let expiry = start.last_chunk().map_or(0, |expiry| u32::from_be_bytes(*expiry));
        is_equal(&self.proof(start), proof) & (now <= expiry)
    }

    fn proof(&self, start: &[u8]) -> [u8; 16] {
        let mut proof = [0; 16];
        proof.copy_from_slice(mac(&self.key, start).split_at(16).0);
        proof
    }
}

/// What a session is found by.
pub(crate) type Name = [u8; 16];

/// The name of a token; none if the text is no token.
pub(crate) fn name(token: &str) -> Option<Name> {
    let bytes = base64url::decode_canonical::<32>(token)?;
    let digest: [u8; 32] = Sha256::digest(bytes).into();
    digest.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_for_two_minutes_and_only_as_it_was_issued() {
        let bootstrap = Bootstrap::new([7; 32]);
        let token = bootstrap.issue(1000, [3; 12]);
        assert_eq!(token.len(), 43);
        assert!(bootstrap.accepts(&token, 1000) && bootstrap.accepts(&token, 1120));
        assert!(!bootstrap.accepts(&token, 1121));
        assert!(!Bootstrap::new([8; 32]).accepts(&token, 1000));
        for at in 0..token.len() {
            let mut other = token.clone().into_bytes();
            other[at] = if other[at] == b'B' { b'C' } else { b'B' };
            assert!(!bootstrap.accepts(std::str::from_utf8(&other).unwrap(), 1000), "{at}");
            assert!(!bootstrap.accepts(&token[..at], 1000), "{at}");
        }
    }

    #[test]
    fn sessions_have_names_of_their_own() {
        let tokens = [[1; 32], [2; 32]].map(|bytes| base64url::encode(&bytes));
        assert_ne!(name(&tokens[0]), name(&tokens[1]));
        assert!(name(&tokens[0]).is_some());
        assert_eq!((name(""), name(&tokens[0][1..]), name("=")), (None, None, None));
    }
}
