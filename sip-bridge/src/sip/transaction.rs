//! The transactions of one trunk: sipx-sip's pure layer, its timers, and where each message
//! goes. Bounded: a flood of requests costs refusals, not memory. [BRIDGE-SIP-03]

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Instant;

use bytes::Bytes;
use sipx_sip::transaction::Dispatch;
use sipx_sip::{
    Message, Output, Reliability, Request, Response, Timer, Timers, TransactionKey, TransactionLayer, TuEvent,
};

use super::flow::{Flow, Transport};
use super::leg::LegId;
use super::message;

/// What a client transaction was started for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The INVITE that makes the leg.
    Invite,
    /// CANCEL of it.
    Cancel,
    /// BYE.
    Bye,
    /// PRACK of a reliable provisional.
    Prack,
    /// UPDATE that refreshes the session.
    Refresh,
    /// OPTIONS that asks whether the trunk is alive.
    Probe,
}

/// Who waits for a client transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The leg; [`LegId::NONE`] for the trunk itself.
    pub leg: LegId,
    /// Why.
    pub purpose: Purpose,
}

/// What the layer hands up.
#[derive(Debug)]
pub enum Event {
    /// A request seen for the first time.
    Request(TransactionKey, Box<Request>, Flow),
    /// The ACK of a 2xx.
    Ack(Box<Request>),
    /// A response to a request of ours.
    Response(Owner, Box<Response>),
    /// A request of ours got none, or could not be sent.
    Failed(Owner, Failure),
    /// A response that matches nothing: a late 2xx whose transaction is over.
    Stray(Box<Response>),
}

/// Why a client transaction failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// 64 T1 without an answer.
    Timeout,
    /// The transport said no.
    Transport,
}

struct Place {
    flow: Flow,
    owner: Option<Owner>,
}

/// Every transaction of a trunk.
pub struct Transactions {
    layer: TransactionLayer,
    places: HashMap<TransactionKey, Place>,
    timers: BTreeMap<(Instant, u64), (TransactionKey, Timer)>,
    armed: HashMap<(TransactionKey, Timer), (Instant, u64)>,
    sequence: u64,
    limit: usize,
    outgoing: VecDeque<(Flow, Bytes)>,
    events: VecDeque<Event>,
}

impl Transactions {
    /// An empty set with room for `limit` server transactions.
    pub fn new(timers: Timers, limit: usize) -> Self {
        Self {
            layer: TransactionLayer::new(timers),
            places: HashMap::new(),
            timers: BTreeMap::new(),
            armed: HashMap::new(),
            sequence: 0,
            limit,
            outgoing: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// Whether one more server transaction fits.
    pub fn has_room(&self) -> bool {
        self.layer.len().1 < self.limit
    }

    /// Whether this request belongs to a server transaction that stands.
    pub fn knows(&self, request: &Request) -> bool {
        TransactionKey::from_request(request).is_some_and(|key| self.layer.server_state(&key).is_some())
    }

    /// Transactions in flight.
    pub fn len(&self) -> usize {
        let (client, server) = self.layer.len();
        client + server
    }

    /// Feeds a message in.
    pub fn receive(&mut self, now: Instant, message: Message, flow: Flow) {
        let ack = match &message {
            Message::Request(request) if request.method == sipx_sip::Method::Ack => Some(request.clone()),
            _ => None,
        };
        match self.layer.receive(message, reliability(flow.transport())) {
            Dispatch::Matched { key, outputs } => self.perform(now, &key, outputs),
            Dispatch::Created { key, outputs } => {
                self.places.insert(key.clone(), Place { flow, owner: None });
                self.perform(now, &key, outputs);
            }
            Dispatch::Unmatched(message) => match (*message, ack) {
                (Message::Request(_), Some(ack)) => self.events.push_back(Event::Ack(Box::new(ack))),
                (Message::Response(response), _) => self.events.push_back(Event::Stray(Box::new(response))),
                (Message::Request(_), None) => {}
            },
        }
    }

    /// Sends a request in a transaction of its own; `false` when it has no usable `Via`.
    pub fn request(&mut self, now: Instant, request: Request, flow: Flow, owner: Owner) -> bool {
        let Some((key, outputs)) = self.layer.send_request(request, reliability(flow.transport())) else {
            return false;
        };
        self.places.insert(key.clone(), Place { flow, owner: Some(owner) });
        self.perform(now, &key, outputs);
        true
    }

    /// Sends a response through its transaction, if that still stands.
    pub fn respond(&mut self, now: Instant, key: &TransactionKey, response: Response) {
        let outputs = self.layer.send_response(key, response);
        self.perform(now, key, outputs);
    }

    /// Sends a message outside every transaction: the ACK of a 2xx, a stateless refusal.
    pub fn send_plain(&mut self, flow: Flow, message: &Message) {
        self.outgoing.push_back((flow, message.to_bytes()));
    }

    /// Drops a client transaction that will not end by itself. [BRIDGE-SIP-04]
    pub fn abandon_client(&mut self, request: &Request) {
        if let Some(key) = TransactionKey::from_sent_request(request) {
            let _ = self.layer.on_transport_error(&key);
            self.forget(&key);
        }
    }

    /// Drops a server transaction that nobody will answer.
    pub fn abandon_server(&mut self, key: &TransactionKey) {
        self.layer.abandon(key);
        self.forget(key);
    }

    /// Every client transaction towards `flow` has failed.
    pub fn transport_failed(&mut self, now: Instant, flow: Flow) {
        let keys: Vec<TransactionKey> = self
            .places
            .iter()
            .filter(|(_, place)| place.owner.is_some() && place.flow == flow)
            .map(|(key, _)| key.clone())
            .collect();
        for key in keys {
            let outputs = self.layer.on_transport_error(&key);
            self.perform(now, &key, outputs);
        }
    }

    /// Fires what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(entry) = self.timers.first_entry() {
            if entry.key().0 > now {
                return;
            }
            let (key, timer) = entry.remove();
            self.armed.remove(&(key.clone(), timer));
            let outputs = self.layer.on_timer(&key, timer);
            self.perform(now, &key, outputs);
        }
    }

    /// When [`Self::handle_timeout`] is due next.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.timers.keys().next().map(|(at, _)| *at)
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The next bytes to send.
    pub fn poll_transmit(&mut self) -> Option<(Flow, Bytes)> {
        self.outgoing.pop_front()
    }

    fn perform(&mut self, now: Instant, key: &TransactionKey, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Send(message) => self.send_for(key, &message),
                Output::SetTimer { timer, after } => self.arm(key, timer, now + after),
                Output::ClearTimer(timer) => self.disarm(key, timer),
                Output::ToTu(event) => self.hand_up(key, *event),
                Output::Terminated(_) => self.forget(key),
                _ => {}
            }
        }
    }

    fn send_for(&mut self, key: &TransactionKey, message: &Message) {
        let Some(place) = self.places.get(key) else {
            return;
        };
        let flow = match (message, self.layer.server_request(key)) {
            (Message::Response(_), Some(request)) => message::response_flow(request, place.flow),
            _ => place.flow,
        };
        self.outgoing.push_back((flow, message.to_bytes()));
    }

    fn hand_up(&mut self, key: &TransactionKey, event: TuEvent) {
        let Some(place) = self.places.get(key) else {
            return;
        };
        let up = match (event, place.owner) {
            (TuEvent::Request(request), _) => Event::Request(key.clone(), request, place.flow),
            (TuEvent::Ack(ack), _) => Event::Ack(ack),
            (TuEvent::Response(response), Some(owner)) => Event::Response(owner, response),
            (TuEvent::Timeout, Some(owner)) => Event::Failed(owner, Failure::Timeout),
            (TuEvent::TransportError, Some(owner)) => Event::Failed(owner, Failure::Transport),
            _ => return,
        };
        self.events.push_back(up);
    }

    fn arm(&mut self, key: &TransactionKey, timer: Timer, at: Instant) {
        self.disarm(key, timer);
        self.sequence += 1;
        let slot = (at, self.sequence);
        self.timers.insert(slot, (key.clone(), timer));
        self.armed.insert((key.clone(), timer), slot);
    }

    fn disarm(&mut self, key: &TransactionKey, timer: Timer) {
        if let Some(slot) = self.armed.remove(&(key.clone(), timer)) {
            self.timers.remove(&slot);
        }
    }

    fn forget(&mut self, key: &TransactionKey) {
        for timer in Timer::ALL {
            self.disarm(key, timer);
        }
        self.places.remove(key);
    }
}

fn reliability(transport: Transport) -> Reliability {
    match transport {
        Transport::Udp => Reliability::Unreliable,
        Transport::Tcp => Reliability::Reliable,
    }
}
