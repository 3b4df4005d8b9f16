//! Ends for waits.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_io::Timer;
use pin_project_lite::pin_project;

pin_project! {
    /// A wait with an end. Made by hand, because an async function has room for a future that it is given each time that
    /// it hands it on: four times, for each connection that waits for anything.
    struct Until<F> {
        end: End,
        #[pin]
        future: F,
    }
}

/// A timer wakes the thread that polls when it is set, so only who has to wait has one.
enum End {
    At(Instant),
    Timer(Timer),
}

/// Waits for `future`, but not beyond `deadline`; `None` if that has come. The clock is asked first: a future that is
/// ready again and again would never let it speak.
pub(crate) fn until<T>(deadline: Instant, future: impl Future<Output = T>) -> impl Future<Output = Option<T>> {
    Until { end: End::At(deadline), future }
}

/// Waits for `future`, but not longer than `limit`; `None` if that is over.
pub(crate) fn within<T>(limit: Duration, future: impl Future<Output = T>) -> impl Future<Output = Option<T>> {
    until(Instant::now() + limit, future)
}

/// Lets so much time pass; for none there is no timer.
pub(crate) async fn rest(time: Duration) {
    if !time.is_zero() {
        Timer::after(time).await;
    }
}

/// A limit for each of many waits, one behind the other. One timer does for all of them: it is set again when it has
/// come too early.
pub(crate) struct Patience {
    limit: Duration,
    timer: Option<Timer>,
}

impl Patience {
    pub(crate) fn new(limit: Duration) -> Self {
        Self { limit, timer: None }
    }

    /// Waits for `future`, but not longer than the limit; `None` if that is over.
    pub(crate) async fn wait<T>(&mut self, future: impl Future<Output = T>) -> Option<T> {
        let (deadline, mut future) = (Instant::now() + self.limit, pin!(future));
        poll_fn(|context| {
            if Instant::now() >= deadline {
                return Poll::Ready(None);
            }
            if let Poll::Ready(output) = future.as_mut().poll(context) {
                return Poll::Ready(Some(output));
            }
            let timer = self.timer.get_or_insert_with(|| Timer::at(deadline));
            while Pin::new(&mut *timer).poll(context).is_ready() {
                // One that has come is none any more, until it is set again.
                timer.set_at(deadline);
                if Instant::now() >= deadline {
                    return Poll::Ready(None);
                }
            }
            Poll::Pending
        })
        .await
    }
}

impl<F: Future> Future for Until<F> {
    type Output = Option<F::Output>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let is_over = match this.end {
            End::At(deadline) => Instant::now() >= *deadline,
            End::Timer(timer) => Pin::new(timer).poll(context).is_ready(),
        };
        if is_over {
            return Poll::Ready(None);
        }
        if let Poll::Ready(output) = this.future.poll(context) {
            return Poll::Ready(Some(output));
        }
        if let End::At(deadline) = *this.end {
            let mut timer = Timer::at(deadline);
            // It has to know whom to wake.
            let is_over = Pin::new(&mut timer).poll(context).is_ready();
            *this.end = End::Timer(timer);
            if is_over {
                return Poll::Ready(None);
            }
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_lite::future::yield_now;

    #[test]
    fn a_patience_ends_each_wait_after_its_limit_and_none_for_those_before() {
        const LIMIT: Duration = Duration::from_secs(1);
        async_io::block_on(async {
            let mut patience = Patience::new(LIMIT);
            // It waits, so that a timer is set, which comes while nobody waits.
            assert_eq!(patience.wait(yield_now()).await, Some(()));
            assert!(patience.timer.is_some());
            Timer::after(LIMIT).await;
            assert_eq!(patience.wait(yield_now()).await, Some(()));
            for is_busy in [false, true, false] {
                let began = Instant::now();
                let never = poll_fn(|_| {
                    // The time may be over between the look at the clock and the timer.
                    if is_busy {
                        std::thread::sleep(LIMIT);
                    }
                    Poll::<()>::Pending
                });
                assert_eq!(until(began + 30 * LIMIT, patience.wait(never)).await, Some(None));
                assert!(began.elapsed() >= LIMIT);
            }
        });
    }

    #[test]
    fn what_is_there_at_once_sets_no_timer() {
        let mut patience = Patience::new(Duration::from_secs(1));
        assert_eq!(async_io::block_on(patience.wait(std::future::ready(1))), Some(1));
        assert!(patience.timer.is_none());
    }

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
