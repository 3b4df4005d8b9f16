//! The entrance: from a connection that comes in to the verdict on whose it is.
//!
//! `listener` accepts and never waits for a peer, `admission` says who gets a place and reads a load balancer's PROXY
//! header, `handshake` listens to the peer until it is known whether it is a client.

pub(super) mod admission;
pub(super) mod handshake;
pub(super) mod listener;
