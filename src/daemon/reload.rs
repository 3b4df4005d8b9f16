//! Reading the configuration again while the proxy runs.

use std::path::Path;

use super::notify::Supervisor;
use crate::config::Config;
use crate::log as logging;
use crate::proxy::{Proxy, Reloaded};

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
    let (level, time) = (config.log_level, config.log_time);
    match proxy.reload(config) {
        Ok(Reloaded { changed, after_restart, .. }) => {
            logging::set(level, time);
            warnings.iter().for_each(|warning| log::warn!("{warning}"));
            super::warn_of_readers(path);
            let list = |keys: &[&str]| if keys.is_empty() { "nothing".to_owned() } else { keys.join(",") };
            if !after_restart.is_empty() {
                log::warn!("changed keys that take effect with a restart only keys={}", list(&after_restart));
            }
            let changed = list(&changed);
            logging::notice(format_args!("the configuration was loaded again changed={changed}"));
        }
        Err(error) => log::error!("the configuration was not loaded again, the old one stays in effect error={error}"),
    }
}
