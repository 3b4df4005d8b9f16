//! Entries for the parsers of what strangers and servers send, and of what owners write.

use super::seeded;
use crate::config::Config;
use crate::proto::faketls::Digest;
use crate::proto::handshake::{Env, Handshake, Step};
use crate::proto::secret::Secret;
use crate::proto::tls::client_hello::ClientHello;
use crate::proto::tls::server_hello::ReplyShape;

/// A connection's first bytes, whole and byte by byte: the verdict must be the same.
pub(super) fn handshake(input: &[u8]) {
    let verdicts = [input.len().max(1), 1].map(|size| {
        let Ok(secret) = Secret::new(*b"0123456789abcdef", "front.example") else { return None };
        let (mut machine, mut reply) = (Handshake::new(), Vec::new());
        for piece in input.chunks(size) {
            let mut fill = seeded();
            let mut first_seen = |_: &Digest| true;
            let reply_shape = |_: &ClientHello<'_>, fill: &mut dyn FnMut(&mut [u8])| ReplyShape::usual(fill);
            let (fill, first_seen) = (&mut fill, &mut first_seen);
            let mut env = Env { now: 0, tolerance: 60, fill, first_seen, reply_shape: &reply_shape };
            match machine.handle(piece, &secret, &mut env, &mut reply) {
                Step::Read => {}
                Step::Front(reason) => return Some(reason.as_str()),
                Step::Close { .. } | Step::Reply { .. } | Step::Established(_) => return Some("a client"),
            }
        }
        None
    });
    assert_eq!(verdicts[0], verdicts[1]);
}

/// An answer to a question that had the nonce which stands in it.
pub(super) fn sntp(input: &[u8]) {
    use crate::proto::sntp;
    let nonce = input.get(24..).and_then(|rest| rest.first_chunk::<8>()).copied().unwrap_or_default();
    if let Some(answer) = sntp::answer(input, nonce) {
        let distance = sntp::offset(answer, 0, 0);
        assert!((-(1i64 << 41)..1 << 43).contains(&distance), "{distance}");
    }
}

/// A data centre's answer to a question that had the nonce which stands in it.
pub(super) fn mtproto(input: &[u8]) {
    let nonce = input.get(24..).and_then(|rest| rest.first_chunk::<16>()).copied().unwrap_or_default();
    if let Some(clock) = crate::proto::mtproto::res_pq(input, &nonce) {
        assert!(i32::try_from(clock).is_ok(), "{clock}");
    }
}

/// A client's records, cut at the first byte's place: the payload must be the same.
pub(super) fn records(input: &[u8]) {
    use crate::proto::transcode::Deframer;
    let Some((&cut, stream)) = input.split_first() else { return };
    let deframe = |pieces: &[&[u8]]| {
        let (mut deframer, mut payload) = (Deframer::default(), Vec::new());
        for piece in pieces {
            let mut piece = piece.to_vec();
            let length = deframer.deframe(&mut piece).ok()?;
            payload.extend_from_slice(&piece[..length]);
        }
        Some(payload)
    };
    let (head, tail) = stream.split_at(stream.len().min(cut.into()));
    assert_eq!(deframe(&[head, tail]), deframe(&[stream]));
}

/// A load balancer's header: it is complete with its last byte, and says the same whatever follows.
pub(super) fn proxy_protocol(input: &[u8]) {
    use crate::proto::proxy_protocol::{Origin, Parsed, parse, v2_header};
    let Parsed::Done { origin, length } = parse(input) else { return };
    assert_eq!(parse(&input[..length]), parse(input));
    assert!((0..length).all(|cut| parse(&input[..cut]) == Parsed::Partial));
    if let Origin::Proxied { source, destination } = origin {
        assert!(matches!(parse(&v2_header(source, destination)), Parsed::Done { origin: Origin::Proxied { .. }, .. }));
    }
}

/// What a SOCKS5 proxy answers: the dialogue ends.
pub(super) fn socks5(input: &[u8]) {
    use crate::proto::socks5::{Dialogue, Step};
    let Ok(mut dialogue) = Dialogue::new(Some(("user", "password")), "192.0.2.1", 443) else { return };
    let (mut rest, mut received, mut steps) = (input, &input[..0], 0);
    while let Ok(Step::Exchange { receive, .. }) = dialogue.next(received) {
        let Some((answer, more)) = rest.split_at_checked(receive) else { return };
        (received, rest, steps) = (answer, more, steps + 1);
        assert!(steps < 8, "the dialogue has no end");
    }
}

/// What the front answers when we look at it: what is wrong stays wrong whatever follows.
pub(super) fn first_flight(input: &[u8]) {
    use crate::proto::reader::ReadError;
    use crate::proto::tls::first_flight::FirstFlight;
    let whole = FirstFlight::parse(input).map(|flight| flight.as_one_record());
    for cut in 0..input.len() {
        if FirstFlight::parse(&input[..cut]) == Err(ReadError::Malformed) {
            assert_eq!(whole, Err(ReadError::Malformed));
        }
    }
}

/// A name server's answer to the question that it begins with.
pub(super) fn dns(input: &[u8]) {
    use crate::proto::dns;
    let mut question = input.to_vec();
    // What makes an answer one, and what says how many records there are.
    for at in [2, 7] {
        if let Some(byte) = question.get_mut(at) {
            *byte = 0;
        }
    }
    if let Ok(found) = dns::answer(input, &question) {
        assert!(found.ips.len() <= 128);
    }
}

/// What a STUN server answers.
pub(super) fn stun(input: &[u8]) {
    use crate::proto::stun;
    let transaction = input.get(8..20).and_then(|bytes| bytes.try_into().ok()).unwrap_or_default();
    let request = stun::request(transaction);
    if stun::mapped_address(input, &request).is_some() {
        assert!(stun::mapped_address(&input[..19], &request).is_none());
    }
}

/// A list of networks, cut at the first byte's place: it must be the same.
pub(super) fn ip_list(input: &[u8]) {
    use crate::guard::iplist::{Builder, Room};
    let Some((&cut, text)) = input.split_first() else { return };
    let read = |pieces: &[&[u8]]| {
        let mut builder = Builder::new(Room::new(1 << 20), 1 << 20);
        pieces.iter().all(|piece| builder.feed(piece));
        builder.finish().map(|(list, bad)| (list.networks(), list.bytes(), bad))
    };
    let (head, tail) = text.split_at(text.len().min(cut.into()));
    assert_eq!(read(&[head, tail]), read(&[text]));
}

/// A secret's text: what is accepted is printed as what it was.
pub(super) fn secret(input: &[u8]) {
    let Some(secret) = std::str::from_utf8(input).ok().and_then(|text| text.parse::<Secret>().ok()) else { return };
    assert_eq!(secret.to_hex().parse(), Ok(secret.clone()));
    assert_eq!(secret.to_base64().parse(), Ok(secret));
}

/// A URL: what is shown of it is the same URL, without user name and password; a redirect leads to another.
pub(super) fn url(input: &[u8]) {
    use crate::proto::url::Url;
    let Some((text, location)) =
        std::str::from_utf8(input).ok().map(|text| text.split_once('\n').unwrap_or((text, "/")))
    else {
        return;
    };
    let Ok(url) = text.parse::<Url>() else { return };
    let without = Url { authorization: None, ..url.clone() };
    assert_eq!(url.to_string().parse(), Ok(without));
    if let Some(other) = url.join(location) {
        assert!(other.target.starts_with('/') && other.to_string().parse::<Url>().is_ok(), "{other}");
        // Unless it has a password of its own, it gets ours only where it leads back.
        let is_same = other.host == url.host && other.port == url.port && other.is_https == url.is_https;
        assert!(other.authorization.is_none() || is_same || location.contains('@'), "{other}");
    }
}

/// A configuration file.
pub(super) fn config(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Err(errors) = Config::parse(text, "fuzzed.conf") {
        assert!(errors.iter().next().is_some());
    }
}
