//! What is wrong with a configuration, said to its owner: where, what was found, what is allowed.

use std::fmt;
use std::io::ErrorKind;

/// One error or warning, shown as `/etc/mtg.conf:12: …` or `--concurrency: …`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    /// The file or the argument; empty for a setting from nowhere.
    pub(super) origin: String,
    pub(super) line: Option<u32>,
    pub(super) text: String,
}

impl Issue {
    /// The line of the file, if it is about one.
    pub fn line(&self) -> Option<u32> {
        self.line
    }

    /// What is wrong, without the place.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Issue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { origin, line, text } = self;
        match line {
            Some(line) => write!(f, "{origin}:{line}: {text}"),
            None if origin.is_empty() => f.write_str(text),
            None => write!(f, "{origin}: {text}"),
        }
    }
}

/// What the owner should know about a configuration that works, in the order of the lines.
#[derive(Clone, Debug, Default)]
pub struct Warnings(Vec<Issue>);

impl Warnings {
    pub(super) fn new(issues: Vec<Issue>) -> Self {
        Self(sorted(issues))
    }

    /// The warnings one by one.
    pub fn iter(&self) -> std::slice::Iter<'_, Issue> {
        self.0.iter()
    }

    /// Whether there is nothing to say.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'a> IntoIterator for &'a Warnings {
    type Item = &'a Issue;
    type IntoIter = std::slice::Iter<'a, Issue>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Warnings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_lines(f, &self.0)
    }
}

/// All that is wrong with a configuration, one per line in the order of the lines; never empty.
#[derive(Clone, Debug)]
pub struct ConfigErrors {
    issues: Vec<Issue>,
    is_unreadable: bool,
    /// The command that makes the file, for somebody who is about to start.
    remedy: Option<String>,
}

impl ConfigErrors {
    pub(super) fn new(issues: Vec<Issue>) -> Self {
        Self { issues: sorted(issues), is_unreadable: false, remedy: None }
    }

    pub(super) fn unreadable(origin: String, error: &std::io::Error) -> Self {
        let advice = match error.kind() {
            ErrorKind::IsADirectory => "; container engines make a folder where the file to mount is missing",
            ErrorKind::PermissionDenied => "; the user that mtg runs as has to be allowed to (in the container: 65532)",
            _ => "",
        };
        // Nobody but the owner is to read a secret.
        let remedy = (error.kind() == ErrorKind::NotFound).then(|| {
            format!(
                "this makes one: (umask 077; (echo bind-to = 0.0.0.0:3128; echo secret = $(mtg generate-secret www.google.com)) >{origin})"
            )
        });
        let issue = Issue { origin, line: None, text: format!("cannot be read: {error}{advice}") };
        Self { issues: vec![issue], is_unreadable: true, remedy }
    }

    /// Whether the file could not be read at all.
    pub fn is_unreadable(&self) -> bool {
        self.is_unreadable
    }

    /// What makes a file that is missing, for somebody who is about to start; of no use to a proxy that runs.
    pub fn remedy(&self) -> Option<&str> {
        self.remedy.as_deref()
    }

    /// The errors one by one.
    pub fn iter(&self) -> std::slice::Iter<'_, Issue> {
        self.issues.iter()
    }
}

impl<'a> IntoIterator for &'a ConfigErrors {
    type Item = &'a Issue;
    type IntoIter = std::slice::Iter<'a, Issue>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_lines(f, &self.issues)
    }
}

impl std::error::Error for ConfigErrors {}

/// A value as an error shows it: in quotes, on one line, cut, and not at all if it may be a secret that was
/// written in the wrong place.
pub(super) struct Shown<'a>(pub(super) &'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MOST: usize = 60;
        if may_be_private(self.0) {
            return f.write_str("this value");
        }
        match self.0.char_indices().nth(MOST) {
            Some((end, _)) => write!(f, "{:?}…", self.0.get(..end).unwrap_or("")),
            None => write!(f, "{:?}", self.0),
        }
    }
}

/// Whether a key may be shown: no secret that lost its key looks like words with hyphens.
pub(super) fn is_showable_key(key: &str) -> bool {
    let is_word = |word: &str| word.len() <= 20;
    key.len() <= 64 && !key.contains(|c: char| c.is_ascii_uppercase()) && key.split(['.', '-', '_']).all(is_word)
}

/// The shortest secret has 24 characters; passwords stand before an `@` or in the URL of a proxy.
fn may_be_private(text: &str) -> bool {
    let is_digit = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '+' | '=');
    let has_password = text.contains('@') || text.to_ascii_lowercase().contains("socks");
    has_password || text.split(|c| !is_digit(c)).any(|run| run.len() >= 24)
}

fn sorted(mut issues: Vec<Issue>) -> Vec<Issue> {
    issues.sort_by_key(|issue| (issue.line.is_none(), issue.line));
    issues
}

fn write_lines(f: &mut fmt::Formatter<'_>, issues: &[Issue]) -> fmt::Result {
    for (n, issue) in issues.iter().enumerate() {
        let separator = if n == 0 { "" } else { "\n" };
        write!(f, "{separator}{issue}")?;
    }
    Ok(())
}
