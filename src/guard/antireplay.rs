//! Every hello is answered once.
//!
//! A hello is known by its digest alone. The client XORs its clock into the last four bytes of its random, which the
//! digest does not cover, so whoever has recorded a hello can make it say any time; neither that time nor ours decides
//! anything here. What was seen is forgotten only to make room, the oldest first.
//!
//! Eight bytes of the digest are kept. They are a MAC under the secret: a stranger can neither choose nor foresee them.
//! A false positive sends a client to the front, which then dials again; with n hellos remembered its chance is n in
//! 2^64 for each hello, 1 in 10^14 with 100 000. A false negative would show the proxy to whoever repeats a recording;
//! there is one only for what was forgotten, so not within the capacity, and only hellos made with the secret fill it.

use std::collections::VecDeque;

use crate::proto::faketls::Digest;

/// Parts of the set. The oldest is forgotten as a whole, so a larger number wastes less and costs a look-up more.
const SEGMENTS: u64 = 16;
/// Bytes of a slot.
const SLOT: u64 = 8;
/// How full a segment gets, in sixteenths: beyond it, the way to a free slot would become long.
const FULL: usize = 13;

/// The set of hellos that were seen.
#[derive(Debug)]
pub(crate) struct AntiReplay {
    /// The oldest first; the last takes what is new. They are made one by one, as they are needed.
    segments: VecDeque<Segment>,
    /// Slots of each segment.
    slots: usize,
    /// The number of the first segment, counted from the first that ever was.
    oldest: u64,
    /// How many were ever put in.
    added: u64,
    /// What another process is to be told of, if any is.
    news: Option<News>,
}

/// What has been put in since somebody asked.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct News {
    pub(crate) words: Vec<u64>,
    /// There was more than this can hold.
    pub(crate) is_incomplete: bool,
}

/// News that are held, beyond which the whole set is told.
const NEWS_MAX: usize = 4096;

impl AntiReplay {
    /// Makes a set that uses at most `max_size` bytes.
    pub(crate) fn new(max_size: u64) -> Self {
        let slots = usize::try_from(max_size / SEGMENTS / SLOT).unwrap_or(usize::MAX).max(2);
        Self { segments: VecDeque::new(), slots, oldest: 0, added: 0, news: None }
    }

    /// Keeps the news for [`AntiReplay::take_news`].
    pub(crate) fn keep_news(&mut self) {
        self.news = Some(News::default());
    }

    /// Says whether a hello was never seen before, and remembers it.
    pub(crate) fn first_seen(&mut self, digest: &Digest) -> bool {
        let word = digest.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
        let is_new = self.add(word);
        if let Some(news) = self.news.as_mut().filter(|_| is_new) {
            match news.words.len() {
                0..NEWS_MAX => news.words.push(word),
                _ => news.is_incomplete = true,
            }
        }
        is_new
    }

    /// Adds what another set has.
    pub(crate) fn merge(&mut self, words: &[u64]) {
        for &word in words {
            self.add(word);
        }
    }

    /// What was put in by [`AntiReplay::first_seen`] since the last call.
    pub(crate) fn take_news(&mut self) -> News {
        self.news.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Changes whenever something is put in.
    pub(crate) fn added(&self) -> u64 {
        self.added
    }

    /// The first segment with that number or a higher one: its own number and what is in it. Who goes through all of
    /// them sees the whole set, roughly in the order in which it came, and may let go of the set in between.
    pub(crate) fn segment(&self, number: u64) -> Option<(u64, Vec<u64>)> {
        let number = number.max(self.oldest);
        let segment = self.segments.get(usize::try_from(number - self.oldest).ok()?)?;
        Some((number, segment.slots.iter().copied().filter(|&word| word != Segment::FREE).collect()))
    }

    fn add(&mut self, word: u64) -> bool {
        // A slot that is free reads so.
        let word = if word == Segment::FREE { 1 } else { word };
        if self.segments.iter().any(|segment| segment.contains(word)) {
            return false;
        }
        self.room().insert(word);
        self.added = self.added.wrapping_add(1);
        true
    }

    /// The segment that takes what is new.
    fn room(&mut self) -> &mut Segment {
        if self.segments.back().is_none_or(Segment::is_full) {
            let spare = if u64::try_from(self.segments.len()).is_ok_and(|len| len < SEGMENTS) {
                None
            } else {
                self.oldest += 1;
                self.segments.pop_front()
            };
            self.segments.push_back(spare.map_or_else(|| Segment::new(self.slots), Segment::emptied));
        }
        let last = self.segments.len() - 1;
        &mut self.segments[last]
    }
}

/// A hash table with open addressing.
#[derive(Debug)]
struct Segment {
    slots: Box<[u64]>,
    taken: usize,
}

impl Segment {
    /// What a slot without an entry holds.
    const FREE: u64 = 0;

    fn new(slots: usize) -> Self {
        Self { slots: vec![Self::FREE; slots].into_boxed_slice(), taken: 0 }
    }

    fn emptied(mut self) -> Self {
        self.slots.fill(Self::FREE);
        Self { taken: 0, ..self }
    }

    fn is_full(&self) -> bool {
        self.taken * 16 >= self.slots.len() * FULL
    }

    fn contains(&self, word: u64) -> bool {
        self.slots[self.place(word)] == word
    }

    fn insert(&mut self, word: u64) {
        let place = self.place(word);
        self.slots[place] = word;
        self.taken += 1;
    }

    /// Where the word is, or where it would be. There is a free slot always.
    fn place(&self, word: u64) -> usize {
        let slots = self.slots.len();
        // The word is as good as random, so its upper half in proportion is a hash.
        let start = ((word >> 32) * slots as u64) >> 32;
        let (before, from) = self.slots.split_at(usize::try_from(start).unwrap_or_default());
        let fits = |&slot: &u64| slot == word || slot == Self::FREE;
        let behind = from.iter().position(fits).map(|place| before.len() + place);
        behind.or_else(|| before.iter().position(fits)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::testing::rounds;

    /// As good as a digest.
    fn digest(number: u64) -> Digest {
        let mut digest = [0; 28];
        let mut state = number;
        for chunk in digest.chunks_mut(8) {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            chunk.copy_from_slice(&(mixed ^ mixed >> 31).to_be_bytes()[..chunk.len()]);
        }
        digest
    }

    fn whole(set: &AntiReplay) -> Vec<u64> {
        let (mut words, mut next) = (Vec::new(), 0);
        while let Some((number, part)) = set.segment(next) {
            words.extend(part);
            next = number + 1;
        }
        words
    }

    #[test]
    fn a_hello_passes_once() {
        // An interpreter takes minutes for a thousand.
        let hellos = if cfg!(miri) { 50 } else { 1000 };
        let mut set = AntiReplay::new(1 << 20);
        for number in 0..hellos {
            assert!(set.first_seen(&digest(number)));
            assert!(!set.first_seen(&digest(number)) && !set.first_seen(&digest(number / 2)));
        }
        assert_eq!(set.added(), hellos);
    }

    #[test]
    #[cfg_attr(miri, ignore = "400 000 hellos take hours; the naive set beside a small one runs")]
    fn a_megabyte_remembers_the_last_hundred_thousand_hellos_and_takes_no_more() {
        let mut set = AntiReplay::new(1 << 20);
        assert!((0..300_000).all(|number| set.first_seen(&digest(number))));
        let bytes: usize = set.segments.iter().map(|segment| segment.slots.len() * 8).sum();
        assert!(bytes <= 1 << 20, "{bytes}");
        assert!((200_200..300_000).all(|number| !set.first_seen(&digest(number))));
        // The oldest went first.
        assert!(set.first_seen(&digest(0)) && set.first_seen(&digest(150_000)));
    }

    #[test]
    fn memory_comes_with_the_hellos() {
        let mut set = AntiReplay::new(1 << 20);
        assert_eq!(set.segments.len(), 0);
        set.first_seen(&digest(1));
        assert_eq!((set.segments.len(), set.segments[0].slots.len()), (1, 8192));
    }

    #[test]
    fn it_is_the_naive_set_that_forgets_the_oldest() {
        for max_size in [1, 2 * 16 * 8, 1000, 4096] {
            let (mut set, mut naive) = (AntiReplay::new(max_size), VecDeque::new());
            for step in 0..u64::from(rounds(20_000)) {
                let number = step.wrapping_mul(0x9e37_79b9) % (step / 3 + 1);
                let is_new = set.first_seen(&digest(number));
                let at_least = set.slots * FULL / 16 * 15;
                if naive.iter().rev().take(at_least).any(|&seen| seen == number) {
                    assert!(!is_new, "{max_size}: {number} is forgotten too early");
                }
                if is_new {
                    naive.push_back(number);
                } else {
                    assert!(naive.contains(&number), "{max_size}: {number} was never seen");
                }
            }
        }
    }

    #[test]
    fn words_of_any_value_are_remembered() {
        let mut set = AntiReplay::new(4096);
        let words = [0, 2, u64::MAX, u64::MAX - 1, 1 << 32, u64::from(u32::MAX), 1 << 63];
        for word in words {
            let mut digest = [0; 28];
            digest[..8].copy_from_slice(&word.to_be_bytes());
            assert!(set.first_seen(&digest), "{word:x}");
            assert!(!set.first_seen(&digest), "{word:x}");
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "too many hellos; the fuzzer has a model of it")]
    fn a_set_goes_over_into_another_in_parts() {
        let (mut old, mut new) = (AntiReplay::new(1 << 14), AntiReplay::new(1 << 14));
        (0..5000).for_each(|number| _ = old.first_seen(&digest(number)));
        let words = whole(&old);
        assert!(words.len() >= 1500, "{}", words.len());
        new.merge(&words);
        new.merge(&words);
        assert_eq!(new.added(), words.len() as u64);
        assert!((3600..5000).all(|number| !new.first_seen(&digest(number))));
    }

    #[test]
    #[cfg_attr(miri, ignore = "10 000 hellos")]
    fn news_are_what_was_seen_here_and_have_a_bound() {
        let mut set = AntiReplay::new(1 << 20);
        set.first_seen(&digest(1));
        assert_eq!(set.take_news(), News::default());
        set.keep_news();
        set.merge(&[77]);
        set.first_seen(&digest(2));
        set.first_seen(&digest(2));
        let first = u64::from_be_bytes(*digest(2).first_chunk().unwrap());
        assert_eq!(set.take_news(), News { words: vec![first], is_incomplete: false });
        (10..10_000).for_each(|number| _ = set.first_seen(&digest(number)));
        let news = set.take_news();
        assert_eq!((news.words.len(), news.is_incomplete), (NEWS_MAX, true));
        assert_eq!(set.take_news(), News::default());
    }
}
