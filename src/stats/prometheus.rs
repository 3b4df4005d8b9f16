//! The metrics for Prometheus: a very small HTTP server.
//!
//! It serves a few readers for a short time each and knows one answer; a reader that is slow or says nothing is
//! dropped, at once if others wait. Format: Prometheus' text, whatever is asked for: mtg v2 offers nothing else, and
//! OpenMetrics would give its counters other names, under which no dashboard knows them.

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use async_io::{Async, Timer};
use futures_lite::AsyncReadExt as _;
use futures_lite::future::yield_now;
use smol::{Executor, Task};
use socket2::{Domain, SockRef, Socket, Type};

use super::table::METRICS;
use super::{Snapshot, Stats, Value};
use crate::config::Prometheus;
use crate::net::{deadline, turn};

/// Readers at the same time; one more takes the place of the oldest.
const READERS: usize = 8;
/// How long a reader may take for its request and our answer together.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of a request's head.
const HEAD_MAX: usize = 8 << 10;
/// Bytes that a reader may send after its request.
const DRAINED_MAX: usize = 64 << 10;
/// Pause after an error of accept that only time mends.
const PAUSE: Duration = Duration::from_millis(200);

/// Readers that wait to be accepted, as the standard library has it.
const QUEUE: i32 = 128;

/// A server that listens and does not answer yet.
pub(crate) struct Server {
    listener: Async<TcpListener>,
}

impl Server {
    /// With `shares_port` another process may listen on the same address, if it wants that, too.
    ///
    /// # Errors
    /// Those of bind and listen.
    pub(crate) fn bind(address: SocketAddr, shares_port: bool) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        if shares_port {
            socket.set_reuse_port(true)?;
        }
        socket.bind(&address.into())?;
        socket.listen(QUEUE)?;
        Ok(Self { listener: Async::new(socket.into())? })
    }

    /// Listens on another address with the port of a server of ours, which would stand in the way: one of the two may
    /// stand for all addresses.
    ///
    /// # Errors
    /// Those of bind and listen.
    pub(crate) fn bind_beside(address: SocketAddr, other: &Self, shares_port: bool) -> io::Result<Self> {
        let old = SockRef::from(other.listener.get_ref());
        // For this moment only unless the port is shared, so that nobody else can join.
        old.set_reuse_port(true)?;
        let bound = Self::bind(address, true);
        old.set_reuse_port(shares_port)?;
        let new = bound?;
        SockRef::from(new.listener.get_ref()).set_reuse_port(shares_port)?;
        Ok(new)
    }

    /// Answers for as long as it is polled, by the `settings` of the moment, with what is there after `refresh`. No
    /// error ends it.
    pub(crate) async fn run<F: Future<Output = ()> + Send>(
        &self,
        stats: &Stats,
        settings: impl Fn() -> Prometheus,
        refresh: impl Fn() -> F,
    ) {
        let executor = Executor::new();
        let accept = async {
            let mut readers = VecDeque::new();
            loop {
                match self.listener.accept().await {
                    Ok((socket, reader)) => {
                        let (settings, refreshed) = (settings(), refresh());
                        let serve = async move {
                            let answer = answer(&socket, stats, &settings, refreshed);
                            let answered = deadline::within(PATIENCE, answer).await;
                            if !matches!(answered, Some(Ok(()))) {
                                log::debug!("a reader of the metrics was dropped ip={}", reader.ip().to_canonical());
                            }
                        };
                        readers.retain(|reader: &Task<()>| !reader.is_finished());
                        if readers.len() >= READERS {
                            // Dropping a task ends it.
                            readers.pop_front();
                        }
                        readers.push_back(executor.spawn(serve));
                        // Newcomers without end must not keep those that are here from being served.
                        yield_now().await;
                    }
                    Err(error) => {
                        log::debug!("a reader of the metrics was lost error={error}");
                        Timer::after(PAUSE).await;
                    }
                }
            }
        };
        executor.run(accept).await
    }
}

async fn answer(
    mut socket: &Async<TcpStream>,
    stats: &Stats,
    settings: &Prometheus,
    refreshed: impl Future<Output = ()>,
) -> io::Result<()> {
    let head = receive_head(socket).await?;
    refreshed.await;
    let response = respond(&head, settings, || stats.snapshot());
    turn::write_all(socket, response.as_bytes()).await?;
    socket.get_ref().shutdown(std::net::Shutdown::Write)?;
    // Closing with bytes unread would send RST, which may overtake the answer.
    let (mut chunk, mut drained) = ([0; 1024], 0);
    while drained < DRAINED_MAX {
        match turn::take(socket.read(&mut chunk)).await? {
            0 => return Ok(()),
            length => drained += length,
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}

/// Reads up to the empty line that ends the head.
async fn receive_head(mut socket: &Async<TcpStream>) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && !head.ends_with(b"\n\n") && head.len() < HEAD_MAX {
        let mut chunk = [0; 1024];
        let length = turn::take(socket.read(&mut chunk)).await?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        head.extend_from_slice(chunk.get(..length).unwrap_or_default());
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";

fn respond(head: &str, settings: &Prometheus, snapshot: impl FnOnce() -> Snapshot) -> String {
    let mut words = head.lines().next().unwrap_or_default().split(' ');
    let (Some(method), Some(target), Some(version)) = (words.next(), words.next(), words.next()) else {
        return response("400 Bad Request", PLAIN, "not a request\n", true);
    };
    if !version.starts_with("HTTP/1.") || !target.starts_with('/') {
        return response("400 Bad Request", PLAIN, "not a request\n", true);
    }
    let has_body = method != "HEAD";
    let path = target.split(['?', '#']).next().unwrap_or_default();
    if settings.http_path != "/" && settings.http_path != path {
        return response("404 Not Found", PLAIN, "nothing here\n", has_body);
    }
    if !matches!(method, "GET" | "HEAD") {
        return response("405 Method Not Allowed\r\nAllow: GET, HEAD", PLAIN, "only GET and HEAD\n", has_body);
    }
    response("200 OK", TEXT, &text(&snapshot(), &settings.metric_prefix), has_body)
}

fn response(status: &str, kind: &str, body: &str, has_body: bool) -> String {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    if has_body { head + body } else { head }
}

/// All metrics.
fn text(snapshot: &Snapshot, prefix: &str) -> String {
    let mut text = String::new();
    for metric in METRICS {
        let name = if metric.is_universal { metric.name.to_owned() } else { format!("{prefix}_{}", metric.name) };
        let mut samples = String::new();
        (metric.read)(snapshot, &mut |values, value| match value {
            Value::Histogram(histogram) => {
                for (bound, count) in histogram.cumulative() {
                    samples += &format!("{name}_bucket{{le=\"{bound}.0\"}} {count}\n");
                }
                let (count, sum) = (histogram.count(), Value::Millis(histogram.sum_millis));
                samples += &format!("{name}_bucket{{le=\"+Inf\"}} {count}\n{name}_sum {sum}\n{name}_count {count}\n");
            }
            _ => samples += &format!("{name}{} {value}\n", labels(metric.labels, values)),
        });
        // A family without a value does not exist.
        if !samples.is_empty() {
            let (help, kind) = (metric.help, metric.kind.as_str());
            text += &format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{samples}");
        }
    }
    text
}

/// `{name="value",…}`. No value has a character that would have to be escaped.
fn labels(names: &[&str], values: &[&str]) -> String {
    if names.is_empty() {
        return String::new();
    }
    let pairs: Vec<_> = names.iter().zip(values).map(|(name, value)| format!("{name}=\"{value}\"")).collect();
    format!("{{{}}}", pairs.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(path: &str) -> Prometheus {
        Prometheus { http_path: path.to_owned(), ..Prometheus::default() }
    }

    fn status(head: &str, path: &str) -> String {
        let response = respond(head, &settings(path), || Stats::default().snapshot());
        response.lines().next().unwrap().trim_start_matches("HTTP/1.1 ").to_owned()
    }

    #[test]
    fn requests_are_answered_as_due() {
        for (head, path, wanted) in [
            ("GET / HTTP/1.1\r\n\r\n", "/", "200 OK"),
            ("GET /anything?x=1 HTTP/1.0\r\n\r\n", "/", "200 OK"),
            ("HEAD /metrics HTTP/1.1\r\n\r\n", "/metrics", "200 OK"),
            ("GET /metrics?a HTTP/1.1\r\n\r\n", "/metrics", "200 OK"),
            ("GET / HTTP/1.1\r\n\r\n", "/metrics", "404 Not Found"),
            ("GET /metrics/ HTTP/1.1\r\n\r\n", "/metrics", "404 Not Found"),
            ("POST /metrics HTTP/1.1\r\n\r\n", "/metrics", "405 Method Not Allowed"),
            ("\r\n\r\n", "/", "400 Bad Request"),
            ("GET /", "/", "400 Bad Request"),
            ("GET / SIP/2.0\r\n\r\n", "/", "400 Bad Request"),
            ("GET http://example.com/ HTTP/1.1\r\n\r\n", "/", "400 Bad Request"),
        ] {
            assert_eq!(status(head, path), wanted, "{head:?}");
        }
    }

    #[test]
    fn a_head_request_gets_the_length_and_no_body() {
        let stats = Stats::default();
        let both = ["GET", "HEAD"].map(|method| {
            respond(&format!("{method} / HTTP/1.1\r\n\r\n"), &settings("/"), || Snapshot {
                counters: stats.lock().clone(),
                proxies: Vec::new(),
                process: Default::default(),
            })
        });
        let (head, body) = both[0].split_once("\r\n\r\n").unwrap();
        assert_eq!(both[1], format!("{head}\r\n\r\n"));
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{head}");
        assert!(body.contains("\n# TYPE mtg_replay_attacks counter\nmtg_replay_attacks 0\n"), "{body}");
    }

    #[test]
    fn whoever_asks_for_open_metrics_gets_the_names_of_mtg_too() {
        let head = "GET / HTTP/1.1\r\naccept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n\r\n";
        let text = respond(head, &settings("/"), || Stats::default().snapshot());
        assert!(text.contains("\n# TYPE mtg_replay_attacks counter\nmtg_replay_attacks 0\n"), "{text}");
        assert!(text.contains("Content-Type: text/plain; version=0.0.4; ") && !text.contains("_total"), "{text}");
        for list in ["allowlist", "blocklist"] {
            assert!(text.contains(&format!("\nmtg_iplist_size{{ip_list=\"{list}\"}} 0\n")), "{text}");
        }
    }
}
