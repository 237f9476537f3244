//! The default engine: fjall, with one keyspace and an `fdatasync` before anything of a group is visible.

use std::path::Path;

use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable};

use super::engine::FlatRange;
use super::{Engine, EngineError, EngineView, Order, Row, StoreError};

/// Where rows are; one keyspace, because a keyspace each for ten thousand accounts would be ten thousand trees.
const KEYSPACE: &str = "rows";
/// A memtable is memory that an idle homeserver holds: fjall's own default is 64 MiB.
const MEMTABLE_BYTES: u64 = 32 * 1024 * 1024;

pub(super) struct Embedded {
    database: Database,
    rows: Keyspace,
}

impl Embedded {
    /// Opens, or creates, the database in the folder `dir`.
    pub(super) fn open(dir: &Path, cache_bytes: u64) -> Result<Self, StoreError> {
        let opened = Database::builder(dir).cache_size(cache_bytes).open();
        let database = opened.map_err(|error| match error {
            fjall::Error::Locked => StoreError::InUse(dir.display().to_string()),
            other => StoreError::Engine(EngineError::new(format_args!("{}: {other}", dir.display()))),
        })?;
        let rows = database
            .keyspace(KEYSPACE, || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES))
            .map_err(EngineError::new)?;
        Ok(Self { database, rows })
    }
}

impl Engine for Embedded {
    type View = View;

    fn view(&self) -> View {
        View { snapshot: self.database.snapshot(), rows: self.rows.clone() }
    }

    fn latest(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let value = self.rows.get(key).map_err(EngineError::new)?;
        Ok(value.map(|slice| Bytes::copy_from_slice(&slice)))
    }

    fn write(&self, changes: Vec<(Vec<u8>, Option<Bytes>)>) -> Result<(), EngineError> {
        // fjall writes the journal, syncs it, and only then applies the batch to the memtable that readers see.
        let mut batch = fjall::OwnedWriteBatch::with_capacity(self.database.clone(), changes.len())
            .durability(Some(PersistMode::SyncData));
        for (key, value) in changes {
            match value {
                Some(value) => batch.insert(&self.rows, key, &value[..]),
                None => batch.remove(&self.rows, key),
            }
        }
        batch.commit().map_err(EngineError::new)
    }
}

pub(super) struct View {
    snapshot: fjall::Snapshot,
    rows: Keyspace,
}

impl EngineView for View {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let value = self.snapshot.get(&self.rows, key).map_err(EngineError::new)?;
        Ok(value.map(|slice| Bytes::copy_from_slice(&slice)))
    }

    fn scan(&self, range: FlatRange, limit: usize, order: Order) -> Result<Vec<Row>, EngineError> {
        let found = self.snapshot.range(&self.rows, range);
        let row = |guard: fjall::Guard| -> Result<Row, EngineError> {
            let (key, value) = guard.into_inner().map_err(EngineError::new)?;
            Ok((Bytes::copy_from_slice(&key), Bytes::copy_from_slice(&value)))
        };
        match order {
            Order::Ascending => found.take(limit).map(row).collect(),
            Order::Descending => found.rev().take(limit).map(row).collect(),
        }
    }
}
