//! Reading the configuration again while the proxy runs.

use std::path::Path;

use super::notify::Supervisor;
use crate::config::Config;
use crate::log::set_level;
use crate::proxy::Proxy;

/// Reads the file again. If anything is wrong with it, all stays as it was and the log says why.
pub(super) fn reload(proxy: &Proxy, path: Option<&Path>, supervisor: &Supervisor) {
    let Some(path) = path else {
        log::warn!("there is no configuration file to load again");
        return;
    };
    supervisor.reloading();
    load(proxy, path);
    supervisor.ready();
}

fn load(proxy: &Proxy, path: &Path) {
    let (config, warnings) = match Config::load(path) {
        Ok(loaded) => loaded,
        Err(errors) => {
            errors.iter().for_each(|error| log::error!("{error}"));
            log::error!("the configuration was not loaded again, the old one stays in effect");
            return;
        }
    };
    let level = config.log_level;
    match proxy.reload(config) {
        Ok(fixed) => {
            set_level(level);
            warnings.iter().for_each(|warning| log::warn!("{warning}"));
            if !fixed.is_empty() {
                log::warn!("changed keys that take effect with a restart only keys={}", fixed.join(","));
            }
            log::info!("the configuration was loaded again");
        }
        Err(error) => log::error!("the configuration was not loaded again, the old one stays in effect error={error}"),
    }
}
