//! Decides which leg is woken next: one heap for all of them, with entries that may be stale.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

/// Names a leg within its hub.
pub(super) type LegId = u64;

/// When which leg is due. A leg that is due earlier than it was adds an entry; the old one is skipped when
/// its time comes.
#[derive(Default)]
pub(super) struct Timers {
    heap: Mutex<BinaryHeap<Reverse<(Instant, LegId)>>>,
    sooner: Notify,
}

impl Timers {
    pub(super) fn arm(&self, at: Instant, leg: LegId) {
        let mut heap = self.heap.lock().unwrap_or_else(PoisonError::into_inner);
        let sooner = heap.peek().is_none_or(|Reverse((next, _))| at < *next);
        heap.push(Reverse((at, leg)));
        drop(heap);
        if sooner {
            self.sooner.notify_one();
        }
    }

    /// The legs that are due, with the time for which each was armed; waits until there is one.
    pub(super) async fn due(&self) -> Vec<(Instant, LegId)> {
        loop {
            let next = self.next();
            let now = tokio::time::Instant::now().into_std();
            match next {
                Some(at) if at <= now => return self.take(now),
                Some(at) => {
                    // Either way the heap is looked at again.
                    let _ = tokio::time::timeout_at(at.into(), self.sooner.notified()).await;
                }
                None => self.sooner.notified().await,
            }
        }
    }

    fn next(&self) -> Option<Instant> {
        let heap = self.heap.lock().unwrap_or_else(PoisonError::into_inner);
        heap.peek().map(|Reverse((at, _))| *at)
    }

    fn take(&self, now: Instant) -> Vec<(Instant, LegId)> {
        let mut heap = self.heap.lock().unwrap_or_else(PoisonError::into_inner);
        let mut due = Vec::new();
        while let Some(Reverse(entry)) = heap.peek().copied().filter(|Reverse((at, _))| *at <= now) {
            heap.pop();
            due.push(entry);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn the_earliest_is_due_first_even_when_it_was_armed_last() {
        let timers = Timers::default();
        let start = tokio::time::Instant::now().into_std();
        timers.arm(start + Duration::from_millis(40), 1);
        let due = tokio::join!(timers.due(), async {
            timers.arm(start + Duration::from_millis(10), 2);
        });
        assert_eq!(due.0, [(start + Duration::from_millis(10), 2)]);
        assert_eq!(timers.due().await, [(start + Duration::from_millis(40), 1)]);
    }
}
