//! Who may come in: policy state that knows no clock and no socket. `now` is an argument everywhere.

pub(crate) mod antireplay;
pub(crate) mod breaker;
mod crowd;
pub(crate) mod dc_health;
pub(crate) mod front_profile;
pub(crate) mod iplist;
pub(crate) mod limits;
pub(crate) mod pace;
pub(crate) mod pieces;
mod queue;
mod ranking;
pub(crate) mod rate;
pub(crate) mod replay_blocks;
pub(crate) mod skew;
