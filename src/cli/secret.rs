//! `mtg generate-secret`.

use super::args::{Command, Flag, Words};
use super::{Failure, print};
use crate::proto::secret::{KEY_LEN, Secret, check_host};

pub(crate) static COMMAND: Command =
    Command { name: "generate-secret", arguments: &["HOST"], about: "make a secret", flags: &[&HEX], notes, act };

static HEX: Flag = Flag { short: "-x", long: "--hex", value: "", about: "print it in hex, not in base64url" };

/// A secret with a new key.
pub(crate) fn fresh(host: &str) -> Result<Secret, Failure> {
    check_host(host).map_err(|error| Failure::usage(format!("the host name {error}")))?;
    let mut key = [0; KEY_LEN];
    getrandom::fill(&mut key).map_err(|error| Failure::Work(format!("cannot get random bytes: {error}")))?;
    // An all-zero key is refused here: it means that the system's randomness is broken.
    Secret::new(key, host).map_err(|error| Failure::Work(error.to_string()))
}

fn act(mut words: Words) -> Result<(), Failure> {
    let hex = words.switch(&HEX);
    let [host] = words.positionals()?;
    let secret = fresh(&host.unwrap_or_default())?;
    print(&format!("{}\n", if hex { secret.to_hex() } else { secret.to_base64() }))
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
    fn bad_hosts_are_errors_of_the_command_line() {
        for host in ["", "1.2.3.4", "a b", "-a.example", &"a".repeat(183)] {
            assert!(matches!(fresh(host), Err(Failure::Usage(_))), "{host}");
        }
    }
}
