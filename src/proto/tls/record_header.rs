//! The header of a TLS record: the one place that reads and writes it.

use std::ops::RangeInclusive;

use super::TLS_1_2;
use crate::proto::reader::ReadError;

/// Bytes of a record's header: type, version, length.
pub(crate) const RECORD_HEADER: usize = 5;

/// What stands before the fragment of each record (RFC 8446 section 5.1).
///
/// ```text
/// offset 0                1                          3
///        content type [1] | legacy record version [2] | length [2]
/// ```
/// The length is big-endian and counts the bytes of the fragment, without this header. Any five bytes are a header;
/// which of them are right where it stands is for the reader to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    /// One of [`super::content_type`], or anything else.
    pub(crate) content_type: u8,
    pub(crate) version: [u8; 2],
    /// Bytes of the fragment.
    pub(crate) length: u16,
}

impl RecordHeader {
    /// The header of a record of TLS 1.3, whose version is that of TLS 1.2, with a fragment of `length` bytes.
    pub(crate) fn new(content_type: u8, length: u16) -> Self {
        Self { content_type, version: TLS_1_2, length }
    }

    pub(crate) fn decode([content_type, major, minor, high, low]: [u8; RECORD_HEADER]) -> Self {
        Self { content_type, version: [major, minor], length: u16::from_be_bytes([high, low]) }
    }

    pub(crate) fn encode(self) -> [u8; RECORD_HEADER] {
        let ([major, minor], [high, low]) = (self.version, self.length.to_be_bytes());
        [self.content_type, major, minor, high, low]
    }

    /// Bytes of the record: header and fragment.
    pub(crate) fn record_len(self) -> usize {
        RECORD_HEADER + usize::from(self.length)
    }

    /// Takes the header from the front of `bytes` and returns it with what follows; none before it has arrived.
    pub(crate) fn split_from(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (header, rest) = bytes.split_first_chunk()?;
        Some((Self::decode(*header), rest))
    }

    /// Does the same for a header of which type and version are given. The first byte that is neither's decides, whether
    /// or not the others have arrived.
    ///
    /// # Errors
    /// [`ReadError::Malformed`]: another type or version. [`ReadError::Partial`]: it has not arrived.
    pub(crate) fn split_known<'a>(
        bytes: &'a [u8],
        types: RangeInclusive<u8>,
        versions: &[[u8; 2]],
    ) -> Result<(Self, &'a [u8]), ReadError> {
        let (kind, version) = bytes.get(..3).unwrap_or(bytes).split_first().ok_or(ReadError::Partial)?;
        if !types.contains(kind) || !versions.iter().any(|known| known.starts_with(version)) {
            return Err(ReadError::Malformed);
        }
        Self::split_from(bytes).ok_or(ReadError::Partial)
    }
}

/// Reads headers out of a stream that may be cut within them.
#[derive(Clone, Debug, Default)]
pub(crate) struct HeaderReader {
    bytes: [u8; RECORD_HEADER],
    /// Bytes that have arrived of a header that is not whole.
    arrived: u8,
}

impl HeaderReader {
    /// Says whether a header has begun and not ended.
    pub(crate) fn is_within(&self) -> bool {
        self.arrived > 0
    }

    /// Takes bytes of a header from the front of `input`; returns it, if that makes it whole, and what follows.
    pub(crate) fn read<'a>(&mut self, input: &'a [u8]) -> (Option<RecordHeader>, &'a [u8]) {
        if self.arrived == 0
            && let Some((header, rest)) = RecordHeader::split_from(input)
        {
            return (Some(header), rest);
        }
        let missing = self.bytes.get_mut(self.arrived.into()..).unwrap_or_default();
        let (part, rest) = input.split_at(input.len().min(missing.len()));
        let is_whole = part.len() == missing.len();
        if let Some(places) = missing.get_mut(..part.len()) {
            places.copy_from_slice(part);
        }
        self.arrived = if is_whole { 0 } else { self.arrived + u8::try_from(part.len()).unwrap_or_default() };
        (is_whole.then(|| RecordHeader::decode(self.bytes)), rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::tls::{TLS_1_0, content_type};

    const BYTES: [u8; 8] = [0x16, 0x03, 0x01, 0x02, 0x05, 7, 8, 9];
    const HEADER: RecordHeader = RecordHeader { content_type: 0x16, version: TLS_1_0, length: 0x0205 };

    #[test]
    fn what_is_written_is_what_was_read() {
        let (header, rest) = RecordHeader::split_from(&BYTES).unwrap();
        assert_eq!((header, rest), (HEADER, &BYTES[5..]));
        assert_eq!((&header.encode()[..], header.record_len()), (&BYTES[..5], 0x020a));
        assert_eq!(RecordHeader::split_from(&BYTES[..4]), None);
        assert_eq!(RecordHeader::new(0x17, 0x4001).encode(), [0x17, 3, 3, 0x40, 0x01]);
    }

    #[test]
    fn a_header_is_whole_wherever_it_is_cut() {
        for cut in 0..=RECORD_HEADER {
            for second in cut..=RECORD_HEADER {
                let mut reader = HeaderReader::default();
                // The second is not begun with what was left of the first.
                for _ in 0..2 {
                    let (early, rest) = reader.read(&BYTES[..cut]);
                    let is_whole = cut == RECORD_HEADER;
                    assert_eq!((early.is_some(), reader.is_within(), rest), (is_whole, cut % 5 > 0, &[][..]));
                    let (middle, _) = reader.read(&BYTES[cut..second]);
                    let (late, rest) = reader.read(&BYTES[second..]);
                    let found: Vec<_> = [early, middle].into_iter().flatten().collect();
                    if second < RECORD_HEADER {
                        assert_eq!((late, rest, found.len()), (Some(HEADER), &BYTES[5..], 0), "{cut} {second}");
                    } else {
                        assert_eq!(found, [HEADER], "{cut} {second}");
                        reader = HeaderReader::default();
                    }
                }
            }
        }
    }

    #[test]
    fn the_first_wrong_byte_of_a_known_header_decides() {
        let split = |bytes: &[u8]| {
            let types = content_type::HANDSHAKE..=content_type::HANDSHAKE;
            RecordHeader::split_known(bytes, types, &[TLS_1_0, TLS_1_2]).map(|(header, rest)| (header, rest.len()))
        };
        assert_eq!(split(&BYTES), Ok((HEADER, 3)));
        for end in 0..RECORD_HEADER {
            assert_eq!(split(&BYTES[..end]), Err(ReadError::Partial), "{end}");
        }
        for wrong in [&[0x15][..], &[0x17, 3], &[0x16, 2], &[0x16, 3, 2], &[0x16, 3, 0, 0, 9]] {
            assert_eq!(split(wrong), Err(ReadError::Malformed), "{wrong:?}");
        }
    }
}
