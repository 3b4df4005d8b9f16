//! A connection that has been admitted, and what is told of it.

pub(super) mod places;
pub(super) mod summary;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::event::{Connection, Door, Event, Observer, Route, Traffic};
use crate::net::connect::Dialer;
use crate::net::own_ends::OwnEnd;
use crate::outcome::{Outcome, Stranger};
use crate::proto::dc::DcId;
use crate::proto::reason::Reason;
use crate::proxy::Shared;
use crate::proxy::relay::{Cause, Watch};
use crate::proxy::visit::places::Place;
use crate::proxy::visit::summary::Summary;
use crate::stats::Stats;

/// Within this time, a DC that ends a connection without an answer is none.
const BARREN: Duration = Duration::from_secs(10);

/// What an act says: it has handed the visit on, or the visit comes back with the outcome that ends it.
pub(super) type HandedOn = Result<(), (Visit, Outcome)>;

/// Everybody who is told of events.
pub(in crate::proxy) struct Recorder {
    pub(in crate::proxy) stats: Stats,
    pub(in crate::proxy) summary: Summary,
    observer: Option<Arc<dyn Observer>>,
}

impl Recorder {
    pub(in crate::proxy) fn new(observer: Option<Arc<dyn Observer>>) -> Self {
        Self { stats: Stats::default(), summary: Summary::default(), observer }
    }

    /// Tells of a connection that gets no place.
    pub(in crate::proxy) fn refuse(&self, peer: SocketAddr, outcome: Outcome) {
        let client = peer.ip().to_canonical();
        self.record(&Event::Refused { client, outcome });
        log::debug!("connection refused ip={client} reason={}", outcome.as_str());
    }

    pub(in crate::proxy) fn record(&self, event: &Event) {
        self.stats.record(event);
        self.summary.record(event);
        if let Some(observer) = &self.observer {
            observer.observe(event);
        }
    }
}

/// A connection with a place: who it is, what it goes by, how far it has come. Every visit ends with [`Visit::end`].
pub(in crate::proxy) struct Visit {
    pub(in crate::proxy) id: u32,
    /// The client, or the load balancer until its header is read.
    pub(in crate::proxy) peer: SocketAddr,
    /// The address that the client connected to, if a load balancer says so.
    pub(in crate::proxy) connected_to: Option<SocketAddr>,
    /// Why it is to see the front and nothing else, if its address is refused.
    pub(in crate::proxy) shut_out: Option<Stranger>,
    /// The configuration at its start. A reload changes nothing for those who are here.
    pub(in crate::proxy) config: Arc<Config>,
    /// How far the client's clock is ahead of ours, seconds; none if nobody has said.
    skew_secs: Option<i64>,
    /// The DC that it asked for.
    pub(in crate::proxy) dc: Option<DcId>,
    /// Set while it is relayed to the front.
    pub(in crate::proxy) front_end: Option<OwnEnd>,
    door: Door,
    /// Who has reached Telegram, and where; it learns when that leads nowhere.
    pub(in crate::proxy) dialled: Option<(Arc<Dialer>, SocketAddr)>,
    route: Route,
    started: Instant,
    /// When it was last listened to during the handshake.
    pub(in crate::proxy) heard: Instant,
    pub(in crate::proxy) place: Place,
    recorder: Arc<Recorder>,
}

impl Visit {
    pub(in crate::proxy) fn new(shared: &Shared, peer: SocketAddr, place: Place, config: Arc<Config>) -> Self {
        Self {
            id: shared.next_id.fetch_add(1, Ordering::Relaxed),
            peer,
            connected_to: None,
            shut_out: None,
            config,
            skew_secs: None,
            dc: None,
            front_end: None,
            door: Door::FakeTls,
            dialled: None,
            route: Route::Undecided,
            started: Instant::now(),
            heard: Instant::now(),
            place,
            recorder: shared.recorder.clone(),
        }
    }

    /// It is a stream of the WEB proxy.
    pub(in crate::proxy) fn over_web(self) -> Self {
        Self { door: Door::Web, ..self }
    }

    /// It is known whose connection it is, and that address may have it.
    pub(in crate::proxy) fn start(&self) {
        self.recorder.record(&Event::Started(self.connection()));
    }

    /// It is not known whose it is, or that address may not have it.
    pub(in crate::proxy) fn refuse(self, outcome: Outcome) {
        self.recorder.refuse(self.peer, outcome);
    }

    /// When it was accepted.
    pub(in crate::proxy) fn started(&self) -> Instant {
        self.started
    }

    /// The client's address without the port, IPv4 as such.
    pub(in crate::proxy) fn ip(&self) -> IpAddr {
        self.peer.ip().to_canonical()
    }

    /// It has shown our secret, and a clock so far ahead of ours; a stream of the WEB proxy says nothing of that.
    pub(in crate::proxy) fn authenticated(&mut self, skew_secs: Option<i64>) {
        self.skew_secs = skew_secs;
        let skew_secs = skew_secs.unwrap_or_default();
        self.recorder.record(&Event::Authenticated { connection: self.connection(), skew_secs });
    }

    /// The hello was somebody else's, who is sent to the front.
    pub(in crate::proxy) fn fronting(&mut self, stranger: Stranger) {
        self.route = Route::Front;
        self.recorder.record(&Event::Fronting { connection: self.connection(), stranger });
    }

    /// The DC that was asked for, or its stand-in, has been reached there.
    pub(in crate::proxy) fn connected(&mut self, dc: DcId, address: SocketAddr) {
        self.route = Route::Telegram { dc, address };
        if let Some(skew_secs) = self.skew_secs {
            self.recorder.summary.note_clock(self.ip(), skew_secs);
        }
        self.recorder.record(&Event::Connected(self.connection()));
    }

    /// Tells of the end, writes the connection's line into the log and frees its place.
    pub(in crate::proxy) fn end(self, outcome: Outcome, traffic: Traffic) {
        let (connection, lasted) = (self.connection(), self.started.elapsed());
        self.recorder.record(&Event::Ended { connection, outcome, traffic, lasted });
        log::debug!(
            "connection ended conn={} ip={} dc={} reason={} bytes_in={} bytes_out={} ms={}",
            self.id,
            self.ip(),
            self.dc.map_or(0, DcId::number),
            outcome.as_str(),
            traffic.from_client,
            traffic.to_client,
            lasted.as_millis()
        );
    }

    /// A proxy that promises a connection and ends it, as some do that have no IPv6, shall be asked for another address
    /// when the client tries again.
    fn learn(&self, cause: Cause, traffic: Traffic) {
        let is_its_fault = match cause {
            Cause::RemoteReset => true,
            // A client that has said nothing may just have left.
            Cause::Finished => traffic.from_client > 0,
            _ => false,
        };
        if let Some((dialler, address)) = &self.dialled
            && is_its_fault
            && traffic.to_client == 0
            && self.started.elapsed() < BARREN
        {
            dialler.remember_failure(*address);
        }
    }

    /// Watches over the relay; `finished` is the outcome when both sides have said all they had to.
    pub(in crate::proxy) fn into_watch(self, finished: Outcome) -> Box<dyn Watch> {
        Box::new(Relayed { visit: self, finished })
    }

    fn connection(&self) -> Connection {
        Connection::new(self.id, self.peer, self.route).through(self.door)
    }
}

struct Relayed {
    visit: Visit,
    finished: Outcome,
}

impl Watch for Relayed {
    fn moved(&mut self, traffic: Traffic) {
        self.visit.place.moved();
        self.visit.recorder.record(&Event::Traffic { connection: self.visit.connection(), traffic });
    }

    fn ended(self: Box<Self>, cause: Cause, traffic: Traffic) {
        let outcome = match cause {
            Cause::Finished => self.finished,
            Cause::ClientReset => Outcome::ClientReset,
            Cause::ClientTimeout => Outcome::ClientTimeout,
            Cause::RemoteReset => Outcome::RemoteReset,
            Cause::RemoteTimeout => Outcome::RemoteTimeout,
            Cause::BadRecord | Cause::Alert => Outcome::BadClient(Reason::BadRecord),
            Cause::Idle => Outcome::Idle,
            Cause::Shutdown => Outcome::Shutdown,
            Cause::NoResources => Outcome::NoResources,
            Cause::Cut => Outcome::Evicted,
        };
        self.visit.learn(cause, traffic);
        self.visit.end(outcome, traffic);
    }
}
