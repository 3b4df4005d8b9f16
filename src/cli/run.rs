//! `mtg run`: the proxy with a configuration file.

use std::path::PathBuf;

use super::args::{Command, Flag, Words};
use super::{Failure, config_path, note, print};
use crate::config::{self, Config};
use crate::daemon;
use crate::log as logging;

pub(crate) static COMMAND: Command = Command {
    name: "run",
    arguments: &["[CONFIG]"],
    about: "run the proxy with a configuration file",
    flags: &[&CHECK],
    notes,
    act,
};

static CHECK: Flag = Flag { short: "", long: "--check", value: "", about: "only check the configuration" };

fn act(mut words: Words) -> Result<(), Failure> {
    let check_only = words.switch(&CHECK);
    let [config] = words.positionals()?;
    let path = config_path(config);
    if check_only { check(path) } else { run(path) }
}

fn check(path: PathBuf) -> Result<(), Failure> {
    let (_, warnings) = Config::load(&path)?;
    for warning in warnings.iter() {
        note(format_args!("warning: {warning}"));
    }
    print(&format!("{}: ok\n", path.display()))
}

fn run(path: PathBuf) -> Result<(), Failure> {
    let (config, warnings) = Config::load(&path)?;
    logging::init(config.log_level);
    for warning in warnings.iter() {
        log::warn!("{warning}");
    }
    daemon::run(config, Some(&path)).map_err(|error| Failure::Work(error.to_string()))
}

fn notes() -> String {
    format!(
        "CONFIG is /etc/mtg.conf if it is left out. Its lines are KEY = VALUE; the keys are:\n\n{}",
        config::reference()
    )
}
