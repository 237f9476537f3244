//! Decides which cases there are, and how one is run.

use std::pin::Pin;
use std::time::Duration;

use anyhow::anyhow;
use tokio::time::{Instant, timeout};

use crate::report::{Line, Verdict};
use crate::world::World;

mod auth;
mod branch;
mod call;
mod card;
mod delivery;
mod drain;
mod hop;
mod message;
mod name;
mod outgoing;
mod wire;

/// What a case saw, in words.
pub type Seen = anyhow::Result<String>;
type Running<'a> = Pin<Box<dyn Future<Output = Seen> + Send + 'a>>;

/// Longest time of one case.
const DEADLINE: Duration = Duration::from_secs(45);

/// One addressable check.
#[derive(Clone, Copy)]
pub struct Case {
    /// By which it is selected.
    pub id: &'static str,
    /// The requirements that it checks.
    pub rules: &'static [&'static str],
    /// What has to be seen.
    pub says: &'static str,
    run: for<'a> fn(&'a World) -> Running<'a>,
}

impl Case {
    const fn new(
        id: &'static str,
        rules: &'static [&'static str],
        says: &'static str,
        run: for<'a> fn(&'a World) -> Running<'a>,
    ) -> Self {
        Self { id, rules, says, run }
    }

    /// Runs it within its deadline.
    pub async fn run(&self, world: &World) -> Line {
        let begun = Instant::now();
        let seen = timeout(DEADLINE, (self.run)(world)).await;
        let seen = seen.unwrap_or_else(|_| Err(anyhow!("no verdict within {DEADLINE:?}")));
        Line { id: self.id, rules: self.rules, verdict: Verdict::from_seen(seen), took: begun.elapsed() }
    }
}

/// All cases, in the order in which they run.
pub fn all() -> Vec<Case> {
    [
        name::CASES,
        card::CASES,
        wire::CASES,
        auth::CASES,
        message::CASES,
        delivery::CASES,
        outgoing::CASES,
        call::CASES,
        branch::CASES,
        hop::CASES,
        drain::CASES,
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_has_an_id_of_its_own_and_names_a_requirement() {
        let mut ids: Vec<&str> = all().iter().map(|case| case.id).collect();
        assert!(ids.len() >= 15, "{}", ids.len());
        for case in all() {
            assert!(!case.rules.is_empty() && !case.says.is_empty(), "{}", case.id);
        }
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), all().len());
    }
}
