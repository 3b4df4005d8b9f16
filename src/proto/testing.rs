//! Test data: the vectors and the recorded ClientHellos.

use nanoserde::DeJson;

/// A ClientHello of key 00..0f for `front.example`, stamped [`VECTOR_TIME`].
pub(crate) const VECTOR_HELLO: &str = "16030100670100006303033b279664c417024fe97527d9fa52a7953c469d6a5aeeeccc6d69ef1c0dcc028b\
    20404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f00042a2a13010100001600000012001000000d66726f6e742e65\
    78616d706c65";
/// The time in [`VECTOR_HELLO`], Unix seconds.
pub(crate) const VECTOR_TIME: i64 = 1_700_000_000;
/// The secret of all vectors.
pub(crate) const VECTOR_SECRET: &str = "ee000102030405060708090a0b0c0d0e0f66726f6e742e6578616d706c65";

/// As many rounds as that, and few of them in Miri, where each takes some thousand times as long.
pub(crate) const fn rounds(many: u32) -> u32 {
    if cfg!(miri) { many.div_ceil(200) } else { many }
}

/// Each of so many places, and few of them in Miri.
pub(crate) const EACH: usize = if cfg!(miri) { 61 } else { 1 };

/// Decodes hex, white space left out.
pub(crate) fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.chars().filter_map(|c| c.to_digit(16)).map(|digit| digit as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// A source of bytes that counts up from `first`.
pub(crate) fn counting(mut first: u8) -> impl FnMut(&mut [u8]) {
    move |bytes| {
        for byte in bytes {
            *byte = first;
            first = first.wrapping_add(1);
        }
    }
}

/// A repeatable source of bytes that look random (SplitMix64).
pub(crate) fn seeded(mut state: u64) -> impl FnMut(&mut [u8]) {
    move |bytes| {
        for byte in bytes {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            *byte = ((mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb) >> 56) as u8;
        }
    }
}

/// A ClientHello of a real client, with what is known of it.
#[derive(DeJson)]
#[allow(unreachable_pub, reason = "the derive of nanoserde takes no restricted visibility")]
pub struct RecordedHello {
    pub file: String,
    pub key: String,
    pub host: String,
    pub client_time: i64,
    #[nserde(skip)]
    pub record: Vec<u8>,
}

impl RecordedHello {
    pub(crate) fn secret(&self) -> crate::proto::secret::Secret {
        crate::proto::secret::Secret::new(hex(&self.key).try_into().unwrap(), &self.host).unwrap()
    }
}

/// All recorded ClientHellos.
pub(crate) fn recorded_hellos() -> Vec<RecordedHello> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/clienthellos");
    let index = std::fs::read_to_string(folder.join("index.json")).unwrap();
    let mut hellos = Vec::<RecordedHello>::deserialize_json(&index).unwrap();
    for hello in &mut hellos {
        hello.record = std::fs::read(folder.join(&hello.file)).unwrap();
    }
    assert!(hellos.len() >= 10);
    hellos
}
