//! Telling other programs that clients can come in: a file is locked for just as long. The kernel takes the lock back
//! whatever a process dies of, so that an init script may open a firewall by it.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;
use std::time::Duration;

use async_io::Timer;

/// Who looks whether the file is locked locks it for a moment, too.
const ATTEMPTS: u32 = 100;
const PAUSE: Duration = Duration::from_millis(20);

/// Locks a file that is there, shared with other processes that serve, until what is returned is dropped. Who serves
/// without it serves all the same.
pub(super) async fn hold(path: &Path) -> Option<File> {
    match lock(path).await {
        Ok(file) => Some(file),
        Err(error) => {
            log::error!("nobody is told that clients can come in, for {} cannot be locked: {error}", path.display());
            None
        }
    }
}

async fn lock(path: &Path) -> io::Result<File> {
    // Its owner may not want us to write.
    let file = File::open(path)?;
    for _ in 0..ATTEMPTS {
        match file.try_lock_shared() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => Timer::after(PAUSE).await,
            Err(TryLockError::Error(error)) => return Err(error),
        };
    }
    Err(io::Error::other("somebody else keeps it locked"))
}
