//! What may be said on a call from this end, and how long it may go unanswered: the pure state machines of
//! the protocol, seen from the side of the hop that this is.

use std::time::Duration;

use ahoy_proto::call::{Branch, BranchState, CallError, Change, Outgoing, hangup};
use ahoy_proto::limit;
use ahoy_proto::time::Timestamp;
use ahoy_proto::v1::{Hangup, HangupReason, call_frame::Message};

/// The rules of one call, at the caller's or at the callee's end.
pub(crate) enum Rules {
    /// This side calls: several branches may report.
    Caller(Box<Outgoing>),
    /// This side is called: it is one branch.
    Callee { branch: Branch, started: Timestamp, deadline: Timestamp },
}

impl Rules {
    pub(crate) fn caller(now: Timestamp, ring: Duration) -> Self {
        Self::Caller(Box::new(Outgoing::new(now, ring, None)))
    }

    pub(crate) fn callee(now: Timestamp, ring: Duration) -> Self {
        Self::Callee { branch: Branch::new(), started: now, deadline: now + ring }
    }

    /// This side is about to say something.
    pub(crate) fn sending(&mut self, message: &Message) -> Result<Change, CallError> {
        match self {
            Self::Caller(outgoing) => outgoing.handle_caller(message),
            Self::Callee { branch, started, deadline } => {
                let change = branch.handle_callee(message)?;
                if matches!(change, Change::Early { .. }) {
                    *deadline = (*deadline).max(*started + limit::EARLY_TIME);
                }
                Ok(change)
            }
        }
    }

    /// The other side said something.
    pub(crate) fn receiving(&mut self, message: &Message, now: Timestamp) -> Result<Change, CallError> {
        match self {
            Self::Caller(outgoing) => outgoing.handle_callee(message, now),
            Self::Callee { branch, .. } => branch.handle_caller(message),
        }
    }

    /// When to call [`Rules::timed_out`], while nobody has answered.
    pub(crate) fn deadline(&self) -> Option<Timestamp> {
        match self {
            Self::Caller(outgoing) => outgoing.poll_timeout(),
            Self::Callee { branch, deadline, .. } => match branch.state() {
                BranchState::Connected | BranchState::Ended(_) => None,
                _ => Some(*deadline),
            },
        }
    }

    /// The hang-up to send, once nobody answered in time.
    pub(crate) fn timed_out(&mut self, now: Timestamp) -> Option<Hangup> {
        match self {
            Self::Caller(outgoing) => outgoing.handle_timeout(now),
            Self::Callee { .. } => {
                self.deadline().filter(|at| now >= *at).map(|_| hangup(HangupReason::NoAnswer))
            }
        }
    }

    /// What a hang-up says when the program just drops the call.
    pub(crate) fn parting(&self) -> Hangup {
        hangup(match self {
            Self::Caller(outgoing) if outgoing.connected().is_none() => HangupReason::Cancelled,
            Self::Callee { branch, .. } if branch.state() != BranchState::Connected => HangupReason::Declined,
            _ => HangupReason::Normal,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ahoy_proto::v1;

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

    #[test]
    fn announcements_extend_the_time_to_an_answer_and_the_answer_ends_it() {
        let mut rules = Rules::callee(NOW, limit::RING_TIME);
        assert_eq!(rules.deadline(), Some(NOW + Duration::from_secs(90)));
        let early = v1::Early { sdp: "v=0\r\n".into(), ..v1::Early::default() };
        rules.sending(&Message::Early(early)).expect("allowed");
        assert_eq!(rules.deadline(), Some(NOW + Duration::from_secs(180)));
        rules.sending(&Message::Answer(v1::Answer::default())).expect("allowed");
        assert_eq!(rules.deadline(), None);
    }

    #[test]
    fn a_dropped_call_says_what_it_was() {
        assert_eq!(Rules::caller(NOW, limit::RING_TIME).parting().reason(), HangupReason::Cancelled);
        assert_eq!(Rules::callee(NOW, limit::RING_TIME).parting().reason(), HangupReason::Declined);
    }

    #[test]
    fn nobody_answered_in_time() {
        let mut rules = Rules::callee(NOW, Duration::from_secs(1));
        assert_eq!(rules.timed_out(NOW), None);
        let ended = rules.timed_out(NOW + Duration::from_secs(1)).expect("over");
        assert_eq!(ended.reason(), HangupReason::NoAnswer);
    }
}
