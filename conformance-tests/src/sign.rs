//! Decides how the suite signs and verifies: ed25519 under a named context, and the signed objects of names.
//!
//! Written from the schema and the requirements, not from the implementation that it judges.

use anyhow::{Context as _, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use prost::Message as _;

use ahoy_proto::v1;

use crate::moment::{now_s, random};

/// How long a card of the suite lives, in seconds.
const CARD_LIFE_S: u64 = 24 * 3600;
/// Longest life of any card, in seconds [NAME-CARD-05].
const CARD_LONGEST_S: u64 = 7 * 24 * 3600;
/// Forgiven clock difference, in seconds.
const SKEW_S: u64 = 600;
/// Life of an anchor without `x`, in seconds [NAME-ANCHOR-10].
const ANCHOR_LIFE_S: u64 = 400 * 24 * 3600;

/// An ed25519 key of the suite.
pub struct Key(SigningKey);

impl Key {
    /// A new one.
    pub fn generate() -> Self {
        Self(SigningKey::from_bytes(&random::<32>()))
    }

    /// The public half.
    pub fn public(&self) -> Bytes {
        Bytes::copy_from_slice(self.0.verifying_key().as_bytes())
    }

    /// Signs `context 0x00 parts...`.
    pub fn sign(&self, context: &str, parts: &[&[u8]]) -> Bytes {
        Bytes::copy_from_slice(&self.0.sign(&covered(context, parts)).to_bytes())
    }
}

fn covered(context: &str, parts: &[&[u8]]) -> Vec<u8> {
    let mut out = context.as_bytes().to_vec();
    out.push(0);
    parts.iter().for_each(|part| out.extend_from_slice(part));
    out
}

/// Verifies strictly.
///
/// # Errors
/// When the key is none or the signature does not cover the parts.
pub fn verify(key: &[u8], context: &str, parts: &[&[u8]], signature: &[u8]) -> anyhow::Result<()> {
    let key: &[u8; 32] = key.try_into().context("a key has 32 bytes")?;
    let key = VerifyingKey::from_bytes(key).context("the key is no point")?;
    let signature = Signature::from_slice(signature).context("a signature has 64 bytes")?;
    key.verify_strict(&covered(context, parts), &signature)
        .with_context(|| format!("the signature does not verify under {context}"))
}

/// Base64url without padding.
pub fn base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// What an anchor of the suite says before its signature: `v`, `k`, `s`, then whatever `rest` says.
pub fn anchor_text(key: &Key, signed_at: u64, rest: &str) -> String {
    format!("v=ahoy1;k={};s={signed_at};{rest}", base64url(&key.public()))
}

/// Signs an anchor's text for a name [NAME-ANCHOR-08].
pub fn sign_anchor(name: &str, key: &Key, text: &str) -> String {
    let parts = anchor_lengths(name, text);
    let signature = key.sign("ahoy-anchor-v1", &[&parts.0, name.as_bytes(), &parts.1, text.as_bytes()]);
    format!("{text};g={}", base64url(&signature))
}

fn anchor_lengths(name: &str, text: &str) -> ([u8; 1], [u8; 2]) {
    ([name.len() as u8], (text.len() as u16).to_be_bytes())
}

/// An anchor that verified.
#[derive(Debug, Clone)]
pub struct Anchor {
    /// `k`.
    pub key: Bytes,
    /// `s`, in Unix seconds.
    pub signed_at: u64,
    /// `e`.
    pub endpoints: String,
    /// As published.
    pub text: String,
}

/// Checks a published anchor: grammar as far as it matters, dates, signature.
///
/// # Errors
/// What is wrong with it.
pub fn check_anchor(name: &str, text: &str, now: u64) -> anyhow::Result<Anchor> {
    ensure!(text.len() <= 1000, "the anchor has {} characters", text.len());
    let (signed, signature) = text.rsplit_once(";g=").context("the anchor has no `g`")?;
    let tags: Vec<(&str, &str)> =
        signed.split(';').map(|tag| tag.split_once('=').unwrap_or((tag, ""))).collect();
    ensure!(tags.first() == Some(&("v", "ahoy1")), "the anchor does not begin with v=ahoy1");
    let tag = |wanted: &str| tags.iter().find(|(tag, _)| *tag == wanted).map(|(_, value)| *value);
    let key = URL_SAFE_NO_PAD.decode(tag("k").context("the anchor has no `k`")?).context("`k`")?;
    let signed_at: u64 = tag("s").context("the anchor has no `s`")?.parse().context("`s`")?;
    ensure!(signed_at <= now + 24 * 3600, "the anchor is from the future");
    let end = match tag("x") {
        Some(end) => end.parse().context("`x`")?,
        None => signed_at + ANCHOR_LIFE_S,
    };
    ensure!(now <= end, "the anchor has expired");
    let endpoints = tag("e").context("the anchor has no `e`")?.to_owned();
    let signature = URL_SAFE_NO_PAD.decode(signature).context("`g`")?;
    let parts = anchor_lengths(name, signed);
    let covered = [&parts.0[..], name.as_bytes(), &parts.1, signed.as_bytes()];
    verify(&key, "ahoy-anchor-v1", &covered, &signature)?;
    Ok(Anchor { key: key.into(), signed_at, endpoints, text: text.to_owned() })
}

/// A card as the suite's homeserver shows it: in force from a minute ago for a day.
pub fn card(name: &str, anchor: &str, tls_spki: &[u8], message_key: &Key) -> v1::Card {
    let now = now_s();
    v1::Card {
        name: name.to_owned(),
        seq: now,
        not_before: now - 60,
        not_after: now + CARD_LIFE_S,
        anchor: anchor.to_owned(),
        tls_spki: vec![Bytes::copy_from_slice(tls_spki)],
        message_keys: vec![v1::MessageKey { key: message_key.public(), not_before: now - 60, not_after: 0 }],
        capabilities: "mc".to_owned(),
        version_min: 1,
        version_max: 1,
        ..v1::Card::default()
    }
}

/// Signs a card [NAME-CARD-01].
pub fn sign_card(card: &v1::Card, key: &Key) -> v1::Signed {
    let body = Bytes::from(card.encode_to_vec());
    v1::Signed { signature: key.sign("ahoy-card-v1", &[&body]), signer: key.public(), body }
}

/// Checks a card against the anchor and the TLS key that was seen.
///
/// # Errors
/// The first requirement that it breaks.
pub fn check_card(signed: &v1::Signed, name: &str, anchor: &Anchor, spki: &[u8]) -> anyhow::Result<v1::Card> {
    ensure!(signed.body.len() <= 16 * 1024, "NAME-CARD-02: the card has {} bytes", signed.body.len());
    verify(&signed.signer, "ahoy-card-v1", &[&signed.body], &signed.signature).context("NAME-CARD-01")?;
    let card = v1::Card::decode(signed.body.clone()).context("NAME-CARD-03: the card does not decode")?;
    ensure!(card.name == name, "NAME-CARD-03: the card is of {:?}", card.name);
    ensure!(card.anchor == anchor.text, "NAME-CARD-04: the anchor in the card is not the published one");
    if card.delegation.is_none() {
        ensure!(signed.signer == anchor.key, "NAME-CARD-01: the card is signed by another key than `k`");
    } else {
        bail!("the card has a delegation, which this suite does not judge yet");
    }
    let now = now_s();
    ensure!(card.not_after > card.not_before, "NAME-CARD-05: the card's life is empty");
    ensure!(card.not_after - card.not_before <= CARD_LONGEST_S, "NAME-CARD-05: it lives over 7 days");
    ensure!(card.not_before <= now + SKEW_S && now <= card.not_after, "NAME-CARD-06: it is not in force");
    let listed = (1..=16).contains(&card.tls_spki.len()) && card.tls_spki.iter().all(|key| key.len() == 32);
    ensure!(listed, "NAME-CARD-03: `tls_spki` has {} keys", card.tls_spki.len());
    ensure!(card.tls_spki.iter().any(|key| key == spki), "NAME-CARD-07: its TLS key is not in its card");
    Ok(card)
}

/// Whether a key is one of a card's message keys at a time in milliseconds.
pub fn is_message_key(card: &v1::Card, key: &[u8], at_ms: u64) -> bool {
    let at = at_ms / 1000;
    card.message_keys
        .iter()
        .any(|k| k.key == key && k.not_before <= at + SKEW_S && (k.not_after == 0 || at <= k.not_after))
        && !card.revoked_keys.iter().any(|k| k.key == key && k.revoked_from <= at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_anchor_of_ours_passes_our_own_check_and_only_for_its_name() {
        let key = Key::generate();
        let text = sign_anchor("a.example", &key, &anchor_text(&key, now_s(), "e=hs.a.example:2470"));
        let anchor = check_anchor("a.example", &text, now_s()).expect("our own anchor");
        assert_eq!(anchor.endpoints, "hs.a.example:2470");
        assert!(check_anchor("b.example", &text, now_s()).is_err());
        assert!(check_anchor("a.example", &text, now_s() + ANCHOR_LIFE_S + 2).is_err());
    }

    #[test]
    fn a_card_of_ours_passes_our_own_check_and_only_with_its_tls_key() {
        let key = Key::generate();
        let text = sign_anchor("a.example", &key, &anchor_text(&key, now_s(), "e=hs.a.example"));
        let anchor = check_anchor("a.example", &text, now_s()).expect("our own anchor");
        let signed = sign_card(&card("a.example", &text, &[7; 32], &key), &key);
        assert!(check_card(&signed, "a.example", &anchor, &[7; 32]).is_ok());
        assert!(check_card(&signed, "a.example", &anchor, &[8; 32]).is_err());
        assert!(
            check_card(
                &sign_card(&card("a.example", &text, &[7; 32], &key), &Key::generate()),
                "a.example",
                &anchor,
                &[7; 32]
            )
            .is_err()
        );
    }

    #[test]
    fn the_good_anchors_of_the_vectors_verify() {
        let text = include_str!("../../spec/vectors/anchor.json");
        let vectors: serde_json::Value = serde_json::from_str(text).expect("the vectors are JSON");
        let cases = vectors["cases"].as_array().expect("cases");
        let mut checked = 0;
        for case in cases.iter().filter(|case| case["records"].as_array().is_some_and(|r| r.len() == 1)) {
            let Some(good) = case["expect"]["ok"][0]["text"].as_str() else { continue };
            let name = case["name"].as_str().expect("a name");
            let now = case["now"].as_u64().expect("a time");
            check_anchor(name, good, now).unwrap_or_else(|error| panic!("{}: {error:#}", case["what"]));
            checked += 1;
        }
        assert!(checked > 3, "{checked}");
    }
}
