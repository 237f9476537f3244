//! Kill -9 of either homeserver while messages flow: every one arrives, in order, none twice, and each is placed once.
//!
//! One device hands in messages side by side in several lanes, each lane one after the other: for a line of the
//! company (whose homeserver orders the conversation) and for a person whose conversation the caller's own
//! homeserver orders. At random moments a homeserver, or both, are killed and started again.

mod verdict;

use std::{sync::Arc, time::Duration};

use ahoy_client::{Session, SyncEvent, message::Message};
use ahoy_proto::{
    address::Address,
    conversation::ConversationId,
    time::{Entropy, random},
    v1::sync_item::Item,
};
use ahoy_testkit::clock::SeededEntropy;
use anyhow::{Context, bail, ensure};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::{
    layout::{BANK, HOME},
    sdk,
    world::World,
};
use verdict::{Arrival, Fate, Label};

/// Messages that are counted in the end.
pub const MESSAGES: u32 = 10_000;
/// Lanes to each of the two addressees.
const LANES: u32 = 2;
const PER_LANE: u32 = MESSAGES / (2 * LANES);
/// Kills, of `home`, of `bank`, and of both at the same time.
const KILLS: [(&[&str], usize); 3] = [(&["home"], 5), (&["bank"], 5), (&["home", "bank"], 2)];
/// Messages that each lane hands in once more at its end, as a client that lost the acknowledgement would.
const REPEATS: usize = 50;
/// Pause before a message that was not acknowledged is handed in again.
const RETRY: Duration = Duration::from_millis(50);
/// After this the proof has failed.
const DEADLINE: Duration = Duration::from_secs(240);
/// `[limits]` under which one device may hand in that much.
pub const LIMITS: &str = "device_messages = 1000000.0";

/// How far everybody is, for the moments of the kills and for the message when the time is over.
#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    acknowledged: u32,
    arrived: [u32; 2],
    placed: u32,
}

type Shared = Arc<watch::Sender<Progress>>;

/// Sends 10,000 messages through the kills and proves what arrived.
///
/// # Errors
/// When anything is missing, doubled, out of order, or late; the message says which.
pub async fn run(world: &mut World) -> anyhow::Result<String> {
    let begun = Instant::now();
    let seed = u64::from(std::process::id());
    let progress: Shared = Arc::new(watch::Sender::new(Progress::default()));
    let watched = progress.clone();
    match timeout(DEADLINE, flow(world, &SeededEntropy::new(seed), progress)).await {
        Ok(done) => Ok(format!("{}, seed {seed}, {:.1} s", done?, begun.elapsed().as_secs_f32())),
        Err(_) => bail!("not done after {DEADLINE:?} (seed {seed}): {:?}", *watched.borrow()),
    }
}

async fn flow(world: &mut World, chance: &SeededEntropy, progress: Shared) -> anyhow::Result<String> {
    let caller = sdk::address(&format!("caller@{HOME}"))?;
    let line = sdk::address(&format!("support@{BANK}"))?;
    let person = ordered_by_home(&caller)?;
    let ours = sdk::network(world, "crash-caller", world.addresses.client).await?;
    let theirs = sdk::network(world, "crash-support", world.addresses.bridge_media).await?;
    let sender = sdk::device(world, &ours, &caller.to_string()).await?;
    let bot = sdk::message_service(world, &theirs, "bot", &line.to_string()).await?;
    let friend = sdk::device(world, &theirs, &person.to_string()).await?;

    let to = [line, person];
    let send = hand_in_all(&sender, &to, chance, &progress);
    let read = async {
        tokio::try_join!(
            read_arrivals(&bot, 0, &progress),
            read_arrivals(&friend, 1, &progress),
            read_fates(&sender, &progress),
        )
    };
    let kill = kill_at_random(world, chance, progress.subscribe());
    let ((), (to_line, to_person, fates), killed) = tokio::try_join!(send, read, kill)?;
    let in_all = verdict::prove(&[&to_line, &to_person], &fates, LANES, PER_LANE)?;
    ensure!(in_all == MESSAGES, "{in_all} messages instead of {MESSAGES}");
    for (session, arrivals) in [(&bot, &to_line), (&friend, &to_person)] {
        ensure!(read_again(session).await? == *arrivals, "the log reads differently the second time");
    }
    for session in [sender, bot, friend] {
        session.close().await;
    }
    ours.close().await;
    theirs.close().await;
    Ok(format!("{in_all} messages in order, none twice, through {killed}"))
}

/// A person of the company whose conversation with the caller is ordered by the caller's homeserver.
fn ordered_by_home(caller: &Address) -> anyhow::Result<Address> {
    for local in ["ann", "ben", "cleo", "dan", "eve", "fay", "gus", "hal", "ida", "jon", "kim", "leo"] {
        let person = sdk::address(&format!("{local}@{BANK}"))?;
        if ConversationId::direct(caller, &person).hub().as_str() == HOME {
            return Ok(person);
        }
    }
    bail!("none of the names hashes to {HOME}")
}

async fn hand_in_all(
    sender: &Session,
    to: &[Address; 2],
    chance: &SeededEntropy,
    progress: &Shared,
) -> anyhow::Result<()> {
    let mut lanes = JoinSet::new();
    for lane in 0..2 * LANES {
        let to = to[usize::from(lane >= LANES)].clone();
        lanes.spawn(hand_in(sender.clone(), to, lane, random(chance), progress.clone()));
    }
    while let Some(lane) = lanes.join_next().await {
        lane??;
    }
    Ok(())
}

/// Hands in one lane's messages, some of them again, and a last one that marks the end.
async fn hand_in(
    sender: Session,
    to: Address,
    lane: u32,
    again: [u8; REPEATS],
    progress: Shared,
) -> anyhow::Result<()> {
    let mut positions = Vec::new();
    for number in 0..PER_LANE {
        positions.push(hand_in_one(&sender, &to, Label { lane, number }).await?);
        progress.send_modify(|p| p.acknowledged += 1);
    }
    for byte in again {
        let number = u32::from(byte) * (PER_LANE - 1) / 255;
        let position = hand_in_one(&sender, &to, Label { lane, number }).await?;
        let first = positions[number as usize];
        ensure!(position == first, "handed in again, {lane}/{number} was taken at {position}, not {first}");
    }
    hand_in_one(&sender, &to, Label { lane, number: PER_LANE }).await?;
    Ok(())
}

/// Hands in one message until it is acknowledged, always under the same client id.
async fn hand_in_one(sender: &Session, to: &Address, label: Label) -> anyhow::Result<u64> {
    let submit = sdk::text(to, label.client_id(), &label.to_string());
    loop {
        match sender.submit(submit.clone()).await {
            Ok(ack) => {
                ensure!(ack.client_id == submit.client_id, "the acknowledgement is of another message");
                return Ok(ack.position);
            }
            Err(error) if error.is_retryable() => sleep(RETRY).await,
            Err(error) => return Err(error).with_context(|| format!("{label} was refused")),
        }
    }
}

/// Follows an addressee's log until the last message of every lane.
async fn read_arrivals(session: &Session, to: usize, progress: &Shared) -> anyhow::Result<Vec<Arrival>> {
    let (mut log, mut arrivals, mut ended) = (session.sync(0), Vec::new(), 0);
    while ended < LANES {
        let SyncEvent::Item(item) = log.next().await? else { continue };
        let Some(arrival) = arrival(item)? else { continue };
        ended += u32::from(arrival.label.number == PER_LANE);
        arrivals.push(arrival);
        progress.send_modify(|p| p.arrived[to] += 1);
    }
    Ok(arrivals)
}

/// The whole log from its beginning.
async fn read_again(session: &Session) -> anyhow::Result<Vec<Arrival>> {
    let (mut log, mut arrivals) = (session.sync(0), Vec::new());
    loop {
        match log.next().await? {
            SyncEvent::Item(item) => arrivals.extend(arrival(item)?),
            SyncEvent::CaughtUp(_) => return Ok(arrivals),
        }
    }
}

fn arrival(item: ahoy_proto::v1::SyncItem) -> anyhow::Result<Option<Arrival>> {
    let position = item.position;
    let Some(Item::Event(placed)) = item.item else { return Ok(None) };
    let message = Message::from_placed(&placed)?;
    let label = message.text().parse()?;
    Ok(Some(Arrival {
        label,
        position,
        epoch: message.epoch,
        seq: message.seq,
        event: message.event_id.to_vec(),
    }))
}

/// Follows the sender's log until the last message of every lane is placed.
async fn read_fates(session: &Session, progress: &Shared) -> anyhow::Result<Vec<Fate>> {
    let (mut log, mut fates, mut ended) = (session.sync(0), Vec::new(), 0);
    while ended < 2 * LANES {
        let SyncEvent::Item(item) = log.next().await? else { continue };
        let fate = match item.item {
            Some(Item::Pending(p)) => Fate::Pending(Label::of(&p.client_id)?),
            Some(Item::Placed(p)) => {
                let label = Label::of(&p.client_id)?;
                ended += u32::from(label.number == PER_LANE);
                progress.send_modify(|p| p.placed += 1);
                Fate::Placed { label, epoch: p.epoch, seq: p.seq, event: p.event_id.to_vec() }
            }
            Some(Item::Failed(f)) => bail!("{} failed: {:?}", Label::of(&f.client_id)?, f.error),
            other => bail!("the sender's log has {other:?}"),
        };
        fates.push(fate);
    }
    Ok(fates)
}

/// Kills and restarts homeservers, at moments spread over the messages; says what it did.
async fn kill_at_random(
    world: &mut World,
    chance: &SeededEntropy,
    mut progress: watch::Receiver<Progress>,
) -> anyhow::Result<String> {
    let mut kills: Vec<(u32, &[&str])> = Vec::new();
    for (whom, times) in KILLS {
        kills.extend((0..times).map(|_| (below(chance, MESSAGES - MESSAGES / 10) + MESSAGES / 50, whom)));
    }
    kills.sort_unstable();
    for (at, whom) in &kills {
        progress.wait_for(|p| p.acknowledged >= *at).await?;
        let pause = Duration::from_millis(below(chance, 400).into());
        tracing::info!(?whom, ?pause, progress = ?*progress.borrow(), "kill -9");
        for folder in *whom {
            world.take(&format!("ahoyd-{folder}"))?.kill().await;
        }
        sleep(pause).await;
        for folder in *whom {
            world.start_homeserver(folder).await?;
        }
    }
    let count = |name| kills.iter().filter(|(_, whom)| whom.contains(&name)).count();
    Ok(format!("{} kills of home and {} of bank", count("home"), count("bank")))
}

fn below(chance: &dyn Entropy, bound: u32) -> u32 {
    u32::from_le_bytes(random(chance)) % bound
}
