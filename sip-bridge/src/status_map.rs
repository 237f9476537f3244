//! The one table between SIP statuses, Q.850 causes and Ahoy's hang-up reasons and error codes,
//! both ways. Pure. [BRIDGE-SIP-09]

use ahoy_proto::fault::Fault;
use ahoy_proto::v1::{ErrorClass, ErrorCode, HangupReason};

use crate::sip::{End, EndCause};

/// Statuses whose meaning is exact; a `Reason` header does not change them.
const EXACT: &[(u16, HangupReason)] = &[
    (404, HangupReason::NotFound),
    (410, HangupReason::NotFound),
    (415, HangupReason::Media),
    (416, HangupReason::NotFound),
    (429, HangupReason::Limited),
    (484, HangupReason::NotFound),
    (485, HangupReason::NotFound),
    (486, HangupReason::Busy),
    (487, HangupReason::Cancelled),
    (488, HangupReason::Media),
    (600, HangupReason::Busy),
    (604, HangupReason::NotFound),
    (606, HangupReason::Media),
    (607, HangupReason::Declined),
    (608, HangupReason::Declined),
];

/// Statuses that PBXs use for many things; a Q.850 cause says more where there is one.
const VAGUE: &[(u16, HangupReason)] = &[
    (401, HangupReason::Forbidden),
    (403, HangupReason::Forbidden),
    (407, HangupReason::Forbidden),
    (408, HangupReason::NoAnswer),
    (480, HangupReason::NoAnswer),
    (502, HangupReason::TrunkDown),
    (503, HangupReason::TrunkDown),
    (504, HangupReason::TrunkDown),
    (603, HangupReason::Declined),
];

/// Q.850 causes that say why a call failed; 16 (normal clearing) and 31 say nothing.
const Q850: &[(u16, HangupReason)] = &[
    (1, HangupReason::NotFound),
    (3, HangupReason::NotFound),
    (17, HangupReason::Busy),
    (18, HangupReason::NoAnswer),
    (19, HangupReason::NoAnswer),
    (20, HangupReason::NotReachable),
    (21, HangupReason::Declined),
    (22, HangupReason::NotFound),
    (27, HangupReason::TrunkDown),
    (28, HangupReason::NotFound),
    (34, HangupReason::Unavailable),
    (38, HangupReason::TrunkDown),
    (41, HangupReason::Unavailable),
    (42, HangupReason::Unavailable),
    (44, HangupReason::Unavailable),
    (50, HangupReason::Forbidden),
    (55, HangupReason::Forbidden),
    (57, HangupReason::Forbidden),
    (58, HangupReason::Media),
    (65, HangupReason::Media),
    (79, HangupReason::Media),
    (88, HangupReason::Media),
    (102, HangupReason::NoAnswer),
];

/// How we refuse an INVITE of the trunk for each reason.
const REFUSALS: &[(HangupReason, u16)] = &[
    (HangupReason::Cancelled, 487),
    (HangupReason::Busy, 486),
    (HangupReason::Declined, 603),
    (HangupReason::NoAnswer, 480),
    (HangupReason::NotFound, 404),
    (HangupReason::NotReachable, 480),
    (HangupReason::TrunkDown, 503),
    (HangupReason::Media, 488),
    (HangupReason::ConnectionLost, 504),
    (HangupReason::Forbidden, 403),
    (HangupReason::Limited, 503),
    (HangupReason::Unavailable, 503),
    (HangupReason::Failed, 500),
];

fn find<K: PartialEq + Copy, V: Copy>(table: &[(K, V)], key: K) -> Option<V> {
    table.iter().find(|(known, _)| *known == key).map(|(_, value)| *value)
}

/// The reason for a final response to our INVITE.
pub fn reason_of_status(status: u16, q850: Option<u16>) -> HangupReason {
    if let Some(exact) = find(EXACT, status) {
        return exact;
    }
    let cause = q850.and_then(|cause| find(Q850, cause));
    let vague = find(VAGUE, status).unwrap_or(match status {
        300..=399 => HangupReason::NotReachable,
        600..=699 => HangupReason::Declined,
        _ => HangupReason::Failed,
    });
    cause.unwrap_or(vague)
}

/// The reason for the end of a leg.
pub fn reason_of_end(end: &End) -> HangupReason {
    match (end.cause, end.status) {
        (EndCause::Rejected, Some(status)) => reason_of_status(status, end.q850),
        (EndCause::Rejected | EndCause::Overrun, _) => HangupReason::Failed,
        (EndCause::RemoteBye | EndCause::Local, _) => HangupReason::Normal,
        (EndCause::RemoteCancel, _) => HangupReason::Cancelled,
        (EndCause::Timeout | EndCause::Transport, _) => HangupReason::TrunkDown,
        (EndCause::NoAck, _) => HangupReason::ConnectionLost,
        (EndCause::Media, _) => HangupReason::Media,
    }
}

/// The status with which an INVITE of the trunk is refused for a reason.
pub fn status_of_reason(reason: HangupReason) -> u16 {
    find(REFUSALS, reason).unwrap_or(480)
}

/// The status with which an INVITE of the trunk is refused for an error of the network.
pub fn status_of_fault(fault: &Fault) -> u16 {
    use ErrorCode as E;
    match fault.code {
        E::NotReachable => 480,
        E::NameInvalid | E::NotOnNetwork | E::NotInService | E::UnknownConversation => 404,
        E::NotAllowed | E::NameNotServed => 403,
        E::PeerUnreachable | E::Timeout => 504,
        _ => match fault.class {
            ErrorClass::Retry => 503,
            ErrorClass::Auth => 403,
            ErrorClass::Unsupported => 488,
            _ => 500,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use HangupReason as R;

    #[test]
    fn statuses_mean_what_people_expect() {
        for (status, reason) in [
            (486, R::Busy),
            (600, R::Busy),
            (603, R::Declined),
            (404, R::NotFound),
            (484, R::NotFound),
            (403, R::Forbidden),
            (408, R::NoAnswer),
            (480, R::NoAnswer),
            (503, R::TrunkDown),
            (488, R::Media),
            (302, R::NotReachable),
            (500, R::Failed),
            (699, R::Declined),
            (487, R::Cancelled),
        ] {
            assert_eq!(reason_of_status(status, None), reason, "{status}");
        }
    }

    #[test]
    fn a_q850_cause_sharpens_a_vague_status_and_not_an_exact_one() {
        assert_eq!(reason_of_status(480, Some(17)), R::Busy);
        assert_eq!(reason_of_status(403, Some(21)), R::Declined);
        assert_eq!(reason_of_status(500, Some(34)), R::Unavailable);
        assert_eq!(reason_of_status(603, Some(16)), R::Declined, "normal clearing says nothing");
        assert_eq!(reason_of_status(404, Some(17)), R::NotFound);
    }

    #[test]
    fn a_reason_that_crosses_the_bridge_twice_stays_what_it_is() {
        for reason in [
            R::Cancelled,
            R::Busy,
            R::Declined,
            R::NoAnswer,
            R::NotFound,
            R::TrunkDown,
            R::Media,
            R::Forbidden,
            R::Failed,
        ] {
            assert_eq!(reason_of_status(status_of_reason(reason), None), reason);
        }
    }

    #[test]
    fn every_end_has_a_reason_and_every_fault_a_final_failure() {
        assert_eq!(reason_of_end(&End::of(EndCause::Timeout)), R::TrunkDown);
        assert_eq!(reason_of_end(&End::of(EndCause::RemoteBye)), R::Normal);
        for code in 1..100 {
            if let Ok(code) = ErrorCode::try_from(code) {
                let status = status_of_fault(&Fault::new(code, ""));
                assert!((400..700).contains(&status), "{code:?}");
            }
        }
    }

    #[test]
    fn the_tables_name_nothing_twice() {
        let mut statuses: Vec<u16> = EXACT.iter().chain(VAGUE).map(|(status, _)| *status).collect();
        statuses.sort_unstable();
        assert!(statuses.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
