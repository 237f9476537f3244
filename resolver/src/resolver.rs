//! The resolver: cached answers, one pursuit per name at a time, each within its deadline.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ahoy_proto::anchor::Anchor;
use ahoy_proto::card::CardSource;
use ahoy_proto::name::Name;
use ahoy_proto::time::{Clock, Timestamp};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tracing::debug;

use crate::cache::{Cache, Entry};
use crate::contact::{Contact, Reached};
use crate::error::ResolveError;
use crate::introduce::introduce;
use crate::judge::{Belief, Hold, Verdict, judge};
use crate::pin::{Pin, PinStore};
use crate::resolution::{Explanation, Resolution, Warning};
use crate::trail::Trail;
use crate::view::DnsView;

/// How long a card that could not be authenticated is not asked for again.
const NOT_AUTHENTIC_HOLD: Duration = Duration::from_secs(60);
const UNREACHABLE_HOLD: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));
/// A pin that says nothing new is still written this often, so that "confirmed" stays near the truth.
const PIN_REWRITE: Duration = Duration::from_secs(3600);

/// What the resolver may spend.
#[derive(Clone, Debug)]
pub struct ResolverLimits {
    /// Names remembered, good and bad together.
    pub names: usize,
    /// Names pursued at once; more are refused as `DnsUnavailable`.
    pub pursuits: usize,
    /// For one resolution as a whole.
    pub deadline: Duration,
    /// For DNS when a known name has a last good record to fall back on.
    pub known_dns_deadline: Duration,
    /// For DNS otherwise; the rest of `deadline` is for the card.
    pub dns_deadline: Duration,
}

impl Default for ResolverLimits {
    fn default() -> Self {
        Self {
            names: 65_536,
            pursuits: 1024,
            deadline: Duration::from_secs(5),
            known_dns_deadline: Duration::from_millis(1800),
            dns_deadline: Duration::from_millis(3500),
        }
    }
}

type Pursuit = Shared<BoxFuture<'static, Option<Arc<Explanation>>>>;

#[derive(Default)]
struct Pursuits {
    by_name: HashMap<Name, (u64, Pursuit)>,
    next: u64,
}

struct Inner {
    view: Arc<dyn DnsView>,
    pins: Arc<dyn PinStore>,
    cards: Arc<dyn CardSource>,
    clock: Arc<dyn Clock>,
    limits: ResolverLimits,
    cache: Cache,
    pursuits: Mutex<Pursuits>,
    tasks: TaskTracker,
}

/// Resolves names. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct Resolver(Arc<Inner>);

impl Resolver {
    /// A resolver over one view of DNS, a memory of keys, and a way to fetch cards.
    pub fn new(
        view: Arc<dyn DnsView>,
        pins: Arc<dyn PinStore>,
        cards: Arc<dyn CardSource>,
        clock: Arc<dyn Clock>,
        limits: ResolverLimits,
    ) -> Self {
        Self(Arc::new(Inner {
            view,
            pins,
            cards,
            clock,
            cache: Cache::new(limits.names),
            limits,
            pursuits: Mutex::default(),
            tasks: TaskTracker::new(),
        }))
    }

    /// The verified card and endpoints of `name`: remembered, or found within 5 s.
    ///
    /// # Errors
    /// The closed list of [`ResolveError`]; refusals are remembered too.
    pub async fn resolve(&self, name: &Name) -> Result<Arc<Resolution>, ResolveError> {
        if let Some(remembered) = self.remembered(name) {
            return remembered;
        }
        self.pursue(name).await.outcome.clone()
    }

    /// The remembered outcome, without asking anybody; starts its renewal when that is due.
    pub fn remembered(&self, name: &Name) -> Option<Result<Arc<Resolution>, ResolveError>> {
        let now = self.0.clock.now();
        let entry = self.0.cache.find(name, now)?;
        if now > entry.until {
            return None;
        }
        if now >= entry.refresh_at && !entry.renewing.swap(true, Ordering::Relaxed) {
            drop(self.start(name));
        }
        Some(entry.outcome.clone())
    }

    /// Resolves afresh, past the memory (which it renews), and tells every step.
    pub async fn explain(&self, name: &Name) -> Explanation {
        (*self.pursue(name).await).clone()
    }

    /// Forgets what is remembered of `name` (its pin stays); what is under way for it is not kept.
    pub fn invalidate(&self, name: &Name) {
        self.pursuits().by_name.remove(name);
        self.0.cache.remove(name);
    }

    /// A peer says that the card of `name` has a new `seq`: forgets an older one.
    /// The claim itself proves nothing; the next [`Self::resolve`] finds out.
    pub fn card_changed(&self, name: &Name, seq: u64) {
        let now = self.0.clock.now();
        let Some(entry) = self.0.cache.find(name, now) else {
            return;
        };
        if entry.last_good.as_ref().is_none_or(|good| good.card.seq < seq) {
            self.invalidate(name);
        }
    }

    /// Waits until what is under way has ended; nothing takes longer than the deadline.
    pub async fn close(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    fn pursuits(&self) -> MutexGuard<'_, Pursuits> {
        self.0.pursuits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn pursue(&self, name: &Name) -> Arc<Explanation> {
        let refused = |detail: &str| {
            let (name, detail) = (name.clone(), detail.to_owned());
            Arc::new(Explanation {
                outcome: Err(ResolveError::DnsUnavailable { name: name.to_string(), detail }),
                name,
                steps: Vec::new(),
            })
        };
        match self.start(name) {
            Some(pursuit) => pursuit.await.unwrap_or_else(|| refused("the resolution was abandoned")),
            None => refused("too many resolutions at once"),
        }
    }

    /// Joins the pursuit of `name`, or starts one; `None` when there are too many.
    fn start(&self, name: &Name) -> Option<Pursuit> {
        let mut pursuits = self.pursuits();
        if let Some((_, pursuit)) = pursuits.by_name.get(name) {
            return Some(pursuit.clone());
        }
        if pursuits.by_name.len() >= self.0.limits.pursuits {
            return None;
        }
        let (done, waiting) = oneshot::channel();
        let pursuit = waiting.map(Result::ok).boxed().shared();
        let id = pursuits.next;
        pursuits.next += 1;
        pursuits.by_name.insert(name.clone(), (id, pursuit.clone()));
        drop(pursuits);
        let (this, name) = (self.clone(), name.clone());
        self.0.tasks.spawn(async move {
            let guard = PursuitGuard { resolver: &this, name: &name, id };
            let explanation = Arc::new(this.run(&name, &guard).await);
            drop(guard);
            // Nobody waiting is fine: this was a renewal.
            let _ = done.send(explanation);
        });
        Some(pursuit)
    }

    /// One resolution from the start, remembered unless it was invalidated meanwhile.
    async fn run(&self, name: &Name, guard: &PursuitGuard<'_>) -> Explanation {
        let now = self.0.clock.now();
        let before = self.0.cache.find(name, now);
        let last_good = before.as_ref().and_then(|entry| entry.last_good.clone());
        let mut trail = Trail::new();
        let (outcome, hold) = self.0.find(name, last_good.as_deref(), now, &mut trail).await;
        let steps = trail.steps().to_vec();
        debug!(%name, ok = outcome.is_ok(), steps = steps.len(), "resolved");
        let streak = before.map_or(0, |entry| entry.streak);
        let entry = remember(&outcome, hold, streak, last_good, self.0.clock.now());
        guard.insert(entry);
        Explanation { name: name.clone(), outcome, steps }
    }
}

/// Takes the pursuit off the list when it ends, however it ends.
struct PursuitGuard<'a> {
    resolver: &'a Resolver,
    name: &'a Name,
    id: u64,
}

impl PursuitGuard<'_> {
    /// Remembers the outcome, unless the name was invalidated since this pursuit began.
    fn insert(&self, entry: Entry) {
        let pursuits = self.resolver.pursuits();
        if pursuits.by_name.get(self.name).is_some_and(|(id, _)| *id == self.id) {
            let now = self.resolver.0.clock.now();
            self.resolver.0.cache.insert(self.name.clone(), entry, now);
        }
    }
}

impl Drop for PursuitGuard<'_> {
    fn drop(&mut self) {
        let mut pursuits = self.resolver.pursuits();
        if pursuits.by_name.get(self.name).is_some_and(|(id, _)| *id == self.id) {
            pursuits.by_name.remove(self.name);
        }
    }
}

/// How long an outcome is answered from memory, and when it is renewed `[NAME-LEVEL-09]`.
fn remember(
    outcome: &Result<Arc<Resolution>, ResolveError>,
    hold: Hold,
    streak: u32,
    last_good: Option<Arc<Resolution>>,
    now: Timestamp,
) -> Entry {
    let (hold, streak) = match hold {
        Hold::For(hold) => (hold, 0),
        Hold::Doubling(first, longest) => {
            let doubled = first.saturating_mul(1 << streak.min(10));
            (doubled.min(longest), streak + 1)
        }
    };
    let until = now + hold;
    match outcome {
        Ok(good) => {
            // Used names are renewed at four fifths of their time, and before half of the card's
            // life has passed; a stale answer is given only while that renewal is under way, for as
            // long again at most, and never beyond the card.
            let refresh_at = (now + hold.mul_f64(0.8)).min(good.card.refresh_at(now));
            let stale_until = (until + hold.min(Duration::from_secs(3600))).min(good.not_after);
            Entry::new(outcome.clone(), refresh_at, stale_until, streak, Some(good.clone()))
        }
        Err(_) => Entry::new(outcome.clone(), Timestamp::MAX, until, streak, last_good),
    }
}

impl Inner {
    /// DNS, the rules, the card, in this order.
    async fn find(
        &self,
        name: &Name,
        last_good: Option<&Resolution>,
        now: Timestamp,
        trail: &mut Trail,
    ) -> (Result<Arc<Resolution>, ResolveError>, Hold) {
        let start = trail.start();
        let known = match self.load(name).await {
            Ok(known) => known,
            Err(error) => {
                let (name, detail) = (name.to_string(), format!("pin store: {error}"));
                let hold = Hold::Doubling(UNREACHABLE_HOLD.0, UNREACHABLE_HOLD.1);
                return (Err(ResolveError::DnsUnavailable { name, detail }), hold);
            }
        };
        trail.add(start, "pin", pin_text(known.as_ref()));
        let budget = match known {
            Some(_) => self.limits.known_dns_deadline,
            None => self.limits.dns_deadline,
        };
        let heard = introduce(&*self.view, name, now, start + budget, trail).await;
        let since = Instant::now();
        let verdict = judge(name, heard, known.clone(), now);
        match &verdict.belief {
            Ok(belief) => trail.add(since, "level", belief.level),
            Err(refusal) => trail.add(since, "level", format!("refused: {refusal}")),
        }
        let old_pin = known.map(|(pin, _)| pin);
        let found = self.meet(name, verdict, old_pin.as_ref(), last_good, now, trail).await;
        let Found { outcome, hold, pin } = found;
        if let Some(pin) = pin
            && is_news(&pin, old_pin.as_ref())
            && let Err(error) = self.save(name, pin).await
        {
            let (name, detail) = (name.to_string(), format!("pin store: {error}"));
            let hold = Hold::Doubling(UNREACHABLE_HOLD.0, UNREACHABLE_HOLD.1);
            return (Err(ResolveError::DnsUnavailable { name, detail }), hold);
        }
        (outcome, hold)
    }

    /// The card half: who is believed is also met.
    async fn meet(
        &self,
        name: &Name,
        verdict: Verdict,
        old_pin: Option<&Pin>,
        last_good: Option<&Resolution>,
        now: Timestamp,
        trail: &mut Trail,
    ) -> Found {
        let Verdict { belief, hold, pin } = verdict;
        let belief = match belief {
            Ok(belief) => belief,
            Err(error) => return Found { outcome: Err(error), hold, pin },
        };
        if belief.anchors[0].is_tombstone() {
            let (name, detail) = (name.to_string(), "its owner took it out of service".into());
            return Found { outcome: Err(ResolveError::NotInService { name, detail }), hold, pin };
        }
        let nowhere = HashMap::new();
        let contact = Contact {
            view: &*self.view,
            cards: &*self.cards,
            name,
            anchors: &belief.anchors,
            least_seq: old_pin.map_or(0, |pin| pin.card_seq),
            known_hosts: old_pin.map_or(&nowhere, |pin| &pin.hosts),
            now,
            deadline: trail.start() + self.limits.deadline,
        };
        match contact.reach(trail).await {
            Ok(reached) => met(name, belief, reached, hold, pin, now, trail),
            Err(error) => unmet(error, belief, last_good, pin, now, trail),
        }
    }

    /// The pin of `name` with its anchor read.
    async fn load(&self, name: &Name) -> io::Result<Option<(Pin, Anchor)>> {
        let (pins, wanted) = (self.pins.clone(), name.clone());
        let loaded = tokio::task::spawn_blocking(move || pins.load(&wanted)).await;
        let Some(pin) = loaded.map_err(io::Error::other)?? else {
            return Ok(None);
        };
        let damaged = |error| io::Error::new(io::ErrorKind::InvalidData, format!("pin of {name}: {error}"));
        let anchor = Anchor::parse(&pin.anchor).map_err(damaged)?;
        anchor.verify_signature(name).map_err(damaged)?;
        Ok(Some((pin, anchor)))
    }

    async fn save(&self, name: &Name, pin: Pin) -> io::Result<()> {
        let (pins, name) = (self.pins.clone(), name.clone());
        let saved = tokio::task::spawn_blocking(move || pins.store(&name, &pin)).await;
        saved.map_err(io::Error::other)?
    }
}

struct Found {
    outcome: Result<Arc<Resolution>, ResolveError>,
    hold: Hold,
    pin: Option<Pin>,
}

/// Who was met is pinned, with what the card adds.
fn met(
    name: &Name,
    belief: Belief,
    reached: Reached,
    hold: Hold,
    pin: Option<Pin>,
    now: Timestamp,
    trail: &Trail,
) -> Found {
    let card = reached.card;
    let anchor = card.anchor.clone();
    let mut pin = pin.unwrap_or_else(|| Pin {
        anchor: String::new(),
        next: anchor.next.map(|next| ahoy_proto::base64url::encode(&next)),
        first_seen: now.as_millis(),
        confirmed: now.as_millis(),
        card_seq: 0,
        hosts: HashMap::new(),
        bogus_since: None,
        absent_since: None,
    });
    pin.anchor = anchor.text().to_owned();
    pin.card_seq = card.seq;
    pin.hosts = reached.hosts;
    let resolution = Resolution {
        name: name.clone(),
        key: anchor.key,
        level: belief.level,
        anchor,
        endpoints: reached.endpoints,
        not_after: card.not_after,
        card,
        first_seen: Timestamp::from_millis(pin.first_seen),
        warnings: belief.warnings,
        steps: trail.steps().to_vec(),
    };
    Found { outcome: Ok(Arc::new(resolution)), hold, pin: Some(pin) }
}

/// Nobody could be met: the last card serves while it is in force and rests on a believed anchor,
/// unless somebody else answered in the name's place.
fn unmet(
    error: ResolveError,
    belief: Belief,
    last_good: Option<&Resolution>,
    pin: Option<Pin>,
    now: Timestamp,
    trail: &Trail,
) -> Found {
    let hold = match error {
        ResolveError::PeerNotAuthentic { .. } => Hold::For(NOT_AUTHENTIC_HOLD),
        _ => Hold::Doubling(UNREACHABLE_HOLD.0, UNREACHABLE_HOLD.1),
    };
    let usable = last_good.filter(|good| {
        matches!(error, ResolveError::PeerUnreachable { .. })
            && good.card.is_in_force(now)
            && belief.anchors.iter().any(|anchor| anchor.text() == good.anchor.text())
    });
    let outcome = match usable {
        Some(good) => {
            let mut warnings = belief.warnings;
            warnings.push(Warning::PeerDown(error.to_string()));
            Ok(Arc::new(Resolution {
                level: belief.level,
                warnings,
                steps: trail.steps().to_vec(),
                ..good.clone()
            }))
        }
        None => Err(error),
    };
    Found { outcome, hold, pin }
}

/// Whether a pin has to be written: anything but a slightly newer confirmation.
fn is_news(pin: &Pin, old: Option<&Pin>) -> bool {
    let Some(old) = old else {
        return true;
    };
    let confirmed = Timestamp::from_millis(old.confirmed);
    let mut same = old.clone();
    same.confirmed = pin.confirmed;
    same != *pin || Timestamp::from_millis(pin.confirmed).since(confirmed) >= PIN_REWRITE
}

fn pin_text(known: Option<&(Pin, Anchor)>) -> String {
    match known {
        None => "not known yet".into(),
        Some((pin, anchor)) => {
            format!("key {}, known since {}", anchor.key, Timestamp::from_millis(pin.first_seen))
        }
    }
}
