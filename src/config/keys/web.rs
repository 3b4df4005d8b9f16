//! `web.*`: Telegram's WEB proxy.

use crate::config::field::Field::*;
use crate::config::spec::DefaultText::{Is, Unset};
use crate::config::spec::{KeySpec, key, live};

pub(super) static KEYS: &[KeySpec] = &[
    key(
        "web.bind-to",
        OptionalAddress(|c| &mut c.web.bind_to),
        Unset("no WEB proxy"),
        "where your web server passes the requests of Telegram's WEB proxy to, such as 127.0.0.1:8081",
    ),
    live("web.host", WebHost, Unset("the secret's host"), "the host name of your web site, as WEB links have it"),
    live(
        "web.path",
        WebPath,
        Unset("none: the root of the site"),
        "the path below which WEB links lead; one that nobody guesses comes from 'mtg generate-secret --web'",
    ),
    live("web.carrier", WebCarrier, Is("https"), "how bytes travel: https survives lost connections, or websocket"),
    live(
        "web.trusted",
        Cidrs(|c| &mut c.web.trusted),
        Unset("this machine alone"),
        "web servers on other machines that may pass requests on; may be repeated",
    ),
];
