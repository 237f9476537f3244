//! The SIP side: a pure user agent (`agent`) over sipx-sip's parser and transactions, and the
//! sockets that carry it (`driver`). Everything else in the bridge sees [`SipLeg`] only.

pub mod agent;
mod dialog;
pub mod driver;
mod flow;
mod garbled;
mod gate;
mod health;
mod leg;
mod message;
mod negotiation;
mod tcp;
mod transaction;
mod uac;
mod uas;

pub use agent::{Agent, AgentConfig, AgentLimits, Identity, Incoming, OutgoingInvite};
pub use driver::{IncomingCall, SipHandle, SipLeg, SipPort};
pub use flow::{Flow, Transport};
pub use leg::{End, EndCause, LegEvent, LegId};
pub use message::fuzz_datagram;
