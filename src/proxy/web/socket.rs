//! A session over a WebSocket.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_io::Timer;
use futures_lite::{AsyncReadExt as _, FutureExt as _};
use smol::channel::{Receiver, Sender, bounded};

use super::http::{Connection, write_all};
use super::link::{Link, Reservation};
use super::upload::{self, Applied};
use super::{Shared, refused};
use crate::net::deadline::{self, Patience};
use crate::net::turn;
use crate::proto::web::session::Answer;
use crate::proto::web::socket::{self as protocol, Messages, PROTOCOL_ERROR, Said};

/// After so long without anything to send: a ping.
const PING: Duration = Duration::from_secs(25);
/// After so long without anything received: the end.
const SILENCE: Duration = Duration::from_secs(50);
/// How long a message may take from its first bytes on: as long as other bodies.
const MESSAGE_LIMIT: Duration = Duration::from_secs(90);
/// How long a batch may wait for room; nothing is read meanwhile.
const ROOM_LIMIT: Duration = Duration::from_secs(30);
/// Time between two looks for room.
const ROOM_STEP: Duration = Duration::from_millis(20);
/// How long the last frame may take.
const LAST: Duration = Duration::from_secs(1);
/// Bytes that are received at once.
const CHUNK: usize = 16 << 10;

/// Serves a session until either end has had enough; then the session is over.
pub(super) async fn serve(
    shared: &Arc<Shared>,
    connection: &mut Connection,
    link: &Arc<Link>,
    (name, accept): (&str, &str),
) {
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: {name}\r\n\r\n"
    );
    if connection.write(head.as_bytes()).await.is_ok() {
        let begun = connection.take_buffer();
        let (pongs, to_send) = bounded(1);
        let connection = &*connection;
        let read = read(shared, connection, link, (begun, pongs));
        let write = write(shared, connection, link, to_send);
        let code = read.or(write).await;
        if let Some(code) = code {
            if code != NORMAL {
                refused(shared, link.client, "violation");
            }
            let last = protocol::close(code);
            let _ = deadline::within(LAST, write_all(&connection.socket, &[&last])).await;
        }
    }
    link.end();
}

/// Takes the app's messages; says what to close with, if anybody is there to read it.
async fn read(
    shared: &Arc<Shared>,
    connection: &Connection,
    link: &Arc<Link>,
    (begun, pongs): (Vec<u8>, Sender<Vec<u8>>),
) -> Option<u16> {
    let (mut messages, mut memory) = (Messages::default(), Reservation::new(&shared.web.account));
    let (mut received, mut silence, mut coming) = (begun, Patience::new(SILENCE), Coming::default());
    loop {
        let mut input = received.as_slice();
        while !input.is_empty() {
            deadline::rest(link.wait_for(1, &shared.web)).await;
            match next(&mut messages, &mut input).await {
                Ok(Said::Nothing) => {}
                Ok(Said::Message(batch)) => {
                    coming = Coming::default();
                    // What waits for room is held.
                    let Some(wait) = apply(shared, link, &batch).await else { return Some(PROTOCOL_ERROR) };
                    drop(batch);
                    memory.release();
                    deadline::rest(wait).await;
                }
                // One that waits to be answered is enough.
                Ok(Said::Ping(payload)) => drop(pongs.try_send(protocol::pong(&payload))),
                Ok(Said::Close) => return Some(NORMAL),
                Err(code) => return Some(code),
            }
        }
        if coming.is_late(messages.held(), Instant::now()) {
            return None;
        }
        let is_there = async {
            while !memory.grow_to(messages.held()) {
                Timer::after(ROOM_STEP).await;
            }
        };
        deadline::within(ROOM_LIMIT, is_there).await?;
        // Nothing is held while nothing comes.
        drop(std::mem::take(&mut received));
        silence.wait(turn::readable(&connection.socket)).await?.ok()?;
        received = vec![0; CHUNK];
        let length = silence.wait(turn::take((&connection.socket).read(&mut received))).await?.ok()?;
        if length == 0 {
            return None;
        }
        received.truncate(length);
        link.see(shared.web.now());
    }
}

/// When the message began that is coming. Whoever sends a byte of it now and then would hold its memory for good.
#[derive(Default)]
struct Coming(Option<Instant>);

impl Coming {
    /// Says whether the message that holds so many bytes takes too long.
    fn is_late(&mut self, held: usize, now: Instant) -> bool {
        held > 0 && now.duration_since(*self.0.get_or_insert(now)) > MESSAGE_LIMIT
    }
}

/// The next thing that was said, in our turn: thousands of messages fit into what is received at once.
async fn next(messages: &mut Messages, input: &mut &[u8]) -> Result<Said, u16> {
    turn::wait().await;
    messages.take(input)
}

/// The code of an end that is nobody's fault.
const NORMAL: u16 = 1000;

/// Applies a batch when there is room, and says how long nothing more is to be taken; none if it was not in order.
async fn apply(shared: &Arc<Shared>, link: &Arc<Link>, batch: &[u8]) -> Option<Duration> {
    let applied = async {
        loop {
            match upload::apply(shared, link, batch, None) {
                Applied::Yes(wait) => return Some(wait),
                Applied::Violation => return None,
                Applied::NoRoom => Timer::after(ROOM_STEP).await,
            };
        }
    };
    deadline::within(ROOM_LIMIT, applied).await.flatten()
}

enum Next {
    Answer(Answer),
    Pong(Vec<u8>),
}

/// Sends what waits for the app.
async fn write(shared: &Shared, connection: &Connection, link: &Link, pongs: Receiver<Vec<u8>>) -> Option<u16> {
    let ticket = link.lock().take_place();
    let mut patience = Patience::new(PING);
    loop {
        let next = poll_fn(|context| link.lock().poll_batch(ticket, (link.allowance(), shared.web.millis()), context));
        let batch = async { Some(Next::Answer(next.await)) };
        let pong = async { pongs.recv().await.ok().map(Next::Pong) };
        let (head, batch) = match patience.wait(batch.or(pong)).await {
            None => (protocol::ping(), Arc::default()),
            Some(Some(Next::Pong(pong))) => (pong, Arc::default()),
            Some(Some(Next::Answer(Answer::Batch(batch)))) => {
                (protocol::message_head(batch.iter().map(|frame| frame.len()).sum()), batch)
            }
            Some(Some(Next::Answer(Answer::Over | Answer::Replaced)) | None) => return Some(NORMAL),
        };
        let parts: Vec<&[u8]> = std::iter::once(head.as_slice()).chain(batch.iter().map(|frame| &**frame)).collect();
        write_all(&connection.socket, &parts).await.ok()?;
        let is_batch = !batch.is_empty();
        drop(batch);
        if is_batch {
            link.lock().acknowledge();
        }
        link.see(shared.web.now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_lite::future::{or, yield_now};

    #[test]
    fn a_message_may_be_slow_but_not_without_end() {
        let (mut coming, began) = (Coming::default(), Instant::now());
        let after = |seconds| began + Duration::from_secs(seconds);
        assert!(!coming.is_late(1, began) && !coming.is_late(70, after(90)));
        assert!(coming.is_late(71, after(91)));
        let mut coming = Coming::default();
        assert!(
            !coming.is_late(0, began) && !coming.is_late(1, after(1000)),
            "silence between messages is none of them"
        );
    }

    #[test]
    fn thousands_of_messages_at_once_leave_others_their_turns() {
        // A WINDOW of a stream, with a mask of zeros.
        let message = [&[0x82, 0x80 | 12, 0, 0, 0, 0, 4, 0, 0, 1, 0, 0, 0, 4], 1_u32.to_be_bytes().as_slice()].concat();
        let received = message.repeat(CHUNK / message.len());
        let (mut messages, mut heard, mut others) = (Messages::default(), 0, 0);
        let flood = async {
            let mut input = received.as_slice();
            while !input.is_empty() {
                heard += usize::from(matches!(next(&mut messages, &mut input).await, Ok(Said::Message(_))));
            }
        };
        let other = async {
            loop {
                others += 1;
                yield_now().await;
            }
        };
        async_io::block_on(or(flood, other));
        assert_eq!(heard, CHUNK / message.len());
        assert!(others >= heard / 8 - 1, "{others} turns beside {heard} messages");
    }
}
