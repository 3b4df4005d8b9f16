//! Socket tools that know nothing of Telegram.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::cast_possible_truncation)
)]

pub(crate) mod connect;
pub(crate) mod deadline;
pub(crate) mod fetch;
pub(crate) mod http;
pub(crate) mod lan;
mod name_server;
pub(crate) mod own_ends;
pub(crate) mod public_ip;
pub(crate) mod resolve;
pub(crate) mod segments;
pub(crate) mod sockopts;
pub(crate) mod socks5;
pub(crate) mod stream;
mod system_names;
#[cfg(feature = "tls")]
pub(crate) mod tls;
pub(crate) mod turn;
