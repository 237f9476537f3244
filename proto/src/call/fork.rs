//! Decides a call at the callee's homeserver: every branch is asked, the first answer wins.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use super::branch::{Branch, BranchState, Change};
use super::deadline::Deadline;
use super::hangup::{hangup, rank, reason};
use super::{CallError, outgoing};
use crate::limit;
use crate::time::Timestamp;
use crate::v1::call_frame::Message;
use crate::v1::{BranchEnded, Hangup, HangupReason, OfferRequest};

/// One of a call's branches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BranchKey(usize);

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Send to the caller. After a `Hangup`, finish the stream.
    ToCaller(Message),
    /// Send to a branch. After a `Hangup`, finish the stream.
    ToBranch(BranchKey, Message),
    /// This branch answered.
    Connected(BranchKey),
    /// The call is over, for this reason; nothing follows.
    Ended(Hangup),
}

/// A call with its branches. Feed it messages and time, drain [`Call::poll_output`] after each.
#[derive(Debug)]
pub struct Call {
    legs: Vec<Leg>,
    /// Whose SDP answers the Invite's offer.
    offer_owner: Option<usize>,
    winner: Option<usize>,
    deadline: Deadline,
    ended: Option<Hangup>,
    outputs: VecDeque<Output>,
}

#[derive(Debug)]
struct Leg {
    /// How the caller knows the branch.
    id: Bytes,
    branch: Branch,
    /// How it ended, in its own words.
    hangup: Option<Hangup>,
    /// Whether the caller has heard of it.
    is_known: bool,
}

impl Call {
    /// A call that rings from `now` for `ring` ([`super::ring_time`] of the Invite), or for `early` from the first
    /// early media, `None` = 180 s.
    pub fn new(now: Timestamp, ring: Duration, early: Option<Duration>) -> Self {
        Self {
            legs: Vec::new(),
            offer_owner: None,
            winner: None,
            deadline: Deadline::new(now, ring, early.unwrap_or(limit::EARLY_TIME)),
            ended: None,
            outputs: VecDeque::new(),
        }
    }

    /// Adds a branch, which the driver invites; `id` is how the caller will know it.
    ///
    /// # Errors
    /// [`CallError::TooManyBranches`], or [`CallError::OutOfOrder`] once the call is answered or over.
    pub fn add_branch(&mut self, id: impl Into<Bytes>) -> Result<BranchKey, CallError> {
        if self.winner.is_some() || self.ended.is_some() {
            return Err(CallError::OutOfOrder("a new branch"));
        }
        if self.legs.len() == limit::CALL_BRANCHES {
            return Err(CallError::TooManyBranches);
        }
        self.legs.push(Leg { id: id.into(), branch: Branch::new(), hangup: None, is_known: false });
        Ok(BranchKey(self.legs.len() - 1))
    }

    /// A message came from a branch.
    ///
    /// # Errors
    /// [`CallError`]: the branch breaks the rules. Send it the fault, and call [`Call::branch_lost`].
    pub fn handle_branch(
        &mut self,
        key: BranchKey,
        message: Message,
        now: Timestamp,
    ) -> Result<(), CallError> {
        let leg = self.legs.get_mut(key.0).ok_or(CallError::UnknownBranch)?;
        if self.ended.is_some() {
            return Ok(());
        }
        match leg.branch.handle_callee(&message)? {
            Change::Late => {}
            Change::Ended(hangup) => self.leg_ended(key.0, hangup),
            Change::Answered { .. } => self.answered(key.0, message),
            Change::Early { .. } => {
                self.deadline.extend(now);
                self.tell_caller(key.0, message);
            }
            Change::Ringing { .. } | Change::Passed => self.tell_caller(key.0, message),
        }
        Ok(())
    }

    /// A message came from the caller.
    ///
    /// # Errors
    /// [`CallError`]: the caller breaks the rules. Send it the fault, and call [`Call::caller_lost`].
    pub fn handle_caller(&mut self, message: Message) -> Result<(), CallError> {
        if self.ended.is_some() {
            return Ok(());
        }
        if let Message::Hangup(hangup) = message {
            Branch::new().handle_caller(&Message::Hangup(hangup.clone()))?;
            self.end_legs(&self.as_cancel(hangup.clone()));
            self.finish(hangup);
            return Ok(());
        }
        let Some(at) = self.target(&message)? else { return Ok(()) };
        match self.legs[at].branch.handle_caller(&message)? {
            Change::Late => {}
            _ => self.outputs.push_back(Output::ToBranch(BranchKey(at), message)),
        }
        Ok(())
    }

    /// A branch could not be reached, broke the rules, or lost its connection for good.
    pub fn branch_lost(&mut self, key: BranchKey, hangup: Hangup) {
        let Some(leg) = self.legs.get_mut(key.0) else { return };
        if self.ended.is_none() && !leg.branch.is_ended() {
            leg.branch.end(reason(&hangup));
            self.leg_ended(key.0, hangup);
        }
    }

    /// The caller broke the rules or lost its connection for good.
    pub fn caller_lost(&mut self, hangup: Hangup) {
        if self.ended.is_none() {
            self.end_legs(&hangup);
            self.finish(hangup);
        }
    }

    /// Ends the call on both sides: the homeserver drains, or has no branch to ask.
    pub fn hang_up(&mut self, hangup: Hangup) {
        if self.ended.is_none() {
            self.end_legs(&hangup);
            self.end_caller(hangup);
        }
    }

    /// What is to be done next; call until `None`.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`Call::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        (self.winner.is_none() && self.ended.is_none()).then(|| self.deadline.at())
    }

    /// Time passed. Nobody answered in time: both sides are told. `[CALL-BRANCH-05]`
    pub fn handle_timeout(&mut self, now: Timestamp) {
        if self.poll_timeout().is_some_and(|at| now >= at) {
            self.hang_up(hangup(HangupReason::NoAnswer));
        }
    }

    /// The branch that answered.
    pub fn connected(&self) -> Option<BranchKey> {
        self.winner.map(BranchKey)
    }

    /// How the call ended.
    pub fn ended(&self) -> Option<&Hangup> {
        self.ended.as_ref()
    }

    /// Where a branch stands.
    pub fn state(&self, key: BranchKey) -> Option<BranchState> {
        self.legs.get(key.0).map(|leg| leg.branch.state())
    }

    /// The first answer wins; the others are told so. `[CALL-BRANCH-08]`
    fn answered(&mut self, at: usize, message: Message) {
        self.winner = Some(at);
        let elsewhere = HangupReason::AnsweredElsewhere;
        let others = |i: &usize| *i != at && !self.legs[*i].branch.is_ended();
        for other in (0..self.legs.len()).filter(others).collect::<Vec<_>>() {
            self.end_leg(other, &hangup(elsewhere));
            self.tell_branch_ended(other, elsewhere);
        }
        let needs_offer = self.offer_owner.is_some_and(|owner| owner != at);
        if needs_offer {
            // The Invite's offer was spent on announcements of another branch. `[CALL-BRANCH-09]`
            self.legs[at].branch.take_own_offer();
            let branch = self.legs[at].id.clone();
            self.outputs.push_back(Output::ToCaller(Message::OfferRequest(OfferRequest { branch })));
        }
        self.tell_caller(at, message);
        self.outputs.push_back(Output::Connected(BranchKey(at)));
    }

    /// Forwards under the branch's id; SDP passes only from the branch that owns the Invite's offer.
    fn tell_caller(&mut self, at: usize, mut message: Message) {
        self.legs[at].is_known = true;
        if let Some(branch) = outgoing::branch_mut(&mut message) {
            *branch = self.legs[at].id.clone();
        }
        if let Some(sdp) = answering_sdp(&mut message).filter(|sdp| !sdp.is_empty())
            && *self.offer_owner.get_or_insert(at) != at
        {
            sdp.clear();
        }
        self.outputs.push_back(Output::ToCaller(message));
    }

    /// Which branch a message of the caller is for.
    fn target(&self, message: &Message) -> Result<Option<usize>, CallError> {
        let id = outgoing::branch(message).filter(|id| !id.is_empty());
        match id {
            Some(id) => {
                self.legs.iter().position(|leg| leg.id == id).map(Some).ok_or(CallError::UnknownBranch)
            }
            None => Ok(self.winner.or(self.offer_owner).or((self.legs.len() == 1).then_some(0))),
        }
    }

    fn leg_ended(&mut self, at: usize, hangup: Hangup) {
        self.legs[at].hangup = Some(hangup.clone());
        if self.winner == Some(at) {
            return self.end_caller(hangup);
        }
        if self.legs.iter().all(|leg| leg.branch.is_ended()) {
            let ends = self.legs.iter().filter_map(|leg| leg.hangup.clone());
            let most_telling = ends.min_by_key(rank).unwrap_or(hangup);
            return self.end_caller(most_telling);
        }
        self.tell_branch_ended(at, reason(&hangup));
        // Its announcements are over: the offer stays spent, another branch asks for its own.
    }

    fn tell_branch_ended(&mut self, at: usize, reason: HangupReason) {
        if self.legs[at].is_known {
            let ended = BranchEnded { branch: self.legs[at].id.clone(), reason: reason.into() };
            self.outputs.push_back(Output::ToCaller(Message::BranchEnded(ended)));
        }
    }

    fn end_leg(&mut self, at: usize, hangup: &Hangup) {
        if !self.legs[at].branch.is_ended() {
            self.legs[at].branch.end(reason(hangup));
            self.outputs.push_back(Output::ToBranch(BranchKey(at), Message::Hangup(hangup.clone())));
        }
    }

    fn end_legs(&mut self, hangup: &Hangup) {
        (0..self.legs.len()).for_each(|at| self.end_leg(at, hangup));
    }

    /// Before an answer, a caller's hang-up is a cancellation, whatever it says. `[CALL-END-03]`
    fn as_cancel(&self, mut hangup: Hangup) -> Hangup {
        if self.winner.is_none() {
            hangup.reason = HangupReason::Cancelled.into();
        }
        hangup
    }

    fn end_caller(&mut self, hangup: Hangup) {
        self.outputs.push_back(Output::ToCaller(Message::Hangup(hangup.clone())));
        self.finish(hangup);
    }

    fn finish(&mut self, hangup: Hangup) {
        self.outputs.push_back(Output::Ended(hangup.clone()));
        self.ended = Some(hangup);
    }
}

/// The SDP with which a branch answers the Invite's offer.
fn answering_sdp(message: &mut Message) -> Option<&mut String> {
    match message {
        Message::Ringing(m) => Some(&mut m.sdp),
        Message::Early(m) => Some(&mut m.sdp),
        Message::Answer(m) => Some(&mut m.sdp),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
