//! Decides what the vectors are: fixed keys and times, so that they come out the same each time.

mod anchor;
mod attestation;
mod card;
mod frame;
mod hello;

use std::fmt::Write as _;

use ahoy_proto::key::SigningKey;
use ahoy_proto::name::{Name, NamePolicy};
use ahoy_proto::time::Timestamp;
use serde_json::{Value, json};

/// The moment at which every vector is judged unless it says otherwise.
pub const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);
const DAY: u64 = 86_400;

/// Each file with its content.
pub fn all() -> Vec<(&'static str, Value)> {
    vec![
        ("anchor.json", file("anchor", anchor::cases())),
        ("card.json", file("card", card::cases())),
        ("attestation.json", file("attestation", attestation::cases())),
        ("frame.json", file("frame", frame::cases())),
        ("hello.json", file("hello", hello::cases())),
    ]
}

fn file(kind: &str, cases: Vec<Value>) -> Value {
    json!({ "kind": kind, "special_use_allowed": ["example"], "cases": cases })
}

/// What a good case gives.
fn ok(value: Value) -> Value {
    json!({ "ok": value })
}

/// The rule that a bad case breaks.
fn breaks(rule: &str) -> Value {
    json!({ "breaks": rule })
}

fn name(text: &str) -> Name {
    Name::parse(text, &NamePolicy::allowing(["example"])).expect("a name of the vectors")
}

fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed([seed; 32])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, b| {
        write!(out, "{b:02x}").expect("a String grows");
        out
    })
}
