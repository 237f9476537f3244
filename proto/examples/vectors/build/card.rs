//! Cards: good ones, delegated ones, and one bad one for each rule.

use std::time::Duration;

use ahoy_proto::anchor::{Anchor, AnchorDraft, AnchorEndpoint};
use ahoy_proto::card::{SCOPE_CARD, sign_card, sign_delegation};
use ahoy_proto::v1;
use bytes::Bytes;
use serde_json::{Value, json};

use super::{DAY, NOW, breaks, hex, key, name, ok};

const BANK: &str = "bank.example";
const SPKI: [u8; 32] = [9; 32];

pub fn cases() -> Vec<Value> {
    let mut cases = good();
    cases.extend(bad());
    cases.extend(bad_delegations());
    cases
}

fn anchor(ago_s: u64) -> Anchor {
    let draft = AnchorDraft {
        signed_at: NOW - Duration::from_secs(ago_s),
        endpoints: vec![AnchorEndpoint::at("hs.bank.example").expect("a host")],
        ..Default::default()
    };
    Anchor::parse(&draft.sign(&name(BANK), &key(1)).expect("a sound draft")).expect("just signed")
}

fn bytes(b: &[u8]) -> Bytes {
    Bytes::copy_from_slice(b)
}

fn card() -> v1::Card {
    let text = |language: &str, text: &str| v1::LocalText { language: language.into(), text: text.into() };
    v1::Card {
        name: BANK.into(),
        seq: 7,
        not_before: NOW.as_secs() - 60,
        not_after: NOW.as_secs() + DAY,
        anchor: anchor(100).text().into(),
        tls_spki: vec![bytes(&SPKI)],
        message_keys: vec![v1::MessageKey {
            key: bytes(key(2).public().as_bytes()),
            not_before: NOW.as_secs() - DAY,
            not_after: 0,
        }],
        endpoints: vec![v1::CardEndpoint {
            host: "hs.bank.example".into(),
            port: 2469,
            priority: 10,
            weight: 10,
        }],
        capabilities: "mcs".into(),
        version_min: 1,
        version_max: 1,
        lines: vec![v1::CardLine {
            local: "support".into(),
            labels: vec![text("en", "Support"), text("de", "Kundendienst")],
            kind: v1::LineKind::Pbx.into(),
            ..Default::default()
        }],
        display_names: vec![text("en", "Example Bank")],
        country: "CH".into(),
        ..Default::default()
    }
}

fn case(what: &str, signed: &v1::Signed, known: &Anchor, expect: Value) -> Value {
    json!({
        "what": what,
        "name": BANK,
        "now": NOW.as_secs(),
        "anchor": known.text(),
        "body": hex(&signed.body),
        "signature": hex(&signed.signature),
        "signer": hex(&signed.signer),
        "tls_spki": hex(&SPKI),
        "expect": expect,
    })
}

fn accepted(what: &str, card: &v1::Card, seed: u8) -> Value {
    let keys = card.message_keys.iter().map(|k| hex(&k.key)).collect::<Vec<_>>();
    let expect = ok(json!({ "seq": card.seq, "not_after": card.not_after, "message_keys": keys }));
    case(what, &sign_card(card, &key(seed)), &anchor(100), expect)
}

fn refused(what: &str, rule: &str, change: impl FnOnce(&mut v1::Card)) -> Value {
    let mut card = card();
    change(&mut card);
    case(what, &sign_card(&card, &key(1)), &anchor(100), breaks(rule))
}

fn delegation() -> v1::Delegation {
    v1::Delegation {
        name: BANK.into(),
        anchor_sha256: bytes(&anchor(100).sha256()),
        operator_key: bytes(key(4).public().as_bytes()),
        scopes: vec![SCOPE_CARD.into()],
        not_before: NOW.as_secs() - 60,
        not_after: NOW.as_secs() + 300 * DAY,
    }
}

fn delegated(delegation: &v1::Delegation, seed: u8) -> v1::Card {
    v1::Card { delegation: Some(sign_delegation(delegation, &key(seed))), ..card() }
}

fn good() -> Vec<Value> {
    let least = v1::Card {
        name: BANK.into(),
        not_before: NOW.as_secs(),
        not_after: NOW.as_secs() + 1,
        anchor: anchor(100).text().into(),
        tls_spki: vec![bytes(&SPKI)],
        ..Default::default()
    };
    let mut scopes = delegation();
    scopes.scopes.insert(0, "from the future".into());
    vec![
        accepted("an usual card", &card(), 1),
        accepted("the least that a card needs", &least, 1),
        accepted("seven days of life", &v1::Card { not_after: NOW.as_secs() - 60 + 7 * DAY, ..card() }, 1),
        accepted("ten minutes before its time", &v1::Card { not_before: NOW.as_secs() + 600, ..card() }, 1),
        accepted(
            "a newer anchor of the same key",
            &v1::Card { anchor: anchor(10).text().into(), ..card() },
            1,
        ),
        accepted("signed by a delegated operator", &delegated(&scopes, 1), 4),
    ]
}

fn bad() -> Vec<Value> {
    let now = NOW.as_secs();
    let sound = sign_card(&card(), &key(1));
    let mut tampered = sound.clone();
    tampered.body = [&sound.body[..20], &[sound.body[20] ^ 1], &sound.body[21..]].concat().into();
    let delegation_context =
        v1::Signed { signature: bytes(&key(1).sign("ahoy-delegation-v1", &[&sound.body])), ..sound.clone() };
    let own_key = v1::RevokedKey { key: bytes(key(1).public().as_bytes()), revoked_from: now - 1 };
    let foreign = AnchorDraft { signed_at: NOW, ..Default::default() };
    let foreign = foreign.sign(&name(BANK), &key(3)).expect("a sound draft");
    let bad_endpoint =
        v1::CardEndpoint { host: "hs.bank.example".into(), port: 65_536, ..Default::default() };
    vec![
        case("one bit changed", &tampered, &anchor(100), breaks("NAME-CARD-01")),
        case("signed under another context", &delegation_context, &anchor(100), breaks("NAME-CARD-01")),
        case("signed by a stranger", &sign_card(&card(), &key(3)), &anchor(100), breaks("NAME-CARD-01")),
        refused("more than 16 KiB", "NAME-CARD-02", |c| c.country = "x".repeat(16_400)),
        refused("for another name", "NAME-CARD-03", |c| c.name = "shop.example".into()),
        refused("no TLS key", "NAME-CARD-03", |c| c.tls_spki.clear()),
        refused("a TLS key of 31 bytes", "NAME-CARD-03", |c| c.tls_spki[0] = bytes(&SPKI[..31])),
        refused("17 TLS keys", "NAME-CARD-03", |c| c.tls_spki = vec![bytes(&SPKI); 17]),
        refused("a message key of 31 bytes", "NAME-CARD-03", |c| c.message_keys[0].key = bytes(&SPKI[..31])),
        refused("a port over 16 bits", "NAME-CARD-03", |c| c.endpoints[0] = bad_endpoint),
        refused("an upper-case line", "NAME-CARD-03", |c| c.lines[0].local = "Support".into()),
        refused("no anchor", "NAME-CARD-04", |c| c.anchor.clear()),
        refused("an older anchor", "NAME-CARD-04", |c| c.anchor = anchor(101).text().into()),
        refused("an anchor of another key", "NAME-CARD-04", |c| c.anchor = foreign),
        refused("eight days of life", "NAME-CARD-05", |c| c.not_after = now + 8 * DAY),
        refused("no life", "NAME-CARD-05", |c| c.not_after = c.not_before),
        refused("not in force yet", "NAME-CARD-06", |c| c.not_before = now + 601),
        refused("expired", "NAME-CARD-06", |c| c.not_after = now - 1),
        refused("tls key of the connection not in it", "NAME-CARD-07", |c| c.tls_spki[0] = bytes(&[8; 32])),
        refused("it revokes the key it rests on", "NAME-CARD-08", |c| c.revoked_keys = vec![own_key]),
    ]
}

fn bad_delegations() -> Vec<Value> {
    let now = NOW.as_secs();
    let refused = |what: &str, seed: u8, change: &dyn Fn(&mut v1::Delegation)| {
        let mut delegation = delegation();
        change(&mut delegation);
        let signed = sign_card(&delegated(&delegation, seed), &key(4));
        case(what, &signed, &anchor(100), breaks("NAME-CARD-09"))
    };
    let newer = v1::Card { anchor: anchor(10).text().into(), ..delegated(&delegation(), 1) };
    vec![
        refused("a delegation signed by the operator", 4, &|_| ()),
        refused("a delegation for another name", 1, &|d| d.name = "shop.example".into()),
        refused("a delegation for another anchor", 1, &|d| d.anchor_sha256 = bytes(&[0; 32])),
        refused("a delegation for another operator", 1, &|d| {
            d.operator_key = bytes(key(5).public().as_bytes())
        }),
        refused("a delegation without the scope", 1, &|d| d.scopes = vec!["Card".into()]),
        refused("a delegation of more than 400 days", 1, &|d| d.not_after = now + 400 * DAY),
        refused("an expired delegation", 1, &|d| d.not_after = now - 1),
        refused("a delegation before its time", 1, &|d| d.not_before = now + 601),
        case("void by a newer anchor", &sign_card(&newer, &key(4)), &anchor(10), breaks("NAME-CARD-09")),
    ]
}
