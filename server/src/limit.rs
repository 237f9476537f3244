//! Decides how much one device, service or peer may ask for in a time: token buckets, and the bounds of the queues.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ahoy_proto::fault::Fault;
use ahoy_proto::time::Timestamp;
use ahoy_proto::v1::ErrorCode;

/// How fast something may happen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Per second, in the long run.
    pub per_second: f64,
    /// At once, after a quiet time.
    pub burst: f64,
}

impl Rate {
    /// A rate and a burst.
    pub const fn new(per_second: f64, burst: f64) -> Self {
        Self { per_second, burst }
    }
}

/// What others may ask of this homeserver.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Messages of one device.
    pub device_messages: Rate,
    /// Messages of one service.
    pub service_messages: Rate,
    /// Calls of one device.
    pub device_calls: Rate,
    /// Calls of one service.
    pub service_calls: Rate,
    /// Other requests of one device, service or peer.
    pub requests: Rate,
    /// Items from one peer name; more are read later, not refused.
    pub peer_items: Rate,
    /// Calls from one peer name.
    pub peer_calls: Rate,
    /// Items that may wait for one destination name.
    pub queue_items: u64,
    /// Calls that one name may have at once.
    pub calls: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            device_messages: Rate::new(200.0, 2_000.0),
            service_messages: Rate::new(5_000.0, 20_000.0),
            device_calls: Rate::new(1.0, 20.0),
            service_calls: Rate::new(50.0, 200.0),
            requests: Rate::new(50.0, 200.0),
            peer_items: Rate::new(50_000.0, 100_000.0),
            peer_calls: Rate::new(50.0, 200.0),
            queue_items: 1_000_000,
            calls: 4_096,
        }
    }
}

/// Keys that are remembered before full buckets are forgotten, and the most that are remembered at all.
const REMEMBERED: usize = 16 * 1024;
/// How long a key waits for which there is no room.
const NO_ROOM: Duration = Duration::from_secs(1);

/// One bucket of tokens per key. A key that was not seen has a full bucket.
pub struct Buckets<K> {
    rate: Rate,
    levels: Mutex<Levels<K>>,
}

struct Levels<K> {
    by_key: HashMap<K, Level>,
    /// When full buckets were last forgotten: looking through all of them for every request would be an attack.
    swept: Timestamp,
}

#[derive(Clone, Copy)]
struct Level {
    tokens: f64,
    at: Timestamp,
}

impl<K: Hash + Eq> Buckets<K> {
    /// Buckets that fill at `rate`.
    pub fn new(rate: Rate) -> Self {
        let levels = Levels { by_key: HashMap::new(), swept: Timestamp::from_millis(0) };
        Self { rate, levels: Mutex::new(levels) }
    }

    /// Takes `tokens` from the bucket of `key`, or says how long until there are enough.
    pub fn take(&self, key: K, tokens: u32, now: Timestamp) -> Result<(), Duration> {
        let mut levels = self.levels.lock().unwrap_or_else(PoisonError::into_inner);
        if levels.by_key.len() >= REMEMBERED && !levels.by_key.contains_key(&key) {
            if now.since(levels.swept) < NO_ROOM {
                return Err(NO_ROOM);
            }
            levels.swept = now;
            levels.by_key.retain(|_, level| level.filled(self.rate, now) < self.rate.burst);
            if levels.by_key.len() >= REMEMBERED {
                return Err(NO_ROOM);
            }
        }
        let level = levels.by_key.entry(key).or_insert(Level { tokens: self.rate.burst, at: now });
        let wanted = f64::from(tokens).min(self.rate.burst);
        level.tokens = level.filled(self.rate, now);
        level.at = level.at.max(now);
        if level.tokens >= wanted {
            level.tokens -= wanted;
            return Ok(());
        }
        Err(Duration::from_secs_f64(((wanted - level.tokens) / self.rate.per_second).clamp(0.001, 3_600.0)))
    }

    /// [`Buckets::take`] of one token, as a fault that says what was too much.
    pub fn admit(&self, key: K, what: &str, now: Timestamp) -> Result<(), Fault> {
        self.take(key, 1, now).map_err(|wait| {
            Fault::new(ErrorCode::RateLimited, format!("too many {what}; slow down")).with_retry_after(wait)
        })
    }
}

impl Level {
    fn filled(&self, rate: Rate, now: Timestamp) -> f64 {
        (self.tokens + now.since(self.at).as_secs_f64() * rate.per_second).min(rate.burst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::from_secs(1_000);

    #[test]
    fn a_burst_passes_and_the_next_one_waits_its_time() {
        let buckets = Buckets::new(Rate::new(2.0, 3.0));
        for _ in 0..3 {
            assert_eq!(buckets.take("a", 1, START), Ok(()));
        }
        assert_eq!(buckets.take("a", 1, START), Err(Duration::from_millis(500)));
        assert_eq!(buckets.take("b", 1, START), Ok(()), "another key has its own bucket");
        assert_eq!(buckets.take("a", 1, START + Duration::from_millis(500)), Ok(()));
    }

    #[test]
    fn a_clock_that_goes_back_gives_no_tokens() {
        let buckets = Buckets::new(Rate::new(1.0, 1.0));
        assert_eq!(buckets.take((), 1, START), Ok(()));
        assert!(buckets.take((), 1, START - Duration::from_secs(10)).is_err());
        assert!(buckets.take((), 1, START).is_err());
    }

    #[test]
    fn full_buckets_are_forgotten_when_there_are_too_many() {
        let buckets = Buckets::new(Rate::new(1.0, 1.0));
        for key in 0..REMEMBERED {
            buckets.take(key, 1, START).unwrap();
        }
        buckets.take(REMEMBERED, 1, START + Duration::from_secs(2)).unwrap();
        assert_eq!(buckets.levels.lock().unwrap().by_key.len(), 1);
    }

    #[test]
    fn more_keys_than_are_remembered_wait_and_do_not_grow_the_table() {
        let buckets = Buckets::new(Rate::new(0.001, 1.0));
        for key in 0..REMEMBERED + 100 {
            let taken = buckets.take(key, 1, START);
            assert_eq!(taken.is_ok(), key < REMEMBERED, "{key}: {taken:?}");
        }
        assert_eq!(buckets.levels.lock().unwrap().by_key.len(), REMEMBERED);
    }
}
