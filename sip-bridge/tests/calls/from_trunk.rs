//! Calls from a phone of the PBX to an Ahoy address.

use ahoy_client::media::MediaEvent;
use ahoy_proto::v1::{self, HangupReason, call_frame::Message};

use crate::homeserver::Hop;
use crate::pbx::{Dialog, Sip, WITH_KEYS, WITHOUT_KEYS};
use crate::rig::{Person, World};

const CALLER: &str = "caller@home.example";

fn answer(sdp: &str) -> Message {
    Message::Answer(v1::Answer { sdp: sdp.to_owned(), answered_by: CALLER.into(), ..v1::Answer::default() })
}

/// A phone dialled; the network has its Invite.
async fn dialled(world: &mut World, user: &str) -> (Dialog, Sip, Hop, String) {
    let sdp = world.pbx.sdp(WITH_KEYS, "sendrecv");
    let (dialog, invite) = world.pbx.call(user, &sdp).await;
    let (hop, open, call) = Hop::placed(&world.link).await;
    assert_eq!((open.to.as_str(), open.from.as_str()), (CALLER, "support@bank.example"));
    assert_eq!(call.caller_display, "Desk");
    (dialog, invite, hop, call.sdp)
}

#[tokio::test]
async fn a_phone_reaches_an_address_by_short_code_and_by_uri_and_both_are_heard() {
    for user in ["9001", "caller%40home.example"] {
        let mut world = World::start().await;
        let (mut dialog, _, mut hop, offer) = dialled(&mut world, user).await;
        hop.say(Message::Ringing(v1::Ringing::default())).await;
        world.pbx.response(180).await;
        let (mut person, sdp) = Person::called(&offer).await;
        hop.say(answer(&sdp)).await;
        let ok = world.pbx.response(200).await;
        world.pbx.learn(&mut dialog, &ok).await;
        world.pbx.speak(ok.rtp(), 10).await;
        person.event(MediaEvent::FirstAudio).await;
        assert_eq!(world.pbx.hear(8).await.len(), 160);
        hop.hang_up(HangupReason::Normal).await;
        let bye = world.pbx.request("BYE").await;
        world.pbx.reply(&bye, "200 OK", "").await;
        let cdr = world.cdr().await;
        assert_eq!((&cdr["way"], &cdr["from"]), (&"from_trunk".into(), &"201".into()));
        world.end().await;
    }
}

#[tokio::test]
async fn a_phone_that_gives_up_cancels_the_call_in_the_network() {
    let mut world = World::start().await;
    let (_, invite, mut hop, _) = dialled(&mut world, "9001").await;
    hop.say(Message::Ringing(v1::Ringing::default())).await;
    world.pbx.response(180).await;
    world.pbx.cancel(&invite).await;
    let refused = world.pbx.response(487).await;
    assert_eq!(refused.value("CSeq"), "1 INVITE");
    assert_eq!(hop.hangup().await.reason(), HangupReason::Cancelled);
    assert_eq!(world.cdr().await["sip_end"], "remote_cancel");
    world.end().await;
}

#[tokio::test]
async fn a_phone_that_hangs_up_ends_the_call_in_the_network() {
    let mut world = World::start().await;
    let (mut dialog, _, mut hop, offer) = dialled(&mut world, "9001").await;
    let (_person, sdp) = Person::called(&offer).await;
    hop.say(answer(&sdp)).await;
    let ok = world.pbx.response(200).await;
    world.pbx.learn(&mut dialog, &ok).await;
    world.pbx.ask(&mut dialog, "BYE", "").await;
    assert_eq!(hop.hangup().await.reason(), HangupReason::Normal);
    world.end().await;
}

#[tokio::test]
async fn a_refusal_of_the_network_reaches_the_phone_as_its_status() {
    for (reason, status) in [
        (HangupReason::Busy, 486),
        (HangupReason::Declined, 603),
        (HangupReason::NoAnswer, 480),
        (HangupReason::NotFound, 404),
        (HangupReason::NotReachable, 480),
        (HangupReason::Forbidden, 403),
        (HangupReason::Unavailable, 503),
    ] {
        let mut world = World::start().await;
        let (mut dialog, _, mut hop, _) = dialled(&mut world, "9001").await;
        hop.hang_up(reason).await;
        let refused = world.pbx.until(|message| message.status() >= 300).await;
        assert_eq!(refused.status(), status, "{reason:?}");
        world.pbx.learn(&mut dialog, &refused).await;
        world.end().await;
    }
}

#[tokio::test]
async fn numbers_and_strangers_are_refused_before_the_network_hears_of_them() {
    let mut world = World::start().await;
    let sdp = world.pbx.sdp(WITH_KEYS, "sendrecv");
    for user in ["112", "911", "+41441234567", "0041441234567", "200", "*21", "nobody", "a%40"] {
        let (mut dialog, _) = world.pbx.call(user, &sdp).await;
        let refused = world.pbx.until(|message| message.status() >= 300).await;
        assert_eq!(refused.status(), 404, "{user}");
        world.pbx.learn(&mut dialog, &refused).await;
    }
    // The network's first call is this one.
    let (_, invite, hop, _) = dialled(&mut world, "9001").await;
    world.pbx.cancel(&invite).await;
    world.pbx.response(487).await;
    drop(hop);
    world.end().await;
}

#[tokio::test]
async fn audio_that_the_bridge_does_not_speak_is_refused_with_488() {
    let mut world = World::start().await;
    let sdp = world.pbx.sdp("RTP/AVP 18\r\n", "sendrecv");
    let (mut dialog, _) = world.pbx.call("9001", &sdp).await;
    let refused = world.pbx.response(488).await;
    world.pbx.learn(&mut dialog, &refused).await;
    assert_eq!(world.cdr().await["reason"], "media");
    world.end().await;
}

#[tokio::test]
async fn an_offerless_invite_is_answered_with_an_offer_and_heard_both_ways() {
    let mut world = World::start().await;
    let (mut dialog, _) = world.pbx.call("9001", "").await;
    let (mut hop, _, call) = Hop::placed(&world.link).await;
    let (mut person, sdp) = Person::called(&call.sdp).await;
    hop.say(answer(&sdp)).await;
    let ok = world.pbx.response(200).await;
    assert!(ok.body().contains("m=audio"), "{}", ok.body());
    dialog.learn_from(&ok);
    let ours = world.pbx.sdp(WITHOUT_KEYS, "sendrecv");
    world.pbx.ask(&mut dialog, "ACK", &ours).await;
    world.pbx.speak(ok.rtp(), 10).await;
    person.event(MediaEvent::FirstAudio).await;
    assert_eq!(world.pbx.hear(8).await.len(), 160);
    world.pbx.ask(&mut dialog, "BYE", "").await;
    hop.hangup().await;
    world.end().await;
}

#[tokio::test]
async fn an_answer_without_audio_ends_the_call_instead_of_silence() {
    let mut world = World::start().await;
    let (mut dialog, _, mut hop, offer) = dialled(&mut world, "9001").await;
    let (_person, sdp) = Person::called(&offer).await;
    let start = sdp.find("m=audio ").expect("audio") + "m=audio ".len();
    let port = sdp[start..].split(' ').next().expect("a port").len();
    let refused = format!("{}0{}", &sdp[..start], &sdp[start + port..]);
    hop.say(answer(&refused)).await;
    assert_eq!(hop.hangup().await.reason(), HangupReason::Media);
    let refused = world.pbx.response(488).await;
    world.pbx.learn(&mut dialog, &refused).await;
    world.end().await;
}
