//! `mtg generate-secret`.

use super::args::{Command, Flag, Words};
use super::{Failure, note, print, punycode};
use crate::proto::secret::{HostError, KEY_LEN, Secret, check_host};
use crate::proto::web::site;

pub(crate) static COMMAND: Command =
    Command { name: "generate-secret", arguments: &["HOST"], about: "make a secret", flags: &[&HEX, &WEB], notes, act };

static HEX: Flag = Flag { short: "-x", long: "--hex", value: "", about: "print it in hex, not in base64url" };

static WEB: Flag = Flag {
    short: "",
    long: "--web",
    value: "",
    about: "print lines for the configuration, with a path for the WEB proxy",
};

/// A secret with a new key. Of a web address only the host is taken, which is said.
pub(crate) fn fresh(text: &str) -> Result<Secret, Failure> {
    let host = host_of(text);
    check_host(host).map_err(|error| refusal(host, error))?;
    if text.contains("://") {
        note(format_args!("of the address, only the host name counts: {host}"));
    }
    let mut key = [0; KEY_LEN];
    getrandom::fill(&mut key).map_err(|error| Failure::Work(format!("cannot get random bytes: {error}")))?;
    // An all-zero key is refused here: it means that the system's randomness is broken.
    Secret::new(key, host).map_err(|error| Failure::Work(error.to_string()))
}

/// A host name without what people copy along with it: the rest of a web address, the dot at the end.
fn host_of(text: &str) -> &str {
    let host = match text.split_once("://") {
        None => text,
        Some((_, address)) => {
            let authority = address.split(['/', '?', '#']).next().unwrap_or_default();
            let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
            match host.rsplit_once(':') {
                Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
                _ => host,
            }
        }
    };
    host.strip_suffix('.').unwrap_or(host)
}

fn refusal(host: &str, error: HostError) -> Failure {
    let ascii = punycode::host(host).filter(|ascii| !host.is_ascii() && check_host(ascii).is_ok());
    Failure::usage(match ascii {
        Some(ascii) => format!("the host name has letters that TLS writes in another way; write {ascii} instead"),
        None => format!("the host name {error}"),
    })
}

fn act(mut words: Words) -> Result<(), Failure> {
    let hex = words.switch(&HEX);
    let with_path = words.switch(&WEB);
    let [host] = words.positionals()?;
    let secret = fresh(&host.unwrap_or_default())?;
    let text = if hex { secret.to_hex() } else { secret.to_base64() };
    if !with_path {
        return print(&format!("{text}\n"));
    }
    site::check_host(secret.host())
        .map_err(|why| Failure::usage(format!("the host name cannot be a WEB proxy's: {why}")))?;
    let path = site::path_from(*fresh(secret.host())?.key());
    print(&format!("secret = {text}\nweb.bind-to = 127.0.0.1:8081\nweb.path = {path}\n"))
}

fn notes() -> String {
    "HOST is the web site that the proxy pretends to be: a DNS name of at most 182 bytes. Take one that\n\
     speaks TLS 1.3 and that people behind the censor may visit; best is one of your own."
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fresh_secrets_differ_and_keep_the_host() {
        let (a, b) = (fresh("Example.com").unwrap(), fresh("example.com").unwrap());
        assert_eq!((a.host(), b.host()), ("example.com", "example.com"));
        assert_ne!(a.key(), b.key());
    }

    #[test]
    fn of_a_web_address_the_host_is_taken() {
        for text in
            ["example.com.", "https://example.com", "http://u:p@Example.com:8443/a?b#c", "HTTPS://example.com./"]
        {
            assert_eq!(fresh(text).unwrap().host(), "example.com", "{text}");
        }
    }

    #[test]
    fn the_right_spelling_of_other_scripts_is_proposed() {
        let spelling = "the host name has letters that TLS writes in another way; write xn--e1afmkfd.xn--p1ai instead";
        for text in ["пример.рф", "https://Пример.рф/"] {
            assert_eq!(fresh(text).unwrap_err(), Failure::usage(spelling), "{text}");
        }
    }

    #[test]
    fn bad_hosts_are_errors_of_the_command_line() {
        for host in ["", "1.2.3.4", "a b", "-a.example", "https://", "https://[::1]/", "ä b", &"a".repeat(183)] {
            assert!(matches!(fresh(host), Err(Failure::Usage(_))), "{host}");
        }
    }
}
