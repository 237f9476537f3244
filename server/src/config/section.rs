//! The file's keys as they are written, with their defaults.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use ahoy_resolver::DnsConfig;
use serde::Deserialize;

use crate::logging::LogFormat;

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub name: OneOrMany,
    pub endpoint: String,
    #[serde(default = "listen")]
    pub listen: SocketAddr,
    #[serde(default = "http_listen")]
    pub http_listen: SocketAddr,
    #[serde(default = "data_dir")]
    pub data_dir: PathBuf,
    #[serde(default)]
    pub special_use_allowed: Vec<String>,
    #[serde(default)]
    pub first_contact: FirstContact,
    #[serde(default = "log")]
    pub log: String,
    #[serde(default)]
    pub log_format: LogFormat,
    #[serde(default = "drain_seconds")]
    pub drain_seconds: u64,
    #[serde(default = "store_cache_mib")]
    pub store_cache_mib: u64,
    #[serde(default)]
    pub dns: DnsConfig,
    #[serde(default)]
    pub card: CardSection,
    #[serde(default)]
    pub limits: LimitSection,
    #[serde(default)]
    pub line: Vec<LineSection>,
}

fn listen() -> SocketAddr {
    (Ipv4Addr::UNSPECIFIED, ahoy_proto::limit::PORT).into()
}

fn http_listen() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 2470).into()
}

fn data_dir() -> PathBuf {
    "data".into()
}

fn log() -> String {
    "info".into()
}

fn drain_seconds() -> u64 {
    30
}

fn store_cache_mib() -> u64 {
    32
}

/// One string, or a list of them.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a name in quotes, or a list of them")]
pub(super) enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

/// Who may reach a person that does not know them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FirstContact {
    /// Everybody whose name resolves.
    #[default]
    Anyone,
    /// Those whom the person wrote to or called before.
    Known,
    /// Nobody at all.
    Nobody,
}

/// `[card]`: what the card says besides keys and lines.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CardSection {
    /// Shown to callers; empty: the name itself is shown.
    pub display_name: String,
    /// ISO 3166-1 alpha-2; empty: not said.
    pub country: String,
}

/// `[[line]]`: an address answered by a route instead of by one person.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LineSection {
    /// The part before the `@`; empty: the front desk.
    #[serde(default)]
    pub local: String,
    /// The served name that it belongs to; may be left out when only one is served.
    pub name: Option<String>,
    /// What people read.
    #[serde(default)]
    pub label: String,
    /// What answers, as the card tells it.
    #[serde(default)]
    pub kind: LineKind,
    /// `service:<name>` or `account:<local part>`: a call goes to all of them that answer calls, a message to all
    /// that take messages.
    pub targets: Vec<String>,
}

/// What answers a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LineKind {
    /// A telephone system.
    Pbx,
    /// Several people.
    #[default]
    Group,
    /// A program.
    Bot,
}

/// `[limits]`: what others may ask for, per second and with a burst of ten seconds' worth.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitSection {
    /// Messages per second of one device.
    pub device_messages: f64,
    /// Messages per second of one service.
    pub service_messages: f64,
    /// Calls per second of one device.
    pub device_calls: f64,
    /// Calls per second of one service.
    pub service_calls: f64,
    /// Other requests per second of one device, service or peer.
    pub requests: f64,
    /// Items per second from one peer name.
    pub peer_items: f64,
    /// Calls per second from one peer name.
    pub peer_calls: f64,
    /// Items that may wait for one destination name.
    pub queue_items: u64,
    /// Calls that one name may have at once.
    pub calls: usize,
}

impl Default for LimitSection {
    fn default() -> Self {
        Self {
            device_messages: 200.0,
            service_messages: 5_000.0,
            device_calls: 2.0,
            service_calls: 50.0,
            requests: 50.0,
            peer_items: 50_000.0,
            peer_calls: 50.0,
            queue_items: 1_000_000,
            calls: 4_096,
        }
    }
}
