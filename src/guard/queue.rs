//! Queues whose members stand in a table of somebody else's, by their number there: joining, leaving from anywhere and
//! finding the first take the same time however many there are.

/// No member.
const NONE: u32 = u32::MAX;

/// The neighbours of every member. A member stands in one queue at most of those that share them.
#[derive(Debug, Default)]
pub(super) struct Neighbours(Vec<Pair>);

/// A queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Queue {
    first: u32,
    last: u32,
}

#[derive(Clone, Copy, Debug)]
struct Pair {
    before: u32,
    after: u32,
}

impl Default for Queue {
    fn default() -> Self {
        Self { first: NONE, last: NONE }
    }
}

impl Queue {
    pub(super) fn first(self) -> Option<u32> {
        (self.first != NONE).then_some(self.first)
    }
}

impl Neighbours {
    /// Adds a member that stands in no queue at the end of one.
    pub(super) fn join(&mut self, queue: &mut Queue, member: u32) {
        let before = queue.last;
        self.set(member, Pair { before, after: NONE });
        match self.of(before) {
            Some(last) => last.after = member,
            None => queue.first = member,
        }
        queue.last = member;
    }

    /// Takes a member out of the queue that it stands in.
    pub(super) fn leave(&mut self, queue: &mut Queue, member: u32) {
        let Some(&mut Pair { before, after }) = self.of(member) else { return };
        match self.of(before) {
            Some(neighbour) => neighbour.after = after,
            None => queue.first = after,
        }
        match self.of(after) {
            Some(neighbour) => neighbour.before = before,
            None => queue.last = before,
        }
    }

    fn of(&mut self, member: u32) -> Option<&mut Pair> {
        self.0.get_mut(member as usize)
    }

    fn set(&mut self, member: u32, pair: Pair) {
        let alone = Pair { before: NONE, after: NONE };
        self.0.resize(self.0.len().max(member as usize + 1), alone);
        if let Some(place) = self.of(member) {
            *place = pair;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_leave_from_anywhere_and_the_rest_keep_their_order() {
        let (mut neighbours, mut queue) = (Neighbours::default(), Queue::default());
        for member in [7, 2, 9, 0] {
            neighbours.join(&mut queue, member);
        }
        neighbours.leave(&mut queue, 9);
        neighbours.leave(&mut queue, 7);
        neighbours.join(&mut queue, 7);
        let mut order = Vec::new();
        while let Some(first) = queue.first() {
            order.push(first);
            neighbours.leave(&mut queue, first);
        }
        assert_eq!(order, [2, 0, 7]);
    }
}
