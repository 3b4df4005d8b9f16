//! The WEB proxy as an app finds it: name, port, certificate, page, session, and a data centre's answer through all of
//! it. The chain is followed up to its first broken link, which is named with what mends it.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use super::web_session::Session;
use super::web_visitor::{Answer, Broken, PORT, Visitor, broken, random};
use super::{Case, Finding};
use crate::proto::base64url;
use crate::proto::web::site::Site;

pub(super) const SUBJECT: &str = "WEB proxy";
const BLOCK: &str = "put the block for your web server (folder image/web of mtg) into its configuration, with this host name and path, and reload it";

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
    let visitor = match reach(case, host).await {
        Err(broken) if !cfg!(feature = "tls") => {
            findings.push(broken);
            findings.push(answers_directly(case, &site).await);
            return Ok(());
        }
        reached => reached?,
    };
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
        // The connection is there.
        ErrorKind::Unsupported => Finding::warn(
            "WEB certificate",
            &format!(
                "port 443 of {host} is open, but this build of mtg has no TLS: it cannot see the certificate, the page, what \
                 strangers see, and whether the link works"
            ),
            "run 'mtg doctor' of the package mtg-tls with this file, or open the link in an app",
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
        "the certificate is out of date: renew it (certbot renew, acme.sh), and see why that does not happen by itself"
    } else if text.contains("not valid for name") || text.contains("NotValidForName") {
        "the certificate is for another name: get one for the name in web.host, or correct web.host"
    } else {
        "apps take only certificates that browsers take: get one from Let's Encrypt, and give the web server the whole \
         chain (fullchain.pem)"
    }
}

/// The page for somebody with the link.
async fn page(visitor: &Visitor<'_>, site: &Site) -> Result<String, Broken> {
    const SUBJECT: &str = "WEB page";
    let answer =
        visitor.ask(("GET", &site.page(), &[], None)).await.map_err(|error| broken(SUBJECT, "the page", &error))?;
    let text = answer.text();
    let is_page = answer.status() == 200 && text.contains("bootstrap=\"");
    if is_page && text.contains(&format!("relayBase=\"https://{}{}\"", site.host(), site.base())) {
        return Ok(text.to_owned());
    }
    let status = answer.status();
    Err(match asked_directly(visitor.case, site).await {
        Ok(direct) if direct.status() == 200 => match status {
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
        Ok(_) => another(SUBJECT),
        Err(error) => silent(SUBJECT, &error),
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
    visitor.ask(("GET", &site.page(), &[], None)).await
}

/// What can be seen without TLS: whether mtg itself would answer.
async fn answers_directly(case: &Case, site: &Site) -> Finding {
    const SUBJECT: &str = "WEB page";
    match asked_directly(case, site).await {
        Ok(answer) if answer.status() == 200 => {
            Finding::ok(SUBJECT, "mtg answers at web.bind-to; whether the web server asks it there was not seen")
        }
        Ok(_) => another(SUBJECT),
        Err(error) => silent(SUBJECT, &error),
    }
}

fn another(subject: &str) -> Finding {
    Finding::fail(
        subject,
        "the mtg that runs has another secret, host or path than this file",
        "restart mtg, so that it reads the file (a reload takes all but web.bind-to)",
    )
}

fn silent(subject: &str, error: &io::Error) -> Finding {
    if error.kind() != ErrorKind::ConnectionRefused {
        return broken(subject, "mtg at web.bind-to", error);
    }
    Finding::fail(
        subject,
        "mtg does not listen where web.bind-to says",
        "start mtg (OpenWrt: /etc/init.d/mtg start; others: systemctl start mtg), or restart it if web.bind-to is new",
    )
}

/// Somebody without the link has to see the site: what he sees at any other address that does not exist. At the root,
/// which does exist, he must not see mtg's own answer, nor another status than with another query, for a site may show
/// that in its answer; what he sees below is compared.
async fn strangers(visitor: &Visitor<'_>, site: &Site) -> Finding {
    const SUBJECT: &str = "WEB strangers";
    let wrong = base64url::encode(&random::<32>());
    let (page, below) = (format!("{}?bridge={wrong}", site.base()), format!("/api/v1/{wrong}"));
    // The same address to whoever has never heard of mtg.
    let other_page = format!("{}?bridgx={wrong}", site.base());
    let bearer = format!("Bearer {wrong}");
    let bearer = [("Authorization", bearer.as_str())];
    let is_root = site.base() == "/";
    let (asked, fields) = if is_root { (&below, &bearer[..]) } else { (&page, &[][..]) };
    let plain = elsewhere(asked);
    let mut answers = Vec::new();
    let mut targets = vec![(asked, fields), (&plain, fields)];
    if is_root {
        targets.extend([(&page, &[][..]), (&other_page, &[])]);
    }
    for (target, fields) in targets {
        match visitor.ask(("GET", target, fields, None)).await {
            Ok(answer) => answers.push(answer),
            Err(error) => return broken(SUBJECT, "the site", &error),
        }
    }
    let [hidden, plain, at_root @ ..] = answers.as_slice() else { return another(SUBJECT) };
    let text = if let [page, _] = at_root
        && is_of_mtg(page)
    {
        "whoever lacks the link gets mtg's own answer at / (status 404, 0 bytes) instead of your site".to_owned()
    } else if let [page, other_page] = at_root
        && page.status() != other_page.status()
    {
        format!(
            "whoever comes to / with a wrong link gets another answer (status {}) than with any other query (status {})",
            page.status(),
            other_page.status()
        )
    } else if (hidden.status(), hidden.body.len()) != (plain.status(), plain.body.len()) {
        format!(
            "whoever lacks the link gets another answer below {} (status {}, {} bytes) than elsewhere (status {}, {} bytes)",
            if is_root { "/api/v1/" } else { site.base() },
            hidden.status(),
            hidden.body.len(),
            plain.status(),
            plain.body.len()
        )
    } else {
        return Finding::ok(SUBJECT, "whoever lacks the link sees your site");
    };
    Finding::fail(
        SUBJECT,
        &text,
        "let the web server put its own answer in the place of mtg's 404 (nginx: proxy_intercept_errors and error_page; \
         Caddy: handle_response), as in the block of image/web",
    )
}

/// What nobody but mtg says.
fn is_of_mtg(answer: &Answer) -> bool {
    answer.status() == 404 && answer.body.is_empty() && answer.field("cache-control") == Some("no-store")
}

/// An address that nothing knows, as long and as deep as `target`, for a site may show the address in its answer.
fn elsewhere(target: &str) -> String {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let noise = base64url::encode(&random::<192>()).replace(['-', '_'], "x");
    let path = path.chars().zip(noise.chars()).map(|(old, new)| if old == '/' { old } else { new });
    path.chain(target.contains('?').then_some('?')).chain(query.chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elsewhere_is_as_long_and_as_deep() {
        for target in ["/path/?bridge=wrong", "/two/parts/?bridge=wrong", "/api/v1/wrong"] {
            let other = elsewhere(target);
            assert_ne!(other, target);
            assert_eq!((other.len(), other.matches('/').count()), (target.len(), target.matches('/').count()));
            assert_eq!(other.split_once('?').map(|(_, query)| query), target.split_once('?').map(|(_, query)| query));
        }
    }

    #[test]
    fn without_tls_it_is_said_what_was_not_seen() {
        let found = unreachable("proxy.example.com", &ErrorKind::Unsupported.into());
        assert!(found.text.contains("port 443 of proxy.example.com is open, but this build of mtg has no TLS"));
        assert!(found.advice.contains("mtg-tls") && !found.advice.contains("router"), "{}", found.advice);
    }
}
