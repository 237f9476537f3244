//! Decides when to try a peer again: 1 s with jitter, doubling to 5 min, from the start once anything is heard.

use std::time::Duration;

use crate::limit;
use crate::time::{Entropy, Timestamp, random};

/// The retry state of one peer. `[EVENT-DELIVER-03]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    failures: u32,
    next: Option<Timestamp>,
}

impl Backoff {
    /// Nothing has failed yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A try failed; the peer may have said when to come back. Returns the moment of the next try.
    ///
    /// `retry_after` is honoured up to a day: never earlier than it says. `[EVENT-DELIVER-04]`
    pub fn failed(
        &mut self,
        now: Timestamp,
        retry_after: Option<Duration>,
        entropy: &dyn Entropy,
    ) -> Timestamp {
        let doubled = limit::RETRY_FIRST * 2u32.saturating_pow(self.failures.min(16));
        let own = doubled.min(limit::RETRY_LONGEST);
        self.failures = self.failures.saturating_add(1);
        let wait = match retry_after {
            // Many that were told the same moment do not come back in the same moment.
            Some(asked) => own.max(asked.min(limit::RETRY_AFTER_LONGEST) + share(own / 4, entropy)),
            None => own * 3 / 4 + share(own / 4, entropy),
        };
        let next = now + wait;
        self.next = Some(next);
        next
    }

    /// The peer was heard, whatever it said: the next failure starts over, and a pending wait ends.
    pub fn heard(&mut self) {
        *self = Self::default();
    }

    /// When to try next; `None` = at once.
    pub fn next_try(&self) -> Option<Timestamp> {
        self.next
    }

    /// Whether a try is due.
    pub fn is_due(&self, now: Timestamp) -> bool {
        self.next.is_none_or(|next| now >= next)
    }

    /// Failures since the peer was last heard.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

/// A random part of `most`.
fn share(most: Duration, entropy: &dyn Entropy) -> Duration {
    most * u32::from(random::<1>(entropy)[0]) / 255
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Constant, NOW};

    fn waits(entropy: u8) -> Vec<u64> {
        let mut backoff = Backoff::new();
        (0..12).map(|_| backoff.failed(NOW, None, &Constant(entropy)).since(NOW).as_millis() as u64).collect()
    }

    #[test]
    fn doubles_from_one_second_to_five_minutes_with_a_quarter_of_jitter() {
        assert_eq!(waits(255)[..4], [1000, 2000, 4000, 8000]);
        assert_eq!(waits(0)[..4], [750, 1500, 3000, 6000]);
        assert_eq!(waits(255)[9..], [300_000; 3]);
    }

    #[test]
    fn anything_heard_starts_over() {
        let mut backoff = Backoff::new();
        for _ in 0..40 {
            backoff.failed(NOW, None, &Constant(0));
        }
        assert!(!backoff.is_due(NOW));
        backoff.heard();
        assert!(backoff.is_due(NOW) && backoff.failures() == 0);
        assert_eq!(backoff.failed(NOW, None, &Constant(255)), NOW + Duration::from_secs(1));
    }

    #[test]
    fn comes_back_no_earlier_than_asked_and_within_a_day() {
        let asked =
            |s: u64| Backoff::new().failed(NOW, Some(Duration::from_secs(s)), &Constant(128)).since(NOW);
        assert!(asked(60) >= Duration::from_secs(60) && asked(60) <= Duration::from_secs(61));
        assert!(asked(u64::MAX / 1000) <= Duration::from_secs(86_401));
        assert!(asked(0) >= Duration::from_millis(500));
    }
}
