//! The signals that the daemon knows.

use std::io;

use async_signal::Signal;
use futures_lite::StreamExt as _;

/// A stream of signals.
pub(super) struct Signals {
    stream: async_signal::Signals,
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Stop,
    Reload,
}

impl Signals {
    /// # Errors
    /// What the system says about handlers and the pipe behind them.
    pub(super) fn new() -> io::Result<Self> {
        let stream = async_signal::Signals::new([Signal::Term, Signal::Int, Signal::Hup])?;
        Ok(Self { stream })
    }

    /// Waits for the next wish.
    pub(super) async fn next(&mut self) -> Wish {
        loop {
            match self.stream.next().await {
                Some(Ok(Signal::Hup)) => return Wish::Reload,
                Some(Ok(_)) | None => return Wish::Stop,
                Some(Err(error)) => log::warn!("a signal was lost error={error}"),
            }
        }
    }

    /// Waits for the wish to stop.
    pub(super) async fn stop(&mut self) {
        while self.next().await != Wish::Stop {}
    }
}
