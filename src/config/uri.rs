//! The values that look like URLs: resolver, SOCKS5 proxies, lists and pages.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::value::{self, ValueError};
use super::{Dns, Host, ListUrl, Socks5, Upstream, Url};
use crate::proto::url::{self, UrlError};

/// Whether this build can speak TLS as a client. What needs it is refused instead of ignored.
const HAS_TLS: bool = cfg!(feature = "tls");

/// `network.dns`: `system`, an IPv4 address, or a URL `udp://`, `tls://`, `https://`.
pub(super) fn dns(text: &str) -> Result<Dns, ValueError> {
    if text == "system" {
        return Ok(Dns::System);
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        let ip = text.parse::<std::net::Ipv4Addr>().map_err(|_| ValueError::Invalid)?;
        return Ok(Dns::Udp((ip, 53).into()));
    };
    let (user_info, address, path) = url::split(rest);
    if user_info.is_some() {
        return Err(ValueError::Because("a user name has no use here"));
    }
    let scheme = scheme.to_ascii_lowercase();
    if scheme == "https" {
        return needs_tls(Dns::Https(query_url(text, path)?), "use udp://IP");
    }
    let (host, port) = Host::parse_with_port(address)?;
    if !path.is_empty() {
        return Err(ValueError::Because("only https:// takes a path"));
    }
    match (scheme.as_str(), host) {
        ("udp", Host::Ip(ip)) => Ok(Dns::Udp((ip, port.unwrap_or(53)).into())),
        ("udp", Host::Name(_)) => Err(ValueError::Because("udp:// takes an IP address")),
        ("tls", host) => needs_tls(Dns::Tls(host, port.unwrap_or(853)), "use udp://IP"),
        _ => Err(ValueError::Invalid),
    }
}

/// `network.doh-ip`: the address of a DNS-over-HTTPS server.
pub(super) fn doh_ip(text: &str) -> Result<Dns, ValueError> {
    let url = match text.parse().map_err(|_| ValueError::Invalid)? {
        IpAddr::V4(ip) => format!("https://{ip}{DNS_QUERY}"),
        IpAddr::V6(ip) => format!("https://[{ip}]{DNS_QUERY}"),
    };
    needs_tls(Dns::Https(url.parse()?), "set network.dns to udp://IP")
}

/// An element of `network.proxies`; an empty one is a direct connection.
pub(super) fn upstream(text: &str) -> Result<Upstream, ValueError> {
    if text.is_empty() {
        return Ok(Upstream::Direct);
    }
    let (scheme, rest) = text.split_once("://").ok_or(ValueError::Invalid)?;
    if !scheme.eq_ignore_ascii_case("socks5") && !scheme.eq_ignore_ascii_case("socks5h") {
        return Err(ValueError::Because("only socks5:// is supported"));
    }
    let (user_info, address, rest) = url::split(rest);
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    if !matches!(path, "" | "/") {
        return Err(ValueError::Because(
            "a path has no use here; a slash, # or ? in a password is written %2F, %23, %3F",
        ));
    }
    let credentials = credentials(user_info.unwrap_or_default())?;
    let (host, port) = Host::parse_with_port(address)?;
    let mut proxy = Socks5 {
        host,
        port: port.unwrap_or(1080),
        credentials,
        open_threshold: 5,
        half_open_timeout: Duration::from_secs(60),
        reset_failures_timeout: Duration::from_secs(10),
    };
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        set_parameter(&mut proxy, parameter)?;
    }
    Ok(Upstream::Socks5(proxy))
}

/// An element of `defense.doppelganger.urls`.
pub(super) fn https_url(text: &str) -> Result<Url, ValueError> {
    let url: Url = text.parse()?;
    if url.is_https { needs_tls(url, "remove the line") } else { Err(ValueError::Invalid) }
}

/// `auto-update`: Telegram's web site speaks TLS only.
pub(super) fn auto_update(is_wanted: bool) -> Result<bool, ValueError> {
    if is_wanted { needs_tls(true, "remove the line, the built-in addresses serve") } else { Ok(false) }
}

/// An element of `network.public-ip-urls`.
pub(super) fn page_url(text: &str) -> Result<Url, ValueError> {
    web_url(text, "use an http:// URL")
}

/// An element of `defense.*list.urls`: a URL, else a file. Whether the file is there is seen when it is loaded.
pub(super) fn list_url(text: &str) -> Result<ListUrl, ValueError> {
    if text.contains("://") {
        return web_url(text, "use a local file").map(ListUrl::Url);
    }
    let is_path = !text.is_empty() && !text.contains('\0');
    if is_path { Ok(ListUrl::File(PathBuf::from(text))) } else { Err(ValueError::Invalid) }
}

fn web_url(text: &str, without_tls: &'static str) -> Result<Url, ValueError> {
    let url: Url = text.parse()?;
    if url.is_https { needs_tls(url, without_tls) } else { Ok(url) }
}

/// Where DNS-over-HTTPS servers are asked if the URL does not say (RFC 8484).
const DNS_QUERY: &str = "/dns-query";

fn needs_tls<T>(value: T, alternative: &'static str) -> Result<T, ValueError> {
    if HAS_TLS { Ok(value) } else { Err(ValueError::NeedsTls(alternative)) }
}

/// The URL to ask; `path` is how `text` ends. The template `{?dns}` that some servers are published with is for GET
/// requests.
fn query_url(text: &str, path: &str) -> Result<Url, ValueError> {
    let template = path.find('{').map_or("", |start| path.get(start..).unwrap_or_default());
    let text = text.strip_suffix(template).unwrap_or(text);
    match path.bytes().next() {
        None => Ok(format!("{text}{DNS_QUERY}").parse()?),
        Some(b'/') if !text.contains('#') => Ok(text.parse()?),
        _ => Err(ValueError::Because("the path cannot be sent")),
    }
}

fn credentials(user_info: &str) -> Result<Option<(String, String)>, ValueError> {
    const LONG: ValueError = ValueError::Because("user name and password have at most 255 bytes each");
    if user_info.is_empty() {
        return Ok(None);
    }
    let (user, password) = user_info.split_once(':').unwrap_or((user_info, ""));
    let (user, password) = (percent_decoded(user)?, percent_decoded(password)?);
    if user.is_empty() {
        return Err(ValueError::Because("a password without a user name"));
    }
    // RFC 1929 has one byte for each length.
    if user.len() > 255 || password.len() > 255 { Err(LONG) } else { Ok(Some((user, password))) }
}

fn percent_decoded(text: &str) -> Result<String, ValueError> {
    let text = url::percent_decoded(text).and_then(|bytes| String::from_utf8(bytes).ok());
    text.ok_or(UrlError::Escape.into())
}

/// Sets a parameter of the circuit breaker; 0 is the default, as everywhere.
fn set_parameter(proxy: &mut Socks5, parameter: &str) -> Result<(), ValueError> {
    const UNKNOWN: ValueError = ValueError::Because(
        "unknown parameter after the question mark, known are open_threshold, half_open_timeout, reset_failures_timeout",
    );
    let bad = |_| ValueError::Because("a parameter after the question mark has a bad value");
    let (name, text) = parameter.split_once('=').ok_or(UNKNOWN)?;
    let slot = match name {
        "open_threshold" => {
            let threshold = value::number(text).map_err(bad)?;
            if threshold != 0 {
                proxy.open_threshold = threshold;
            }
            return Ok(());
        }
        "half_open_timeout" => &mut proxy.half_open_timeout,
        "reset_failures_timeout" => &mut proxy.reset_failures_timeout,
        _ => return Err(UNKNOWN),
    };
    let duration = value::duration(text).map_err(bad)?;
    if !duration.is_zero() {
        *slot = duration;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socks5(text: &str) -> Socks5 {
        match upstream(text) {
            Ok(Upstream::Socks5(proxy)) => proxy,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn resolvers_over_udp_are_read() {
        for (text, address) in [
            ("1.1.1.1", "1.1.1.1:53"),
            ("udp://1.1.1.1", "1.1.1.1:53"),
            ("udp://1.1.1.1:5353", "1.1.1.1:5353"),
            ("UDP://[::1]", "[::1]:53"),
            ("udp://[::1]:5353", "[::1]:5353"),
        ] {
            assert_eq!(dns(text), Ok(Dns::Udp(address.parse().unwrap())), "{text}");
        }
        assert_eq!(dns("system"), Ok(Dns::System));
    }

    /// The value in a build with TLS, the refusal in one without.
    fn is_as_built<T: PartialEq>(result: Result<T, ValueError>, value: T) -> bool {
        if HAS_TLS { result == Ok(value) } else { matches!(result, Err(ValueError::NeedsTls(_))) }
    }

    #[test]
    fn what_needs_tls_is_refused_as_such_by_a_build_without() {
        let url = |text: &str| text.parse::<Url>().unwrap();
        let https = |text: &str| Dns::Https(url(text));
        for (text, resolver) in [
            ("tls://dns.google", Dns::Tls(Host::Name("dns.google".into()), 853)),
            ("tls://1.1.1.1:8853", Dns::Tls(Host::parse("1.1.1.1").unwrap(), 8853)),
            ("https://1.1.1.1", https("https://1.1.1.1/dns-query")),
            ("https://host/path{?dns}", https("https://host/path")),
            ("https://[::1]/", https("https://[::1]/")),
        ] {
            assert!(is_as_built(dns(text), resolver), "{text}");
        }
        assert!(is_as_built(doh_ip("::1"), https("https://[::1]/dns-query")));
        assert!(is_as_built(auto_update(true), true));
        assert_eq!(auto_update(false), Ok(false));
        assert!(is_as_built(list_url("https://a.b/c"), ListUrl::Url(url("https://a.b/c"))));
        for text in ["https://a.b", "https://u:p@a.b:8443/c?d#e", "HTTPS://[::1]/"] {
            assert!(is_as_built(https_url(text), url(text)), "{text}");
            assert!(is_as_built(page_url(text), url(text)), "{text}");
        }
        assert_eq!(page_url("http://a.b/ip"), Ok(url("http://a.b/ip")));
    }

    #[test]
    fn resolvers_that_make_no_sense_are_refused() {
        for text in [
            "",
            "xx",
            "dns://1.1.1.1",
            "1.1.1.1:53",
            "::1",
            "dns.google",
            "udp://dns.google",
            "udp://",
            "udp://1.1.1.1/",
            "udp://1.1.1.1/a",
            "tls://1.1.1.1/",
            "tls://1.1.1.1?a=b",
            "udp://u:p@1.1.1.1",
            "https://u@1.1.1.1",
            "https://",
            "https://1.1.1.1:0",
            "https://host?a",
            "https://ho{st/",
            "https://host/a#b",
            "udp://::1",
        ] {
            assert!(matches!(dns(text), Err(ValueError::Invalid | ValueError::Because(_))), "{text}");
        }
    }

    #[test]
    fn proxies_are_read_with_credentials_and_parameters() {
        let plain = socks5("socks5://proxy_1");
        assert_eq!((plain.host, plain.port, plain.credentials), (Host::Name("proxy_1".into()), 1080, None));
        assert_eq!((plain.open_threshold, plain.half_open_timeout.as_secs()), (5, 60));
        assert_eq!(plain.reset_failures_timeout.as_secs(), 10);

        let proxy = socks5(
            "socks5h://us%3Aer:p%40s@s:w@[2001:db8::1]/?open_threshold=7&half_open_timeout=2m&reset_failures_timeout=0",
        );
        assert_eq!((proxy.host, proxy.port), (Host::Ip("2001:db8::1".parse().unwrap()), 1080));
        assert_eq!(proxy.credentials, Some(("us:er".into(), "p@s@s:w".into())));
        assert_eq!((proxy.open_threshold, proxy.half_open_timeout.as_secs()), (7, 120));
        assert_eq!(proxy.reset_failures_timeout.as_secs(), 10);

        assert_eq!(socks5("socks5://[::1]:9050").port, 9050);
        assert_eq!(socks5("SOCKS5://user@10.0.0.1").credentials, Some(("user".into(), String::new())));
        assert_eq!(socks5("socks5://@10.0.0.1").credentials, None);
        assert!(upstream("") == Ok(Upstream::Direct));
    }

    #[test]
    fn proxies_that_make_no_sense_are_refused() {
        let long = format!("socks5://{}:p@h", "u".repeat(256));
        for text in [
            "10.0.0.1:1080",
            "http://10.0.0.1",
            "socks5://",
            "socks5://:1080",
            "socks5://h:0",
            "socks5://h:port",
            "socks5://::1",
            "socks5://h/path",
            "socks5://h#x",
            "socks5://:password@h",
            "socks5://a%zz@h",
            "socks5://a%4@h",
            "socks5://a%ff@h",
            "socks5://h?threshold=1",
            "socks5://h?open_threshold",
            "socks5://h?open_threshold=-1",
            "socks5://h?half_open_timeout=1",
            &long,
        ] {
            assert!(upstream(text).is_err(), "{text}");
        }
    }

    #[test]
    fn lists_are_files_or_urls() {
        assert_eq!(list_url("/etc/mtg/a.netset"), Ok(ListUrl::File("/etc/mtg/a.netset".into())));
        assert_eq!(list_url("a.netset"), Ok(ListUrl::File("a.netset".into())));
        assert_eq!(list_url("http://a.b/c?d"), Ok(ListUrl::Url("http://a.b/c?d".parse().unwrap())));
        for text in ["", "ftp://a.b/c", "file:///etc/mtg", "http://", "http:///c", "http://a.b/ c", "a\0b"] {
            assert!(matches!(list_url(text), Err(ValueError::Invalid | ValueError::Because(_))), "{text}");
        }
    }

    #[test]
    fn pages_are_https_urls() {
        assert_eq!(https_url("http://a.b"), Err(ValueError::Invalid));
        for text in ["", "a.b", "ftp://a.b", "https://", "https:///c", "https://a b"] {
            assert!(matches!(https_url(text), Err(ValueError::Invalid | ValueError::Because(_))), "{text}");
            assert!(matches!(page_url(text), Err(ValueError::Invalid | ValueError::Because(_))), "{text}");
        }
    }
}
