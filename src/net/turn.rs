//! Turns: nobody keeps a thread by keeping a socket busy.
//!
//! async-io waits only where a call would block. So a peer that sends faster than we read keeps a loop over its socket
//! within one poll for as long as it likes, and nothing else runs meanwhile: no accept, no deadline, no signal. Every
//! operation that such a loop repeats goes through here, and after a few of them the others have their turn. The relay
//! is not made of futures and has its own rule (`proxy/relay/direction.rs`).

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::net::TcpStream;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use async_io::Async;
use futures_lite::{AsyncWrite, AsyncWriteExt as _};

/// Operations in a row before the others have their turn.
const IN_A_ROW: u32 = 8;

thread_local! {
    /// Of the thread and not of a loop, so that loops within loops need not know of each other.
    static DONE: Cell<u32> = const { Cell::new(0) };
}

/// Waits until it is our turn for one more operation: nearly always at once.
pub(crate) async fn wait() {
    poll_fn(poll).await;
}

/// The same for a future that is made by hand.
pub(crate) fn poll(context: &mut Context<'_>) -> Poll<()> {
    let done = DONE.get();
    if done >= IN_A_ROW {
        DONE.set(0);
        context.waker().wake_by_ref();
        return Poll::Pending;
    }
    DONE.set(done + 1);
    Poll::Ready(())
}

/// Waits for the first of several futures; the others are dropped then. Each is polled when it was woken itself: else each
/// would try its socket again whenever another has something to do. An executor within the executor would do the same,
/// but it runs what is always ready hundreds of times before anybody else has a turn.
pub(crate) fn first_over<'a, T>(futures: Vec<Boxed<'a, T>>) -> impl Future<Output = T> + Send + use<'a, T> {
    let all = Arc::new(Mutex::new(Waker::noop().clone()));
    let one = |future| {
        let woken = Arc::new(Woken { is_woken: AtomicBool::new(true), all: all.clone() });
        (future, Waker::from(woken.clone()), woken)
    };
    let mut futures: Vec<_> = futures.into_iter().map(one).collect();
    poll_fn(move |context| {
        all.lock().unwrap_or_else(PoisonError::into_inner).clone_from(context.waker());
        for (future, waker, woken) in &mut futures {
            if woken.is_woken.swap(false, Ordering::AcqRel)
                && let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(waker))
            {
                return Poll::Ready(output);
            }
        }
        Poll::Pending
    })
}

/// Whether one of several futures was woken, and who polls all of them.
struct Woken {
    is_woken: AtomicBool,
    all: Arc<Mutex<Waker>>,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_woken.store(true, Ordering::Release);
        self.all.lock().unwrap_or_else(PoisonError::into_inner).wake_by_ref();
    }
}

/// A future among others of any kind.
pub(crate) type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Does one operation on a socket in our turn. The wait comes first: what has been received is never lost with a future
/// that is dropped.
pub(crate) async fn take<T>(operation: impl Future<Output = T>) -> T {
    wait().await;
    operation.await
}

/// Waits until there is something to receive, or the end. async-io's own future for that would take memory for its waker
/// beside itself, as long as the socket lives.
///
/// # Errors
/// Those of the socket.
pub(crate) async fn readable(socket: &Async<TcpStream>) -> io::Result<()> {
    loop {
        match socket.get_ref().peek(&mut [0]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                poll_fn(|context| socket.poll_readable(context)).await?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result.map(drop),
        }
    }
}

/// Sends everything.
///
/// # Errors
/// Those of the socket.
pub(crate) async fn write_all(mut socket: impl AsyncWrite + Unpin, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let count = take(socket.write(bytes)).await?;
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        bytes = bytes.get(count..).unwrap_or_default();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::deadline;
    use futures_lite::future::yield_now;
    use std::future::ready;
    use std::sync::atomic::AtomicU32;
    use std::time::{Duration, Instant};

    #[test]
    fn a_loop_over_what_is_always_ready_leaves_others_their_turn() {
        let mut others = 0;
        let flood = async {
            for _ in 0..IN_A_ROW * 100 {
                take(ready(())).await;
            }
        };
        let other = async {
            loop {
                others += 1;
                yield_now().await;
            }
        };
        async_io::block_on(futures_lite::future::or(flood, other));
        assert!(others >= 99, "{others}");
    }

    #[test]
    fn who_is_woken_wakes_none_of_those_beside_it() {
        let polls = &AtomicU32::new(0);
        let quiet = poll_fn(|_| {
            polls.fetch_add(1, Ordering::Relaxed);
            Poll::<u8>::Pending
        });
        let busy = async {
            for _ in 0..100 {
                yield_now().await;
            }
            7
        };
        assert_eq!(async_io::block_on(first_over(vec![Box::pin(quiet), Box::pin(busy)])), 7);
        assert_eq!(polls.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_loop_over_what_is_always_ready_ends_at_its_deadline() {
        let flood = async {
            loop {
                take(ready(())).await;
            }
        };
        let started = Instant::now();
        assert_eq!(async_io::block_on(deadline::within::<()>(Duration::from_millis(50), flood)), None);
        assert!(started.elapsed() < Duration::from_secs(20));
    }
}
