//! Decides the id of a conversation, which fixes its kind and its hub.

use std::fmt;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::address::Address;
use crate::fault::Fault;
use crate::name::{Name, NameError, NamePolicy};
use crate::v1::{ConversationKind, ErrorCode};

const DIRECT: &str = "ahoy-direct-v1";
const LINE: &str = "ahoy-line-v1";
const HASH_BYTES: usize = 32;

/// `u8 kind | u8 len(hub) | hub | 32-byte hash`. Cheap to clone. `[CONV-ID-01]`
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConversationId {
    bytes: Bytes,
    hub: Name,
}

impl ConversationId {
    /// The conversation of two people, or of two lines; the order of the two does not matter. `[CONV-ID-02]`
    pub fn direct(one: &Address, other: &Address) -> Self {
        let (mut a, mut b) = (one, other);
        let (mut a_text, mut b_text) = (a.to_string(), b.to_string());
        if b_text < a_text {
            std::mem::swap(&mut a, &mut b);
            std::mem::swap(&mut a_text, &mut b_text);
        }
        let hash = hash(DIRECT, &a_text, &b_text);
        // The first bit picks the hub, so that neither side can choose it. `[CONV-HUB-01]`
        let hub = if hash[0] & 0x80 == 0 { a.name() } else { b.name() };
        Self::new(ConversationKind::Direct, hub, hash)
    }

    /// The conversation of a line with somebody; the line's homeserver is its hub. `[CONV-HUB-02]`
    pub fn line(line: &Address, other: &Address) -> Self {
        let hash = hash(LINE, &line.to_string(), &other.to_string());
        Self::new(ConversationKind::Line, line.name(), hash)
    }

    fn new(kind: ConversationKind, hub: &Name, hash: [u8; HASH_BYTES]) -> Self {
        let mut bytes = Vec::with_capacity(2 + hub.as_str().len() + HASH_BYTES);
        bytes.push(kind_byte(kind));
        bytes.push(u8::try_from(hub.as_str().len()).expect("a name has at most 247 bytes"));
        bytes.extend_from_slice(hub.as_str().as_bytes());
        bytes.extend_from_slice(&hash);
        Self { bytes: bytes.into(), hub: hub.clone() }
    }

    /// Reads an id. That it is the one of its two parties is for the caller to compare.
    ///
    /// # Errors
    /// [`ConversationError`].
    pub fn from_wire(bytes: &[u8], policy: &NamePolicy) -> Result<Self, ConversationError> {
        let [kind, len, rest @ ..] = bytes else {
            return Err(ConversationError::Malformed);
        };
        match ConversationKind::try_from(i32::from(*kind)) {
            Ok(ConversationKind::Direct | ConversationKind::Line) => {}
            _ => return Err(ConversationError::Kind(*kind)),
        }
        if rest.len() != usize::from(*len) + HASH_BYTES {
            return Err(ConversationError::Malformed);
        }
        let hub = std::str::from_utf8(&rest[..usize::from(*len)]);
        let hub = Name::from_wire(hub.map_err(|_| ConversationError::Malformed)?, policy)?;
        Ok(Self { bytes: Bytes::copy_from_slice(bytes), hub })
    }

    /// Direct or line.
    pub fn kind(&self) -> ConversationKind {
        ConversationKind::try_from(i32::from(self.bytes[0])).unwrap_or(ConversationKind::Unspecified)
    }

    /// The homeserver name that orders it.
    pub fn hub(&self) -> &Name {
        &self.hub
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes as they stand in a message.
    pub fn to_bytes(&self) -> Bytes {
        self.bytes.clone()
    }
}

fn kind_byte(kind: ConversationKind) -> u8 {
    u8::try_from(i32::from(kind)).expect("the kinds of the schema are below 256")
}

/// `SHA-256(context 0x00 | u16 len a | a | u16 len b | b)`.
fn hash(context: &str, a: &str, b: &str) -> [u8; HASH_BYTES] {
    let mut hash = Sha256::new().chain_update(context).chain_update([0]);
    for text in [a, b] {
        let len = u16::try_from(text.len()).expect("an address has at most 312 bytes");
        hash.update(len.to_be_bytes());
        hash.update(text);
    }
    hash.finalize().into()
}

impl fmt::Display for ConversationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bytes.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for ConversationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConversationId({:?} at {}, ..", self.kind(), self.hub)?;
        self.bytes[self.bytes.len() - 4..].iter().try_for_each(|b| write!(f, "{b:02x}"))?;
        f.write_str(")")
    }
}

/// Why bytes are not a conversation's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConversationError {
    /// Too short, too long, or the hub is not text.
    #[error("the conversation id is malformed")]
    Malformed,
    /// A kind that is not implemented.
    #[error("conversations of kind {0} are not supported here")]
    Kind(u8),
    /// The hub is no name.
    #[error("the hub in the conversation id: {0}")]
    Hub(#[from] NameError),
}

impl From<ConversationError> for Fault {
    fn from(e: ConversationError) -> Self {
        let code = match e {
            ConversationError::Kind(_) => ErrorCode::Unsupported,
            ConversationError::Malformed | ConversationError::Hub(_) => ErrorCode::Malformed,
        };
        Fault::new(code, e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn demo() -> NamePolicy {
        NamePolicy::allowing(["example"])
    }

    fn address(text: &str) -> Address {
        Address::parse(text, &demo()).expect("an address of the test")
    }

    #[test]
    fn both_sides_compute_the_same_direct_conversation() {
        let (ann, bob) = (address("ann@home.example"), address("bob@bank.example"));
        assert_eq!(ConversationId::direct(&ann, &bob), ConversationId::direct(&bob, &ann));
    }

    #[test]
    fn the_hub_of_direct_conversations_falls_on_both_sides() {
        let ann = address("ann@home.example");
        let hubs = |name: &str| {
            (0..64)
                .map(|i| ConversationId::direct(&ann, &address(&format!("p{i}@bank.example"))))
                .filter(|id| id.hub().as_str() == name)
                .count()
        };
        assert!(hubs("home.example") > 10 && hubs("bank.example") > 10);
        assert_eq!(hubs("home.example") + hubs("bank.example"), 64);
    }

    #[test]
    fn a_lines_hub_is_the_company_and_the_direction_matters() {
        let (ann, desk) = (address("ann@home.example"), address("support@bank.example"));
        let id = ConversationId::line(&desk, &ann);
        assert_eq!((id.kind(), id.hub().as_str()), (ConversationKind::Line, "bank.example"));
        assert_ne!(id, ConversationId::line(&ann, &desk));
    }

    #[test]
    fn an_id_is_read_back_and_other_bytes_are_refused() {
        let id = ConversationId::line(&address("support@bank.example"), &address("ann@home.example"));
        assert_eq!(ConversationId::from_wire(id.as_bytes(), &demo()), Ok(id.clone()));
        let refused = |bytes: &[u8]| ConversationId::from_wire(bytes, &demo()).expect_err("bad");
        assert_eq!(refused(&[]), ConversationError::Malformed);
        assert_eq!(refused(&id.as_bytes()[..id.as_bytes().len() - 1]), ConversationError::Malformed);
        let mut group = id.as_bytes().to_vec();
        group[0] = 3;
        assert_eq!(refused(&group), ConversationError::Kind(3));
        let mut upper = id.as_bytes().to_vec();
        upper[2] = b'B';
        assert_eq!(refused(&upper), ConversationError::Hub(NameError::NotCanonical));
    }
}
