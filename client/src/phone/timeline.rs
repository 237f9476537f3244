//! When each step of a call happened, in milliseconds since the person asked for it.

use tokio::time::Instant;

/// A step of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// The own homeserver's name was resolved and verified.
    Resolved,
    /// Signed in at the own homeserver.
    Connected,
    /// The Invite left, or arrived.
    Invited,
    /// The other side rings.
    Ringing,
    /// Announcements flow before the answer.
    Early,
    /// Answered.
    Answered,
    /// ICE and DTLS are up.
    MediaUp,
    /// The first audio packet arrived.
    FirstAudio,
    /// The other side pressed a key; the detail says which.
    Dtmf,
    /// Keys were sent; the detail says which and how.
    DtmfSent,
    /// The other side holds.
    Held,
    /// The other side is back.
    Resumed,
    /// The media path is being renewed.
    IceRestart,
    /// The call is over; the detail says how.
    Ended,
}

impl Mark {
    /// As scripts see it.
    pub fn name(self) -> &'static str {
        match self {
            Mark::Resolved => "resolved",
            Mark::Connected => "connected",
            Mark::Invited => "invited",
            Mark::Ringing => "ringing",
            Mark::Early => "early",
            Mark::Answered => "answered",
            Mark::MediaUp => "media_up",
            Mark::FirstAudio => "first_audio",
            Mark::Dtmf => "dtmf",
            Mark::DtmfSent => "dtmf_sent",
            Mark::Held => "held",
            Mark::Resumed => "resumed",
            Mark::IceRestart => "ice_restart",
            Mark::Ended => "ended",
        }
    }
}

/// One step, with its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Which.
    pub mark: Mark,
    /// Milliseconds since the timeline began.
    pub ms: u64,
    /// What there is to say about it; may be empty.
    pub detail: String,
}

/// Collects steps, and tells each to an observer as it happens. Keeps at most 256.
pub struct Timeline<'a> {
    start: Instant,
    steps: Vec<Step>,
    observer: Box<dyn FnMut(&Step) + Send + 'a>,
}

/// Steps kept: a peer that presses keys for hours must not fill the memory.
const STEPS: usize = 256;

impl<'a> Timeline<'a> {
    /// Begins now.
    pub fn new(observer: impl FnMut(&Step) + Send + 'a) -> Self {
        Self { start: Instant::now(), steps: Vec::new(), observer: Box::new(observer) }
    }

    /// Notes a step.
    pub fn mark(&mut self, mark: Mark, detail: impl Into<String>) {
        let ms = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        let step = Step { mark, ms, detail: detail.into() };
        (self.observer)(&step);
        if self.steps.len() < STEPS || mark == Mark::Ended {
            self.steps.push(step);
        }
    }

    /// Notes a step that counts only the first time.
    pub fn mark_once(&mut self, mark: Mark, detail: impl Into<String>) {
        if !self.has(mark) {
            self.mark(mark, detail);
        }
    }

    /// Whether a step was noted.
    pub fn has(&self, mark: Mark) -> bool {
        self.steps.iter().any(|step| step.mark == mark)
    }

    /// The steps so far.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }
}
