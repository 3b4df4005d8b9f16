//! The command line: one file per command, a table of commands, and the exit codes.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use crate::config::ConfigErrors;
use crate::log as logging;

mod access;
mod address;
mod args;
mod doctor;
mod help;
mod json;
mod link;
mod nearest;
mod punycode;
mod qr;
mod run;
mod secret;
mod simple_run;
mod status;
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
static COMMANDS: [&Command; 6] =
    [&run::COMMAND, &simple_run::COMMAND, &secret::COMMAND, &access::COMMAND, &status::COMMAND, &doctor::COMMAND];

/// Does what the arguments (without the program's name) say.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let code = match dispatch(args.into_iter().collect()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    };
    logging::finish();
    code
}

fn dispatch(args: Vec<OsString>) -> Result<(), Failure> {
    let mut args = args::utf8(args)?;
    put_command_first(&mut args);
    let mut args = args.into_iter();
    let Some(first) = args.next() else { return Err(Failure::NoCommand) };
    let rest: Vec<String> = args.collect();
    match first.as_str() {
        "--version" | "-v" | "-V" | "version" => match rest.as_slice() {
            [] => print(&version::line()),
            [word] if word == "--" => print(&version::line()),
            [word] if is_help(word) => print(help::VERSION),
            _ => Err(Failure::usage(format!("{first} takes no arguments"))),
        },
        name if (name == "help" || is_help(name)) && !rest.is_empty() => help_about(&rest),
        name if is_help(name) || name == "help" => print(&help::overview()),
        name => {
            let command = find(name)?;
            let mut words = Words::new(command, rest);
            if words.asks_for_help() { print(&help::about(command)) } else { (command.act)(words) }
        }
    }
}

fn is_help(word: &str) -> bool {
    matches!(word, "--help" | "-h")
}

/// Flags may stand before the command they are for, and so may `--`.
fn put_command_first(args: &mut Vec<String>) {
    let signs = args.iter().take_while(|word| *word == "--").count();
    args.drain(..signs);
    let is_command = |word: &String| COMMANDS.iter().any(|command| command.name == word);
    let starts_with_flag = args.first().is_some_and(|first| {
        first.starts_with('-') && !is_help(first) && !matches!(first.as_str(), "--version" | "-v" | "-V")
    });
    if starts_with_flag && let Some(at) = args.iter().position(is_command) {
        let mut before: Vec<String> = args.drain(..=at).collect();
        let command = before.pop();
        // Behind the command it would make arguments of flags.
        before.retain(|word| word != "--");
        args.splice(0..0, command.into_iter().chain(before));
    }
}

fn help_about(names: &[String]) -> Result<(), Failure> {
    match names {
        [name] if is_help(name) || name == "help" => print(&help::overview()),
        [name] if name == "version" => print(help::VERSION),
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
    logging::write(&format!("mtg: {line}\n"));
}

/// Sees whether the system lets us start a thread at all: the library that waits for sockets ends the process if it
/// cannot start its own.
pub(crate) fn check_threads() -> Result<(), Failure> {
    let thread = std::thread::Builder::new().stack_size(16 << 10).spawn(|| {});
    let joined = thread.map(|thread| thread.join().is_ok());
    joined.map(drop).map_err(|error| {
        Failure::Work(format!(
            "the system lets mtg start no thread ({error}); allow more than one: ulimit -u, TasksMax of systemd, --pids-limit of containers"
        ))
    })
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
                logging::write(&help::overview());
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
        let remedy = errors.remedy().map(|remedy| format!("; {remedy}")).unwrap_or_default();
        Self::Config(errors.iter().map(|error| format!("{error}{remedy}")).collect())
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
    fn flags_may_stand_before_their_command() {
        let first = |args: &[&str]| {
            let mut args = args.iter().map(|&arg| arg.to_owned()).collect();
            put_command_first(&mut args);
            args.join(" ")
        };
        assert_eq!(first(&["-d", "-c", "7", "simple-run", "a", "b"]), "simple-run -d -c 7 a b");
        assert_eq!(first(&["--", "run", "--", "x"]), "run -- x");
        assert_eq!(first(&["run", "access"]), "run access");
        assert_eq!(first(&["--help", "run"]), "--help run");
        assert_eq!(first(&["-x"]), "-x");
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
