//! The bridge page: what an app's hidden browser loads, and what then speaks to us.
//!
//! Clients without a browser search its text for `bootstrap="…"`, `carrierMode="…"` and `batchLimit=…`; no other text
//! of 43 digits in quotes may be in it.

use super::site::Site;
use crate::proto::base64url;

const TEXT: &str = include_str!("page.html");

/// What a page is refused by the browser, in the words of the header `Permissions-Policy`.
const REFUSED: [&str; 22] = [
    "accelerometer",
    "autoplay",
    "camera",
    "clipboard-read",
    "clipboard-write",
    "display-capture",
    "encrypted-media",
    "fullscreen",
    "geolocation",
    "gyroscope",
    "hid",
    "idle-detection",
    "magnetometer",
    "microphone",
    "midi",
    "payment",
    "picture-in-picture",
    "publickey-credentials-create",
    "publickey-credentials-get",
    "screen-wake-lock",
    "serial",
    "usb",
];

/// A page for one loading.
pub(crate) struct Page<'a> {
    pub(crate) site: &'a Site,
    /// The token that makes a session.
    pub(crate) bootstrap: &'a str,
    /// `https` or `websocket`.
    pub(crate) carrier: &'static str,
    /// Bytes that the page sends at once.
    pub(crate) batch_limit: usize,
    /// Fresh random bytes: only the script that has them runs.
    pub(crate) nonce: [u8; 18],
}

impl Page<'_> {
    /// Header fields and text.
    pub(crate) fn write(&self) -> (String, String) {
        let (nonce, host) = (base64url::encode(&self.nonce), self.site.host());
        let text = TEXT
            .replacen("@NONCE@", &nonce, 1)
            .replacen("@BASE@", &format!("https://{host}{}", self.site.base()), 1)
            .replacen("@TOKEN@", self.bootstrap, 1)
            .replacen("@MODE@", self.carrier, 1)
            .replacen("@LIMIT@", &self.batch_limit.to_string(), 1);
        let refused: Vec<_> =
            REFUSED.iter().chain(&["web-share", "xr-spatial-tracking"]).map(|name| format!("{name}=()")).collect();
        let fields = format!(
            "Content-Type: text/html; charset=utf-8\r\nReferrer-Policy: no-referrer\r\n\
             X-Content-Type-Options: nosniff\r\nX-DNS-Prefetch-Control: off\r\n\
             Content-Security-Policy: default-src 'none'; base-uri 'none'; child-src 'none'; \
             connect-src 'self' wss://{host}; font-src 'none'; form-action 'none'; \
             frame-ancestors http://127.0.0.1:*; frame-src 'none'; img-src 'none'; manifest-src 'none'; \
             media-src 'none'; object-src 'none'; script-src 'nonce-{nonce}'; style-src 'none'; worker-src 'none'; \
             sandbox allow-same-origin allow-scripts\r\nPermissions-Policy: {}\r\n",
            refused.join(", ")
        );
        (fields, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_without_a_browser_find_what_they_search() {
        let site = Site::new("proxy.example.com", "p", &[1; 16]);
        let token = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";
        let page = Page { site: &site, bootstrap: token, carrier: "https", batch_limit: 262_144, nonce: [9; 18] };
        let (fields, text) = page.write();
        let expected = format!(
            "const relayBase=\"https://proxy.example.com/p/\",bootstrap=\"{token}\",carrierMode=\"https\";\n\
             const batchLimit=262144;"
        );
        assert!(text.contains(&expected) && !text.contains('@'), "{text}");
        let is_token = |quoted: &&str| {
            quoted.len() == 43 && quoted.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        };
        assert_eq!(text.split('"').filter(is_token).collect::<Vec<_>>(), [token]);
        assert!(text.contains("<head>") && text.matches("<script nonce=\"CQkJCQkJCQkJCQkJCQkJCQkJ\">").count() == 1);
        assert!(fields.contains("script-src 'nonce-CQkJ") && fields.contains("wss://proxy.example.com;"));
        assert!(fields.ends_with("xr-spatial-tracking=()\r\n") && !fields.contains("\r\n\r\n"));
        println!("the page has {} bytes", text.len());
    }
}
