//! The loop of a call with audio: what the other side says, what the media reports, what the plan wants.

use std::collections::BTreeMap;
use std::time::Duration;

use ahoy_proto::address::Address;
use ahoy_proto::v1::{self, Hangup, HangupReason, call_frame::Message};
use bytes::Bytes;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{AudioPlan, CallReport, Mark, Timeline};
use crate::call::Call;
use crate::media::{MediaConfig, MediaError, MediaEvent, MediaEvents, MediaSession};
use crate::outcome;

/// Between "answered and audio is up" and the first key: menus are deaf for a moment.
const DTMF_WAIT: Duration = Duration::from_secs(1);
/// Renewals of the media path before the call is given up.
const ICE_RESTARTS: u32 = 3;
/// An answered call whose media never came up is an error, not a silent call ([CALL-MEDIA-21]).
const MEDIA_TIME: Duration = Duration::from_secs(15);
/// Later branches that may ask for an offer of their own.
const LEGS: usize = 4;
/// Keys of the other side that are kept.
const KEYS: usize = 256;

/// Which side of the call this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Caller,
    Callee,
}

/// A call with its media.
pub(super) struct Talk<'a> {
    side: Side,
    call: Call,
    /// The peer connection that is heard, and the branch it belongs to once that is known.
    media: MediaSession,
    events: MediaEvents,
    branch: Bytes,
    described: bool,
    /// Peer connections of later branches, by branch.
    legs: BTreeMap<Bytes, MediaSession>,
    plan: AudioPlan,
    config: MediaConfig,
    timeline: Timeline<'a>,
    answered: Option<Instant>,
    connected: bool,
    dtmf_at: Option<Instant>,
    keys: String,
    /// Renewals asked for here, and the generation that waits for its answer.
    restarts: u32,
    restarting: Option<u32>,
    hung_up_here: bool,
}

impl<'a> Talk<'a> {
    pub(super) fn new(
        side: Side,
        call: Call,
        media: MediaSession,
        plan: AudioPlan,
        config: MediaConfig,
        timeline: Timeline<'a>,
    ) -> Self {
        let events = media.events();
        Self {
            side,
            call,
            media,
            events,
            branch: Bytes::new(),
            described: side == Side::Callee,
            legs: BTreeMap::new(),
            plan,
            config,
            timeline,
            answered: None,
            connected: false,
            dtmf_at: None,
            keys: String::new(),
            restarts: 0,
            restarting: None,
            hung_up_here: false,
        }
    }

    /// The callee answers with its SDP.
    pub(super) async fn answer(&mut self, branch: Bytes, sdp: String) -> Result<(), MediaError> {
        if let Some(path) = &self.plan.record {
            self.media.record(path)?;
        }
        self.branch = branch.clone();
        let answered_by = self.call.to().to_string();
        self.send(Message::Answer(v1::Answer { branch, sdp, answered_by })).await;
        self.start().await;
        Ok(())
    }

    /// Until the call is over.
    pub(super) async fn run(mut self, peer: Address, stop: &CancellationToken) -> CallReport {
        let hangup = loop {
            let timer = self.next_timer();
            tokio::select! {
                message = self.call.next() => match message {
                    Some(Message::Hangup(hangup)) => break hangup,
                    Some(message) => self.heard(message).await,
                    None => break Hangup::default(),
                },
                Some(event) = self.events.next() => self.happened(event).await,
                () = sleep_until(timer) => self.due().await,
                () = stop.cancelled(), if !self.hung_up_here => self.hangup(self.parting()).await,
            }
        };
        let reason = outcome::reason(&hangup);
        self.timeline.mark(Mark::Ended, outcome::reason_name(reason));
        let recording = self.plan.record.as_ref().and_then(|_| self.media.finish_recording().ok());
        let report = CallReport {
            peer,
            answered: self.answered.is_some(),
            hangup,
            ended_here: self.hung_up_here,
            steps: self.timeline.steps().to_vec(),
            recording,
            media: self.media.stats(),
            dtmf: self.keys,
            resumptions: self.call.resumptions(),
        };
        self.media.close().await;
        report
    }

    fn parting(&self) -> HangupReason {
        if self.answered.is_some() { HangupReason::Normal } else { HangupReason::Cancelled }
    }

    async fn send(&self, message: Message) {
        // A call that is over says so at `next`, which ends the loop.
        let _ = self.call.send(message).await;
    }

    async fn hangup(&mut self, reason: HangupReason) {
        self.hung_up_here = true;
        self.call.hangup(reason).await;
    }

    async fn heard(&mut self, message: Message) {
        let result = match message {
            Message::Ringing(ringing) => {
                self.timeline.mark_once(Mark::Ringing, "");
                self.take_sdp(ringing.branch, &ringing.sdp).await
            }
            Message::Early(early) => {
                self.timeline.mark_once(Mark::Early, "");
                self.take_sdp(early.branch, &early.sdp).await
            }
            Message::Answer(answer) => self.taken(answer).await,
            Message::OfferRequest(request) => self.offer_another(request.branch).await,
            Message::OfferAnswer(answer) => match self.legs.get(&answer.branch) {
                Some(leg) => leg.accept_answer(&answer.sdp).await,
                None => Ok(()),
            },
            Message::IceRestart(restart) => self.renew(restart).await,
            Message::IceRestartAnswer(answer) if self.restarting == Some(answer.generation) => {
                self.restarting = None;
                self.media.accept_answer(&answer.sdp).await
            }
            Message::Dtmf(dtmf) => {
                dtmf.digits.chars().filter(|c| "0123456789*#ABCD".contains(*c)).for_each(|c| self.pressed(c));
                Ok(())
            }
            Message::Hold(hold) => {
                let held = hold.direction() != v1::HoldDirection::None;
                self.timeline.mark(if held { Mark::Held } else { Mark::Resumed }, "");
                Ok(())
            }
            Message::BranchEnded(ended) => {
                self.legs.remove(&ended.branch);
                Ok(())
            }
            _ => Ok(()),
        };
        if let Err(error) = result {
            tracing::warn!(%error, "the other side's media description cannot be used");
            self.hangup(HangupReason::Media).await;
        }
    }

    /// The first SDP of a branch is its final one; it belongs to the Invite's offer.
    async fn take_sdp(&mut self, branch: Bytes, sdp: &str) -> Result<(), MediaError> {
        if sdp.is_empty() || self.described || self.side == Side::Callee {
            return Ok(());
        }
        self.media.accept_answer(sdp).await?;
        self.described = true;
        self.branch = branch;
        Ok(())
    }

    /// Somebody answered: their leg is the one that is heard from now on.
    async fn taken(&mut self, answer: v1::Answer) -> Result<(), MediaError> {
        if self.answered.is_some() {
            return Ok(());
        }
        if let Some(leg) = self.legs.remove(&answer.branch) {
            self.switch_to(leg, answer.branch).await?;
        } else {
            self.take_sdp(answer.branch, &answer.sdp).await?;
        }
        self.legs.clear();
        if !self.described {
            return Err(MediaError::NoMedia);
        }
        self.timeline.mark(Mark::Answered, answer.answered_by);
        self.start().await;
        Ok(())
    }

    async fn switch_to(&mut self, leg: MediaSession, branch: Bytes) -> Result<(), MediaError> {
        if let Some(path) = &self.plan.record {
            // What the other branch announced is not what was asked for.
            let _ = self.media.finish_recording();
            leg.record(path)?;
        }
        self.events = leg.events();
        std::mem::replace(&mut self.media, leg).close().await;
        (self.branch, self.described, self.connected) = (branch, true, false);
        Ok(())
    }

    /// Answered, here or there: the plan begins.
    async fn start(&mut self) {
        self.answered = Some(Instant::now());
        if self.side == Side::Callee {
            self.timeline.mark(Mark::Answered, "");
        }
        if let Err(error) = self.media.play(self.plan.play.clone()) {
            tracing::warn!(%error, "nothing is played");
            self.hangup(HangupReason::Media).await;
        }
        self.arm_dtmf();
    }

    fn arm_dtmf(&mut self) {
        if self.plan.dtmf.is_some() && self.answered.is_some() && self.connected && self.dtmf_at.is_none() {
            self.dtmf_at = Some(Instant::now() + DTMF_WAIT);
        }
    }

    async fn offer_another(&mut self, branch: Bytes) -> Result<(), MediaError> {
        if self.legs.len() >= LEGS || self.answered.is_some() || self.legs.contains_key(&branch) {
            return Ok(());
        }
        let (leg, sdp) = MediaSession::offer(self.config.clone()).await?;
        self.legs.insert(branch.clone(), leg);
        self.send(Message::Offer(v1::Offer { branch, sdp })).await;
        Ok(())
    }

    /// The other side renews the media path. When both do at once the caller's renewal counts.
    async fn renew(&mut self, restart: v1::IceRestart) -> Result<(), MediaError> {
        if self.restarting.is_some() && self.side == Side::Caller {
            return Ok(());
        }
        self.restarting = None;
        self.timeline.mark(Mark::IceRestart, "asked by the other side");
        let sdp = self.media.accept_restart(&restart.sdp).await?;
        let (branch, generation) = (restart.branch, restart.generation);
        self.send(Message::IceRestartAnswer(v1::IceRestartAnswer { branch, sdp, generation })).await;
        Ok(())
    }

    fn pressed(&mut self, key: char) {
        if self.keys.len() < KEYS {
            self.keys.push(key);
        }
        self.timeline.mark(Mark::Dtmf, key);
    }

    async fn happened(&mut self, event: MediaEvent) {
        match event {
            MediaEvent::Connected => {
                self.connected = true;
                self.timeline.mark_once(Mark::MediaUp, "");
                self.arm_dtmf();
            }
            MediaEvent::FirstAudio => self.timeline.mark_once(Mark::FirstAudio, ""),
            MediaEvent::Dtmf(key) => self.pressed(key),
            MediaEvent::Disconnected | MediaEvent::Failed => self.path_lost().await,
            MediaEvent::PlaybackEnded => {}
        }
    }

    /// No packets: the path is renewed, a few times.
    async fn path_lost(&mut self) {
        if self.hung_up_here || !self.described || self.restarting.is_some() {
            return;
        }
        if self.restarts >= ICE_RESTARTS {
            return self.hangup(HangupReason::Media).await;
        }
        match self.media.restart_ice().await {
            Ok(sdp) => {
                self.restarts += 1;
                self.restarting = Some(self.restarts);
                self.timeline.mark(Mark::IceRestart, "asked by this side");
                let (branch, generation) = (self.branch.clone(), self.restarts);
                self.send(Message::IceRestart(v1::IceRestart { branch, sdp, generation })).await;
            }
            Err(error) => {
                tracing::warn!(%error, "the media path cannot be renewed");
                self.hangup(HangupReason::Media).await;
            }
        }
    }

    /// When something of the plan is due next.
    fn next_timer(&self) -> Instant {
        let never = Instant::now() + Duration::from_secs(3600);
        if self.hung_up_here {
            return never;
        }
        let end = self.answered.zip(self.plan.duration).map(|(at, duration)| at + duration);
        let media = self.answered.filter(|_| !self.connected).map(|at| at + MEDIA_TIME);
        [end, media, self.dtmf_at].into_iter().flatten().min().unwrap_or(never)
    }

    async fn due(&mut self) {
        let now = Instant::now();
        if self.dtmf_at.is_some_and(|at| at <= now) {
            self.dtmf_at = None;
            self.press().await;
        }
        let Some(answered) = self.answered else { return };
        if self.plan.duration.is_some_and(|duration| answered + duration <= now) {
            self.hangup(HangupReason::Normal).await;
        } else if !self.connected && answered + MEDIA_TIME <= now {
            self.hangup(HangupReason::Media).await;
        }
    }

    /// In the audio where that was agreed, else as a message; never both ([CALL-MEDIA-22]).
    async fn press(&mut self) {
        let Some(digits) = self.plan.dtmf.take() else { return };
        match self.media.dtmf(&digits) {
            Ok(()) => self.timeline.mark(Mark::DtmfSent, format!("{digits} in the audio")),
            Err(MediaError::NoDtmf) => {
                self.timeline.mark(Mark::DtmfSent, format!("{digits} as a message"));
                self.send(Message::Dtmf(v1::Dtmf { digits, duration_ms: 100 })).await;
            }
            Err(error) => tracing::warn!(%error, "the keys were not sent"),
        }
    }
}
