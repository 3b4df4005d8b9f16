//! A visitor of the own web site: requests as an app's hidden browser makes them, one connection for each.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::{Case, Finding};
use crate::net::deadline;
use crate::net::http::{self, Head, Request, Wanted};
use crate::net::stream::Stream;
use crate::proto::url::Url;
use crate::proto::web::BATCH_MAX;

/// Time for an answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// The port of every link.
pub(super) const PORT: u16 = 443;

/// What a server says.
pub(super) struct Answer {
    head: Head,
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub(super) fn status(&self) -> u16 {
        self.head.status
    }

    /// A field by its name in lower case.
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.head.field(name)
    }

    pub(super) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap_or_default()
    }
}

/// What is asked: method, target, further fields, body.
pub(super) type Question<'a> = (&'static str, &'a str, &'a [(&'static str, &'a str)], Option<&'a [u8]>);

/// Where requests go.
pub(super) struct Visitor<'a> {
    pub(super) case: &'a Case,
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) host: &'a str,
    pub(super) is_secure: bool,
}

impl Visitor<'_> {
    /// A connection with its TLS done.
    pub(super) async fn connect(&self) -> io::Result<Stream> {
        let (socket, _) = self.case.dialer.connect(self.addresses.clone(), PATIENCE).await?;
        if !self.is_secure {
            return Stream::plain(socket);
        }
        let connected = deadline::within(PATIENCE, Stream::tls(socket, self.host)).await;
        connected.unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Asks and reads all of the answer.
    pub(super) async fn ask(&self, question: Question<'_>) -> io::Result<Answer> {
        self.ask_over(&mut self.connect().await?, question).await
    }

    /// The same over a connection that there is.
    pub(super) async fn ask_over(
        &self,
        stream: &mut Stream,
        (method, target, fields, body): Question<'_>,
    ) -> io::Result<Answer> {
        // Whoever is asked, and by whatever way, the site is the one of the links.
        let (host, target) = (self.host.to_owned(), target.to_owned());
        let url = Url { is_https: true, host, port: PORT, target, authorization: None };
        let mut fields = fields.to_vec();
        if body.is_some_and(|body| !body.is_empty()) {
            fields.push(("Content-Type", "application/octet-stream"));
        }
        let (wanted, body_max) = (Wanted::Any, BATCH_MAX as u64);
        let request = Request { method, url: &url, fields, body, wanted, body_max, patience: PATIENCE };
        let mut body = Vec::new();
        let answered = deadline::within(PATIENCE, http::exchange(stream, &request, &mut http::keep(&mut body))).await;
        let head = answered.unwrap_or(Err(http::HttpError::Silent))?;
        Ok(Answer { head, body })
    }
}

/// A broken link.
pub(super) type Broken = Finding;

pub(super) fn broken(subject: &str, what: &str, error: &io::Error) -> Broken {
    Finding::fail(
        subject,
        &format!("{what} does not come: {error}"),
        "see what the web server writes into its error log",
    )
}

pub(super) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // None of these is a secret.
    let _ = getrandom::fill(&mut bytes);
    bytes
}
