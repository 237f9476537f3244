//! Decides which contents of a card are well-formed, and bounds each of its lists. `[NAME-CARD-03]`

use super::{CardError, MessageKey, VerifiedCard};
use crate::address::Local;
use crate::anchor::{Anchor, AnchorEndpoint};
use crate::key::PublicKey;
use crate::limit;
use crate::name::Name;
use crate::time::Timestamp;
use crate::v1;

pub(super) fn read(
    signed: &v1::Signed,
    card: v1::Card,
    name: &Name,
    anchor: Anchor,
) -> Result<VerifiedCard, CardError> {
    check_lines(&card.lines)?;
    if card.rotation_chain.len() > limit::CARD_CHAIN {
        return Err(CardError::Field("rotation_chain"));
    }
    if !card.capabilities.bytes().all(|b| b.is_ascii_alphabetic()) || card.capabilities.len() > 52 {
        return Err(CardError::Field("capabilities"));
    }
    Ok(VerifiedCard {
        signed: signed.clone(),
        name: name.clone(),
        seq: card.seq,
        not_before: Timestamp::from_secs(card.not_before),
        not_after: Timestamp::from_secs(card.not_after),
        anchor,
        tls_spki: read_tls(&card)?,
        message_keys: list(&card.message_keys, limit::CARD_MESSAGE_KEYS, "message_keys", message_key)?,
        endpoints: list(&card.endpoints, limit::CARD_ENDPOINTS, "endpoints", endpoint)?,
        revoked_keys: list(&card.revoked_keys, limit::CARD_MESSAGE_KEYS, "revoked_keys", revoked)?,
        card,
    })
}

fn read_tls(card: &v1::Card) -> Result<Vec<[u8; 32]>, CardError> {
    let spki = list(&card.tls_spki, limit::CARD_TLS_KEYS, "tls_spki", |h| h[..].try_into().ok())?;
    // Without one, nobody could speak for the name.
    if spki.is_empty() { Err(CardError::Field("tls_spki")) } else { Ok(spki) }
}

fn list<A, B>(
    items: &[A],
    most: usize,
    field: &'static str,
    read: impl Fn(&A) -> Option<B>,
) -> Result<Vec<B>, CardError> {
    if items.len() > most {
        return Err(CardError::Field(field));
    }
    items.iter().map(|item| read(item).ok_or(CardError::Field(field))).collect()
}

fn message_key(wire: &v1::MessageKey) -> Option<MessageKey> {
    Some(MessageKey {
        key: PublicKey::from_bytes(&wire.key).ok()?,
        not_before: Timestamp::from_secs(wire.not_before),
        not_after: (wire.not_after != 0).then(|| Timestamp::from_secs(wire.not_after)),
    })
}

fn endpoint(wire: &v1::CardEndpoint) -> Option<AnchorEndpoint> {
    let short = |n: u32| u16::try_from(n).ok();
    AnchorEndpoint::new(&wire.host, short(wire.port)?, short(wire.priority)?, short(wire.weight)?).ok()
}

fn revoked(wire: &v1::RevokedKey) -> Option<(PublicKey, Timestamp)> {
    Some((PublicKey::from_bytes(&wire.key).ok()?, Timestamp::from_secs(wire.revoked_from)))
}

/// The front desk is the line with an empty local part.
fn check_lines(lines: &[v1::CardLine]) -> Result<(), CardError> {
    let sound = |l: &v1::CardLine| l.local.is_empty() || Local::from_wire(&l.local).is_ok();
    if lines.len() <= limit::CARD_LINES && lines.iter().all(sound) {
        Ok(())
    } else {
        Err(CardError::Field("lines"))
    }
}
