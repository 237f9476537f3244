//! Calls from the network to a line of the PBX.

use ahoy_client::media::MediaEvent;
use ahoy_proto::v1::{HangupReason, HoldDirection, call_frame::Message};

use crate::homeserver::Hop;
use crate::pbx::WITH_KEYS;
use crate::rig::{Person, World, eventually, hold};

#[tokio::test]
async fn a_call_rings_is_answered_heard_both_ways_and_ended_by_the_pbx() {
    let mut world = World::start().await;
    let (mut person, mut hop, invite) = world.rings_at_pbx(Person::calling().await).await;
    assert!(invite.0.starts_with("INVITE sip:200@"), "{}", invite.0);
    assert!(invite.value("From").contains("Ann (caller@home.example)"), "{}", invite.value("From"));
    world.pbx.reply(&invite, "180 Ringing", "").await;
    let Message::Ringing(_) = hop.next().await else { panic!("it rings") };
    let sdp = world.pbx.sdp(WITH_KEYS, "sendrecv");
    world.pbx.reply(&invite, "200 OK", &sdp).await;
    world.pbx.request("ACK").await;
    let Message::Answer(answer) = hop.next().await else { panic!("an answer") };
    assert_eq!((answer.sdp.as_str(), answer.answered_by.as_str()), ("", "support@bank.example"));
    world.pbx.speak(invite.rtp(), 10).await;
    person.event(MediaEvent::FirstAudio).await;
    assert_eq!(world.pbx.hear(8).await.len(), 160, "20 ms of A-law");
    let mut dialog = world.pbx.dialog_of(&invite);
    world.pbx.ask(&mut dialog, "BYE", "").await;
    world.pbx.response(200).await;
    assert_eq!(hop.hangup().await.reason(), HangupReason::Normal);
    let cdr = world.cdr().await;
    assert_eq!((&cdr["reason"], &cdr["sip_end"]), (&"normal".into(), &"remote_bye".into()));
    world.end().await;
}

#[tokio::test]
async fn a_caller_who_hangs_up_an_answered_call_ends_it_at_the_pbx() {
    let mut world = World::start().await;
    let mut call = world.answered_by_pbx(Person::calling().await, WITH_KEYS).await;
    call.hop.hang_up(HangupReason::Normal).await;
    let bye = world.pbx.request("BYE").await;
    world.pbx.reply(&bye, "200 OK", "").await;
    assert_eq!(world.cdr().await["sip_end"], "local");
    world.end().await;
}

#[tokio::test]
async fn a_caller_who_gives_up_cancels_the_invite() {
    let mut world = World::start().await;
    let (_person, mut hop, invite) = world.rings_at_pbx(Person::calling().await).await;
    world.pbx.reply(&invite, "180 Ringing", "").await;
    let Message::Ringing(_) = hop.next().await else { panic!("it rings") };
    hop.hang_up(HangupReason::Cancelled).await;
    let cancel = world.pbx.request("CANCEL").await;
    assert_eq!(cancel.line("Via"), invite.line("Via"), "it names the INVITE's transaction");
    world.pbx.reply(&cancel, "200 OK", "").await;
    world.pbx.reply(&invite, "487 Request Terminated", "").await;
    world.pbx.request("ACK").await;
    assert_eq!(world.cdr().await["reason"], "cancelled");
    world.end().await;
}

#[tokio::test]
async fn a_refusal_of_the_pbx_reaches_the_caller_by_name() {
    for (status, reason) in [
        ("486 Busy Here", HangupReason::Busy),
        ("404 Not Found", HangupReason::NotFound),
        ("603 Decline", HangupReason::Declined),
        ("480 Temporarily Unavailable", HangupReason::NoAnswer),
        ("403 Forbidden", HangupReason::Forbidden),
        ("503 Service Unavailable", HangupReason::TrunkDown),
        ("488 Not Acceptable Here", HangupReason::Media),
        ("302 Moved Temporarily", HangupReason::NotReachable),
    ] {
        let mut world = World::start().await;
        let (_person, mut hop, invite) = world.rings_at_pbx(Person::calling().await).await;
        world.pbx.reply(&invite, status, "").await;
        world.pbx.request("ACK").await;
        let hangup = hop.hangup().await;
        let number: u32 = status[..3].parse().expect("a status");
        assert_eq!((hangup.reason(), hangup.sip_status), (reason, number), "{status}");
        let cdr = world.cdr().await;
        assert_eq!((&cdr["sip_status"], &cdr["sip_end"]), (&number.into(), &"rejected".into()));
        world.end().await;
    }
}

#[tokio::test]
async fn an_offer_without_a_codec_of_the_trunk_ends_with_media_and_never_reaches_the_pbx() {
    let mut world = World::start().await;
    let person = Person::calling().await;
    let foreign = person.offer.replace("PCMA/8000", "G729/8000").replace("PCMU/8000", "G728/8000");
    let mut hop = Hop::ring(&world.link, "support@bank.example", &foreign).await;
    assert_eq!(hop.hangup().await.reason(), HangupReason::Media);
    assert_eq!(world.cdr().await["reason"], "media");
    // Nothing but OPTIONS came, then this call's INVITE.
    let mut hop = Hop::ring(&world.link, "support@bank.example", &person.offer).await;
    let first = world.pbx.until(|message| message.method() != "OPTIONS").await;
    assert_eq!(first.method(), "INVITE");
    hop.hang_up(HangupReason::Cancelled).await;
    world.pbx.reply(&first, "100 Trying", "").await;
    let cancel = world.pbx.request("CANCEL").await;
    world.pbx.reply(&cancel, "200 OK", "").await;
    world.pbx.reply(&first, "487 Request Terminated", "").await;
    world.pbx.request("ACK").await;
    world.end().await;
}

#[tokio::test]
async fn hold_of_the_pbx_is_told_and_so_is_its_end() {
    let mut world = World::start().await;
    let mut call = world.answered_by_pbx(Person::calling().await, WITH_KEYS).await;
    for (direction, told, answered) in [
        ("sendonly", HoldDirection::BySender, "a=recvonly"),
        ("inactive", HoldDirection::Inactive, "a=inactive"),
        ("sendrecv", HoldDirection::None, "a=sendrecv"),
    ] {
        let sdp = world.pbx.sdp(WITH_KEYS, direction);
        world.pbx.ask(&mut call.dialog, "INVITE", &sdp).await;
        let ok = world.pbx.response(200).await;
        assert!(ok.body().contains(answered), "{direction}: {}", ok.body());
        world.pbx.ask(&mut call.dialog, "ACK", "").await;
        assert_eq!(call.hop.until(hold).await, told, "{direction}");
    }
    // Held, the PBX got nothing; resumed, it does.
    let before = world.pbx.hear(8).await;
    assert_eq!(before.len(), 160);
    // A refresh that changes nothing is answered and not told.
    let sdp = world.pbx.sdp(WITH_KEYS, "sendrecv");
    world.pbx.ask(&mut call.dialog, "UPDATE", &sdp).await;
    world.pbx.response(200).await;
    world.pbx.ask(&mut call.dialog, "BYE", "").await;
    let Message::Hangup(_) = call.hop.next().await else { panic!("nothing else was told") };
    world.end().await;
}

#[tokio::test]
async fn announcements_before_the_answer_are_heard_and_a_later_refusal_is_told() {
    let mut world = World::start().await;
    let (mut person, mut hop, invite) = world.rings_at_pbx(Person::calling().await).await;
    let sdp = world.pbx.sdp(WITH_KEYS, "sendrecv");
    world.pbx.reply(&invite, "183 Session Progress", &sdp).await;
    let Message::Early(_) = hop.next().await else { panic!("announcements flow") };
    person.event(MediaEvent::Connected).await;
    world.pbx.speak(invite.rtp(), 10).await;
    person.event(MediaEvent::FirstAudio).await;
    world.pbx.reply(&invite, "480 Temporarily Unavailable", "").await;
    world.pbx.request("ACK").await;
    assert_eq!(hop.hangup().await.reason(), HangupReason::NoAnswer);
    world.end().await;
}

#[tokio::test]
async fn an_unknown_line_is_not_found_and_a_pbx_that_says_nothing_is_down() {
    let mut world = World::start().await;
    let person = Person::calling().await;
    let mut nobody = Hop::ring(&world.link, "sales@bank.example", &person.offer).await;
    assert_eq!(nobody.hangup().await.reason(), HangupReason::NotFound);
    let mut hop = Hop::ring(&world.link, "support@bank.example", &person.offer).await;
    world.pbx.request("INVITE").await;
    let started = tokio::time::Instant::now();
    assert_eq!(hop.hangup().await.reason(), HangupReason::TrunkDown);
    assert!(started.elapsed().as_secs() < 7, "after {:?}", started.elapsed());
    eventually("the leg is gone", || world.exchange.hub.calls() == 0).await;
}
