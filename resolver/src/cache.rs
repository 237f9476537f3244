//! Remembers outcomes, good and bad, so that a warm resolution is one read lock and one look-up.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use ahoy_proto::name::Name;
use ahoy_proto::time::Timestamp;

use crate::error::ResolveError;
use crate::resolution::Resolution;

const SHARDS: usize = 16;

/// One remembered outcome.
pub(crate) struct Entry {
    pub(crate) outcome: Result<Arc<Resolution>, ResolveError>,
    /// From here on, whoever asks also starts a renewal.
    pub(crate) refresh_at: Timestamp,
    /// To here it is answered; a good one is then being renewed behind the answer.
    pub(crate) until: Timestamp,
    /// Failures in a row, for doubling.
    pub(crate) streak: u32,
    /// The last good resolution, for its card and addresses, even under a failure.
    pub(crate) last_good: Option<Arc<Resolution>>,
    pub(crate) renewing: AtomicBool,
    used: AtomicU64,
}

impl Entry {
    pub(crate) fn new(
        outcome: Result<Arc<Resolution>, ResolveError>,
        refresh_at: Timestamp,
        until: Timestamp,
        streak: u32,
        last_good: Option<Arc<Resolution>>,
    ) -> Self {
        Self {
            outcome,
            refresh_at,
            until,
            streak,
            last_good,
            renewing: AtomicBool::new(false),
            used: AtomicU64::new(0),
        }
    }
}

/// A bounded map of outcomes; the one unused for longest makes room.
pub(crate) struct Cache {
    shards: Vec<RwLock<HashMap<Name, Arc<Entry>>>>,
    hasher: RandomState,
    per_shard: usize,
}

impl Cache {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            hasher: RandomState::new(),
            per_shard: capacity.div_ceil(SHARDS).max(1),
        }
    }

    fn shard(&self, name: &Name) -> &RwLock<HashMap<Name, Arc<Entry>>> {
        let hash = self.hasher.hash_one(name) as usize;
        &self.shards[hash % SHARDS]
    }

    /// The outcome remembered for `name`, whatever its age.
    pub(crate) fn find(&self, name: &Name, now: Timestamp) -> Option<Arc<Entry>> {
        let shard = self.shard(name).read().unwrap_or_else(PoisonError::into_inner);
        let entry = shard.get(name)?;
        // A store per look-up would bounce the line between cores: once a second is enough to rank by.
        let now = now.as_millis();
        if now.saturating_sub(entry.used.load(Ordering::Relaxed)) > 1000 {
            entry.used.store(now, Ordering::Relaxed);
        }
        Some(entry.clone())
    }

    pub(crate) fn insert(&self, name: Name, entry: Entry, now: Timestamp) {
        entry.used.store(now.as_millis(), Ordering::Relaxed);
        let mut shard = self.shard(&name).write().unwrap_or_else(PoisonError::into_inner);
        if shard.len() >= self.per_shard && !shard.contains_key(&name) {
            let oldest = shard.iter().min_by_key(|(_, entry)| entry.used.load(Ordering::Relaxed));
            if let Some(oldest) = oldest.map(|(name, _)| name.clone()) {
                shard.remove(&oldest);
            }
        }
        shard.insert(name, Arc::new(entry));
    }

    pub(crate) fn remove(&self, name: &Name) {
        self.shard(name).write().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().unwrap().len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ahoy_proto::name::NamePolicy;

    fn name(number: usize) -> Name {
        Name::parse(&format!("n{number}.example"), &NamePolicy::allowing(["example"])).unwrap()
    }

    fn entry() -> Entry {
        let refusal = ResolveError::NotOnNetwork { name: String::new(), detail: String::new() };
        Entry::new(Err(refusal), Timestamp::MAX, Timestamp::MAX, 0, None)
    }

    #[test]
    fn a_flood_of_names_stays_within_the_bound_and_a_used_name_stays() {
        let cache = Cache::new(64);
        let start = Timestamp::from_secs(1000);
        cache.insert(name(0), entry(), start);
        for number in 1..2000 {
            let now = start + std::time::Duration::from_secs(2 * number as u64);
            assert!(cache.find(&name(0), now).is_some());
            cache.insert(name(number), entry(), now);
        }
        assert!(cache.len() <= 64);
    }
}
