//! The way to Telegram: direct, or through SOCKS5 proxies that take turns and are left alone while they fail.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::config::{Host, Socks5, Upstream};
use crate::guard::breaker::{Attempt, Breaker, Change, Policy};
use crate::log::Limited;
use crate::net::connect::{Dialer, is_our_own};
use crate::net::deadline;
use crate::net::resolve::Resolver;
use crate::net::socks5::{Fault, negotiate};
use crate::proxy::random;
use crate::stats::ProxyState;

/// Time for all ways and all addresses together, in units of the limit for one attempt.
pub(in crate::proxy) const ATTEMPTS: u32 = 2;
/// How often one proxy's troubles are worth a warning.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// The ways that the owner allows.
pub(crate) struct Routes(Vec<Route>);

/// Why none of them led to the target: one text for each.
pub(crate) struct NoRoute(Vec<String>);

/// What connecting takes.
pub(crate) struct Means<'a> {
    pub(crate) resolver: &'a Resolver,
    pub(crate) dialer: &'a Dialer,
    /// For one attempt.
    pub(crate) limit: Duration,
}

/// A connection, and the address of the target that it leads to.
type Reached = (TcpStream, SocketAddr);

enum Route {
    Direct,
    Proxy(Box<Proxy>),
}

/// A SOCKS5 proxy and what is known of it.
struct Proxy {
    settings: Socks5,
    breaker: Mutex<Breaker>,
    state: Arc<ProxyState>,
    warnings: Limited,
}

impl Routes {
    /// Without any proxy the way is direct.
    pub(crate) fn new(upstreams: &[Upstream]) -> Self {
        let routes: Vec<_> = upstreams.iter().map(Route::new).collect();
        Self(if routes.is_empty() { vec![Route::Direct] } else { routes })
    }

    /// The proxies among them, as the metrics show them.
    pub(in crate::proxy) fn states(&self) -> Vec<Arc<ProxyState>> {
        let state = |route: &Route| match route {
            Route::Direct => None,
            Route::Proxy(proxy) => Some(proxy.state.clone()),
        };
        self.0.iter().filter_map(state).collect()
    }

    /// Connects to the first of `addresses` that can be reached, over the ways in a random order.
    ///
    /// # Errors
    /// Why it failed on each way, or that time was over.
    pub(crate) async fn connect(&self, means: &Means<'_>, addresses: &[SocketAddr]) -> Result<Reached, NoRoute> {
        if addresses.is_empty() {
            return Err(NoRoute(vec!["there is no address to connect to".to_owned()]));
        }
        let end = Instant::now() + means.limit * ATTEMPTS;
        let mut left = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        let mut faults = Vec::new();
        for route in self.shuffled() {
            // What time is left is shared among the ways that are left, so that one that hangs does not use it up.
            let now = Instant::now();
            let turn_ends = now + end.saturating_duration_since(now) / left;
            left = left.saturating_sub(1).max(1);
            match route.connect(means, addresses, turn_ends).await {
                Ok(reached) => return Ok(reached),
                Err(fault) => faults.push(format!("{route}: {fault}")),
            }
        }
        Err(NoRoute(faults))
    }

    fn shuffled(&self) -> Vec<&Route> {
        let keyed = self.0.iter().map(|route| {
            let mut key = [0; 8];
            if self.0.len() > 1 {
                random::fill(&mut key);
            }
            (key, route)
        });
        let mut keyed: Vec<_> = keyed.collect();
        keyed.sort_by_key(|&(key, _)| key);
        keyed.into_iter().map(|(_, route)| route).collect()
    }
}

impl Route {
    fn new(upstream: &Upstream) -> Self {
        match upstream {
            Upstream::Direct => Self::Direct,
            Upstream::Socks5(settings) => Self::Proxy(Box::new(Proxy::new(settings.clone()))),
        }
    }

    async fn connect(&self, means: &Means<'_>, addresses: &[SocketAddr], end: Instant) -> Result<Reached, String> {
        match self {
            Self::Direct => {
                let connected = means.dialer.connect(addresses.to_vec(), means.limit);
                match deadline::until(end, connected).await {
                    Some(Ok(reached)) => Ok(reached),
                    Some(Err(error)) => Err(error.to_string()),
                    None => Err(TIME_IS_OVER.to_owned()),
                }
            }
            Self::Proxy(proxy) => proxy.connect(means, addresses, end).await,
        }
    }
}

const TIME_IS_OVER: &str = "time is over";

impl Proxy {
    fn new(settings: Socks5) -> Self {
        let policy = Policy {
            open_threshold: settings.open_threshold,
            half_open_timeout: settings.half_open_timeout,
            reset_failures_timeout: settings.reset_failures_timeout,
        };
        let state = ProxyState::new(shown(&settings));
        Self { settings, breaker: Mutex::new(Breaker::new(policy)), state, warnings: Limited::new(WARN_EVERY) }
    }

    /// Asks for one address after the other.
    async fn connect(&self, means: &Means<'_>, addresses: &[SocketAddr], end: Instant) -> Result<Reached, String> {
        let Some(attempt) = self.lock_breaker().admit(Instant::now()) else {
            return Err("left alone for a while, because it failed".to_owned());
        };
        let trial = Trial { proxy: self, attempt: Some(attempt) };
        let mut addresses = addresses.to_vec();
        means.dialer.order(&mut addresses);
        let mut last = Err(TIME_IS_OVER.to_owned());
        let mut doubted = None;
        for address in addresses {
            if doubted == Some(address.is_ipv4()) {
                continue;
            }
            let attempt_ends = end.min(Instant::now() + means.limit);
            match deadline::until(attempt_ends, self.reach(means, address)).await {
                Some(Ok(socket)) => {
                    trial.succeeded();
                    return Ok((socket, address));
                }
                Some(Err(Miss::Target(Fault::Refused(refusal)))) if refusal.is_about_the_target() => {
                    last = Ok(refusal);
                }
                // Nobody's but ours, so the trial is abandoned.
                Some(Err(Miss::Proxy(Fault::Io(error)) | Miss::Target(Fault::Io(error)))) if is_our_own(&error) => {
                    return Err(error.to_string());
                }
                // A proxy without IPv6 may say anything or nothing. It is to blame if the other family fails as well.
                Some(Err(Miss::Target(fault))) if doubted.is_none() && !fault.is_about_the_login() => {
                    last = Err(fault.to_string());
                    doubted = Some(address.is_ipv4());
                }
                Some(Err(Miss::Target(fault) | Miss::Proxy(fault))) => {
                    last = Err(fault.to_string());
                    break;
                }
                // Nobody can tell whether the proxy hangs or the target does.
                None => last = Err(TIME_IS_OVER.to_owned()),
            }
            means.dialer.remember_failure(address);
            if Instant::now() >= end {
                break;
            }
        }
        match last {
            Ok(refusal) => {
                trial.succeeded();
                Err(refusal.to_string())
            }
            Err(text) => {
                trial.failed(&text);
                Err(text)
            }
        }
    }

    async fn reach(&self, means: &Means<'_>, target: SocketAddr) -> Result<TcpStream, Miss> {
        let socket = self.dial(means).await.map_err(|error| Miss::Proxy(error.into()))?;
        let credentials = self.settings.credentials.as_ref();
        let credentials = credentials.map(|(user, password)| (user.as_str(), password.as_str()));
        negotiate(socket, credentials, &target.ip().to_string(), target.port()).await.map_err(Miss::Target)
    }

    async fn dial(&self, means: &Means<'_>) -> io::Result<TcpStream> {
        let Socks5 { host, port, .. } = &self.settings;
        let ips = match host {
            Host::Ip(ip) => vec![*ip],
            Host::Name(name) => means.resolver.resolve(name).await?,
        };
        let proxies = ips.into_iter().map(|ip| SocketAddr::new(ip, *port)).collect();
        means.dialer.connect(proxies, means.limit).await.map(|(socket, _)| socket)
    }

    /// The breaker is whole whenever the lock is free, so a poisoned lock is as good as any.
    fn lock_breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where an attempt failed.
enum Miss {
    /// The proxy cannot be reached.
    Proxy(Fault),
    /// It was asked for a target.
    Target(Fault),
}

/// An attempt that the breaker learns the end of, whatever happens; a client that leaves drops it.
struct Trial<'a> {
    proxy: &'a Proxy,
    attempt: Option<Attempt>,
}

impl Trial<'_> {
    fn succeeded(mut self) {
        let Some(attempt) = self.attempt.take() else { return };
        if self.proxy.lock_breaker().succeeded(attempt) == Change::Closed {
            self.proxy.state.set_up(true);
            log::info!("a SOCKS5 proxy works again proxy={}", self.proxy.state);
        }
    }

    fn failed(mut self, fault: &str) {
        let Some(attempt) = self.attempt.take() else { return };
        let now = Instant::now();
        if self.proxy.lock_breaker().failed(attempt, now) != Change::Opened {
            return;
        }
        self.proxy.state.set_up(false);
        if let Some(left_out) = self.proxy.warnings.pass(now) {
            let pause = self.proxy.settings.half_open_timeout;
            log::warn!(
                "a SOCKS5 proxy fails and is left alone for {pause:?} proxy={} error={fault}{left_out}",
                self.proxy.state
            );
        }
    }
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        if let Some(attempt) = self.attempt.take() {
            self.proxy.lock_breaker().abandoned(attempt);
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct => f.write_str("direct"),
            Self::Proxy(proxy) => write!(f, "socks5 {}", proxy.state),
        }
    }
}

/// Without user name and password.
fn shown(Socks5 { host, port, .. }: &Socks5) -> String {
    match host {
        Host::Ip(IpAddr::V6(ip)) => format!("[{ip}]:{port}"),
        Host::Ip(ip) => format!("{ip}:{port}"),
        Host::Name(name) => format!("{name}:{port}"),
    }
}

impl fmt::Display for NoRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}
