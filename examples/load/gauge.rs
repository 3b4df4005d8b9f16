//! What a process has used so far.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::time::Duration;

/// A process that is looked at.
pub(crate) struct Gauge {
    process: PathBuf,
}

impl Gauge {
    pub(crate) fn new(pid: u32) -> Self {
        Self { process: PathBuf::from(format!("/proc/{pid}")) }
    }

    /// Time of all its threads on a CPU, in the kernel and out of it.
    pub(crate) fn cpu(&self) -> io::Result<Duration> {
        let mut nanos = 0;
        for thread in fs::read_dir(self.process.join("task"))? {
            let text = fs::read_to_string(thread?.path().join("schedstat"))?;
            nanos += first_number(&text)?;
        }
        Ok(Duration::from_nanos(nanos))
    }

    /// Its memory, bytes.
    pub(crate) fn resident(&self) -> io::Result<u64> {
        // VmRSS in `status` lags behind by some pages for each CPU.
        let text = fs::read_to_string(self.process.join("smaps_rollup"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("Rss:"));
        Ok(first_number(line.ok_or(ErrorKind::InvalidData)?)? << 10)
    }
}

fn first_number(text: &str) -> io::Result<u64> {
    let word = text.split_whitespace().next().ok_or(ErrorKind::InvalidData)?;
    word.parse().map_err(|_| ErrorKind::InvalidData.into())
}
