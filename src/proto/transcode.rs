//! What happens to the bytes of a relay, in place, in the buffer they were received into.
//!
//! Client to DC: the payload is taken out of its TLS records, decrypted with the client's key stream and encrypted
//! with the DC's. DC to client: TLS record headers are put around it; in fast mode the DC has encrypted for the
//! client already, so there is nothing else to do.

use super::record_sizer::RecordSizer;
use super::tls::RECORD_HEADER;
use super::tls::record::{SLOT, frame_slots};
use mtg_aes_ctr::Aes256Ctr;

pub(crate) use super::tls::PLAINTEXT_MAX as RECORD_PAYLOAD_MAX;
pub(crate) use super::tls::record::{Deframer, RecordError};

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
}

impl DcToClient {
    /// The DC's bytes are what the client expects.
    pub(crate) fn fast() -> Self {
        Self { recrypt: None, sizer: None }
    }

    /// The DC's bytes are decrypted and encrypted again.
    pub(crate) fn recrypting(from_dc: Aes256Ctr, to_client: Aes256Ctr) -> Self {
        Self { recrypt: Some(Box::new((from_dc, to_client))), sizer: None }
    }

    /// Turns `length` bytes that were received into the payload parts of the buffer's slots (see [`slots`]) into
    /// TLS records, and returns the length of these.
    pub(crate) fn transcode(&mut self, buffer: &mut [u8], length: usize) -> usize {
        if let Some(streams) = &mut self.recrypt {
            let (from_dc, to_client) = &mut **streams;
            let mut left = length;
            for payload in slots(buffer) {
                let part = left.min(payload.len());
                let payload = payload.get_mut(..part).unwrap_or_default();
                from_dc.apply_keystream(payload);
                to_client.apply_keystream(payload);
                left -= part;
            }
        }
        frame_slots(buffer, length)
    }

    /// Changes the key stream of bytes that are to be sent in records of chosen sizes.
    pub(crate) fn recrypt(&mut self, payload: &mut [u8]) {
        if let Some(streams) = &mut self.recrypt {
            streams.0.apply_keystream(payload);
            streams.1.apply_keystream(payload);
        }
    }
}

/// Bytes of a buffer for that much payload and the headers of its records.
pub(crate) const fn buffer_len(payload: usize) -> usize {
    payload + payload.div_ceil(RECORD_PAYLOAD_MAX) * RECORD_HEADER
}

/// The payload parts of a buffer that is to become records, of the largest payload at most, with room for a
/// record header before each.
pub(crate) fn slots(buffer: &mut [u8]) -> impl Iterator<Item = &mut [u8]> {
    buffer.chunks_mut(SLOT).filter_map(|slot| slot.get_mut(RECORD_HEADER..))
}
