//! The folder of one person: configuration, the device's key, and how far the sync log was read.

use std::io::{ErrorKind, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ahoy_client::{DeviceLogin, Network, NetworkConfig, Session};
use ahoy_proto::address::Address;
use ahoy_proto::key::SigningKey;
use ahoy_proto::name::NamePolicy;
use ahoy_proto::time::random;
use ahoy_resolver::DnsConfig;
use ahoy_transport::clock::OsEntropy;
use serde::{Deserialize, Serialize};

use super::Failure;

/// `config.toml`. Every key has a default, so the file may be absent; unknown keys are refused.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// DNS servers and trust anchor.
    pub dns: DnsConfig,
    /// Special-use names that count as names, for tests and demonstrations.
    pub special_use_allowed: Vec<String>,
    /// UDP address for the connection to the homeserver.
    pub bind: SocketAddr,
    /// Local addresses for audio; empty = every interface.
    pub media_bind: Vec<IpAddr>,
    /// Hide this machine's address from the other side of a call.
    pub relay_only: bool,
    /// Shown to whoever is called; nobody verifies it.
    pub display: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            dns: DnsConfig::default(),
            special_use_allowed: Vec::new(),
            bind: SocketAddr::from(([0, 0, 0, 0], 0)),
            media_bind: Vec::new(),
            relay_only: false,
            display: String::new(),
        }
    }
}

impl Config {
    /// Reads the text of a `config.toml`.
    pub fn parse(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }
}

/// Who is signed up in this home.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Account {
    address: String,
}

/// How far a sync log was read.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Position {
    position: u64,
}

/// The folder, with its configuration read.
pub struct Home {
    dir: PathBuf,
    /// `config.toml`.
    pub config: Config,
}

impl Home {
    /// Opens, or makes, the folder: `--home`, AHOY_HOME, or `~/.config/ahoy`.
    pub fn open(dir: Option<PathBuf>) -> Result<Self, Failure> {
        let dir = match dir {
            Some(dir) => dir,
            None => default_dir()?,
        };
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        made.map_err(|error| {
            format!("cannot make the folder {}: {error}; choose another with --home", dir.display())
        })?;
        let path = dir.join("config.toml");
        let mut config = match read_optional(&path)? {
            Some(text) => Config::parse(&text).map_err(|error| {
                format!("{}: {error}; correct the file (config.example.toml shows every key)", path.display())
            })?,
            None => Config::default(),
        };
        if let Some(anchor) = &mut config.dns.trust_anchor {
            *anchor = dir.join(&*anchor);
        }
        Ok(Self { dir, config })
    }

    /// An address as a person typed it, with or without `ahoy:`.
    pub fn address(&self, text: &str) -> Result<Address, Failure> {
        let typed = text.strip_prefix("ahoy:").unwrap_or(text);
        let policy = NamePolicy::allowing(self.config.special_use_allowed.iter().map(String::as_str));
        Address::parse(typed, &policy).map_err(|error| {
            let hint = "write name.example or local@name.example";
            Failure::Plain(format!("{text:?} is not an address: {error}; {hint}"))
        })
    }

    /// The endpoint and resolver of this home.
    pub async fn network(&self) -> Result<Network, Failure> {
        let config = NetworkConfig {
            data_dir: self.dir.clone(),
            dns: self.config.dns.clone(),
            special_use_allowed: self.config.special_use_allowed.clone(),
            bind: self.config.bind,
        };
        Ok(Network::open(config).await?)
    }

    /// Signs in as the account of this home.
    pub async fn sign_in(&self, network: &Network) -> Result<Session, Failure> {
        let login = DeviceLogin { account: self.account()?, key: self.key("device")?, enrol: None };
        Ok(Session::sign_in_device(network, login).await?)
    }

    /// The account that signed up here, if any.
    pub fn account_if_any(&self) -> Result<Option<Address>, Failure> {
        let path = self.dir.join("account.json");
        let Some(text) = read_optional(&path)? else { return Ok(None) };
        let account: Account = serde_json::from_str(&text)
            .map_err(|error| format!("{} is damaged ({error}): sign up again", path.display()))?;
        self.address(&account.address).map(Some)
    }

    /// The account that signed up here.
    pub fn account(&self) -> Result<Address, Failure> {
        self.account_if_any()?.ok_or_else(|| {
            Failure::Plain(format!(
                "nobody is signed up in {}: run `ahoy signup ADDRESS --invite TOKEN` first, or choose the \
                 folder with --home",
                self.dir.display()
            ))
        })
    }

    /// Remembers who signed up.
    pub fn set_account(&self, address: &Address) -> Result<(), Failure> {
        self.write_json("account.json", &Account { address: address.to_string() })
    }

    /// The key of that name, made at its first use; mode 0600.
    pub fn key(&self, name: &str) -> Result<SigningKey, Failure> {
        load_or_create_key(&self.dir.join(format!("{name}.key")))
    }

    /// How far the log of that name was read; 0 at first.
    pub fn position(&self, log: &str) -> Result<u64, Failure> {
        let path = self.dir.join(format!("{log}.position.json"));
        let Some(text) = read_optional(&path)? else { return Ok(0) };
        let position: Position = serde_json::from_str(&text)
            .map_err(|error| format!("{} is damaged ({error}): delete it to start over", path.display()))?;
        Ok(position.position)
    }

    /// Remembers how far the log of that name was read.
    pub fn set_position(&self, log: &str, position: u64) -> Result<(), Failure> {
        self.write_json(&format!("{log}.position.json"), &Position { position })
    }

    fn write_json(&self, file: &str, value: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string(value).expect("plain structures serialise");
        write_private(&self.dir.join(file), text.as_bytes())
    }
}

fn default_dir() -> Result<PathBuf, Failure> {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config"));
    match std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).or_else(home) {
        Some(base) => Ok(base.join("ahoy")),
        None => {
            Err(Failure::Plain("neither HOME nor AHOY_HOME is set: give the folder with --home".to_owned()))
        }
    }
}

fn read_optional(path: &Path) -> Result<Option<String>, Failure> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::Plain(format!("cannot read {}: {error}", path.display()))),
    }
}

/// Reads a key file, or makes it.
pub fn load_or_create_key(path: &Path) -> Result<SigningKey, Failure> {
    if let Some(text) = read_optional(path)? {
        return SigningKey::from_key_file(&text)
            .map_err(|error| Failure::Plain(format!("{} is not a key file: {error}", path.display())));
    }
    let key = SigningKey::generate(&OsEntropy);
    write_private(path, key.to_key_file().as_bytes())?;
    Ok(key)
}

/// Replaces a file at once, readable by its owner alone: a crash leaves the old or the new one.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let tag: String = random::<6>(&OsEntropy).iter().map(|byte| format!("{byte:02x}")).collect();
    let new = path.with_extension(format!("{tag}.new"));
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&new, path)
    };
    write().map_err(|error| {
        // What was half written is of no use.
        let _ = std::fs::remove_file(&new);
        Failure::Plain(format!("cannot write {}: {error}", path.display()))
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_example_configuration_is_read_and_names_every_key() {
        let text = include_str!("../../config.example.toml");
        let config = Config::parse(text).expect("the example is valid");
        assert_eq!(config.special_use_allowed, ["example"]);
        for key in ["servers", "trust_anchor", "bind", "media_bind", "relay_only", "display"] {
            assert!(text.contains(key), "{key}");
        }
    }

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        let error = Config::parse("dispaly = \"Ann\"").expect_err("misspelt");
        assert!(error.contains("dispaly"), "{error}");
    }

    #[test]
    fn a_key_is_made_once_and_readable_by_its_owner_alone() {
        let dir = tempfile::tempdir().expect("a folder");
        let home = Home::open(Some(dir.path().join("new"))).expect("made");
        let key = home.key("device").expect("made");
        assert_eq!(key.public(), home.key("device").expect("read").public());
        let mode = std::fs::metadata(dir.path().join("new/device.key")).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_position_is_remembered() {
        let dir = tempfile::tempdir().expect("a folder");
        let home = Home::open(Some(dir.path().to_owned())).expect("made");
        assert_eq!(home.position("sync").expect("none yet"), 0);
        home.set_position("sync", 17).expect("written");
        home.set_position("sync", 18).expect("replaced");
        assert_eq!(home.position("sync").expect("read"), 18);
    }

    #[test]
    fn a_home_without_account_says_how_to_sign_up() {
        let dir = tempfile::tempdir().expect("a folder");
        let home = Home::open(Some(dir.path().to_owned())).expect("made");
        let Err(Failure::Plain(text)) = home.account() else { panic!("nobody signed up") };
        assert!(text.contains("ahoy signup"), "{text}");
    }
}
