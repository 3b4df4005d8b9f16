//! `http://` and `https://` URLs, as far as asking for them goes (RFC 3986).

use std::fmt;

/// A URL taken apart. Its text form leaves out user name and password.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Url {
    pub(crate) is_https: bool,
    /// A name or an address; an IPv6 address without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Path and query, with a slash in front.
    pub(crate) target: String,
    /// What stands in the field `Authorization`, if there are a user name and a password.
    pub(crate) authorization: Option<String>,
}

impl Url {
    /// Reads a URL; none if it is not one that can be asked for.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let is_https = match scheme {
            scheme if scheme.eq_ignore_ascii_case("https") => true,
            scheme if scheme.eq_ignore_ascii_case("http") => false,
            _ => return None,
        };
        let (authority, target) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let (user_info, address) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (host, port) = match address.strip_prefix('[') {
            Some(bracketed) => bracketed.split_once(']')?,
            None => address.split_at(address.find(':').unwrap_or(address.len())),
        };
        let port = match port.strip_prefix(':') {
            Some(port) => port.parse().ok().filter(|&port| port != 0)?,
            None if port.is_empty() => default_port(is_https),
            None => return None,
        };
        if host.is_empty() || !host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:".contains(&b)) {
            return None;
        }
        let authorization = if user_info.is_empty() { None } else { Some(basic(user_info)?) };
        Some(Self { is_https, host: host.to_ascii_lowercase(), port, target: cleaned(target)?, authorization })
    }

    /// Where a redirect from here leads.
    pub(crate) fn join(&self, location: &str) -> Option<Self> {
        if location.contains("://") {
            return Self::parse(location);
        }
        if let Some(rest) = location.strip_prefix("//") {
            return Self::parse(&format!("{}://{rest}", self.scheme()));
        }
        let target = if location.starts_with('/') {
            location.to_owned()
        } else {
            let path = self.target.split('?').next().unwrap_or_default();
            let folder = path.rfind('/').and_then(|slash| path.get(..=slash)).unwrap_or("/");
            format!("{folder}{location}")
        };
        Some(Self { target: cleaned(&target)?, ..self.clone() })
    }

    /// What stands in the field `Host`.
    pub(crate) fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == default_port(self.is_https) { host } else { format!("{host}:{}", self.port) }
    }

    fn scheme(&self) -> &'static str {
        if self.is_https { "https" } else { "http" }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme(), self.authority(), self.target)
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The basic scheme of RFC 7617.
fn basic(user_info: &str) -> Option<String> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let plain = decoded(user_info)?;
    let mut text = String::from("Basic ");
    for group in plain.chunks(3) {
        let bits = (0..3).fold(0, |bits, place| bits << 8 | usize::from(group.get(place).copied().unwrap_or(0)));
        for place in 0..4 {
            let digit = DIGITS.get(bits >> (18 - 6 * place) & 0x3f).filter(|_| place <= group.len());
            text.push(digit.map_or('=', |&digit| char::from(digit)));
        }
    }
    Some(text)
}

/// Without %-escapes.
fn decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let mut digit = || char::from(rest.next()?).to_digit(16);
            bytes.push(u8::try_from(digit()? << 4 | digit()?).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    Some(bytes)
}

fn default_port(is_https: bool) -> u16 {
    if is_https { 443 } else { 80 }
}

/// Path and query without the fragment; none if they cannot stand in a request line.
fn cleaned(target: &str) -> Option<String> {
    let target = target.split('#').next().unwrap_or_default();
    let slash = if target.starts_with('/') { "" } else { "/" };
    target.bytes().all(|b| b.is_ascii_graphic()).then(|| format!("{slash}{target}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Option<String> {
        Url::parse(text).map(|url| url.to_string())
    }

    #[test]
    fn urls_are_taken_apart() {
        for (text, expected) in [
            ("http://A.b", "http://a.b/"),
            ("HTTPS://a.b:443/c?d#e", "https://a.b/c?d"),
            ("http://a.b:443?x", "http://a.b:443/?x"),
            ("http://u:p@a.b/@", "http://a.b/@"),
            ("https://[::1]:8/", "https://[::1]:8/"),
        ] {
            assert_eq!(shown(text).as_deref(), Some(expected), "{text}");
        }
        for text in [
            "",
            "a.b",
            "ftp://a.b",
            "http://",
            "http://:1",
            "http://a:0",
            "http://a:x",
            "http://[::1",
            "http://a b",
            "http://a/ b",
            "http://a\r\n/",
        ] {
            assert_eq!(shown(text), None, "{text}");
        }
    }

    #[test]
    fn a_password_is_sent_and_never_shown() {
        for (user_info, encoded) in [
            ("Aladdin:open%20sesame", "QWxhZGRpbjpvcGVuIHNlc2FtZQ=="),
            ("a:bc", "YTpiYw=="),
            ("a:b", "YTpi"),
            ("a", "YQ=="),
        ] {
            let url = Url::parse(&format!("http://{user_info}@x/")).unwrap();
            assert_eq!(url.authorization, Some(format!("Basic {encoded}")), "{user_info}");
            assert_eq!(format!("{url} {url:?}"), "http://x/ http://x/");
        }
        assert_eq!(Url::parse("http://a%4@x/"), None);
        let url = Url::parse("http://a:b@x/").unwrap();
        assert_eq!(url.join("http://y/").unwrap().authorization, None, "nobody else gets it");
        assert!(url.join("/y").unwrap().authorization.is_some());
    }

    #[test]
    fn redirects_are_relative_to_the_page() {
        let page = Url::parse("https://a.b:8/c/d?e").unwrap();
        for (location, expected) in [
            ("http://x/y", "http://x/y"),
            ("//x/y", "https://x/y"),
            ("/y?z", "https://a.b:8/y?z"),
            ("y", "https://a.b:8/c/y"),
            ("", "https://a.b:8/c/"),
        ] {
            assert_eq!(page.join(location).unwrap().to_string(), expected, "{location}");
        }
        assert_eq!(page.join("/y\r\nx: y"), None);
    }
}
