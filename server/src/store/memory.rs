//! An engine in memory, for tests only: it shows that the contract does not ask for what fjall happens to do.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use bytes::Bytes;

use super::engine::FlatRange;
use super::{Engine, EngineError, EngineView, Local, Order, Row, Store, contract};

type Map = BTreeMap<Vec<u8>, Bytes>;

#[derive(Clone, Default)]
struct Memory(Arc<RwLock<Arc<Map>>>);

struct View(Arc<Map>);

impl Engine for Memory {
    type View = View;

    fn view(&self) -> View {
        View(self.0.read().unwrap_or_else(PoisonError::into_inner).clone())
    }

    fn latest(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.view().get(key)
    }

    fn write(&self, changes: Vec<(Vec<u8>, Option<Bytes>)>) -> Result<(), EngineError> {
        let mut map = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let map = Arc::make_mut(&mut map);
        for (key, value) in changes {
            match value {
                Some(value) => map.insert(key, value),
                None => map.remove(&key),
            };
        }
        Ok(())
    }
}

impl EngineView for View {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(self.0.get(key).cloned())
    }

    fn scan(&self, range: FlatRange, limit: usize, order: Order) -> Result<Vec<Row>, EngineError> {
        let found = self.0.range(range).map(|(key, value)| (key.clone().into(), value.clone()));
        Ok(match order {
            Order::Ascending => found.take(limit).collect(),
            Order::Descending => found.rev().take(limit).collect(),
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_engine_in_memory_keeps_the_contract() {
    let disks: Mutex<HashMap<_, Memory>> = Mutex::default();
    let open = |dir: &Path| -> Arc<dyn Store> {
        let mut disks = disks.lock().expect("no test thread panics with the lock");
        Arc::new(Local::new(disks.entry(dir.to_owned()).or_default().clone()).expect("a thread starts"))
    };
    let root = tempfile::tempdir().expect("a folder");
    contract::run(root.path(), &open).await;
}
