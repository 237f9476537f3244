//! What an embedded engine has to offer for [`Local`](super::Local) to make a store of it: a flat, ordered map.

use std::ops::Bound;

use bytes::Bytes;

use super::{Order, Row};

/// The bounds of a scan in flat keys.
pub type FlatRange = (Bound<Vec<u8>>, Bound<Vec<u8>>);

/// A message of the engine about its files: for the log and the operator, never for the wire.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct EngineError(String);

impl EngineError {
    /// Keeps the text of `error`.
    pub fn new(error: impl std::fmt::Display) -> Self {
        Self(error.to_string())
    }
}

/// An unchanging view of the whole map.
pub trait EngineView: Send + Sync {
    /// The value under `key`.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// At most `limit` rows of `range` in `order`. `range` is never inverted.
    fn scan(&self, range: FlatRange, limit: usize, order: Order) -> Result<Vec<Row>, EngineError>;
}

/// An embedded engine. Only one thread, the committer, calls [`latest`](Self::latest) and [`write`](Self::write).
pub trait Engine: Send + Sync + 'static {
    /// Its views.
    type View: EngineView + 'static;

    /// The state after the last `write` that returned.
    fn view(&self) -> Self::View;

    /// The newest value under `key`.
    fn latest(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// Sets (`Some`) or removes (`None`) each key, each at most once, all or none; returns when the disk has it.
    /// Nothing of it may be visible to views before it is durable.
    fn write(&self, changes: Vec<(Vec<u8>, Option<Bytes>)>) -> Result<(), EngineError>;
}
