//! Another configuration, while connections go on.

use std::sync::Arc;

use crate::config::Config;
use crate::proxy::telegram::route::Routes;
use crate::proxy::{Proxy, StartError};

/// What another configuration has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reloaded {
    /// Keys whose new values are in effect.
    pub changed: Vec<&'static str>,
    /// Keys whose new values take a restart, so that the old ones stay in effect.
    pub after_restart: Vec<&'static str>,
}

impl Proxy {
    /// Takes another configuration for all connections to come; those that there are go on as they began.
    ///
    /// # Errors
    /// See [`StartError`]; then nothing has changed.
    pub fn reload(&self, mut config: Config) -> Result<Reloaded, StartError> {
        let old = self.shared.config();
        let after_restart = config.keep_fixed(&old);
        let changed = config.changes(&old);
        let is_front_another =
            config.secret.host() != old.secret.host() || config.domain_fronting != old.domain_fronting;
        let proxies = (old.network.proxies != config.network.proxies).then(|| Routes::new(&config.network.proxies));
        self.apply(Arc::new(config))?;
        if let Some(routes) = proxies {
            self.shared.set_routes(routes);
        }
        if is_front_another {
            self.shared.forget_front();
        }
        Ok(Reloaded { changed, after_restart })
    }

    /// Makes a configuration the one in effect.
    pub(super) fn apply(&self, config: Arc<Config>) -> Result<(), StartError> {
        let metrics = config.stats.prometheus.bind_to;
        let prepared = self.reporting.prepare(&config).map_err(|error| StartError::Metrics(metrics, error))?;
        self.shared.set_config(config.clone());
        self.shared.lists.apply(&config.defense);
        self.shared.web.apply(&config);
        self.reporting.apply(&config, prepared, &self.shared, &self.executor);
        Ok(())
    }
}
