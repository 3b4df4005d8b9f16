//! What the end-to-end tests play clients and data centres with.

#[path = "../../tests/support/client.rs"]
pub mod client;
#[path = "../../tests/support/dc.rs"]
pub mod dc;
#[path = "../../tests/support/hello.rs"]
pub mod hello;
#[path = "../../tests/support/obfuscated2.rs"]
pub mod obfuscated2;
#[path = "../../tests/support/pattern.rs"]
pub mod pattern;
#[path = "../../tests/support/socket.rs"]
pub mod socket;

use std::time::Duration;

pub const DEADLINE: Duration = Duration::from_secs(60);
pub const KEY: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
pub const HOST: &str = "front.example";
pub const MAX_RECORD: usize = 0x4000;

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).unwrap();
    bytes
}
