//! Counters and gauges of what happens, and the two ways out for them: Prometheus and statsd.
//!
//! All counters stand behind one lock. A connection takes it a handful of times in its life, the relay once in 15
//! seconds for a connection that moves bytes, and a reader only as long as copying takes; so a slow reader slows
//! nobody. Atomics would be no simpler: the machines that count most here have none of 64 bits.

mod counters;
mod figures;
mod process;
pub(crate) mod prometheus;
pub(crate) mod statsd;
mod table;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::event::Event;
use counters::Counters;
pub(crate) use figures::Figures;
use process::Process;
pub use table::markdown;

/// Counts events.
#[derive(Default)]
pub(crate) struct Stats {
    counters: Mutex<Counters>,
    proxies: Mutex<Vec<Arc<ProxyState>>>,
}

/// A SOCKS5 proxy on the way to Telegram: its address, and whether it is in use.
pub(crate) struct ProxyState {
    address: String,
    is_up: AtomicBool,
}

impl ProxyState {
    /// One that is in use.
    pub(crate) fn new(address: String) -> Arc<Self> {
        Arc::new(Self { address, is_up: AtomicBool::new(true) })
    }

    /// It is left alone from now on, or in use again.
    pub(crate) fn set_up(&self, is_up: bool) {
        self.is_up.store(is_up, Ordering::Relaxed);
    }
}

impl std::fmt::Display for ProxyState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.address)
    }
}

impl Stats {
    /// Shows these proxies and no others.
    pub(crate) fn show(&self, proxies: Vec<Arc<ProxyState>>) {
        *self.proxies.lock().unwrap_or_else(PoisonError::into_inner) = proxies;
    }

    /// Counts an event.
    pub(crate) fn record(&self, event: &Event) {
        self.lock().record(event);
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let counters = self.lock().clone();
        let proxies = self.proxies.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Snapshot { counters, proxies, process: Process::read() }
    }

    /// Each event is counted by steps that cannot fail half-way, so a poisoned lock is as good as any.
    fn lock(&self) -> MutexGuard<'_, Counters> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All values at one moment.
pub(crate) struct Snapshot {
    counters: Counters,
    proxies: Vec<Arc<ProxyState>>,
    process: Process,
}

/// One value of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value<'a> {
    Whole(u64),
    /// Milliseconds, which are written as seconds. Printing a float would cost a router 20 KB.
    Millis(u64),
    Histogram(&'a counters::Histogram),
}

impl std::fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Whole(value) => value.fmt(f),
            Self::Millis(millis) => write!(f, "{}.{:03}", millis / 1000, millis % 1000),
            Self::Histogram(histogram) => histogram.count().fmt(f),
        }
    }
}
