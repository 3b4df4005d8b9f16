//! What the end-to-end tests play: clients, data centres and the front, around the real binary on loopback.
//!
//! Nothing here uses the proxy's own protocol code, for an error made twice would not be seen.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part of this")]

mod basics;
pub mod client;
pub mod crowd;
pub mod dc;
pub mod front;
pub mod hello;
pub mod obfuscated2;
pub mod pattern;
pub mod proxy;
pub mod socket;
pub mod socks5;
pub mod web;

use std::time::Duration;

pub use basics::*;

/// How long anything may take before a test gives up.
pub const DEADLINE: Duration = Duration::from_secs(20);
