//! Decides what an event is: its id, and the fields that its body must have.

use std::fmt;

use bytes::Bytes;
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use crate::address::{Address, AddressError};
use crate::conversation::{ConversationError, ConversationId};
use crate::fault::Fault;
use crate::key::PublicKey;
use crate::limit;
use crate::merkle;
use crate::name::NamePolicy;
use crate::time::Timestamp;
use crate::v1::{self, ErrorCode};

/// The kind of an event that carries content.
pub const MESSAGE: &str = "message";
/// Longest `kind`, in bytes.
const KIND_BYTES: usize = 32;

/// The id of an event, which is its leaf hash. `[EVENT-ATTEST-01]`
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId([u8; 32]);

impl EventId {
    /// Reads 32 bytes; `None` for another length.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The bytes as they stand in a message.
    pub fn to_bytes(&self) -> Bytes {
        Bytes::copy_from_slice(&self.0)
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EventId({self})")
    }
}

/// `SHA-256(0x00 | body)`, over the body as it was sent.
pub fn event_id(body: &[u8]) -> EventId {
    EventId(merkle::leaf_hash(body))
}

/// How a device is named in an event: the first 8 bytes of SHA-256 over its key.
pub fn device_tag(device: &PublicKey) -> [u8; 8] {
    let hash: [u8; 32] = Sha256::digest(device.as_bytes()).into();
    std::array::from_fn(|i| hash[i])
}

/// The body of an event with every field checked. `[EVENT-ATTEST-02]`
#[derive(Clone, Debug, PartialEq)]
pub struct EventBody {
    /// Who says it.
    pub origin: Address,
    /// Where.
    pub conversation: ConversationId,
    /// `message`; others may come.
    pub kind: String,
    /// When, by the origin server's clock.
    pub time: Timestamp,
    /// The client's own id, unique per device.
    pub client_id: [u8; 16],
    /// [`device_tag`] of the device.
    pub device: [u8; 8],
    /// Of the origin server, so that guessable content is not recognised by its hash.
    pub nonce: [u8; 16],
    /// What is said.
    pub content: v1::Content,
    /// The other party of a direct or line conversation.
    pub to: Option<Address>,
}

impl EventBody {
    /// Reads a body as it was sent.
    ///
    /// # Errors
    /// [`EventError`] with the field that is wrong.
    pub fn decode(body: &Bytes, policy: &NamePolicy) -> Result<Self, EventError> {
        if body.len() > limit::CONTENT_BYTES + limit::FALLBACK_BYTES {
            return Err(EventError::TooLarge);
        }
        let wire = v1::EventBody::decode(body.clone()).map_err(|_| EventError::Malformed)?;
        if wire.kind.is_empty() || wire.kind.len() > KIND_BYTES {
            return Err(EventError::Field("kind"));
        }
        let content = wire.content.ok_or(EventError::Field("content"))?;
        check_content(&content)?;
        Ok(Self {
            origin: Address::from_wire(&wire.origin, policy)?,
            conversation: ConversationId::from_wire(&wire.conversation, policy)?,
            kind: wire.kind,
            time: Timestamp::from_millis(wire.time_ms),
            client_id: fixed(&wire.client_id, "client_id")?,
            device: fixed(&wire.device, "device")?,
            nonce: fixed(&wire.nonce, "nonce")?,
            content,
            to: (!wire.to.is_empty()).then(|| Address::from_wire(&wire.to, policy)).transpose()?,
        })
    }

    /// The bytes to attest and to send.
    pub fn encode(&self) -> Bytes {
        let wire = v1::EventBody {
            origin: self.origin.to_string(),
            conversation: self.conversation.to_bytes(),
            kind: self.kind.clone(),
            time_ms: self.time.as_millis(),
            client_id: Bytes::copy_from_slice(&self.client_id),
            device: Bytes::copy_from_slice(&self.device),
            nonce: Bytes::copy_from_slice(&self.nonce),
            content: Some(self.content.clone()),
            to: self.to.as_ref().map(Address::to_string).unwrap_or_default(),
        };
        wire.encode_to_vec().into()
    }

    /// Whether it is older than 30 days at `now`, and so refused. `[EVENT-DELIVER-05]`
    pub fn is_too_old(&self, now: Timestamp) -> bool {
        now.since(self.time) > limit::EVENT_LIFE
    }
}

/// The rules on content, whoever takes it in: a homeserver from its client, or a hub from an origin.
///
/// # Errors
/// [`EventError::TooLarge`], [`EventError::Encrypted`], or the missing content.
pub fn check_content(content: &v1::Content) -> Result<(), EventError> {
    if content.fallback.len() > limit::FALLBACK_BYTES || content.encoded_len() > limit::CONTENT_BYTES {
        return Err(EventError::TooLarge);
    }
    match &content.content {
        Some(v1::content::Content::Encrypted(_)) => Err(EventError::Encrypted),
        // A type from the future leaves the union empty; its fallback is what can be shown.
        None if content.fallback.is_empty() => Err(EventError::Field("content")),
        _ => Ok(()),
    }
}

fn fixed<const N: usize>(bytes: &[u8], field: &'static str) -> Result<[u8; N], EventError> {
    bytes.try_into().map_err(|_| EventError::Field(field))
}

/// Why bytes are not an acceptable event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// Not the message.
    #[error("the event does not decode")]
    Malformed,
    /// A field is missing or has a wrong length.
    #[error("the event's `{0}` is missing or has a wrong length")]
    Field(&'static str),
    /// An address in it.
    #[error("an address of the event: {0}")]
    Address(#[from] AddressError),
    /// Its conversation.
    #[error("the event's conversation: {0}")]
    Conversation(#[from] ConversationError),
    /// Too many bytes.
    #[error(
        "the content is over {} bytes, or its fallback over {}",
        limit::CONTENT_BYTES,
        limit::FALLBACK_BYTES
    )]
    TooLarge,
    /// Reserved.
    #[error("encrypted content is not supported here")]
    Encrypted,
}

impl From<EventError> for Fault {
    fn from(e: EventError) -> Self {
        let code = match e {
            EventError::Encrypted => ErrorCode::Unsupported,
            EventError::TooLarge => ErrorCode::FrameTooLarge,
            EventError::Malformed
            | EventError::Field(_)
            | EventError::Address(_)
            | EventError::Conversation(_) => ErrorCode::Malformed,
        };
        Fault::new(code, e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn demo() -> NamePolicy {
        NamePolicy::allowing(["example"])
    }

    fn address(text: &str) -> Address {
        Address::parse(text, &demo()).expect("an address of the test")
    }

    fn text(body: &str) -> v1::Content {
        let text = v1::Text { body: body.into(), ..Default::default() };
        v1::Content { fallback: body.into(), content: Some(v1::content::Content::Text(text)) }
    }

    fn body() -> EventBody {
        let (ann, desk) = (address("ann@home.example"), address("support@bank.example"));
        EventBody {
            conversation: ConversationId::line(&desk, &ann),
            origin: ann,
            kind: MESSAGE.into(),
            time: Timestamp::from_secs(1_800_000_000),
            client_id: [1; 16],
            device: [2; 8],
            nonce: [3; 16],
            content: text("ahoy"),
            to: Some(desk),
        }
    }

    fn decoded(change: impl FnOnce(&mut v1::EventBody)) -> Result<EventBody, EventError> {
        let mut wire = v1::EventBody::decode(body().encode()).expect("just encoded");
        change(&mut wire);
        EventBody::decode(&wire.encode_to_vec().into(), &demo())
    }

    #[test]
    fn refuses_a_body_with_a_wrong_field_by_its_name() {
        assert_eq!(decoded(|_| ()), Ok(body()));
        assert_eq!(decoded(|w| w.nonce.truncate(15)), Err(EventError::Field("nonce")));
        assert_eq!(decoded(|w| w.client_id.clear()), Err(EventError::Field("client_id")));
        assert_eq!(decoded(|w| w.device.clear()), Err(EventError::Field("device")));
        assert_eq!(decoded(|w| w.content = None), Err(EventError::Field("content")));
        assert_eq!(decoded(|w| w.kind.clear()), Err(EventError::Field("kind")));
        assert!(matches!(decoded(|w| w.origin = "Ann@home.example".into()), Err(EventError::Address(_))));
        assert!(matches!(decoded(|w| w.conversation.clear()), Err(EventError::Conversation(_))));
        assert_eq!(EventBody::decode(&Bytes::from_static(&[0xff]), &demo()), Err(EventError::Malformed));
    }

    #[test]
    fn refuses_content_that_is_encrypted_or_too_large() {
        let mut content = text("");
        content.content = Some(v1::content::Content::Encrypted(v1::Encrypted::default()));
        assert_eq!(check_content(&content), Err(EventError::Encrypted));
        assert_eq!(check_content(&text(&"a".repeat(4097))), Err(EventError::TooLarge));
        assert_eq!(check_content(&v1::Content::default()), Err(EventError::Field("content")));
        let future = v1::Content { fallback: "a poll".into(), content: None };
        assert_eq!(check_content(&future), Ok(()));
    }

    #[test]
    fn an_event_is_too_old_after_thirty_days() {
        let edge = body().time + limit::EVENT_LIFE;
        assert!(!body().is_too_old(edge));
        assert!(body().is_too_old(edge + std::time::Duration::from_millis(1)));
    }

    proptest! {
        #[test]
        fn a_body_is_read_back_and_its_id_covers_every_byte(
            time in 0..u64::MAX, client_id: [u8; 16], nonce: [u8; 16], said in "\\PC{1,80}", flip in 0..10_000usize,
        ) {
            let time = Timestamp::from_millis(time);
            let sent = EventBody { time, client_id, nonce, content: text(&said), ..body() };
            let bytes = sent.encode();
            prop_assert_eq!(EventBody::decode(&bytes, &demo()), Ok(sent));
            let mut other = bytes.to_vec();
            other[flip % bytes.len()] ^= 1;
            prop_assert_ne!(event_id(&other), event_id(&bytes));
        }
    }
}
