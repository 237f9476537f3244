//! The desk phone's one task: what it knows of its calls, and what comes in from the network, the user and the clock.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use ahoy_proto::time::Entropy;
use bytes::Bytes;
use sipx_sip::{Limits, Message, Method, Request, parse_datagram};
use tokio::{net::UdpSocket, sync::mpsc, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{AudioReport, Behaviour, Command, Event, PhoneConfig, message, rtp, sdp::RemoteAudio};

/// RFC 3261 section 17.1.1.1.
const T1: Duration = Duration::from_millis(500);
const T2: Duration = Duration::from_secs(4);
const GIVE_UP: Duration = Duration::from_secs(32);

pub(super) enum State {
    /// We were called; the answer is due at the instant.
    Ringing {
        invite: Box<Request>,
        answer_at: Option<Instant>,
        behaviour: Behaviour,
    },
    /// We called and have no final response yet.
    Calling,
    Talking,
    /// A final response or BYE is out, its acknowledgement awaited.
    Leaving,
}

/// A datagram that is sent again until the other side reacts.
pub(super) struct Resend {
    pub(super) datagram: Bytes,
    pub(super) to: SocketAddr,
    pub(super) next: Instant,
    pub(super) interval: Duration,
    pub(super) until: Instant,
}

pub(super) struct Call {
    pub(super) state: State,
    pub(super) dialog: message::Dialog,
    pub(super) remote: SocketAddr,
    pub(super) resend: Option<Resend>,
    /// The last response to the INVITE, for its retransmissions.
    pub(super) last_response: Option<Bytes>,
    /// The ACK of our own INVITE's 200, for retransmissions of that 200.
    pub(super) ack: Option<Bytes>,
    pub(super) socket: Option<UdpSocket>,
    pub(super) rtp_address: SocketAddr,
    pub(super) audio: Option<RunningAudio>,
    pub(super) ended_by: &'static str,
    pub(super) last_invite_cseq: u32,
}

/// A call's Call-ID and what its audio came to.
pub(super) type Report = (String, AudioReport);

pub(super) struct RunningAudio {
    pub(super) digits: mpsc::Sender<char>,
    pub(super) stop: CancellationToken,
}

pub(super) struct Line {
    pub(super) socket: UdpSocket,
    pub(super) address: SocketAddr,
    pub(super) config: PhoneConfig,
    pub(super) entropy: Arc<dyn Entropy>,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) calls: HashMap<String, Call>,
    pub(super) tasks: TaskTracker,
    pub(super) finished: (mpsc::Sender<Report>, mpsc::Receiver<Report>),
}

impl Line {
    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>, stop: CancellationToken) {
        self.tell(Event::Ready { address: self.address }).await;
        let mut buffer = vec![0_u8; 65_536];
        loop {
            let due = self.next_due();
            tokio::select! {
                () = stop.cancelled() => break,
                command = commands.recv() => match command {
                    None | Some(Command::Quit) => break,
                    Some(command) => self.obey(command).await,
                },
                received = self.socket.recv_from(&mut buffer) => if let Ok((length, from)) = received {
                    self.receive(Bytes::copy_from_slice(&buffer[..length]), from).await;
                },
                Some((call, report)) = self.finished.1.recv() => self.report_end(call, report).await,
                () = tokio::time::sleep_until(due) => self.on_timer().await,
            }
        }
        self.hang_up("").await;
        while self.calls.values().any(|c| c.audio.is_some()) {
            let Some((call, report)) = self.finished.1.recv().await else { break };
            self.report_end(call, report).await;
        }
    }

    pub(super) async fn tell(&self, event: Event) {
        // The owner may have dropped the receiver: the phone rings on.
        let _ = self.events.send(event).await;
    }

    pub(super) async fn send(&self, datagram: &[u8], to: SocketAddr) {
        if let Err(error) = self.socket.send_to(datagram, to).await {
            tracing::debug!(%to, %error, "a SIP datagram could not be sent");
        }
    }

    pub(super) fn next_due(&self) -> Instant {
        let far = Instant::now() + Duration::from_secs(3600);
        self.calls.values().filter_map(Call::due).min().unwrap_or(far)
    }

    pub(super) async fn on_timer(&mut self) {
        let now = Instant::now();
        let due: Vec<String> = self
            .calls
            .iter()
            .filter(|(_, c)| c.due().is_some_and(|d| d <= now))
            .map(|(k, _)| k.clone())
            .collect();
        for id in due {
            let Some(call) = self.calls.get_mut(&id) else { continue };
            if let State::Ringing { answer_at: at @ Some(_), .. } = &mut call.state
                && at.is_some_and(|at| at <= now)
            {
                *at = None;
                self.pick_up(&id).await;
                continue;
            }
            let Some(resend) = &mut call.resend else { continue };
            if resend.until <= now {
                call.resend = None;
                self.finish(&id, "timeout").await;
                continue;
            }
            resend.interval = (resend.interval * 2).min(T2);
            resend.next = now + resend.interval;
            let (datagram, to) = (resend.datagram.clone(), resend.to);
            self.send(&datagram, to).await;
        }
    }

    pub(super) async fn obey(&mut self, command: Command) {
        match command {
            Command::Call { uri, to } => {
                if let Err(error) = self.dial(&uri, to).await {
                    tracing::warn!(%uri, %error, "the phone cannot dial this");
                    self.tell(Event::Rejected { call: String::new(), status: 400 }).await;
                }
            }
            Command::Press { call, digits } => {
                for (id, active) in &self.calls {
                    let Some(audio) = active.audio.as_ref().filter(|_| call.is_empty() || *id == call) else {
                        continue;
                    };
                    for digit in digits.chars() {
                        // A full key buffer loses keys, as on a real phone.
                        let _ = audio.digits.try_send(digit);
                    }
                }
            }
            Command::Hangup { call } => self.hang_up(&call).await,
            Command::Quit => {}
        }
    }

    pub(super) async fn receive(&mut self, datagram: Bytes, from: SocketAddr) {
        match parse_datagram(datagram, &Limits::datagram()) {
            Ok(Message::Request(request)) => self.on_request(request, from).await,
            Ok(Message::Response(response)) => self.on_response(response).await,
            Err(error) => tracing::debug!(%from, %error, "the phone heard something that is not SIP"),
        }
    }

    pub(super) async fn on_request(&mut self, request: Request, from: SocketAddr) {
        let Some(id) = message::call_id(&request.headers) else { return };
        match request.method {
            Method::Invite => self.on_invite(id, request, from).await,
            Method::Ack => self.on_ack(&id),
            Method::Cancel => self.on_cancel(&id, &request, from).await,
            Method::Bye => self.on_bye(&id, &request, from).await,
            Method::Options => self.reply(&request, 200, "OK", from).await,
            _ => self.reply(&request, 405, "Method Not Allowed", from).await,
        }
    }

    pub(super) async fn reply(&self, request: &Request, status: u16, reason: &'static str, to: SocketAddr) {
        if let Some(response) = message::response(request, status, reason, None, None) {
            self.send(&response, to).await;
        }
    }

    pub(super) async fn hang_up(&mut self, which: &str) {
        let ids: Vec<String> =
            self.calls.keys().filter(|id| which.is_empty() || *id == which).cloned().collect();
        for id in ids {
            let branch = self.token();
            let Some(call) = self.calls.get_mut(&id) else { continue };
            match &call.state {
                State::Talking => {
                    let bye = call.dialog.next_request(Method::Bye, &branch);
                    self.finish_with(&id, "local").await;
                    self.send_until_answered(&id, bye).await;
                }
                State::Calling => {
                    let cancel = call.dialog.sent_invite.as_ref().and_then(message::cancel_of);
                    if let (Some(cancel), to) = (cancel, call.remote) {
                        self.send(&cancel, to).await;
                    }
                }
                State::Ringing { invite, .. } => {
                    let invite = (**invite).clone();
                    self.leave(&id, "local");
                    self.respond(&id, &invite, 480, "Temporarily Unavailable", None).await;
                }
                State::Leaving => {}
            }
        }
    }

    pub(super) async fn send_until_answered(&mut self, id: &str, request: anyhow::Result<Bytes>) {
        let (Ok(datagram), Some(call)) = (request, self.calls.get_mut(id)) else { return };
        let to = call.remote;
        call.resend = Some(Resend::new(datagram.clone(), to));
        self.send(&datagram, to).await;
    }

    pub(super) fn start_audio(&mut self, id: &str, remote: RemoteAudio) {
        let Some(call) = self.calls.get_mut(id) else { return };
        let Some(socket) = call.socket.take() else { return };
        let (digits, digits_out) = mpsc::channel(64);
        let stop = CancellationToken::new();
        let name: String = id.chars().filter(char::is_ascii_alphanumeric).collect();
        let audio = rtp::Audio {
            socket,
            remote,
            tone_hz: self.config.tone_hz,
            record: self
                .config
                .record_dir
                .as_ref()
                .map(|d| d.join(format!("{}-{name}.wav", self.address.port()))),
            call: id.to_owned(),
            events: self.events.clone(),
            digits: digits_out,
            stop: stop.clone(),
        };
        call.audio = Some(RunningAudio { digits, stop });
        let (entropy, finished, id) = (self.entropy.clone(), self.finished.0.clone(), id.to_owned());
        self.tasks.spawn(async move {
            let report = audio.run(entropy.as_ref()).await;
            // The line is gone only when the whole phone stops.
            let _ = finished.send((id, report)).await;
        });
    }

    pub(super) fn leave(&mut self, id: &str, by: &'static str) {
        if let Some(call) = self.calls.get_mut(id) {
            call.state = State::Leaving;
            call.ended_by = by;
            if let Some(audio) = &call.audio {
                audio.stop.cancel();
            }
        }
    }

    /// Marks the end of the call; it is reported once its audio has stopped.
    pub(super) async fn finish_with(&mut self, id: &str, by: &'static str) {
        self.leave(id, by);
        if self.calls.get(id).is_some_and(|c| c.audio.is_none()) {
            self.report_end(id.to_owned(), AudioReport::default()).await;
        }
    }

    pub(super) async fn finish(&mut self, id: &str, by: &'static str) {
        self.finish_with(id, by).await;
        if let Some(call) = self.calls.get_mut(id) {
            call.resend = None;
        }
        self.forget_if_silent(id);
    }

    pub(super) fn forget_if_silent(&mut self, id: &str) {
        if self.calls.get(id).is_some_and(|c| c.audio.is_none() && matches!(c.state, State::Leaving)) {
            self.calls.remove(id);
        }
    }

    pub(super) async fn report_end(&mut self, id: String, report: AudioReport) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        call.audio = None;
        let (by, done) = (call.ended_by, call.resend.is_none());
        let AudioReport { sent, received, digits, recording } = report;
        if done {
            self.forget_if_silent(&id);
        }
        self.tell(Event::Ended { call: id, by: by.to_owned(), sent, received, digits, recording }).await;
    }

    pub(super) fn token(&self) -> String {
        let mut random = [0_u8; 8];
        self.entropy.fill(&mut random);
        random.iter().map(|b| format!("{b:02x}")).collect()
    }
}

impl Call {
    pub(super) fn new(
        state: State,
        dialog: message::Dialog,
        remote: SocketAddr,
        socket: UdpSocket,
        rtp_address: SocketAddr,
    ) -> Self {
        Self {
            state,
            dialog,
            remote,
            resend: None,
            last_response: None,
            ack: None,
            socket: Some(socket),
            rtp_address,
            audio: None,
            ended_by: "",
            last_invite_cseq: 0,
        }
    }

    pub(super) fn due(&self) -> Option<Instant> {
        let answer = match &self.state {
            State::Ringing { answer_at, .. } => *answer_at,
            _ => None,
        };
        [answer, self.resend.as_ref().map(|r| r.next)].into_iter().flatten().min()
    }
}

impl Resend {
    pub(super) fn new(datagram: Bytes, to: SocketAddr) -> Self {
        let now = Instant::now();
        Self { datagram, to, next: now + T1, interval: T1, until: now + GIVE_UP }
    }
}
