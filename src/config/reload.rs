//! What a new configuration may change while the proxy runs.

use super::spec::Status;
use super::{Config, keys};

impl Config {
    /// Takes over from the `running` configuration what only a restart can change, and names the keys that differed.
    pub(crate) fn keep_fixed(&mut self, running: &Self) -> Vec<&'static str> {
        let mut running = running.clone();
        let is_name_of_its_own = |status| !matches!(status, Status::Alias(_) | Status::Deprecated(_));
        let fixed = keys::all().filter(|spec| !spec.is_reloadable && is_name_of_its_own(spec.status));
        fixed.filter(|spec| spec.field.carry(&mut running, self)).map(|spec| spec.name).collect()
    }
}
