//! Whether the front writes its flight in pieces, as OpenSSL does: learned from how flights arrive. What was sent apart
//! may arrive together where the machine is busy or the front is far away, so where a receive ends is a proof when it
//! ends there and none when it does not. The number of packets is the same however late anybody looks.

use std::collections::VecDeque;

/// What OpenSSL buffers of a flight before it writes, bytes.
pub(crate) const PIECE: usize = 4096;
/// Looks that are remembered. A packet that was lost and sent again makes one of them wrong.
const LOOKS: usize = 15;

/// How a flight has arrived.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    /// Bytes of it.
    pub(crate) bytes: usize,
    /// A receive has ended where the first piece does. Whatever the packets are, hardly anything else ends one just there.
    pub(crate) parted: bool,
    /// Its packets, if they could be counted.
    pub(crate) packets: Option<Packets>,
}

/// The packets of a flight.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packets {
    pub(crate) count: usize,
    /// Bytes in the longest one, which is as long as they may be if there is any after it of the same write.
    pub(crate) longest: usize,
}

/// What the last long flights have shown.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    shown: VecDeque<bool>,
    /// The packets of a long flight have shown nothing.
    is_open: bool,
}

impl Arrival {
    /// Whether it was written in pieces, if that can be told.
    fn is_in_pieces(self) -> Option<bool> {
        if self.parted {
            return Some(true);
        }
        let Packets { count, longest } = self.packets.filter(|packets| packets.longest > 0)?;
        let (whole, rest) = (self.bytes.div_ceil(longest), self.bytes % PIECE);
        let apart = self.bytes / PIECE * PIECE.div_ceil(longest) + rest.div_ceil(longest);
        if longest > PIECE {
            // No piece is so long.
            Some(false)
        } else if count == apart && (apart != whole || longest == PIECE) {
            Some(true)
        } else if count == whole && apart != whole {
            Some(false)
        } else {
            None
        }
    }
}

impl Pieces {
    /// Takes in how a flight has arrived.
    pub(crate) fn learn(&mut self, arrival: Arrival) {
        if arrival.bytes <= PIECE {
            return;
        }
        let Some(shown) = arrival.is_in_pieces() else {
            self.is_open |= self.shown.is_empty() && arrival.packets.is_some();
            return;
        };
        self.is_open = false;
        if self.shown.len() == LOOKS {
            self.shown.pop_front();
        }
        self.shown.push_back(shown);
    }

    /// Says whether a reply has to come in pieces of [`PIECE`].
    pub(crate) fn are_written(&self) -> bool {
        let so_many = self.shown.iter().filter(|shown| **shown).count();
        so_many > 0 && so_many * 2 >= self.shown.len()
    }

    /// Says whether packets of another length would tell more.
    pub(crate) fn are_unclear(&self) -> bool {
        self.is_open
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How a flight arrives whose writes are so long, in packets of at most so many bytes, where receives end after so
    /// many packets each.
    fn arrival(writes: &[usize], mss: usize, received_at_once: usize) -> Arrival {
        let packets: Vec<usize> =
            writes.iter().flat_map(|write| (0..*write).step_by(mss).map(move |start| mss.min(write - start))).collect();
        let ends = packets.chunks(received_at_once).scan(0, |end, packets| {
            *end += packets.iter().sum::<usize>();
            Some(*end)
        });
        let bytes = writes.iter().sum();
        Arrival {
            bytes,
            parted: ends.filter(|end| *end < bytes).any(|end| end == PIECE),
            packets: Some(Packets { count: packets.len(), longest: packets.iter().copied().max().unwrap() }),
        }
    }

    fn in_pieces(bytes: usize) -> Vec<usize> {
        (0..bytes).step_by(PIECE).map(|start| PIECE.min(bytes - start)).collect()
    }

    fn learned(arrivals: impl IntoIterator<Item = Arrival>) -> Pieces {
        let mut pieces = Pieces::default();
        arrivals.into_iter().for_each(|arrival| pieces.learn(arrival));
        pieces
    }

    const ALL_AT_ONCE: usize = usize::MAX;

    #[test]
    fn pieces_that_arrive_together_are_known_by_their_packets() {
        for bytes in [4701, 5432, 9000, 16_000] {
            // Of a front on the same machine.
            assert!(learned([arrival(&in_pieces(bytes), 65_483, ALL_AT_ONCE)]).are_written(), "{bytes}");
            assert!(!learned([arrival(&[bytes], 65_483, ALL_AT_ONCE)]).are_written(), "{bytes}");
        }
        // Of one behind a tunnel.
        for bytes in [4097, 4701, 5288, 9000] {
            assert!(learned([arrival(&in_pieces(bytes), 1348, ALL_AT_ONCE)]).are_written(), "{bytes}");
            assert!(!learned([arrival(&[bytes], 1348, ALL_AT_ONCE)]).are_written(), "{bytes}");
        }
    }

    #[test]
    fn what_the_packets_leave_open_is_known_from_a_receive_that_ends_between_pieces() {
        // As many packets either way.
        let (apart, together) = (arrival(&in_pieces(5432), 1448, 3), arrival(&in_pieces(5432), 1448, ALL_AT_ONCE));
        assert!(!together.parted && apart.parted);
        let pieces = learned([together; 8]);
        assert!(!pieces.are_written() && pieces.are_unclear());
        let pieces = learned([[together; 8].as_slice(), &[apart], &[together; 100]].concat());
        assert!(pieces.are_written() && !pieces.are_unclear());
        // The same where nobody counts packets.
        let uncounted = |arrival: Arrival| Arrival { packets: None, ..arrival };
        assert!(learned([uncounted(apart), uncounted(together), uncounted(together)]).are_written());
        let pieces = learned([uncounted(together)]);
        assert!(!pieces.are_written() && !pieces.are_unclear());
    }

    #[test]
    #[cfg_attr(miri, ignore = "thousands of flights")]
    fn a_flight_whose_packets_leave_it_open_is_clear_with_another_offer_or_through_a_tunnel() {
        let hybrid_only = 1088;
        for bytes in 4097 + hybrid_only..PIECE * 4 {
            let rest = bytes % PIECE;
            if rest <= hybrid_only {
                continue;
            }
            let looks = [bytes, bytes - hybrid_only].map(|bytes| arrival(&in_pieces(bytes), 1348, ALL_AT_ONCE));
            assert!(learned(looks).are_written(), "{bytes}");
            let looks = [bytes, bytes - hybrid_only].map(|bytes| arrival(&[bytes], 1348, ALL_AT_ONCE));
            let pieces = learned(looks);
            assert!(!pieces.are_written() && !pieces.are_unclear(), "{bytes}");
        }
    }

    #[test]
    fn lost_packets_do_not_make_pieces_and_a_front_that_changes_is_followed() {
        let again = |arrival: Arrival| Arrival {
            packets: arrival.packets.map(|packets| Packets { count: packets.count + 1, ..packets }),
            ..arrival
        };
        let whole = arrival(&[5000], 1348, ALL_AT_ONCE);
        assert!(!learned([whole, again(whole), whole]).are_written());
        let apart = arrival(&in_pieces(5000), 1348, ALL_AT_ONCE);
        assert!(learned([again(apart), apart]).are_written());
        assert!(!learned([[apart; 15], [whole; 15]].concat()).are_written());
        assert!(learned([[whole; 15], [apart; 15]].concat()).are_written());
    }

    #[test]
    fn a_flight_that_fits_one_piece_says_nothing() {
        let pieces = learned([arrival(&[4096], 1448, ALL_AT_ONCE), arrival(&[1801], 1448, 1)]);
        assert!(!pieces.are_written() && !pieces.are_unclear());
    }
}
