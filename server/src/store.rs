//! What the homeserver asks of its store: partitions of ordered keys, and commits that are durable when they return.
//!
//! The trait is small enough to map onto any ordered key-value engine. A commit touches one partition; what spans
//! several is a stored cursor and idempotent commits keyed by the source position. Everything an engine must keep is
//! in [`contract`].

use std::future::Future;
use std::ops::Bound;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;

mod committer;
pub mod contract;
mod embedded;
mod engine;
mod local;
#[cfg(test)]
mod memory;
mod partition;
mod watch;

pub use committer::Stats;
pub use engine::{Engine, EngineError, EngineView};
pub use local::Local;
pub use partition::Partition;
pub use watch::Watch;

/// Largest key, in bytes, within its partition.
pub const MAX_KEY_BYTES: usize = 4 * 1024;
/// Largest batch: keys, values and expected values together, in bytes.
pub const MAX_BATCH_BYTES: usize = 4 * 1024 * 1024;

/// A key of a partition and its value.
pub type Row = (Bytes, Bytes);

/// A boxed future of the store's own, so that the trait stays usable as `Arc<dyn Store>`.
pub type Pending<T> = Pin<Box<dyn Future<Output = Result<T, CommitError>> + Send + 'static>>;

/// Reads: of the store as it stands, or of one of its snapshots.
///
/// Calls return within microseconds when the block is cached and read the disk when it is not; they may be made from
/// asynchronous code.
pub trait Read: Send + Sync {
    /// The value under `key`, or `None`.
    fn get(&self, partition: &Partition, key: &[u8]) -> Result<Option<Bytes>, StoreError>;

    /// At most `limit` rows of `range`, in `order`. One call sees one moment of the store.
    fn scan(
        &self,
        partition: &Partition,
        range: &KeyRange,
        limit: usize,
        order: Order,
    ) -> Result<Vec<Row>, StoreError>;

    /// At most `limit` partitions of `class` that hold at least one row, ordered by id, beginning after the id
    /// `after`: for work that continues after a restart.
    fn partitions(
        &self,
        class: &str,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Partition>, StoreError>;
}

/// The store of one homeserver.
pub trait Store: Read {
    /// An unchanging view of the store as it stands. Old versions are kept on disk for as long as it lives.
    fn snapshot(&self) -> Box<dyn Read>;

    /// Commits `batch`: `Ok` once it is durable and visible, all of it or nothing of it.
    ///
    /// The batch is handed over at the call, or, when the queue is full, as soon as the future is polled and there is
    /// room; dropping the future afterwards does not take it back. Batches that one task hands over one after the
    /// other are committed in that order.
    fn commit(&self, batch: Batch) -> Pending<()>;

    /// Removes every row of `range` and returns how many there were. Done in pieces, each of them atomic; what is
    /// written to the range meanwhile may stay. Repeat it after `Unknown`.
    fn delete_range(&self, partition: &Partition, range: KeyRange) -> Pending<u64>;

    /// Tells that something was committed to `partition`. Lossy: several commits may be told as one, and a reader
    /// that also polls is always right.
    fn watch(&self, partition: &Partition) -> Watch;

    /// Figures since the store was opened.
    fn stats(&self) -> Stats;
}

/// Opens, or creates, the embedded engine (fjall) in the folder `dir`.
///
/// `cache_bytes` is the size of its block cache. Fails when another process holds the folder.
pub fn open(dir: &Path, cache_bytes: u64) -> Result<Arc<dyn Store>, StoreError> {
    Ok(Arc::new(Local::new(embedded::Embedded::open(dir, cache_bytes)?)?))
}

/// Which way a scan runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// From the lowest key.
    Ascending,
    /// From the highest key.
    Descending,
}

/// A range of keys within a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    /// Where it begins.
    pub start: Bound<Vec<u8>>,
    /// Where it ends.
    pub end: Bound<Vec<u8>>,
}

impl KeyRange {
    /// Every key.
    pub fn all() -> Self {
        Self { start: Bound::Unbounded, end: Bound::Unbounded }
    }

    /// Every key that begins with `prefix`.
    pub fn prefix(prefix: impl Into<Vec<u8>>) -> Self {
        let start = prefix.into();
        let end = partition::successor(&start).map_or(Bound::Unbounded, Bound::Excluded);
        Self { start: Bound::Included(start), end }
    }

    /// `key` and every key above it.
    pub fn from(key: impl Into<Vec<u8>>) -> Self {
        Self { start: Bound::Included(key.into()), end: Bound::Unbounded }
    }

    /// Every key above `key`.
    pub fn after(key: impl Into<Vec<u8>>) -> Self {
        Self { start: Bound::Excluded(key.into()), end: Bound::Unbounded }
    }

    /// Every key from `start`, inclusive, to `end`, exclusive.
    pub fn between(start: impl Into<Vec<u8>>, end: impl Into<Vec<u8>>) -> Self {
        Self { start: Bound::Included(start.into()), end: Bound::Excluded(end.into()) }
    }

    /// The same range, ending below `end`.
    #[must_use]
    pub fn below(self, end: impl Into<Vec<u8>>) -> Self {
        Self { end: Bound::Excluded(end.into()), ..self }
    }
}

/// What must hold for a batch to be committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Precondition {
    /// No value under the key.
    Absent(Bytes),
    /// Some value under the key.
    Present(Bytes),
    /// Exactly this value under the key.
    Equals(Bytes, Bytes),
}

impl Precondition {
    /// The key that it speaks of.
    pub fn key(&self) -> &Bytes {
        match self {
            Self::Absent(key) | Self::Present(key) | Self::Equals(key, _) => key,
        }
    }

    fn holds(&self, value: Option<&Bytes>) -> bool {
        match self {
            Self::Absent(_) => value.is_none(),
            Self::Present(_) => value.is_some(),
            Self::Equals(_, expected) => value == Some(expected),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Absent(key) | Self::Present(key) => key.len(),
            Self::Equals(key, value) => key.len() + value.len(),
        }
    }
}

/// A change of one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Sets the value under the key.
    Put(Bytes, Bytes),
    /// Removes the key, whether it is there or not.
    Delete(Bytes),
}

impl Change {
    /// The key that it changes.
    pub fn key(&self) -> &Bytes {
        match self {
            Self::Put(key, _) | Self::Delete(key) => key,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Put(key, value) => key.len() + value.len(),
            Self::Delete(key) => key.len(),
        }
    }
}

/// Changes of one partition that become durable together, and what must hold for them to.
///
/// Preconditions see the store as it stands before the batch; of two changes of one key the later counts.
#[derive(Clone, Debug)]
pub struct Batch {
    partition: Partition,
    preconditions: Vec<Precondition>,
    changes: Vec<Change>,
}

impl Batch {
    /// An empty batch for `partition`.
    pub fn new(partition: &Partition) -> Self {
        Self { partition: partition.clone(), preconditions: Vec::new(), changes: Vec::new() }
    }

    /// Sets `key` to `value`.
    #[must_use]
    pub fn put(mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        self.changes.push(Change::Put(key.into(), value.into()));
        self
    }

    /// Removes `key`.
    #[must_use]
    pub fn delete(mut self, key: impl Into<Bytes>) -> Self {
        self.changes.push(Change::Delete(key.into()));
        self
    }

    /// Requires that `key` has no value.
    #[must_use]
    pub fn require_absent(self, key: impl Into<Bytes>) -> Self {
        self.require(Precondition::Absent(key.into()))
    }

    /// Requires that `key` has a value.
    #[must_use]
    pub fn require_present(self, key: impl Into<Bytes>) -> Self {
        self.require(Precondition::Present(key.into()))
    }

    /// Requires that the value of `key` is `value`.
    #[must_use]
    pub fn require_equals(self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        self.require(Precondition::Equals(key.into(), value.into()))
    }

    /// Requires that the value of `key` is what a read returned, absence included.
    #[must_use]
    pub fn require_unchanged(self, key: impl Into<Bytes>, read: Option<Bytes>) -> Self {
        match read {
            Some(value) => self.require_equals(key, value),
            None => self.require_absent(key),
        }
    }

    /// Adds a precondition.
    #[must_use]
    pub fn require(mut self, precondition: Precondition) -> Self {
        self.preconditions.push(precondition);
        self
    }

    /// The partition that it touches.
    pub fn partition(&self) -> &Partition {
        &self.partition
    }

    /// How many changes it holds.
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Its size in bytes, as counted against [`MAX_BATCH_BYTES`].
    pub fn bytes(&self) -> usize {
        self.preconditions.iter().map(Precondition::bytes).sum::<usize>()
            + self.changes.iter().map(Change::bytes).sum::<usize>()
    }

    fn check_size(&self) -> Result<(), CommitError> {
        let keys =
            self.preconditions.iter().map(Precondition::key).chain(self.changes.iter().map(Change::key));
        let longest = keys.map(|key| key.len()).max().unwrap_or(0);
        if longest > MAX_KEY_BYTES || self.bytes() > MAX_BATCH_BYTES {
            return Err(CommitError::TooLarge { bytes: self.bytes(), longest_key: longest });
        }
        Ok(())
    }
}

/// Why a commit did not return `Ok`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// A precondition does not hold; nothing was changed.
    #[error("a precondition on the key {} does not hold", key.escape_ascii())]
    Conflict {
        /// The key of the first precondition that failed.
        key: Bytes,
    },
    /// The batch may or may not have been committed. Read a key that only this batch writes to find out.
    #[error("the outcome of the commit is not known")]
    Unknown,
    /// The batch is over a limit; nothing was changed.
    #[error("a batch of {bytes} bytes with a key of {longest_key} bytes is over the limit")]
    TooLarge {
        /// Size of the batch.
        bytes: usize,
        /// Size of its longest key.
        longest_key: usize,
    },
    /// The store is closing; nothing was changed.
    #[error("the store is closed")]
    Closed,
    /// A read that the operation rests on failed; nothing more was changed.
    #[error(transparent)]
    Read(#[from] StoreError),
}

/// A read, or opening the store, failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Another process uses the folder.
    #[error("the store in {0} is in use by another process: stop it, or choose another data_dir")]
    InUse(String),
    /// The engine could not read its files.
    #[error("the store cannot be read: {0}")]
    Engine(EngineError),
}

impl From<EngineError> for StoreError {
    fn from(error: EngineError) -> Self {
        Self::Engine(error)
    }
}
