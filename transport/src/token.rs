//! Which address tokens were used, so that a client that came before is spared a round trip once per token
//! (RFC 9000 section 8.1.3).

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use quinn::{TokenLog, TokenReuseError};

/// Tokens remembered before all older ones are given up.
const REMEMBERED: usize = 32 * 1024;

/// Accepts each token once. When it is full it forgets, and from then on refuses what it might have seen: the
/// client then proves its address by a Retry, as on a first visit.
#[derive(Debug, Default)]
pub(crate) struct UsedTokens(Mutex<Used>);

#[derive(Debug, Default)]
struct Used {
    nonces: HashSet<u128>,
    newest: Option<SystemTime>,
    forgotten: Option<SystemTime>,
}

impl TokenLog for UsedTokens {
    fn check_and_insert(&self, nonce: u128, issued: SystemTime, _: Duration) -> Result<(), TokenReuseError> {
        let mut used = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if used.forgotten.is_some_and(|horizon| issued <= horizon) {
            return Err(TokenReuseError);
        }
        if used.nonces.len() >= REMEMBERED {
            used.nonces.clear();
            used.forgotten = used.newest;
        }
        used.newest = used.newest.max(Some(issued));
        if used.nonces.insert(nonce) { Ok(()) } else { Err(TokenReuseError) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn use_token(log: &UsedTokens, nonce: u128, issued_s: u64) -> bool {
        let issued = SystemTime::UNIX_EPOCH + Duration::from_secs(issued_s);
        log.check_and_insert(nonce, issued, Duration::MAX).is_ok()
    }

    #[test]
    fn a_token_is_good_once() {
        let log = UsedTokens::default();
        assert!(use_token(&log, 1, 5));
        assert!(!use_token(&log, 1, 5));
        assert!(use_token(&log, 2, 5));
    }

    #[test]
    fn what_was_forgotten_is_not_good_again() {
        let log = UsedTokens::default();
        for nonce in 0..=REMEMBERED as u128 {
            assert!(use_token(&log, nonce, if nonce == REMEMBERED as u128 { 6 } else { 5 }));
        }
        assert!(!use_token(&log, 1, 5));
        assert!(use_token(&log, 1 << 100, 7));
    }
}
