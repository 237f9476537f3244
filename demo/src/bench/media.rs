//! What relaying costs: processor seconds of the bridge while calls of G.711 audio flow both ways through it.
//!
//! Callers and phone are real ones, in this process: WebRTC sessions that play a tone, and a phone that answers each
//! call with a tone. They cost more than the bridge, so the share of packets that arrived stands beside the figure.

use ahoy_client::{
    Call, PlaceCall, Session,
    media::{MediaConfig, MediaEvent, MediaSession, Source},
};
use ahoy_proto::{address::Address, v1::call_frame::Message};
use ahoy_testkit::phone::Behaviour;
use anyhow::{Context, bail};
use tokio::{
    task::JoinSet,
    time::{Duration, Instant, sleep, timeout},
};

use super::{call, in_world, machine, print_row};
use crate::{layout::BANK, sdk, world::World};

const CALLS: [usize; 2] = [50, 200];
const WINDOW: Duration = Duration::from_secs(10);
/// Between one call's beginning and the next.
const STAGGER: Duration = Duration::from_millis(60);
const SET_UP: Duration = Duration::from_secs(30);
/// 20 ms each.
const PACKETS_PER_SECOND: f64 = 50.0;

struct Live {
    media: MediaSession,
    call: Call,
}

/// Measures 50, then 200 calls.
///
/// # Errors
/// When fewer than nine in ten calls can be set up.
pub async fn run() -> anyhow::Result<()> {
    in_world("media", async |world| {
        world.start_homeservers().await?;
        let network = sdk::network(world, "bench-home", world.addresses.client).await?;
        let mut phone = call::phone(world, Behaviour::AnswerAtOnce, network.entropy()).await?;
        world.start_edge().await?;
        call::service_online(world).await?;
        let session = sdk::device(world, &network, "caller@home.example").await?;
        // The phone waits for its owner at 1,024 unread events.
        let mut events = std::mem::replace(&mut phone.events, tokio::sync::mpsc::channel(1).1);
        let mut reader = JoinSet::new();
        reader.spawn(async move { while events.recv().await.is_some() {} });
        let mut live = Vec::new();
        for calls in CALLS {
            set_up(world, &session, calls, &mut live).await?;
            measure(world, &live).await?;
        }
        for one in &live {
            one.media.close().await;
        }
        drop(live);
        session.close().await;
        network.close().await;
        phone.stop().await;
        Ok(())
    })
    .await
}

/// Adds calls until there are `calls`.
async fn set_up(world: &World, session: &Session, calls: usize, live: &mut Vec<Live>) -> anyhow::Result<()> {
    let line = sdk::address(&format!("support@{BANK}"))?;
    let config =
        MediaConfig { bind_ips: vec![world.addresses.client], stun: session.stun_addr(), relay_only: false };
    let mut starting = JoinSet::new();
    for _ in live.len()..calls {
        starting.spawn(connect(session.clone(), line.clone(), config.clone()));
        sleep(STAGGER).await;
    }
    let mut failure = None;
    while let Some(started) = starting.join_next().await {
        match started? {
            Ok(one) => live.push(one),
            Err(error) => failure = Some(error),
        }
    }
    match failure {
        Some(error) if live.len() * 10 < calls * 9 => {
            Err(error.context(format!("{} of {calls} calls were set up; the last failure", live.len())))
        }
        _ => Ok(()),
    }
}

/// One call, until audio flows.
async fn connect(session: Session, line: Address, config: MediaConfig) -> anyhow::Result<Live> {
    let (media, sdp) = MediaSession::offer(config).await?;
    let mut events = media.events();
    media.play(Source::Tone { hz: 440.0 })?;
    let place = PlaceCall { to: line, from: None, sdp, ring: None, display: String::new() };
    let mut call = session.place_call(place).await?;
    timeout(SET_UP, answered(&mut call, &media)).await.context("no answer")??;
    let audio = async {
        while let Some(event) = events.next().await {
            if event == MediaEvent::FirstAudio {
                return Ok(());
            }
        }
        bail!("the media session ended")
    };
    timeout(SET_UP, audio).await.context("no audio")??;
    Ok(Live { media, call })
}

/// Takes the bridge's SDP, whichever message brings it, and waits for the answer.
async fn answered(call: &mut Call, media: &MediaSession) -> anyhow::Result<()> {
    let mut settled = false;
    while let Some(message) = call.next().await {
        let (sdp, done) = match message {
            Message::Ringing(ringing) => (ringing.sdp, false),
            Message::Early(early) => (early.sdp, false),
            Message::Answer(answer) => (answer.sdp, true),
            Message::Hangup(hangup) => bail!("it ended with {:?}", hangup.reason()),
            _ => continue,
        };
        if !settled && !sdp.is_empty() {
            media.accept_answer(&sdp).await?;
            settled = true;
        }
        if done {
            return Ok(());
        }
    }
    bail!("the call ended")
}

async fn measure(world: &mut World, live: &[Live]) -> anyhow::Result<()> {
    let bridge = world.process("bridge")?.id().context("the bridge runs")?;
    let received = || live.iter().map(|one| one.media.stats().packets_received).sum::<u64>();
    // Sets of calls that were just answered settle first.
    sleep(Duration::from_secs(2)).await;
    let (packets, cpu, own) =
        (received(), machine::cpu_seconds(bridge)?, machine::cpu_seconds(std::process::id())?);
    let begun = Instant::now();
    sleep(WINDOW).await;
    let seconds = begun.elapsed().as_secs_f64();
    let cpu = machine::cpu_seconds(bridge)? - cpu;
    let own = machine::cpu_seconds(std::process::id())? - own;
    let share = (received() - packets) as f64 / (live.len() as f64 * seconds * PACKETS_PER_SECOND);
    let moved: u32 = live.iter().map(|one| one.call.resumptions()).sum();
    print_row(
        &format!("bridge at {} relayed G.711 calls", live.len()),
        &format!(
            "{cpu:.2} CPU-s in {seconds:.0} s = {:.3} % per call",
            cpu / seconds / live.len() as f64 * 1e2
        ),
        "0.155 % of a core per call (str0m)",
        &format!(
            "{:.1} % of the phone's packets reached the callers; {} MiB; load generator {own:.1} CPU-s{}",
            share * 1e2,
            machine::resident_kib(bridge)? / 1024,
            if moved > 0 { format!("; {moved} calls moved") } else { String::new() }
        ),
    );
    Ok(())
}
