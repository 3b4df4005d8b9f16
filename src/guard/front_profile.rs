//! How the front answers: learned from samples, so that our reply to a client can be what the front's would have been.

use std::collections::VecDeque;
use std::time::Duration;

use super::pieces::Pieces;
use crate::proto::tls::client_hello::ClientHello;
use crate::proto::tls::first_flight::FirstFlight;
use crate::proto::tls::front_hello::Offer;
use crate::proto::tls::server_hello::{ReplyShape, offers_hybrid};

/// Samples that are kept for each kind of hello; a newer one takes the place of the oldest.
pub(crate) const SAMPLES: usize = 24;

/// All that is known of the front.
#[derive(Debug, Default)]
pub(crate) struct FrontProfile {
    hybrid: Samples,
    classic: Samples,
    /// How long after accepting a connection it waits for the client's answer to its flight.
    pub(crate) patience: Option<Duration>,
    after_fault: Option<Farewell>,
    after_alert: Option<Farewell>,
    /// How it writes a long flight.
    pub(crate) pieces: Pieces,
    /// From dialling it to the first byte of its answer to a hello.
    times: VecDeque<Duration>,
}

/// How the front ends a connection whose client goes on in a way that it cannot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Farewell {
    /// It sends an alert, encrypted.
    pub(crate) has_alert: bool,
    /// It resets the connection.
    pub(crate) is_reset: bool,
}

impl Farewell {
    /// The same, without the alert unless there can be one.
    pub(crate) fn with_alert(self, can_be: bool) -> Self {
        Self { has_alert: self.has_alert && can_be, ..self }
    }
}

/// What a client does wrong after the front's flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// An alert in clear.
    Alert,
    /// Anything else that cannot be decrypted.
    Other,
}

/// The answers to one kind of hello.
#[derive(Debug, Default)]
struct Samples(VecDeque<ReplyShape>);

impl FrontProfile {
    /// Takes in an answer, and says whether it is one that we can give: a front that takes none of a client's shares, or
    /// whose flight holds nothing encrypted, cannot be imitated.
    pub(crate) fn learn(&mut self, offer: Offer, flight: &FirstFlight) -> bool {
        let Some(flight_len) = flight.as_one_record().filter(|_| !flight.is_retry) else { return false };
        let FirstFlight { suite, group, key_share_first, .. } = *flight;
        self.samples_mut(offer).add(ReplyShape { suite, group, key_share_first, flight_len });
        true
    }

    /// The front's answer to a hello like this one, drawn from the samples; the usual one while there are none.
    pub(crate) fn reply_shape(&self, hello: &ClientHello<'_>, fill: &mut dyn FnMut(&mut [u8])) -> ReplyShape {
        let (its_own, other) =
            if offers_hybrid(hello) { (&self.hybrid, &self.classic) } else { (&self.classic, &self.hybrid) };
        // A certificate is as long whatever the group is.
        let drawn = its_own.draw(fill).or_else(|| other.draw(fill));
        drawn.unwrap_or_else(|| ReplyShape::usual(fill))
    }

    /// Says whether there is an answer that can be given.
    pub(crate) fn has_samples(&self) -> bool {
        !(self.hybrid.0.is_empty() && self.classic.0.is_empty())
    }

    /// Takes in how long an answer took.
    pub(crate) fn learn_time(&mut self, time: Duration) {
        if self.times.len() == SAMPLES {
            self.times.pop_front();
        }
        self.times.push_back(time);
    }

    /// How long an answer takes, drawn from the times; none while there are none. Those far above the others are the
    /// fault of a busy moment, or of a name that had to be looked up.
    pub(crate) fn answer_time(&self, fill: &mut dyn FnMut(&mut [u8])) -> Option<Duration> {
        let mut times: Vec<_> = self.times.iter().copied().collect();
        times.sort_unstable();
        let median = *times.get(times.len().saturating_sub(1) / 2)?;
        times.retain(|time| *time <= median * 2);
        times.get(draw_index(times.len(), fill)?).copied()
    }

    /// Takes in what followed a fault.
    pub(crate) fn learn_farewell(&mut self, fault: Fault, farewell: Farewell) {
        *match fault {
            Fault::Alert => &mut self.after_alert,
            Fault::Other => &mut self.after_fault,
        } = Some(farewell);
    }

    /// What follows a fault; what follows it at OpenSSL while nothing is known.
    pub(crate) fn farewell(&self, fault: Fault) -> Farewell {
        let (known, has_alert) = match fault {
            Fault::Alert => (self.after_alert, false),
            Fault::Other => (self.after_fault, true),
        };
        known.unwrap_or(Farewell { has_alert, is_reset: false })
    }

    fn samples_mut(&mut self, offer: Offer) -> &mut Samples {
        match offer {
            Offer::Hybrid => &mut self.hybrid,
            Offer::Classic => &mut self.classic,
        }
    }
}

impl Samples {
    fn add(&mut self, sample: ReplyShape) {
        if self.0.len() == SAMPLES {
            self.0.pop_front();
        }
        self.0.push_back(sample);
    }

    fn draw(&self, fill: &mut dyn FnMut(&mut [u8])) -> Option<ReplyShape> {
        self.0.get(draw_index(self.0.len(), fill)?).copied()
    }
}

/// Any index of so many; none of none.
fn draw_index(count: usize, fill: &mut dyn FnMut(&mut [u8])) -> Option<usize> {
    let mut bytes = [0; 4];
    fill(&mut bytes);
    usize::try_from(u32::from_le_bytes(bytes)).ok()?.checked_rem(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::testing::{VECTOR_HELLO, hex, recorded_hellos, seeded};
    use crate::proto::tls::group;
    use std::collections::BTreeMap;

    fn flight(group: u16, records: &[u16]) -> FirstFlight {
        FirstFlight { suite: [0x13, 0x02], group, key_share_first: true, is_retry: false, records: records.to_vec() }
    }

    #[test]
    fn each_kind_of_client_gets_the_answer_of_its_kind() {
        let mut profile = FrontProfile::default();
        assert!(profile.learn(Offer::Hybrid, &flight(group::X25519_MLKEM768, &[3000])));
        assert!(profile.learn(Offer::Classic, &flight(group::X25519, &[30, 2000])));
        let mut fill = seeded(1);
        let (modern, old) = (&recorded_hellos()[0].record, hex(VECTOR_HELLO));
        let shape = profile.reply_shape(&ClientHello::parse(&modern[5..]).unwrap(), &mut fill);
        assert_eq!((shape.group, shape.flight_len), (group::X25519_MLKEM768, 3000));
        let shape = profile.reply_shape(&ClientHello::parse(&old[5..]).unwrap(), &mut fill);
        assert_eq!((shape.group, shape.flight_len), (group::X25519, 2035));
    }

    #[test]
    #[cfg_attr(miri, ignore = "statistics of 6000 hellos")]
    fn the_length_follows_the_samples_distribution_and_old_ones_go() {
        let mut profile = FrontProfile::default();
        for length in [9999].into_iter().chain([1; 12]).chain([2; 8]).chain([3; 4]) {
            profile.learn(Offer::Classic, &flight(group::X25519, &[length]));
        }
        let (hello, mut fill, mut counts) = (hex(VECTOR_HELLO), seeded(2), BTreeMap::new());
        for _ in 0..6000 {
            let shape = profile.reply_shape(&ClientHello::parse(&hello[5..]).unwrap(), &mut fill);
            *counts.entry(shape.flight_len).or_insert(0) += 1;
        }
        let [a, b, c] = [1, 2, 3].map(|length| counts.remove(&length).unwrap());
        assert!(counts.is_empty());
        assert!((2800..3200).contains(&a) && (1800..2200).contains(&b) && (800..1200).contains(&c), "{a} {b} {c}");
    }

    #[test]
    #[cfg_attr(miri, ignore = "statistics of 2000 draws")]
    fn times_and_farewells_are_the_fronts_once_they_are_known() {
        let (mut profile, mut fill) = (FrontProfile::default(), seeded(4));
        assert_eq!(profile.answer_time(&mut fill), None);
        assert_eq!(profile.farewell(Fault::Other), Farewell { has_alert: true, is_reset: false });
        assert_eq!(profile.farewell(Fault::Alert), Farewell { has_alert: false, is_reset: false });
        (0..SAMPLES as u64 + 3).for_each(|millis| profile.learn_time(Duration::from_millis(millis)));
        let drawn: Vec<_> = (0..1000).map(|_| profile.answer_time(&mut fill).unwrap().as_millis()).collect();
        assert_eq!(drawn.iter().min(), Some(&3));
        assert_eq!(drawn.iter().max(), Some(&26));
        profile.learn_time(Duration::from_secs(5));
        assert!((0..1000).all(|_| profile.answer_time(&mut fill) < Some(Duration::from_secs(1))));
        let farewell = Farewell { has_alert: false, is_reset: true };
        profile.learn_farewell(Fault::Other, farewell);
        assert_eq!(profile.farewell(Fault::Other), farewell);
        assert!(!profile.farewell(Fault::Alert).is_reset);
    }

    #[test]
    fn what_cannot_be_imitated_is_not_learned() {
        let mut profile = FrontProfile::default();
        let retry = FirstFlight { is_retry: true, ..flight(0x0017, &[1000]) };
        assert!(!profile.learn(Offer::Hybrid, &retry));
        assert!(!profile.learn(Offer::Hybrid, &flight(group::X25519, &[])));
        let hello = hex(VECTOR_HELLO);
        let shape = profile.reply_shape(&ClientHello::parse(&hello[5..]).unwrap(), &mut seeded(3));
        assert!((2500..4700).contains(&shape.flight_len));
    }
}
