//! The 64-byte frame that opens an obfuscated2 stream, seen from each of its ends.
//!
//! ```text
//!  0        8                 40            56      60      62      64
//!  | noise  | AES-256 key     | IV          | tag   | DC    | noise |
//!  |------------------ clear ---------------|------ encrypted ------|
//! ```
//!
//! The key and IV of the answers are bytes 8 to 56 read backwards. A secret, if there is one, is hashed into both keys.

use aes::Aes256;
use ctr::Ctr128BE;
use ctr::cipher::{KeyIvInit, StreamCipher};
use sha2::{Digest, Sha256};

/// One direction's AES-256-CTR stream.
pub type Cipher = Ctr128BE<Aes256>;

/// The tag that most clients send: padded intermediate.
pub const PADDED: [u8; 4] = [0xdd; 4];
/// Intermediate.
pub const INTERMEDIATE: [u8; 4] = [0xee; 4];
/// Abridged.
pub const ABRIDGED: [u8; 4] = [0xef; 4];

/// A frame as the end that sent it sees it.
pub struct Sent {
    /// What goes over the wire.
    pub wire: [u8; 64],
    /// Encrypts what follows the frame.
    pub write: Cipher,
    /// Decrypts the answers.
    pub read: Cipher,
    /// The key and IV of the answers.
    pub answer_key: [u8; 48],
}

/// A frame as the end that got it sees it.
pub struct Received {
    /// The transport that the sender wants.
    pub tag: [u8; 4],
    /// The data centre that the sender wants; negative for media.
    pub dc: i16,
    /// Decrypts what follows the frame.
    pub read: Cipher,
    /// Encrypts the answers.
    pub write: Cipher,
    /// The key and IV of the answers.
    pub answer_key: [u8; 48],
}

/// Makes the frame of a client that wants `dc`.
pub fn send(secret: Option<&[u8; 16]>, tag: [u8; 4], dc: i16) -> Sent {
    let noise = loop {
        let noise = super::random::<64>();
        if forbidden_prefix(&noise).is_none() {
            break noise;
        }
    };
    frame_with(noise, secret, tag, dc)
}

/// Makes the frame out of `noise`.
pub fn frame_with(noise: [u8; 64], secret: Option<&[u8; 16]>, tag: [u8; 4], dc: i16) -> Sent {
    let mut plain = noise;
    plain[56..60].copy_from_slice(&tag);
    plain[60..62].copy_from_slice(&dc.to_le_bytes());
    let (forward, answer_key) = keys(&plain, secret);
    let (mut write, read) = (cipher(&forward), cipher(&answer_key));
    let mut wire = plain;
    write.apply_keystream(&mut wire);
    wire[..56].copy_from_slice(&plain[..56]);
    Sent { wire, write, read, answer_key }
}

/// Reads a frame; only with the right `secret` are tag and DC meaningful.
pub fn receive(wire: &[u8; 64], secret: Option<&[u8; 16]>) -> Received {
    let (forward, answer_key) = keys(wire, secret);
    let (mut read, write) = (cipher(&forward), cipher(&answer_key));
    let mut plain = *wire;
    read.apply_keystream(&mut plain);
    let tag = [plain[56], plain[57], plain[58], plain[59]];
    Received { tag, dc: i16::from_le_bytes([plain[60], plain[61]]), read, write, answer_key }
}

/// Why a data centre would take these first bytes for another protocol.
pub fn forbidden_prefix(wire: &[u8; 64]) -> Option<&'static str> {
    match wire[..8] {
        [0xef, ..] => Some("abridged transport"),
        [0xdd, 0xdd, 0xdd, 0xdd, ..] => Some("padded intermediate transport"),
        [0xee, 0xee, 0xee, 0xee, ..] => Some("intermediate transport"),
        [b'H', b'E', b'A', b'D', ..] | [b'P', b'O', b'S', b'T', ..] => Some("HTTP"),
        [b'G', b'E', b'T', b' ', ..] | [b'O', b'P', b'T', b'I', ..] => Some("HTTP"),
        [0x16, 0x03, 0x01, 0x02, ..] => Some("TLS"),
        [_, _, _, _, 0, 0, 0, 0] => Some("full transport"),
        _ => None,
    }
}

fn keys(frame: &[u8; 64], secret: Option<&[u8; 16]>) -> ([u8; 48], [u8; 48]) {
    let mut forward = [0; 48];
    forward.copy_from_slice(&frame[8..56]);
    let mut backward = forward;
    backward.reverse();
    if let Some(secret) = secret {
        for keys in [&mut forward, &mut backward] {
            let mixed = Sha256::new().chain_update(&keys[..32]).chain_update(secret).finalize();
            keys[..32].copy_from_slice(&mixed);
        }
    }
    (forward, backward)
}

fn cipher(key_and_iv: &[u8; 48]) -> Cipher {
    Cipher::new_from_slices(&key_and_iv[..32], &key_and_iv[32..]).unwrap()
}
