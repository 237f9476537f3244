//! Decides what an event, its attestation, its placement and its conversation's id are, as the suite writes and
//! verifies them.

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use ahoy_proto::v1;

use crate::moment::{now_ms, random};
use crate::sign::{Key, is_message_key, verify};

/// Context of an attestation over events.
pub const EVENTS: &str = "ahoy-events-v1";
/// Context of an attestation over placements.
pub const PLACEMENTS: &str = "ahoy-placements-v1";

type Hash = [u8; 32];

/// SHA-256 of 0x00 and a body: an event's id, or what a placement is chained by [EVENT-ATTEST-01].
pub fn leaf(body: &[u8]) -> Hash {
    Sha256::new().chain_update([0]).chain_update(body).finalize().into()
}

fn node(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

/// The root of a tree of the shape of RFC 9162 over `leaves`, with the path of each leaf, leaf upwards.
fn tree(leaves: &[Hash]) -> (Hash, Vec<Vec<Hash>>) {
    if let [leaf] = leaves {
        return (*leaf, vec![Vec::new()]);
    }
    let split = leaves.len().next_power_of_two() / 2;
    let (left, right) = (tree(&leaves[..split]), tree(&leaves[split..]));
    let beside = |paths: Vec<Vec<Hash>>, sibling: Hash| {
        paths.into_iter().map(move |path| path.into_iter().chain([sibling]).collect())
    };
    let root = node(&left.0, &right.0);
    (root, beside(left.1, right.0).chain(beside(right.1, left.0)).collect())
}

/// Attests a batch of 1 to 64 bodies with one signature [EVENT-ATTEST-04].
pub fn attest(bodies: &[Bytes], context: &str, key: &Key) -> Vec<v1::Attestation> {
    let leaves: Vec<Hash> = bodies.iter().map(|body| leaf(body)).collect();
    let size = leaves.len() as u32;
    let (root, paths) = tree(&leaves);
    let signature = key.sign(context, &[&size.to_be_bytes(), &root]);
    let attestation = |(index, path): (usize, Vec<Hash>)| v1::Attestation {
        key: key.public(),
        signature: signature.clone(),
        size,
        index: index as u32,
        path: path.iter().map(|hash| Bytes::copy_from_slice(hash)).collect(),
    };
    paths.into_iter().enumerate().map(attestation).collect()
}

/// Verifies that the attestation's key signed a root over this body.
///
/// # Errors
/// The requirement that it breaks.
pub fn check_attestation(body: &[u8], a: &v1::Attestation, context: &str) -> anyhow::Result<()> {
    ensure!((1..=64).contains(&a.size), "EVENT-ATTEST-03: a batch of {}", a.size);
    ensure!(a.index < a.size, "EVENT-ATTEST-03: leaf {} of {}", a.index, a.size);
    let (mut index, mut last, mut hash) = (a.index, a.size - 1, leaf(body));
    for sibling in &a.path {
        let sibling: Hash = sibling[..].try_into().context("EVENT-ATTEST-03: a hash has 32 bytes")?;
        ensure!(last > 0, "EVENT-ATTEST-03: the path is too long");
        if index & 1 == 1 || index == last {
            hash = node(&sibling, &hash);
            while index & 1 == 0 {
                index >>= 1;
                last >>= 1;
            }
        } else {
            hash = node(&hash, &sibling);
        }
        index >>= 1;
        last >>= 1;
    }
    ensure!(last == 0, "EVENT-ATTEST-03: the path is too short");
    verify(&a.key, context, &[&a.size.to_be_bytes(), &hash], &a.signature).context("EVENT-ATTEST-04")
}

/// Verifies an event's or placement's attestation by a key of the name whose card this is.
///
/// # Errors
/// The requirement that it breaks.
pub fn check_attested(
    body: &[u8],
    attestation: Option<&v1::Attestation>,
    context: &str,
    card: &v1::Card,
    at_ms: u64,
) -> anyhow::Result<()> {
    let attestation = attestation.with_context(|| format!("{context}: there is no attestation"))?;
    ensure!(
        is_message_key(card, &attestation.key, at_ms),
        "EVENT-ATTEST-05: the attesting key is no message key of {}",
        card.name
    );
    check_attestation(body, attestation, context)
}

/// A placed event of the suite's subject as hub: both bodies, checked and decoded.
#[derive(Debug, Clone)]
pub struct Placed {
    /// The event.
    pub event: v1::EventBody,
    /// Its id.
    pub id: Hash,
    /// Its position.
    pub placement: v1::PlacementBody,
    /// What the next placement names as `previous`.
    pub hash: Hash,
}

/// Checks a placed event whose hub's card is `hub`; the event's own attestation is checked against `origin`.
///
/// # Errors
/// The requirement that it breaks.
pub fn check_placed(placed: &v1::PlacedEvent, hub: &v1::Card, origin: &v1::Card) -> anyhow::Result<Placed> {
    let event = placed.event.as_ref().context("a placed event without its event")?;
    let placement = placed.placement.as_ref().context("a placed event without its placement")?;
    let body = v1::PlacementBody::decode(placement.body.clone()).context("the placement does not decode")?;
    let decoded = v1::EventBody::decode(event.body.clone()).context("the event does not decode")?;
    check_attested(&placement.body, placement.attestation.as_ref(), PLACEMENTS, hub, body.time_ms)
        .context("EVENT-PLACE-04")?;
    check_attested(&event.body, event.attestation.as_ref(), EVENTS, origin, body.time_ms)?;
    let id = leaf(&event.body);
    ensure!(body.event_id == id[..], "EVENT-ATTEST-01: the placement names another event id");
    ensure!(body.conversation == decoded.conversation, "the placement is of another conversation");
    ensure!(body.epoch != 0 && body.seq != 0, "EVENT-PLACE-01: a position without epoch or seq");
    ensure!(
        (body.seq == 1) == body.previous.is_empty(),
        "EVENT-PLACE-01: seq {} with a `previous` of {} bytes",
        body.seq,
        body.previous.len()
    );
    Ok(Placed { event: decoded, id, hash: leaf(&placement.body), placement: body })
}

/// A text message's content.
pub fn text(words: &str) -> v1::Content {
    let text = v1::Text { body: words.to_owned(), language: "en".to_owned(), in_reply_to: Bytes::new() };
    v1::Content { fallback: words.to_owned(), content: Some(v1::content::Content::Text(text)) }
}

/// The text in a content.
pub fn words(content: Option<&v1::Content>) -> &str {
    match content.and_then(|content| content.content.as_ref()) {
        Some(v1::content::Content::Text(text)) => &text.body,
        _ => "",
    }
}

/// An event body of the suite's homeserver, new in every respect.
pub fn event_body(origin: &str, to: &str, conversation: &Bytes, words: &str) -> v1::EventBody {
    v1::EventBody {
        origin: origin.to_owned(),
        conversation: conversation.clone(),
        kind: "message".to_owned(),
        time_ms: now_ms(),
        client_id: Bytes::copy_from_slice(&random::<16>()),
        device: Bytes::copy_from_slice(&random::<8>()),
        nonce: Bytes::copy_from_slice(&random::<16>()),
        content: Some(text(words)),
        to: to.to_owned(),
    }
}

/// An event attested alone.
pub fn event(body: &v1::EventBody, key: &Key) -> v1::Event {
    let body = Bytes::from(body.encode_to_vec());
    let attestation = attest(std::slice::from_ref(&body), EVENTS, key).pop();
    v1::Event { body, attestation }
}

/// The name of an address.
pub fn name_of(address: &str) -> &str {
    address.rsplit_once('@').map_or(address, |(_, name)| name)
}

fn conversation_id(kind: u8, hub: &str, hash: Hash) -> Bytes {
    let mut id = vec![kind, hub.len() as u8];
    id.extend_from_slice(hub.as_bytes());
    id.extend_from_slice(&hash);
    id.into()
}

fn pair_hash(context: &str, one: &str, other: &str) -> Hash {
    let mut hash = Sha256::new().chain_update(context).chain_update([0]);
    for address in [one, other] {
        hash = hash.chain_update((address.len() as u16).to_be_bytes()).chain_update(address);
    }
    hash.finalize().into()
}

/// The conversation of two people, and its hub [CONV-ID-01] [CONV-ID-02] [CONV-HUB-01].
pub fn direct(one: &str, other: &str) -> (Bytes, String) {
    let (a, b) = if one < other { (one, other) } else { (other, one) };
    let hash = pair_hash("ahoy-direct-v1", a, b);
    let hub = name_of(if hash[0] & 0x80 == 0 { a } else { b }).to_owned();
    (conversation_id(1, &hub, hash), hub)
}

/// The conversation of a line with somebody; its hub is the line's name [CONV-HUB-02].
pub fn line(line: &str, other: &str) -> Bytes {
    conversation_id(2, name_of(line), pair_hash("ahoy-line-v1", line, other))
}

/// An address `<prefix><n>@<name>` whose direct conversation with `other` has its hub at `hub`.
pub fn person_with_hub(prefix: &str, name: &str, other: &str, hub: &str) -> String {
    let mut candidates = (0..).map(|n| format!("{prefix}{n}@{name}"));
    candidates.find(|address| direct(address, other).1 == hub).expect("every second address has that hub")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_leaf_of_every_size_of_batch_verifies_and_no_other_body_does() {
        let key = Key::generate();
        for size in [1_u8, 2, 3, 5, 8, 63, 64] {
            let bodies: Vec<Bytes> = (0..size).map(|n| Bytes::from(vec![n; 4])).collect();
            let attestations = attest(&bodies, EVENTS, &key);
            for (body, attestation) in bodies.iter().zip(&attestations) {
                check_attestation(body, attestation, EVENTS).expect("our own attestation");
            }
            assert!(check_attestation(b"other", &attestations[0], EVENTS).is_err());
            assert!(check_attestation(&bodies[0], &attestations[0], PLACEMENTS).is_err());
        }
    }

    #[test]
    fn the_attestations_of_the_vectors_are_judged_as_they_say() {
        let text = include_str!("../../spec/vectors/attestation.json");
        let vectors: serde_json::Value = serde_json::from_str(text).expect("the vectors are JSON");
        let bytes = |value: &serde_json::Value| {
            let text = value.as_str().expect("hexadecimal");
            let pairs = (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16));
            Bytes::from(pairs.collect::<Result<Vec<u8>, _>>().expect("hexadecimal"))
        };
        for case in vectors["cases"].as_array().expect("cases") {
            let attestation = v1::Attestation {
                key: bytes(&case["key"]),
                signature: bytes(&case["signature"]),
                size: case["size"].as_u64().expect("size") as u32,
                index: case["index"].as_u64().expect("index") as u32,
                path: case["path"].as_array().expect("path").iter().map(bytes).collect(),
            };
            let ours = case["key"] == case["message_key"]
                && check_attestation(
                    &bytes(&case["body"]),
                    &attestation,
                    case["context"].as_str().expect("context"),
                )
                .is_ok();
            assert_eq!(ours, case["expect"].get("ok").is_some(), "{}", case["what"]);
        }
    }

    #[test]
    fn a_direct_conversation_has_one_id_and_both_hubs_occur() {
        let (id, hub) = direct("ann@bank.example", "x@peer.example");
        assert_eq!(direct("x@peer.example", "ann@bank.example"), (id.clone(), hub.clone()));
        assert_eq!((id[0], id.len()), (1, 2 + hub.len() + 32));
        for wanted in ["bank.example", "peer.example"] {
            let person = person_with_hub("x", "peer.example", "ann@bank.example", wanted);
            assert_eq!(direct(&person, "ann@bank.example").1, wanted);
        }
    }
}
