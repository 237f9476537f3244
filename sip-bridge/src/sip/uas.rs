//! Calls that the trunk places at us: the INVITE, our provisionals and final response, CANCEL,
//! ACK, BYE, OPTIONS.

use std::time::Instant;

use sipx_sip::headers::{CSeq, From as FromHeader, PAssertedIdentityList};
use sipx_sip::{HeaderName, Method, Request, Response, ResponseBuilder, TransactionKey, Uri};

use super::agent::{Agent, AgentError, Incoming, Leg, LegTimer, Phase, Reliable, Unacknowledged};
use super::dialog::{Dialog, DialogId};
use super::flow::Flow;
use super::leg::{End, EndCause, LegEvent, LegId};
use super::message;
use super::uac::end_of;
use crate::sdp::{Description, LocalMedia, MediaPlan};

impl Agent {
    pub(super) fn on_request(&mut self, now: Instant, key: TransactionKey, request: Request, flow: Flow) {
        let dialog = DialogId::of_request(&request.headers).and_then(|id| self.dialogs.get(&id).copied());
        let tagged = message::to_tag(&request.headers).is_some();
        match (&request.method, dialog) {
            (Method::Cancel, _) => self.on_cancel(now, &key, &request),
            (_, Some(leg)) => self.on_dialog_request(now, &key, request, leg),
            (_, None) if tagged => self.reply(now, &key, &request, 481),
            (Method::Options, None) => self.on_options(now, &key, &request),
            (Method::Invite, None) => self.on_invite(now, key, request, flow),
            _ => self.reply(now, &key, &request, 481),
        }
    }

    fn on_options(&mut self, now: Instant, key: &TransactionKey, request: &Request) {
        let status = if self.draining { 503 } else { 200 };
        self.reply_with(now, key, request, status, |builder| {
            builder
                .header(HeaderName::Allow, message::ALLOW)?
                .header(HeaderName::Accept, "application/sdp")?
                .header(HeaderName::Supported, message::SUPPORTED.join(", "))
        });
    }

    fn on_invite(&mut self, now: Instant, key: TransactionKey, request: Request, flow: Flow) {
        if self.draining || self.legs.len() >= self.config.limits.legs {
            return self.reply_with(now, &key, &request, 503, |builder| {
                builder.header(HeaderName::RetryAfter, "10")
            });
        }
        if self.is_merged(&request) {
            return self.reply(now, &key, &request, 482);
        }
        let Ok(body) = message::sdp_body(&request.headers, request.body()) else {
            return self.refuse_body(now, &key, &request);
        };
        let offer = match body.map(|body| Description::parse(&body)).transpose() {
            Ok(offer) => offer,
            Err(_) => return self.reply(now, &key, &request, 400),
        };
        if session_too_short(&request) {
            return self
                .reply_with(now, &key, &request, 422, |builder| builder.header(HeaderName::MinSe, "90"));
        }
        let tag = self.token();
        let Some(dialog) = Dialog::from_request(&request, &tag) else {
            return self.reply(now, &key, &request, 400);
        };
        let id = self.next_leg();
        let (display, caller) = caller_of(&request);
        let incoming = Incoming {
            leg: id,
            user: request.uri.decoded_user().unwrap_or_default(),
            display,
            caller,
            offer,
            source: flow.peer(),
        };
        let trying = message::respond(&request, 100).map(ResponseBuilder::build);
        self.dialogs.insert(dialog.id.clone(), id);
        let mut leg = Leg::new(Phase::Offered, flow, request);
        leg.dialog = Some(dialog);
        leg.key = Some(key.clone());
        self.legs.insert(id, leg);
        if let Some(trying) = trying {
            self.transactions.respond(now, &key, trying);
        }
        self.announce(incoming);
    }

    /// The same request by another way (RFC 3261 section 8.2.2.2): a fork or a loop upstream.
    fn is_merged(&self, request: &Request) -> bool {
        let key = |request: &Request| {
            let sequence = match request.headers.typed::<CSeq>() {
                Some(Ok(cseq)) => cseq.sequence,
                _ => 0,
            };
            (
                message::from_tag(&request.headers),
                message::value(&request.headers, &HeaderName::CallId),
                sequence,
            )
        };
        let wanted = key(request);
        self.legs.values().any(|leg| leg.key.is_some() && key(&leg.invite) == wanted)
    }

    /// Gives a leg from the trunk its end of the audio; returns the plan of its offer, or
    /// `None` when the INVITE had no offer and ours goes out with the 200.
    pub fn attach_media(
        &mut self,
        id: LegId,
        mut media: LocalMedia,
    ) -> Result<Option<MediaPlan>, AgentError> {
        let leg =
            self.legs.get_mut(&id).filter(|leg| leg.phase == Phase::Offered).ok_or(AgentError::State)?;
        let offer = message::sdp_body(&leg.invite.headers, leg.invite.body()).ok().flatten();
        let plan = match offer.and_then(|body| Description::parse(&body).ok()) {
            Some(offer) => {
                let (body, plan) = media.answer(&offer)?;
                leg.body = Some(body);
                leg.plan = Some(plan.clone());
                Some(plan)
            }
            None => {
                leg.body = Some(media.offer());
                None
            }
        };
        leg.media = Some(media);
        Ok(plan)
    }

    /// 180 without SDP.
    pub fn ring(&mut self, now: Instant, id: LegId) -> Result<(), AgentError> {
        self.provisional(now, id, 180)
    }

    /// 183 with our SDP, so that the far side hears what we send before the answer. An INVITE
    /// without an offer gets 180: an unreliable provisional cannot carry an offer.
    pub fn progress(&mut self, now: Instant, id: LegId) -> Result<(), AgentError> {
        self.provisional(now, id, 183)
    }

    fn provisional(&mut self, now: Instant, id: LegId, status: u16) -> Result<(), AgentError> {
        let leg = self.legs.get(&id).filter(|leg| leg.phase == Phase::Offered).ok_or(AgentError::State)?;
        if leg.reliable.is_some() {
            // One reliable provisional at a time (RFC 3262 section 3).
            return Ok(());
        }
        let reliable =
            message::tokens(&leg.invite.headers, &HeaderName::Require).contains(&"100rel".to_owned());
        let body = leg.body.clone().filter(|_| status == 183 && leg.plan.is_some());
        let (request, tag) = (leg.invite.clone(), local_tag(leg));
        let status = if body.is_some() { 183 } else { 180 };
        let number = leg.next_reliable + 1;
        let contact = self.contact(leg.flow.transport());
        let built = message::respond_tagged(&request, status, &tag)
            .ok_or(AgentError::Header)?
            .header(HeaderName::Contact, contact)
            .and_then(|builder| builder.header(HeaderName::Allow, message::ALLOW))
            .and_then(|builder| {
                if !reliable {
                    return Ok(builder);
                }
                builder.header(HeaderName::Require, "100rel")?.header(HeaderName::RSeq, number.to_string())
            })
            .and_then(|builder| with_sdp(builder, body))
            .and_then(|builder| with_record_route(builder, &request))
            .map_err(|_| AgentError::Header)?;
        let response = built.build();
        let timers = self.config.timers;
        let leg = self.legs.get_mut(&id).ok_or(AgentError::State)?;
        let key = leg.key.clone().ok_or(AgentError::State)?;
        if reliable {
            leg.next_reliable = number;
            leg.reliable = Some(Reliable {
                number,
                response: response.clone(),
                interval: timers.t1,
                give_up: now + timers.timeout(),
            });
            self.arm(now + timers.t1, id, LegTimer::RepeatReliable);
        }
        self.transactions.respond(now, &key, response);
        Ok(())
    }

    pub(super) fn repeat_reliable(&mut self, now: Instant, id: LegId) {
        let Some(leg) = self.legs.get_mut(&id) else { return };
        let (Some(reliable), Some(key)) = (&mut leg.reliable, leg.key.clone()) else { return };
        if now >= reliable.give_up {
            self.end(id, End::of(EndCause::NoAck));
            return self.refuse(now, id, 504);
        }
        reliable.interval *= 2;
        let (response, next) = (reliable.response.clone(), now + reliable.interval);
        self.transactions.respond(now, &key, response);
        self.arm(next, id, LegTimer::RepeatReliable);
    }

    /// 200 with our SDP; repeated until its ACK.
    pub fn answer(&mut self, now: Instant, id: LegId) -> Result<(), AgentError> {
        let leg =
            self.legs.get_mut(&id).filter(|leg| leg.phase == Phase::Offered).ok_or(AgentError::State)?;
        let body = leg.body.clone().ok_or(AgentError::State)?;
        let key = leg.key.clone().ok_or(AgentError::State)?;
        let offered = leg.plan.is_none();
        let (request, tag) = (leg.invite.clone(), local_tag(leg));
        leg.phase = Phase::Answered;
        leg.reliable = None;
        let builder = message::respond_tagged(&request, 200, &tag).ok_or(AgentError::Header)?;
        self.send_2xx(now, id, &key, &request, builder, Some(body), offered);
        Ok(())
    }

    /// A 2xx to an INVITE, first or later: `Contact`, session timer, and repetition.
    #[expect(clippy::too_many_arguments, reason = "one response, named field by field")]
    pub(super) fn send_2xx(
        &mut self,
        now: Instant,
        id: LegId,
        key: &TransactionKey,
        request: &Request,
        builder: ResponseBuilder,
        body: Option<String>,
        offered: bool,
    ) {
        let Some(leg) = self.legs.get(&id) else { return };
        let contact = self.contact(leg.flow.transport());
        let session = self.agree_session_timer(now, id, &request.headers);
        let built = builder
            .header(HeaderName::Contact, contact)
            .and_then(|builder| builder.header(HeaderName::Allow, message::ALLOW))
            .and_then(|builder| builder.header(HeaderName::Supported, message::SUPPORTED.join(", ")))
            .and_then(|builder| with_session(builder, session))
            .and_then(|builder| with_record_route(builder, request))
            .and_then(|builder| with_sdp(builder, body));
        let (Ok(builder), Some(Ok(cseq))) = (built, request.headers.typed::<CSeq>()) else {
            return;
        };
        let response = builder.build();
        let timers = self.config.timers;
        if request.method == Method::Invite
            && let Some(leg) = self.legs.get_mut(&id)
        {
            leg.unacknowledged = Some(Unacknowledged {
                key: key.clone(),
                response: response.clone(),
                sequence: cseq.sequence,
                interval: timers.t1,
                give_up: now + timers.timeout(),
                offered,
            });
            self.arm(now + timers.t1, id, LegTimer::Repeat2xx);
        }
        self.transactions.respond(now, key, response);
    }

    pub(super) fn repeat_2xx(&mut self, now: Instant, id: LegId) {
        let Some(leg) = self.legs.get_mut(&id) else { return };
        let Some(waiting) = &mut leg.unacknowledged else { return };
        if now >= waiting.give_up {
            leg.unacknowledged = None;
            self.end(id, End::of(EndCause::NoAck));
            return self.send_bye(now, id);
        }
        waiting.interval = (waiting.interval * 2).min(self.config.timers.t2);
        let next = (now + waiting.interval).min(waiting.give_up);
        let (key, response) = (waiting.key.clone(), waiting.response.clone());
        self.transactions.respond(now, &key, response);
        self.arm(next, id, LegTimer::Repeat2xx);
    }

    pub(super) fn on_ack(&mut self, now: Instant, ack: &Request) {
        let Some(id) = DialogId::of_request(&ack.headers).and_then(|id| self.dialogs.get(&id).copied())
        else {
            return;
        };
        let (Some(leg), Some(Ok(cseq))) = (self.legs.get_mut(&id), ack.headers.typed::<CSeq>()) else {
            return;
        };
        if leg.unacknowledged.as_ref().is_none_or(|waiting| waiting.sequence != cseq.sequence) {
            return;
        }
        let offered = leg.unacknowledged.take().is_some_and(|waiting| waiting.offered);
        let first = leg.phase == Phase::Answered;
        if first {
            leg.phase = Phase::Established;
        }
        if leg.close_wanted {
            return self.send_bye(now, id);
        }
        let mut plan = None;
        if offered {
            let body = message::sdp_body(&ack.headers, ack.body()).ok().flatten();
            let answer = body.and_then(|body| Description::parse(&body).ok());
            plan = answer.and_then(|answer| leg.media.as_ref()?.accept(&answer).ok());
            if plan.is_none() && first {
                self.end(id, End::of(EndCause::Media));
                return self.send_bye(now, id);
            }
            leg.plan = plan.clone().or(leg.plan.take());
        }
        match (first, plan) {
            (true, plan) => self.emit(id, LegEvent::Confirmed(plan)),
            (false, Some(plan)) => self.emit(id, LegEvent::Media(plan)),
            (false, None) => {}
        }
    }

    /// Refuses an unanswered INVITE.
    pub fn reject(&mut self, now: Instant, id: LegId, status: u16) {
        self.hang_up(now, id, status);
    }

    pub(super) fn refuse(&mut self, now: Instant, id: LegId, status: u16) {
        let Some(leg) = self.legs.get(&id) else { return };
        let (request, tag, key) = (leg.invite.clone(), local_tag(leg), leg.key.clone());
        if let (Some(key), Some(builder)) = (key, message::respond_tagged(&request, status, &tag)) {
            let builder = match status {
                503 => builder.header(HeaderName::RetryAfter, "10"),
                _ => Ok(builder),
            };
            if let Ok(builder) = builder {
                self.transactions.respond(now, &key, builder.build());
            }
        }
        self.remove(id);
    }

    fn on_cancel(&mut self, now: Instant, key: &TransactionKey, request: &Request) {
        let invite = TransactionKey::for_cancelled_invite(request);
        let leg = self
            .legs
            .iter()
            .find(|(_, leg)| leg.key.is_some() && leg.key == invite)
            .map(|(id, leg)| (*id, leg.phase));
        let Some((id, phase)) = leg else {
            return self.reply(now, key, request, 481);
        };
        self.reply(now, key, request, 200);
        // After our 2xx a CANCEL changes nothing (RFC 3261 section 9.2): BYE follows.
        if phase == Phase::Offered {
            self.end(id, end_of(EndCause::RemoteCancel, None, &request.headers));
            self.refuse(now, id, 487);
        }
    }

    pub(super) fn on_bye(&mut self, now: Instant, key: &TransactionKey, request: &Request, id: LegId) {
        self.reply(now, key, request, 200);
        let unanswered = self.legs.get(&id).is_some_and(|leg| leg.phase == Phase::Offered);
        self.end(id, end_of(EndCause::RemoteBye, None, &request.headers));
        if unanswered {
            // A BYE on an early dialog also ends its INVITE (section 15.1.2).
            self.refuse(now, id, 487);
        } else {
            self.remove(id);
        }
    }

    pub(super) fn refuse_body(&mut self, now: Instant, key: &TransactionKey, request: &Request) {
        self.reply_with(now, key, request, 415, |builder| {
            builder
                .header(HeaderName::Accept, "application/sdp")?
                .header(HeaderName::AcceptEncoding, "identity")
        });
    }

    pub(super) fn reply(&mut self, now: Instant, key: &TransactionKey, request: &Request, status: u16) {
        self.reply_with(now, key, request, status, Ok);
    }

    pub(super) fn reply_with(
        &mut self,
        now: Instant,
        key: &TransactionKey,
        request: &Request,
        status: u16,
        add: impl FnOnce(ResponseBuilder) -> Result<ResponseBuilder, sipx_sip::BuildError>,
    ) {
        let tag = self.token();
        let built: Option<Response> = message::respond_tagged(request, status, &tag)
            .and_then(|builder| add(builder).ok())
            .map(ResponseBuilder::build);
        match built {
            Some(response) => self.transactions.respond(now, key, response),
            None => self.transactions.abandon_server(key),
        }
    }
}

pub(super) fn with_sdp(
    builder: ResponseBuilder,
    body: Option<String>,
) -> Result<ResponseBuilder, sipx_sip::BuildError> {
    match body {
        Some(body) => Ok(builder.header(HeaderName::ContentType, "application/sdp")?.body(body)),
        None => Ok(builder),
    }
}

/// A response that makes a dialog copies the way (RFC 3261 section 12.1.1).
fn with_record_route(
    mut builder: ResponseBuilder,
    request: &Request,
) -> Result<ResponseBuilder, sipx_sip::BuildError> {
    for route in request.headers.get_all(&HeaderName::RecordRoute) {
        builder = builder.header(HeaderName::RecordRoute, route.value().into_owned())?;
    }
    Ok(builder)
}

/// `Session-Expires`, and `Require: timer` when the far side refreshes (RFC 4028 section 9).
pub(super) fn with_session(
    builder: ResponseBuilder,
    session: Option<(u64, bool)>,
) -> Result<ResponseBuilder, sipx_sip::BuildError> {
    match session {
        Some((seconds, true)) => {
            builder.header(HeaderName::SessionExpires, format!("{seconds};refresher=uas"))
        }
        Some((seconds, false)) => builder
            .header(HeaderName::SessionExpires, format!("{seconds};refresher=uac"))?
            .header(HeaderName::Require, "timer"),
        None => Ok(builder),
    }
}

fn session_too_short(request: &Request) -> bool {
    super::negotiation::session_expires(&request.headers).is_some_and(|(seconds, _)| seconds < 90)
}

fn local_tag(leg: &Leg) -> String {
    let tag = leg.dialog.as_ref().map(|dialog| dialog.id.local.clone()).unwrap_or_default();
    String::from_utf8_lossy(&tag).into_owned()
}

/// Who calls: the asserted identity before `From`. The display name is what `From` says.
fn caller_of(request: &Request) -> (Option<String>, Vec<u8>) {
    let user = |uri: &Uri| uri.decoded_user().unwrap_or_default();
    let asserted = match PAssertedIdentityList::from_headers(&request.headers) {
        Ok(Some(list)) => list.values().first().map(|value| value.address().clone()),
        _ => None,
    };
    let from = match request.headers.typed::<FromHeader>() {
        Some(Ok(from)) => Some(from.0),
        _ => None,
    };
    let display = asserted
        .iter()
        .chain(from.iter())
        .find_map(|address| address.display_name.as_ref())
        .map(|name| String::from_utf8_lossy(name).chars().filter(|c| !c.is_control()).collect());
    let caller = asserted.or(from).map(|address| user(&address.uri)).unwrap_or_default();
    (display, caller)
}
