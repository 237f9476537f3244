//! Calls that end, or must not, for reasons of the bridge: a lost homeserver, a drain.

use std::time::Duration;

use ahoy_proto::v1::HangupReason;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::homeserver::Hop;
use crate::pbx::WITH_KEYS;
use crate::rig::{Person, World, soon};

#[tokio::test]
async fn a_call_whose_homeserver_is_gone_for_15_seconds_is_ended_at_the_pbx() {
    let mut world = World::start().await;
    let call = world.answered_by_pbx(Person::calling().await, WITH_KEYS).await;
    let lost = Instant::now();
    world.link.close();
    let bye = world.pbx.request("BYE").await;
    let after = lost.elapsed();
    assert!((14..18).contains(&after.as_secs()), "after {after:?}");
    world.pbx.reply(&bye, "200 OK", "").await;
    assert_eq!(world.cdr().await["reason"], "connection_lost");
    drop(call);
    world.end().await;
}

#[tokio::test]
async fn a_draining_bridge_refuses_new_calls_on_both_sides_and_lets_the_live_one_finish() {
    let mut world = World::start().await;
    let mut call = world.answered_by_pbx(Person::calling().await, WITH_KEYS).await;
    let exchange = world.exchange.clone();
    let draining = TaskTracker::new().spawn(async move { exchange.drain(Duration::from_secs(15)).await });
    soon(world.exchange.draining.cancelled()).await;
    let person = Person::calling().await;
    let refused = Hop::ring(&world.link, "support@bank.example", &person.offer).await.hangup().await;
    assert_eq!(refused.reason(), HangupReason::Unavailable);
    assert!(refused.retry_after_ms > 0, "it says when to try again");
    let sdp = world.pbx.sdp(WITH_KEYS, "sendrecv");
    let (mut dialog, _) = world.pbx.call("9001", &sdp).await;
    let refused = world.pbx.response(503).await;
    assert!(!refused.value("Retry-After").is_empty());
    world.pbx.learn(&mut dialog, &refused).await;
    // The live call is untouched until its own end, and the drain ends with it.
    assert!(!draining.is_finished());
    world.pbx.speak(call.invite.rtp(), 5).await;
    world.pbx.ask(&mut call.dialog, "BYE", "").await;
    assert_eq!(call.hop.hangup().await.reason(), HangupReason::Normal);
    soon(draining).await.expect("no panic");
    world.end().await;
}

#[tokio::test]
async fn a_call_that_outlasts_the_drain_is_hung_up_on_both_sides() {
    let mut world = World::start().await;
    let mut call = world.answered_by_pbx(Person::calling().await, WITH_KEYS).await;
    let exchange = world.exchange.clone();
    let draining = TaskTracker::new().spawn(async move { exchange.drain(Duration::from_millis(200)).await });
    assert_eq!(call.hop.hangup().await.reason(), HangupReason::Unavailable);
    let bye = world.pbx.request("BYE").await;
    world.pbx.reply(&bye, "200 OK", "").await;
    soon(draining).await.expect("no panic");
}
