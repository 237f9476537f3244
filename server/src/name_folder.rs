//! What this homeserver holds for a served name: its key, its message key, and the anchor that was last signed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ahoy_proto::anchor::{Anchor, AnchorDraft, AnchorEndpoint, AnchorError};
use ahoy_proto::key::SigningKey;
use ahoy_proto::name::Name;
use ahoy_proto::time::{Clock, Entropy};

use crate::config::{Config, LineKind};
use crate::key_file::{self, KeyFileError};

const ANCHOR_KEY: &str = "anchor.key";
const MESSAGE_KEY: &str = "message.key";
const ANCHOR: &str = "anchor.txt";
/// Longest character-string of a TXT record (RFC 1035 section 3.3.14).
const CHARACTER_STRING: usize = 255;

/// A served name with its keys.
#[derive(Clone, Debug)]
pub struct NameFolder {
    /// The name.
    pub name: Name,
    /// `k` of its anchor: signs anchors and cards.
    pub anchor_key: Arc<SigningKey>,
    /// Signs its events, placements and call invites.
    pub message_key: Arc<SigningKey>,
    /// The anchor that was last signed: what is, or has to be, in DNS.
    pub anchor: Anchor,
    path: PathBuf,
}

/// Why a name cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum NameFolderError {
    /// A key file.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// No keys: the name is in the configuration, but was never set up.
    #[error("{0} has no anchor yet: run `ahoyd anchor` and publish what it prints")]
    NotSetUp(Name),
    /// The anchor's file is damaged.
    #[error("{}: {error}: run `ahoyd anchor --renew`", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        error: AnchorError,
    },
    /// The anchor cannot be signed.
    #[error("the anchor of {name} cannot be signed: {error}")]
    Sign {
        /// Which name.
        name: Name,
        /// What is wrong.
        error: AnchorError,
    },
}

impl NameFolder {
    /// The folder of a name that was set up before.
    pub fn open(config: &Config, name: &Name) -> Result<Self, NameFolderError> {
        let path = config.name_dir(name);
        let key = |file| -> Result<Arc<SigningKey>, NameFolderError> {
            let key = key_file::load(&path.join(file))?;
            key.map(Arc::new).ok_or_else(|| NameFolderError::NotSetUp(name.clone()))
        };
        let (anchor_key, message_key) = (key(ANCHOR_KEY)?, key(MESSAGE_KEY)?);
        let anchor =
            read_anchor(&path.join(ANCHOR))?.ok_or_else(|| NameFolderError::NotSetUp(name.clone()))?;
        Ok(Self { name: name.clone(), anchor_key, message_key, anchor, path })
    }

    /// The folder of `name`, with whatever is missing made. The anchor is signed anew when `renew` is set, when it
    /// no longer says what the configuration does, or when it cannot be read; keys are never replaced.
    pub fn set_up(
        config: &Config,
        name: &Name,
        renew: bool,
        clock: &dyn Clock,
        entropy: &dyn Entropy,
    ) -> Result<Self, NameFolderError> {
        let path = config.name_dir(name);
        key_file::create_folder(&path)?;
        let anchor_key = Arc::new(key_file::load_or_create(&path.join(ANCHOR_KEY), entropy)?);
        let message_key = Arc::new(key_file::load_or_create(&path.join(MESSAGE_KEY), entropy)?);
        let file = path.join(ANCHOR);
        let stored = match read_anchor(&file) {
            Err(NameFolderError::Damaged { .. }) if renew => None,
            read => read?,
        };
        let current = stored.as_ref().filter(|anchor| !renew && says(anchor, config, &anchor_key));
        let anchor = match current {
            Some(anchor) => anchor.clone(),
            None => {
                let text = sign(config, name, stored.as_ref(), &anchor_key, clock)?;
                key_file::write(&file, format!("{text}\n").as_bytes())?;
                Anchor::parse(&text).expect("what was signed reads back")
            }
        };
        Ok(Self { name: name.clone(), anchor_key, message_key, anchor, path })
    }

    /// Whether the anchor says what the configuration does. If not, `ahoyd anchor` signs one that does.
    pub fn is_current(&self, config: &Config) -> bool {
        says(&self.anchor, config, &self.anchor_key)
    }

    /// What has to be published, in the forms that DNS hosters ask for.
    pub fn publication(&self) -> Publication<'_> {
        Publication { name: &self.name, value: self.anchor.text() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn read_anchor(path: &Path) -> Result<Option<Anchor>, NameFolderError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(KeyFileError::File { path: path.to_owned(), error }.into()),
    };
    let anchor = Anchor::parse(text.trim());
    anchor.map(Some).map_err(|error| NameFolderError::Damaged { path: path.to_owned(), error })
}

/// Lines and capabilities may change every day: they are in the card, and the anchor says nothing of them.
fn says(anchor: &Anchor, config: &Config, key: &SigningKey) -> bool {
    anchor.key == key.public() && anchor.endpoints == [config.endpoint.clone()]
}

/// Letters of the card's capabilities: messages and calls always, `s` when a PBX answers a line. `[NAME-ANCHOR-04]`
pub fn capabilities(config: &Config, name: &Name) -> String {
    let has_pbx = config.lines_of(name).any(|line| line.kind == LineKind::Pbx);
    if has_pbx { "mcs".into() } else { "mc".into() }
}

fn sign(
    config: &Config,
    name: &Name,
    before: Option<&Anchor>,
    key: &SigningKey,
    clock: &dyn Clock,
) -> Result<String, NameFolderError> {
    let now = clock.now();
    // `s` rises strictly, even when the clock was set back or two are signed within a second.
    let least = before.map_or(now, |anchor| anchor.signed_at.after(Duration::from_secs(1)));
    let draft = AnchorDraft {
        signed_at: now.max(least),
        endpoints: vec![AnchorEndpoint::clone(&config.endpoint)],
        ..AnchorDraft::default()
    };
    draft.sign(name, key).map_err(|error| NameFolderError::Sign { name: name.clone(), error })
}

/// The record to publish.
#[derive(Clone, Copy, Debug)]
pub struct Publication<'a> {
    name: &'a Name,
    value: &'a str,
}

impl Publication<'_> {
    /// The one-line value.
    pub fn value(&self) -> &str {
        self.value
    }

    /// The owner within the registered domain, as most DNS forms want it: `_ahoy`, or `_ahoy.shop`.
    pub fn relative_label(&self) -> String {
        let owner = self.name.anchor_owner();
        let zone = format!(".{}", self.name.registrable_domain());
        owner.strip_suffix(&zone).unwrap_or(&owner).to_owned()
    }

    /// The zone-file form: fully qualified, quoted, in character-strings of at most 255 bytes.
    pub fn zone_line(&self) -> String {
        // An anchor is ASCII without quotes and backslashes.
        let strings: Vec<String> = self
            .value
            .as_bytes()
            .chunks(CHARACTER_STRING)
            .map(|chunk| format!("\"{}\"", String::from_utf8_lossy(chunk)))
            .collect();
        format!("{}. 3600 IN TXT {}", self.name.anchor_owner(), strings.join(" "))
    }
}

impl std::fmt::Display for Publication<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "Publish one TXT record for {}:", self.name)?;
        writeln!(f)?;
        writeln!(f, "  label in the zone {}:", self.name.registrable_domain())?;
        writeln!(f, "    {}", self.relative_label())?;
        writeln!(f, "  full name:")?;
        writeln!(f, "    {}", self.name.anchor_owner())?;
        writeln!(f, "  value, one line:")?;
        writeln!(f, "    {}", self.value)?;
        writeln!(f, "  or, as a line of a zone file:")?;
        write!(f, "    {}", self.zone_line())
    }
}

#[cfg(test)]
mod tests {
    use ahoy_proto::time::Timestamp;

    use super::*;

    struct At(u64);

    impl Clock for At {
        fn now(&self) -> Timestamp {
            Timestamp::from_secs(self.0)
        }
    }

    struct Sevens;

    impl Entropy for Sevens {
        fn fill(&self, out: &mut [u8]) {
            out.fill(7);
        }
    }

    fn config(dir: &Path, host: &str) -> Config {
        let text = format!(
            "name = \"shop.bank.example\"\nspecial_use_allowed = [\"example\"]\nendpoint = \"{host}\"\n\
             [[line]]\nkind = \"pbx\"\ntargets = [\"service:bridge\"]\n"
        );
        Config::parse(&text, &dir.join("ahoyd.toml")).unwrap()
    }

    fn set_up(config: &Config, renew: bool, now: u64) -> NameFolder {
        NameFolder::set_up(config, &config.names[0], renew, &At(now), &Sevens).unwrap()
    }

    #[test]
    fn an_anchor_is_signed_anew_only_when_it_has_to_and_then_later() {
        let dir = tempfile::tempdir().unwrap();
        let first_config = config(dir.path(), "hs.bank.example");
        assert!(matches!(
            NameFolder::open(&first_config, &first_config.names[0]),
            Err(NameFolderError::NotSetUp(_))
        ));
        let first = set_up(&first_config, false, 1_800_000_000);
        assert_eq!(first.anchor.verify(&first.name, Timestamp::from_secs(1_800_000_001)).map(|_| ()), Ok(()));
        assert_eq!(first.anchor.capabilities, None, "a new line needs no new record");
        assert_eq!(set_up(&first_config, false, 1_800_000_500).anchor, first.anchor, "nothing has changed");
        let moved_config = config(dir.path(), "new.bank.example");
        let opened = NameFolder::open(&moved_config, &first.name).unwrap();
        assert!(!opened.is_current(&moved_config) && opened.is_current(&first_config));
        // The clock was set back: `s` rises all the same.
        let moved = set_up(&moved_config, false, 1_700_000_000);
        assert_eq!(moved.anchor.signed_at, Timestamp::from_secs(1_800_000_001));
        assert_eq!(moved.anchor.key, first.anchor.key, "keys are never replaced");
        assert!(set_up(&moved_config, true, 1_800_000_900).anchor.signed_at > moved.anchor.signed_at);
    }

    #[test]
    fn a_damaged_anchor_is_named_and_renewed_only_on_demand() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path(), "hs.bank.example");
        let folder = set_up(&config, false, 1_800_000_000);
        fs::write(folder.path().join(ANCHOR), "v=ahoy1;k=x").unwrap();
        let refused = NameFolder::set_up(&config, &folder.name, false, &At(1), &Sevens);
        assert!(matches!(refused, Err(NameFolderError::Damaged { .. })));
        assert_eq!(set_up(&config, true, 1_800_000_001).anchor.key, folder.anchor.key);
    }

    #[test]
    fn what_is_published_reads_back_as_the_anchor() {
        let dir = tempfile::tempdir().unwrap();
        let folder = set_up(&config(dir.path(), "hs.bank.example"), false, 1_800_000_000);
        let publication = folder.publication();
        assert_eq!(publication.relative_label(), "_ahoy.shop");
        let zone_line = publication.zone_line();
        let (owner, strings) = zone_line.split_once(" 3600 IN TXT ").unwrap();
        assert_eq!(owner, "_ahoy.shop.bank.example.");
        assert_eq!(Anchor::parse(strings).unwrap(), folder.anchor);
        let long = "x".repeat(600);
        let chunked = Publication { value: &long, ..publication }.zone_line();
        assert!(chunked.split('"').all(|string| string.len() <= 255) && chunked.matches('x').count() >= 600);
    }
}
