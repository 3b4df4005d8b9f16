//! The times between the records that a server sends, and their lengths.

use super::record_header::HeaderReader;
use super::{RecordHeader, content_type};

/// Lengths that are kept; what comes later is as what came before.
pub(crate) const LENGTHS_MAX: usize = 64;

/// Reads record headers out of a server's byte stream, cut anywhere, and takes the time from each application-data
/// record to the next.
#[derive(Debug, Default)]
pub(crate) struct RecordGaps {
    header: HeaderReader,
    /// Bytes of the current record's payload that have not arrived.
    left: usize,
    /// When the last record began, microseconds.
    last: Option<u64>,
    /// The answer has begun. What comes before it are handshake and the server's thoughts.
    is_counting: bool,
    /// Microseconds.
    gaps: Vec<u32>,
    /// The handshake is over.
    is_after_handshake: bool,
    /// Payload bytes of the first records since then.
    lengths: Vec<u16>,
}

impl RecordGaps {
    /// Takes in what has arrived at `now`, microseconds.
    pub(crate) fn read(&mut self, mut bytes: &[u8], now: u64) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let arrived = self.left.min(bytes.len());
                bytes = bytes.get(arrived..).unwrap_or_default();
                self.left -= arrived;
                continue;
            }
            let header;
            (header, bytes) = self.header.read(bytes);
            if let Some(header) = header {
                self.begin(header, now);
            }
        }
    }

    fn begin(&mut self, RecordHeader { content_type, length, .. }: RecordHeader, now: u64) {
        self.left = usize::from(length);
        if content_type != content_type::APPLICATION_DATA {
            return;
        }
        if self.is_after_handshake && self.lengths.len() < LENGTHS_MAX {
            self.lengths.push(length);
        }
        if let Some(last) = self.last.replace(now)
            && self.is_counting
        {
            self.gaps.push(u32::try_from(now.saturating_sub(last)).unwrap_or(u32::MAX));
        }
    }

    /// Counts from now on: the first bytes of the answer are there.
    pub(crate) fn count(&mut self) {
        self.is_counting = true;
    }

    /// Lengths count from now on: the handshake is over.
    pub(crate) fn handshake_is_over(&mut self) {
        self.is_after_handshake = true;
    }

    /// The times between the records of the answer, microseconds, and the lengths of all that came after the handshake.
    pub(crate) fn into_measured(self) -> (Vec<u32>, Vec<u16>) {
        (self.gaps, self.lengths)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_found_however_the_stream_is_cut() {
        // Type, payload, when it comes; the third is the start of the answer.
        let records =
            [(0x16, 90, 0), (0x17, 40, 5), (0x17, 16_401, 100), (0x17, 1, 130), (0x15, 2, 150), (0x17, 0, 190)];
        for piece in [1, 2, 5, 7, 1000, 100_000] {
            let mut gaps = RecordGaps::default();
            for (index, (kind, length, now)) in records.into_iter().enumerate() {
                let mut wire = RecordHeader::new(kind, u16::try_from(length).unwrap()).encode().to_vec();
                wire.resize(wire.len() + length, 0x17);
                wire.chunks(piece).for_each(|part| gaps.read(part, now));
                match index {
                    1 => gaps.handshake_is_over(),
                    2 => gaps.count(),
                    _ => {}
                }
            }
            assert_eq!(gaps.into_measured(), (vec![30, 60], vec![16_401, 1, 0]));
        }
    }
}
