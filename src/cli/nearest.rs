//! "Did you mean …?"

use crate::config::suggest::distance;

/// The candidate that the word was probably meant to be.
pub(crate) fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Letters of short flags mean nothing about each other.
    if word.len() <= 2 {
        return None;
    }
    let rated = candidates.map(|candidate| {
        let part = word.len() > 3 && (candidate.contains(word) || word.contains(candidate));
        (if part { 1 } else { distance(word, candidate) }, candidate)
    });
    let (distance, candidate) = rated.min_by_key(|&(distance, _)| distance)?;
    (distance <= 2.max(word.len() / 4)).then_some(candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn far_words_have_no_neighbour() {
        assert_eq!(nearest("frobnicate", ["run", "access"].into_iter()), None);
        assert_eq!(nearest("-z", ["-x"].into_iter()), None);
        assert_eq!(nearest(&"x".repeat(100_000), ["run"].into_iter()), None);
    }
}
