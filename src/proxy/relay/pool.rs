//! Memory for bytes on their way: one buffer for each thread to receive into, and, capped in bytes, what sockets would
//! not take yet.

use crate::proto::transcode::{self, RECORD_PAYLOAD_MAX};

/// The part of the memory that strangers may hold; the rest is the clients'.
const STRANGERS_PART: usize = 4;
/// One attempt to receive brings at most this part of what an account has left, so that it never runs out at once.
const RECEIVE_PART: usize = 24;
/// Bytes of an attempt to receive at least.
const RECEIVE_MIN: usize = 1024;
/// Records that the buffer has room for at least.
const RECORDS_MIN: usize = 2;
/// The part of an account that is freed when it is overdrawn.
const FREED_PART: usize = 8;

/// The bytes that all threads together may hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget(usize);

impl Budget {
    pub(crate) fn new(bytes: usize) -> Self {
        Self(bytes)
    }

    /// The part of one of `threads` threads. Nothing is shared, so no thread can starve another.
    pub(super) fn share(self, threads: usize) -> Self {
        Self(self.0 / threads.max(1))
    }
}

/// One thread's memory.
pub(super) struct Pool {
    scratch: Box<[u8]>,
    clients: Account,
    strangers: Account,
}

/// Whose bytes they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    Client,
    Stranger,
}

/// What the connections of one kind hold.
#[derive(Debug)]
pub(super) struct Account {
    held: usize,
    cap: usize,
}

impl Pool {
    pub(super) fn new(Budget(cap): Budget) -> Self {
        let strangers = cap / STRANGERS_PART;
        let clients = Account { held: 0, cap: cap - strangers };
        // System calls are dear beside bytes on a fast machine, and memory on a small one.
        let records = (clients.allowance() / RECORD_PAYLOAD_MAX).clamp(RECORDS_MIN, super::SLOTS);
        Self {
            scratch: vec![0; transcode::buffer_len(records * RECORD_PAYLOAD_MAX)].into(),
            clients,
            strangers: Account { held: 0, cap: strangers },
        }
    }

    pub(super) fn account(&mut self, owner: Owner) -> &mut Account {
        match owner {
            Owner::Client => &mut self.clients,
            Owner::Stranger => &mut self.strangers,
        }
    }

    /// The buffer to receive into, which is anybody's only until the next one receives, and the account of `owner`.
    pub(super) fn split(&mut self, owner: Owner) -> (&mut [u8], &mut Account) {
        let account = match owner {
            Owner::Client => &mut self.clients,
            Owner::Stranger => &mut self.strangers,
        };
        (&mut self.scratch, account)
    }
}

impl Account {
    /// Bytes that an attempt to receive may bring.
    pub(super) fn allowance(&self) -> usize {
        (self.cap.saturating_sub(self.held) / RECEIVE_PART).max(RECEIVE_MIN)
    }

    /// Notes that `bytes` are held from now on. They have been received already, so there is no refusal.
    pub(super) fn hold(&mut self, bytes: usize) {
        self.held += bytes;
    }

    /// Notes that `bytes` are held no longer.
    pub(super) fn release(&mut self, bytes: usize) {
        self.held -= bytes;
    }

    /// Says whether more is held than may be, so that somebody has to go.
    pub(super) fn is_overdrawn(&self) -> bool {
        self.held > self.cap
    }

    /// Says whether enough is free again for a while.
    pub(super) fn has_reserve(&self) -> bool {
        self.held + self.cap / FREED_PART <= self.cap
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_and_clients_take_nothing_from_each_other() {
        let mut pool = Pool::new(Budget::new(16 << 20));
        let before = pool.account(Owner::Client).allowance();
        pool.account(Owner::Stranger).hold(5 << 20);
        assert!(pool.account(Owner::Stranger).is_overdrawn());
        assert_eq!(pool.account(Owner::Client).allowance(), before);
        assert!(!pool.account(Owner::Client).is_overdrawn());
    }

    #[test]
    fn the_less_is_left_the_less_is_received() {
        let mut pool = Pool::new(Budget::new(2 << 20).share(1));
        let account = pool.account(Owner::Client);
        let (mut holders, mut last) = (0, usize::MAX);
        while !account.is_overdrawn() {
            let allowance = account.allowance();
            assert!((RECEIVE_MIN..=last).contains(&allowance));
            account.hold(allowance);
            (holders, last) = (holders + 1, allowance);
        }
        assert_eq!(last, RECEIVE_MIN);
        assert!(holders > 100, "{holders} connections hold everything");
    }
}
