//! The pages whose records are imitated (`defense.doppelganger.urls`, else the front's first one): fetched now and then,
//! and the times between the TLS records of the answer and their lengths kept. They are drawn from as they are; a curve
//! that is fitted to the times goes astray where most are zero.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_io::{Async, Timer};
use futures_lite::FutureExt as _;
use futures_lite::future::pending;

use crate::log::Limited;
use crate::net::deadline;
use crate::net::http::{self, Request, Wanted};
use crate::net::stream::Stream;
use crate::net::tls::TlsStream;
use crate::proto::pacing::UNIT;
use crate::proto::record_sizer::{self, Growth};
use crate::proto::transcode::RECORD_PAYLOAD_MAX;
use crate::proto::url::Url;
use crate::proxy::front::watch;
use crate::proxy::{Shared, random};

/// Times that are kept; the newest ones.
const GAPS_MAX: usize = 4096;
/// So many are needed for them to be used.
const GAPS_MIN: usize = 100;
/// The longest time that counts, units; beyond it a server has thought, not sent.
const GAP_MAX: u16 = 30_000;
/// Downloads whose records' lengths are kept.
const GROWTHS_MAX: usize = 8;
const HTTPS: u16 = 443;
/// Between two pages.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(2));
/// For one page.
const LIMIT: Duration = Duration::from_secs(60);
/// The longest page, bytes.
const SIZE_MAX: u64 = 8 << 20;

/// What was measured.
#[derive(Default)]
pub(in crate::proxy) struct Measured(Mutex<Known>);

#[derive(Default)]
struct Known {
    /// In units of [`UNIT`].
    times: Option<Arc<[u16]>>,
    /// Of the newest downloads.
    growths: VecDeque<Growth>,
}

impl Measured {
    /// The times that there are now.
    pub(in crate::proxy) fn times(&self) -> Option<Arc<[u16]>> {
        self.lock().times.clone()
    }

    /// How the records of one of the downloads grew, chosen by any number.
    pub(in crate::proxy) fn growth(&self, number: u32) -> Option<Growth> {
        let known = self.lock();
        known.growths.get(usize::try_from(number).ok()?.checked_rem(known.growths.len())?).cloned()
    }

    fn add(&self, growth: Growth) {
        let mut known = self.lock();
        known.growths.truncate(GROWTHS_MAX - 1);
        known.growths.push_front(growth);
    }

    /// What is known is whole whenever the lock is free, so a poisoned lock is as good as any.
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Measures the pages for as long as it is polled, if the owner wants that. How another front sends is learned anew.
pub(in crate::proxy) async fn keep_measured(shared: &Shared) {
    loop {
        measure_again_and_again(shared).or(shared.page_changes.wait()).await;
        shared.measured.lock().growths.clear();
    }
}

async fn measure_again_and_again(shared: &Shared) {
    let config = shared.config();
    let wanted = &config.defense.doppelganger;
    let times = wanted.enabled && !wanted.urls.is_empty();
    if !times && !wanted.drs {
        return pending().await;
    }
    let mut pages = wanted.urls.clone();
    if pages.is_empty() {
        pages.extend(format!("https://{}/", config.secret.host()).parse());
    }
    let mut gaps = Vec::new();
    loop {
        // Lengths do not vary as times do.
        for _ in 0..if times { wanted.repeats_per_raid } else { 1 } {
            for page in &pages {
                match deadline::within(LIMIT, measure(shared, page)).await {
                    Some(Ok((measured, lengths))) => {
                        gaps.extend(measured.into_iter().filter_map(in_units));
                        learn_growth(shared, page, &lengths);
                    }
                    Some(Err(error)) => warn(page, &error),
                    None => warn(page, "time is over"),
                }
                Timer::after(random::between(PAUSE)).await;
            }
            publish(shared, &mut gaps);
        }
        if times {
            let enough = if gaps.len() < GAPS_MIN { "too few, the built-in ones serve" } else { "in use" };
            log::info!("pages measured times={} mbit_per_second={} {enough}", gaps.len(), speed(&gaps));
        }
        Timer::after(wanted.raid_each).await;
    }
}

fn learn_growth(shared: &Shared, page: &Url, lengths: &[u16]) {
    let growth = record_sizer::growth_of(lengths);
    let enough = if growth.is_some() { "in use" } else { "too few, those of Go's servers serve" };
    log::info!("sizes of records page={page} records={} {enough}", lengths.len());
    if let Some(growth) = growth {
        shared.measured.add(growth);
    }
}

fn publish(shared: &Shared, gaps: &mut Vec<u16>) {
    gaps.drain(..gaps.len().saturating_sub(GAPS_MAX));
    if gaps.len() >= GAPS_MIN {
        shared.measured.lock().times = Some(gaps.as_slice().into());
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

/// Fetches a page and takes the times between its records, microseconds, and their lengths. It is reached directly: over
/// somebody else's proxy the times would be others.
async fn measure(shared: &Shared, url: &Url) -> Result<(Vec<u32>, Vec<u16>), String> {
    let patience = shared.config().network.timeout.http;
    let stream = open(shared, url).await.map_err(|error| error.to_string())?;
    let mut stream = Stream::Tls(Box::new(stream));
    let fields = url.authorization.as_deref().map(|value| ("Authorization", value)).into_iter().collect();
    let (method, wanted) = ("GET", Wanted::Found);
    let request = Request { method, url, fields, body: None, wanted, body_max: SIZE_MAX, patience };
    let head = http::exchange(&mut stream, &request, &mut |_| true).await.map_err(|error| error.to_string())?;
    match (head.status, stream) {
        (200, Stream::Tls(stream)) => Ok(stream.into_measured()),
        (status, _) => Err(format!("the server answers with status {status}")),
    }
}

async fn open(shared: &Shared, url: &Url) -> io::Result<TlsStream> {
    let config = shared.config();
    // The site's name may lead to ourselves, where the front is known to be elsewhere.
    if url.host == config.secret.host() && url.port == HTTPS {
        let header = config.domain_fronting.proxy_protocol;
        let (socket, _path) = watch::introduce(shared, &config, &shared.front_dialer, header).await?;
        return TlsStream::measuring(socket, &url.host).await;
    }
    let ips = shared.resolver.resolve(&url.host).await?;
    let addresses = ips.into_iter().map(|ip| SocketAddr::new(ip, url.port)).collect();
    let (socket, _) = shared.front_dialer.connect(addresses, config.network.timeout.tcp).await?;
    TlsStream::measuring(Async::new(socket)?, &url.host).await
}

fn warn(page: &Url, error: &str) {
    static WARNINGS: Limited = Limited::new(Duration::from_secs(60 * 60));
    if let Some(left_out) = WARNINGS.pass(Instant::now()) {
        log::warn!("cannot measure a page page={page} error={error}{left_out}");
    }
}
