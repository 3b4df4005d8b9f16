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

use crate::net::turn;
use crate::proxy::telegram::learned;
use crate::proxy::{Shared, advice};

/// Keeps up what is not kept at the connections' own times; never ends.
pub(super) async fn keep(shared: &Shared) {
    turn::first_over(vec![
        lists::keep_fresh(shared).boxed(),
        learned::keep_fresh(shared).boxed(),
        advice::compare_name(shared).boxed(),
        shared.replays.keep().boxed(),
        shared.resolver.ask_again().boxed(),
        #[cfg(feature = "tls")]
        pages::keep_measured(shared).boxed(),
    ])
    .await;
}
