//! TLS records after the handshake: taking the client's apart and putting ours together, both in place.

use super::{CIPHERTEXT_MAX, PLAINTEXT_MAX, RECORD_HEADER, TLS_1_2, content_type};

/// What a client sent that no TLS client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecordError {
    /// A content type outside of `0x14..=0x17`.
    Type,
    /// A version other than `03 03`.
    Version,
    /// A length above [`CIPHERTEXT_MAX`].
    Length,
}

/// Takes the payload of application-data records out of a byte stream that may be cut anywhere.
///
/// Records of the other types (ChangeCipherSpec, alerts, handshake messages) are read and left out, as
/// Telegram's own servers do.
#[derive(Clone, Debug, Default)]
pub(crate) struct Deframer {
    header: [u8; RECORD_HEADER],
    /// Bytes of `header` that have arrived; it stays full while the record's payload arrives.
    header_len: u8,
    /// Bytes of the current record's payload that have not arrived.
    left: u16,
}

impl Deframer {
    /// Moves the payload bytes of `stream` to its front and returns how many there are.
    pub(crate) fn deframe(&mut self, stream: &mut [u8]) -> Result<usize, RecordError> {
        let (mut read, mut written) = (0, 0);
        while read < stream.len() {
            if self.left == 0 {
                read += self.read_header(stream.get(read..).unwrap_or_default())?;
                continue;
            }
            let arrived = usize::from(self.left).min(stream.len() - read);
            if self.header.first() == Some(&content_type::APPLICATION_DATA) {
                stream.copy_within(read..read + arrived, written);
                written += arrived;
            }
            read += arrived;
            self.left = self.left.saturating_sub(u16::try_from(arrived).unwrap_or(u16::MAX));
        }
        Ok(written)
    }

    /// Takes header bytes from the front of `input` and returns how many.
    fn read_header(&mut self, input: &[u8]) -> Result<usize, RecordError> {
        let missing = self.header.iter_mut().skip(self.header_len.into());
        let taken = missing.zip(input).map(|(place, &byte)| *place = byte).count();
        self.header_len += u8::try_from(taken).unwrap_or_default();
        if usize::from(self.header_len) == RECORD_HEADER {
            self.left = check_header(self.header)?;
            self.header_len = 0;
        }
        Ok(taken)
    }
}

/// Checks a whole header and returns the length of its payload.
fn check_header([kind, major, minor, high, low]: [u8; RECORD_HEADER]) -> Result<u16, RecordError> {
    if !(content_type::CHANGE_CIPHER_SPEC..=content_type::APPLICATION_DATA).contains(&kind) {
        return Err(RecordError::Type);
    }
    if [major, minor] != TLS_1_2 {
        return Err(RecordError::Version);
    }
    let length = u16::from_be_bytes([high, low]);
    if usize::from(length) > CIPHERTEXT_MAX { Err(RecordError::Length) } else { Ok(length) }
}

/// A place for one record in a send buffer: its header, then room for the largest payload.
pub(crate) const SLOT: usize = RECORD_HEADER + PLAINTEXT_MAX;

/// The header of an application-data record with `length` bytes of payload.
pub(crate) fn application_data_header(length: u16) -> [u8; RECORD_HEADER] {
    let [major, minor] = TLS_1_2;
    let [high, low] = length.to_be_bytes();
    [content_type::APPLICATION_DATA, major, minor, high, low]
}

/// Turns `buffer`, in which a payload of `length` bytes was received into the payload parts of consecutive
/// [`SLOT`]s, into records, and returns the length of these in bytes.
pub(crate) fn frame_slots(buffer: &mut [u8], length: usize) -> usize {
    let mut left = length;
    let mut framed = 0;
    for slot in buffer.chunks_mut(SLOT) {
        if left == 0 {
            break;
        }
        let payload = left.min(PLAINTEXT_MAX);
        if let (Some(header), Ok(payload)) = (slot.first_chunk_mut(), u16::try_from(payload)) {
            *header = application_data_header(payload);
        }
        left -= payload;
        framed += RECORD_HEADER + payload;
    }
    framed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u8, payload: &[u8]) -> Vec<u8> {
        let mut record = vec![kind, 3, 3];
        record.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
        record.extend(payload);
        record
    }

    /// Deframes `stream` in pieces of the given sizes, cyclically.
    fn deframe(stream: &[u8], pieces: &[usize]) -> Result<Vec<u8>, RecordError> {
        let (mut deframer, mut payload, mut rest) = (Deframer::default(), Vec::new(), stream);
        for &piece in pieces.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (head, tail) = rest.split_at(piece.min(rest.len()));
            rest = tail;
            let mut head = head.to_vec();
            let length = deframer.deframe(&mut head)?;
            payload.extend(&head[..length]);
        }
        Ok(payload)
    }

    #[test]
    fn payload_is_the_same_wherever_the_stream_is_cut() {
        let stream = [
            record(0x14, &[1]),
            record(0x17, b"first"),
            record(0x15, &[1, 0]),
            record(0x17, b""),
            record(0x16, &[9; 40]),
            record(0x17, b"second"),
        ]
        .concat();
        for cut in 1..stream.len() {
            assert_eq!(deframe(&stream, &[cut, stream.len()]).unwrap(), b"firstsecond", "cut at {cut}");
            assert_eq!(deframe(&stream, &[cut]).unwrap(), b"firstsecond", "pieces of {cut}");
        }
    }

    #[test]
    fn the_largest_record_passes_and_one_byte_more_does_not() {
        let stream = record(0x17, &[7; CIPHERTEXT_MAX]);
        assert_eq!(deframe(&stream, &[1000]).unwrap().len(), CIPHERTEXT_MAX);
        assert_eq!(deframe(&[0x17, 3, 3, 0x41, 0x01], &[1]), Err(RecordError::Length));
    }

    #[test]
    fn foreign_types_and_versions_are_refused() {
        assert_eq!(deframe(&record(0x13, &[1]), &[99]), Err(RecordError::Type));
        assert_eq!(deframe(&record(0x18, &[1]), &[99]), Err(RecordError::Type));
        assert_eq!(deframe(&[0x17, 3, 1, 0, 1, 0], &[99]), Err(RecordError::Version));
    }

    #[test]
    fn slots_become_records_that_deframe_to_the_same_payload() {
        for length in [1, 5, PLAINTEXT_MAX - 1, PLAINTEXT_MAX, PLAINTEXT_MAX + 1, 3 * PLAINTEXT_MAX] {
            let payload: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
            let mut buffer = vec![0; 3 * SLOT];
            for (slot, part) in buffer.chunks_mut(SLOT).zip(payload.chunks(PLAINTEXT_MAX)) {
                slot[RECORD_HEADER..][..part.len()].copy_from_slice(part);
            }
            let framed = frame_slots(&mut buffer, length);
            assert_eq!(deframe(&buffer[..framed], &[usize::MAX]).unwrap(), payload, "{length}");
        }
    }
}
