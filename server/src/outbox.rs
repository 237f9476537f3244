//! Decides when a name's queues are carried: one pump per destination name, started by work, ended when there is none.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ahoy_proto::address::Address;
use ahoy_proto::fault::Fault;
use ahoy_proto::name::Name;
use ahoy_proto::time::Timestamp;
use tokio::sync::Notify;

use crate::home::Home;
use crate::house::House;
use crate::layout;
use crate::store::{KeyRange, Order, StoreError};
use crate::wake::lock;

mod carrier;
mod pump;

/// The pumps of one name.
pub struct Outbox {
    home: Arc<Home>,
    pumps: Mutex<HashMap<Name, Arc<Line>>>,
}

/// What a pump and those who look at it share.
pub struct Line {
    /// The destination.
    pub destination: Name,
    work: Notify,
    heard: Notify,
    strangers: Mutex<BTreeSet<(Address, Address)>>,
    status: Mutex<Status>,
}

/// How a queue fares.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// When something was last acknowledged.
    pub last_success: Option<Timestamp>,
    /// When the next try is due.
    pub next_retry: Option<Timestamp>,
    /// Why the last try failed.
    pub last_error: Option<Fault>,
    /// A pipe is open.
    pub connected: bool,
}

impl Line {
    /// How the queue fares.
    pub fn status(&self) -> Status {
        lock(&self.status).clone()
    }
}

impl Outbox {
    /// The outbox of a name.
    pub fn new(home: Arc<Home>) -> Arc<Self> {
        Arc::new(Self { home, pumps: Mutex::new(HashMap::new()) })
    }

    /// Looks at what the store holds, then at whatever becomes durable, until the homeserver stops.
    pub async fn run(self: Arc<Self>, house: Arc<House>) {
        if let Err(error) = self.resume(&house) {
            tracing::error!(name = %self.home.desk.name, %error, "the queues cannot be read");
        }
        loop {
            let work = tokio::select! {
                work = self.home.wakes.work() => work,
                () = house.stop.cancelled() => return,
            };
            for pair in work.strangers {
                let line = self.line(&house, pair.1.name());
                lock(&line.strangers).insert(pair);
                line.work.notify_one();
            }
            for destination in work.queues {
                self.line(&house, &destination).work.notify_one();
            }
        }
    }

    /// Something was heard from `peer`: what waits for it is tried at once. `[EVENT-DELIVER-03]`
    pub fn heard(&self, peer: &Name) {
        if let Some(line) = lock(&self.pumps).get(peer) {
            line.heard.notify_one();
        }
    }

    /// The queues that were looked at since the start.
    pub fn lines(&self) -> Vec<Arc<Line>> {
        lock(&self.pumps).values().cloned().collect()
    }

    /// How many items wait for `destination`, at most `limit`.
    pub fn waiting(&self, destination: &Name, limit: usize) -> Result<usize, StoreError> {
        let range = KeyRange::prefix(layout::outbox(destination));
        Ok(self.home.store.scan(&self.home.partition, &range, limit, Order::Ascending)?.len())
    }

    /// The name whose outbox this is.
    pub fn source(&self) -> &Name {
        &self.home.desk.name
    }

    /// Forgets a line that has nothing to do, unless somebody is about to give it work. Says whether it did.
    fn retire(&self, line: &Arc<Line>, has_work: impl Fn() -> bool) -> bool {
        let mut pumps = lock(&self.pumps);
        // Held by the map and by its pump: whoever else holds it has something to say to it.
        let is_alone = Arc::strong_count(line) <= 2;
        let retires = is_alone && !has_work();
        if retires {
            pumps.remove(&line.destination);
        }
        retires
    }

    fn line(self: &Arc<Self>, house: &Arc<House>, destination: &Name) -> Arc<Line> {
        let mut pumps = lock(&self.pumps);
        if let Some(line) = pumps.get(destination) {
            return line.clone();
        }
        let line = Arc::new(Line {
            destination: destination.clone(),
            work: Notify::new(),
            heard: Notify::new(),
            strangers: Mutex::new(BTreeSet::new()),
            status: Mutex::new(Status::default()),
        });
        pumps.insert(destination.clone(), line.clone());
        let pump = pump::Pump::new(house.clone(), self.clone(), line.clone());
        let stop = house.stop.clone();
        house.tracker.spawn(async move {
            tokio::select! {
                () = pump.run() => {}
                () = stop.cancelled() => {}
            }
        });
        line
    }

    /// Starts a pump for every destination that has something in the store.
    fn resume(self: &Arc<Self>, house: &Arc<House>) -> Result<(), StoreError> {
        for key in self.first_keys(layout::Kind::Outbox, layout::outbox_of)? {
            if let Some(destination) =
                layout::first_part(&key).and_then(|t| Name::from_wire(t, &self.home.desk.policy).ok())
            {
                self.line(house, &destination).work.notify_one();
            }
        }
        for key in self.first_keys(layout::Kind::Draft, layout::drafts_of)? {
            let policy = &self.home.desk.policy;
            let pair = layout::first_two_parts(&key).and_then(|(a, b)| {
                Some((Address::from_wire(a, policy).ok()?, Address::from_wire(b, policy).ok()?))
            });
            if let Some(pair) = pair {
                let line = self.line(house, pair.1.name());
                lock(&line.strangers).insert(pair);
                line.work.notify_one();
            }
        }
        Ok(())
    }

    /// The first key of each group of keys of one kind; `group` gives a key's prefix within its group.
    fn first_keys(
        &self,
        kind: layout::Kind,
        group: impl Fn(&[u8]) -> Option<bytes::Bytes>,
    ) -> Result<Vec<bytes::Bytes>, StoreError> {
        let all = KeyRange::prefix([kind as u8]);
        let mut range = all.clone();
        let mut keys = Vec::new();
        loop {
            let rows = self.home.store.scan(&self.home.partition, &range, 1, Order::Ascending)?;
            let Some((key, _)) = rows.into_iter().next() else { return Ok(keys) };
            let Some(prefix) = group(&key) else { return Ok(keys) };
            keys.push(key);
            let std::ops::Bound::Excluded(end) = KeyRange::prefix(prefix).end else { return Ok(keys) };
            range.start = std::ops::Bound::Included(end);
        }
    }
}

/// How long a pipe without anything to carry is kept.
const IDLE: Duration = Duration::from_secs(60);
/// How long a line without work is remembered: whoever writes to ever other names must not make us keep them all.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(15 * 60);
