//! What the end-to-end tests play clients and data centres with.

#[path = "../../tests/support/basics.rs"]
mod basics;
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

pub use basics::*;

/// How long anything may take before a measurement is given up.
pub const DEADLINE: Duration = Duration::from_secs(60);
