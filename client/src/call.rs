//! A call as a program sees it: a pair of bounded queues that outlive the connection below them.

use std::time::Duration;

use ahoy_proto::address::Address;
use ahoy_proto::limit;
use ahoy_proto::v1::{self, Hangup, HangupReason, call_frame::Message};
use bytes::Bytes;
use tokio::sync::{mpsc, watch};

/// What opens a call.
#[derive(Clone, Debug)]
pub struct PlaceCall {
    /// Who is called.
    pub to: Address,
    /// Who calls: one of a service's addresses. `None` = the account, or the service's first address.
    pub from: Option<Address>,
    /// The SDP offer, at most 16 KiB.
    pub sdp: String,
    /// Time until an answer; `None` = 90 s.
    pub ring: Option<Duration>,
    /// A name to show that nobody verifies; at most 64 bytes, the rest is cut.
    pub display: String,
}

/// The call is over: nothing can be sent on it any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the call is over")]
pub struct CallOver;

/// One hop of a call, from this program to its homeserver. A connection that dies and returns within
/// 15 s loses nothing ([CALL-RESUME-01]). Dropping a call hangs it up.
pub struct Call {
    id: Bytes,
    from: Address,
    to: Address,
    sender: CallSender,
    inbound: mpsc::Receiver<Message>,
    end: watch::Receiver<Option<Hangup>>,
    end_told: bool,
}

/// The sending half of a call, to be kept elsewhere. Does not keep the call up.
#[derive(Clone)]
pub struct CallSender {
    outbound: mpsc::Sender<Message>,
    resumptions: watch::Receiver<u32>,
}

impl CallSender {
    /// Queues a message (at most 64 wait; then this waits).
    ///
    /// # Errors
    /// [`CallOver`] once either side hung up or the connection was lost for 15 s.
    pub async fn send(&self, message: Message) -> Result<(), CallOver> {
        self.outbound.send(message).await.map_err(|_| CallOver)
    }

    /// Hangs up. Nothing to do when the call is over already.
    pub async fn hangup(&self, reason: HangupReason) {
        let hangup = Hangup { reason: reason.into(), ..Hangup::default() };
        // A call that is over needs no second hang-up.
        let _ = self.send(Message::Hangup(hangup)).await;
    }

    /// How often the call moved to another connection so far.
    pub fn resumptions(&self) -> u32 {
        *self.resumptions.borrow()
    }
}

impl Call {
    pub(crate) fn new(
        (id, from, to): (Bytes, Address, Address),
        outbound: mpsc::Sender<Message>,
        inbound: mpsc::Receiver<Message>,
        end: watch::Receiver<Option<Hangup>>,
        resumptions: watch::Receiver<u32>,
    ) -> Self {
        let sender = CallSender { outbound, resumptions };
        Self { id, from, to, sender, inbound, end, end_told: false }
    }

    /// The 16 bytes that name the call from end to end.
    pub fn id(&self) -> &Bytes {
        &self.id
    }

    /// The calling address.
    pub fn from(&self) -> &Address {
        &self.from
    }

    /// The called address.
    pub fn to(&self) -> &Address {
        &self.to
    }

    /// The sending half.
    pub fn sender(&self) -> CallSender {
        self.sender.clone()
    }

    /// As [`CallSender::send`].
    ///
    /// # Errors
    /// As [`CallSender::send`].
    pub async fn send(&self, message: Message) -> Result<(), CallOver> {
        self.sender.send(message).await
    }

    /// As [`CallSender::hangup`].
    pub async fn hangup(&self, reason: HangupReason) {
        self.sender.hangup(reason).await;
    }

    /// The next message of the other side. The last one is always a `Hangup` (made here when the
    /// connection was lost for 15 s, a deadline passed, or this program read too slowly); `None` after
    /// it. Cancel-safe.
    pub async fn next(&mut self) -> Option<Message> {
        if let Some(message) = self.inbound.recv().await {
            return Some(message);
        }
        if self.end_told {
            return None;
        }
        self.end_told = true;
        let lost = || Hangup { reason: HangupReason::ConnectionLost.into(), ..Hangup::default() };
        Some(Message::Hangup(self.end.borrow().clone().unwrap_or_else(lost)))
    }

    /// How often the call moved to another connection so far.
    pub fn resumptions(&self) -> u32 {
        self.sender.resumptions()
    }
}

/// A call for this device or service. Dropping it declines it.
pub struct IncomingCall {
    /// The calling address, verified by the homeservers in between.
    pub from: Address,
    /// The called address: one of the service's, or the account.
    pub to: Address,
    /// The Invite as it arrived; its SDP matches the signed hash.
    pub invite: v1::Invite,
    pub(crate) call: Call,
}

impl IncomingCall {
    /// The 16 bytes that name the call from end to end.
    pub fn id(&self) -> &Bytes {
        self.call.id()
    }

    /// Takes the call over, to ring and to answer. (Nothing is said to the caller by this.)
    pub fn accept(self) -> Call {
        self.call
    }

    /// Ends the call with a reason.
    pub async fn decline(self, reason: HangupReason) {
        self.call.hangup(reason).await;
    }
}

/// Messages that wait for the program, and for the connection: [`limit::CALL_BUFFER`] each.
pub(crate) const QUEUE: usize = limit::CALL_BUFFER;
