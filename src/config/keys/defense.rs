//! `defense.*`: replays, lists, the look of a connection.

use crate::config::field::Field::*;
use crate::config::spec::DefaultText::{Is, Unset};
use crate::config::spec::Status::Ignored;
use crate::config::spec::{KeySpec, key, live};

pub(super) static KEYS: &[KeySpec] = &[
    key(
        "defense.anti-replay.enabled",
        Bool(|c| &mut c.defense.anti_replay),
        Is("true"),
        "send replayed handshakes to the front",
    ),
    key(
        "defense.anti-replay.max-size",
        ReplaySet(|c| &mut c.defense.anti_replay_max_size),
        Is("1MB"),
        "the most memory that the table of seen handshakes takes: 1MB remembers the last 100 000",
    ),
    key(
        "defense.anti-replay.file",
        AbsolutePath(|c| &mut c.defense.anti_replay_file),
        Unset("none, a restart forgets the table"),
        "the file that keeps the table over a restart; written at the end and at most once an hour",
    ),
    key("defense.anti-replay.error-rate", Unused, Unset("none"), "without effect: one error in 10^14")
        .status(Ignored("the table of seen handshakes makes one error in 10^14")),
    key(
        "defense.reject",
        Reject,
        Is("front"),
        "what happens to blocked addresses and those over handshakes-per-ip: front (they see the web site), or close",
    ),
    live(
        "defense.reply-delay",
        Grace(|c| &mut c.defense.reply_delay),
        Is("60ms"),
        "the longest that the reply to a client waits in order to take as long as the front's; 0s is off",
    ),
    live(
        "defense.blocklist.enabled",
        Bool(|c| &mut c.defense.blocklist.enabled),
        Is("false"),
        "use the list of who may not connect",
    ),
    live(
        "defense.blocklist.urls",
        ListUrls(|c| &mut c.defense.blocklist.urls),
        Unset("none"),
        "where the list is: files and URLs, one IP address or network per line; may be repeated",
    ),
    live(
        "defense.blocklist.update-each",
        Duration(|c| &mut c.defense.blocklist.update_each),
        Is("6h"),
        "how often it is loaded again",
    ),
    live(
        "defense.blocklist.download-concurrency",
        Count(|c| &mut c.defense.blocklist.download_concurrency),
        Is("1"),
        "sources that are loaded at the same time",
    ),
    live(
        "defense.allowlist.enabled",
        Bool(|c| &mut c.defense.allowlist.enabled),
        Is("false"),
        "use the list of who may connect, and nobody else",
    ),
    live(
        "defense.allowlist.urls",
        ListUrls(|c| &mut c.defense.allowlist.urls),
        Unset("none"),
        "where the list is: files and URLs, one IP address or network per line; may be repeated",
    ),
    live(
        "defense.allowlist.update-each",
        Duration(|c| &mut c.defense.allowlist.update_each),
        Is("6h"),
        "how often it is loaded again",
    ),
    live(
        "defense.allowlist.download-concurrency",
        Count(|c| &mut c.defense.allowlist.download_concurrency),
        Is("1"),
        "sources that are loaded at the same time",
    ),
    key(
        "defense.doppelganger.enabled",
        Bool(|c| &mut c.defense.doppelganger.enabled),
        Is("false"),
        "space the records of downloads as a web server would; costs speed: 19 Mbit/s per connection at most",
    ),
    key(
        "defense.doppelganger.urls",
        HttpsUrls(|c| &mut c.defense.doppelganger.urls),
        Unset("none"),
        "pages whose timing (enabled) and record sizes (drs) are imitated; the speed that is left is in the log; may be repeated",
    ),
    key(
        "defense.doppelganger.repeats-per-raid",
        Count(|c| &mut c.defense.doppelganger.repeats_per_raid),
        Is("10"),
        "how often each page is fetched to measure it",
    ),
    key(
        "defense.doppelganger.raid-each",
        Duration(|c| &mut c.defense.doppelganger.raid_each),
        Is("6h"),
        "how often the pages are measured again",
    ),
    key(
        "defense.doppelganger.drs",
        Bool(|c| &mut c.defense.doppelganger.drs),
        Is("false"),
        "sizes of TLS records as those of a download from urls, else from the site (mtg-tls), else as Go's servers",
    ),
];
