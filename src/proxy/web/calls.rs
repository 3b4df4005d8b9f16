//! What each request of a client does, and what it gets for it.

use std::future::poll_fn;
use std::hash::{DefaultHasher, Hasher as _};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_lite::FutureExt as _;

use super::http::{Connection, NoBody, Request};
use super::link::{Handed, Link, Reservation};
use super::upload::{Applied, apply};
use super::{Shared, random, refused, socket};
use crate::config::Carrier;
use crate::net::deadline;
use crate::proto::base64url;
use crate::proto::web::frame::{HELLO, WELCOME};
use crate::proto::web::page::Page;
use crate::proto::web::request::{Body, Call, Head};
use crate::proto::web::session::{Answer, Asked, Batch};
use crate::proto::web::token::{self, Name};

/// How long a poll waits for something to tell.
const POLL: Duration = Duration::from_secs(25);
/// Bytes of a hello at most.
const HELLO_MAX: u64 = 64;

const OCTETS: &str = "Content-Type: application/octet-stream\r\n";

/// What a call comes to.
enum Reply {
    /// The same as for everybody; why.
    Nothing(&'static str),
    /// Not now; why.
    Busy(&'static str),
    Is(&'static str, String, Arc<Batch>),
    /// What waited for the app, with the new cursor.
    Batch(u64, Handed),
    /// The web server has gone.
    Gone,
}

impl Reply {
    fn empty(fields: String) -> Self {
        Self::Is("204 No Content", fields, Arc::default())
    }
}

/// Answers a request, and says whether the connection is of use for another.
pub(super) async fn answer(shared: &Arc<Shared>, connection: &mut Connection, request: Request, peer: IpAddr) -> bool {
    let Request::Head(head) = request else { return connection.nothing(false).await };
    let keeps_alive = head.keeps_alive;
    let mut is_read = head.body == Body::Length(0);
    let Some(wanted) = &head.call else { return connection.nothing(is_read && keeps_alive).await };
    let client = head.forwarded_for.map_or(peer, |ip| ip.to_canonical());
    let reply = match wanted {
        Call::Socket { session, protocol, accept } => match take_socket(shared, session) {
            Some(link) => {
                // For as long as the app is there; other calls take less.
                Box::pin(socket::serve(shared, connection, &link, (protocol, accept))).await;
                return false;
            }
            None => Reply::Nothing("session"),
        },
        Call::Page => page(shared, client),
        Call::Create(bootstrap) => Box::pin(create(shared, connection, &head, (bootstrap, client), &mut is_read)).await,
        Call::Delete(session) => delete(shared, session),
        Call::Up(session, number) => Box::pin(up(shared, connection, &head, (session, *number), &mut is_read)).await,
        Call::Down(session, cursor) => down(shared, connection, session, *cursor).await,
    };
    let done = match reply {
        Reply::Gone => false,
        Reply::Nothing(reason) => {
            refused(shared, client, reason);
            return connection.nothing(is_read && keeps_alive).await;
        }
        Reply::Busy(reason) => {
            refused(shared, client, reason);
            connection.later(is_read).await
        }
        Reply::Is(status, fields, body) => connection.reply(status, &fields, &body).await,
        Reply::Batch(cursor, batch) => {
            let fields = format!("{OCTETS}X-Down-Cursor: {cursor}\r\n");
            connection.reply("200 OK", &fields, &batch).await
        }
    };
    done && keeps_alive
}

fn page(shared: &Shared, client: IpAddr) -> Reply {
    let (config, web) = (shared.config(), &shared.web);
    if shared.lists.refusal(client).is_some() {
        return Reply::Nothing("list");
    }
    if web.is_draining() {
        return Reply::Busy("shutdown");
    }
    if !web.may(|rates| &mut rates.pages) {
        return Reply::Nothing("rate");
    }
    let (mut noise, mut nonce) = ([0; 12], [0; 18]);
    random::fill(&mut noise);
    random::fill(&mut nonce);
    let bootstrap = web.bootstrap.issue(web.now(), noise);
    let carrier = config.web.carrier.as_str();
    let page = Page { site: &web.site(), bootstrap: &bootstrap, carrier, batch_limit: web.batch_len, nonce };
    let (fields, text) = page.write();
    Reply::Is("200 OK", fields, Arc::new(vec![text.into_bytes().into()]))
}

/// Makes a session, or finds the one that was made with the same token: an answer may get lost.
async fn create(
    shared: &Arc<Shared>,
    connection: &mut Connection,
    head: &Head,
    (bootstrap, client): (&str, IpAddr),
    is_read: &mut bool,
) -> Reply {
    let web = &shared.web;
    if !web.bootstrap.accepts(bootstrap, web.now()) {
        return Reply::Nothing("bootstrap");
    }
    if matches!(head.body, Body::Length(length) if length > HELLO_MAX) {
        return Reply::Nothing("hello");
    }
    match connection.body(head, &mut Reservation::new(&web.account)).await {
        Ok(body) if body == HELLO => *is_read = true,
        Ok(_) => {
            *is_read = true;
            return Reply::Nothing("hello");
        }
        Err(NoBody::NoRoom) => return Reply::Busy("memory"),
        Err(NoBody::Bad) => return Reply::Nothing("hello"),
        Err(NoBody::Late) => return Reply::Busy("body"),
        Err(NoBody::Gone) => return Reply::Gone,
    }
    if shared.lists.refusal(client).is_some() {
        return Reply::Nothing("list");
    }
    let mut links = web.lock_links();
    let link = match links.values().find(|link| link.bootstrap == bootstrap) {
        Some(link) if link.lock().is_over() => return Reply::Nothing("session"),
        Some(link) => link.clone(),
        None => {
            if web.is_draining() {
                return Reply::Busy("shutdown");
            }
            if !web.may(|rates| &mut rates.sessions) {
                return Reply::Busy("rate");
            }
            if links.len() >= web.sessions_max && !web.make_room(&mut links) {
                return Reply::Busy("sessions");
            }
            let mut bytes = [0; 32];
            random::fill(&mut bytes);
            let token = base64url::encode(&bytes);
            let Some(name) = token::name(&token) else { return Reply::Nothing("session") };
            let carrier = shared.config().web.carrier;
            let batches = (carrier, web.portion_of(carrier));
            let link = Link::new(batches, (bootstrap.to_owned(), token), client, &web.account, &shared.recorder);
            let link = Arc::new(link);
            links.insert(name, link.clone());
            link
        }
    };
    link.see(web.now());
    let (token, mode) = (&link.token, link.carrier.as_str());
    let fields = format!("{OCTETS}X-Session-Token: {token}\r\nX-Down-Cursor: 0\r\nX-Carrier-Mode: {mode}\r\n");
    Reply::Is("200 OK", fields, Arc::new(vec![WELCOME.to_vec().into()]))
}

fn find(shared: &Shared, session: &Name) -> Option<Arc<Link>> {
    shared.web.lock_links().get(session).cloned()
}

/// A session that is carried that way.
fn carried(shared: &Shared, session: &Name, carrier: Carrier) -> Option<Arc<Link>> {
    let link = find(shared, session).filter(|link| link.carrier == carrier && !link.lock().is_over())?;
    link.see(shared.web.now());
    Some(link)
}

fn take_socket(shared: &Shared, session: &Name) -> Option<Arc<Link>> {
    carried(shared, session, Carrier::Websocket).filter(|link| link.take_socket())
}

fn delete(shared: &Shared, session: &Name) -> Reply {
    let Some(link) = find(shared, session) else { return Reply::Nothing("session") };
    if link.end() {
        link.see(shared.web.now());
    }
    Reply::empty(String::new())
}

async fn up(
    shared: &Arc<Shared>,
    connection: &mut Connection,
    head: &Head,
    (session, number): (&Name, u64),
    is_read: &mut bool,
) -> Reply {
    let Some(link) = carried(shared, session, Carrier::Https) else { return Reply::Nothing("session") };
    let mut memory = Reservation::new(&shared.web.account);
    let body = match connection.body(head, &mut memory).await {
        Ok(body) => body,
        Err(NoBody::NoRoom) => {
            // A web server that is cut off while it sends would show an error of its own in place of our answer.
            *is_read = connection.skip(head).await;
            return Reply::Busy("memory");
        }
        Err(NoBody::Bad) => return Reply::Nothing("body"),
        // A phone that has no line for a while: it sends the same once more.
        Err(NoBody::Late) => return Reply::Busy("body"),
        Err(NoBody::Gone) => return Reply::Gone,
    };
    *is_read = true;
    let mut hasher = DefaultHasher::new();
    hasher.write(&body);
    let print = hasher.finish();
    memory.release();
    match apply(shared, &link, &body, Some((number, print))) {
        Applied::Yes(wait) => {
            drop(body);
            deadline::rest(wait).await;
            Reply::empty(format!("X-Up-Ack: {number}\r\n"))
        }
        Applied::NoRoom => Reply::Busy("memory"),
        Applied::Violation => Reply::Nothing("violation"),
    }
}

async fn down(shared: &Shared, connection: &Connection, session: &Name, cursor: u64) -> Reply {
    let Some(link) = carried(shared, session, Carrier::Https) else { return Reply::Nothing("session") };
    let asked = link.lock().ask(cursor, shared.web.millis());
    let ticket = match asked {
        Ok(Asked::Next(ticket)) => ticket,
        Ok(Asked::Again(batch)) => return Reply::Batch(cursor + 1, Handed::new(link, batch)),
        Err(_) => {
            link.end();
            return Reply::Nothing("violation");
        }
    };
    let next = poll_fn(|context| link.lock().poll_batch(ticket, (link.allowance(), shared.web.millis()), context));
    let next = async { Some(next.await) };
    let gone = async {
        connection.gone().await;
        None
    };
    let answer = deadline::within(POLL, next.or(gone)).await;
    link.see(shared.web.now());
    match answer {
        Some(None) => Reply::Gone,
        Some(Some(Answer::Batch(batch))) => Reply::Batch(cursor + 1, Handed::new(link, batch)),
        Some(Some(Answer::Over)) => Reply::Nothing("session"),
        None | Some(Some(Answer::Replaced)) => Reply::empty(format!("X-Down-Cursor: {cursor}\r\n")),
    }
}
