//! What happens to connections, as metrics, the log's summary and an embedding program see it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::outcome::{Outcome, Stranger};
use crate::proto::dc::DcId;

/// Sees every event that the metrics see.
///
/// It is called from several threads, the relay's among them, which wait for it: it must not block.
///
/// ```
/// use std::sync::atomic::{AtomicUsize, Ordering};
///
/// use mtg::{Event, Observer};
///
/// #[derive(Default)]
/// struct Replays(AtomicUsize);
///
/// impl Observer for Replays {
///     fn observe(&self, event: &Event) {
///         if matches!(event, Event::Fronting { stranger, .. } if stranger.as_str() == "replay") {
///             self.0.fetch_add(1, Ordering::Relaxed);
///         }
///     }
/// }
/// ```
pub trait Observer: Send + Sync + 'static {
    /// Takes note of an event.
    fn observe(&self, event: &Event);
}

/// Something that happened.
///
/// A connection's events come in this order: [`Started`](Event::Started), at most one of
/// [`Authenticated`](Event::Authenticated) and [`Fronting`](Event::Fronting), [`Connected`](Event::Connected) after
/// the former, any number of [`Traffic`](Event::Traffic), [`Ended`](Event::Ended).
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A connection got a place.
    Started(Connection),
    /// A connection got no place and was closed.
    Refused {
        /// Who it was.
        client: IpAddr,
        /// Why.
        outcome: Outcome,
    },
    /// A connection's hello was made with the secret, and it was answered.
    Authenticated {
        /// Which.
        connection: Connection,
        /// How far the client's clock is ahead of ours, seconds.
        skew_secs: i64,
    },
    /// A connection is not a client's and goes to the front.
    Fronting {
        /// Which.
        connection: Connection,
        /// Why.
        stranger: Stranger,
    },
    /// A client's connection reached Telegram; its route says where.
    Connected(Connection),
    /// Bytes were relayed since the last of these events. It comes every 15 seconds at most, and before the end.
    Traffic {
        /// Which connection.
        connection: Connection,
        /// How many.
        traffic: Traffic,
    },
    /// A connection that had a place is over.
    Ended {
        /// Which.
        connection: Connection,
        /// How.
        outcome: Outcome,
        /// All that was relayed.
        traffic: Traffic,
        /// How long it was there.
        lasted: Duration,
    },
    /// An app has made a session of the WEB proxy; its streams are connections.
    WebSessionStarted {
        /// Whose.
        client: IpAddr,
    },
    /// A session of the WEB proxy is over.
    WebSessionEnded {
        /// Whose.
        client: IpAddr,
    },
    /// A request to the WEB proxy that looked like an app's was refused.
    WebRefused {
        /// Who it was.
        client: IpAddr,
        /// Why, in one word.
        reason: &'static str,
    },
    /// A list of addresses was loaded, or a source of it is no longer configured.
    ListLoaded {
        /// Which.
        list: IpList,
        /// Addresses and networks in all of it now.
        entries: usize,
    },
}

/// A connection with a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Connection {
    /// Different for any two connections at the same time.
    pub id: u32,
    /// Who it is.
    pub client: SocketAddr,
    /// Where it goes.
    pub route: Route,
    /// How it came in.
    pub door: Door,
}

/// How a connection came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Door {
    /// As what looks like TLS; strangers come in here, too.
    FakeTls,
    /// As a stream of Telegram's WEB proxy.
    Web,
}

/// Where a connection goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Not known yet.
    Undecided,
    /// To the front.
    Front,
    /// To Telegram.
    Telegram {
        /// The data centre, after a fallback.
        dc: DcId,
        /// The address that was reached.
        address: SocketAddr,
    },
}

/// Payload bytes of a connection, as its far ends count them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// From the client to Telegram or the front.
    pub from_client: u64,
    /// From Telegram or the front to the client.
    pub to_client: u64,
}

/// A list of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpList {
    /// Those that may connect.
    Allow,
    /// Those that may not.
    Block,
}

impl Connection {
    pub(crate) fn new(id: u32, client: SocketAddr, route: Route) -> Self {
        Self { id, client, route, door: Door::FakeTls }
    }

    pub(crate) fn through(self, door: Door) -> Self {
        Self { door, ..self }
    }
}

impl Traffic {
    /// What was added since `earlier`.
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            from_client: self.from_client.saturating_sub(earlier.from_client),
            to_client: self.to_client.saturating_sub(earlier.to_client),
        }
    }

    /// Adds to it.
    pub(crate) fn add(&mut self, more: Self) {
        self.from_client = self.from_client.saturating_add(more.from_client);
        self.to_client = self.to_client.saturating_add(more.to_client);
    }
}

impl fmt::Display for IpList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "allowlist",
            Self::Block => "blocklist",
        })
    }
}
