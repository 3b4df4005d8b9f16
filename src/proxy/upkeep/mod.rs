//! What is kept up beside the connections, which need it ready: the lists of who may connect, the set of hellos that
//! were seen and its file, the front's pages whose records are imitated, the ways out for the metrics, the resolver.

pub(super) mod lists;
pub(crate) mod names;
#[cfg(feature = "tls")]
pub(super) mod pages;
mod replay_file;
pub(super) mod replays;
pub(super) mod reporting;
