//! Drives the fuzz targets with mutations of good inputs, on stable and in seconds: no stranger's bytes panic.

use ahoy_proto::anchor::{Anchor, AnchorDraft, AnchorEndpoint};
use ahoy_proto::attestation::{Context, attest};
use ahoy_proto::card::sign_card;
use ahoy_proto::key::SigningKey;
use ahoy_proto::name::{Name, NamePolicy};
use ahoy_proto::time::Timestamp;
use ahoy_proto::v1::control_frame::Frame;
use ahoy_proto::{frame, fuzz, v1};
use bytes::Bytes;
use prost::Message as _;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// Runs `target` on `rounds` mutations of `seeds`.
fn drive(target: fn(&[u8]), seeds: &[Vec<u8>], rounds: usize) {
    let mut rng = ChaCha8Rng::seed_from_u64(2469);
    seeds.iter().for_each(|seed| target(seed));
    for _ in 0..rounds {
        let mut input = seeds[rng.random_range(0..seeds.len())].clone();
        for _ in 0..rng.random_range(1..4) {
            mutate(&mut input, seeds, &mut rng);
        }
        target(&input);
    }
}

fn mutate(input: &mut Vec<u8>, seeds: &[Vec<u8>], rng: &mut ChaCha8Rng) {
    let at = rng.random_range(0..=input.len());
    let other = &seeds[rng.random_range(0..seeds.len())];
    match rng.random_range(0..6) {
        0 if at < input.len() => input[at] ^= 1 << rng.random_range(0..8),
        1 if at < input.len() => input[at] = rng.random(),
        2 => input.truncate(at),
        3 => input.insert(at, rng.random()),
        4 => _ = input.splice(at.., other[at.min(other.len())..].to_vec()),
        _ => {
            let end = input.len().min(at + rng.random_range(0..20));
            let piece = input[at..end].to_vec();
            input.splice(at..at, piece);
        }
    }
}

fn key() -> SigningKey {
    SigningKey::from_seed([1; 32])
}

fn anchor_text() -> String {
    let name = Name::parse("bank.example", &NamePolicy::allowing(["example"])).expect("a name");
    let draft = AnchorDraft {
        signed_at: Timestamp::from_secs(1_799_999_999),
        endpoints: vec![AnchorEndpoint::new("hs.bank.example", 443, 1, 2).expect("a host")],
        capabilities: "mc".into(),
        ..Default::default()
    };
    draft.sign(&name, &key()).expect("a sound draft")
}

#[test]
fn no_address_panics() {
    let seeds = ["support@bank.example", "bücher.de", "ahoy:a.b+c@xn--bcher-kva.de", "[::1]", "почта.рф"];
    let id = [&[2, 12][..], b"bank.example", &[7; 32]].concat();
    let seeds: Vec<_> = seeds.iter().map(|s| s.as_bytes().to_vec()).chain([id]).collect();
    drive(fuzz::address, &seeds, 25_000);
}

#[test]
fn no_anchor_panics() {
    let text = anchor_text();
    assert!(Anchor::parse(&text).is_ok());
    let other = "v=ahoy1;k=x;s=1;x=2;n=AAAAAAAAAAAAAAAAAAAAAA;e=a.b:1/2/3,c.d;c=m;l=a,b+;zz=1;g=y";
    let two = format!("{text}\n{other}\nv=spf1 -all");
    drive(fuzz::anchor, &[text.into_bytes(), other.into(), two.into_bytes()], 20_000);
}

#[test]
fn no_card_panics() {
    let card = v1::Card {
        name: "bank.example".into(),
        not_before: 1_799_999_999,
        not_after: 1_800_009_999,
        anchor: anchor_text(),
        tls_spki: vec![Bytes::from_static(&[9; 32])],
        endpoints: vec![v1::CardEndpoint { host: "hs.bank.example".into(), port: 1, ..Default::default() }],
        lines: vec![v1::CardLine { local: "support".into(), ..Default::default() }],
        ..Default::default()
    };
    drive(fuzz::card, &[sign_card(&card, &key()).encode_to_vec()], 5_000);
    // Contents that are rightly signed reach every rule behind the signature.
    drive(|body| fuzz::card(&signed(body).encode_to_vec()), &[card.encode_to_vec()], 2_000);
}

fn signed(body: &[u8]) -> v1::Signed {
    let signature = Bytes::copy_from_slice(&key().sign("ahoy-card-v1", &[body]));
    let signer = Bytes::copy_from_slice(key().public().as_bytes());
    v1::Signed { body: Bytes::copy_from_slice(body), signature, signer }
}

#[test]
fn no_frame_panics() {
    let want = Frame::Want(v1::Want { name: "bank.example".into() });
    let hello = Frame::ClientHello(v1::ClientHello {
        versions: vec![1],
        role: v1::Role::Device.into(),
        wanted_name: "bank.example".into(),
        nonce: Bytes::from_static(&[1; 32]),
        ..Default::default()
    });
    let error = Frame::Error(v1::Error { code: 6, class: 2, retry_after_ms: 5, message: "é".repeat(90) });
    let ring = v1::Ringing { branch: Bytes::from_static(&[1]), sdp: "v=0".into() };
    let ring = v1::CallFrame { counter: 1, message: Some(v1::call_frame::Message::Ringing(ring)) };
    let control = |f| frame::encode(&v1::ControlFrame { frame: Some(f) }).to_vec();
    let stream = [&[3][..], &control(hello), &control(want), &control(error), &frame::encode(&ring)].concat();
    drive(fuzz::frame, &[stream, vec![1, 0x80, 0x80, 0x10], vec![200; 300]], 30_000);
}

#[test]
fn no_event_panics() {
    let text = v1::Text { body: "ahoy".into(), ..Default::default() };
    let conversation: Bytes = [&[2, 12][..], b"bank.example", &[7; 32]].concat().into();
    let body = v1::EventBody {
        origin: "ann@home.example".into(),
        conversation: conversation.clone(),
        kind: "message".into(),
        time_ms: 1,
        client_id: Bytes::from_static(&[1; 16]),
        device: Bytes::from_static(&[1; 8]),
        nonce: Bytes::from_static(&[1; 16]),
        content: Some(v1::Content {
            fallback: "ahoy".into(),
            content: Some(v1::content::Content::Text(text)),
        }),
        to: "support@bank.example".into(),
    }
    .encode_to_vec();
    let placement = v1::PlacementBody {
        conversation,
        epoch: 5,
        seq: 2,
        event_id: Bytes::from_static(&[1; 32]),
        previous: Bytes::from_static(&[1; 32]),
        time_ms: 1,
        base: Bytes::new(),
    };
    let proof = attest(&[&body, &vec![1]], Context::Events, &key()).remove(0);
    let event = v1::Event { body: body.clone().into(), attestation: Some(proof) };
    drive(fuzz::event, &[body, placement.encode_to_vec(), event.encode_to_vec()], 20_000);
}

#[test]
fn no_handshake_panics_or_authenticates() {
    let hello = v1::ClientHello {
        versions: vec![1],
        role: v1::Role::Device.into(),
        wanted_name: "home.example".into(),
        nonce: Bytes::from_static(&[1; 32]),
        features: vec!["x".into()],
        limits: None,
    };
    let device = v1::DeviceAuth {
        account: "ann@home.example".into(),
        device_key: Bytes::copy_from_slice(key().public().as_bytes()),
        binding: v1::BindingKind::Spki.into(),
        signature: Bytes::from_static(&[1; 64]),
        enrol: Some(v1::Enrol { invite: "token".into(), label: "laptop".into() }),
    };
    let auth = v1::Auth { auth: Some(v1::auth::Auth::Device(device)) };
    let control = |f| frame::encode(&v1::ControlFrame { frame: Some(f) }).to_vec();
    let stream = [control(Frame::ClientHello(hello)), control(Frame::Auth(auth))].concat();
    drive(fuzz::session, &[stream], 20_000);
}
