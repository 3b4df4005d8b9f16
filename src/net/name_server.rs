//! Asking one name server: over UDP and TCP (RFC 1035), TLS (RFC 7858) or HTTPS (RFC 8484).

use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
#[cfg(feature = "tls")]
use std::pin::Pin;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use async_io::{Async, Timer};
use futures_lite::FutureExt as _;

use super::connect::Dialer;
use super::deadline;
#[cfg(feature = "tls")]
use super::http::{self, Request, Wanted};
use super::stream::Stream;
use super::turn;
use crate::proto::dns::{self, Addresses, Family, Fault};
#[cfg(feature = "tls")]
use crate::proto::url::Url;

/// How long an answer over UDP is waited for in all.
#[cfg(feature = "tls")]
const HTTP_2_ADVICE: &str =
    "it may insist on HTTP/2, which mtg does not speak: set network.dns to tls:// or udp:// and the same address";
pub(super) const UDP_PATIENCE: Duration = Duration::from_secs(5);
/// The fifths of that after which the question is sent again, and in the end given up.
const UDP_FIFTHS: [u32; 3] = [1, 2, 2];
/// More than the 512 bytes that a server may send to whoever does not ask for more.
const UDP_MAX: usize = 1500;
/// How long half an answer is used, that of one family without the other.
const HALF_TTL: Duration = Duration::from_secs(60);
/// How long the second family is waited for when the first has answered.
const SECOND_FAMILY: Duration = Duration::from_millis(300);
/// For one attempt to connect.
const CONNECT: Duration = Duration::from_secs(4);
/// The longest message over HTTPS, bytes; the same as over TCP.
#[cfg(feature = "tls")]
const MESSAGE_MAX: u64 = 0xffff;

/// A name server.
pub(super) enum NameServer {
    Udp {
        address: SocketAddr,
        patience: Duration,
    },
    #[cfg(feature = "tls")]
    Tls(Secured),
    #[cfg(feature = "tls")]
    Https(Secured, Url),
}

/// A server whose certificate counts.
#[cfg(feature = "tls")]
pub(super) struct Secured {
    /// A name or an address.
    host: String,
    port: u16,
    bootstrap: Box<dyn Bootstrap>,
}

/// Knows the address of a name server that is given by its name.
#[cfg(feature = "tls")]
pub(super) trait Bootstrap: Send + Sync {
    fn addresses<'a>(&'a self, host: &'a str) -> Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send + 'a>>;

    /// Goes on with what `addresses` has broken off; never ends.
    fn ask_again<'a>(&'a self) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>;
}

impl NameServer {
    /// The addresses of `name` that are of one family. It takes as long as it takes: the caller has a deadline.
    ///
    /// # Errors
    /// `InvalidInput` for what is no name, `NotFound` for a name that does not exist, and whatever keeps the server
    /// from answering.
    async fn ask(&self, name: &str, family: Family) -> io::Result<Addresses> {
        let mut id = [0; 2];
        // Within TLS nobody forges, and RFC 8484 section 4.1 wants 0 for the sake of caches.
        let is_forgeable = matches!(self, Self::Udp { .. });
        if is_forgeable {
            getrandom::fill(&mut id).map_err(io::Error::other)?;
        }
        let question = dns::question(u16::from_be_bytes(id), name, family)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "this is no name that DNS can carry"))?;
        match self {
            Self::Udp { address, patience } => over_udp(*address, *patience, &question).await,
            #[cfg(feature = "tls")]
            Self::Tls(server) => over_stream(&mut server.connect().await?, &question).await,
            #[cfg(feature = "tls")]
            Self::Https(server, url) => over_https(&mut server.connect().await?, url, &question).await,
        }
    }

    /// Asks for both families at once. Neither has to wait for a server that answers for the other only.
    pub(super) async fn ask_both(&self, name: &str) -> io::Result<Addresses> {
        let (v6, v4) = both(self.ask(name, Family::V6), self.ask(name, Family::V4)).await;
        match (v6, v4) {
            (Some(Ok(v6)), Some(Ok(v4))) => {
                // A family without addresses says nothing about how long that is so.
                let ttls = [&v6, &v4].into_iter().filter(|found| !found.ips.is_empty()).map(|found| found.ttl);
                let ttl = ttls.min().unwrap_or_default();
                existing(Addresses { ips: [v6.ips, v4.ips].concat(), ttl })
            }
            (Some(Ok(half)), _) | (_, Some(Ok(half))) if !half.ips.is_empty() => {
                Ok(Addresses { ttl: half.ttl.min(HALF_TTL), ips: half.ips })
            }
            (Some(Err(error)), _) | (_, Some(Err(error))) => Err(error),
            _ => Err(no_address()),
        }
    }
}

fn existing(addresses: Addresses) -> io::Result<Addresses> {
    if addresses.ips.is_empty() { Err(no_address()) } else { Ok(addresses) }
}

fn no_address() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "the name has no address")
}

type Answered = io::Result<Addresses>;

/// Waits for both, for the second not long if the first has brought addresses.
async fn both(
    first: impl Future<Output = Answered>,
    second: impl Future<Output = Answered>,
) -> (Option<Answered>, Option<Answered>) {
    let (mut first, mut second) = (pin!(first), pin!(second));
    let (mut results, mut patience) = ((None, None), None::<Timer>);
    poll_fn(|context| {
        if results.0.is_none()
            && let Poll::Ready(result) = first.as_mut().poll(context)
        {
            results.0 = Some(result);
        }
        if results.1.is_none()
            && let Poll::Ready(result) = second.as_mut().poll(context)
        {
            results.1 = Some(result);
        }
        let has_addresses = |result: &Option<Answered>| matches!(result, Some(Ok(found)) if !found.ips.is_empty());
        match &results {
            (Some(_), Some(_)) => return Poll::Ready(()),
            (one, other) if !has_addresses(one) && !has_addresses(other) => return Poll::Pending,
            _ => {}
        }
        let timer = patience.get_or_insert_with(|| Timer::after(SECOND_FAMILY));
        timer.poll(context).map(drop)
    })
    .await;
    results
}

/// A new socket for each question: its port is as random as the id.
async fn over_udp(server: SocketAddr, patience: Duration, question: &[u8]) -> io::Result<Addresses> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = Async::<UdpSocket>::bind((any, 0))?;
    // The kernel drops what comes from elsewhere, and tells when nobody listens there.
    socket.get_ref().connect(server)?;
    for fifths in UDP_FIFTHS {
        let wait = patience / 5 * fifths;
        socket.send(question).await?;
        match deadline::within(wait, answer_over_udp(&socket, question)).await {
            Some(Ok(Err(Fault::Truncated))) => return over_tcp(server, question).await,
            Some(answer) => return answer?.map_err(explained),
            None => {}
        }
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, "the name server does not answer"))
}

async fn answer_over_udp(socket: &Async<UdpSocket>, question: &[u8]) -> io::Result<Result<Addresses, Fault>> {
    let mut message = vec![0; UDP_MAX];
    loop {
        let length = turn::take(socket.recv(&mut message)).await?;
        match dns::answer(message.get(..length).unwrap_or_default(), question) {
            Err(Fault::NotOurs) => {}
            answer => return Ok(answer),
        }
    }
}

async fn over_tcp(server: SocketAddr, question: &[u8]) -> io::Result<Addresses> {
    let (socket, _) = Dialer::brief().connect(vec![server], CONNECT).await?;
    over_stream(&mut Stream::plain(socket)?, question).await
}

/// Each message has its length in front: length (2) | message.
async fn over_stream(stream: &mut Stream, question: &[u8]) -> io::Result<Addresses> {
    let length = u16::try_from(question.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), question].concat()).await?;
    let mut length = [0; 2];
    stream.read_exact(&mut length).await?;
    let mut message = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut message).await?;
    dns::answer(&message, question).map_err(explained)
}

#[cfg(feature = "tls")]
async fn over_https(stream: &mut Stream, url: &Url, question: &[u8]) -> io::Result<Addresses> {
    const TYPE: &str = "application/dns-message";
    let request = Request {
        method: "POST",
        url,
        fields: vec![("Content-Type", TYPE), ("Accept", TYPE)],
        body: Some(question),
        wanted: Wanted::Found,
        body_max: MESSAGE_MAX,
        patience: CONNECT,
    };
    let mut message = Vec::new();
    let head = http::exchange(stream, &request, &mut http::keep(&mut message)).await;
    // Who speaks HTTP/2 alone closes, or answers in it.
    let advised = |error| io::Error::other(format!("{error}; {HTTP_2_ADVICE}"));
    match head.map_err(advised)?.status {
        200 => dns::answer(&message, question).map_err(explained),
        // Quad9 says 400, others 426 or 505.
        status @ (400 | 426 | 505) => {
            Err(io::Error::other(format!("the name server refuses HTTP/1.1 (status {status}); {HTTP_2_ADVICE}")))
        }
        status => Err(io::Error::other(format!("the name server answers with status {status}"))),
    }
}

#[cfg(feature = "tls")]
impl Secured {
    pub(super) fn new(host: String, port: u16, bootstrap: Box<dyn Bootstrap>) -> Self {
        Self { host, port, bootstrap }
    }

    /// Learns its own address anew, though nobody waits for it; never ends.
    pub(super) async fn ask_again(&self) {
        self.bootstrap.ask_again().await;
    }

    async fn connect(&self) -> io::Result<Stream> {
        let ips = self.bootstrap.addresses(&self.host).await?;
        let addresses = ips.into_iter().map(|ip| SocketAddr::new(ip, self.port)).collect();
        let (socket, _) = Dialer::brief().connect(addresses, CONNECT).await?;
        Stream::tls(socket, &self.host).await
    }
}

fn explained(fault: Fault) -> io::Error {
    let kind = if fault == Fault::NoSuchName { io::ErrorKind::NotFound } else { io::ErrorKind::InvalidData };
    io::Error::new(kind, fault.to_string())
}
