//! The store's contract, held against each engine.

use std::path::Path;
use std::sync::Arc;

use ahoyd::store::{self, Store, contract};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_embedded_engine_keeps_the_contract() {
    let root = tempfile::tempdir().expect("a folder");
    let open = |dir: &Path| -> Arc<dyn Store> { store::open(dir, 8 << 20).expect("opens") };
    contract::run(root.path(), &open).await;
}

#[tokio::test]
async fn a_second_process_on_the_folder_is_refused() {
    let root = tempfile::tempdir().expect("a folder");
    let _first = store::open(root.path(), 8 << 20).expect("opens");
    let second = store::open(root.path(), 8 << 20).err().expect("refused");
    assert_eq!(second, store::StoreError::InUse(root.path().display().to_string()));
}
