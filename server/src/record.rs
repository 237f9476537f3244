//! Decides what the store holds beside messages of the schema: small protobuf records of our own.
//!
//! They are protobuf so that a field can be added without rewriting a data folder.

use bytes::Bytes;
use prost::Message;

/// An account.
#[derive(Clone, PartialEq, Message)]
pub struct Account {
    /// Unix time of the enrolment of its first device, milliseconds.
    #[prost(uint64, tag = "1")]
    pub created_ms: u64,
}

/// A device of an account.
#[derive(Clone, PartialEq, Message)]
pub struct Device {
    /// What the owner called it.
    #[prost(string, tag = "1")]
    pub label: String,
    /// Unix time, milliseconds.
    #[prost(uint64, tag = "2")]
    pub enrolled_ms: u64,
    /// `BindingKind` of the schema that its proofs must use.
    #[prost(int32, tag = "3")]
    pub binding: i32,
}

/// A service, what its enrolment allows and what it said when it last signed in.
#[derive(Clone, PartialEq, Message)]
pub struct Service {
    /// ed25519 public key.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// Addresses that it may claim.
    #[prost(string, repeated, tag = "2")]
    pub allowed: Vec<String>,
    /// Addresses that it claimed last.
    #[prost(string, repeated, tag = "3")]
    pub claimed: Vec<String>,
    /// Answers calls.
    #[prost(bool, tag = "4")]
    pub calls: bool,
    /// Takes messages.
    #[prost(bool, tag = "5")]
    pub messages: bool,
    /// Unix time, milliseconds.
    #[prost(uint64, tag = "6")]
    pub enrolled_ms: u64,
}

/// What a name knows of a conversation, as its hub or as a follower.
#[derive(Clone, PartialEq, Message)]
pub struct Conversation {
    /// One party; the line of a line's conversation.
    #[prost(string, tag = "1")]
    pub first: String,
    /// The other party.
    #[prost(string, tag = "2")]
    pub second: String,
    /// Current epoch; 0 = nothing placed yet.
    #[prost(uint64, tag = "3")]
    pub epoch: u64,
    /// Newest position in the epoch.
    #[prost(uint64, tag = "4")]
    pub seq: u64,
    /// Hash of the newest placement.
    #[prost(bytes = "bytes", tag = "5")]
    pub head: Bytes,
    /// Name of the hub.
    #[prost(string, tag = "6")]
    pub hub: String,
    /// At the hub: hash of the placement on which this epoch rests; empty in the first one.
    #[prost(bytes = "bytes", tag = "7")]
    pub base: Bytes,
}

/// At the hub: where a client's message was placed.
#[derive(Clone, PartialEq, Message)]
pub struct Deduplication {
    /// Id of the event that was placed.
    #[prost(bytes = "bytes", tag = "1")]
    pub event_id: Bytes,
    /// Its position.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    /// Its position.
    #[prost(uint64, tag = "3")]
    pub seq: u64,
    /// The hub's clock when it was placed, milliseconds.
    #[prost(uint64, tag = "4")]
    pub time_ms: u64,
    /// SHA-256 of the content as sent, which tells a repetition from a reused id.
    #[prost(bytes = "bytes", tag = "5")]
    pub content_hash: Bytes,
}

/// At the origin: what a client id was used for.
#[derive(Clone, PartialEq, Message)]
pub struct Submission {
    /// Whose sync log hears of it.
    #[prost(string, tag = "1")]
    pub owner: String,
    /// SHA-256 of the submission without its client id.
    #[prost(bytes = "bytes", tag = "2")]
    pub content_hash: Bytes,
    /// Position of its `Pending` in that log.
    #[prost(uint64, tag = "3")]
    pub position: u64,
    /// Unix time, milliseconds.
    #[prost(uint64, tag = "4")]
    pub time_ms: u64,
    /// Its outcome (`Placed` or `Failed`) is in the log.
    #[prost(bool, tag = "5")]
    pub settled: bool,
}

/// A message whose conversation is not known yet.
#[derive(Clone, PartialEq, Message)]
pub struct Draft {
    /// `EventBody` of the schema without `conversation` and `to`.
    #[prost(bytes = "bytes", tag = "1")]
    pub body: Bytes,
    /// Whose sync log hears of it.
    #[prost(string, tag = "2")]
    pub owner: String,
}

/// What the addressee's homeserver answered about a pair of addresses.
#[derive(Clone, PartialEq, Message)]
pub struct ContactRecord {
    /// Id of the conversation.
    #[prost(bytes = "bytes", tag = "1")]
    pub conversation: Bytes,
    /// The addressee in canonical form.
    #[prost(string, tag = "2")]
    pub canonical: String,
    /// `AddressKind` of the addressee.
    #[prost(int32, tag = "3")]
    pub kind: i32,
}

/// An item of an outbox.
#[derive(Clone, PartialEq, Message)]
pub struct Queued {
    /// Unix time of its queueing, milliseconds.
    #[prost(uint64, tag = "1")]
    pub queued_ms: u64,
    /// Address of the destination name that it is for.
    #[prost(string, tag = "2")]
    pub recipient: String,
    /// Body of an event for placement; attested when it is sent, so that keys may rotate.
    #[prost(bytes = "bytes", tag = "3")]
    pub submit: Bytes,
    /// Or an encoded `PlacedEvent` for a follower.
    #[prost(bytes = "bytes", tag = "4")]
    pub placed: Bytes,
    /// It was placed anew because the follower contradicted its first position; another contradiction ends it.
    #[prost(bool, tag = "5")]
    pub is_second: bool,
}

/// Counters of a queue.
#[derive(Clone, PartialEq, Message)]
pub struct QueueState {
    /// Number that the next item gets.
    #[prost(uint64, tag = "1")]
    pub next: u64,
    /// Epoch of the newest pipe.
    #[prost(uint64, tag = "2")]
    pub pipe_epoch: u64,
}

/// How far a pipe was received.
#[derive(Clone, PartialEq, Message)]
pub struct Received {
    /// Highest item that is durable or refused.
    #[prost(uint64, tag = "1")]
    pub seq: u64,
    /// Epoch of the newest pipe that was opened.
    #[prost(uint64, tag = "2")]
    pub pipe_epoch: u64,
    /// Items received so far; refusals are forgotten when 1024 more were received.
    #[prost(uint64, tag = "3")]
    pub count: u64,
}
