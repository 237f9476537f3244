//! Durable messages from one homeserver to the other: how many per second, and how long each takes.
//!
//! From the call of `submit` at a device of `home.example` to the item in the sync log that a service of
//! `bank.example` reads: three durable commits (origin, hub, addressee's log) and one federated hop.

use std::sync::Arc;

use ahoy_client::{Session, SyncEvent, SyncStream, message::Message};
use ahoy_proto::{address::Address, v1::sync_item::Item};
use anyhow::Context;
use tokio::{
    task::JoinSet,
    time::{Duration, Instant, timeout},
};

use super::{Times, in_world, machine, print_row};
use crate::{layout::BANK, sdk, world::World};

/// Messages handed in one after the other.
const ALONE: u32 = 1000;
/// Accounts that send at full load, and submissions each has under way.
const ACCOUNTS: u32 = 4;
const UNDER_WAY: u32 = 56;
const LOAD: Duration = Duration::from_secs(8);
/// The text of a message.
const TEXT_BYTES: usize = 200;
const DRAIN: Duration = Duration::from_secs(60);

/// Measures latency with one message under way, then throughput.
///
/// # Errors
/// When a message is refused, or does not arrive within a minute.
pub async fn run() -> anyhow::Result<()> {
    in_world("messages", async |world| {
        world.start_homeservers().await?;
        let line = sdk::address(&format!("support@{BANK}"))?;
        let ours = sdk::network(world, "bench-home", world.addresses.client).await?;
        let theirs = sdk::network(world, "bench-bank", world.addresses.bridge_media).await?;
        let bot = sdk::message_service(world, &theirs, "bot", &line.to_string()).await?;
        let mut senders = Vec::new();
        for account in 0..ACCOUNTS {
            senders.push(sdk::device(world, &ours, &format!("caller{account}@home.example")).await?);
        }
        let mut log = bot.sync(0);
        alone(&senders[0], &line, &mut log).await?;
        loaded(world, &senders, &line, &mut log).await?;
        ours.close().await;
        theirs.close().await;
        Ok(())
    })
    .await
}

async fn alone(sender: &Session, line: &Address, log: &mut SyncStream) -> anyhow::Result<()> {
    let (mut arrived, mut acknowledged) = (Times::default(), Times::default());
    for number in 0..ALONE {
        let submit = sdk::text(line, client_id(u32::MAX, number), &body(u64::from(number)));
        let begun = Instant::now();
        let hand_in = async {
            sender.submit(submit).await?;
            anyhow::Ok(begun.elapsed())
        };
        let read = async {
            let read = next_text(log).await?;
            anyhow::ensure!(read == u64::from(number), "{read} came instead of {number}");
            Ok(begun.elapsed())
        };
        let (ack, arrival) = timeout(DRAIN, async { tokio::try_join!(hand_in, read) }).await??;
        if number >= ALONE / 10 {
            acknowledged.add(ack);
            arrived.add(arrival);
        }
    }
    print_row(
        "federated message, one under way",
        &arrived.summary(),
        "-",
        "submit at home's device -> sync log of bank's service, 3 durable commits",
    );
    print_row(
        "the same, until it is acknowledged",
        &acknowledged.summary(),
        "-",
        "durable at its own homeserver",
    );
    Ok(())
}

async fn loaded(
    world: &mut World,
    senders: &[Session],
    line: &Address,
    log: &mut SyncStream,
) -> anyhow::Result<()> {
    let mut processes = Vec::new();
    for name in ["ahoyd-home", "ahoyd-bank"] {
        processes.push(world.process(name)?.id().context("it runs")?);
    }
    let used =
        |processes: &[u32]| processes.iter().map(|p| machine::cpu_seconds(*p)).collect::<Result<Vec<_>, _>>();
    let before = used(&processes)?;
    let begun = Instant::now();
    let mut lanes = JoinSet::new();
    let line = Arc::new(line.clone());
    for (account, sender) in (0..).zip(senders) {
        for lane in 0..UNDER_WAY {
            lanes.spawn(send(sender.clone(), line.clone(), account * UNDER_WAY + lane, begun));
        }
    }
    let (mut sent, mut received, mut times, mut last) = (None, 0_u64, Times::default(), begun);
    let mut in_all = 0;
    while sent != Some(received) {
        tokio::select! {
            text = next_text(log) => {
                last = Instant::now();
                times.add(last.duration_since(begun + Duration::from_nanos(text?)));
                received += 1;
            }
            lane = lanes.join_next(), if sent.is_none() => match lane {
                Some(count) => in_all += count??,
                None => sent = Some(in_all),
            },
            () = tokio::time::sleep(DRAIN) => anyhow::bail!("{received} of {in_all} messages arrived"),
        }
    }
    let seconds = last.duration_since(begun).as_secs_f64();
    let after = used(&processes)?;
    let per_1000 = |i: usize| (after[i] - before[i]) * 1e6 / received as f64;
    print_row(
        "durable federated messages",
        &format!("{:.0}/s ({received} in {seconds:.1} s)", received as f64 / seconds),
        "21,000 signatures/s, 100,000 commits/s",
        &format!(
            "{} submissions under way from {ACCOUNTS} accounts; processor per message: home {:.0} us, bank {:.0} us",
            ACCOUNTS * UNDER_WAY,
            per_1000(0),
            per_1000(1)
        ),
    );
    print_row(
        "latency at that load",
        &times.summary(),
        "-",
        "submit -> the other side's sync log, queueing included",
    );
    Ok(())
}

/// Hands in messages, each after the acknowledgement of the one before; gives how many.
async fn send(sender: Session, line: Arc<Address>, lane: u32, begun: Instant) -> anyhow::Result<u64> {
    for number in 0.. {
        let since = begun.elapsed();
        if since >= LOAD {
            return Ok(u64::from(number));
        }
        let nanos = u64::try_from(since.as_nanos())?;
        sender.submit(sdk::text(&line, client_id(lane, number), &body(nanos))).await?;
    }
    unreachable!("the load ends long before the numbers do")
}

fn client_id(lane: u32, number: u32) -> [u8; 16] {
    let mut id = [0; 16];
    id[..4].copy_from_slice(&lane.to_be_bytes());
    id[4..8].copy_from_slice(&number.to_be_bytes());
    id
}

fn body(number: u64) -> String {
    format!("{number:>TEXT_BYTES$}")
}

/// The number in the next message of the log.
async fn next_text(log: &mut SyncStream) -> anyhow::Result<u64> {
    loop {
        let SyncEvent::Item(item) = log.next().await? else { continue };
        let Some(Item::Event(placed)) = item.item else { continue };
        return Ok(Message::from_placed(&placed)?.text().trim().parse()?);
    }
}
