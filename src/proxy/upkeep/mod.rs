//! What is kept up beside the connections, which need it ready: the lists of who may connect, the set of hellos that
//! were seen and its file, the front's pages whose records are imitated, the ways out for the metrics, the resolver.

pub(super) mod lists;
pub(crate) mod names;
#[cfg(feature = "tls")]
pub(super) mod pages;
mod replay_file;
pub(super) mod replays;
pub(super) mod reporting;

use futures_lite::FutureExt as _;

use crate::proxy::telegram::learned;
use crate::proxy::{Shared, advice};

/// Keeps up what is not kept at the connections' own times; never ends.
pub(super) async fn keep(shared: &Shared) {
    // Boxed, for the compiler does not look that deep into futures within futures.
    let upkeep = lists::keep_fresh(shared).boxed().or(learned::keep_fresh(shared).boxed());
    let upkeep = upkeep.or(advice::compare_name(shared).boxed()).or(shared.replays.keep().boxed());
    #[cfg(feature = "tls")]
    let upkeep = upkeep.or(pages::keep_measured(shared).boxed());
    upkeep.await;
}
