//! Decides what a call is: its branches, its deadlines, and how it ends.
//!
//! - [`Branch`] holds the rules of one branch; every party that sends or receives its messages asks it first.
//! - [`Call`] is the callee's homeserver: several branches, the first answer wins.
//! - [`Outgoing`] is the caller's end (a client, a bridge whose phone calls out) or a relaying homeserver: one hop
//!   towards the callee, over which several branches may report.
//! - [`HopBuffer`] counts the messages of one hop and replays what a dead connection lost.
//!
//! All are pure: `handle_*` take messages and time, `poll_*` give messages and deadlines back.

mod branch;
mod deadline;
mod fork;
mod hangup;
mod hop;
mod outgoing;

pub use branch::{Branch, BranchState, Change};
pub use deadline::{lowered, ring_time};
pub use fork::{BranchKey, Call, Output};
pub use hangup::{describe, hangup, hangup_for, reason};
pub use hop::{HopBuffer, HopError, Resumption};
pub use outgoing::Outgoing;

use crate::fault::Fault;
use crate::v1::ErrorCode;

/// How a message breaks the rules of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Not in this state, or not from this side.
    #[error("`{0}` is not allowed in this state of the call")]
    OutOfOrder(&'static str),
    /// Too long, or empty where it must not be.
    #[error("the `{0}` of a call message is missing, too long, or malformed")]
    Field(&'static str),
    /// Reserved.
    #[error("`{0}` is not supported here")]
    Unsupported(&'static str),
    /// A branch that was never there.
    #[error("the call has no such branch")]
    UnknownBranch,
    /// More than a call has.
    #[error("the call has too many branches")]
    TooManyBranches,
}

impl From<CallError> for Fault {
    fn from(e: CallError) -> Self {
        let code = match e {
            CallError::OutOfOrder(_) | CallError::UnknownBranch => ErrorCode::OutOfOrder,
            CallError::Field(_) => ErrorCode::Malformed,
            CallError::Unsupported(_) => ErrorCode::Unsupported,
            CallError::TooManyBranches => ErrorCode::Limit,
        };
        Fault::new(code, e.to_string())
    }
}
