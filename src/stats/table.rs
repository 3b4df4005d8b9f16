//! The one table of all metrics. Prometheus, statsd and the manual page are made from it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::counters::{ByFamily, Counters};
use super::{ProxyState, Snapshot, Value};

/// All that is known about a metric.
pub(super) struct Metric {
    /// Without the configured prefix.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) labels: &'static [&'static str],
    /// One line.
    pub(super) help: &'static str,
    /// Names that every program uses alike take no prefix in Prometheus.
    pub(super) is_universal: bool,
    /// Passes on each value with the values of its labels.
    pub(super) read: fn(&Snapshot, &mut Sink<'_>),
}

/// Where values go.
pub(super) type Sink<'a> = dyn FnMut(&[&str], Value<'_>) + 'a;

/// The type of a metric, in Prometheus' words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// The table of the metrics for mtg.conf(5).
pub fn markdown() -> String {
    let mut text = String::from("| metric | type | labels | meaning |\n|---|---|---|---|\n");
    for metric in METRICS {
        let prefix = if metric.is_universal { "" } else { "mtg_" };
        let labels: Vec<_> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let (name, kind) = (metric.name, metric.kind.as_str());
        text += &format!("| `{prefix}{name}` | {kind} | {} | {} |\n", labels.join(", "), metric.help);
    }
    text
}

const FAMILY: &[&str] = &["ip_family"];
const LIST: &[&str] = &["ip_list"];

const fn gauge(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    read: fn(&Snapshot, &mut Sink<'_>),
) -> Metric {
    Metric { name, kind: Kind::Gauge, labels, help, is_universal: false, read }
}

const fn counter(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    read: fn(&Snapshot, &mut Sink<'_>),
) -> Metric {
    Metric { kind: Kind::Counter, ..gauge(name, labels, help, read) }
}

const fn universal(name: &'static str, help: &'static str, read: fn(&Snapshot, &mut Sink<'_>)) -> Metric {
    Metric { is_universal: true, ..gauge(name, &[], help, read) }
}

/// Every metric: mtg v2's first, under their names of old, then ours.
pub(super) static METRICS: &[Metric] = &[
    gauge("client_connections", FAMILY, "connections of clients and strangers now", |now, sink| {
        by_family(now.counters.clients, sink);
    }),
    gauge("telegram_connections", &["telegram_ip", "dc"], "connections to Telegram now", |now, sink| {
        each_telegram(&now.counters, &mut |labels, telegram| sink(&labels, Value::Whole(telegram.connections)));
    }),
    gauge("domain_fronting_connections", FAMILY, "connections of strangers to the front now", |now, sink| {
        by_family(now.counters.fronted_now, sink);
    }),
    gauge("iplist_size", LIST, "addresses and networks in a list", |now, sink| {
        sink(&["allowlist"], Value::Whole(now.counters.allowlist_size));
        sink(&["blocklist"], Value::Whole(now.counters.blocklist_size));
    }),
    counter(
        "telegram_traffic",
        &["telegram_ip", "dc", "direction"],
        "bytes relayed between clients and Telegram",
        |now, sink| {
            each_telegram(&now.counters, &mut |[ip, dc], telegram| {
                sink(&[ip, dc, "to_client"], Value::Whole(telegram.traffic.to_client));
                sink(&[ip, dc, "from_client"], Value::Whole(telegram.traffic.from_client));
            });
        },
    ),
    counter("domain_fronting_traffic", &["direction"], "bytes relayed between strangers and the front", |now, sink| {
        sink(&["to_client"], Value::Whole(now.counters.front.to_client));
        sink(&["from_client"], Value::Whole(now.counters.front.from_client));
    }),
    counter(
        "ip_blocklisted",
        LIST,
        "connections refused because of a list: closed, or sent to the front",
        |now, sink| {
            sink(&["allowlist"], Value::Whole(now.counters.not_allowlisted));
            sink(&["blocklist"], Value::Whole(now.counters.blocklisted));
        },
    ),
    counter("domain_fronting", &[], "strangers that were sent to the front", |now, sink| {
        sink(&[], Value::Whole(now.counters.fronted));
    }),
    counter("concurrency_limited", &[], "connections closed because there were too many", |now, sink| {
        sink(&[], Value::Whole(now.counters.concurrency_limited));
    }),
    counter("replay_attacks", &[], "hellos of clients that somebody sent again", |now, sink| {
        sink(&[], Value::Whole(now.counters.replays));
    }),
    counter("handshake_failures", &["reason"], "connections that did not get as far as Telegram", |now, sink| {
        now.counters.failures.iter().for_each(|(reason, count)| sink(&[reason], Value::Whole(*count)));
    }),
    counter(
        "sessions_ended",
        &["reason"],
        "connections to Telegram that have ended, by what ended them",
        |now, sink| {
            now.counters.sessions_ended.iter().for_each(|(reason, count)| sink(&[reason], Value::Whole(*count)));
        },
    ),
    Metric {
        kind: Kind::Histogram,
        ..gauge("connection_duration_seconds", &[], "how long connections lasted", |now, sink| {
            sink(&[], Value::Histogram(&now.counters.durations));
        })
    },
    gauge(
        "proxy_up",
        &["proxy"],
        "1 if a SOCKS5 proxy is in use, 0 while it is left alone because it failed",
        |now, sink| {
            // Of two with one address, and different users, the better counts: no series may come twice.
            for (at, proxy) in now.proxies.iter().enumerate() {
                let is_same = |other: &&Arc<ProxyState>| other.address == proxy.address;
                if now.proxies.iter().position(|other| is_same(&other)) == Some(at) {
                    let is_up = now.proxies.iter().filter(is_same).any(|other| other.is_up.load(Ordering::Relaxed));
                    sink(&[&proxy.address], Value::Whole(is_up.into()));
                }
            }
        },
    ),
    gauge("web_sessions", &[], "apps that are connected through the WEB proxy now", |now, sink| {
        sink(&[], Value::Whole(now.counters.web.sessions));
    }),
    gauge("web_streams", &[], "their streams now, which count as connections of clients, too", |now, sink| {
        sink(&[], Value::Whole(now.counters.web.streams));
    }),
    counter("web_traffic", &["direction"], "bytes relayed through the WEB proxy", |now, sink| {
        sink(&["to_client"], Value::Whole(now.counters.web.traffic.to_client));
        sink(&["from_client"], Value::Whole(now.counters.web.traffic.from_client));
    }),
    counter("web_refusals", &["reason"], "requests that looked like an app's and were refused", |now, sink| {
        now.counters.web.refused.iter().for_each(|(reason, count)| sink(&[reason], Value::Whole(*count)));
    }),
    gauge("build_info", &["version", "arch"], "always 1; which mtg this is", |_, sink| {
        sink(&[env!("CARGO_PKG_VERSION"), std::env::consts::ARCH], Value::Whole(1));
    }),
    universal("process_resident_memory_bytes", "memory that mtg occupies", |now, sink| {
        now.process.resident_bytes.into_iter().for_each(|bytes| sink(&[], Value::Whole(bytes)));
    }),
    universal("process_open_fds", "files and sockets that mtg has open", |now, sink| {
        now.process.open_files.into_iter().for_each(|count| sink(&[], Value::Whole(count)));
    }),
    universal("process_start_time_seconds", "when mtg was started, Unix time", |now, sink| {
        now.process.started_millis.into_iter().for_each(|millis| sink(&[], Value::Millis(millis)));
    }),
];

fn by_family(counts: ByFamily, sink: &mut Sink<'_>) {
    sink(&["ipv4"], Value::Whole(counts.ipv4));
    sink(&["ipv6"], Value::Whole(counts.ipv6));
}

fn each_telegram(counters: &Counters, each: &mut dyn FnMut([&str; 2], &super::counters::Telegram)) {
    for ((ip, dc), telegram) in counters.telegram.iter() {
        each([&ip.to_string(), &dc.to_string()], telegram);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_metrics_of_mtg_v2_are_there_with_their_types_and_labels() {
        for (name, kind, labels) in [
            ("client_connections", Kind::Gauge, &["ip_family"][..]),
            ("telegram_connections", Kind::Gauge, &["telegram_ip", "dc"]),
            ("domain_fronting_connections", Kind::Gauge, &["ip_family"]),
            ("iplist_size", Kind::Gauge, &["ip_list"]),
            ("telegram_traffic", Kind::Counter, &["telegram_ip", "dc", "direction"]),
            ("domain_fronting_traffic", Kind::Counter, &["direction"]),
            ("ip_blocklisted", Kind::Counter, &["ip_list"]),
            ("domain_fronting", Kind::Counter, &[]),
            ("concurrency_limited", Kind::Counter, &[]),
            ("replay_attacks", Kind::Counter, &[]),
        ] {
            let metric = METRICS.iter().find(|metric| metric.name == name).unwrap();
            assert_eq!((metric.kind, metric.labels), (kind, labels), "{name}");
        }
    }

    #[test]
    fn every_value_has_a_value_for_each_label() {
        let mut counters = Counters::default();
        counters.telegram.entry(([10, 0, 0, 1].into(), 2));
        *counters.failures.entry("replay") = 1;
        *counters.sessions_ended.entry("served") = 1;
        *counters.web.refused.entry("session") = 1;
        let proxies = vec![ProxyState::new("[::1]:1080".to_owned())];
        let snapshot = Snapshot { counters, proxies, process: super::super::Process::read() };
        for metric in METRICS {
            let mut seen = 0;
            (metric.read)(&snapshot, &mut |labels, _| {
                assert_eq!(labels.len(), metric.labels.len(), "{}", metric.name);
                seen += 1;
            });
            assert!(seen > 0, "{}", metric.name);
            assert!(markdown().contains(&format!("{}` |", metric.name)));
        }
    }

    #[test]
    fn proxies_with_one_address_are_one_series_and_the_better_counts() {
        let proxies = ["a:1", "b:1", "a:1"].map(|address| ProxyState::new(address.to_owned()));
        proxies[..2].iter().for_each(|proxy| proxy.set_up(false));
        let snapshot =
            Snapshot { counters: Counters::default(), proxies: proxies.to_vec(), process: Default::default() };
        let mut seen = Vec::new();
        let metric = METRICS.iter().find(|metric| metric.name == "proxy_up").unwrap();
        (metric.read)(&snapshot, &mut |labels, value| seen.push((labels[0].to_owned(), value.to_string())));
        assert_eq!(seen, [("a:1", "1"), ("b:1", "0")].map(|(address, up)| (address.to_owned(), up.to_owned())));
    }
}
