//! What the end-to-end tests play: clients, data centres and the front, around the real binary on loopback.
//!
//! Nothing here uses the proxy's own protocol code, for an error made twice would not be seen.
#![allow(unreachable_pub, reason = "parts of it are part of examples, too")]

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
#[cfg(feature = "web")]
pub mod web;

use std::time::Duration;

pub use basics::*;

/// How long anything may take before a test gives up.
pub const DEADLINE: Duration = Duration::from_secs(20);
