//! What this crate's own tests share: a name policy, a moment, a seeded entropy, a card.

use bytes::Bytes;

use crate::address::Address;
use crate::anchor::{Anchor, AnchorDraft, AnchorEndpoint};
use crate::card::{VerifiedCard, sign_card, verify_card};
use crate::key::SigningKey;
use crate::name::{Name, NamePolicy};
use crate::time::{Entropy, Timestamp};
use crate::v1;

pub const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

pub fn policy() -> NamePolicy {
    NamePolicy::allowing(["example"])
}

pub fn name(text: &str) -> Name {
    Name::parse(text, &policy()).expect("a name of the test")
}

pub fn address(text: &str) -> Address {
    Address::parse(text, &policy()).expect("an address of the test")
}

/// A card of `of` in force around [`NOW`], without message keys.
pub fn card(of: &str) -> VerifiedCard {
    let key = SigningKey::from_seed([1; 32]);
    let draft = AnchorDraft {
        signed_at: NOW,
        endpoints: vec![AnchorEndpoint::at("hs.bank.example").expect("a host")],
        ..Default::default()
    };
    let text = draft.sign(&name(of), &key).expect("a sound draft");
    let anchor = Anchor::parse(&text).expect("just signed");
    let card = v1::Card {
        name: of.into(),
        seq: 1,
        not_before: NOW.as_secs(),
        not_after: NOW.as_secs() + 86_400,
        anchor: text,
        tls_spki: vec![Bytes::from_static(&[9; 32])],
        ..Default::default()
    };
    verify_card(&sign_card(&card, &key), &name(of), &anchor, NOW).expect("a sound card")
}

/// The same bytes for ever.
pub struct Constant(pub u8);

impl Entropy for Constant {
    fn fill(&self, out: &mut [u8]) {
        out.fill(self.0);
    }
}
