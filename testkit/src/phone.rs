//! A desk phone in software: a small SIP user agent over UDP that rings, answers, plays a tone, records what
//! it hears and can dial out. It stands where a company's phone stands in tests and in the demo.

mod message;
mod rtp;
pub mod sdp;

use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use ahoy_proto::time::Entropy;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sipx_sip::{Limits, Message, Method, Request, Response, parse_datagram};
use tokio::{net::UdpSocket, sync::mpsc, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use rtp::AudioReport;
use sdp::RemoteAudio;

/// RFC 3261 section 17.1.1.1.
const T1: Duration = Duration::from_millis(500);
const T2: Duration = Duration::from_secs(4);
const GIVE_UP: Duration = Duration::from_secs(32);

/// What an extension of the phone does with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Behaviour {
    /// 180, then 200 after the ring time.
    Answer,
    /// 200 at once, without any provisional response.
    AnswerAtOnce,
    /// 486.
    Busy,
    /// 603 after the ring time.
    Decline,
    /// 180 and nothing more.
    Ring,
    /// 183 with a tone, then 480 after the ring time.
    EarlyThenUnavailable,
}

/// How a phone is set up.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PhoneConfig {
    /// UDP address of SIP; RTP uses other ports of the same IP address.
    pub bind: SocketAddr,
    /// The user part that the phone calls from.
    pub user: String,
    /// What each extension does; any other is answered 404.
    pub extensions: BTreeMap<String, Behaviour>,
    /// Milliseconds between ringing and the answer.
    pub ring_ms: u64,
    /// The tone that it plays, in hertz.
    pub tone_hz: u32,
    /// Where recordings go; none are made without it.
    pub record_dir: Option<PathBuf>,
}

/// What a phone can be told to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Command {
    /// Dial `uri`, sending the request to `to`.
    Call {
        /// Request-URI, e.g. `sip:caller%40home.example@127.0.0.2:5060`.
        uri: String,
        /// Where the request goes.
        to: SocketAddr,
    },
    /// Press keys in a call (all calls, when `call` is empty).
    Press {
        /// Call-ID, as events name it.
        call: String,
        /// Digits.
        digits: String,
    },
    /// End a call (all calls, when `call` is empty).
    Hangup {
        /// Call-ID.
        call: String,
    },
    /// Stop.
    Quit,
}

/// What a phone reports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The phone is on.
    Ready {
        /// Its SIP address.
        address: SocketAddr,
    },
    /// An INVITE came.
    Incoming {
        /// Call-ID.
        call: String,
        /// The From header.
        from: String,
        /// The extension that was dialled.
        extension: String,
    },
    /// The phone's own call rings at the other side.
    Ringing {
        /// Call-ID.
        call: String,
        /// 180 or 183.
        status: u16,
    },
    /// Either side picked up.
    Answered {
        /// Call-ID.
        call: String,
    },
    /// The first audio packet.
    FirstAudio {
        /// Call-ID.
        call: String,
        /// Its source.
        from: SocketAddr,
        /// Milliseconds since the audio was set up.
        after_ms: u64,
    },
    /// A key was pressed at the other side.
    Dtmf {
        /// Call-ID.
        call: String,
        /// `0-9*#A-D`.
        digit: char,
    },
    /// The phone's own call was refused.
    Rejected {
        /// Call-ID.
        call: String,
        /// SIP status.
        status: u16,
    },
    /// A call is over.
    Ended {
        /// Call-ID.
        call: String,
        /// `local`, `remote`, `cancelled` or `timeout`.
        by: String,
        /// RTP packets sent.
        sent: u64,
        /// RTP packets received.
        received: u64,
        /// Digits heard.
        digits: String,
        /// The recording.
        recording: Option<PathBuf>,
    },
}

/// A running phone.
#[derive(Debug)]
pub struct Phone {
    /// What happens at the phone. Read it: at 1,024 unread events the phone waits.
    pub events: mpsc::Receiver<Event>,
    /// Tells it what to do.
    pub commands: mpsc::Sender<Command>,
    /// Its SIP address.
    pub address: SocketAddr,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Phone {
    /// Switches a phone on.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn start(config: PhoneConfig, entropy: Arc<dyn Entropy>) -> io::Result<Self> {
        let socket = UdpSocket::bind(config.bind).await?;
        let address = socket.local_addr()?;
        let (events_in, events) = mpsc::channel(1024);
        let (commands, commands_out) = mpsc::channel(64);
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let line = Line {
            socket,
            address,
            config,
            entropy,
            events: events_in,
            calls: HashMap::new(),
            tasks: tasks.clone(),
            finished: mpsc::channel(256),
        };
        tasks.spawn(line.run(commands_out, stop.clone()));
        tasks.close();
        Ok(Self { events, commands, address, stop, tasks })
    }

    /// Switches it off and waits until its recordings are written.
    pub async fn stop(self) {
        self.stop.cancel();
        drop(self.events);
        self.tasks.wait().await;
    }
}

enum State {
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
struct Resend {
    datagram: Bytes,
    to: SocketAddr,
    next: Instant,
    interval: Duration,
    until: Instant,
}

struct Call {
    state: State,
    dialog: message::Dialog,
    remote: SocketAddr,
    resend: Option<Resend>,
    /// The last response to the INVITE, for its retransmissions.
    last_response: Option<Bytes>,
    /// The ACK of our own INVITE's 200, for retransmissions of that 200.
    ack: Option<Bytes>,
    socket: Option<UdpSocket>,
    rtp_address: SocketAddr,
    audio: Option<RunningAudio>,
    ended_by: &'static str,
    last_invite_cseq: u32,
}

/// A call's Call-ID and what its audio came to.
type Report = (String, AudioReport);

struct RunningAudio {
    digits: mpsc::Sender<char>,
    stop: CancellationToken,
}

struct Line {
    socket: UdpSocket,
    address: SocketAddr,
    config: PhoneConfig,
    entropy: Arc<dyn Entropy>,
    events: mpsc::Sender<Event>,
    calls: HashMap<String, Call>,
    tasks: TaskTracker,
    finished: (mpsc::Sender<Report>, mpsc::Receiver<Report>),
}

impl Line {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>, stop: CancellationToken) {
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

    async fn tell(&self, event: Event) {
        // The owner may have dropped the receiver: the phone rings on.
        let _ = self.events.send(event).await;
    }

    async fn send(&self, datagram: &[u8], to: SocketAddr) {
        if let Err(error) = self.socket.send_to(datagram, to).await {
            tracing::debug!(%to, %error, "a SIP datagram could not be sent");
        }
    }

    fn next_due(&self) -> Instant {
        let far = Instant::now() + Duration::from_secs(3600);
        self.calls.values().filter_map(Call::due).min().unwrap_or(far)
    }

    async fn on_timer(&mut self) {
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

    async fn obey(&mut self, command: Command) {
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

    async fn receive(&mut self, datagram: Bytes, from: SocketAddr) {
        match parse_datagram(datagram, &Limits::datagram()) {
            Ok(Message::Request(request)) => self.on_request(request, from).await,
            Ok(Message::Response(response)) => self.on_response(response).await,
            Err(error) => tracing::debug!(%from, %error, "the phone heard something that is not SIP"),
        }
    }

    async fn on_request(&mut self, request: Request, from: SocketAddr) {
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

    async fn reply(&self, request: &Request, status: u16, reason: &'static str, to: SocketAddr) {
        if let Some(response) = message::response(request, status, reason, None, None) {
            self.send(&response, to).await;
        }
    }

    async fn on_invite(&mut self, id: String, request: Request, from: SocketAddr) {
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

    async fn ring(
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

    fn answer_for(&self, id: &str, invite: &Request) -> Option<(String, RemoteAudio)> {
        let rtp = self.calls.get(id)?.rtp_address;
        let remote = sdp::parse(std::str::from_utf8(invite.body()).ok()?)?;
        Some((sdp::answer(rtp, &remote), remote))
    }

    /// Sends a response within the call; a final one is repeated until it is acknowledged.
    async fn respond(
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
    async fn pick_up(&mut self, id: &str) {
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

    async fn on_reinvite(&mut self, id: &str, request: &Request, from: SocketAddr) {
        let Some((sdp, _)) = self.answer_for(id, request) else {
            return self.reply(request, 488, "Not Acceptable Here", from).await;
        };
        if let Some(call) = self.calls.get_mut(id) {
            call.last_invite_cseq = message::cseq(&request.headers).unwrap_or(0);
        }
        self.respond(id, request, 200, "OK", Some(sdp)).await;
    }

    fn on_ack(&mut self, id: &str) {
        let Some(call) = self.calls.get_mut(id) else { return };
        call.resend = None;
        if matches!(call.state, State::Leaving) && call.audio.is_none() {
            self.calls.remove(id);
        }
    }

    async fn on_cancel(&mut self, id: &str, request: &Request, from: SocketAddr) {
        let Some(Call { state: State::Ringing { invite, .. }, .. }) = self.calls.get(id) else {
            return self.reply(request, 481, "Call/Transaction Does Not Exist", from).await;
        };
        let invite = (**invite).clone();
        self.reply(request, 200, "OK", from).await;
        self.leave(id, "cancelled");
        self.respond(id, &invite, 487, "Request Terminated", None).await;
        self.finish_with(id, "cancelled").await;
    }

    async fn on_bye(&mut self, id: &str, request: &Request, from: SocketAddr) {
        let known = self.calls.contains_key(id);
        let (status, reason) = if known { (200, "OK") } else { (481, "Call/Transaction Does Not Exist") };
        self.reply(request, status, reason, from).await;
        if known {
            self.finish(id, "remote").await;
        }
    }

    async fn dial(&mut self, uri: &str, to: SocketAddr) -> anyhow::Result<()> {
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

    async fn on_response(&mut self, response: Response) {
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

    async fn on_answer(&mut self, id: &str, response: &Response) {
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

    async fn on_refusal(&mut self, id: &str, response: &Response, status: u16) {
        let Some(call) = self.calls.remove(id) else { return };
        if let Some(invite) = &call.dialog.sent_invite
            && let Some(ack) = message::ack_of_refusal(invite, response)
        {
            self.send(&ack, call.remote).await;
        }
        self.tell(Event::Rejected { call: id.to_owned(), status }).await;
    }

    async fn hang_up(&mut self, which: &str) {
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

    async fn send_until_answered(&mut self, id: &str, request: anyhow::Result<Bytes>) {
        let (Ok(datagram), Some(call)) = (request, self.calls.get_mut(id)) else { return };
        let to = call.remote;
        call.resend = Some(Resend::new(datagram.clone(), to));
        self.send(&datagram, to).await;
    }

    fn start_audio(&mut self, id: &str, remote: RemoteAudio) {
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

    fn leave(&mut self, id: &str, by: &'static str) {
        if let Some(call) = self.calls.get_mut(id) {
            call.state = State::Leaving;
            call.ended_by = by;
            if let Some(audio) = &call.audio {
                audio.stop.cancel();
            }
        }
    }

    /// Marks the end of the call; it is reported once its audio has stopped.
    async fn finish_with(&mut self, id: &str, by: &'static str) {
        self.leave(id, by);
        if self.calls.get(id).is_some_and(|c| c.audio.is_none()) {
            self.report_end(id.to_owned(), AudioReport::default()).await;
        }
    }

    async fn finish(&mut self, id: &str, by: &'static str) {
        self.finish_with(id, by).await;
        if let Some(call) = self.calls.get_mut(id) {
            call.resend = None;
        }
        self.forget_if_silent(id);
    }

    fn forget_if_silent(&mut self, id: &str) {
        if self.calls.get(id).is_some_and(|c| c.audio.is_none() && matches!(c.state, State::Leaving)) {
            self.calls.remove(id);
        }
    }

    async fn report_end(&mut self, id: String, report: AudioReport) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        call.audio = None;
        let (by, done) = (call.ended_by, call.resend.is_none());
        let AudioReport { sent, received, digits, recording } = report;
        if done {
            self.forget_if_silent(&id);
        }
        self.tell(Event::Ended { call: id, by: by.to_owned(), sent, received, digits, recording }).await;
    }

    fn token(&self) -> String {
        let mut random = [0_u8; 8];
        self.entropy.fill(&mut random);
        random.iter().map(|b| format!("{b:02x}")).collect()
    }
}

impl Call {
    fn new(
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

    fn due(&self) -> Option<Instant> {
        let answer = match &self.state {
            State::Ringing { answer_at, .. } => *answer_at,
            _ => None,
        };
        [answer, self.resend.as_ref().map(|r| r.next)].into_iter().flatten().min()
    }
}

impl Resend {
    fn new(datagram: Bytes, to: SocketAddr) -> Self {
        let now = Instant::now();
        Self { datagram, to, next: now + T1, interval: T1, until: now + GIVE_UP }
    }
}
