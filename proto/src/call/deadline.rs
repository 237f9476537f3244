//! Decides how long a call may go unanswered. `[CALL-BRANCH-05]` `[CALL-BRANCH-06]`

use std::time::Duration;

use crate::limit;
use crate::time::Timestamp;

/// The ring time that an Invite leaves: what it says, at most 90 s; 0 = 90 s.
pub fn ring_time(remaining_ms: u32) -> Duration {
    match remaining_ms {
        0 => limit::RING_TIME,
        ms => Duration::from_millis(ms.into()).min(limit::RING_TIME),
    }
}

/// What the next hop's Invite says after `elapsed` on this one; `None` when nothing is left. `[CALL-INVITE-04]`
pub fn lowered(remaining_ms: u32, elapsed: Duration) -> Option<u32> {
    let left = ring_time(remaining_ms).checked_sub(elapsed)?;
    u32::try_from(left.as_millis()).ok().filter(|ms| *ms > 0)
}

/// The moment by which somebody must have answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    at: Timestamp,
    early: Duration,
    is_extended: bool,
}

impl Deadline {
    pub(super) fn new(now: Timestamp, ring: Duration, early: Duration) -> Self {
        Self { at: now + ring, early: early.min(limit::EARLY_LONGEST), is_extended: false }
    }

    pub(super) fn at(&self) -> Timestamp {
        self.at
    }

    /// Early media flows. Once per call, or two branches could extend each other for ever.
    pub(super) fn extend(&mut self, now: Timestamp) {
        if !self.is_extended {
            self.is_extended = true;
            self.at = self.at.max(now + self.early);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_hop_lowers_what_is_left_until_nothing_is() {
        assert_eq!(lowered(90_000, Duration::from_millis(40)), Some(89_960));
        assert_eq!(lowered(0, Duration::from_secs(1)), Some(89_000));
        assert_eq!(lowered(u32::MAX, Duration::ZERO), Some(90_000));
        assert_eq!(lowered(5, Duration::from_millis(5)), None);
        assert_eq!(lowered(5, Duration::from_secs(5)), None);
    }
}
