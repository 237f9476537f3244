//! Decides which events are looked at: decoded once, every field in range, parties in agreement with the conversation.
//!
//! A checked event's signature is another question, asked in `keys`.

use ahoy_proto::address::Address;
use ahoy_proto::conversation::ConversationId;
use ahoy_proto::event;
use ahoy_proto::fault::Fault;
use ahoy_proto::limit;
use ahoy_proto::name::NamePolicy;
use ahoy_proto::v1::{self, ConversationKind, ErrorCode};
use bytes::Bytes;
use prost::Message;
use sha2::{Digest, Sha256};

/// An event whose fields are in range.
#[derive(Clone)]
pub struct Checked {
    /// As sent.
    pub event: v1::Event,
    /// Decoded from it.
    pub body: v1::EventBody,
    /// Its id.
    pub id: [u8; 32],
    /// Who says it.
    pub origin: Address,
    /// To whom.
    pub to: Address,
    /// Where.
    pub conversation: ConversationId,
}

impl Checked {
    /// Decodes and checks an event. `[EVENT-ATTEST-02]`
    pub fn new(event: v1::Event, policy: &NamePolicy) -> Result<Self, Fault> {
        if event.body.len() > limit::CONTENT_BYTES + limit::FALLBACK_BYTES {
            // What is larger would not fit a frame once it is placed, and stop every reader behind it.
            return Err(malformed("the event is too large"));
        }
        let body =
            v1::EventBody::decode(&event.body[..]).map_err(|_| malformed("the event does not decode"))?;
        let origin = Address::from_wire(&body.origin, policy)
            .map_err(|_| malformed("the event's origin is no address"))?;
        let to = Address::from_wire(&body.to, policy)
            .map_err(|_| malformed("the event's addressee is no address"))?;
        let conversation = ConversationId::from_wire(&body.conversation, policy)?;
        if body.client_id.len() != 16 || body.device.len() != 8 || body.nonce.len() != 16 {
            return Err(malformed("the event's client id, device or nonce has a wrong length"));
        }
        let content = body.content.as_ref().ok_or_else(|| malformed("the event has no content"))?;
        event::check_content(content)?;
        check_parties(&conversation, &origin, &to)?;
        let id = *event::event_id(&event.body).as_bytes();
        Ok(Self { event, body, id, origin, to, conversation })
    }

    /// SHA-256 of the content: tells a repeated submission from a client id that was used twice.
    pub fn content_hash(&self) -> Bytes {
        let content = self.body.content.as_ref().map(Message::encode_to_vec).unwrap_or_default();
        Bytes::copy_from_slice(&Sha256::digest(content))
    }
}

/// A conversation's id is a function of its parties. `[CONV-ID-03]`
fn check_parties(id: &ConversationId, origin: &Address, to: &Address) -> Result<(), Fault> {
    let fits = match id.kind() {
        ConversationKind::Direct => *id == ConversationId::direct(origin, to),
        ConversationKind::Line => {
            *id == ConversationId::line(to, origin) || *id == ConversationId::line(origin, to)
        }
        _ => return Err(Fault::unsupported("conversations of this kind")),
    };
    if origin == to || !fits {
        return Err(malformed("the conversation id is not that of the event's parties"));
    }
    Ok(())
}

/// A fault of whoever sent the bytes.
pub fn malformed(message: &str) -> Fault {
    Fault::new(ErrorCode::Malformed, message)
}
