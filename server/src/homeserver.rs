//! Puts the homeserver together: its names with their ledgers and outboxes, its peers and its clients, and lets it
//! drain.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ahoy_proto::address::Local;
use ahoy_proto::name::Name;
use ahoy_proto::time::{Clock, Entropy};
use ahoy_resolver::Resolver;
use ahoy_transport::Endpoint;
use anyhow::Context as _;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::call::Calls;
use crate::card_book::CardBook;
use crate::config::{self, Config, LimitSection};
use crate::desk::{Desk, FirstContact, Line, Target};
use crate::home::Home;
use crate::house::{House, Limiter, Served};
use crate::invite::InviteKey;
use crate::keys::Keys;
use crate::layout;
use crate::ledger::Ledger;
use crate::lifecycle::Tasks;
use crate::limit::{Limits, Rate};
use crate::metrics::Metrics;
use crate::online::Online;
use crate::outbox::Outbox;
use crate::peer::{Guests, Peers};
use crate::session;
use crate::store::Store;
use crate::sweep;
use crate::wake::Wakes;

/// How long clients and peers are asked to stay away while the homeserver restarts.
const RECONNECT_AFTER: Duration = Duration::from_secs(1);
/// How long the hang-ups of cut calls may take to arrive.
pub const CUT_TIME: Duration = Duration::from_secs(2);
/// How often a draining homeserver looks whether calls are left.
const LOOK: Duration = Duration::from_millis(50);

/// What a homeserver is made of.
pub struct Parts {
    /// Names, lines, limits, policies.
    pub config: Arc<Config>,
    /// Everything that lasts.
    pub store: Arc<dyn Store>,
    /// The UDP port, accepting.
    pub endpoint: Endpoint,
    /// Finds other names.
    pub resolver: Arc<Resolver>,
    /// The served names, their keys, and their cards.
    pub cards: Arc<CardBook>,
    /// Reads invite tokens.
    pub invites: InviteKey,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub entropy: Arc<dyn Entropy>,
    /// What tasks are spawned on, with the soft and the hard token.
    pub tasks: Tasks,
    /// What is counted.
    pub metrics: Metrics,
}

/// A running homeserver.
pub struct Homeserver {
    house: Arc<House>,
}

/// Starts everything. What it starts runs on `parts.tasks` and ends with the hard token; after the soft token no new
/// call begins, and clients and peers are asked to come back later.
pub async fn start(parts: Parts) -> anyhow::Result<Homeserver> {
    let tasks = parts.tasks.clone();
    let names = names(&parts)?;
    let limits = limits(&parts.config.limits);
    let house = Arc::new_cyclic(|me| House {
        names,
        endpoint: parts.endpoint,
        keys: Keys::new(parts.resolver.clone()),
        resolver: parts.resolver,
        cards: parts.cards,
        peers: Peers::default(),
        online: Online::default(),
        guests: Guests::default(),
        calls: Calls::default(),
        limiter: Limiter::new(&limits),
        invites: parts.invites,
        metrics: parts.metrics,
        clock: parts.clock,
        entropy: parts.entropy,
        policy: parts.config.policy.clone(),
        tracker: TaskTracker::new(),
        draining: tasks.soft().clone(),
        cut: CancellationToken::new(),
        stop: tasks.hard().clone(),
        me: me.clone(),
    });
    for served in house.names.values() {
        let outbox = served.outbox.clone();
        let house2 = house.clone();
        let (house3, home) = (house.clone(), served.home.clone());
        tasks.spawn("sweep", async move {
            sweep::run(house3, home).await;
            Ok(())
        });
        tasks.spawn("outbox", async move {
            outbox.run(house2).await;
            Ok(())
        });
    }
    let accepting = house.clone();
    tasks.spawn("sessions", async move {
        session::accept(accepting.clone()).await;
        accepting.stop.cancelled().await;
        accepting.tracker.close();
        accepting.tracker.wait().await;
        Ok(())
    });
    let draining = house.clone();
    tasks.spawn("drain", async move {
        tokio::select! {
            () = draining.draining.cancelled() => session::send_away(&draining, RECONNECT_AFTER).await,
            () = draining.stop.cancelled() => {}
        }
        Ok(())
    });
    Ok(Homeserver { house })
}

impl Homeserver {
    /// Returns when no call is alive. Those that are after `drain` are hung up, which takes [`CUT_TIME`] at most.
    /// `[CALL-END-04]`
    pub async fn idle(&self, drain: Duration) {
        if timeout(drain, self.calls_end()).await.is_err() {
            let calls = self.house.calls.count();
            tracing::warn!(calls, "the drain deadline has passed: live calls are hung up");
            self.house.cut.cancel();
            // Whoever is not reached by then finds the connection closed.
            let _ = timeout(CUT_TIME, self.calls_end()).await;
        }
    }

    async fn calls_end(&self) {
        while !self.house.calls.is_idle() {
            sleep(LOOK).await;
        }
    }

    /// Tells peers that the connections end, and closes the port.
    pub async fn close(self) {
        self.house.endpoint.close().await;
    }
}

fn names(parts: &Parts) -> anyhow::Result<BTreeMap<Name, Served>> {
    let mut names = BTreeMap::new();
    for folder in parts.cards.names() {
        let name = folder.name.clone();
        let desk = Arc::new(Desk {
            key: folder.message_key.clone(),
            lines: lines(&parts.config, &name)?,
            policy: parts.config.policy.clone(),
            first_contact: first_contact(parts.config.first_contact),
            limits: limits(&parts.config.limits),
            metrics: parts.metrics.clone(),
            clock: parts.clock.clone(),
            entropy: parts.entropy.clone(),
            name: name.clone(),
        });
        names.insert(name, serve(parts, desk));
    }
    Ok(names)
}

fn serve(parts: &Parts, desk: Arc<Desk>) -> Served {
    let wakes = Arc::new(Wakes::default());
    let told = wakes.clone();
    let wake = Box::new(move |woken| told.tell(woken));
    let (ledger, run) = Ledger::new(desk.clone(), parts.store.clone(), wake, parts.tasks.hard().clone());
    parts.tasks.spawn("ledger", async move {
        run.await;
        Ok(())
    });
    let partition = layout::partition(&desk.name);
    let home = Arc::new(Home { desk, store: parts.store.clone(), partition, ledger, wakes });
    Served { outbox: Outbox::new(home.clone()), home }
}

fn lines(config: &Config, name: &Name) -> anyhow::Result<BTreeMap<Option<Local>, Line>> {
    let mut lines = BTreeMap::new();
    for section in config.lines_of(name) {
        let local = match section.local.as_str() {
            "" => None,
            text => Some(Local::parse(text).with_context(|| format!("the line `{text}` of {name}"))?),
        };
        let targets = section.targets.iter().map(|text| Target::parse(text, name));
        let targets = targets.collect::<Result<Vec<_>, _>>()?;
        lines.insert(local.clone(), Line { local, label: section.label.clone(), targets });
    }
    Ok(lines)
}

fn first_contact(configured: config::FirstContact) -> FirstContact {
    match configured {
        config::FirstContact::Anyone => FirstContact::Anyone,
        config::FirstContact::Known => FirstContact::Known,
        config::FirstContact::Nobody => FirstContact::Nobody,
    }
}

/// A burst is what comes in ten seconds.
fn limits(section: &LimitSection) -> Limits {
    let rate = |per_second: f64| Rate::new(per_second, (per_second * 10.0).max(1.0));
    Limits {
        device_messages: rate(section.device_messages),
        service_messages: rate(section.service_messages),
        device_calls: rate(section.device_calls),
        service_calls: rate(section.service_calls),
        requests: rate(section.requests),
        peer_items: rate(section.peer_items),
        peer_calls: rate(section.peer_calls),
        queue_items: section.queue_items,
        calls: section.calls,
    }
}
