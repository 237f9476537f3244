//! Decides where everything lies in the store: one partition per served name, keys by prefix.
//!
//! A commit touches one partition, so whatever must change together belongs to one name: a
//! submitted message, its entry in the sync log and its place in the outbox are one commit.
//! Variable parts are length-prefixed and numbers big-endian, so that keys sort as their parts.

use ahoy_proto::address::Address;
use ahoy_proto::conversation::ConversationId;
use ahoy_proto::name::Name;
use bytes::{BufMut, Bytes, BytesMut};

use crate::store::Partition;

/// First byte of a key: what the entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// An account: `Account`.
    Account = b'a',
    /// A device of an account: `Device`.
    Device = b'd',
    /// A service and what its enrolment allows: `Service`.
    Service = b'v',
    /// A spent invite token.
    Spent = b't',
    /// An item of an owner's sync log: `SyncItem` of the schema.
    Sync = b's',
    /// What is known of a conversation: `Conversation`.
    Conversation = b'c',
    /// A placed event by position: `PlacedEvent` of the schema.
    Placed = b'p',
    /// At the hub: which position a client's message got.
    Deduplication = b'h',
    /// At the origin: which submission used a client id.
    Submission = b'i',
    /// A message waiting until its addressee's kind and hub are known: `Draft`.
    Draft = b'w',
    /// The answer to a contact question: `ContactRecord`.
    Contact = b'k',
    /// A queued item for a destination name: `Queued`.
    Outbox = b'o',
    /// Counters of a destination's queue: `QueueState`.
    QueueState = b'q',
    /// How far a source's pipe was received: `Received`.
    Received = b'r',
    /// A refused item of a source's pipe, whose ack may have been lost: `PipeRefusal` of the schema.
    Refused = b'x',
}

/// The partition that holds everything of one served name.
pub fn partition(name: &Name) -> Partition {
    Partition::new("name", name.as_str())
}

/// A key under construction.
#[derive(Clone)]
pub struct Key(BytesMut);

impl Key {
    /// A key of one kind, without any part yet.
    pub fn new(kind: Kind) -> Self {
        let mut bytes = BytesMut::with_capacity(96);
        bytes.put_u8(kind as u8);
        Self(bytes)
    }

    /// Adds a part of variable length, at most 65,535 bytes.
    pub fn part(mut self, bytes: &[u8]) -> Self {
        let length = u16::try_from(bytes.len()).expect("names, addresses and ids are shorter than 64 KiB");
        self.0.put_u16(length);
        self.0.put_slice(bytes);
        self
    }

    /// Adds a part whose length is fixed by the kind of key.
    pub fn fixed(mut self, bytes: &[u8]) -> Self {
        self.0.put_slice(bytes);
        self
    }

    /// Adds a number that sorts by value.
    pub fn number(mut self, number: u64) -> Self {
        self.0.put_u64(number);
        self
    }

    /// The finished key.
    pub fn bytes(self) -> Bytes {
        self.0.freeze()
    }
}

/// The number in the last eight bytes of a key.
pub fn trailing_number(key: &[u8]) -> u64 {
    let at = key.len().saturating_sub(8);
    key[at..].try_into().map(u64::from_be_bytes).unwrap_or(0)
}

/// The account of an address.
pub fn account(address: &Address) -> Bytes {
    Key::new(Kind::Account).part(address.to_string().as_bytes()).bytes()
}

/// One device of an account.
pub fn device(account: &Address, key: &[u8]) -> Bytes {
    Key::new(Kind::Device).part(account.to_string().as_bytes()).fixed(key).bytes()
}

/// A service by its name.
pub fn service(service: &str) -> Bytes {
    Key::new(Kind::Service).part(service.as_bytes()).bytes()
}

/// The mark that an invite token was used.
pub fn spent(token: &[u8]) -> Bytes {
    Key::new(Kind::Spent).part(token).bytes()
}

/// All sync items of an owner (an account's address, or `service:` and the service's name).
pub fn sync_log(owner: &str) -> Bytes {
    Key::new(Kind::Sync).part(owner.as_bytes()).bytes()
}

/// One sync item.
pub fn sync(owner: &str, position: u64) -> Bytes {
    Key::new(Kind::Sync).part(owner.as_bytes()).number(position).bytes()
}

/// What is known of a conversation.
pub fn conversation(id: &ConversationId) -> Bytes {
    Key::new(Kind::Conversation).part(id.as_bytes()).bytes()
}

/// The placed events of one epoch of a conversation.
pub fn placed_epoch(id: &ConversationId, epoch: u64) -> Bytes {
    Key::new(Kind::Placed).part(id.as_bytes()).number(epoch).bytes()
}

/// One placed event.
pub fn placed(id: &ConversationId, epoch: u64, seq: u64) -> Bytes {
    Key::new(Kind::Placed).part(id.as_bytes()).number(epoch).number(seq).bytes()
}

/// At the hub: the position that a client's message got.
pub fn deduplication(id: &ConversationId, origin: &str, device: &[u8], client_id: &[u8]) -> Bytes {
    Key::new(Kind::Deduplication)
        .part(id.as_bytes())
        .part(origin.as_bytes())
        .part(device)
        .part(client_id)
        .bytes()
}

/// At the origin: the submission that used a client id.
pub fn submission(origin: &str, device: &[u8], client_id: &[u8]) -> Bytes {
    Key::new(Kind::Submission).part(origin.as_bytes()).part(device).part(client_id).bytes()
}

/// All messages that wait for the answer about one pair of addresses.
pub fn drafts(from: &str, to: &str) -> Bytes {
    Key::new(Kind::Draft).part(from.as_bytes()).part(to.as_bytes()).bytes()
}

/// One waiting message.
pub fn draft(from: &str, to: &str, order: u64) -> Bytes {
    Key::new(Kind::Draft).part(from.as_bytes()).part(to.as_bytes()).number(order).bytes()
}

/// The known answer about one pair of addresses.
pub fn contact(from: &str, to: &str) -> Bytes {
    Key::new(Kind::Contact).part(from.as_bytes()).part(to.as_bytes()).bytes()
}

/// The queue of a destination name.
pub fn outbox(destination: &Name) -> Bytes {
    Key::new(Kind::Outbox).part(destination.as_str().as_bytes()).bytes()
}

/// One queued item.
pub fn queued(destination: &Name, seq: u64) -> Bytes {
    Key::new(Kind::Outbox).part(destination.as_str().as_bytes()).number(seq).bytes()
}

/// The counters of a destination's queue.
pub fn queue_state(destination: &Name) -> Bytes {
    Key::new(Kind::QueueState).part(destination.as_str().as_bytes()).bytes()
}

/// How far a source's pipe was received.
pub fn received(source: &Name) -> Bytes {
    Key::new(Kind::Received).part(source.as_str().as_bytes()).bytes()
}

/// The remembered refusals of a source's pipe.
pub fn refusals(source: &Name) -> Bytes {
    Key::new(Kind::Refused).part(source.as_str().as_bytes()).bytes()
}

/// One remembered refusal, by how many items had been received.
pub fn refusal(source: &Name, count: u64) -> Bytes {
    Key::new(Kind::Refused).part(source.as_str().as_bytes()).number(count).bytes()
}

/// The prefix of the queue that an outbox key belongs to.
pub fn outbox_of(key: &[u8]) -> Option<Bytes> {
    first_part(key).map(|text| Key::new(Kind::Outbox).part(text.as_bytes()).bytes())
}

/// The prefix of the pair of addresses that a draft's key belongs to.
pub fn drafts_of(key: &[u8]) -> Option<Bytes> {
    first_two_parts(key).map(|(from, to)| drafts(from, to))
}

/// The first variable part of a key, as text; for keys that were found by scanning a kind.
pub fn first_part(key: &[u8]) -> Option<&str> {
    let length = usize::from(u16::from_be_bytes(key.get(1..3)?.try_into().ok()?));
    std::str::from_utf8(key.get(3..3 + length)?).ok()
}

/// The first two variable parts of a key, as text.
pub fn first_two_parts(key: &[u8]) -> Option<(&str, &str)> {
    let first = first_part(key)?;
    let rest = key.get(3 + first.len()..)?;
    let length = usize::from(u16::from_be_bytes(rest.get(..2)?.try_into().ok()?));
    Some((first, std::str::from_utf8(rest.get(2..2 + length)?).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_sort_by_value_and_come_back() {
        assert!(sync("a", 255) < sync("a", 256));
        assert_eq!(trailing_number(&sync("a", 77)), 77);
    }

    #[test]
    fn one_owners_log_is_not_a_prefix_of_anothers() {
        assert!(!sync("ab", 1).starts_with(&sync_log("a")));
    }

    #[test]
    fn parts_come_back_as_text() {
        let key = draft("a@home.example", "b@bank.example", 3);
        assert_eq!(first_two_parts(&key), Some(("a@home.example", "b@bank.example")));
        assert_eq!(first_part(&key[..4]), None);
    }
}
