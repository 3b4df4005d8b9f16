//! The ClientHello with which we ask the front how it answers clients: the shape of Telegram's own clients, which is
//! that of Chrome, with keys and random of our own.

use super::{
    RECORD_HEADER, RecordHeader, TLS_1_0, TLS_1_2, content_type, extension, group, handshake_type, mlkem, x25519,
};

/// What a hello offers; servers answer either differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offer {
    /// A share of X25519MLKEM768, and one of X25519.
    Hybrid,
    /// A share of X25519 only, as clients before 2025 sent.
    Classic,
}

/// The suites of Chrome behind its GREASE value.
const SUITES: [u16; 15] = [
    0x1301, 0x1302, 0x1303, 0xc02b, 0xc02f, 0xc02c, 0xc030, 0xcca9, 0xcca8, 0xc013, 0xc014, 0x009c, 0x009d, 0x002f,
    0x0035,
];
/// Extensions whose content never changes.
const FIXED: [(u16, &[u8]); 11] = [
    // signed_certificate_timestamp
    (0x0012, &[]),
    // application_layer_protocol_negotiation: h2, http/1.1
    (0x0010, b"\x00\x0c\x02h2\x08http/1.1"),
    // compress_certificate: brotli
    (0x001b, &[0x02, 0x00, 0x02]),
    // psk_key_exchange_modes
    (0x002d, &[0x01, 0x01]),
    // application_settings: h2
    (0x44cd, b"\x00\x03\x02h2"),
    // ec_point_formats
    (0x000b, &[0x01, 0x00]),
    // extended_master_secret
    (0x0017, &[]),
    // status_request
    (0x0005, &[0x01, 0x00, 0x00, 0x00, 0x00]),
    // session_ticket
    (0x0023, &[]),
    // renegotiation_info
    (0xff01, &[0x00]),
    // signature_algorithms: ML-DSA first, as Chrome has it since 2026. Without it, this is the hello that censors drop.
    (0x000d, b"\x00\x16\x09\x04\x09\x05\x09\x06\x04\x03\x08\x04\x04\x01\x05\x03\x08\x05\x05\x01\x08\x06\x06\x01"),
];
const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;
const SUPPORTED_GROUPS: u16 = 0x000a;

/// Writes a hello for `host` as one record and returns its random.
pub(crate) fn write(out: &mut Vec<u8>, host: &str, offer: Offer, fill: &mut dyn FnMut(&mut [u8])) -> [u8; 32] {
    let (mut random, mut session_id) = ([0; 32], [0; 32]);
    fill(&mut random);
    fill(&mut session_id);
    let extensions = extensions(host, offer, fill);

    let mut body = Vec::with_capacity(2048);
    body.extend(TLS_1_2);
    body.extend(random);
    sized8(&mut body, &session_id);
    let mut suites = grease(fill).to_be_bytes().to_vec();
    suites.extend(SUITES.iter().flat_map(|suite| suite.to_be_bytes()));
    sized16(&mut body, &suites);
    sized8(&mut body, &[0]);
    sized16(&mut body, &extensions);

    out.reserve(RECORD_HEADER + 4 + body.len());
    let length = u16::try_from(body.len() + 4).unwrap_or_default();
    out.extend(RecordHeader { content_type: content_type::HANDSHAKE, version: TLS_1_0, length }.encode());
    out.extend([handshake_type::CLIENT_HELLO, 0]);
    sized16(out, &body);
    random
}

/// All extensions: GREASE at both ends, the others shuffled.
fn extensions(host: &str, offer: Offer, fill: &mut dyn FnMut(&mut [u8])) -> Vec<u8> {
    // Chrome takes one GREASE value for the group and its share, and others elsewhere.
    let grease_group = grease(fill);
    let mut all: Vec<(u16, Vec<u8>)> = FIXED.iter().map(|&(kind, body)| (kind, body.to_vec())).collect();
    all.push((extension::SERVER_NAME, server_name(host)));
    all.push((extension::SUPPORTED_VERSIONS, supported_versions(fill)));
    all.push((SUPPORTED_GROUPS, supported_groups(grease_group, offer)));
    all.push((extension::KEY_SHARE, key_shares(grease_group, offer, fill)));
    all.push((ENCRYPTED_CLIENT_HELLO, encrypted_client_hello(fill)));
    for last in (1..all.len()).rev() {
        all.swap(last, below(last + 1, fill));
    }
    let first = grease(fill);
    // Two extensions of one type are an error.
    let mut second = grease(fill);
    if second == first {
        second ^= 0x1010;
    }
    all.insert(0, (first, Vec::new()));
    all.push((second, vec![0]));

    let mut out = Vec::with_capacity(1800);
    for (kind, body) in all {
        out.extend(kind.to_be_bytes());
        sized16(&mut out, &body);
    }
    out
}

fn server_name(host: &str) -> Vec<u8> {
    let (mut entry, mut list) = (vec![0], Vec::new());
    sized16(&mut entry, host.as_bytes());
    sized16(&mut list, &entry);
    list
}

fn supported_versions(fill: &mut dyn FnMut(&mut [u8])) -> Vec<u8> {
    let [high, low] = grease(fill).to_be_bytes();
    vec![6, high, low, 0x03, 0x04, 0x03, 0x03]
}

fn supported_groups(grease: u16, offer: Offer) -> Vec<u8> {
    let hybrid = (offer == Offer::Hybrid).then_some(group::X25519_MLKEM768);
    // X25519, secp256r1, secp384r1
    let groups = [grease].into_iter().chain(hybrid).chain([group::X25519, 0x0017, 0x0018]);
    let (groups, mut out): (Vec<u8>, _) = (groups.flat_map(u16::to_be_bytes).collect(), Vec::new());
    sized16(&mut out, &groups);
    out
}

fn key_shares(grease: u16, offer: Offer, fill: &mut dyn FnMut(&mut [u8])) -> Vec<u8> {
    let mut shares = grease.to_be_bytes().to_vec();
    sized16(&mut shares, &[0]);
    if offer == Offer::Hybrid {
        let mut key = Vec::with_capacity(mlkem::KEY_LEN + 32);
        mlkem::write_encapsulation_key(&mut key, fill);
        key.extend(x25519::random_public_key(fill));
        shares.extend(group::X25519_MLKEM768.to_be_bytes());
        sized16(&mut shares, &key);
    }
    shares.extend(group::X25519.to_be_bytes());
    sized16(&mut shares, &x25519::random_public_key(fill));
    let mut out = Vec::with_capacity(shares.len() + 2);
    sized16(&mut out, &shares);
    out
}

/// The extension as Chrome fills it when it has no key of the server: outer, AES-128-GCM with HKDF-SHA256.
fn encrypted_client_hello(fill: &mut dyn FnMut(&mut [u8])) -> Vec<u8> {
    let mut config_id = [0];
    fill(&mut config_id);
    let mut out = vec![0, 0, 1, 0, 1];
    out.extend(config_id);
    sized16(&mut out, &x25519::random_public_key(fill));
    let mut payload = vec![0; 144 + 32 * below(4, fill)];
    fill(&mut payload);
    sized16(&mut out, &payload);
    out
}

/// One of the 16 values of RFC 8701.
fn grease(fill: &mut dyn FnMut(&mut [u8])) -> u16 {
    let mut byte = [0];
    fill(&mut byte);
    u16::from_be_bytes([byte[0] & 0xf0 | 0x0a; 2])
}

/// A number below `limit`, which is small; how uniform it is does not matter.
fn below(limit: usize, fill: &mut dyn FnMut(&mut [u8])) -> usize {
    let mut bytes = [0; 2];
    fill(&mut bytes);
    usize::from(u16::from_be_bytes(bytes)) % limit
}

fn length(length: usize) -> [u8; 2] {
    u16::try_from(length).unwrap_or_default().to_be_bytes()
}

fn sized8(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(u8::try_from(bytes.len()).unwrap_or_default());
    out.extend(bytes);
}

fn sized16(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(length(bytes.len()));
    out.extend(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::testing::{recorded_hellos, rounds, seeded};
    use crate::proto::tls::client_hello::{Assembler, ClientHello, Progress};
    use std::collections::BTreeSet;

    /// The extensions' types, GREASE as one, and the signature algorithms.
    fn kinds(record: &[u8]) -> (BTreeSet<u16>, Vec<u8>) {
        let word = |at: usize| usize::from(u16::from_be_bytes([record[at], record[at + 1]]));
        let suites = 76;
        let mut at = suites + 2 + word(suites) + 2 + 2;
        let (mut kinds, mut algorithms) = (BTreeSet::new(), Vec::new());
        while at < record.len() {
            let kind = word(at) as u16;
            if kind == 0x000d {
                algorithms = record[at + 4..at + 4 + word(at + 2)].to_vec();
            }
            kinds.insert(if kind & 0x0f0f == 0x0a0a { 0x0a0a } else { kind });
            at += 4 + word(at + 2);
        }
        assert_eq!(at, record.len());
        (kinds, algorithms)
    }

    #[test]
    fn it_has_the_shape_of_the_recorded_clients() {
        let mut fill = seeded(1);
        for _ in 0..rounds(50) {
            let mut record = Vec::new();
            let random = write(&mut record, "front.example", Offer::Hybrid, &mut fill);
            let mut assembler = Assembler::default();
            assert_eq!(assembler.advance(&record), Progress::Complete(record.len()));
            let message = assembler.message(&record);
            let hello = ClientHello::parse(&message).unwrap();
            assert_eq!((hello.random, hello.session_id.len()), (&random, 32));
            assert_eq!(hello.server_name, Some(&b"front.example"[..]));
            let recorded = &recorded_hellos()[0];
            assert_eq!(kinds(&record), kinds(&recorded.record));
            let mut theirs = Assembler::default();
            theirs.advance(&recorded.record);
            let message = theirs.message(&recorded.record);
            let theirs = ClientHello::parse(&message).unwrap();
            let is_grease = |value: u16| value & 0x0f0f == 0x0a0a;
            let suites = |hello: &ClientHello<'_>| {
                hello.suites().map(u16::from_be_bytes).filter(|&suite| !is_grease(suite)).collect::<Vec<_>>()
            };
            let shares =
                |hello: &ClientHello<'_>| hello.key_shares().filter(|share| !is_grease(share.0)).collect::<Vec<_>>();
            assert_eq!((suites(&hello), shares(&hello)), (suites(&theirs), shares(&theirs)));
            assert!((1700..1900).contains(&record.len()), "{} bytes", record.len());
        }
    }

    #[test]
    fn without_the_hybrid_group_it_has_one_share() {
        let (mut record, mut fill) = (Vec::new(), seeded(2));
        write(&mut record, "front.example", Offer::Classic, &mut fill);
        let hello = ClientHello::parse(&record[5..]).unwrap();
        let shares: Vec<_> = hello.key_shares().skip(1).collect();
        assert_eq!(shares, [(group::X25519, 32)]);
        assert!(!record.windows(2).any(|pair| pair == [0x11, 0xec]) || record.len() < 800);
    }
}
