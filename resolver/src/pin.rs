//! What is remembered about a name across restarts: its key, its newest record, and since when.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use ahoy_proto::name::Name;
use serde::{Deserialize, Serialize};

/// The memory of one name. Times are milliseconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// The newest anchor believed, one line; holds the key `k` and its time `s`.
    pub anchor: String,
    /// The commitment `n` pinned with the key, base64url; set once, over a secure answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// When the key was first believed.
    pub first_seen: u64,
    /// When DNS last showed a valid record of the key.
    pub confirmed: u64,
    /// The highest `seq` of a card under this key.
    pub card_seq: u64,
    /// Where its hosts were, for when DNS is broken.
    #[serde(default, skip_serializing_if = "HashMap::is_empty")]
    pub hosts: HashMap<String, Vec<IpAddr>>,
    /// Since when DNS has been bogus.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bogus_since: Option<u64>,
    /// Since when the record has been missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub absent_since: Option<u64>,
}

/// Where pins are kept. Called on a thread that may block.
pub trait PinStore: Send + Sync {
    /// The pin of `name`, if it has one.
    ///
    /// # Errors
    /// The store cannot be read. The name is then refused: a lost pin must not look like a stranger.
    fn load(&self, name: &Name) -> io::Result<Option<Pin>>;

    /// Replaces the pin of `name`; durable when it returns.
    ///
    /// # Errors
    /// The store cannot be written.
    fn store(&self, name: &Name, pin: &Pin) -> io::Result<()>;
}

/// Pins as JSON files of mode 0600, one per name, replaced atomically.
pub struct FilePins {
    folder: PathBuf,
    temporary: PathBuf,
    counter: AtomicU64,
}

impl FilePins {
    /// Keeps pins below `folder`, which is made if it is missing.
    ///
    /// # Errors
    /// The folder cannot be made or written.
    pub fn open(folder: impl Into<PathBuf>) -> io::Result<Self> {
        let folder = folder.into();
        let temporary = folder.join(".new");
        fs::create_dir_all(&temporary)?;
        fs::set_permissions(&folder, Permissions::from_mode(0o700))?;
        Ok(Self { folder, temporary, counter: AtomicU64::new(0) })
    }

    /// `folder/<last label>/<rest>.json`: a whole name would not always fit a file name.
    fn path(&self, name: &Name) -> PathBuf {
        let (rest, last) = name.as_str().rsplit_once('.').unwrap_or((name.as_str(), "-"));
        self.folder.join(last).join(format!("{rest}.json"))
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        let draft = self.temporary.join(format!("{}-{number}", std::process::id()));
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        let folder = path.parent().unwrap_or(&self.folder);
        fs::create_dir_all(folder)?;
        fs::rename(&draft, path)?;
        File::open(folder)?.sync_all()
    }
}

impl PinStore for FilePins {
    fn load(&self, name: &Name) -> io::Result<Option<Pin>> {
        let path = self.path(name);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        serde_json::from_slice(&text).map(Some).map_err(|error| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display()))
        })
    }

    fn store(&self, name: &Name, pin: &Pin) -> io::Result<()> {
        let bytes = serde_json::to_vec_pretty(pin).map_err(io::Error::other)?;
        self.write(&self.path(name), &bytes)
    }
}

/// Pins that end with the process: for tools that ask once.
#[derive(Default)]
pub struct MemoryPins(Mutex<HashMap<Name, Pin>>);

impl PinStore for MemoryPins {
    fn load(&self, name: &Name) -> io::Result<Option<Pin>> {
        let pins = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        Ok(pins.get(name).cloned())
    }

    fn store(&self, name: &Name, pin: &Pin) -> io::Result<()> {
        let mut pins = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        pins.insert(name.clone(), pin.clone());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ahoy_proto::name::NamePolicy;

    fn pin(seq: u64) -> Pin {
        Pin {
            anchor: "v=ahoy1".into(),
            next: None,
            first_seen: 1,
            confirmed: 2,
            card_seq: seq,
            hosts: HashMap::new(),
            bogus_since: None,
            absent_since: Some(3),
        }
    }

    fn name(text: &str) -> Name {
        Name::parse(text, &NamePolicy::allowing(["example"])).unwrap()
    }

    #[test]
    fn pins_are_read_back_after_a_restart_with_mode_0600() {
        let folder = tempfile::tempdir().unwrap();
        let bank = name("bank.example");
        let pins = FilePins::open(folder.path()).unwrap();
        assert_eq!(pins.load(&bank).unwrap(), None);
        pins.store(&bank, &pin(1)).unwrap();
        pins.store(&bank, &pin(2)).unwrap();
        let again = FilePins::open(folder.path()).unwrap();
        assert_eq!(again.load(&bank).unwrap(), Some(pin(2)));
        let mode = fs::metadata(pins.path(&bank)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn the_longest_name_fits_the_file_system() {
        let folder = tempfile::tempdir().unwrap();
        let label = "a".repeat(60);
        let long = name(&format!("{label}.{label}.{label}.{}.xyz", "b".repeat(58)));
        let pins = FilePins::open(folder.path()).unwrap();
        pins.store(&long, &pin(1)).unwrap();
        assert_eq!(pins.load(&long).unwrap(), Some(pin(1)));
    }

    #[test]
    fn a_damaged_pin_is_an_error_and_not_a_stranger() {
        let folder = tempfile::tempdir().unwrap();
        let pins = FilePins::open(folder.path()).unwrap();
        let bank = name("bank.example");
        pins.store(&bank, &pin(1)).unwrap();
        fs::write(pins.path(&bank), b"{").unwrap();
        assert!(pins.load(&bank).is_err());
    }
}
