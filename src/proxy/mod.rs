//! The story of a connection.
//!
//! ```text
//!  listener ─► admission ─► handshake ─────────► dial ─────► relay
//!              place,        │ not a client       │ no DC     client ⇄ DC
//!              PROXY header  └──────► front ──────┴─────────► relay
//!                                     client ⇄ front
//! ```
//! While a slow hello is not decided, a shadow connection keeps the front in the picture (`front::shadow`).
//!
//! `front::watch` asks the front from time to time how it answers, so that our own answer to a client looks the same.
//! `serve_client` awaits one act after the other; each hands on, or names the `Outcome` that ends the story. The
//! acts run as tasks on one executor; the relay has threads of its own.
//!
//! | wing | its part of the story |
//! |---|---|
//! | `entrance` | listener, admission, handshake: from `accept` to the verdict |
//! | `visit` | a connection that has a place, and what is told of it |
//! | `front` | strangers go to the web server, and our own answers are made after it |
//! | `telegram` | from the number of a DC to a connection with it |
//! | `relay` | the threads that move the bytes |
//! | `web` | the second door: streams within the requests of a web page |
//! | `upkeep` | what the acts need ready: lists, replays, reports, pages |
//!
//! A wing knows those below it only, as `tests/testsuite/layering.rs` makes sure; `Shared` is what all are given.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::cast_possible_truncation)
)]

mod advice;
mod entrance;
pub(crate) mod front;
mod memory;
mod random;
mod relay;
mod reload;
mod shared;
mod signal;
mod sockets;
mod start;
mod telegram;
pub(crate) mod upkeep;
mod visit;
mod web;

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_io::{Async, Timer};
use futures_lite::FutureExt as _;
use futures_lite::future::zip;
use smol::{Executor, Task};

use crate::config::Config;
use crate::event::Traffic;
use crate::net::turn;
use crate::stats::Figures;
use entrance::admission;
pub(crate) use entrance::admission::{connections_within, descriptors_for};
use entrance::handshake::{self, Verdict};
use entrance::listener::Listener;
pub(crate) use front::connect::is_ourselves;
use front::{splice, watch};
pub use reload::Reloaded;
use shared::Shared;
pub(crate) use sockets::{keep_alive, telegram_dialer};
pub use start::{Hooks, StartError};
use telegram::dial;
pub(crate) use telegram::dial::candidates;
pub use telegram::dial::{Dial, Dialled, Dialling};
pub(crate) use telegram::route::{Means, NoRoute, Routes};
use upkeep::reporting::Reporting;
use visit::Visit;

/// Time between two looks at what is still running.
const DRAIN_STEP: Duration = Duration::from_millis(50);

/// A running proxy.
///
/// Dropping it closes the listener and cuts every connection.
pub struct Proxy {
    executor: Arc<Executor<'static>>,
    listener: Listener,
    reporting: Reporting,
    shared: Arc<Shared>,
    /// Serves the WEB proxy, if there is one.
    web: Option<Task<()>>,
}

impl Proxy {
    /// Listens on the configured address and starts the relay's threads. Connections are served by
    /// [`Proxy::serve`].
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn new(config: Config) -> Result<Self, StartError> {
        Self::with(config, Hooks::default())
    }

    /// Does the same as [`Proxy::new`], with additions.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn with(config: Config, hooks: Hooks) -> Result<Self, StartError> {
        start::start(config, hooks)
    }

    /// The address that is listened on.
    ///
    /// # Errors
    /// What the system says about the socket.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The congestion control that clients get, by the name that the system gives it.
    pub(crate) fn congestion_control(&self) -> String {
        self.listener.congestion_control()
    }

    /// The numbers of the moment, and the time since the start.
    pub(crate) async fn figures(&self) -> (Figures, Duration) {
        self.shared.relay.report_now().await;
        (self.shared.recorder.stats.snapshot().figures(), self.shared.started.elapsed())
    }

    /// Accepts and serves connections for as long as the future is polled.
    pub async fn serve(&self) {
        let accept = self.listener.accept_forever(|socket, peer| {
            let shared = self.shared.clone();
            match admission::admit(&shared, peer) {
                Ok(visit) => self.executor.spawn(serve_client(shared, socket, visit)).detach(),
                Err(outcome) => {
                    advice::on_refusal(peer, outcome);
                    shared.recorder.refuse(peer, outcome);
                }
            }
        });
        let log = self.shared.recorder.summary.log_forever();
        let (watch, upkeep) = (watch::watch(&self.shared), upkeep::keep(&self.shared));
        self.executor.run(turn::first_over(vec![accept.boxed(), log.boxed(), watch.boxed(), upkeep.boxed()])).await;
    }

    /// Serves the connections that there are, without accepting new ones, until the last has ended, or for as long as
    /// `shutdown-grace` says; then closes everything.
    pub async fn shutdown(self) {
        let Self { executor, listener, reporting, shared, web } = self;
        drop(listener);
        let shares_ports = shared.config().network.reuse_port;
        if shares_ports {
            reporting.hand_over();
        }
        // Where another process answers, nobody comes to us any more; who has come stays.
        let web = web.filter(|_| !shares_ports);
        shared.web.drain();
        let deadline = Instant::now() + shared.config().shutdown_grace;
        let drained = async {
            while shared.places.total() > 0 && Instant::now() < deadline {
                Timer::after(DRAIN_STEP).await;
            }
        };
        let ended = async {
            // At once, for whoever has stopped us may not wait for the end.
            zip(drained, shared.replays.keep_at_stop()).await;
            // The last report has what the last connections did.
            drop(web);
            shared.web.stop().await;
            shared.relay.stop();
            reporting.finish().await;
            shared.replays.keep_at_stop().await;
        };
        executor.run(ended).await;
    }
}

/// The story of one connection, up to where the relay takes over.
async fn serve_client(shared: Arc<Shared>, client: Async<TcpStream>, mut visit: Visit) {
    if let Err(outcome) = admission::identify(&shared, &client, &mut visit).await {
        advice::on_refusal(visit.peer, outcome);
        return visit.refuse(outcome);
    }
    visit.start();
    let handed_on = match handshake::drive(&shared, &client, &mut visit).await {
        Verdict::Client(session) => dial::to_dc(&shared, client, *session, visit).await,
        Verdict::Stranger(visitor) => {
            visit.fronting(visitor.stranger);
            advice::on_unexpected_header(&visit, &visitor.received);
            splice::splice(&shared, client, visitor, visit).await
        }
        Verdict::Over(outcome) => Err((visit, outcome)),
    };
    if let Err((visit, outcome)) = handed_on {
        visit.end(outcome, Traffic::default());
    }
}
