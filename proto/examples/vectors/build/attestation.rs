//! Attestations of events and placements, one by one out of batches.

use ahoy_proto::attestation::{Context, attest};
use ahoy_proto::event::event_id;
use ahoy_proto::v1::Attestation;
use bytes::Bytes;
use serde_json::{Value, json};

use super::{breaks, hex, key, ok};

pub fn cases() -> Vec<Value> {
    let mut cases = good();
    cases.extend(bad());
    cases
}

fn bodies(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|i| format!("body {i}").into_bytes()).collect()
}

fn case(what: &str, context: Context, body: &[u8], proof: &Attestation, expect: Value) -> Value {
    json!({
        "what": what,
        "context": context.as_str(),
        "message_key": hex(key(2).public().as_bytes()),
        "body": hex(body),
        "key": hex(&proof.key),
        "signature": hex(&proof.signature),
        "size": proof.size,
        "index": proof.index,
        "path": proof.path.iter().map(|h| hex(h)).collect::<Vec<_>>(),
        "expect": expect,
    })
}

fn good() -> Vec<Value> {
    let sizes = [(1, 0), (2, 1), (3, 2), (5, 4), (7, 3), (64, 0), (64, 63)];
    let good = |(size, index): (usize, usize)| {
        let context = if size == 7 { Context::Placements } else { Context::Events };
        let (bodies, what) = (bodies(size), format!("leaf {index} of {size}"));
        let proof = &attest(&bodies, context, &key(2))[index];
        let id = event_id(&bodies[index]).to_string();
        case(&what, context, &bodies[index], proof, ok(json!({ "leaf": id })))
    };
    sizes.into_iter().map(good).collect()
}

fn bad() -> Vec<Value> {
    let bodies = bodies(5);
    let sound = attest(&bodies, Context::Events, &key(2)).swap_remove(2);
    let with = |what: &str, rule: &str, change: &dyn Fn(&mut Attestation)| {
        let mut proof = sound.clone();
        change(&mut proof);
        case(what, Context::Events, &bodies[2], &proof, breaks(rule))
    };
    vec![
        case("another body", Context::Events, &bodies[1], &sound, breaks("EVENT-ATTEST-04")),
        case(
            "an event's proof for a placement",
            Context::Placements,
            &bodies[2],
            &sound,
            breaks("EVENT-ATTEST-04"),
        ),
        with("one bit of the signature", "EVENT-ATTEST-04", &|p| {
            p.signature = [&[p.signature[0] ^ 1], &p.signature[1..]].concat().into();
        }),
        with("a signature of 63 bytes", "EVENT-ATTEST-04", &|p| p.signature.truncate(63)),
        with("another size", "EVENT-ATTEST-04", &|p| p.size = 6),
        with("another leaf's place", "EVENT-ATTEST-04", &|p| p.index = 3),
        with("siblings swapped", "EVENT-ATTEST-04", &|p| p.path.swap(0, 1)),
        with("no leaves", "EVENT-ATTEST-03", &|p| p.size = 0),
        with("65 leaves", "EVENT-ATTEST-03", &|p| p.size = 65),
        with("an index beyond the leaves", "EVENT-ATTEST-03", &|p| p.index = 5),
        with("a path that is too short", "EVENT-ATTEST-03", &|p| _ = p.path.pop()),
        with("a path that is too long", "EVENT-ATTEST-03", &|p| p.path.push(Bytes::from_static(&[0; 32]))),
        with("a sibling of 31 bytes", "EVENT-ATTEST-03", &|p| p.path[0].truncate(31)),
        with("another name's key", "EVENT-ATTEST-05", &|p| {
            p.key = Bytes::copy_from_slice(key(3).public().as_bytes());
        }),
        with("no key", "EVENT-ATTEST-05", &|p| p.key.clear()),
    ]
}
