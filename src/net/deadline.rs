//! Ends for waits.

use std::future::Future;
use std::time::{Duration, Instant};

use async_io::Timer;
use futures_lite::FutureExt as _;

/// Waits for `future`, but not beyond `deadline`; `None` if that has come.
pub(crate) async fn until<T>(deadline: Instant, future: impl Future<Output = T>) -> Option<T> {
    async { Some(future.await) }
        .or(async {
            Timer::at(deadline).await;
            None
        })
        .await
}

/// Waits for `future`, but not longer than `limit`; `None` if that is over.
pub(crate) async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    until(Instant::now() + limit, future).await
}
