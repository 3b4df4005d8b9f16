//! What is known about a key, and how the tables in `keys` write it.

use super::field::Field;

/// All that is known about a key.
pub(super) struct KeySpec {
    /// The path with dots; `<n>` at its end stands for a number.
    pub(super) name: &'static str,
    pub(super) field: Field,
    pub(super) default: DefaultText,
    /// Takes effect with SIGHUP; the others need a restart.
    pub(super) is_reloadable: bool,
    pub(super) status: Status,
    /// What it is for, one line.
    pub(super) doc: &'static str,
}

/// What is in effect when the key is absent.
#[derive(Clone, Copy)]
pub(super) enum DefaultText {
    /// This text.
    Is(&'static str),
    /// Something that no text stands for, in words.
    Unset(&'static str),
    /// The key must be given.
    Required,
}

/// Whether the key does what it says.
#[derive(Clone, Copy)]
pub(super) enum Status {
    Works,
    /// It has no meaning here and never will; why.
    Ignored(&'static str),
    /// Another name of a key.
    Alias(&'static str),
    /// An old name of a key, to be replaced.
    Deprecated(&'static str),
}

impl KeySpec {
    /// Whether a key of the file is meant.
    pub(super) fn matches(&self, key: &str) -> bool {
        match self.name.strip_suffix("<n>") {
            Some(family) => key.strip_prefix(family).is_some_and(|number| !number.contains('.')),
            None => self.name == key,
        }
    }

    pub(super) const fn status(self, status: Status) -> Self {
        Self { status, ..self }
    }
}

/// A key that takes a restart.
pub(super) const fn key(name: &'static str, field: Field, default: DefaultText, doc: &'static str) -> KeySpec {
    KeySpec { name, field, default, is_reloadable: false, status: Status::Works, doc }
}

/// A key that takes effect with a reload.
pub(super) const fn live(name: &'static str, field: Field, default: DefaultText, doc: &'static str) -> KeySpec {
    KeySpec { is_reloadable: true, ..key(name, field, default, doc) }
}
