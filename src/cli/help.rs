//! The help texts, drawn from the tables of commands and flags.

use super::COMMANDS;
use super::args::{Command, Flag};

static HELP: Flag = Flag { short: "-h", long: "--help", value: "", about: "print this" };

/// `mtg version --help`.
pub(crate) const VERSION: &str = "mtg version: print the version\n\nUsage: mtg version, or mtg --version, -v, -V\n";

/// `mtg --help`.
pub(crate) fn overview() -> String {
    let mut text = format!(
        "mtg {}: a Telegram proxy (MTProto over FakeTLS)\n\nUsage: mtg COMMAND [ARGUMENTS]\n\nCommands:\n",
        env!("CARGO_PKG_VERSION")
    );
    for command in COMMANDS {
        text += &format!("  {:<16} {}\n", command.name, command.about);
    }
    text += &format!("  {:<16} print the version, also --version and -v\n", "version");
    text += &format!("  {:<16} print this, also --help and -h\n", "help");
    text += "\n'mtg COMMAND --help' says more about a command.\n\
             Exit codes: 0 success, 1 failure, 64 wrong command line, 78 wrong configuration.\n";
    text
}

/// `mtg COMMAND --help`.
pub(crate) fn about(command: &Command) -> String {
    let arguments = command.arguments.join(" ");
    let mut text =
        format!("mtg {0}: {1}\n\nUsage: mtg {0} [FLAGS] {arguments}\n\nFlags:\n", command.name, command.about);
    let flags: Vec<_> = command.flags.iter().copied().chain([&HELP]).map(|flag| (names(flag), flag.about)).collect();
    let width = flags.iter().map(|(names, _)| names.len()).max().unwrap_or(0);
    for (names, about) in flags {
        text += &format!("  {names:<width$}  {about}\n");
    }
    let notes = (command.notes)();
    if !notes.is_empty() {
        text += &format!("\n{}\n", notes.trim_end());
    }
    text
}

fn names(flag: &Flag) -> String {
    let short = if flag.short.is_empty() { "    ".to_owned() } else { format!("{}, ", flag.short) };
    let value = if flag.value.is_empty() { String::new() } else { format!(" {}", flag.value) };
    format!("{short}{}{value}", flag.long)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_and_flag_is_shown() {
        for command in COMMANDS {
            assert!(overview().contains(command.about), "{}", command.name);
            let text = about(command);
            for flag in command.flags {
                assert!(text.contains(flag.long) && text.contains(flag.about), "{} {}", command.name, flag.long);
            }
        }
    }

    #[test]
    fn help_fits_a_terminal() {
        let own = COMMANDS.iter().filter(|command| command.name != "run").map(|command| about(command));
        for line in own.chain([overview()]).flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()) {
            assert!(line.len() <= 100, "{line}");
        }
    }
}
