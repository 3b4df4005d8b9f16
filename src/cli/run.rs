//! `mtg run`: the proxy with a configuration file.

use std::path::{Path, PathBuf};

use super::args::{Command, Flag, Words};
use super::{Failure, check_threads, config_path, note, print};
use crate::config::{self, Config};
use crate::daemon;
use crate::log as logging;

pub(crate) static COMMAND: Command = Command {
    name: "run",
    arguments: &["[CONFIG]"],
    about: "run the proxy with a configuration file",
    flags: &[&CHECK, &AGAINST, &LOCK],
    notes,
    act,
};

static CHECK: Flag = Flag { short: "", long: "--check", value: "", about: "only check the configuration" };

static AGAINST: Flag = Flag {
    short: "",
    long: "--against",
    value: "FILE",
    about: "with --check: say which changes since that configuration take a restart",
};
static LOCK: Flag = Flag {
    short: "",
    long: "--lock",
    value: "FILE",
    about: "keep this file locked while clients can come in (flock), for scripts that open a firewall",
};

fn act(mut words: Words) -> Result<(), Failure> {
    let against = words.text(&AGAINST)?.map(PathBuf::from);
    let lock = words.text(&LOCK)?.map(PathBuf::from);
    let check_only = words.switch(&CHECK);
    if against.is_some() && !check_only {
        return Err(words.fail("--against goes with --check"));
    }
    let [config] = words.positionals()?;
    let path = config_path(config);
    if check_only { check(&path, against.as_deref()) } else { run(&path, lock.as_deref()) }
}

fn check(path: &Path, against: Option<&Path>) -> Result<(), Failure> {
    let (mut config, warnings) = Config::load(path)?;
    for warning in warnings.iter() {
        note(format_args!("warning: {warning}"));
    }
    print(&format!("{}: ok\n", path.display()))?;
    match against.map(Config::load) {
        None => Ok(()),
        Some(Ok((running, _))) => match config.keep_fixed(&running).as_slice() {
            [] => Ok(()),
            keys => print(&format!("take a restart: {}\n", keys.join(", "))),
        },
        // Another version wrote it, or nobody did.
        Some(Err(_)) => print("take a restart: all keys\n"),
    }
}

fn run(path: &Path, lock: Option<&Path>) -> Result<(), Failure> {
    check_threads()?;
    let (config, warnings) = Config::load(path)?;
    logging::init(config.log_level, config.log_time);
    for warning in warnings.iter() {
        log::warn!("{warning}");
    }
    daemon::warn_of_readers(path);
    daemon::run(config, Some(path), lock).map_err(|error| Failure::Work(error.to_string()))
}

fn notes() -> String {
    format!(
        "CONFIG is /etc/mtg.conf if it is left out. Its lines are KEY = VALUE; the keys are:\n\n{}",
        config::reference()
    )
}
