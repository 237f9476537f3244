//! Holds the rules of cards: what a signature, a life, a delegation and an order are worth.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::anchor::AnchorDraft;
use crate::name::NamePolicy;

const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);
const DAY: u64 = 86_400;

fn name(text: &str) -> Name {
    Name::parse(text, &NamePolicy::allowing(["example"])).expect("a name of the test")
}

fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed([seed; 32])
}

fn anchor_at(seed: u8, ago_s: u64) -> Anchor {
    let draft = AnchorDraft {
        signed_at: NOW - Duration::from_secs(ago_s),
        endpoints: vec![AnchorEndpoint::at("hs.bank.example").expect("a host")],
        ..Default::default()
    };
    let text = draft.sign(&name("bank.example"), &key(seed)).expect("a sound draft");
    Anchor::parse(&text).expect("just signed")
}

fn card() -> v1::Card {
    v1::Card {
        name: "bank.example".into(),
        seq: 3,
        not_before: NOW.as_secs() - 60,
        not_after: NOW.as_secs() + DAY,
        anchor: anchor_at(1, 100).text().into(),
        tls_spki: vec![vec![9; 32].into()],
        message_keys: vec![v1::MessageKey {
            key: Bytes::copy_from_slice(key(2).public().as_bytes()),
            not_before: NOW.as_secs() - 1000,
            not_after: NOW.as_secs() + 1000,
        }],
        ..Default::default()
    }
}

fn verified(change: impl FnOnce(&mut v1::Card)) -> Result<VerifiedCard, CardError> {
    let mut card = card();
    change(&mut card);
    verify_card(&sign_card(&card, &key(1)), &name("bank.example"), &anchor_at(1, 100), NOW)
}

#[test]
fn a_sound_card_is_believed_and_lists_its_tls_key() {
    let card = verified(|_| ()).expect("sound");
    assert!(card.lists_tls(&[9; 32]) && !card.lists_tls(&[8; 32]));
    assert_eq!(card.reach()[0].host(), "hs.bank.example");
    assert_eq!(card.refresh_at(NOW), NOW + Duration::from_secs(DAY / 2));
}

#[test]
fn each_broken_rule_has_its_error() {
    use CardError::*;
    let day = |days: u64| NOW.as_secs() + days * DAY;
    assert_eq!(verified(|c| c.name = "shop.example".into()), Err(OtherName));
    assert_eq!(verified(|c| c.not_after = day(8)), Err(Life));
    assert_eq!(verified(|c| c.not_after = c.not_before), Err(Life));
    assert_eq!(verified(|c| (c.not_before, c.not_after) = (day(1), day(2))), Err(NotYet));
    assert_eq!(verified(|c| (c.not_before, c.not_after) = (day(0) - 9, day(0) - 1)), Err(Expired));
    assert_eq!(verified(|c| c.tls_spki.clear()), Err(Field("tls_spki")));
    assert_eq!(verified(|c| c.tls_spki = vec![vec![1; 31].into()]), Err(Field("tls_spki")));
    assert_eq!(verified(|c| c.message_keys[0].key.clear()), Err(Field("message_keys")));
    assert_eq!(
        verified(|c| c.lines = vec![v1::CardLine { local: "A".into(), ..Default::default() }]),
        Err(Field("lines"))
    );
    assert_eq!(verified(|c| c.country = "x".repeat(17_000)), Err(TooLarge));
    assert_eq!(verified(|c| c.anchor = "v=ahoy1".into()), Err(Anchor(AnchorError::Tag("k"))));
    assert_eq!(verified(|c| c.anchor = anchor_at(1, 101).text().into()), Err(OldAnchor));
    assert_eq!(verified(|c| c.anchor = anchor_at(2, 0).text().into()), Err(OtherAnchor));
    let revoked = v1::RevokedKey { key: Bytes::copy_from_slice(key(1).public().as_bytes()), revoked_from: 1 };
    assert_eq!(verified(|c| c.revoked_keys = vec![revoked]), Err(Revoked));
}

#[test]
fn a_card_may_bring_a_newer_anchor_of_the_same_key() {
    let newer = anchor_at(1, 10);
    assert_eq!(verified(|c| c.anchor = newer.text().into()).map(|c| c.anchor), Ok(newer));
}

#[test]
fn a_changed_byte_or_a_stranger_is_refused() {
    let (bank, anchor) = (name("bank.example"), anchor_at(1, 100));
    let mut signed = sign_card(&card(), &key(1));
    let mut body = signed.body.to_vec();
    body[20] ^= 1;
    signed.body = body.into();
    assert_eq!(verify_card(&signed, &bank, &anchor, NOW), Err(CardError::Signature));
    let strange = sign_card(&card(), &key(7));
    assert_eq!(verify_card(&strange, &bank, &anchor, NOW), Err(CardError::Stranger));
    let nobody = v1::Signed { signer: Bytes::new(), ..strange };
    assert_eq!(verify_card(&nobody, &bank, &anchor, NOW), Err(CardError::Signer));
}

#[test]
fn message_keys_hold_within_their_dates_until_revoked() {
    let later = |s| NOW + Duration::from_secs(s);
    let message = key(2).public();
    let sound = verified(|_| ()).expect("sound");
    assert!(sound.is_message_key(&message, NOW) && sound.is_message_key(&message, later(1000)));
    assert!(!sound.is_message_key(&message, later(1001)));
    assert!(!sound.is_message_key(&message, NOW - Duration::from_secs(1000 + 601)));
    assert!(!sound.is_message_key(&key(1).public(), NOW));
    let revoked_from = NOW.as_secs() - 10;
    let revocation = v1::RevokedKey { key: Bytes::copy_from_slice(message.as_bytes()), revoked_from };
    let revoked = verified(|c| c.revoked_keys = vec![revocation]).expect("sound");
    assert!(!revoked.is_message_key(&message, NOW));
    assert!(revoked.is_message_key(&message, NOW - Duration::from_secs(11)));
}

fn delegation() -> v1::Delegation {
    v1::Delegation {
        name: "bank.example".into(),
        anchor_sha256: Bytes::copy_from_slice(&anchor_at(1, 100).sha256()),
        operator_key: Bytes::copy_from_slice(key(4).public().as_bytes()),
        scopes: vec!["future".into(), SCOPE_CARD.into()],
        not_before: NOW.as_secs() - 5,
        not_after: NOW.as_secs() + 399 * DAY,
    }
}

fn delegated(
    signer: u8,
    known: &Anchor,
    change: impl FnOnce(&mut v1::Delegation),
) -> Result<VerifiedCard, CardError> {
    let mut delegation = delegation();
    change(&mut delegation);
    let mut card = card();
    card.anchor = known.text().into();
    card.delegation = Some(sign_delegation(&delegation, &key(signer)));
    verify_card(&sign_card(&card, &key(4)), &name("bank.example"), known, NOW)
}

#[test]
fn an_operator_signs_for_the_name_under_a_delegation_only() {
    let known = anchor_at(1, 100);
    assert!(delegated(1, &known, |_| ()).is_ok());
    let refused = |e: Result<VerifiedCard, CardError>| matches!(e, Err(CardError::Delegation(_)));
    assert!(refused(delegated(4, &known, |_| ())), "signed by the operator itself");
    assert!(refused(delegated(1, &known, |d| d.name = "shop.example".into())));
    assert!(refused(delegated(1, &known, |d| d.operator_key = d.anchor_sha256.clone())));
    assert!(refused(delegated(1, &known, |d| d.scopes = vec!["cards".into()])));
    assert!(refused(delegated(1, &known, |d| d.not_after += 2 * DAY)));
    assert!(refused(delegated(1, &known, |d| d.not_before += DAY)));
    assert!(refused(delegated(1, &known, |d| (d.not_before, d.not_after) = (0, NOW.as_secs() - 1))));
}

#[test]
fn a_delegation_is_void_once_a_newer_anchor_is_known() {
    assert_eq!(delegated(1, &anchor_at(1, 50), |_| ()), Err(CardError::Delegation("for another anchor")));
}

#[test]
fn neither_an_older_seq_nor_an_older_anchor_replaces_a_stored_card() {
    let stored = verified(|_| ()).expect("sound");
    assert!(verified(|c| c.seq = 4).expect("sound").may_replace(&stored));
    assert!(!verified(|c| c.seq = 2).expect("sound").may_replace(&stored));
    let newer = verified(|c| c.anchor = anchor_at(1, 10).text().into()).expect("sound");
    assert!(newer.may_replace(&stored) && !stored.may_replace(&newer));
}

proptest! {
    #[test]
    fn a_card_is_read_back_as_it_was_signed(seq: u64, life in 1..7 * DAY, spki: [u8; 32], port in 1..=65535u32) {
        let endpoint = v1::CardEndpoint { host: "hs.bank.example".into(), port, priority: 1, weight: 0 };
        let mut sent = card();
        (sent.seq, sent.not_after) = (seq, sent.not_before + 60 + life.min(7 * DAY - 60));
        sent.tls_spki.push(Bytes::copy_from_slice(&spki));
        sent.endpoints.push(endpoint);
        let read = verify_card(&sign_card(&sent, &key(1)), &name("bank.example"), &anchor_at(1, 100), NOW)?;
        prop_assert_eq!(&read.card, &sent);
        prop_assert!(read.lists_tls(&spki));
        prop_assert_eq!(u32::from(read.reach()[0].port()), port);
    }
}
