//! The media path of a call: renewed from either side, missing, and what the record says of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ahoy_bridge::rtc::{
    Encoding, RtcCall, RtcConfig, RtcEvent, RtcEvents, RtcHub, RtcLeg, RtpPacket, RtpSink,
};
use ahoy_client::media::MediaEvent;
use ahoy_proto::v1::{self, HangupReason, HoldDirection, call_frame::Message};
use ahoy_transport::clock::OsEntropy;
use tokio::net::UdpSocket;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::homeserver::Hop;
use crate::pbx::{Dialog, Sip, WITH_KEYS};
use crate::rig::{Person, World, eventually, logged, soon};

/// A STUN server that says the same address to everybody.
async fn stun_server(mapped: &str, tasks: &TaskTracker) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.9:0").await.expect("a free port");
    let address = socket.local_addr().expect("it is bound");
    let Ok(SocketAddr::V4(mapped)) = mapped.parse() else { panic!("an IPv4 address") };
    tasks.spawn(async move {
        let mut request = [0u8; 256];
        while let Ok((_, source)) = socket.recv_from(&mut request).await {
            let mut response = vec![1, 1, 0, 12];
            response.extend_from_slice(&request[4..20]);
            response.extend_from_slice(&[0, 0x20, 0, 8, 0, 1]);
            response.extend_from_slice(&(mapped.port() ^ 0x2112).to_be_bytes());
            response.extend_from_slice(&(u32::from(*mapped.ip()) ^ 0x2112_a442).to_be_bytes());
            let _ = socket.send_to(&response, source).await;
        }
    });
    address
}

fn restart(message: Message) -> Option<v1::IceRestart> {
    match message {
        Message::IceRestart(restart) => Some(restart),
        _ => None,
    }
}

fn restart_answer(message: Message) -> Option<v1::IceRestartAnswer> {
    match message {
        Message::IceRestartAnswer(answer) => Some(answer),
        _ => None,
    }
}

/// Sound passes from the client to the PBX, now.
async fn is_heard(world: &World, packets: usize) {
    let mut old = [0; 2048];
    while world.pbx.rtp.try_recv(&mut old).is_ok() {}
    for _ in 0..packets {
        world.pbx.hear(8).await;
    }
}

#[tokio::test]
async fn a_client_that_moved_renews_the_path_and_is_heard_again() {
    let mut world = World::start().await;
    let mut call = world.answered_by_pbx(Person::calling().await, WITH_KEYS).await;
    is_heard(&world, 5).await;
    let sdp = call.person.media.restart_ice().await.expect("a restart");
    call.hop
        .say(Message::IceRestart(v1::IceRestart { sdp, generation: 1, ..v1::IceRestart::default() }))
        .await;
    let answer = call.hop.until(restart_answer).await;
    assert_eq!(answer.generation, 1);
    call.person.media.accept_answer(&answer.sdp).await.expect("an answer with media");
    tokio::time::sleep(Duration::from_millis(500)).await;
    is_heard(&world, 50).await;
    world.pbx.ask(&mut call.dialog, "BYE", "").await;
    call.hop.hangup().await;
    world.end().await;
}

#[tokio::test]
async fn a_changed_mapping_renews_the_path_and_the_callee_yields_when_both_ask() {
    let tasks = TaskTracker::new();
    let mut world = World::start().await;
    world.exchange.hub.set_stun(Some(stun_server("192.0.2.7:4000", &tasks).await));
    let person = Person::calling().await;
    let mut call = world.answered_by_pbx(person, WITH_KEYS).await;
    is_heard(&world, 5).await;
    world.exchange.hub.set_stun(Some(stun_server("192.0.2.8:4001", &tasks).await));
    let asked = call.hop.until(restart).await;
    assert!(asked.sdp.contains("192.0.2.8 4001 typ srflx"), "{}", asked.sdp);
    // The client asks at the same time: the bridge, which is the callee here, drops its own.
    let sdp = call.person.media.restart_ice().await.expect("a restart");
    call.hop
        .say(Message::IceRestart(v1::IceRestart { sdp, generation: 7, ..v1::IceRestart::default() }))
        .await;
    let answer = call.hop.until(restart_answer).await;
    assert_eq!(answer.generation, 7);
    call.person.media.accept_answer(&answer.sdp).await.expect("an answer with media");
    tokio::time::sleep(Duration::from_millis(500)).await;
    is_heard(&world, 50).await;

    // The next change, with nobody else asking.
    world.exchange.hub.set_stun(Some(stun_server("192.0.2.9:4002", &tasks).await));
    let asked = call.hop.until(restart).await;
    let sdp = call.person.media.accept_restart(&asked.sdp).await.expect("an answer");
    let (branch, generation) = (asked.branch, asked.generation);
    call.hop.say(Message::IceRestartAnswer(v1::IceRestartAnswer { branch, sdp, generation })).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    is_heard(&world, 50).await;
    world.pbx.ask(&mut call.dialog, "BYE", "").await;
    call.hop.hangup().await;
    world.end().await;
}

#[tokio::test]
async fn a_bridge_that_called_insists_on_its_own_renewal() {
    let tasks = TaskTracker::new();
    let mut world = World::start().await;
    world.exchange.hub.set_stun(Some(stun_server("192.0.2.7:4000", &tasks).await));
    let sdp = world.pbx.sdp(WITH_KEYS, "sendrecv");
    let (mut dialog, _) = world.pbx.call("9001", &sdp).await;
    let (mut hop, _, call) = Hop::placed(&world.link).await;
    let (mut person, sdp) = Person::called(&call.sdp).await;
    hop.say(Message::Answer(v1::Answer { sdp, ..v1::Answer::default() })).await;
    let ok = world.pbx.response(200).await;
    world.pbx.learn(&mut dialog, &ok).await;
    person.event(MediaEvent::Connected).await;
    world.exchange.hub.set_stun(Some(stun_server("192.0.2.8:4001", &tasks).await));
    let asked = hop.until(restart).await;
    let theirs = v1::IceRestart { sdp: person.offer.clone(), generation: 1, ..v1::IceRestart::default() };
    hop.say(Message::IceRestart(theirs)).await;
    assert_eq!(hop.said_within(Duration::from_millis(500)).await, None, "the callee's is ignored");
    let sdp = person.media.accept_restart(&asked.sdp).await.expect("an answer");
    let (branch, generation) = (asked.branch, asked.generation);
    hop.say(Message::IceRestartAnswer(v1::IceRestartAnswer { branch, sdp, generation })).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    is_heard(&world, 50).await;
    world.pbx.ask(&mut dialog, "BYE", "").await;
    hop.hangup().await;
    world.end().await;
}

/// A client that sends only what it is told to.
struct Station {
    hub: RtcHub,
    call: RtcCall,
    hop: Hop,
    dialog: Dialog,
    invite: Sip,
    sequence: u16,
}

impl Station {
    async fn answered(world: &mut World) -> Self {
        let bind = "127.0.0.2:0".parse().expect("an address");
        let config = RtcConfig { bind, stun: None, max_calls: 4, entropy: Arc::new(OsEntropy) };
        let hub = RtcHub::bind(config).expect("a free port");
        let (call, mut events, offer): (RtcCall, RtcEvents, String) =
            hub.offer(&[Encoding::Pcma, Encoding::TelephoneEvent]).await.expect("an offer");
        let mut hop = Hop::ring(&world.link, "support@bank.example", &offer).await;
        let invite = world.pbx.request("INVITE").await;
        world.pbx.reply(&invite, "100 Trying", "").await;
        let Message::Early(early) = hop.next().await else { panic!("the SDP comes first") };
        let sdp = world.pbx.sdp(WITH_KEYS, "sendrecv");
        world.pbx.reply(&invite, "200 OK", &sdp).await;
        world.pbx.request("ACK").await;
        let Message::Answer(_) = hop.next().await else { panic!("an answer") };
        call.accept_answer(&early.sdp).expect("an answer with media");
        while soon(events.next()).await != Some(RtcEvent::Connected) {}
        let dialog = world.pbx.dialog_of(&invite);
        Self { hub, call, hop, dialog, invite, sequence: 0 }
    }

    async fn speak(&mut self, packets: u16) {
        for _ in 0..packets {
            self.sequence += 1;
            let timestamp = u32::from(self.sequence) * 160;
            let (encoding, payload) = (Encoding::Pcma, &[0xd5; 160][..]);
            let sequence = self.sequence;
            self.call.rtp(RtpPacket { encoding, ssrc: 3, sequence, timestamp, marker: false, payload });
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn silence_of_a_client_renews_the_path_but_not_while_it_holds() {
    let mut world = World::start().await;
    let mut station = Station::answered(&mut world).await;
    station.hop.say(Message::Hold(v1::Hold { direction: HoldDirection::BySender.into() })).await;
    station.speak(10).await;
    assert_eq!(station.hop.said_within(Duration::from_millis(3500)).await, None, "its silence is meant");
    station.hop.say(Message::Hold(v1::Hold { direction: HoldDirection::None.into() })).await;
    station.speak(10).await;
    let stopped = Instant::now();
    station.hop.until(restart).await;
    assert!((1..4).contains(&stopped.elapsed().as_secs()), "after {:?}", stopped.elapsed());
    station.hop.hang_up(HangupReason::Normal).await;
    let bye = world.pbx.request("BYE").await;
    world.pbx.reply(&bye, "200 OK", "").await;
    station.hub.close().await;
    world.end().await;
}

#[tokio::test]
async fn five_seconds_without_sound_the_log_names_the_silent_side() {
    let mut world = World::start().await;
    let mut station = Station::answered(&mut world).await;
    // The PBX speaks, the client does not.
    world.pbx.speak(station.invite.rtp(), 5).await;
    let pbx = format!("pbx=Some({})", world.pbx.rtp.local_addr().expect("it is bound"));
    eventually("the client's silence is logged", || logged(&["no RTP from the client 5 s", &pbx])).await;
    let ours = format!("advertised=Some({})", station.invite.rtp());
    assert!(!logged(&["no RTP from the PBX", &ours]), "the PBX was heard");
    station.hop.hang_up(HangupReason::Normal).await;
    let bye = world.pbx.request("BYE").await;
    world.pbx.reply(&bye, "200 OK", "").await;

    // The other way round.
    let mut second = Station::answered(&mut world).await;
    second.speak(5).await;
    let ours = format!("advertised=Some({})", second.invite.rtp());
    eventually("the PBX's silence is logged", || logged(&["no RTP from the PBX 5 s", &ours])).await;
    let text = format!("advertised=Some({})", second.invite.rtp());
    assert!(!logged(&["no RTP from the client", &text]));
    world.pbx.ask(&mut second.dialog, "BYE", "").await;
    second.hop.hangup().await;
    station.hub.close().await;
    second.hub.close().await;
    world.end().await;
}

#[tokio::test]
async fn an_answered_call_without_a_media_path_ends_after_15_seconds() {
    let mut world = World::start().await;
    let person = Person::calling().await;
    let mut hop = Hop::ring(&world.link, "support@bank.example", &person.offer).await;
    let invite = world.pbx.request("INVITE").await;
    let sdp = world.pbx.sdp(WITH_KEYS, "sendrecv");
    world.pbx.reply(&invite, "200 OK", &sdp).await;
    world.pbx.request("ACK").await;
    // The bridge's SDP never reaches the person's media, as with a client that lost it.
    let answered = Instant::now();
    assert_eq!(hop.hangup().await.reason(), HangupReason::Media);
    assert!((14..18).contains(&answered.elapsed().as_secs()), "after {:?}", answered.elapsed());
    let bye = world.pbx.request("BYE").await;
    world.pbx.reply(&bye, "200 OK", "").await;
    let cdr = world.cdr().await;
    assert_eq!((&cdr["reason"], &cdr["rtc"]["received"]["packets"]), (&"media".into(), &0.into()));
    assert_eq!(cdr["ice_pair"], serde_json::Value::Null);
    world.end().await;
}

#[tokio::test]
async fn the_record_of_a_call_says_what_went_where() {
    let mut world = World::start().await;
    let mut station = Station::answered(&mut world).await;
    station.speak(30).await;
    world.pbx.speak(station.invite.rtp(), 20).await;
    eventually("all was relayed", || station.call.stats().packets_in >= 20).await;
    world.pbx.ask(&mut station.dialog, "BYE", "").await;
    station.hop.hangup().await;
    let cdr = world.cdr().await;
    let pair = station.call.stats().selected_pair.expect("media flowed");
    let (ours, theirs) = (world.exchange.hub.local_addr().to_string(), pair.0.to_string());
    assert_eq!(cdr["ice_pair"], serde_json::json!([ours, theirs]));
    let pbx = world.pbx.rtp.local_addr().expect("it is bound").to_string();
    let bridge = station.invite.rtp().to_string();
    for (leg, way, packets, advertised, actual) in [
        ("sip", "received", 20, &bridge, &pbx),
        ("sip", "sent", 30, &pbx, &pbx),
        ("rtc", "received", 30, &ours, &theirs),
        ("rtc", "sent", 20, &theirs, &theirs),
    ] {
        let traffic = &cdr[leg][way];
        assert_eq!(traffic["packets"], packets, "{leg} {way}: {cdr}");
        assert_eq!(traffic["bytes"], packets * 160, "{leg} {way}: {cdr}");
        assert_eq!(
            (&traffic["advertised"], &traffic["actual"]),
            (&advertised.as_str().into(), &actual.as_str().into()),
            "{leg} {way}: {cdr}"
        );
        let first = traffic["first_ms"].as_u64().expect("it flowed");
        let (start, end) = (cdr["start_ms"].as_u64(), cdr["end_ms"].as_u64());
        assert!(start <= Some(first) && Some(first) <= end, "{leg} {way}: {cdr}");
    }
    assert!(cdr["answered_ms"].as_u64() >= cdr["start_ms"].as_u64(), "{cdr}");
    for (key, value) in [
        ("way", "to_trunk"),
        ("trunk", "pbx"),
        ("from", "caller@home.example"),
        ("to", "support@bank.example"),
        ("reason", "normal"),
        ("sip_end", "remote_bye"),
        ("codec", "PCMA"),
    ] {
        assert_eq!(cdr[key], value, "{cdr}");
    }
    assert_eq!(cdr["call"].as_str().map(str::len), Some(32));
    station.hub.close().await;
    world.end().await;
}
