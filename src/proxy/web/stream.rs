//! One stream between a session and a DC.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_io::Async;
use futures_lite::FutureExt as _;

use super::Shared;
use super::flow::Flow;
use super::link::Link;
use crate::event::Traffic;
use crate::net::deadline;
use crate::outcome::Outcome;
use crate::proto::handshake::Reason;
use crate::proto::obfuscated2::{ClientFrame, FRAME_LEN};
use crate::proto::web::ciphers::Ciphers;
use crate::proxy::Visit;
use crate::proxy::entrance::admission;
use crate::proxy::telegram::dial;

/// How long an app may take for the frame that opens its stream.
const FRAME_LIMIT: Duration = Duration::from_secs(10);

/// Gives a stream that an app has opened a client's place and starts it, or refuses it.
pub(super) fn open(shared: &Arc<Shared>, link: &Arc<Link>, id: u32) {
    let web = &shared.web;
    if web.is_draining() || web.account.is_overdrawn() || !web.may(|rates| &mut rates.opens) {
        return link.lock().refuse(id);
    }
    let peer = SocketAddr::new(link.client, 0);
    match admission::admit_stream(shared, peer) {
        Ok(visit) => {
            visit.start();
            shared.web.streams.fetch_add(1, Ordering::Relaxed);
            shared.web.spawn(serve(Counted(shared.clone()), link.clone(), id, Box::new(visit)));
        }
        Err(outcome) => {
            shared.recorder.refuse(peer, outcome);
            link.lock().refuse(id);
        }
    }
}

/// A stream that runs.
struct Counted(Arc<Shared>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.web.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What is large is in boxes: a future has room for everything that is moved into it, once for each time it is moved.
async fn serve(counted: Counted, link: Arc<Link>, id: u32, visit: Box<Visit>) {
    // In memory of its own, which is given back before the stream begins.
    let begun = Box::pin(begin(&counted.0, &link, id, visit)).await;
    match begun {
        Ok(mut flow) => {
            let cause = (&mut flow).await;
            link.lock().refuse(id);
            flow.end(cause);
        }
        Err((visit, outcome)) => {
            link.lock().refuse(id);
            visit.end(outcome, Traffic::default());
        }
    }
}

/// Reads the frame and connects to the DC that it names.
async fn begin(
    shared: &Shared,
    link: &Arc<Link>,
    id: u32,
    mut visit: Box<Visit>,
) -> Result<Box<Flow>, (Box<Visit>, Outcome)> {
    let (frame, mut early) = match deadline::within(FRAME_LIMIT, opening(link, id)).await {
        Some(Some(opening)) => opening,
        _ => return Err((visit, Outcome::HandshakeAborted)),
    };
    let Some(frame) = ClientFrame::open(&frame, visit.config.secret.key()) else {
        return Err((visit, Outcome::BadClient(Reason::BadFrame)));
    };
    visit.authenticated(None);
    let dial_limit = 2 * visit.config.network.timeout.tcp;
    let over = || poll_fn(|context| link.lock().poll_over(id, context));
    let dialled = async {
        // Those before it may wait for DCs that do not answer.
        let turn = async { Some(shared.web.dials.acquire().await) };
        let left = async {
            over().await;
            None
        };
        let _turn = turn.or(left).await.ok_or(Outcome::ClientLeft)?;
        dial::connect(shared, &mut visit, frame.dc, over()).await
    };
    // As long as a dial may take, the wait for one's turn included.
    let reached = deadline::within(dial_limit, dialled).await.unwrap_or(Err(Outcome::DcUnreachable));
    let (dc, number) = match reached {
        Ok((dc, number)) => match Async::new_nonblocking(dc) {
            Ok(dc) => (dc, number),
            Err(_) => return Err((visit, Outcome::NoResources)),
        },
        Err(outcome) => return Err((visit, outcome)),
    };
    let (mut ciphers, ours) = Ciphers::new(frame, number, visit.config.fast_mode, &mut super::random::fill);
    ciphers.to_dc.apply(&mut early);
    let opening = ([ours.as_slice(), &early].concat(), early.len());
    let idle = visit.config.network.timeout.idle;
    let watch = (visit.into_watch(Outcome::Served), idle);
    Ok(Box::new(Flow::new((link, id), dc, ciphers, opening, watch)))
}

/// The frame, and what came with it; none if the stream is over before.
async fn opening(link: &Link, id: u32) -> Option<([u8; FRAME_LEN], Vec<u8>)> {
    let mut received = Vec::new();
    loop {
        received.extend(poll_fn(|context| link.lock().poll_upload(id, context)).await?);
        if let Some((frame, early)) = received.split_first_chunk() {
            link.lock().took(id, FRAME_LEN);
            return Some((*frame, early.to_vec()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_task_of_a_stream_at_rest_takes_little_beside_it() {
        let task = returned(|(counted, link, visit): (Counted, Arc<Link>, Box<Visit>)| serve(counted, link, 1, visit));
        assert!(task <= 192, "{task}");
    }

    /// The size of what a function returns.
    fn returned<A, F>(_: impl FnOnce(A) -> F) -> usize {
        size_of::<F>()
    }
}
