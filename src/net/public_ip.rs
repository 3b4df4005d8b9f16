//! Under which addresses this machine can be reached from the internet: its own, if they are global, else what servers
//! out there see.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use async_io::Async;
use futures_lite::future::zip;

use super::connect::Dialer;
use super::deadline;
use super::fetch::{self, Connect, Connecting, Page, Validators};
use super::http;
use super::resolve::Resolver;
use super::turn;
use crate::proto::stun::{self, REQUEST_LEN};
use crate::proto::url::Url;

/// Addresses of the internet (the root name server A) to ask the kernel for a route to. Nothing is sent there.
const FAR_AWAY: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(198, 41, 0, 4), Ipv6Addr::new(0x2001, 0x0503, 0xba3e, 0, 0, 0, 2, 0x30));
/// How long each message to a STUN server is waited for before the next one is sent.
const STUN_WAITS: [Duration; 3] = [Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(1)];
/// For one page.
const PAGE_LIMIT: Duration = Duration::from_secs(5);
/// The longest page that may be an address, bytes.
const PAGE_MAX: u64 = 256;

/// An address of each family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ips {
    pub(crate) v4: Option<Ipv4Addr>,
    pub(crate) v6: Option<Ipv6Addr>,
}

/// Who can be asked.
pub(crate) struct Witnesses<'a> {
    /// STUN servers: name or address, and port.
    pub(crate) stun: &'a [(String, u16)],
    /// Pages that show the visitor's address and nothing else.
    pub(crate) pages: &'a [Url],
    pub(crate) resolver: &'a Resolver,
}

/// What was found out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PublicIps {
    /// Where the machine is reached.
    pub(crate) public: Ips,
    /// What it goes out with, global or not.
    pub(crate) own: Ips,
}

impl PublicIps {
    /// Whether the provider shares one IPv4 address among its customers (RFC 6598): nobody gets in by IPv4.
    pub(crate) fn is_behind_carrier_nat(&self) -> bool {
        self.own.v4.is_some_and(is_shared)
    }
}

/// The machine's own global addresses on which a listener at `bind_to` is reached. Nobody is asked.
pub(crate) fn own_global(bind_to: SocketAddr) -> Ips {
    global(own(bind_to))
}

/// The addresses on which a listener at `bind_to` is reached. Witnesses are asked for a family only if the machine has
/// no global address of it, one after the other until one knows or `patience` is over.
pub(crate) async fn look_up(bind_to: SocketAddr, witnesses: &Witnesses<'_>, patience: Duration) -> PublicIps {
    let own = own(bind_to);
    let mut public = global(own);
    let (is_v4_wanted, is_v6_wanted) = families(bind_to);
    let v4 = async {
        match public.v4 {
            None if is_v4_wanted => deadline::within(patience, witnesses.ask(true)).await.flatten(),
            known => known.map(IpAddr::V4),
        }
    };
    let v6 = async {
        match public.v6 {
            None if is_v6_wanted => deadline::within(patience, witnesses.ask(false)).await.flatten(),
            known => known.map(IpAddr::V6),
        }
    };
    let found = zip(v4, v6).await;
    for ip in [found.0, found.1].into_iter().flatten() {
        match ip {
            IpAddr::V4(ip) => public.v4 = Some(ip),
            IpAddr::V6(ip) => public.v6 = Some(ip),
        }
    }
    PublicIps { public, own }
}

impl Witnesses<'_> {
    async fn ask(&self, is_v4: bool) -> Option<IpAddr> {
        let believable = |ip: &IpAddr| ip.is_ipv4() == is_v4 && is_global(*ip);
        for (host, port) in self.stun {
            match self.ask_stun(host, *port, is_v4).await {
                Ok(ip) if believable(&ip) => return Some(ip),
                Ok(ip) => log::debug!("a STUN server tells a useless address server={host} ip={ip}"),
                Err(error) => log::debug!("a STUN server cannot be asked server={host} error={error}"),
            }
        }
        for url in self.pages {
            match self.ask_page(url, is_v4).await {
                Ok(ip) if believable(&ip) => return Some(ip),
                Ok(ip) => log::debug!("a page tells a useless address url={url} ip={ip}"),
                Err(error) => log::debug!("a page cannot be asked url={url} error={error}"),
            }
        }
        None
    }

    async fn ask_stun(&self, host: &str, port: u16, is_v4: bool) -> io::Result<IpAddr> {
        let ip = *self.ips(host, is_v4).await?.first().ok_or(io::ErrorKind::NotFound)?;
        let any = if is_v4 { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
        let socket = Async::<UdpSocket>::bind((any, 0))?;
        socket.get_ref().connect((ip, port))?;
        let mut transaction = [0; 12];
        getrandom::fill(&mut transaction).map_err(io::Error::other)?;
        let request = stun::request(transaction);
        for wait in STUN_WAITS {
            socket.send(&request).await?;
            if let Some(answer) = deadline::within(wait, stun_answer(&socket, &request)).await {
                return answer;
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    async fn ask_page(&self, url: &Url, is_v4: bool) -> io::Result<IpAddr> {
        let known = Validators::default();
        let page = Page { url, known: &known, patience: PAGE_LIMIT, limit: PAGE_LIMIT, size_max: PAGE_MAX };
        let mut text = Vec::new();
        let way = OneFamily { witnesses: self, is_v4 };
        let fetched = fetch::fetch(&way, &page, &mut http::keep(&mut text)).await;
        fetched.map_err(|error| io::Error::other(error.to_string()))?;
        let ip = String::from_utf8_lossy(&text).trim().parse::<IpAddr>();
        ip.map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "the page shows no address"))
    }

    /// The addresses of `host` that are of the family, or an error.
    async fn ips(&self, host: &str, is_v4: bool) -> io::Result<Vec<IpAddr>> {
        let mut ips = self.resolver.resolve(host).await?;
        ips.retain(|ip| ip.is_ipv4() == is_v4);
        Ok(ips)
    }
}

async fn stun_answer(socket: &Async<UdpSocket>, request: &[u8; REQUEST_LEN]) -> io::Result<IpAddr> {
    let mut response = vec![0; 1500];
    loop {
        let length = turn::take(socket.recv(&mut response)).await?;
        if let Some(address) = stun::mapped_address(response.get(..length).unwrap_or_default(), request) {
            return Ok(address.ip());
        }
    }
}

/// Connects to the addresses of one family only: a page tells the address that it was asked from.
struct OneFamily<'a> {
    witnesses: &'a Witnesses<'a>,
    is_v4: bool,
}

impl Connect for OneFamily<'_> {
    fn connect<'a>(&'a self, host: &'a str, port: u16) -> Connecting<'a> {
        Box::pin(async move {
            let ips = self.witnesses.ips(host, self.is_v4).await?;
            let addresses = ips.into_iter().map(|ip| SocketAddr::new(ip, port)).collect();
            let (socket, _) = Dialer::brief().connect(addresses, PAGE_LIMIT).await?;
            Ok(socket)
        })
    }
}

/// Which families a listener at `bind_to` serves. Something forwards to an address that is not global, and most likely it
/// owns the address that we go out with.
fn families(bind_to: SocketAddr) -> (bool, bool) {
    match bind_to.ip() {
        ip if is_global(ip) => (false, false),
        IpAddr::V4(_) => (true, false),
        IpAddr::V6(ip) => (ip.is_unspecified(), true),
    }
}

/// What the machine goes out with, in the families that a listener at `bind_to` serves.
fn own(bind_to: SocketAddr) -> Ips {
    match bind_to.ip() {
        IpAddr::V4(ip) if is_global_v4(ip) => Ips { v4: Some(ip), v6: None },
        IpAddr::V6(ip) if is_global_v6(ip) => Ips { v4: None, v6: Some(ip) },
        _ => {
            let (has_v4, has_v6) = families(bind_to);
            let v4 = source(FAR_AWAY.0.into(), Ipv4Addr::UNSPECIFIED.into());
            let v6 = source(FAR_AWAY.1.into(), Ipv6Addr::UNSPECIFIED.into());
            Ips {
                v4: v4.filter(|_| has_v4).and_then(|ip| if let IpAddr::V4(ip) = ip { Some(ip) } else { None }),
                v6: v6.filter(|_| has_v6).and_then(|ip| if let IpAddr::V6(ip) = ip { Some(ip) } else { None }),
            }
        }
    }
}

fn global(ips: Ips) -> Ips {
    Ips { v4: ips.v4.filter(|&ip| is_global_v4(ip)), v6: ips.v6.filter(|&ip| is_global_v6(ip)) }
}

/// The address that the kernel would send from. Connecting a UDP socket asks for a route and sends nothing.
fn source(target: IpAddr, any: IpAddr) -> Option<IpAddr> {
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((target, 53)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// Whether an address is one of the internet.
pub(crate) fn is_global(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_global_v4(ip),
        IpAddr::V6(ip) => is_global_v6(ip),
    }
}

/// 100.64.0.0/10, RFC 6598.
fn is_shared(ip: Ipv4Addr) -> bool {
    let [a, b, ..] = ip.octets();
    a == 100 && b & 0xc0 == 64
}

/// Source: IANA's registry of special-purpose addresses (RFC 6890).
fn is_global_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let is_protocol = (a, b, c) == (192, 0, 0);
    let is_benchmark = a == 198 && b & 0xfe == 18;
    !(a == 0
        || a >= 224
        || ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_documentation()
        || is_shared(ip)
        || is_protocol
        || is_benchmark)
}

/// Source: as above; only 2000::/3 is handed out.
fn is_global_v6(ip: Ipv6Addr) -> bool {
    let [a, b, ..] = ip.segments();
    let is_protocol = a == 0x2001 && b < 0x0200;
    let is_documentation = (a, b) == (0x2001, 0x0db8) || (a == 0x3fff && b < 0x1000);
    a & 0xe000 == 0x2000 && !is_protocol && !is_documentation
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_addresses_are_not_global() {
        for ip in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "169.254.1.1",
            "172.16.0.1",
            "192.0.0.8",
            "192.0.2.1",
            "192.168.1.1",
            "198.19.0.1",
            "203.0.113.1",
            "224.0.0.1",
            "255.255.255.255",
        ] {
            assert!(!is_global_v4(ip.parse().unwrap()), "{ip}");
        }
        for ip in ["::", "::1", "fe80::1", "fd00::1", "2001::1", "2001:db8::1", "3fff::1", "ff02::1", "::ffff:1.1.1.1"]
        {
            assert!(!is_global_v6(ip.parse().unwrap()), "{ip}");
        }
    }

    #[test]
    fn addresses_of_the_internet_are_global() {
        for ip in ["1.1.1.1", "100.63.255.255", "100.128.0.1", "172.32.0.1", "192.0.1.1", "198.20.0.1", "223.255.255.1"]
        {
            assert!(is_global_v4(ip.parse().unwrap()), "{ip}");
        }
        for ip in ["2001:67c:4e8:f002::a", "2606:4700::1111", "2a0a:f280::1", "3fff:1000::1"] {
            assert!(is_global_v6(ip.parse().unwrap()), "{ip}");
        }
    }

    #[test]
    fn a_global_address_to_listen_on_is_the_only_one() {
        let bind_to = "1.1.1.1:443".parse().unwrap();
        assert_eq!(own_global(bind_to), Ips { v4: Some(Ipv4Addr::new(1, 1, 1, 1)), v6: None });
        let bind_to = "[2606:4700::1111]:443".parse().unwrap();
        assert_eq!(own_global(bind_to), Ips { v4: None, v6: Some("2606:4700::1111".parse().unwrap()) });
    }

    #[test]
    fn families_that_are_not_listened_on_are_not_offered() {
        assert_eq!(own_global("0.0.0.0:443".parse().unwrap()).v6, None);
        assert_eq!(own_global("[fd00::1]:443".parse().unwrap()).v4, None);
    }

    const SEEN: Ipv4Addr = Ipv4Addr::new(8, 8, 4, 4);

    /// A STUN server that sees everybody at this address; none answers nobody.
    fn stun_server(sees: Option<Ipv4Addr>) -> (String, u16) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        std::thread::spawn(move || {
            let mut request = [0; 64];
            while let Ok((length, peer)) = socket.recv_from(&mut request) {
                let Some(ip) = sees else { continue };
                let mut answer = [&[1, 1, 0, 12], &request[4..length], &[0, 1, 0, 8, 0, 1, 1, 1]].concat();
                answer.extend(ip.octets());
                socket.send_to(&answer, peer).unwrap();
            }
        });
        ("127.0.0.1".to_owned(), port)
    }

    fn page(text: &str) -> Url {
        use std::io::{Read as _, Write as _};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (url, text) = (format!("http://{}/", listener.local_addr().unwrap()), text.to_owned());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let _ = stream.read(&mut [0; 1024]).unwrap();
                let _ = write!(stream, "HTTP/1.1 200 OK\r\n\r\n{text}");
            }
        });
        url.parse().unwrap()
    }

    fn asked(stun: &[(String, u16)], pages: &[Url]) -> Option<IpAddr> {
        let resolver = Resolver::system();
        async_io::block_on(Witnesses { stun, pages, resolver: &resolver }.ask(true))
    }

    #[test]
    fn the_first_witness_with_a_global_address_is_believed() {
        let dead = stun_server(None);
        let lying = stun_server(Some(Ipv4Addr::new(192, 168, 1, 1)));
        let good = stun_server(Some(SEEN));
        assert_eq!(asked(&[dead, lying.clone(), good], &[]), Some(SEEN.into()));
        let pages = [page("<html>"), page("10.0.0.1"), page("2606:4700::1111"), page(" 8.8.4.4\r\n"), page("8.8.8.8")];
        assert_eq!(asked(&[lying], &pages), Some(SEEN.into()));
        assert_eq!(asked(&[], &pages[..3]), None);
    }
}
