//! The ClientHello: out of its records, and out of its bytes, while it is still arriving.

use std::borrow::Cow;
use std::ops::Range;

use super::{PLAINTEXT_MAX, RECORD_HEADER, RecordHeader, TLS_1_0, TLS_1_2, content_type, extension, handshake_type};
use crate::proto::reader::{ReadError, Reader};

/// Records that a ClientHello may be spread over; bypass tools of clients make up to ten.
const RECORDS_MAX: usize = 11;
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

/// Finds the handshake message in the records that carry it. The bytes stay where they were received; each is looked at
/// once, however many pieces they come in.
#[derive(Debug, Default)]
pub(crate) struct Assembler {
    /// What has arrived of each record's payload, bytes.
    payloads: [u16; RECORDS_MAX],
    records: usize,
    /// Bytes that the last record still lacks.
    record_left: usize,
    /// Bytes of the stream that have been looked at.
    read: usize,
    record_version: [u8; 2],
    walk: Walk,
}

impl Assembler {
    /// Looks at the bytes of `stream`, the whole connection so far, that it has not seen yet.
    pub(crate) fn advance(&mut self, stream: &[u8]) -> Progress {
        while !self.is_complete(stream) {
            let fresh = stream.get(self.read..).unwrap_or_default();
            if self.record_left > 0 && !fresh.is_empty() {
                self.take_payload(fresh.len());
                continue;
            }
            let header = if self.record_left > 0 { Err(ReadError::Partial) } else { self.read_record_header(fresh) };
            match header.or_else(|error| self.possible(stream, error)) {
                Ok(()) => {}
                Err(ReadError::Partial) => return Progress::Partial,
                Err(ReadError::Malformed) => return Progress::Impossible,
            }
        }
        // (A record that goes on behind the message has been read to its end.)
        match self.walk.advance(&carried(stream, &self.payloads, self.records)) {
            Ok(()) => Progress::Complete(self.read),
            Err(_) => Progress::Impossible,
        }
    }

    /// The handshake message with its header, without what followed it in its last record. It is put together if it
    /// came in several.
    pub(crate) fn message<'a>(&self, stream: &'a [u8]) -> Cow<'a, [u8]> {
        let mut left = self.walk.end;
        let mut parts = carried(stream, &self.payloads, self.records).parts().map(move |part| {
            let part = part.get(..left).unwrap_or(part);
            left -= part.len();
            part
        });
        match (parts.next(), self.records) {
            (Some(only), 1) => Cow::Borrowed(only),
            (first, _) => first.into_iter().chain(parts).collect::<Vec<_>>().concat().into(),
        }
    }

    /// What the message says, which has been read while it arrived; none unless it is complete.
    pub(crate) fn hello<'a>(&self, message: &'a [u8]) -> Option<ClientHello<'a>> {
        let is_complete = self.walk.is_at_end() && message.len() == self.walk.end;
        ClientHello::found(&self.walk, message).filter(|_| is_complete)
    }

    /// Version of the first record.
    pub(crate) fn record_version(&self) -> [u8; 2] {
        self.record_version
    }

    /// Says whether the message has arrived, with all of its last record.
    fn is_complete(&self, stream: &[u8]) -> bool {
        let message = carried(stream, &self.payloads, self.records);
        self.record_left == 0 && message.length().is_some_and(|length| message.arrived() >= length)
    }

    fn take_payload(&mut self, arrived: usize) {
        let taken = arrived.min(self.record_left);
        if let Some(payload) = self.payloads.get_mut(self.records.saturating_sub(1)) {
            *payload = payload.saturating_add(u16::try_from(taken).unwrap_or(u16::MAX));
        }
        self.record_left -= taken;
        self.read += taken;
    }

    /// There is no more for now: a message that can become none is [`ReadError::Malformed`] nevertheless.
    fn possible(&mut self, stream: &[u8], error: ReadError) -> Result<(), ReadError> {
        match self.walk.advance(&carried(stream, &self.payloads, self.records)) {
            Err(ReadError::Malformed) => Err(ReadError::Malformed),
            Ok(()) | Err(ReadError::Partial) => Err(error),
        }
    }

    fn read_record_header(&mut self, fresh: &[u8]) -> Result<(), ReadError> {
        if self.records == RECORDS_MAX {
            return Err(ReadError::Malformed);
        }
        let types = content_type::HANDSHAKE..=content_type::HANDSHAKE;
        let (header, _) = RecordHeader::split_known(fresh, types, &[TLS_1_0, TLS_1_2])?;
        let length = usize::from(header.length);
        let carried: usize = self.payloads.iter().map(|&payload| usize::from(payload)).sum();
        if length == 0 || carried + length > MESSAGE_MAX {
            return Err(ReadError::Malformed);
        }
        if self.records == 0 {
            self.record_version = header.version;
        }
        self.records += 1;
        self.record_left = length;
        self.read += RECORD_HEADER;
        Ok(())
    }
}

fn carried<'s, 'p>(stream: &'s [u8], payloads: &'p [u16], records: usize) -> Carried<'s, 'p> {
    Carried { stream, payloads: payloads.get(..records).unwrap_or_default(), header: RECORD_HEADER }
}

/// A message in the records that carry it, as far as they have arrived.
struct Carried<'s, 'p> {
    stream: &'s [u8],
    /// What has arrived of each record's payload, bytes.
    payloads: &'p [u16],
    /// Bytes before each payload.
    header: usize,
}

impl<'s, 'p> Carried<'s, 'p> {
    /// The payloads one after the other.
    fn parts(&self) -> impl Iterator<Item = &'s [u8]> + use<'s, 'p> {
        let (stream, header) = (self.stream, self.header);
        let mut start = 0;
        self.payloads.iter().map(move |&payload| {
            let from = start + header;
            start = from + usize::from(payload);
            stream.get(from..start).unwrap_or_default()
        })
    }

    fn arrived(&self) -> usize {
        self.payloads.iter().map(|&payload| usize::from(payload)).sum()
    }

    fn byte(&self, at: usize) -> Option<u8> {
        let mut left = at;
        self.parts().find_map(|part| {
            let byte = part.get(left).copied();
            left = left.saturating_sub(part.len());
            byte
        })
    }

    /// The bytes at an offset of the message, if they have arrived.
    fn bytes<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        for (place, at) in bytes.iter_mut().zip(at..) {
            *place = self.byte(at)?;
        }
        Some(bytes)
    }

    /// Length of the message with its header, once that has arrived.
    fn length(&self) -> Option<usize> {
        let [_, length @ ..] = self.bytes::<MESSAGE_HEADER>(0)?;
        Some(MESSAGE_HEADER + length.iter().fold(0, |value, &byte| value << 8 | usize::from(byte)))
    }
}

/// How far a ClientHello has been read, and what was found in it. It goes on where it stopped.
#[derive(Clone, Debug, Default)]
struct Walk {
    next: Field,
    /// Where the next field begins in the message.
    at: usize,
    /// Where the message ends, once that is known.
    end: usize,
    /// Where the extension that is being read ends.
    extension_end: usize,
    session_id: Range<usize>,
    suites: Range<usize>,
    server_name: Option<Range<usize>>,
    key_shares: Option<Range<usize>>,
}

/// A field of a ClientHello that decides something.
#[derive(Clone, Copy, Debug, Default)]
enum Field {
    #[default]
    Type,
    Length,
    Major,
    Minor,
    SessionId,
    Suites,
    Compressions,
    Extensions,
    Extension,
    ExtensionLength(u16),
    Names,
    NameType,
    NameLength,
    Shares,
}

impl Walk {
    /// Reads on as far as the message has arrived; `Ok` once it is complete.
    fn advance(&mut self, message: &Carried<'_, '_>) -> Result<(), ReadError> {
        while !self.is_at_end() {
            self.step(message)?;
        }
        if message.arrived() < self.end { Err(ReadError::Partial) } else { Ok(()) }
    }

    fn is_at_end(&self) -> bool {
        matches!(self.next, Field::Extension) && self.at == self.end
    }

    /// Reads the next field. What lies between two fields need not have arrived.
    fn step(&mut self, message: &Carried<'_, '_>) -> Result<(), ReadError> {
        self.next = match self.next {
            Field::Type => self.expect(message, MESSAGE_HEADER, handshake_type::CLIENT_HELLO, Field::Length)?,
            Field::Length => {
                let length = self.number::<3>(message, MESSAGE_HEADER)?;
                self.end = MESSAGE_HEADER + length;
                valid(self.end <= MESSAGE_MAX, Field::Major)?
            }
            Field::Major => self.expect(message, self.end, 0x03, Field::Minor)?,
            Field::Minor => self.expect(message, self.end, 0x03, Field::SessionId)?,
            Field::SessionId => {
                // The random before it is anything.
                let length = self.number_behind::<1>(message, RANDOM_LEN)?;
                self.session_id = self.skip(length, self.end)?;
                valid(length <= SESSION_ID_MAX, Field::Suites)?
            }
            Field::Suites => {
                let length = self.number::<2>(message, self.end)?;
                self.suites = self.skip(length, self.end)?;
                valid(length > 0 && length % 2 == 0, Field::Compressions)?
            }
            Field::Compressions => {
                let length = self.number::<1>(message, self.end)?;
                self.skip(length, self.end)?;
                valid(length > 0, Field::Extensions)?
            }
            Field::Extensions => {
                let length = self.number::<2>(message, self.end)?;
                valid(self.at + length == self.end, Field::Extension)?
            }
            _ => self.step_extension(message)?,
        };
        Ok(())
    }

    fn step_extension(&mut self, message: &Carried<'_, '_>) -> Result<Field, ReadError> {
        Ok(match self.next {
            Field::ExtensionLength(kind) => {
                let length = self.number::<2>(message, self.end)?;
                let body = self.skip(length, self.end)?;
                self.extension_end = body.end;
                let next = match kind {
                    extension::SERVER_NAME if self.server_name.is_none() && length > 0 => Field::Names,
                    extension::KEY_SHARE => Field::Shares,
                    _ => return Ok(Field::Extension),
                };
                self.at = body.start;
                next
            }
            // RFC 6066 section 3.
            Field::Names => {
                let length = self.number::<2>(message, self.extension_end)?;
                valid(self.at + length == self.extension_end, self.next_name())?
            }
            Field::NameType => self.expect(message, self.extension_end, 0x00, Field::NameLength)?,
            Field::NameLength => {
                let length = self.number::<2>(message, self.extension_end)?;
                let name = self.skip(length, self.extension_end)?;
                self.server_name.get_or_insert(name);
                self.next_name()
            }
            Field::Shares => {
                let length = self.number::<2>(message, self.extension_end)?;
                self.key_shares = Some(self.skip(length, self.extension_end)?);
                self.at = self.extension_end;
                Field::Extension
            }
            _ => {
                let kind = self.number::<2>(message, self.end)?;
                Field::ExtensionLength(u16::try_from(kind).unwrap_or_default())
            }
        })
    }

    fn next_name(&self) -> Field {
        if self.at < self.extension_end { Field::NameType } else { Field::Extension }
    }

    /// Reads a big-endian number of `N` bytes that has to end at `limit` or before.
    fn number<const N: usize>(&mut self, message: &Carried<'_, '_>, limit: usize) -> Result<usize, ReadError> {
        let start = self.at;
        let field = self.skip(N, limit)?;
        match message.bytes::<N>(field.start) {
            Some(bytes) => Ok(bytes.iter().fold(0, |value, &byte| value << 8 | usize::from(byte))),
            None => {
                self.at = start;
                Err(ReadError::Partial)
            }
        }
    }

    /// The same behind `gap` bytes that may be anything.
    fn number_behind<const N: usize>(&mut self, message: &Carried<'_, '_>, gap: usize) -> Result<usize, ReadError> {
        let start = self.at;
        self.skip(gap, self.end)?;
        self.number::<N>(message, self.end).inspect_err(|_| self.at = start)
    }

    fn expect(&mut self, message: &Carried<'_, '_>, limit: usize, byte: u8, then: Field) -> Result<Field, ReadError> {
        let found = self.number::<1>(message, limit)?;
        valid(found == usize::from(byte), then)
    }

    /// Passes over `length` bytes that have to end at `limit` or before.
    fn skip(&mut self, length: usize, limit: usize) -> Result<Range<usize>, ReadError> {
        let passed = self.at..self.at + length;
        if passed.end > limit {
            return Err(ReadError::Malformed);
        }
        self.at = passed.end;
        Ok(passed)
    }
}

fn valid(is_valid: bool, next: Field) -> Result<Field, ReadError> {
    if is_valid { Ok(next) } else { Err(ReadError::Malformed) }
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
    /// All of it, with its header.
    pub(crate) message: &'a [u8],
    /// The field that carries the digest.
    pub(crate) random: &'a [u8; RANDOM_LEN],
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
const RANDOM_LEN: usize = 32;

impl<'a> ClientHello<'a> {
    /// Reads a message that starts with its handshake header and may lack bytes at its end.
    pub(crate) fn parse(message: &'a [u8]) -> Result<Self, ReadError> {
        let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
        let mut walk = Walk::default();
        walk.advance(&Carried { stream: message, payloads: &[length], header: 0 })?;
        Self::found(&walk, message).ok_or(ReadError::Malformed)
    }

    /// What a walk that has come to the end of `message` has found there.
    fn found(walk: &Walk, message: &'a [u8]) -> Option<Self> {
        let part = |range: &Range<usize>| message.get(range.clone());
        Some(Self {
            message,
            random: message.get(RANDOM_AT..)?.first_chunk()?,
            session_id: part(&walk.session_id)?,
            suites: part(&walk.suites)?,
            server_name: walk.server_name.as_ref().and_then(part),
            has_key_share: walk.key_shares.is_some(),
            key_shares: walk.key_shares.as_ref().and_then(part).unwrap_or_default(),
        })
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

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::proto::testing::{EACH, VECTOR_HELLO, hex, recorded_hellos, rounds};

    /// The same message in records of the given payload sizes, the last one repeated.
    pub(crate) fn refragment(record: &[u8], sizes: &[usize]) -> Vec<u8> {
        let (mut rest, mut stream) = (&record[RECORD_HEADER..], Vec::new());
        let mut sizes = sizes.iter().chain(std::iter::repeat(sizes.last().unwrap()));
        while !rest.is_empty() {
            let (part, tail) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
            let length = u16::try_from(part.len()).unwrap();
            stream.extend(RecordHeader { content_type: 0x16, version: TLS_1_0, length }.encode());
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
            for end in (0..stream.len()).step_by(EACH) {
                assert_eq!(bytewise.advance(&stream[..end]), Progress::Partial, "{} at {end}", recorded.file);
                assert_eq!(assemble(&stream[..end]), Progress::Partial, "{} at {end}", recorded.file);
            }
            assert_eq!(bytewise.advance(stream), Progress::Complete(stream.len()));
            let message = bytewise.message(stream);
            let hello = ClientHello::parse(&message).unwrap();
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
            assert_eq!(*assembler.message(&stream), record[RECORD_HEADER..]);
        }
        let mut sizes = vec![1; 11];
        sizes.push(message);
        let twelve = refragment(&record, &sizes);
        assert_eq!(assemble(&twelve), Progress::Impossible);
        assert_eq!(assemble(&twelve[..11 * 6 - 1]), Progress::Partial);
    }

    #[test]
    fn what_was_read_while_it_arrived_is_what_the_message_says() {
        for recorded in recorded_hellos() {
            for size in [1 << 14, 300, recorded.record.len() / 2] {
                let stream = refragment(&recorded.record, &[size]);
                let mut assembler = Assembler::default();
                for end in (0..stream.len()).step_by(if cfg!(miri) { 997 } else { 97 }) {
                    assert_eq!(assembler.advance(&stream[..end]), Progress::Partial, "{end}");
                    assert!(assembler.hello(&assembler.message(&stream[..end])).is_none(), "{end}");
                }
                assert_eq!(assembler.advance(&stream), Progress::Complete(stream.len()));
                let message = assembler.message(&stream);
                let (read, parsed) = (assembler.hello(&message).unwrap(), ClientHello::parse(&message).unwrap());
                assert_eq!(format!("{read:?}"), format!("{parsed:?}"), "records of {size}");
                assert_eq!(read.message.len(), recorded.record.len() - RECORD_HEADER);
            }
        }
    }

    #[test]
    fn bytes_behind_the_message_in_its_record_are_left_out() {
        let mut record = hex(VECTOR_HELLO);
        record.push(0);
        record[4] += 1;
        let mut assembler = Assembler::default();
        assert_eq!(assembler.advance(&record[..record.len() - 1]), Progress::Partial);
        assert_eq!(assembler.advance(&record), Progress::Complete(record.len()));
        assert_eq!(*assembler.message(&record), hex(VECTOR_HELLO)[RECORD_HEADER..]);
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
    fn each_byte_is_looked_at_once() {
        // Four thousand empty extensions: looking at all of them again for each byte would take minutes.
        let mut message = hex(VECTOR_HELLO)[RECORD_HEADER..RECORD_HEADER + RANDOM_AT + RANDOM_LEN].to_vec();
        let extensions = [[0x55, 0x55, 0, 0]; 4000].concat();
        message.extend([0, 0, 2, 0x13, 1, 1, 0]);
        message.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
        message.extend(extensions);
        let length = u16::try_from(message.len() - MESSAGE_HEADER).unwrap();
        message[2..4].copy_from_slice(&length.to_be_bytes());
        let record = [&[0x16, 3, 1], &(length + 4).to_be_bytes()[..], &message].concat();
        let mut bytewise = Assembler::default();
        for end in (0..record.len()).step_by(EACH) {
            let before = bytewise.walk.at;
            assert_eq!(bytewise.advance(&record[..end]), Progress::Partial, "{end}");
            // One field may be passed at a time, and nothing is read a second time.
            assert!((before..before + 70).contains(&bytewise.walk.at) && bytewise.walk.at + 70 > end, "{end}");
        }
        assert_eq!(bytewise.advance(&record), Progress::Complete(record.len()));
    }

    #[test]
    fn no_prefix_or_mutation_of_a_hello_panics() {
        let good = hex(VECTOR_HELLO);
        let mut state = 0x9e37_79b9_u32;
        for _ in 0..rounds(20_000) {
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
                ClientHello::parse(&assembler.message(&stream)).unwrap().key_shares().count();
            }
        }
    }
}
