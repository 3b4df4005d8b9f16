//! The bytes of one stream on their way between a session and a DC.
//!
//! A future made by hand. An app keeps a dozen streams that say nothing for minutes, and async functions have room for
//! all that any of their steps may need, as long as they live: three times as much as this.

use std::future::Future;
use std::io::{self, ErrorKind};
use std::net::TcpStream;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use async_io::Async;
use futures_lite::AsyncWrite as _;
use rustix::io::Errno;

use super::SWEEP;
use super::link::Link;
use crate::event::Traffic;
use crate::net::turn;
use crate::proto::web::buffer::Bytes;
use crate::proto::web::ciphers::Ciphers;
use crate::proto::web::frame::HEADER;
use crate::proto::web::session::End;
use crate::proxy::relay::{Cause, Watch};

/// Time between two reports of traffic.
const REPORT: Duration = Duration::from_secs(15);

/// A stream whose DC is there. It is ready when one of the ends is done; dropped before, it was cut off.
pub(super) struct Flow {
    link: Arc<Link>,
    id: u32,
    dc: Async<TcpStream>,
    /// The DC has said all it had to, for now.
    is_drained: bool,
    ciphers: Ciphers,
    /// What is being sent to the DC, of which `sent` bytes are with it and `counted` are the app's.
    upload: Vec<u8>,
    sent: usize,
    counted: usize,
    reporter: Reporter,
}

impl Flow {
    /// `opening` is what the DC gets first: our frame and what the app has sent behind its own, `early` bytes. It may
    /// be `idle` for so long.
    pub(super) fn new(
        (link, id): (&Arc<Link>, u32),
        dc: Async<TcpStream>,
        ciphers: Ciphers,
        (opening, early): (Vec<u8>, usize),
        (watch, idle): (Box<dyn Watch>, Duration),
    ) -> Self {
        let turns = u16::try_from(idle.as_millis().div_ceil(SWEEP.as_millis())).unwrap_or(u16::MAX - 1);
        link.lock().may_rest(id, turns);
        let (is_drained, reporter) = (false, Reporter::new(watch));
        Self { link: link.clone(), id, dc, is_drained, ciphers, upload: opening, sent: 0, counted: early, reporter }
    }

    /// Tells of the end.
    pub(super) fn end(mut self, cause: Cause) {
        self.reporter.end(cause);
    }

    fn poll_upload(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.sent == self.upload.len() {
                self.count_upload();
                let next = self.link.lock().poll_upload(self.id, context);
                match next {
                    Poll::Ready(Some(bytes)) => {
                        self.upload = bytes;
                        (self.sent, self.counted) = (0, self.upload.len());
                        self.ciphers.to_dc.apply(&mut self.upload);
                    }
                    Poll::Ready(None) => return Poll::Ready(Ok(())),
                    Poll::Pending => {
                        self.ciphers.to_dc.rest();
                        return Poll::Pending;
                    }
                }
            }
            ready!(turn::poll(context));
            let rest = self.upload.get(self.sent..).unwrap_or_default();
            let count = ready!(Pin::new(&mut &self.dc).poll_write(context, rest))?;
            if count == 0 {
                return Poll::Ready(Err(ErrorKind::WriteZero.into()));
            }
            self.sent += count;
        }
    }

    /// The DC has taken what was sent to it.
    fn count_upload(&mut self) {
        // Nothing is held while nothing comes.
        self.upload = Vec::new();
        self.sent = 0;
        let counted = std::mem::take(&mut self.counted);
        if counted > 0 {
            self.link.lock().took(self.id, counted);
            self.reporter.moved(Traffic { from_client: counted as u64, to_client: 0 });
        }
    }

    fn poll_download(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.is_drained {
                let Poll::Ready(ready) = self.dc.poll_readable(context) else {
                    self.ciphers.rest_for_client();
                    return Poll::Pending;
                };
                ready?;
                self.is_drained = false;
            }
            let room = self.link.lock().poll_room(self.id, self.link.allowance(), context);
            let Some(room) = ready!(room) else { return Poll::Ready(Ok(())) };
            ready!(turn::poll(context));
            let mut frame = self.link.buffers().take();
            let payload = frame.get_mut(HEADER..).unwrap_or_default();
            let most = room.min(payload.len());
            match rustix::io::read(self.dc.get_ref(), payload.get_mut(..most).unwrap_or_default()) {
                Ok(0) => return Poll::Ready(Ok(())),
                Ok(payload) => self.take_download(frame.cut(HEADER + payload)),
                Err(Errno::AGAIN) => self.is_drained = true,
                Err(Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    /// Passes what a DC has said on, in a frame whose header is not written yet.
    fn take_download(&mut self, mut frame: Bytes) {
        let payload = frame.len().saturating_sub(HEADER);
        self.ciphers.for_client(frame.get_mut(HEADER..).unwrap_or_default());
        self.link.lock().send(self.id, frame);
        self.reporter.moved(Traffic { from_client: 0, to_client: payload as u64 });
    }
}

impl Future for Flow {
    type Output = Cause;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Cause> {
        let ended = match self.poll_upload(context) {
            Poll::Pending => self.poll_download(context),
            ended => ended,
        };
        match ended {
            Poll::Ready(Ok(())) => Poll::Ready(Cause::Finished),
            Poll::Ready(Err(_)) => Poll::Ready(Cause::RemoteReset),
            // The DC may take nothing and say nothing: then nobody else asks whether the stream is there.
            Poll::Pending => self.link.lock().poll_end(self.id, context).map(|end| match end {
                End::Over => Cause::Finished,
                End::Rested => Cause::Idle,
            }),
        }
    }
}

/// Tells of a stream's traffic and its end.
struct Reporter {
    watch: Option<Box<dyn Watch>>,
    traffic: Traffic,
    reported: Traffic,
    reported_at: Instant,
}

impl Reporter {
    fn new(watch: Box<dyn Watch>) -> Self {
        let (traffic, reported) = (Traffic::default(), Traffic::default());
        Self { watch: Some(watch), traffic, reported, reported_at: Instant::now() }
    }

    fn moved(&mut self, traffic: Traffic) {
        self.traffic.add(traffic);
        if self.reported_at.elapsed() >= REPORT {
            self.report();
        }
    }

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

impl Drop for Reporter {
    fn drop(&mut self) {
        self.end(Cause::Shutdown);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_at_rest_takes_little_more_than_its_two_keys() {
        let (flow, ciphers) = (size_of::<Flow>(), size_of::<Ciphers>());
        assert!(ciphers <= 128, "{ciphers}");
        assert!(flow <= 288, "{flow}");
    }
}
