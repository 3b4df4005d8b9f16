//! Addresses of the CDN (DC 203) that Telegram publishes on its web site, in addition to the built-in ones.
//!
//! What is published there is meant for another kind of proxy, so these addresses are tried last.

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_io::Timer;
use futures_lite::FutureExt as _;
use futures_lite::future::{pending, zip};

use crate::net::fetch::{self, Page, Validators};
use crate::net::http;
use crate::net::public_ip::is_global;
use crate::proto::dc::{self, DcId};
use crate::proto::url::{Url, UrlError};
use crate::proxy::Shared;
use crate::proxy::signal::Signal;
use crate::proxy::telegram::detour::Detour;

/// Where each family is published.
const PAGES: [&str; 2] = ["https://core.telegram.org/getProxyConfig", "https://core.telegram.org/getProxyConfigV6"];
/// The one DC that is learned.
const SITE: u16 = 203;
/// Addresses of a family that are kept.
const ADDRESSES_MAX: usize = 16;
/// Time between updates.
const EACH: Duration = Duration::from_secs(60 * 60);
/// The first pause after a failure; each is twice the one before. On a router, the clock is often wrong at first, and
/// no certificate is good.
const RETRY: Duration = Duration::from_secs(10);
/// For one page.
const LIMIT: Duration = Duration::from_secs(60);
/// The longest page, bytes.
const SIZE_MAX: u64 = 256 << 10;

/// The addresses of each family, as they were last published.
#[derive(Default)]
pub(in crate::proxy) struct Learned([Family; 2]);

#[derive(Default)]
struct Family {
    addresses: Mutex<Vec<SocketAddr>>,
    /// Sent when there are other ways to Telegram, which may lead to where the old ones did not.
    rerouted: Signal,
}

impl Learned {
    /// Further addresses of a DC.
    pub(in crate::proxy) fn addresses(&self, dc: DcId) -> Vec<SocketAddr> {
        if dc.site() != SITE {
            return Vec::new();
        }
        self.0.iter().flat_map(|family| lock(&family.addresses).clone()).collect()
    }

    /// Has both families learned anew.
    pub(in crate::proxy) fn reroute(&self) {
        self.0.iter().for_each(|family| family.rerouted.send());
    }
}

/// Learns addresses for as long as it is polled, if the owner wants that.
pub(in crate::proxy) async fn keep_fresh(shared: &Shared) {
    if !shared.config().auto_update {
        return pending().await;
    }
    let [v4, v6] = &shared.learned.0;
    let [v4_page, v6_page] = PAGES;
    zip(learn(shared, v4, v4_page, true), learn(shared, v6, v6_page, false)).await;
}

async fn learn(shared: &Shared, known: &Family, page: &str, is_v4: bool) {
    let mut retry = RETRY;
    loop {
        let pause = match published(shared, page, is_v4).await {
            Ok(addresses) => {
                log::info!("addresses learned dc={SITE} count={} page={page}", addresses.len());
                *lock(&known.addresses) = addresses;
                retry = RETRY;
                EACH
            }
            Err(error) => {
                if retry == RETRY {
                    log::warn!("cannot learn addresses, the last good ones stay dc={SITE} page={page} error={error}");
                } else {
                    log::debug!("cannot learn addresses dc={SITE} page={page} error={error}");
                }
                let pause = retry;
                retry = (retry * 2).min(EACH);
                pause
            }
        };
        let is_over = async {
            Timer::after(pause).await;
            false
        };
        let is_rerouted = async {
            known.rerouted.wait().await;
            true
        };
        if is_over.or(is_rerouted).await {
            retry = RETRY;
        }
    }
}

async fn published(shared: &Shared, page: &str, is_v4: bool) -> Result<Vec<SocketAddr>, String> {
    let url: Url = page.parse().map_err(|error: UrlError| error.to_string())?;
    let (known, patience) = (Validators::default(), shared.config().network.timeout.http);
    let page = Page { url: &url, known: &known, patience, limit: LIMIT, size_max: SIZE_MAX };
    let mut text = Vec::new();
    let fetched = fetch::fetch(&Detour(shared), &page, &mut http::keep(&mut text)).await;
    fetched.map_err(|error| error.to_string())?;
    let mut addresses = dc::published(&String::from_utf8_lossy(&text), SITE);
    addresses.retain(|address| address.is_ipv4() == is_v4 && is_global(address.ip()));
    addresses.truncate(ADDRESSES_MAX);
    if addresses.is_empty() { Err("the page has no address of this DC".to_owned()) } else { Ok(addresses) }
}

/// A list of addresses is whole whenever the lock is free, so a poisoned lock is as good as any.
fn lock(addresses: &Mutex<Vec<SocketAddr>>) -> MutexGuard<'_, Vec<SocketAddr>> {
    addresses.lock().unwrap_or_else(PoisonError::into_inner)
}
