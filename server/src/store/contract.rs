//! What every engine has to keep: one suite, run against each of them.
//!
//! [`run`] panics with the name of the case that failed.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use tokio::task::JoinSet;

use super::{Batch, CommitError, KeyRange, MAX_BATCH_BYTES, MAX_KEY_BYTES, Order, Partition, Store};

/// Opens the store in a folder: a new one, or again the one that was there and has been dropped.
pub type Open<'a> = &'a (dyn Fn(&Path) -> Arc<dyn Store> + Sync);

/// Runs every case, each in its own folder below `root`. Needs a multi-threaded tokio runtime.
pub async fn run(root: &Path, open: Open<'_>) {
    let fresh = |case: &str| {
        let dir = root.join(case);
        std::fs::create_dir_all(&dir).expect("the folder for a case can be created");
        (open(&dir), dir)
    };
    reads_what_it_wrote(&*fresh("reads").0).await;
    keeps_partitions_apart(&*fresh("apart").0).await;
    scans_in_both_orders(&*fresh("scans").0).await;
    lists_partitions_of_a_class(&*fresh("lists").0).await;
    judges_preconditions(&*fresh("preconditions").0).await;
    the_later_change_of_a_key_counts(&*fresh("later").0).await;
    refuses_what_is_too_large(&*fresh("large").0).await;
    a_snapshot_does_not_change(&*fresh("snapshot").0).await;
    deletes_ranges(&*fresh("ranges").0).await;
    tells_watchers(&*fresh("watch").0).await;
    preconditions_see_the_group(fresh("group").0).await;
    counts_exactly_under_contention(fresh("contention").0).await;
    readers_see_whole_batches(fresh("whole").0).await;
    let (store, dir) = fresh("reopen");
    keeps_commits_across_a_reopen(store, &dir, open).await;
}

fn rows(rows: &[(&str, &str)]) -> Vec<(Bytes, Bytes)> {
    rows.iter()
        .map(|(key, value)| {
            (Bytes::copy_from_slice(key.as_bytes()), Bytes::copy_from_slice(value.as_bytes()))
        })
        .collect()
}

fn scan(
    store: &dyn Store,
    partition: &Partition,
    range: &KeyRange,
    limit: usize,
    order: Order,
) -> Vec<super::Row> {
    store.scan(partition, range, limit, order).expect("a scan succeeds")
}

async fn reads_what_it_wrote(store: &dyn Store) {
    let partition = Partition::new("account", "ann@home.example");
    assert_eq!(store.get(&partition, b"a"), Ok(None), "an empty store has no rows");
    store
        .commit(Batch::new(&partition).put("a", "1").put("", "empty key").put("e", ""))
        .await
        .expect("commits");
    assert_eq!(store.get(&partition, b"a"), Ok(Some("1".into())));
    assert_eq!(store.get(&partition, b""), Ok(Some("empty key".into())), "the empty key is a key");
    assert_eq!(store.get(&partition, b"e"), Ok(Some("".into())), "an empty value is a value");
    store.commit(Batch::new(&partition).delete("a").delete("never there")).await.expect("commits");
    assert_eq!(store.get(&partition, b"a"), Ok(None), "deleted");
    store.commit(Batch::new(&partition)).await.expect("an empty batch commits");
}

async fn keeps_partitions_apart(store: &dyn Store) {
    let ids: [&[u8]; 6] = [b"", b"\0", b"\0\x01", b"a", b"a\0", b"a\xff"];
    for (at, id) in ids.iter().enumerate() {
        let batch =
            Batch::new(&Partition::new("x", id)).put("key", vec![at as u8]).put([1u8, 0].as_slice(), "other");
        store.commit(batch).await.expect("commits");
    }
    for (at, id) in ids.iter().enumerate() {
        let partition = Partition::new("x", id);
        assert_eq!(store.get(&partition, b"key"), Ok(Some(vec![at as u8].into())), "partition {partition:?}");
        let all = scan(store, &partition, &KeyRange::all(), 100, Order::Ascending);
        assert_eq!(all.len(), 2, "a scan of {partition:?} ends with it");
    }
    assert_eq!(store.get(&Partition::new("y", "a"), b"key"), Ok(None), "a class is part of the partition");
}

async fn scans_in_both_orders(store: &dyn Store) {
    let partition = Partition::new("log", "one");
    let batch =
        ["a", "b1", "b2", "b3", "c"].iter().fold(Batch::new(&partition), |batch, key| batch.put(*key, *key));
    store.commit(batch).await.expect("commits");
    let scan = |range: KeyRange, limit, order| scan(store, &partition, &range, limit, order);
    assert_eq!(
        scan(KeyRange::prefix("b"), 9, Order::Ascending),
        rows(&[("b1", "b1"), ("b2", "b2"), ("b3", "b3")])
    );
    assert_eq!(scan(KeyRange::prefix("b"), 2, Order::Descending), rows(&[("b3", "b3"), ("b2", "b2")]));
    assert_eq!(scan(KeyRange::all(), 1, Order::Descending), rows(&[("c", "c")]), "the last row");
    assert_eq!(scan(KeyRange::after("b2"), 9, Order::Ascending), rows(&[("b3", "b3"), ("c", "c")]));
    assert_eq!(
        scan(KeyRange::from("b2").below("c"), 9, Order::Ascending),
        rows(&[("b2", "b2"), ("b3", "b3")])
    );
    assert_eq!(scan(KeyRange::between("b", "b2"), 9, Order::Ascending), rows(&[("b1", "b1")]));
    assert_eq!(
        scan(KeyRange::between("c", "a"), 9, Order::Ascending),
        rows(&[]),
        "an inverted range is empty"
    );
    assert_eq!(
        scan(KeyRange::after("a").below("a"), 9, Order::Descending),
        rows(&[]),
        "as is one with no inside"
    );
    assert_eq!(scan(KeyRange::prefix([0xff]), 9, Order::Ascending), rows(&[]), "a prefix without successor");
    assert_eq!(scan(KeyRange::all(), 0, Order::Ascending), rows(&[]), "limit 0");
}

async fn lists_partitions_of_a_class(store: &dyn Store) {
    for id in ["b.example", "a.example", "c.example"] {
        let batch = Batch::new(&Partition::new("outbox", id)).put("1", "x").put("2", "x");
        store.commit(batch).await.expect("commits");
    }
    store.commit(Batch::new(&Partition::new("outboxes", "z")).put("1", "x")).await.expect("commits");
    let ids = |after: Option<&[u8]>, limit| -> Vec<Vec<u8>> {
        let found = store.partitions("outbox", after, limit).expect("lists");
        found.iter().map(Partition::id).collect()
    };
    assert_eq!(ids(None, 9), [b"a.example", b"b.example", b"c.example"]);
    assert_eq!(ids(None, 2), [b"a.example", b"b.example"]);
    assert_eq!(ids(Some(b"b.example"), 9), [b"c.example"]);
    let emptied = Partition::new("outbox", "a.example");
    store.delete_range(&emptied, KeyRange::all()).await.expect("deletes");
    assert_eq!(ids(None, 9), [b"b.example", b"c.example"], "a partition without rows is not listed");
}

async fn judges_preconditions(store: &dyn Store) {
    let partition = Partition::new("account", "ann");
    let conflict = |key: &'static str| Err(CommitError::Conflict { key: key.into() });
    let batch = || Batch::new(&partition);
    assert_eq!(store.commit(batch().require_absent("k").put("k", "1")).await, Ok(()));
    assert_eq!(store.commit(batch().require_absent("k").put("k", "2")).await, conflict("k"));
    assert_eq!(store.commit(batch().require_present("none").put("k", "2")).await, conflict("none"));
    assert_eq!(store.commit(batch().require_equals("k", "2").put("k", "3")).await, conflict("k"));
    assert_eq!(store.commit(batch().require_equals("none", "").put("k", "3")).await, conflict("none"));
    let second_fails = batch().put("other", "x").require_present("k").require_absent("k");
    assert_eq!(store.commit(second_fails).await, conflict("k"));
    assert_eq!(store.get(&partition, b"k"), Ok(Some("1".into())), "a conflict changes nothing");
    assert_eq!(store.get(&partition, b"other"), Ok(None), "a conflict changes nothing");
    assert_eq!(
        store.commit(batch().require_present("k").require_equals("k", "1").put("k", "4")).await,
        Ok(())
    );
    let read = store.get(&partition, b"k").expect("reads");
    assert_eq!(store.commit(batch().require_unchanged("k", read).delete("k")).await, Ok(()));
    assert_eq!(store.commit(batch().require_unchanged("k", None)).await, Ok(()), "preconditions alone");
    assert_eq!(store.commit(batch().require_absent("x").put("x", "1").delete("x")).await, Ok(()));
}

async fn the_later_change_of_a_key_counts(store: &dyn Store) {
    let partition = Partition::new("x", "x");
    store.commit(Batch::new(&partition).put("k", "1").delete("k").put("k", "2")).await.expect("commits");
    assert_eq!(store.get(&partition, b"k"), Ok(Some("2".into())));
    store.commit(Batch::new(&partition).put("k", "3").delete("k")).await.expect("commits");
    assert_eq!(store.get(&partition, b"k"), Ok(None));
}

async fn refuses_what_is_too_large(store: &dyn Store) {
    let partition = Partition::new("x", "x");
    let long = vec![b'k'; MAX_KEY_BYTES + 1];
    let outcome = store.commit(Batch::new(&partition).put(long.clone(), "v")).await;
    assert!(matches!(outcome, Err(CommitError::TooLarge { .. })), "{outcome:?}");
    assert_eq!(store.get(&partition, &long), Ok(None));
    let outcome = store.commit(Batch::new(&partition).put("k", vec![0; MAX_BATCH_BYTES])).await;
    assert!(matches!(outcome, Err(CommitError::TooLarge { .. })), "{outcome:?}");
    let outcome = store.commit(Batch::new(&partition).put("k", vec![7; MAX_BATCH_BYTES - 1])).await;
    assert_eq!(outcome, Ok(()), "the limit itself is allowed");
    let key = vec![b'k'; MAX_KEY_BYTES];
    store.commit(Batch::new(&partition).put(key.clone(), "v")).await.expect("the longest key commits");
    assert_eq!(store.get(&partition, &key), Ok(Some("v".into())));
}

async fn a_snapshot_does_not_change(store: &dyn Store) {
    let partition = Partition::new("x", "x");
    store.commit(Batch::new(&partition).put("a", "1").put("b", "1")).await.expect("commits");
    let snapshot = store.snapshot();
    store.commit(Batch::new(&partition).put("a", "2").delete("b").put("c", "2")).await.expect("commits");
    assert_eq!(snapshot.get(&partition, b"a"), Ok(Some("1".into())));
    let seen = snapshot.scan(&partition, &KeyRange::all(), 9, Order::Ascending).expect("scans");
    assert_eq!(seen, rows(&[("a", "1"), ("b", "1")]));
    assert_eq!(
        scan(store, &partition, &KeyRange::all(), 9, Order::Ascending),
        rows(&[("a", "2"), ("c", "2")])
    );
}

async fn deletes_ranges(store: &dyn Store) {
    let partition = Partition::new("log", "long");
    let neighbour = Partition::new("log", "long\0");
    store.commit(Batch::new(&neighbour).put("k", "v")).await.expect("commits");
    let key = |at: u32| at.to_be_bytes().to_vec();
    let filled = (0..2500).fold(Batch::new(&partition), |batch, at| batch.put(key(at), "v"));
    store.commit(filled).await.expect("commits");
    let removed = store.delete_range(&partition, KeyRange::between(key(100), key(2400))).await;
    assert_eq!(removed, Ok(2300), "more than one piece");
    assert_eq!(scan(store, &partition, &KeyRange::all(), 5000, Order::Ascending).len(), 200);
    assert_eq!(store.delete_range(&partition, KeyRange::all()).await, Ok(200));
    assert_eq!(store.delete_range(&partition, KeyRange::all()).await, Ok(0));
    assert_eq!(store.get(&neighbour, b"k"), Ok(Some("v".into())), "the neighbour is untouched");
}

async fn tells_watchers(store: &dyn Store) {
    let (watched, other) = (Partition::new("x", "watched"), Partition::new("x", "other"));
    let mut watch = store.watch(&watched);
    let mut second = store.watch(&watched);
    store.commit(Batch::new(&other).put("k", "v")).await.expect("commits");
    store.commit(Batch::new(&watched).require_present("none").put("k", "v")).await.expect_err("conflicts");
    let quiet = futures_util::FutureExt::now_or_never(watch.changed());
    assert!(quiet.is_none(), "neither another partition nor a conflict is told");
    drop(second);
    store.commit(Batch::new(&watched).put("k", "v")).await.expect("commits");
    watch.changed().await;
    assert_eq!(store.get(&watched, b"k"), Ok(Some("v".into())), "what is told can be read");
    second = store.watch(&watched);
    drop(watch);
    store.commit(Batch::new(&watched).put("k", "w")).await.expect("commits");
    second.changed().await;
}

/// Batches handed over together share a group on most engines; each must see those before it.
async fn preconditions_see_the_group(store: Arc<dyn Store>) {
    let partition = Partition::new("chain", "x");
    let mut pending = Vec::new();
    for at in 0u32..500 {
        let mut batch = Batch::new(&partition).put("head", at.to_be_bytes().to_vec());
        batch = match at.checked_sub(1) {
            Some(before) => batch.require_equals("head", before.to_be_bytes().to_vec()),
            None => batch.require_absent("head"),
        };
        pending.push(store.commit(batch));
    }
    for commit in pending {
        assert_eq!(commit.await, Ok(()), "a batch sees those handed over before it");
    }
    let twice = [store.commit(Batch::new(&partition).require_absent("one").put("one", "a"))];
    let again = store.commit(Batch::new(&partition).require_absent("one").put("one", "b"));
    for commit in twice {
        assert_eq!(commit.await, Ok(()));
    }
    assert_eq!(again.await, Err(CommitError::Conflict { key: "one".into() }));
    assert_eq!(store.get(&partition, b"one"), Ok(Some("a".into())));
}

async fn counts_exactly_under_contention(store: Arc<dyn Store>) {
    const WRITERS: u32 = 8;
    const EACH: u32 = 50;
    let partition = Partition::new("counter", "x");
    let mut writers = JoinSet::new();
    for _ in 0..WRITERS {
        let (store, partition) = (store.clone(), partition.clone());
        writers.spawn(async move {
            for _ in 0..EACH {
                while !add_one(&*store, &partition).await {}
            }
        });
    }
    while let Some(done) = writers.join_next().await {
        done.expect("a writer does not panic");
    }
    let total = store.get(&partition, b"count").expect("reads").expect("was written");
    assert_eq!(total, (WRITERS * EACH).to_be_bytes().to_vec(), "no increment is lost");
}

async fn add_one(store: &dyn Store, partition: &Partition) -> bool {
    let read = store.get(partition, b"count").expect("reads");
    let count =
        read.as_ref().map_or(0, |value| u32::from_be_bytes(value[..].try_into().expect("four bytes")));
    let batch = Batch::new(partition)
        .require_unchanged("count", read)
        .put("count", (count + 1).to_be_bytes().to_vec());
    match store.commit(batch).await {
        Ok(()) => true,
        Err(CommitError::Conflict { .. }) => false,
        Err(other) => panic!("unexpected: {other}"),
    }
}

async fn readers_see_whole_batches(store: Arc<dyn Store>) {
    let partition = Partition::new("pair", "x");
    let mut writer = JoinSet::new();
    let (written_to, target) = (store.clone(), partition.clone());
    writer.spawn(async move {
        for at in 0u32..300 {
            let value = Bytes::from(at.to_be_bytes().to_vec());
            let batch = Batch::new(&target).put("a", value.clone()).put("b", value.clone()).put("c", value);
            written_to.commit(batch).await.expect("commits");
        }
    });
    let mut newest = Bytes::new();
    while writer.try_join_next().is_none() {
        let seen = scan(&*store, &partition, &KeyRange::all(), 9, Order::Ascending);
        let Some((_, first)) = seen.first() else { continue };
        assert!(seen.len() == 3 && seen.iter().all(|(_, value)| value == first), "a torn batch: {seen:?}");
        assert!(*first >= newest, "a reader went back in time");
        newest = first.clone();
        tokio::task::yield_now().await;
    }
}

async fn keeps_commits_across_a_reopen(store: Arc<dyn Store>, dir: &Path, open: Open<'_>) {
    let partition = Partition::new("x", "x");
    store.commit(Batch::new(&partition).put("kept", "1").put("gone", "1")).await.expect("commits");
    store.commit(Batch::new(&partition).delete("gone")).await.expect("commits");
    drop(store);
    for round in 0u8..3 {
        let store = open(dir);
        assert_eq!(store.get(&partition, b"kept"), Ok(Some("1".into())));
        assert_eq!(store.get(&partition, b"gone"), Ok(None));
        assert_eq!(
            scan(&*store, &partition, &KeyRange::prefix("round"), 9, Order::Ascending).len(),
            usize::from(round)
        );
        store
            .commit(Batch::new(&partition).put(vec![b'r', b'o', b'u', b'n', b'd', round], "v"))
            .await
            .expect("commits");
    }
}
