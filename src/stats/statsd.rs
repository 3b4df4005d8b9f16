//! The metrics for statsd: every few seconds, what the counters have gained and where the gauges stand, in UDP packets.
//!
//! Gauges go out as they are, not as changes: a lost packet or a server that starts anew does no lasting harm.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use async_io::{Async, Timer};
use futures_lite::FutureExt as _;

use super::counters::Sorted;
use super::table::{Kind, METRICS, Metric};
use super::{Snapshot, Stats, Value};
use crate::config::{Host, Statsd, TagFormat};
use crate::log::Limited;
use crate::net::resolve::Resolver;

/// Time between two reports.
const EVERY: Duration = Duration::from_secs(5);
/// How often trouble is worth a warning.
const WARN_EVERY: Duration = Duration::from_secs(60 * 60);
/// Bytes of a packet; with the headers of a tunnel or two it still fits into one frame.
const PACKET_MAX: usize = 1432;

/// Reports what happens after `baseline` until `stop` is over, and then once more.
pub(crate) async fn run<F: Future<Output = ()>>(
    settings: &Statsd,
    stats: &Stats,
    baseline: &Snapshot,
    resolver: &Resolver,
    refresh: impl Fn() -> F,
    stop: impl Future<Output = ()>,
) {
    let mut reporter =
        Reporter { settings, resolver, socket: None, sent: Sorted::default(), warnings: Limited::new(WARN_EVERY) };
    let known = reporter.lines(baseline).into_iter().filter_map(|line| line.counter);
    known.for_each(|(key, value)| *reporter.sent.entry(key) = value);
    let mut stop = std::pin::pin!(stop);
    let mut is_last = false;
    loop {
        refresh().await;
        reporter.report(&stats.snapshot()).await;
        if is_last {
            return;
        }
        let next = async {
            Timer::after(EVERY).await;
            false
        };
        is_last = next
            .or(async {
                stop.as_mut().await;
                true
            })
            .await;
    }
}

struct Reporter<'a> {
    settings: &'a Statsd,
    resolver: &'a Resolver,
    socket: Option<(SocketAddr, Async<UdpSocket>)>,
    /// What the server knows of each counter.
    sent: Sorted<String, u64>,
    warnings: Limited,
}

/// A line, and what the server knows when it has got it.
struct Line {
    text: String,
    counter: Option<(String, u64)>,
}

impl Reporter<'_> {
    async fn report(&mut self, snapshot: &Snapshot) {
        let lines = self.lines(snapshot);
        // Of a server that is not there, every other packet brings the news; the others seem to get through.
        let Err(error) = self.send(lines).await else { return };
        match self.warnings.pass(Instant::now()) {
            Some(left_out) => {
                log::warn!("cannot send statistics to the statsd server, trying again error={error}{left_out}");
            }
            None => log::debug!("cannot send statistics to the statsd server error={error}"),
        }
    }

    /// What is to be said: all gauges, and the counters that have gained something.
    fn lines(&self, snapshot: &Snapshot) -> Vec<Line> {
        let mut lines = Vec::new();
        for metric in METRICS {
            (metric.read)(snapshot, &mut |labels, value| match (value, metric.kind) {
                (Value::Histogram(histogram), _) => {
                    let sum = Value::Millis(histogram.sum_millis);
                    lines.extend(self.counter(metric, "_count", labels, Value::Whole(histogram.count())));
                    lines.extend(self.counter(metric, "_sum", labels, sum));
                }
                (value, Kind::Counter) => lines.extend(self.counter(metric, "", labels, value)),
                (value, _) => {
                    let name = format!("{}.{}", self.settings.metric_prefix, metric.name);
                    let text = line(self.settings.tag_format, &name, metric.labels, labels, &format!("{value}|g"));
                    lines.push(Line { text, counter: None });
                }
            });
        }
        lines
    }

    /// The line for what a counter has gained, if it has.
    fn counter(&self, metric: &Metric, suffix: &str, labels: &[&str], value: Value<'_>) -> Option<Line> {
        let name = format!("{}.{}{suffix}", self.settings.metric_prefix, metric.name);
        let key = format!("{name} {}", labels.join(" "));
        let known = self.sent.get(&key).copied().unwrap_or_default();
        let (now, gained) = match value {
            Value::Whole(now) => (now, Value::Whole(now.saturating_sub(known))),
            Value::Millis(now) => (now, Value::Millis(now.saturating_sub(known))),
            Value::Histogram(_) => return None,
        };
        let text = line(self.settings.tag_format, &name, metric.labels, labels, &format!("{gained}|c"));
        (now > known).then_some(Line { text, counter: Some((key, now)) })
    }

    /// Sends lines in as few packets as hold them. What is in a packet that could not be sent stays owed.
    async fn send(&mut self, lines: Vec<Line>) -> io::Result<()> {
        let socket = connect(self.settings, self.resolver, self.socket.take()).await?;
        let mut lines = lines.into_iter().peekable();
        while lines.peek().is_some() {
            let (mut packet, mut counters) = (String::new(), Vec::new());
            while let Some(line) = lines.next_if(|line| fits(&packet, &line.text)) {
                if !packet.is_empty() {
                    packet.push('\n');
                }
                packet += &line.text;
                counters.extend(line.counter);
            }
            socket.1.send(packet.as_bytes()).await?;
            counters.into_iter().for_each(|(key, value)| *self.sent.entry(key) = value);
        }
        self.socket = Some(socket);
        Ok(())
    }
}

/// A line that is too long for any packet gets one of its own.
fn fits(packet: &str, line: &str) -> bool {
    packet.is_empty() || packet.len() + 1 + line.len() <= PACKET_MAX
}

/// The socket to use now: the one that is there, unless the server has moved.
async fn connect(
    settings: &Statsd,
    resolver: &Resolver,
    socket: Option<(SocketAddr, Async<UdpSocket>)>,
) -> io::Result<(SocketAddr, Async<UdpSocket>)> {
    let Some((host, port)) = &settings.address else { return Err(io::ErrorKind::NotFound.into()) };
    let ips = match host {
        Host::Ip(ip) => vec![*ip],
        Host::Name(name) => resolver.resolve(name).await?,
    };
    if let Some(socket) = socket.filter(|(address, _)| ips.contains(&address.ip())) {
        return Ok(socket);
    }
    let ip = ips.into_iter().next().ok_or(io::ErrorKind::NotFound)?;
    let from: SocketAddr =
        if ip.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = Async::<UdpSocket>::bind(from)?;
    let address = SocketAddr::new(ip, *port);
    socket.get_ref().connect(address)?;
    Ok((address, socket))
}

/// One line with its tags.
fn line(format: TagFormat, name: &str, labels: &[&str], values: &[&str], value: &str) -> String {
    let tags = |separator: &str, equals: &str| -> Vec<String> {
        let plain = |value: &str| if equals == ":" { value.to_owned() } else { value.replace(':', "-") };
        labels.iter().zip(values).map(|(label, value)| format!("{separator}{label}{equals}{}", plain(value))).collect()
    };
    match format {
        _ if labels.is_empty() => format!("{name}:{value}"),
        TagFormat::Datadog => format!("{name}:{value}|#{}", tags("", ":").join(",")),
        // The first colon ends the name there, so that an IPv6 address cannot have any.
        TagFormat::Influxdb => format!("{name}{}:{value}", tags(",", "=").concat()),
        TagFormat::Graphite => format!("{name}{}:{value}", tags(";", "=").concat()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Connection, Event, Route, Traffic};
    use crate::outcome::Stranger;
    use crate::proto::dc::DcId;

    fn server() -> (UdpSocket, Statsd) {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let address = server.local_addr().unwrap();
        let address = Some((Host::Ip(address.ip()), address.port()));
        (server, Statsd { enabled: true, address, ..Statsd::default() })
    }

    fn packet(server: &UdpSocket) -> String {
        let mut bytes = [0; 4096];
        let length = server.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    #[test]
    fn tags_are_written_in_three_ways() {
        let write =
            |format| line(format, "mtg.telegram_traffic", &["telegram_ip", "dc"], &["2001:db8::1", "2"], "30|c");
        assert_eq!(write(TagFormat::Datadog), "mtg.telegram_traffic:30|c|#telegram_ip:2001:db8::1,dc:2");
        assert_eq!(write(TagFormat::Influxdb), "mtg.telegram_traffic,telegram_ip=2001-db8--1,dc=2:30|c");
        assert_eq!(write(TagFormat::Graphite), "mtg.telegram_traffic;telegram_ip=2001-db8--1;dc=2:30|c");
        for format in [TagFormat::Datadog, TagFormat::Influxdb, TagFormat::Graphite] {
            assert_eq!(line(format, "mtg.domain_fronting", &[], &[], "1|c"), "mtg.domain_fronting:1|c");
        }
    }

    #[test]
    fn counters_tell_what_they_gained_and_gauges_where_they_stand() {
        let (server, settings) = server();
        let (stats, resolver) = (Stats::default(), Resolver::system());
        let connection = Connection::new(1, "192.0.2.1:9".parse().unwrap(), Route::Front);
        stats.record(&Event::Started(connection));
        let mut reporter = Reporter {
            settings: &settings,
            resolver: &resolver,
            socket: None,
            sent: Sorted::default(),
            warnings: Limited::new(WARN_EVERY),
        };
        let mut report = || {
            async_io::block_on(reporter.report(&stats.snapshot()));
            packet(&server)
        };
        let has = |packet: &str, line: &str| packet.lines().any(|found| found == line);
        let first = report();
        assert!(has(&first, "mtg.client_connections:1|g|#ip_family:ipv4"), "{first}");
        assert!(!first.contains("|c"), "{first}");
        let traffic = Traffic { from_client: 5, to_client: u64::from(u32::MAX) + 1 };
        stats.record(&Event::Fronting { connection, stranger: Stranger::Slow });
        stats.record(&Event::Traffic { connection, traffic });
        let second = report();
        assert!(has(&second, "mtg.domain_fronting_traffic:4294967296|c|#direction:to_client"), "{second}");
        assert!(has(&second, "mtg.handshake_failures:1|c|#reason:slow_hello"), "{second}");
        stats.record(&Event::Traffic { connection, traffic: Traffic { from_client: 2, to_client: 0 } });
        let third = report();
        let counters: Vec<_> = third.lines().filter(|line| line.contains("|c")).collect();
        assert_eq!(counters, ["mtg.domain_fronting_traffic:2|c|#direction:from_client"]);
        assert!(has(&third, "mtg.client_connections:1|g|#ip_family:ipv4"), "{third}");
    }

    #[test]
    fn a_dead_server_is_worth_one_warning() {
        let (server, settings) = server();
        // Nobody is there any more, and the system tells after every other packet.
        drop(server);
        let (stats, resolver, warnings) = (Stats::default(), Resolver::system(), Limited::new(WARN_EVERY));
        let mut reporter =
            Reporter { settings: &settings, resolver: &resolver, socket: None, sent: Sorted::default(), warnings };
        let started = Instant::now();
        for _ in 0..10 {
            async_io::block_on(reporter.report(&stats.snapshot()));
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(reporter.warnings.pass(started), None, "no report failed, or a warning was taken back");
        let left_out = reporter.warnings.pass(started + 2 * WARN_EVERY).unwrap().to_string();
        let count: u32 = left_out.strip_prefix(" left_out=").unwrap().parse().unwrap();
        assert!((2..=10).contains(&count), "{left_out}");
    }

    #[test]
    fn packets_are_never_too_long_and_what_was_not_sent_stays_owed() {
        let (server, settings) = server();
        let (stats, resolver) = (Stats::default(), Resolver::system());
        for host in 0..200 {
            let address = ([10, 0, 0, host], 443).into();
            let connection =
                Connection::new(1, "192.0.2.1:9".parse().unwrap(), Route::Telegram { dc: DcId::new(2), address });
            stats.record(&Event::Traffic { connection, traffic: Traffic { from_client: 1, to_client: 1 } });
        }
        let nowhere = Statsd { address: None, ..settings.clone() };
        let mut reporter = Reporter {
            settings: &nowhere,
            resolver: &resolver,
            socket: None,
            sent: Sorted::default(),
            warnings: Limited::new(WARN_EVERY),
        };
        async_io::block_on(reporter.report(&stats.snapshot()));
        reporter.settings = &settings;
        async_io::block_on(reporter.report(&stats.snapshot()));
        let (mut counters, mut lengths) = (0, Vec::new());
        while counters < 400 {
            let packet = packet(&server);
            lengths.push(packet.len());
            counters += packet.lines().filter(|line| line.contains(":1|c|#telegram_ip:10.0.0.")).count();
        }
        assert!(counters == 400 && lengths.len() > 10, "{counters} {lengths:?}");
        assert!(lengths.iter().all(|&length| length <= PACKET_MAX), "{lengths:?}");
        assert!(lengths.iter().rev().skip(1).all(|&length| length > PACKET_MAX - 100), "{lengths:?}");
    }
}
