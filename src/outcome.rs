//! How every connection ends. One word serves log, metrics and tests.

use crate::proto::reason::Reason;

/// The end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// Not admitted: as many connections as there may be.
    ConcurrencyLimited,
    /// Its address had as many undecided connections as it may have, and it was the oldest of them.
    AddressLimited,
    /// Not admitted: only load balancers that are trusted may connect, and this is none of them.
    UntrustedBalancer,
    /// A load balancer that said nothing of where the connection comes from, or nothing that makes sense.
    BadProxyHeader,
    /// Not admitted: on the list of those who may not connect.
    Blocklisted,
    /// Not admitted: not on the list of those who may connect.
    NotAllowlisted,
    /// Went away at once, or broke the connection, without having sent a byte.
    Silent,
    /// Gave its place to a newcomer: all of the strangers' were taken.
    Evicted,
    /// Relayed to the front until both were done.
    Fronted(Stranger),
    /// Meant for the front, which could not be reached.
    FrontUnreachable(Stranger),
    /// A client that went away, or sent nothing, between our reply and its obfuscated2 frame.
    HandshakeAborted,
    /// A client that sent rubbish after our reply.
    BadClient(Reason),
    /// A client that asked for a DC that does not exist.
    UnknownDc,
    /// No address of the DC could be reached in time.
    DcUnreachable,
    /// The client went away while we connected to the DC.
    ClientLeft,
    /// Relayed to the DC until both were done.
    Served,
    /// Relayed, then the client's end broke.
    ClientReset,
    /// Relayed, then the client acknowledged nothing for too long: it sleeps, is in a tunnel, or has another address.
    ClientTimeout,
    /// Relayed, then the other end broke.
    RemoteReset,
    /// Relayed, then the other end acknowledged nothing for too long.
    RemoteTimeout,
    /// Relayed, then nothing moved for too long.
    Idle,
    /// Cut when the proxy stopped.
    Shutdown,
    /// The system had no resources for it.
    NoResources,
}

/// Why a connection went to the front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stranger {
    /// Its hello is not a client's.
    Rejected(Reason),
    /// On the list of those who may not connect, and it shall not see that.
    Blocklisted,
    /// Not on the list of those who may connect, and it shall not see that.
    NotAllowlisted,
    /// Its address had as many undecided connections as it may have, it was the oldest of them, and it shall not see
    /// that.
    AddressLimited,
    /// It has said nothing until the front ended the connection, or it did itself.
    Silent,
    /// Its hello did not become complete in time.
    Slow,
    /// It ended its side in the middle of a hello.
    Incomplete,
}

impl Outcome {
    /// One word for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ConcurrencyLimited => "concurrency_limited",
            Self::AddressLimited => "address_limited",
            Self::UntrustedBalancer => "untrusted_balancer",
            Self::BadProxyHeader => "bad_proxy_header",
            Self::Blocklisted => "blocklisted",
            Self::NotAllowlisted => "not_allowlisted",
            Self::Silent => "silent",
            Self::Evicted => "evicted",
            Self::Fronted(stranger) => stranger.as_str(),
            Self::FrontUnreachable(_) => "front_unreachable",
            Self::HandshakeAborted => "handshake_aborted",
            Self::BadClient(reason) => reason.as_str(),
            Self::UnknownDc => "unknown_dc",
            Self::DcUnreachable => "dc_unreachable",
            Self::ClientLeft => "client_left",
            Self::Served => "served",
            Self::ClientReset => "client_reset",
            Self::ClientTimeout => "client_timeout",
            Self::RemoteReset => "remote_reset",
            Self::RemoteTimeout => "remote_timeout",
            Self::Idle => "idle",
            Self::Shutdown => "shutdown",
            Self::NoResources => "no_resources",
        }
    }
}

impl Stranger {
    /// One word for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rejected(reason) => reason.as_str(),
            Self::Blocklisted => "blocklisted",
            Self::NotAllowlisted => "not_allowlisted",
            Self::AddressLimited => "address_limited",
            Self::Silent => "silent",
            Self::Slow => "slow_hello",
            Self::Incomplete => "incomplete_hello",
        }
    }
}
