//! Lossy notice that a partition was written to.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::Partition;

type Senders = HashMap<Partition, watch::Sender<()>>;

/// Who watches which partition. Empty while nobody watches.
#[derive(Default)]
pub(super) struct Watches {
    senders: Mutex<Senders>,
}

impl Watches {
    pub(super) fn watch(self: &Arc<Self>, partition: &Partition) -> Watch {
        let mut senders = self.senders.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = senders.entry(partition.clone()).or_insert_with(|| watch::channel(()).0);
        Watch { told: sender.subscribe(), partition: partition.clone(), watches: self.clone() }
    }

    pub(super) fn tell(&self, partition: &Partition) {
        let senders = self.senders.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = senders.get(partition) {
            sender.send_replace(());
        }
    }
}

/// A subscription to the commits of one partition.
pub struct Watch {
    told: watch::Receiver<()>,
    partition: Partition,
    watches: Arc<Watches>,
}

impl Watch {
    /// Returns once something was committed after the watch was made or after `changed` last returned. Never returns
    /// once the store is closed. Cancel-safe.
    ///
    /// Read after making the watch, and again after each return: then no commit is missed.
    pub async fn changed(&mut self) {
        if self.told.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut senders = self.watches.senders.lock().unwrap_or_else(PoisonError::into_inner);
        // This receiver is still counted; new ones are only made under the lock.
        if senders.get(&self.partition).is_some_and(|sender| sender.receiver_count() <= 1) {
            senders.remove(&self.partition);
        }
    }
}
