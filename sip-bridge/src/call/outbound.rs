//! Calls from the network to a line: the WebRTC answer first, then the INVITE at the PBX.

use std::sync::Arc;
use std::time::Duration;

use ahoy_client::IncomingCall;
use ahoy_proto::v1::call_frame::Message;
use ahoy_proto::v1::{self, HangupReason};
use bytes::Bytes;
use tokio::time::Instant;

use super::joint::{Ending, Input, Joint};
use super::report::Report;
use super::{Exchange, LiveTrunk, codec_of};
use crate::cdr::Way;
use crate::rtc::{RtcCall, RtcEvents, RtcLeg};
use crate::rtp::RtpLeg;
use crate::sdp::MediaPlan;
use crate::sip::{LegEvent, OutgoingInvite, SipLeg};

/// Ringing without announcements, and with them (spec section 6).
const RING: Duration = Duration::from_secs(90);
const EARLY: Duration = Duration::from_secs(180);
/// A PBX that says nothing at all to an INVITE for this long is down. [BRIDGE-SIP-13]
const SILENCE: Duration = Duration::from_secs(5);
/// When to try again after a refusal that passes; as long as `Retry-After` towards the PBX.
const RETRY_AFTER_MS: u32 = 10_000;

/// Serves one call from its Invite to its CDR.
pub(super) async fn serve(exchange: Arc<Exchange>, incoming: IncomingCall) {
    let now = exchange.clock.now();
    let (from, to) = (incoming.from.clone(), incoming.to.clone());
    let Some((trunk, target)) = exchange.line(&to) else {
        tracing::info!(%to, "no trunk has this line");
        return incoming.decline(HangupReason::NotFound).await;
    };
    let mut report = Report::new(now, Way::ToTrunk, &trunk.trunk.id, from.to_string(), to.to_string());
    report.named(incoming.id());
    let prepared = prepare(&exchange, &trunk, &incoming, target).await;
    let (legs, rtp, sip, answer) = match prepared {
        Ok(prepared) => prepared,
        Err(reason) => {
            exchange.cdr.write(&report.finish(exchange.clock.now(), reason)).await;
            return refuse(incoming, reason).await;
        }
    };
    let patience = Duration::from_millis(u64::from(incoming.invite.remaining_ms)).min(RING);
    let mut branch = [0; 16];
    exchange.entropy.fill(&mut branch);
    let deadline = Instant::now() + patience.min(SILENCE);
    let call = incoming.accept();
    let branch = Bytes::copy_from_slice(&branch);
    let joint = Joint::new(exchange, sip, call, legs, Arc::new(rtp), report, branch, deadline, false);
    Outbound { joint, answer: Some(answer), started: Instant::now(), patience, heard: false }
        .run(trunk)
        .await;
}

/// Declines; what passes says when to try again.
async fn refuse(incoming: IncomingCall, reason: HangupReason) {
    let retry_after_ms = if reason == HangupReason::Unavailable { RETRY_AFTER_MS } else { 0 };
    let hangup = v1::Hangup { reason: reason.into(), retry_after_ms, ..v1::Hangup::default() };
    // A caller who has gone needs no answer.
    let _ = incoming.accept().send(Message::Hangup(hangup)).await;
}

type Prepared = ((RtcCall, RtcEvents), RtpLeg, Box<dyn SipLeg>, String);

async fn prepare(
    exchange: &Exchange,
    trunk: &LiveTrunk,
    incoming: &IncomingCall,
    target: sipx_sip::Uri,
) -> Result<Prepared, HangupReason> {
    if exchange.draining.is_cancelled() {
        return Err(HangupReason::Unavailable);
    }
    // Known dead: the caller need not wait for the silence. [BRIDGE-SIP-15]
    if trunk.port.is_down() {
        return Err(HangupReason::TrunkDown);
    }
    let (rtc, events, answer) =
        exchange.hub.answer(&incoming.invite.sdp, &trunk.encodings()).await.map_err(|error| {
            tracing::info!(%error, "the caller's media cannot be answered");
            HangupReason::Media
        })?;
    let codec = rtc.negotiated().and_then(|negotiated| codec_of(negotiated.audio));
    let (rtp, media) = trunk.media(&*exchange.entropy, codec).await.map_err(|error| {
        tracing::error!(%error, trunk = trunk.trunk.id, "no RTP ports");
        HangupReason::Unavailable
    })?;
    let from = trunk.trunk.identity(&incoming.from, &incoming.invite.caller_display);
    let sip = trunk.port.invite(OutgoingInvite { target, from, media }).map_err(|error| {
        tracing::warn!(%error, trunk = trunk.trunk.id, "the call cannot be placed at the PBX");
        HangupReason::Unavailable
    })?;
    Ok(((rtc, events), rtp, sip, answer))
}

struct Outbound {
    joint: Joint,
    /// Our SDP, until it was sent: it goes once, with the first message of this branch.
    answer: Option<String>,
    started: Instant,
    patience: Duration,
    heard: bool,
}

impl Outbound {
    async fn run(mut self, trunk: Arc<LiveTrunk>) {
        let ending = loop {
            let done = match self.joint.next().await {
                Ok(Input::Sip(event)) => self.sip(event).await,
                Ok(Input::Call(message)) => self.network(&message),
                Ok(Input::RingTimeout) => Err(self.rang_out(&trunk)),
                Err(ending) => Err(ending),
            };
            if let Err(ending) = done {
                break ending;
            }
        };
        self.joint.finish(ending).await;
    }

    async fn sip(&mut self, event: LegEvent) -> Result<(), Ending> {
        let branch = self.joint.branch.clone();
        if !self.heard {
            self.heard = true;
            self.joint.ring_deadline = Some(self.started + self.patience);
        }
        let message = match event {
            // The PBX is alive: the SDP goes at once, so that the media path stands before anybody
            // speaks, and nothing is cut off at pick-up. [CALL-BRANCH-04]
            LegEvent::Trying => Message::Early(v1::Early { branch, sdp: self.sdp() }),
            LegEvent::Ringing => {
                self.joint.report.ringing(&*self.joint.exchange.clock);
                Message::Ringing(v1::Ringing { branch, sdp: self.sdp() })
            }
            LegEvent::Early(plan) => {
                self.take_plan(plan);
                self.joint.ring_deadline = Some(self.started + EARLY);
                Message::Early(v1::Early { branch, sdp: self.sdp() })
            }
            LegEvent::Answered(plan) => {
                self.take_plan(plan);
                self.joint.answered();
                let answered_by = self.joint.call.to().to_string();
                Message::Answer(v1::Answer { branch, sdp: self.sdp(), answered_by })
            }
            LegEvent::Confirmed(_) | LegEvent::Media(_) | LegEvent::Ended(_) => return Ok(()),
        };
        self.joint.tell(message).await;
        Ok(())
    }

    fn take_plan(&mut self, plan: MediaPlan) {
        self.joint.rtp.set_plan(plan);
    }

    fn sdp(&mut self) -> String {
        self.answer.take().unwrap_or_default()
    }

    fn network(&mut self, message: &Message) -> Result<(), Ending> {
        tracing::debug!(?message, "a call message that means nothing to a line");
        Ok(())
    }

    fn rang_out(&self, trunk: &LiveTrunk) -> Ending {
        if self.heard {
            return Ending::ours(HangupReason::NoAnswer, "nobody answered in time");
        }
        trunk.port.suspect();
        Ending::ours(HangupReason::TrunkDown, "the PBX does not answer")
    }
}
