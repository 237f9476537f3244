//! Durable messages from one homeserver to the other: how many per second, and how long each takes.
//!
//! From the call of `submit` at a device of `home.example` to the item in the sync log that a service of
//! `bank.example` reads: three durable commits (origin, hub, addressee's log) and one federated hop.

use std::sync::Arc;

use ahoy_client::{Session, SyncEvent, SyncStream, message::Message};
use ahoy_proto::{address::Address, v1::sync_item::Item};
use anyhow::Context;
use tokio::{
    sync::Notify,
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
/// The same, when a lane waits for the arrival.
const UNTIL_ARRIVED: u32 = 128;
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
        let submit = sdk::text(line, client_id(u32::MAX, number), &body(0, u64::from(number)));
        let begun = Instant::now();
        let hand_in = async {
            sender.submit(submit).await?;
            anyhow::Ok(begun.elapsed())
        };
        let read = async {
            let (_, read) = next_text(log).await?;
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

/// How a lane of submissions goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// After the acknowledgement: the homeserver takes what it can, and delivers behind that.
    Acknowledged,
    /// After the arrival at the other side: so many messages are under way, never more.
    Arrived,
}

/// What a run at full load came to.
struct Load {
    received: u64,
    seconds: f64,
    times: Times,
    /// Processor time per message in microseconds, of `home` and of `bank`.
    processor_us: Vec<f64>,
}

/// Sends for [`LOAD`] in all lanes and reads until the last message is there.
async fn load(
    world: &mut World,
    senders: &[Session],
    line: &Address,
    log: &mut SyncStream,
    pace: Pace,
) -> anyhow::Result<Load> {
    let mut processes = Vec::new();
    for name in ["ahoyd-home", "ahoyd-bank"] {
        processes.push(world.process(name)?.id().context("it runs")?);
    }
    let used = || processes.iter().map(|p| machine::cpu_seconds(*p)).collect::<anyhow::Result<Vec<_>>>();
    let before = used()?;
    let begun = Instant::now();
    let each = if pace == Pace::Arrived { UNTIL_ARRIVED } else { UNDER_WAY };
    let arrivals: Vec<Arc<Notify>> = (0..ACCOUNTS * each).map(|_| Arc::default()).collect();
    let mut lanes = JoinSet::new();
    for (lane, arrived) in (0..).zip(&arrivals) {
        let sender = senders[(lane / each) as usize].clone();
        let arrived = (pace == Pace::Arrived).then(|| arrived.clone());
        lanes.spawn(send(sender, line.clone(), lane, begun, arrived));
    }
    let (mut sent, mut received, mut times, mut last) = (None, 0_u64, Times::default(), begun);
    let mut in_all = 0;
    while sent != Some(received) {
        tokio::select! {
            arrival = next_text(log) => {
                let (lane, nanos) = arrival?;
                last = Instant::now();
                times.add(last.duration_since(begun + Duration::from_nanos(nanos)));
                received += 1;
                arrivals.get(lane as usize).context("no such lane")?.notify_one();
            }
            lane = lanes.join_next(), if sent.is_none() => match lane {
                Some(count) => in_all += count??,
                None => sent = Some(in_all),
            },
            () = tokio::time::sleep(DRAIN) => anyhow::bail!("{received} of {in_all} messages arrived"),
        }
    }
    let per_message = |(after, before): (f64, f64)| (after - before) * 1e6 / received as f64;
    let processor_us = used()?.into_iter().zip(before).map(per_message).collect();
    Ok(Load { received, seconds: last.duration_since(begun).as_secs_f64(), times, processor_us })
}

async fn loaded(
    world: &mut World,
    senders: &[Session],
    line: &Address,
    log: &mut SyncStream,
) -> anyhow::Result<()> {
    let ceiling = "21,000 signatures/s, 100,000 commits/s";
    let run = load(world, senders, line, log, Pace::Arrived).await?;
    let rate = run.received as f64 / run.seconds;
    let figure = format!("{rate:.0}/s ({} in {:.1} s)", run.received, run.seconds);
    let how = format!(
        "{} under way until they arrive, from {ACCOUNTS} accounts; processor per message: home {:.0} us, bank {:.0} us",
        ACCOUNTS * UNTIL_ARRIVED,
        run.processor_us[0],
        run.processor_us[1]
    );
    print_row("durable federated messages", &figure, ceiling, &how);
    print_row("latency at that load", &run.times.summary(), "-", "submit -> the other side's sync log");

    let run = load(world, senders, line, log, Pace::Acknowledged).await?;
    let rate = run.received as f64 / run.seconds;
    let accepted = run.received as f64 / LOAD.as_secs_f64();
    let figure = format!("{accepted:.0}/s taken, {rate:.0}/s delivered");
    let how = format!(
        "{} submissions under way for {} s, then the queue is drained",
        ACCOUNTS * UNDER_WAY,
        LOAD.as_secs()
    );
    print_row("the same, as fast as it acknowledges", &figure, ceiling, &how);
    Ok(())
}

/// Hands in messages, each after the acknowledgement or the arrival of the one before; gives how many.
async fn send(
    sender: Session,
    line: Address,
    lane: u32,
    begun: Instant,
    arrived: Option<Arc<Notify>>,
) -> anyhow::Result<u64> {
    // Client ids are unique per device: a second run must not repeat those of the first.
    let run = if arrived.is_some() { 1 << 24 } else { 2 << 24 };
    for number in 0.. {
        let since = begun.elapsed();
        if since >= LOAD {
            return Ok(u64::from(number));
        }
        let nanos = u64::try_from(since.as_nanos())?;
        sender.submit(sdk::text(&line, client_id(run + lane, number), &body(lane, nanos))).await?;
        if let Some(arrived) = &arrived {
            arrived.notified().await;
        }
    }
    unreachable!("the load ends long before the numbers do")
}

fn client_id(lane: u32, number: u32) -> [u8; 16] {
    let mut id = [0; 16];
    id[..4].copy_from_slice(&lane.to_be_bytes());
    id[4..8].copy_from_slice(&number.to_be_bytes());
    id
}

fn body(lane: u32, number: u64) -> String {
    format!("{lane} {number:>TEXT_BYTES$}")
}

/// Lane and number in the next message of the log.
async fn next_text(log: &mut SyncStream) -> anyhow::Result<(u32, u64)> {
    loop {
        let SyncEvent::Item(item) = log.next().await? else { continue };
        let Some(Item::Event(placed)) = item.item else { continue };
        let text = Message::from_placed(&placed)?.text();
        let (lane, number) = text.split_once(' ').context("a message of somebody else")?;
        return Ok((lane.parse()?, number.trim().parse()?));
    }
}
