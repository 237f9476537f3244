//! Decides a conversation's order: the chain of placements that its hub signs.

use bytes::Bytes;
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use crate::attestation::{self, AttestationError, Context, RootCache};
use crate::card::VerifiedCard;
use crate::conversation::{ConversationError, ConversationId};
use crate::event::EventId;
use crate::fault::Fault;
use crate::key::SigningKey;
use crate::name::NamePolicy;
use crate::time::{Entropy, Timestamp};
use crate::v1::{self, ErrorCode};

/// Hash of a placement body, by which the next one names it.
pub type PlacementHash = [u8; 32];

/// `SHA-256(0x00 | body)`, over the body as it was sent. `[EVENT-PLACE-02]`
pub fn placement_hash(body: &[u8]) -> PlacementHash {
    Sha256::new().chain_update([0]).chain_update(body).finalize().into()
}

/// A placement's body with every field checked. `[EVENT-PLACE-01]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacementBody {
    /// In which conversation.
    pub conversation: ConversationId,
    /// Random, not zero; a new one after a restore or a move of the hub.
    pub epoch: u64,
    /// 1, 2, 3 ... within the epoch.
    pub seq: u64,
    /// What stands here.
    pub event_id: EventId,
    /// The placement before, `None` at the first of an epoch.
    pub previous: Option<PlacementHash>,
    /// The hub's clock; attestations are judged at this time.
    pub time: Timestamp,
    /// At the first of a later epoch: the placement that it continues from.
    pub base: Option<PlacementHash>,
}

impl PlacementBody {
    /// Reads a body as it was sent.
    ///
    /// # Errors
    /// [`PlacementError`].
    pub fn decode(body: &Bytes, policy: &NamePolicy) -> Result<Self, PlacementError> {
        let wire = v1::PlacementBody::decode(body.clone()).map_err(|_| PlacementError::Malformed)?;
        let read = Self {
            conversation: ConversationId::from_wire(&wire.conversation, policy)?,
            epoch: wire.epoch,
            seq: wire.seq,
            event_id: EventId::from_bytes(&wire.event_id).ok_or(PlacementError::Malformed)?,
            previous: hash(&wire.previous)?,
            time: Timestamp::from_millis(wire.time_ms),
            base: hash(&wire.base)?,
        };
        let is_first = read.seq == 1;
        let sound = read.epoch != 0 && read.seq != 0;
        if sound && is_first == read.previous.is_none() && (is_first || read.base.is_none()) {
            Ok(read)
        } else {
            Err(PlacementError::Malformed)
        }
    }

    /// The bytes to attest and to send.
    pub fn encode(&self) -> Bytes {
        let bytes = |h: &Option<PlacementHash>| h.map(|h| Bytes::copy_from_slice(&h)).unwrap_or_default();
        let wire = v1::PlacementBody {
            conversation: self.conversation.to_bytes(),
            epoch: self.epoch,
            seq: self.seq,
            event_id: self.event_id.to_bytes(),
            previous: bytes(&self.previous),
            time_ms: self.time.as_millis(),
            base: bytes(&self.base),
        };
        wire.encode_to_vec().into()
    }
}

fn hash(bytes: &[u8]) -> Result<Option<PlacementHash>, PlacementError> {
    match bytes.len() {
        0 => Ok(None),
        _ => bytes.try_into().map(Some).map_err(|_| PlacementError::Malformed),
    }
}

/// The newest position of a conversation: what the next placement must follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its epoch.
    pub epoch: u64,
    /// Its position.
    pub seq: u64,
    /// Its [`placement_hash`].
    pub hash: PlacementHash,
}

impl Head {
    /// The head once `body` (as sent) is the newest placement.
    pub fn of(body: &[u8], placement: &PlacementBody) -> Self {
        Self { epoch: placement.epoch, seq: placement.seq, hash: placement_hash(body) }
    }

    /// The form in which pipes exchange positions.
    pub fn to_position(&self, conversation: &ConversationId) -> v1::Position {
        v1::Position {
            conversation: conversation.to_bytes(),
            epoch: self.epoch,
            seq: self.seq,
            hash: Bytes::copy_from_slice(&self.hash),
        }
    }
}

/// The hub's next placement after `head`, or the conversation's first in an epoch that `entropy` gives.
pub fn next(
    conversation: &ConversationId,
    head: Option<&Head>,
    event_id: EventId,
    time: Timestamp,
    entropy: &dyn Entropy,
) -> PlacementBody {
    let (epoch, seq, previous) = match head {
        Some(head) => (head.epoch, head.seq + 1, Some(head.hash)),
        None => (new_epoch(entropy), 1, None),
    };
    PlacementBody { conversation: conversation.clone(), epoch, seq, event_id, previous, time, base: None }
}

/// A random epoch, which is never zero. `[EVENT-PLACE-03]`
pub fn new_epoch(entropy: &dyn Entropy) -> u64 {
    u64::from_be_bytes(crate::time::random(entropy)).max(1)
}

/// Signs placement bodies, in batches of at most 64.
pub fn sign(bodies: &[Bytes], key: &SigningKey) -> Vec<v1::Placement> {
    let proofs = attestation::attest(bodies, Context::Placements, key);
    let sign = |(body, proof): (&Bytes, _)| v1::Placement { body: body.clone(), attestation: Some(proof) };
    bodies.iter().zip(proofs).map(sign).collect()
}

/// Whether `placement` is one of the hub whose card is `hub`, and what it says. `[EVENT-PLACE-04]`
///
/// # Errors
/// [`PlacementError`]. That it follows what is known is [`follows`]' answer.
pub fn verify(
    placement: &v1::Placement,
    hub: &VerifiedCard,
    policy: &NamePolicy,
    cache: &mut RootCache,
) -> Result<PlacementBody, PlacementError> {
    let body = PlacementBody::decode(&placement.body, policy)?;
    if *body.conversation.hub() != hub.name {
        return Err(PlacementError::WrongHub);
    }
    let proof = placement.attestation.as_ref().ok_or(PlacementError::Malformed)?;
    attestation::verify(&placement.body, proof, Context::Placements, hub, body.time, cache)?;
    Ok(body)
}

/// How a verified placement stands to the newest one known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The next one: take it.
    Next,
    /// At or before the head: known already.
    Known,
    /// Something between is missing: `Fetch` it.
    Gap,
    /// Same position, or same predecessor's place, with another hash: the hub contradicts itself.
    Contradiction,
    /// The first of another epoch.
    NewEpoch,
}

/// Where `placement` (its body as sent: `body`) stands after `head`. `[EVENT-PLACE-05]`
pub fn follows(head: Option<&Head>, body: &[u8], placement: &PlacementBody) -> Order {
    let Some(head) = head else {
        return if placement.seq == 1 { Order::Next } else { Order::Gap };
    };
    if placement.epoch != head.epoch {
        return if placement.seq == 1 { Order::NewEpoch } else { Order::Gap };
    }
    if placement.seq == head.seq {
        let same = placement_hash(body) == head.hash;
        return if same { Order::Known } else { Order::Contradiction };
    }
    if placement.seq < head.seq {
        return Order::Known;
    }
    if placement.seq > head.seq + 1 {
        return Order::Gap;
    }
    if placement.previous == Some(head.hash) { Order::Next } else { Order::Contradiction }
}

/// Why a placement is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
    /// Does not decode, or its fields contradict each other.
    #[error("the placement is malformed")]
    Malformed,
    /// Its conversation.
    #[error("the placement's conversation: {0}")]
    Conversation(#[from] ConversationError),
    /// The conversation belongs to another hub.
    #[error("the conversation is another hub's")]
    WrongHub,
    /// Not signed by the hub.
    #[error("the placement is not attested by its hub: {0}")]
    Attestation(#[from] AttestationError),
}

impl From<PlacementError> for Fault {
    fn from(e: PlacementError) -> Self {
        match e {
            PlacementError::Attestation(e) => e.into(),
            PlacementError::Conversation(e) => e.into(),
            PlacementError::WrongHub => Fault::new(ErrorCode::WrongHub, e.to_string()),
            PlacementError::Malformed => Fault::new(ErrorCode::Malformed, e.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Address;
    use crate::event::event_id;
    use proptest::prelude::*;

    fn demo() -> NamePolicy {
        NamePolicy::allowing(["example"])
    }

    fn conversation() -> ConversationId {
        let address = |text| Address::parse(text, &demo()).expect("an address of the test");
        ConversationId::line(&address("support@bank.example"), &address("ann@home.example"))
    }

    fn chain(count: u8) -> Vec<(Bytes, PlacementBody)> {
        let mut head = None;
        let mut place = |i: u8| {
            let time = Timestamp::from_secs(i.into());
            let placement =
                next(&conversation(), head.as_ref(), event_id(&[i]), time, &crate::testing::Constant(1));
            let body = placement.encode();
            head = Some(Head::of(&body, &placement));
            (body, placement)
        };
        (0..count).map(&mut place).collect()
    }

    #[test]
    fn a_chain_is_taken_in_order_and_a_repeat_is_known() {
        let mut head = None;
        for (i, (body, placement)) in chain(5).iter().enumerate() {
            assert_eq!(placement.seq, i as u64 + 1);
            assert_eq!(follows(head.as_ref(), body, placement), Order::Next);
            head = Some(Head::of(body, placement));
            assert_eq!(follows(head.as_ref(), body, placement), Order::Known);
        }
    }

    #[test]
    fn a_gap_a_contradiction_and_a_new_epoch_are_told_apart() {
        let chain = chain(3);
        let head = Head::of(&chain[0].0, &chain[0].1);
        assert_eq!(follows(Some(&head), &chain[2].0, &chain[2].1), Order::Gap);
        assert_eq!(follows(None, &chain[1].0, &chain[1].1), Order::Gap);
        let other = PlacementBody { time: Timestamp::from_secs(99), ..chain[0].1.clone() };
        assert_eq!(follows(Some(&head), &other.encode(), &other), Order::Contradiction);
        let forked = PlacementBody { previous: Some([7; 32]), ..chain[1].1.clone() };
        assert_eq!(follows(Some(&head), &forked.encode(), &forked), Order::Contradiction);
        let epoch = PlacementBody { epoch: 9, base: Some(head.hash), ..chain[0].1.clone() };
        assert_eq!(follows(Some(&head), &epoch.encode(), &epoch), Order::NewEpoch);
    }

    #[test]
    fn refuses_bodies_whose_fields_contradict_each_other() {
        let good = chain(2)[1].1.clone();
        let bad = |b: PlacementBody| PlacementBody::decode(&b.encode(), &demo());
        assert_eq!(bad(good.clone()), Ok(good.clone()));
        assert_eq!(bad(PlacementBody { epoch: 0, ..good.clone() }), Err(PlacementError::Malformed));
        assert_eq!(bad(PlacementBody { seq: 0, ..good.clone() }), Err(PlacementError::Malformed));
        assert_eq!(bad(PlacementBody { previous: None, ..good.clone() }), Err(PlacementError::Malformed));
        assert_eq!(bad(PlacementBody { seq: 1, ..good.clone() }), Err(PlacementError::Malformed));
        assert_eq!(bad(PlacementBody { base: Some([1; 32]), ..good }), Err(PlacementError::Malformed));
    }

    proptest! {
        #[test]
        fn a_body_is_read_back(epoch in 1..u64::MAX, seq in 2..u64::MAX, id: [u8; 32], previous: [u8; 32], ms: u64) {
            let body = PlacementBody {
                conversation: conversation(),
                epoch,
                seq,
                event_id: EventId::from_bytes(&id).expect("32 bytes"),
                previous: Some(previous),
                time: Timestamp::from_millis(ms),
                base: None,
            };
            prop_assert_eq!(PlacementBody::decode(&body.encode(), &demo()), Ok(body));
        }
    }
}
