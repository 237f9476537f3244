//! The time between the caller's tap and the SIP INVITE on the wire, with everything known and with nothing known.

use std::{collections::BTreeMap, sync::Arc};

use ahoy_client::{
    PlaceCall, Session, Status,
    media::{MediaConfig, MediaSession},
};
use ahoy_proto::{address::Address, time::Entropy};
use ahoy_testkit::phone::{Behaviour, Event, Phone, PhoneConfig};
use anyhow::{Context, bail};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Duration, Instant, sleep, timeout},
};

use super::{Times, in_world, print_row};
use crate::{layout::BANK, sdk, world::World};

const WARM: u32 = 400;
const WITH_MEDIA: u32 = 60;
const COLD: u32 = 12;
/// Longest wait for an INVITE, and for parts to sign in again.
const PATIENCE: Duration = Duration::from_secs(20);

/// Measures taps: the phone is in this process and notes when the INVITE is there.
///
/// # Errors
/// When a call does not reach the phone.
pub async fn run() -> anyhow::Result<()> {
    in_world("call", async |world| {
        world.start_homeservers().await?;
        let network = sdk::network(world, "bench-home", world.addresses.client).await?;
        let mut phone = phone(world, Behaviour::Busy, network.entropy()).await?;
        world.start_edge().await?;
        let session = sdk::device(world, &network, "caller@home.example").await?;
        let line = sdk::address(&format!("support@{BANK}"))?;
        let media =
            MediaConfig { bind_ips: vec![world.addresses.client], stun: session.stun_addr(), relay_only: false };
        let (offered, sdp) = MediaSession::offer(media.clone()).await?;
        service_online(world).await?;
        let first = tap(&session, &line, &sdp, &mut phone).await?;
        warm(&session, &line, &sdp, &mut phone).await?;
        with_media(&session, &line, &media, &mut phone).await?;
        let mut cold = Times::default();
        cold.add(first);
        for _ in 1..COLD {
            restart(world, &session).await?;
            cold.add(tap(&session, &line, &sdp, &mut phone).await?);
        }
        print_row(
            "tap -> SIP INVITE, cold",
            &cold.summary(),
            "aim: < 150 ms on loopback",
            "homeservers just started: both names, the connection between them, both claims are new; offer ready",
        );
        offered.close().await;
        session.close().await;
        network.close().await;
        phone.stop().await;
        Ok(())
    })
    .await
}

/// A phone in this process, at the address where the trunk expects the company's.
pub(super) async fn phone(
    world: &World,
    behaviour: Behaviour,
    entropy: Arc<dyn Entropy>,
) -> anyhow::Result<Phone> {
    let config = PhoneConfig {
        bind: (world.addresses.phone, 5060).into(),
        user: "200".to_owned(),
        extensions: BTreeMap::from([("200".to_owned(), behaviour)]),
        ring_ms: 0,
        tone_hz: 620,
        record_dir: None,
    };
    Phone::start(config, entropy).await.context("the phone's address is taken")
}

async fn warm(session: &Session, line: &Address, sdp: &str, phone: &mut Phone) -> anyhow::Result<()> {
    let mut times = Times::default();
    for _ in 0..WARM {
        times.add(tap(session, line, sdp, phone).await?);
    }
    print_row(
        "tap -> SIP INVITE, warm",
        &times.summary(),
        "aim: p99 < 10 ms",
        &format!(
            "place_call in the SDK -> INVITE at the phone, {WARM} calls one after the other, offer ready"
        ),
    );
    Ok(())
}

async fn with_media(
    session: &Session,
    line: &Address,
    config: &MediaConfig,
    phone: &mut Phone,
) -> anyhow::Result<()> {
    let (mut whole, mut offers) = (Times::default(), Times::default());
    for _ in 0..WITH_MEDIA {
        let begun = Instant::now();
        let (media, sdp) = MediaSession::offer(config.clone()).await?;
        let offered = begun.elapsed();
        offers.add(offered);
        whole.add(offered + tap(session, line, &sdp, phone).await?);
        media.close().await;
    }
    print_row(
        "the same, the media offer included",
        &whole.summary(),
        "-",
        "gathers host and STUN candidates first",
    );
    print_row(
        "the media offer alone",
        &offers.summary(),
        "-",
        "WebRTC session, candidates from the homeserver's STUN",
    );
    Ok(())
}

/// One call: from the tap to the INVITE. The phone is busy, which ends it.
async fn tap(session: &Session, line: &Address, sdp: &str, phone: &mut Phone) -> anyhow::Result<Duration> {
    let place =
        PlaceCall { to: line.clone(), from: None, sdp: sdp.to_owned(), ring: None, display: String::new() };
    let begun = Instant::now();
    let rings = async {
        while let Some(event) = phone.events.recv().await {
            if matches!(event, Event::Incoming { .. }) {
                return Ok(begun.elapsed());
            }
        }
        bail!("the phone is off")
    };
    let talk = async {
        let mut call = session.place_call(place).await?;
        let mut last = None;
        while let Some(message) = call.next().await {
            last = Some(message);
        }
        anyhow::Ok(last)
    };
    let both = async { tokio::join!(rings, talk) };
    // A call that ends without an INVITE leaves the phone silent: that is what the limit is for.
    match timeout(PATIENCE, both).await {
        Ok((time, talk)) => {
            talk?;
            time
        }
        Err(_) => bail!("no INVITE within {PATIENCE:?}"),
    }
}

/// Stops both homeservers and starts them again; the bridge and the caller sign in again by themselves.
async fn restart(world: &mut World, session: &Session) -> anyhow::Result<()> {
    let mut status = session.status();
    for folder in ["home", "bank"] {
        world.take(&format!("ahoyd-{folder}"))?.stop(PATIENCE).await;
    }
    timeout(PATIENCE, status.wait_for(|s| !matches!(s, Status::Online))).await??;
    for folder in ["home", "bank"] {
        world.start_homeserver(folder).await?;
    }
    service_online(world).await?;
    timeout(PATIENCE, status.wait_for(|s| matches!(s, Status::Online))).await??;
    Ok(())
}

/// Waits until the bridge is signed in at the company's homeserver, as its metrics tell.
pub(super) async fn service_online(world: &World) -> anyhow::Result<()> {
    let until = Instant::now() + 2 * PATIENCE;
    while Instant::now() < until {
        let text = metrics(world).await.unwrap_or_default();
        let mut lines = text.lines().filter(|l| l.contains("connections{role=\"service\"}"));
        if lines.any(|l| !l.ends_with(" 0")) {
            return Ok(());
        }
        sleep(Duration::from_millis(100)).await;
    }
    bail!("the bridge does not sign in")
}

async fn metrics(world: &World) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect((world.addresses.bank, 2470)).await?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: bank\r\nConnection: close\r\n\r\n").await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}
