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
