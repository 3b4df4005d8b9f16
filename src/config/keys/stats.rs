//! `stats.*`: the ways out for the counters.

use crate::config::field::Field::*;
use crate::config::spec::DefaultText::{Is, Unset};
use crate::config::spec::{KeySpec, live};

pub(super) static KEYS: &[KeySpec] = &[
    live(
        "stats.statsd.enabled",
        Bool(|c| &mut c.stats.statsd.enabled),
        Is("false"),
        "send statistics to a statsd server over UDP",
    ),
    live("stats.statsd.address", HostPort(|c| &mut c.stats.statsd.address), Unset("none"), "where it is"),
    live(
        "stats.statsd.metric-prefix",
        StatsdPrefix(|c| &mut c.stats.statsd.metric_prefix),
        Is("mtg"),
        "start of all names; a dot follows",
    ),
    live("stats.statsd.tag-format", TagFormat, Is("datadog"), "how labels are written"),
    live(
        "stats.prometheus.enabled",
        Bool(|c| &mut c.stats.prometheus.enabled),
        Is("false"),
        "serve statistics to Prometheus over HTTP",
    ),
    live(
        "stats.prometheus.bind-to",
        Address(|c| &mut c.stats.prometheus.bind_to),
        Is("127.0.0.1:3129"),
        "where Prometheus comes in",
    ),
    live(
        "stats.prometheus.http-path",
        Path(|c| &mut c.stats.prometheus.http_path),
        Is("/"),
        "the path that it asks for",
    ),
    live(
        "stats.prometheus.metric-prefix",
        PrometheusPrefix(|c| &mut c.stats.prometheus.metric_prefix),
        Is("mtg"),
        "start of all names; an underscore follows",
    ),
];
