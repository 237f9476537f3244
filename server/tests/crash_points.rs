//! Kill the homeserver at every commit that it makes, just before and just after the commit is durable, while messages
//! go from a device through the hub to a service: nothing acknowledged is missing afterwards, nothing is there twice.
//!
//! Both names are served by one homeserver, so that one counter numbers every commit of the run: sign-ups, submissions,
//! the contact answer, the opening of pipes, placements, fan-out, acknowledgements.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod world;

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use ahoy_proto::v1::sync_item::Item;
use ahoy_proto::v1::{self, Enrol};
use ahoyd::invite::Grant;
use ahoyd::store::{
    Batch, CommitError, KeyRange, Order, Partition, Pending, Read, Row, Stats, Store, StoreError, Watch,
};
use bytes::Bytes;
use prost::Message as _;
use tokio_util::sync::CancellationToken;
use world::{Client, Server, Table, Time, address, support, text};

const CALLER: &str = "caller@home.example";
const SUPPORT: &str = "support@bank.example";
const MESSAGES: u64 = 4;

/// A store whose process dies at its `left`-th commit: before it, or after it without having said so.
struct Dying {
    inner: Arc<dyn Store>,
    left: AtomicI64,
    is_kept: bool,
    died: CancellationToken,
}

impl Read for Dying {
    fn get(&self, partition: &Partition, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.inner.get(partition, key)
    }

    fn scan(
        &self,
        partition: &Partition,
        range: &KeyRange,
        limit: usize,
        order: Order,
    ) -> Result<Vec<Row>, StoreError> {
        self.inner.scan(partition, range, limit, order)
    }

    fn partitions(
        &self,
        class: &str,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Partition>, StoreError> {
        self.inner.partitions(class, after, limit)
    }
}

impl Store for Dying {
    fn snapshot(&self) -> Box<dyn Read> {
        self.inner.snapshot()
    }

    fn commit(&self, batch: Batch) -> Pending<()> {
        let left = self.left.fetch_sub(1, Ordering::SeqCst);
        if left > 0 {
            return self.inner.commit(batch);
        }
        self.died.cancel();
        let last = (left == 0 && self.is_kept).then(|| self.inner.commit(batch));
        Box::pin(async move {
            if let Some(last) = last {
                last.await?;
            }
            // Whoever waits for this was not told that it is durable; from here on nothing is.
            Err(CommitError::Unknown)
        })
    }

    fn delete_range(&self, partition: &Partition, range: KeyRange) -> Pending<u64> {
        self.inner.delete_range(partition, range)
    }

    fn watch(&self, partition: &Partition) -> Watch {
        self.inner.watch(partition)
    }

    fn stats(&self) -> Stats {
        self.inner.stats()
    }
}

fn config(port: u16) -> String {
    format!(
        "name = [\"home.example\", \"bank.example\"]\nendpoint = \"hs.example:{port}\"\n\
         listen = \"127.0.0.1:{port}\"\nhttp_listen = \"127.0.0.1:0\"\nspecial_use_allowed = [\"example\"]\n\
         [[line]]\nname = \"bank.example\"\nlocal = \"support\"\ntargets = [\"service:bot\"]\n"
    )
}

/// One life of the homeserver.
async fn start(dir: &Path, left: i64, is_kept: bool, died: &CancellationToken) -> anyhow::Result<Server> {
    let died = died.clone();
    let wrap = |inner| -> Arc<dyn Store> { Arc::new(Dying { inner, left: left.into(), is_kept, died }) };
    let names = ["home.example", "bank.example"];
    Server::launch(dir, &names, config, &Table::default(), 0, Time::default(), wrap).await
}

/// What the device and the bot hold on to from life to life.
#[derive(Default)]
struct Outside {
    tokens: Option<(Enrol, Enrol)>,
    acknowledged: HashSet<u64>,
}

/// Signs both in and hands in what is not acknowledged yet. Ends in an error when the homeserver dies.
async fn act(server: &Server, outside: &mut Outside) -> anyhow::Result<(Client, Client)> {
    let caller = address(CALLER);
    let tokens = outside.tokens.get_or_insert_with(|| {
        (server.invite(&Grant::Account(caller.clone())), server.invite(&support("bot")))
    });
    let (enrol, service) = tokens.clone();
    let device = server.device_with(caller, 1, enrol).await?;
    let bot = server.service_with("bot", 2, false, true, service).await?;
    for id in 0..MESSAGES {
        if !outside.acknowledged.contains(&id) {
            device.submit(text(id, SUPPORT, &id.to_string())).await?;
            outside.acknowledged.insert(id);
        }
    }
    Ok((device, bot))
}

/// Reads both logs from their beginning until everything has arrived, and holds that it did so once and in order.
async fn check(device: &Client, bot: &Client) {
    let (mut log, mut pending, mut placed) = (device.sync(0).await, Vec::new(), Vec::new());
    while placed.len() < MESSAGES as usize {
        match log.next().await.item {
            Some(Item::Pending(item)) => pending.push(item.client_id),
            Some(Item::Placed(item)) => placed.push((item.seq, item.client_id)),
            other => panic!("{other:?}"),
        }
    }
    let ids: Vec<Bytes> = (0..MESSAGES).map(|id| text(id, "", "").client_id).collect();
    assert_eq!(pending, ids, "each is pending once");
    let expected: Vec<(u64, Bytes)> = (1..).zip(ids.iter().cloned()).collect();
    assert_eq!(placed, expected, "each is placed once, in order, without a gap");
    let mut log = bot.sync(0).await;
    for id in &ids {
        let Some(Item::Event(event)) = log.next().await.item else { panic!("an event") };
        let body = v1::EventBody::decode(event.event.unwrap().body).unwrap();
        assert_eq!(body.client_id, id, "the bot hears each once, in order");
    }
    // One more behind them shows that nothing else was on the way.
    device.submit(text(99, SUPPORT, "last")).await.unwrap();
    let Some(Item::Event(event)) = log.next().await.item else { panic!("an event") };
    let body = v1::EventBody::decode(event.event.unwrap().body).unwrap();
    assert_eq!(body.client_id, text(99, "", "").client_id);
}

/// Lets the homeserver die at commit `left`. Says whether it lived to make so many.
async fn die_at(left: i64, is_kept: bool) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let (mut outside, died) = (Outside::default(), CancellationToken::new());
    if let Ok(server) = start(dir.path(), left, is_kept, &died).await {
        let whole = async {
            match act(&server, &mut outside).await {
                Ok((device, bot)) => check(&device, &bot).await,
                Err(error) => assert!(died.is_cancelled(), "{error:#}"),
            }
        };
        died.run_until_cancelled(whole).await;
        server.stop().await;
    }
    let has_died = died.is_cancelled();
    if !has_died {
        return false;
    }
    let server = start(dir.path(), i64::MAX, false, &CancellationToken::new()).await.unwrap();
    let (device, bot) = act(&server, &mut outside).await.unwrap();
    check(&device, &bot).await;
    server.stop().await;
    true
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_doubled_wherever_the_homeserver_dies() {
    let mut points = 0;
    for left in 1.. {
        let (before, after) = tokio::join!(die_at(left, false), die_at(left, true));
        points = left;
        if !before && !after {
            break;
        }
    }
    println!("{points} commits, each survived before and after");
    assert!(points > 8, "the run was too short to mean anything: {points} commits");
}
