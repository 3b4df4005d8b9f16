//! The way to Telegram: from the number of a DC to a connection with it.
//!
//! `dial` asks for one and introduces the client there; `route` goes directly or through the owner's SOCKS5 proxies,
//! whichever work. `learned` keeps the addresses that Telegram publishes, and `detour` takes everything else that is
//! blocked as often as Telegram the same way.

pub(super) mod detour;
pub(super) mod dial;
pub(super) mod learned;
pub(super) mod route;
