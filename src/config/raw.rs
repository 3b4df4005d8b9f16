//! The syntax of the file: text in, `key = value` statements with line numbers out.
//!
//! Two dialects in one: plain lines, and as much of TOML as mtg v2's `config.toml` needs (sections, quoted
//! strings, arrays). What a key means is not known here. No error repeats a part of the line: a line that
//! cannot be read may well be a secret.

use std::fmt;
use std::iter::Peekable;

/// `key = value`, the key with its section in front.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Statement {
    pub(super) key: String,
    pub(super) line: u32,
    pub(super) value: RawValue,
}

/// What stands to the right of the equals sign, without quotes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum RawValue {
    One(String),
    /// The elements of an array, each with its line.
    List(Vec<(String, u32)>),
}

/// Why a line cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SyntaxError {
    NoEquals,
    BadKey,
    EmptyKey,
    BadSection,
    TableArray,
    InlineTable,
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

/// Reads a whole file; every line that cannot be read is one error.
pub(super) fn read(text: &str) -> (Vec<Statement>, Vec<(u32, SyntaxError)>) {
    let mut reader = Reader {
        lines: (1..).zip(text.strip_prefix('\u{feff}').unwrap_or(text).lines()).peekable(),
        section: Some(String::new()),
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
    /// The prefix of the keys that follow, with its dot; `None` below a section that cannot be read, whose keys
    /// would only raise errors that hide the first one.
    section: Option<String>,
    statements: Vec<Statement>,
    errors: Vec<(u32, SyntaxError)>,
}

impl<'a, I: Iterator<Item = (u32, &'a str)>> Reader<'a, I> {
    fn line(&mut self, number: u32, line: &'a str) -> Result<(), SyntaxError> {
        if is_blank(line) {
            return Ok(());
        }
        if let Some(rest) = line.strip_prefix('[') {
            let section = section(rest);
            self.section = section.as_ref().ok().map(|name| format!("{name}."));
            return section.map(drop);
        }
        let (key, value) = line.split_once('=').ok_or(SyntaxError::NoEquals)?;
        let key = checked_key(key.trim())?;
        let value = self.value(number, value)?;
        if let Some(section) = &self.section {
            self.statements.push(Statement { key: format!("{section}{key}"), line: number, value });
        }
        Ok(())
    }

    fn value(&mut self, number: u32, text: &'a str) -> Result<RawValue, SyntaxError> {
        let trimmed = text.trim();
        match trimmed.chars().next() {
            Some('"' | '\'') => {
                let (value, rest) = quoted(trimmed)?;
                if is_blank(rest.trim_start()) { Ok(RawValue::One(value)) } else { Err(SyntaxError::AfterString) }
            }
            Some('[') if !is_bracketed_address(trimmed) => self.array(number, trimmed.get(1..).unwrap_or("")),
            Some('{') => Err(SyntaxError::InlineTable),
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
            Some('{') => Err(SyntaxError::InlineTable),
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
    let is_setting = line.split_once('=').is_some_and(|(key, _)| checked_key(key.trim()).is_ok());
    let is_section = line.strip_prefix('[').is_some_and(|rest| section(rest).is_ok());
    is_setting || is_section
}

fn section(rest: &str) -> Result<&str, SyntaxError> {
    if rest.starts_with('[') {
        return Err(SyntaxError::TableArray);
    }
    let (name, after) = rest.split_once(']').ok_or(SyntaxError::BadSection)?;
    if !is_blank(after.trim_start()) {
        return Err(SyntaxError::BadSection);
    }
    checked_key(name.trim()).map_err(|_| SyntaxError::BadSection)
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

/// Reads a string in double quotes (with escapes) or in single quotes (without); returns it and what follows.
fn quoted(text: &str) -> Result<(String, &str), SyntaxError> {
    if text.starts_with("\"\"\"") || text.starts_with("'''") {
        return Err(SyntaxError::MultiLineString);
    }
    if let Some(rest) = text.strip_prefix('\'') {
        let (value, rest) = rest.split_once('\'').ok_or(SyntaxError::OpenString)?;
        return Ok((value.to_owned(), rest));
    }
    let mut value = String::new();
    let mut chars = text.strip_prefix('"').unwrap_or(text).chars();
    loop {
        match chars.next().ok_or(SyntaxError::OpenString)? {
            '"' => return Ok((value, chars.as_str())),
            '\\' => value.push(escape(&mut chars)?),
            c => value.push(c),
        }
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
        f.write_str(match self {
            Self::NoEquals => "neither 'key = value' nor '[section]'",
            Self::BadKey => {
                "a key has something else than letters, digits, hyphens and dots (quoted keys are not supported)"
            }
            Self::EmptyKey => "no key before the equals sign",
            Self::BadSection => "a section line is not '[name]'",
            Self::TableArray => "arrays of tables ('[[name]]') are not supported",
            Self::InlineTable => "inline tables ('{ … }') are not supported",
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
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(key: &str, line: u32, value: &str) -> Statement {
        Statement { key: key.into(), line, value: RawValue::One(value.into()) }
    }

    fn list(key: &str, line: u32, elements: &[(&str, u32)]) -> Statement {
        let elements = elements.iter().map(|&(text, line)| (text.to_owned(), line)).collect();
        Statement { key: key.into(), line, value: RawValue::List(elements) }
    }

    fn good(text: &str) -> Vec<Statement> {
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
            ("\"a\" = 1", SyntaxError::BadKey),
            ("socks5://a:b=c", SyntaxError::BadKey),
            ("= 1", SyntaxError::EmptyKey),
            ("[a", SyntaxError::BadSection),
            ("[]", SyntaxError::BadSection),
            ("[a] b", SyntaxError::BadSection),
            ("[[a]]", SyntaxError::TableArray),
            ("a = {b = 1}", SyntaxError::InlineTable),
            ("a = \"\"\"b\"\"\"", SyntaxError::MultiLineString),
            ("a = \"b", SyntaxError::OpenString),
            ("a = 'b", SyntaxError::OpenString),
            ("a = \"b\\", SyntaxError::OpenString),
            ("a = \"\\x\"", SyntaxError::BadEscape),
            ("a = \"\\ud800\"", SyntaxError::BadEscape),
            ("a = \"\\UFFFFFFFF\"", SyntaxError::BadEscape),
            ("a = \"b\" c", SyntaxError::AfterString),
            ("a = [] b", SyntaxError::AfterArray),
            ("a = [[\"b\"]]", SyntaxError::NestedArray),
            ("a = [{}]", SyntaxError::InlineTable),
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
