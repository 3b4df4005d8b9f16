//! The pages whose timing is imitated (`defense.doppelganger.urls`): fetched now and then, and the times between the
//! TLS records of the answer kept. They are drawn from as they are; a fitted curve goes astray where most are zero.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_io::{Async, Timer};
use futures_lite::future::pending;

use super::{Shared, random};
use crate::log::Limited;
use crate::net::deadline;
use crate::net::http::{self, Request};
use crate::net::stream::Stream;
use crate::net::tls::TlsStream;
use crate::proto::pacing::UNIT;
use crate::proto::transcode::RECORD_PAYLOAD_MAX;
use crate::proto::url::Url;

/// Times that are kept; the newest ones.
const GAPS_MAX: usize = 4096;
/// So many are needed for them to be used.
const GAPS_MIN: usize = 100;
/// The longest time that counts, units; beyond it a server has thought, not sent.
const GAP_MAX: u16 = 30_000;
/// Between two pages.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(2));
/// For one page.
const LIMIT: Duration = Duration::from_secs(60);
/// The longest page, bytes.
const SIZE_MAX: u64 = 8 << 20;

/// What was measured, in units of [`UNIT`].
#[derive(Default)]
pub(super) struct Measured(Mutex<Option<Arc<[u16]>>>);

impl Measured {
    /// The times that there are now.
    pub(super) fn times(&self) -> Option<Arc<[u16]>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Measures the pages for as long as it is polled, if the owner wants that.
pub(super) async fn keep_measured(shared: &Shared) {
    let config = shared.config();
    let wanted = &config.defense.doppelganger;
    if !wanted.enabled || wanted.urls.is_empty() {
        return pending().await;
    }
    let mut gaps = Vec::new();
    loop {
        for _ in 0..wanted.repeats_per_raid {
            for page in &wanted.urls {
                match deadline::within(LIMIT, measure(shared, page)).await {
                    Some(Ok(measured)) => gaps.extend(measured.into_iter().filter_map(in_units)),
                    Some(Err(error)) => warn(page, &error),
                    None => warn(page, "time is over"),
                }
                Timer::after(random::between(PAUSE)).await;
            }
            publish(shared, &mut gaps);
        }
        let enough = if gaps.len() < GAPS_MIN { "too few, the built-in ones serve" } else { "in use" };
        log::info!("pages measured times={} mbit_per_second={} {enough}", gaps.len(), speed(&gaps));
        Timer::after(wanted.raid_each).await;
    }
}

fn publish(shared: &Shared, gaps: &mut Vec<u16>) {
    gaps.drain(..gaps.len().saturating_sub(GAPS_MAX));
    if gaps.len() >= GAPS_MIN {
        *shared.measured.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(gaps.as_slice().into());
    }
}

/// What a connection gets at most, Mbit/s: a full record for each of these times.
fn speed(gaps: &[u16]) -> u64 {
    let bits = gaps.len() as u64 * RECORD_PAYLOAD_MAX as u64 * 8;
    let units: u64 = gaps.iter().map(|gap| u64::from(*gap)).sum();
    bits / (units * u64::from(UNIT)).max(1)
}

/// A time of so many microseconds, unless it is too long.
fn in_units(micros: u32) -> Option<u16> {
    u16::try_from(micros / UNIT).ok().filter(|gap| *gap <= GAP_MAX)
}

/// Fetches a page and takes the times between its records, microseconds. It is reached directly: over somebody else's
/// proxy the times would be others.
async fn measure(shared: &Shared, url: &Url) -> Result<Vec<u32>, String> {
    let patience = shared.config().network.timeout.http;
    let stream = open(shared, url).await.map_err(|error| error.to_string())?;
    let mut stream = Stream::Tls(Box::new(stream));
    let fields = url.authorization.as_deref().map(|value| ("Authorization", value)).into_iter().collect();
    let request = Request { url, fields, body: None, body_max: SIZE_MAX, patience };
    let head = http::exchange(&mut stream, &request, &mut |_| true).await.map_err(|error| error.to_string())?;
    match (head.status, stream) {
        (200, Stream::Tls(stream)) => Ok(stream.into_gaps()),
        (status, _) => Err(format!("the server answers with status {status}")),
    }
}

async fn open(shared: &Shared, url: &Url) -> io::Result<TlsStream> {
    let ips = shared.resolver.resolve(&url.host).await?;
    let addresses = ips.into_iter().map(|ip| SocketAddr::new(ip, url.port)).collect();
    let (socket, _) = shared.front_dialer.connect(addresses, shared.config().network.timeout.tcp).await?;
    TlsStream::measuring(Async::new(socket)?, &url.host).await
}

fn warn(page: &Url, error: &str) {
    static WARNINGS: Limited = Limited::new(Duration::from_secs(60 * 60));
    if let Some(left_out) = WARNINGS.pass(Instant::now()) {
        log::warn!("cannot measure a page page={page} error={error}{left_out}");
    }
}
