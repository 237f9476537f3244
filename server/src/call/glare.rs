//! Decides which call survives when two addresses call each other: the one with the lower id. `[CALL-INVITE-21]`
//!
//! Both homeservers see both calls and come to the same verdict. A call that was answered is out of the question: it
//! has won.

use std::collections::HashMap;
use std::sync::Mutex;

use ahoy_proto::address::Address;
use ahoy_proto::invite::CallId;
use tokio_util::sync::CancellationToken;

use crate::wake::lock;

/// Caller and callee.
type Pair = (Address, Address);

/// Calls that nobody has answered yet, by who calls whom.
#[derive(Default)]
pub struct Glare {
    calls: Mutex<HashMap<Pair, Vec<(CallId, CancellationToken)>>>,
}

impl Glare {
    /// A call begins. `None` when the callee is calling the caller with a lower id; calls of the callee with a higher
    /// id are superseded.
    pub fn enter(&self, call: CallId, from: &Address, to: &Address) -> Option<Unanswered<'_>> {
        let mut calls = lock(&self.calls);
        let opposite = calls.get(&(to.clone(), from.clone())).map_or(&[][..], Vec::as_slice);
        if opposite.iter().any(|(other, _)| *other <= call) {
            return None;
        }
        for (_, superseded) in opposite {
            superseded.cancel();
        }
        let (pair, superseded) = ((from.clone(), to.clone()), CancellationToken::new());
        calls.entry(pair.clone()).or_default().push((call, superseded.clone()));
        Some(Unanswered { glare: self, pair, call, superseded })
    }
}

/// A call that may still be superseded; dropped when it was answered or is over.
pub struct Unanswered<'a> {
    glare: &'a Glare,
    pair: Pair,
    call: CallId,
    superseded: CancellationToken,
}

impl Unanswered<'_> {
    /// Resolves when the callee turns out to be calling the caller with a lower id.
    pub async fn superseded(&self) {
        self.superseded.cancelled().await;
    }
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        let mut calls = lock(&self.glare.calls);
        if let Some(own) = calls.get_mut(&self.pair) {
            own.retain(|(call, _)| *call != self.call);
            if own.is_empty() {
                calls.remove(&self.pair);
            }
        }
    }
}

/// Waits for the verdict of a call that is still open; for ever when it is answered.
pub async fn superseded(unanswered: Option<&Unanswered<'_>>) {
    match unanswered {
        Some(unanswered) => unanswered.superseded().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use ahoy_proto::name::NamePolicy;
    use futures_util::FutureExt as _;

    use super::*;

    fn address(text: &str) -> Address {
        Address::parse(text, &NamePolicy::allowing(["example"])).expect("an address")
    }

    fn is_superseded(call: &Unanswered<'_>) -> bool {
        call.superseded().now_or_never().is_some()
    }

    #[test]
    fn the_lower_of_two_opposite_calls_survives_whichever_came_first() {
        let (ann, bob) = (address("ann@home.example"), address("bob@bank.example"));
        let glare = Glare::default();
        let high = glare.enter([9; 16], &ann, &bob).expect("alone");
        let low = glare.enter([1; 16], &bob, &ann).expect("the lower one");
        assert!(is_superseded(&high) && !is_superseded(&low));
        assert!(glare.enter([9; 16], &ann, &bob).is_none(), "the higher one came second");
        drop((high, low));
        assert!(lock(&glare.calls).is_empty());
    }

    #[test]
    fn an_answered_call_and_calls_of_others_are_left_alone() {
        let (ann, bob, eve) =
            (address("ann@home.example"), address("bob@bank.example"), address("eve@bank.example"));
        let glare = Glare::default();
        drop(glare.enter([9; 16], &ann, &bob).expect("answered"));
        let low = glare.enter([1; 16], &bob, &ann).expect("alone");
        let other = glare.enter([2; 16], &ann, &eve).expect("another pair");
        let twice = glare.enter([3; 16], &bob, &ann).expect("the same direction");
        assert!(!is_superseded(&low) && !is_superseded(&other) && !is_superseded(&twice));
    }
}
