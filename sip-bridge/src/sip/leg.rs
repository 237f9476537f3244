//! One SIP call leg as the rest of the bridge sees it: its events and how it ended.

use crate::sdp::MediaPlan;

/// Names a leg within its trunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LegId(pub u64);

impl LegId {
    /// No leg: the trunk itself.
    pub const NONE: Self = Self(0);
}

/// What happens to a leg.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LegEvent {
    /// The trunk took the INVITE: it is alive.
    Trying,
    /// 180 without SDP: it rings.
    Ringing,
    /// A provisional with SDP: announcements may flow.
    Early(MediaPlan),
    /// 2xx: the far side picked up.
    Answered(MediaPlan),
    /// Our own 2xx was acknowledged; the plan, when the answer came with the ACK.
    Confirmed(Option<MediaPlan>),
    /// The far side changed the media: hold, another address, another codec.
    Media(MediaPlan),
    /// Over; nothing follows.
    Ended(End),
}

/// How a leg ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// What ended it.
    pub cause: EndCause,
    /// The SIP status, where one did.
    pub status: Option<u16>,
    /// The Q.850 cause of a `Reason` header (RFC 3326).
    pub q850: Option<u16>,
    /// `Retry-After`, in seconds.
    pub retry_after: Option<u32>,
}

impl End {
    /// An end without a status of the far side's.
    pub fn of(cause: EndCause) -> Self {
        Self { cause, status: None, q850: None, retry_after: None }
    }
}

/// Who or what ended a leg.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EndCause {
    /// The far side refused the INVITE.
    Rejected,
    /// The far side hung up.
    RemoteBye,
    /// The far side gave up before we answered.
    RemoteCancel,
    /// We hung up, cancelled or refused.
    Local,
    /// No answer to the INVITE at all.
    Timeout,
    /// The INVITE could not be sent.
    Transport,
    /// Our 2xx was never acknowledged.
    NoAck,
    /// An answer without media that we speak.
    Media,
    /// The bridge lost track of the leg: its events were not taken.
    Overrun,
}
