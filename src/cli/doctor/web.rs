//! The WEB proxy as an app finds it: name, port, certificate, page, session, and a data centre's answer through all of
//! it. The chain is followed up to its first broken link, which is named with what mends it.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use super::clock::now_secs;
use super::web_visitor::{Answer, Visitor};
use super::{Case, Finding};
use crate::config::Carrier;
use crate::net::stream::Stream;
use crate::net::{deadline, turn};
use crate::proto::base64url;
use crate::proto::dc::DcId;
use crate::proto::mtproto::{self, ANSWER_MAX, LENGTH_LEN};
use crate::proto::obfuscated2::{DcFrame, Tag};
use crate::proto::web::frame::{self, HELLO, WELCOME};
use crate::proto::web::site::Site;

pub(super) const SUBJECT: &str = "WEB proxy";
/// The port of every link.
const PORT: u16 = 443;
/// The data centre that is asked, and the stream.
const DC: i16 = 2;
const STREAM: u32 = 1;
/// Polls and messages until the answer is there, at most: before it come windows.
const POLLS: usize = 4;
const BLOCK: &str = "put the block for your web server (folder image/web of mtg) into its configuration, with this host name and path, and reload it";

/// A broken link.
type Broken = Finding;

pub(super) async fn chain(case: Arc<Case>) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Err(broken) = follow(&case, &mut findings).await {
        findings.push(broken);
    }
    findings
}

async fn follow(case: &Case, findings: &mut Vec<Finding>) -> Result<(), Broken> {
    let host = case.config.web_host();
    let site = Site::new(host, &case.config.web.path, case.config.secret.key());
    let visitor = reach(case, host).await?;
    findings.push(Finding::ok("WEB certificate", &format!("{host} has one that browsers take")));
    let page = page(&visitor, &site).await?;
    findings.push(Finding::ok("WEB page", "the web server passes apps on to mtg"));
    findings.push(strangers(&visitor, &site).await);
    let session = Session::begin(&visitor, &site, &page).await?;
    let answered = session.ask_telegram().await;
    session.end().await;
    let carrier = case.config.web.carrier.as_str();
    findings.push(answered.map(|()| {
        Finding::ok("WEB session", &format!("Telegram answers through {host} over {carrier}: the link works"))
    })?);
    Ok(())
}

/// The name has an address, somebody listens there, and his certificate is right.
async fn reach<'a>(case: &'a Case, host: &'a str) -> Result<Visitor<'a>, Broken> {
    let ips = case.resolver.resolve(host).await.map_err(|error| {
        Finding::fail(
            "WEB name",
            &format!("{host} has no address: {error}"),
            "let the name lead to this machine (at whoever sells the name, or DDNS), or correct web.host",
        )
    })?;
    let addresses = ips.into_iter().map(|ip| SocketAddr::new(ip, PORT)).collect();
    let visitor = Visitor { case, addresses, host, is_secure: true };
    match visitor.connect().await {
        Ok(_) => Ok(visitor),
        Err(error) => Err(unreachable(host, &error)),
    }
}

fn unreachable(host: &str, error: &io::Error) -> Broken {
    let text = error.to_string();
    match error.kind() {
        ErrorKind::ConnectionRefused => Finding::fail(
            "WEB port",
            &format!("nobody listens on port 443 of {host}"),
            "start the web server (or mtg, if mtg has port 443), and let the router forward port 443 to it",
        ),
        ErrorKind::InvalidData if text.contains("certificate") => {
            Finding::fail("WEB certificate", &text, certificate(&text))
        }
        ErrorKind::InvalidData if text.contains("ProtocolVersion") => Finding::fail(
            "WEB certificate",
            &format!("port 443 of {host} answers in an older TLS than 1.3, which no site of today does"),
            "let the web server speak TLS 1.3, too (nginx: ssl_protocols TLSv1.2 TLSv1.3)",
        ),
        ErrorKind::InvalidData | ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset => Finding::fail(
            "WEB certificate",
            &format!("port 443 of {host} does not answer as a web server with TLS: {text}"),
            "see whether the web server listens with ssl there, and, if mtg has port 443, whether domain-fronting.host and \
             domain-fronting.port lead to it",
        ),
        _ => Finding::warn(
            "WEB port",
            &format!("port 443 of {host} cannot be reached from here: {text}"),
            "let the router forward port 443 here and open it in the firewall; some routers cannot show it from inside, \
             so open the site on a phone without Wi-Fi",
        ),
    }
}

fn certificate(text: &str) -> &'static str {
    if text.contains("xpired") {
        "it is out of date: renew it (certbot renew, acme.sh), and see why that does not happen by itself"
    } else if text.contains("not valid for name") || text.contains("NotValidForName") {
        "it is for another name: get one for the name in web.host, or correct web.host"
    } else {
        "apps take only certificates that browsers take: get one from Let's Encrypt, and give the web server the whole \
         chain (fullchain.pem)"
    }
}

/// The page for somebody with the link.
async fn page(visitor: &Visitor<'_>, site: &Site) -> Result<String, Broken> {
    const SUBJECT: &str = "WEB page";
    let line = format!("GET {}", site.page());
    let answer = visitor.ask(&line, &[], None).await.map_err(|error| broken(SUBJECT, "the page", &error))?;
    let text = answer.text();
    let is_page = answer.status == 200 && text.contains("bootstrap=\"");
    if is_page && text.contains(&format!("relayBase=\"https://{}{}\"", site.host(), site.base())) {
        return Ok(text.to_owned());
    }
    let status = answer.status;
    Err(match asked_directly(visitor.case, site).await {
        Ok(direct) if direct.status == 200 => match status {
            301..=308 => Finding::fail(
                SUBJECT,
                &format!("the web server sends visitors of the link elsewhere (status {status}), which apps refuse"),
                "let it answer below the path itself, without a redirect",
            ),
            200 if is_page => Finding::fail(
                SUBJECT,
                "what answers there is a WEB proxy, but not of this configuration",
                "let the web server ask the address in web.bind-to",
            ),
            _ => Finding::fail(
                SUBJECT,
                &format!("mtg answers, but the web server does not ask it below {} (status {status})", site.base()),
                BLOCK,
            ),
        },
        Ok(_) => Finding::fail(
            SUBJECT,
            "the mtg that runs has another secret, host or path than this file",
            "restart mtg, so that it reads the file (a reload takes all but web.bind-to)",
        ),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Finding::fail(
            SUBJECT,
            "mtg does not listen where web.bind-to says",
            "start mtg (OpenWrt: /etc/init.d/mtg start; others: systemctl start mtg), or restart it if web.bind-to is new",
        ),
        Err(error) => broken(SUBJECT, "mtg at web.bind-to", &error),
    })
}

/// The page as the web server gets it.
async fn asked_directly(case: &Case, site: &Site) -> io::Result<Answer> {
    let address = case.config.web.bind_to.ok_or(ErrorKind::NotFound)?;
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let addresses = vec![SocketAddr::new(ip, address.port())];
    let visitor = Visitor { case, addresses, host: site.host(), is_secure: false };
    visitor.ask(&format!("GET {}", site.page()), &[], None).await
}

/// Somebody without the link has to see the site: what he sees at any other address that does not exist.
async fn strangers(visitor: &Visitor<'_>, site: &Site) -> Finding {
    const SUBJECT: &str = "WEB strangers";
    let wrong = base64url::encode(&random::<32>());
    let elsewhere = match site.base() {
        "/" => "/".to_owned(),
        // As long as the path, for a site may show the address in its answer.
        base => format!(
            "/{}/",
            base64url::encode(&random::<96>()).replace(['-', '_'], "x").get(2..base.len()).unwrap_or("x")
        ),
    };
    let hidden = visitor.ask(&format!("GET {}?bridge={wrong}", site.base()), &[], None).await;
    let plain = visitor.ask(&format!("GET {elsewhere}?bridge={wrong}"), &[], None).await;
    let (hidden, plain) = match (hidden, plain) {
        (Ok(hidden), Ok(plain)) => (hidden, plain),
        (Err(error), _) | (_, Err(error)) => return broken(SUBJECT, "the site", &error),
    };
    if (hidden.status, hidden.body.len()) == (plain.status, plain.body.len()) {
        return Finding::ok(SUBJECT, "whoever lacks the link sees your site");
    }
    Finding::fail(
        SUBJECT,
        &format!(
            "whoever lacks the link gets another answer below {} (status {}, {} bytes) than elsewhere (status {}, {} bytes)",
            site.base(),
            hidden.status,
            hidden.body.len(),
            plain.status,
            plain.body.len()
        ),
        "let the web server put its own answer in the place of mtg's 404 (nginx: proxy_intercept_errors and error_page; \
         Caddy: handle_response), as in the block of image/web",
    )
}

fn broken(subject: &str, what: &str, error: &io::Error) -> Broken {
    Finding::fail(
        subject,
        &format!("{what} does not come: {error}"),
        "see what the web server writes into its error log",
    )
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // None of these is a secret.
    let _ = getrandom::fill(&mut bytes);
    bytes
}

/// An app's session.
struct Session<'a> {
    visitor: &'a Visitor<'a>,
    base: &'a str,
    token: String,
}

impl<'a> Session<'a> {
    async fn begin(visitor: &'a Visitor<'a>, site: &'a Site, page: &str) -> Result<Self, Broken> {
        const SUBJECT: &str = "WEB session";
        let bootstrap =
            page.split_once("bootstrap=\"").and_then(|(_, rest)| rest.split_once('"')).map_or("", |it| it.0);
        let base = site.base();
        let line = format!("POST {base}api/v1/session");
        let fields = [format!("Authorization: Bearer {bootstrap}")];
        let answer = visitor.ask(&line, &fields, Some(&HELLO)).await;
        let answer = answer.map_err(|error| broken(SUBJECT, "a session", &error))?;
        match (answer.status, answer.field("x-session-token")) {
            (200, Some(token)) if answer.body == WELCOME => Ok(Self { visitor, base, token: token.to_owned() }),
            (503, _) => Err(Finding::warn(
                SUBJECT,
                "mtg has no room for a session now",
                "try again later; if it stays so, give it more memory (key memory)",
            )),
            (status, _) => Err(Finding::fail(
                SUBJECT,
                &format!("the web server passes the page on, but no uploads (status {status})"),
                "let it pass POST and DELETE, the field Authorization, and all of the path below web.path, as in the block \
                 of image/web",
            )),
        }
    }

    fn bearer(&self) -> String {
        format!("Authorization: Bearer {}", self.token)
    }

    async fn end(&self) {
        let _ = self.visitor.ask(&format!("DELETE {}api/v1/session", self.base), &[self.bearer()], None).await;
    }

    /// Asks a data centre something over a stream.
    async fn ask_telegram(&self) -> Result<(), Broken> {
        let config = &self.visitor.case.config;
        let nonce = random();
        let mut fill = |bytes: &mut [u8]| {
            let _ = getrandom::fill(bytes);
        };
        let DcFrame { bytes, mut to_dc, from_dc } =
            DcFrame::to_proxy(Tag::Intermediate, DcId::new(DC), config.secret.key(), &mut fill);
        let mut question = mtproto::req_pq(&nonce, now_secs());
        to_dc.apply_keystream(&mut question);
        let batch = frame::opening(STREAM, &[bytes.as_slice(), &question].concat());
        let (mut answer, is_closed) = match config.web.carrier {
            Carrier::Https => self.over_https(&batch).await?,
            Carrier::Websocket => self.over_socket(&batch).await?,
        };
        from_dc.stream().apply_keystream(&mut answer);
        let is_answer = answer.get(LENGTH_LEN..).is_some_and(|packet| mtproto::res_pq(packet, &nonce).is_some());
        if is_answer {
            return Ok(());
        }
        let text =
            if is_closed { "mtg ends the stream: it does not reach Telegram" } else { "Telegram does not answer" };
        Err(Finding::fail("WEB session", text, "see what is said about 'DC 2' here"))
    }

    async fn over_https(&self, batch: &[u8]) -> Result<(Vec<u8>, bool), Broken> {
        let lost = |error: io::Error| broken("WEB session", "an answer", &error);
        let up = [self.bearer(), "X-Up-Seq: 1".to_owned()];
        let sent = self.visitor.ask(&format!("POST {}api/v1/up", self.base), &up, Some(batch)).await.map_err(lost)?;
        if sent.status != 204 || sent.field("x-up-ack") != Some("1") {
            return Err(altered(sent.status));
        }
        let (mut bytes, mut is_closed, mut cursor) = (Vec::new(), false, "0".to_owned());
        for _ in 0..POLLS {
            let down = [self.bearer(), format!("X-Down-Cursor: {cursor}")];
            let polled = self.visitor.ask(&format!("POST {}api/v1/down", self.base), &down, None).await;
            let polled = match polled {
                Err(error) if error.kind() == ErrorKind::TimedOut => break,
                polled => polled.map_err(lost)?,
            };
            let Some(next) = polled.field("x-down-cursor") else { return Err(altered(polled.status)) };
            cursor = next.to_owned();
            let (more, ended) = frame::of_stream(&polled.body, STREAM);
            bytes.extend(more);
            is_closed |= ended;
            if is_closed || is_whole(&bytes) {
                break;
            }
        }
        Ok((bytes, is_closed))
    }

    async fn over_socket(&self, batch: &[u8]) -> Result<(Vec<u8>, bool), Broken> {
        let lost = |error: io::Error| broken("WEB session", "an answer over a WebSocket", &error);
        let mut stream = self.visitor.connect().await.map_err(lost)?;
        let fields = [
            "Connection: Upgrade".to_owned(),
            "Upgrade: websocket".to_owned(),
            "Sec-WebSocket-Version: 13".to_owned(),
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==".to_owned(),
            format!("Sec-WebSocket-Protocol: tproxy-v1.{}", self.token),
        ];
        let line = format!("GET {}api/v1/ws", self.base);
        let answer = self.visitor.ask_over(&mut stream, &line, &fields, None).await.map_err(lost)?;
        if answer.status != 101 {
            return Err(Finding::fail(
                "WEB session",
                &format!("the web server passes no WebSocket on (status {})", answer.status),
                "let it pass Upgrade and Connection on over HTTP/1.1, as in the block of image/web, or set web.carrier = https",
            ));
        }
        let told = async {
            stream.write_all(&masked(batch)).await?;
            let mut bytes = Vec::new();
            let mut is_closed = false;
            for _ in 0..POLLS {
                let (more, ended) = frame::of_stream(&message(&mut stream).await?, STREAM);
                bytes.extend(more);
                is_closed |= ended;
                if is_closed || is_whole(&bytes) {
                    break;
                }
            }
            Ok((bytes, is_closed))
        };
        let told = deadline::within(std::time::Duration::from_secs(5), told).await;
        told.unwrap_or_else(|| Ok((Vec::new(), false))).map_err(lost)
    }
}

/// An answer of a data centre is one packet.
fn is_whole(bytes: &[u8]) -> bool {
    bytes.len() > LENGTH_LEN
}

fn altered(status: u16) -> Broken {
    Finding::fail(
        "WEB session",
        &format!("the web server does not pass mtg's answers on as they are (status {status})"),
        "take the block of image/web as it is; no compression, no cache, and nothing that changes header fields below the \
         path",
    )
}

/// A message of a client, whose mask is one like any other.
fn masked(batch: &[u8]) -> Vec<u8> {
    let length = u16::try_from(batch.len()).unwrap_or(u16::MAX);
    [&[0x82, 0xfe], length.to_be_bytes().as_slice(), &[0; 4], batch].concat()
}

/// The payload of the next message, which is a short one.
async fn message(stream: &mut Stream) -> io::Result<Vec<u8>> {
    let mut head = [0; 2];
    turn::take(stream.read_exact(&mut head)).await?;
    let [first, second] = head;
    let mut length = usize::from(second);
    if length == 126 {
        let mut long = [0; 2];
        turn::take(stream.read_exact(&mut long)).await?;
        length = u16::from_be_bytes(long).into();
    }
    if first != 0x82 || length > 4 * ANSWER_MAX {
        return Err(ErrorKind::InvalidData.into());
    }
    let mut payload = vec![0; length];
    turn::take(stream.read_exact(&mut payload)).await?;
    Ok(payload)
}
