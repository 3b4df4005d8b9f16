//! A place in [`Config`] and how a text gets there: the type of a key.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::value::{self, ValueError};
use super::{ByteSize, Carrier, Cidr, Config, Host, ListUrl, PreferIp, Reject, TagFormat, Url, uri};
use crate::proto::secret::check_host;
use crate::proto::web::site;

/// Threads at most: each holds buffers of its own.
const THREADS_MAX: u16 = 64;

/// Leads to the place of a value.
type Slot<T> = fn(&mut Config) -> &mut T;

/// The type of a key and the place of its value.
#[derive(Clone, Copy)]
pub(super) enum Field {
    Secret,
    Address(Slot<SocketAddr>),
    OptionalAddress(Slot<Option<SocketAddr>>),
    Bool(Slot<bool>),
    Count(Slot<u16>),
    /// Threads; as many as there are cores if 0.
    Threads(Slot<Option<u16>>),
    /// 0 is a value of its own.
    Limit(Slot<u32>),
    Port(Slot<u16>),
    Duration(Slot<Duration>),
    /// A duration of whole seconds.
    Seconds(Slot<Duration>),
    /// A duration whose zero is a value of its own.
    Grace(Slot<Duration>),
    /// What the set of seen hellos may take.
    ReplaySet(Slot<ByteSize>),
    /// What the process may take; a part of what the machine has if 0.
    Budget(Slot<Option<ByteSize>>),
    /// A size, of which 0 is one.
    OptionalLimit(Slot<Option<ByteSize>>),
    /// A packet mark; none if 0.
    Mark(Slot<Option<u32>>),
    /// The largest TCP segment; none if 0.
    SegmentSize(Slot<Option<u16>>),
    Ipv4(Slot<Option<Ipv4Addr>>),
    Ipv6(Slot<Option<Ipv6Addr>>),
    AbsolutePath(Slot<Option<PathBuf>>),
    DnsName(Slot<Option<String>>),
    Host(Slot<Option<Host>>),
    HostPort(Slot<Option<(Host, u16)>>),
    HostPorts(Slot<Vec<(Host, u16)>>),
    StatsdPrefix(Slot<String>),
    PrometheusPrefix(Slot<String>),
    Path(Slot<String>),
    WebHost,
    WebPath,
    WebCarrier,
    PreferIp,
    LogLevel,
    LogTime,
    Debug,
    AutoUpdate,
    Reject,
    TagFormat,
    Dns,
    DohIp,
    Proxies,
    ListUrls(Slot<Vec<ListUrl>>),
    HttpsUrls(Slot<Vec<Url>>),
    PageUrls(Slot<Vec<Url>>),
    Cidrs(Slot<Vec<Cidr>>),
    /// The DC's number is the last part of the key.
    DcAddresses,
    /// Taken from mtg's files, has no meaning here.
    Unused,
}

const PREFER_IP: &[(&str, PreferIp)] = &[
    ("prefer-ipv4", PreferIp::PreferIpv4),
    ("prefer-ipv6", PreferIp::PreferIpv6),
    ("only-ipv4", PreferIp::OnlyIpv4),
    ("only-ipv6", PreferIp::OnlyIpv6),
];

const LOG_LEVEL: &[(&str, log::LevelFilter)] =
    &[("warn", log::LevelFilter::Warn), ("info", log::LevelFilter::Info), ("debug", log::LevelFilter::Debug)];

const LOG_TIME: &[(&str, Option<bool>)] = &[("auto", None), ("always", Some(true)), ("never", Some(false))];

const REJECT: &[(&str, Reject)] = &[("close", Reject::Close), ("front", Reject::Front)];

const CARRIER: &[(&str, Carrier)] = &[("https", Carrier::Https), ("websocket", Carrier::Websocket)];

const TAG_FORMAT: &[(&str, TagFormat)] =
    &[("datadog", TagFormat::Datadog), ("influxdb", TagFormat::Influxdb), ("graphite", TagFormat::Graphite)];

impl Field {
    /// Reads a text and puts it into its place; `key` is the whole key. Zero leaves the default as it is, as in mtg.
    pub(super) fn set(self, config: &mut Config, key: &str, text: &str) -> Result<(), ValueError> {
        match self {
            Self::Secret => config.secret = text.parse().map_err(ValueError::Secret)?,
            Self::Address(slot) => *slot(config) = address(text)?,
            Self::OptionalAddress(slot) => *slot(config) = Some(address(text)?),
            Self::Bool(slot) => *slot(config) = boolean(text)?,
            Self::AutoUpdate => config.auto_update = uri::auto_update(boolean(text)?)?,
            Self::Debug if boolean(text)? => config.log_level = log::LevelFilter::Debug,
            Self::Debug | Self::Unused => {}
            Self::Count(slot) | Self::Port(slot) => put(slot(config), value::count(text)?, 0),
            Self::Threads(slot) => match value::count(text)? {
                count @ 0..=THREADS_MAX => *slot(config) = Some(count).filter(|&count| count != 0),
                _ => return Err(ValueError::Invalid),
            },
            Self::Limit(slot) => *slot(config) = value::number(text)?,
            Self::Duration(slot) => put(slot(config), value::duration(text)?, Duration::ZERO),
            Self::Seconds(slot) => put(slot(config), value::seconds(text)?, Duration::ZERO),
            Self::Grace(slot) => *slot(config) = value::duration(text)?,
            Self::ReplaySet(slot) => {
                let size = value::size_within(text, 16 << 10..=256 << 20, "it is not from 16KB to 256MB")?;
                put(slot(config), size, ByteSize(0));
            }
            Self::Budget(slot) => {
                let size = value::size_within(text, 512 << 10..=u64::MAX, "less than 512KB is not enough to run with")?;
                *slot(config) = Some(size).filter(|&size| size != ByteSize(0));
            }
            Self::OptionalLimit(slot) => *slot(config) = Some(value::byte_size(text)?),
            Self::Mark(slot) => *slot(config) = Some(value::mark(text)?).filter(|&mark| mark != 0),
            Self::SegmentSize(slot) => *slot(config) = Some(value::segment_size(text)?).filter(|&size| size != 0),
            Self::Ipv4(slot) => *slot(config) = Some(text.parse().map_err(|_| ValueError::Invalid)?),
            Self::Ipv6(slot) => *slot(config) = Some(text.parse().map_err(|_| ValueError::Invalid)?),
            Self::PreferIp => config.prefer_ip = value::word(text, PREFER_IP)?,
            Self::LogLevel => config.log_level = value::word(text, LOG_LEVEL)?,
            Self::LogTime => config.log_time = value::word(text, LOG_TIME)?,
            Self::Reject => config.defense.reject = value::word(text, REJECT)?,
            Self::WebCarrier => config.web.carrier = value::word(text, CARRIER)?,
            Self::TagFormat => config.stats.statsd.tag_format = value::word(text, TAG_FORMAT)?,
            _ => return self.set_text(config, key, text),
        }
        Ok(())
    }

    /// Copies the value of a key, and says whether it was another one.
    pub(super) fn carry(self, from: &mut Config, to: &mut Config) -> bool {
        match self {
            Self::Address(slot) => carry(slot, from, to),
            Self::OptionalAddress(slot) => carry(slot, from, to),
            Self::Bool(slot) => carry(slot, from, to),
            Self::AutoUpdate => carry(|config| &mut config.auto_update, from, to),
            Self::Count(slot) | Self::Port(slot) => carry(slot, from, to),
            Self::Threads(slot) => carry(slot, from, to),
            Self::Limit(slot) => carry(slot, from, to),
            Self::Duration(slot) | Self::Seconds(slot) | Self::Grace(slot) => carry(slot, from, to),
            Self::ReplaySet(slot) => carry(slot, from, to),
            Self::Budget(slot) | Self::OptionalLimit(slot) => carry(slot, from, to),
            Self::Mark(slot) => carry(slot, from, to),
            Self::SegmentSize(slot) => carry(slot, from, to),
            Self::Ipv4(slot) => carry(slot, from, to),
            Self::Ipv6(slot) => carry(slot, from, to),
            Self::AbsolutePath(slot) => carry(slot, from, to),
            Self::Cidrs(slot) => carry(slot, from, to),
            Self::DnsName(slot) => carry(slot, from, to),
            Self::Host(slot) => carry(slot, from, to),
            Self::HostPort(slot) => carry(slot, from, to),
            Self::HostPorts(slot) => carry(slot, from, to),
            Self::StatsdPrefix(slot) | Self::PrometheusPrefix(slot) | Self::Path(slot) => carry(slot, from, to),
            Self::ListUrls(slot) => carry(slot, from, to),
            Self::HttpsUrls(slot) | Self::PageUrls(slot) => carry(slot, from, to),
            _ => self.carry_own(from, to),
        }
    }

    /// The same for types that one key has.
    fn carry_own(self, from: &mut Config, to: &mut Config) -> bool {
        match self {
            Self::Secret => carry(|config| &mut config.secret, from, to),
            Self::PreferIp => carry(|config| &mut config.prefer_ip, from, to),
            Self::LogLevel => carry(|config| &mut config.log_level, from, to),
            Self::LogTime => carry(|config| &mut config.log_time, from, to),
            Self::TagFormat => carry(|config| &mut config.stats.statsd.tag_format, from, to),
            Self::WebHost => carry(|config| &mut config.web.host, from, to),
            Self::WebPath => carry(|config| &mut config.web.path, from, to),
            Self::WebCarrier => carry(|config| &mut config.web.carrier, from, to),
            Self::Proxies => carry(|config| &mut config.network.proxies, from, to),
            Self::DcAddresses => carry(|config| &mut config.dc_override, from, to),
            Self::Reject => carry(|config| &mut config.defense.reject, from, to),
            Self::Dns => carry(|config| &mut config.network.dns, from, to),
            // Debug is another name of the log level.
            _ => false,
        }
    }

    fn set_text(self, config: &mut Config, key: &str, text: &str) -> Result<(), ValueError> {
        match self {
            Self::DnsName(slot) => {
                let name = text.strip_suffix('.').unwrap_or(text);
                check_host(name).map_err(ValueError::Host)?;
                *slot(config) = Some(name.to_ascii_lowercase());
            }
            Self::Host(slot) => *slot(config) = Some(Host::parse(text).ok_or(ValueError::Invalid)?),
            Self::HostPort(slot) => *slot(config) = Some(value::host_port(text)?),
            Self::HostPorts(slot) => slot(config).push(value::host_port(text)?),
            Self::StatsdPrefix(slot) => *slot(config) = value::metric_prefix(text)?,
            Self::PrometheusPrefix(_) if text.starts_with(|c: char| c.is_ascii_digit()) => {
                return Err(ValueError::Because("Prometheus wants a letter first"));
            }
            Self::PrometheusPrefix(slot) => *slot(config) = value::metric_prefix(text)?,
            Self::Path(slot) => *slot(config) = value::http_path(text)?,
            Self::AbsolutePath(_) if !text.starts_with('/') || text.ends_with('/') => return Err(ValueError::Invalid),
            Self::AbsolutePath(slot) => *slot(config) = Some(text.into()),
            Self::WebHost => {
                site::check_host(text).map_err(ValueError::Because)?;
                config.web.host = Some(text.to_owned());
            }
            Self::WebPath if site::is_path(text) => config.web.path = text.to_owned(),
            Self::WebPath => return Err(ValueError::Invalid),
            Self::Dns => config.network.dns = uri::dns(text)?,
            Self::DohIp => config.network.dns = uri::doh_ip(text)?,
            Self::Proxies => config.network.proxies.push(uri::upstream(text)?),
            Self::ListUrls(slot) => slot(config).push(uri::list_url(text)?),
            Self::HttpsUrls(slot) => slot(config).push(uri::https_url(text)?),
            Self::PageUrls(slot) => slot(config).push(uri::page_url(text)?),
            Self::Cidrs(slot) => slot(config).push(value::cidr(text)?),
            Self::DcAddresses => {
                let dc = dc_number(key).ok_or(ValueError::Because(DC_NUMBERS))?;
                config.dc_override.push((dc, address(text)?));
            }
            _ => {}
        }
        Ok(())
    }

    /// What the key takes, in the words of errors and manual: "… is not …".
    pub(super) fn allowed(self) -> &'static str {
        match self {
            Self::Secret => "a FakeTLS secret in hex or base64url",
            Self::Address(_) | Self::OptionalAddress(_) | Self::DcAddresses => "ip:port (an IPv6 address in brackets)",
            Self::Bool(_) | Self::Debug | Self::AutoUpdate => "true or false",
            Self::Count(_) => "a whole number from 1 to 65535",
            Self::Threads(_) => "a whole number from 1 to 64",
            Self::Limit(_) => "a whole number from 0 to 4294967295",
            Self::Port(_) => "a port from 1 to 65535",
            Self::Duration(_) | Self::Grace(_) => "a duration such as 500ms, 10s or 1h30m",
            Self::Seconds(_) => "a duration such as 10s or 1h30m",
            Self::ReplaySet(_) | Self::OptionalLimit(_) => "a size such as 512KB or 1MB",
            Self::Budget(_) => "a size such as 8MB",
            Self::Mark(_) => "a whole number from 0 to 4294967295, which may be in hex such as 0x64",
            Self::SegmentSize(_) => "0 or a whole number from 88 to 32767",
            Self::Ipv4(_) => "an IPv4 address",
            Self::Ipv6(_) => "an IPv6 address",
            Self::DnsName(_) => "a host name",
            Self::Host(_) => "a host name or an IP address",
            Self::HostPort(_) | Self::HostPorts(_) => "host:port (an IPv6 address in brackets)",
            Self::StatsdPrefix(_) | Self::PrometheusPrefix(_) => "a word of lower-case letters and digits",
            Self::AbsolutePath(_) => "a file, its path from the root such as /var/lib/mtg/replays",
            Self::Path(_) => "a path such as /metrics",
            Self::WebHost => "a host name that apps take",
            Self::WebPath => "words of letters, digits, - and _ with slashes between them, 128 bytes at most",
            Self::WebCarrier => "https or websocket",
            Self::PreferIp => "prefer-ipv4, prefer-ipv6, only-ipv4 or only-ipv6",
            Self::LogLevel => "warn, info or debug",
            Self::LogTime => "auto, always or never",
            Self::Reject => "close or front",
            Self::TagFormat => "datadog, influxdb or graphite",
            Self::Dns => "system, udp://ip[:port], tls://host[:port] or https://host[:port][/path]",
            Self::DohIp => "an IP address",
            Self::Proxies => "a URL socks5://[user:password@]host[:port]",
            Self::ListUrls(_) => "a file or an http:// or https:// URL",
            Self::HttpsUrls(_) => "an https:// URL",
            Self::PageUrls(_) => "an http:// or https:// URL",
            Self::Cidrs(_) => "a network such as 192.0.2.0/24 or an IP address",
            Self::Unused => "a number or a size",
        }
    }

    /// Whether the key may be given more than once.
    pub(super) fn is_list(self) -> bool {
        matches!(
            self,
            Self::Proxies
                | Self::HostPorts(_)
                | Self::ListUrls(_)
                | Self::HttpsUrls(_)
                | Self::PageUrls(_)
                | Self::Cidrs(_)
                | Self::DcAddresses
        )
    }

    /// Whether zero stands for something else than itself: a file may say so, an argument is a mistake then.
    pub(super) fn zero_is_unset(self) -> bool {
        matches!(
            self,
            Self::Count(_)
                | Self::Threads(_)
                | Self::Port(_)
                | Self::Duration(_)
                | Self::Seconds(_)
                | Self::ReplaySet(_)
                | Self::Budget(_)
        )
    }

    /// Whether an empty text is a value of the key.
    pub(super) fn takes_nothing(self) -> bool {
        matches!(self, Self::Proxies)
    }

    /// Whether a value of the key must not be shown to anybody.
    pub(super) fn is_private(self) -> bool {
        matches!(self, Self::Secret | Self::Proxies)
    }
}

const DC_NUMBERS: &str = "the number of the DC in the key is not from 1 to 32767";

/// The number at the end of `dc-override.<n>`.
fn dc_number(key: &str) -> Option<u16> {
    let number = key.rsplit('.').next()?.parse().ok()?;
    (1..=i16::MAX.unsigned_abs()).contains(&number).then_some(number)
}

fn address(text: &str) -> Result<SocketAddr, ValueError> {
    match value::host_port(text)? {
        (Host::Ip(ip), port) => Ok((ip, port).into()),
        (Host::Name(_), _) => Err(ValueError::Because("an IP address is needed, no name")),
    }
}

fn boolean(text: &str) -> Result<bool, ValueError> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(ValueError::Invalid),
    }
}

fn put<T: PartialEq>(slot: &mut T, value: T, unset: T) {
    if value != unset {
        *slot = value;
    }
}

fn carry<T: Clone + PartialEq>(slot: Slot<T>, from: &mut Config, to: &mut Config) -> bool {
    let (old, new) = (slot(from), slot(to));
    let differs = old != new;
    new.clone_from(old);
    differs
}
