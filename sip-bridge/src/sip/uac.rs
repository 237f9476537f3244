//! Calls that we place at the trunk: INVITE, its responses and forks, CANCEL, BYE.

use std::time::Instant;

use bytes::Bytes;
use sipx_sip::headers::Reason;
use sipx_sip::{BuildError, HeaderName, Headers, Message, Method, Request, RequestBuilder, Response};

use super::agent::{Agent, AgentError, Identity, Leg, LegTimer, OutgoingInvite, Phase};
use super::dialog::Dialog;
use super::flow::{Flow, Transport};
use super::leg::{End, EndCause, LegEvent, LegId};
use super::message;
use super::transaction::{Failure, Owner, Purpose};
use crate::sdp::{Description, MediaPlan};

/// Above this a request leaves over a stream (RFC 3261 section 18.1.1).
const LARGE: usize = 1300;
/// Most forks whose 2xx is remembered for repetition.
const FORKS: usize = 8;

impl Agent {
    /// Places a call. [BRIDGE-SIP-06]
    pub fn invite(&mut self, now: Instant, mut call: OutgoingInvite) -> Result<LegId, AgentError> {
        if self.legs.len() >= self.config.limits.legs {
            return Err(AgentError::Full);
        }
        let offer = call.media.offer();
        let (tag, call_id) = (self.token(), self.token());
        let transport = self.config.transport;
        let mut invite =
            self.build_invite(&call, &offer, &tag, &call_id, transport).map_err(|_| AgentError::Header)?;
        let large = transport == Transport::Udp
            && self.config.large_over_tcp
            && Message::Request(invite.clone()).to_bytes().len() > LARGE;
        if large {
            invite = self
                .build_invite(&call, &offer, &tag, &call_id, Transport::Tcp)
                .map_err(|_| AgentError::Header)?;
        }
        let flow = Flow::to(if large { Transport::Tcp } else { transport }, self.config.peer);
        let id = self.next_leg();
        let mut leg = Leg::new(Phase::Calling, flow, invite.clone());
        leg.media = Some(call.media);
        leg.upgraded = large;
        self.legs.insert(id, leg);
        let owner = Owner { leg: id, purpose: Purpose::Invite };
        self.transactions.request(now, invite, flow, owner);
        Ok(id)
    }

    /// Sends OPTIONS to the peer, in place of the one that it did not answer. [BRIDGE-SIP-15]
    pub(super) fn probe(&mut self, now: Instant) {
        if let Some(unanswered) = self.health.sent.take() {
            self.transactions.abandon_client(&unanswered);
        }
        let flow = Flow::to(self.config.transport, self.config.peer);
        let (tag, call_id) = (self.token(), self.token());
        let via = self.via(self.config.transport);
        let us = format!("<sip:ahoy@{}>", self.config.advertised);
        let target = format!("sip:{}", self.config.peer);
        let build = || -> Result<Request, BuildError> {
            let uri =
                sipx_sip::Uri::parse(Bytes::from(target.clone())).expect("an address and port make a URI");
            Ok(RequestBuilder::new(Method::Options, uri)
                .header(HeaderName::Via, via)?
                .max_forwards(message::MAX_FORWARDS)
                .header(HeaderName::From, format!("{us};tag={tag}"))?
                .header(HeaderName::To, format!("<{target}>"))?
                .header(HeaderName::CallId, call_id)?
                .cseq(1, &Method::Options)?
                .header(HeaderName::UserAgent, message::PRODUCT)?
                .build())
        };
        if let Ok(options) = build() {
            let owner = Owner { leg: LegId::NONE, purpose: Purpose::Probe };
            self.health.sent = Some(options.clone());
            self.transactions.request(now, options, flow, owner);
        }
    }

    fn build_invite(
        &mut self,
        call: &OutgoingInvite,
        offer: &str,
        tag: &str,
        call_id: &str,
        transport: Transport,
    ) -> Result<Request, BuildError> {
        let from = name_addr(&call.from, &self.config.advertised.to_string());
        let mut to = b"<".to_vec();
        call.target.write_to(&mut to);
        to.push(b'>');
        let via = self.via(transport);
        let mut builder = RequestBuilder::new(Method::Invite, call.target.clone())
            .header(HeaderName::Via, via)?
            .max_forwards(message::MAX_FORWARDS)
            .header(HeaderName::From, format!("{from};tag={tag}"))?
            .header(HeaderName::To, to)?
            .header(HeaderName::CallId, call_id.to_owned())?
            .cseq(1, &Method::Invite)?
            .header(HeaderName::Contact, self.contact(transport))?
            .header(HeaderName::Allow, message::ALLOW)?
            .header(HeaderName::Accept, "application/sdp")?
            .header(HeaderName::UserAgent, message::PRODUCT)?
            .header(HeaderName::ContentType, "application/sdp")?;
        if call.from.asserted {
            builder = builder.header(HeaderName::PAssertedIdentity, from)?;
        }
        Ok(builder.body(offer.to_owned()).build())
    }

    pub(super) fn on_invite_response(&mut self, now: Instant, id: LegId, response: &Response) {
        let status = response.status.code();
        if !self.legs.contains_key(&id) {
            return self.on_stray(now, response);
        }
        match status {
            100..=199 => self.on_provisional(now, id, response),
            200..=299 => self.on_success(now, id, response),
            _ => {
                let cancelled = self.legs.get(&id).is_some_and(|leg| leg.close_wanted);
                let cause = if cancelled { EndCause::Local } else { EndCause::Rejected };
                self.end(id, end_of(cause, Some(status), &response.headers));
                self.remove(id);
            }
        }
    }

    fn on_provisional(&mut self, now: Instant, id: LegId, response: &Response) {
        let Some(leg) = self.legs.get_mut(&id) else {
            return;
        };
        let first = leg.phase == Phase::Calling;
        if first {
            leg.phase = Phase::Proceeding;
        }
        if leg.close_wanted && leg.phase == Phase::Proceeding {
            return self.send_cancel(now, id);
        }
        if first {
            self.emit(id, LegEvent::Trying);
        }
        let Some(leg) = self.legs.get_mut(&id) else {
            return;
        };
        if leg.phase != Phase::Proceeding || response.status.code() == 100 {
            return;
        }
        if leg.dialog.is_none()
            && let Some(dialog) = Dialog::from_response(&leg.invite, response, 1)
        {
            self.dialogs.insert(dialog.id.clone(), id);
            leg.dialog = Some(dialog);
        }
        self.acknowledge_reliable(now, id, response);
        match self.plan_of(id, response) {
            Some(plan) => self.emit(id, LegEvent::Early(plan)),
            None if response.status.code() == 180 => self.emit(id, LegEvent::Ringing),
            None => {}
        }
    }

    /// PRACK for a provisional that demands it, although we did not ask for one.
    fn acknowledge_reliable(&mut self, now: Instant, id: LegId, response: &Response) {
        if !message::tokens(&response.headers, &HeaderName::Require).contains(&"100rel".to_owned()) {
            return;
        }
        let number = message::value(&response.headers, &HeaderName::RSeq)
            .and_then(|value| std::str::from_utf8(&value).ok()?.trim().parse::<u32>().ok());
        let Some(number) = number else { return };
        let Some(leg) = self.legs.get_mut(&id) else { return };
        if number <= leg.last_rseq {
            return;
        }
        leg.last_rseq = number;
        let rack = format!("{number} 1 INVITE");
        self.send_in_dialog(now, id, Method::Prack, Purpose::Prack, |builder| {
            builder.header(HeaderName::RAck, rack)
        });
    }

    fn on_success(&mut self, now: Instant, id: LegId, response: &Response) {
        let Some(leg) = self.legs.get_mut(&id) else {
            return;
        };
        let tag: Bytes = message::to_tag(&response.headers).unwrap_or_default().into();
        if let Some((_, ack, flow)) = leg.acks.iter().find(|(known, _, _)| *known == tag) {
            let (ack, flow) = (Message::Request(ack.clone()), *flow);
            return self.transactions.send_plain(flow, &ack);
        }
        if !matches!(leg.phase, Phase::Calling | Phase::Proceeding | Phase::Cancelling) {
            // Another fork answered after the first one: it is told so at once.
            return self.on_stray(now, response);
        }
        let sequence = leg.dialog.as_ref().map_or(1, |dialog| dialog.local_sequence);
        let Some(dialog) = Dialog::from_response(&leg.invite, response, sequence) else {
            return;
        };
        if let Some(early) = leg.dialog.replace(dialog.clone()) {
            self.dialogs.remove(&early.id);
        }
        self.dialogs.insert(dialog.id.clone(), id);
        leg.phase = Phase::Established;
        self.send_ack(id, 1, tag);
        if self.legs.get(&id).is_some_and(|leg| leg.close_wanted) {
            return self.send_bye(now, id);
        }
        let plan = self.plan_of(id, response).or_else(|| self.legs.get(&id)?.plan.clone());
        let Some(plan) = plan else {
            self.end(id, End::of(EndCause::Media));
            return self.send_bye(now, id);
        };
        self.start_session_timer(now, id, &response.headers, true);
        self.emit(id, LegEvent::Answered(plan));
    }

    /// A 2xx that no leg waits for: acknowledged and ended (RFC 3261 section 13.2.2.4).
    pub(super) fn on_stray(&mut self, now: Instant, response: &Response) {
        let is_invite = matches!(response.headers.typed::<sipx_sip::CSeq>(), Some(Ok(cseq)) if cseq.method == Method::Invite);
        if !is_invite || !response.status.is_success() {
            return;
        }
        let Some(mut dialog) = Dialog::from_stray(response) else {
            return;
        };
        let sequence = dialog.local_sequence;
        let transport = self.config.transport;
        let hop = dialog.next_hop().filter(|hop| self.config.sources.contains(&hop.ip()));
        let flow = Flow::to(transport, hop.unwrap_or(self.config.peer));
        let (ack_via, bye_via) = (self.via(transport), self.via(transport));
        let ack = dialog
            .request_numbered(Method::Ack, sequence)
            .and_then(|builder| builder.header(HeaderName::Via, ack_via));
        let bye = dialog.request(Method::Bye).and_then(|builder| builder.header(HeaderName::Via, bye_via));
        if let (Ok(ack), Ok(bye)) = (ack, bye) {
            self.transactions.send_plain(flow, &Message::Request(ack.build()));
            let owner = Owner { leg: LegId::NONE, purpose: Purpose::Bye };
            self.transactions.request(now, bye.build(), flow, owner);
        }
    }

    pub(super) fn on_invite_failure(&mut self, now: Instant, id: LegId, failure: Failure) {
        let Some(leg) = self.legs.get_mut(&id) else {
            return;
        };
        if failure == Failure::Transport && leg.upgraded && !leg.close_wanted {
            leg.upgraded = false;
            return self.retry_over_udp(now, id);
        }
        let cause = match failure {
            Failure::Timeout => EndCause::Timeout,
            Failure::Transport => EndCause::Transport,
        };
        self.end(id, End::of(cause));
        self.remove(id);
    }

    /// The trunk does not listen on TCP: the large INVITE goes as a datagram after all.
    fn retry_over_udp(&mut self, now: Instant, id: LegId) {
        let via = self.via(Transport::Udp);
        let contact = self.contact(Transport::Udp);
        let flow = Flow::Udp(self.config.peer);
        let Some(leg) = self.legs.get_mut(&id) else { return };
        for (name, value) in [(HeaderName::Via, via), (HeaderName::Contact, contact)] {
            leg.invite.headers.remove_all(&name);
            if let Ok(header) = sipx_sip::Header::build(name, value) {
                leg.invite.headers.push_front(header);
            }
        }
        leg.flow = flow;
        let invite = leg.invite.clone();
        let owner = Owner { leg: id, purpose: Purpose::Invite };
        self.transactions.request(now, invite, flow, owner);
    }

    /// Ends a leg from our side, as its phase demands; `status` refuses an unanswered INVITE.
    /// The owner has its `Ended` at once; the protocol is finished behind its back.
    pub fn hang_up(&mut self, now: Instant, id: LegId, status: u16) {
        let Some(leg) = self.legs.get_mut(&id) else {
            return;
        };
        leg.close_wanted = true;
        let phase = leg.phase;
        self.end(id, End::of(EndCause::Local));
        match phase {
            // Before a provisional there is nothing to cancel yet (section 9.1).
            Phase::Calling => self.arm(now + self.config.timers.timeout(), id, LegTimer::Abandon),
            Phase::Proceeding => self.send_cancel(now, id),
            Phase::Offered => self.refuse(now, id, status),
            Phase::Established => self.send_bye(now, id),
            // The ACK, or its absence, triggers the BYE (section 15).
            Phase::Answered | Phase::Cancelling | Phase::Closing => {}
        }
    }

    fn send_cancel(&mut self, now: Instant, id: LegId) {
        let give_up = now + self.config.timers.timeout();
        let Some(leg) = self.legs.get_mut(&id) else {
            return;
        };
        leg.phase = Phase::Cancelling;
        let (flow, cancel) = (leg.flow, cancel_of(&leg.invite));
        self.arm(give_up, id, LegTimer::Abandon);
        if let Ok(cancel) = cancel {
            let owner = Owner { leg: id, purpose: Purpose::Cancel };
            self.transactions.request(now, cancel, flow, owner);
        }
    }

    /// An INVITE that got neither its final response nor an answer to CANCEL. [BRIDGE-SIP-04]
    pub(super) fn abandon(&mut self, id: LegId) {
        let Some(leg) = self.legs.get(&id) else {
            return;
        };
        if matches!(leg.phase, Phase::Calling | Phase::Cancelling) {
            let invite = leg.invite.clone();
            self.transactions.abandon_client(&invite);
            self.remove(id);
        }
    }

    pub(super) fn send_bye(&mut self, now: Instant, id: LegId) {
        if let Some(leg) = self.legs.get_mut(&id) {
            leg.phase = Phase::Closing;
            leg.unacknowledged = None;
        }
        if !self.send_in_dialog(now, id, Method::Bye, Purpose::Bye, Ok) {
            self.remove(id);
        }
    }

    pub(super) fn send_in_dialog(
        &mut self,
        now: Instant,
        id: LegId,
        method: Method,
        purpose: Purpose,
        add: impl FnOnce(RequestBuilder) -> Result<RequestBuilder, BuildError>,
    ) -> bool {
        let Some(leg) = self.legs.get(&id) else {
            return false;
        };
        let flow = self.hop(leg);
        let (via, contact) = (self.via(flow.transport()), self.contact(flow.transport()));
        let Some(dialog) = self.legs.get_mut(&id).and_then(|leg| leg.dialog.as_mut()) else {
            return false;
        };
        let built = dialog
            .request(method)
            .and_then(|builder| builder.header(HeaderName::Via, via))
            .and_then(|builder| builder.header(HeaderName::Contact, contact))
            .and_then(|builder| builder.header(HeaderName::UserAgent, message::PRODUCT))
            .and_then(add);
        match built {
            Ok(builder) => self.transactions.request(now, builder.build(), flow, Owner { leg: id, purpose }),
            Err(_) => false,
        }
    }

    fn send_ack(&mut self, id: LegId, sequence: u32, tag: Bytes) {
        let Some(leg) = self.legs.get(&id) else { return };
        let flow = self.hop(leg);
        let via = self.via(flow.transport());
        let Some(leg) = self.legs.get_mut(&id) else { return };
        let Some(dialog) = &leg.dialog else { return };
        let built = dialog
            .request_numbered(Method::Ack, sequence)
            .and_then(|builder| builder.header(HeaderName::Via, via));
        if let Ok(builder) = built {
            let ack = builder.build();
            if leg.acks.len() < FORKS {
                leg.acks.push((tag, ack.clone(), flow));
            }
            self.transactions.send_plain(flow, &Message::Request(ack));
        }
    }

    /// The plan of an SDP answer in a response to our offer, remembered.
    fn plan_of(&mut self, id: LegId, response: &Response) -> Option<MediaPlan> {
        let body = message::sdp_body(&response.headers, response.body()).ok()??;
        let answer = Description::parse(&body).ok()?;
        let leg = self.legs.get_mut(&id)?;
        let plan = leg.media.as_ref()?.accept(&answer).ok()?;
        leg.plan = Some(plan.clone());
        Some(plan)
    }
}

impl Leg {
    pub(super) fn new(phase: Phase, flow: Flow, invite: Request) -> Self {
        Self {
            phase,
            flow,
            dialog: None,
            media: None,
            plan: None,
            invite,
            key: None,
            body: None,
            acks: Vec::new(),
            unacknowledged: None,
            reliable: None,
            next_reliable: 0,
            last_rseq: 0,
            close_wanted: false,
            ended: false,
            upgraded: false,
            session: None,
            session_at: None,
        }
    }
}

/// CANCEL carries the INVITE's own `Via` (RFC 3261 section 9.1).
fn cancel_of(invite: &Request) -> Result<Request, BuildError> {
    let mut builder = RequestBuilder::new(Method::Cancel, invite.uri.clone())
        .max_forwards(message::MAX_FORWARDS)
        .cseq(1, &Method::Cancel)?;
    for name in [HeaderName::Via, HeaderName::From, HeaderName::To, HeaderName::CallId] {
        if let Some(value) = message::value(&invite.headers, &name) {
            builder = builder.header(name, value)?;
        }
    }
    Ok(builder.build())
}

/// How a leg ended by what a message of the far side says.
pub(super) fn end_of(cause: EndCause, status: Option<u16>, headers: &Headers) -> End {
    let q850 = match headers.typed::<Reason>() {
        Some(Ok(Reason(values))) => values
            .iter()
            .find(|value| value.protocol().eq_ignore_ascii_case(b"Q.850"))
            .map(|value| value.cause()),
        _ => None,
    };
    let retry_after = message::value(headers, &HeaderName::RetryAfter).and_then(|value| {
        let text = String::from_utf8_lossy(&value).into_owned();
        text.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    });
    End { cause, status, q850, retry_after }
}

/// `"display" <sip:user@host>`, with everything that is not plain escaped.
fn name_addr(identity: &Identity, host: &str) -> String {
    let mut user = String::new();
    for byte in identity.user.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.!~*'()&=+$,".contains(&byte) {
            user.push(char::from(byte));
        } else {
            user += &format!("%{byte:02X}");
        }
    }
    let display: String = identity
        .display
        .iter()
        .flat_map(|display| display.chars())
        .filter(|c| !c.is_control())
        .flat_map(|c| matches!(c, '"' | '\\').then_some('\\').into_iter().chain([c]))
        .collect();
    if display.is_empty() {
        format!("<sip:{user}@{host}>")
    } else {
        format!("\"{display}\" <sip:{user}@{host}>")
    }
}
