//! The two legs of one call once both exist: what each tells the other until one of them ends.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use ahoy_client::Call;
use ahoy_proto::v1::call_frame::Message;
use ahoy_proto::v1::{self, Hangup, HangupReason, HoldDirection};
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::Exchange;
use super::relay::{Marks, ToSip, ToneKeys, to_rtc};
use super::report::Report;
use crate::rtc::{RtcCall, RtcEvent, RtcEvents, RtcLeg};
use crate::rtp::{RtpLeg, Tone, is_dialable};
use crate::sdp::{Direction, MediaPlan};
use crate::sip::{End, EndCause, LegEvent, SipLeg};
use crate::status_map;

/// Time after the answer in which sound must have come from both sides. [BRIDGE-RTP-04]
const SOUND: Duration = Duration::from_secs(5);
/// How long the Hangup of a client that closed its media may take.
const HANGUP_GRACE: Duration = Duration::from_secs(1);
/// Time after the answer in which the media path must be up. [CALL-MEDIA-21]
const PATH: Duration = Duration::from_secs(15);
/// A restart that is not answered within this is tried again.
const RESTART: Duration = Duration::from_secs(10);
/// Tones that may wait.
const TONES: usize = 64;
const TONE_STEP: Duration = Duration::from_millis(20);

/// What a call waits for.
#[derive(Debug)]
pub(super) enum Input {
    /// The SIP leg says something.
    Sip(LegEvent),
    /// The network says something.
    Call(Message),
    /// Nobody answered in time.
    RingTimeout,
}

/// Why a call ends, and who has to be told.
#[derive(Debug)]
pub(super) struct Ending {
    pub hangup: Hangup,
    pub from_sip: bool,
    pub from_network: bool,
}

impl Ending {
    /// The SIP side ended it.
    pub fn of_sip(hangup: Hangup) -> Self {
        Self { hangup, from_sip: true, from_network: false }
    }

    /// The bridge ends it.
    pub fn ours(reason: HangupReason, message: &str) -> Self {
        let hangup = Hangup { reason: reason.into(), message: message.to_owned(), ..Hangup::default() };
        Self { hangup, from_sip: false, from_network: false }
    }

    fn of_network(hangup: Hangup) -> Self {
        Self { hangup, from_sip: false, from_network: true }
    }

    fn reason(&self) -> HangupReason {
        ahoy_client::outcome::reason(&self.hangup)
    }
}

/// Both legs of one call.
pub(super) struct Joint {
    pub exchange: Arc<Exchange>,
    pub sip: Box<dyn SipLeg>,
    pub call: Call,
    pub rtc: Arc<RtcCall>,
    pub events: RtcEvents,
    pub rtp: Arc<RtpLeg>,
    pub report: Report,
    pub branch: Bytes,
    /// Nobody rings for longer.
    pub ring_deadline: Option<Instant>,
    /// We placed the call into the network.
    pub caller: bool,
    marks: Arc<Marks>,
    /// Keys of the PBX for a network without telephone events, and the other way round.
    digits: (mpsc::Sender<char>, mpsc::Receiver<char>),
    keys: (mpsc::Sender<char>, mpsc::Receiver<char>),
    tones: VecDeque<Tone>,
    tone_at: Instant,
    sound_due: Option<Instant>,
    /// When a call whose client closed its media ends without its Hangup.
    closing: Option<Instant>,
    path_due: Option<Instant>,
    hold: HoldDirection,
    /// The network side said that it holds: its silence is meant.
    held: bool,
    generation: u32,
    /// Until when the answer to our restart is awaited.
    restarting: Option<Instant>,
    /// Our address changed again meanwhile.
    restart_again: bool,
    relay: CancellationToken,
}

impl Joint {
    #[expect(clippy::too_many_arguments, reason = "the parts of one call, each named once")]
    pub fn new(
        exchange: Arc<Exchange>,
        sip: Box<dyn SipLeg>,
        call: Call,
        (rtc, events): (RtcCall, RtcEvents),
        rtp: Arc<RtpLeg>,
        report: Report,
        branch: Bytes,
        ring_deadline: Instant,
        caller: bool,
    ) -> Self {
        let mut joint = Self {
            exchange,
            sip,
            call,
            rtc: Arc::new(rtc),
            events,
            rtp,
            report,
            branch,
            ring_deadline: Some(ring_deadline),
            caller,
            marks: Arc::default(),
            digits: mpsc::channel(TONES),
            keys: mpsc::channel(TONES),
            tones: VecDeque::new(),
            tone_at: Instant::now(),
            sound_due: None,
            closing: None,
            path_due: None,
            hold: HoldDirection::None,
            held: false,
            generation: 0,
            restarting: None,
            restart_again: false,
            relay: CancellationToken::new(),
        };
        joint.report.named(joint.call.id());
        joint.join();
        joint
    }

    /// Starts relaying between the RTP leg and the current WebRTC leg.
    fn join(&mut self) {
        self.relay.cancel();
        self.relay = CancellationToken::new();
        let (rtp, marks, clock) = (self.rtp.clone(), self.marks.clone(), self.exchange.clock.clone());
        let sink = ToSip {
            rtp: rtp.clone(),
            clock: clock.clone(),
            marks: marks.clone(),
            keys: ToneKeys::new(self.keys.0.clone()),
        };
        self.rtc.relay_to(Some(Arc::new(sink)));
        let digits = self.digits.0.clone();
        let relay = to_rtc(rtp, self.rtc.clone(), clock, marks, digits, self.relay.clone());
        self.exchange.calls.spawn(relay);
    }

    /// Another branch answered: its WebRTC leg takes the place of the first.
    pub fn switch(&mut self, rtc: RtcCall, events: RtcEvents) {
        self.rtc.close();
        self.rtc = Arc::new(rtc);
        self.events = events;
        self.join();
    }

    /// Sends a message to the network; a call that is over says so by its next event.
    pub async fn tell(&self, message: Message) {
        let _ = self.call.send(message).await;
    }

    /// The next thing that the caller of this must decide; everything else is done here.
    pub async fn next(&mut self) -> Result<Input, Ending> {
        loop {
            let ring = self.ring_deadline;
            let (sound, closing) = (self.sound_due, self.closing);
            let tone_at = (!self.tones.is_empty()).then_some(self.tone_at);
            tokio::select! {
                event = self.sip.next() => match event {
                    Some(LegEvent::Ended(end)) => {
                        self.report.sip_ended(&end);
                        return Err(Ending::of_sip(Hangup {
                            reason: status_map::reason_of_end(&end).into(),
                            sip_status: end.status.map_or(0, u32::from),
                            message: String::new(),
                            retry_after_ms: end.retry_after.map_or(0, |s| s.saturating_mul(1000)),
                        }));
                    }
                    Some(LegEvent::Media(plan)) => self.media_changed(plan).await,
                    Some(event) => return Ok(Input::Sip(event)),
                    None => return Err(Ending::ours(HangupReason::Failed, "the SIP leg is gone")),
                },
                message = self.call.next() => match message {
                    Some(Message::Hangup(hangup)) => return Err(Ending::of_network(hangup)),
                    Some(message) => if let Some(message) = self.take(message).await {
                        return Ok(Input::Call(message));
                    },
                    None => return Err(Ending::of_network(Hangup::default())),
                },
                Some(event) = self.events.next() => self.rtc_event(event).await?,
                Some(digit) = self.digits.1.recv() => {
                    let dtmf = v1::Dtmf { digits: digit.to_string(), duration_ms: 100 };
                    self.tell(Message::Dtmf(dtmf)).await;
                }
                Some(digit) = self.keys.1.recv() => self.dial(&v1::Dtmf { digits: digit.to_string(), duration_ms: 100 }),
                () = at(tone_at) => self.tone_step(),
                () = at(self.restarting) => {
                    self.restarting = None;
                    self.restart().await;
                }
                () = at(self.path_due) => {
                    self.path_due = None;
                    if self.rtc.stats().connected.is_none() {
                        return Err(Ending::ours(HangupReason::Media, "no media path to the client within 15 s"));
                    }
                }
                () = at(sound) => self.check_sound(),
                () = at(closing) => {
                    return Err(Ending::ours(HangupReason::Normal, "the client closed its media"));
                }
                () = at(ring) => {
                    self.ring_deadline = None;
                    return Ok(Input::RingTimeout);
                }
                () = self.exchange.cut.cancelled() => {
                    return Err(Ending::ours(HangupReason::Unavailable, "the bridge is being restarted"));
                }
            }
        }
    }

    /// The call was answered, by whichever side.
    pub fn answered(&mut self) {
        self.ring_deadline = None;
        let now = Instant::now();
        (self.sound_due, self.path_due) = (Some(now + SOUND), Some(now + PATH));
        self.report.answered(&*self.exchange.clock);
    }

    async fn media_changed(&mut self, plan: MediaPlan) {
        let hold = match plan.direction {
            Direction { sends: true, .. } => HoldDirection::None,
            Direction { receives: true, .. } => HoldDirection::BySender,
            _ => HoldDirection::Inactive,
        };
        self.rtp.set_plan(plan);
        if hold != self.hold {
            self.hold = hold;
            self.tell(Message::Hold(v1::Hold { direction: hold.into() })).await;
        }
    }

    /// Deals with a message that means the same in every state; gives back the others.
    async fn take(&mut self, message: Message) -> Option<Message> {
        match message {
            Message::Dtmf(dtmf) => self.dial(&dtmf),
            // Who holds sends no RTP; there is nothing to say to the PBX about it.
            Message::Hold(hold) => self.held = hold.direction() != HoldDirection::None,
            Message::BranchEnded(_) => {}
            Message::IceRestart(restart) => self.peer_restarts(restart).await,
            Message::IceRestartAnswer(answer)
                if self.restarting.is_some() && answer.generation == self.generation =>
            {
                self.restarting = None;
                if let Err(error) = self.rtc.accept_answer(&answer.sdp) {
                    tracing::info!(%error, "the answer to an ICE restart is of no use");
                }
                if std::mem::take(&mut self.restart_again) {
                    self.restart().await;
                }
            }
            Message::Transfer(_) | Message::Recording(_) => tracing::debug!("reserved call message ignored"),
            other => return Some(other),
        }
        None
    }

    fn dial(&mut self, dtmf: &v1::Dtmf) {
        if !is_dialable(&dtmf.digits) || self.rtp.codec().is_none() {
            tracing::warn!(call = ?self.call.id(), "no digits, or before the PBX described its audio: dropped");
            return;
        }
        if self.tones.is_empty() {
            self.tone_at = Instant::now();
        }
        let duration = if dtmf.duration_ms == 0 { 100 } else { dtmf.duration_ms };
        let free = TONES.saturating_sub(self.tones.len());
        self.tones.extend(dtmf.digits.chars().filter_map(|digit| Tone::new(digit, duration)).take(free));
    }

    fn tone_step(&mut self) {
        let Some(tone) = self.tones.front_mut() else { return };
        if !self.rtp.send_tone(self.exchange.clock.now(), Instant::now().into_std(), tone) {
            self.tones.pop_front();
        }
        self.tone_at += TONE_STEP;
    }

    async fn peer_restarts(&mut self, restart: v1::IceRestart) {
        // Glare: the callee yields (spec section 6).
        if self.restarting.is_some() && self.caller {
            return;
        }
        // What we offer in this answer is as new as it would be in a restart of ours.
        (self.restarting, self.restart_again) = (None, false);
        match self.rtc.accept_restart(&restart.sdp) {
            Ok(sdp) => {
                let answer =
                    v1::IceRestartAnswer { branch: restart.branch, sdp, generation: restart.generation };
                self.tell(Message::IceRestartAnswer(answer)).await;
            }
            Err(error) => tracing::info!(%error, "an ICE restart of the peer is of no use"),
        }
    }

    async fn rtc_event(&mut self, event: RtcEvent) -> Result<(), Ending> {
        match event {
            RtcEvent::MappingChanged if self.restarting.is_some() => self.restart_again = true,
            RtcEvent::Disconnected | RtcEvent::MappingChanged => self.restart().await,
            RtcEvent::Stalled if self.hold == HoldDirection::None && !self.held => self.restart().await,
            RtcEvent::Lost => {
                return Err(Ending::ours(HangupReason::Media, "the media path to the client was lost"));
            }
            // A client that hangs up closes its media, too, and that may overtake its Hangup.
            RtcEvent::Closed => self.closing = Some(Instant::now() + HANGUP_GRACE),
            RtcEvent::SelectedPair { local, remote } => tracing::debug!(%local, %remote, "media path chosen"),
            RtcEvent::Connected | RtcEvent::Resumed | RtcEvent::Stalled => {}
        }
        Ok(())
    }

    async fn restart(&mut self) {
        if self.restarting.is_some() || !self.report.is_answered() {
            return;
        }
        if let Ok(sdp) = self.rtc.restart() {
            tracing::info!(call = ?self.call.id(), "the media path is renewed");
            self.restarting = Some(Instant::now() + RESTART);
            self.generation += 1;
            let restart = v1::IceRestart { branch: self.branch.clone(), sdp, generation: self.generation };
            self.tell(Message::IceRestart(restart)).await;
        }
    }

    /// An answered call without sound is the complaint that operators get most. [BRIDGE-RTP-04]
    fn check_sound(&mut self) {
        self.sound_due = None;
        let (from_pbx, to_pbx) = self.rtp.traffic();
        let from_client = self.rtc.stats().packets_in;
        if from_pbx.packets == 0 {
            tracing::warn!(call = ?self.call.id(), advertised = ?from_pbx.advertised,
                "no RTP from the PBX 5 s after the answer: check external_address, local_nets and the firewall");
        }
        if from_client == 0 {
            tracing::warn!(call = ?self.call.id(), pbx = ?to_pbx.advertised,
                "no RTP from the client 5 s after the answer: check that UDP reaches the bridge");
        }
    }

    /// Tells whoever does not know yet, and writes the CDR.
    pub async fn finish(mut self, ending: Ending) {
        let reason = ending.reason();
        if !ending.from_sip {
            self.report.sip_ended(&End::of(EndCause::Local));
            self.sip.hang_up(status_map::status_of_reason(reason));
        }
        if !ending.from_network {
            let _ = self.call.send(Message::Hangup(ending.hangup)).await;
        }
        self.relay.cancel();
        self.report.media(&self.rtp, &self.rtc, &self.marks);
        self.rtc.close();
        let record = self.report.finish(self.exchange.clock.now(), reason);
        tracing::info!(call = record.call, reason = record.reason, "call over");
        self.exchange.cdr.write(&record).await;
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
