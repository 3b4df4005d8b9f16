//! What a new configuration may change while the proxy runs.

use super::spec::{KeySpec, Status};
use super::{Config, keys};

impl Config {
    /// Takes over from the `running` configuration what only a restart can change, and names the keys that differed.
    pub(crate) fn keep_fixed(&mut self, running: &Self) -> Vec<&'static str> {
        let mut running = running.clone();
        let fixed = own_names().filter(|spec| !spec.is_reloadable);
        fixed.filter(|spec| spec.field.carry(&mut running, self)).map(|spec| spec.name).collect()
    }

    /// Names the keys whose values are others than in the `running` configuration.
    pub(crate) fn changes(&self, running: &Self) -> Vec<&'static str> {
        let (mut running, mut new) = (running.clone(), self.clone());
        let changed = own_names().filter(|spec| spec.field.carry(&mut running, &mut new));
        changed.map(|spec| spec.name.trim_end_matches(".<n>")).collect()
    }
}

fn own_names() -> impl Iterator<Item = &'static KeySpec> {
    keys::all().filter(|spec| !matches!(spec.status, Status::Alias(_) | Status::Deprecated(_)))
}
