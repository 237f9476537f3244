//! Decides what a signed Invite vouches for: from, to, call id, time, and the offer's hash.

use bytes::Bytes;
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use crate::address::{Address, AddressError};
use crate::card::VerifiedCard;
use crate::fault::Fault;
use crate::key::{PublicKey, SigningKey};
use crate::limit;
use crate::name::NamePolicy;
use crate::time::Timestamp;
use crate::v1::{self, ErrorCode};

/// Context of an Invite's signature.
pub const CONTEXT: &str = "ahoy-invite-v1";
/// A call's id, chosen by the caller's client.
pub type CallId = [u8; 16];

/// The signed part of an Invite with every field checked.
#[derive(Clone, Debug, PartialEq)]
pub struct InviteBody {
    /// The call.
    pub call: CallId,
    /// Who calls.
    pub from: Address,
    /// Who is called; diversions do not change it.
    pub to: Address,
    /// When, by the caller's homeserver's clock.
    pub time: Timestamp,
    /// SHA-256 of the offer.
    pub sdp_sha256: [u8; 32],
    /// Where it was sent on, at most 5.
    pub diversions: Vec<v1::Diversion>,
}

impl InviteBody {
    /// The body for a call with `sdp` as its offer.
    pub fn new(call: CallId, from: Address, to: Address, time: Timestamp, sdp: &str) -> Self {
        Self { call, from, to, time, sdp_sha256: Sha256::digest(sdp).into(), diversions: Vec::new() }
    }

    /// Reads a body as it was sent. `[CALL-INVITE-01]`
    ///
    /// # Errors
    /// [`InviteError`] with the field that is wrong.
    pub fn decode(body: &Bytes, policy: &NamePolicy) -> Result<Self, InviteError> {
        let wire = v1::InviteBody::decode(body.clone()).map_err(|_| InviteError::Field("body"))?;
        if wire.diversions.len() > limit::DIVERSIONS {
            return Err(InviteError::Field("diversions"));
        }
        for diversion in &wire.diversions {
            Address::from_wire(&diversion.from, policy)?;
            Address::from_wire(&diversion.to, policy)?;
        }
        Ok(Self {
            call: wire.call[..].try_into().map_err(|_| InviteError::Field("call"))?,
            from: Address::from_wire(&wire.from, policy)?,
            to: Address::from_wire(&wire.to, policy)?,
            time: Timestamp::from_millis(wire.time_ms),
            sdp_sha256: wire.sdp_sha256[..].try_into().map_err(|_| InviteError::Field("sdp_sha256"))?,
            diversions: wire.diversions,
        })
    }

    /// The bytes to sign and to send.
    pub fn encode(&self) -> Bytes {
        let wire = v1::InviteBody {
            call: Bytes::copy_from_slice(&self.call),
            from: self.from.to_string(),
            to: self.to.to_string(),
            time_ms: self.time.as_millis(),
            sdp_sha256: Bytes::copy_from_slice(&self.sdp_sha256),
            diversions: self.diversions.clone(),
        };
        wire.encode_to_vec().into()
    }
}

/// An Invite without signature, as a client sends it to its own homeserver.
pub fn unsigned_invite(body: &InviteBody, sdp: String, remaining_ms: u32, display: String) -> v1::Invite {
    v1::Invite { body: body.encode(), sdp, remaining_ms, caller_display: display, ..Default::default() }
}

/// Signs an Invite with a message key of the caller's name; the body's bytes stay as they are.
pub fn sign_invite(mut invite: v1::Invite, key: &SigningKey) -> v1::Invite {
    invite.signature = Bytes::copy_from_slice(&key.sign(CONTEXT, &[&invite.body]));
    invite.key = Bytes::copy_from_slice(key.public().as_bytes());
    invite
}

/// The body of an Invite, when it is well-formed and its hash is that of its offer. `[CALL-INVITE-02]`
///
/// Signatures are not looked at: this is what a homeserver asks of its own client's Invite, and a client of its
/// own homeserver's.
///
/// # Errors
/// [`InviteError`].
pub fn check_invite(invite: &v1::Invite, policy: &NamePolicy) -> Result<InviteBody, InviteError> {
    if invite.sdp.is_empty() || invite.sdp.len() > limit::SDP_BYTES {
        return Err(InviteError::Field("sdp"));
    }
    if invite.caller_display.len() > limit::CALLER_DISPLAY_BYTES {
        return Err(InviteError::Field("caller_display"));
    }
    let body = InviteBody::decode(&invite.body, policy)?;
    let hash: [u8; 32] = Sha256::digest(&invite.sdp).into();
    if hash == body.sdp_sha256 { Ok(body) } else { Err(InviteError::OtherOffer) }
}

/// [`check_invite`], and that the caller's name, whose card is `caller`, signed it within the forgiven clock
/// difference of `now`. `[CALL-INVITE-03]`
///
/// # Errors
/// [`InviteError`].
pub fn verify_invite(
    invite: &v1::Invite,
    caller: &VerifiedCard,
    policy: &NamePolicy,
    now: Timestamp,
) -> Result<InviteBody, InviteError> {
    let body = check_invite(invite, policy)?;
    if *body.from.name() != caller.name {
        return Err(InviteError::OtherCaller);
    }
    if now.since(body.time).max(body.time.since(now)) > limit::CLOCK_SKEW {
        return Err(InviteError::Stale);
    }
    let key = PublicKey::from_bytes(&invite.key).map_err(|_| InviteError::Signature)?;
    if !caller.is_message_key(&key, now) {
        return Err(InviteError::Signature);
    }
    key.verify(CONTEXT, &invite.body, &invite.signature).map_err(|_| InviteError::Signature)?;
    Ok(body)
}

/// Why an Invite is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InviteError {
    /// A field is missing, too long, or malformed.
    #[error("the invite's `{0}` is missing, too long, or malformed")]
    Field(&'static str),
    /// An address in it.
    #[error("an address of the invite: {0}")]
    Address(#[from] AddressError),
    /// The signed hash is another offer's.
    #[error("the invite is signed for another offer")]
    OtherOffer,
    /// The caller is not of the name that vouches.
    #[error("the invite is from another name")]
    OtherCaller,
    /// Too far from now.
    #[error("the invite's time is too far from now")]
    Stale,
    /// Not signed by a message key of the caller's name.
    #[error("the invite is not signed by the caller's name")]
    Signature,
}

impl From<InviteError> for Fault {
    fn from(e: InviteError) -> Self {
        let code = match e {
            InviteError::Field(_) | InviteError::OtherOffer => ErrorCode::Malformed,
            InviteError::Address(e) => return e.into(),
            InviteError::OtherCaller | InviteError::Signature => ErrorCode::NotAllowed,
            InviteError::Stale => ErrorCode::TooOld,
        };
        Fault::new(code, e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::card::MessageKey;
    use crate::testing;
    use proptest::prelude::*;
    use std::time::Duration;

    const SDP: &str = "v=0\r\n";

    fn key() -> SigningKey {
        SigningKey::from_seed([6; 32])
    }

    fn caller() -> VerifiedCard {
        let mut card = testing::card("home.example");
        card.message_keys =
            vec![MessageKey { key: key().public(), not_before: Timestamp::ZERO, not_after: None }];
        card
    }

    fn body() -> InviteBody {
        let (from, to) = (testing::address("ann@home.example"), testing::address("support@bank.example"));
        InviteBody::new([4; 16], from, to, testing::NOW, SDP)
    }

    fn signed(body: &InviteBody) -> v1::Invite {
        sign_invite(unsigned_invite(body, SDP.into(), 90_000, "Ann".into()), &key())
    }

    fn verify(invite: &v1::Invite, later: u64) -> Result<InviteBody, InviteError> {
        verify_invite(invite, &caller(), &testing::policy(), testing::NOW + Duration::from_secs(later))
    }

    #[test]
    fn an_invite_of_the_caller_is_accepted_and_every_change_is_refused() {
        let invite = signed(&body());
        assert_eq!(verify(&invite, 600), Ok(body()));
        assert_eq!(verify(&invite, 601), Err(InviteError::Stale));
        let sdp = "v=1\r\n".into();
        assert_eq!(verify(&v1::Invite { sdp, ..invite.clone() }, 0), Err(InviteError::OtherOffer));
        let other = InviteBody { from: testing::address("ann@bank.example"), ..body() };
        assert_eq!(verify(&signed(&other), 0), Err(InviteError::OtherCaller));
        let forged = sign_invite(invite.clone(), &SigningKey::from_seed([9; 32]));
        assert_eq!(verify(&forged, 0), Err(InviteError::Signature));
        let moved = v1::Invite { body: InviteBody { call: [5; 16], ..body() }.encode(), ..invite };
        assert_eq!(verify(&moved, 0), Err(InviteError::Signature));
    }

    #[test]
    fn bounds_the_offer_the_display_and_the_diversions() {
        let check = |invite: &v1::Invite| check_invite(invite, &testing::policy()).map(|_| ());
        let invite = signed(&body());
        assert_eq!(
            check(&v1::Invite { sdp: String::new(), ..invite.clone() }),
            Err(InviteError::Field("sdp"))
        );
        let long = "x".repeat(limit::SDP_BYTES + 1);
        assert_eq!(check(&v1::Invite { sdp: long, ..invite.clone() }), Err(InviteError::Field("sdp")));
        let display = "x".repeat(65);
        assert_eq!(
            check(&v1::Invite { caller_display: display, ..invite }),
            Err(InviteError::Field("caller_display"))
        );
        let step =
            v1::Diversion { from: "bank.example".into(), to: "home.example".into(), ..Default::default() };
        let diverted = InviteBody { diversions: vec![step; 6], ..body() };
        assert_eq!(check(&signed(&diverted)), Err(InviteError::Field("diversions")));
    }

    proptest! {
        #[test]
        fn a_body_is_read_back(call: [u8; 16], ms: u64, sdp in "[ -~]{1,50}") {
            let body = InviteBody { call, ..InviteBody::new(call, body().from, body().to, Timestamp::from_millis(ms), &sdp) };
            prop_assert_eq!(InviteBody::decode(&body.encode(), &testing::policy()), Ok(body));
        }
    }
}
