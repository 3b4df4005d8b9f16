//! Ends for waits.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_io::Timer;
use pin_project_lite::pin_project;

pin_project! {
    /// A wait with an end. Made by hand, because an async function has room for a future that it is given each time that
    /// it hands it on: four times, for each connection that waits for anything.
    struct Until<F> {
        timer: Timer,
        #[pin]
        future: F,
    }
}

/// Waits for `future`, but not beyond `deadline`; `None` if that has come. The timer is asked first: a future that is
/// ready again and again would never let it speak.
pub(crate) fn until<T>(deadline: Instant, future: impl Future<Output = T>) -> impl Future<Output = Option<T>> {
    Until { timer: Timer::at(deadline), future }
}

/// Waits for `future`, but not longer than `limit`; `None` if that is over.
pub(crate) fn within<T>(limit: Duration, future: impl Future<Output = T>) -> impl Future<Output = Option<T>> {
    until(Instant::now() + limit, future)
}

impl<F: Future> Future for Until<F> {
    type Output = Option<F::Output>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if Pin::new(this.timer).poll(context).is_ready() {
            return Poll::Ready(None);
        }
        this.future.poll(context).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_takes_no_more_memory_than_what_is_waited_for_and_a_timer() {
        let future = async {
            let bytes = [0_u8; 1000];
            std::future::pending::<()>().await;
            bytes
        };
        let size = size_of_val(&future);
        assert!(size >= 1000);
        let wait = size_of_val(&within(Duration::from_secs(1), future));
        assert!(wait < size + size_of::<Timer>() + align_of::<Timer>(), "{wait}");
    }
}
