//! A placed event as a person's program sees it.

use ahoy_proto::event::event_id;
use ahoy_proto::v1::{self, content};
use bytes::Bytes;
use prost::Message as _;

/// One message of a conversation, decoded.
#[derive(Clone, Debug)]
pub struct Message {
    /// The address that says it.
    pub from: String,
    /// The other party.
    pub to: String,
    /// What it says.
    pub content: v1::Content,
    /// The origin's clock, Unix milliseconds.
    pub time_ms: u64,
    /// 32 bytes, the same for everybody.
    pub event_id: Bytes,
    /// Which conversation.
    pub conversation: Bytes,
    /// The hub's epoch.
    pub epoch: u64,
    /// The place in the epoch.
    pub seq: u64,
}

/// Why a placed event cannot be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// A part is missing or does not decode.
    #[error("its {0} is missing or malformed")]
    Malformed(&'static str),
    /// The placement is of another event.
    #[error("its placement names another event")]
    Mismatched,
}

impl Message {
    /// Decodes a placed event. Its proofs were checked by the homeserver; that the placement is of this
    /// very event is checked here.
    ///
    /// # Errors
    /// [`MessageError`], when a part is missing, malformed, or of another event.
    pub fn from_placed(placed: &v1::PlacedEvent) -> Result<Self, MessageError> {
        let event = placed.event.as_ref().ok_or(MessageError::Malformed("event"))?;
        let body = v1::EventBody::decode(event.body.clone()).map_err(|_| MessageError::Malformed("event"))?;
        let placement = placed.placement.as_ref().ok_or(MessageError::Malformed("placement"))?;
        let placement = v1::PlacementBody::decode(placement.body.clone())
            .map_err(|_| MessageError::Malformed("placement"))?;
        let id = event_id(&event.body);
        if placement.event_id != id.as_bytes()[..] {
            return Err(MessageError::Mismatched);
        }
        Ok(Self {
            from: body.origin,
            to: body.to,
            content: body.content.ok_or(MessageError::Malformed("content"))?,
            time_ms: body.time_ms,
            event_id: placement.event_id,
            conversation: placement.conversation,
            epoch: placement.epoch,
            seq: placement.seq,
        })
    }

    /// What to show: the text, or the fallback of any other type, those of the future included.
    pub fn text(&self) -> String {
        match &self.content.content {
            Some(content::Content::Text(text)) => text.body.clone(),
            _ => self.content.fallback.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(content: v1::Content) -> v1::PlacedEvent {
        let body = v1::EventBody {
            origin: "ann@home.example".into(),
            to: "bob@home.example".into(),
            content: Some(content),
            ..v1::EventBody::default()
        };
        let body = Bytes::from(body.encode_to_vec());
        let placement = v1::PlacementBody {
            event_id: Bytes::copy_from_slice(event_id(&body).as_bytes()),
            seq: 3,
            ..v1::PlacementBody::default()
        };
        v1::PlacedEvent {
            event: Some(v1::Event { body, attestation: None }),
            placement: Some(v1::Placement { body: placement.encode_to_vec().into(), attestation: None }),
        }
    }

    #[test]
    fn shows_the_fallback_of_a_type_that_it_does_not_know() {
        let content = v1::Content { fallback: "a hologram".into(), content: None };
        let message = Message::from_placed(&placed(content)).expect("decodes");
        assert_eq!((message.text().as_str(), message.seq), ("a hologram", 3));
    }

    #[test]
    fn refuses_a_placement_of_another_event() {
        let mut placed = placed(v1::Content { fallback: "one".into(), content: None });
        let event = placed.event.as_mut().expect("made above");
        let other = v1::EventBody { origin: "eve@home.example".into(), ..v1::EventBody::default() };
        event.body = other.encode_to_vec().into();
        assert_eq!(Message::from_placed(&placed).expect_err("swapped"), MessageError::Mismatched);
    }
}
