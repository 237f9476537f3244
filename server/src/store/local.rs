//! Makes a [`Store`] of an embedded [`Engine`]: partitions by prefix, commits through the committer.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use super::committer::{Committer, Stats};
use super::engine::FlatRange;
use super::partition::successor;
use super::watch::{Watch, Watches};
use super::{
    Batch, Engine, EngineError, EngineView, KeyRange, Order, Partition, Pending, Read, Row, Store, StoreError,
};

/// Rows that one piece of a `delete_range` removes.
const DELETE_PIECE: usize = 1000;

/// A store in this process, over one engine.
pub struct Local<E: Engine> {
    // The committer comes first: dropped first, it ends its thread before the engine closes.
    committer: Arc<Committer>,
    engine: Arc<E>,
    watches: Arc<Watches>,
}

impl<E: Engine> Local<E> {
    /// Takes over `engine` and starts the committer thread, which ends when the store is dropped.
    pub fn new(engine: E) -> Result<Self, StoreError> {
        let engine = Arc::new(engine);
        let watches = Arc::new(Watches::default());
        let committer = Arc::new(Committer::start(engine.clone(), watches.clone())?);
        Ok(Self { committer, engine, watches })
    }
}

impl<E: Engine> Store for Local<E> {
    fn snapshot(&self) -> Box<dyn Read> {
        Box::new(Snapshot(self.engine.view()))
    }

    fn commit(&self, batch: Batch) -> Pending<()> {
        self.committer.commit(batch)
    }

    fn delete_range(&self, partition: &Partition, range: KeyRange) -> Pending<u64> {
        let (committer, engine, partition) = (self.committer.clone(), self.engine.clone(), partition.clone());
        Box::pin(async move {
            let mut removed = 0;
            loop {
                let view = Snapshot(engine.view());
                let rows = view.scan(&partition, &range, DELETE_PIECE, Order::Ascending)?;
                drop(view);
                let batch =
                    rows.iter().fold(Batch::new(&partition), |batch, (key, _)| batch.delete(key.clone()));
                committer.commit(batch).await?;
                removed += rows.len() as u64;
                if rows.len() < DELETE_PIECE {
                    return Ok(removed);
                }
            }
        })
    }

    fn watch(&self, partition: &Partition) -> Watch {
        self.watches.watch(partition)
    }

    fn stats(&self) -> Stats {
        self.committer.stats()
    }
}

// One view per call: a group is applied to the engine key by key, and only its views see it as one.
impl<E: Engine> Read for Local<E> {
    fn get(&self, partition: &Partition, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Snapshot(self.engine.view()).get(partition, key)
    }

    fn scan(
        &self,
        partition: &Partition,
        range: &KeyRange,
        limit: usize,
        order: Order,
    ) -> Result<Vec<Row>, StoreError> {
        Snapshot(self.engine.view()).scan(partition, range, limit, order)
    }

    fn partitions(
        &self,
        class: &str,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Partition>, StoreError> {
        Snapshot(self.engine.view()).partitions(class, after, limit)
    }
}

struct Snapshot<V>(V);

impl<V: EngineView> Read for Snapshot<V> {
    fn get(&self, partition: &Partition, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        if key.len() > super::MAX_KEY_BYTES {
            return Ok(None);
        }
        Ok(self.0.get(&partition.flat(key))?)
    }

    fn scan(
        &self,
        partition: &Partition,
        range: &KeyRange,
        limit: usize,
        order: Order,
    ) -> Result<Vec<Row>, StoreError> {
        let flat = flat_range(partition, range);
        if is_void(&flat) {
            return Ok(Vec::new());
        }
        let prefix = partition.prefix().len();
        let rows = self.0.scan(flat, limit, order)?;
        Ok(rows.into_iter().map(|(key, value)| (key.slice(prefix..), value)).collect())
    }

    fn partitions(
        &self,
        class: &str,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Partition>, StoreError> {
        let class_prefix = Partition::class_prefix(class);
        let end = successor(&class_prefix).expect("a class prefix ends in 01");
        let mut start = match after {
            Some(id) => end_of(&Partition::new(class, id)),
            None => class_prefix,
        };
        let mut found = Vec::new();
        while found.len() < limit {
            let range = (Bound::Included(start), Bound::Excluded(end.clone()));
            let Some((key, _)) = self.0.scan(range, 1, Order::Ascending)?.pop() else { break };
            let partition = Partition::of_flat(&key)
                .ok_or_else(|| EngineError::new(format_args!("a foreign key: {}", key.escape_ascii())))?;
            start = end_of(&partition);
            found.push(partition);
        }
        Ok(found)
    }
}

/// The lowest flat key above every row of `partition`.
fn end_of(partition: &Partition) -> Vec<u8> {
    successor(partition.prefix()).expect("a partition's prefix ends in 01")
}

fn flat_range(partition: &Partition, range: &KeyRange) -> FlatRange {
    let start = match &range.start {
        Bound::Included(key) => Bound::Included(partition.flat(key)),
        Bound::Excluded(key) => Bound::Excluded(partition.flat(key)),
        Bound::Unbounded => Bound::Included(partition.prefix().to_vec()),
    };
    let end = match &range.end {
        Bound::Included(key) => Bound::Included(partition.flat(key)),
        Bound::Excluded(key) => Bound::Excluded(partition.flat(key)),
        Bound::Unbounded => Bound::Excluded(end_of(partition)),
    };
    (start, end)
}

/// Whether nothing can be in `range`: engines may panic on a range that is inverted or excludes both of equal ends.
fn is_void((start, end): &FlatRange) -> bool {
    match (start, end) {
        (Bound::Included(start), Bound::Included(end)) => start > end,
        (Bound::Included(start) | Bound::Excluded(start), Bound::Included(end) | Bound::Excluded(end)) => {
            start >= end
        }
        _ => false,
    }
}
