//! The set of hellos that were seen, and when it goes to its file.

use std::future;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_io::Timer;
use futures_lite::FutureExt as _;

use crate::config::Config;
use crate::guard::antireplay::AntiReplay;
use crate::proto::faketls::Digest;
use crate::proxy::upkeep::replay_file::{ReplayFile, Set, lock};

/// Time between two exchanges of processes on one port: what one has seen, the other knows after twice that and the
/// time that the file takes.
const EXCHANGE: Duration = Duration::from_millis(500);
/// Time between two writes of a process alone; the file may be on flash.
const WRITE: Duration = Duration::from_secs(3600);
/// Time that a stop waits for the file.
const LAST_WRITE: Duration = Duration::from_secs(2);

/// The set and its file.
pub(in crate::proxy) struct Replays {
    set: Set,
    file: Option<Mutex<Kept>>,
    every: Duration,
}

struct Kept {
    file: ReplayFile,
    /// The owner knows already that it does not work.
    has_failed: bool,
}

impl Replays {
    /// Makes the set and reads its file, if there is to be one.
    pub(in crate::proxy) fn open(config: &Config) -> Arc<Self> {
        let (max_size, is_shared) = (config.defense.anti_replay_max_size.0, config.network.reuse_port);
        let path = config.defense.anti_replay_file.as_deref().filter(|_| config.defense.anti_replay);
        let empty = || {
            let mut set = AntiReplay::new(max_size);
            if is_shared && path.is_some() {
                set.keep_news();
            }
            Mutex::new(set)
        };
        let mut set = empty();
        let file = path.map(|path| {
            let mut kept = Kept { file: ReplayFile::new(path, is_shared, max_size), has_failed: false };
            let loaded = kept.file.load(&set);
            if loaded.is_err() {
                set = empty();
            }
            kept.tell(loaded);
            Mutex::new(kept)
        });
        Arc::new(Self { set, file, every: if is_shared { EXCHANGE } else { WRITE } })
    }

    /// Says whether a hello was never seen before, and remembers it.
    pub(in crate::proxy) fn first_seen(&self, digest: &Digest) -> bool {
        lock(&self.set).first_seen(digest)
    }

    /// Keeps the file up to date for as long as it is polled.
    pub(in crate::proxy) async fn keep(self: &Arc<Self>) {
        if self.file.is_none() {
            return future::pending().await;
        }
        loop {
            Timer::after(self.every).await;
            self.save().await;
        }
    }

    /// Brings the file up to date before the end, if it does not take too long.
    pub(in crate::proxy) async fn keep_at_stop(self: &Arc<Self>) {
        self.save().or(async { _ = Timer::after(LAST_WRITE).await }).await;
    }

    async fn save(self: &Arc<Self>) {
        if self.file.is_none() {
            return;
        }
        let replays = self.clone();
        smol::unblock(move || {
            if let Some(kept) = &replays.file {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                let saved = kept.file.save(&replays.set);
                kept.tell(saved);
            }
        })
        .await;
    }
}

impl Kept {
    /// Warns when the file begins to fail.
    fn tell(&mut self, result: io::Result<()>) {
        let path = self.file.path().display();
        match result {
            Ok(()) => self.has_failed = false,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => log::warn!(
                "the file of the handshakes that were seen is damaged and not used, those in it can be replayed; it will be written anew file={path}"
            ),
            Err(_) if self.has_failed => {}
            Err(error) => {
                self.has_failed = true;
                log::warn!(
                    "the handshakes that were seen cannot be kept, a restart forgets them; defense.anti-replay.file must be in a directory where mtg may write file={path} error={error}"
                );
            }
        }
    }
}
