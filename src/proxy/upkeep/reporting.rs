//! The ways out for the metrics, as configured now.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use smol::channel::{Receiver, Sender, bounded};
use smol::{Executor, Task};

use crate::config::{Config, Statsd};
use crate::net::deadline;
use crate::proxy::Shared;
use crate::stats::{prometheus, statsd};

/// How long the last report may take.
const LAST_REPORT: Duration = Duration::from_secs(1);

/// What runs.
#[derive(Default)]
pub(in crate::proxy) struct Reporting {
    running: Mutex<Running>,
}

#[derive(Default)]
struct Running {
    prometheus: Option<(SocketAddr, Arc<prometheus::Server>, Task<()>)>,
    statsd: Option<(Statsd, Reporter)>,
}

/// A task that reports once more when it is told to stop.
struct Reporter {
    task: Task<()>,
    _stops_when_dropped: Sender<()>,
}

/// What a configuration needs that can fail: at most a listener.
pub(in crate::proxy) struct Prepared(Option<prometheus::Server>);

impl Reporting {
    /// Does what can fail.
    ///
    /// # Errors
    /// Those of bind and listen.
    pub(in crate::proxy) fn prepare(&self, config: &Config) -> io::Result<Prepared> {
        let (settings, shares_port) = (&config.stats.prometheus, config.network.reuse_port);
        let running = self.lock();
        let server = match &running.prometheus {
            _ if !settings.enabled => return Ok(Prepared(None)),
            Some((address, ..)) if *address == settings.bind_to => return Ok(Prepared(None)),
            Some((address, old, _)) if address.port() == settings.bind_to.port() => {
                prometheus::Server::bind_beside(settings.bind_to, old, shares_port)?
            }
            _ => prometheus::Server::bind(settings.bind_to, shares_port)?,
        };
        log::info!("serving metrics to Prometheus bind-to={}", settings.bind_to);
        Ok(Prepared(Some(server)))
    }

    /// Runs what the configuration says, and nothing else.
    pub(in crate::proxy) fn apply(
        &self,
        config: &Config,
        prepared: Prepared,
        shared: &Arc<Shared>,
        executor: &Executor<'static>,
    ) {
        let mut running = self.lock();
        if !config.stats.prometheus.enabled {
            running.prometheus = None;
        } else if let Prepared(Some(server)) = prepared {
            let (shared, server) = (shared.clone(), Arc::new(server));
            let running_server = server.clone();
            let serve = async move {
                let settings = || shared.config().stats.prometheus.clone();
                let relay = &shared.relay;
                running_server.run(&shared.recorder.stats, settings, || relay.report_now()).await;
            };
            running.prometheus = Some((config.stats.prometheus.bind_to, server, executor.spawn(serve)));
        }
        let settings = &config.stats.statsd;
        if running.statsd.as_ref().is_some_and(|(old, _)| !settings.enabled || old != settings)
            && let Some((_, old)) = running.statsd.take()
        {
            executor.spawn(old.finish()).detach();
        }
        if settings.enabled && running.statsd.is_none() {
            running.statsd = Some((settings.clone(), Reporter::start(settings.clone(), shared.clone(), executor)));
        }
    }

    /// Leaves the port of the metrics to the process that has taken over: whoever reads from one or the other by chance
    /// would see counters that jump.
    pub(in crate::proxy) fn hand_over(&self) {
        self.lock().prometheus = None;
    }

    /// Ends all, after a last report.
    pub(in crate::proxy) async fn finish(&self) {
        let Running { statsd, .. } = std::mem::take(&mut *self.lock());
        if let Some((_, reporter)) = statsd {
            reporter.finish().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reporter {
    fn start(settings: Statsd, shared: Arc<Shared>, executor: &Executor<'static>) -> Self {
        let (sender, stop): (Sender<()>, Receiver<()>) = bounded(1);
        let baseline = shared.recorder.stats.snapshot();
        let report = async move {
            let stop = async {
                // Nothing is ever sent: the channel ends when its other end is dropped.
                let _ = stop.recv().await;
            };
            let (relay, resolver) = (&shared.relay, &shared.resolver);
            statsd::run(&settings, &shared.recorder.stats, &baseline, resolver, || relay.report_now(), stop).await;
        };
        Self { task: executor.spawn(report), _stops_when_dropped: sender }
    }

    async fn finish(self) {
        let Self { task, _stops_when_dropped: sender } = self;
        drop(sender);
        deadline::within(LAST_REPORT, task).await;
    }
}
