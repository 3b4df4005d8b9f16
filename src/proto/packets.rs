//! Where in its stream to a client a DC has said something whole.
//!
//! A TLS record cannot be as short as some of what a DC sends by itself, so whether more is sure to follow has to be
//! known before a record is made. Only the lengths of the transport's packets are decrypted for that: a block or two
//! of AES for each packet, whatever its size. The key is expanded anew for each, because an idle client is to cost
//! little memory.
//!
//! ```text
//! abridged              length/4[1]                     | packet    or  7f | length/4[3] | packet
//! (padded) intermediate length[4]                       | packet
//! quick acknowledgement token[4], its first bit set
//! ```
//! Lengths are little-endian; the first bit is that of the first byte in abridged, and of the last one otherwise.
//! Source: core.telegram.org/mtproto/mtproto-transports.

use super::obfuscated2::{StreamKey, Tag};

/// The longest packet that is believed in, bytes. Telegram's are of a megabyte and a little.
const LENGTH_MAX: u32 = 1 << 24;
/// What announces that the length follows.
const LONG: u8 = 0x7f;
/// The bit of a quick acknowledgement.
const ACKNOWLEDGEMENT: u8 = 0x80;
/// Bytes of a length, and of an acknowledgement.
const WORD: usize = 4;

/// What a stream has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The end of a packet.
    Whole,
    /// The end of an acknowledgement, which is worth little without the answer that it announces.
    Acknowledged,
    /// The middle of something: at least so many bytes belong to it.
    Within(u32),
    /// These are no packets.
    Unknown,
}

/// Reads the lengths of packets out of an encrypted stream.
pub(crate) struct Packets {
    tag: Tag,
    key: StreamKey,
    /// Where in the stream the next byte stands.
    position: u64,
    /// Bytes of the current packet that have not arrived.
    left: u32,
    /// The current length, encrypted, as far as it is there.
    word: [u8; WORD],
    word_len: u8,
    is_acknowledged: bool,
    is_lost: bool,
}

impl Packets {
    /// A stream from its start.
    pub(crate) fn new(tag: Tag, key: StreamKey) -> Self {
        let (word, word_len) = ([0; WORD], 0);
        Self { tag, key, position: 0, left: 0, word, word_len, is_acknowledged: false, is_lost: false }
    }

    /// Takes note of the next encrypted bytes.
    pub(crate) fn read(&mut self, mut bytes: &[u8]) {
        while let Some((&next, behind)) = bytes.split_first() {
            if self.is_lost {
                return;
            }
            if self.left > 0 {
                let arrived = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
                bytes = bytes.get(arrived..).unwrap_or_default();
                self.pass(arrived);
                continue;
            }
            self.read_length(next);
            bytes = behind;
        }
    }

    fn pass(&mut self, arrived: usize) {
        self.left = self.left.saturating_sub(u32::try_from(arrived).unwrap_or(u32::MAX));
        self.position += arrived as u64;
    }

    fn read_length(&mut self, byte: u8) {
        if let Some(place) = self.word.get_mut(usize::from(self.word_len)) {
            *place = byte;
        }
        (self.word_len, self.position) = (self.word_len + 1, self.position + 1);
        if let Some(length) = self.length() {
            self.word_len = 0;
            self.is_lost = length > LENGTH_MAX || length == 0 && !self.is_acknowledged;
            self.left = length;
        }
    }

    /// What follows the word, if that is whole.
    fn length(&mut self) -> Option<u32> {
        let is_whole = usize::from(self.word_len) == WORD;
        if self.tag != Tag::Abridged && !is_whole {
            return None;
        }
        let mut word = self.word;
        self.key.stream_at(self.position - u64::from(self.word_len)).apply_keystream(&mut word);
        let [first, second, third, last] = word;
        if self.tag == Tag::Abridged && first == LONG && !is_whole {
            return None;
        }
        let marked = if self.tag == Tag::Abridged { first } else { last };
        self.is_acknowledged = marked & ACKNOWLEDGEMENT != 0;
        Some(match self.tag {
            _ if self.is_acknowledged => u32::try_from(WORD - usize::from(self.word_len)).unwrap_or_default(),
            Tag::Abridged if first == LONG => u32::from_le_bytes([second, third, last, 0]) * 4,
            Tag::Abridged => u32::from(first) * 4,
            Tag::Intermediate | Tag::PaddedIntermediate => u32::from_le_bytes(word),
        })
    }

    /// What the stream has come to.
    pub(crate) fn place(&self) -> Place {
        match (self.left, usize::from(self.word_len)) {
            _ if self.is_lost => Place::Unknown,
            (0, 0) if self.is_acknowledged => Place::Acknowledged,
            (0, 0) => Place::Whole,
            (0, arrived) => Place::Within(u32::try_from(WORD - arrived).unwrap_or_default()),
            (left, _) => Place::Within(left),
        }
    }

    /// Makes bytes that look like the rest of the stream, which cannot go on behind them.
    pub(crate) fn fill(&self, bytes: &mut [u8]) {
        bytes.fill(0);
        self.key.stream_at(self.position).apply_keystream(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::testing::{EACH, hex};

    fn key() -> StreamKey {
        StreamKey::of_tests()
    }

    /// The places behind each byte of a plain stream, read in pieces of a size.
    fn places(tag: Tag, plain: &[u8], piece: usize) -> Vec<Place> {
        let (mut packets, mut bytes) = (Packets::new(tag, key()), plain.to_vec());
        key().stream_at(0).apply_keystream(&mut bytes);
        bytes
            .chunks(piece)
            .map(|part| {
                packets.read(part);
                packets.place()
            })
            .collect()
    }

    fn packets_of(tag: Tag) -> Vec<u8> {
        match tag {
            // A packet of 8 bytes, an acknowledgement, a packet of 508 bytes.
            Tag::Abridged => [hex("02 0102030405060708 f1020304 7f 7f0000"), vec![9; 508]].concat(),
            _ => [hex("08000000 0102030405060708 010203f4 fc010000"), vec![9; 508]].concat(),
        }
    }

    #[test]
    fn each_end_of_a_packet_is_known() {
        for (tag, [whole, acknowledged]) in [(Tag::Abridged, [9, 13]), (Tag::PaddedIntermediate, [12, 16])] {
            let plain = packets_of(tag);
            for (index, place) in places(tag, &plain, 1).into_iter().enumerate() {
                match index + 1 {
                    end if end == whole || end == plain.len() => assert_eq!(place, Place::Whole, "{tag:?} {end}"),
                    end if end == acknowledged => assert_eq!(place, Place::Acknowledged, "{tag:?} {end}"),
                    end => {
                        let Place::Within(more) = place else { panic!("{tag:?} {end}: {place:?}") };
                        assert!(more as usize <= plain.len() - end, "{tag:?} {end}: {more}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_stream_may_be_cut_anywhere() {
        for tag in [Tag::Abridged, Tag::Intermediate] {
            let plain = packets_of(tag);
            let bytewise = places(tag, &plain, 1);
            for piece in (2..plain.len()).step_by(EACH) {
                let ends = (1..).map(|number| (number * piece).min(plain.len()) - 1);
                for (place, end) in places(tag, &plain, piece).into_iter().zip(ends) {
                    assert_eq!(place, bytewise[end], "{tag:?} {piece}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_packet_is_not_waited_for() {
        assert_eq!(places(Tag::Intermediate, &hex("01000001"), 4), [Place::Unknown]);
        assert_eq!(places(Tag::Abridged, &hex("7f 010040 00"), 5), [Place::Unknown]);
        assert_eq!(places(Tag::PaddedIntermediate, &hex("00000000"), 4), [Place::Unknown]);
        assert_eq!(places(Tag::Intermediate, &hex("00000001"), 4), [Place::Within(1 << 24)]);
    }
}
