//! Batches that come from a client, whichever way.

use std::sync::Arc;
use std::time::Duration;

use super::link::Link;
use super::{Shared, stream};
use crate::proto::web::frame::{self, Content};
use crate::proto::web::session::{ALWAYS, Uploaded};

/// What became of a batch.
pub(super) enum Applied {
    /// Nothing more is to be taken of the session for so long.
    Yes(Duration),
    NoRoom,
    /// The session is over.
    Violation,
}

/// Applies a batch and starts the streams that it opens; a numbered one counts once.
pub(super) fn apply(shared: &Arc<Shared>, link: &Arc<Link>, batch: &[u8], number: Option<(u64, u64)>) -> Applied {
    let room = link.allowance();
    let mut session = link.lock();
    let is_new = number.map_or(Ok(true), |(number, print)| session.number(number, print));
    let content = frame::check(batch);
    let small = content.map_or(0, |content| content.small);
    let applied = match (is_new, content) {
        (Ok(false), _) => return Applied::Yes(link.wait_for(small, &shared.web)),
        // What waits for nothing always has room, else a stream could not end, and so has what opens a stream.
        (Ok(true), Ok(Content { payload, .. }))
            if payload > 0
                && session.upload_len() + payload > room
                && (session.upload_len() > 0 || payload > ALWAYS && !session.overdraw()) =>
        {
            return Applied::NoRoom;
        }
        (Ok(true), Ok(_)) => match number {
            Some((number, print)) => session.commit(number, print, batch),
            None => session.apply(batch).map(Uploaded::Applied),
        },
        (Err(fault), _) | (_, Err(fault)) => Err(fault),
    };
    drop(session);
    match applied {
        Ok(Uploaded::Applied(opened)) => opened.into_iter().for_each(|id| stream::open(shared, link, id)),
        Ok(Uploaded::Repeated) => {}
        Err(_) => {
            link.end();
            return Applied::Violation;
        }
    }
    Applied::Yes(link.wait_for(small, &shared.web))
}
