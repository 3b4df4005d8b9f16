//! The few numbers that an owner looks at first, out of all that is counted.

use super::Snapshot;

/// What goes on now, and what has since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    /// Connections of clients to Telegram now.
    pub(crate) clients: u64,
    /// Connections of strangers to the front now.
    pub(crate) strangers: u64,
    /// Connections of which it is not known yet which they are.
    pub(crate) arriving: u64,
    /// Bytes from Telegram to clients.
    pub(crate) bytes_to_clients: u64,
    /// Bytes from clients to Telegram.
    pub(crate) bytes_from_clients: u64,
    /// What the process occupies.
    pub(crate) memory_bytes: u64,
}

impl Figures {
    /// Each with its name.
    pub(crate) fn each(&mut self) -> [(&'static str, &mut u64); 6] {
        [
            ("clients", &mut self.clients),
            ("strangers", &mut self.strangers),
            ("arriving", &mut self.arriving),
            ("bytes_to_clients", &mut self.bytes_to_clients),
            ("bytes_from_clients", &mut self.bytes_from_clients),
            ("memory_bytes", &mut self.memory_bytes),
        ]
    }
}

impl Snapshot {
    pub(crate) fn figures(&self) -> Figures {
        let counters = &self.counters;
        let all = counters.clients.ipv4 + counters.clients.ipv6;
        let strangers = counters.fronted_now.ipv4 + counters.fronted_now.ipv6;
        let mut figures =
            Figures { strangers, memory_bytes: self.process.resident_bytes.unwrap_or(0), ..Figures::default() };
        for (_, telegram) in counters.telegram.iter() {
            figures.clients += telegram.connections;
            figures.bytes_to_clients += telegram.traffic.to_client;
            figures.bytes_from_clients += telegram.traffic.from_client;
        }
        figures.arriving = all.saturating_sub(figures.clients + strangers);
        figures
    }
}
