//! Records the steps of one resolution with their times.

use std::fmt::Display;
use std::time::Duration;

use tokio::time::Instant;

use crate::resolution::Step;

/// The steps so far; made at the start of a resolution.
pub(crate) struct Trail {
    start: Instant,
    steps: Vec<Step>,
}

impl Trail {
    pub(crate) fn new() -> Self {
        Self { start: Instant::now(), steps: Vec::new() }
    }

    pub(crate) fn start(&self) -> Instant {
        self.start
    }

    /// Adds a step that began at `since` and ends now.
    pub(crate) fn add(&mut self, since: Instant, what: impl Into<String>, outcome: impl Display) {
        self.steps.push(Step {
            at_us: micros(since.duration_since(self.start)),
            took_us: micros(since.elapsed()),
            what: what.into(),
            outcome: outcome.to_string(),
        });
    }

    pub(crate) fn steps(&self) -> &[Step] {
        &self.steps
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
