//! Decides the handshake on the first stream: who may say what, in which order, before anything else is said.
//!
//! Both halves are pure and in typestate: each state holds only what is valid in it, takes the next frame's
//! payload, and yields the next state with the frame to send. Time-outs and byte budgets are the caller's.
//!
//! ```text
//! client: HelloSent -> ServerMet -> AuthSent -> Ready
//! server: HelloAwaited -> ClientMet -> AuthAwaited -> Authenticated
//! ```

mod client;
mod proof;
mod server;

pub use client::{AuthSent, HelloSent, ServerMet};
pub use proof::{Binding, DEVICE_CONTEXT, ProofParts, SERVICE_CONTEXT, Transcript};
pub use server::{AuthAwaited, Authenticated, ClientMet, HelloAwaited, ServerTerms};

use bytes::Bytes;
use prost::Message;

use crate::address::{Address, Local};
use crate::fault::Fault;
use crate::frame;
use crate::key::SigningKey;
use crate::name::Name;
use crate::v1::control_frame::Frame;
use crate::v1::{ControlFrame, Enrol, ErrorCode, Limits, Role};

/// Versions that a hello may offer.
const VERSIONS: usize = 16;
/// Features that a hello may name, and the length of each in bytes.
const FEATURES: usize = 32;
const FEATURE_BYTES: usize = 64;
/// Addresses that a service may claim when it signs in.
const SERVICE_ADDRESSES: usize = 256;
/// Longest invite token and enrolment label, in bytes.
const INVITE_BYTES: usize = 1024;
const LABEL_BYTES: usize = 64;

/// What a client says of itself before it has seen the server.
#[derive(Clone, Debug)]
pub struct Hello {
    /// As what it will authenticate.
    pub role: Role,
    /// Whose card is asked for.
    pub wanted: Name,
    /// Optional behaviour that it understands.
    pub features: Vec<String>,
    /// What it accepts.
    pub limits: Limits,
}

impl Hello {
    /// A hello without features and with default limits.
    pub fn new(role: Role, wanted: Name) -> Self {
        Self { role, wanted, features: Vec::new(), limits: Limits::default() }
    }
}

/// With what a person's device signs in.
#[derive(Clone, Debug)]
pub struct DeviceCredentials {
    /// The account, an address of the server's name.
    pub account: Address,
    /// The device's own key.
    pub key: SigningKey,
    /// Present when the device is new.
    pub enrol: Option<Enrol>,
}

/// With what a service signs in.
#[derive(Clone, Debug)]
pub struct ServiceCredentials {
    /// Its name at this homeserver, e.g. `bridge`.
    pub service: Local,
    /// Its own key.
    pub key: SigningKey,
    /// Present when it is new.
    pub enrol: Option<Enrol>,
    /// Addresses that it answers for.
    pub addresses: Vec<Address>,
    /// Whether it answers calls.
    pub calls: bool,
    /// Whether it answers messages.
    pub messages: bool,
}

/// Why a handshake ended, from the point of view of the side that noticed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// The peer refused and said why.
    #[error("refused by the other side: {0}")]
    Refused(Fault),
    /// The peer sent bytes that are no control frame, or a field out of range.
    #[error("the other side sent a handshake that is not well formed: {0}")]
    Malformed(&'static str),
    /// The peer sent a frame that is not allowed in this state.
    #[error("the other side sent {0} out of order")]
    OutOfOrder(&'static str),
    /// No protocol version in common.
    #[error("no protocol version in common")]
    Version,
    /// The peer's proof does not verify for this connection.
    #[error("the proof of the other side does not verify for this connection")]
    BadProof,
    /// The two clocks differ too much for signatures with dates to mean anything.
    #[error("the clocks differ by {0} s: set the clock of this machine, or tell the operator of the other")]
    ClockSkew(u64),
    /// Something that this implementation does not do.
    #[error("{0} is not supported here")]
    Unsupported(&'static str),
}

impl SessionError {
    /// What the peer, or the user, is told.
    pub fn fault(&self) -> Fault {
        let code = match self {
            Self::Refused(fault) => return fault.clone(),
            Self::Malformed(_) => ErrorCode::Malformed,
            Self::OutOfOrder(_) => ErrorCode::OutOfOrder,
            Self::Version => ErrorCode::Version,
            Self::BadProof => ErrorCode::BadProof,
            Self::ClockSkew(_) => ErrorCode::PeerNotAuthentic,
            Self::Unsupported(_) => ErrorCode::Unsupported,
        };
        Fault::new(code, self.to_string())
    }
}

/// The frame that refuses a handshake. The connection is closed after it.
pub fn refusal(fault: &Fault) -> Bytes {
    control(Frame::Error(fault.to_wire()))
}

fn control(frame: Frame) -> Bytes {
    frame::encode(&ControlFrame { frame: Some(frame) })
}

/// The one frame in `payload`. A refusal by the peer is an error at once, whatever was awaited.
fn read(payload: Bytes) -> Result<Frame, SessionError> {
    let frame = ControlFrame::decode(payload).map_err(|_| SessionError::Malformed("not a control frame"))?;
    match frame.frame {
        Some(Frame::Error(error)) => Err(SessionError::Refused(error.into())),
        Some(frame) => Ok(frame),
        // A frame kind from the future cannot be skipped before both sides know each other.
        None => Err(SessionError::Malformed("an empty or unknown control frame")),
    }
}

fn kind(frame: &Frame) -> &'static str {
    match frame {
        Frame::ClientHello(_) => "ClientHello",
        Frame::ServerHello(_) => "ServerHello",
        Frame::Auth(_) => "Auth",
        Frame::Ready(_) => "Ready",
        Frame::Error(_) => "Error",
        Frame::Want(_) => "Want",
        Frame::Card(_) => "CardAnswer",
        Frame::Claim(_) => "Claim",
        Frame::Claimed(_) => "Claimed",
        Frame::GoAway(_) => "GoAway",
        Frame::CardChanged(_) => "CardChanged",
    }
}

#[cfg(test)]
mod tests;
