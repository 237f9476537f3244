//! `bridge.toml`: every key, its default, and where relative paths start (at the file itself).

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use ahoy_client::network::DnsConfig;
use ahoy_proto::name::{Name, NamePolicy};
use serde::Deserialize;

/// The configuration of one bridge.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BridgeConfig {
    /// The name that the bridge serves.
    pub name: String,
    /// The service's name at the homeserver.
    #[serde(default = "service")]
    pub service: String,
    /// The invite token of `ahoyd invite --service`; needed until the first sign-in.
    pub invite: Option<String>,
    /// Keys and pins.
    pub data_dir: PathBuf,
    /// The folder with one file per trunk.
    #[serde(default = "trunks")]
    pub trunks: PathBuf,
    /// The file that gets one JSON line per call.
    #[serde(default = "cdr")]
    pub cdr: PathBuf,
    /// Where QUIC leaves from.
    #[serde(default = "any")]
    pub bind: SocketAddr,
    /// Where WebRTC media of answered calls arrives.
    #[serde(default = "any")]
    pub media_bind: SocketAddr,
    /// Calls at once.
    #[serde(default = "max_calls")]
    pub max_calls: usize,
    /// How long calls may go on after SIGTERM, in seconds.
    #[serde(default = "drain_seconds")]
    pub drain_seconds: u64,
    /// Log filter, as in `RUST_LOG`.
    #[serde(default = "log")]
    pub log: String,
    /// Special-use domains that count as names.
    #[serde(default)]
    pub special_use_allowed: Vec<String>,
    /// DNS.
    #[serde(default)]
    pub dns: DnsConfig,
}

fn service() -> String {
    "bridge".to_owned()
}

fn trunks() -> PathBuf {
    "trunks.d".into()
}

fn cdr() -> PathBuf {
    "cdr.jsonl".into()
}

fn any() -> SocketAddr {
    SocketAddr::from(([0; 4], 0))
}

fn max_calls() -> usize {
    1000
}

fn drain_seconds() -> u64 {
    30
}

fn log() -> String {
    "info".to_owned()
}

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {what}")]
pub struct ConfigError {
    path: PathBuf,
    what: String,
}

impl BridgeConfig {
    /// Reads a file. Relative paths in it are relative to its folder.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let error = |what: String| ConfigError { path: path.to_owned(), what };
        let text =
            std::fs::read_to_string(path).map_err(|failed| error(format!("cannot be read: {failed}")))?;
        let mut config: Self = toml::from_str(&text).map_err(|failed| error(failed.to_string()))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        for relative in [&mut config.data_dir, &mut config.trunks, &mut config.cdr] {
            *relative = folder.join(&relative);
        }
        if let Some(anchor) = &mut config.dns.trust_anchor {
            *anchor = folder.join(&anchor);
        }
        config.parsed_name().map_err(error)?;
        Ok(config)
    }

    /// Which special-use names count as names.
    pub fn policy(&self) -> NamePolicy {
        NamePolicy::allowing(self.special_use_allowed.iter().map(String::as_str))
    }

    /// The bridge's name.
    pub fn parsed_name(&self) -> Result<Name, String> {
        Name::parse(&self.name, &self.policy())
            .map_err(|failed| format!("name = \"{}\": {failed}", self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trunk;

    #[test]
    fn the_example_files_are_read_and_their_defaults_are_the_real_ones() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("example");
        let config = BridgeConfig::load(&folder.join("bridge.toml")).unwrap();
        let name = config.parsed_name().unwrap();
        let trunks = trunk::load_folder(&config.trunks, &name, &config.policy()).unwrap();
        assert_eq!(trunks.len(), 1);
        assert!(trunks[0].lines().count() > 0 && trunks[0].outbound.is_some());
        // The commented lines show the defaults: uncommented, nothing changes.
        let text = std::fs::read_to_string(folder.join("bridge.toml")).unwrap();
        let open: String =
            text.lines().map(|line| line.strip_prefix("#= ").unwrap_or(line).to_owned() + "\n").collect();
        let explicit: BridgeConfig = toml::from_str(&open).unwrap();
        let implicit: BridgeConfig = toml::from_str(&text).unwrap();
        assert_eq!(explicit.trunks, implicit.trunks);
        assert_eq!(explicit.cdr, implicit.cdr);
        assert_eq!((explicit.bind, explicit.media_bind), (implicit.bind, implicit.media_bind));
        assert_eq!(
            (explicit.max_calls, explicit.drain_seconds),
            (implicit.max_calls, implicit.drain_seconds)
        );
        assert_eq!((explicit.log, explicit.service), (implicit.log, implicit.service));
    }

    #[test]
    fn an_unknown_key_and_a_bad_name_are_refused_with_their_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bridge.toml");
        for (text, expected) in [
            (
                "name = \"bank.example\"\ndata_dir = \"d\"\nspecial_use_allowed = [\"example\"]\ntrunk = 1\n",
                "trunk",
            ),
            ("name = \"bank\"\ndata_dir = \"d\"\n", "name = \"bank\""),
            ("data_dir = \"d\"\n", "name"),
        ] {
            std::fs::write(&path, text).unwrap();
            let failed = BridgeConfig::load(&path).err().expect("refused").to_string();
            assert!(failed.contains(expected) && failed.contains("bridge.toml"), "{failed}");
        }
    }
}
