//! A session: the streams of one app, what waits for it, and how far it has come.
//!
//! Tasks move bytes between a stream and its DC, others between the session and the app. None of them awaits anything
//! here: who has to wait leaves a waker.
//!
//! What is held is bounded by who asks: the app's batches are refused before they are applied, and a DC is read no
//! further than `room` says. Windows and CLOSE always find room, for there are few of them for each stream.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};

use super::buffer::Bytes;
use super::closed::Closed;
use super::frame::{self, DATA_MAX, Frame, Frames, HEADER};
use super::portion::Portion;
use super::stream::{Stream, WINDOW, keep, wake};
use super::{FRAMES_MAX, STREAMS_MAX, Violation};

/// Frames that wait for an app before its DCs are read no further.
const WAITING_MAX: usize = 1024;
/// Credit that is worth a message of its own, bytes; less goes with what is sent anyway.
const CREDIT_MIN: u32 = WINDOW / 16;
/// Streams of which the app has not heard that they were refused: one that never listens makes no more of them.
const REFUSED_MAX: usize = 4096;
/// Batches that may still be on their way although the app says that it has them: what a connection that died keeps.
const LINGERING_MAX: usize = 2;
/// What a frame that waits takes beside its bytes.
const ITEM: usize = 64;
/// What a stream may always have waiting: one download must not starve the chats, and what memory there is left must
/// not stop anybody for good.
pub(crate) const ALWAYS: usize = 4 << 10;

/// Frames on their way to the app.
pub(crate) type Batch = Vec<Bytes>;

/// What waits for the app.
struct Item {
    id: u32,
    frame: Bytes,
}

/// What became of a batch of the app.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Uploaded {
    /// It was applied; these streams have been opened.
    Applied(Vec<u32>),
    /// It was applied before, and its answer was lost.
    Repeated,
}

/// What a poll with a cursor is.
pub(crate) enum Asked {
    /// The answer to the one before was lost: the same bytes again.
    Again(Arc<Batch>),
    /// The next. It is answered by [`Session::poll_batch`] with this ticket.
    Next(u32),
}

/// Why a stream ends that waits for its DC.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    Over,
    Rested,
}

/// The answer to a poll.
pub(crate) enum Answer {
    Batch(Arc<Batch>),
    /// Another poll has taken its place.
    Replaced,
    Over,
}

pub(crate) struct Session {
    /// In the order of the ids.
    streams: Vec<(u32, Stream)>,
    closed: Closed,
    waiting: VecDeque<Item>,
    waiting_len: usize,
    /// Streams that were closed here and have nothing on its way: that they are, goes before everything else.
    refused: Vec<u32>,
    /// Bytes that wait for DCs.
    upload_len: usize,
    /// Some stream is owed enough credit to be told.
    is_credit_due: bool,
    /// The number of the batch that was applied last, and what tells it from others.
    applied: (u64, u64),
    /// Batches that were handed out.
    cursor: u64,
    /// The one that was handed out last, until the app has it for sure.
    last: Option<Arc<Batch>>,
    last_len: usize,
    /// Those that the app says it has, but that somebody is still sending, and their bytes.
    lingering: Vec<(Weak<Batch>, usize)>,
    lingering_len: usize,
    /// The newest poll.
    ticket: u32,
    poll: Option<Waker>,
    portion: Portion,
    is_over: bool,
}

impl Session {
    pub(crate) fn new(portion: Portion) -> Self {
        Self {
            streams: Vec::new(),
            closed: Closed::default(),
            waiting: VecDeque::new(),
            waiting_len: 0,
            refused: Vec::new(),
            upload_len: 0,
            is_credit_due: false,
            applied: (0, 0),
            cursor: 0,
            last: None,
            last_len: 0,
            lingering: Vec::new(),
            lingering_len: 0,
            ticket: 0,
            poll: None,
            portion,
            is_over: false,
        }
    }

    /// Bytes that are held for it.
    pub(crate) fn held(&self) -> usize {
        let small = self.closed.held() + self.refused.len() * size_of::<u32>() + self.waiting.len() * ITEM;
        self.waiting_len + self.handed_len() + self.upload_len + small
    }

    /// Bytes that were handed out and are not known to be with the app.
    fn handed_len(&self) -> usize {
        self.last_len + self.lingering_len
    }

    /// Bytes that wait for DCs.
    pub(crate) fn upload_len(&self) -> usize {
        self.upload_len
    }

    pub(crate) fn has_streams(&self) -> bool {
        !self.streams.is_empty()
    }

    pub(crate) fn is_over(&self) -> bool {
        self.is_over
    }

    /// Says whether batch `number` is to be applied, or has been; `print` tells bodies apart.
    pub(crate) fn number(&mut self, number: u64, print: u64) -> Result<bool, Violation> {
        let (last, last_print) = self.applied;
        if number == last.wrapping_add(1) {
            Ok(true)
        } else if number == last && number > 0 && print == last_print {
            Ok(false)
        } else {
            Err(Violation)
        }
    }

    /// Applies batch `number`, which [`Session::number`] has found to be the next.
    pub(crate) fn commit(&mut self, number: u64, print: u64, batch: &[u8]) -> Result<Uploaded, Violation> {
        if !self.number(number, print)? {
            return Ok(Uploaded::Repeated);
        }
        let opened = self.apply(batch)?;
        self.applied = (number, print);
        Ok(Uploaded::Applied(opened))
    }

    /// Applies a batch and says which streams it has opened.
    ///
    /// # Errors
    /// [`Violation`]; the session is of no use any more then.
    pub(crate) fn apply(&mut self, batch: &[u8]) -> Result<Vec<u32>, Violation> {
        if self.is_over || self.refused.len() > REFUSED_MAX {
            return Err(Violation);
        }
        let (mut opened, mut closed) = (Vec::new(), Vec::new());
        for frame in Frames::new(batch) {
            match frame? {
                Frame::Open(id) => {
                    if self.open(id)? {
                        opened.push(id);
                    }
                }
                Frame::Data(id, payload) => {
                    if let Some(stream) = self.known(id)? {
                        stream.receive(payload)?;
                        self.upload_len += payload.len();
                    }
                }
                Frame::Window(id, credit) => {
                    if let Some(stream) = self.known(id)? {
                        stream.extend(credit);
                    }
                }
                Frame::Close(id) => {
                    self.known(id)?;
                    self.forget(id);
                    closed.push(id);
                }
                Frame::Pong => {}
            }
        }
        self.drop_waiting(closed);
        // One that was opened and closed in the same batch.
        opened.retain(|id| self.place(*id).is_ok());
        Ok(opened)
    }

    /// The next bytes for a stream's DC; none when the stream is over.
    pub(crate) fn poll_upload(&mut self, id: u32, context: &mut Context<'_>) -> Poll<Option<Vec<u8>>> {
        let Some(stream) = self.stream(id) else { return Poll::Ready(None) };
        stream.next_upload(context.waker()).map_or(Poll::Pending, |bytes| Poll::Ready(Some(bytes)))
    }

    /// Becomes ready when a stream is over; for who waits for anything else than its bytes.
    pub(crate) fn poll_over(&mut self, id: u32, context: &mut Context<'_>) -> Poll<()> {
        let Some(stream) = self.stream(id) else { return Poll::Ready(()) };
        stream.wait_for_upload(context.waker());
        Poll::Pending
    }

    /// A stream's DC has taken bytes.
    pub(crate) fn took(&mut self, id: u32, length: usize) {
        let Some(stream) = self.stream(id) else { return };
        let before = stream.upload_len();
        let owed = stream.took(length);
        let taken = before - stream.upload_len();
        self.upload_len -= taken;
        if owed >= CREDIT_MIN {
            self.is_credit_due = true;
            wake(&mut self.poll);
        }
    }

    /// How much may be read from a stream's DC; none when the stream is over. `memory` is what the
    /// session may have waiting.
    pub(crate) fn poll_room(&mut self, id: u32, memory: usize, context: &mut Context<'_>) -> Poll<Option<usize>> {
        let (length, frames) = (self.waiting_len, self.waiting.len());
        let memory = memory.saturating_sub(length + self.handed_len());
        let portion = self.portion.bytes();
        let Some(stream) = self.stream(id) else { return Poll::Ready(None) };
        // A frame goes in one piece.
        let most = DATA_MAX.min(portion.saturating_sub(HEADER));
        let room = if length < portion && frames < WAITING_MAX { memory.min(most) } else { 0 };
        let always = if stream.waiting == 0 { ALWAYS } else { 0 };
        let room = room.max(always).min(stream.credit());
        if room > 0 {
            return Poll::Ready(Some(room));
        }
        stream.wait_for_room(context.waker());
        Poll::Pending
    }

    /// A stream may be without a byte for so many turns of the housekeeping.
    pub(crate) fn may_rest(&mut self, id: u32, turns: u16) {
        if let Some(stream) = self.stream(id) {
            stream.may_rest(turns);
        }
    }

    /// A turn of the housekeeping.
    pub(crate) fn turn(&mut self) {
        if !self.lingering.is_empty() {
            // There may be memory again.
            wake(&mut self.poll);
        }
        self.streams.iter_mut().for_each(|(_, stream)| stream.turn());
    }

    /// Becomes ready when a stream is over, or has been without a byte for longer than it may; says which.
    pub(crate) fn poll_end(&mut self, id: u32, context: &mut Context<'_>) -> Poll<End> {
        let Some(stream) = self.stream(id) else { return Poll::Ready(End::Over) };
        if stream.has_rested() {
            return Poll::Ready(End::Rested);
        }
        stream.wait_for_rest(context.waker());
        Poll::Pending
    }

    /// Takes a DATA frame: bytes of a stream's DC with room for a header before them.
    pub(crate) fn send(&mut self, id: u32, mut frame: Bytes) {
        let Some(stream) = self.stream(id) else { return };
        let payload = frame.len().saturating_sub(HEADER);
        if let Some(header) = frame.first_chunk_mut() {
            *header = frame::data_header(id, payload);
        }
        stream.send(payload, frame.len());
        self.push(id, frame);
    }

    /// A stream's DC is done, or there is none: the app learns that after what was sent before.
    pub(crate) fn refuse(&mut self, id: u32) {
        match self.forget(id) {
            Some(0) => {
                self.refused.push(id);
                wake(&mut self.poll);
            }
            Some(_) => self.push(id, frame::close(id).to_vec().into()),
            None => {}
        }
    }

    /// Takes a poll; `cursor` is how many batches the app has got, `now` is in milliseconds.
    pub(crate) fn ask(&mut self, cursor: u64, now: u64) -> Result<Asked, Violation> {
        if self.is_over {
            return Err(Violation);
        }
        if cursor == self.cursor {
            if self.last.is_some() {
                self.portion.arrive(now);
            }
            self.acknowledge();
        } else if cursor.checked_add(1) == Some(self.cursor)
            && let Some(last) = &self.last
        {
            return Ok(Asked::Again(last.clone()));
        } else {
            return Err(Violation);
        }
        Ok(Asked::Next(self.take_place()))
    }

    /// Makes a poll the newest.
    pub(crate) fn take_place(&mut self) -> u32 {
        self.ticket = self.ticket.wrapping_add(1);
        wake(&mut self.poll);
        self.ticket
    }

    /// The app has what was handed out last. Who says so and leaves it unread where it is being sent does not get rid of
    /// it.
    pub(crate) fn acknowledge(&mut self) {
        let length = std::mem::take(&mut self.last_len);
        if let Some(last) = self.last.take().filter(|last| Arc::strong_count(last) > 1) {
            self.lingering.push((Arc::downgrade(&last), length));
        }
        self.let_go();
    }

    /// Forgets the batches that nobody is sending any more. Whoever has stopped to send one says so by this.
    pub(crate) fn let_go(&mut self) {
        self.lingering.retain(|(batch, _)| batch.strong_count() > 0);
        self.lingering_len = self.lingering.iter().map(|(_, length)| length).sum();
        wake(&mut self.poll);
        self.wake_for_room();
    }

    /// Says whether enough is on its way that nobody reads: else whoever acknowledges and does not read would be given
    /// all that his DCs have. `memory` is what the session may have waiting.
    fn is_clogged(&self, memory: usize) -> bool {
        let count = self.lingering.len();
        count > LINGERING_MAX || count > 0 && memory < ALWAYS
    }

    /// Hands the next batch out. `memory` is what the session may have waiting, `now` is in milliseconds.
    pub(crate) fn poll_batch(
        &mut self,
        ticket: u32,
        (memory, now): (usize, u64),
        context: &mut Context<'_>,
    ) -> Poll<Answer> {
        if self.is_over {
            return Poll::Ready(Answer::Over);
        }
        if ticket != self.ticket {
            return Poll::Ready(Answer::Replaced);
        }
        let is_empty = self.waiting.is_empty() && self.refused.is_empty() && !self.is_credit_due;
        if is_empty || self.is_clogged(memory) {
            keep(&mut self.poll, context.waker());
            return Poll::Pending;
        }
        let batch = Arc::new(self.take());
        self.cursor = self.cursor.wrapping_add(1);
        self.last_len = batch.iter().map(Bytes::held).sum();
        self.last = Some(batch.clone());
        self.portion.hand_out(self.last_len, now);
        self.wake_for_room();
        Poll::Ready(Answer::Batch(batch))
    }

    /// Ends all.
    pub(crate) fn end(&mut self) {
        self.is_over = true;
        self.streams.drain(..).for_each(|(_, stream)| stream.end());
        self.waiting = VecDeque::new();
        self.refused = Vec::new();
        (self.waiting_len, self.upload_len) = (0, 0);
        self.closed = Closed::default();
        self.acknowledge();
        wake(&mut self.poll);
    }

    /// The credit that is due, the ends of streams that have nothing on its way, and frames as far as a batch goes,
    /// the first always.
    fn take(&mut self) -> Batch {
        let credits = self.streams.iter_mut().filter_map(|(id, stream)| Some(frame::window(*id, stream.settle()?)));
        let mut first: Vec<Vec<u8>> = credits.collect();
        self.is_credit_due = false;
        let room = FRAMES_MAX - first.len();
        first.extend(self.refused.drain(..room.min(self.refused.len())).map(|id| frame::close(id).into()));
        let (mut frames, mut length) = (first.len(), first.iter().map(Vec::len).sum::<usize>());
        let mut batch = Batch::new();
        if !first.is_empty() {
            batch.push(first.concat().into());
        }
        while let Some(item) = self.waiting.front() {
            if frames > 0 && (length + item.frame.len() > self.portion.bytes() || frames == FRAMES_MAX) {
                break;
            }
            let Some(Item { id, frame }) = self.waiting.pop_front() else { break };
            (frames, length) = (frames + 1, length + frame.len());
            self.waiting_len -= frame.held();
            if let Some(stream) = self.stream(id) {
                stream.waiting -= frame.len();
            }
            batch.push(frame);
        }
        if self.waiting.is_empty() {
            self.waiting = VecDeque::new();
        }
        batch
    }

    fn push(&mut self, id: u32, frame: Bytes) {
        self.waiting_len += frame.held();
        self.waiting.push_back(Item { id, frame });
        wake(&mut self.poll);
    }

    /// Takes back what waits for streams that the app has closed: it would not know what to do with it.
    fn drop_waiting(&mut self, mut closed: Vec<u32>) {
        if closed.is_empty() {
            return;
        }
        closed.sort_unstable();
        self.refused.retain(|id| closed.binary_search(id).is_err());
        self.waiting.retain(|item| closed.binary_search(&item.id).is_err());
        self.waiting_len = self.waiting.iter().map(|item| item.frame.held()).sum();
        self.wake_for_room();
    }

    fn wake_for_room(&mut self) {
        self.streams.iter_mut().for_each(|(_, stream)| stream.wake_for_room());
    }

    /// A stream that is open, or none if it was closed lately; others do not exist.
    fn known(&mut self, id: u32) -> Result<Option<&mut Stream>, Violation> {
        match self.place(id) {
            Ok(place) => Ok(self.streams.get_mut(place).map(|(_, stream)| stream)),
            Err(_) if self.closed.contains(id) => Ok(None),
            Err(_) => Err(Violation),
        }
    }

    fn stream(&mut self, id: u32) -> Option<&mut Stream> {
        let place = self.place(id).ok()?;
        self.streams.get_mut(place).map(|(_, stream)| stream)
    }

    fn place(&self, id: u32) -> Result<usize, usize> {
        self.streams.binary_search_by_key(&id, |(id, _)| *id)
    }

    /// Opens a stream; says whether there is room for it, else it is closed at once.
    fn open(&mut self, id: u32) -> Result<bool, Violation> {
        let place = self.place(id).err().filter(|_| !self.closed.contains(id)).ok_or(Violation)?;
        // Streams that end leave what waits, and their places to others: of who never listens no more than this.
        let is_full = self.waiting_len >= self.portion.most() + STREAMS_MAX * ALWAYS
            || self.waiting.len() >= WAITING_MAX + 2 * STREAMS_MAX;
        let has_room = self.streams.len() < STREAMS_MAX && !is_full;
        if has_room {
            self.streams.insert(place, (id, Stream::new()));
        } else {
            self.closed.add(id);
            self.refused.push(id);
            wake(&mut self.poll);
        }
        Ok(has_room)
    }

    /// Closes a stream, if it is open; says what of it waits for the app, bytes.
    fn forget(&mut self, id: u32) -> Option<usize> {
        let place = self.place(id).ok()?;
        let (_, stream) = self.streams.remove(place);
        let waiting = stream.waiting;
        self.upload_len -= stream.upload_len();
        stream.end();
        self.closed.add(id);
        Some(waiting)
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
