//! Telegram's WEB proxy, the relay's side: what comes over HTTP and WebSocket from a page that a browser engine has
//! loaded, and what goes back. Bytes in, verdicts out; the sockets are in `proxy::web`.
//!
//! An app carries its connections as *streams* (`frame`) in one *session* (`session`; what waits there for the app is in
//! `buffer`, and `portion` says how much of it goes at once). The session is made with a capability, which the app derives
//! from the secret (`site`), and a short-lived token (`token`); requests that carry neither are not ours (`request`). The
//! page that is loaded first is written by us
//! (`page`).

pub(crate) mod buffer;
pub(crate) mod ciphers;
pub(crate) mod closed;
pub(crate) mod frame;
pub(crate) mod page;
pub(crate) mod portion;
pub(crate) mod request;
pub(crate) mod session;
pub(crate) mod site;
pub(crate) mod socket;
pub(crate) mod stream;
pub(crate) mod token;

/// A body, a message or a batch that is taken at most, bytes.
pub(crate) const BATCH_MAX: usize = 2 << 20;
/// Frames in a batch at most.
pub(crate) const FRAMES_MAX: usize = 4096;
/// Streams of a session at most.
pub(crate) const STREAMS_MAX: usize = 128;

/// The other side broke the protocol: the session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Violation;
