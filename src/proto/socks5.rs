//! The client's side of SOCKS5 (RFC 1928), with a user name and a password where there are some (RFC 1929).
//!
//! ```text
//! greeting   05 | count | methods                        00 none, 02 user name and password
//! method     05 | method                                 ff: none of them
//! login      01 | length | user name | length | password
//! status     01 | 00 = good
//! request    05 | 01 CONNECT | 00 | address | port       port: 2 bytes, big-endian
//! reply      05 | 00 = good | 00 | address | port
//! address    01 | 4 bytes IPv4;  03 | length | name;  04 | 16 bytes IPv6
//! ```

use std::fmt;
use std::net::IpAddr;

const VERSION: u8 = 0x05;
const LOGIN_VERSION: u8 = 0x01;
const CONNECT: u8 = 0x01;
const NO_LOGIN: u8 = 0x00;
const LOGIN: u8 = 0x02;
const NONE_ACCEPTED: u8 = 0xff;
const IPV4: u8 = 0x01;
const NAME: u8 = 0x03;
const IPV6: u8 = 0x04;
const PORT_LEN: usize = 2;

/// What is said to a proxy until it has connected us. No `Debug`: it has a password.
pub(crate) struct Dialogue {
    login: Option<Vec<u8>>,
    request: Vec<u8>,
    stage: Stage,
}

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Send this, then receive so many bytes and not one more.
    Exchange { send: Vec<u8>, receive: usize },
    /// From now on the stream is the target's.
    Connected,
}

/// Why a proxy does not connect us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// A user name, password or host name of more than 255 bytes.
    TooLong,
    /// It answers with something else.
    NotSocks5,
    /// It wants a user name and a password, and we have none.
    LoginWanted,
    /// It accepts no method that we offer.
    NoMethod,
    /// The user name or the password is wrong.
    BadLogin,
    /// It cannot or will not connect; the code of the reply.
    Reply(u8),
}

/// What is awaited.
enum Stage {
    Start,
    Method,
    Status,
    Reply,
    NameLength,
    Rest,
}

impl Dialogue {
    /// Prepares to ask for a connection to `host`, an IP address or a name for the proxy to look up.
    ///
    /// # Errors
    /// [`Refusal::TooLong`].
    pub(crate) fn new(credentials: Option<(&str, &str)>, host: &str, port: u16) -> Result<Self, Refusal> {
        let login = match credentials {
            None => None,
            Some((user, password)) => {
                let mut login = vec![LOGIN_VERSION];
                push_text(&mut login, user)?;
                push_text(&mut login, password)?;
                Some(login)
            }
        };
        let mut request = vec![VERSION, CONNECT, 0];
        match host.parse() {
            Ok(IpAddr::V4(ip)) => {
                request.push(IPV4);
                request.extend(ip.octets());
            }
            Ok(IpAddr::V6(ip)) => {
                request.push(IPV6);
                request.extend(ip.octets());
            }
            Err(_) => {
                request.push(NAME);
                push_text(&mut request, host)?;
            }
        }
        request.extend(port.to_be_bytes());
        Ok(Self { login, request, stage: Stage::Start })
    }

    /// Takes what the last step asked for, at first nothing, and says what comes next.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub(crate) fn next(&mut self, received: &[u8]) -> Result<Step, Refusal> {
        match (&self.stage, received) {
            (Stage::Start, _) => {
                let methods: &[u8] = if self.login.is_some() { &[2, NO_LOGIN, LOGIN] } else { &[1, NO_LOGIN] };
                Ok(self.exchange([&[VERSION], methods].concat(), 2, Stage::Method))
            }
            (Stage::Method, &[VERSION, NO_LOGIN]) | (Stage::Status, &[_, 0]) => {
                let request = std::mem::take(&mut self.request);
                Ok(self.exchange(request, 4, Stage::Reply))
            }
            (Stage::Method, &[VERSION, LOGIN]) => {
                let login = self.login.take().ok_or(Refusal::LoginWanted)?;
                Ok(self.exchange(login, 2, Stage::Status))
            }
            (Stage::Method, &[VERSION, NONE_ACCEPTED]) if self.login.is_none() => Err(Refusal::LoginWanted),
            (Stage::Method, &[VERSION, _]) => Err(Refusal::NoMethod),
            (Stage::Status, &[_, _]) => Err(Refusal::BadLogin),
            (Stage::Reply, &[VERSION, 0, _, IPV4]) => Ok(self.exchange(Vec::new(), 4 + PORT_LEN, Stage::Rest)),
            (Stage::Reply, &[VERSION, 0, _, IPV6]) => Ok(self.exchange(Vec::new(), 16 + PORT_LEN, Stage::Rest)),
            (Stage::Reply, &[VERSION, 0, _, NAME]) => Ok(self.exchange(Vec::new(), 1, Stage::NameLength)),
            (Stage::Reply, &[VERSION, code, _, _]) if code != 0 => Err(Refusal::Reply(code)),
            (Stage::NameLength, &[length]) => {
                Ok(self.exchange(Vec::new(), usize::from(length) + PORT_LEN, Stage::Rest))
            }
            (Stage::Rest, _) => Ok(Step::Connected),
            _ => Err(Refusal::NotSocks5),
        }
    }

    fn exchange(&mut self, send: Vec<u8>, receive: usize, stage: Stage) -> Step {
        self.stage = stage;
        Step::Exchange { send, receive }
    }
}

impl Refusal {
    /// Whether the proxy works and only this target cannot be reached through it.
    pub(crate) fn is_about_the_target(self) -> bool {
        matches!(self, Self::Reply(0x03..=0x06 | 0x08))
    }
}

fn push_text(message: &mut Vec<u8>, text: &str) -> Result<(), Refusal> {
    message.push(u8::try_from(text.len()).map_err(|_| Refusal::TooLong)?);
    message.extend(text.bytes());
    Ok(())
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLong => "a name of more than 255 bytes does not fit SOCKS5",
            Self::NotSocks5 => "it does not speak SOCKS5",
            Self::LoginWanted => "it wants a user name and a password",
            Self::NoMethod => "it accepts neither of the ways to log in",
            Self::BadLogin => "it refuses the user name or the password",
            Self::Reply(0x01) => "it has a general failure",
            Self::Reply(0x02) => "its rules do not allow the connection",
            Self::Reply(0x03) => "it cannot reach the network",
            Self::Reply(0x04) => "it cannot reach the host",
            Self::Reply(0x05) => "the connection was refused there",
            Self::Reply(0x06) => "the TTL expired on the way from it",
            Self::Reply(0x07) => "it does not know the command CONNECT",
            Self::Reply(0x08) => "it does not know this type of address",
            Self::Reply(code) => return write!(f, "it answers with the unknown code {code:02x}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::testing::{hex, seeded};

    /// Plays the proxy: what we send has to be the even elements, and it answers with the odd ones.
    fn play(mut dialogue: Dialogue, script: &[&str]) -> Result<(), Refusal> {
        let mut answer = Vec::new();
        let mut lines = script.iter();
        loop {
            match dialogue.next(&answer)? {
                Step::Connected => {
                    assert!(lines.next().is_none(), "connected too early");
                    return Ok(());
                }
                Step::Exchange { send, receive } => {
                    assert_eq!(send, hex(lines.next().unwrap()));
                    answer = hex(lines.next().unwrap());
                    assert_eq!(answer.len(), receive);
                }
            }
        }
    }

    fn plain(host: &str) -> Dialogue {
        Dialogue::new(None, host, 443).unwrap()
    }

    fn with_login() -> Dialogue {
        Dialogue::new(Some(("us:er", "päss")), "192.0.2.1", 443).unwrap()
    }

    const GREETING: &str = "050100";
    const GREETING_WITH_LOGIN: &str = "05020002";
    const LOGIN_MESSAGE: &str = "01 05 75733a6572 05 70c3a47373";
    const REQUEST: &str = "05010001 c0000201 01bb";

    #[test]
    fn targets_are_addresses_or_names() {
        for (host, request) in [
            ("192.0.2.1", REQUEST),
            ("2001:db8::1", "05010004 20010db8000000000000000000000001 01bb"),
            ("example.com", "05010003 0b 6578616d706c652e636f6d 01bb"),
        ] {
            let reply = ["", "000000000000"];
            play(plain(host), &[&[GREETING, "0500", request, "05000001"][..], &reply].concat()).unwrap();
        }
    }

    #[test]
    fn replies_carry_any_type_of_address_and_nothing_is_read_beyond_them() {
        for rest in [
            &["05000001", "", "c00002010050"][..],
            &["05000004", "", "000000000000000000000000000000000050"],
            &["05000003", "", "03", "", "6162630050"],
            &["05000003", "", "00", "", "0050"],
        ] {
            play(plain("192.0.2.1"), &[&[GREETING, "0500", REQUEST][..], rest].concat()).unwrap();
        }
    }

    #[test]
    fn credentials_are_offered_and_told_only_if_they_are_wanted() {
        let reply = ["05000001", "", "000000000000"];
        let begin = [GREETING_WITH_LOGIN, "0502", LOGIN_MESSAGE, "0100", REQUEST];
        play(with_login(), &[&begin[..], &reply].concat()).unwrap();
        play(with_login(), &[&[GREETING_WITH_LOGIN, "0500", REQUEST][..], &reply].concat()).unwrap();
    }

    #[test]
    fn every_refusal_is_told_from_the_others() {
        let refused = |dialogue, script: &[&str]| play(dialogue, script).unwrap_err();
        assert_eq!(refused(plain("a"), &[GREETING, "05ff"]), Refusal::LoginWanted);
        assert_eq!(refused(plain("a"), &[GREETING, "0502"]), Refusal::LoginWanted);
        assert_eq!(refused(with_login(), &[GREETING_WITH_LOGIN, "05ff"]), Refusal::NoMethod);
        assert_eq!(refused(with_login(), &[GREETING_WITH_LOGIN, "0501"]), Refusal::NoMethod);
        assert_eq!(refused(with_login(), &[GREETING_WITH_LOGIN, "0502", LOGIN_MESSAGE, "0101"]), Refusal::BadLogin);
        for (answer, refusal) in [("4854", Refusal::NotSocks5), ("0400", Refusal::NotSocks5)] {
            assert_eq!(refused(plain("a"), &[GREETING, answer]), refusal);
        }
        for (reply, refusal) in [
            ("05050001", Refusal::Reply(5)),
            ("05ff0000", Refusal::Reply(0xff)),
            ("05000002", Refusal::NotSocks5),
            ("00000001", Refusal::NotSocks5),
        ] {
            assert_eq!(refused(plain("192.0.2.1"), &[GREETING, "0500", REQUEST, reply]), refusal);
        }
        let long = "x".repeat(256);
        assert!(matches!(Dialogue::new(None, &long, 1), Err(Refusal::TooLong)));
        assert!(matches!(Dialogue::new(Some((&long, "")), "a", 1), Err(Refusal::TooLong)));
        assert!(matches!(Dialogue::new(Some(("", &long)), "a", 1), Err(Refusal::TooLong)));
    }

    #[test]
    fn only_replies_about_the_target_leave_the_proxy_blameless() {
        let about_the_target: Vec<_> = (0..=255).filter(|&code| Refusal::Reply(code).is_about_the_target()).collect();
        assert_eq!(about_the_target, [3, 4, 5, 6, 8]);
        assert!(!Refusal::BadLogin.is_about_the_target());
    }

    #[test]
    #[cfg_attr(miri, ignore = "statistics of 50 000 dialogues")]
    fn no_answer_breaks_the_dialogue() {
        let mut fill = seeded(11);
        let (mut connected, mut refused) = (0, 0);
        for round in 0..50_000 {
            let mut dialogue = if round % 2 == 0 { plain("a") } else { with_login() };
            let mut answer = Vec::new();
            loop {
                match dialogue.next(&answer) {
                    Ok(Step::Exchange { receive, .. }) => {
                        let mut dice = [0; 2];
                        fill(&mut dice);
                        answer = vec![0; if dice[0] < 4 { receive.saturating_sub(1) } else { receive }];
                        fill(&mut answer);
                        // Else hardly any answer would come beyond the first byte.
                        for (byte, likely) in answer.iter_mut().zip([VERSION, dice[1] & 3, 0, dice[1] >> 6 | 1]) {
                            if *byte < 230 {
                                *byte = likely;
                            }
                        }
                    }
                    Ok(Step::Connected) => break connected += 1,
                    Err(_) => break refused += 1,
                }
            }
        }
        assert!(connected > 100 && refused > 100, "{connected} {refused}");
    }
}
