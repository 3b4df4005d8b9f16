//! Connecting through a SOCKS5 proxy.

use std::fmt;
use std::io;
use std::net::TcpStream;

use async_io::Async;
use futures_lite::AsyncReadExt as _;

use super::turn;
use crate::proto::socks5::{Dialogue, Refusal, Step};

/// Why there is no connection.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The stream to the proxy broke.
    Io(io::Error),
    /// The proxy said no.
    Refused(Refusal),
}

/// Asks the proxy at the other end of `stream` to connect it to `host`, an IP address or a name, and `port`.
///
/// It waits for as long as the proxy does; not a byte of the target's is taken from the stream.
pub(crate) async fn negotiate(
    stream: TcpStream,
    credentials: Option<(&str, &str)>,
    host: &str,
    port: u16,
) -> Result<TcpStream, Fault> {
    let mut dialogue = Dialogue::new(credentials, host, port)?;
    let mut stream = Async::new(stream)?;
    let mut received = Vec::new();
    while let Step::Exchange { send, receive } = dialogue.next(&received)? {
        turn::write_all(&stream, &send).await?;
        received.resize(receive, 0);
        turn::take(stream.read_exact(&mut received)).await?;
    }
    Ok(stream.into_inner()?)
}

impl Fault {
    /// Whether the proxy does not want us, whatever we ask for.
    pub(crate) fn is_about_the_login(&self) -> bool {
        matches!(self, Self::Refused(refusal) if !matches!(refusal, Refusal::Reply(_)))
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => f.write_str("it closed the connection"),
            Self::Io(error) => error.fmt(f),
            Self::Refused(refusal) => refusal.fmt(f),
        }
    }
}
