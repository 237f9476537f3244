//! Holds the vectors of the spec against the code: each good one passes, each bad one breaks the rule it names.

#[path = "../examples/vectors/build/all.rs"]
mod build;

use ahoy_proto::anchor::{self, Anchor, AnchorError};
use ahoy_proto::attestation::{self, AttestationError, Context, RootCache};
use ahoy_proto::base64url;
use ahoy_proto::card;
use ahoy_proto::event::event_id;
use ahoy_proto::frame::{FrameDecoder, FrameError};
use ahoy_proto::key::PublicKey;
use ahoy_proto::name::{Name, NamePolicy};
use ahoy_proto::session::{Binding, ProofParts, Transcript};
use ahoy_proto::time::Timestamp;
use ahoy_proto::v1;
use bytes::Bytes;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// The cases of one file, at least `least` of them good and bad each.
fn cases(file: &str, least: usize) -> Vec<Value> {
    let path = format!("{}/../spec/vectors/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let mut value: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{path}: {e}"));
    let cases: Vec<Value> = serde_json::from_value(value["cases"].take()).expect("a list of cases");
    let good = cases.iter().filter(|c| c["expect"]["ok"] != Value::Null).count();
    assert!(good >= least && cases.len() - good >= least, "{file}: {good} good of {}", cases.len());
    cases
}

fn text<'a>(case: &'a Value, field: &str) -> &'a str {
    case[field].as_str().unwrap_or_else(|| panic!("{field} in {}", case["what"]))
}

fn unhex(value: &Value) -> Bytes {
    let text = value.as_str().expect("hexadecimal");
    let byte = |i| u8::from_str_radix(&text[i..i + 2], 16).expect("hexadecimal");
    (0..text.len()).step_by(2).map(byte).collect::<Vec<_>>().into()
}

fn name(case: &Value) -> Name {
    Name::from_wire(text(case, "name"), &NamePolicy::allowing(["example"])).expect("a name")
}

fn now(case: &Value) -> Timestamp {
    Timestamp::from_secs(case["now"].as_u64().expect("seconds"))
}

/// A verdict in the form of a vector's `expect`.
fn verdict(result: Result<Value, &str>) -> Value {
    result.map_or_else(|rule| json!({ "breaks": rule }), |value| json!({ "ok": value }))
}

#[test]
fn the_files_are_what_the_example_writes() {
    for (file, content) in build::all() {
        let path = format!("{}/../spec/vectors/{file}", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
        let stored: Value = serde_json::from_str(&text).expect("JSON");
        assert!(stored == content, "{file} is stale: cargo run -p ahoy-proto --example vectors");
    }
}

#[test]
fn every_bad_vector_names_a_listed_requirement() {
    let spec = concat!(env!("CARGO_MANIFEST_DIR"), "/../spec");
    let mut tables = String::new();
    for entry in std::fs::read_dir(spec).expect("the specification") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "md") {
            tables += &std::fs::read_to_string(path).expect("text");
        }
    }
    for (file, content) in build::all() {
        for case in content["cases"].as_array().expect("cases") {
            let Some(rule) = case["expect"]["breaks"].as_str() else { continue };
            assert!(tables.lines().any(|line| line.starts_with(&format!("| {rule} | "))), "{file}: {rule}");
        }
    }
}

fn shown(a: &Anchor) -> Value {
    json!({
        "text": a.text(),
        "key": a.key.to_base64url(),
        "signed_at": a.signed_at.as_secs(),
        "not_after": a.not_after().as_secs(),
        "next": a.next.map(|n| base64url::encode(&n)),
        "endpoints": a.endpoints.iter().map(|e| json!([e.host(), e.port(), e.priority(), e.weight()])).collect::<Vec<_>>(),
        "capabilities": a.capabilities,
        "lines": a.lines.as_ref().map(|l| l.lines.iter().map(|l| l.as_str()).collect::<Vec<_>>()),
        "lines_complete": a.lines.as_ref().map(|l| l.complete),
    })
}

#[test]
fn anchors_are_read_and_refused_as_the_vectors_say() {
    for case in cases("anchor.json", 10) {
        let records: Vec<Vec<String>> = serde_json::from_value(case["records"].clone()).expect("records");
        let records: Vec<Vec<Bytes>> =
            records.into_iter().map(|r| r.into_iter().map(Bytes::from).collect()).collect();
        let result = anchor::select(&name(&case), &records, now(&case));
        let result = result.map(|anchors| anchors.iter().map(shown).collect()).map_err(AnchorError::rule);
        assert_eq!(verdict(result), case["expect"], "{}", case["what"]);
    }
}

#[test]
fn cards_are_believed_and_refused_as_the_vectors_say() {
    for case in cases("card.json", 6) {
        let anchor = Anchor::parse(text(&case, "anchor")).expect("a sound anchor");
        let [body, signature, signer] = ["body", "signature", "signer"].map(|f| unhex(&case[f]));
        let spki: [u8; 32] = unhex(&case["tls_spki"])[..].try_into().expect("32 bytes");
        let signed = v1::Signed { body, signature, signer };
        let result = card::verify_card(&signed, &name(&case), &anchor, now(&case))
            .map_err(|e| e.rule())
            .and_then(|card| if card.lists_tls(&spki) { Ok(card) } else { Err("NAME-CARD-07") });
        let result = result.map(|card| {
            let hex = |b: &[u8]| b.iter().map(|b| format!("{b:02x}")).collect::<String>();
            let keys: Vec<_> = card.message_keys.iter().map(|k| hex(k.key.as_bytes())).collect();
            json!({ "seq": card.seq, "not_after": card.not_after.as_secs(), "message_keys": keys })
        });
        assert_eq!(verdict(result), case["expect"], "{}", case["what"]);
    }
}

#[test]
fn attestations_hold_and_fail_as_the_vectors_say() {
    for case in cases("attestation.json", 7) {
        let context = [Context::Events, Context::Placements]
            .into_iter()
            .find(|c| c.as_str() == text(&case, "context"))
            .expect("a context");
        let number =
            |field: &str| case[field].as_u64().and_then(|n| u32::try_from(n).ok()).expect("a number");
        let proof = v1::Attestation {
            key: unhex(&case["key"]),
            signature: unhex(&case["signature"]),
            size: number("size"),
            index: number("index"),
            path: case["path"].as_array().expect("a list").iter().map(unhex).collect(),
        };
        let (body, key) = (unhex(&case["body"]), PublicKey::from_bytes(&unhex(&case["message_key"])));
        let result =
            attestation::verify_by(&body, &proof, context, &key.expect("a key"), &mut RootCache::new(1));
        let result = result.map(|()| json!({ "leaf": event_id(&body).to_string() }));
        assert_eq!(verdict(result.map_err(AttestationError::rule)), case["expect"], "{}", case["what"]);
    }
}

#[test]
fn frames_are_cut_and_refused_as_the_vectors_say_in_one_piece_and_byte_by_byte() {
    for case in cases("frame.json", 6) {
        let limit = case["limit"].as_u64().and_then(|n| usize::try_from(n).ok()).expect("a limit");
        let bytes = unhex(&case["bytes"]);
        for piece in [1, bytes.len().max(1)] {
            let result = cut(&bytes, piece, limit).map_err(|e| match e {
                FrameError::TooLarge { .. } => "WIRE-FRAME-02",
                FrameError::Length => "WIRE-FRAME-03",
                other => panic!("{other}"),
            });
            assert_eq!(verdict(result), case["expect"], "{}", case["what"]);
        }
    }
}

fn cut(bytes: &Bytes, piece: usize, limit: usize) -> Result<Value, FrameError> {
    let (mut decoder, mut frames) = (FrameDecoder::new(limit), Vec::new());
    for chunk in bytes.chunks(piece) {
        let mut chunk = Bytes::copy_from_slice(chunk);
        while let Some(frame) = decoder.decode(&mut chunk)? {
            frames.push(frame.iter().map(|b| format!("{b:02x}")).collect::<String>());
        }
    }
    Ok(json!({ "frames": frames, "incomplete": decoder.finish().is_err() }))
}

#[test]
fn proofs_cover_the_bytes_that_the_vectors_say() {
    for case in cases("hello.json", 3) {
        let [client, server, key, binding] =
            ["client_hello", "server_hello", "key", "binding"].map(|f| unhex(&case[f]));
        let transcript = Sha256::new().chain_update(&client).chain_update(&server).finalize();
        let prefixed =
            |field: &[u8]| [&u16::try_from(field.len()).expect("short").to_be_bytes()[..], field].concat();
        let kind = case["binding_kind"].as_u64().and_then(|k| u8::try_from(k).ok()).expect("a byte");
        let account = prefixed(text(&case, "account").as_bytes());
        let server_name = prefixed(text(&case, "server_name").as_bytes());
        let message = [&transcript[..], &account, &key, &server_name, &[kind], &prefixed(&binding)].concat();
        let context = text(&case, "context");
        let key = PublicKey::from_bytes(&key).expect("a key");
        let verified = key.verify(context, &message, &unhex(&case["signature"])).is_ok();
        assert_eq!(proof_verifies(&case, [client, server], &binding, &key), verified, "{}", case["what"]);
        match case["expect"]["ok"].as_object() {
            Some(expected) => {
                assert!(verified, "{}", case["what"]);
                assert_eq!(unhex(&expected["transcript"])[..], transcript[..]);
                let signed = [context.as_bytes(), &[0], &message].concat();
                assert_eq!(unhex(&expected["signed"])[..], signed);
            }
            None => assert!(!verified, "{}", case["what"]),
        }
    }
}

/// What the handshake's own code says of the proof that the test just read by hand.
fn proof_verifies(case: &Value, hellos: [Bytes; 2], binding: &Bytes, key: &PublicKey) -> bool {
    let payload =
        |mut frame: Bytes| FrameDecoder::default().decode(&mut frame).expect("a frame").expect("whole");
    let [client, server] = hellos.map(payload);
    let binding = match case["binding_kind"].as_u64() {
        Some(1) => Binding::Spki(binding[..].try_into().expect("32 bytes")),
        _ => Binding::WebOrigin(String::from_utf8_lossy(binding).into_owned()),
    };
    let parts = ProofParts {
        context: text(case, "context"),
        transcript: Transcript::new(&client, &server),
        account: text(case, "account"),
        server_name: text(case, "server_name"),
        binding: &binding,
    };
    parts.verifies(key, &unhex(&case["signature"]))
}
