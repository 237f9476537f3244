//! The desk phone against itself: one calls, the other answers, and what each hears is what the other plays.

use std::{collections::BTreeMap, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use ahoy_proto::time::Entropy;
use ahoy_testkit::{
    phone::{Behaviour, Command, Event, Phone, PhoneConfig},
    tone,
};
use rand::{Rng, SeedableRng};

const DEADLINE: Duration = Duration::from_secs(20);

struct Seeded(std::sync::Mutex<rand_chacha::ChaCha8Rng>);

impl Entropy for Seeded {
    fn fill(&self, buffer: &mut [u8]) {
        self.0.lock().expect("no panic while held").fill_bytes(buffer);
    }
}

async fn phone(seed: u64, tone_hz: u32, folder: &Path) -> Phone {
    let extensions = BTreeMap::from([
        ("200".to_owned(), Behaviour::Answer),
        ("201".to_owned(), Behaviour::Busy),
        ("202".to_owned(), Behaviour::Ring),
    ]);
    let config = PhoneConfig {
        bind: SocketAddr::from(([127, 0, 0, 1], 0)),
        user: "100".to_owned(),
        extensions,
        ring_ms: 50,
        tone_hz,
        record_dir: Some(folder.to_owned()),
    };
    let random = Seeded(std::sync::Mutex::new(rand_chacha::ChaCha8Rng::seed_from_u64(seed)));
    Phone::start(config, Arc::new(random)).await.expect("a free port")
}

async fn wait_for(phone: &mut Phone, wanted: impl Fn(&Event) -> bool) -> Event {
    let search = async {
        loop {
            let event = phone.events.recv().await.expect("the phone is on");
            if wanted(&event) {
                return event;
            }
        }
    };
    tokio::time::timeout(DEADLINE, search).await.expect("the event comes in time")
}

async fn dial(from: &Phone, to: &Phone, extension: &str) {
    let uri = format!("sip:{extension}@{}", to.address);
    from.commands.send(Command::Call { uri, to: to.address }).await.expect("the phone is on");
}

#[tokio::test]
async fn two_phones_hear_each_other_and_the_keys_that_are_pressed() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let (mut caller, mut callee) = (phone(1, 440, folder.path()).await, phone(2, 620, folder.path()).await);
    dial(&caller, &callee, "200").await;
    wait_for(&mut caller, |e| matches!(e, Event::Ringing { status: 180, .. })).await;
    wait_for(&mut caller, |e| matches!(e, Event::FirstAudio { .. })).await;
    caller.commands.send(Command::Press { call: String::new(), digits: "12#".to_owned() }).await.expect("on");
    for wanted in ['1', '2', '#'] {
        wait_for(&mut callee, |e| matches!(e, Event::Dtmf { digit, .. } if *digit == wanted)).await;
    }
    caller.commands.send(Command::Hangup { call: String::new() }).await.expect("on");
    // The callee hears keys most of the time; what the caller heard meanwhile is the callee's tone alone.
    wait_for(
        &mut callee,
        |e| matches!(e, Event::Ended { by, digits, .. } if by == "remote" && digits == "12#"),
    )
    .await;
    let ended = wait_for(&mut caller, |e| matches!(e, Event::Ended { .. })).await;
    let Event::Ended { recording: Some(recording), .. } = ended else { panic!("no recording: {ended:?}") };
    let samples = tone::read_wav(&recording).expect("a WAV file");
    assert!(samples.len() > 1600, "only {} samples", samples.len());
    let share = tone::share(&samples, 620);
    assert!(share > 0.9, "the share of 620 Hz is {share}");
    caller.stop().await;
    callee.stop().await;
}

#[tokio::test]
async fn a_busy_or_unknown_extension_refuses() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let (mut caller, callee) = (phone(3, 440, folder.path()).await, phone(4, 620, folder.path()).await);
    for (extension, refusal) in [("201", 486), ("999", 404)] {
        dial(&caller, &callee, extension).await;
        wait_for(&mut caller, |e| matches!(e, Event::Rejected { status, .. } if *status == refusal)).await;
    }
    caller.stop().await;
    callee.stop().await;
}

#[tokio::test]
async fn hanging_up_while_it_rings_cancels() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let (mut caller, mut callee) = (phone(5, 440, folder.path()).await, phone(6, 620, folder.path()).await);
    dial(&caller, &callee, "202").await;
    wait_for(&mut caller, |e| matches!(e, Event::Ringing { .. })).await;
    caller.commands.send(Command::Hangup { call: String::new() }).await.expect("on");
    wait_for(&mut callee, |e| matches!(e, Event::Ended { by, .. } if by == "cancelled")).await;
    wait_for(&mut caller, |e| matches!(e, Event::Rejected { status: 487, .. })).await;
    caller.stop().await;
    callee.stop().await;
}
