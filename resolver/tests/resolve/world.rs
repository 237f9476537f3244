//! A small world: one name, its keys, its homeserver, and a table that answers for DNS.

use std::collections::HashMap;
use std::future::{Future, pending};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ahoy_proto::anchor::{AnchorDraft, AnchorEndpoint};
use ahoy_proto::card::{CardSource, FetchError, FetchedCard, sign_card};
use ahoy_proto::key::SigningKey;
use ahoy_proto::name::{Name, NamePolicy};
use ahoy_proto::time::{Clock, Timestamp};
use ahoy_proto::v1;
use ahoy_resolver::{DnsAnswer, DnsFault, DnsView, Found, MemoryPins, Resolver, ResolverLimits, Standing};
use ahoy_testkit::clock::VirtualClock;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

pub const HOST: &str = "hs.bank.example";
pub const SPKI: [u8; 32] = [9; 32];
pub const HOUR: Duration = Duration::from_secs(3600);
pub const DAY: Duration = Duration::from_secs(86_400);

pub fn bank() -> Name {
    Name::parse("bank.example", &NamePolicy::allowing(["example"])).unwrap()
}

pub fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed([seed; 32])
}

/// Answers from a table; an owner that is not in it does not exist, securely.
#[derive(Default)]
pub struct TableView {
    answers: Mutex<HashMap<String, Result<DnsAnswer, DnsFault>>>,
    hosts: Mutex<HashMap<String, Vec<IpAddr>>>,
    silent: Mutex<bool>,
    pub asked: AtomicU64,
}

impl TableView {
    pub fn put(&self, owner: &str, answer: Result<DnsAnswer, DnsFault>) {
        self.answers.lock().unwrap().insert(owner.into(), answer);
    }

    pub fn host(&self, host: &str, ip: Ipv4Addr) {
        self.hosts.lock().unwrap().insert(host.into(), vec![ip.into()]);
    }

    pub fn set_silent(&self, silent: bool) {
        *self.silent.lock().unwrap() = silent;
    }

    fn is_silent(&self) -> bool {
        *self.silent.lock().unwrap()
    }
}

impl DnsView for TableView {
    fn text<'a>(&'a self, owner: &'a str) -> BoxFuture<'a, Result<DnsAnswer, DnsFault>> {
        async move {
            self.asked.fetch_add(1, Ordering::SeqCst);
            if self.is_silent() {
                return pending().await;
            }
            tokio::task::yield_now().await;
            let nothing = || Ok(nothing(Standing::Secure));
            self.answers.lock().unwrap().get(owner).cloned().unwrap_or_else(nothing)
        }
        .boxed()
    }

    fn addresses<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Result<Vec<IpAddr>, DnsFault>> {
        async move {
            if self.is_silent() {
                return pending().await;
            }
            Ok(self.hosts.lock().unwrap().get(host).cloned().unwrap_or_default())
        }
        .boxed()
    }
}

/// Homeservers by address.
#[derive(Default)]
pub struct TableCards {
    pub served: Mutex<HashMap<SocketAddr, FetchedCard>>,
    pub fetched: AtomicU64,
}

impl CardSource for TableCards {
    fn fetch<'a>(
        &'a self,
        _: &'a Name,
        _: &'a str,
        addr: SocketAddr,
    ) -> Pin<Box<dyn Future<Output = Result<FetchedCard, FetchError>> + Send + 'a>> {
        self.fetched.fetch_add(1, Ordering::SeqCst);
        let card = self.served.lock().unwrap().get(&addr).cloned();
        async move { card.ok_or(FetchError::Timeout) }.boxed()
    }
}

pub fn nothing(standing: Standing) -> DnsAnswer {
    DnsAnswer { found: Found::Nothing, standing, ttl: 3600 }
}

pub fn text(text: &str, standing: Standing) -> DnsAnswer {
    DnsAnswer { found: Found::Text(vec![vec![Bytes::copy_from_slice(text.as_bytes())]]), standing, ttl: 3600 }
}

pub struct World {
    pub view: Arc<TableView>,
    pub cards: Arc<TableCards>,
    pub pins: Arc<MemoryPins>,
    pub clock: Arc<VirtualClock>,
    pub resolver: Resolver,
}

impl World {
    /// `bank.example` published with key 1, its homeserver at 127.0.0.1.
    pub fn new() -> Self {
        let view = Arc::new(TableView::default());
        view.host(HOST, Ipv4Addr::LOCALHOST);
        let cards = Arc::new(TableCards::default());
        let pins = Arc::new(MemoryPins::default());
        let clock = Arc::new(VirtualClock::default());
        let resolver = Resolver::new(
            view.clone(),
            pins.clone(),
            cards.clone(),
            clock.clone(),
            ResolverLimits::default(),
        );
        let world = Self { view, cards, pins, clock, resolver };
        let anchor = world.anchor(1, |_| ());
        world.publish(&anchor, Standing::Secure);
        world.serve(1, &anchor, |_| ());
        world
    }

    /// The same memory of keys, a fresh process.
    pub fn restart(&mut self) {
        self.resolver = Resolver::new(
            self.view.clone(),
            self.pins.clone(),
            self.cards.clone(),
            self.clock.clone(),
            ResolverLimits::default(),
        );
    }

    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// An anchor signed now.
    pub fn anchor(&self, seed: u8, change: impl FnOnce(&mut AnchorDraft)) -> String {
        let mut draft = AnchorDraft {
            signed_at: self.now(),
            endpoints: vec![AnchorEndpoint::at(HOST).unwrap()],
            ..Default::default()
        };
        change(&mut draft);
        draft.sign(&bank(), &key(seed)).unwrap()
    }

    pub fn publish(&self, anchor: &str, standing: Standing) {
        self.view.put("_ahoy.bank.example", Ok(text(anchor, standing)));
    }

    pub fn fail(&self, fault: DnsFault) {
        self.view.put("_ahoy.bank.example", Err(fault));
    }

    /// A card valid for a day from now, at 127.0.0.1.
    pub fn serve(&self, seed: u8, anchor: &str, change: impl FnOnce(&mut v1::Card)) {
        self.serve_at(Ipv4Addr::LOCALHOST, self.card(seed, anchor, change));
    }

    pub fn card(&self, seed: u8, anchor: &str, change: impl FnOnce(&mut v1::Card)) -> FetchedCard {
        let mut card = v1::Card {
            name: "bank.example".into(),
            seq: 1,
            not_before: self.now().as_secs(),
            not_after: self.now().as_secs() + DAY.as_secs(),
            anchor: anchor.into(),
            tls_spki: vec![SPKI.to_vec().into()],
            ..Default::default()
        };
        change(&mut card);
        FetchedCard { signed: sign_card(&card, &key(seed)), spki: SPKI }
    }

    pub fn serve_at(&self, ip: Ipv4Addr, card: FetchedCard) {
        self.cards.served.lock().unwrap().insert((ip, 2469).into(), card);
    }

    /// Resolves with nothing but the pin remembered.
    pub async fn afresh(&mut self) -> Result<Arc<ahoy_resolver::Resolution>, ahoy_resolver::ResolveError> {
        self.restart();
        self.resolver.resolve(&bank()).await
    }
}
