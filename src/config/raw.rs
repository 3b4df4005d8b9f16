//! The syntax of the file: text in, `key = value` statements with line numbers out.
//!
//! Two dialects in one: plain lines, and as much of TOML as mtg v2's `config.toml` needs (sections, quoted
//! strings, arrays). What a key means is not known here. No error repeats a part of the line: a line that
//! cannot be read may well be a secret.

use std::fmt;
use std::iter::Peekable;

use super::issue::is_showable_key;

/// `key = value`, the key with its section in front.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Statement {
    pub(super) key: String,
    /// What of the key is the `[section]` line's, empty above the first.
    pub(super) section: String,
    /// The `[[section]]` line above it, which tells the elements of an array of tables apart.
    pub(super) element: Option<u32>,
    pub(super) line: u32,
    pub(super) value: RawValue,
}

/// What stands to the right of the equals sign, without quotes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum RawValue {
    One(String),
    /// Quotes with nothing between them.
    Nothing,
    /// The elements of an array, each with its line.
    List(Vec<(String, u32)>),
}

/// Why a line cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SyntaxError {
    NoEquals,
    BadKey,
    EmptyKey,
    BadSection,
    TableArray,
    /// The keys of which it consists, as far as they can be read.
    InlineTable(Vec<String>),
    MultiLineString,
    OpenString,
    BadEscape,
    AfterString,
    AfterArray,
    NestedArray,
    BareElement,
    MissingComma,
    OpenArray,
}

/// Reads a whole file; every line that cannot be read is one error. `arrays` are the sections that may stand in two
/// brackets.
pub(super) fn read(text: &str, arrays: &[&str]) -> (Vec<Statement>, Vec<(u32, SyntaxError)>) {
    let mut reader = Reader {
        lines: (1..).zip(text.strip_prefix('\u{feff}').unwrap_or(text).lines()).peekable(),
        arrays,
        section: Some(String::new()),
        element: None,
        statements: Vec::new(),
        errors: Vec::new(),
    };
    while let Some((number, line)) = reader.lines.next() {
        if let Err(error) = reader.line(number, line.trim()) {
            reader.errors.push((number, error));
        }
    }
    (reader.statements, reader.errors)
}

struct Reader<'a, I: Iterator<Item = (u32, &'a str)>> {
    lines: Peekable<I>,
    arrays: &'a [&'a str],
    /// What the keys that follow stand below; `None` below a section that cannot be read, whose keys would only raise
    /// errors that hide the first one.
    section: Option<String>,
    element: Option<u32>,
    statements: Vec<Statement>,
    errors: Vec<(u32, SyntaxError)>,
}

impl<'a, I: Iterator<Item = (u32, &'a str)>> Reader<'a, I> {
    fn line(&mut self, number: u32, line: &'a str) -> Result<(), SyntaxError> {
        if is_blank(line) {
            return Ok(());
        }
        if let Some(rest) = line.strip_prefix('[') {
            let section = section(rest, self.arrays);
            self.element = rest.starts_with('[').then_some(number);
            self.section = section.as_ref().ok().cloned();
            return section.map(drop);
        }
        let (name, value) = setting(line)?;
        let value = self.value(number, value, &name)?;
        if let Some(section) = self.section.clone() {
            let key = if section.is_empty() { name } else { format!("{section}.{name}") };
            self.statements.push(Statement { key, section, element: self.element, line: number, value });
        }
        Ok(())
    }

    fn value(&mut self, number: u32, text: &'a str, name: &str) -> Result<RawValue, SyntaxError> {
        let trimmed = text.trim();
        match trimmed.chars().next() {
            Some('"' | '\'') => {
                let (value, rest) = quoted(trimmed)?;
                match value.is_empty() {
                    _ if !is_blank(rest.trim_start()) => Err(SyntaxError::AfterString),
                    true => Ok(RawValue::Nothing),
                    false => Ok(RawValue::One(value)),
                }
            }
            Some('[') if !is_bracketed_address(trimmed) => self.array(number, trimmed.get(1..).unwrap_or("")),
            Some('{') => Err(SyntaxError::InlineTable(keys_of_table(trimmed, name, 0))),
            _ => Ok(RawValue::One(without_comment(text).trim().to_owned())),
        }
    }

    /// Reads on until the closing bracket; a line that looks like the next setting ends the array too, so that a
    /// forgotten bracket does not swallow the rest of the file.
    fn array(&mut self, first: u32, text: &'a str) -> Result<RawValue, SyntaxError> {
        let mut array = Array::default();
        let (mut number, mut line) = (first, text);
        loop {
            if array.line(number, line) {
                return array.error.map_or(Ok(RawValue::List(array.elements)), Err);
            }
            let Some(next) = self.lines.next_if(|(_, next)| !starts_statement(next.trim())) else {
                return Err(array.error.unwrap_or(SyntaxError::OpenArray));
            };
            (number, line) = next;
        }
    }
}

/// An array that is being read, line by line.
#[derive(Default)]
struct Array {
    elements: Vec<(String, u32)>,
    needs_comma: bool,
    /// The first error; the rest is only searched for the closing bracket then.
    error: Option<SyntaxError>,
}

impl Array {
    /// Returns whether the array is closed.
    fn line(&mut self, number: u32, line: &str) -> bool {
        let mut rest = line.trim();
        while !is_blank(rest) {
            if let Some(after) = rest.strip_prefix(']') {
                if !is_blank(after.trim_start()) {
                    self.fail(SyntaxError::AfterArray);
                }
                return true;
            }
            match self.element(number, rest) {
                Ok(after) => rest = after.trim_start(),
                Err(error) => {
                    self.fail(error);
                    return without_comment(rest).contains(']');
                }
            }
        }
        false
    }

    fn element<'a>(&mut self, number: u32, text: &'a str) -> Result<&'a str, SyntaxError> {
        if let Some(rest) = text.strip_prefix(',') {
            let had_element = std::mem::replace(&mut self.needs_comma, false);
            return if had_element { Ok(rest) } else { Err(SyntaxError::MissingComma) };
        }
        match text.chars().next() {
            Some('"' | '\'') if self.needs_comma => Err(SyntaxError::MissingComma),
            Some('"' | '\'') => {
                let (value, rest) = quoted(text)?;
                self.elements.push((value, number));
                self.needs_comma = true;
                Ok(rest)
            }
            Some('[') => Err(SyntaxError::NestedArray),
            Some('{') => Err(SyntaxError::InlineTable(Vec::new())),
            _ => Err(SyntaxError::BareElement),
        }
    }

    fn fail(&mut self, error: SyntaxError) {
        self.error.get_or_insert(error);
    }
}

/// Nothing, or only a comment.
fn is_blank(text: &str) -> bool {
    text.is_empty() || text.starts_with('#')
}

/// `[::1]:3128` is an address and no array.
fn is_bracketed_address(text: &str) -> bool {
    let Some((address, rest)) = text.strip_prefix('[').and_then(|text| text.split_once(']')) else { return false };
    rest.starts_with(':') && !address.contains(['"', '\''])
}

/// Whether a line within an array is the next setting: no element starts without a quote.
fn starts_statement(line: &str) -> bool {
    let is_setting = !line.starts_with(['"', '\'']) && setting(line).is_ok();
    let is_section = line.strip_prefix('[').is_some_and(|rest| section(rest, &[]).is_ok());
    is_setting || is_section
}

/// The key of a setting, and what follows the equals sign.
fn setting(line: &str) -> Result<(String, &str), SyntaxError> {
    if line.contains('=') { path(line, '=') } else { Err(SyntaxError::NoEquals) }
}

/// The name in a section line, whose first bracket is gone.
fn section(rest: &str, arrays: &[&str]) -> Result<String, SyntaxError> {
    let (name, after) = match rest.strip_prefix('[') {
        None => path(rest, ']').map_err(|_| SyntaxError::BadSection)?,
        Some(rest) => match path(rest, ']') {
            Ok((name, after)) if arrays.contains(&name.as_str()) => {
                (name, after.strip_prefix(']').ok_or(SyntaxError::BadSection)?)
            }
            _ => return Err(SyntaxError::TableArray),
        },
    };
    if is_blank(after.trim_start()) { Ok(name) } else { Err(SyntaxError::BadSection) }
}

/// Reads a key, whose parts may stand in quotes, up to `end`; returns it and what follows.
fn path(text: &str, end: char) -> Result<(String, &str), SyntaxError> {
    let mut path = String::new();
    let mut rest = text;
    loop {
        let at = rest.find([end, '"', '\'']).ok_or(SyntaxError::BadKey)?;
        let (bare, after) = rest.split_at(at);
        path += bare.trim();
        if let Some(after) = after.strip_prefix(end) {
            return Ok((checked_key(&path)?.to_owned(), after));
        }
        let (part, after) = quoted(after)?;
        let follows_a_dot = path.is_empty() || path.ends_with('.');
        // A dot in quotes is not the one between two parts.
        if !follows_a_dot || part.contains('.') {
            return Err(SyntaxError::BadKey);
        }
        path += checked_key(&part)?;
        let after = after.trim_start();
        if let Some(after) = after.strip_prefix(end) {
            return Ok((checked_key(&path)?.to_owned(), after));
        }
        path.push('.');
        rest = after.strip_prefix('.').ok_or(SyntaxError::BadKey)?;
    }
}

/// Tables within tables are followed so far: no key has more parts.
const NESTED_MAX: u32 = 4;

/// The keys that an inline table stands for, each with `name` in front; those behind something odd are left out. It is
/// `depth` tables deep.
fn keys_of_table(text: &str, name: &str, depth: u32) -> Vec<String> {
    let mut keys = Vec::new();
    let mut rest = text.strip_prefix('{').unwrap_or(text);
    while let Ok((key, value)) = path(rest.trim_start(), '=') {
        let (key, value) = (format!("{name}.{key}"), value.trim_start());
        if value.starts_with('{') && depth < NESTED_MAX {
            keys.extend(keys_of_table(value, &key, depth + 1));
        } else {
            keys.push(key);
        }
        match after_value(value) {
            Some(next) => rest = next,
            None => break,
        }
    }
    keys
}

/// What follows the comma behind a value, if there is one.
fn after_value(text: &str) -> Option<&str> {
    let (mut rest, mut depth) = (text, 0u32);
    loop {
        match rest.chars().next()? {
            '"' | '\'' => rest = quoted(rest).ok()?.1,
            ',' if depth == 0 => return rest.get(1..),
            '}' if depth == 0 => return None,
            c => {
                depth = match c {
                    '[' | '{' => depth.saturating_add(1),
                    ']' | '}' => depth.saturating_sub(1),
                    _ => depth,
                };
                rest = rest.get(c.len_utf8()..)?;
            }
        }
    }
}

fn checked_key(key: &str) -> Result<&str, SyntaxError> {
    if key.is_empty() {
        return Err(SyntaxError::EmptyKey);
    }
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if key.bytes().all(is_plain) { Ok(key) } else { Err(SyntaxError::BadKey) }
}

/// Cuts a comment off: `#` after white space. A `#` within a word belongs to it (URLs, passwords).
fn without_comment(text: &str) -> &str {
    let mut after_space = false;
    for (at, c) in text.char_indices() {
        if c == '#' && after_space {
            return text.get(..at).unwrap_or(text);
        }
        after_space = c.is_whitespace();
    }
    text
}

/// Reads a string in double quotes (with escapes) or in single quotes (without), or in three of them; returns it and
/// what follows.
fn quoted(text: &str) -> Result<(String, &str), SyntaxError> {
    if let Some(rest) = text.strip_prefix("'''") {
        let (value, rest) = rest.split_once("'''").ok_or(SyntaxError::MultiLineString)?;
        return Ok((value.to_owned(), rest));
    }
    if let Some(rest) = text.strip_prefix('\'') {
        let (value, rest) = rest.split_once('\'').ok_or(SyntaxError::OpenString)?;
        return Ok((value.to_owned(), rest));
    }
    let (end, open) = match text.starts_with("\"\"\"") {
        true => ("\"\"\"", SyntaxError::MultiLineString),
        false => ("\"", SyntaxError::OpenString),
    };
    let mut value = String::new();
    let mut rest = text.strip_prefix(end).unwrap_or(text);
    loop {
        if let Some(after) = rest.strip_prefix(end) {
            return Ok((value, after));
        }
        let mut chars = rest.chars();
        match chars.next() {
            Some('\\') => value.push(escape(&mut chars)?),
            Some(c) => value.push(c),
            None => return Err(open),
        }
        rest = chars.as_str();
    }
}

fn escape(chars: &mut std::str::Chars<'_>) -> Result<char, SyntaxError> {
    let digits = match chars.next().ok_or(SyntaxError::OpenString)? {
        c @ ('"' | '\\') => return Ok(c),
        'b' => return Ok('\u{8}'),
        'f' => return Ok('\u{c}'),
        'n' => return Ok('\n'),
        'r' => return Ok('\r'),
        't' => return Ok('\t'),
        'u' => 4,
        'U' => 8,
        _ => return Err(SyntaxError::BadEscape),
    };
    let mut code = 0u32;
    for _ in 0..digits {
        let digit = chars.next().and_then(|c| c.to_digit(16)).ok_or(SyntaxError::BadEscape)?;
        code = code.checked_mul(16).ok_or(SyntaxError::BadEscape)? | digit;
    }
    char::from_u32(code).ok_or(SyntaxError::BadEscape)
}

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Self::InlineTable(keys) = self {
            return inline_table(f, keys);
        }
        f.write_str(match self {
            Self::NoEquals => "neither 'key = value' nor '[section]'",
            Self::BadKey => "a key has something else than letters, digits, hyphens and dots",
            Self::EmptyKey => "no key before the equals sign",
            Self::BadSection => "a section line is not '[name]'",
            Self::TableArray => "arrays of tables ('[[name]]') are not supported",
            Self::MultiLineString => "strings over several lines (three quotes) are not supported",
            Self::OpenString => "a quoted value has no closing quote on its line",
            Self::BadEscape => {
                "a quoted value has an unknown escape; write '\\\\' for a backslash, or use single quotes"
            }
            Self::AfterString => "something follows the closing quote",
            Self::AfterArray => "something follows the closing bracket of the list",
            Self::NestedArray => "lists within lists are not supported",
            Self::BareElement => "an element of a list is not in quotes",
            Self::MissingComma => "the elements of a list are not separated by one comma each",
            Self::OpenArray => "the list that starts here has no closing bracket",
            Self::InlineTable(_) => "",
        })
    }
}

/// What to write in place of a table in braces. Its values are not shown: one may be a secret.
fn inline_table(f: &mut fmt::Formatter<'_>, keys: &[String]) -> fmt::Result {
    f.write_str("tables in braces ('{ … }') are not read, each key has a line of its own")?;
    if keys.is_empty() || !keys.iter().all(|key| is_showable_key(key)) {
        return Ok(());
    }
    let lines: Vec<_> = keys.iter().map(|key| format!("{key} = …")).collect();
    write!(f, ": {}", lines.join(", then "))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Key, line and value; sections have a test of their own.
    type Said = (String, u32, RawValue);

    fn one(key: &str, line: u32, value: &str) -> Said {
        (key.into(), line, RawValue::One(value.into()))
    }

    fn list(key: &str, line: u32, elements: &[(&str, u32)]) -> Said {
        let elements = elements.iter().map(|&(text, line)| (text.to_owned(), line)).collect();
        (key.into(), line, RawValue::List(elements))
    }

    fn read(text: &str) -> (Vec<Said>, Vec<(u32, SyntaxError)>) {
        let (statements, errors) = super::read(text, &["many"]);
        (statements.into_iter().map(|said| (said.key, said.line, said.value)).collect(), errors)
    }

    fn good(text: &str) -> Vec<Said> {
        let (statements, errors) = read(text);
        assert_eq!(errors, [], "{text}");
        statements
    }

    #[test]
    fn plain_lines_are_free_in_white_space_quotes_and_comments() {
        let text = "\u{feff}# comment\r\n\r\n  a  =  1  # comment\r\nb='x # y'# c\nc=\"a\\\"\\\\\\u00e9\\t\"\nd = a#b\ne =\nf = # x\n";
        assert_eq!(
            good(text),
            [one("a", 3, "1"), one("b", 4, "x # y"), one("c", 5, "a\"\\é\t"), one("d", 6, "a#b"), one("e", 7, ""), {
                one("f", 8, "")
            }]
        );
    }

    #[test]
    fn sections_prefix_the_keys_below_them() {
        let text = "a = 1\n[ network.timeout ] # x\ntcp = \"5s\"\n[stats]\nstatsd.enabled = true";
        assert_eq!(
            good(text),
            [one("a", 1, "1"), one("network.timeout.tcp", 3, "5s"), one("stats.statsd.enabled", 5, "true")]
        );
    }

    #[test]
    fn keys_and_sections_may_stand_in_quotes() {
        let text = "\"a\" = 1\n'b'.\"c\" = 2\nd.'e' = \"x=y\"\n[\"f\".g]\n\"h\".i = 3\n[ 'j' ]\nk = 4";
        assert_eq!(
            good(text),
            [one("a", 1, "1"), one("b.c", 2, "2"), one("d.e", 3, "x=y"), one("f.g.h.i", 5, "3"), one("j.k", 7, "4")]
        );
    }

    #[test]
    fn strings_in_three_quotes_may_have_quotes_in_them() {
        let text = "a = \"\"\"x \"y\" # \\t\"\"\" # z\nb = '''it's \\t'''\nc = ['''d''', \"\"\"\"\"\"]";
        assert_eq!(
            good(text),
            [one("a", 1, "x \"y\" # \t"), one("b", 2, "it's \\t"), list("c", 3, &[("d", 3), ("", 3)])]
        );
    }

    #[test]
    fn a_table_in_braces_is_answered_with_the_lines_to_write() {
        for (text, lines) in [
            ("front = { ip = \"hunter2\", port = 443 }", ": front.ip = …, then front.port = …"),
            ("a = {b = [1, 2], 'c' = {d = \"}\"}, e.f = 1}", ": a.b = …, then a.c.d = …, then a.e.f = …"),
            ("a = {b = {c = {d = 1}, e = 2}}", ": a.b.c.d = …, then a.b.e = …"),
            ("a = {}", ""),
            ("a = {b", ""),
            ("a = {EE = 1}", ""),
        ] {
            let (_, errors) = read(text);
            let shown = errors[0].1.to_string();
            assert_eq!(
                shown,
                format!("tables in braces ('{{ … }}') are not read, each key has a line of its own{lines}")
            );
        }
    }

    #[test]
    fn elements_of_an_array_of_tables_know_their_line() {
        let (statements, errors) =
            super::read("a = 1\n[[many]]\nb = 2\nc = 3\n[[many]] # x\nb = 4\n[d]\ne = 5", &["many"]);
        assert_eq!(errors, []);
        let places: Vec<_> =
            statements.iter().map(|said| (said.key.as_str(), said.section.as_str(), said.element)).collect();
        let many = |key, line| (key, "many", Some(line));
        assert_eq!(
            places,
            [("a", "", None), many("many.b", 2), many("many.c", 2), many("many.b", 5), ("d.e", "d", None)]
        );
    }

    #[test]
    fn arrays_span_lines_and_each_element_knows_its_own() {
        let text = "a = [] # none\nb = [\"x\", 'y']\nc = [ # why\n  \"1\", # one\n# \"no\",\n\n  \"]\"\n  , '#',\n] # end\nd = 1";
        assert_eq!(
            good(text),
            [list("a", 1, &[]), list("b", 2, &[("x", 2), ("y", 2)]), list("c", 3, &[("1", 4), ("]", 7), ("#", 8)]), {
                one("d", 10, "1")
            }]
        );
    }

    #[test]
    fn an_address_in_brackets_is_no_array() {
        assert_eq!(good("a = [::]:3128 # x\nb = [fe80::1]:1"), [one("a", 1, "[::]:3128"), one("b", 2, "[fe80::1]:1")]);
    }

    #[test]
    fn what_is_not_supported_is_named() {
        for (text, error) in [
            ("word", SyntaxError::NoEquals),
            ("\"a.b\" = 1", SyntaxError::BadKey),
            ("a\"b\" = 1", SyntaxError::BadKey),
            ("\"a\" b = 1", SyntaxError::BadKey),
            ("[\"a\" b]", SyntaxError::BadSection),
            ("[[many]", SyntaxError::BadSection),
            ("socks5://a:b=c", SyntaxError::BadKey),
            ("= 1", SyntaxError::EmptyKey),
            ("[a", SyntaxError::BadSection),
            ("[]", SyntaxError::BadSection),
            ("[a] b", SyntaxError::BadSection),
            ("[[a]]", SyntaxError::TableArray),
            ("a = {b = 1}", SyntaxError::InlineTable(vec!["a.b".into()])),
            ("a = \"\"\"b\"", SyntaxError::MultiLineString),
            ("a = '''b", SyntaxError::MultiLineString),
            ("a = \"b", SyntaxError::OpenString),
            ("a = 'b", SyntaxError::OpenString),
            ("a = \"b\\", SyntaxError::OpenString),
            ("a = \"\\x\"", SyntaxError::BadEscape),
            ("a = \"\\ud800\"", SyntaxError::BadEscape),
            ("a = \"\\UFFFFFFFF\"", SyntaxError::BadEscape),
            ("a = \"b\" c", SyntaxError::AfterString),
            ("a = [] b", SyntaxError::AfterArray),
            ("a = [[\"b\"]]", SyntaxError::NestedArray),
            ("a = [{}]", SyntaxError::InlineTable(vec![])),
            ("a = [1]", SyntaxError::BareElement),
            ("a = [\"b\" \"c\"]", SyntaxError::MissingComma),
            ("a = [,]", SyntaxError::MissingComma),
            ("a = [\"b\",,]", SyntaxError::MissingComma),
            ("a = [\"b\"", SyntaxError::OpenArray),
        ] {
            assert_eq!(read(text), (vec![], vec![(1, error)]), "{text}");
        }
    }

    #[test]
    fn an_error_does_not_hide_or_spoil_the_lines_after_it() {
        let (statements, errors) =
            read("a = [\n1,\n\"x\",\n]\nb = 1\nc = [\n\"x\"\nd = 2\ne = [ \"x\"\n[f]\ng = 3\n[[h]]\ni = 4");
        assert_eq!(statements, [one("b", 5, "1"), one("d", 8, "2"), one("f.g", 11, "3")]);
        let expected = [(1, SyntaxError::BareElement), (6, SyntaxError::OpenArray), (9, SyntaxError::OpenArray)];
        assert_eq!(errors, [&expected[..], &[(12, SyntaxError::TableArray)]].concat());
    }
}
