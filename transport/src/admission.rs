//! How much a source may cost before it has proved anything: pending handshakes and STUN answers,
//! counted by source prefix and in all. [WIRE-AUTH-01]

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

/// A /24 of IPv4 or a /56 of IPv6: what one party commonly controls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Prefix {
    V4([u8; 3]),
    V6([u8; 7]),
}

impl Prefix {
    pub(crate) fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => {
                let [a, b, c, _] = ip.octets();
                Self::V4([a, b, c])
            }
            IpAddr::V6(ip) => {
                let [a, b, c, d, e, f, g, ..] = ip.octets();
                Self::V6([a, b, c, d, e, f, g])
            }
        }
    }
}

/// Counts handshakes that have not reached `Ready`.
#[derive(Debug, Clone)]
pub(crate) struct Admission {
    pending: Arc<Mutex<Pending>>,
    per_prefix: usize,
    in_all: usize,
}

#[derive(Debug, Default)]
struct Pending {
    in_all: usize,
    by_prefix: HashMap<Prefix, usize>,
}

impl Admission {
    pub(crate) fn new(per_prefix: usize, in_all: usize) -> Self {
        Self { pending: Arc::default(), per_prefix, in_all }
    }

    /// A place for one handshake from `ip`, given back on drop; `None` when the budget is spent.
    pub(crate) fn admit(&self, ip: IpAddr) -> Option<Place> {
        let prefix = Prefix::of(ip);
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let held = pending.by_prefix.get(&prefix).copied().unwrap_or(0);
        if held >= self.per_prefix || pending.in_all >= self.in_all {
            return None;
        }
        pending.in_all += 1;
        pending.by_prefix.insert(prefix, held + 1);
        Some(Place { pending: self.pending.clone(), prefix })
    }
}

/// One admitted handshake.
#[derive(Debug)]
pub(crate) struct Place {
    pending: Arc<Mutex<Pending>>,
    prefix: Prefix,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        pending.in_all -= 1;
        if let Some(held) = pending.by_prefix.get_mut(&self.prefix) {
            *held -= 1;
            if *held == 0 {
                pending.by_prefix.remove(&self.prefix);
            }
        }
    }
}

/// Token buckets for STUN answers: one per hashed prefix in a table of fixed size, and one for all.
#[derive(Debug)]
pub(crate) struct ReplyBudget {
    slots: Box<[Bucket]>,
    all: Bucket,
    // Keyed at random, so that nobody can aim at another prefix's slot.
    hasher: RandomState,
    per_prefix: f64,
    in_all: f64,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    filled: Instant,
}

const SLOTS: usize = 1024;

impl ReplyBudget {
    /// Rates are answers per second; one second's worth may come at once.
    pub(crate) fn new(per_prefix: u32, in_all: u32) -> Self {
        let (per_prefix, in_all) = (f64::from(per_prefix), f64::from(in_all));
        let filled = Instant::now();
        let slots = vec![Bucket { tokens: per_prefix, filled }; SLOTS].into_boxed_slice();
        Self { slots, all: Bucket { tokens: in_all, filled }, hasher: RandomState::new(), per_prefix, in_all }
    }

    pub(crate) fn allow(&mut self, ip: IpAddr, now: Instant) -> bool {
        let slot = self.hasher.hash_one(Prefix::of(ip)) as usize % SLOTS;
        self.slots[slot].take(self.per_prefix, now) && self.all.take(self.in_all, now)
    }
}

impl Bucket {
    fn take(&mut self, rate: f64, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + elapsed * rate).min(rate);
        self.filled = now;
        let allowed = self.tokens >= 1.0;
        if allowed {
            self.tokens -= 1.0;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_prefix_cannot_take_the_places_of_another() {
        let admission = Admission::new(2, 3);
        let first = admission.admit(ip("192.0.2.1")).expect("a place");
        let _second = admission.admit(ip("192.0.2.200")).expect("a place");
        assert!(admission.admit(ip("192.0.2.3")).is_none());
        let _other = admission.admit(ip("198.51.100.1")).expect("a place for another prefix");
        assert!(admission.admit(ip("203.0.113.1")).is_none(), "three in all");
        drop(first);
        assert!(admission.admit(ip("192.0.2.3")).is_some());
    }

    #[test]
    fn prefixes_are_24_and_56_bits_and_mapped_addresses_count_as_ipv4() {
        assert_eq!(Prefix::of(ip("2001:db8:0:ff00::1")), Prefix::of(ip("2001:db8:0:ffff::2")));
        assert_ne!(Prefix::of(ip("2001:db8:0:fe00::1")), Prefix::of(ip("2001:db8:0:ff00::1")));
        assert_eq!(Prefix::of(ip("::ffff:192.0.2.9")), Prefix::of(ip("192.0.2.1")));
    }

    #[test]
    fn released_places_leave_no_entry_behind() {
        let admission = Admission::new(2, 8);
        drop(admission.admit(ip("192.0.2.1")));
        assert!(admission.pending.lock().unwrap().by_prefix.is_empty());
    }

    #[test]
    fn stun_answers_are_bounded_per_prefix_and_refill_with_time() {
        let mut budget = ReplyBudget::new(2, 100);
        let start = Instant::now();
        let allowed = (0..10).filter(|_| budget.allow(ip("192.0.2.1"), start)).count();
        assert_eq!(allowed, 2);
        assert!(budget.allow(ip("192.0.2.1"), start + Duration::from_secs(1)));
    }
}
