//! The user agent of one trunk, pure: messages, commands and time in; bytes, events and a
//! deadline out. `uac`, `uas` and `negotiation` hold its three halves; this file is the frame.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use sipx_sip::{Message, Request, Response, Timers, TransactionKey, Uri};

use super::dialog::{Dialog, DialogId};
use super::flow::{Flow, Transport};
use super::garbled::refuse_undecodable;
use super::gate::Gate;
use super::health::Health;
use super::leg::{End, EndCause, LegEvent, LegId};
use super::message::{self, Datagram};
use super::transaction::{Event, Failure, Owner, Purpose, Transactions};
use crate::sdp::{Description, LocalMedia, MediaPlan};

/// A source of random numbers: tags, branches, call ids.
pub type Random = Box<dyn FnMut() -> u64 + Send>;

/// What an agent is told about its trunk.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// What `Via` and `Contact` say: the external address where there is one.
    pub advertised: SocketAddr,
    /// Where requests go.
    pub peer: SocketAddr,
    /// How they go there.
    pub transport: Transport,
    /// Who may send requests. [BRIDGE-SIP-05]
    pub sources: Vec<IpAddr>,
    /// Requests above 1,300 bytes leave over TCP (RFC 3261 section 18.1.1).
    pub large_over_tcp: bool,
    /// T1, T2, T4.
    pub timers: Timers,
    /// Bounds.
    pub limits: AgentLimits,
}

/// Bounds on what one trunk may hold. [BRIDGE-SIP-03]
#[derive(Debug, Clone, Copy)]
pub struct AgentLimits {
    /// Server transactions at once.
    pub transactions: usize,
    /// Legs at once, both ways.
    pub legs: usize,
    /// Requests per second and source address, with a burst of twice that.
    pub requests_per_second: u32,
}

impl Default for AgentLimits {
    fn default() -> Self {
        Self { transactions: 4096, legs: 1000, requests_per_second: 500 }
    }
}

/// Who calls, as `From` and `P-Asserted-Identity` say it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// A name for people, if known.
    pub display: Option<String>,
    /// The user part, not escaped: an Ahoy address or a number.
    pub user: String,
    /// Also as `P-Asserted-Identity`: only towards a trunk that is trusted with it.
    pub asserted: bool,
}

/// A call to place at the trunk.
#[derive(Debug, Clone)]
pub struct OutgoingInvite {
    /// The Request-URI.
    pub target: Uri,
    /// The caller.
    pub from: Identity,
    /// Our end of the audio.
    pub media: LocalMedia,
}

/// A call that the trunk wants to place.
#[derive(Debug, Clone)]
pub struct Incoming {
    /// The leg to answer or to refuse.
    pub leg: LegId,
    /// The user part of the Request-URI, unescaped.
    pub user: Vec<u8>,
    /// Name for people in `From`.
    pub display: Option<String>,
    /// User part of `P-Asserted-Identity`, else of `From`, unescaped.
    pub caller: Vec<u8>,
    /// The SDP offer; absent in an offerless INVITE.
    pub offer: Option<Description>,
    /// Where it came from.
    pub source: SocketAddr,
}

/// Why a command to a leg was not carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AgentError {
    /// The leg is over, or in a state that does not allow it.
    #[error("the SIP leg is over or not in a state for this")]
    State,
    /// Too many legs at once.
    #[error("the trunk has as many legs as it may")]
    Full,
    /// A header could not be built from what was given.
    #[error("the caller or target cannot be written into SIP headers")]
    Header,
    /// No common media.
    #[error(transparent)]
    NoMedia(#[from] crate::sdp::NoMedia),
}

/// Where a leg stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// INVITE sent, nothing heard.
    Calling,
    /// A provisional was heard.
    Proceeding,
    /// We gave up; the final response is awaited.
    Cancelling,
    /// Their INVITE awaits our final response.
    Offered,
    /// Our 2xx awaits its ACK.
    Answered,
    /// Confirmed.
    Established,
    /// BYE sent.
    Closing,
}

/// A 2xx of ours that is repeated until its ACK (RFC 3261 section 13.3.1.4).
pub(super) struct Unacknowledged {
    pub key: TransactionKey,
    pub response: Response,
    pub sequence: u32,
    pub interval: Duration,
    pub give_up: Instant,
    pub offered: bool,
}

/// A reliable provisional awaiting PRACK (RFC 3262).
pub(super) struct Reliable {
    pub number: u32,
    pub response: Response,
    pub interval: Duration,
    pub give_up: Instant,
}

/// A leg as the agent keeps it.
pub(super) struct Leg {
    pub phase: Phase,
    pub flow: Flow,
    pub dialog: Option<Dialog>,
    pub media: Option<LocalMedia>,
    pub plan: Option<MediaPlan>,
    /// UAC: the INVITE, for CANCEL. UAS: the INVITE, for responses.
    pub invite: Request,
    /// UAS: its transaction.
    pub key: Option<TransactionKey>,
    /// UAS: our SDP for 183 and 200.
    pub body: Option<String>,
    /// UAC: the ACKs sent, by remote tag, for repeated 2xx.
    pub acks: Vec<(Bytes, Request, Flow)>,
    pub unacknowledged: Option<Unacknowledged>,
    pub reliable: Option<Reliable>,
    pub next_reliable: u32,
    /// UAC: `RSeq` last acknowledged.
    pub last_rseq: u32,
    /// Hang up as soon as the protocol allows it.
    pub close_wanted: bool,
    /// The owner was told that it is over.
    pub ended: bool,
    /// UAC: sent over TCP only because of its size.
    pub upgraded: bool,
    /// RFC 4028: the interval, and whether we refresh.
    pub session: Option<(Duration, bool)>,
    pub session_at: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LegTimer {
    Repeat2xx,
    RepeatReliable,
    Abandon,
    Session,
}

/// The agent.
pub struct Agent {
    pub(super) config: AgentConfig,
    pub(super) transactions: Transactions,
    pub(super) legs: HashMap<LegId, Leg>,
    pub(super) dialogs: HashMap<DialogId, LegId>,
    pub(super) gate: Gate,
    pub(super) draining: bool,
    timers: BTreeMap<(Instant, u64), (LegId, LegTimer)>,
    events: VecDeque<(LegId, LegEvent)>,
    incoming: VecDeque<Incoming>,
    pub(super) health: Health,
    random: Random,
    sequence: u64,
}

impl Agent {
    /// An agent for one trunk.
    pub fn new(config: AgentConfig, random: Random) -> Self {
        Self {
            transactions: Transactions::new(config.timers, config.limits.transactions),
            gate: Gate::new(config.limits.requests_per_second),
            config,
            legs: HashMap::new(),
            dialogs: HashMap::new(),
            draining: false,
            timers: BTreeMap::new(),
            events: VecDeque::new(),
            incoming: VecDeque::new(),
            health: Health::default(),
            random,
            sequence: 0,
        }
    }

    /// Feeds one datagram in; returns the answer to a keep-alive or to what is no SIP, if one is due.
    pub fn handle_datagram(&mut self, now: Instant, bytes: Bytes, source: SocketAddr) -> Option<Bytes> {
        match message::read_datagram(bytes.clone()) {
            Datagram::Ping => self.gate.admits(now, source.ip()).then(|| Bytes::from_static(b"\r\n")),
            Datagram::Message(message) => {
                self.handle_message(now, *message, Flow::Udp(source));
                None
            }
            // The PBX's administrator shall see that something is wrong; strangers get nothing. [BRIDGE-SIP-16]
            Datagram::Garbage => {
                let served = self.serves(source.ip()) && self.gate.admits(now, source.ip());
                served.then(|| refuse_undecodable(&bytes)).flatten()
            }
            Datagram::Pong => None,
        }
    }

    /// Feeds one message in.
    pub fn handle_message(&mut self, now: Instant, mut message: Message, flow: Flow) {
        if let Message::Request(request) = &mut message {
            message::mark_received(request, flow.peer());
        }
        if !self.passes_gate(now, &message, flow) {
            return;
        }
        if flow.peer().ip() == self.config.peer.ip() {
            self.health.heard(now);
        }
        self.transactions.receive(now, message, flow);
        self.run(now);
    }

    /// Whatever was due until `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.transactions.handle_timeout(now);
        if self.health.handle_timeout(now) {
            self.probe(now);
        }
        while let Some(entry) = self.timers.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let (leg, timer) = entry.remove();
            self.leg_timer(now, leg, timer);
        }
        self.run(now);
    }

    /// Requests over `flow` cannot be delivered.
    pub fn handle_transport_failure(&mut self, now: Instant, flow: Flow) {
        self.transactions.transport_failed(now, flow);
        self.run(now);
    }

    /// When [`Self::handle_timeout`] is due.
    pub fn next_timeout(&self) -> Option<Instant> {
        let own = self.timers.keys().next().map(|(at, _)| *at);
        own.into_iter().chain(self.transactions.next_timeout()).chain(self.health.due()).min()
    }

    /// The next bytes to send.
    pub fn poll_transmit(&mut self) -> Option<(Flow, Bytes)> {
        self.transactions.poll_transmit()
    }

    /// The next event of a leg.
    pub fn poll_event(&mut self) -> Option<(LegId, LegEvent)> {
        self.events.pop_front()
    }

    /// The next call from the trunk.
    pub fn poll_incoming(&mut self) -> Option<Incoming> {
        self.incoming.pop_front()
    }

    /// Asks the peer from now on whether it is alive; [`Self::poll_health`] tells.
    pub fn watch(&mut self, now: Instant) {
        self.health.start(now);
    }

    /// A call got no answer at all: the peer is asked at once.
    pub fn suspect(&mut self, now: Instant) {
        self.health.suspect(now);
    }

    /// Whether the peer is up, when that has changed.
    pub fn poll_health(&mut self) -> Option<bool> {
        self.health.poll()
    }

    /// New calls from the trunk are refused with 503 from now on.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// Whether requests from this address are served at all.
    pub fn serves(&self, source: IpAddr) -> bool {
        self.config.sources.contains(&source)
    }

    /// Legs that stand, those that only wait for a last response included.
    pub fn legs(&self) -> usize {
        self.legs.len()
    }

    /// Transactions that stand.
    pub fn transactions(&self) -> usize {
        self.transactions.len()
    }

    fn run(&mut self, now: Instant) {
        while let Some(event) = self.transactions.poll_event() {
            match event {
                Event::Request(key, request, flow) => self.on_request(now, key, *request, flow),
                Event::Ack(ack) => self.on_ack(now, &ack),
                Event::Response(owner, response) => self.on_response(now, owner, &response),
                Event::Stray(response) => self.on_stray(now, &response),
                Event::Failed(owner, failure) => self.on_failure(now, owner, failure),
            }
        }
    }

    fn on_response(&mut self, now: Instant, owner: Owner, response: &Response) {
        let status = response.status.code();
        match owner.purpose {
            Purpose::Invite => self.on_invite_response(now, owner.leg, response),
            Purpose::Bye if status >= 200 => self.remove(owner.leg),
            Purpose::Probe if status >= 200 => self.health.answered(now),
            Purpose::Refresh if matches!(status, 408 | 481) => {
                self.end(owner.leg, End::of(EndCause::Timeout));
                self.hang_up(now, owner.leg, 480);
            }
            _ => {}
        }
    }

    fn on_failure(&mut self, now: Instant, owner: Owner, failure: Failure) {
        match owner.purpose {
            Purpose::Invite => self.on_invite_failure(now, owner.leg, failure),
            Purpose::Bye => self.remove(owner.leg),
            Purpose::Probe => self.health.failed(now),
            Purpose::Refresh => {
                self.end(owner.leg, End::of(EndCause::Timeout));
                self.hang_up(now, owner.leg, 480);
            }
            Purpose::Cancel | Purpose::Prack => {}
        }
    }

    fn leg_timer(&mut self, now: Instant, leg: LegId, timer: LegTimer) {
        match timer {
            LegTimer::Repeat2xx => self.repeat_2xx(now, leg),
            LegTimer::RepeatReliable => self.repeat_reliable(now, leg),
            LegTimer::Abandon => self.abandon(leg),
            LegTimer::Session => self.session_due(now, leg),
        }
    }

    pub(super) fn arm(&mut self, at: Instant, leg: LegId, timer: LegTimer) {
        self.sequence += 1;
        self.timers.insert((at, self.sequence), (leg, timer));
    }

    pub(super) fn emit(&mut self, leg: LegId, event: LegEvent) {
        if self.legs.get(&leg).is_some_and(|leg| !leg.ended) {
            self.events.push_back((leg, event));
        }
    }

    /// Tells the owner that the leg is over, once.
    pub(super) fn end(&mut self, id: LegId, end: End) {
        if let Some(leg) = self.legs.get_mut(&id)
            && !leg.ended
        {
            leg.ended = true;
            self.events.push_back((id, LegEvent::Ended(end)));
        }
    }

    pub(super) fn announce(&mut self, incoming: Incoming) {
        self.incoming.push_back(incoming);
    }

    /// Forgets a leg; its transactions end by themselves, its timers find nobody.
    pub(super) fn remove(&mut self, id: LegId) {
        if let Some(leg) = self.legs.remove(&id)
            && let Some(dialog) = leg.dialog
        {
            self.dialogs.remove(&dialog.id);
        }
    }

    pub(super) fn next_leg(&mut self) -> LegId {
        self.sequence += 1;
        LegId(self.sequence)
    }

    /// A random token of 16 hexadecimal digits.
    pub(super) fn token(&mut self) -> String {
        format!("{:016x}", (self.random)())
    }

    pub(super) fn via(&mut self, transport: Transport) -> String {
        let token = self.token();
        format!("SIP/2.0/{} {};branch=z9hG4bK{token};rport", transport.token(), self.config.advertised)
    }

    pub(super) fn contact(&self, transport: Transport) -> String {
        let suffix = if transport == Transport::Tcp { ";transport=tcp" } else { "" };
        format!("<sip:ahoy@{}{suffix}>", self.config.advertised)
    }

    /// Where an in-dialog request goes: the way the dialog names if that is the trunk's own
    /// host, else the trunk; a `Contact` cannot point the bridge at a stranger.
    pub(super) fn hop(&self, leg: &Leg) -> Flow {
        if let Flow::Tcp { connection: Some(_), .. } = leg.flow {
            return leg.flow;
        }
        let named = leg.dialog.as_ref().and_then(Dialog::next_hop);
        let peer = named.filter(|hop| self.config.sources.contains(&hop.ip())).unwrap_or(self.config.peer);
        Flow::to(leg.flow.transport(), peer)
    }
}

/// Fuzz entry: one datagram, from the trunk, through a fresh agent.
pub(super) fn fuzz(data: &[u8]) {
    let peer = SocketAddr::from(([127, 0, 0, 1], 5060));
    let config = AgentConfig {
        advertised: SocketAddr::from(([127, 0, 0, 2], 5060)),
        peer,
        transport: Transport::Udp,
        sources: vec![peer.ip()],
        large_over_tcp: true,
        timers: Timers::default(),
        limits: AgentLimits::default(),
    };
    let mut counter = 0;
    let mut agent = Agent::new(
        config,
        Box::new(move || {
            counter += 1;
            counter
        }),
    );
    // A monotonic time is an opaque argument here; which one does not matter.
    let now = tokio::time::Instant::now().into_std();
    agent.handle_datagram(now, Bytes::copy_from_slice(data), peer);
    while let Some(incoming) = agent.poll_incoming() {
        let media = LocalMedia::new(peer, crate::sdp::Codec::ALL.to_vec(), 1);
        if agent.attach_media(incoming.leg, media).is_ok() {
            let _ = agent.answer(now, incoming.leg);
        }
    }
    agent.handle_timeout(now + Duration::from_secs(40));
    while agent.poll_transmit().is_some() {}
}

#[cfg(test)]
#[path = "agent_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "torture_tests.rs"]
mod torture;
