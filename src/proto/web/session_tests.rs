//! What a session does with what an app and its DCs say.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::proto::web::frame::window;

const BATCH: usize = 256 << 10;
/// All the memory that there may be, at the beginning of time.
const AMPLE: (usize, u64) = (usize::MAX, 0);

fn open(id: u32) -> Vec<u8> {
    let [_, a, b, c] = id.to_be_bytes();
    vec![1, a, b, c, 0, 0, 0, 0]
}

fn data(id: u32, payload: &[u8]) -> Vec<u8> {
    [frame::data_header(id, payload.len()).as_slice(), payload].concat()
}

fn session(ids: &[u32]) -> Session {
    let mut session = Session::new(Portion::fixed(BATCH));
    for id in ids {
        assert_eq!(session.apply(&open(*id)), Ok(vec![*id]));
    }
    session
}

fn context() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

fn whole(batch: &Batch) -> Vec<u8> {
    batch.iter().map(|part| &part[..]).collect::<Vec<_>>().concat()
}

/// What the app gets next, in one piece; empty if nothing waits.
fn received(session: &mut Session) -> Vec<u8> {
    let ticket = session.take_place();
    match session.poll_batch(ticket, AMPLE, &mut context()) {
        Poll::Ready(Answer::Batch(batch)) => {
            let received = whole(&batch);
            drop(batch);
            session.acknowledge();
            received
        }
        Poll::Ready(_) => panic!("over"),
        Poll::Pending => Vec::new(),
    }
}

fn upload(session: &mut Session, id: u32) -> Option<Vec<u8>> {
    match session.poll_upload(id, &mut context()) {
        Poll::Ready(bytes) => bytes,
        Poll::Pending => Some(Vec::new()),
    }
}

fn room(session: &mut Session, id: u32) -> usize {
    match session.poll_room(id, usize::MAX, &mut context()) {
        Poll::Ready(room) => room.unwrap(),
        Poll::Pending => 0,
    }
}

/// A waker, and how often it was woken.
struct Count(AtomicUsize);

impl std::task::Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn counted() -> (Arc<Count>, Waker) {
    let count = Arc::new(Count(AtomicUsize::new(0)));
    (count.clone(), Waker::from(count))
}

fn frame_of(id: u32, length: usize) -> Vec<u8> {
    data(id, &vec![7; length])
}

#[test]
fn bytes_go_both_ways_and_credit_only_for_what_the_dc_took() {
    let mut session = session(&[5, 3]);
    session.apply(&[data(3, b"one"), data(5, b"five"), data(3, b"two")].concat()).unwrap();
    assert_eq!(session.held(), 10);
    assert_eq!(upload(&mut session, 3).unwrap(), b"onetwo");
    assert_eq!(received(&mut session), b"");
    session.took(3, 3);
    // Too little for a message of its own, but it goes with the next.
    assert_eq!(received(&mut session), b"");
    session.send(5, frame_of(5, 2).into());
    assert_eq!(received(&mut session), [window(3, 3), data(5, &[7, 7])].concat());
    assert_eq!(upload(&mut session, 3).unwrap(), b"");
    assert_eq!(upload(&mut session, 5).unwrap(), b"five");
    session.took(3, 3);
    assert_eq!(session.held(), 4);
    session.took(5, 4);
    assert_eq!(session.held(), 0);
}

#[test]
fn credit_of_several_writes_is_one_window() {
    let mut session = session(&[1]);
    for _ in 0..2 {
        session.apply(&frame_of(1, 200_000)).unwrap();
        upload(&mut session, 1).unwrap();
        session.took(1, 200_000);
    }
    assert_eq!(received(&mut session), window(1, 400_000));
}

#[test]
fn what_an_app_never_does_is_a_violation() {
    for batch in
        [open(1), open(2), data(9, b"x"), window(9, 1), frame::close(9).to_vec(), data(1, &vec![0; 1 << 20]).repeat(5)]
    {
        let mut session = session(&[1, 2]);
        session.apply(&frame::close(2)).unwrap();
        assert_eq!(session.apply(&batch), Err(Violation), "{:?}", batch.get(..8));
    }
}

#[test]
fn frames_for_a_stream_closed_lately_are_ignored() {
    let mut session = session(&[1, 2]);
    session.send(1, frame_of(1, 10).into());
    session.apply(&frame::close(1)).unwrap();
    // The app knows nothing of the stream any more.
    assert_eq!(received(&mut session), b"");
    session.refuse(2);
    let late = [data(1, b"x"), window(1, 1), frame::close(1).to_vec(), data(2, b"y"), frame::close(2).to_vec()];
    assert_eq!(session.apply(&late.concat()), Ok(vec![]));
    assert_eq!((received(&mut session), session.held()), (vec![], 8));
    assert_eq!(upload(&mut session, 1), None);
}

#[test]
fn close_comes_after_the_bytes_before_it() {
    let mut session = session(&[1]);
    session.send(1, frame_of(1, 3).into());
    session.refuse(1);
    session.refuse(1);
    assert_eq!(received(&mut session), [data(1, &[7; 3]), frame::close(1).to_vec()].concat());
}

#[test]
fn a_stream_that_opens_and_closes_in_one_batch_is_not_dialled() {
    let mut session = session(&[]);
    let batch = [open(1), data(1, b"x"), frame::close(1).to_vec(), open(2)].concat();
    assert_eq!(session.apply(&batch), Ok(vec![2]));
}

#[test]
fn streams_beyond_the_limit_are_refused_alone() {
    let ids: Vec<u32> = (1..=128).collect();
    let mut session = session(&ids);
    assert_eq!(session.apply(&open(500)), Ok(vec![]));
    assert_eq!(received(&mut session), frame::close(500));
    assert_eq!(session.apply(&open(500)), Err(Violation));
}

#[test]
fn an_app_that_never_hears_of_refusals_is_not_refused_for_ever() {
    let mut session = session(&[]);
    let mut ids = 1..;
    let mut flood = || -> Vec<u8> { ids.by_ref().take(1000).flat_map(open).collect() };
    for _ in 0..5 {
        session.apply(&flood()).unwrap();
    }
    assert!(session.held() < 100_000, "{}", session.held());
    assert_eq!(session.apply(&flood()), Err(Violation));
}

#[test]
fn one_that_hears_of_them_goes_on_and_is_bounded() {
    let (mut session, mut ids) = (session(&[]), 1..);
    // The interpreter takes a minute for each.
    for round in 0..if cfg!(miri) { 2 } else { 50 } {
        let flood: Vec<u8> = ids.by_ref().take(FRAMES_MAX).flat_map(open).collect();
        session.apply(&flood).unwrap();
        let refused = received(&mut session).len() / HEADER;
        assert_eq!(refused, if round == 0 { FRAMES_MAX - STREAMS_MAX } else { FRAMES_MAX });
        assert!(session.held() < 50_000, "{}", session.held());
    }
}

#[test]
fn many_small_payloads_take_no_more_than_they_count() {
    let mut session = session(&[1]);
    session.apply(&data(1, b"x").repeat(4000)).unwrap();
    assert_eq!(upload(&mut session, 1).unwrap().len(), 4000);
    session.took(1, 4000);
    assert_eq!(session.held(), 0);
}

#[test]
fn the_end_of_a_download_makes_room_for_the_others() {
    let (count, waker) = counted();
    let mut session = session(&[1, 2]);
    while room(&mut session, 1) > 0 {
        session.send(1, frame_of(1, DATA_MAX).into());
    }
    session.send(2, frame_of(2, 10).into());
    assert!(session.poll_room(2, usize::MAX, &mut Context::from_waker(&waker)).is_pending());
    session.apply(&frame::close(1)).unwrap();
    assert_eq!(count.0.load(Ordering::Relaxed), 1, "stream 2 waits although there is room");
}

#[test]
fn a_batch_counts_once_and_its_number_cannot_be_another() {
    let mut session = session(&[1]);
    let batch = data(1, b"x");
    assert_eq!(session.commit(1, 11, &batch), Ok(Uploaded::Applied(vec![])));
    assert_eq!(session.commit(1, 11, &batch), Ok(Uploaded::Repeated));
    assert_eq!(session.held(), 1);
    assert_eq!(session.commit(2, 22, &batch), Ok(Uploaded::Applied(vec![])));
    for (number, print) in [(2, 11), (1, 11), (4, 1), (0, 0), (u64::MAX, 0)] {
        assert_eq!(session.number(number, print), Err(Violation), "{number}");
    }
    assert_eq!(Session::new(Portion::fixed(BATCH)).number(0, 0), Err(Violation));
}

#[test]
fn a_lost_answer_is_given_again_until_it_is_acknowledged() {
    let mut session = session(&[1]);
    session.send(1, frame_of(1, 3).into());
    let Ok(Asked::Next(ticket)) = session.ask(0, 0) else { panic!() };
    let Poll::Ready(Answer::Batch(first)) = session.poll_batch(ticket, AMPLE, &mut context()) else { panic!() };
    assert_eq!((session.cursor, session.held()), (1, 11));
    session.send(1, frame_of(1, 5).into());
    let Ok(Asked::Again(again)) = session.ask(0, 0) else { panic!() };
    assert_eq!(whole(&first), whole(&again));
    drop((first, again));
    let Ok(Asked::Next(ticket)) = session.ask(1, 0) else { panic!() };
    assert_eq!(session.held(), 13 + ITEM);
    assert!(session.ask(0, 0).is_err() && session.ask(2, 0).is_err() && session.ask(u64::MAX, 0).is_err());
    let Poll::Ready(Answer::Batch(second)) = session.poll_batch(ticket, AMPLE, &mut context()) else { panic!() };
    assert_eq!((whole(&second), session.cursor), (data(1, &[7; 5]), 2));
}

#[test]
fn what_is_acknowledged_while_it_is_being_sent_counts_until_it_is() {
    let mut session = session(&[1]);
    let mut sent = Vec::new();
    for cursor in 0..3 {
        session.send(1, frame_of(1, 3).into());
        let Ok(Asked::Next(ticket)) = session.ask(cursor, 0) else { panic!() };
        let Poll::Ready(Answer::Batch(batch)) = session.poll_batch(ticket, AMPLE, &mut context()) else { panic!() };
        sent.push(batch);
    }
    let Ok(Asked::Next(_)) = session.ask(3, 0) else { panic!() };
    assert_eq!(session.held(), 33);
    assert_eq!(session.poll_room(1, 33, &mut context()), Poll::Ready(Some(ALWAYS)));
    sent.pop();
    session.let_go();
    assert_eq!(session.held(), 22);
    session.end();
    assert_eq!(session.held(), 22, "its end does not make them less");
    sent.clear();
    session.let_go();
    assert_eq!(session.held(), 0);
}

#[test]
fn a_poll_takes_the_place_of_the_one_before() {
    let mut session = session(&[1]);
    let Ok(Asked::Next(old)) = session.ask(0, 0) else { panic!() };
    assert!(session.poll_batch(old, AMPLE, &mut context()).is_pending());
    let Ok(Asked::Next(new)) = session.ask(0, 0) else { panic!() };
    assert!(matches!(session.poll_batch(old, AMPLE, &mut context()), Poll::Ready(Answer::Replaced)));
    session.send(1, frame_of(1, 1).into());
    assert!(matches!(session.poll_batch(new, AMPLE, &mut context()), Poll::Ready(Answer::Batch(_))));
    session.end();
    assert!(matches!(session.poll_batch(new, AMPLE, &mut context()), Poll::Ready(Answer::Over)));
    assert!(session.ask(1, 0).is_err() && session.held() == 0 && session.apply(&open(9)).is_err());
}

#[test]
fn a_download_that_nobody_takes_stops_at_a_batch_and_lets_the_others_speak() {
    let mut session = session(&[1, 2]);
    let mut sent = 0;
    loop {
        let bytes = room(&mut session, 1);
        if bytes == 0 {
            break;
        }
        session.send(1, frame_of(1, bytes).into());
        sent += bytes;
    }
    assert!((BATCH..BATCH + DATA_MAX).contains(&sent), "{sent}");
    assert_eq!(room(&mut session, 2), ALWAYS);
    session.send(2, frame_of(2, 10).into());
    assert_eq!(room(&mut session, 2), 0);
    assert!(received(&mut session).len() <= BATCH);
    assert_eq!(room(&mut session, 1), DATA_MAX);
}

#[test]
fn without_memory_a_stream_still_gets_along() {
    let mut session = session(&[1]);
    let room = |session: &mut Session| session.poll_room(1, 0, &mut context());
    assert_eq!(room(&mut session), Poll::Ready(Some(ALWAYS)));
    session.send(1, frame_of(1, 10).into());
    assert_eq!(room(&mut session), Poll::Pending);
    received(&mut session);
    assert_eq!(room(&mut session), Poll::Ready(Some(ALWAYS)));
}

#[test]
fn without_credit_nothing_is_read() {
    let mut session = session(&[1]);
    for _ in 0..64 {
        session.send(1, frame_of(1, DATA_MAX).into());
        received(&mut session);
    }
    assert_eq!(room(&mut session, 1), 0);
    session.apply(&window(1, 9)).unwrap();
    assert_eq!(room(&mut session, 1), 9);
}

#[test]
fn a_session_that_never_polls_holds_no_more_however_many_streams_end_for_it() {
    let mut session = session(&[]);
    for id in 1.. {
        let Ok(opened) = session.apply(&open(id)) else { return };
        for id in opened {
            let bytes = room(&mut session, id).min(ALWAYS);
            session.send(id, frame_of(id, bytes).into());
            session.refuse(id);
        }
        assert!(session.held() < 2 * BATCH + STREAMS_MAX * ALWAYS, "{} after {id} streams", session.held());
    }
}

/// Hands out the next batch after so many and leaves it on its way; none if the poll has to wait.
fn handed(session: &mut Session, cursor: u64, memory: usize, context: &mut Context<'_>) -> Option<Arc<Batch>> {
    session.send(1, frame_of(1, 3).into());
    let Ok(Asked::Next(ticket)) = session.ask(cursor, 0) else { panic!("not the next") };
    match session.poll_batch(ticket, (memory, 0), context) {
        Poll::Ready(Answer::Batch(batch)) => Some(batch),
        Poll::Ready(_) => panic!("over"),
        Poll::Pending => None,
    }
}

#[test]
fn of_who_reads_none_of_three_answers_the_next_poll_waits_and_is_woken_when_one_is_gone() {
    let ((count, waker), mut session) = (counted(), session(&[1]));
    let context = &mut Context::from_waker(&waker);
    let mut sent: Vec<_> = (0..3).map(|cursor| handed(&mut session, cursor, usize::MAX, context).unwrap()).collect();
    assert!(handed(&mut session, 3, usize::MAX, context).is_none());
    let woken = count.0.load(Ordering::Relaxed);
    sent.remove(0);
    session.let_go();
    assert_eq!(count.0.load(Ordering::Relaxed), woken + 1, "nobody tells the poll");
    assert!(handed(&mut session, 3, usize::MAX, context).is_some());
}

#[test]
fn without_memory_one_answer_that_nobody_reads_is_enough() {
    let ((count, waker), mut session) = (counted(), session(&[1]));
    let context = &mut Context::from_waker(&waker);
    let unread = handed(&mut session, 0, 0, context);
    assert!(unread.is_some() && handed(&mut session, 1, 0, context).is_none());
    let woken = count.0.load(Ordering::Relaxed);
    session.turn();
    assert_eq!(count.0.load(Ordering::Relaxed), woken + 1, "there may be memory again");
    assert!(handed(&mut session, 1, ALWAYS, context).is_some());
}

#[test]
fn over_a_slow_line_no_answer_and_no_queue_is_longer_than_it_carries_in_seconds() {
    let mut session = Session::new(Portion::paced(1 << 20));
    session.apply(&[open(1), open(2)].concat()).unwrap();
    let mut now = 0;
    for cursor in 0..30 {
        loop {
            let bytes = room(&mut session, 1);
            if bytes == 0 {
                break;
            }
            session.send(1, frame_of(1, bytes).into());
            session.apply(&window(1, u32::try_from(bytes).unwrap())).unwrap();
        }
        let Ok(Asked::Next(ticket)) = session.ask(cursor, now) else { panic!() };
        let Poll::Ready(Answer::Batch(batch)) = session.poll_batch(ticket, (usize::MAX, now), &mut context()) else {
            panic!()
        };
        let length = whole(&batch).len();
        // 8 KiB a second, and then a line that carries all at once.
        assert!(cursor >= 20 || length <= 65 << 10 && session.waiting_len <= 130 << 10, "{length}");
        now += if cursor < 20 { u64::try_from(length / 8).unwrap() } else { 0 };
    }
    assert_eq!(session.portion.bytes(), 1 << 20);
}
