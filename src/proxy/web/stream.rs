//! One stream between a session and a DC.

use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_io::{Async, Timer};
use futures_lite::FutureExt as _;
use rustix::buffer::spare_capacity;

use super::Shared;
use super::link::Link;
use crate::event::Traffic;
use crate::net::{deadline, turn};
use crate::outcome::Outcome;
use crate::proto::handshake::{Link as Keys, Reason, Session};
use crate::proto::obfuscated2::{ClientFrame, FRAME_LEN};
use crate::proto::web::frame::HEADER;
use crate::proxy::Visit;
use crate::proxy::entrance::admission;
use crate::proxy::relay::{Cause, Watch};
use crate::proxy::telegram::dial;

/// How long an app may take for the frame that opens its stream.
const FRAME_LIMIT: Duration = Duration::from_secs(10);
/// What is received at first, bytes; it doubles as long as it is filled.
const RECEIVE_MIN: usize = 4 << 10;
/// What is received at once at most, bytes.
const RECEIVE_MAX: usize = 64 << 10;
/// Time between two reports of traffic.
const REPORT: Duration = Duration::from_secs(15);

/// Gives a stream that an app has opened a client's place and starts it, or refuses it.
pub(super) fn open(shared: &Arc<Shared>, link: &Arc<Link>, id: u32) {
    if !shared.web.may(|rates| &mut rates.opens) {
        return link.lock().refuse(id);
    }
    let peer = SocketAddr::new(link.client, 0);
    match admission::admit_stream(shared, peer) {
        Ok(visit) => {
            visit.start();
            shared.web.streams.fetch_add(1, Ordering::Relaxed);
            let counted = Counted(shared.clone());
            let (link, visit) = (link.clone(), Box::new(visit));
            shared.web.spawn(async move { serve(&counted.0, &link, id, visit).await });
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
async fn serve(shared: &Arc<Shared>, link: &Arc<Link>, id: u32, visit: Box<Visit>) {
    // In memory of its own, which is given back before the stream begins.
    match Box::pin(begin(shared, link, id, visit)).await {
        Ok((dc, keys, visit)) => {
            let idle = visit.config.network.timeout.idle;
            let told = Told::new(visit.into_watch(Outcome::Served), keys.opening_payload);
            let cause = relay(link, id, (dc, keys), (&told, idle)).await;
            link.lock().refuse(id);
            told.end(cause);
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
    link: &Link,
    id: u32,
    mut visit: Box<Visit>,
) -> Result<(TcpStream, Box<Keys>, Box<Visit>), (Box<Visit>, Outcome)> {
    let (frame, early) = match deadline::within(FRAME_LIMIT, opening(link, id)).await {
        Some(Some(opening)) => opening,
        _ => return Err((visit, Outcome::HandshakeAborted)),
    };
    let Some(frame) = ClientFrame::open(&frame, visit.config.secret.key()) else {
        return Err((visit, Outcome::BadClient(Reason::BadFrame)));
    };
    visit.authenticated();
    let session = Session::without_tls(frame, early);
    let over = poll_fn(|context| link.lock().poll_over(id, context));
    let dialled = async {
        let _turn = shared.web.dials.acquire().await;
        dial::connect(shared, &mut visit, session.dc(), over).await
    };
    match dialled.await {
        Ok((dc, number)) => {
            let keys = session.link(number, visit.config.fast_mode, &mut super::random::fill);
            Ok((dc, Box::new(keys), visit))
        }
        Err(outcome) => Err((visit, outcome)),
    }
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

/// Moves bytes both ways until one of the ends is done.
async fn relay(link: &Link, id: u32, (dc, mut keys): (TcpStream, Box<Keys>), (told, idle): (&Told, Duration)) -> Cause {
    let Ok(dc) = Async::new_nonblocking(dc) else { return Cause::NoResources };
    let Keys { client_to_dc, dc_to_client, opening, opening_payload } = &mut *keys;
    let upload = async {
        turn::write_all(&dc, opening).await?;
        *opening = Vec::new();
        link.lock().took(id, *opening_payload);
        while let Some(mut bytes) = poll_fn(|context| link.lock().poll_upload(id, context)).await {
            client_to_dc.recrypt(&mut bytes);
            turn::write_all(&dc, &bytes).await?;
            link.lock().took(id, bytes.len());
            told.moved(Traffic { from_client: bytes.len() as u64, to_client: 0 });
        }
        Ok(())
    };
    let download = async {
        let mut wanted = RECEIVE_MIN;
        while let Some(room) = poll_fn(|context| link.lock().poll_room(id, link.allowance(), context)).await {
            let most = room.min(wanted);
            let Some(mut frame) = receive(&dc, most).await? else { break };
            let payload = frame.len() - HEADER;
            wanted = if payload == most { (wanted * 2).min(RECEIVE_MAX) } else { RECEIVE_MIN };
            dc_to_client.recrypt(frame.get_mut(HEADER..).unwrap_or_default());
            link.lock().send(id, frame);
            told.moved(Traffic { from_client: 0, to_client: payload as u64 });
        }
        Ok(())
    };
    let idle = async {
        loop {
            Timer::after(idle).await;
            if told.was_idle() {
                return Cause::Idle;
            }
        }
    };
    let ends = async {
        let ended: io::Result<()> = upload.or(download).await;
        ended.map_or(Cause::RemoteReset, |()| Cause::Finished)
    };
    ends.or(idle).await
}

/// Receives at most so many bytes from a DC, behind room for a frame's header; none at the end.
async fn receive(dc: &Async<TcpStream>, most: usize) -> io::Result<Option<Vec<u8>>> {
    loop {
        turn::wait().await;
        let mut frame = Vec::with_capacity(HEADER + most);
        frame.extend([0; HEADER]);
        match rustix::io::read(dc.get_ref(), spare_capacity(&mut frame)).map_err(io::Error::from) {
            Ok(0) => return Ok(None),
            Ok(_) => return Ok(Some(frame)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                // Nothing is held while nothing comes.
                drop(frame);
                dc.readable().await?;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Tells of a stream's traffic and its end. One that is dropped was cut off.
struct Told(Mutex<Telling>);

struct Telling {
    watch: Option<Box<dyn Watch>>,
    traffic: Traffic,
    reported: Traffic,
    reported_at: Instant,
    has_moved: bool,
}

impl Told {
    fn new(watch: Box<dyn Watch>, opening: usize) -> Self {
        Self(Mutex::new(Telling {
            watch: Some(watch),
            traffic: Traffic { from_client: opening as u64, to_client: 0 },
            reported: Traffic::default(),
            reported_at: Instant::now(),
            has_moved: false,
        }))
    }

    fn moved(&self, traffic: Traffic) {
        let mut telling = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        telling.traffic.add(traffic);
        telling.has_moved = true;
        if telling.reported_at.elapsed() >= REPORT {
            telling.report();
        }
    }

    fn was_idle(&self) -> bool {
        !std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner).has_moved)
    }

    fn end(self, cause: Cause) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).end(cause);
    }
}

impl Telling {
    fn report(&mut self) {
        self.reported_at = Instant::now();
        let moved = self.traffic.since(self.reported);
        if moved != Traffic::default()
            && let Some(watch) = &mut self.watch
        {
            self.reported = self.traffic;
            watch.moved(moved);
        }
    }

    fn end(&mut self, cause: Cause) {
        self.report();
        if let Some(watch) = self.watch.take() {
            watch.ended(cause, self.traffic);
        }
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        self.end(Cause::Shutdown);
    }
}
