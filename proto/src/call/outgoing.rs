//! Decides a call as it looks from its caller, or from a homeserver that relays it: one hop towards the callee,
//! over which any number of branches report.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use super::CallError;
use super::branch::{Branch, Change};
use super::deadline::Deadline;
use super::hangup::{hangup, reason};
use crate::limit;
use crate::time::Timestamp;
use crate::v1::call_frame::Message;
use crate::v1::{Hangup, HangupReason};

/// A call that was sent on. A relay asks it about each message, and then passes the message on as it is.
#[derive(Debug)]
pub struct Outgoing {
    branches: BTreeMap<Bytes, Branch>,
    connected: Option<Bytes>,
    deadline: Deadline,
    ended: Option<Hangup>,
}

impl Outgoing {
    /// A call that was sent at `now` with `ring` left, or `early` from the first early media, `None` = 180 s.
    pub fn new(now: Timestamp, ring: Duration, early: Option<Duration>) -> Self {
        let deadline = Deadline::new(now, ring, early.unwrap_or(limit::EARLY_TIME));
        Self { branches: BTreeMap::new(), connected: None, deadline, ended: None }
    }

    /// A message came from the callee's side. [`Change::Late`] is not to be passed on.
    ///
    /// # Errors
    /// [`CallError`]; the call is as it was.
    pub fn handle_callee(&mut self, message: &Message, now: Timestamp) -> Result<Change, CallError> {
        if self.ended.is_some() {
            return Ok(Change::Late);
        }
        match message {
            Message::Hangup(_) => return self.hang_up_by(|branch| branch.handle_callee(message)),
            Message::BranchEnded(m) => {
                let how = HangupReason::try_from(m.reason).unwrap_or(HangupReason::Normal);
                self.branch(&m.branch)?.end(how);
                return Ok(Change::Passed);
            }
            _ => {}
        }
        let id = branch(message).cloned().or_else(|| self.speaker()).unwrap_or_default();
        let is_other = self.connected.as_ref().is_some_and(|connected| *connected != id);
        if is_other && !matches!(message, Message::OfferRequest(_)) {
            return Ok(Change::Late);
        }
        let change = self.branch(&id)?.handle_callee(message)?;
        match change {
            Change::Early { .. } => self.deadline.extend(now),
            Change::Answered { .. } => self.answered(id),
            _ => {}
        }
        Ok(change)
    }

    /// A message came from the caller's side, or is about to be sent by it.
    ///
    /// # Errors
    /// [`CallError`]; the call is as it was.
    pub fn handle_caller(&mut self, message: &Message) -> Result<Change, CallError> {
        if self.ended.is_some() {
            return Ok(Change::Late);
        }
        if matches!(message, Message::Hangup(_)) {
            return self.hang_up_by(|branch| branch.handle_caller(message));
        }
        let id = branch(message).filter(|id| !id.is_empty()).cloned().or_else(|| self.speaker());
        let branch = id.and_then(|id| self.branches.get_mut(&id)).ok_or(CallError::UnknownBranch)?;
        branch.handle_caller(message)
    }

    /// Ends the call without a message: the hop is lost for good, or the user gave up.
    pub fn end(&mut self, hangup: Hangup) {
        self.ended.get_or_insert(hangup);
    }

    /// When to call [`Outgoing::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        (self.connected.is_none() && self.ended.is_none()).then(|| self.deadline.at())
    }

    /// Time passed. The hang-up to send to both sides, once nobody answered in time.
    pub fn handle_timeout(&mut self, now: Timestamp) -> Option<Hangup> {
        self.poll_timeout().filter(|at| now >= *at)?;
        let no_answer = hangup(HangupReason::NoAnswer);
        self.ended = Some(no_answer.clone());
        Some(no_answer)
    }

    /// The branch that answered.
    pub fn connected(&self) -> Option<&Bytes> {
        self.connected.as_ref()
    }

    /// How the call ended.
    pub fn ended(&self) -> Option<&Hangup> {
        self.ended.as_ref()
    }

    fn hang_up_by(
        &mut self,
        check: impl FnOnce(&mut Branch) -> Result<Change, CallError>,
    ) -> Result<Change, CallError> {
        let change = check(&mut Branch::new())?;
        if let Change::Ended(hangup) = &change {
            self.ended = Some(hangup.clone());
        }
        Ok(change)
    }

    fn answered(&mut self, id: Bytes) {
        for (other, branch) in &mut self.branches {
            if *other != id {
                branch.end(HangupReason::AnsweredElsewhere);
            }
        }
        self.connected = Some(id);
    }

    /// Whom a message without a branch is from or for: who answered, else the one whose media flows.
    fn speaker(&self) -> Option<Bytes> {
        let with_sdp = || self.branches.iter().find(|(_, branch)| branch.sdp().is_some());
        self.connected.clone().or_else(|| with_sdp().map(|(id, _)| id.clone()))
    }

    fn branch(&mut self, id: &Bytes) -> Result<&mut Branch, CallError> {
        if !self.branches.contains_key(id) && self.branches.len() == limit::CALL_BRANCHES {
            return Err(CallError::TooManyBranches);
        }
        Ok(self.branches.entry(id.clone()).or_default())
    }

    /// The reason that it ended for.
    pub fn end_reason(&self) -> Option<HangupReason> {
        self.ended.as_ref().map(reason)
    }
}

/// The branch that a message names.
pub(super) fn branch(message: &Message) -> Option<&Bytes> {
    match message {
        Message::Ringing(m) => Some(&m.branch),
        Message::Early(m) => Some(&m.branch),
        Message::Answer(m) => Some(&m.branch),
        Message::OfferRequest(m) => Some(&m.branch),
        Message::Offer(m) => Some(&m.branch),
        Message::OfferAnswer(m) => Some(&m.branch),
        Message::IceRestart(m) => Some(&m.branch),
        Message::IceRestartAnswer(m) => Some(&m.branch),
        Message::BranchEnded(m) => Some(&m.branch),
        _ => None,
    }
}

/// [`branch`], to be written.
pub(super) fn branch_mut(message: &mut Message) -> Option<&mut Bytes> {
    match message {
        Message::Ringing(m) => Some(&mut m.branch),
        Message::Early(m) => Some(&mut m.branch),
        Message::Answer(m) => Some(&mut m.branch),
        Message::OfferRequest(m) => Some(&mut m.branch),
        Message::Offer(m) => Some(&mut m.branch),
        Message::OfferAnswer(m) => Some(&mut m.branch),
        Message::IceRestart(m) => Some(&mut m.branch),
        Message::IceRestartAnswer(m) => Some(&mut m.branch),
        Message::BranchEnded(m) => Some(&mut m.branch),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::NOW;
    use crate::v1;

    fn outgoing() -> Outgoing {
        Outgoing::new(NOW, Duration::from_secs(90), None)
    }

    fn early(branch: &'static str, sdp: &str) -> Message {
        Message::Early(v1::Early { branch: branch.into(), sdp: sdp.into() })
    }

    fn answer(branch: &'static str, sdp: &str) -> Message {
        Message::Answer(v1::Answer { branch: branch.into(), sdp: sdp.into(), ..Default::default() })
    }

    #[test]
    fn branches_report_until_one_answers_and_the_others_are_late() {
        let mut call = outgoing();
        assert_eq!(call.handle_callee(&early("a", "sdp"), NOW), Ok(Change::Early { first_sdp: true }));
        let dtmf = Message::Dtmf(v1::Dtmf { digits: "1".into(), duration_ms: 1 });
        assert_eq!(call.handle_caller(&dtmf), Ok(Change::Passed), "for the branch that is heard");
        let request = Message::OfferRequest(v1::OfferRequest { branch: "b".into() });
        assert_eq!(call.handle_callee(&request, NOW), Ok(Change::Passed));
        assert_eq!(call.handle_callee(&answer("b", ""), NOW), Ok(Change::Answered { first_sdp: false }));
        assert_eq!(call.handle_callee(&early("a", ""), NOW), Ok(Change::Late));
        assert_eq!((call.connected(), call.poll_timeout()), (Some(&Bytes::from("b")), None));
    }

    #[test]
    fn either_side_hangs_up_and_the_rest_is_late() {
        let mut call = outgoing();
        let busy = Message::Hangup(hangup(HangupReason::Busy));
        assert!(matches!(call.handle_callee(&busy, NOW), Ok(Change::Ended(_))));
        assert_eq!(call.end_reason(), Some(HangupReason::Busy));
        assert_eq!(call.handle_callee(&answer("a", "sdp"), NOW), Ok(Change::Late));
        assert_eq!(call.handle_caller(&busy), Ok(Change::Late));
    }

    #[test]
    fn gives_up_at_its_deadline_which_early_media_extends() {
        let mut call = outgoing();
        call.handle_callee(&early("a", "sdp"), NOW + Duration::from_secs(5)).expect("early");
        assert_eq!(call.handle_timeout(NOW + Duration::from_secs(184)), None);
        let ended = call.handle_timeout(NOW + Duration::from_secs(185)).expect("over");
        assert_eq!(reason(&ended), HangupReason::NoAnswer);
        assert_eq!(call.handle_timeout(NOW + Duration::from_secs(186)), None);
    }

    #[test]
    fn a_hostile_callee_cannot_make_branches_without_end() {
        let mut call = outgoing();
        for i in 0..16u8 {
            let ringing = v1::Ringing { branch: vec![i].into(), ..Default::default() };
            call.handle_callee(&Message::Ringing(ringing), NOW).expect("room");
        }
        assert_eq!(call.handle_callee(&early("x", ""), NOW), Err(CallError::TooManyBranches));
        let hold = Message::Hold(v1::Hold::default());
        assert_eq!(call.handle_caller(&hold), Err(CallError::UnknownBranch));
    }
}
