//! How a call ended, for people and for scripts: one sentence and one exit status per hang-up reason.

pub use ahoy_proto::call::reason;
use ahoy_proto::v1::HangupReason;

/// A sentence that completes "the call ended: ...", with what to do where something can be done.
pub fn sentence(reason: HangupReason) -> &'static str {
    use HangupReason as R;
    match reason {
        R::Unspecified | R::Normal => "hung up",
        R::Cancelled => "the caller gave up before an answer",
        R::Busy => "busy: try again later",
        R::Declined => "declined",
        R::NoAnswer => "nobody answered in time: try again later, or send a message",
        R::NotFound => "the extension behind this line does not exist: tell the owner of the name",
        R::NotReachable => "not reachable: the address does not exist, is offline or does not take this call",
        R::TrunkDown => "the telephone system behind this line does not answer: try again later",
        R::AnsweredElsewhere => "answered on another device",
        R::Superseded => "the other side called at the same moment: that call goes on instead",
        R::Media => "no common codec or no path for the audio: check that UDP is not blocked",
        R::ConnectionLost => "the connection to the other side was lost: call again",
        R::Forbidden => "the line does not allow this call",
        R::Limited => "too many calls: wait before the next one",
        R::Unavailable => "the line is busy or being restarted: try again in a minute",
        R::Failed => "the call failed: try again; if it stays, tell the owner of the name",
    }
}

/// The reason as scripts see it, e.g. `not_reachable`.
pub fn reason_name(reason: HangupReason) -> String {
    reason.as_str_name().trim_start_matches("HANGUP_REASON_").to_ascii_lowercase()
}

/// The exit status of `ahoy call` and `ahoy answer`: 0 = answered and hung up normally, 10 and up = the
/// reason (10 + its number on the wire). Below 10: 1 = an error before the call, 2 = usage.
pub fn exit_status(reason: HangupReason, answered: bool) -> u8 {
    match reason {
        HangupReason::Unspecified | HangupReason::Normal if answered => 0,
        other => 10 + u8::try_from(other as i32).expect("the reasons are numbered below 100"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answered_call_that_ended_normally_exits_with_zero() {
        assert_eq!(exit_status(HangupReason::Normal, true), 0);
        assert_eq!(exit_status(HangupReason::Normal, false), 11);
        assert_eq!(exit_status(HangupReason::Busy, false), 13);
        assert_eq!(exit_status(HangupReason::ConnectionLost, true), 22);
    }

    #[test]
    fn each_reason_has_its_own_sentence() {
        let all: Vec<_> = (1..=16).map(|n| sentence(HangupReason::try_from(n).expect("dense"))).collect();
        let distinct: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
    }
}
