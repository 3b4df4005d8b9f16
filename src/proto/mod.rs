//! The protocol, sans-IO: bytes in, bytes and verdicts out.
//!
//! Nothing below this module knows a socket, a clock, the system's randomness, a log or the environment; what it
//! needs of them comes in as an argument. So a test can cut every input at every byte.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::cast_possible_truncation)
)]

pub(crate) mod base64url;
pub mod dc;
pub(crate) mod dns;
pub(crate) mod faketls;
pub mod handshake;
pub mod host;
pub(crate) mod mtproto;
pub(crate) mod obfuscated2;
pub(crate) mod pacing;
pub(crate) mod packets;
pub(crate) mod proxy_protocol;
pub(crate) mod reader;
pub mod reason;
pub(crate) mod record_sizer;
pub mod secret;
pub(crate) mod sntp;
pub(crate) mod socks5;
pub(crate) mod stun;
#[cfg(test)]
pub(crate) mod testing;
pub(crate) mod tls;
pub(crate) mod transcode;
pub mod url;
pub(crate) mod web;
