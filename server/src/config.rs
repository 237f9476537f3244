//! The configuration file: what may be in it, its defaults, and what is said about a mistake in it.
//!
//! `ahoyd.example.toml` explains every key; a test holds that it names them all with their defaults.

mod read;
mod section;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ahoy_proto::anchor::AnchorEndpoint;
use ahoy_proto::name::{Name, NamePolicy};

use crate::logging::LogFormat;

pub use read::ConfigError;
pub use section::{CardSection, DnsConfig, FirstContact, LimitSection, LineKind, LineSection};

/// A configuration that was read and checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file that it is from.
    pub file: PathBuf,
    /// The names served, at least one, none twice.
    pub names: Vec<Name>,
    /// Where other homeservers and clients reach this one: in every anchor and card.
    pub endpoint: AnchorEndpoint,
    /// UDP address of QUIC and STUN.
    pub listen: SocketAddr,
    /// TCP address of metrics and health.
    pub http_listen: SocketAddr,
    /// Keys, store and pins; absolute.
    pub data_dir: PathBuf,
    /// Which names exist at all.
    pub policy: NamePolicy,
    /// Where DNS is asked; its trust anchor's path is absolute.
    pub dns: DnsConfig,
    /// What is logged, in the syntax of `RUST_LOG`.
    pub log: String,
    /// In which form.
    pub log_format: LogFormat,
    /// How long live calls may go on after SIGTERM.
    pub drain: Duration,
    /// Block cache of the store, in bytes.
    pub cache_bytes: u64,
    /// Who may write to or call people first.
    pub first_contact: FirstContact,
    /// What the card says of the names.
    pub card: CardSection,
    /// Lines; each belongs to one of `names`.
    pub lines: Vec<(Name, LineSection)>,
    /// What others may ask for.
    pub limits: LimitSection,
}

impl Config {
    /// Reads and checks `file`. Relative paths in it are relative to its folder.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        read::load(file)
    }

    /// Reads and checks `text` as if it were in `file`.
    pub fn parse(text: &str, file: &Path) -> Result<Self, ConfigError> {
        read::parse(text, file)
    }

    /// The folder of one served name: its keys, its anchor, its card's number.
    pub fn name_dir(&self, name: &Name) -> PathBuf {
        self.data_dir.join("names").join(name.as_str())
    }

    /// The folder of the store.
    pub fn store_dir(&self) -> PathBuf {
        self.data_dir.join("store")
    }

    /// The lines of `name`.
    pub fn lines_of<'a>(&'a self, name: &'a Name) -> impl Iterator<Item = &'a LineSection> {
        self.lines.iter().filter(move |(of, _)| of == name).map(|(_, line)| line)
    }
}
