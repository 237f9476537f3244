//! Decides who is told that something became durable: readers of sync logs, and the outbox. Telling is lossy; what
//! was told is always in the store too.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ahoy_proto::address::Address;
use ahoy_proto::name::Name;
use tokio::sync::{Notify, watch};

use crate::page::Woken;

/// The wakes of one name.
#[derive(Default)]
pub struct Wakes {
    owners: Mutex<HashMap<String, watch::Sender<u64>>>,
    work: Mutex<Work>,
    changed: Notify,
}

/// What the outbox has to look at.
#[derive(Default)]
pub struct Work {
    /// Destinations with something queued.
    pub queues: BTreeSet<Name>,
    /// Pairs of addresses whose contact question is open.
    pub strangers: BTreeSet<(Address, Address)>,
}

impl Wakes {
    /// Tells everybody whom a durable page concerns.
    pub fn tell(&self, woken: Woken) {
        if !woken.owners.is_empty() {
            let owners = lock(&self.owners);
            for (owner, head) in woken.owners {
                if let Some(sender) = owners.get(&owner) {
                    sender.send_replace(head);
                }
            }
        }
        if !woken.queues.is_empty() || !woken.strangers.is_empty() {
            let mut work = lock(&self.work);
            work.queues.extend(woken.queues);
            work.strangers.extend(woken.strangers);
            self.changed.notify_one();
        }
    }

    /// Tells when an owner's sync log grows.
    pub fn watch(&self, owner: &str) -> watch::Receiver<u64> {
        let mut owners = lock(&self.owners);
        owners.retain(|_, sender| sender.receiver_count() > 0);
        owners.entry(owner.to_owned()).or_insert_with(|| watch::channel(0).0).subscribe()
    }

    /// Waits until the outbox has something to look at.
    pub async fn work(&self) -> Work {
        loop {
            let work = std::mem::take(&mut *lock(&self.work));
            if !work.queues.is_empty() || !work.strangers.is_empty() {
                return work;
            }
            self.changed.notified().await;
        }
    }
}

/// A lock that a panic elsewhere does not take away.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
