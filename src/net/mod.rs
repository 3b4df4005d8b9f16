//! Socket tools that know nothing of Telegram.

pub(crate) mod connect;
pub(crate) mod deadline;
pub(crate) mod resolve;
pub(crate) mod sockopts;
pub(crate) mod socks5;
