//! Flags and arguments of one command: the table that describes them, and the words that the user gave.

use std::ffi::OsString;
use std::fmt;
use std::str::FromStr;

use pico_args::Arguments;

use super::{Failure, nearest::nearest};

/// One command; it feeds the dispatch, the check for unknown flags and the help.
pub(crate) struct Command {
    /// What the user types.
    pub(crate) name: &'static str,
    /// The positional arguments as the usage line shows them; those in brackets may be left out.
    pub(crate) arguments: &'static [&'static str],
    /// One line for the overview.
    pub(crate) about: &'static str,
    /// All flags but `--help`.
    pub(crate) flags: &'static [&'static Flag],
    /// What else the help of the command says.
    pub(crate) notes: fn() -> String,
    /// Does it.
    pub(crate) act: fn(Words) -> Result<(), Failure>,
}

/// One flag.
pub(crate) struct Flag {
    /// With its hyphen, or empty.
    pub(crate) short: &'static str,
    /// With its hyphens.
    pub(crate) long: &'static str,
    /// The name of the value, empty for a switch.
    pub(crate) value: &'static str,
    /// One line.
    pub(crate) about: &'static str,
}

impl Flag {
    fn is(&self, word: &str) -> bool {
        word == self.long || (word == self.short && !word.is_empty())
    }
}

/// The words after a command's name.
pub(crate) struct Words {
    command: &'static Command,
    rest: Arguments,
    /// What stands behind `--`: arguments, whatever they look like.
    behind_dashes: Vec<String>,
}

/// Takes the arguments as text. They are not repeated in the error: one of them may be a secret.
pub(crate) fn utf8(args: Vec<OsString>) -> Result<Vec<String>, Failure> {
    let text = |(at, arg): (usize, OsString)| {
        arg.into_string().map_err(|_| Failure::usage(format!("argument {} is not valid UTF-8", at + 1)))
    };
    args.into_iter().enumerate().map(text).collect()
}

impl Words {
    /// The words that follow the name of `command`.
    pub(crate) fn new(command: &'static Command, words: Vec<String>) -> Self {
        let mut words = words.into_iter();
        let mut rest: Vec<String> = Vec::new();
        while let Some(word) = words.next().filter(|word| word != "--") {
            let (flags, has_value) = apart(command, &word).unwrap_or_else(|| (vec![word], false));
            let last = flags.last().filter(|_| !has_value);
            let wants_value =
                last.is_some_and(|last| command.flags.iter().any(|flag| !flag.value.is_empty() && flag.is(last)));
            rest.extend(flags);
            if wants_value {
                // A value is a value, whatever it looks like.
                rest.extend(words.next());
            }
        }
        let rest = Arguments::from_vec(rest.into_iter().map(OsString::from).collect());
        Self { command, rest, behind_dashes: words.collect() }
    }

    /// Whether `--help` is among them.
    pub(crate) fn asks_for_help(&mut self) -> bool {
        self.rest.contains(["-h", "--help"])
    }

    /// Takes a switch. Flags with values have to be taken before, lest a value be mistaken for a switch.
    pub(crate) fn switch(&mut self, flag: &Flag) -> bool {
        if flag.short.is_empty() { self.rest.contains(flag.long) } else { self.rest.contains([flag.short, flag.long]) }
    }

    /// Takes a flag's value as it stands.
    pub(crate) fn text(&mut self, flag: &Flag) -> Result<Option<String>, Failure> {
        let text = |value: &str| Ok::<_, std::convert::Infallible>(value.to_owned());
        let found = if flag.short.is_empty() {
            self.rest.opt_value_from_fn(flag.long, text)
        } else {
            self.rest.opt_value_from_fn([flag.short, flag.long], text)
        };
        found.map_err(|_| self.fail(format_args!("{} needs a value ({})", flag.long, flag.value)))
    }

    /// Takes all values of a flag that may be repeated.
    pub(crate) fn texts(&mut self, flag: &Flag) -> Result<Vec<String>, Failure> {
        let mut texts = Vec::new();
        while let Some(text) = self.text(flag)? {
            texts.push(text);
        }
        Ok(texts)
    }

    /// Takes a flag's value as something; `what` is named in the error.
    pub(crate) fn value<T: FromStr>(&mut self, flag: &Flag, what: &str) -> Result<Option<T>, Failure> {
        let Some(text) = self.text(flag)? else { return Ok(None) };
        match text.parse() {
            Ok(value) => Ok(Some(value)),
            Err(_) => Err(self.fail(format_args!("{}: {text:?} is not {what}", flag.long))),
        }
    }

    /// Takes what is left as the positional arguments: those of the table, `None` for each that was left out.
    pub(crate) fn positionals<const N: usize>(self) -> Result<[Option<String>; N], Failure> {
        debug_assert_eq!(N, self.command.arguments.len());
        let command = self.command;
        let rest: Vec<String> = self.rest.finish().into_iter().filter_map(|word| word.into_string().ok()).collect();
        if let Some(flag) = rest.iter().find(|word| word.starts_with('-') && word.len() > 1) {
            return Err(leftover(command, flag));
        }
        let rest = [rest, self.behind_dashes].concat();
        let needed = command.arguments.iter().filter(|name| !name.starts_with('[')).count();
        if !(needed..=N).contains(&rest.len()) {
            return Err(miscounted(command, needed, rest.len()));
        }
        let mut words = rest.into_iter();
        Ok(std::array::from_fn(|_| words.next()))
    }

    /// An error of the command line, with the command's name.
    pub(crate) fn fail(&self, message: impl fmt::Display) -> Failure {
        Failure::usage(format!("{}: {message}", self.command.name))
    }
}

/// Takes short flags apart that are written as one word: `-di VALUE`, `-iVALUE`, `-i=VALUE`. None if it is another
/// kind of word, or one of the letters is no flag. The second says whether a value came with them.
fn apart(command: &Command, word: &str) -> Option<(Vec<String>, bool)> {
    let letters = word.strip_prefix('-').filter(|letters| letters.len() > 1 && !letters.starts_with('-'))?;
    let mut flags = Vec::new();
    for (at, letter) in letters.char_indices() {
        let name = format!("-{letter}");
        let flag = command.flags.iter().find(|flag| flag.short == name);
        flags.push(name);
        match flag {
            Some(flag) if !flag.value.is_empty() => {
                let value = letters.get(at + letter.len_utf8()..).unwrap_or_default();
                let value = value.strip_prefix('=').or(Some(value).filter(|value| !value.is_empty()));
                flags.extend(value.map(str::to_owned));
                return Some((flags, value.is_some()));
            }
            Some(_) => {}
            None if letter == 'h' => {}
            None => return None,
        }
    }
    Some((flags, false))
}

fn leftover(command: &Command, word: &str) -> Failure {
    // What follows the sign may be a secret.
    let name = word.split_once('=').map_or(word, |(name, _)| name);
    let known = command.flags.iter().find(|flag| name == flag.long || name == flag.short);
    let names = command.flags.iter().map(|flag| flag.long).chain(["--help"]);
    let what = match known {
        Some(flag) if flag.value.is_empty() && word.contains('=') => format!("{name} takes no value"),
        Some(_) => format!("{name} is given twice"),
        None => match nearest(name, names) {
            Some(near) => format!("unknown flag {name:?}, did you mean {near:?}?"),
            None => format!("unknown flag {name:?}, 'mtg {} --help' lists what there is", command.name),
        },
    };
    Failure::usage(format!("{}: {what}", command.name))
}

fn miscounted(command: &Command, needed: usize, given: usize) -> Failure {
    let most = command.arguments.len();
    let bound = match (given > most, needed == most) {
        (_, true) => "",
        (true, false) => "at most ",
        (false, false) => "at least ",
    };
    let (count, plural) = match if given > most { most } else { needed } {
        1 => ("one".to_owned(), ""),
        count => (count.to_string(), "s"),
    };
    let (names, verb) = (command.arguments.join(" "), if given == 1 { "was" } else { "were" });
    Failure::usage(format!("{} takes {bound}{count} argument{plural} ({names}), {given} {verb} given", command.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    static SWITCH: Flag = Flag { short: "-x", long: "--hex", value: "", about: "" };
    static VALUE: Flag = Flag { short: "-p", long: "--port", value: "N", about: "" };
    static COMMAND: Command = Command {
        name: "try",
        arguments: &["WHAT", "[WHERE]"],
        about: "",
        flags: &[&SWITCH, &VALUE],
        notes: String::new,
        act: |_| Ok(()),
    };

    fn words(words: &[&str]) -> Words {
        Words::new(&COMMAND, words.iter().map(|&word| word.to_owned()).collect())
    }

    type Parsed = (Option<u16>, bool, [Option<String>; 2]);

    fn parse(given: &[&str]) -> Result<Parsed, Failure> {
        let mut words = words(given);
        Ok((words.value(&VALUE, "a port")?, words.switch(&SWITCH), words.positionals()?))
    }

    #[test]
    fn flags_stand_anywhere_and_in_every_form() {
        let expected = (Some(7), true, [Some("a".to_owned()), None]);
        for given in [
            &["-p", "7", "-x", "a"][..],
            &["a", "--hex", "--port=7"],
            &["-p=7", "a", "-x"],
            &["-x", "--port", "7", "a"],
            &["-xp", "7", "a"],
            &["-xp7", "a"],
            &["-p7", "-x", "--", "a"],
            &["-xp=7", "--", "a"],
        ] {
            assert_eq!(parse(given).as_ref(), Ok(&expected), "{given:?}");
        }
    }

    #[test]
    fn what_follows_two_dashes_is_no_flag() {
        let expected = (None, true, [Some("-p".to_owned()), Some("--".to_owned())]);
        assert_eq!(parse(&["-x", "--", "-p", "--"]), Ok(expected));
        assert_eq!(parse(&["a", "-p", "-x"]), Err(Failure::usage("try: --port: \"-x\" is not a port")));
        assert_eq!(parse(&["a", "-p-p", "b"]), Err(Failure::usage("try: --port: \"-p\" is not a port")));
    }

    #[test]
    fn errors_say_what_is_wrong() {
        for (given, message) in [
            (&["a", "-p"][..], "try: --port needs a value (N)"),
            (&["a", "-p", "x"], "try: --port: \"x\" is not a port"),
            (&["a", "-p", "1", "--port", "2"], "try: --port is given twice"),
            (&["a", "--hex=yes"], "try: --hex takes no value"),
            (&["a", "-xx"], "try: -x is given twice"),
            (&["a", "-xy"], "try: unknown flag \"-xy\", 'mtg try --help' lists what there is"),
            (&["a", "--prot=secret"], "try: unknown flag \"--prot\", did you mean \"--port\"?"),
            (&[], "try takes at least one argument (WHAT [WHERE]), 0 were given"),
            (&["a", "b", "c"], "try takes at most 2 arguments (WHAT [WHERE]), 3 were given"),
        ] {
            assert_eq!(parse(given), Err(Failure::usage(message)), "{given:?}");
        }
    }
}
