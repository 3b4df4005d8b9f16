//! A session among tasks, and the memory that it takes.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Web;
use crate::config::Carrier;
use crate::event::Event;
use crate::guard::pace::Pace;
use crate::proto::web::BATCH_MAX;
use crate::proto::web::buffer::{BUFFER, Buffers, Bytes};
use crate::proto::web::portion::Portion;
use crate::proto::web::session::{ALWAYS, Batch, Session};
use crate::proxy::visit::Recorder;

/// What one session may have waiting for its app, and as much for its DCs: this part of what is left. So however many
/// take nothing, something is left for one more.
const SESSION_PART: usize = 4;
/// What the buffers may take that nobody uses, as a part of all, and at most, bytes: two batches that are asked for, the
/// one on its way and the next.
const SPARE_PART: usize = 4;
const SPARE_MAX: usize = 34 * BUFFER;
/// Frames and messages that carry little, of one session.
const SMALL_PER_SECOND: u32 = 20_000;
const SMALL_AT_ONCE: u32 = 8192;
/// What one body may take: this part of what is left.
const BODY_PART: usize = 2;

/// The bytes that all sessions together hold.
pub(super) struct Account {
    held: AtomicUsize,
    cap: usize,
    buffers: Arc<Buffers>,
    /// One body is being received for which there was no room.
    body: Arc<AtomicBool>,
    /// One session's batch waits for its DCs for which there was no room.
    upload: Arc<AtomicBool>,
}

/// Room that one at a time has, whatever is left: else who needs more than is ever left would try for good.
struct Overdraft(Arc<AtomicBool>);

impl Overdraft {
    /// Says whether it is held, and takes it if nobody has it.
    fn take(held: &mut Option<Self>, is_taken: &Arc<AtomicBool>) -> bool {
        if held.is_none() && !is_taken.swap(true, Ordering::Relaxed) {
            *held = Some(Self(is_taken.clone()));
        }
        held.is_some()
    }
}

impl Drop for Overdraft {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

impl Account {
    pub(super) fn new(cap: usize) -> Self {
        let spare = (cap / SPARE_PART).min(SPARE_MAX) / BUFFER * BUFFER;
        Self {
            held: AtomicUsize::new(0),
            cap: cap - spare,
            buffers: Arc::new(Buffers::new(spare)),
            body: Arc::default(),
            upload: Arc::default(),
        }
    }

    /// Gives the memory back that nobody uses.
    pub(super) fn tidy(&self) {
        self.buffers.clear();
    }

    /// Says whether more is held than both overdrafts explain. Each stream may have a little whatever is left, so who has
    /// the link could take all memory by ending and opening them: no more of them begin then.
    pub(super) fn is_overdrawn(&self) -> bool {
        self.held.load(Ordering::Relaxed) > self.cap + 2 * BATCH_MAX
    }

    fn left(&self) -> usize {
        self.cap.saturating_sub(self.held.load(Ordering::Relaxed))
    }

    fn note(&self, before: usize, after: usize) {
        if after >= before {
            self.held.fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.held.fetch_sub(before - after, Ordering::Relaxed);
        }
    }
}

/// Memory for bytes that are coming.
pub(super) struct Reservation {
    account: Arc<Account>,
    bytes: usize,
    overdraft: Option<Overdraft>,
}

impl Reservation {
    pub(super) fn new(account: &Arc<Account>) -> Self {
        Self { account: account.clone(), bytes: 0, overdraft: None }
    }

    /// Says whether there is memory for so many bytes in all, and takes it. For a few there always is: the connections
    /// that they come over are counted, and each has more than that for a head.
    pub(super) fn grow_to(&mut self, bytes: usize) -> bool {
        let more = bytes.saturating_sub(self.bytes);
        let has_room = bytes <= ALWAYS || more <= self.account.left() / BODY_PART;
        if !has_room && !Overdraft::take(&mut self.overdraft, &self.account.body) {
            return false;
        }
        self.account.note(0, more);
        self.bytes += more;
        true
    }

    pub(super) fn release(&mut self) {
        self.account.note(std::mem::take(&mut self.bytes), 0);
        self.overdraft = None;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.release();
    }
}

/// A session and who it is of.
pub(super) struct Link {
    pub(super) carrier: Carrier,
    /// The bootstrap token that it was made with.
    pub(super) bootstrap: String,
    pub(super) token: String,
    pub(super) client: IpAddr,
    session: Mutex<Books>,
    account: Arc<Account>,
    /// When it was asked for last, seconds.
    seen: AtomicU32,
    has_socket: AtomicBool,
    pace: Mutex<Pace>,
    recorder: Arc<Recorder>,
}

struct Books {
    session: Session,
    /// For the batch that waits for its DCs.
    overdraft: Option<Overdraft>,
}

/// A batch that is being sent. Its session stays as long: what is held of it counts, whoever has forgotten it.
pub(super) struct Handed {
    link: Arc<Link>,
    batch: Option<Arc<Batch>>,
}

impl Handed {
    pub(super) fn new(link: Arc<Link>, batch: Arc<Batch>) -> Self {
        Self { link, batch: Some(batch) }
    }
}

impl std::ops::Deref for Handed {
    type Target = [Bytes];

    fn deref(&self) -> &[Bytes] {
        self.batch.as_deref().map(Vec::as_slice).unwrap_or_default()
    }
}

impl Drop for Handed {
    fn drop(&mut self) {
        self.batch = None;
        self.link.lock().let_go();
    }
}

/// A session's lock, which keeps the books.
pub(super) struct Locked<'a> {
    books: MutexGuard<'a, Books>,
    account: &'a Account,
    held: usize,
}

impl Link {
    pub(super) fn new(
        (carrier, portion): (Carrier, Portion),
        (bootstrap, token): (String, String),
        client: IpAddr,
        account: &Arc<Account>,
        recorder: &Arc<Recorder>,
    ) -> Self {
        recorder.record(&Event::WebSessionStarted { client });
        Self {
            carrier,
            bootstrap,
            token,
            client,
            session: Mutex::new(Books { session: Session::new(portion), overdraft: None }),
            account: account.clone(),
            seen: AtomicU32::new(0),
            has_socket: AtomicBool::new(false),
            pace: Mutex::new(Pace::new(SMALL_PER_SECOND, SMALL_AT_ONCE)),
            recorder: recorder.clone(),
        }
    }

    /// A poisoned lock would be a panic in the session's code, which ends the process.
    pub(super) fn lock(&self) -> Locked<'_> {
        let books = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        Locked { held: books.session.held(), account: &self.account, books }
    }

    pub(super) fn buffers(&self) -> &Arc<Buffers> {
        &self.account.buffers
    }

    /// Bytes that may wait for its app, and as many for its DCs.
    pub(super) fn allowance(&self) -> usize {
        self.account.left() / SESSION_PART
    }

    pub(super) fn see(&self, now: u32) {
        self.seen.store(now, Ordering::Relaxed);
    }

    /// How long the session has nothing taken of it after so many things that carry little. Who has the link could keep
    /// a processor busy with them for next to no bytes; an app has no use for a tenth of what is let through.
    pub(super) fn wait_for(&self, small: usize, web: &Web) -> Duration {
        let now = u64::try_from(web.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.pace.lock().unwrap_or_else(PoisonError::into_inner).take(small, now)
    }

    pub(super) fn last_seen(&self) -> u32 {
        self.seen.load(Ordering::Relaxed)
    }

    /// Says whether a WebSocket may be the session's: it is the only one, and stays it.
    pub(super) fn take_socket(&self) -> bool {
        !self.has_socket.swap(true, Ordering::Relaxed)
    }

    /// Ends the session and its streams; says whether it was still there.
    pub(super) fn end(&self) -> bool {
        let mut session = self.lock();
        let was_there = !session.is_over();
        session.end();
        drop(session);
        if was_there {
            self.recorder.record(&Event::WebSessionEnded { client: self.client });
        }
        was_there
    }
}

impl Locked<'_> {
    /// Says whether a batch may wait for DCs for which there is no room; until the last byte is with them nobody else's may.
    pub(super) fn overdraw(&mut self) -> bool {
        Overdraft::take(&mut self.books.overdraft, &self.account.upload)
    }
}

impl std::ops::Deref for Locked<'_> {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.books.session
    }
}

impl std::ops::DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut Session {
        &mut self.books.session
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        self.account.note(self.held, self.books.session.held());
        if self.books.session.upload_len() == 0 {
            self.books.overdraft = None;
        }
    }
}

impl Drop for Link {
    /// What a session has left that is forgotten.
    fn drop(&mut self) {
        let books = self.session.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.account.note(books.session.held(), 0);
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::proto::web::session::{Answer, Asked};

    #[test]
    fn one_body_at_a_time_has_room_whatever_is_left() {
        let account = Arc::new(Account::new(10_000));
        let mut bodies: Vec<_> = (0..3).map(|_| Reservation::new(&account)).collect();
        assert!(bodies[0].grow_to(5000) && bodies[1].grow_to(50_000));
        assert!(!bodies[2].grow_to(ALWAYS + 1));
        assert!(bodies[1].grow_to(60_000));
        bodies[1].release();
        assert!(bodies[2].grow_to(10_000));
        drop(bodies);
        assert_eq!((account.left(), account.body.load(Ordering::Relaxed)), (10_000, false));
    }

    #[test]
    fn a_few_bytes_have_room_whatever_is_left() {
        let account = Arc::new(Account::new(10_000));
        let [mut large, mut other, mut small] = [(); 3].map(|()| Reservation::new(&account));
        assert!(large.grow_to(50_000) && !other.grow_to(50_000));
        assert!(small.grow_to(9) && small.grow_to(ALWAYS) && other.grow_to(9));
        assert!(!small.grow_to(ALWAYS + 1));
    }

    #[test]
    fn what_is_being_sent_counts_until_it_is_although_its_session_is_forgotten() {
        let (account, recorder) = (Arc::new(Account::new(1 << 20)), Arc::new(Recorder::new(None)));
        let (all, client) = (account.left(), IpAddr::from([127, 0, 0, 1]));
        let batches = (Carrier::Https, Portion::paced(1 << 20));
        let link = Arc::new(Link::new(batches, Default::default(), client, &account, &recorder));
        link.lock().apply(&[1, 0, 0, 1, 0, 0, 0, 0]).unwrap();
        link.lock().send(1, vec![0; 1000].into());
        let Ok(Asked::Next(ticket)) = link.lock().ask(0, 0) else { panic!("not the next") };
        let mut context = Context::from_waker(Waker::noop());
        let Poll::Ready(Answer::Batch(batch)) = link.lock().poll_batch(ticket, (all, 0), &mut context) else {
            panic!("no batch")
        };
        let handed = Handed::new(link.clone(), batch);
        link.end();
        drop(link);
        assert_eq!((account.left(), handed.len()), (all - 1000, 1));
        drop(handed);
        assert_eq!(account.left(), all);
    }

    #[test]
    fn new_streams_find_no_memory_once_more_is_taken_than_both_overdrafts() {
        let account = Account::new(1 << 20);
        account.note(0, account.cap + 2 * BATCH_MAX);
        assert!(!account.is_overdrawn());
        account.note(0, 1);
        assert!(account.is_overdrawn());
    }
}
