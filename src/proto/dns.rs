//! DNS messages (RFC 1035, AAAA: RFC 3596): one question for the addresses of a name, and what its answer says.
//!
//! Nothing is asked of EDNS: an answer that does not fit 512 bytes comes back truncated and is asked for over TCP.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use super::reader::{ReadError, Reader};

/// Header of a message: id (2) | flags (2) | number of questions, answers, authorities, additionals (2 each).
const HEADER_LEN: usize = 12;
/// Flags of a question: recursion desired.
const RECURSION_DESIRED: u16 = 0x0100;
const IS_ANSWER: u16 = 0x8000;
const IS_TRUNCATED: u16 = 0x0200;
const RCODE: u16 = 0x000f;
const NO_SUCH_NAME: u16 = 3;
const CLASS_IN: u16 = 1;
const TYPE_A: u16 = 1;
const TYPE_CNAME: u16 = 5;
const TYPE_AAAA: u16 = 28;
/// The longest name on the wire, RFC 1035 section 2.3.4.
const NAME_MAX: usize = 255;
const LABEL_MAX: usize = 63;
/// The two high bits of a length that make it a pointer.
const POINTER: u8 = 0xc0;
/// Pointers within one name; a writer that compresses well needs one.
const HOPS_MAX: usize = 16;
/// Records that are looked at; more than fit a truncated message, and enough for any web site.
const RECORDS_MAX: usize = 128;
/// Aliases from the name that was asked for to the one that has the addresses.
const ALIASES_MAX: usize = 16;

/// Which addresses are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

/// The addresses of a name, none if it has none of that family, and how long they are good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Addresses {
    pub(crate) ips: Vec<IpAddr>,
    pub(crate) ttl: Duration,
}

/// Why a message brings no addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It answers something else, so another one may still come. Not an error of the server.
    NotOurs,
    /// The whole answer is to be had over TCP.
    Truncated,
    /// There is no such name.
    NoSuchName,
    /// The server cannot or will not tell; its reason.
    Refused(u8),
    /// It breaks the rules.
    Malformed,
}

/// Makes a question: header, then name | type (2) | class (2).
///
/// None if `name` is no name that DNS can carry.
pub(crate) fn question(id: u16, name: &str, family: Family) -> Option<Vec<u8>> {
    let mut message = Vec::with_capacity(HEADER_LEN + name.len() + 6);
    for word in [id, RECURSION_DESIRED, 1, 0, 0, 0] {
        message.extend_from_slice(&word.to_be_bytes());
    }
    for label in name.strip_suffix('.').unwrap_or(name).split('.') {
        let length = u8::try_from(label.len()).ok().filter(|&length| (1..=LABEL_MAX).contains(&usize::from(length)))?;
        message.push(length);
        message.extend_from_slice(label.as_bytes());
    }
    message.push(0);
    if message.len() - HEADER_LEN > NAME_MAX {
        return None;
    }
    message.extend_from_slice(&family.record_type().to_be_bytes());
    message.extend_from_slice(&CLASS_IN.to_be_bytes());
    Some(message)
}

/// Reads the answer to `question`. It has to repeat the question, id included: that is all that keeps strangers from
/// answering.
///
/// # Errors
/// See [`Fault`].
pub(crate) fn answer(message: &[u8], question: &[u8]) -> Result<Addresses, Fault> {
    let asked = Question::read(question).map_err(|_| Fault::NotOurs)?;
    let given = Question::read(message).map_err(|_| Fault::NotOurs)?;
    if given.flags & IS_ANSWER == 0 || !given.is_same(&asked) {
        return Err(Fault::NotOurs);
    }
    if given.flags & IS_TRUNCATED != 0 {
        return Err(Fault::Truncated);
    }
    match given.flags & RCODE {
        0 => {}
        NO_SUCH_NAME => return Err(Fault::NoSuchName),
        code => return Err(Fault::Refused(code.to_be_bytes()[1])),
    }
    let records = records(message, given.end, given.answers)?;
    Ok(follow(&records, asked.name, asked.kind))
}

impl Family {
    fn record_type(self) -> u16 {
        match self {
            Self::V4 => TYPE_A,
            Self::V6 => TYPE_AAAA,
        }
    }
}

/// A header with its only question.
struct Question {
    id: u16,
    flags: u16,
    answers: u16,
    name: Vec<u8>,
    kind: u16,
    class: u16,
    /// The offset behind it.
    end: usize,
}

impl Question {
    fn read(message: &[u8]) -> Result<Self, ReadError> {
        let mut header = Reader::whole(message);
        let (id, flags, questions, answers) = (header.u16()?, header.u16()?, header.u16()?, header.u16()?);
        if questions != 1 {
            return Err(ReadError::Malformed);
        }
        let (name, after) = name_at(message, HEADER_LEN)?;
        let mut rest = Reader::whole(message.get(after..).unwrap_or_default());
        let (kind, class) = (rest.u16()?, rest.u16()?);
        Ok(Self { id, flags, answers, name, kind, class, end: after + 4 })
    }

    fn is_same(&self, other: &Self) -> bool {
        (self.id, self.kind, self.class) == (other.id, other.kind, other.class) && self.name == other.name
    }
}

/// What matters of a record.
struct Record {
    owner: Vec<u8>,
    ttl: u32,
    content: Content,
}

enum Content {
    Address(u16, IpAddr),
    Alias(Vec<u8>),
}

/// Reads the answers: owner | type (2) | class (2) | TTL (4) | length (2) | content.
fn records(message: &[u8], mut at: usize, count: u16) -> Result<Vec<Record>, Fault> {
    let mut records = Vec::new();
    for _ in 0..usize::from(count).min(RECORDS_MAX) {
        let (record, after) = record_at(message, at).map_err(|_| Fault::Malformed)?;
        records.extend(record);
        at = after;
    }
    Ok(records)
}

/// The record at an offset, unless it is of a kind that does not matter, and the offset behind it.
fn record_at(message: &[u8], at: usize) -> Result<(Option<Record>, usize), ReadError> {
    let (owner, after) = name_at(message, at)?;
    let mut reader = Reader::whole(message.get(after..).unwrap_or_default());
    let (kind, class) = (reader.u16()?, reader.u16()?);
    let ttl = u32::from_be_bytes(*reader.take_array()?);
    let length = usize::from(reader.u16()?);
    let content = reader.take(length)?;
    let start = after + 10;
    let content = match (class, kind, length) {
        (CLASS_IN, TYPE_A, 4) => content.first_chunk().map(|&ip: &[u8; 4]| (kind, Ipv4Addr::from(ip).into())),
        (CLASS_IN, TYPE_AAAA, 16) => content.first_chunk().map(|&ip: &[u8; 16]| (kind, Ipv6Addr::from(ip).into())),
        (CLASS_IN, TYPE_A | TYPE_AAAA, _) => return Err(ReadError::Malformed),
        (CLASS_IN, TYPE_CNAME, _) => {
            let (target, end) = name_at(message, start)?;
            if end != start + length {
                return Err(ReadError::Malformed);
            }
            return Ok((Some(Record { owner, ttl, content: Content::Alias(target) }), end));
        }
        _ => None,
    };
    let record = content.map(|(kind, ip)| Record { owner, ttl, content: Content::Address(kind, ip) });
    Ok((record, start + length))
}

/// Goes from alias to alias, and gathers what the last of them has.
fn follow(records: &[Record], mut name: Vec<u8>, kind: u16) -> Addresses {
    let mut ttl = u32::MAX;
    for _ in 0..ALIASES_MAX {
        let alias = records.iter().find_map(|record| match &record.content {
            Content::Alias(target) if record.owner == name => Some((target, record.ttl)),
            _ => None,
        });
        let Some((target, alias_ttl)) = alias else { break };
        ttl = ttl.min(alias_ttl);
        name.clone_from(target);
    }
    let mut ips = Vec::new();
    for record in records.iter().filter(|record| record.owner == name) {
        if let Content::Address(of, ip) = record.content
            && of == kind
            && !ips.contains(&ip)
        {
            ttl = ttl.min(record.ttl);
            ips.push(ip);
        }
    }
    Addresses { ips, ttl: Duration::from_secs(ttl.into()) }
}

/// The name at an offset, its labels with their lengths and in lower case, and the offset behind it. Pointers lead
/// backwards only, so they come to an end.
fn name_at(message: &[u8], at: usize) -> Result<(Vec<u8>, usize), ReadError> {
    let mut name = Vec::new();
    let (mut position, mut end) = (at, None);
    let mut hops = 0;
    loop {
        let mut reader = Reader::whole(message.get(position..).unwrap_or_default());
        match reader.u8()? {
            0 => return Ok((name, end.unwrap_or(position + 1))),
            length if length & POINTER == POINTER => {
                let target = usize::from(length & !POINTER) << 8 | usize::from(reader.u8()?);
                hops += 1;
                if target >= position || hops > HOPS_MAX {
                    return Err(ReadError::Malformed);
                }
                end = end.or(Some(position + 2));
                position = target;
            }
            length if usize::from(length) <= LABEL_MAX => {
                name.push(length);
                name.extend(reader.take(length.into())?.iter().map(u8::to_ascii_lowercase));
                if name.len() >= NAME_MAX {
                    return Err(ReadError::Malformed);
                }
                position += 1 + usize::from(length);
            }
            _ => return Err(ReadError::Malformed),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotOurs => f.write_str("the name server answers another question"),
            Self::Truncated => f.write_str("the name server's answer is truncated"),
            Self::NoSuchName => f.write_str("there is no such name"),
            Self::Refused(code) => write!(f, "the name server refuses with code {code}"),
            Self::Malformed => f.write_str("the name server's answer is malformed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::testing::{hex, rounds, seeded};

    /// `www.Example.com` is an alias of `a.example.com`, which has two addresses; compressed as BIND does.
    const ANSWER: &str = "1234 8180 0001 0003 0000 0000
        03777777 07657861 6d706c65 03636f6d 00 0001 0001
        c00c 0005 0001 0000012c 0004 0161 c010
        c02d 0001 0001 0000003c 0004 c0000201
        c02d 0001 0001 00000e10 0004 c0000202";

    fn asked(name: &str, family: Family) -> Vec<u8> {
        question(0x1234, name, family).unwrap()
    }

    fn addresses(ips: &[&str], secs: u64) -> Addresses {
        let ips = ips.iter().map(|ip| ip.parse().unwrap()).collect();
        Addresses { ips, ttl: Duration::from_secs(secs) }
    }

    #[test]
    fn a_question_is_what_rfc_1035_says() {
        let wire = hex("1234 0100 0001 0000 0000 0000 0161 0262 63 00 001c 0001");
        assert_eq!(asked("a.bc", Family::V6), wire);
        assert_eq!(asked("a.bc.", Family::V6), wire);
    }

    #[test]
    fn names_that_dns_cannot_carry_make_no_question() {
        let long_label = "a".repeat(64);
        let longest = ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(61)].join(".");
        assert!(question(1, &longest, Family::V4).is_some());
        for name in ["", ".", "a..b", ".a", &long_label, &format!("{longest}d")] {
            assert_eq!(question(1, name, Family::V4), None, "{name}");
        }
    }

    #[test]
    fn aliases_are_followed_and_the_shortest_ttl_counts() {
        let expected = addresses(&["192.0.2.1", "192.0.2.2"], 60);
        assert_eq!(answer(&hex(ANSWER), &asked("WWW.example.com", Family::V4)), Ok(expected));
    }

    #[test]
    fn aliases_may_stand_behind_the_addresses() {
        let message = "1234 8180 0001 0002 0000 0000 0161 00 001c 0001
            0162 00 001c 0001 0000000a 0010 20010db8 00000000 00000000 00000001
            c00c 0005 0001 00000005 0003 0162 00";
        assert_eq!(answer(&hex(message), &asked("a", Family::V6)), Ok(addresses(&["2001:db8::1"], 5)));
    }

    #[test]
    fn addresses_of_other_names_are_left_alone() {
        let message = "1234 8180 0001 0002 0000 0000 0161 00 0001 0001
            0162 00 0001 0001 0000000a 0004 c0000201
            c00c 0001 0001 00000014 0004 c0000202";
        assert_eq!(answer(&hex(message), &asked("a", Family::V4)), Ok(addresses(&["192.0.2.2"], 20)));
    }

    #[test]
    fn an_answer_to_another_question_is_not_ours() {
        let message = hex(ANSWER);
        for question in [
            question(0x1235, "www.example.com", Family::V4).unwrap(),
            asked("www.example.org", Family::V4),
            asked("www.example.com", Family::V6),
            asked("example.com", Family::V4),
        ] {
            assert_eq!(answer(&message, &question), Err(Fault::NotOurs));
        }
        let own = asked("www.example.com", Family::V4);
        assert_eq!(answer(&own, &own), Err(Fault::NotOurs), "the question itself");
    }

    #[test]
    fn flags_tell_what_went_wrong() {
        for (flags, fault) in [
            ("8380", Fault::Truncated),
            ("8183", Fault::NoSuchName),
            ("8182", Fault::Refused(2)),
            ("8185", Fault::Refused(5)),
        ] {
            let message = hex(&ANSWER.replacen("8180", flags, 1));
            assert_eq!(answer(&message, &asked("www.example.com", Family::V4)), Err(fault));
        }
    }

    #[test]
    fn a_name_without_addresses_has_none() {
        let message = "1234 8180 0001 0000 0000 0000 0161 00 0001 0001";
        assert!(answer(&hex(message), &asked("a", Family::V4)).unwrap().ips.is_empty());
    }

    #[test]
    fn loops_come_to_an_end() {
        let question = asked("a", Family::V4);
        let head = "1234 8180 0001 0001 0000 0000 0161 00 0001 0001";
        for (record, why) in [
            ("c013 0001 0001 0000000a 0004 c0000201", "a pointer to itself"),
            ("c014 0001 0001 0000000a 0004 c0000201", "a pointer forwards"),
            ("0161 c013 0001 0001 0000000a 0004 c0000201", "a name that contains itself"),
        ] {
            assert_eq!(answer(&hex(&format!("{head}{record}")), &question), Err(Fault::Malformed), "{why}");
        }
        let alias = hex(&format!("{head} c00c 0005 0001 0000000a 0002 c00c"));
        assert!(answer(&alias, &question).unwrap().ips.is_empty(), "an alias of itself");
    }

    #[test]
    fn every_cut_is_refused() {
        let (message, question) = (hex(ANSWER), asked("www.example.com", Family::V4));
        for length in 0..message.len() {
            assert!(answer(&message[..length], &question).is_err(), "{length}");
        }
    }

    #[test]
    fn mutations_do_no_harm() {
        let question = asked("www.example.com", Family::V4);
        let mut fill = seeded(1);
        for _ in 0..rounds(20_000) {
            let (mut message, mut change) = (hex(ANSWER), [0; 6]);
            fill(&mut change);
            for pair in change.chunks(2) {
                let at = usize::from(pair[0]) % message.len();
                message[at] = pair[1];
            }
            if let Ok(found) = answer(&message, &question) {
                assert!(found.ips.len() <= RECORDS_MAX);
            }
        }
    }
}
