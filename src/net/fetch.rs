//! Fetching a page: dialling, redirects, deadlines, and not fetching again what has not changed.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::TcpStream;
use std::pin::Pin;
use std::time::Duration;

use super::deadline;
use super::http::{self, Head, HttpError, Request, Sink, Wanted};
use super::stream::Stream;
use crate::proto::url::Url;

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
        let request = Request {
            method: "GET",
            url: &url,
            fields,
            body: None,
            wanted: Wanted::Found,
            body_max: page.size_max,
            patience: page.patience,
        };
        let head = http::exchange(&mut stream, &request, sink).await?;
        match head.status {
            200 => return Ok(Fetched::New(Validators::of(&head))),
            // Whoever has no copy did not ask whether it is still good.
            304 if *page.known != Validators::default() => return Ok(Fetched::Unchanged),
            301 | 302 | 303 | 307 | 308 => {
                let target = head.field("location").and_then(|location| url.join(location));
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
    fn of(head: &Head) -> Self {
        let field = |name| head.field(name).map(str::to_owned);
        Self { etag: field("etag"), last_modified: field("last-modified") }
    }

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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    /// Dials this machine, whatever the host.
    struct Here;

    impl Connect for Here {
        fn connect<'a>(&'a self, _: &'a str, port: u16) -> Connecting<'a> {
            Box::pin(async move { TcpStream::connect(("127.0.0.1", port)) })
        }
    }

    /// A server that gives these answers, one for each connection; a `*` stands for its address. Returns that address.
    fn server(answers: &[&str]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let answers: Vec<_> = answers.iter().map(|answer| answer.replace('*', &address)).collect();
        std::thread::spawn(move || {
            for answer in answers {
                let (mut peer, _) = listener.accept().unwrap();
                let _ = peer.read(&mut [0; 4096]).unwrap();
                let _ = peer.write_all(answer.as_bytes());
            }
            // What follows is not answered, and not refused either.
            let _held = listener.accept();
            std::thread::sleep(Duration::from_secs(60));
        });
        address
    }

    fn fetched(url: &str, limit: Duration) -> (Result<Fetched, FetchError>, String) {
        fetched_with(url, &Validators::default(), limit)
    }

    fn fetched_with(url: &str, known: &Validators, limit: Duration) -> (Result<Fetched, FetchError>, String) {
        let url = url.parse::<Url>().unwrap();
        let page = Page { url: &url, known, patience: Duration::from_secs(20), limit, size_max: 1000 };
        let mut text = Vec::new();
        let result = async_io::block_on(fetch(&Here, &page, &mut http::keep(&mut text)));
        (result, String::from_utf8(text).unwrap())
    }

    const LIMIT: Duration = Duration::from_secs(20);

    #[test]
    fn redirects_lead_to_the_page() {
        let address = server(&[
            "HTTP/1.1 301 Moved\r\nLocation: /a\r\n\r\n",
            "HTTP/1.1 302 Found\r\nLocation: http://*/b\r\nContent-Length: 4\r\n\r\nhere",
            "HTTP/1.1 200 OK\r\nETag: x\r\n\r\npage",
        ]);
        let (result, text) = fetched(&format!("http://{address}/"), LIMIT);
        let validators = Validators { etag: Some("x".into()), last_modified: None };
        assert_eq!((result.unwrap(), text.as_str()), (Fetched::New(validators), "page"));
    }

    #[test]
    fn redirects_in_a_circle_come_to_an_end() {
        let address = server(&["HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n"; REDIRECTS_MAX + 1]);
        let (result, _) = fetched(&format!("http://{address}/"), LIMIT);
        assert!(matches!(result, Err(FetchError::Redirect("leads to too many others"))), "{result:?}");
    }

    #[test]
    fn redirects_to_nowhere_are_told() {
        for location in ["", "Location: ftp://x/\r\n", "Location: http://\r\n"] {
            let address = server(&[&format!("HTTP/1.1 302 Found\r\n{location}\r\n")]);
            let (result, _) = fetched(&format!("http://{address}/"), LIMIT);
            assert!(matches!(result, Err(FetchError::Redirect("leads nowhere"))), "{result:?}");
        }
    }

    #[test]
    fn a_server_that_says_nothing_is_left_at_the_limit() {
        let address = server(&[]);
        let (result, _) = fetched(&format!("http://{address}/"), Duration::from_millis(200));
        assert!(matches!(result, Err(FetchError::Time)), "{result:?}");
    }

    #[test]
    fn an_error_is_told_with_its_status() {
        let address = server(&["HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nxyz"]);
        let (result, text) = fetched(&format!("http://{address}/"), LIMIT);
        assert!(matches!(result, Err(FetchError::Status(404))) && text.is_empty(), "{result:?}");
    }
    #[test]
    fn an_unchanged_page_counts_for_whom_has_one_only() {
        let unchanged = "HTTP/1.1 304 Not Modified\r\n\r\n";
        let address = server(&[unchanged, unchanged]);
        let url = format!("http://{address}/");
        let known = Validators { etag: None, last_modified: Some("yesterday".into()) };
        let (result, _) = fetched_with(&url, &known, LIMIT);
        assert_eq!(result.unwrap(), Fetched::Unchanged);
        let (result, _) = fetched(&url, LIMIT);
        assert!(matches!(result, Err(FetchError::Status(304))), "{result:?}");
    }
}
