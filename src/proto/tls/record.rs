//! TLS records after the handshake: taking the client's apart and putting ours together, both in place.

use super::record_header::HeaderReader;
use super::{CIPHERTEXT_MAX, RECORD_HEADER, RecordHeader, SEALED_MIN, TLS_1_2, content_type};

/// What a client sent that no TLS client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecordError {
    /// A content type that has no place here, or comes too often.
    Type,
    /// An alert in clear, which servers answer in another way than other faults.
    Alert,
    /// A version other than `03 03`.
    Version,
    /// A length of 0 or above [`CIPHERTEXT_MAX`], or that of no ChangeCipherSpec.
    Length,
}

/// ChangeCipherSpecs in a row that nginx and BoringSSL bear; Go bears half of them.
const CHANGES_MAX: u8 = 32;
/// The one byte of a ChangeCipherSpec.
const CHANGE_CIPHER_SPEC: u8 = 1;

/// Takes the payload of application-data records out of a byte stream that may be cut anywhere.
///
/// It takes what a TLS 1.3 server takes that cannot decrypt: before the session begins a ChangeCipherSpec counts for
/// nothing (RFC 8446 section 5), and everything else is a fault. It is judged by the header, as OpenSSL does, but for an
/// alert, which everybody waits for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Deframer {
    header: HeaderReader,
    /// Type of the current record.
    content_type: u8,
    /// Bytes of its payload that have not arrived.
    left: u16,
    is_in_session: bool,
    /// ChangeCipherSpecs so far.
    changes: u8,
}

impl Deframer {
    /// What has been read so far ends with a record.
    pub(crate) fn is_between_records(&self) -> bool {
        self.left == 0 && !self.header.is_within()
    }

    /// The handshake is over.
    pub(crate) fn begin_session(&mut self) {
        self.is_in_session = true;
    }

    /// Moves the payload bytes of `stream` to its front and returns how many there are.
    pub(crate) fn deframe(&mut self, stream: &mut [u8]) -> Result<usize, RecordError> {
        let (mut read, mut written) = (0, 0);
        while read < stream.len() {
            if self.left == 0 {
                read += self.read_header(stream.get(read..).unwrap_or_default())?;
                continue;
            }
            let arrived = usize::from(self.left).min(stream.len() - read);
            let is_whole = arrived == usize::from(self.left);
            match self.content_type {
                content_type::APPLICATION_DATA => {
                    stream.copy_within(read..read + arrived, written);
                    written += arrived;
                }
                content_type::ALERT if is_whole => return Err(RecordError::Alert),
                content_type::ALERT => {}
                _ if stream.get(read) == Some(&CHANGE_CIPHER_SPEC) && self.changes < CHANGES_MAX => self.changes += 1,
                _ => return Err(RecordError::Type),
            }
            read += arrived;
            self.left = self.left.saturating_sub(u16::try_from(arrived).unwrap_or(u16::MAX));
        }
        Ok(written)
    }

    /// Takes header bytes from the front of `input` and returns how many.
    fn read_header(&mut self, input: &[u8]) -> Result<usize, RecordError> {
        let (header, rest) = self.header.read(input);
        if let Some(header) = header {
            check_header(header, self.is_in_session)?;
            (self.content_type, self.left) = (header.content_type, header.length);
        }
        Ok(input.len() - rest.len())
    }
}

fn check_header(header: RecordHeader, is_in_session: bool) -> Result<(), RecordError> {
    let longest = match header.content_type {
        content_type::APPLICATION_DATA | content_type::ALERT => CIPHERTEXT_MAX,
        content_type::CHANGE_CIPHER_SPEC if !is_in_session => 1,
        _ => return Err(RecordError::Type),
    };
    if header.version != TLS_1_2 {
        return Err(RecordError::Version);
    }
    if (1..=longest).contains(&usize::from(header.length)) { Ok(()) } else { Err(RecordError::Length) }
}

/// The payload parts of a buffer that is to become records of these sizes, each with room for a header before it.
pub(crate) fn payloads(buffer: &mut [u8], sizes: impl Iterator<Item = usize>) -> impl Iterator<Item = &mut [u8]> {
    let mut rest = buffer;
    sizes.map_while(move |size| {
        let end = rest.len().min(RECORD_HEADER + size);
        let (record, behind) = std::mem::take(&mut rest).split_at_mut(end);
        rest = behind;
        record.get_mut(RECORD_HEADER..).filter(|payload| !payload.is_empty())
    })
}

/// Turns `buffer`, whose [`payloads`] of these sizes hold `length` bytes together, into records, and returns their
/// length in bytes and their number.
///
/// A last record shorter than [`SEALED_MIN`] is none of TLS 1.3: the one before it gives it what it lacks.
pub(crate) fn frame(buffer: &mut [u8], length: usize, sizes: impl Iterator<Item = usize>) -> (usize, u16) {
    let (mut left, mut at, mut count, mut before) = (length, 0, 0, 0);
    for size in sizes {
        if left == 0 {
            break;
        }
        let mut payload = left.min(size);
        left -= payload;
        if payload < SEALED_MIN && before >= 2 * SEALED_MIN {
            let lacking = SEALED_MIN - payload;
            let start = at - lacking;
            buffer.copy_within(start..at, start + RECORD_HEADER);
            write_header(buffer, start - (before - lacking) - RECORD_HEADER, before - lacking);
            (at, payload) = (start, SEALED_MIN);
        }
        write_header(buffer, at, payload);
        at += RECORD_HEADER + payload;
        count += 1;
        before = payload;
    }
    (at, count)
}

fn write_header(buffer: &mut [u8], at: usize, payload: usize) {
    let header = buffer.get_mut(at..).and_then(|rest| rest.first_chunk_mut());
    if let (Some(header), Ok(payload)) = (header, u16::try_from(payload)) {
        *header = RecordHeader::new(content_type::APPLICATION_DATA, payload).encode();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::tls::SEALED_MAX;

    fn record(kind: u8, payload: &[u8]) -> Vec<u8> {
        let header = RecordHeader::new(kind, u16::try_from(payload.len()).unwrap());
        [&header.encode()[..], payload].concat()
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
        let stream = [record(0x14, &[1]), record(0x14, &[1]), record(0x17, b"first"), record(0x17, b"second")].concat();
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
    fn what_no_client_sends_is_refused() {
        assert_eq!(deframe(&record(0x15, &[1, 0]), &[1]), Err(RecordError::Alert));
        assert_eq!(deframe(&record(0x16, &[9; 40]), &[99]), Err(RecordError::Type));
        assert_eq!(deframe(&record(0x17, b""), &[99]), Err(RecordError::Length));
        assert_eq!(deframe(&record(0x14, &[1, 1]), &[99]), Err(RecordError::Length));
        assert_eq!(deframe(&record(0x14, &[2]), &[1]), Err(RecordError::Type));
        // One in clear is waited for as long as it lasts.
        assert_eq!(deframe(&record(0x15, &[2; 40])[..44], &[3]).unwrap(), b"");
        let changes = |count: usize| deframe(&record(0x14, &[1]).repeat(count), &[4]);
        assert_eq!((changes(32).unwrap(), changes(33)), (vec![], Err(RecordError::Type)));
        let mut deframer = Deframer::default();
        deframer.begin_session();
        assert_eq!(deframer.deframe(&mut record(0x14, &[1])), Err(RecordError::Type));
    }

    #[test]
    fn foreign_types_and_versions_are_refused() {
        assert_eq!(deframe(&record(0x13, &[1]), &[99]), Err(RecordError::Type));
        assert_eq!(deframe(&record(0x18, &[1]), &[99]), Err(RecordError::Type));
        assert_eq!(deframe(&[0x17, 3, 1, 0, 1, 0], &[99]), Err(RecordError::Version));
    }

    /// The sizes of the records that payload of a length becomes, which is checked to stay what it was.
    fn framed(length: usize, sizes: &[usize]) -> Vec<usize> {
        let payload: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
        let mut buffer = vec![0; sizes.iter().sum::<usize>() + sizes.len() * RECORD_HEADER];
        let mut rest = &payload[..];
        for place in payloads(&mut buffer, sizes.iter().copied()) {
            let part;
            (part, rest) = rest.split_at(rest.len().min(place.len()));
            place[..part.len()].copy_from_slice(part);
        }
        assert!(rest.is_empty());
        let (end, count) = frame(&mut buffer, length, sizes.iter().copied());
        assert_eq!(deframe(&buffer[..end], &[usize::MAX]).unwrap(), payload, "{length}");
        let (mut at, mut found) = (0, Vec::new());
        while at < end {
            let (header, _) = RecordHeader::split_from(&buffer[at..]).unwrap();
            found.push(usize::from(header.length));
            at += header.record_len();
        }
        assert_eq!((at, found.len()), (end, usize::from(count)));
        found
    }

    #[test]
    fn payload_becomes_records_that_tls_1_3_could_have_made() {
        let sizes = [SEALED_MAX; 3];
        for over in 0..40 {
            for whole in [0, 1, 2] {
                let length = whole * SEALED_MAX + over;
                let found = framed(length, &sizes);
                let is_possible = |size: &usize| (SEALED_MIN..=SEALED_MAX).contains(size);
                assert!(found.iter().all(is_possible) || length < SEALED_MIN, "{length}: {found:?}");
                assert_eq!(found.len(), length.div_ceil(SEALED_MAX));
            }
        }
        assert_eq!(framed(SEALED_MAX + 1, &sizes), [SEALED_MAX - 16, 17]);
        assert_eq!(framed(2 * SEALED_MAX + 17, &sizes), [SEALED_MAX, SEALED_MAX, 17]);
    }

    #[test]
    fn records_have_the_sizes_that_were_chosen() {
        let sizes = [90, 50, 120, 34];
        for length in 1..=294 {
            let found = framed(length, &sizes);
            assert!(found.iter().all(|&size| size >= SEALED_MIN || length < SEALED_MIN), "{length}: {found:?}");
            let whole = found.len().saturating_sub(2);
            assert_eq!(found[..whole], sizes[..whole], "{length}");
        }
    }
}
