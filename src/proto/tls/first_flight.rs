//! A TLS 1.3 server's first flight, as far as it can be read without keys: what an observer sees of it.

use super::{PLAINTEXT_MAX, RECORD_HEADER, RecordHeader, TLS_1_2, TLS_1_3, content_type, extension, handshake_type};
use crate::proto::reader::{ReadError, Reader};

/// The random of a HelloRetryRequest (RFC 8446 section 4.1.3) begins like this.
const RETRY_RANDOM: [u8; 8] = [0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11];
/// The longest flight that we can imitate: one record, as long as TLS 1.3 makes them (RFC 8446 section 5.2: the content
/// type and a tag of 16 bytes come on top).
pub(crate) const FLIGHT_MAX: usize = PLAINTEXT_MAX + 1 + 16;

/// What a server's first flight shows in clear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FirstFlight {
    /// The cipher suite.
    pub(crate) suite: [u8; 2],
    /// The group of the key share; of a retry, the group that is asked for.
    pub(crate) group: u16,
    /// `key_share` stands before `supported_versions`.
    pub(crate) key_share_first: bool,
    /// It is a HelloRetryRequest: the server takes none of the shares.
    pub(crate) is_retry: bool,
    /// Payload bytes of each encrypted record.
    pub(crate) records: Vec<u16>,
}

impl FirstFlight {
    /// Reads all that has arrived of a flight.
    ///
    /// # Errors
    /// [`ReadError::Partial`]: no ServerHello yet, or a record lacks bytes. [`ReadError::Malformed`]: an alert, another
    /// version of TLS, or no TLS.
    pub(crate) fn parse(arrived: &[u8]) -> Result<Self, ReadError> {
        let (first, payload, mut rest) = read_record(arrived)?;
        if first.content_type != content_type::HANDSHAKE {
            return Err(ReadError::Malformed);
        }
        let mut flight = parse_server_hello(payload)?;
        while !rest.is_empty() {
            let header;
            (header, _, rest) = read_record(rest)?;
            match header.content_type {
                content_type::CHANGE_CIPHER_SPEC => {}
                content_type::APPLICATION_DATA => flight.records.push(header.length),
                _ => return Err(ReadError::Malformed),
            }
        }
        Ok(flight)
    }

    /// Payload bytes of one record that is as long as all encrypted ones together with their headers; none if there is
    /// no such record. What does not fit into one is answered with the longest that the server itself sends.
    pub(crate) fn as_one_record(&self) -> Option<u16> {
        let payload = Some(self.total()?).filter(|&total| total <= FLIGHT_MAX).or_else(|| {
            let fitting = self.records.iter().copied().map(usize::from).filter(|&payload| payload <= FLIGHT_MAX);
            fitting.max()
        });
        u16::try_from(payload?).ok().filter(|&payload| payload > 0)
    }

    /// Payload bytes of one record as long as all of them, whether there may be one or not.
    pub(crate) fn total(&self) -> Option<usize> {
        let sum: usize = self.records.iter().map(|&payload| RECORD_HEADER + usize::from(payload)).sum();
        sum.checked_sub(RECORD_HEADER)
    }
}

/// A record's header and payload, and what follows it.
fn read_record(bytes: &[u8]) -> Result<(RecordHeader, &[u8], &[u8]), ReadError> {
    let types = content_type::CHANGE_CIPHER_SPEC..=content_type::APPLICATION_DATA;
    let (header, rest) = RecordHeader::split_known(bytes, types, &[TLS_1_2])?;
    let (payload, rest) = rest.split_at_checked(header.length.into()).ok_or(ReadError::Partial)?;
    Ok((header, payload, rest))
}

/// Reads a ServerHello (RFC 8446 section 4.1.3) that fills its record, as it has to in TLS 1.3.
fn parse_server_hello(message: &[u8]) -> Result<FirstFlight, ReadError> {
    let mut hello = Reader::whole(message);
    if hello.u8()? != handshake_type::SERVER_HELLO || hello.u24()? != hello.left() {
        return Err(ReadError::Malformed);
    }
    hello.take_array::<2>()?;
    let is_retry = hello.take_array::<32>()?.starts_with(&RETRY_RANDOM);
    let session_id = usize::from(hello.u8()?);
    hello.take(session_id)?;
    let suite = *hello.take_array()?;
    hello.u8()?;
    if usize::from(hello.u16()?) != hello.left() {
        return Err(ReadError::Malformed);
    }
    let (mut version, mut group, mut key_share_first) = (None, None, false);
    while !hello.is_at_end() {
        let kind = hello.u16()?;
        let length = usize::from(hello.u16()?);
        let mut body = Reader::whole(hello.take(length)?);
        match kind {
            extension::SUPPORTED_VERSIONS => version = Some(*body.take_array()?),
            extension::KEY_SHARE => {
                key_share_first = version.is_none();
                group = Some(body.u16()?);
            }
            _ => {}
        }
    }
    match (version, group) {
        (Some(TLS_1_3), Some(group)) => {
            Ok(FirstFlight { suite, group, key_share_first, is_retry, records: Vec::new() })
        }
        _ => Err(ReadError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::testing::{EACH, rounds, seeded};
    use crate::proto::tls::group;
    use crate::proto::tls::server_hello::{self, ReplyShape};

    fn reply(shape: ReplyShape) -> Vec<u8> {
        let (mut reply, mut fill) = (Vec::new(), seeded(1));
        let share = server_hello::key_share(shape.group, &mut fill);
        server_hello::write(&mut reply, shape, &[7; 32], &share, &mut fill);
        reply
    }

    const SHAPE: ReplyShape =
        ReplyShape { suite: [0x13, 0x02], group: group::X25519, key_share_first: false, flight_len: 1000 };

    #[test]
    fn our_own_reply_is_read_as_it_was_meant() {
        for group in [group::X25519, group::X25519_MLKEM768] {
            for key_share_first in [true, false] {
                let flight = FirstFlight::parse(&reply(ReplyShape { group, key_share_first, ..SHAPE })).unwrap();
                assert_eq!((flight.group, flight.key_share_first), (group, key_share_first));
                assert_eq!((flight.suite, flight.is_retry), ([0x13, 0x02], false));
                assert_eq!((flight.records.clone(), flight.as_one_record()), (vec![1000], Some(1000)));
            }
        }
    }

    #[test]
    fn a_flight_is_partial_until_a_record_ends() {
        let reply = reply(SHAPE);
        let hello_end = reply.len() - 1005 - 6;
        for end in (0..reply.len()).step_by(EACH) {
            let is_boundary = [hello_end, hello_end + 6].contains(&end);
            let parsed = FirstFlight::parse(&reply[..end]);
            assert_eq!(parsed.is_ok(), is_boundary, "{end}");
            assert!(is_boundary || parsed == Err(ReadError::Partial), "{end}");
        }
    }

    #[test]
    fn several_records_count_with_their_headers() {
        let mut flight = reply(ReplyShape { flight_len: 30, ..SHAPE });
        flight.extend(RecordHeader::new(content_type::APPLICATION_DATA, 100).encode());
        flight.extend([9; 100]);
        let flight = FirstFlight::parse(&flight).unwrap();
        assert_eq!((flight.records.clone(), flight.as_one_record()), (vec![30, 100], Some(135)));
    }

    #[test]
    fn what_is_no_tls_1_3_is_malformed() {
        for bytes in [&b"HTTP/1.1 400 Bad Request"[..], &[0x15, 3, 3, 0, 2, 2, 40], &[0x16, 3, 1, 0, 0]] {
            assert_eq!(FirstFlight::parse(bytes), Err(ReadError::Malformed));
        }
        let mut old = reply(SHAPE);
        // The content of supported_versions.
        let at = old.windows(4).position(|bytes| bytes == [0x00, 0x2b, 0x00, 0x02]).unwrap();
        old[at + 5] = 0x03;
        assert_eq!(FirstFlight::parse(&old), Err(ReadError::Malformed));
    }

    #[test]
    fn a_retry_is_told_from_a_hello() {
        let mut retry = reply(SHAPE);
        retry[11..19].copy_from_slice(&RETRY_RANDOM);
        assert!(FirstFlight::parse(&retry).unwrap().is_retry);
    }

    #[test]
    fn what_fits_into_no_record_is_as_long_as_the_longest_that_the_server_sends() {
        for (records, wanted) in [
            (&[16_401][..], 16_401),
            (&[8000, 8396], 16_401),
            (&[8000, 8397], 8397),
            (&[30, 16_401, 16_401, 12_000], 16_401),
            (&[16_640, 4000], 4000),
        ] {
            let flight = FirstFlight {
                suite: [0x13, 0x01],
                group: 0x1d,
                key_share_first: false,
                is_retry: false,
                records: records.to_vec(),
            };
            assert_eq!(flight.as_one_record(), Some(wanted), "{records:?}");
        }
    }

    #[test]
    fn no_mutation_of_a_flight_panics() {
        let good = reply(ReplyShape { flight_len: 20, ..SHAPE });
        let mut fill = seeded(3);
        for _ in 0..rounds(20_000) {
            let (mut flight, mut bytes) = (good.clone(), [0; 6]);
            fill(&mut bytes);
            for pair in bytes.chunks(3).take(2) {
                let at = usize::from(u16::from_be_bytes([pair[0], pair[1]])) % flight.len();
                flight[at] = pair[2];
            }
            let _ = FirstFlight::parse(&flight).map(|flight| flight.as_one_record());
        }
    }
}
