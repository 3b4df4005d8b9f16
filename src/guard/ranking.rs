//! Which of many things has the highest score, found in the same time however many there are.

use super::queue::{Neighbours, Queue};

/// Things, by their numbers in a table of somebody else's, each with a score of at least 1. Of those with the same
/// score, the one that has had it for longest stands first.
#[derive(Debug, Default)]
pub(super) struct Ranking {
    /// A queue for each score.
    by_score: Vec<Queue>,
}

impl Ranking {
    /// Gives a thing another score; 0 stands for not being there.
    pub(super) fn change(&mut self, neighbours: &mut Neighbours, thing: u32, from: usize, to: usize) {
        if from == to {
            return;
        }
        if let Some(queue) = self.by_score.get_mut(from).filter(|_| from > 0) {
            neighbours.leave(queue, thing);
        }
        if to > 0 {
            self.by_score.resize(self.by_score.len().max(to + 1), Queue::default());
            if let Some(queue) = self.by_score.get_mut(to) {
                neighbours.join(queue, thing);
            }
        }
        // Scores change by little, so that this takes a step or two.
        while self.by_score.last().is_some_and(|queue| queue.first().is_none()) {
            self.by_score.pop();
        }
    }

    /// The thing with the highest score, and that score.
    pub(super) fn highest(&self) -> Option<(u32, usize)> {
        Some((self.by_score.last()?.first()?, self.by_score.len() - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_is_known_through_all_changes() {
        let (mut neighbours, mut ranking) = (Neighbours::default(), Ranking::default());
        let mut change = |ranking: &mut Ranking, thing, from, to| ranking.change(&mut neighbours, thing, from, to);
        assert_eq!(ranking.highest(), None);
        change(&mut ranking, 3, 0, 1);
        change(&mut ranking, 5, 0, 1);
        assert_eq!(ranking.highest(), Some((3, 1)), "the one that was there first");
        change(&mut ranking, 5, 1, 2);
        change(&mut ranking, 9, 0, 40);
        assert_eq!(ranking.highest(), Some((9, 40)));
        change(&mut ranking, 9, 40, 0);
        assert_eq!(ranking.highest(), Some((5, 2)));
        change(&mut ranking, 5, 2, 1);
        assert_eq!(ranking.highest(), Some((3, 1)));
        change(&mut ranking, 3, 1, 0);
        change(&mut ranking, 5, 1, 0);
        assert_eq!(ranking.highest(), None);
    }
}
