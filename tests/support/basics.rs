//! What every player needs, in the tests and in the load generator of the benchmark.

/// The key of every test's secret.
pub const KEY: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

/// The host of every test's secret; no name server knows it.
pub const HOST: &str = "front.example";

/// The largest payload of a record that a server of TLS 1.3 sends: the content, its type and the cipher's tag.
pub const MAX_RECORD: usize = 0x4000 + 1 + 16;

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `N` bytes that nobody can guess.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).unwrap();
    bytes
}
