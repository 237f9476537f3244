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
use ahoy_resolver::DnsConfig;

use crate::logging::LogFormat;

pub use read::ConfigError;
pub use section::{CardSection, FirstContact, LimitSection, LineKind, LineSection};

/// A configuration that was read and checked.
#[derive(Clone, Debug, PartialEq)]
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

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../ahoyd.example.toml");

    fn parse(text: &str) -> Config {
        Config::parse(text, Path::new("/etc/ahoyd.toml")).unwrap()
    }

    #[test]
    fn the_example_shows_the_defaults() {
        let least = "name = \"bank.example.com\"\nendpoint = \"hs.bank.example.com\"\n\
                     special_use_allowed = [\"example.com\"]\n";
        let example = parse(EXAMPLE);
        assert_eq!(example.lines.len(), 1);
        assert_eq!(Config { lines: Vec::new(), ..example }, parse(least));
    }

    /// The keys of a section, from what the parser says about one that it does not know.
    fn keys(section: &str) -> Vec<String> {
        let text = format!("{section}\nno_such_key = 1\n");
        let error = Config::parse(&text, Path::new("x")).unwrap_err().to_string();
        let (_, expected) = error.split_once("expected").expect("the parser lists what it knows");
        expected.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    }

    #[test]
    fn the_example_names_every_key_and_there_are_at_most_forty() {
        let mut all = 0;
        for section in ["", "[dns]", "[card]", "[limits]", "[[line]]"] {
            for key in keys(section) {
                let is_section = ["dns", "card", "limits", "line"].contains(&key.as_str());
                let sets = |line: &str| line.trim_start_matches("# ").starts_with(&format!("{key} = "));
                assert!(is_section || EXAMPLE.lines().any(sets), "{section} {key} is not in the example");
                all += usize::from(!is_section);
            }
        }
        assert!((20..=40).contains(&all), "{all} keys");
    }
}
