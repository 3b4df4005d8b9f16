//! What the system knows about this process, from `/proc`. What cannot be read is left out.

use std::fs;
use std::io::{BufRead, BufReader};

/// One look.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Process {
    pub(super) resident_bytes: Option<u64>,
    pub(super) open_files: Option<u64>,
    /// Unix time, milliseconds.
    pub(super) started_millis: Option<u64>,
}

impl Process {
    pub(super) fn read() -> Self {
        Self { resident_bytes: resident_bytes(), open_files: open_files(), started_millis: started_millis() }
    }
}

fn resident_bytes() -> Option<u64> {
    let pages: u64 = fs::read_to_string("/proc/self/statm").ok()?.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

fn open_files() -> Option<u64> {
    // One of them is the folder itself, open while it is read.
    Some(fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1) as u64)
}

/// The kernel's boot time moves when the clock is set, so that a router that learned the time late is right too.
fn started_millis() -> Option<u64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name of the program, in parentheses, may have anything in it; 20 fields lie between it and the start time.
    let ticks: u64 = stat.rsplit_once(')')?.1.split(' ').nth(20)?.parse().ok()?;
    let stat = BufReader::new(fs::File::open("/proc/stat").ok()?);
    let boot = stat.lines().map_while(Result::ok).find_map(|line| line.strip_prefix("btime ")?.parse::<u64>().ok())?;
    Some(boot * 1000 + ticks * 1000 / rustix::param::clock_ticks_per_second())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    #[test]
    fn this_process_is_small_young_and_has_files() {
        let process = Process::read();
        let resident = process.resident_bytes.unwrap();
        assert!(resident > 100_000 && resident < 1 << 30, "{resident}");
        assert!(process.open_files.unwrap() >= 3);
        let started = UNIX_EPOCH + Duration::from_millis(process.started_millis.unwrap());
        let age = SystemTime::now().duration_since(started).unwrap_or_default();
        assert!(age < Duration::from_secs(3600), "{age:?}");
    }
}
