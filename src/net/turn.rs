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
use std::task::{Context, Poll};

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
