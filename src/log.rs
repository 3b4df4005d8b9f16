//! Log lines: `LEVEL message key=value…` on stderr, one line per event. The time stands before it only where nobody else
//! adds it, as procd, journald and docker do: at a terminal and in a file.
//!
//! `simple_logger` decides what passes, for it filters by crate; the line is written here. Its own output names a module
//! in every line, and it goes through `eprintln!`, which ends the process when nobody reads stderr any more.
//!
//! A thread of its own writes to stderr, for a pipe whose reader has stopped reading holds whoever writes to it. Lines
//! wait for it in a short queue; what does not fit is left out, and a later line says how much that was.

use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::{self, IsTerminal, Write as _};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use log::{Level, LevelFilter, Log, Metadata, Record};
use rustix::thread::set_no_new_privs;
use simple_logger::SimpleLogger;

use crate::clock::UnixTime;

/// Bytes of lines that wait to be written.
const QUEUE_MAX: usize = 32 << 10;
/// Memory that is kept for them between two lines.
const QUEUE_KEPT: usize = 2 << 10;
/// How long the end of the process waits for its last lines.
const LAST_LINES: Duration = Duration::from_millis(300);
/// Stack of the thread that writes, bytes.
const STACK: usize = 32 << 10;

static QUEUE: Queue = Queue { lines: Mutex::new(Lines::new()), changed: Condvar::new() };

/// The target of lines that the owner sees at any level: start, stop, reload. They pass as errors, which nothing holds
/// back, and are shown as what they are.
const NOTICE: &str = "mtg::notice";
/// Whether lines have the time in front.
static HAS_TIME: AtomicBool = AtomicBool::new(false);

/// Starts logging; a second call changes the level and `time` only. Without `time` the kind of stderr decides.
pub(crate) fn init(level: LevelFilter, time: Option<bool>) {
    let filter = SimpleLogger::new().with_level(LevelFilter::Warn).with_module_level("mtg", LevelFilter::Trace);
    // It fails only if there is a logger already: ours, or the one of the program that embeds us.
    if log::set_boxed_logger(Box::new(Stderr { filter })).is_ok() {
        let writer = thread::Builder::new().name("log".to_owned()).stack_size(STACK);
        QUEUE.lock().is_open = writer.spawn(|| QUEUE.write_forever()).is_ok();
    }
    set(level, time);
}

/// Writes whole lines to stderr, after those that wait already.
pub(crate) fn write(lines: &str) {
    if !QUEUE.push(lines) {
        // A stderr that is closed is no reason to stop.
        let _ = io::stderr().write_all(lines.as_bytes());
    }
}

/// Waits until all lines are written, but not long: nobody may be reading them.
pub(crate) fn finish() {
    let is_busy = |lines: &mut Lines| lines.is_open && (lines.is_writing || lines.has_some());
    // Only the time is over or it is not.
    let _ = QUEUE.changed.wait_timeout_while(QUEUE.lock(), LAST_LINES, is_busy);
}

/// Changes how much of our own is logged, and whether the time is; other crates never get beyond warnings.
pub(crate) fn set(level: LevelFilter, time: Option<bool>) {
    HAS_TIME.store(time.unwrap_or_else(|| nobody_adds_the_time(&io::stderr())), Ordering::Relaxed);
    log::set_max_level(level);
}

/// Writes a line that is seen at any level.
pub(crate) fn notice(text: fmt::Arguments<'_>) {
    log::error!(target: NOTICE, "{text}");
}

fn nobody_adds_the_time(stderr: &(impl IsTerminal + AsFd)) -> bool {
    let is_file = || Some(File::from(stderr.as_fd().try_clone_to_owned().ok()?).metadata().ok()?.is_file());
    stderr.is_terminal() || is_file().unwrap_or(false)
}

/// Lets one line per `every` through and counts the others: for warnings that one cause repeats without end.
pub(crate) struct Limited {
    every: Duration,
    state: Mutex<State>,
}

/// How many lines were left out since the last one, to stand at the end of the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LeftOut(u32);

impl Limited {
    /// Fit for a `static` beside the line that it limits.
    pub(crate) const fn new(every: Duration) -> Self {
        Self { every, state: Mutex::new(State { last: None, left_out: 0 }) }
    }

    /// Says whether a line may be written now.
    pub(crate) fn pass(&self, now: Instant) -> Option<LeftOut> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.last.is_some_and(|last| now.saturating_duration_since(last) < self.every) {
            state.left_out = state.left_out.saturating_add(1);
            return None;
        }
        state.last = Some(now);
        Some(LeftOut(std::mem::take(&mut state.left_out)))
    }
}

impl fmt::Display for LeftOut {
    /// Nothing, or a field with the space before it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            count => write!(f, " left_out={count}"),
        }
    }
}

struct State {
    last: Option<Instant>,
    left_out: u32,
}

struct Stderr {
    filter: SimpleLogger,
}

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.filter.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            write(&line(record));
        }
    }

    fn flush(&self) {}
}

/// Lines on their way to stderr.
struct Queue {
    lines: Mutex<Lines>,
    changed: Condvar,
}

struct Lines {
    text: String,
    /// Lines that found no room since the last that did.
    left_out: u64,
    /// Somebody takes lines out.
    is_open: bool,
    is_writing: bool,
}

impl Lines {
    const fn new() -> Self {
        Self { text: String::new(), left_out: 0, is_open: false, is_writing: false }
    }

    fn has_some(&self) -> bool {
        !self.text.is_empty() || self.left_out > 0
    }

    /// Takes lines in, if there is room for them.
    fn add(&mut self, lines: &str) {
        if self.left_out > 0 || self.text.len() + lines.len() > QUEUE_MAX {
            self.left_out = self.left_out.saturating_add(1);
        } else {
            self.text.push_str(lines);
        }
    }

    /// Takes everything out, in exchange for an empty text.
    fn take(&mut self, text: &mut String) {
        std::mem::swap(&mut self.text, text);
        let left_out = std::mem::take(&mut self.left_out);
        if left_out > 0 {
            text.push_str(&line(
                &Record::builder()
                    .level(Level::Warn)
                    .args(format_args!("log lines were left out, nobody has read them in time lines={left_out}"))
                    .build(),
            ));
        }
    }
}

impl Queue {
    /// Says whether the lines are taken care of: written later, or counted as left out.
    fn push(&self, lines: &str) -> bool {
        let mut queued = self.lock();
        if queued.is_open {
            queued.add(lines);
            self.changed.notify_all();
        }
        queued.is_open
    }

    fn write_forever(&self) {
        // A thread that is there before the process gives up new privileges has to do it itself.
        let _ = set_no_new_privs(true);
        let mut text = String::new();
        loop {
            text.clear();
            text.shrink_to(QUEUE_KEPT);
            let mut lines = self.lock();
            lines.is_writing = false;
            self.changed.notify_all();
            let wait = self.changed.wait_while(lines, |lines| !lines.has_some());
            let mut lines = wait.unwrap_or_else(PoisonError::into_inner);
            lines.take(&mut text);
            lines.is_writing = true;
            drop(lines);
            let _ = io::stderr().write_all(text.as_bytes());
        }
    }

    /// The lines are whole whenever the lock is free, so a poisoned lock is as good as any.
    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn line(record: &Record<'_>) -> String {
    let mut line = OneLine(String::new());
    if HAS_TIME.load(Ordering::Relaxed) {
        line.0 = utc(UnixTime::now().secs_since_1970()) + " ";
    }
    let level = if record.target() == NOTICE { "NOTICE" } else { record.level().as_str() };
    // Writing to a String fails only if a Display does; what it wrote until then is still worth reading.
    let _ = write!(line, "{level} {}", record.args());
    line.0.push('\n');
    line.0
}

/// Unix time as RFC 3339 has it: `2026-11-25T23:59:59Z`.
pub(crate) fn utc(secs: u64) -> String {
    let (days, of_day) = (secs / 86_400, secs % 86_400);
    // Years that begin in March end with the leap day, and 400 of them have 146 097 days.
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let (day, month) = (of_year - (153 * shifted + 2) / 5 + 1, if shifted < 10 { shifted + 3 } else { shifted - 9 });
    let year = era * 400 + year + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", of_day / 3600, of_day / 60 % 60, of_day % 60)
}

/// Escapes control characters: names that peers send must not be able to forge a line or drive a terminal.
struct OneLine(String);

impl fmt::Write for OneLine {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            if c.is_control() { self.0.extend(c.escape_default()) } else { self.0.push(c) }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use log::Level;

    use super::*;

    #[test]
    fn an_event_is_one_line() {
        let shown = |target: &str, level| {
            line(
                &Record::builder()
                    .target(target)
                    .level(level)
                    .args(format_args!("odd name sni={}", "a\nERROR b\x1b[m"))
                    .build(),
            )
        };
        assert_eq!(shown("mtg::proxy", Level::Warn), "WARN odd name sni=a\\nERROR b\\u{1b}[m\n");
        assert_eq!(shown(NOTICE, Level::Error), "NOTICE odd name sni=a\\nERROR b\\u{1b}[m\n");
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        for (secs, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_764_028_800, "2025-11-25T00:00:00Z"),
            (1_798_761_599, "2026-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(utc(secs), text);
        }
    }

    #[test]
    fn a_file_gets_the_time_and_a_pipe_does_not() {
        let file = File::open("/proc/self/exe").unwrap();
        let (_reader, pipe) = io::pipe().unwrap();
        let pipe = File::from(std::os::fd::OwnedFd::from(pipe));
        assert!(nobody_adds_the_time(&file));
        assert!(!nobody_adds_the_time(&pipe));
    }

    #[test]
    fn lines_that_nobody_reads_are_counted_and_the_others_stay_in_order() {
        let (mut lines, long) = (Lines::new(), "x".repeat(QUEUE_MAX / 2));
        for text in ["first\n", &long, &long, "late\n"] {
            lines.add(text);
        }
        let mut text = String::new();
        lines.take(&mut text);
        let told = "WARN log lines were left out, nobody has read them in time lines=2\n";
        assert!(text == format!("first\n{long}{told}") && !lines.has_some(), "{text}");
        lines.add("next\n");
        text.clear();
        lines.take(&mut text);
        assert_eq!(text, "next\n");
    }

    #[test]
    fn other_crates_do_not_get_beyond_warnings() {
        let filter = SimpleLogger::new().with_level(LevelFilter::Warn).with_module_level("mtg", LevelFilter::Trace);
        let logger = Stderr { filter };
        for (target, level, passes) in [
            ("mtg::daemon", Level::Debug, true),
            ("async_io::driver", Level::Debug, false),
            ("polling", Level::Info, false),
            ("polling", Level::Warn, true),
        ] {
            let metadata = Metadata::builder().target(target).level(level).build();
            assert_eq!(logger.enabled(&metadata), passes, "{target} {level}");
        }
    }

    #[test]
    fn a_repeated_line_comes_once_and_tells_how_many_were_left_out() {
        let limited = Limited::new(Duration::from_secs(60));
        let start = Instant::now();
        let at = |secs| limited.pass(start + Duration::from_secs(secs)).map(|left_out| left_out.to_string());
        assert_eq!(at(0).as_deref(), Some(""));
        assert_eq!((at(0), at(59)), (None, None));
        assert_eq!(at(60).as_deref(), Some(" left_out=2"));
        assert_eq!(at(200).as_deref(), Some(""));
    }
}
