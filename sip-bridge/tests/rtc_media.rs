//! The bridge's WebRTC side against the client's media, which is another implementation, over loopback.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ahoy_bridge::rtc::{
    Encoding, RtcCall, RtcConfig, RtcError, RtcEvent, RtcEvents, RtcHub, RtcLeg, RtpPacket, RtpSink,
};
use ahoy_client::media::{MediaConfig, MediaEvent, MediaEvents, MediaSession, Source};
use ahoy_proto::time::Entropy;
use ahoy_testkit::tone;
use tokio::sync::mpsc;
use tokio::time::timeout;

const WAIT: Duration = Duration::from_secs(10);
const ALL: [Encoding; 3] = [Encoding::Pcma, Encoding::Pcmu, Encoding::TelephoneEvent];

/// Different numbers for every hub and call: that is all that these tests need of chance.
struct Numbers(Mutex<u64>);

impl Entropy for Numbers {
    fn fill(&self, bytes: &mut [u8]) {
        let mut state = self.0.lock().expect("no test panics while it holds this");
        for byte in bytes {
            *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = state.to_be_bytes()[0];
        }
    }
}

fn hub_at(ip: &str, stun: Option<SocketAddr>) -> RtcHub {
    let bind: SocketAddr = format!("{ip}:0").parse().expect("an address");
    let entropy = Arc::new(Numbers(Mutex::new(u64::from(bind.ip().to_string().len() as u32))));
    RtcHub::bind(RtcConfig { bind, stun, max_calls: 64, entropy }).expect("a free port")
}

fn client_at(ip: &str) -> MediaConfig {
    MediaConfig { bind_ips: vec![ip.parse().expect("an address")], stun: None, relay_only: false }
}

/// Sends everything back where it came from, as an echo extension of a PBX does.
struct Echo(Arc<RtcCall>);

impl RtpSink for Echo {
    fn rtp(&self, packet: RtpPacket<'_>) {
        self.0.rtp(packet);
    }
}

/// A received packet, kept.
#[derive(Debug, Clone)]
struct Kept {
    encoding: Encoding,
    timestamp: u32,
    payload: Vec<u8>,
}

/// Hands every packet to the test.
struct Keep(mpsc::UnboundedSender<Kept>);

impl RtpSink for Keep {
    fn rtp(&self, packet: RtpPacket<'_>) {
        let RtpPacket { encoding, timestamp, payload, .. } = packet;
        let _ = self.0.send(Kept { encoding, timestamp, payload: payload.to_vec() });
    }
}

async fn media_event(events: &mut MediaEvents, wanted: MediaEvent) {
    let found = async {
        while let Some(event) = events.next().await {
            if event == wanted {
                return;
            }
        }
        panic!("the session closed before {wanted:?}");
    };
    timeout(WAIT, found).await.unwrap_or_else(|_| panic!("no {wanted:?} within {WAIT:?}"));
}

async fn rtc_event(events: &mut RtcEvents, wanted: impl Fn(&RtcEvent) -> bool) -> RtcEvent {
    let found = async {
        while let Some(event) = events.next().await {
            if wanted(&event) {
                return event;
            }
        }
        panic!("the call closed");
    };
    timeout(WAIT, found).await.expect("the event comes in time")
}

/// Waits until the client has received this many packets more.
async fn packets(session: &MediaSession, more: u64) {
    let target = session.stats().packets_received + more;
    let enough = async {
        while session.stats().packets_received < target {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(WAIT, enough).await.expect("packets flow");
}

fn recording(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.wav"))
}

fn assert_tone(path: &Path, hz: u32) {
    let samples = tone::read_wav(path).expect("a recording");
    let share = tone::share(&samples, hz);
    assert!(share > 0.9, "{hz} Hz has {share:.3} of {} samples in {}", samples.len(), path.display());
}

/// A client that calls the bridge, connected.
async fn connected(hub: &RtcHub, ip: &str) -> (MediaSession, MediaEvents, Arc<RtcCall>, RtcEvents) {
    let (session, offer) = MediaSession::offer(client_at(ip)).await.expect("an offer");
    let mut events = session.events();
    let (call, rtc_events, answer) = hub.answer(&offer, &ALL).await.expect("an answer");
    session.accept_answer(&answer).await.expect("an answer with media");
    media_event(&mut events, MediaEvent::Connected).await;
    (session, events, Arc::new(call), rtc_events)
}

#[tokio::test]
async fn a_tone_goes_out_and_comes_back_through_the_bridge() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let hub = hub_at("127.0.0.1", None);
    let (session, offer) = MediaSession::offer(client_at("127.0.0.2")).await.expect("an offer");
    let back = recording(dir.path(), "back");
    session.record(&back).expect("a file");
    session.play(Source::Tone { hz: 440.0 }).expect("a tone");
    let mut events = session.events();
    let (call, mut rtc_events, answer) = hub.answer(&offer, &ALL).await.expect("an answer");
    let call = Arc::new(call);
    call.relay_to(Some(Arc::new(Echo(Arc::clone(&call)))));
    session.accept_answer(&answer).await.expect("an answer with media");
    media_event(&mut events, MediaEvent::FirstAudio).await;
    packets(&session, 100).await;

    let recorded = session.finish_recording().expect("a recording");
    assert!(recorded.seconds >= 2.0 && recorded.packets >= 100, "{recorded:?}");
    assert_tone(&back, 440);
    let onset = tone::onset_ms(&tone::read_wav(&back).expect("a recording"));
    assert!(onset.is_some_and(|ms| ms <= 20), "the first frame is in the recording: {onset:?}");
    let pair = rtc_event(&mut rtc_events, |event| matches!(event, RtcEvent::SelectedPair { .. })).await;
    let RtcEvent::SelectedPair { local, remote } = pair else { unreachable!("matched above") };
    assert_eq!((local, remote.ip().to_string().as_str()), (hub.local_addr(), "127.0.0.2"));
    let stats = call.stats();
    assert!(stats.packets_in >= 100 && stats.packets_out >= 100 && stats.connected.is_some(), "{stats:?}");
    call.close();
    session.close().await;
    hub.close().await;
}

#[tokio::test]
async fn keys_pass_in_both_directions() {
    let hub = hub_at("127.0.0.1", None);
    let (session, mut events, call, _rtc_events) = connected(&hub, "127.0.0.2").await;
    assert!(call.negotiated().expect("settled").telephone_event);
    let (keep, mut kept) = mpsc::unbounded_channel();
    call.relay_to(Some(Arc::new(Keep(keep))));
    session.dtmf("12#").expect("telephone keys");
    let mut keys = Vec::new();
    let mut ends = 0;
    while ends < 9 {
        let packet = timeout(WAIT, kept.recv()).await.expect("keys arrive").expect("the sink lives");
        if packet.encoding == Encoding::TelephoneEvent {
            ends += usize::from(packet.payload[1] & 0x80 != 0);
            keys.push((packet.timestamp, packet.payload[0]));
        }
    }
    keys.dedup();
    assert_eq!(keys.iter().map(|(_, key)| *key).collect::<Vec<_>>(), [1, 2, 11]);

    // The other way: what a phone sends for one press of 5, each packet once.
    for (sequence, (flags, duration)) in
        [(10, 160u16), (10, 320), (0x8a, 480), (0x8a, 480)].iter().enumerate()
    {
        let [high, low] = duration.to_be_bytes();
        call.rtp(RtpPacket {
            encoding: Encoding::TelephoneEvent,
            ssrc: 7,
            sequence: u16::try_from(sequence).expect("four"),
            timestamp: 8000,
            marker: sequence == 0,
            payload: &[5, *flags, high, low],
        });
    }
    media_event(&mut events, MediaEvent::Dtmf('5')).await;
    hub.close().await;
    session.close().await;
}

#[tokio::test]
async fn a_client_that_moves_to_another_socket_is_heard_again_after_its_restart() {
    let hub = hub_at("127.0.0.1", None);
    let (session, mut events, call, mut rtc_events) = connected(&hub, "127.0.0.2").await;
    call.relay_to(Some(Arc::new(Echo(Arc::clone(&call)))));
    packets(&session, 20).await;
    let is_pair = |event: &RtcEvent| matches!(event, RtcEvent::SelectedPair { .. });
    let before = rtc_event(&mut rtc_events, is_pair).await;

    let offer = session.restart_ice().await.expect("a restart");
    let answer = call.accept_restart(&offer).expect("an answer");
    session.accept_answer(&answer).await.expect("an answer with media");
    let after = rtc_event(&mut rtc_events, is_pair).await;
    assert_ne!(before, after, "the client has a new socket");
    packets(&session, 50).await;
    drop(events.next());
    hub.close().await;
    session.close().await;
}

#[tokio::test]
async fn the_bridge_restarts_ice_too() {
    let hub = hub_at("127.0.0.1", None);
    let (session, _events, call, mut rtc_events) = connected(&hub, "127.0.0.2").await;
    call.relay_to(Some(Arc::new(Echo(Arc::clone(&call)))));
    rtc_event(&mut rtc_events, |event| matches!(event, RtcEvent::SelectedPair { .. })).await;
    packets(&session, 20).await;
    let offer = call.restart().expect("a restart");
    let answer = session.accept_restart(&offer).await.expect("an answer");
    call.accept_answer(&answer).expect("the restart is complete");
    rtc_event(&mut rtc_events, |event| matches!(event, RtcEvent::SelectedPair { .. })).await;
    packets(&session, 50).await;
    hub.close().await;
    session.close().await;
}

#[tokio::test]
async fn a_client_answers_a_call_that_the_bridge_offers() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let hub = hub_at("127.0.0.1", None);
    let (call, _rtc_events, offer) =
        hub.offer(&[Encoding::Pcmu, Encoding::TelephoneEvent]).await.expect("an offer");
    let (session, answer) = MediaSession::answer(client_at("127.0.0.3"), &offer).await.expect("an answer");
    let mut events = session.events();
    let back = recording(dir.path(), "back");
    session.record(&back).expect("a file");
    session.play(Source::Tone { hz: 620.0 }).expect("a tone");
    let call = Arc::new(call);
    call.relay_to(Some(Arc::new(Echo(Arc::clone(&call)))));
    call.accept_answer(&answer).expect("an answer with media");
    assert_eq!(call.negotiated().expect("settled").audio, Encoding::Pcmu);
    media_event(&mut events, MediaEvent::FirstAudio).await;
    packets(&session, 60).await;
    session.finish_recording().expect("a recording");
    assert_tone(&back, 620);
    hub.close().await;
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_calls_share_one_socket_and_each_hears_its_own_tone() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let hub = hub_at("127.0.0.1", None);
    let mut running = Vec::new();
    for number in 0..20u32 {
        let (session, mut events, call, _rtc_events) = connected(&hub, "127.0.0.2").await;
        call.relay_to(Some(Arc::new(Echo(Arc::clone(&call)))));
        let hz = 300 + 100 * number;
        let path = recording(dir.path(), &format!("call-{number}"));
        session.record(&path).expect("a file");
        session.play(Source::Tone { hz: f64::from(hz) }).expect("a tone");
        media_event(&mut events, MediaEvent::FirstAudio).await;
        running.push((session, call, path, hz));
    }
    assert_eq!(hub.calls(), 20);
    let ports: std::collections::BTreeSet<SocketAddr> =
        running.iter().filter_map(|(_, call, ..)| Some(call.stats().selected_pair?.0)).collect();
    assert_eq!(ports.len(), 1, "one socket: {ports:?}");
    futures_util::future::join_all(running.iter().map(|(session, ..)| packets(session, 50))).await;
    for (session, call, path, hz) in running {
        session.finish_recording().expect("a recording");
        // The first echo may be of the silence before the tone was set; a second of tone outweighs it.
        assert_tone(&path, hz);
        call.close();
        session.close().await;
    }
    assert_eq!(hub.calls(), 0);
    hub.close().await;
}

#[tokio::test]
async fn two_bridges_call_each_other_several_times_at_once() {
    let (left, right) = (hub_at("127.0.0.1", None), hub_at("127.0.0.4", None));
    let mut pairs = Vec::new();
    for _ in 0..3 {
        let (from, mut from_events, offer) = left.offer(&ALL).await.expect("an offer");
        let (to, mut to_events, answer) = right.answer(&offer, &[Encoding::Pcma]).await.expect("an answer");
        from.accept_answer(&answer).expect("an answer with media");
        rtc_event(&mut from_events, |event| *event == RtcEvent::Connected).await;
        rtc_event(&mut to_events, |event| *event == RtcEvent::Connected).await;
        pairs.push((from, to));
    }
    for (index, (from, to)) in pairs.iter().enumerate() {
        let (keep, mut kept) = mpsc::unbounded_channel();
        to.relay_to(Some(Arc::new(Keep(keep))));
        let mark = u8::try_from(index).expect("three");
        let payload = [mark; 160];
        let packet = RtpPacket {
            encoding: Encoding::Pcma,
            ssrc: 1,
            sequence: 1,
            timestamp: 160,
            marker: true,
            payload: &payload,
        };
        from.rtp(packet);
        let heard = timeout(WAIT, kept.recv()).await.expect("in time").expect("the sink lives");
        assert_eq!(heard.payload, payload);
    }
    left.close().await;
    right.close().await;
}

#[tokio::test]
async fn two_legs_that_relay_into_each_other_carry_audio_both_ways() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let hub = hub_at("127.0.0.1", None);
    let (ann, mut ann_events, ann_call, _a) = connected(&hub, "127.0.0.2").await;
    let (bob, mut bob_events, bob_call, _b) = connected(&hub, "127.0.0.3").await;
    ann_call.relay_to(Some(Arc::clone(&bob_call) as Arc<dyn RtpSink>));
    bob_call.relay_to(Some(Arc::clone(&ann_call) as Arc<dyn RtpSink>));
    ann.play(Source::Tone { hz: 440.0 }).expect("a tone");
    bob.play(Source::Tone { hz: 880.0 }).expect("a tone");
    media_event(&mut ann_events, MediaEvent::FirstAudio).await;
    media_event(&mut bob_events, MediaEvent::FirstAudio).await;
    let (at_ann, at_bob) = (recording(dir.path(), "at-ann"), recording(dir.path(), "at-bob"));
    ann.record(&at_ann).expect("a file");
    bob.record(&at_bob).expect("a file");
    packets(&ann, 60).await;
    packets(&bob, 10).await;
    ann.finish_recording().expect("a recording");
    bob.finish_recording().expect("a recording");
    assert_tone(&at_ann, 880);
    assert_tone(&at_bob, 440);
    hub.close().await;
    ann.close().await;
    bob.close().await;
}

#[tokio::test]
async fn a_client_that_stops_sending_is_noticed_within_seconds() {
    let hub = hub_at("127.0.0.1", None);
    let (session, _events, call, mut rtc_events) = connected(&hub, "127.0.0.2").await;
    call.relay_to(Some(Arc::new(Echo(Arc::clone(&call)))));
    packets(&session, 10).await;
    session.close().await;
    // A client that says goodbye is noticed at once, one that does not by its silence.
    let started = tokio::time::Instant::now();
    rtc_event(&mut rtc_events, |event| matches!(event, RtcEvent::Closed | RtcEvent::Stalled)).await;
    assert!(started.elapsed() < Duration::from_secs(4), "after {:?}", started.elapsed());
    hub.close().await;
}

#[tokio::test]
async fn what_cannot_be_a_call_is_refused_by_name() {
    let hub = hub_at("127.0.0.1", None);
    let (session, offer) = MediaSession::offer(client_at("127.0.0.2")).await.expect("an offer");
    let refused = offer.replace("m=audio 9", "m=audio 0");
    assert!(matches!(hub.answer(&refused, &ALL).await, Err(RtcError::NoMedia)));
    assert!(matches!(hub.answer("", &ALL).await, Err(RtcError::NoMedia)));
    assert!(matches!(hub.answer(&"x".repeat(1 << 20), &ALL).await, Err(RtcError::NoMedia)));
    let no_ice = offer.replace("a=ice-", "a=not-ice-");
    assert!(matches!(hub.answer(&no_ice, &ALL).await, Err(RtcError::Sdp(_))));
    assert!(matches!(hub.answer(&offer, &[Encoding::TelephoneEvent]).await, Err(RtcError::NoCommonCodec)));
    assert_eq!(hub.calls(), 0, "a refused call leaves nothing behind");
    let (call, _events, _offer) = hub.offer(&ALL).await.expect("an offer");
    assert!(matches!(call.restart(), Err(RtcError::OutOfOrder)));
    assert!(matches!(call.accept_answer(&refused), Err(RtcError::NoMedia)));
    call.close();
    assert!(matches!(call.accept_answer(&offer), Err(RtcError::Closed)));
    hub.close().await;
    session.close().await;
}

/// A STUN server that says the same address to everybody.
async fn stun_server(mapped: SocketAddr, tasks: &mut tokio::task::JoinSet<()>) -> SocketAddr {
    let socket = tokio::net::UdpSocket::bind("127.0.0.9:0").await.expect("a free port");
    let address = socket.local_addr().expect("it is bound");
    let SocketAddr::V4(mapped) = mapped else { panic!("an IPv4 address") };
    tasks.spawn(async move {
        let mut request = [0u8; 256];
        while let Ok((_, source)) = socket.recv_from(&mut request).await {
            let cookie = 0x2112_a442u32;
            let mut response = vec![1, 1, 0, 12];
            response.extend_from_slice(&request[4..20]);
            response.extend_from_slice(&[0, 0x20, 0, 8, 0, 1]);
            response.extend_from_slice(&(mapped.port() ^ 0x2112).to_be_bytes());
            response.extend_from_slice(&(u32::from(*mapped.ip()) ^ cookie).to_be_bytes());
            let _ = socket.send_to(&response, source).await;
        }
    });
    address
}

#[tokio::test]
async fn the_public_address_is_offered_and_its_change_is_told() {
    let mut tasks = tokio::task::JoinSet::new();
    let first = stun_server("192.0.2.7:4000".parse().expect("an address"), &mut tasks).await;
    let second = stun_server("192.0.2.8:4001".parse().expect("an address"), &mut tasks).await;
    let hub = hub_at("127.0.0.1", Some(first));
    let (call, mut events, offer) = hub.offer(&ALL).await.expect("an offer");
    assert!(offer.contains("192.0.2.7 4000 typ srflx"), "{offer}");
    let (session, offer) = MediaSession::offer(client_at("127.0.0.2")).await.expect("an offer");
    let (answered, mut answered_events, answer) = hub.answer(&offer, &ALL).await.expect("an answer");
    assert!(answer.contains("192.0.2.7 4000 typ srflx"), "{answer}");
    session.accept_answer(&answer).await.expect("an answer with media");
    rtc_event(&mut answered_events, |event| *event == RtcEvent::Connected).await;

    hub.set_stun(Some(second));
    rtc_event(&mut events, |event| *event == RtcEvent::MappingChanged).await;
    rtc_event(&mut answered_events, |event| *event == RtcEvent::MappingChanged).await;
    let restart = answered.restart().expect("a restart");
    assert!(restart.contains("192.0.2.8 4001 typ srflx"), "{restart}");
    assert!(!restart.contains("192.0.2.7"), "the stale candidate is gone: {restart}");
    call.close();
    hub.close().await;
    session.close().await;
}

#[tokio::test]
async fn a_silent_stun_server_costs_a_candidate_and_not_the_call() {
    let silent = std::net::UdpSocket::bind("127.0.0.9:0").expect("a free port");
    let hub = hub_at("127.0.0.1", silent.local_addr().ok());
    let offered = timeout(Duration::from_secs(2), hub.offer(&ALL)).await.expect("in time");
    let (_call, _events, offer) = offered.expect("an offer");
    assert!(offer.contains("typ host") && !offer.contains("srflx"), "{offer}");
    hub.close().await;
}

#[tokio::test]
async fn a_storm_of_hostile_datagrams_does_not_disturb_a_call() {
    let hub = hub_at("127.0.0.1", None);
    let (session, _events, call, _rtc_events) = connected(&hub, "127.0.0.2").await;
    call.relay_to(Some(Arc::new(Echo(Arc::clone(&call)))));
    packets(&session, 10).await;
    let stranger = tokio::net::UdpSocket::bind("127.0.0.8:0").await.expect("a free port");
    let offer = hub.offer(&ALL).await.expect("an offer").2;
    let ufrag = offer.split("a=ice-ufrag:").nth(1).and_then(|rest| rest.lines().next()).expect("it has one");
    // A check that is well formed, for a call that exists somewhere, with a forged proof.
    let mut check = vec![0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0, 6, 0];
    let username = format!("{ufrag}:you");
    check.push(u8::try_from(username.len()).expect("short"));
    check.extend_from_slice(username.as_bytes());
    check.resize(check.len().next_multiple_of(4), 0);
    check.extend_from_slice(&[0, 8, 0, 20]);
    check.extend_from_slice(&[7; 20]);
    let length = u16::try_from(check.len() - 20).expect("short").to_be_bytes();
    check[2..4].copy_from_slice(&length);
    let numbers = Numbers(Mutex::new(99));
    for round in 0..3000usize {
        let mut datagram = if round % 2 == 0 { check.clone() } else { vec![0; 1 + round % 300] };
        let mut noise = [0u8; 8];
        numbers.fill(&mut noise);
        if round % 2 == 1 {
            numbers.fill(&mut datagram);
            datagram[0] = [0, 1, 22, 23, 128, 144, 200, noise[0]][round / 2 % 8];
        } else {
            let at = usize::from(noise[1]) % datagram.len();
            datagram[at] ^= noise[2];
            datagram.truncate(datagram.len() - usize::from(noise[3]) % 4);
        }
        stranger.send_to(&datagram, hub.local_addr()).await.expect("loopback takes it");
    }
    packets(&session, 50).await;
    assert_eq!(hub.calls(), 1);
    hub.close().await;
    session.close().await;
}
