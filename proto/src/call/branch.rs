//! Decides what may happen on one branch, and what its SDP is.

use super::CallError;
use super::hangup::{hangup, reason};
use crate::limit;
use crate::v1::call_frame::Message;
use crate::v1::{Hangup, HangupReason};

/// Digits of one DTMF message.
const DIGITS: usize = 32;

/// Where a branch stands. `[CALL-BRANCH-01]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BranchState {
    /// Asked, nothing heard.
    Inviting,
    /// It rings. May alternate with `Early`.
    Ringing,
    /// Announcements flow.
    Early,
    /// Somebody answered.
    Connected,
    /// Over.
    Ended(HangupReason),
}

/// What a message did to its branch.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// It rings. `first_sdp`: the message brought the branch's SDP, the final answer to its offer.
    Ringing {
        /// Apply the SDP.
        first_sdp: bool,
    },
    /// Announcements flow.
    Early {
        /// Apply the SDP.
        first_sdp: bool,
    },
    /// Somebody answered.
    Answered {
        /// Apply the SDP.
        first_sdp: bool,
    },
    /// A message within the branch's state, such as hold, DTMF or an ICE restart.
    Passed,
    /// The branch is over.
    Ended(Hangup),
    /// The branch was over already; the two crossed on the way. Ignore it.
    Late,
}

/// One branch: a device, or a leg of a bridge.
#[derive(Clone, Debug)]
pub struct Branch {
    state: BranchState,
    sdp: Option<String>,
    offer: OwnOffer,
}

/// Where a branch stands whose offer is not the Invite's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OwnOffer {
    None,
    Requested,
    Given,
}

impl Default for Branch {
    fn default() -> Self {
        Self { state: BranchState::Inviting, sdp: None, offer: OwnOffer::None }
    }
}

impl Branch {
    /// An invited branch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Where it stands.
    pub fn state(&self) -> BranchState {
        self.state
    }

    /// Whether it is over.
    pub fn is_ended(&self) -> bool {
        matches!(self.state, BranchState::Ended(_))
    }

    /// Its final SDP, once there is one.
    pub fn sdp(&self) -> Option<&str> {
        self.sdp.as_deref()
    }

    /// Ends it without a message, for example because its connection is lost.
    pub fn end(&mut self, reason: HangupReason) {
        if !self.is_ended() {
            self.state = BranchState::Ended(reason);
        }
    }

    /// Its SDP is not used, because the Invite's offer belongs to another branch; it gets an offer of its own.
    pub(super) fn take_own_offer(&mut self) {
        (self.sdp, self.offer) = (None, OwnOffer::Requested);
    }

    /// A message that the callee's side sends, or sent. `[CALL-BRANCH-02]`
    ///
    /// # Errors
    /// [`CallError`]; the branch is as it was.
    pub fn handle_callee(&mut self, message: &Message) -> Result<Change, CallError> {
        if self.is_ended() {
            return Ok(Change::Late);
        }
        match message {
            Message::Ringing(m) => {
                let first_sdp = self.progress(&m.sdp, BranchState::Ringing, "Ringing")?;
                Ok(Change::Ringing { first_sdp })
            }
            Message::Early(m) => {
                let first_sdp = self.progress(&m.sdp, BranchState::Early, "Early")?;
                Ok(Change::Early { first_sdp })
            }
            Message::Answer(m) => {
                // An answer without media is an error, not a silent call. `[CALL-MEDIA-01]`
                if m.sdp.is_empty() && self.sdp.is_none() && self.offer == OwnOffer::None {
                    return Err(CallError::Field("sdp"));
                }
                let first_sdp = self.progress(&m.sdp, BranchState::Connected, "Answer")?;
                Ok(Change::Answered { first_sdp })
            }
            Message::OfferRequest(_) if self.sdp.is_none() && self.offer == OwnOffer::None => {
                self.offer = OwnOffer::Requested;
                Ok(Change::Passed)
            }
            Message::OfferAnswer(m) if self.offer == OwnOffer::Given && self.sdp.is_none() => {
                check_sdp(&m.sdp)?;
                self.sdp = Some(m.sdp.clone());
                Ok(Change::Passed)
            }
            Message::OfferRequest(_) => Err(CallError::OutOfOrder("OfferRequest")),
            Message::OfferAnswer(_) => Err(CallError::OutOfOrder("OfferAnswer")),
            Message::Offer(_) => Err(CallError::OutOfOrder("Offer")),
            other => self.handle_either(other),
        }
    }

    /// A message that the caller's side sends, or sent. `[CALL-BRANCH-03]`
    ///
    /// # Errors
    /// [`CallError`]; the branch is as it was.
    pub fn handle_caller(&mut self, message: &Message) -> Result<Change, CallError> {
        if self.is_ended() {
            return Ok(Change::Late);
        }
        match message {
            Message::Offer(m) if self.offer == OwnOffer::Requested => {
                check_sdp(&m.sdp)?;
                self.offer = OwnOffer::Given;
                Ok(Change::Passed)
            }
            Message::Offer(_) => Err(CallError::OutOfOrder("Offer")),
            Message::Ringing(_) => Err(CallError::OutOfOrder("Ringing")),
            Message::Early(_) => Err(CallError::OutOfOrder("Early")),
            Message::Answer(_) => Err(CallError::OutOfOrder("Answer")),
            Message::OfferRequest(_) => Err(CallError::OutOfOrder("OfferRequest")),
            Message::OfferAnswer(_) => Err(CallError::OutOfOrder("OfferAnswer")),
            other => self.handle_either(other),
        }
    }

    fn handle_either(&mut self, message: &Message) -> Result<Change, CallError> {
        match message {
            Message::IceRestart(m) => self.in_media(check_sdp(&m.sdp), "IceRestart"),
            Message::IceRestartAnswer(m) => self.in_media(check_sdp(&m.sdp), "IceRestartAnswer"),
            Message::Dtmf(m) => self.in_media(check_digits(&m.digits), "Dtmf"),
            Message::Hold(_) if self.state == BranchState::Connected => Ok(Change::Passed),
            Message::Hold(_) => Err(CallError::OutOfOrder("Hold")),
            Message::Hangup(m) => {
                if m.message.len() > limit::HANGUP_MESSAGE_BYTES {
                    return Err(CallError::Field("message"));
                }
                self.state = BranchState::Ended(reason(m));
                Ok(Change::Ended(m.clone()))
            }
            Message::Invite(_) => Err(CallError::OutOfOrder("Invite")),
            Message::BranchEnded(_) => Err(CallError::OutOfOrder("BranchEnded")),
            Message::Transfer(_) => Err(CallError::Unsupported("Transfer")),
            Message::Recording(_) => Err(CallError::Unsupported("Recording")),
            // The hop's own messages do not reach a branch.
            _ => Err(CallError::OutOfOrder("a message of the hop")),
        }
    }

    /// Messages that make sense once media can flow.
    fn in_media(&self, field: Result<(), CallError>, what: &'static str) -> Result<Change, CallError> {
        field?;
        if self.sdp.is_some() { Ok(Change::Passed) } else { Err(CallError::OutOfOrder(what)) }
    }

    /// Moves before or to the answer, and takes the first SDP, which is final. `[CALL-BRANCH-04]`
    fn progress(&mut self, sdp: &str, to: BranchState, what: &'static str) -> Result<bool, CallError> {
        if self.state == BranchState::Connected {
            return Err(CallError::OutOfOrder(what));
        }
        let first = !sdp.is_empty() && self.sdp.is_none() && self.offer == OwnOffer::None;
        if first {
            check_sdp(sdp)?;
            self.sdp = Some(sdp.to_owned());
        } else if !sdp.is_empty() && self.sdp.as_deref().is_some_and(|own| own != sdp) {
            return Err(CallError::Field("sdp"));
        }
        self.state = to;
        Ok(first)
    }

    /// The hang-up that says how it ended.
    pub fn ended(&self) -> Option<Hangup> {
        match self.state {
            BranchState::Ended(reason) => Some(hangup(reason)),
            _ => None,
        }
    }
}

fn check_sdp(sdp: &str) -> Result<(), CallError> {
    if sdp.is_empty() || sdp.len() > limit::SDP_BYTES { Err(CallError::Field("sdp")) } else { Ok(()) }
}

fn check_digits(digits: &str) -> Result<(), CallError> {
    let is_digit = |b: u8| b.is_ascii_digit() || b"*#ABCD".contains(&b);
    if (1..=DIGITS).contains(&digits.len()) && digits.bytes().all(is_digit) {
        Ok(())
    } else {
        Err(CallError::Field("digits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1;

    fn ringing(sdp: &str) -> Message {
        Message::Ringing(v1::Ringing { sdp: sdp.into(), ..Default::default() })
    }

    fn early(sdp: &str) -> Message {
        Message::Early(v1::Early { sdp: sdp.into(), ..Default::default() })
    }

    fn answer(sdp: &str) -> Message {
        Message::Answer(v1::Answer { sdp: sdp.into(), ..Default::default() })
    }

    fn dtmf(digits: &str) -> Message {
        Message::Dtmf(v1::Dtmf { digits: digits.into(), duration_ms: 100 })
    }

    #[test]
    fn ringing_and_early_alternate_until_the_answer() {
        let mut branch = Branch::new();
        assert_eq!(branch.handle_callee(&ringing("")), Ok(Change::Ringing { first_sdp: false }));
        assert_eq!(branch.handle_callee(&early("v=0")), Ok(Change::Early { first_sdp: true }));
        assert_eq!(branch.handle_callee(&ringing("")), Ok(Change::Ringing { first_sdp: false }));
        assert_eq!(branch.handle_callee(&answer("v=0")), Ok(Change::Answered { first_sdp: false }));
        assert_eq!(branch.handle_callee(&ringing("")), Err(CallError::OutOfOrder("Ringing")));
        assert_eq!(branch.state(), BranchState::Connected);
    }

    #[test]
    fn the_first_sdp_is_final_and_an_answer_needs_one() {
        let mut branch = Branch::new();
        assert_eq!(branch.handle_callee(&answer("")), Err(CallError::Field("sdp")));
        assert_eq!(branch.state(), BranchState::Inviting);
        branch.handle_callee(&early("one")).expect("first");
        assert_eq!(branch.handle_callee(&answer("two")), Err(CallError::Field("sdp")));
        let long = "x".repeat(limit::SDP_BYTES + 1);
        assert_eq!(Branch::new().handle_callee(&answer(&long)), Err(CallError::Field("sdp")));
    }

    #[test]
    fn a_branch_with_an_offer_of_its_own_answers_that_one() {
        let mut branch = Branch::new();
        let request = Message::OfferRequest(v1::OfferRequest::default());
        let offer = Message::Offer(v1::Offer { sdp: "o".into(), ..Default::default() });
        let reply = Message::OfferAnswer(v1::OfferAnswer { sdp: "a".into(), ..Default::default() });
        assert_eq!(branch.handle_caller(&offer), Err(CallError::OutOfOrder("Offer")));
        assert_eq!(branch.handle_callee(&request), Ok(Change::Passed));
        assert_eq!(branch.handle_callee(&reply), Err(CallError::OutOfOrder("OfferAnswer")));
        assert_eq!(branch.handle_caller(&offer), Ok(Change::Passed));
        assert_eq!(branch.handle_callee(&reply), Ok(Change::Passed));
        assert_eq!(branch.handle_callee(&answer("")), Ok(Change::Answered { first_sdp: false }));
        assert_eq!(branch.sdp(), Some("a"));
    }

    #[test]
    fn hold_and_digits_wait_for_what_they_need() {
        let mut branch = Branch::new();
        let hold = Message::Hold(v1::Hold::default());
        assert_eq!(branch.handle_caller(&dtmf("1")), Err(CallError::OutOfOrder("Dtmf")));
        branch.handle_callee(&early("v=0")).expect("first");
        assert_eq!(branch.handle_caller(&dtmf("12#")), Ok(Change::Passed));
        assert_eq!(branch.handle_caller(&dtmf("x")), Err(CallError::Field("digits")));
        assert_eq!(branch.handle_caller(&hold), Err(CallError::OutOfOrder("Hold")));
        branch.handle_callee(&answer("")).expect("has SDP");
        assert_eq!(branch.handle_callee(&hold), Ok(Change::Passed));
    }

    #[test]
    fn what_comes_after_the_end_is_late_and_what_is_reserved_is_unsupported() {
        let mut branch = Branch::new();
        let transfer = Message::Transfer(v1::Transfer::default());
        assert_eq!(branch.handle_callee(&transfer), Err(CallError::Unsupported("Transfer")));
        let busy = hangup(HangupReason::Busy);
        assert_eq!(branch.handle_callee(&Message::Hangup(busy.clone())), Ok(Change::Ended(busy)));
        assert_eq!(branch.handle_callee(&answer("v=0")), Ok(Change::Late));
        assert_eq!(branch.state(), BranchState::Ended(HangupReason::Busy));
    }
}
