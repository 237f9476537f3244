//! Requests inside a call: re-INVITE and UPDATE with and without an offer, PRACK, session
//! timers (RFC 3311, 3262, 4028). They change the media or refresh the call; a refused change
//! never ends it. [BRIDGE-SIP-07]

use std::time::{Duration, Instant};

use sipx_sip::headers::CSeq;
use sipx_sip::{HeaderName, Headers, Method, Request, TransactionKey};

use super::agent::{Agent, LegTimer, Phase};
use super::leg::{End, EndCause, LegEvent, LegId};
use super::message;
use super::transaction::Purpose;
use super::uas::{with_sdp, with_session};
use crate::sdp::Description;

/// Shortest session interval (RFC 4028 section 4).
const SHORTEST_SESSION: u64 = 90;

impl Agent {
    pub(super) fn on_dialog_request(
        &mut self,
        now: Instant,
        key: &TransactionKey,
        request: Request,
        id: LegId,
    ) {
        let Some(Ok(cseq)) = request.headers.typed::<CSeq>() else {
            return self.reply(now, key, &request, 400);
        };
        let Some(dialog) = self.legs.get_mut(&id).and_then(|leg| leg.dialog.as_mut()) else {
            return self.reply(now, key, &request, 481);
        };
        // Lower numbers are late or replayed (RFC 3261 section 12.2.2).
        if dialog.remote_sequence.is_some_and(|last| cseq.sequence <= last) {
            return self
                .reply_with(now, key, &request, 500, |builder| builder.header(HeaderName::RetryAfter, "0"));
        }
        dialog.remote_sequence = Some(cseq.sequence);
        match request.method {
            Method::Bye => self.on_bye(now, key, &request, id),
            Method::Invite => self.on_reinvite(now, key, &request, id),
            Method::Update => self.on_update(now, key, &request, id),
            Method::Prack => self.on_prack(now, key, &request, id),
            Method::Options => self.reply_with(now, key, &request, 200, |builder| {
                builder.header(HeaderName::Allow, message::ALLOW)
            }),
            _ => self.reply_with(now, key, &request, 405, |builder| {
                builder.header(HeaderName::Allow, message::ALLOW)
            }),
        }
    }

    fn on_reinvite(&mut self, now: Instant, key: &TransactionKey, request: &Request, id: LegId) {
        let Some(leg) = self.legs.get_mut(&id) else { return };
        let busy = match leg.phase {
            // Our own INVITE is still open (RFC 3261 section 14.2).
            Phase::Calling | Phase::Proceeding | Phase::Cancelling => Some(491),
            Phase::Offered => Some(500),
            Phase::Closing => Some(481),
            Phase::Answered | Phase::Established if leg.unacknowledged.is_some() => Some(500),
            Phase::Answered | Phase::Established => None,
        };
        if let Some(status) = busy {
            return self.reply_with(now, key, request, status, |builder| match status {
                500 => builder.header(HeaderName::RetryAfter, "1"),
                _ => Ok(builder),
            });
        }
        let Ok(body) = message::sdp_body(&request.headers, request.body()) else {
            return self.refuse_body(now, key, request);
        };
        let Some(media) = leg.media.as_mut() else { return };
        let (sdp, plan) = match body {
            None => (media.offer(), None),
            Some(body) => {
                let answered = Description::parse(&body).ok().and_then(|offer| media.answer(&offer).ok());
                let Some((sdp, plan)) = answered else {
                    return self.reply(now, key, request, 488);
                };
                (sdp, Some(plan))
            }
        };
        if let Some(dialog) = leg.dialog.as_mut() {
            dialog.refresh_target(&request.headers);
        }
        let offered = plan.is_none();
        leg.plan = plan.clone().or(leg.plan.take());
        let Some(builder) = message::respond(request, 200) else { return };
        self.send_2xx(now, id, key, request, builder, Some(sdp), offered);
        if let Some(plan) = plan {
            self.emit(id, LegEvent::Media(plan));
        }
    }

    fn on_update(&mut self, now: Instant, key: &TransactionKey, request: &Request, id: LegId) {
        let Ok(body) = message::sdp_body(&request.headers, request.body()) else {
            return self.refuse_body(now, key, request);
        };
        if session_expires(&request.headers).is_some_and(|(seconds, _)| seconds < SHORTEST_SESSION) {
            return self
                .reply_with(now, key, request, 422, |builder| builder.header(HeaderName::MinSe, "90"));
        }
        let Some(leg) = self.legs.get_mut(&id) else { return };
        let mut answer = None;
        if let Some(body) = body {
            // RFC 3311 section 5.2: an offer of ours is open (491), or theirs is (500).
            let open = leg.unacknowledged.as_ref().is_some_and(|waiting| waiting.offered);
            if open || (leg.plan.is_none() && leg.key.is_none()) {
                return self.reply(now, key, request, 491);
            }
            if leg.phase == Phase::Offered {
                return self.reply_with(now, key, request, 500, |builder| {
                    builder.header(HeaderName::RetryAfter, "1")
                });
            }
            let Some(media) = leg.media.as_mut() else { return };
            let Some(agreed) = Description::parse(&body).ok().and_then(|offer| media.answer(&offer).ok())
            else {
                return self.reply(now, key, request, 488);
            };
            leg.plan = Some(agreed.1.clone());
            answer = Some(agreed);
        }
        if let Some(dialog) = leg.dialog.as_mut() {
            dialog.refresh_target(&request.headers);
        }
        let contact = self.contact(self.config.transport);
        let session = self.agree_session_timer(now, id, &request.headers);
        let (sdp, plan) = answer.unzip();
        self.reply_with(now, key, request, 200, |builder| {
            let builder =
                builder.header(HeaderName::Contact, contact)?.header(HeaderName::Allow, message::ALLOW)?;
            with_sdp(with_session(builder, session)?, sdp)
        });
        if let Some(plan) = plan {
            self.emit(id, LegEvent::Media(plan));
        }
    }

    fn on_prack(&mut self, now: Instant, key: &TransactionKey, request: &Request, id: LegId) {
        let acknowledged = message::value(&request.headers, &HeaderName::RAck)
            .and_then(|value| String::from_utf8_lossy(&value).split_whitespace().next()?.parse::<u32>().ok());
        let Some(leg) = self.legs.get_mut(&id) else { return };
        let waiting = leg.reliable.as_ref().map(|reliable| reliable.number);
        if acknowledged.is_none() || acknowledged != waiting {
            return self.reply(now, key, request, 481);
        }
        leg.reliable = None;
        self.reply(now, key, request, 200);
    }

    /// What our 2xx says about the session timer of a request: seconds, and whether we refresh.
    pub(super) fn agree_session_timer(
        &mut self,
        now: Instant,
        id: LegId,
        headers: &Headers,
    ) -> Option<(u64, bool)> {
        let (seconds, refresher) = session_expires(headers)?;
        let seconds = seconds.max(SHORTEST_SESSION);
        let theirs = message::tokens(headers, &HeaderName::Supported).contains(&"timer".to_owned())
            || message::tokens(headers, &HeaderName::Require).contains(&"timer".to_owned());
        // Without support at the far side only we could refresh, and nobody asked us to.
        if !theirs {
            return None;
        }
        let ours = refresher.as_deref() == Some("uas");
        self.set_session_timer(now, id, seconds, ours);
        Some((seconds, ours))
    }

    /// The session timer of a 2xx to our INVITE.
    pub(super) fn start_session_timer(
        &mut self,
        now: Instant,
        id: LegId,
        headers: &Headers,
        we_called: bool,
    ) {
        if let Some((seconds, refresher)) = session_expires(headers) {
            let ours = (refresher.as_deref() == Some("uac")) == we_called;
            self.set_session_timer(now, id, seconds.max(SHORTEST_SESSION), ours);
        }
    }

    fn set_session_timer(&mut self, now: Instant, id: LegId, seconds: u64, ours: bool) {
        let interval = Duration::from_secs(seconds.min(86_400));
        // We refresh at half time; of a far side that does not, we hear nothing until the end.
        let due =
            now + if ours { interval / 2 } else { interval - Duration::from_secs(32).min(interval / 3) };
        let Some(leg) = self.legs.get_mut(&id) else { return };
        leg.session = Some((interval, ours));
        // One timer per leg: an earlier one, when it fires, waits for the new date.
        let armed = leg.session_at.replace(due).is_some();
        if !armed {
            self.arm(due, id, LegTimer::Session);
        }
    }

    pub(super) fn session_due(&mut self, now: Instant, id: LegId) {
        let Some(leg) = self.legs.get_mut(&id) else { return };
        let (Some((interval, ours)), Some(due)) = (leg.session, leg.session_at) else { return };
        if leg.phase != Phase::Established {
            return;
        }
        if due > now {
            return self.arm(due, id, LegTimer::Session);
        }
        if !ours {
            self.end(id, End::of(EndCause::Timeout));
            return self.send_bye(now, id);
        }
        let next = now + interval / 2;
        leg.session_at = Some(next);
        self.arm(next, id, LegTimer::Session);
        let expires = format!("{};refresher=uac", interval.as_secs());
        self.send_in_dialog(now, id, Method::Update, Purpose::Refresh, |builder| {
            builder
                .header(HeaderName::SessionExpires, expires)?
                .header(HeaderName::Supported, message::SUPPORTED.join(", "))
        });
    }
}

/// `Session-Expires`: seconds and the refresher, if named.
pub(super) fn session_expires(headers: &Headers) -> Option<(u64, Option<String>)> {
    let value = message::value(headers, &HeaderName::SessionExpires)?;
    let text = String::from_utf8_lossy(&value).to_ascii_lowercase();
    let mut parts = text.split(';').map(str::trim);
    let seconds = parts.next()?.parse().ok()?;
    let refresher = parts.find_map(|part| part.strip_prefix("refresher=").map(str::to_owned));
    Some((seconds, refresher))
}
