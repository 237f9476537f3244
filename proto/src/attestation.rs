//! Decides how many events or placements are signed at once, and how each proves itself alone.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use crate::card::VerifiedCard;
use crate::fault::Fault;
use crate::key::{PublicKey, SigningKey};
use crate::limit;
use crate::merkle::{self, Hash};
use crate::time::Timestamp;
use crate::v1::{self, ErrorCode};

/// What is signed; a root of one kind is worth nothing as the other. `[EVENT-ATTEST-04]`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Context {
    /// By an origin.
    Events,
    /// By a hub.
    Placements,
}

impl Context {
    /// The context of the signature.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Events => "ahoy-events-v1",
            Self::Placements => "ahoy-placements-v1",
        }
    }
}

/// Attests `bodies`, in their order: one signature for every 64 of them. `[EVENT-ATTEST-03]`
///
/// Events attested together must be for one hub: whoever holds one of them sees how many there were.
pub fn attest<B: AsRef<[u8]>>(bodies: &[B], context: Context, key: &SigningKey) -> Vec<v1::Attestation> {
    bodies.chunks(limit::ATTESTED_LEAVES).flat_map(|batch| attest_batch(batch, context, key)).collect()
}

fn attest_batch<B: AsRef<[u8]>>(batch: &[B], context: Context, key: &SigningKey) -> Vec<v1::Attestation> {
    let leaves: Vec<Hash> = batch.iter().map(|body| merkle::leaf_hash(body.as_ref())).collect();
    let Some(root) = merkle::root(&leaves) else { return Vec::new() };
    let size = u32::try_from(leaves.len()).expect("a batch has at most 64 leaves");
    let signature = Bytes::copy_from_slice(&key.sign(context.as_str(), &[&size.to_be_bytes(), &root]));
    let signer = Bytes::copy_from_slice(key.public().as_bytes());
    let proof = |index: u32| v1::Attestation {
        key: signer.clone(),
        signature: signature.clone(),
        size,
        index,
        path: merkle::path(&leaves, index as usize)
            .into_iter()
            .flatten()
            .map(|hash| Bytes::copy_from_slice(&hash))
            .collect(),
    };
    (0..size).map(proof).collect()
}

/// Whether `attestation` proves that a message key of `card`'s name signed `body`, the key being valid at `at`:
/// the placement's time, or now when there is none. `[EVENT-ATTEST-05]`
///
/// # Errors
/// [`AttestationError`].
pub fn verify(
    body: &[u8],
    attestation: &v1::Attestation,
    context: Context,
    card: &VerifiedCard,
    at: Timestamp,
    cache: &mut RootCache,
) -> Result<(), AttestationError> {
    let key = PublicKey::from_bytes(&attestation.key).map_err(|_| AttestationError::Key)?;
    if !card.is_message_key(&key, at) {
        return Err(AttestationError::Key);
    }
    verify_by(body, attestation, context, &key, cache)
}

/// Whether `attestation` proves that `key` signed `body`. Whose key it is, is not asked.
///
/// # Errors
/// [`AttestationError`].
pub fn verify_by(
    body: &[u8],
    attestation: &v1::Attestation,
    context: Context,
    key: &PublicKey,
    cache: &mut RootCache,
) -> Result<(), AttestationError> {
    if attestation.key != key.as_bytes()[..] {
        return Err(AttestationError::Key);
    }
    let root = climb(body, attestation)?;
    let verified = Root { context, key: *key, size: attestation.size, root };
    if cache.contains(&verified) {
        return Ok(());
    }
    let parts = [&attestation.size.to_be_bytes()[..], &root];
    key.verify_parts(context.as_str(), &parts, &attestation.signature)
        .map_err(|_| AttestationError::Signature)?;
    cache.insert(verified);
    Ok(())
}

fn climb(body: &[u8], attestation: &v1::Attestation) -> Result<Hash, AttestationError> {
    let size = attestation.size;
    // 64 leaves have paths of at most six hashes.
    if size == 0 || size as usize > limit::ATTESTED_LEAVES || attestation.path.len() > 6 {
        return Err(AttestationError::Shape);
    }
    let path: Result<Vec<Hash>, _> = attestation.path.iter().map(|h| h[..].try_into()).collect();
    let path = path.map_err(|_| AttestationError::Shape)?;
    merkle::root_from_path(merkle::leaf_hash(body), attestation.index, size, &path)
        .ok_or(AttestationError::Shape)
}

/// Roots whose signature was verified, the newest so many: the other 63 events of a batch cost no signature check.
#[derive(Debug)]
pub struct RootCache {
    roots: HashSet<Root>,
    order: VecDeque<Root>,
    capacity: usize,
}

/// `[EVENT-ATTEST-06]`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Root {
    context: Context,
    key: PublicKey,
    size: u32,
    root: Hash,
}

impl RootCache {
    /// For at most `capacity` roots; each takes about 200 bytes.
    pub fn new(capacity: usize) -> Self {
        Self { roots: HashSet::new(), order: VecDeque::new(), capacity: capacity.max(1) }
    }

    /// How many roots it holds.
    pub fn len(&self) -> usize {
        self.roots.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.roots.is_empty()
    }

    fn contains(&self, root: &Root) -> bool {
        self.roots.contains(root)
    }

    fn insert(&mut self, root: Root) {
        if self.order.len() == self.capacity
            && let Some(oldest) = self.order.pop_front()
        {
            self.roots.remove(&oldest);
        }
        if self.roots.insert(root) {
            self.order.push_back(root);
        }
    }
}

/// Whether queued events must be attested anew: `key` is none of the card's, or stops being one within `ahead`.
pub fn must_renew(key: &PublicKey, card: &VerifiedCard, now: Timestamp, ahead: Duration) -> bool {
    !card.is_message_key(key, now) || !card.is_message_key(key, now + ahead)
}

/// Why an attestation proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum AttestationError {
    /// Not a message key of the name at that time.
    #[error("the attesting key is not a message key of the name at that time")]
    Key,
    /// Size, index and path do not belong together.
    #[error("the attestation's size, index and path do not fit each other")]
    Shape,
    /// The root is not signed, or the body is not under it.
    #[error("the attestation's signature does not cover the body")]
    Signature,
}

impl AttestationError {
    /// The requirement that is broken.
    pub fn rule(self) -> &'static str {
        match self {
            Self::Key => "EVENT-ATTEST-05",
            Self::Shape => "EVENT-ATTEST-03",
            Self::Signature => "EVENT-ATTEST-04",
        }
    }
}

impl From<AttestationError> for Fault {
    fn from(e: AttestationError) -> Self {
        Fault::new(ErrorCode::BadAttestation, e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key() -> SigningKey {
        SigningKey::from_seed([3; 32])
    }

    fn bodies(count: usize) -> Vec<Vec<u8>> {
        (0..count).map(|i| format!("event {i}").into_bytes()).collect()
    }

    fn check(
        body: &[u8],
        a: &v1::Attestation,
        context: Context,
        cache: &mut RootCache,
    ) -> Result<(), AttestationError> {
        verify_by(body, a, context, &key().public(), cache)
    }

    #[test]
    fn sixty_five_bodies_take_two_signatures_and_each_proves_itself() {
        let bodies = bodies(65);
        let proofs = attest(&bodies, Context::Events, &key());
        let mut cache = RootCache::new(10);
        for (body, proof) in bodies.iter().zip(&proofs) {
            assert_eq!(check(body, proof, Context::Events, &mut cache), Ok(()));
        }
        assert_eq!((proofs.len(), cache.len()), (65, 2));
        assert_eq!((proofs[63].size, proofs[64].size, proofs[64].path.len()), (64, 1, 0));
    }

    #[test]
    fn a_remembered_root_helps_no_other_body_context_or_size() {
        let bodies = bodies(4);
        let proofs = attest(&bodies, Context::Events, &key());
        let mut cache = RootCache::new(10);
        assert_eq!(check(&bodies[0], &proofs[0], Context::Events, &mut cache), Ok(()));
        let wrong = [
            check(&bodies[1], &proofs[0], Context::Events, &mut cache),
            check(&bodies[0], &proofs[0], Context::Placements, &mut cache),
            check(&bodies[0], &v1::Attestation { size: 3, ..proofs[0].clone() }, Context::Events, &mut cache),
        ];
        assert_eq!(wrong, [Err(AttestationError::Signature); 3]);
        assert_eq!(cache.len(), 1);
    }

    #[test]
    fn refuses_shapes_that_no_batch_has() {
        let proof = attest(&bodies(3), Context::Events, &key()).remove(0);
        let mut cache = RootCache::new(1);
        let mut refused = |change: fn(&mut v1::Attestation)| {
            let mut proof = proof.clone();
            change(&mut proof);
            check(b"event 0", &proof, Context::Events, &mut cache)
        };
        assert_eq!(refused(|_| ()), Ok(()));
        for change in [
            (|p| p.size = 0) as fn(&mut v1::Attestation),
            |p| p.size = 65,
            |p| p.index = 3,
            |p| p.path[0].truncate(31),
            |p| _ = p.path.pop(),
            |p| p.path.extend(vec![Bytes::from_static(&[0; 32]); 9]),
        ] {
            assert_eq!(refused(change), Err(AttestationError::Shape));
        }
        assert_eq!(refused(|p| p.key = Bytes::new()), Err(AttestationError::Key));
    }

    #[test]
    fn the_cache_forgets_the_oldest_root() {
        let mut cache = RootCache::new(2);
        for i in 0..5 {
            let body = vec![i];
            let proof = attest(&[&body], Context::Events, &key()).remove(0);
            assert_eq!(check(&body, &proof, Context::Events, &mut cache), Ok(()));
        }
        assert_eq!(cache.len(), 2);
    }

    proptest! {
        #[test]
        fn every_body_of_a_batch_of_any_size_proves_itself(count in 1..=64usize, pick in 0..64usize, flip in 0..8usize) {
            let bodies = bodies(count);
            let pick = pick % count;
            let proofs = attest(&bodies, Context::Placements, &key());
            let mut cache = RootCache::new(1);
            prop_assert_eq!(check(&bodies[pick], &proofs[pick], Context::Placements, &mut cache), Ok(()));
            let mut other = bodies[pick].clone();
            other[flip % 7] ^= 1;
            prop_assert_eq!(
                check(&other, &proofs[pick], Context::Placements, &mut cache),
                Err(AttestationError::Signature)
            );
        }
    }
}
