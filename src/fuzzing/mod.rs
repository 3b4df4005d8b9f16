//! What the fuzzer runs (`fuzz/`, `scripts/fuzz`), shared with the test that replays seeds and finds.
//!
//! An entry panics when something is wrong; an input that is merely invalid is none of that. `parsers` has one entry for
//! each parser, `signed` gets past the digest of a hello, `web` has what comes to the WEB proxy, `models` compares what guards the
//! door with a naive oracle.

mod models;
mod parsers;
mod signed;
mod web;

/// An entry, by name; the name is that of the fuzzer's target and of the folder with its seeds.
pub type Entry = (&'static str, fn(&[u8]));

/// All entries.
pub const ENTRIES: [Entry; 20] = [
    ("handshake", parsers::handshake),
    ("signed_hello", signed::signed_hello),
    ("records", parsers::records),
    ("proxy_protocol", parsers::proxy_protocol),
    ("socks5", parsers::socks5),
    ("first_flight", parsers::first_flight),
    ("dns", parsers::dns),
    ("stun", parsers::stun),
    ("ip_list", parsers::ip_list),
    ("ip_list_model", models::ip_list),
    ("places_model", models::places),
    ("replays_model", models::replays),
    ("sntp", parsers::sntp),
    ("mtproto", parsers::mtproto),
    ("secret", parsers::secret),
    ("config", parsers::config),
    ("url", parsers::url),
    ("web_request", web::request),
    ("web_socket", web::socket),
    ("web_frames", web::frames),
];

/// Runs the entry of a target of the fuzzer.
///
/// # Panics
/// If there is no entry of that name, or what the entry claims does not hold for `input`.
pub fn run(name: &str, input: &[u8]) {
    let entry = ENTRIES.iter().find(|entry| entry.0 == name);
    entry.unwrap_or_else(|| panic!("no entry is called {name}")).1(input);
}

/// What two ways to read an input have found is the same.
fn assert_same<T: PartialEq + std::fmt::Debug>(one: &T, other: &T, input: &[u8]) {
    assert!(one == other, "{one:?} is not {other:?}: {}", input.escape_ascii());
}

/// Bytes that look random and are the same at each run. A constant byte will not do: who draws until a point is on its
/// curve would draw for ever.
fn seeded() -> impl FnMut(&mut [u8]) {
    let mut state = 0u64;
    move |bytes| {
        for byte in bytes {
            // The linear congruential generator of Knuth's MMIX.
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = state.to_be_bytes()[0];
        }
    }
}
