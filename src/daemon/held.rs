//! Telling other programs that clients can come in: a file is locked for just as long. The kernel takes the lock back
//! whatever a process dies of, so that an init script may open a firewall by it.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;
use std::time::Duration;

use async_io::Timer;
use futures_lite::future::pending;

/// Who looks whether the file is locked has a shared lock for a moment.
const SHORT_PAUSE: Duration = Duration::from_millis(20);
const SHORT_PAUSES: u32 = 50;
/// Another process that serves has the lock for as long as it lives.
const LONG_PAUSE: Duration = Duration::from_secs(1);

/// Locks a file that is there, as soon as nobody else has it locked, until the future is dropped; it never ends. Who
/// serves without the lock serves all the same.
pub(super) async fn hold(path: &Path) {
    // Its owner may not want us to write.
    let Some(file) = opened(File::open(path), path) else { return pending().await };
    let mut attempts = 0;
    loop {
        match file.try_lock() {
            Ok(()) => return pending().await,
            Err(TryLockError::WouldBlock) if attempts < SHORT_PAUSES => Timer::after(SHORT_PAUSE).await,
            Err(TryLockError::WouldBlock) => Timer::after(LONG_PAUSE).await,
            Err(TryLockError::Error(error)) => {
                opened(Err(error), path);
                return pending().await;
            }
        };
        attempts = (attempts + 1).min(SHORT_PAUSES);
    }
}

fn opened(file: io::Result<File>, path: &Path) -> Option<File> {
    file.inspect_err(|error| {
        log::error!("nobody is told that clients can come in, for {} cannot be locked: {error}", path.display());
    })
    .ok()
}
