//! `http://` and `https://` URLs, as far as asking for them goes (RFC 3986).

use std::fmt;
use std::str::FromStr;

use super::base64url;
use super::host::{AddressError, Host};

/// A URL that can be asked for, taken apart. Its text form leaves out user name and password.
#[derive(Clone, PartialEq, Eq)]
pub struct Url {
    pub(crate) is_https: bool,
    /// A name or an address; an IPv6 address without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Path and query, with a slash in front.
    pub(crate) target: String,
    /// What stands in the field `Authorization`, if there are a user name and a password.
    pub(crate) authorization: Option<String>,
}

/// Why a text is no URL that can be asked for. It carries no part of the text, in which there may be a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UrlError {
    /// Neither `http://` nor `https://`.
    Scheme,
    /// Something that cannot stand in a request.
    Characters,
    /// A `%` without two hex digits in user name or password.
    Escape,
    /// No usable host or port.
    Address(AddressError),
}

impl UrlError {
    /// The same in words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scheme => "it does not start with http:// or https://",
            Self::Characters => "a URL has only printable ASCII characters",
            Self::Escape => "user name or password has a broken %-escape; % itself is written %25",
            Self::Address(error) => error.as_str(),
        }
    }
}

impl fmt::Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::error::Error for UrlError {}

impl FromStr for Url {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let (scheme, rest) = text.split_once("://").ok_or(UrlError::Scheme)?;
        let is_https = match scheme {
            scheme if scheme.eq_ignore_ascii_case("https") => true,
            scheme if scheme.eq_ignore_ascii_case("http") => false,
            _ => return Err(UrlError::Scheme),
        };
        if !is_printable(rest) {
            return Err(UrlError::Characters);
        }
        let (user_info, address, target) = split(rest);
        let (host, port) = Host::parse_with_port(address).map_err(UrlError::Address)?;
        let authorization = match user_info {
            None | Some("") => None,
            Some(user_info) => Some(basic(user_info).ok_or(UrlError::Escape)?),
        };
        let port = port.unwrap_or(default_port(is_https));
        Ok(Self { is_https, host: host.to_string(), port, target: from_the_root(target), authorization })
    }
}

impl Url {
    /// Where a redirect from here leads.
    pub(crate) fn join(&self, location: &str) -> Option<Self> {
        // A query may have another URL in it.
        if location.split_once("://").is_some_and(|(scheme, _)| scheme.bytes().all(|b| b.is_ascii_alphanumeric())) {
            return location.parse().ok();
        }
        if let Some(rest) = location.strip_prefix("//") {
            return format!("{}://{rest}", self.scheme()).parse().ok();
        }
        let target = if location.starts_with('/') {
            location.to_owned()
        } else {
            let path = self.target.split('?').next().unwrap_or_default();
            let folder = path.rfind('/').and_then(|slash| path.get(..=slash)).unwrap_or("/");
            format!("{folder}{location}")
        };
        is_printable(&target).then(|| Self { target: from_the_root(&target), ..self.clone() })
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

/// What follows `://`, taken apart: user name and password, host and port, path with query and fragment.
pub(crate) fn split(text: &str) -> (Option<&str>, &str, &str) {
    let (authority, target) = text.split_at(text.find(['/', '?', '#']).unwrap_or(text.len()));
    let (user_info, address) =
        authority.rsplit_once('@').map_or((None, authority), |(user_info, address)| (Some(user_info), address));
    (user_info, address, target)
}

/// A text without its %-escapes (RFC 3986 section 2.1); none if one is broken.
pub(crate) fn percent_decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
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

/// The basic scheme of RFC 7617.
fn basic(user_info: &str) -> Option<String> {
    Some(format!("Basic {}", base64url::encode_standard(&percent_decoded(user_info)?)))
}

fn default_port(is_https: bool) -> u16 {
    if is_https { 443 } else { 80 }
}

fn is_printable(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_graphic())
}

/// Path and query as a request line has them: from the root, without the fragment.
fn from_the_root(target: &str) -> String {
    let target = target.split('#').next().unwrap_or_default();
    let slash = if target.starts_with('/') { "" } else { "/" };
    format!("{slash}{target}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Url, UrlError> {
        text.parse()
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
            assert_eq!(parse(text).unwrap().to_string(), expected, "{text}");
        }
        for (text, error) in [
            ("", UrlError::Scheme),
            ("a.b", UrlError::Scheme),
            ("ftp://a.b", UrlError::Scheme),
            ("http://", UrlError::Address(AddressError::Host)),
            ("http:///a", UrlError::Address(AddressError::Host)),
            ("http://:1", UrlError::Address(AddressError::Host)),
            ("http://a:0", UrlError::Address(AddressError::Port)),
            ("http://a:+1", UrlError::Address(AddressError::Port)),
            ("http://a:x", UrlError::Address(AddressError::Port)),
            ("http://[::1", UrlError::Address(AddressError::Host)),
            ("http://::1", UrlError::Address(AddressError::Brackets)),
            ("http://a b", UrlError::Characters),
            ("http://a/ b", UrlError::Characters),
            ("http://a\r\n/", UrlError::Characters),
            ("http://ä@a/", UrlError::Characters),
            ("http://a%4@x/", UrlError::Escape),
            ("http://u%zz@h/", UrlError::Escape),
        ] {
            assert_eq!(parse(text), Err(error), "{text}");
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
            let url = parse(&format!("http://{user_info}@x/")).unwrap();
            assert_eq!(url.authorization, Some(format!("Basic {encoded}")), "{user_info}");
            assert_eq!(format!("{url} {url:?}"), "http://x/ http://x/");
        }
        let url = parse("http://a:b@x/").unwrap();
        assert_eq!(url.join("http://y/").unwrap().authorization, None, "nobody else gets it");
        assert!(url.join("/y").unwrap().authorization.is_some());
    }

    #[test]
    fn redirects_are_relative_to_the_page() {
        let page = parse("https://a.b:8/c/d?e").unwrap();
        for (location, expected) in [
            ("http://x/y", "http://x/y"),
            ("//x/y", "https://x/y"),
            ("/y?z=http://x/", "https://a.b:8/y?z=http://x/"),
            ("/y?z", "https://a.b:8/y?z"),
            ("y", "https://a.b:8/c/y"),
            ("", "https://a.b:8/c/"),
        ] {
            assert_eq!(page.join(location).unwrap().to_string(), expected, "{location}");
        }
        assert_eq!(page.join("/y\r\nx: y"), None);
    }
}
