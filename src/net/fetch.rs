//! Fetching a page: dialling, redirects, deadlines, and not fetching again what has not changed.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::TcpStream;
use std::pin::Pin;
use std::time::Duration;

use super::deadline;
use super::http::{self, HttpError, Request, Sink};
use super::stream::Stream;
use super::url::Url;

/// Redirects in a row.
const REDIRECTS_MAX: usize = 5;

/// How a server is connected to, by name or address: directly, or through whatever the owner has set.
pub(crate) trait Connect: Sync {
    /// # Errors
    /// What kept the connection from being made.
    fn connect<'a>(&'a self, host: &'a str, port: u16) -> Connecting<'a>;
}

/// A connection in the making.
pub(crate) type Connecting<'a> = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send + 'a>>;

/// What is fetched.
pub(crate) struct Page<'a> {
    pub(crate) url: &'a Url,
    /// What is known of the copy that we have.
    pub(crate) known: &'a Validators,
    /// Until the server answers, and for each pause in its answer.
    pub(crate) patience: Duration,
    /// For everything.
    pub(crate) limit: Duration,
    /// Bytes.
    pub(crate) size_max: u64,
}

/// What a server says about a copy, to be asked with the next time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Validators {
    pub(crate) etag: Option<String>,
    pub(crate) last_modified: Option<String>,
}

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fetched {
    /// The copy that we have is still good.
    Unchanged,
    /// The sink has got a new copy.
    New(Validators),
}

/// Why there is no page.
#[derive(Debug)]
pub(crate) enum FetchError {
    /// The server cannot be reached.
    Connect(io::Error),
    Http(HttpError),
    /// The server's answer is neither a page nor a redirect.
    Status(u16),
    /// A redirect to nowhere, to a page without TLS, or too many of them.
    Redirect(&'static str),
    /// Time was over.
    Time,
}

/// Fetches a page into `sink`.
///
/// # Errors
/// See [`FetchError`]; the sink may have got a part of the page by then.
pub(crate) async fn fetch(way: &dyn Connect, page: &Page<'_>, sink: Sink<'_>) -> Result<Fetched, FetchError> {
    let fetched = follow(way, page, sink);
    deadline::within(page.limit, fetched).await.unwrap_or(Err(FetchError::Time))
}

async fn follow(way: &dyn Connect, page: &Page<'_>, sink: Sink<'_>) -> Result<Fetched, FetchError> {
    let mut url = page.url.clone();
    for _ in 0..=REDIRECTS_MAX {
        let connected = deadline::within(page.patience, open(way, &url)).await;
        let mut stream =
            connected.unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into())).map_err(FetchError::Connect)?;
        let mut fields = page.known.fields();
        fields.extend(url.authorization.as_deref().map(|value| ("Authorization", value)));
        let request = Request { url: &url, fields, body: None, body_max: page.size_max, patience: page.patience };
        let head = http::exchange(&mut stream, &request, sink).await?;
        match head.status {
            200 => return Ok(Fetched::New(Validators { etag: head.etag, last_modified: head.last_modified })),
            304 => return Ok(Fetched::Unchanged),
            301 | 302 | 303 | 307 | 308 => {
                let target = head.location.as_deref().and_then(|location| url.join(location));
                let target = target.ok_or(FetchError::Redirect("leads nowhere"))?;
                if url.is_https && !target.is_https {
                    return Err(FetchError::Redirect("leads from https to http"));
                }
                url = target;
            }
            status => return Err(FetchError::Status(status)),
        }
    }
    Err(FetchError::Redirect("leads to too many others"))
}

/// A stream to the server of `url`.
async fn open(way: &dyn Connect, url: &Url) -> io::Result<Stream> {
    let socket = way.connect(&url.host, url.port).await?;
    if url.is_https { Stream::tls(socket, &url.host).await } else { Stream::plain(socket) }
}

impl Validators {
    fn fields(&self) -> Vec<(&'static str, &str)> {
        let etag = self.etag.as_deref().map(|etag| ("If-None-Match", etag));
        // Where there is an ETag, the time says nothing more.
        let time = self.last_modified.as_deref().filter(|_| etag.is_none()).map(|time| ("If-Modified-Since", time));
        etag.into_iter().chain(time).collect()
    }
}

impl From<HttpError> for FetchError {
    fn from(error: HttpError) -> Self {
        Self::Http(error)
    }
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) => write!(f, "cannot connect: {error}"),
            Self::Http(error) => error.fmt(f),
            Self::Status(status) => write!(f, "the server answers with status {status}"),
            Self::Redirect(why) => write!(f, "the server's redirect {why}"),
            Self::Time => f.write_str("time is over"),
        }
    }
}
