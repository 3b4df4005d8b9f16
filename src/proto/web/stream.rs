//! One stream of a session: the windows of its directions, and the bytes that wait for its DC.

use std::collections::VecDeque;
use std::task::Waker;

use super::Violation;

/// What each side may send at first, and what a client may have on its way at most, bytes.
pub(crate) const WINDOW: u32 = 4 << 20;
/// Payload for the DC is kept in pieces: what is longer is cut, so that nobody ciphers a mebibyte in one go.
const PIECE_MAX: usize = 64 << 10;
/// What is shorter is joined, up to this length: thousands of frames of one byte must not take more than they count.
const JOINED_MAX: usize = 8 << 10;

/// A stream that is open.
pub(crate) struct Stream {
    /// What we may still send, bytes.
    credit: u32,
    /// What the client may still send.
    allowed: u32,
    /// What the DC has taken and the client has not been told of.
    owed: u32,
    /// Payload for the DC.
    upload: VecDeque<Vec<u8>>,
    /// Bytes that the DC has not taken, in this queue or on their way from it.
    upload_len: usize,
    /// Bytes of this stream that wait for the client.
    pub(crate) waiting: usize,
    /// Turns of the housekeeping without a byte, and how many there may be.
    quiet: u16,
    quiet_max: u16,
    upload_waiter: Option<Waker>,
    room_waiter: Option<Waker>,
    rest_waiter: Option<Waker>,
}

impl Stream {
    pub(crate) fn new() -> Self {
        Self {
            credit: WINDOW,
            allowed: WINDOW,
            owed: 0,
            upload: VecDeque::new(),
            upload_len: 0,
            waiting: 0,
            quiet: 0,
            quiet_max: u16::MAX,
            upload_waiter: None,
            room_waiter: None,
            rest_waiter: None,
        }
    }

    /// Takes what the client sent for the DC.
    pub(crate) fn receive(&mut self, payload: &[u8]) -> Result<(), Violation> {
        let length = u32::try_from(payload.len()).map_err(|_| Violation)?;
        self.allowed = self.allowed.checked_sub(length).ok_or(Violation)?;
        for piece in payload.chunks(PIECE_MAX) {
            match self.upload.back_mut().filter(|last| last.len() + piece.len() <= JOINED_MAX) {
                Some(last) => last.extend_from_slice(piece),
                None => self.upload.push_back(piece.to_vec()),
            }
        }
        self.upload_len += payload.len();
        wake(&mut self.upload_waiter);
        Ok(())
    }

    /// The next bytes for the DC, if there are any; else who waits for them is kept.
    pub(crate) fn next_upload(&mut self, waiter: &Waker) -> Option<Vec<u8>> {
        let next = self.upload.pop_front();
        if next.is_none() {
            // Nothing is held while nothing comes.
            self.upload = VecDeque::new();
            keep(&mut self.upload_waiter, waiter);
        }
        next
    }

    /// Keeps who waits for bytes or the end.
    pub(crate) fn wait_for_upload(&mut self, waiter: &Waker) {
        keep(&mut self.upload_waiter, waiter);
    }

    /// Bytes that the DC has not taken.
    pub(crate) fn upload_len(&self) -> usize {
        self.upload_len
    }

    /// The DC has taken bytes; says how many the client is owed now.
    pub(crate) fn took(&mut self, length: usize) -> u32 {
        self.quiet = 0;
        self.upload_len = self.upload_len.saturating_sub(length);
        self.owed = self.owed.saturating_add(u32::try_from(length).unwrap_or(u32::MAX)).min(WINDOW - self.allowed);
        self.owed
    }

    /// The credit to give to the client now, if any.
    pub(crate) fn settle(&mut self) -> Option<u32> {
        let owed = std::mem::take(&mut self.owed);
        self.allowed += owed;
        (owed > 0).then_some(owed)
    }

    /// The client lets us send more.
    pub(crate) fn extend(&mut self, credit: u32) {
        self.credit = self.credit.saturating_add(credit);
        wake(&mut self.room_waiter);
    }

    /// What we may send, bytes.
    pub(crate) fn credit(&self) -> usize {
        usize::try_from(self.credit).unwrap_or(usize::MAX)
    }

    /// Bytes wait for the client from now on, `payload` of them count.
    pub(crate) fn send(&mut self, payload: usize, length: usize) {
        self.quiet = 0;
        self.credit = self.credit.saturating_sub(u32::try_from(payload).unwrap_or(u32::MAX));
        self.waiting += length;
    }

    /// Keeps who waits until more may be sent.
    pub(crate) fn wait_for_room(&mut self, waiter: &Waker) {
        keep(&mut self.room_waiter, waiter);
    }

    /// More may be sent.
    pub(crate) fn wake_for_room(&mut self) {
        wake(&mut self.room_waiter);
    }

    /// It may be without a byte for so many turns of the housekeeping.
    pub(crate) fn may_rest(&mut self, turns: u16) {
        (self.quiet, self.quiet_max) = (0, turns);
    }

    /// A turn of the housekeeping.
    pub(crate) fn turn(&mut self) {
        self.quiet = self.quiet.saturating_add(1);
        if self.has_rested() {
            wake(&mut self.rest_waiter);
        }
    }

    /// Says whether no byte has moved for longer than may be.
    pub(crate) fn has_rested(&self) -> bool {
        self.quiet > self.quiet_max
    }

    /// Keeps who waits for that.
    pub(crate) fn wait_for_rest(&mut self, waiter: &Waker) {
        keep(&mut self.rest_waiter, waiter);
    }

    /// Lets everybody know that it is over.
    pub(crate) fn end(mut self) {
        wake(&mut self.upload_waiter);
        wake(&mut self.room_waiter);
        wake(&mut self.rest_waiter);
    }
}

pub(super) fn wake(waiter: &mut Option<Waker>) {
    if let Some(waiter) = waiter.take() {
        waiter.wake();
    }
}

pub(super) fn keep(place: &mut Option<Waker>, waiter: &Waker) {
    if !place.as_ref().is_some_and(|kept| kept.will_wake(waiter)) {
        *place = Some(waiter.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_comes_beyond_the_window_and_no_more_credit_is_given_than_was_used() {
        let mut stream = Stream::new();
        let half = vec![0; 2 << 20];
        stream.receive(&half).unwrap();
        stream.receive(&half).unwrap();
        assert_eq!(stream.receive(&[0]), Err(Violation));
        assert_eq!(stream.settle(), None);
        assert_eq!(stream.took(1 << 20), 1 << 20);
        assert_eq!(stream.took(9 << 20), WINDOW);
        assert_eq!(stream.settle(), Some(WINDOW));
        assert_eq!(stream.settle(), None);
        stream.receive(&half).unwrap();
    }

    #[test]
    fn small_payloads_are_joined_and_large_ones_cut() {
        let mut stream = Stream::new();
        for _ in 0..20_000 {
            stream.receive(b"x").unwrap();
        }
        assert_eq!(stream.upload.iter().map(Vec::len).collect::<Vec<_>>(), [8192, 8192, 3616]);
        stream.receive(&[0; 150_000]).unwrap();
        assert_eq!(stream.upload.iter().skip(3).map(Vec::len).collect::<Vec<_>>(), [65_536, 65_536, 18_928]);
        assert_eq!(stream.upload_len(), 170_000);
    }

    #[test]
    fn a_stream_without_a_byte_has_rested_after_its_turns_and_no_sooner() {
        let mut stream = Stream::new();
        (0..1000).for_each(|_| stream.turn());
        assert!(!stream.has_rested(), "it has not begun");
        stream.may_rest(2);
        (0..2).for_each(|_| stream.turn());
        assert!(!stream.has_rested());
        stream.send(1, 9);
        (0..2).for_each(|_| stream.turn());
        assert!(!stream.has_rested());
        stream.took(1);
        (0..2).for_each(|_| stream.turn());
        assert!(!stream.has_rested());
        stream.turn();
        assert!(stream.has_rested());
    }

    #[test]
    fn credit_is_capped_and_spent() {
        let mut stream = Stream::new();
        stream.send(4 << 20, (4 << 20) + 8);
        assert_eq!((stream.credit(), stream.waiting), (0, (4 << 20) + 8));
        stream.extend(u32::MAX);
        stream.extend(u32::MAX);
        assert_eq!(stream.credit(), usize::try_from(u32::MAX).unwrap());
    }
}
