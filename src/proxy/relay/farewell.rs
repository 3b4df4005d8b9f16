//! The end of a connection that our reply has gone out on and that is no client's after all, or no more: what the front
//! does to somebody whose next words it cannot decrypt.

use std::io::{Read, Write as _};
use std::net::TcpStream;

use crate::guard::front_profile::Farewell;
use crate::net::sockopts::reset_on_close;
use crate::proto::tls::{RecordHeader, SEALED_ALERT, content_type};
use crate::proxy::random;

/// Bytes that are read before the end at most; a socket that is closed with more unread resets the connection.
const UNREAD_MAX: usize = 64 << 10;
const CHUNK: usize = 1024;

/// Says what the front says; the socket is to be closed then. It is in non-blocking mode.
pub(in crate::proxy) fn end(mut client: &TcpStream, farewell: Farewell) {
    if farewell.has_alert {
        let mut sealed = [0; SEALED_ALERT];
        random::fill(&mut sealed);
        let length = u16::try_from(sealed.len()).unwrap_or_default();
        let header = RecordHeader::new(content_type::APPLICATION_DATA, length).encode();
        // A client that takes nothing any more misses nothing.
        let _ = client.write(&[&header, sealed.as_slice()].concat());
    }
    if farewell.is_reset {
        return reset_on_close(client);
    }
    // The end itself comes with the close: a server that has ended its side and still listens for a moment is another.
    let mut chunk = [0; CHUNK];
    for _ in 0..UNREAD_MAX / CHUNK {
        if !matches!(client.read(&mut chunk), Ok(1..)) {
            break;
        }
    }
}
