//! Obfuscated2: the 64-byte frame that opens a stream, and the two AES-256-CTR streams that follow.
//!
//! ```text
//! offset  0        8             40        56     60    62      64
//!         +--------+-------------+---------+------+-----+-------+
//!         | noise  | key         | IV      | tag  | DC  | noise |   tag, DC and last noise encrypted
//!         +--------+-------------+---------+------+-----+-------+
//! ```
//! The sender of the frame encrypts with key and IV as they stand and decrypts with the 48 bytes read backwards.
//! Towards the proxy each key is hashed together with the secret's key; towards a DC it is not. The DC number is a
//! little-endian i16. Source: core.telegram.org/mtproto/mtproto-transports, "Transport obfuscation".

use mtg_aes_ctr::Aes256Ctr;
use sha2::{Digest, Sha256};

use super::dc::DcId;
use super::secret::KEY_LEN;

/// Bytes of a frame.
pub(crate) const FRAME_LEN: usize = 64;
/// Bytes 8..56: key and IV.
const KEY_AND_IV: std::ops::Range<usize> = 8..56;
const TAG_AT: usize = 56;

/// How the client frames its messages; the DC has to be told the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tag {
    Abridged,
    Intermediate,
    PaddedIntermediate,
}

impl Tag {
    fn byte(self) -> u8 {
        match self {
            Self::Abridged => 0xef,
            Self::Intermediate => 0xee,
            Self::PaddedIntermediate => 0xdd,
        }
    }

    fn from_bytes(bytes: [u8; 4]) -> Option<Self> {
        [Self::Abridged, Self::Intermediate, Self::PaddedIntermediate].into_iter().find(|tag| bytes == [tag.byte(); 4])
    }
}

/// Key and IV of one direction.
#[derive(Clone)]
pub(crate) struct StreamKey {
    key: [u8; 32],
    iv: [u8; 16],
}

impl StreamKey {
    fn from_material(material: &[u8; 48]) -> Self {
        let (mut key, mut iv) = ([0; 32], [0; 16]);
        let (first, rest) = material.split_at(key.len());
        key.copy_from_slice(first);
        iv.copy_from_slice(rest);
        Self { key, iv }
    }

    fn mixed_with(mut self, secret_key: &[u8; KEY_LEN]) -> Self {
        self.key = Sha256::new().chain_update(self.key).chain_update(secret_key).finalize().into();
        self
    }

    fn to_material(&self) -> [u8; 48] {
        let mut material = [0; 48];
        let (key, iv) = material.split_at_mut(self.key.len());
        key.copy_from_slice(&self.key);
        iv.copy_from_slice(&self.iv);
        material
    }

    /// The key stream from its start.
    pub(crate) fn stream(&self) -> Aes256Ctr {
        Aes256Ctr::new(&self.key, &self.iv)
    }

    /// The key stream from a byte of it on.
    pub(crate) fn stream_at(&self, position: u64) -> Aes256Ctr {
        let mut stream = self.stream();
        stream.skip(position);
        stream
    }

    #[cfg(test)]
    pub(crate) fn of_tests() -> Self {
        Self { key: [3; 32], iv: [4; 16] }
    }
}

/// A client's frame, opened.
pub(crate) struct ClientFrame {
    pub(crate) tag: Tag,
    pub(crate) dc: DcId,
    /// Decrypts what the client sends after the frame.
    pub(crate) from_client: Aes256Ctr,
    /// The same from the frame's start.
    pub(crate) from_client_key: StreamKey,
    /// The client decrypts with this, from its start.
    pub(crate) to_client: StreamKey,
}

impl ClientFrame {
    /// Opens the frame that a client sent to the proxy; `None` if its tag is none that exists.
    pub(crate) fn open(frame: &[u8; FRAME_LEN], secret_key: &[u8; KEY_LEN]) -> Option<Self> {
        Self::open_with(frame, |key| key.mixed_with(secret_key))
    }

    fn open_with(frame: &[u8; FRAME_LEN], derive: impl Fn(StreamKey) -> StreamKey) -> Option<Self> {
        let mut material = key_material(frame);
        let from_client_key = derive(StreamKey::from_material(&material));
        let mut from_client = from_client_key.stream();
        material.reverse();
        let to_client = derive(StreamKey::from_material(&material));

        let mut plain = *frame;
        from_client.apply_keystream(&mut plain);
        let [.., t0, t1, t2, t3, dc_low, dc_high, _, _] = plain;
        let tag = Tag::from_bytes([t0, t1, t2, t3])?;
        let dc = DcId::new(i16::from_le_bytes([dc_low, dc_high]));
        Some(Self { tag, dc, from_client, from_client_key, to_client })
    }
}

/// The frame that opens our stream to a DC, and the ciphers of that stream.
pub(crate) struct DcFrame {
    pub(crate) bytes: [u8; FRAME_LEN],
    /// Encrypts what follows the frame.
    pub(crate) to_dc: Aes256Ctr,
    /// The same from the frame's start.
    pub(crate) to_dc_key: StreamKey,
    /// Decrypts what the DC sends, from its start.
    pub(crate) from_dc: StreamKey,
}

impl DcFrame {
    /// Makes a frame. With `from_dc` the DC is made to encrypt with that key stream, which is how fast mode
    /// passes its bytes to the client untouched; without it, all keys are fresh.
    pub(crate) fn new(tag: Tag, dc: DcId, from_dc: Option<&StreamKey>, fill: &mut dyn FnMut(&mut [u8])) -> Self {
        Self::make(tag, dc, from_dc, fill, |key| key)
    }

    /// A client's frame to a proxy that has the secret, with fresh keys.
    #[cfg(feature = "web")]
    pub(crate) fn to_proxy(tag: Tag, dc: DcId, secret_key: &[u8; KEY_LEN], fill: &mut dyn FnMut(&mut [u8])) -> Self {
        Self::make(tag, dc, None, fill, |key| key.mixed_with(secret_key))
    }

    fn make(
        tag: Tag,
        dc: DcId,
        from_dc: Option<&StreamKey>,
        fill: &mut dyn FnMut(&mut [u8]),
        derive: impl Fn(StreamKey) -> StreamKey,
    ) -> Self {
        let mut bytes = [0; FRAME_LEN];
        loop {
            fill(&mut bytes);
            if !looks_like_something_else(&bytes) {
                break;
            }
        }
        if let (Some(key), Some(place)) = (from_dc, bytes.get_mut(KEY_AND_IV)) {
            let mut material = key.to_material();
            material.reverse();
            place.copy_from_slice(&material);
        }
        let mut material = key_material(&bytes);
        let to_dc_key = derive(StreamKey::from_material(&material));
        let mut to_dc = to_dc_key.stream();
        material.reverse();
        let from_dc = derive(StreamKey::from_material(&material));

        let [dc_low, dc_high] = dc.number().to_le_bytes();
        let (_, end) = bytes.split_at_mut(TAG_AT);
        if let Some(place) = end.first_chunk_mut() {
            *place = [tag.byte(), tag.byte(), tag.byte(), tag.byte(), dc_low, dc_high];
        }
        let mut encrypted = bytes;
        to_dc.apply_keystream(&mut encrypted);
        let (_, end) = bytes.split_at_mut(TAG_AT);
        end.copy_from_slice(encrypted.split_at(TAG_AT).1);
        Self { bytes, to_dc, to_dc_key, from_dc }
    }
}

fn key_material(frame: &[u8; FRAME_LEN]) -> [u8; 48] {
    let mut material = [0; 48];
    if let Some(key_and_iv) = frame.get(KEY_AND_IV) {
        material.copy_from_slice(key_and_iv);
    }
    material
}

/// Says whether a DC would take the start of a frame for another transport.
fn looks_like_something_else([b0, b1, b2, b3, b4, b5, b6, b7, ..]: &[u8; FRAME_LEN]) -> bool {
    let first = [*b0, *b1, *b2, *b3];
    *b0 == Tag::Abridged.byte()
        || matches!(&first, b"HEAD" | b"POST" | b"GET " | b"OPTI" | [0x16, 0x03, 0x01, 0x02])
        || first == [Tag::PaddedIntermediate.byte(); 4]
        || first == [Tag::Intermediate.byte(); 4]
        || [*b4, *b5, *b6, *b7] == [0; 4]
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::proto::testing::{counting, hex, seeded};

    const KEY: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
    const CLIENT_FRAME: &str = "101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f
        303132333435363738393a3b3c3d3e3f4041424344454647cd1e4b2a627149ad";

    fn key_stream(mut cipher: Aes256Ctr) -> [u8; 8] {
        let mut bytes = [0; 8];
        cipher.apply_keystream(&mut bytes);
        bytes
    }

    /// The client's side of [`ClientFrame`]: the frame, and its streams to and from the proxy.
    pub(crate) fn client_frame(
        secret_key: [u8; 16],
        tag: [u8; 4],
        dc: i16,
        fill: &mut dyn FnMut(&mut [u8]),
    ) -> ([u8; 64], Aes256Ctr, StreamKey) {
        let mut frame = [0; 64];
        fill(&mut frame);
        let mut material: [u8; 48] = frame[8..56].try_into().unwrap();
        let mut to_proxy = StreamKey::from_material(&material).mixed_with(&secret_key).stream();
        material.reverse();
        let from_proxy = StreamKey::from_material(&material).mixed_with(&secret_key);
        frame[56..60].copy_from_slice(&tag);
        frame[60..62].copy_from_slice(&dc.to_le_bytes());
        let mut encrypted = frame;
        to_proxy.apply_keystream(&mut encrypted);
        frame[56..].copy_from_slice(&encrypted[56..]);
        (frame, to_proxy, from_proxy)
    }

    impl ClientFrame {
        /// What a DC makes of a frame.
        pub(crate) fn open_without_secret(frame: &[u8; FRAME_LEN]) -> Option<Self> {
            Self::open_with(frame, |key| key)
        }
    }

    #[test]
    #[cfg(feature = "web")]
    fn a_frame_to_a_proxy_opens_there() {
        let mut made = DcFrame::to_proxy(Tag::Intermediate, DcId::new(-2), &KEY, &mut counting(0x60));
        let mut opened = ClientFrame::open(&made.bytes, &KEY).unwrap();
        assert_eq!((opened.tag, opened.dc), (Tag::Intermediate, DcId::new(-2)));
        let mut bytes = *b"question";
        made.to_dc.apply_keystream(&mut bytes);
        opened.from_client.apply_keystream(&mut bytes);
        assert_eq!((&bytes, key_stream(made.from_dc.stream())), (b"question", key_stream(opened.to_client.stream())));
    }

    #[test]
    fn the_vectors_frame_opens() {
        let frame: [u8; 64] = hex(CLIENT_FRAME).try_into().unwrap();
        let opened = ClientFrame::open(&frame, &KEY).unwrap();
        assert_eq!((opened.tag, opened.dc), (Tag::PaddedIntermediate, DcId::new(-4)));
        assert_eq!(key_stream(opened.from_client)[..], hex("708fedc3cab0c0c3"));
        assert_eq!(key_stream(opened.to_client.stream())[..], hex("20558df703a14c62"));
    }

    #[test]
    fn the_frame_to_the_dc_is_the_vectors_with_its_first_56_bytes_in_clear() {
        let frame = DcFrame::new(Tag::PaddedIntermediate, DcId::new(2), None, &mut counting(0x60));
        // The vector's last two noise bytes are the counter's.
        let expected = hex("606162636465666768696a6b6c6d6e6f707172737475767778797a7b7c7d7e7f
            808182838485868788898a8b8c8d8e8f9091929394959697aa34deea78216d48");
        assert_eq!(frame.bytes[..], expected);
        assert_eq!(key_stream(frame.to_dc)[..], hex("a54954f816ecb159"));
        assert_eq!(key_stream(frame.from_dc.stream())[..], hex("d02d1bd74c94e547"));
    }

    #[test]
    fn every_tag_and_signed_number_survives() {
        let mut fill = seeded(3);
        for tag in [Tag::Abridged, Tag::Intermediate, Tag::PaddedIntermediate] {
            for dc in [1, -1, 5, -5, 203, -203, 10_002, i16::MIN, i16::MAX] {
                let (frame, _, _) = client_frame(KEY, [tag.byte(); 4], dc, &mut fill);
                let opened = ClientFrame::open(&frame, &KEY).unwrap();
                assert_eq!((opened.tag, opened.dc.number()), (tag, dc));
            }
        }
        let (frame, _, _) = client_frame(KEY, [0xdd, 0xdd, 0xdd, 0xde], 2, &mut fill);
        assert!(ClientFrame::open(&frame, &KEY).is_none());
    }

    #[test]
    fn in_fast_mode_the_dc_encrypts_for_the_client() {
        let mut fill = seeded(4);
        let (frame, _, from_proxy) = client_frame(KEY, [0xee; 4], -2, &mut fill);
        let opened = ClientFrame::open(&frame, &KEY).unwrap();
        let dc_frame = DcFrame::new(opened.tag, opened.dc, Some(&opened.to_client), &mut fill);
        let dc = ClientFrame::open_without_secret(&dc_frame.bytes).unwrap();
        assert_eq!((dc.tag, dc.dc), (Tag::Intermediate, DcId::new(-2)));
        assert_eq!(key_stream(dc.to_client.stream()), key_stream(from_proxy.stream()));
        assert_eq!(key_stream(dc.from_client), key_stream(dc_frame.to_dc));
    }

    #[test]
    fn forbidden_prefixes_are_drawn_again() {
        for prefix in ["ef", "48454144", "504f5354", "47455420", "4f505449", "16030102", "dddddddd", "eeeeeeee"] {
            let (prefix, mut draws) = (hex(prefix), 0);
            let frame = DcFrame::new(Tag::Abridged, DcId::DEFAULT, None, &mut |bytes| {
                bytes.fill(0x55);
                if draws == 0 {
                    bytes[..prefix.len()].copy_from_slice(&prefix);
                }
                draws += 1;
            });
            assert_eq!((frame.bytes[0], draws), (0x55, 2));
        }
        let mut draws = 0;
        DcFrame::new(Tag::Abridged, DcId::DEFAULT, None, &mut |bytes| {
            bytes.fill(0x55);
            bytes[4..8].fill(draws);
            draws += 1;
        });
        assert_eq!(draws, 2);
    }
}
