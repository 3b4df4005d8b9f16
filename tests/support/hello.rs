//! ClientHellos signed with a secret's key, as clients of Telegram send them.

use std::time::{SystemTime, UNIX_EPOCH};

use hmac::{Hmac, KeyInit, Mac};
use nanoserde::DeJson;
use sha2::Sha256;

use super::{HOST, KEY};

/// Where the random stands in a hello that is one record.
pub const RANDOM: std::ops::Range<usize> = 11..43;

const RECORDED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/clienthellos");
const GREASE: u16 = 0x2a2a;
const X25519: u16 = 0x001d;
const X25519_MLKEM768: u16 = 0x11ec;

/// What a hello is made of.
#[derive(Clone)]
pub struct Hello {
    /// The key that signs it.
    pub key: [u8; 16],
    /// Its server name.
    pub sni: Option<String>,
    /// How far the client's clock is off.
    pub clock_offset_secs: i64,
    /// Its session id.
    pub session_id: Vec<u8>,
    /// Which client it resembles.
    pub shape: Shape,
    /// The version of its record header.
    pub record_version: [u8; 2],
}

/// Which client a hello resembles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// 517 bytes with padding, one key share.
    Compact,
    /// About 1800 bytes with GREASE and a hybrid key share.
    Browser,
    /// 16 000 bytes with padding: more than any client sends, less than a record may hold.
    Huge,
}

/// A hello ready to be sent, and what the reply to it has to match.
#[derive(Clone)]
pub struct Signed {
    /// One record with the whole hello.
    pub wire: Vec<u8>,
}

/// A hello of a real client, as `tests/data/clienthellos/index.json` describes it.
#[derive(DeJson)]
pub struct Recorded {
    /// The file with its bytes.
    pub file: String,
    /// The key that signed it, in hex.
    pub key: String,
    /// Its server name.
    pub host: String,
    /// When it was signed.
    pub client_time: u32,
}

impl Recorded {
    /// All recorded hellos.
    pub fn all() -> Vec<Self> {
        DeJson::deserialize_json(&std::fs::read_to_string(format!("{RECORDED}/index.json")).unwrap()).unwrap()
    }

    /// What the client sent.
    pub fn wire(&self) -> Vec<u8> {
        std::fs::read(format!("{RECORDED}/{}", self.file)).unwrap()
    }
}

impl Default for Hello {
    fn default() -> Self {
        Self {
            key: KEY,
            sni: Some(HOST.to_owned()),
            clock_offset_secs: 0,
            session_id: super::random::<32>().to_vec(),
            shape: Shape::Compact,
            record_version: [0x03, 0x01],
        }
    }
}

impl Hello {
    /// Makes the hello and signs it.
    pub fn sign(&self) -> Signed {
        let mut message = self.message();
        let body_len = message.len() as u32;
        message.splice(..0, [&[0x01], &body_len.to_be_bytes()[1..]].concat());
        let mut wire = [&[0x16], &self.record_version[..], &(message.len() as u16).to_be_bytes()].concat();
        wire.extend(message);
        sign(&mut wire, &self.key, now_secs() + self.clock_offset_secs);
        Signed { wire }
    }

    fn message(&self) -> Vec<u8> {
        let extensions = match self.shape {
            Shape::Compact => self.padded_extensions(512),
            Shape::Huge => self.padded_extensions(15_995),
            Shape::Browser => self.browser_extensions(),
        };
        let mut suites = vec![0x1301, 0x1302, 0x1303, 0xc02b, 0xc02f, 0xcca9];
        if self.shape == Shape::Browser {
            suites.insert(0, GREASE);
        }
        let mut body = vec![0x03, 0x03];
        body.extend([0; 32]);
        body.push(self.session_id.len() as u8);
        body.extend(&self.session_id);
        body.extend(vec16(&words(&suites)));
        body.extend([0x01, 0x00]);
        body.extend(vec16(&extensions));
        body
    }

    fn padded_extensions(&self, message_len: usize) -> Vec<u8> {
        let mut extensions = self.common_extensions();
        extensions.extend(extension(0x000a, &vec16(&words(&[X25519, 0x0017]))));
        extensions.extend(extension(0x002b, &[0x04, 0x03, 0x04, 0x03, 0x03]));
        extensions.extend(extension(0x0033, &vec16(&share(X25519, &super::random::<32>()))));
        // Version, random, session id, suites, compression and the two lengths come before the extensions.
        let len = 4 + 2 + 32 + 1 + self.session_id.len() + 2 + 12 + 2 + 2 + extensions.len();
        extensions.extend(extension(0x0015, &vec![0; message_len.saturating_sub(len + 4)]));
        extensions
    }

    fn browser_extensions(&self) -> Vec<u8> {
        let mut shares = share(GREASE, &[0]);
        let mut hybrid = vec![0; 1184 + 32];
        getrandom::fill(&mut hybrid).unwrap();
        shares.extend(share(X25519_MLKEM768, &hybrid));
        shares.extend(share(X25519, &super::random::<32>()));
        let mut extensions = extension(GREASE, &[]);
        extensions.extend(self.common_extensions());
        extensions.extend(extension(0x000a, &vec16(&words(&[GREASE, X25519_MLKEM768, X25519, 0x0017, 0x0018]))));
        extensions.extend(extension(0xfe0d, &super::random::<282>()));
        extensions.extend(extension(0x0033, &vec16(&shares)));
        extensions.extend(extension(0x002b, &[0x06, 0x2a, 0x2a, 0x03, 0x04, 0x03, 0x03]));
        extensions.extend(extension(0x001b, &[0x02, 0x00, 0x02]));
        extensions.extend(extension(0x3a3a, &[0]));
        extensions
    }

    fn common_extensions(&self) -> Vec<u8> {
        let mut extensions = Vec::new();
        if let Some(sni) = &self.sni {
            let name = [&[0x00], &vec16(sni.as_bytes())[..]].concat();
            extensions.extend(extension(0x0000, &vec16(&name)));
        }
        extensions.extend(extension(0x000d, &vec16(&words(&[0x0403, 0x0804, 0x0401, 0x0503, 0x0805]))));
        extensions.extend(extension(0x0010, &vec16(b"\x02h2\x08http/1.1")));
        extensions.extend(extension(0x002d, &[0x01, 0x01]));
        extensions
    }
}

impl Signed {
    /// A recorded hello, signed anew with `key` for now.
    pub fn again(recorded: &[u8], key: &[u8; 16]) -> Self {
        let mut wire = recorded.to_vec();
        sign(&mut wire, key, now_secs());
        Self { wire }
    }

    /// What whoever has recorded the hello can make of it: the same for another time. ([`KEY`] tells what time it has;
    /// whoever has seen it on its way knows that.)
    pub fn restamped(&self, later_secs: i64) -> Self {
        let old = self.signed_at(&KEY).unwrap();
        let change = (old ^ (i64::from(old) + later_secs) as u32).to_le_bytes();
        let mut wire = self.wire.clone();
        wire[RANDOM][28..].iter_mut().zip(change).for_each(|(byte, change)| *byte ^= change);
        Self { wire }
    }

    /// The same hello cut into `count` records.
    pub fn in_records(&self, count: usize) -> Vec<u8> {
        let payload = &self.wire[5..];
        let size = payload.len() / count;
        assert!(size > 0, "a record of the hello would be empty");
        let mut wire = Vec::new();
        for number in 0..count {
            let end = if number + 1 == count { payload.len() } else { (number + 1) * size };
            wire.extend(&self.wire[..3]);
            wire.extend(vec16(&payload[number * size..end]));
        }
        wire
    }

    /// The random, with digest and time.
    pub fn random(&self) -> &[u8] {
        &self.wire[RANDOM]
    }

    /// The session id.
    pub fn session_id(&self) -> &[u8] {
        &self.wire[44..44 + usize::from(self.wire[43])]
    }

    /// The cipher suites that the client offers.
    pub fn suites(&self) -> Vec<u16> {
        let at = 44 + self.session_id().len();
        pairs(&self.wire[at + 2..at + 2 + word(&self.wire, at)])
    }

    /// The body of the first extension of that type.
    pub fn extension(&self, kind: u16) -> Option<&[u8]> {
        let suites = 44 + self.session_id().len();
        let compression = suites + 2 + word(&self.wire, suites);
        let mut at = compression + 1 + usize::from(self.wire[compression]) + 2;
        while at < self.wire.len() {
            let end = at + 4 + word(&self.wire, at + 2);
            if word(&self.wire, at) == usize::from(kind) {
                return Some(&self.wire[at + 4..end]);
            }
            at = end;
        }
        None
    }

    /// The groups of the key shares.
    pub fn share_groups(&self) -> Vec<u16> {
        let shares = self.extension(0x0033).unwrap_or_default();
        let (mut at, mut groups) = (2, Vec::new());
        while at < shares.len() {
            groups.push(word(shares, at) as u16);
            at += 4 + word(shares, at + 2);
        }
        groups
    }

    /// The server name.
    pub fn sni(&self) -> Option<String> {
        self.extension(0x0000).map(|names| String::from_utf8(names[5..].to_vec()).unwrap())
    }

    /// When the client says that it is, if `key` signed it.
    pub fn signed_at(&self, key: &[u8; 16]) -> Option<u32> {
        let mut zeroed = self.wire.clone();
        zeroed[RANDOM].fill(0);
        let mut time: Vec<u8> = hmac(key, &[&zeroed]).iter().zip(self.random()).map(|(a, b)| a ^ b).collect();
        let stamp = time.split_off(28);
        time.iter().all(|byte| *byte == 0).then(|| u32::from_le_bytes([stamp[0], stamp[1], stamp[2], stamp[3]]))
    }
}

/// HMAC-SHA256 of the joined parts.
pub fn hmac(key: &[u8; 16], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// Puts digest and time into the random.
pub fn sign(wire: &mut [u8], key: &[u8; 16], time_secs: i64) {
    wire[RANDOM].fill(0);
    let mut digest = hmac(key, &[wire]);
    for (byte, time) in digest[28..].iter_mut().zip((time_secs as u32).to_le_bytes()) {
        *byte ^= time;
    }
    wire[RANDOM].copy_from_slice(&digest);
}

/// Seconds since 1970.
pub fn now_secs() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64
}

/// Two bytes of `bytes` as a number.
pub fn word(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]))
}

fn pairs(bytes: &[u8]) -> Vec<u16> {
    bytes.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect()
}

fn words(values: &[u16]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_be_bytes()).collect()
}

fn vec16(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes(), bytes].concat()
}

fn share(group: u16, key: &[u8]) -> Vec<u8> {
    [&group.to_be_bytes(), &vec16(key)[..]].concat()
}

fn extension(kind: u16, body: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes(), &vec16(body)[..]].concat()
}
