//! Decides when an operator's key may sign a name's card: a delegation for exactly the newest anchor.

use prost::Message as _;

use super::{CardError, sign};
use crate::anchor::Anchor;
use crate::key::{PublicKey, SigningKey};
use crate::limit;
use crate::name::Name;
use crate::time::Timestamp;
use crate::v1;

/// Context of a delegation's signature.
pub const DELEGATION_CONTEXT: &str = "ahoy-delegation-v1";
/// The scope that lets an operator sign cards. Unknown scopes grant nothing.
pub const SCOPE_CARD: &str = "card";

/// Signs a delegation with the name's own key.
pub fn sign_delegation(delegation: &v1::Delegation, key: &SigningKey) -> v1::Signed {
    sign(DELEGATION_CONTEXT, delegation.encode_to_vec(), key)
}

/// `[NAME-CARD-09]`
pub(super) fn verify(
    signed: Option<&v1::Signed>,
    operator: &PublicKey,
    name: &Name,
    anchor: &Anchor,
    now: Timestamp,
) -> Result<(), CardError> {
    let signed = signed.ok_or(CardError::Stranger)?;
    let require = |holds: bool, what| if holds { Ok(()) } else { Err(CardError::Delegation(what)) };
    require(signed.signer == anchor.key.as_bytes()[..], "not signed by the name's key")?;
    let verdict = anchor.key.verify(DELEGATION_CONTEXT, &signed.body, &signed.signature);
    require(verdict.is_ok(), "wrong signature")?;
    let delegation =
        v1::Delegation::decode(signed.body.clone()).map_err(|_| CardError::Delegation("does not decode"))?;
    require(delegation.name == name.as_str(), "for another name")?;
    // Void once a newer anchor is known: leaving an operator is one new TXT record.
    require(delegation.anchor_sha256 == anchor.sha256()[..], "for another anchor")?;
    require(delegation.operator_key == operator.as_bytes()[..], "for another operator")?;
    require(delegation.scopes.iter().any(|s| s == SCOPE_CARD), "without the scope `card`")?;
    let from = Timestamp::from_secs(delegation.not_before);
    let until = Timestamp::from_secs(delegation.not_after);
    require(until > from && until.since(from) <= limit::DELEGATION_LIFE, "a life of over 400 days")?;
    require(from <= now + limit::CLOCK_SKEW, "not in force yet")?;
    require(now <= until, "expired")
}
