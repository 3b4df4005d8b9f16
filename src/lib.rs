//! A Telegram (MTProto) proxy for small machines.

pub mod config;
pub mod proto;
