//! Where the counters go.

use std::net::{Ipv4Addr, SocketAddr};

use super::Host;

/// `stats.*`.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// `statsd.*`.
    pub statsd: Statsd,
    /// `prometheus.*`.
    pub prometheus: Prometheus,
}

/// `stats.statsd.*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statsd {
    /// `enabled`.
    pub enabled: bool,
    /// `address`.
    pub address: Option<(Host, u16)>,
    /// `metric-prefix`, without the dot.
    pub metric_prefix: String,
    /// `tag-format`.
    pub tag_format: TagFormat,
}

impl Default for Statsd {
    fn default() -> Self {
        Self { enabled: false, address: None, metric_prefix: "mtg".into(), tag_format: TagFormat::Datadog }
    }
}

/// `stats.statsd.tag-format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TagFormat {
    /// `name:1|c|#tag:value`.
    Datadog,
    /// `name,tag=value:1|c`.
    Influxdb,
    /// `name;tag=value:1|c`.
    Graphite,
}

/// `stats.prometheus.*`.
#[derive(Clone, Debug)]
pub struct Prometheus {
    /// `enabled`.
    pub enabled: bool,
    /// `bind-to`.
    pub bind_to: SocketAddr,
    /// `http-path`, with its leading slash.
    pub http_path: String,
    /// `metric-prefix`, without the underscore.
    pub metric_prefix: String,
}

impl Default for Prometheus {
    fn default() -> Self {
        Self {
            enabled: false,
            bind_to: (Ipv4Addr::LOCALHOST, 3129).into(),
            http_path: "/".into(),
            metric_prefix: "mtg".into(),
        }
    }
}
