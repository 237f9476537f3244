//! The desk phone as the calling side.

use std::net::SocketAddr;

use sipx_sip::{Method, Response};
use tokio::net::UdpSocket;

use super::{
    Event,
    line::{Call, Line, Resend, State},
    message, sdp,
};

impl Line {
    pub(super) async fn dial(&mut self, uri: &str, to: SocketAddr) -> anyhow::Result<()> {
        let socket = UdpSocket::bind(SocketAddr::new(self.address.ip(), 0)).await?;
        let rtp_address = socket.local_addr()?;
        let dialog =
            message::Dialog::as_caller(uri, &self.config.user, self.token(), self.token(), self.address)?;
        let id = dialog.call_id.clone();
        let invite = dialog.request(Method::Invite, 1, &self.token(), Some(sdp::offer(rtp_address)))?;
        let mut call = Call::new(State::Calling, dialog, to, socket, rtp_address);
        call.dialog.sent_invite = Some(invite.clone());
        call.resend = Some(Resend::new(invite.clone(), to));
        self.calls.insert(id, call);
        self.send(&invite, to).await;
        Ok(())
    }

    pub(super) async fn on_response(&mut self, response: Response) {
        let Some(id) = message::call_id(&response.headers) else { return };
        let (status, method) = (response.status.code(), message::cseq_method(&response.headers));
        let Some(call) = self.calls.get_mut(&id) else { return };
        match (method.as_deref(), &call.state) {
            (Some("BYE"), _) => {
                call.resend = None;
                self.forget_if_silent(&id);
            }
            (Some("INVITE"), State::Calling) if status < 200 => {
                call.resend = None;
                if status > 100 {
                    call.dialog.learn(&response);
                    self.tell(Event::Ringing { call: id, status }).await;
                }
            }
            (Some("INVITE"), State::Calling) if status < 300 => self.on_answer(&id, &response).await,
            (Some("INVITE"), State::Talking) if status < 300 => {
                if let (Some(ack), to) = (call.ack.clone(), call.remote) {
                    self.send(&ack, to).await;
                }
            }
            (Some("INVITE"), State::Calling) => self.on_refusal(&id, &response, status).await,
            _ => {}
        }
    }

    pub(super) async fn on_answer(&mut self, id: &str, response: &Response) {
        let branch = self.token();
        let Some(call) = self.calls.get_mut(id) else { return };
        call.resend = None;
        call.dialog.learn(response);
        call.state = State::Talking;
        let to = call.remote;
        if let Ok(ack) = call.dialog.request(Method::Ack, 1, &branch, None) {
            call.ack = Some(ack.clone());
            self.send(&ack, to).await;
        }
        let remote = std::str::from_utf8(response.body()).ok().and_then(sdp::parse);
        match remote {
            Some(remote) => {
                self.start_audio(id, remote);
                self.tell(Event::Answered { call: id.to_owned() }).await;
            }
            None => self.hang_up(id).await,
        }
    }

    pub(super) async fn on_refusal(&mut self, id: &str, response: &Response, status: u16) {
        let Some(call) = self.calls.remove(id) else { return };
        if let Some(invite) = &call.dialog.sent_invite
            && let Some(ack) = message::ack_of_refusal(invite, response)
        {
            self.send(&ack, call.remote).await;
        }
        self.tell(Event::Rejected { call: id.to_owned(), status }).await;
    }
}
