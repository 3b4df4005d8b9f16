//! The signals that the daemon knows.

use std::io;

use async_signal::Signal;
use futures_lite::StreamExt as _;

/// A stream of signals.
pub(super) struct Signals {
    stream: async_signal::Signals,
}

impl Signals {
    /// # Errors
    /// What the system says about handlers and the pipe behind them.
    pub(super) fn new() -> io::Result<Self> {
        let stream = async_signal::Signals::new([Signal::Term, Signal::Int, Signal::Hup])?;
        Ok(Self { stream })
    }

    /// Waits for the wish to stop.
    pub(super) async fn stop(&mut self) {
        loop {
            match self.stream.next().await {
                Some(Ok(Signal::Hup)) => {
                    log::warn!("this version cannot reload its configuration, restart it instead");
                }
                Some(Ok(_)) | None => return,
                Some(Err(error)) => log::warn!("a signal was lost error={error}"),
            }
        }
    }
}
