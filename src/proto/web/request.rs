//! Which requests are ours. All others get the same answer, whatever is wrong with them, and the web server in front
//! puts the owner's site in its place: so nobody without the secret learns that there is a proxy.
//!
//! Everything is compared byte for byte, as it was sent: no decoding, no normal form. What a browser or one of the
//! clients without a browser sends is ours, and nothing else is.

use std::net::IpAddr;

use super::site::{CREDENTIAL_LEN, Site};
use super::token::{self, Name};

/// The longest head, bytes.
pub(crate) const HEAD_MAX: usize = 16 << 10;
/// Header fields at most.
const FIELDS_MAX: usize = 96;
/// Bytes of a WebSocket key.
const KEY_LEN: usize = 24;

/// What a client wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// The page.
    Page,
    /// A session; the token of the page.
    Create(String),
    /// The end of a session.
    Delete(Name),
    /// Batch number so and so from the client.
    Up(Name, u64),
    /// What follows so many batches to the client.
    Down(Name, u64),
    /// A WebSocket; the subprotocol and the answer to its key.
    Socket { session: Name, protocol: String, accept: String },
}

/// How long a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    Length(u64),
    Chunked,
    /// Nobody can tell.
    Unknown,
}

/// A head that is there as a whole.
#[derive(Debug)]
pub(crate) struct Head {
    /// Bytes up to its end.
    pub(crate) length: usize,
    /// What is wanted, if the request is ours as far as its head tells.
    pub(crate) call: Option<Call>,
    pub(crate) body: Body,
    /// The connection may be used again.
    pub(crate) keeps_alive: bool,
    /// The client waits for a word before it sends the body.
    pub(crate) expects: bool,
    /// The last address that proxies have noted.
    pub(crate) forwarded_for: Option<IpAddr>,
}

/// What the first bytes of a request are.
pub(crate) enum Parsed {
    Partial,
    Head(Head),
    /// No HTTP, or too much of it.
    Bad,
}

/// Reads the head at the start of `bytes`.
pub(crate) fn parse(bytes: &[u8], site: &Site) -> Parsed {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    let length = match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) if length <= HEAD_MAX => length,
        Ok(httparse::Status::Partial) if bytes.len() < HEAD_MAX => return Parsed::Partial,
        _ => return Parsed::Bad,
    };
    let fields = Fields(request.headers);
    let is_current = request.version == Some(1);
    let body = fields.body();
    let target = Target { method: request.method.unwrap_or_default(), path: request.path.unwrap_or_default() };
    let call = if is_current && fields.is_for(site.host()) { call(&target, &fields, body, site) } else { None };
    Parsed::Head(Head {
        length,
        call,
        body,
        keeps_alive: is_current && !fields.has_token("connection", "close"),
        expects: fields.has_token("expect", "100-continue"),
        forwarded_for: fields.forwarded_for(),
    })
}

struct Target<'a> {
    method: &'a str,
    path: &'a str,
}

fn call(target: &Target<'_>, fields: &Fields<'_>, body: Body, site: &Site) -> Option<Call> {
    let path = target.path.strip_prefix(site.base())?;
    let without_body =
        || body == Body::Length(0) && fields.one("content-type").is_ok_and(|kind| kind.unwrap_or("").is_empty());
    let with_body = || {
        body != Body::Unknown && fields.one("content-type").is_ok_and(|kind| kind == Some("application/octet-stream"))
    };
    let without_cookie = || fields.all("cookie").next().is_none() && fields.all("x-lane-id").next().is_none();
    match (target.method, path) {
        ("GET", page) => {
            if let Some(capability) = page.strip_prefix("?bridge=") {
                return (without_body() && site.accepts(capability)).then_some(Call::Page);
            }
            (page == "api/v1/ws" && without_body()).then(|| socket(fields))?
        }
        ("POST", "api/v1/session") if with_body() && without_cookie() => {
            Some(Call::Create(fields.bearer()?.to_owned()))
        }
        ("DELETE", "api/v1/session") if without_body() && without_cookie() => Some(Call::Delete(fields.session()?)),
        ("POST", "api/v1/up") if with_body() && without_cookie() => {
            Some(Call::Up(fields.session()?, fields.number("x-up-seq")?))
        }
        ("POST", "api/v1/down") if without_body() && without_cookie() => {
            Some(Call::Down(fields.session()?, fields.number("x-down-cursor")?))
        }
        _ => None,
    }
}

/// An upgrade to WebSocket with a session's token as the only subprotocol that is offered.
fn socket(fields: &Fields<'_>) -> Option<Call> {
    let is_upgrade = fields.has_token("upgrade", "websocket")
        && fields.has_token("connection", "upgrade")
        && fields.one("sec-websocket-version") == Ok(Some("13"))
        && fields.all("authorization").next().is_none()
        && fields.all("x-lane-id").next().is_none();
    let key = fields.one("sec-websocket-key").ok()?.filter(|key| key.len() == KEY_LEN && is_upgrade)?;
    let protocol = fields.one("sec-websocket-protocol").ok()??;
    let session = token::name(protocol.strip_prefix("tproxy-v1.")?)?;
    Some(Call::Socket { session, protocol: protocol.to_owned(), accept: super::socket::accept(key) })
}

struct Fields<'a>(&'a [httparse::Header<'a>]);

impl<'a> Fields<'a> {
    /// The values of a field; one that is no text counts as one that nothing is equal to.
    fn all(&self, name: &'static str) -> impl Iterator<Item = &'a str> {
        let of_name = self.0.iter().filter(move |field| field.name.eq_ignore_ascii_case(name));
        of_name.map(|field| std::str::from_utf8(field.value).map_or("\0", str::trim))
    }

    /// The value of a field that must not be repeated.
    fn one(&self, name: &'static str) -> Result<Option<&'a str>, ()> {
        let mut values = self.all(name);
        let first = values.next();
        if values.next().is_none() { Ok(first) } else { Err(()) }
    }

    /// Whether one of the words of a list is this.
    fn has_token(&self, name: &'static str, token: &str) -> bool {
        self.all(name).flat_map(|value| value.split(',')).any(|word| word.trim().eq_ignore_ascii_case(token))
    }

    fn is_for(&self, host: &str) -> bool {
        let Ok(Some(found)) = self.one("host") else { return false };
        found.strip_suffix(":443").unwrap_or(found).eq_ignore_ascii_case(host)
    }

    fn body(&self) -> Body {
        match (self.one("content-length"), self.one("transfer-encoding")) {
            (Ok(None), Ok(None)) => Body::Length(0),
            (Ok(Some(length)), Ok(None)) => number(length).map_or(Body::Unknown, Body::Length),
            (Ok(None), Ok(Some(coding))) if coding.eq_ignore_ascii_case("chunked") => Body::Chunked,
            _ => Body::Unknown,
        }
    }

    fn bearer(&self) -> Option<&'a str> {
        let token = self.one("authorization").ok()??.strip_prefix("Bearer ")?;
        (token.len() == CREDENTIAL_LEN).then_some(token)
    }

    fn session(&self) -> Option<Name> {
        token::name(self.bearer()?)
    }

    fn number(&self, name: &'static str) -> Option<u64> {
        number(self.one(name).ok()??)
    }

    fn forwarded_for(&self) -> Option<IpAddr> {
        self.all("x-forwarded-for").last()?.rsplit(',').next()?.trim().parse().ok()
    }
}

/// A number as it is written by everybody: no sign, no zero before it.
fn number(text: &str) -> Option<u64> {
    let is_canonical = text == "0" || (!text.starts_with('0') && text.bytes().all(|digit| digit.is_ascii_digit()));
    text.parse().ok().filter(|_| is_canonical)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::testing::EACH;

    const KEY: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
    const CAPABILITY: &str = "4IfTxi8V7NsOdH3wtAHj01nZziNo3jZXeobE5H38-KI";
    const TOKEN: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";

    fn site() -> Site {
        Site::new("proxy.example.com", "two/Segments_x-9", &KEY)
    }

    fn head(text: &str) -> Head {
        match parse(text.as_bytes(), &site()) {
            Parsed::Head(head) => head,
            Parsed::Partial => panic!("partial: {text}"),
            Parsed::Bad => panic!("bad: {text}"),
        }
    }

    /// A request with these lines after its first two.
    fn ask(line: &str, fields: &[&str]) -> Option<Call> {
        let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
        head(&format!("{line} HTTP/1.1\r\nHost: proxy.example.com\r\n{fields}\r\n")).call
    }

    fn good() -> Vec<(&'static str, Vec<String>)> {
        let bearer = format!("Authorization: Bearer {TOKEN}");
        let octets = "Content-Type: application/octet-stream".to_owned();
        let socket = [
            "Upgrade: websocket",
            "Connection: keep-alive, Upgrade",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            &format!("Sec-WebSocket-Protocol: tproxy-v1.{TOKEN}"),
        ];
        vec![
            ("POST /two/Segments_x-9/api/v1/session", vec![bearer.clone(), octets.clone(), "Content-Length: 9".into()]),
            ("DELETE /two/Segments_x-9/api/v1/session", vec![bearer.clone()]),
            ("POST /two/Segments_x-9/api/v1/up", vec![bearer.clone(), octets, "X-Up-Seq: 7".into()]),
            ("POST /two/Segments_x-9/api/v1/down", vec![bearer, "X-Down-Cursor: 0".into(), "Content-Type:".into()]),
            ("GET /two/Segments_x-9/api/v1/ws", socket.map(String::from).to_vec()),
        ]
    }

    fn ask_with(line: &str, fields: &[String]) -> Option<Call> {
        ask(line, &fields.iter().map(String::as_str).collect::<Vec<_>>())
    }

    #[test]
    fn what_clients_send_is_ours() {
        let page = format!("GET /two/Segments_x-9/?bridge={CAPABILITY}");
        assert_eq!(ask(&page, &[]), Some(Call::Page));
        let name = token::name(TOKEN).unwrap();
        let calls: Vec<_> = good().iter().map(|(line, fields)| ask_with(line, fields).expect(line)).collect();
        assert_eq!(
            calls[..4],
            [Call::Create(TOKEN.into()), Call::Delete(name), Call::Up(name, 7), Call::Down(name, 0)]
        );
        let Call::Socket { session, protocol, accept } = &calls[4] else { panic!() };
        assert_eq!((*session, protocol.as_str()), (name, format!("tproxy-v1.{TOKEN}").as_str()));
        assert_eq!(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let other = format!("{page} HTTP/1.1\r\nhOST: Proxy.Example.com:443\r\n\r\n");
        assert_eq!(head(&other).call, Some(Call::Page));
    }

    #[test]
    fn a_page_in_any_other_words_is_not_ours() {
        for line in [
            "HEAD /two/Segments_x-9/?bridge=C",
            "POST /two/Segments_x-9/?bridge=C",
            "GET /?bridge=C",
            "GET /two/Segments_x-9?bridge=C",
            "GET /two/segments_x-9/?bridge=C",
            "GET /two/Segments_x-9/?bridge=C&a=b",
            "GET /two/Segments_x-9/?a=b&bridge=C",
            "GET /two/Segments_x-9/?bridge=%43C",
            "GET /two/Segments_x-9/",
            "GET //two/Segments_x-9/?bridge=C",
            "GET /two/Segments%5Fx-9/?bridge=C",
            "GET /two/Segments_x-9/?Bridge=C",
        ] {
            assert_eq!(ask(&line.replace("=C", &format!("={CAPABILITY}")), &[]), None, "{line}");
        }
        let page = format!("GET /two/Segments_x-9/?bridge={CAPABILITY}");
        for host in ["other.example", "proxy.example.com:80", "proxy.example.com.", "proxy.example.com\r\nHost: b"] {
            assert_eq!(head(&format!("{page} HTTP/1.1\r\nHost: {host}\r\n\r\n")).call, None, "{host}");
        }
        assert_eq!(head(&format!("{page} HTTP/1.0\r\nHost: proxy.example.com\r\n\r\n")).call, None);
        assert_eq!(ask(&page, &["Content-Length: 1"]), None);
    }

    #[test]
    fn a_credential_in_the_wrong_place_or_twice_is_not_ours() {
        for (line, fields) in good() {
            for field in 0..fields.len() {
                let repeated = [fields.clone(), vec![fields[field].clone()]].concat();
                let is_list = fields[field].starts_with("Upgrade") || fields[field].starts_with("Connection");
                assert_eq!(ask_with(line, &repeated).is_some(), is_list, "{line} {}", fields[field]);
                let is_optional = fields[field].starts_with("Content-Length") || fields[field] == "Content-Type:";
                let mut missing = fields.clone();
                missing.remove(field);
                assert_eq!(ask_with(line, &missing).is_some(), is_optional, "{line} without {}", fields[field]);
                let spoilt: Vec<_> = fields.iter().map(|field| field.replace("Hh8", "Hh9")).collect();
                let name = ask_with(line, &spoilt);
                assert!(matches!(name, None | Some(Call::Create(_))), "{line}");
            }
            let is_socket = line.ends_with("ws");
            for (more, is_ours) in [
                ("Cookie: a=b", is_socket),
                ("X-Lane-ID: 1", false),
                ("Origin: https://evil.example", true),
                ("Sec-WebSocket-Extensions: permessage-deflate", true),
            ] {
                let fields = [fields.clone(), vec![more.to_owned()]].concat();
                assert_eq!(ask_with(line, &fields).is_some(), is_ours, "{line} {more}");
            }
            assert_eq!(ask_with(&line.replace("api", "API"), &fields), None);
            assert_eq!(ask_with(&line.replacen(' ', "X ", 1), &fields), None);
            assert_eq!(ask_with(&format!("{line}?a=b"), &fields), None);
        }
    }

    #[test]
    fn numbers_are_canonical() {
        assert_eq!(["0", "7", "18446744073709551615"].map(number), [Some(0), Some(7), Some(u64::MAX)]);
        for bad in ["", "00", "07", "+7", "-1", "7 ", "0x7", "18446744073709551616", "٣"] {
            assert_eq!(number(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_head_is_whole_only_at_its_end() {
        let text = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\
                    X-Forwarded-For: 203.0.113.9, 192.0.2.7\r\n\r\nhello";
        for cut in (0..text.len() - 5).step_by(EACH) {
            assert!(matches!(parse(&text.as_bytes()[..cut], &site()), Parsed::Partial), "{cut}");
        }
        let found = head(text);
        assert_eq!((found.length, found.body, found.expects), (text.len() - 5, Body::Length(5), true));
        assert_eq!((found.forwarded_for, found.keeps_alive), (Some("192.0.2.7".parse().unwrap()), true));
    }

    #[test]
    fn a_body_whose_length_is_in_doubt_is_unknown() {
        for (fields, body) in [
            ("", Body::Length(0)),
            ("Content-Length: 3\r\n", Body::Length(3)),
            ("Transfer-Encoding: Chunked\r\n", Body::Chunked),
            ("Transfer-Encoding: gzip, chunked\r\n", Body::Unknown),
            ("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", Body::Unknown),
            ("Content-Length: 3\r\nContent-Length: 3\r\n", Body::Unknown),
            ("Content-Length: +3\r\n", Body::Unknown),
        ] {
            assert_eq!(head(&format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")).body, body, "{fields}");
        }
    }

    #[test]
    fn too_much_is_bad_and_not_waited_for() {
        let long = format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(HEAD_MAX));
        assert!(matches!(parse(long.as_bytes(), &site()), Parsed::Bad));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(FIELDS_MAX + 1));
        assert!(matches!(parse(many.as_bytes(), &site()), Parsed::Bad));
        assert!(matches!(parse(b"\x16\x03\x01", &site()), Parsed::Bad));
    }
}
