//! Ends for waits.

use std::future::Future;
use std::time::{Duration, Instant};

use async_io::Timer;
use futures_lite::FutureExt as _;

/// Waits for `future`, but not beyond `deadline`; `None` if that has come. The timer is asked first: a future that is
/// ready again and again would never let it speak.
pub(crate) async fn until<T>(deadline: Instant, future: impl Future<Output = T>) -> Option<T> {
    async {
        Timer::at(deadline).await;
        None
    }
    .or(async { Some(future.await) })
    .await
}

/// Waits for `future`, but not longer than `limit`; `None` if that is over.
pub(crate) async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    until(Instant::now() + limit, future).await
}
