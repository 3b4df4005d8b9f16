//! The ClientHello: out of its records, and out of its bytes, while it is still arriving.

use super::{PLAINTEXT_MAX, RECORD_HEADER, TLS_1_0, TLS_1_2, content_type, extension, handshake_type};
use crate::proto::reader::{ReadError, Reader};

/// Records that a ClientHello may be spread over; bypass tools of clients make up to ten.
const RECORDS_MAX: u8 = 11;
/// Bytes of the message's header: type and 24-bit length.
const MESSAGE_HEADER: usize = 4;
/// Bytes of a session id at most (RFC 8446 section 4.1.2).
const SESSION_ID_MAX: usize = 32;
/// The longest ClientHello that can be ours with its header, bytes.
const MESSAGE_MAX: usize = PLAINTEXT_MAX;

/// What has become of the first bytes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// They can still become a ClientHello.
    Partial,
    /// The ClientHello is complete; the record that ends it ends at this offset of the stream.
    Complete(usize),
    /// They cannot become one.
    Impossible,
}

/// Puts the handshake message together from the records that carry it.
#[derive(Debug, Default)]
pub(crate) struct Assembler {
    message: Vec<u8>,
    /// Bytes of the stream that are in `message` or were record headers.
    read: usize,
    /// Bytes that the current record still lacks.
    record_left: usize,
    records: u8,
    record_version: [u8; 2],
}

impl Assembler {
    /// Looks at the bytes of `stream`, the whole connection so far, that it has not seen yet.
    pub(crate) fn advance(&mut self, stream: &[u8]) -> Progress {
        loop {
            if self.is_complete() {
                return self.finish();
            }
            let fresh = stream.get(self.read..).unwrap_or_default();
            if self.record_left > 0 {
                let Some(part) = fresh.get(..self.record_left.min(fresh.len())).filter(|part| !part.is_empty()) else {
                    return self.possible();
                };
                self.message.extend_from_slice(part);
                self.record_left -= part.len();
                self.read += part.len();
                continue;
            }
            match self.read_record_header(fresh) {
                Ok(()) => {}
                Err(ReadError::Partial) => return self.possible(),
                Err(ReadError::Malformed) => return Progress::Impossible,
            }
        }
    }

    /// The handshake message with its header, without what followed it in its last record.
    pub(crate) fn message(&self) -> &[u8] {
        self.message.get(..self.message_length().unwrap_or_default()).unwrap_or(&self.message)
    }

    /// Version of the first record.
    pub(crate) fn record_version(&self) -> [u8; 2] {
        self.record_version
    }

    /// Says whether the message has arrived. (A record that goes on behind the message is read to its end
    /// by [`Assembler::finish`].)
    fn is_complete(&self) -> bool {
        self.message_length().is_some_and(|length| self.message.len() >= length) && self.record_left == 0
    }

    fn finish(&self) -> Progress {
        match ClientHello::parse(self.message()) {
            Ok(_) => Progress::Complete(self.read),
            Err(_) => Progress::Impossible,
        }
    }

    /// The verdict on a message that lacks bytes.
    fn possible(&self) -> Progress {
        match ClientHello::parse(&self.message) {
            Err(ReadError::Malformed) => Progress::Impossible,
            Ok(_) | Err(ReadError::Partial) => Progress::Partial,
        }
    }

    fn read_record_header(&mut self, fresh: &[u8]) -> Result<(), ReadError> {
        if self.records == RECORDS_MAX {
            return Err(ReadError::Malformed);
        }
        let mut reader = Reader::new(fresh, RECORD_HEADER);
        if reader.u8()? != content_type::HANDSHAKE {
            return Err(ReadError::Malformed);
        }
        if reader.u8()? != 0x03 {
            return Err(ReadError::Malformed);
        }
        let version = match reader.u8()? {
            0x01 => TLS_1_0,
            0x03 => TLS_1_2,
            _ => return Err(ReadError::Malformed),
        };
        let length = usize::from(reader.u16()?);
        if length == 0 || self.message.len() + length > MESSAGE_MAX {
            return Err(ReadError::Malformed);
        }
        if self.records == 0 {
            self.record_version = version;
        }
        self.records += 1;
        self.record_left = length;
        self.read += RECORD_HEADER;
        Ok(())
    }

    /// Length of the message with its header, once that has arrived.
    fn message_length(&self) -> Option<usize> {
        let mut reader = Reader::new(&self.message, MESSAGE_HEADER);
        reader.u8().and_then(|_| reader.u24()).ok().map(|length| MESSAGE_HEADER + length)
    }
}

/// What FakeTLS has to know of a ClientHello; it borrows the message.
///
/// ```text
/// offset  0    1        4      6         38
///         +----+--------+------+---------+----+------------+----+--------+----+---+----+------------+
///         | 01 | length | 0303 | random  | n  | session id | 2m | suites | k  | 0 | e  | extensions |
///         +----+--------+------+---------+----+------------+----+--------+----+---+----+------------+
///           1      3       2       32      1     n <= 32      2     2m     1    k    2       e
/// ```
/// (RFC 8446 section 4.1.2; lengths are big-endian.)
#[derive(Clone, Debug)]
pub(crate) struct ClientHello<'a> {
    /// The field that carries the digest.
    pub(crate) random: &'a [u8; 32],
    /// 0 to 32 bytes.
    pub(crate) session_id: &'a [u8],
    suites: &'a [u8],
    /// The name in the server_name extension.
    pub(crate) server_name: Option<&'a [u8]>,
    /// Whether there is a key_share extension at all.
    pub(crate) has_key_share: bool,
    key_shares: &'a [u8],
}

/// Offset of the random in the message.
pub(crate) const RANDOM_AT: usize = 6;

impl<'a> ClientHello<'a> {
    /// Reads a message that starts with its handshake header and may lack bytes at its end.
    pub(crate) fn parse(message: &'a [u8]) -> Result<Self, ReadError> {
        let mut header = Reader::new(message, MESSAGE_HEADER);
        if header.u8()? != handshake_type::CLIENT_HELLO {
            return Err(ReadError::Malformed);
        }
        let length = header.u24()?;
        if MESSAGE_HEADER + length > MESSAGE_MAX {
            return Err(ReadError::Malformed);
        }
        let mut body = Reader::new(message.get(MESSAGE_HEADER..).unwrap_or_default(), length);
        if body.u8()? != 0x03 || body.u8()? != 0x03 {
            return Err(ReadError::Malformed);
        }
        let random = body.take_array()?;
        let session_id_length = usize::from(body.u8()?);
        if session_id_length > SESSION_ID_MAX {
            return Err(ReadError::Malformed);
        }
        let session_id = body.take(session_id_length)?;
        let suites_length = usize::from(body.u16()?);
        if suites_length == 0 || suites_length % 2 == 1 {
            return Err(ReadError::Malformed);
        }
        let suites = body.take(suites_length)?;
        let compressions = usize::from(body.u8()?);
        if compressions == 0 {
            return Err(ReadError::Malformed);
        }
        body.take(compressions)?;
        if usize::from(body.u16()?) != body.left() {
            return Err(ReadError::Malformed);
        }
        let mut hello = Self { random, session_id, suites, server_name: None, has_key_share: false, key_shares: &[] };
        hello.parse_extensions(body)?;
        Ok(hello)
    }

    fn parse_extensions(&mut self, mut extensions: Reader<'a>) -> Result<(), ReadError> {
        while !extensions.is_at_end() {
            let kind = extensions.u16()?;
            let length = usize::from(extensions.u16()?);
            match kind {
                extension::SERVER_NAME if self.server_name.is_none() => {
                    self.server_name = parse_server_name(extensions.sub(length)?)?;
                }
                extension::KEY_SHARE => {
                    let mut body = Reader::whole(extensions.take(length)?);
                    let shares = usize::from(body.u16()?);
                    self.key_shares = body.take(shares)?;
                    self.has_key_share = true;
                }
                _ => {
                    extensions.take(length)?;
                }
            }
        }
        Ok(())
    }

    /// The cipher suites in the client's order, GREASE included.
    pub(crate) fn suites(&self) -> impl Iterator<Item = [u8; 2]> {
        self.suites.as_chunks::<2>().0.iter().copied()
    }

    /// The group and the length in bytes of every key share that the client sent, GREASE included.
    pub(crate) fn key_shares(&self) -> impl Iterator<Item = (u16, usize)> {
        let mut shares = Reader::whole(self.key_shares);
        std::iter::from_fn(move || {
            let group = shares.u16().ok()?;
            let length = usize::from(shares.u16().ok()?);
            shares.take(length).ok().map(|share| (group, share.len()))
        })
    }
}

/// Reads the server_name extension (RFC 6066 section 3) and returns its first host name.
fn parse_server_name(mut body: Reader<'_>) -> Result<Option<&[u8]>, ReadError> {
    if body.is_at_end() {
        return Ok(None);
    }
    let list_length = usize::from(body.u16()?);
    if list_length != body.left() {
        return Err(ReadError::Malformed);
    }
    let mut host = None;
    while !body.is_at_end() {
        if body.u8()? != 0 {
            return Err(ReadError::Malformed);
        }
        let length = usize::from(body.u16()?);
        let name = body.take(length)?;
        host = host.or(Some(name));
    }
    Ok(host)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::proto::testing::{VECTOR_HELLO, hex, recorded_hellos};

    /// The same message in records of the given payload sizes, the last one repeated.
    pub(crate) fn refragment(record: &[u8], sizes: &[usize]) -> Vec<u8> {
        let (mut rest, mut stream) = (&record[RECORD_HEADER..], Vec::new());
        let mut sizes = sizes.iter().chain(std::iter::repeat(sizes.last().unwrap()));
        while !rest.is_empty() {
            let (part, tail) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
            stream.extend([0x16, 3, 1]);
            stream.extend(u16::try_from(part.len()).unwrap().to_be_bytes());
            stream.extend(part);
            rest = tail;
        }
        stream
    }

    fn assemble(stream: &[u8]) -> Progress {
        Assembler::default().advance(stream)
    }

    #[test]
    fn recorded_hellos_are_complete_at_their_last_byte_and_not_before() {
        for recorded in recorded_hellos() {
            let stream = &recorded.record;
            let mut bytewise = Assembler::default();
            for end in 0..stream.len() {
                assert_eq!(bytewise.advance(&stream[..end]), Progress::Partial, "{} at {end}", recorded.file);
                assert_eq!(assemble(&stream[..end]), Progress::Partial, "{} at {end}", recorded.file);
            }
            assert_eq!(bytewise.advance(stream), Progress::Complete(stream.len()));
            let hello = ClientHello::parse(bytewise.message()).unwrap();
            assert_eq!(hello.server_name, Some(recorded.host.as_bytes()));
            assert_eq!(hello.session_id.len(), 32);
            let groups: Vec<_> = hello.key_shares().filter(|(group, _)| group & 0x0f0f != 0x0a0a).collect();
            assert_eq!(groups, [(0x11ec, 1216), (0x001d, 32)]);
        }
    }

    #[test]
    fn a_hello_may_be_spread_over_eleven_records_and_not_over_twelve() {
        let record = hex(VECTOR_HELLO);
        let message = record.len() - RECORD_HEADER;
        for sizes in [&[1, message][..], &[3, message], &[4, message], &[message.div_ceil(11)], &[42, 1, message]] {
            let stream = refragment(&record, sizes);
            let mut assembler = Assembler::default();
            assert_eq!(assembler.advance(&stream), Progress::Complete(stream.len()), "{sizes:?}");
            assert_eq!(assembler.message(), &record[RECORD_HEADER..]);
        }
        let mut sizes = vec![1; 11];
        sizes.push(message);
        let twelve = refragment(&record, &sizes);
        assert_eq!(assemble(&twelve), Progress::Impossible);
        assert_eq!(assemble(&twelve[..11 * 6 - 1]), Progress::Partial);
    }

    #[test]
    fn bytes_behind_the_message_in_its_record_are_left_out() {
        let mut record = hex(VECTOR_HELLO);
        record.push(0);
        record[4] += 1;
        let mut assembler = Assembler::default();
        assert_eq!(assembler.advance(&record[..record.len() - 1]), Progress::Partial);
        assert_eq!(assembler.advance(&record), Progress::Complete(record.len()));
        assert_eq!(assembler.message(), &hex(VECTOR_HELLO)[RECORD_HEADER..]);
    }

    #[test]
    fn the_first_impossible_byte_decides() {
        let good = hex(VECTOR_HELLO);
        // Offset and value of one changed byte, and the end of the field it is in, which decides.
        for (at, value, end) in [
            (0, b'G', 1),
            (1, 2, 2),
            (2, 2, 3),
            (3, 0x80, 5),
            (5, 2, 6),
            (6, 1, 9),
            (9, 2, 10),
            (10, 4, 11),
            (43, 33, 44),
            (77, 3, 78),
            (82, 0, 83),
            (85, 0xff, 86),
            (89, 0xff, 90),
            (91, 0xff, 92),
            (92, 5, 93),
            (94, 0xff, 95),
        ] {
            let mut stream = good.clone();
            stream[at] = value;
            assert_eq!(assemble(&stream[..end - 1]), Progress::Partial, "before {end}");
            assert_eq!(assemble(&stream[..end]), Progress::Impossible, "byte {at} = {value:#x}");
        }
    }

    #[test]
    fn no_prefix_or_mutation_of_a_hello_panics() {
        let good = hex(VECTOR_HELLO);
        let mut state = 0x9e37_79b9_u32;
        for _ in 0..20_000 {
            let mut stream = good.clone();
            for _ in 0..3 {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let at = state as usize / 7 % stream.len();
                stream[at] = (state >> 24) as u8;
            }
            stream.truncate(state as usize % 120);
            if let Progress::Complete(_) = assemble(&stream) {
                let mut assembler = Assembler::default();
                assembler.advance(&stream);
                ClientHello::parse(assembler.message()).unwrap().key_shares().count();
            }
        }
    }
}
