//! A connection to a server, with or without TLS, for one task that asks and then listens.

use std::io;
use std::net::TcpStream;

use async_io::Async;
use futures_lite::AsyncReadExt as _;

#[cfg(feature = "tls")]
use super::tls::TlsStream;
use super::turn;

/// A connected stream.
pub(crate) enum Stream {
    Plain(Async<TcpStream>),
    #[cfg(feature = "tls")]
    Tls(Box<TlsStream>),
}

impl Stream {
    /// Takes a connected socket as it is.
    ///
    /// # Errors
    /// What the system says about the socket.
    pub(crate) fn plain(socket: TcpStream) -> io::Result<Self> {
        Ok(Self::Plain(Async::new(socket)?))
    }

    /// Does the handshake with the server that goes by the name of `host`, or has it as its address.
    ///
    /// # Errors
    /// `Unsupported` in a build without TLS, `InvalidData` for a server that is not the one wanted, and those of the
    /// socket.
    #[cfg(feature = "tls")]
    pub(crate) async fn tls(socket: TcpStream, host: &str) -> io::Result<Self> {
        Ok(Self::Tls(Box::new(TlsStream::connect(Async::new(socket)?, host).await?)))
    }

    /// As above.
    #[cfg(not(feature = "tls"))]
    #[expect(clippy::unused_async, reason = "the same signature as with TLS")]
    pub(crate) async fn tls(_: TcpStream, _: &str) -> io::Result<Self> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "this build has no TLS, take the mtg-tls build"))
    }

    /// Waits for bytes; 0 is the end.
    ///
    /// # Errors
    /// Those of the socket; with TLS also `UnexpectedEof` for an end that the server did not announce.
    pub(crate) async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => turn::take(socket.read(buffer)).await,
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.read(buffer).await,
        }
    }

    /// Waits until `buffer` is full.
    ///
    /// # Errors
    /// As for [`Stream::read`]; `UnexpectedEof` if the end comes first.
    pub(crate) async fn read_exact(&mut self, mut buffer: &mut [u8]) -> io::Result<()> {
        while !buffer.is_empty() {
            let count = self.read(buffer).await?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            buffer = buffer.get_mut(count..).unwrap_or_default();
        }
        Ok(())
    }

    /// Sends everything.
    ///
    /// # Errors
    /// Those of the socket.
    pub(crate) async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(socket) => turn::write_all(socket, bytes).await,
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.write_all(bytes).await,
        }
    }
}
