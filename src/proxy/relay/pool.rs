//! Memory for bytes on their way: one buffer for each thread to receive into, and, capped in bytes, what sockets would
//! not take yet. Who has to give way when it is used up is decided here as well.

use std::collections::{BTreeMap, BinaryHeap};
use std::net::IpAddr;

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

/// From when on an end that takes no bytes is more than slow, milliseconds: a stranger's with little memory, and others.
/// A slow client's socket says only each 40 KB that it takes more, so a second is nothing for it.
const STUCK: (u32, u32) = (1_000, 5_000);
/// The part that strangers who are stuck may have of what is there for all usually, when the machine is short of memory.
const LEFT_PART: usize = 4;

/// The bytes that all threads together may hold, and for how long in the kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    /// In the process.
    bytes: usize,
    /// In the kernel, for connections that are stuck.
    pub(super) kernel: usize,
    /// From when on strangers' are, milliseconds.
    patience: u32,
    /// Whether the machine is short of memory.
    pub(super) is_short: fn() -> bool,
}

impl Budget {
    pub(crate) fn new(bytes: usize, kernel: usize) -> Self {
        Self { bytes, kernel, patience: STUCK.1, is_short: || false }
    }

    /// The same for a machine whose memory is little, if it is, and may become short.
    pub(crate) fn on_machine(self, is_little: bool, is_short: fn() -> bool) -> Self {
        Self { patience: if is_little { STUCK.0 } else { STUCK.1 }, is_short, ..self }
    }

    /// From when on connections of that owner are stuck, milliseconds.
    pub(super) fn patience(&self, owner: Owner) -> u32 {
        match owner {
            Owner::Client => STUCK.1,
            Owner::Stranger => self.patience,
        }
    }

    /// What it is for strangers while the machine is short of memory.
    pub(super) fn when_short(self) -> Self {
        Self { kernel: self.kernel / LEFT_PART, patience: STUCK.0, ..self }
    }

    /// The part of one of `threads` threads. Nothing is shared, so no thread can starve another.
    pub(super) fn share(self, threads: usize) -> Self {
        let part = |bytes: usize| bytes / threads.max(1);
        Self { bytes: part(self.bytes), kernel: part(self.kernel), ..self }
    }
}

/// Bytes that are held for a connection whose end does not take them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Holder {
    /// For how long it has taken none, milliseconds.
    pub(super) blocked: u32,
    pub(super) bytes: usize,
    pub(super) key: usize,
    /// The address that it is counted for.
    pub(super) source: IpAddr,
}

/// Who has to go so that at least so many bytes are free: each time somebody of the address that holds most, and of that
/// whoever has been blocked for longest. Somebody who is patient elsewhere has nothing to fear from a crowd.
pub(super) fn who_gives_way(holders: Vec<Holder>, wanted: usize) -> Vec<usize> {
    let mut by_source: BTreeMap<IpAddr, (usize, BinaryHeap<Holder>)> = BTreeMap::new();
    for holder in holders {
        let (bytes, of_source) = by_source.entry(holder.source).or_default();
        *bytes += holder.bytes;
        of_source.push(holder);
    }
    let mut crowds: BinaryHeap<_> = by_source.iter().map(|(source, (bytes, _))| (*bytes, *source)).collect();
    let (mut freed, mut gone) = (0, Vec::new());
    while freed < wanted
        && let Some((bytes, source)) = crowds.pop()
    {
        let of_source = by_source.get_mut(&source).map(|(_, of_source)| of_source);
        let Some(holder) = of_source.and_then(BinaryHeap::pop) else { continue };
        freed += holder.bytes;
        gone.push(holder.key);
        crowds.push((bytes - holder.bytes, source));
    }
    gone
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
    pub(super) fn new(budget: Budget) -> Self {
        let cap = budget.bytes;
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

    /// Whether anything is held for anybody.
    pub(super) fn is_used(&self) -> bool {
        self.clients.is_used() || self.strangers.is_used()
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

    /// Says whether anything is held.
    pub(super) fn is_used(&self) -> bool {
        self.held > 0
    }

    /// How many bytes have to be given back before there is enough for a while, if more is held than may be.
    pub(super) fn overdraft(&self) -> Option<usize> {
        overdraft(self.held, self.cap)
    }
}

/// How many bytes have to go, if more are held than may be.
pub(super) fn overdraft(held: usize, cap: usize) -> Option<usize> {
    (held > cap).then(|| held - cap + cap / FREED_PART)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_have_five_seconds_always_and_strangers_one_where_memory_is_little_or_short() {
        let ample = Budget::new(0, 8192).on_machine(false, || false);
        for (budget, strangers, kernel) in [
            (ample.share(2), 5_000, 4096),
            (ample.share(2).when_short(), 1_000, 1024),
            (ample.on_machine(true, || false), 1_000, 8192),
        ] {
            let of = |owner| budget.patience(owner);
            assert_eq!((of(Owner::Client), of(Owner::Stranger), budget.kernel), (5_000, strangers, kernel));
        }
    }

    #[test]
    fn strangers_and_clients_take_nothing_from_each_other() {
        let mut pool = Pool::new(Budget::new(16 << 20, 0));
        let before = pool.account(Owner::Client).allowance();
        pool.account(Owner::Stranger).hold(5 << 20);
        assert!(pool.account(Owner::Stranger).overdraft().is_some());
        assert_eq!(pool.account(Owner::Client).allowance(), before);
        assert_eq!(pool.account(Owner::Client).overdraft(), None);
    }

    /// Somebody at `192.0.2.SOURCE`.
    fn holder(key: usize, source: u8, bytes: usize, blocked: u32) -> Holder {
        Holder { blocked, bytes, key, source: IpAddr::from([192, 0, 2, source]) }
    }

    #[test]
    fn a_crowd_gives_way_before_somebody_who_is_alone_and_has_been_patient_for_longer() {
        // A phone that was put away an hour ago, and somebody with 2 500 connections that are stuck since just now.
        let crowd = (1..=2500).map(|key| holder(key, 2, 1000, 10));
        let holders = [holder(0, 1, 32 << 10, 3_600_000)].into_iter().chain(crowd).collect();
        let gone = who_gives_way(holders, 300_000);
        assert!(gone.len() == 300 && !gone.contains(&0), "{gone:?}");
    }

    #[test]
    fn of_an_address_whoever_is_blocked_for_longest_goes_first_and_only_while_it_holds_most() {
        let holders = vec![holder(0, 1, 50, 5), holder(1, 1, 50, 9), holder(2, 2, 60, 1), holder(3, 2, 30, 2)];
        assert_eq!(who_gives_way(holders.clone(), 1), [1]);
        assert_eq!(who_gives_way(holders.clone(), 51), [1, 3]);
        assert_eq!(who_gives_way(holders, 1000), [1, 3, 2, 0]);
    }

    #[test]
    fn the_less_is_left_the_less_is_received() {
        let mut pool = Pool::new(Budget::new(2 << 20, 0).share(1));
        let account = pool.account(Owner::Client);
        let (mut holders, mut last) = (0, usize::MAX);
        while account.overdraft().is_none() {
            let allowance = account.allowance();
            assert!((RECEIVE_MIN..=last).contains(&allowance));
            account.hold(allowance);
            (holders, last) = (holders + 1, allowance);
        }
        assert_eq!(last, RECEIVE_MIN);
        assert!(holders > 100, "{holders} connections hold everything");
    }
}
