//! A PBX that is dead, and comes back.

use ahoy_proto::v1::HangupReason;
use tokio::time::Instant;

use crate::homeserver::Hop;
use crate::rig::{Person, World, eventually, logged};

#[tokio::test]
async fn a_call_to_a_dead_pbx_ends_at_once_and_rings_again_when_the_pbx_is_back() {
    let mut world = World::with("probe = true\n").await;
    let port = world.exchange.trunks[0].port.clone();
    let peer = format!("peer={}", world.pbx.at());
    eventually("the trunk is down", || port.is_down()).await;
    eventually("the log says so", || logged(&[&peer, "trunk is down"])).await;
    let person = Person::calling().await;
    let started = Instant::now();
    let mut hop = Hop::ring(&world.link, "support@bank.example", &person.offer).await;
    assert_eq!(hop.hangup().await.reason(), HangupReason::TrunkDown);
    assert!(started.elapsed().as_millis() < 2000, "after {:?}", started.elapsed());
    assert_eq!(world.cdr().await["reason"], "trunk_down");

    // It answers the next OPTIONS; what came before is still in its socket.
    world.pbx.request("OPTIONS").await;
    eventually("the trunk is up", || !port.is_down()).await;
    eventually("the log says so", || logged(&[&peer, "trunk is up again"])).await;
    let mut hop = Hop::ring(&world.link, "support@bank.example", &person.offer).await;
    let invite = world.pbx.request("INVITE").await;
    world.pbx.reply(&invite, "486 Busy Here", "").await;
    assert_eq!(hop.hangup().await.reason(), HangupReason::Busy);
}

#[tokio::test]
async fn a_garbled_request_of_the_pbx_is_answered_400_and_a_strangers_is_not() {
    let mut world = World::start().await;
    let garbled = format!(
        "OPTIONS sip:a b@c SIP/2.0\r\nVia: SIP/2.0/UDP {};branch=z9hG4bK1\r\nFrom: <sip:p@x>;tag=1\r\nTo: <sip:q@x>\r\n\
         Call-ID: 7\r\nCSeq: 1 OPTIONS\r\nContent-Length: many\r\n\r\n",
        world.pbx.at()
    );
    let stranger = tokio::net::UdpSocket::bind("127.0.0.8:0").await.expect("a free port");
    stranger.send_to(garbled.as_bytes(), world.pbx.bridge).await.expect("loopback takes it");
    world.pbx.send(&garbled).await;
    let refused = world.pbx.response(400).await;
    assert_eq!((refused.value("Call-ID"), refused.value("CSeq")), ("7", "1 OPTIONS"));
    // The stranger's came before: it would have been answered by now.
    assert!(stranger.try_recv(&mut [0; 100]).is_err());
    world.end().await;
}
