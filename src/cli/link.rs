//! The links that put the proxy into a Telegram client.

/// What a link says.
pub(crate) struct Link<'a> {
    /// Address or host name; an IPv6 address without brackets.
    pub(crate) server: &'a str,
    /// The port.
    pub(crate) port: u16,
    /// Hex or base64url.
    pub(crate) secret: &'a str,
}

impl Link<'_> {
    /// Opens the client itself.
    pub(crate) fn tg(&self) -> String {
        format!("tg://proxy?{}", self.query())
    }

    /// Opens a web page that opens the client.
    pub(crate) fn tme(&self) -> String {
        format!("https://t.me/proxy?{}", self.query())
    }

    fn query(&self) -> String {
        format!("port={}&secret={}&server={}", self.port, form_encoded(self.secret), form_encoded(self.server))
    }
}

fn form_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => encoded.push(char::from(byte)),
            b' ' => encoded.push('+'),
            _ => encoded += &format!("%{byte:02X}"),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colons_of_ipv6_are_escaped() {
        let link = Link { server: "2001:db8::1", port: 443, secret: "7g-_" };
        assert_eq!(link.tg(), "tg://proxy?port=443&secret=7g-_&server=2001%3Adb8%3A%3A1");
        assert_eq!(link.tme(), "https://t.me/proxy?port=443&secret=7g-_&server=2001%3Adb8%3A%3A1");
    }

    #[test]
    fn everything_but_unreserved_bytes_is_escaped() {
        assert_eq!(form_encoded("aZ09-_.~ &=%+/é"), "aZ09-_.~+%26%3D%25%2B%2F%C3%A9");
    }
}
