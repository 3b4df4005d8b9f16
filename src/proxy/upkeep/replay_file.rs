//! The file that carries the set of hellos over a restart, and to another process on the same port.
//!
//! Alone, a process reads it at its start and replaces it at its end, and at most once an hour in between. Processes
//! that share a port exchange what they have seen through it twice a second: each adds its own at the end and reads
//! what others have added, under a lock on a file beside it. Nothing here runs on the executor, for a disk may take its
//! time.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::guard::antireplay::{AntiReplay, News};
use crate::guard::replay_blocks::{self, COUNT, HEADER};

/// Time for another process to be done with the file.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
const LOCK_STEP: Duration = Duration::from_millis(10);
/// Sizes of the set that a shared file may grow to before it is written anew.
const GROWTH: u64 = 2;

/// The set as all connections use it.
pub(in crate::proxy) type Set = Mutex<AntiReplay>;

/// The file, and what is known of it.
pub(in crate::proxy) struct ReplayFile {
    path: PathBuf,
    is_shared: bool,
    /// Beyond it, a shared file is written anew, bytes.
    length_max: u64,
    /// What the file was when it was last read or written.
    known: Option<Known>,
    /// What [`AntiReplay::added`] was when the whole set was last written.
    written: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Known {
    device: u64,
    inode: u64,
    length: u64,
}

impl Known {
    fn of(metadata: &fs::Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino(), length: metadata.len() }
    }
}

/// The set is whole whenever the lock is free, so a poisoned lock is as good as any.
pub(in crate::proxy) fn lock(set: &Set) -> MutexGuard<'_, AntiReplay> {
    set.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ReplayFile {
    pub(in crate::proxy) fn new(path: &Path, is_shared: bool, max_size: u64) -> Self {
        let length_max = max_size.saturating_mul(GROWTH);
        Self { path: path.to_owned(), is_shared, length_max, known: None, written: None }
    }

    pub(in crate::proxy) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the whole file into an empty set. If there is none, one is made, so that it shows at once whether it can
    /// be written.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] if it is damaged; the set should not be used then.
    pub(in crate::proxy) fn load(&mut self, set: &Set) -> io::Result<()> {
        let _turn = self.is_shared.then(|| self.turn()).transpose()?;
        match self.read_news(set) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.write_whole(set),
            Err(error) => Err(error),
            Ok(()) => {
                self.written = Some(lock(set).added());
                Ok(())
            }
        }
    }

    /// Brings the file up to date, and with it the set if the file is shared.
    pub(in crate::proxy) fn save(&mut self, set: &Set) -> io::Result<()> {
        if self.is_shared {
            return self.exchange(set);
        }
        let has_changed = self.written != Some(lock(set).added());
        if has_changed { self.write_whole(set) } else { Ok(()) }
    }

    fn exchange(&mut self, set: &Set) -> io::Result<()> {
        let news = lock(set).take_news();
        let is_unchanged = fs::metadata(&self.path).is_ok_and(|now| self.known == Some(Known::of(&now)));
        if is_unchanged && news == News::default() && self.written.is_some() {
            return Ok(());
        }
        // Whatever fails from here on: the whole set has to be written, for the news are taken.
        let has_whole = self.written.take().is_some();
        let _turn = self.turn()?;
        let read = self.read_news(set);
        let is_long = self.known.is_some_and(|known| known.length > self.length_max);
        if read.is_err() || !has_whole || news.is_incomplete || is_long {
            self.write_whole(set)?;
        } else if !news.words.is_empty() {
            self.append(&news.words)?;
        }
        self.written = Some(lock(set).added());
        // A file that is not there any more has been made again; what was wrong with it otherwise is worth telling.
        read.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
    }

    /// Waits until no other process uses the file, and keeps them off until it is dropped.
    fn turn(&self) -> io::Result<File> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(self.beside("lock"))?;
        let mut waited = Duration::ZERO;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(fs::TryLockError::Error(error)) => return Err(error),
                Err(fs::TryLockError::WouldBlock) if waited >= LOCK_PATIENCE => {
                    return Err(io::Error::other("another process does not let go of it"));
                }
                Err(fs::TryLockError::WouldBlock) => thread::sleep(LOCK_STEP),
            }
            waited += LOCK_STEP;
        }
    }

    /// Reads what has come to the file since we read or wrote it; all of it if it is another one.
    fn read_news(&mut self, set: &Set) -> io::Result<()> {
        let metadata = fs::metadata(&self.path)?;
        // Opening a pipe would wait for somebody who writes.
        if !metadata.is_file() {
            return Err(io::Error::other("this is not a file"));
        }
        let file = File::open(&self.path)?;
        let now = Known::of(&file.metadata()?);
        let is_same = |known: &Known| Known { length: now.length, ..*known } == now && known.length <= now.length;
        let read_to = self.known.take().filter(is_same).map_or(0, |known| known.length);
        // Not beyond what the lock, if there is one, vouches for.
        let mut file = BufReader::new(file).take(now.length.saturating_sub(read_to));
        if read_to == 0 {
            let mut header = [0; HEADER.len()];
            file.read_exact(&mut header).map_err(cut_short)?;
            if header != HEADER {
                return Err(damaged());
            }
        } else {
            file.get_mut().seek(SeekFrom::Start(read_to))?;
        }
        while let Some(words) = next_block(&mut file)? {
            lock(set).merge(&words);
        }
        self.known = Some(now);
        Ok(())
    }

    fn append(&mut self, words: &[u64]) -> io::Result<()> {
        let mut file = OpenOptions::new().append(true).open(&self.path)?;
        file.write_all(&replay_blocks::write(words))?;
        self.known = Some(Known::of(&file.metadata()?));
        Ok(())
    }

    /// Writes the whole set into another file and puts that in the place of the old one.
    fn write_whole(&mut self, set: &Set) -> io::Result<()> {
        let fresh = self.beside("new");
        let written = self.write_to(&fresh, set).and_then(|done| fs::rename(&fresh, &self.path).map(|()| done));
        match written {
            Ok((known, added)) => (self.known, self.written) = (Some(known), Some(added)),
            Err(_) => _ = fs::remove_file(&fresh),
        }
        written.map(drop)
    }

    fn write_to(&self, fresh: &Path, set: &Set) -> io::Result<(Known, u64)> {
        // One that a crash has left, whatever its mode is.
        let _ = fs::remove_file(fresh);
        let mut file = BufWriter::new(OpenOptions::new().write(true).create_new(true).mode(0o600).open(fresh)?);
        file.write_all(&HEADER)?;
        let (added, mut next) = (lock(set).added(), 0);
        loop {
            // Each segment for itself, so that no connection waits for the disk.
            let segment = lock(set).segment(next);
            let Some((number, words)) = segment else { break };
            file.write_all(&replay_blocks::write(&words))?;
            next = number + 1;
        }
        let file = file.into_inner()?;
        file.sync_all()?;
        Ok((Known::of(&file.metadata()?), added))
    }

    /// A file in the same directory, for the same use.
    fn beside(&self, what: &str) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(".");
        name.push(what);
        name.into()
    }
}

/// The words of the next block; none at the end of the file.
fn next_block(file: &mut impl Read) -> io::Result<Option<Vec<u64>>> {
    let mut count = [0; COUNT];
    let mut rest = Vec::new();
    if file.take(1).read_to_end(&mut rest)? == 0 {
        return Ok(None);
    }
    if let ([first, others @ ..], [byte]) = (&mut count, rest.as_slice()) {
        *first = *byte;
        file.read_exact(others).map_err(cut_short)?;
    }
    rest.resize(replay_blocks::rest_len(count).ok_or_else(damaged)?, 0);
    file.read_exact(&mut rest).map_err(cut_short)?;
    replay_blocks::read(count, &rest).map(Some).ok_or_else(damaged)
}

fn cut_short(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::UnexpectedEof { damaged() } else { error }
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the file is damaged")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const SIZE: u64 = 1 << 14;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("mtg-replays-{}-{name}", std::process::id()));
            fs::create_dir_all(&folder).unwrap();
            Self(folder)
        }

        fn path(&self) -> PathBuf {
            self.0.join("hellos")
        }

        fn process(&self, is_shared: bool) -> (ReplayFile, Set) {
            let mut set = AntiReplay::new(SIZE);
            if is_shared {
                set.keep_news();
            }
            let (mut file, set) = (ReplayFile::new(&self.path(), is_shared, SIZE), Mutex::new(set));
            file.load(&set).unwrap();
            (file, set)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn see(set: &Set, number: u8) -> bool {
        lock(set).first_seen(&std::array::from_fn(|at| number.wrapping_mul(167).wrapping_add((at * 31) as u8)))
    }

    #[test]
    fn the_set_comes_back_and_is_nobody_elses() {
        let folder = Folder::new("back");
        let (mut file, set) = folder.process(false);
        assert!((0..200).all(|number| see(&set, number)));
        file.save(&set).unwrap();
        let metadata = fs::metadata(folder.path()).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
        let (mut file, set) = folder.process(false);
        assert!((0..200).all(|number| !see(&set, number)) && see(&set, 200));
        // Only what has changed is written, and nothing else is left there.
        file.save(&set).unwrap();
        let saved = fs::metadata(folder.path()).unwrap();
        assert_ne!(saved.ino(), metadata.ino());
        file.save(&set).unwrap();
        assert_eq!(fs::metadata(folder.path()).unwrap().ino(), saved.ino());
        assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 1);
    }

    #[test]
    fn a_damaged_file_is_refused_wherever_it_is_damaged() {
        let folder = Folder::new("damaged");
        let (mut file, set) = folder.process(false);
        (0..3).for_each(|number| _ = see(&set, number));
        file.save(&set).unwrap();
        let good = fs::read(folder.path()).unwrap();
        let refused = |bytes: &[u8]| {
            fs::write(folder.path(), bytes).unwrap();
            let set = Mutex::new(AntiReplay::new(SIZE));
            let result = ReplayFile::new(&folder.path(), false, SIZE).load(&set);
            result.is_err_and(|error| error.kind() == io::ErrorKind::InvalidData)
        };
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x80;
            assert!(refused(&bad), "byte {at}");
            // At the header's end stands an empty set.
            assert!(at == HEADER.len() || refused(&good[..at]), "cut at {at}");
        }
        assert!(!refused(&good));
    }

    #[test]
    fn two_processes_know_of_each_other_after_an_exchange_each() {
        let folder = Folder::new("shared");
        let (mut old_file, old) = folder.process(true);
        assert!(see(&old, 1));
        old_file.save(&old).unwrap();
        let (mut new_file, new) = folder.process(true);
        assert!(!see(&new, 1), "what was before its start");
        assert!(see(&old, 2) && see(&new, 3));
        old_file.save(&old).unwrap();
        new_file.save(&new).unwrap();
        old_file.save(&old).unwrap();
        assert!(!see(&new, 2) && !see(&old, 3));
        // The old one takes its leave.
        assert!(see(&old, 4));
        old_file.save(&old).unwrap();
        new_file.save(&new).unwrap();
        assert!(!see(&new, 4));
        assert!((1..5).all(|number| !see(&folder.process(true).1, number)));
    }

    #[test]
    fn a_shared_file_is_bounded_and_nothing_is_lost_when_it_is_written_anew() {
        let folder = Folder::new("bounded");
        let (mut old_file, old) = folder.process(true);
        let (mut new_file, new) = folder.process(true);
        let digest = |number: u64| -> crate::proto::faketls::Digest {
            let mixed = (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
            std::array::from_fn(|at| mixed[at % 8])
        };
        for number in 0..9000 {
            let (file, set, other_file, other) = match number % 2 {
                0 => (&mut old_file, &old, &mut new_file, &new),
                _ => (&mut new_file, &new, &mut old_file, &old),
            };
            assert!(lock(set).first_seen(&digest(number)), "{number}");
            if number % 3 == 0 {
                file.save(set).unwrap();
                other_file.save(other).unwrap();
                assert!(!lock(other).first_seen(&digest(number)), "{number}");
            }
            assert!(fs::metadata(folder.path()).unwrap().len() <= SIZE * GROWTH + 200);
        }
    }

    #[test]
    fn what_is_damaged_while_it_is_shared_is_told_and_written_anew() {
        let folder = Folder::new("mended");
        let (mut file, set) = folder.process(true);
        assert!(see(&set, 1));
        fs::write(folder.path(), "rubbish").unwrap();
        assert!(file.save(&set).is_err());
        assert!(file.save(&set).is_ok());
        assert!(!see(&folder.process(true).1, 1));
        fs::remove_file(folder.path()).unwrap();
        assert!(see(&set, 2) && file.save(&set).is_ok());
        assert!((1..3).all(|number| !see(&folder.process(true).1, number)));
    }

    #[test]
    fn a_file_that_cannot_be_written_is_told_and_nothing_is_lost_meanwhile() {
        let folder = Folder::new("absent");
        let (mut file, set) = folder.process(true);
        let away = folder.0.with_extension("away");
        fs::rename(&folder.0, &away).unwrap();
        assert!(see(&set, 1) && file.save(&set).is_err() && file.save(&set).is_err());
        fs::rename(&away, &folder.0).unwrap();
        file.save(&set).unwrap();
        assert!(!see(&folder.process(true).1, 1));
        fs::remove_file(folder.path()).unwrap();
        fs::create_dir(folder.path()).unwrap();
        assert!(ReplayFile::new(&folder.path(), false, SIZE).load(&set).is_err());
    }
}
