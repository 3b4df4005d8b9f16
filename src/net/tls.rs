//! TLS 1.3 as a client, with rustls and ring. Who the server is, is always checked.
//!
//! The provider is our own and small: two suites, two groups and no signatures, for what is not named is not linked.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_io::Async;
use rustls::crypto::{CryptoProvider, GetRandomFailed, KeyProvider, SecureRandom, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::SigningKey;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::turn;
use crate::proto::tls::record_gaps::RecordGaps;

/// Where systems keep the authorities that they trust: Debian and OpenWrt (ca-bundle), Alpine and OpenWrt, Fedora.
const ROOTS: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/ssl/cert.pem", "/etc/pki/tls/certs/ca-bundle.crt"];
/// Names a file to use instead, as for Go's and OpenSSL's programs.
const ROOTS_VARIABLE: &str = "SSL_CERT_FILE";
/// How long the authorities are used before they are read again: a system that is updated needs no restart of ours.
const ROOTS_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// A connection after the handshake.
pub(crate) struct TlsStream {
    socket: Async<TcpStream>,
    connection: ClientConnection,
    /// The times between the server's records and their lengths, and when they began to be taken.
    gaps: Option<(RecordGaps, Instant)>,
}

impl TlsStream {
    /// Does the handshake; `host` is the name or the address that the certificate has to be for.
    ///
    /// # Errors
    /// `InvalidData` for everything that is wrong with the server, and those of the socket.
    pub(crate) async fn connect(socket: Async<TcpStream>, host: &str) -> io::Result<Self> {
        Self::handshake(socket, host, None).await
    }

    /// As above; the times between the records of the server's answer are taken, and the lengths of these.
    ///
    /// # Errors
    /// See [`TlsStream::connect`].
    pub(crate) async fn measuring(socket: Async<TcpStream>, host: &str) -> io::Result<Self> {
        let mut stream = Self::handshake(socket, host, Some((RecordGaps::default(), Instant::now()))).await?;
        if let Some((gaps, _)) = &mut stream.gaps {
            gaps.handshake_is_over();
        }
        Ok(stream)
    }

    /// What was measured: see [`RecordGaps::into_measured`].
    pub(crate) fn into_measured(self) -> (Vec<u32>, Vec<u16>) {
        self.gaps.map(|(gaps, _)| gaps.into_measured()).unwrap_or_default()
    }

    async fn handshake(socket: Async<TcpStream>, host: &str, gaps: Option<(RecordGaps, Instant)>) -> io::Result<Self> {
        let name = ServerName::try_from(host.to_owned()).map_err(invalid)?;
        let connection = ClientConnection::new(config()?, name).map_err(invalid)?;
        let mut stream = Self { socket, connection, gaps };
        while stream.connection.is_handshaking() {
            stream.flush().await?;
            if stream.connection.is_handshaking() {
                stream.receive().await?;
            }
        }
        stream.flush().await?;
        Ok(stream)
    }

    /// See [`super::stream::Stream::read`].
    pub(super) async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.connection.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.receive().await?,
                result => {
                    if let Some((gaps, _)) = &mut self.gaps {
                        gaps.count();
                    }
                    return result;
                }
            }
        }
    }

    /// See [`super::stream::Stream::write_all`].
    pub(super) async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            // It takes no more than its buffer holds.
            let count = self.connection.writer().write(bytes)?;
            bytes = bytes.get(count..).unwrap_or_default();
            self.flush().await?;
        }
        Ok(())
    }

    /// Takes in what has come, and answers what the protocol wants answered. The end of the socket is not an error
    /// here: the reader knows whether it was announced.
    async fn receive(&mut self) -> io::Result<()> {
        loop {
            turn::wait().await;
            let mut source = Measured { socket: self.socket.get_ref(), gaps: &mut self.gaps };
            match self.connection.read_tls(&mut source) {
                Ok(count) => {
                    let is_handshaking = self.connection.is_handshaking();
                    if let Err(error) = self.connection.process_new_packets() {
                        // The alert tells the server's owner what we did not like.
                        let _ = self.flush().await;
                        return Err(invalid(error));
                    }
                    if count == 0 && is_handshaking {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    return self.flush().await;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.socket.readable().await?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    async fn flush(&mut self) -> io::Result<()> {
        while self.connection.wants_write() {
            turn::wait().await;
            match self.connection.write_tls(&mut self.socket.get_ref()) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.socket.writable().await?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// The socket, with a look at what comes out of it.
struct Measured<'a> {
    socket: &'a TcpStream,
    gaps: &'a mut Option<(RecordGaps, Instant)>,
}

impl io::Read for Measured<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.socket.read(buffer)?;
        if let Some((gaps, started)) = self.gaps {
            let now = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
            gaps.read(buffer.get(..count).unwrap_or_default(), now);
        }
        Ok(count)
    }
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// The configuration of all connections; the authorities are read when they are first needed.
fn config() -> io::Result<Arc<ClientConfig>> {
    static KEPT: Mutex<Option<(Instant, Arc<ClientConfig>)>> = Mutex::new(None);
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((since, config)) = &*kept
        && since.elapsed() < ROOTS_AGE
    {
        return Ok(config.clone());
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(invalid)?;
    let mut config = builder.with_root_certificates(roots()).with_no_client_auth();
    // What asks goes to a server once in hours: a ticket would be of no use.
    config.resumption = rustls::client::Resumption::disabled();
    let config = Arc::new(config);
    *kept = Some((Instant::now(), config.clone()));
    Ok(config)
}

fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![
            ring::cipher_suite::TLS13_AES_128_GCM_SHA256,
            ring::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![ring::kx_group::X25519, ring::kx_group::SECP256R1],
        signature_verification_algorithms: ring::default_provider().signature_verification_algorithms,
        secure_random: &Random,
        key_provider: &NoKeys,
    }
}

/// The system's randomness.
#[derive(Debug)]
struct Random;

impl SecureRandom for Random {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), GetRandomFailed> {
        getrandom::fill(bytes).map_err(|_| GetRandomFailed)
    }
}

/// We never sign anything.
#[derive(Debug)]
struct NoKeys;

impl KeyProvider for NoKeys {
    fn load_private_key(&self, _: PrivateKeyDer<'static>) -> Result<Arc<dyn SigningKey>, rustls::Error> {
        Err(rustls::Error::General("there are no keys here".into()))
    }
}

/// The system's authorities; in a container without any, those that browsers trust.
fn roots() -> RootCertStore {
    let named = std::env::var_os(ROOTS_VARIABLE).map(Into::into);
    let files = named.into_iter().chain(ROOTS.map(std::path::PathBuf::from));
    let mut roots = RootCertStore::empty();
    for text in files.filter_map(|file| fs::read(file).ok()) {
        // A certificate that cannot be read is one that is not needed.
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&text).filter_map(Result::ok));
        if !roots.is_empty() {
            return roots;
        }
    }
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    roots
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_always_authorities() {
        assert!(roots().len() > 50);
        assert!(config().is_ok());
    }
}
