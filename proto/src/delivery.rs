//! Decides how queued items reach a peer exactly once in effect: when to try again, what may be in flight, what
//! was received, and when to give up.

mod backoff;
mod pipe;

use crate::fault::Fault;
use crate::limit;
use crate::time::Timestamp;
use crate::v1::ErrorCode;

pub use backoff::Backoff;
pub use pipe::{Acknowledged, PipeError, PipeReceiver, PipeSender};

/// Whether what was queued at `queued` has waited its 30 days at `now`, and fails. `[EVENT-DELIVER-05]`
pub fn is_expired(queued: Timestamp, now: Timestamp) -> bool {
    now.since(queued) > limit::EVENT_LIFE
}

/// How an expired item is reported to its sender.
pub fn expired(last: Option<&Fault>) -> Fault {
    let why = last.map(|fault| format!("; last: {fault}")).unwrap_or_default();
    Fault::new(ErrorCode::TooOld, format!("not delivered within 30 days{why}"))
}

/// Whether a pipe with `offered` epoch may take the place of one with `current`: only a higher one may.
/// `[EVENT-DELIVER-01]`
///
/// # Errors
/// The fault to refuse it with.
pub fn fence(current: u64, offered: u64) -> Result<(), Fault> {
    if offered > current {
        return Ok(());
    }
    Err(Fault::new(ErrorCode::StalePipe, format!("pipe epoch {offered} is not above {current}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn an_item_expires_after_thirty_days_and_says_what_failed_last() {
        let queued = Timestamp::from_secs(1000);
        let edge = queued + limit::EVENT_LIFE;
        assert!(!is_expired(queued, edge) && is_expired(queued, edge + Duration::from_millis(1)));
        let fault = expired(Some(&Fault::new(ErrorCode::PeerUnreachable, "no endpoint answers")));
        assert!(fault.message.contains("no endpoint answers") && !fault.is_retry());
    }

    #[test]
    fn only_a_higher_epoch_takes_a_pipe_over() {
        assert_eq!(fence(4, 5), Ok(()));
        assert!(fence(4, 4).is_err_and(|f| f.code == ErrorCode::StalePipe));
    }
}
