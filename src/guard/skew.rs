//! Whose clock is wrong, judged by the hellos of those who know the secret.
//!
//! A hello carries its sender's time, but whoever has recorded one can make a copy say any other. So a hello alone is no
//! evidence, whether it was accepted or refused; only that of a client counts which then went on to Telegram, for that
//! takes the secret. Each hello is answered once, so each counts once.
//!
//! With a clock that is far off nobody gets that far. So where no client went on within the hour, those that were turned
//! away for their clocks are worth a word: it blames nobody, for they may be recordings.

use std::collections::VecDeque;
use std::net::IpAddr;

/// Distance from which a clock is worth a word, seconds.
const OFF: i64 = 15;
/// How far clocks that agree may lie apart, seconds.
const SPREAD: i64 = 5;
/// How long a hello is evidence, and between two words, seconds.
const HOUR: u64 = 3600;
/// Hellos that are remembered.
const SAMPLES_MAX: usize = 128;
/// Clients that have to agree before it is our clock that is wrong; hellos, before those that were refused are told of.
const WITNESSES: usize = 3;

/// What was seen of clients' clocks.
#[derive(Debug, Default)]
pub(crate) struct Skew {
    samples: VecDeque<Sample>,
    refused: VecDeque<Sample>,
    said_at: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    client: IpAddr,
    /// How far the client is ahead of us.
    secs: i64,
    at: u64,
}

/// The side whose clock is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    /// All clients agree with each other and not with us.
    Ours { clients: usize },
    /// Other clients agree with us.
    Theirs { client: IpAddr },
    /// There are too few clients to tell.
    Either { client: IpAddr },
    /// All are turned away, and agree with each other: clients, or recordings.
    Nobody { hellos: usize },
}

impl Skew {
    /// Takes note of a client that has gone on to Telegram. `now` is any clock that counts seconds.
    pub(crate) fn note(&mut self, client: IpAddr, secs: i64, now: u64) {
        keep(&mut self.samples, Sample { client: client.to_canonical(), secs, at: now });
    }

    /// Takes note of a hello with the secret that has not been seen before and was turned away for its clock.
    pub(crate) fn note_refused(&mut self, client: IpAddr, secs: i64, now: u64) {
        keep(&mut self.refused, Sample { client: client.to_canonical(), secs, at: now });
    }

    /// Whose clock is wrong, and how far clients are ahead of us; at most once an hour.
    pub(crate) fn verdict(&mut self, now: u64) -> Option<(Whose, i64)> {
        for samples in [&mut self.samples, &mut self.refused] {
            samples.retain(|sample| now.saturating_sub(sample.at) < HOUR);
        }
        if self.said_at.is_some_and(|at| now.saturating_sub(at) < HOUR) {
            return None;
        }
        let verdict = self.judge()?;
        self.said_at = Some(now);
        Some(verdict)
    }

    fn judge(&self) -> Option<(Whose, i64)> {
        let clocks = self.clocks();
        if clocks.is_empty() {
            return self.judge_refused();
        }
        let &(client, worst) = clocks.iter().max_by_key(|(_, secs)| secs.abs())?;
        if worst.abs() < OFF {
            return None;
        }
        let all_agree = clocks.iter().all(|(_, secs)| (secs - worst).abs() <= SPREAD);
        let whose = if clocks.iter().any(|(_, secs)| secs.abs() < OFF) {
            Whose::Theirs { client }
        } else if all_agree && clocks.len() >= WITNESSES {
            Whose::Ours { clients: clocks.len() }
        } else {
            Whose::Either { client }
        };
        Some((whose, worst))
    }

    fn judge_refused(&self) -> Option<(Whose, i64)> {
        let last = self.refused.back()?.secs;
        let hellos = self.refused.iter().filter(|sample| sample.secs.abs_diff(last) <= SPREAD as u64).count();
        (hellos >= WITNESSES).then_some((Whose::Nobody { hellos }, last))
    }

    /// The last known distance of each client's clock.
    fn clocks(&self) -> Vec<(IpAddr, i64)> {
        let mut clocks: Vec<(IpAddr, i64)> = Vec::new();
        for sample in self.samples.iter().rev() {
            if clocks.iter().all(|(client, _)| *client != sample.client) {
                clocks.push((sample.client, sample.secs));
            }
        }
        clocks
    }
}

fn keep(samples: &mut VecDeque<Sample>, sample: Sample) {
    if samples.len() >= SAMPLES_MAX {
        samples.pop_front();
    }
    samples.push_back(sample);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(host: u8) -> IpAddr {
        [192, 0, 2, host].into()
    }

    #[test]
    fn clocks_that_are_about_right_are_not_worth_a_word() {
        let mut skew = Skew::default();
        (1..9).for_each(|host| skew.note(client(host), i64::from(host) - 5, 1));
        assert_eq!(skew.verdict(2), None);
    }

    #[test]
    fn when_all_clients_agree_it_is_our_clock() {
        let mut skew = Skew::default();
        (1..=3).for_each(|host| skew.note(client(host), -40 + i64::from(host), 1));
        assert_eq!(skew.verdict(2), Some((Whose::Ours { clients: 3 }, -39)));
        assert_eq!(skew.verdict(3601), None, "said within the hour");
        (1..=3).for_each(|host| skew.note(client(host), -40, 3601));
        assert_eq!(skew.verdict(3602), Some((Whose::Ours { clients: 3 }, -40)));
    }

    #[test]
    fn one_who_differs_from_the_others_is_wrong_himself() {
        let mut skew = Skew::default();
        skew.note(client(1), 1, 1);
        skew.note(client(2), 100, 1);
        assert_eq!(skew.verdict(2), Some((Whose::Theirs { client: client(2) }, 100)));
    }

    #[test]
    fn a_lone_client_leaves_it_open() {
        let mut skew = Skew::default();
        skew.note(client(1), 7200, 40);
        assert_eq!(skew.verdict(41), Some((Whose::Either { client: client(1) }, 7200)));
    }

    #[test]
    fn a_client_whose_clock_was_set_is_right() {
        let mut skew = Skew::default();
        skew.note(client(1), 100, 1);
        skew.note(client(1), 0, 2);
        assert_eq!(skew.verdict(3), None);
    }

    #[test]
    fn hellos_that_were_turned_away_are_told_of_where_nobody_gets_in_and_their_clocks_agree() {
        let mut skew = Skew::default();
        skew.note_refused(client(1), 9000, 1);
        skew.note_refused(client(1), 9002, 2);
        assert_eq!(skew.verdict(3), None, "too few");
        skew.note_refused(client(1), -500, 3);
        assert_eq!(skew.verdict(3), None, "they do not agree");
        skew.note_refused(client(2), 9001, 4);
        assert_eq!(skew.verdict(4), Some((Whose::Nobody { hellos: 3 }, 9001)));
        assert_eq!(skew.verdict(5), None, "said within the hour");
        assert_eq!(skew.verdict(3700), None, "that was more than an hour ago");
    }

    #[test]
    fn hellos_that_were_turned_away_are_no_evidence_while_somebody_gets_in() {
        let mut skew = Skew::default();
        (1..=9).for_each(|host| skew.note_refused(client(host), i64::MIN, 1));
        skew.note(client(10), 0, 1);
        assert_eq!(skew.verdict(2), None);
        (1..=9).for_each(|host| skew.note_refused(client(host), i64::MAX, 3000));
        assert_eq!(skew.verdict(3601), Some((Whose::Nobody { hellos: 9 }, i64::MAX)));
    }

    #[test]
    fn samples_have_a_bound() {
        let mut skew = Skew::default();
        (0..3000).for_each(|at| skew.note(client(2), 0, at));
        (0..3000).for_each(|at| skew.note_refused(client(2), 500, at));
        assert_eq!((skew.samples.len(), skew.refused.len()), (SAMPLES_MAX, SAMPLES_MAX));
    }
}
