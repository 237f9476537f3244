//! Decides what a name remembers of a conversation, and who may read it.

use ahoy_proto::address::Address;
use ahoy_proto::conversation::ConversationId;
use ahoy_proto::fault::Fault;
use ahoy_proto::name::Name;
use ahoy_proto::v1::{self, ConversationKind, ErrorCode};
use prost::Message;

use crate::checked::Checked;
use crate::directory::Shelf;
use crate::layout;
use crate::record::Conversation;
use crate::store::{KeyRange, Order, Partition, Read, StoreError};

/// Bytes of events in one answer to `Fetch`, so that the answer fits a frame.
const FETCH_BYTES: usize = 192 * 1024;

/// The record of a conversation that begins with this event; its line comes first.
pub fn record(checked: &Checked, hub: &Name) -> Conversation {
    let line_is_origin = checked.conversation.kind() == ConversationKind::Line
        && checked.conversation == ConversationId::line(&checked.origin, &checked.to);
    let (first, second) =
        if line_is_origin { (&checked.origin, &checked.to) } else { (&checked.to, &checked.origin) };
    Conversation {
        first: first.to_string(),
        second: second.to_string(),
        hub: hub.to_string(),
        ..Conversation::default()
    }
}

/// The other party, as seen from `own`; `None` when `own` is not in it.
pub fn other_party(record: &Conversation, own: &Address) -> Option<String> {
    let own = own.to_string();
    if record.first == own {
        Some(record.second.clone())
    } else if record.second == own {
        Some(record.first.clone())
    } else {
        None
    }
}

/// Answers `Fetch` for somebody who speaks as one of the parties. `may_read` decides that.
pub fn fetch(
    read: &dyn Read,
    partition: &Partition,
    shelf: &impl Shelf,
    fetch: &v1::Fetch,
    id: &ConversationId,
    may_read: impl Fn(&Conversation) -> bool,
) -> Result<Result<v1::FetchAnswer, Fault>, StoreError> {
    let unknown = || Fault::new(ErrorCode::UnknownConversation, "no such conversation here");
    let Some(record) = shelf.record::<Conversation>(&layout::conversation(id))? else {
        return Ok(Err(unknown()));
    };
    if !may_read(&record) {
        return Ok(Err(unknown()));
    }
    let epoch = if fetch.epoch == 0 { record.epoch } else { fetch.epoch };
    let limit = fetch.limit.clamp(1, ahoy_proto::limit::FETCH_EVENTS) as usize;
    let range = KeyRange {
        start: std::ops::Bound::Included(layout::placed(id, epoch, fetch.from_seq).to_vec()),
        ..KeyRange::prefix(layout::placed_epoch(id, epoch))
    };
    let mut events = Vec::new();
    let mut bytes = 0;
    for (_, value) in read.scan(partition, &range, limit, Order::Ascending)? {
        bytes += value.len();
        if bytes > FETCH_BYTES {
            break;
        }
        events.extend(v1::PlacedEvent::decode(value).ok());
    }
    let head = if epoch == record.epoch { record.seq } else { 0 };
    Ok(Ok(v1::FetchAnswer { events, epoch, head }))
}
