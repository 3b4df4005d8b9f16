//! What happens to the bytes of a relay, in place, in the buffer they were received into.
//!
//! Client to DC: the payload is taken out of its TLS records, decrypted with the client's key stream and encrypted
//! with the DC's. DC to client: TLS record headers are put around it; in fast mode the DC has encrypted for the
//! client already, so there is nothing else to do.
//!
//! No record of TLS 1.3 has fewer than [`SEALED_MIN`] bytes, and a DC says shorter things. What follows from that is
//! decided in [`DcToClient`]:
//! - The rest of a packet that is known to come gets company from the record before it.
//! - The start of a packet, and a quick acknowledgement, wait for what follows: the client can do nothing with the one,
//!   and waits for an answer behind the other.
//! - A whole packet of so few bytes is an error of the transport, after which no client goes on. It waits a moment, then
//!   it is filled up to the length of an alert, and that is the end of the stream.
//! - In a stream that is none of packets it waits a moment and goes as it is.

use super::packets::{Packets, Place};
use super::record_sizer::{RecordSizer, Sizes};
use super::tls::record::{frame, payloads};
use super::tls::{RECORD_HEADER, SEALED_ALERT, SEALED_MIN};
use mtg_aes_ctr::Aes256Ctr;

pub(crate) use super::tls::SEALED_MAX as RECORD_PAYLOAD_MAX;
pub(crate) use super::tls::record::{Deframer, RecordError};

/// How long bytes that are too few for a record wait for more if nothing says that more will come, milliseconds.
const MOMENT: u64 = 100;
/// Bytes that may wait: what is too short for a record, and what is taken off the record before.
const HELD_MAX: usize = 2 * SEALED_MIN;

/// The direction from the client to the DC.
pub(crate) struct ClientToDc {
    deframer: Deframer,
    from_client: Aes256Ctr,
    to_dc: Aes256Ctr,
}

impl ClientToDc {
    pub(crate) fn new(deframer: Deframer, from_client: Aes256Ctr, to_dc: Aes256Ctr) -> Self {
        Self { deframer, from_client, to_dc }
    }

    /// Turns received bytes into bytes for the DC, at the front of the same buffer, and returns their number.
    pub(crate) fn transcode(&mut self, buffer: &mut [u8]) -> Result<usize, RecordError> {
        let length = self.deframer.deframe(buffer)?;
        self.recrypt(buffer.get_mut(..length).unwrap_or_default());
        Ok(length)
    }

    /// Changes the key stream of bytes that are out of their records already.
    pub(crate) fn recrypt(&mut self, payload: &mut [u8]) {
        self.from_client.apply_keystream(payload);
        self.to_dc.apply_keystream(payload);
    }
}

/// The direction from the DC to the client.
pub(crate) struct DcToClient {
    /// The DC's and the client's key stream; none in fast mode.
    recrypt: Option<Box<(Aes256Ctr, Aes256Ctr)>>,
    /// Chooses the sizes of the records; none if they are as large as they may be.
    pub(crate) sizer: Option<Box<RecordSizer>>,
    packets: Packets,
    held: Held,
    /// Something was filled up, so nothing can follow.
    pub(crate) is_over: bool,
}

/// Bytes for the client that are too few for a record.
struct Held {
    bytes: [u8; HELD_MAX],
    length: usize,
    /// When they go whether or not more has come, milliseconds; never if that is sure to come.
    due: Option<u64>,
}

/// Payload sizes of the records that a buffer is to become.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Layout {
    Largest,
    Chosen(Sizes),
}

impl Layout {
    fn sizes(self) -> impl Iterator<Item = usize> {
        let (chosen, largest) = match self {
            Self::Largest => (None, usize::MAX),
            Self::Chosen(sizes) => (Some(sizes), 0),
        };
        chosen.into_iter().flatten().map(usize::from).chain(std::iter::repeat_n(RECORD_PAYLOAD_MAX, largest))
    }
}

impl DcToClient {
    /// The DC's bytes are what the client expects.
    pub(crate) fn fast(packets: Packets) -> Self {
        Self {
            recrypt: None,
            sizer: None,
            packets,
            held: Held { bytes: [0; HELD_MAX], length: 0, due: None },
            is_over: false,
        }
    }

    /// The DC's bytes are decrypted and encrypted again.
    pub(crate) fn recrypting(packets: Packets, from_dc: Aes256Ctr, to_client: Aes256Ctr) -> Self {
        Self { recrypt: Some(Box::new((from_dc, to_client))), ..Self::fast(packets) }
    }

    /// The records that are to be made next.
    pub(crate) fn layout(&self) -> Layout {
        self.sizer.as_ref().map_or(Layout::Largest, |sizer| Layout::Chosen(sizer.next()))
    }

    /// The places of `buffer` that the DC's next bytes are to be received into.
    pub(crate) fn places<'a>(&self, buffer: &'a mut [u8], layout: Layout) -> impl Iterator<Item = &'a mut [u8]> {
        places(buffer, layout, self.held.length)
    }

    /// Turns `received` bytes in the [`DcToClient::places`] of a buffer into TLS records at its front, and returns the
    /// length of these. `is_more` says that more bytes are there already, `now` is in milliseconds.
    pub(crate) fn transcode(
        &mut self,
        buffer: &mut [u8],
        layout: Layout,
        received: usize,
        is_more: bool,
        now: u64,
    ) -> usize {
        let mut left = received;
        for place in places(buffer, layout, self.held.length) {
            let part = left.min(place.len());
            let part = place.get_mut(..part).unwrap_or_default();
            if let Some(streams) = &mut self.recrypt {
                streams.0.apply_keystream(part);
                streams.1.apply_keystream(part);
            }
            self.packets.read(part);
            left -= part.len();
            if left == 0 {
                break;
            }
        }
        let total = self.held.put_back(buffer) + received;
        let length = total - self.wanted(total);
        self.held.keep(payloads(buffer, layout.sizes()), length..total);
        if self.held.length > 0 {
            self.held.due = matches!(self.packets.place(), Place::Whole | Place::Unknown).then_some(now + MOMENT);
        }
        let (framed, records) = frame(buffer, length, layout.sizes());
        if let Some(sizer) = &mut self.sizer {
            sizer.made(records, is_more, now);
        }
        framed
    }

    /// How many of the last of `total` bytes wait for more.
    fn wanted(&self, total: usize) -> usize {
        let kept = match self.packets.place() {
            Place::Within(more) => SEALED_MIN.saturating_sub(usize::try_from(more).unwrap_or(usize::MAX)),
            _ => 0,
        };
        if total < SEALED_MIN + kept { total } else { kept }
    }

    /// When bytes that wait are to go, whatever comes; milliseconds.
    pub(crate) fn due(&self) -> Option<u64> {
        self.held.due.filter(|_| self.held.length > 0)
    }

    /// Makes a record of the bytes that wait, if their time has come or the DC has nothing more to say, and returns its
    /// length with the header; else 0.
    pub(crate) fn release(&mut self, buffer: &mut [u8], is_end: bool, now: u64) -> usize {
        if self.held.length == 0 || !is_end && self.due().is_none_or(|due| due > now) {
            return 0;
        }
        let mut length = self.held.put_back(buffer);
        if length < SEALED_MIN && self.packets.place() != Place::Unknown {
            let rest = buffer.get_mut(RECORD_HEADER + length..RECORD_HEADER + SEALED_ALERT);
            self.packets.fill(rest.unwrap_or_default());
            (length, self.is_over) = (SEALED_ALERT, true);
        }
        frame(buffer, length, Layout::Largest.sizes()).0
    }
}

impl Held {
    /// Puts the bytes to the front of a buffer's first payload and returns their number.
    fn put_back(&mut self, buffer: &mut [u8]) -> usize {
        let length = std::mem::take(&mut self.length);
        let place = buffer.get_mut(RECORD_HEADER..RECORD_HEADER + length);
        if let (Some(place), Some(held)) = (place, self.bytes.get(..length)) {
            place.copy_from_slice(held);
        }
        length
    }

    /// Keeps the bytes that stand at this range of all payloads together.
    fn keep<'a>(&mut self, payloads: impl Iterator<Item = &'a mut [u8]>, range: std::ops::Range<usize>) {
        if range.is_empty() {
            return;
        }
        let mut start = 0;
        for payload in payloads {
            let end = start + payload.len();
            let part = range.start.clamp(start, end) - start..range.end.clamp(start, end) - start;
            let part = payload.get(part).unwrap_or_default();
            if let Some(place) = self.bytes.get_mut(self.length..self.length + part.len()) {
                place.copy_from_slice(part);
                self.length += part.len();
            }
            if end >= range.end {
                break;
            }
            start = end;
        }
    }
}

/// The payload parts of a buffer, behind `held` bytes.
fn places(buffer: &mut [u8], layout: Layout, mut held: usize) -> impl Iterator<Item = &mut [u8]> {
    payloads(buffer, layout.sizes()).filter_map(move |payload| payload.get_mut(std::mem::take(&mut held)..))
}

/// Bytes of a buffer for that much payload and the headers of its records.
pub(crate) const fn buffer_len(payload: usize) -> usize {
    payload + payload.div_ceil(RECORD_PAYLOAD_MAX) * RECORD_HEADER
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::obfuscated2::{StreamKey, Tag};
    use crate::proto::testing::hex;
    use crate::proto::tls::RecordHeader;

    fn cipher() -> Aes256Ctr {
        StreamKey::of_tests().stream()
    }

    fn download() -> DcToClient {
        DcToClient::fast(Packets::new(Tag::Intermediate, StreamKey::of_tests()))
    }

    fn packet(length: usize) -> Vec<u8> {
        [&u32::try_from(length).unwrap().to_le_bytes()[..], &vec![7; length]].concat()
    }

    /// What the client gets of the DC's bytes when these come in pieces that end at `cuts`: the records' sizes and the
    /// payload, decrypted.
    fn relayed(download: &mut DcToClient, plain: &[u8], cuts: &[usize]) -> (Vec<usize>, Vec<u8>) {
        let mut stream = plain.to_vec();
        cipher().apply_keystream(&mut stream);
        let (mut sizes, mut payload, mut from) = (Vec::new(), Vec::new(), 0);
        for &cut in cuts.iter().chain([&plain.len()]) {
            let (mut buffer, mut piece) = (vec![0; buffer_len(cut - from + 100)], &stream[from..cut]);
            let layout = download.layout();
            for place in download.places(&mut buffer, layout) {
                let part;
                (part, piece) = piece.split_at(piece.len().min(place.len()));
                place[..part.len()].copy_from_slice(part);
            }
            let end = download.transcode(&mut buffer, layout, cut - from, false, 0);
            take_apart(&buffer[..end], &mut sizes, &mut payload);
            from = cut;
        }
        (sizes, payload)
    }

    fn take_apart(mut records: &[u8], sizes: &mut Vec<usize>, payload: &mut Vec<u8>) {
        while let Some((header, rest)) = RecordHeader::split_from(records) {
            sizes.push(usize::from(header.length));
            let (part, rest) = rest.split_at(sizes[sizes.len() - 1]);
            payload.extend(part);
            records = rest;
        }
    }

    fn decrypted(mut payload: Vec<u8>) -> Vec<u8> {
        cipher().apply_keystream(&mut payload);
        payload
    }

    fn assert_possible(plain: &[u8], cuts: &[usize]) {
        let (sizes, payload) = relayed(&mut download(), plain, cuts);
        let is_possible = |size: &usize| (SEALED_MIN..=RECORD_PAYLOAD_MAX).contains(size);
        assert!(sizes.iter().all(is_possible), "cut at {cuts:?}: {sizes:?}");
        assert!(decrypted(payload) == plain, "cut at {cuts:?}");
    }

    #[test]
    #[cfg_attr(miri, ignore = "13 000 pairs of cuts")]
    fn no_cut_of_packets_makes_a_record_that_tls_1_3_has_not() {
        let plain = [packet(60), hex("01020384"), packet(40), packet(16), packet(24)].concat();
        for first in 1..plain.len() {
            (first + 1..plain.len()).for_each(|second| assert_possible(&plain, &[first, second]));
        }
        let plain = [packet(RECORD_PAYLOAD_MAX * 2), packet(24)].concat();
        for end in [RECORD_PAYLOAD_MAX, RECORD_PAYLOAD_MAX * 2, RECORD_PAYLOAD_MAX * 2 + 4] {
            (end - 40..end + 20).for_each(|cut| assert_possible(&plain, &[cut]));
        }
    }

    #[test]
    fn a_whole_packet_never_waits() {
        let mut plain = packet(60);
        for cut in 1..plain.len() {
            assert_eq!(relayed(&mut download(), &plain, &[cut]).1.len(), plain.len(), "{cut}");
        }
        plain.extend(hex("01020384"));
        let mut download = download();
        assert_eq!(relayed(&mut download, &plain, &[64]).1.len(), 64);
        assert_eq!(download.due(), None);
    }

    #[test]
    fn an_error_is_the_length_of_an_alert_and_the_last_that_is_sent() {
        let plain = [packet(60), packet(4)].concat();
        let mut download = download();
        let (mut sizes, mut payload) = relayed(&mut download, &plain, &[64]);
        assert_eq!((sizes.as_slice(), download.due()), ([64].as_slice(), Some(MOMENT)));
        let mut buffer = vec![0; buffer_len(100)];
        assert_eq!(download.release(&mut buffer, false, MOMENT - 1), 0);
        let end = download.release(&mut buffer, false, MOMENT);
        take_apart(&buffer[..end], &mut sizes, &mut payload);
        assert_eq!((sizes, download.is_over), (vec![64, SEALED_ALERT], true));
        assert_eq!(decrypted(payload)[..plain.len()], plain);
        assert_eq!(download.release(&mut buffer, true, MOMENT), 0);
    }

    #[test]
    fn at_the_end_nothing_stays_behind() {
        for (plain, size) in [(packet(4), SEALED_ALERT), (hex("01020384"), SEALED_ALERT), (hex("00000044 0102"), 6)] {
            let (mut download, mut buffer) = (download(), vec![0; buffer_len(100)]);
            assert_eq!(relayed(&mut download, &plain, &[]).1.len(), 0);
            let end = download.release(&mut buffer, true, 0);
            let (mut sizes, mut payload) = (Vec::new(), Vec::new());
            take_apart(&buffer[..end], &mut sizes, &mut payload);
            assert_eq!(sizes, [size]);
            assert_eq!(decrypted(payload)[..plain.len()], plain);
        }
    }
}
