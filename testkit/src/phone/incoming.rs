//! The desk phone as the called side: rings, answers, refuses.

use std::{net::SocketAddr, time::Duration};

use sipx_sip::Request;
use tokio::{net::UdpSocket, time::Instant};

use super::{
    Behaviour, Event,
    line::{Call, Line, Resend, State},
    message,
    sdp::{self, RemoteAudio},
};

impl Line {
    pub(super) async fn on_invite(&mut self, id: String, request: Request, from: SocketAddr) {
        let cseq = message::cseq(&request.headers).unwrap_or(0);
        if let Some(call) = self.calls.get_mut(&id) {
            if cseq == call.last_invite_cseq {
                if let Some(last) = call.last_response.clone() {
                    self.send(&last, from).await;
                }
                return;
            }
            return self.on_reinvite(&id, &request, from).await;
        }
        let extension = message::user(&request.uri).unwrap_or_default();
        let caller = message::header_text(&request.headers, &sipx_sip::HeaderName::From);
        self.tell(Event::Incoming { call: id.clone(), from: caller, extension: extension.clone() }).await;
        let Some(behaviour) = self.config.extensions.get(&extension).copied() else {
            return self.reply(&request, 404, "Not Found", from).await;
        };
        if let Err(error) = self.ring(id, request, from, behaviour).await {
            tracing::warn!(%error, "the phone cannot ring");
        }
    }

    pub(super) async fn ring(
        &mut self,
        id: String,
        request: Request,
        from: SocketAddr,
        behaviour: Behaviour,
    ) -> anyhow::Result<()> {
        let socket = UdpSocket::bind(SocketAddr::new(self.address.ip(), 0)).await?;
        let rtp_address = socket.local_addr()?;
        let tag = self.token();
        let dialog = message::Dialog::as_callee(&request, tag, self.address)?;
        let answer_at = match behaviour {
            Behaviour::Ring => None,
            Behaviour::AnswerAtOnce | Behaviour::Busy => Some(Instant::now()),
            _ => Some(Instant::now() + Duration::from_millis(self.config.ring_ms)),
        };
        let mut call = Call::new(
            State::Ringing { invite: Box::new(request.clone()), answer_at, behaviour },
            dialog,
            from,
            socket,
            rtp_address,
        );
        call.last_invite_cseq = message::cseq(&request.headers).unwrap_or(0);
        self.calls.insert(id.clone(), call);
        match behaviour {
            Behaviour::Answer | Behaviour::Ring | Behaviour::Decline => {
                self.respond(&id, &request, 180, "Ringing", None).await
            }
            Behaviour::EarlyThenUnavailable => {
                if let Some((sdp, remote)) = self.answer_for(&id, &request) {
                    self.respond(&id, &request, 183, "Session Progress", Some(sdp)).await;
                    self.start_audio(&id, remote);
                }
            }
            Behaviour::AnswerAtOnce | Behaviour::Busy => {}
        }
        Ok(())
    }

    pub(super) fn answer_for(&self, id: &str, invite: &Request) -> Option<(String, RemoteAudio)> {
        let rtp = self.calls.get(id)?.rtp_address;
        let remote = sdp::parse(std::str::from_utf8(invite.body()).ok()?)?;
        Some((sdp::answer(rtp, &remote), remote))
    }

    /// Sends a response within the call; a final one is repeated until it is acknowledged.
    pub(super) async fn respond(
        &mut self,
        id: &str,
        request: &Request,
        status: u16,
        reason: &'static str,
        sdp: Option<String>,
    ) {
        let Some(call) = self.calls.get_mut(id) else { return };
        let Some(response) = message::response(request, status, reason, Some(&call.dialog), sdp) else {
            return;
        };
        call.last_response = Some(response.clone());
        if status >= 200 {
            call.resend = Some(Resend::new(response.clone(), call.remote));
        }
        let to = call.remote;
        self.send(&response, to).await;
    }

    /// The ring time is over: does what the extension does.
    pub(super) async fn pick_up(&mut self, id: &str) {
        let Some(Call { state: State::Ringing { invite, behaviour, .. }, .. }) = self.calls.get(id) else {
            return;
        };
        let (invite, behaviour) = ((**invite).clone(), *behaviour);
        let refusal = match behaviour {
            Behaviour::Busy => Some((486, "Busy Here")),
            Behaviour::Decline => Some((603, "Decline")),
            Behaviour::EarlyThenUnavailable => Some((480, "Temporarily Unavailable")),
            _ => None,
        };
        if let Some((status, reason)) = refusal {
            self.leave(id, "local");
            return self.respond(id, &invite, status, reason, None).await;
        }
        let Some((sdp, remote)) = self.answer_for(id, &invite) else {
            self.leave(id, "local");
            return self.respond(id, &invite, 488, "Not Acceptable Here", None).await;
        };
        if let Some(call) = self.calls.get_mut(id) {
            call.state = State::Talking;
        }
        // The 200 and the first packet of the tone leave together.
        self.respond(id, &invite, 200, "OK", Some(sdp)).await;
        self.start_audio(id, remote);
        self.tell(Event::Answered { call: id.to_owned() }).await;
    }

    pub(super) async fn on_reinvite(&mut self, id: &str, request: &Request, from: SocketAddr) {
        let Some((sdp, _)) = self.answer_for(id, request) else {
            return self.reply(request, 488, "Not Acceptable Here", from).await;
        };
        if let Some(call) = self.calls.get_mut(id) {
            call.last_invite_cseq = message::cseq(&request.headers).unwrap_or(0);
        }
        self.respond(id, request, 200, "OK", Some(sdp)).await;
    }

    pub(super) fn on_ack(&mut self, id: &str) {
        let Some(call) = self.calls.get_mut(id) else { return };
        call.resend = None;
        if matches!(call.state, State::Leaving) && call.audio.is_none() {
            self.calls.remove(id);
        }
    }

    pub(super) async fn on_cancel(&mut self, id: &str, request: &Request, from: SocketAddr) {
        let Some(Call { state: State::Ringing { invite, .. }, .. }) = self.calls.get(id) else {
            return self.reply(request, 481, "Call/Transaction Does Not Exist", from).await;
        };
        let invite = (**invite).clone();
        self.reply(request, 200, "OK", from).await;
        self.leave(id, "cancelled");
        self.respond(id, &invite, 487, "Request Terminated", None).await;
        self.finish_with(id, "cancelled").await;
    }

    pub(super) async fn on_bye(&mut self, id: &str, request: &Request, from: SocketAddr) {
        let known = self.calls.contains_key(id);
        let (status, reason) = if known { (200, "OK") } else { (481, "Call/Transaction Does Not Exist") };
        self.reply(request, status, reason, from).await;
        if known {
            self.finish(id, "remote").await;
        }
    }
}
