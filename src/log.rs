//! Log lines: `LEVEL message key=value…` on stderr, one line per event, no time stamp (procd, journald and docker add it).
//!
//! `simple_logger` decides what passes, for it filters by crate; the line is written here. Its own output names a module
//! in every line, and it goes through `eprintln!`, which ends the process when nobody reads stderr any more.

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use log::{Level, LevelFilter, Log, Metadata, Record};
use simple_logger::SimpleLogger;

/// Starts logging; a second call changes the level only.
pub(crate) fn init(level: LevelFilter) {
    let filter = SimpleLogger::new().with_level(LevelFilter::Warn).with_module_level("mtg", LevelFilter::Trace);
    // It fails only if there is a logger already: ours, or the one of the program that embeds us.
    let _ = log::set_boxed_logger(Box::new(Stderr { filter }));
    set_level(level);
}

/// Changes how much of our own is logged; other crates never get beyond warnings.
pub(crate) fn set_level(level: LevelFilter) {
    log::set_max_level(level);
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
            // One write keeps the lines of several threads apart; a log that nobody reads is no reason to stop.
            let _ = io::stderr().write_all(line(record.level(), record.args()).as_bytes());
        }
    }

    fn flush(&self) {}
}

fn line(level: Level, message: &fmt::Arguments<'_>) -> String {
    let mut line = OneLine(String::new());
    // Writing to a String fails only if a Display does; what it wrote until then is still worth reading.
    let _ = write!(line, "{level} {message}");
    line.0.push('\n');
    line.0
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
    use super::*;

    #[test]
    fn an_event_is_one_line() {
        let forged = line(Level::Warn, &format_args!("odd name sni={}", "a\nERROR b\x1b[m"));
        assert_eq!(forged, "WARN odd name sni=a\\nERROR b\\u{1b}[m\n");
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
