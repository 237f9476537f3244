//! Calls from a PBX to an Ahoy address: who is meant, the WebRTC offer, and the Invite.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ahoy_client::PlaceCall;
use ahoy_proto::address::Address;
use ahoy_proto::v1::call_frame::Message;
use ahoy_proto::v1::{self, HangupReason};
use bytes::Bytes;
use tokio::time::Instant;

use super::joint::{Ending, Input, Joint};
use super::report::Report;
use super::{Exchange, LiveTrunk, encoding_of};
use crate::cdr::Way;
use crate::rtc::{Encoding, RtcCall, RtcEvents, RtcLeg};
use crate::rtp::RtpLeg;
use crate::sip::{Incoming, LegEvent, SipLeg};
use crate::status_map;

/// How long a call may ring, and how long with announcements.
const RING: Duration = Duration::from_secs(90);
const EARLY: Duration = Duration::from_secs(180);
/// Branches beside the first that may ask for an offer.
const BRANCHES: usize = 8;

/// Serves one call from its INVITE to its CDR.
pub(super) async fn serve(
    exchange: Arc<Exchange>,
    trunk: Arc<LiveTrunk>,
    incoming: Incoming,
    sip: Box<dyn SipLeg>,
) {
    let caller = String::from_utf8_lossy(&incoming.caller)
        .chars()
        .filter(|c| !c.is_control())
        .take(64)
        .collect::<String>();
    let dialled = String::from_utf8_lossy(&incoming.user).into_owned();
    let now = exchange.clock.now();
    let mut report = Report::new(now, Way::FromTrunk, &trunk.trunk.id, caller.clone(), dialled);
    let refused = match place(&exchange, &trunk, &incoming, &*sip, &caller).await {
        Ok((call, legs, rtp, encodings)) => {
            report.named(call.id());
            let deadline = Instant::now() + RING;
            let joint =
                Joint::new(exchange, sip, call, legs, Arc::new(rtp), report, Bytes::new(), deadline, true);
            let inbound = Inbound {
                joint,
                encodings,
                others: HashMap::new(),
                described: false,
                started: Instant::now(),
            };
            return inbound.run().await;
        }
        Err(refused) => refused,
    };
    sip.hang_up(refused.status);
    exchange.cdr.write(&report.finish(exchange.clock.now(), refused.reason)).await;
}

struct Refused {
    status: u16,
    reason: HangupReason,
}

impl Refused {
    fn with(reason: HangupReason) -> Self {
        Self { status: status_map::status_of_reason(reason), reason }
    }
}

type Placed = (ahoy_client::Call, (RtcCall, RtcEvents), RtpLeg, Vec<Encoding>);

async fn place(
    exchange: &Exchange,
    trunk: &LiveTrunk,
    incoming: &Incoming,
    sip: &dyn SipLeg,
    caller: &str,
) -> Result<Placed, Refused> {
    let to = trunk.trunk.dialled(&incoming.user, &exchange.policy).ok_or_else(|| {
        tracing::info!(trunk = trunk.trunk.id, dialled = ?String::from_utf8_lossy(&incoming.user),
            "neither an Ahoy address nor a short code: refused");
        Refused::with(HangupReason::NotFound)
    })?;
    let from = outbound_address(trunk)?;
    let (rtp, media) = trunk.media(&*exchange.entropy, None).await.map_err(|error| {
        tracing::error!(%error, trunk = trunk.trunk.id, "no RTP ports");
        Refused::with(HangupReason::Unavailable)
    })?;
    let plan = sip.attach(media).map_err(|error| {
        tracing::info!(%error, "the PBX offers no media that the bridge speaks");
        Refused::with(HangupReason::Media)
    })?;
    // What the PBX will speak comes first, so that nothing needs recoding.
    let mut encodings = trunk.encodings();
    if let Some(plan) = plan {
        encodings.retain(|encoding| *encoding == encoding_of(plan.codec) || !encoding.is_audio());
        rtp.set_plan(plan);
    }
    let (rtc, events, sdp) = exchange.hub.offer(&encodings).await.map_err(|error| {
        tracing::error!(%error, "no WebRTC offer");
        Refused::with(HangupReason::Unavailable)
    })?;
    let display =
        incoming.display.clone().filter(|display| !display.is_empty()).unwrap_or_else(|| caller.to_owned());
    let place = PlaceCall { to, from: Some(from), sdp, ring: Some(RING), display };
    match exchange.session.place_call(place).await {
        Ok(call) => Ok((call, (rtc, events), rtp, encodings)),
        Err(error) => {
            tracing::info!(%error, "the call cannot be placed in the network");
            let status = status_map::status_of_fault(&error.fault);
            Err(Refused { status, reason: HangupReason::NotReachable })
        }
    }
}

fn outbound_address(trunk: &LiveTrunk) -> Result<Address, Refused> {
    trunk.trunk.outbound.clone().ok_or_else(|| {
        tracing::info!(trunk = trunk.trunk.id, "the trunk has no outbound_line: it may not call out");
        Refused::with(HangupReason::Forbidden)
    })
}

struct Inbound {
    joint: Joint,
    encodings: Vec<Encoding>,
    /// WebRTC legs of later branches, which asked for an offer of their own.
    others: HashMap<Bytes, (RtcCall, RtcEvents)>,
    /// The first leg has its answer.
    described: bool,
    started: Instant,
}

impl Inbound {
    async fn run(mut self) {
        let ending = loop {
            let done = match self.joint.next().await {
                Ok(Input::Sip(event)) => self.sip(event),
                Ok(Input::Call(message)) => self.network(message).await,
                Ok(Input::RingTimeout) => {
                    Err(Ending::ours(HangupReason::NoAnswer, "nobody answered in time"))
                }
                Err(ending) => Err(ending),
            };
            if let Err(ending) = done {
                break ending;
            }
        };
        for (_, (other, _)) in self.others.drain() {
            other.close();
        }
        self.joint.finish(ending).await;
    }

    fn sip(&mut self, event: LegEvent) -> Result<(), Ending> {
        // The answer to our offer came with the ACK of an offerless INVITE.
        if let LegEvent::Confirmed(Some(plan)) = event {
            self.joint.rtp.set_plan(plan);
        }
        Ok(())
    }

    async fn network(&mut self, message: Message) -> Result<(), Ending> {
        match message {
            Message::Ringing(ringing) => {
                self.describe(&ringing.sdp)?;
                self.joint.report.ringing(&*self.joint.exchange.clock);
                let _ = self.joint.sip.ring();
            }
            Message::Early(early) => {
                self.describe(&early.sdp)?;
                self.joint.ring_deadline = Some(self.started + EARLY);
                let _ = self.joint.sip.progress();
            }
            Message::Answer(answer) => return self.answered(answer),
            Message::OfferRequest(request) => self.offer(request.branch).await,
            Message::OfferAnswer(answer) => {
                if let Some((rtc, _)) = self.others.get(&answer.branch) {
                    let _ = rtc.accept_answer(&answer.sdp);
                }
            }
            other => tracing::debug!(message = ?other, "a call message that means nothing to the caller"),
        }
        Ok(())
    }

    /// The first SDP that comes back answers our offer, for good.
    fn describe(&mut self, sdp: &str) -> Result<(), Ending> {
        if sdp.is_empty() || self.described {
            return Ok(());
        }
        self.described = true;
        self.joint.rtc.accept_answer(sdp).map_err(|error| {
            tracing::info!(%error, "the callee's SDP is of no use");
            Ending::ours(HangupReason::Media, "no common audio")
        })
    }

    fn answered(&mut self, answer: v1::Answer) -> Result<(), Ending> {
        self.joint.branch = answer.branch.clone();
        match self.others.remove(&answer.branch) {
            Some((rtc, events)) => {
                if !answer.sdp.is_empty() {
                    let _ = rtc.accept_answer(&answer.sdp);
                }
                self.joint.switch(rtc, events);
            }
            None => self.describe(&answer.sdp)?,
        }
        if self.joint.rtc.negotiated().is_none() {
            return Err(Ending::ours(HangupReason::Media, "an answer without media"));
        }
        self.joint.sip.answer().map_err(|_| Ending::ours(HangupReason::Cancelled, ""))?;
        self.joint.answered();
        Ok(())
    }

    /// A later branch needs an offer from a new WebRTC leg.
    async fn offer(&mut self, branch: Bytes) {
        if self.others.len() >= BRANCHES || branch.len() > 64 {
            return;
        }
        match self.joint.exchange.hub.offer(&self.encodings).await {
            Ok((rtc, events, sdp)) => {
                self.others.insert(branch.clone(), (rtc, events));
                self.joint.tell(Message::Offer(v1::Offer { branch, sdp })).await;
            }
            Err(error) => tracing::warn!(%error, "no offer for a further branch"),
        }
    }
}
