//! `mtg`: a Telegram (MTProto) proxy for small machines that cannot be told from a web server.
//!
//! # The story
//! A client connects and sends what looks like the first message of a TLS handshake with some web site. If a digest
//! in it was made with the proxy's [`Secret`], we answer as that site's server would, learn which of Telegram's
//! data centres the client wants, connect to it, and pass bytes until both are done. Whoever else comes is passed
//! on to the web site itself, byte for byte, and never learns that we exist. `proxy/mod.rs` tells this in code.
//!
//! There is a second door: a web server of the owner's passes us the requests of a page that an app's hidden browser has
//! loaded (`proxy/web`), and streams within them go the same way to Telegram.
//!
//! # The map
//! Each layer knows only those below it, and nothing that lies side by side forms a circle;
//! `tests/testsuite/layering.rs` holds them to that.
//!
//! | module | what it is for |
//! |---|---|
//! | `main`, [`cli`] | commands, exit codes, what people read |
//! | [`daemon`] | the process around the proxy: limits, signals, start and stop |
//! | [`proxy`] | the story, in wings: entrance, visit, front, telegram, web, upkeep, and the relay that moves the bytes |
//! | `guard` | who may come in: replays, places; knows no clock and no socket |
//! | `net` | socket tools that know nothing of Telegram |
//! | [`stats`] | the metrics, and the ways out for them |
//! | [`config`] | what the owner may set, checked and typed |
//! | `log` | what is written down of it, a line each |
//! | `clock` | the time of day |
//! | `event` | what happens to connections, for metrics, log and observers |
//! | [`outcome`] | how every connection ends |
//! | [`proto`] | the protocol: bytes in, bytes and verdicts out, no I/O at all |
//!
//! # Two planes
//! Everything up to the verdict on a connection is async code on one executor (smol); it waits much and moves little.
//! Once both ends are known they are handed to the relay: threads with an edge-triggered epoll and a state machine
//! each, which hold no buffer for a connection without bytes. Futures would cost twice the memory and twice the system
//! calls there (`proxy::relay`).
//!
//! # Glossary
//! *client*: a Telegram app. *DC*: a data centre of Telegram. *front*: the web server that strangers are passed to.
//! *FakeTLS*: the disguise as TLS 1.3. *obfuscated2*: the encryption of the stream inside of it, the same that
//! Telegram's own clients use without a proxy. *fast mode*: the DC is made to encrypt with the client's keys, so that
//! downloads pass through us without any cipher.

#[doc(hidden)]
pub mod benchmark;
#[doc(hidden)]
pub mod cli;
mod clock;
pub mod config;
#[doc(hidden)]
pub mod daemon;
mod event;
#[doc(hidden)]
pub mod fuzzing;
mod guard;
mod log;
mod net;
pub mod outcome;
pub mod proto;
pub mod proxy;
pub mod stats;

pub use config::Config;
pub use event::{Connection, Door, Event, IpList, Observer, Route, Traffic};
pub use outcome::{Outcome, Stranger};
pub use proto::dc::DcId;
pub use proto::secret::Secret;
pub use proxy::{Dial, Dialled, Dialling, Hooks, Proxy, Reloaded, StartError};
