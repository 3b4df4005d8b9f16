//! What is counted, and which event counts where.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use crate::event::{Connection, Door, Event, IpList, Route, Traffic};
use crate::outcome::{Outcome, Stranger};
use crate::proto::reason::Reason;

/// Addresses of Telegram that are told apart; what comes beyond counts as the last one.
const TELEGRAM_MAX: usize = 256;

/// Bounds of the histogram's buckets: a failed handshake, a short visit, a session, a day.
pub(super) const BUCKETS_SECS: [u64; 8] = [1, 10, 60, 300, 1800, 7200, 28_800, 86_400];

/// All counters of the process.
#[derive(Clone, Debug, Default)]
pub(super) struct Counters {
    pub(super) clients: ByFamily,
    pub(super) fronted_now: ByFamily,
    pub(super) telegram: Sorted<(IpAddr, u16), Telegram>,
    pub(super) front: Traffic,
    pub(super) fronted: u64,
    pub(super) concurrency_limited: u64,
    pub(super) replays: u64,
    pub(super) blocklisted: u64,
    pub(super) not_allowlisted: u64,
    pub(super) blocklist_size: u64,
    pub(super) allowlist_size: u64,
    pub(super) failures: Sorted<&'static str, u64>,
    pub(super) sessions_ended: Sorted<&'static str, u64>,
    pub(super) durations: Histogram,
    pub(super) web: Web,
}

/// What concerns the WEB proxy.
#[derive(Clone, Debug, Default)]
pub(super) struct Web {
    pub(super) sessions: u64,
    pub(super) streams: u64,
    pub(super) traffic: Traffic,
    pub(super) refused: Sorted<&'static str, u64>,
}

/// A small map in the order of its keys.
#[derive(Clone, Debug)]
pub(super) struct Sorted<K, V>(Vec<(K, V)>);

impl<K, V> Default for Sorted<K, V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

/// Connections by the family of the client's address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ByFamily {
    pub(super) ipv4: u64,
    pub(super) ipv6: u64,
}

/// What concerns one address of a DC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Telegram {
    pub(super) connections: u64,
    pub(super) traffic: Traffic,
}

/// How long connections lasted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Histogram {
    /// One for each bound and one for all above.
    buckets: [u64; BUCKETS_SECS.len() + 1],
    pub(super) sum_millis: u64,
}

impl Counters {
    pub(super) fn record(&mut self, event: &Event) {
        self.web.record(event);
        match event {
            Event::Started(connection) => *self.clients.of(connection) += 1,
            Event::Refused { outcome, .. } => self.refused(*outcome),
            Event::Authenticated { .. }
            | Event::WebSessionStarted { .. }
            | Event::WebSessionEnded { .. }
            | Event::WebRefused { .. } => {}
            Event::Fronting { connection, stranger } => {
                self.fronted += 1;
                *self.fronted_now.of(connection) += 1;
                match stranger {
                    Stranger::Rejected(Reason::Replay) => self.replays += 1,
                    Stranger::Blocklisted => self.blocklisted += 1,
                    Stranger::NotAllowlisted => self.not_allowlisted += 1,
                    _ => {}
                }
                self.failed(stranger.as_str());
            }
            Event::Connected(connection) => {
                if let Some(telegram) = self.telegram(connection) {
                    telegram.connections += 1;
                }
            }
            Event::Traffic { connection, traffic } => match connection.route {
                Route::Front => self.front.add(*traffic),
                Route::Undecided | Route::Telegram { .. } => {
                    if let Some(telegram) = self.telegram(connection) {
                        telegram.traffic.add(*traffic);
                    }
                }
            },
            Event::Ended { connection, outcome, lasted, .. } => self.ended(connection, *outcome, *lasted),
            Event::ListLoaded { list, entries } => {
                let size = *entries as u64;
                match list {
                    IpList::Allow => self.allowlist_size = size,
                    IpList::Block => self.blocklist_size = size,
                }
            }
        }
    }

    fn refused(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::ConcurrencyLimited => self.concurrency_limited += 1,
            Outcome::Blocklisted => self.blocklisted += 1,
            Outcome::NotAllowlisted => self.not_allowlisted += 1,
            _ => {}
        }
        self.failed(outcome.as_str());
    }

    fn ended(&mut self, connection: &Connection, outcome: Outcome, lasted: Duration) {
        take_one(self.clients.of(connection));
        match connection.route {
            Route::Undecided => self.failed(outcome.as_str()),
            Route::Front => take_one(self.fronted_now.of(connection)),
            Route::Telegram { .. } => {
                if let Some(telegram) = self.telegram(connection) {
                    take_one(&mut telegram.connections);
                }
                *self.sessions_ended.entry(outcome.as_str()) += 1;
            }
        }
        self.durations.add(lasted);
    }

    fn failed(&mut self, reason: &'static str) {
        *self.failures.entry(reason) += 1;
    }

    /// The entry of the DC's address that a connection goes to.
    fn telegram(&mut self, connection: &Connection) -> Option<&mut Telegram> {
        let Route::Telegram { dc, address } = connection.route else { return None };
        // As mtg has it: media numbers, which are negative, lead to the same addresses.
        let mut key = (address.ip().to_canonical(), dc.number().unsigned_abs());
        if self.telegram.len() >= TELEGRAM_MAX && self.telegram.get(&key).is_none() {
            key = (Ipv4Addr::UNSPECIFIED.into(), 0);
        }
        Some(self.telegram.entry(key))
    }
}

impl Web {
    fn record(&mut self, event: &Event) {
        match event {
            Event::WebSessionStarted { .. } => self.sessions += 1,
            Event::WebSessionEnded { .. } => take_one(&mut self.sessions),
            Event::WebRefused { reason, .. } => *self.refused.entry(reason) += 1,
            Event::Started(connection) if connection.door == Door::Web => self.streams += 1,
            Event::Ended { connection, .. } if connection.door == Door::Web => take_one(&mut self.streams),
            Event::Traffic { connection, traffic } if connection.door == Door::Web => self.traffic.add(*traffic),
            _ => {}
        }
    }
}

impl<K: Ord, V: Default> Sorted<K, V> {
    /// The value of a key; a new one is the default.
    pub(super) fn entry(&mut self, key: K) -> &mut V {
        let place = self.find(&key).unwrap_or_else(|place| {
            self.0.insert(place, (key, V::default()));
            place
        });
        &mut self.0[place].1
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.find(key).ok().map(|place| &self.0[place].1)
    }

    fn find(&self, key: &K) -> Result<usize, usize> {
        self.0.binary_search_by(|(known, _)| known.cmp(key))
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &(K, V)> {
        self.0.iter()
    }
}

impl ByFamily {
    fn of(&mut self, connection: &Connection) -> &mut u64 {
        match connection.client.ip().to_canonical() {
            IpAddr::V4(_) => &mut self.ipv4,
            IpAddr::V6(_) => &mut self.ipv6,
        }
    }
}

impl Histogram {
    fn add(&mut self, lasted: Duration) {
        let fits = |bound: &u64| lasted <= Duration::from_secs(*bound);
        let index = BUCKETS_SECS.iter().position(fits).unwrap_or(BUCKETS_SECS.len());
        if let Some(bucket) = self.buckets.get_mut(index) {
            *bucket += 1;
        }
        let millis = u64::try_from(lasted.as_millis()).unwrap_or(u64::MAX);
        self.sum_millis = self.sum_millis.saturating_add(millis);
    }

    /// How many there were in all.
    pub(super) fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// For each bound in seconds: how many lasted no longer.
    pub(super) fn cumulative(&self) -> impl Iterator<Item = (u64, u64)> {
        BUCKETS_SECS.into_iter().zip(self.buckets.iter().scan(0, |sum, bucket| {
            *sum += bucket;
            Some(*sum)
        }))
    }
}

fn take_one(count: &mut u64) {
    *count = count.saturating_sub(1);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::dc::DcId;

    fn connection(client: &str, route: Route) -> Connection {
        Connection::new(1, client.parse().unwrap(), route)
    }

    fn telegram(host: u16) -> Route {
        Route::Telegram { dc: DcId::new(2), address: ([10, 0, (host >> 8) as u8, host as u8], 443).into() }
    }

    fn ended(connection: Connection, secs: u64) -> Event {
        let lasted = Duration::from_secs(secs);
        Event::Ended { connection, outcome: Outcome::Served, traffic: Traffic::default(), lasted }
    }

    #[test]
    fn gauges_go_back_to_zero_and_counters_stay() {
        let mut counters = Counters::default();
        for route in [telegram(1), Route::Front] {
            let (undecided, decided) =
                (connection("[2001:db8::1]:9", Route::Undecided), connection("[2001:db8::1]:9", route));
            counters.record(&Event::Started(undecided));
            match route {
                Route::Front => counters.record(&Event::Fronting { connection: decided, stranger: Stranger::Slow }),
                _ => counters.record(&Event::Connected(decided)),
            }
            let traffic = Traffic { from_client: u64::from(u32::MAX), to_client: 7 };
            counters.record(&Event::Traffic { connection: decided, traffic });
            counters.record(&Event::Traffic { connection: decided, traffic });
            counters.record(&ended(decided, 100));
        }
        assert_eq!((counters.clients, counters.fronted_now), (ByFamily::default(), ByFamily::default()));
        let both = Traffic { from_client: 2 * u64::from(u32::MAX), to_client: 14 };
        assert_eq!(counters.front, both);
        assert_eq!(
            counters.telegram.iter().map(|&(_, telegram)| telegram).collect::<Vec<_>>(),
            [Telegram { connections: 0, traffic: both }]
        );
        assert_eq!((counters.fronted, counters.failures.get(&"slow_hello")), (1, Some(&1)));
        assert_eq!((counters.durations.count(), counters.durations.sum_millis), (2, 200_000));
    }

    #[test]
    fn families_are_told_apart_and_mapped_addresses_are_ipv4() {
        let mut counters = Counters::default();
        for client in ["192.0.2.1:1", "[::ffff:192.0.2.1]:1", "[2001:db8::1]:1"] {
            counters.record(&Event::Started(connection(client, Route::Undecided)));
        }
        assert_eq!(counters.clients, ByFamily { ipv4: 2, ipv6: 1 });
    }

    #[test]
    fn media_numbers_count_as_their_data_centre() {
        let mut counters = Counters::default();
        for number in [2, -2] {
            let route = Route::Telegram { dc: DcId::new(number), address: ([10, 0, 0, 1], 443).into() };
            counters.record(&Event::Connected(connection("192.0.2.1:1", route)));
        }
        let counts: Vec<_> = counters.telegram.iter().map(|((_, dc), telegram)| (*dc, telegram.connections)).collect();
        assert_eq!(counts, [(2, 2)]);
    }

    #[test]
    fn addresses_of_telegram_do_not_grow_without_end() {
        let mut counters = Counters::default();
        for host in 0..1000 {
            counters.record(&Event::Connected(connection("192.0.2.1:1", telegram(host))));
        }
        assert_eq!(counters.telegram.len(), TELEGRAM_MAX + 1);
        assert_eq!(counters.telegram.iter().map(|(_, telegram)| telegram.connections).sum::<u64>(), 1000);
    }

    #[test]
    fn buckets_count_what_lasted_no_longer() {
        let mut histogram = Histogram::default();
        [0, 1, 2, 60, 61, 1_000_000].into_iter().for_each(|secs| histogram.add(Duration::from_secs(secs)));
        let counts: Vec<_> = histogram.cumulative().map(|(_, count)| count).collect();
        assert_eq!(counts, [2, 3, 4, 5, 5, 5, 5, 5]);
        assert_eq!(histogram.count(), 6);
    }
}
