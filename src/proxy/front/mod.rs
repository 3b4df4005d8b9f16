//! The front: the web server that everybody sees who is not a client, and that our own answers are made after.
//!
//! `connect` connects to it, `splice` passes a stranger on to it, `shadow` keeps a connection to it behind whoever has not sent a whole hello.
//! `watch` asks it from time to time how it answers, `fault` says why it does not, and `loops` finds out whether it is
//! ourselves.

pub(super) mod connect;
pub(crate) mod fault;
pub(super) mod loops;
pub(super) mod shadow;
pub(super) mod splice;
pub(super) mod watch;
