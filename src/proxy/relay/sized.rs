//! Receiving from the DC when the sizes of the records to the client are chosen (`defense.doppelganger.drs`), or the
//! times between them (`defense.doppelganger.enabled`).

use std::io::{IoSliceMut, Read};
use std::net::TcpStream;

use super::direction::{Failure, Received};
use crate::proto::record_sizer::{frame, payloads};
use crate::proto::transcode::DcToClient;

/// Receives the DC's bytes with room for record headers between them and makes records of them; `now` is in
/// milliseconds.
///
/// # Errors
/// [`Failure::Source`].
pub(super) fn receive(
    mut source: &TcpStream,
    buffer: &mut [u8],
    codec: &mut DcToClient,
    now: u64,
) -> Result<Received, Failure> {
    let Some(sizer) = &mut codec.sizer else { return Ok(Received::Nothing) };
    if let Some(due) = sizer.held_until(now) {
        return Ok(Received::Later(due));
    }
    let sizes = sizer.draw(now);
    let mut slots = payloads(buffer, sizes).map(IoSliceMut::new);
    let capacity = slots.iter().map(|slot| slot.len()).sum();
    match Received::from_result(source.read_vectored(&mut slots), capacity)? {
        Received::Bytes { payload, is_full, .. } => {
            let mut left = payload;
            for part in payloads(buffer, sizes) {
                let length = left.min(part.len());
                codec.recrypt(part.get_mut(..length).unwrap_or_default());
                left -= length;
            }
            let (to_send, records) = frame(buffer, payload, sizes);
            if let Some(sizer) = &mut codec.sizer {
                sizer.made(records, is_full, now);
            }
            Ok(Received::Bytes { to_send, payload, is_full, tail_waits: false })
        }
        other => Ok(other),
    }
}
