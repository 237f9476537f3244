//! The bytes and the rules of the Ahoy protocol: no sockets, no clock, no random source.

pub mod address;
pub mod anchor;
pub mod attestation;
pub mod base64url;
pub mod call;
pub mod card;
pub mod conversation;
pub mod delivery;
pub mod event;
pub mod fault;
pub mod frame;
pub mod fuzz;
pub mod invite;
pub mod key;
pub mod limit;
pub mod merkle;
pub mod name;
pub mod placement;
pub mod session;
#[cfg(test)]
mod testing;
pub mod time;

/// Types generated from the schema in `proto/schema/ahoy/v1`.
#[expect(missing_docs, reason = "documented in the schema")]
#[allow(clippy::all, reason = "generated")]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/ahoy.v1.rs"));
}
