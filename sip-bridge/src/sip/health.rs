//! Whether the trunk's peer is alive: when it is asked, and what its silence means. Pure; the
//! agent sends what is asked for here. [BRIDGE-SIP-15]

use std::time::{Duration, Instant};

use sipx_sip::Request;

/// Between an answer and the next question.
const EVERY: Duration = Duration::from_secs(30);
/// A question without an answer for this long means that the peer is dead; it was repeated twice by then.
const PATIENCE: Duration = Duration::from_secs(4);
/// Between questions to a dead peer.
const STEP: Duration = Duration::from_secs(2);

/// What is known of the peer.
#[derive(Debug, Default)]
pub struct Health {
    down: bool,
    changed: bool,
    /// It answered a question once: from then on silence tells something.
    answers: bool,
    /// Something came from it once.
    heard: bool,
    /// A question waits for its answer.
    asked: bool,
    next: Option<Instant>,
    /// The question as sent, to be withdrawn.
    pub sent: Option<Request>,
}

impl Health {
    /// Questions begin now. Without this nothing is ever due, and the peer counts as alive.
    pub fn start(&mut self, now: Instant) {
        self.next = Some(now);
    }

    /// When [`Self::handle_timeout`] is due.
    pub fn due(&self) -> Option<Instant> {
        self.next
    }

    /// Whether to ask now.
    pub fn handle_timeout(&mut self, now: Instant) -> bool {
        if self.next.is_none_or(|next| next > now) {
            return false;
        }
        if self.asked {
            self.failed(now);
            if !self.down {
                return false;
            }
        }
        self.asked = true;
        self.next = Some(now + if self.down { STEP } else { PATIENCE });
        true
    }

    /// The peer answered a question, with whatever status.
    pub fn answered(&mut self, now: Instant) {
        self.answers = true;
        self.alive(now);
    }

    /// Something valid came from the peer: a dead one is alive again.
    pub fn heard(&mut self, now: Instant) {
        self.heard = true;
        if self.down {
            self.alive(now);
        }
    }

    /// A question got no answer, or could not be sent. A peer that talks but never answers
    /// questions is taken for one that does not serve OPTIONS.
    pub fn failed(&mut self, now: Instant) {
        self.asked = false;
        let dead = self.answers || !self.heard;
        if dead && !self.down {
            (self.down, self.changed) = (true, true);
        }
        self.reschedule(now + if dead { STEP } else { EVERY });
    }

    /// A call got no answer at all.
    pub fn suspect(&mut self, now: Instant) {
        if !self.asked && !self.down {
            self.reschedule(now);
        }
    }

    /// Whether the peer is up, when that has changed.
    pub fn poll(&mut self) -> Option<bool> {
        std::mem::take(&mut self.changed).then_some(!self.down)
    }

    fn alive(&mut self, now: Instant) {
        (self.asked, self.heard) = (false, true);
        self.changed |= std::mem::take(&mut self.down);
        self.reschedule(now + EVERY);
    }

    fn reschedule(&mut self, at: Instant) {
        if self.next.is_some() {
            self.next = Some(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> (Health, Instant) {
        let now = tokio::time::Instant::now().into_std();
        let mut health = Health::default();
        health.start(now);
        (health, now)
    }

    /// Seconds after `start` at which a question is asked, up to the limit.
    fn questions(health: &mut Health, start: Instant, seconds: u64) -> Vec<u64> {
        let mut asked = Vec::new();
        while let Some(at) = health.due().filter(|at| *at <= start + Duration::from_secs(seconds)) {
            if health.handle_timeout(at) {
                asked.push((at - start).as_secs());
            }
        }
        asked
    }

    #[test]
    fn a_peer_that_answers_is_asked_every_30_seconds() {
        let (mut health, now) = start();
        for round in 0..3 {
            let at = now + EVERY * round;
            assert_eq!(health.due(), Some(at));
            assert!(health.handle_timeout(at));
            health.answered(at);
        }
        assert_eq!(health.poll(), None);
    }

    #[test]
    fn a_silent_peer_is_down_after_4_seconds_and_asked_every_2_until_it_answers() {
        let (mut health, now) = start();
        assert_eq!(questions(&mut health, now, 3), [0]);
        assert_eq!(health.poll(), None);
        assert_eq!(questions(&mut health, now, 10), [4, 6, 8, 10]);
        assert_eq!(health.poll(), Some(false));
        assert_eq!(health.poll(), None, "told once");
        health.answered(now + Duration::from_secs(11));
        assert_eq!(health.poll(), Some(true));
        assert_eq!(questions(&mut health, now, 41), [41]);
    }

    #[test]
    fn a_call_without_any_answer_makes_it_ask_at_once() {
        let (mut health, now) = start();
        assert!(health.handle_timeout(now));
        health.answered(now);
        health.suspect(now + STEP);
        assert_eq!(questions(&mut health, now, 10), [2, 6, 8, 10]);
        assert_eq!(health.poll(), Some(false));
    }

    #[test]
    fn a_peer_that_calls_but_never_answers_options_is_not_dead() {
        let (mut health, now) = start();
        health.heard(now);
        assert_eq!(questions(&mut health, now, 40), [0, 34]);
        assert_eq!(health.poll(), None);
    }

    #[test]
    fn a_dead_peer_that_sends_anything_is_alive() {
        let (mut health, now) = start();
        questions(&mut health, now, 4);
        assert_eq!(health.poll(), Some(false));
        health.heard(now + Duration::from_secs(5));
        assert_eq!(health.poll(), Some(true));
    }

    #[test]
    fn nothing_is_asked_where_nothing_was_started() {
        let mut health = Health::default();
        let now = tokio::time::Instant::now().into_std();
        health.suspect(now);
        health.heard(now);
        assert_eq!((health.due(), health.handle_timeout(now)), (None, false));
    }
}
