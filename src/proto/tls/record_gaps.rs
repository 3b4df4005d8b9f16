//! The times between the records that a server sends.

use super::{RECORD_HEADER, content_type};

/// Reads record headers out of a server's byte stream, cut anywhere, and takes the time from each application-data
/// record to the next.
#[derive(Debug, Default)]
pub(crate) struct RecordGaps {
    header: [u8; RECORD_HEADER],
    header_len: usize,
    /// Bytes of the current record's payload that have not arrived.
    left: usize,
    /// When the last record began, microseconds.
    last: Option<u64>,
    /// The answer has begun. What comes before it are handshake and the server's thoughts.
    is_counting: bool,
    /// Microseconds.
    gaps: Vec<u32>,
}

impl RecordGaps {
    /// Takes in what has arrived at `now`, microseconds.
    pub(crate) fn read(&mut self, mut bytes: &[u8], now: u64) {
        while !bytes.is_empty() {
            let arrived = if self.left > 0 { self.left } else { RECORD_HEADER - self.header_len }.min(bytes.len());
            let (part, rest) = bytes.split_at(arrived);
            bytes = rest;
            if self.left > 0 {
                self.left -= arrived;
                continue;
            }
            let missing = self.header.iter_mut().skip(self.header_len);
            missing.zip(part).for_each(|(place, byte)| *place = *byte);
            self.header_len += arrived;
            if self.header_len == RECORD_HEADER {
                self.begin(now);
            }
        }
    }

    fn begin(&mut self, now: u64) {
        let [kind, _, _, high, low] = self.header;
        (self.header_len, self.left) = (0, usize::from(u16::from_be_bytes([high, low])));
        if kind != content_type::APPLICATION_DATA {
            return;
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

    /// The times between the records of the answer, microseconds.
    pub(crate) fn into_gaps(self) -> Vec<u32> {
        self.gaps
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
                let [high, low] = u16::try_from(length).unwrap().to_be_bytes();
                let mut wire = vec![kind, 3, 3, high, low];
                wire.resize(wire.len() + length, 0x17);
                wire.chunks(piece).for_each(|part| gaps.read(part, now));
                if index == 2 {
                    gaps.count();
                }
            }
            assert_eq!(gaps.into_gaps(), [30, 60]);
        }
    }
}
