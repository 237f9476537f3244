//! What a homeserver keeps in memory: idle, and for each device that is signed in and follows its log.

use ahoy_client::{DeviceLogin, Network, Session, SyncEvent, SyncStream};
use anyhow::Context;
use tokio::{
    task::JoinSet,
    time::{Duration, sleep},
};

use super::{in_world, machine, print_row};
use crate::{layout::HOME, sdk, world::World};

const CLIENTS: u32 = 1000;
/// Sign-ins at once.
const AT_ONCE: usize = 8;
/// Time for buffers of handshakes to be given back.
const SETTLE: Duration = Duration::from_secs(5);

/// Measures the resident memory of the caller's homeserver.
///
/// # Errors
/// When a client cannot sign in.
pub async fn run() -> anyhow::Result<()> {
    in_world("memory", async |world| {
        world.start_homeservers().await?;
        sleep(SETTLE).await;
        let process = world.process("ahoyd-home")?.id().context("it runs")?;
        let idle = machine::resident_kib(process)?;
        print_row(
            "memory of an idle homeserver",
            &format!("{:.1} MiB", idle as f64 / 1024.0),
            "aim: < 40 MiB",
            "VmRSS, 5 s after the start, one name, store cache at its default",
        );
        let network = sdk::network(world, "bench-home", world.addresses.client).await?;
        let sessions = sign_in(world, &network).await?;
        sleep(SETTLE).await;
        let connected = machine::resident_kib(process)?;
        row("memory per connected client", idle, connected, "signed in, nothing else");
        let logs = follow(&sessions).await?;
        sleep(SETTLE).await;
        let following = machine::resident_kib(process)?;
        row("the same, following its log", idle, following, "one sync stream each, caught up");
        drop(logs);
        network.close().await;
        Ok(())
    })
    .await
}

fn row(what: &str, idle: u64, now: u64, how: &str) {
    let each = now.saturating_sub(idle) as f64 / f64::from(CLIENTS);
    let how = format!("{how}; {CLIENTS} accounts from one endpoint: {} MiB in all", now / 1024);
    print_row(what, &format!("{each:.1} KiB"), "aim: < 30 KiB", &how);
}

async fn sign_in(world: &World, network: &Network) -> anyhow::Result<Vec<Session>> {
    let (mut sessions, mut running) = (Vec::new(), JoinSet::new());
    for number in 0..CLIENTS {
        let login: DeviceLogin = sdk::device_login(world, network, &format!("client{number}@{HOME}")).await?;
        let network = network.clone();
        running.spawn(async move { Session::sign_in_device(&network, login).await });
        if running.len() >= AT_ONCE {
            sessions.push(running.join_next().await.context("some run")???);
        }
    }
    while let Some(session) = running.join_next().await {
        sessions.push(session??);
    }
    Ok(sessions)
}

async fn follow(sessions: &[Session]) -> anyhow::Result<Vec<SyncStream>> {
    let mut logs = Vec::new();
    for session in sessions {
        let mut log = session.sync(0);
        while !matches!(log.next().await?, SyncEvent::CaughtUp(_)) {}
        logs.push(log);
    }
    Ok(logs)
}
