//! An app's session with the own web site, up to a data centre's answer through it.

use std::io::{self, ErrorKind};

use super::Finding;
use super::web_visitor::{Answer, Broken, PATIENCE, Visitor, broken, random};
use crate::clock::UnixTime;
use crate::config::Carrier;
use crate::net::stream::Stream;
use crate::net::{deadline, turn};
use crate::proto::dc::DcId;
use crate::proto::mtproto::{self, ANSWER_MAX, LENGTH_LEN};
use crate::proto::obfuscated2::{DcFrame, Tag};
use crate::proto::web::frame::{self, HELLO, WELCOME};
use crate::proto::web::site::Site;

/// The data centre that is asked, and the stream.
const DC: i16 = 2;
const STREAM: u32 = 1;
/// Polls and messages until the answer is there, at most: before it come windows.
const POLLS: usize = 4;

/// An app's session.
pub(super) struct Session<'a> {
    visitor: &'a Visitor<'a>,
    base: &'a str,
    token: String,
    bearer: String,
}

impl<'a> Session<'a> {
    pub(super) async fn begin(visitor: &'a Visitor<'a>, site: &'a Site, page: &str) -> Result<Self, Broken> {
        const SUBJECT: &str = "WEB session";
        let bootstrap =
            page.split_once("bootstrap=\"").and_then(|(_, rest)| rest.split_once('"')).map_or("", |it| it.0);
        let base = site.base();
        let fields = [("Authorization", format!("Bearer {bootstrap}"))];
        let fields = fields.each_ref().map(|(name, value)| (*name, value.as_str()));
        let answer = visitor.ask(("POST", &format!("{base}api/v1/session"), &fields, Some(&HELLO))).await;
        let answer = answer.map_err(|error| broken(SUBJECT, "a session", &error))?;
        match (answer.status(), answer.field("x-session-token")) {
            (200, Some(token)) if answer.body == WELCOME => {
                Ok(Self { visitor, base, bearer: format!("Bearer {token}"), token: token.to_owned() })
            }
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

    /// One of the calls below the path, with the session's token and one more field.
    async fn call(
        &self,
        (method, call): (&'static str, &str),
        field: Option<(&'static str, &str)>,
        body: Option<&[u8]>,
    ) -> io::Result<Answer> {
        let fields: Vec<_> = std::iter::once(("Authorization", self.bearer.as_str())).chain(field).collect();
        self.visitor.ask((method, &format!("{}api/v1/{call}", self.base), &fields, body)).await
    }

    pub(super) async fn end(&self) {
        let _ = self.call(("DELETE", "session"), None, None).await;
    }

    /// Asks a data centre something over a stream.
    pub(super) async fn ask_telegram(&self) -> Result<(), Broken> {
        let config = &self.visitor.case.config;
        let nonce = random();
        let mut fill = |bytes: &mut [u8]| {
            let _ = getrandom::fill(bytes);
        };
        let DcFrame { bytes, mut to_dc, from_dc, .. } =
            DcFrame::to_proxy(Tag::Intermediate, DcId::new(DC), config.secret.key(), &mut fill);
        let mut question = mtproto::req_pq(&nonce, UnixTime::now().secs());
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
        let sent = self.call(("POST", "up"), Some(("X-Up-Seq", "1")), Some(batch)).await.map_err(lost)?;
        if sent.status() != 204 || sent.field("x-up-ack") != Some("1") {
            return Err(altered(sent.status()));
        }
        let (mut bytes, mut is_closed, mut cursor) = (Vec::new(), false, "0".to_owned());
        for _ in 0..POLLS {
            let polled = self.call(("POST", "down"), Some(("X-Down-Cursor", &cursor)), Some(&[])).await;
            let polled = match polled {
                Err(error) if error.kind() == ErrorKind::TimedOut => break,
                polled => polled.map_err(lost)?,
            };
            let Some(next) = polled.field("x-down-cursor") else { return Err(altered(polled.status())) };
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
        let (target, protocol) = (format!("{}api/v1/ws", self.base), format!("tproxy-v1.{}", self.token));
        let fields = [
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("Sec-WebSocket-Protocol", protocol.as_str()),
        ];
        let question = ("GET", target.as_str(), fields.as_slice(), None);
        let answer = self.visitor.ask_over(&mut stream, question).await.map_err(lost)?;
        if answer.status() != 101 {
            return Err(Finding::fail(
                "WEB session",
                &format!("the web server passes no WebSocket on (status {})", answer.status()),
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
        let told = deadline::within(PATIENCE, told).await;
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
