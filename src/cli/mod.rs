//! The command line: one file per command, a table of commands, and the exit codes.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use crate::config::ConfigErrors;

mod access;
mod address;
mod args;
mod doctor;
mod help;
mod json;
mod link;
mod nearest;
mod qr;
mod run;
mod secret;
mod simple_run;
mod version;

use args::{Command, Words};

/// What went wrong, by the exit code that it leads to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The work could not be done.
    Work(String),
    /// The command line cannot be understood; one line per error.
    Usage(Vec<String>),
    /// The configuration cannot be used; one line per error.
    Config(Vec<String>),
    /// No command was given: the help is the message.
    NoCommand,
}

const FAILURE: u8 = 1;
const USAGE: u8 = 64;
const CONFIG: u8 = 78;

/// In the order of the help.
static COMMANDS: [&Command; 5] =
    [&run::COMMAND, &simple_run::COMMAND, &secret::COMMAND, &access::COMMAND, &doctor::COMMAND];

/// Does what the arguments (without the program's name) say.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    match dispatch(args.into_iter().collect()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn dispatch(args: Vec<OsString>) -> Result<(), Failure> {
    let mut args = args::utf8(args)?.into_iter();
    let Some(first) = args.next() else { return Err(Failure::NoCommand) };
    let rest: Vec<String> = args.collect();
    match first.as_str() {
        "--version" | "-v" | "version" => alone(&first, &rest).and_then(|()| print(&version::line())),
        "help" if !rest.is_empty() => help_about(&rest),
        "--help" | "-h" | "help" => print(&help::overview()),
        name => {
            let command = find(name)?;
            let mut words = Words::new(command, rest);
            if words.asks_for_help() { print(&help::about(command)) } else { (command.act)(words) }
        }
    }
}

fn alone(name: &str, rest: &[String]) -> Result<(), Failure> {
    if rest.is_empty() { Ok(()) } else { Err(Failure::usage(format!("{name} takes no arguments"))) }
}

fn help_about(names: &[String]) -> Result<(), Failure> {
    match names {
        [name] => print(&help::about(find(name)?)),
        _ => Err(Failure::usage("help takes at most one COMMAND")),
    }
}

fn find(name: &str) -> Result<&'static Command, Failure> {
    if let Some(command) = COMMANDS.iter().find(|command| command.name == name) {
        return Ok(command);
    }
    let names = COMMANDS.iter().map(|command| command.name).chain(["version", "help", "--version", "--help"]);
    let kind = if name.starts_with('-') { "flag" } else { "command" };
    Err(Failure::usage(match nearest::nearest(name, names) {
        Some(near) => format!("unknown {kind} {name:?}, did you mean {near:?}?"),
        None => format!("unknown {kind} {name:?}, 'mtg --help' lists what there is"),
    }))
}

/// Writes to stdout. A reader that has seen enough (`mtg run --help | head`) is no failure.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::Work(format!("cannot write to stdout: {error}")))
        }
        _ => Ok(()),
    }
}

/// Writes a line for people to stderr, where nobody may be reading.
pub(crate) fn note(line: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "mtg: {line}");
}

/// The CONFIG argument, or where the packages put the file.
pub(crate) fn config_path(argument: Option<String>) -> PathBuf {
    PathBuf::from(argument.unwrap_or_else(|| "/etc/mtg.conf".to_owned()))
}

impl Failure {
    /// One error of the command line.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::Usage(vec![message.into()])
    }

    fn report(self) -> ExitCode {
        let (lines, code) = match self {
            Self::Work(line) => (vec![line], FAILURE),
            Self::Usage(lines) => (lines, USAGE),
            Self::Config(lines) => (lines, CONFIG),
            Self::NoCommand => {
                let _ = io::stderr().write_all(help::overview().as_bytes());
                return ExitCode::from(USAGE);
            }
        };
        for line in lines {
            note(format_args!("error: {line}"));
        }
        ExitCode::from(code)
    }
}

impl From<ConfigErrors> for Failure {
    fn from(errors: ConfigErrors) -> Self {
        Self::Config(errors.iter().map(|error| error.to_string()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(args: &[&str]) -> String {
        match dispatch(args.iter().map(OsString::from).collect()) {
            Err(Failure::Usage(lines)) => lines.join("\n"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn unknown_names_lead_to_the_nearest_one() {
        for (args, message) in [
            (&["rum"][..], "unknown command \"rum\", did you mean \"run\"?"),
            (&["secret"], "unknown command \"secret\", did you mean \"generate-secret\"?"),
            (&["--vresion"], "unknown flag \"--vresion\", did you mean \"--version\"?"),
            (&["frobnicate"], "unknown command \"frobnicate\", 'mtg --help' lists what there is"),
            (&["run", "--chek"], "run: unknown flag \"--chek\", did you mean \"--check\"?"),
            (&["help", "doktor"], "unknown command \"doktor\", did you mean \"doctor\"?"),
        ] {
            assert_eq!(error(args), message);
        }
    }

    #[test]
    fn extra_arguments_are_refused_without_repeating_them() {
        assert_eq!(error(&["run", "a", "b"]), "run takes at most one argument ([CONFIG]), 2 were given");
        assert_eq!(error(&["version", "x"]), "version takes no arguments");
        let message = error(&["simple-run", "127.0.0.1:1", "example.com", "ee0102"]);
        assert!(!message.contains("ee0102"), "{message}");
    }

    #[test]
    fn names_in_the_tables_are_unique() {
        for command in COMMANDS {
            let names: Vec<_> = command.flags.iter().flat_map(|flag| [flag.short, flag.long]).collect();
            for (at, name) in names.iter().enumerate() {
                assert!(name.is_empty() || !names[..at].contains(name), "{} {name}", command.name);
            }
        }
    }
}
