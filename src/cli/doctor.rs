//! `mtg doctor`: its command line; the checks are not there yet.

use super::Failure;
use super::args::{Command, Flag, Words};

pub(crate) static COMMAND: Command = Command {
    name: "doctor",
    arguments: &["[CONFIG]"],
    about: "find out what keeps the proxy from working (not in this version)",
    flags: &[&JSON],
    notes: String::new,
    act,
};

static JSON: Flag = Flag { short: "", long: "--json", value: "", about: "findings for programs" };

fn act(mut words: Words) -> Result<(), Failure> {
    words.switch(&JSON);
    let [_config] = words.positionals()?;
    Err(Failure::Work("this version has no doctor yet".to_owned()))
}
