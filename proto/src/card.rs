//! Decides whether a card is a name's: who signed it, for which anchor, and what it may say.

mod delegation;
mod read;
mod source;

use bytes::Bytes;
use prost::Message as _;

use crate::anchor::{Anchor, AnchorEndpoint, AnchorError};
use crate::fault::Fault;
use crate::key::{PublicKey, SigningKey};
use crate::limit;
use crate::name::Name;
use crate::time::Timestamp;
use crate::v1::{self, ErrorCode};

pub use delegation::{DELEGATION_CONTEXT, SCOPE_CARD, sign_delegation};
pub use source::{CardSource, FetchError, FetchedCard};

/// Context of a card's signature.
pub const CONTEXT: &str = "ahoy-card-v1";

/// A card that [`verify_card`] found to be its name's.
#[derive(Clone, Debug, PartialEq)]
pub struct VerifiedCard {
    /// As it was received, to be stored and passed on.
    pub signed: v1::Signed,
    /// Everything in it; what the fields below hold is checked, the rest is for display.
    pub card: v1::Card,
    /// Whose it is.
    pub name: Name,
    /// Rises with every change.
    pub seq: u64,
    /// Start of its life.
    pub not_before: Timestamp,
    /// End of its life; in force up to and including this moment.
    pub not_after: Timestamp,
    /// The anchor in it: the known one, or a newer one of the same key.
    pub anchor: Anchor,
    /// SHA-256 of the TLS keys that may speak for the name.
    pub tls_spki: Vec<[u8; 32]>,
    /// Keys that attest its events and sign its invites.
    pub message_keys: Vec<MessageKey>,
    /// Where its homeserver is; empty = as the anchor says.
    pub endpoints: Vec<AnchorEndpoint>,
    /// Keys that were stolen, and since when.
    pub revoked_keys: Vec<(PublicKey, Timestamp)>,
}

/// A key that speaks for a name within its dates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageKey {
    /// The key.
    pub key: PublicKey,
    /// From when.
    pub not_before: Timestamp,
    /// Until when, inclusive; `None` = still in use.
    pub not_after: Option<Timestamp>,
}

impl VerifiedCard {
    /// Whether a connection with this TLS key speaks for the name. `[NAME-CARD-07]`
    pub fn lists_tls(&self, spki: &[u8; 32]) -> bool {
        self.tls_spki.contains(spki)
    }

    /// Whether `key` was one of the name's message keys at `at`, and not revoked by then. `[NAME-CARD-08]`
    pub fn is_message_key(&self, key: &PublicKey, at: Timestamp) -> bool {
        let is_valid = |k: &MessageKey| {
            k.key == *key && k.not_before <= at + limit::CLOCK_SKEW && k.not_after.is_none_or(|end| at <= end)
        };
        self.message_keys.iter().any(is_valid)
            && !self.revoked_keys.iter().any(|(revoked, from)| revoked == key && *from <= at)
    }

    /// Whether it is still in force at `now`.
    pub fn is_in_force(&self, now: Timestamp) -> bool {
        self.not_before <= now + limit::CLOCK_SKEW && now <= self.not_after
    }

    /// When to fetch it again: as it asks, else at half of its life left at `now`.
    pub fn refresh_at(&self, now: Timestamp) -> Timestamp {
        let left = self.not_after.since(now);
        match self.card.refresh_after_s {
            0 => now + left / 2,
            s => now + std::time::Duration::from_secs(s.into()).min(left),
        }
    }

    /// Whether it may take the place of `stored`: neither its `seq` nor its anchor is older. `[NAME-CARD-10]`
    pub fn may_replace(&self, stored: &Self) -> bool {
        self.seq >= stored.seq
            && (self.anchor.key != stored.anchor.key || self.anchor.signed_at >= stored.anchor.signed_at)
    }

    /// Where to connect: the card's endpoints, else the anchor's.
    pub fn reach(&self) -> &[AnchorEndpoint] {
        if self.endpoints.is_empty() { &self.anchor.endpoints } else { &self.endpoints }
    }
}

/// Signs a card with the name's key, or with an operator's key that the card's `delegation` authorises.
pub fn sign_card(card: &v1::Card, key: &SigningKey) -> v1::Signed {
    sign(CONTEXT, card.encode_to_vec(), key)
}

fn sign(context: &str, body: Vec<u8>, key: &SigningKey) -> v1::Signed {
    let signature = Bytes::copy_from_slice(&key.sign(context, &[&body]));
    v1::Signed { signature, signer: Bytes::copy_from_slice(key.public().as_bytes()), body: body.into() }
}

/// Whether `signed` is a card of `name`, whose anchor is `anchor`, in force at `now`.
///
/// The TLS key of the connection that brought it is for the caller to compare ([`VerifiedCard::lists_tls`]),
/// as is what was stored before ([`VerifiedCard::may_replace`]).
///
/// # Errors
/// [`CardError`]: the first rule that is broken, the signature before the contents.
pub fn verify_card(
    signed: &v1::Signed,
    name: &Name,
    anchor: &Anchor,
    now: Timestamp,
) -> Result<VerifiedCard, CardError> {
    if signed.body.len() > limit::CARD_BYTES {
        return Err(CardError::TooLarge);
    }
    let signer = PublicKey::from_bytes(&signed.signer).map_err(|_| CardError::Signer)?;
    signer.verify(CONTEXT, &signed.body, &signed.signature).map_err(|_| CardError::Signature)?;
    let card = v1::Card::decode(signed.body.clone()).map_err(|_| CardError::Malformed)?;
    if card.name != name.as_str() {
        return Err(CardError::OtherName);
    }
    let current = newest_anchor(&card, name, anchor, now)?;
    if signer != current.key {
        delegation::verify(card.delegation.as_ref(), &signer, name, &current, now)?;
    }
    let verified = read::read(signed, card, name, current)?;
    check_life(&verified, now)?;
    Ok(verified)
}

/// The anchor in the card must be the known one or a later one of the same key. `[NAME-CARD-04]`
fn newest_anchor(card: &v1::Card, name: &Name, known: &Anchor, now: Timestamp) -> Result<Anchor, CardError> {
    let own = Anchor::parse(&card.anchor).map_err(CardError::Anchor)?;
    if own == *known {
        return Ok(own);
    }
    own.verify(name, now).map_err(CardError::Anchor)?;
    if own.key != known.key {
        return Err(CardError::OtherAnchor);
    }
    if own.signed_at <= known.signed_at {
        return Err(CardError::OldAnchor);
    }
    Ok(own)
}

fn check_life(card: &VerifiedCard, now: Timestamp) -> Result<(), CardError> {
    if card.not_after <= card.not_before || card.not_after.since(card.not_before) > limit::CARD_LIFE {
        return Err(CardError::Life);
    }
    if card.not_before > now + limit::CLOCK_SKEW {
        return Err(CardError::NotYet);
    }
    if now > card.not_after {
        return Err(CardError::Expired);
    }
    // A card cannot outlive the trust of the key that signed it.
    if card.revoked_keys.iter().any(|(key, from)| *key == card.anchor.key && *from <= now) {
        return Err(CardError::Revoked);
    }
    Ok(())
}

/// Why a card is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum CardError {
    /// Over 16 KiB.
    #[error("the card has more than {} bytes", limit::CARD_BYTES)]
    TooLarge,
    /// The signer is no key.
    #[error("the card's signer is not an ed25519 key")]
    Signer,
    /// Wrongly signed.
    #[error("the card's signature does not verify")]
    Signature,
    /// Does not decode.
    #[error("the card does not decode")]
    Malformed,
    /// Of another name.
    #[error("the card is another name's")]
    OtherName,
    /// Its anchor is no anchor of the name.
    #[error("the anchor in the card: {0}")]
    Anchor(AnchorError),
    /// Its anchor has another key.
    #[error("the anchor in the card has another key than the published one")]
    OtherAnchor,
    /// Its anchor is older, or another one of the same time.
    #[error("the anchor in the card is not the newest one")]
    OldAnchor,
    /// Neither the name's key nor a delegated one signed it.
    #[error("the card is signed by a key that the name did not authorise")]
    Stranger,
    /// The delegation is for another name, anchor or key, has no `card` scope, or is not in force.
    #[error("the delegation in the card does not hold: {0}")]
    Delegation(&'static str),
    /// A life that is empty or over 7 days.
    #[error("the card's life is empty or longer than 7 days")]
    Life,
    /// Before its time.
    #[error("the card is not in force yet")]
    NotYet,
    /// After its time.
    #[error("the card has expired")]
    Expired,
    /// The key that it rests on is revoked in it.
    #[error("the card revokes the key that it rests on")]
    Revoked,
    /// A field is missing, too long, or malformed.
    #[error("the card's `{0}` is missing, too many, or malformed")]
    Field(&'static str),
}

impl CardError {
    /// The requirement that is broken.
    pub fn rule(self) -> &'static str {
        match self {
            Self::TooLarge => "NAME-CARD-02",
            Self::Signer | Self::Signature | Self::Stranger => "NAME-CARD-01",
            Self::Malformed | Self::OtherName | Self::Field(_) => "NAME-CARD-03",
            Self::Anchor(_) | Self::OtherAnchor | Self::OldAnchor => "NAME-CARD-04",
            Self::Life => "NAME-CARD-05",
            Self::NotYet | Self::Expired => "NAME-CARD-06",
            Self::Revoked => "NAME-CARD-08",
            Self::Delegation(_) => "NAME-CARD-09",
        }
    }
}

impl From<CardError> for Fault {
    fn from(e: CardError) -> Self {
        Fault::new(ErrorCode::PeerNotAuthentic, e.to_string())
    }
}

#[cfg(test)]
mod tests;
