//! What a mistyped key was meant to be.

use super::keys;
use super::spec::Status;

#[cfg(test)]
thread_local! {
    /// How often a nearest key was sought, which takes a while.
    pub(super) static SEARCHES: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// The known key that the owner may have meant.
pub(super) fn nearest(key: &str) -> Option<&'static str> {
    #[cfg(test)]
    SEARCHES.set(SEARCHES.get() + 1);
    let names = || keys::all().filter(|spec| !matches!(spec.status, Status::Deprecated(_))).map(|spec| spec.name);
    // The right key in the wrong section.
    let is_tail = |long: &str, short: &str| long.strip_suffix(short).is_some_and(|head| head.ends_with('.'));
    if let Some(name) = names().find(|name| is_tail(name, key) || is_tail(key, name)) {
        return Some(name);
    }
    let key = key.to_ascii_lowercase().replace('_', "-");
    let (distance, name) = names().map(|name| (distance(&key, name), name)).min()?;
    (distance <= (key.len() / 3).max(2)).then_some(name)
}

/// The section that a key belongs into, empty if it stands above them all; none if there are several, or no such key.
pub(super) fn section_of(tail: &str) -> Option<&'static str> {
    if keys::find(tail).is_some() {
        return Some("");
    }
    let mut sections = keys::all().filter_map(|spec| spec.name.strip_suffix(tail)?.strip_suffix('.'));
    sections.next().filter(|_| sections.next().is_none())
}

/// Texts longer than this are not worth the time, bytes.
const COMPARED_MAX: usize = 64;

/// Insertions, deletions and replacements from one text to the other (Levenshtein); `usize::MAX` for a text of absurd
/// length.
pub(crate) fn distance(from: &str, to: &str) -> usize {
    if from.len() > COMPARED_MAX {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.bytes().enumerate() {
        let mut left = i + 1;
        let mut diagonal = i;
        for (b, cell) in to.bytes().zip(row.iter_mut().skip(1)) {
            let above = *cell;
            *cell = (diagonal + usize::from(a != b)).min(above + 1).min(left + 1);
            (left, diagonal) = (*cell, above);
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_edits() {
        for (a, b, edits) in [("run", "run", 0), ("run", "rum", 1), ("", "run", 3), ("kitten", "sitting", 3)] {
            assert_eq!((distance(a, b), distance(b, a)), (edits, edits), "{a} {b}");
        }
    }
}
