//! The cards that this homeserver serves: what is in them, and when they are signed anew.
//!
//! A card lives 24 h and is signed anew after 12, and at every start, with a higher number than before.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ahoy_proto::card::sign_card;
use ahoy_proto::name::Name;
use ahoy_proto::time::{Clock, Timestamp};
use ahoy_proto::{limit, v1};
use arc_swap::ArcSwap;
use bytes::Bytes;
use prost::Message;

use crate::config::{Config, LineKind, LineSection};
use crate::lifecycle::Tasks;
use crate::name_folder::{NameFolder, capabilities};
use crate::store::{Batch, CommitError, Partition, Store, StoreError};

/// How long a card is good for.
const LIFE: Duration = Duration::from_secs(24 * 3600);
/// When it is signed anew.
const RENEW: Duration = Duration::from_secs(12 * 3600);
/// How often that is looked at: a machine that slept has a clock that jumped.
const LOOK: Duration = Duration::from_secs(600);
/// A card is in force a little earlier than it is signed, for peers whose clocks are behind.
const EARLIER: Duration = Duration::from_secs(60);
/// Retired message keys stay in the card for as long as their signatures may be asked about.
const RETIRED: Duration = Duration::from_secs(400 * 24 * 3600);
/// Where the last card's number and the message keys' dates are.
const STATE: &str = "card";

/// Why a card cannot be signed.
#[derive(Debug, thiserror::Error)]
pub enum CardBookError {
    /// The number of the card could not be kept.
    #[error("the number of the card of {name} cannot be recorded: {error}")]
    Commit {
        /// Whose card.
        name: Name,
        /// Why.
        error: CommitError,
    },
    /// What was kept cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What was kept is damaged.
    #[error("the record of the last card of {0} is damaged")]
    Damaged(Name),
    /// A card has a limit.
    #[error(
        "the card of {name} has {bytes} bytes of at most {}: shorten the labels of its lines",
        limit::CARD_BYTES
    )]
    TooLarge {
        /// Whose card.
        name: Name,
        /// Its size.
        bytes: usize,
    },
}

/// What has to be remembered of a name's cards.
#[derive(Clone, PartialEq, Message)]
struct State {
    #[prost(uint64, tag = "1")]
    seq: u64,
    #[prost(message, repeated, tag = "2")]
    message_keys: Vec<v1::MessageKey>,
}

/// The signed cards, by name.
pub struct CardBook {
    names: Vec<NameFolder>,
    config: Arc<Config>,
    spki: [u8; 32],
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    cards: ArcSwap<HashMap<Name, v1::Signed>>,
    renewed: Mutex<Timestamp>,
}

impl CardBook {
    /// Signs a card for each of `names`. `spki` is the SHA-256 of this homeserver's TLS key.
    pub async fn open(
        names: Vec<NameFolder>,
        config: Arc<Config>,
        spki: [u8; 32],
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, CardBookError> {
        let cards = ArcSwap::default();
        let renewed = Mutex::new(clock.now());
        let book = Self { names, config, spki, store, clock, cards, renewed };
        book.renew().await?;
        Ok(book)
    }

    /// The served names with their keys.
    pub fn names(&self) -> &[NameFolder] {
        &self.names
    }

    /// The cards of all names, as a homeserver claims them.
    pub fn cards(&self) -> Vec<v1::Signed> {
        let cards = self.cards.load();
        self.names.iter().filter_map(|folder| cards.get(&folder.name).cloned()).collect()
    }

    /// Signs every card anew, with its number kept before it is shown.
    pub async fn renew(&self) -> Result<(), CardBookError> {
        let now = self.clock.now();
        let mut cards = HashMap::with_capacity(self.names.len());
        for folder in &self.names {
            let state = self.next_state(folder, now).await?;
            cards.insert(folder.name.clone(), self.sign(folder, &state, now)?);
        }
        self.cards.store(Arc::new(cards));
        *self.renewed.lock().unwrap_or_else(PoisonError::into_inner) = now;
        Ok(())
    }

    /// Signs the cards anew in time, until the hard token.
    pub fn keep_fresh(self: &Arc<Self>, tasks: &Tasks) {
        let (book, stop) = (self.clone(), tasks.hard().clone());
        tasks.spawn("cards", async move {
            while stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_some() {
                if book.is_due() {
                    book.renew().await?;
                    tracing::info!(names = book.names.len(), "signed the cards anew");
                }
            }
            Ok(())
        });
    }

    fn is_due(&self) -> bool {
        let renewed = *self.renewed.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now();
        // A clock that was set back would leave a card from the future in force nowhere.
        now.since(renewed) >= RENEW || renewed > now.after(EARLIER)
    }

    async fn next_state(&self, folder: &NameFolder, now: Timestamp) -> Result<State, CardBookError> {
        let partition = Partition::new(STATE, folder.name.as_str());
        let stored = self.store.get(&partition, STATE.as_bytes())?;
        let mut state = match &stored {
            Some(bytes) => {
                State::decode(bytes.clone()).map_err(|_| CardBookError::Damaged(folder.name.clone()))?
            }
            None => State::default(),
        };
        // At least the time: a homeserver whose store was lost must not fall behind what its peers have seen.
        state.seq = (state.seq + 1).max(now.as_secs());
        date_message_keys(&mut state.message_keys, folder, now);
        let batch = Batch::new(&partition)
            .require_unchanged(STATE, stored)
            .put(STATE, Bytes::from(state.encode_to_vec()));
        let commit = self.store.commit(batch).await;
        commit.map_err(|error| CardBookError::Commit { name: folder.name.clone(), error })?;
        Ok(state)
    }

    fn sign(&self, folder: &NameFolder, state: &State, now: Timestamp) -> Result<v1::Signed, CardBookError> {
        let name = &folder.name;
        let endpoint = &self.config.endpoint;
        let card = v1::Card {
            name: name.to_string(),
            seq: state.seq,
            not_before: now.before(EARLIER).as_secs(),
            not_after: now.after(LIFE).as_secs(),
            anchor: folder.anchor.text().to_owned(),
            tls_spki: vec![Bytes::copy_from_slice(&self.spki)],
            message_keys: state.message_keys.clone(),
            endpoints: vec![v1::CardEndpoint {
                host: endpoint.host().to_owned(),
                port: endpoint.port().into(),
                priority: endpoint.priority().into(),
                weight: endpoint.weight().into(),
            }],
            capabilities: capabilities(&self.config, name),
            version_min: limit::VERSION,
            version_max: limit::VERSION,
            lines: self.config.lines_of(name).map(card_line).collect(),
            display_names: text(&self.config.card.display_name),
            country: self.config.card.country.clone(),
            ..v1::Card::default()
        };
        let signed = sign_card(&card, &folder.anchor_key);
        if signed.body.len() > limit::CARD_BYTES {
            return Err(CardBookError::TooLarge { name: name.clone(), bytes: signed.body.len() });
        }
        Ok(signed)
    }
}

impl ahoy_transport::CardBook for CardBook {
    fn card(&self, name: &Name) -> Option<v1::Signed> {
        self.cards.load().get(name).cloned()
    }
}

/// The current key has an open end; whichever was current before ends now; those long gone are dropped.
fn date_message_keys(keys: &mut Vec<v1::MessageKey>, folder: &NameFolder, now: Timestamp) {
    let current = folder.message_key.public();
    let (now_s, gone) = (now.as_secs(), now.before(RETIRED).as_secs());
    for key in keys.iter_mut().filter(|key| key.not_after == 0 && key.key != current.as_bytes()[..]) {
        key.not_after = now_s;
    }
    keys.retain(|key| key.not_after == 0 || key.not_after > gone);
    if !keys.iter().any(|key| key.not_after == 0) {
        let key = Bytes::copy_from_slice(current.as_bytes());
        keys.push(v1::MessageKey { key, not_before: now_s, not_after: 0 });
    }
    let surplus = keys.len().saturating_sub(limit::CARD_MESSAGE_KEYS);
    keys.drain(..surplus);
}

fn card_line(line: &LineSection) -> v1::CardLine {
    let kind = match line.kind {
        LineKind::Pbx => v1::LineKind::Pbx,
        LineKind::Group => v1::LineKind::Group,
        LineKind::Bot => v1::LineKind::Bot,
    };
    v1::CardLine {
        local: line.local.clone(),
        labels: text(&line.label),
        kind: kind.into(),
        ..Default::default()
    }
}

/// One text in no particular language, or none.
fn text(text: &str) -> Vec<v1::LocalText> {
    let of = |text: &str| v1::LocalText { language: String::new(), text: text.to_owned() };
    if text.is_empty() { Vec::new() } else { vec![of(text)] }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::{AtomicU64, Ordering};

    use ahoy_proto::card::{VerifiedCard, verify_card};
    use ahoy_proto::key::SigningKey;
    use ahoy_proto::time::Entropy;
    use ahoy_transport::CardBook as _;

    use super::*;
    use crate::store;

    const START: u64 = 1_800_000_000;

    struct Sevens;

    impl Entropy for Sevens {
        fn fill(&self, out: &mut [u8]) {
            out.fill(7);
        }
    }

    struct Hands(AtomicU64);

    impl Clock for Hands {
        fn now(&self) -> Timestamp {
            Timestamp::from_secs(self.0.load(Ordering::Relaxed))
        }
    }

    fn config(dir: &Path) -> Arc<Config> {
        let text = "name = [\"bank.example\", \"shop.example\"]\nspecial_use_allowed = [\"example\"]\n\
             endpoint = \"hs.bank.example:9000\"\n[card]\ndisplay_name = \"The Bank\"\ncountry = \"DE\"\n\
             [[line]]\nname = \"bank.example\"\nlocal = \"support\"\nkind = \"pbx\"\n\
             label = \"Support\"\ntargets = [\"service:bridge\"]\n";
        Arc::new(Config::parse(text, &dir.join("ahoyd.toml")).unwrap())
    }

    fn folders(config: &Config, clock: &Hands) -> Vec<NameFolder> {
        let set_up = |name| NameFolder::set_up(config, name, false, clock, &Sevens).unwrap();
        config.names.iter().map(set_up).collect()
    }

    async fn open(dir: &Path, clock: &Arc<Hands>, folders: Vec<NameFolder>) -> CardBook {
        let store = store::open(&dir.join("store"), 1 << 20).unwrap();
        CardBook::open(folders, config(dir), [9; 32], store, clock.clone()).await.unwrap()
    }

    fn verified(book: &CardBook, at: usize) -> VerifiedCard {
        let folder = &book.names()[at];
        let signed = book.card(&folder.name).unwrap();
        verify_card(&signed, &folder.name, &folder.anchor, book.clock.now()).unwrap()
    }

    #[tokio::test]
    async fn each_name_has_a_card_that_its_peers_accept() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(Hands(AtomicU64::new(START)));
        let book = open(dir.path(), &clock, folders(&config(dir.path()), &clock)).await;
        let bank = verified(&book, 0);
        assert!(bank.lists_tls(&[9; 32]));
        assert!(bank.is_message_key(&book.names()[0].message_key.public(), Timestamp::from_secs(START)));
        assert_eq!((bank.endpoints[0].host(), bank.endpoints[0].port()), ("hs.bank.example", 9000));
        assert_eq!(bank.card.lines[0].local, "support");
        assert_eq!(bank.card.capabilities, "mcs");
        assert_eq!(verified(&book, 1).card.lines, []);
        assert_eq!(book.cards().len(), 2);
        let stranger = Name::parse("x.example", &config(dir.path()).policy).unwrap();
        assert_eq!(book.card(&stranger), None);
    }

    #[tokio::test]
    async fn the_number_rises_over_restarts_and_a_replaced_message_key_retires() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(Hands(AtomicU64::new(START)));
        let mut names = folders(&config(dir.path()), &clock);
        let book = open(dir.path(), &clock, names.clone()).await;
        let first = verified(&book, 0);
        drop(book);
        clock.0.fetch_sub(3600, Ordering::Relaxed);
        let old_key = names[0].message_key.public();
        names[0].message_key = Arc::new(SigningKey::from_seed([8; 32]));
        let book = open(dir.path(), &clock, names).await;
        let second = verified(&book, 0);
        assert!(second.seq > first.seq && second.may_replace(&first), "although the clock went back");
        assert_eq!(second.message_keys.len(), 2);
        let later = Timestamp::from_secs(START + 60);
        assert!(!second.is_message_key(&old_key, later));
        assert!(second.is_message_key(&book.names()[0].message_key.public(), later));
    }

    #[tokio::test(start_paused = true)]
    async fn a_card_is_signed_anew_before_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(Hands(AtomicU64::new(START)));
        let book = Arc::new(open(dir.path(), &clock, folders(&config(dir.path()), &clock)).await);
        let first = verified(&book, 0);
        let lifecycle = crate::lifecycle::Lifecycle::default();
        book.keep_fresh(&lifecycle.tasks());
        tokio::time::sleep(LOOK + Duration::from_secs(1)).await;
        assert_eq!(verified(&book, 0).seq, first.seq, "nothing to do yet");
        clock.0.fetch_add(RENEW.as_secs(), Ordering::Relaxed);
        // The commit is made by another thread, for which the paused time does not wait.
        while verified(&book, 0).seq == first.seq {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let second = verified(&book, 0);
        assert!(second.seq > first.seq && second.not_after > first.not_after);
        lifecycle.tasks().hard().cancel();
    }
}
