//! The played parts agree with known vectors, with recorded clients and with each other.

use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};

use crate::support::client::{self, CHANGE_CIPHER_SPEC, Greeted};
use crate::support::dc::{BlackHole, EchoDc, FakeDc};
use crate::support::front::FakeFront;
use crate::support::hello::{Hello, RANDOM, Recorded, Shape, Signed, hmac, now_secs, sign};
use crate::support::obfuscated2::{self, PADDED};
use crate::support::pattern::Pattern;
use crate::support::socket::{self, End};
use crate::support::{self, HOST, KEY, hex, random};
use ctr::cipher::StreamCipher;

/// The hello of key 00…0f and host `front.example`, stamped 1700000000.
const HELLO: &str = "16030100670100006303033b279664c417024fe97527d9fa52a7953c469d6a5aeeeccc6d69ef1c0dcc028b\
    20404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f00042a2a13010100001600000012001000000d\
    66726f6e742e6578616d706c65";

/// The reply to it, its random first.
const REPLY: (&str, &str, &str) = (
    "160303007a020000760303",
    "6f79deae078beb61e612a40c0537d02f724afd8851f4ba281fe1c74130f8a582",
    "20404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f130100002e002b0002030400330024001d0020\
     808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f1403030001011703030010c0c1c2c3c4c5c6c7c8\
     c9cacbcccdcecf",
);

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

#[test]
fn hello_vector_is_signed_as_the_vector_says() {
    let hello = Signed { wire: bytes(HELLO) };
    assert_eq!(hello.signed_at(&KEY), Some(1_700_000_000));
    assert_eq!((hello.sni().as_deref(), hello.suites()), (Some(HOST), vec![0x2a2a, 0x1301]));
    let mut again = hello.wire.clone();
    sign(&mut again, &KEY, 1_700_000_000);
    assert_eq!(again, hello.wire);
}

#[test]
fn reply_vector_has_the_digest_of_the_vector() {
    let hello = Signed { wire: bytes(HELLO) };
    let zeroed = [bytes(REPLY.0), vec![0; 32], bytes(REPLY.2)].concat();
    assert_eq!(hex(&hmac(&KEY, &[hello.random(), &zeroed])), REPLY.1);
}

#[test]
fn frame_vectors_are_read_and_written_as_the_vector_says() {
    let mut noise = [0; 64];
    noise.iter_mut().zip(0x10..).for_each(|(byte, value)| *byte = value);
    noise[62..].copy_from_slice(&[0xaa, 0xbb]);
    let mut sent = obfuscated2::frame_with(noise, Some(&KEY), PADDED, -4);
    assert_eq!(hex(&sent.wire[56..]), "cd1e4b2a627149ad");
    let mut received = obfuscated2::receive(&sent.wire, Some(&KEY));
    assert_eq!((received.tag, received.dc), (PADDED, -4));
    for (cipher, keystream) in [
        (&mut sent.write, "708fedc3cab0c0c3"),
        (&mut received.read, "708fedc3cab0c0c3"),
        (&mut sent.read, "20558df703a14c62"),
        (&mut received.write, "20558df703a14c62"),
    ] {
        let mut zeros = [0; 8];
        cipher.apply_keystream(&mut zeros);
        assert_eq!(hex(&zeros), keystream);
    }
}

#[test]
fn frame_without_a_secret_is_written_as_the_vector_says() {
    let mut noise = [0; 64];
    noise.iter_mut().zip(0x60..).for_each(|(byte, value)| *byte = value);
    assert_eq!(hex(&obfuscated2::frame_with(noise, None, PADDED, 2).wire[56..]), "aa34deea78216d48");
}

#[test]
fn recorded_hellos_are_signed_as_their_index_says() {
    let all = Recorded::all();
    assert!(all.len() >= 10, "{} recorded hellos", all.len());
    for recorded in all {
        let key = bytes(&recorded.key).try_into().unwrap();
        let hello = Signed { wire: recorded.wire() };
        assert_eq!(hello.signed_at(&key), Some(recorded.client_time), "{}", recorded.file);
        assert_eq!(hello.sni(), Some(recorded.host), "{}", recorded.file);
        assert_eq!(hello.share_groups()[1..], [0x11ec, 0x001d], "{}", recorded.file);
    }
}

#[test]
fn made_hellos_have_the_size_and_the_offers_of_real_ones() {
    let compact = Hello::default().sign();
    assert_eq!((compact.wire.len(), compact.share_groups()), (517, vec![0x001d]));
    let browser = Hello { shape: Shape::Browser, ..Hello::default() }.sign();
    assert!((1700..1900).contains(&browser.wire.len()), "{} bytes", browser.wire.len());
    assert_eq!(browser.share_groups(), [0x2a2a, 0x11ec, 0x001d]);
    for hello in [compact, browser] {
        assert!(now_secs().abs_diff(i64::from(hello.signed_at(&KEY).unwrap())) < 5);
        assert_eq!(hello.sni().as_deref(), Some(HOST));
        assert_eq!(hello.signed_at(&random()), None, "any key signs the hello");
    }
}

#[test]
fn hello_in_records_is_the_same_hello() {
    let hello = Hello::default().sign();
    let mut wire = &hello.in_records(11)[..];
    let mut payload = Vec::new();
    for _ in 0..11 {
        let len = usize::from(u16::from_be_bytes([wire[3], wire[4]]));
        payload.extend(&wire[5..5 + len]);
        wire = &wire[5 + len..];
    }
    assert_eq!((wire.len(), &payload[..]), (0, &hello.wire[5..]));
}

#[test]
fn pattern_does_not_depend_on_how_it_is_cut() {
    let whole = Pattern::new(7).take(1000);
    for size in [1, 3, 7, 8, 9, 64, 999] {
        let mut pattern = Pattern::new(7);
        let mut cut = Vec::new();
        while cut.len() < whole.len() {
            cut.extend(pattern.take(size.min(whole.len() - cut.len())));
        }
        assert!(cut == whole, "cut into {size} bytes");
    }
    assert_ne!(Pattern::new(8).take(1000), whole);
}

#[test]
#[should_panic(expected = "byte 500 of the stream is wrong")]
fn pattern_names_the_wrong_byte() {
    let mut bytes = Pattern::new(7).take(1000);
    bytes[500] ^= 1;
    let mut pattern = Pattern::new(7);
    pattern.expect(&bytes[..100]);
    pattern.expect(&bytes[100..]);
}

/// Replies to `hello` as the vector does, with a change at `spoilt`.
fn greet_with(hello: &Signed, spoilt: Option<usize>) -> Result<Greeted, String> {
    let session_id = hello.session_id();
    let mut reply = bytes(REPLY.0);
    reply.extend([0; 32]);
    reply.extend(bytes(REPLY.2));
    reply[44..44 + session_id.len()].copy_from_slice(session_id);
    if let Some(offset) = spoilt {
        reply[offset] ^= 0x04;
    }
    let digest = hmac(&KEY, &[hello.random(), &reply]);
    reply[RANDOM].copy_from_slice(&digest);
    if spoilt.is_some_and(|offset| RANDOM.contains(&offset)) {
        reply[RANDOM.start] ^= 1;
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let stream = socket::connect(listener.local_addr().unwrap());
    let mut server = socket::accept(&listener, support::DEADLINE).unwrap();
    server.write_all(&reply).unwrap();
    drop(server);
    client::greet(stream, hello, &KEY)
}

#[test]
fn client_accepts_the_right_reply_and_no_other() {
    let hello = Hello::default().sign();
    let greeted = greet_with(&hello, None).unwrap();
    assert_eq!(greeted.noise_len, 16);
    let offsets = [0, 1, 3, 5, 8, 9, 20, 43, 44, 75, 76, 77, 78, 80, 82, 86, 92, 93, 127, 132, 133, 134];
    for offset in offsets {
        assert!(greet_with(&hello, Some(offset)).is_err(), "a change at {offset} is accepted");
    }
}

#[test]
fn client_and_dc_understand_each_other() {
    let hello = Hello::default().sign();
    let dc = FakeDc::listen();
    let mut greeted = greet_with(&hello, None).unwrap();
    // A DC on the other end of a client: the client's secret and records are peeled off between them.
    let model = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    greeted.stream = socket::connect(model.local_addr().unwrap());
    let mut inside = socket::accept(&model, support::DEADLINE).unwrap();
    let mut session = greeted.open_with(PADDED, -2, b"first", 30);

    assert_eq!(socket::read_exactly(&mut inside, 6).unwrap(), CHANGE_CIPHER_SPEC);
    let mut payload = Vec::new();
    for len in [30, 30, 9] {
        assert_eq!(socket::read_exactly(&mut inside, 5).unwrap(), [0x17, 0x03, 0x03, 0, len]);
        payload.extend(socket::read_exactly(&mut inside, usize::from(len)).unwrap());
    }
    let mut received = obfuscated2::receive(payload[..64].try_into().unwrap(), Some(&KEY));
    received.read.apply_keystream(&mut payload[64..]);
    assert_eq!((received.tag, received.dc, &payload[64..]), (PADDED, -2, &b"first"[..]));
    assert_eq!(received.answer_key, session.download_key);

    let mut outside = socket::connect(dc.address);
    let mut sent = obfuscated2::send(None, received.tag, received.dc);
    sent.write.apply_keystream(&mut payload[64..]);
    outside.write_all(&sent.wire).unwrap();
    outside.write_all(&payload[64..]).unwrap();
    let mut stream = dc.accept();
    assert_eq!((stream.tag, stream.dc, stream.receive(5)), (PADDED, -2, b"first".to_vec()));
    assert_eq!(stream.download_key, sent.answer_key);

    stream.send(b"answer");
    stream.half_close();
    let (mut answer, end) = socket::read_to_end(&mut outside);
    sent.read.apply_keystream(&mut answer);
    assert_eq!((&answer[..], end), (&b"answer"[..], End::Fin));
    received.write.apply_keystream(&mut answer);
    inside.write_all(&client::in_records(&answer, 4)).unwrap();
    drop(inside);
    assert_eq!(session.download.receive(6).unwrap(), b"answer");
    assert_eq!(session.download.records, [4, 2]);
    assert!(session.download.next_record().unwrap().is_none());
}

#[test]
fn echoing_dc_echoes() {
    let dc = EchoDc::listen();
    let mut stream = socket::connect(dc.address);
    let mut sent = obfuscated2::send(None, PADDED, 2);
    let mut message = *b"hello";
    sent.write.apply_keystream(&mut message);
    stream.write_all(&sent.wire).unwrap();
    stream.write_all(&message).unwrap();
    let mut echo = socket::read_exactly(&mut stream, 5).unwrap();
    sent.read.apply_keystream(&mut echo);
    assert_eq!((&echo[..], dc.served()), (&b"hello"[..], 1));
}

#[test]
fn black_hole_does_not_answer_until_it_is_opened() {
    let hole = BlackHole::listen();
    let (address, late) = (hole.address, std::time::Duration::from_millis(300));
    assert!(std::net::TcpStream::connect_timeout(&address, late).is_err());
    let _dc = hole.open();
    let _stream = socket::connect(address);
}

#[test]
fn front_tells_visits_apart_by_their_start() {
    let front = FakeFront::listen();
    let (mut first, mut second) = (socket::connect(front.address), socket::connect(front.address));
    let _silent = socket::connect(front.address);
    first.write_all(b"first visit").unwrap();
    second.write_all(b"second visit").unwrap();
    let mut visit = front.visit(b"second");
    visit.expect(b"second visit");
    visit.reset();
    assert_eq!(socket::read_to_end(&mut second), (vec![], End::Reset));
    assert_eq!(front.count_of(&[b"first", b"second"]), 2, "the first and the silent one");
    assert_eq!(front.count_of(&[b"second"]), 1, "the silent one");
    drop(first);
    let mut visit = front.visit(b"first visit");
    visit.expect(b"first visit");
    assert_eq!(visit.expect_end(), End::Fin);
}
