//! Decides how an end is put into words, and which of several ends a caller is told.

use crate::fault::Fault;
use crate::limit;
use crate::v1::{ErrorCode, Hangup, HangupReason};

/// A hang-up with nothing but its reason.
pub fn hangup(reason: HangupReason) -> Hangup {
    Hangup { reason: reason.into(), ..Default::default() }
}

/// A hang-up with the SIP status (0 = none) and a text for people who debug.
pub fn describe(reason: HangupReason, sip_status: u32, message: &str) -> Hangup {
    let message = &message[..message.floor_char_boundary(limit::HANGUP_MESSAGE_BYTES)];
    let message = message.chars().filter(|c| !c.is_control()).collect();
    Hangup { reason: reason.into(), sip_status, message, retry_after_ms: 0 }
}

/// The reason of a hang-up; one from the future, or none, is `Normal`. `[CALL-END-01]`
pub fn reason(hangup: &Hangup) -> HangupReason {
    match HangupReason::try_from(hangup.reason) {
        Ok(HangupReason::Unspecified) | Err(_) => HangupReason::Normal,
        Ok(reason) => reason,
    }
}

/// How a call ends for its caller when a fault kept it from being set up. `[CALL-END-02]`
pub fn hangup_for(fault: &Fault) -> Hangup {
    let reason = match fault.code {
        ErrorCode::RateLimited | ErrorCode::Limit => HangupReason::Limited,
        ErrorCode::Unavailable | ErrorCode::QueueFull => HangupReason::Unavailable,
        ErrorCode::NotAllowed | ErrorCode::ClaimRefused => HangupReason::Forbidden,
        ErrorCode::NotReachable | ErrorCode::PeerUnreachable | ErrorCode::NotInService => {
            HangupReason::NotReachable
        }
        _ => HangupReason::Failed,
    };
    let retry = fault.retry_after.map_or(0, |d| u32::try_from(d.as_millis()).unwrap_or(u32::MAX));
    Hangup { retry_after_ms: retry, ..describe(reason, 0, &fault.message) }
}

/// How much an end tells the caller, the most telling first: what a person decided, then what a line says, then
/// what failed. `[CALL-BRANCH-07]`
pub(super) fn rank(hangup: &Hangup) -> u8 {
    match reason(hangup) {
        HangupReason::Declined => 0,
        HangupReason::Busy => 1,
        HangupReason::NoAnswer => 2,
        HangupReason::Forbidden => 3,
        HangupReason::Limited => 4,
        HangupReason::NotFound => 5,
        HangupReason::Media => 6,
        HangupReason::Unavailable => 7,
        HangupReason::TrunkDown => 8,
        HangupReason::ConnectionLost => 9,
        HangupReason::Failed => 10,
        _ => 11,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_reason_from_the_future_is_normal() {
        assert_eq!(reason(&Hangup { reason: 99, ..Default::default() }), HangupReason::Normal);
        assert_eq!(reason(&Hangup::default()), HangupReason::Normal);
    }

    #[test]
    fn a_fault_keeps_its_words_and_its_wait() {
        let fault =
            Fault::new(ErrorCode::RateLimited, "too many calls").with_retry_after(Duration::from_secs(2));
        let hangup = hangup_for(&fault);
        assert_eq!((reason(&hangup), hangup.retry_after_ms), (HangupReason::Limited, 2000));
        assert_eq!(hangup.message, "too many calls");
    }
}
