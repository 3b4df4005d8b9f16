//! Whose turn it is: the order in which an engine serves the connections that have something to do, and how much each may
//! move. Knows numbers only.
//!
//! Whoever comes back with little, a stranger or a message, goes first and moves little. Those who move much come behind,
//! each in turn, and after so many bytes of theirs it is asked again who has come back. So the time that an answer takes
//! does not tell how many downloads there are.

use std::collections::VecDeque;

/// Bytes that somebody who goes first may move each way; what is more comes with the others.
const LITTLE: u64 = 128 << 10;
/// Bytes that any other may move each way before the next one has its turn.
const MUCH: u64 = 1 << 20;
/// Bytes of the first, and of the others, in a round: so neither keep the other from theirs. It is one turn of those who
/// move much, for asking the poller costs a hundredth of that.
const ROUND: u64 = MUCH;

/// Connections that have something to do, by their keys.
#[derive(Debug, Default)]
pub(super) struct Turns {
    first: VecDeque<usize>,
    others: VecDeque<usize>,
    /// Bytes of the first that are left in this round.
    first_left: u64,
    /// The same of the others.
    left: u64,
    /// Others that have not had their turn in this round.
    due: usize,
}

/// A turn that somebody has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    is_first: bool,
    /// Bytes each way.
    pub(super) most: u64,
}

impl Turns {
    /// Somebody has something to do, and does not stand here already.
    pub(super) fn add(&mut self, key: usize, goes_first: bool) {
        if goes_first { self.first.push_back(key) } else { self.others.push_back(key) }
    }

    /// A round begins: between two of them the poller is asked.
    pub(super) fn begin(&mut self) {
        (self.first_left, self.left, self.due) = (ROUND, ROUND, self.others.len());
    }

    /// Who is next, until the round is over.
    pub(super) fn next(&mut self) -> Option<(usize, Share)> {
        if self.first_left > 0
            && let Some(key) = self.first.pop_front()
        {
            return Some((key, Share { is_first: true, most: LITTLE }));
        }
        if self.left == 0 || self.due == 0 {
            return None;
        }
        self.due -= 1;
        self.others.pop_front().map(|key| (key, Share { is_first: false, most: MUCH }))
    }

    /// Takes note of what a turn has moved.
    pub(super) fn moved(&mut self, share: Share, bytes: u64) {
        let left = if share.is_first { &mut self.first_left } else { &mut self.left };
        *left = left.saturating_sub(bytes);
    }

    /// Says whether nobody has anything to do.
    pub(super) fn is_empty(&self) -> bool {
        self.first.is_empty() && self.others.is_empty()
    }

    /// Gives memory back.
    pub(super) fn shrink(&mut self) {
        self.first.shrink_to_fit();
        self.others.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays a round in which everybody moves as much as they may, and says who has had a turn.
    fn round(turns: &mut Turns) -> Vec<usize> {
        let mut served = Vec::new();
        turns.begin();
        while let Some((key, share)) = turns.next() {
            turns.moved(share, share.most);
            // There is always more.
            turns.add(key, false);
            served.push(key);
        }
        served
    }

    #[test]
    fn who_comes_with_little_waits_for_one_turn_of_a_download_at_most() {
        let mut turns = Turns::default();
        (0..200).for_each(|key| turns.add(key, false));
        assert_eq!(round(&mut turns), [0]);
        turns.add(1000, true);
        turns.add(1001, true);
        assert_eq!(round(&mut turns), [1000, 1001, 1]);
        // Somebody who had more than a little is one of the others from then on.
        for at in 2..200 {
            assert_eq!(round(&mut turns), [at]);
        }
        // Before those who came back later.
        assert_eq!([(); 3].map(|()| round(&mut turns)), [[0], [1000], [1001]]);
        assert_eq!(round(&mut turns), [1]);
    }

    #[test]
    fn a_crowd_that_goes_first_leaves_the_others_their_half() {
        let mut turns = Turns::default();
        (0..4).for_each(|key| turns.add(key, false));
        (1000..2000).for_each(|key| turns.add(key, true));
        for (number, start) in (1000..2000).step_by(8).enumerate().take(4) {
            let mut served = round(&mut turns);
            assert_eq!(served.split_off(8), [number]);
            assert_eq!(served, (start..start + 8).collect::<Vec<_>>());
        }
    }

    #[test]
    fn nobody_has_two_turns_in_a_round_and_those_who_move_nothing_cost_none() {
        let mut turns = Turns::default();
        turns.add(1, false);
        assert_eq!(round(&mut turns), [1]);
        let mut turns = Turns::default();
        (0..1000).for_each(|key| turns.add(key, key % 2 == 0));
        turns.begin();
        let mut served = 0;
        while let Some((_, share)) = turns.next() {
            turns.moved(share, 0);
            served += 1;
        }
        assert!(served == 1000 && turns.is_empty());
    }
}
