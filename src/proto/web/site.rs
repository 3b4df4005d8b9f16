//! Where the WEB proxy is reached, what proves that somebody knows the secret, and links.
//!
//! ```text
//! context    = "tdesktop-web-proxy-bridge-v1\n" HOST                  without a path
//!              "tdesktop-web-proxy-bridge-v2\n" HOST "\n" PATH        with one
//! capability = base64url( HMAC-SHA256( key = secret, context ) )
//! page       = https://HOST/PATH/?bridge=capability
//! ```
//! The secret is the key of 16 bytes, or `dd` and the key: the same links work in apps that want the one or the other.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::proto::base64url;
use crate::proto::secret::KEY_LEN;

/// First byte of a secret whose clients pad.
const PADDED: u8 = 0xdd;
/// First byte of a secret in a link with a path.
const MARK: u8 = 0x70;
/// The longest path, bytes.
const PATH_MAX: usize = 128;
/// The longest host name, bytes.
const HOST_MAX: usize = 253;
/// Digits of a capability and of a token.
pub(crate) const CREDENTIAL_LEN: usize = 43;

/// What follows from the configuration for the requests of clients.
pub(crate) struct Site {
    host: String,
    /// `/` or `/PATH/`.
    base: String,
    /// Of the two forms of the secret.
    capabilities: [String; 2],
}

impl Site {
    /// The site of a host and a path (empty: the root), which are checked already.
    pub(crate) fn new(host: &str, path: &str, key: &[u8; KEY_LEN]) -> Self {
        let base = if path.is_empty() { "/".to_owned() } else { format!("/{path}/") };
        let capabilities = [padded(key).as_slice(), key].map(|secret| capability(host, path, secret));
        Self { host: host.to_owned(), base, capabilities }
    }

    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    /// The target of the page, as apps ask for it.
    #[cfg(feature = "web")]
    pub(crate) fn page(&self) -> String {
        let [capability, _] = &self.capabilities;
        format!("{}?bridge={capability}", self.base)
    }

    /// Says whether somebody knows the secret. All candidates are compared, each in the same time.
    pub(crate) fn accepts(&self, capability: &str) -> bool {
        self.capabilities.iter().fold(false, |found, known| found | is_equal(known.as_bytes(), capability.as_bytes()))
    }
}

/// What goes into an app.
pub(crate) struct Link<'a> {
    pub(crate) host: &'a str,
    /// Without slashes at its ends; may be empty.
    pub(crate) path: &'a str,
    pub(crate) key: &'a [u8; KEY_LEN],
}

impl Link<'_> {
    /// What people type into an app as the server.
    pub(crate) fn server(&self) -> String {
        let slash = if self.path.is_empty() { "" } else { "/" };
        format!("{}{slash}{}", self.host, self.path)
    }

    /// Opens the app itself.
    pub(crate) fn tg(&self) -> String {
        format!("tg://webproxy?{}", self.query())
    }

    /// Opens a web page that opens the app.
    pub(crate) fn tme(&self) -> String {
        format!("https://t.me/webproxy?{}", self.query())
    }

    fn query(&self) -> String {
        let secret = padded(self.key);
        if self.path.is_empty() {
            let digits: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
            return format!("server={}&secret={digits}", self.host);
        }
        // Apps that know no paths take the mark for a secret of the future and tell their user to update.
        let marked = base64url::encode(&[&[MARK], secret.as_slice()].concat());
        format!("server={}%2F{}&secret={marked}", self.host, self.path.replace('/', "%2F"))
    }
}

/// The form of a secret whose clients pad, which hides the sizes of messages.
fn padded(key: &[u8; KEY_LEN]) -> Vec<u8> {
    [&[PADDED], key.as_slice()].concat()
}

fn capability(host: &str, path: &str, secret: &[u8]) -> String {
    let context = if path.is_empty() {
        format!("tdesktop-web-proxy-bridge-v1\n{host}")
    } else {
        format!("tdesktop-web-proxy-bridge-v2\n{host}\n{path}")
    };
    base64url::encode(&mac(secret, context.as_bytes()))
}

/// HMAC-SHA256.
pub(super) fn mac(key: &[u8], message: &[u8]) -> [u8; 32] {
    // HMAC takes a key of any length, so this is always some.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return [0; 32] };
    mac.update(message);
    mac.finalize().into_bytes().into()
}

/// Compares in a time that depends on the lengths only.
pub(super) fn is_equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differences, (a, b)| differences | (a ^ b)) == 0
}

/// Why apps would not take a host.
pub(crate) fn check_host(host: &str) -> Result<(), &'static str> {
    if host.len() > HOST_MAX || !host.contains('.') {
        return Err("a DNS name with a dot and at most 253 bytes is needed");
    }
    if !host.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.')) {
        return Err("only lower-case letters, digits, hyphens and dots; write other letters as xn--");
    }
    let is_label = |label: &str| !matches!(label.len(), 0 | 64..) && !label.starts_with('-') && !label.ends_with('-');
    if !host.split('.').all(is_label) {
        return Err("it has a label that is empty, longer than 63 bytes or has a hyphen at its edge");
    }
    let last = host.rsplit('.').next().unwrap_or_default();
    let is_hex = last.strip_prefix("0x").is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
    if is_hex || last.bytes().all(|b| b.is_ascii_digit()) {
        return Err("browsers take it for an IP address");
    }
    Ok(())
}

/// Says whether apps take a path: segments of letters, digits, `-` and `_` between slashes.
pub(crate) fn is_path(path: &str) -> bool {
    let is_segment = |segment: &str| {
        segment.starts_with(|c: char| c.is_ascii_alphanumeric())
            && segment.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    path.len() <= PATH_MAX && path.split('/').all(is_segment)
}

/// A path that nobody guesses, made of 16 random bytes.
pub(crate) fn path_from(random: [u8; 16]) -> String {
    const DIGITS: [char; 32] = [
        'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j', 'k', 'l', 'm', 'n', 'o', 'p', 'q', 'r', 's', 't', 'u', 'v',
        'w', 'x', 'y', 'z', '2', '3', '4', '5', '6', '7',
    ];
    let number = u128::from_be_bytes(random);
    let digit = |place: u32| usize::try_from(number >> (5 * place) & 0x1f).ok().and_then(|at| DIGITS.get(at));
    (0..26).filter_map(digit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

    #[test]
    fn the_vectors_capabilities_are_accepted_and_no_others() {
        for (host, path, plain, padded) in [
            (
                "proxy.example.com",
                "",
                "MHLEY5PmW1GWqJkSrlmJpvJUiLhBH_QKy6yKg8a0JPk",
                "IpJrt3e7sKtzPyoXy6w-Zj6GGEvsvclN66JzQEfPYLA",
            ),
            (
                "proxy.example.com",
                "dobry-cola-super-app",
                "hHz99Xs93EN1j91G9gpNepXwGNNt5YdAFkEVk_LlqdQ",
                "TGUkZaevsavLbHvlNWipnRoYxgzZ51ioWvbxgGT3wHo",
            ),
            (
                "proxy.example.com",
                "two/Segments_x-9",
                "FnKeOjqxOME59ehZKo2fM7NZp8j77o7Gw7ACVgyqVrA",
                "4IfTxi8V7NsOdH3wtAHj01nZziNo3jZXeobE5H38-KI",
            ),
            ("xn--bcher-kva.example", "", "", "Nqt33T7AIpiC4ZDJ8fhjRCYNqVdfebvuwvousIweULM"),
        ] {
            let site = Site::new(host, path, &KEY);
            assert!(site.accepts(padded), "{host}/{path}");
            assert!(plain.is_empty() || site.accepts(plain), "{host}/{path}");
            assert!(!site.accepts(&padded.to_lowercase()) && !site.accepts("") && !site.accepts(&padded[1..]));
            assert!(!Site::new(host, "other", &KEY).accepts(padded));
            assert!(!Site::new(host, path, &[7; 16]).accepts(padded));
        }
    }

    #[test]
    fn links_are_those_that_apps_read() {
        let link = |path| Link { host: "proxy.example.com", path, key: &KEY };
        assert_eq!(link("").tg(), "tg://webproxy?server=proxy.example.com&secret=dd000102030405060708090a0b0c0d0e0f");
        assert_eq!(
            link("a/b").tme(),
            "https://t.me/webproxy?server=proxy.example.com%2Fa%2Fb&secret=cN0AAQIDBAUGBwgJCgsMDQ4P"
        );
    }

    #[test]
    fn hosts_and_paths_that_apps_refuse_are_refused() {
        let label = "a".repeat(64);
        for bad in ["", "localhost", "Example.com", "a..b", "-a.b", "a.b-", "a.b.", "1.2.3.4", "a.0x1f", "a.7", "ü.de"]
            .into_iter()
            .chain([format!("{label}.de").as_str(), &"a.".repeat(130)])
        {
            assert!(check_host(bad).is_err(), "{bad}");
        }
        for good in ["example.com", "xn--bcher-kva.example", "1.a", "a.0xg"] {
            assert_eq!(check_host(good), Ok(()), "{good}");
        }
        for bad in ["", "/", "a/", "/a", "a//b", "-a", "a.b", "a b", "ä", "%41", &"a".repeat(129)] {
            assert!(!is_path(bad), "{bad}");
        }
        assert!(is_path("a/B_c-9") && is_path(&path_from([0xff; 16])) && path_from([9; 16]).len() == 26);
    }
}
