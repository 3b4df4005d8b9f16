//! Entries for what comes to the WEB proxy: requests, WebSocket frames, and the frames that streams are made of.

use super::assert_same;
use crate::proto::web::frame::{self, Frame, Frames};
use crate::proto::web::portion::Portion;
use crate::proto::web::request::{self, HEAD_MAX, Head, Parsed};
use crate::proto::web::session::Session;
use crate::proto::web::site::Site;
use crate::proto::web::socket::{Messages, Said};
use crate::proto::web::{BATCH_MAX, FRAMES_MAX};

/// The key, host and path that the seeds' capability is made with.
const KEY: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
const HOST: &str = "proxy.example.com";
const PATH: &str = "two/Segments_x-9";

/// Places at which a head is cut, spread over it; each costs as much as the whole.
const CUTS: usize = 64;

/// A request's head: it is there with its last byte and says the same whatever follows; what is wrong stays wrong.
pub(super) fn request(input: &[u8]) {
    let site = Site::new(HOST, PATH, &KEY);
    let shown = |bytes: &[u8]| match request::parse(bytes, &site) {
        Parsed::Partial => None,
        Parsed::Head(head) => Some(Some(format!("{head:?}"))),
        Parsed::Bad => Some(None),
    };
    let whole = request::parse(input, &site);
    let end = if let Parsed::Head(Head { length, .. }) = whole { length } else { input.len() };
    assert!(end <= HEAD_MAX || matches!(whole, Parsed::Bad), "{end}");
    if matches!(whole, Parsed::Head(_)) {
        assert_eq!(shown(&input[..end]), shown(input));
    }
    for cut in (0..end).step_by((end / CUTS).max(1)) {
        match request::parse(&input[..cut], &site) {
            Parsed::Partial => assert!(cut < HEAD_MAX),
            Parsed::Bad => assert_eq!(shown(input), Some(None), "at {cut}"),
            Parsed::Head(_) => panic!("a head of {end} bytes ends at {cut}"),
        }
    }
}

/// WebSocket frames, cut at the first byte's place and byte by byte: the same is said.
pub(super) fn socket(input: &[u8]) {
    let Some((&cut, stream)) = input.split_first() else { return };
    let said = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let (mut messages, mut all) = (Messages::default(), Vec::new());
        for mut piece in pieces {
            while !piece.is_empty() {
                match messages.take(&mut piece) {
                    Ok(Said::Nothing) => assert!(piece.is_empty(), "bytes are left"),
                    Ok(said) => all.push(Ok(said)),
                    Err(code) => {
                        all.push(Err(code));
                        return all;
                    }
                }
                assert!(messages.held() <= 2 * BATCH_MAX);
            }
        }
        all
    };
    let whole = said(&mut std::iter::once(stream));
    let (head, tail) = stream.split_at(stream.len().min(cut.into()));
    assert_same(&whole, &said(&mut [head, tail].into_iter()), input);
    assert_same(&whole, &said(&mut stream.chunks(1)), input);
}

/// The frames of a batch: what is read is written as it was, and a session takes them together as it takes them one by
/// one, and holds no more than came.
pub(super) fn frames(input: &[u8]) {
    let all: Result<Vec<_>, _> = Frames::new(input).collect();
    let content = frame::check(input);
    assert_eq!(content.is_ok(), all.is_ok() && !input.is_empty());
    let mut whole = Session::new(Portion::fixed(BATCH_MAX));
    let is_taken = whole.apply(input).is_ok();
    let Ok(all) = all else { return assert!(!is_taken, "a broken batch is taken") };
    assert!(all.len() <= FRAMES_MAX);
    let payloads = all.iter().map(|frame| if let Frame::Data(_, payload) = frame { payload.len() } else { 0 });
    assert_eq!(content.unwrap_or_default().payload, payloads.sum::<usize>());
    let batches: Vec<_> = all.iter().map(written).collect();
    assert_eq!(batches.concat().len(), input.len() - pong_payloads(&batches, input));
    let mut single = Session::new(Portion::fixed(BATCH_MAX));
    assert_eq!(batches.iter().all(|batch| single.apply(batch).is_ok()), is_taken);
    if is_taken {
        assert_eq!(single.upload_len(), whole.upload_len());
        assert!(whole.upload_len() <= input.len());
    }
}

/// A frame as its client has written it; a PONG without its payload, which nobody reads.
fn written(frame: &Frame<'_>) -> Vec<u8> {
    match *frame {
        Frame::Open(id) => {
            let [_, a, b, c] = id.to_be_bytes();
            vec![0x01, a, b, c, 0, 0, 0, 0]
        }
        Frame::Data(id, payload) => [frame::data_header(id, payload.len()).as_slice(), payload].concat(),
        Frame::Close(id) => frame::close(id).to_vec(),
        Frame::Window(id, credit) => frame::window(id, credit),
        Frame::Pong => vec![0x06, 0, 0, 0, 0, 0, 0, 0],
    }
}

/// Bytes of the PONGs of a batch; all other frames stand in it as they were written.
fn pong_payloads(batches: &[Vec<u8>], input: &[u8]) -> usize {
    let (mut at, mut payloads) = (0, 0);
    for batch in batches {
        let length = input[at..].get(4..8).and_then(|length| length.try_into().ok()).map_or(0, u32::from_be_bytes);
        if batch[0] == 0x06 {
            payloads += length as usize;
        } else {
            assert_eq!(input[at..].get(..batch.len()), Some(batch.as_slice()));
        }
        at += frame::HEADER + length as usize;
    }
    payloads
}
