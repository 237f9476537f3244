//! Keys: in the audio where the receiving side takes telephone events, else as a message; never both.

use std::time::Duration;

use ahoy_client::media::MediaEvent;
use ahoy_proto::v1::{self, call_frame::Message};
use ahoy_testkit::tone;

use crate::pbx::{WITH_KEYS, WITHOUT_KEYS};
use crate::rig::{Person, World};

fn keys(digits: &str) -> Message {
    Message::Dtmf(v1::Dtmf { digits: digits.into(), duration_ms: 100 })
}

#[tokio::test]
async fn keys_that_come_as_a_message_are_played_to_the_pbx_as_telephone_events() {
    let mut world = World::start().await;
    let mut call = world.answered_by_pbx(Person::calling_without_keys().await, WITH_KEYS).await;
    call.hop.say(keys("4#")).await;
    let mut pressed = Vec::new();
    let mut ends = 0;
    while ends < 6 {
        let event = world.pbx.hear(101).await;
        ends += usize::from(event[1] & 0x80 != 0);
        pressed.push(event[0]);
    }
    pressed.dedup();
    assert_eq!(pressed, [4, 11]);
    world.pbx.ask(&mut call.dialog, "BYE", "").await;
    call.hop.hangup().await;
    world.end().await;
}

#[tokio::test]
async fn keys_of_the_pbx_are_a_message_once_each_where_the_network_takes_no_telephone_events() {
    let mut world = World::start().await;
    let mut call = world.answered_by_pbx(Person::calling_without_keys().await, WITH_KEYS).await;
    let to = call.invite.rtp();
    world.pbx.press(to, 7, 8000).await;
    world.pbx.press(to, 7, 16000).await;
    for _ in 0..2 {
        let Message::Dtmf(dtmf) = call.hop.next().await else { panic!("a key") };
        assert_eq!(dtmf.digits, "7");
    }
    assert_eq!(call.hop.said_within(Duration::from_millis(300)).await, None, "each key once");
    world.pbx.ask(&mut call.dialog, "BYE", "").await;
    call.hop.hangup().await;
    world.end().await;
}

#[tokio::test]
async fn keys_stay_in_the_audio_and_are_no_message_where_both_sides_take_telephone_events() {
    let mut world = World::start().await;
    let mut call = world.answered_by_pbx(Person::calling().await, WITH_KEYS).await;
    world.pbx.press(call.invite.rtp(), 5, 8000).await;
    call.person.event(MediaEvent::Dtmf('5')).await;
    assert_eq!(call.hop.said_within(Duration::from_millis(300)).await, None, "not as a message, too");
    call.person.media.dtmf("9").expect("negotiated");
    assert_eq!(world.pbx.hear(101).await[0], 9);
    world.pbx.ask(&mut call.dialog, "BYE", "").await;
    call.hop.hangup().await;
    world.end().await;
}

#[tokio::test]
async fn a_pbx_without_telephone_events_hears_keys_as_sound_however_they_came() {
    let mut world = World::start().await;
    let mut call = world.answered_by_pbx(Person::calling().await, WITHOUT_KEYS).await;
    call.hop.say(keys("5")).await;
    assert_pressed(&world, [770, 1336]).await;
    call.person.media.dtmf("#").expect("negotiated with the bridge");
    assert_pressed(&world, [941, 1477]).await;
    world.pbx.ask(&mut call.dialog, "BYE", "").await;
    call.hop.hangup().await;
    world.end().await;
}

/// Within the next two seconds 80 ms are these two frequencies and little else.
async fn assert_pressed(world: &World, [low, high]: [u32; 2]) {
    let mut frames = Vec::new();
    for _ in 0..100 {
        frames.push(world.pbx.hear(8).await);
        let Some(last) = frames.len().checked_sub(4).map(|start| frames[start..].concat()) else { continue };
        let samples: Vec<i16> = last.iter().map(|byte| linear(*byte)).collect();
        let (low, high) = (tone::share(&samples, low), tone::share(&samples, high));
        if low > 0.35 && high > 0.35 && low + high > 0.9 {
            return;
        }
    }
    panic!("no {low} + {high} Hz in {} frames", frames.len());
}

/// ITU-T G.711, A-law.
fn linear(byte: u8) -> i16 {
    let value = byte ^ 0x55;
    let (segment, step) = (i16::from(value >> 4 & 7), i16::from(value & 15));
    let magnitude = if segment == 0 { step * 16 + 8 } else { (step * 16 + 264) << (segment - 1) };
    if value & 0x80 != 0 { magnitude } else { -magnitude }
}
