//! The sockets under one trunk's agent, and the trait that the rest of the bridge calls through.
//! The loop never waits for anybody: not for a peer (datagrams are tried, streams have writers
//! of their own), not for a call (events are tried, a call that does not take them is ended).

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::agent::{Agent, AgentConfig, AgentError, Incoming, OutgoingInvite, Random};
use super::flow::Flow;
use super::leg::{End, EndCause, LegEvent, LegId};
use super::tcp::{Connections, TcpEvent, accept_loop};
use crate::sdp::{LocalMedia, MediaPlan};

/// Events that may wait for one call.
const EVENTS: usize = 64;
/// Calls from the trunk that may wait to be looked at.
const INCOMING: usize = 64;
/// Datagrams taken in one go before anything else gets its turn.
const BATCH: usize = 64;

/// One SIP call leg; the seam at which the SIP library could be replaced.
pub trait SipLeg: Send + Sync {
    /// Gives a leg from the trunk its audio; see [`Agent::attach_media`].
    fn attach(&self, media: LocalMedia) -> Result<Option<MediaPlan>, AgentError>;
    /// 180.
    fn ring(&self) -> Result<(), AgentError>;
    /// 183 with SDP.
    fn progress(&self) -> Result<(), AgentError>;
    /// 200 with SDP.
    fn answer(&self) -> Result<(), AgentError>;
    /// Ends the leg in whichever way its state demands; `status` refuses an open INVITE.
    fn hang_up(&self, status: u16);
    /// The next event; `None` after [`LegEvent::Ended`]. Cancel-safe.
    fn next(&mut self) -> Pin<Box<dyn Future<Output = Option<LegEvent>> + Send + '_>>;
}

struct State {
    agent: Agent,
    legs: HashMap<LegId, mpsc::Sender<LegEvent>>,
}

struct Shared {
    state: Mutex<State>,
    up: watch::Sender<bool>,
    wake: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere is a bug already reported; the trunk goes on.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, act: impl FnOnce(&mut Agent, std::time::Instant) -> T) -> T {
        let now = Instant::now().into_std();
        let result = act(&mut self.lock().agent, now);
        self.wake.notify_one();
        result
    }
}

/// A trunk's SIP sockets. Clones share them.
#[derive(Clone)]
pub struct SipPort {
    shared: Arc<Shared>,
    local: SocketAddr,
}

/// A call from the trunk and the leg to answer it with.
pub type IncomingCall = (Incoming, Box<dyn SipLeg>);

impl SipPort {
    /// Binds UDP and TCP to `bind` and serves them until `stop`. `advertised` of the
    /// configuration may have port 0: it then takes the bound one.
    pub async fn bind(
        bind: SocketAddr,
        mut config: AgentConfig,
        random: Random,
        tracker: &TaskTracker,
        stop: CancellationToken,
    ) -> io::Result<(Self, mpsc::Receiver<IncomingCall>)> {
        let (udp, tcp) = bind_both(bind).await?;
        let local = udp.local_addr()?;
        if config.advertised.port() == 0 {
            config.advertised.set_port(local.port());
        }
        // The first send right after `bind` would find the socket not ready.
        udp.writable().await?;
        let agent = Agent::new(config, random);
        let shared = Arc::new(Shared {
            state: Mutex::new(State { agent, legs: HashMap::new() }),
            up: watch::Sender::new(true),
            wake: Notify::new(),
        });
        let (incoming_in, incoming) = mpsc::channel(INCOMING);
        let (events_in, events) = mpsc::channel(256);
        tracker.spawn(accept_loop(tcp, events_in.clone(), stop.clone()));
        let connections = Connections::new(local.ip(), events_in, tracker.clone(), stop.clone());
        let driver = Driver { shared: shared.clone(), udp, connections, events, incoming: incoming_in, stop };
        tracker.spawn(driver.run());
        Ok((Self { shared, local }, incoming))
    }

    /// The bound address.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Places a call at the trunk.
    pub fn invite(&self, call: OutgoingInvite) -> Result<Box<dyn SipLeg>, AgentError> {
        let (sender, events) = mpsc::channel(EVENTS);
        let now = Instant::now().into_std();
        let mut state = self.shared.lock();
        let id = state.agent.invite(now, call)?;
        state.legs.insert(id, sender);
        drop(state);
        self.shared.wake.notify_one();
        Ok(Box::new(SipHandle { shared: self.shared.clone(), id, events }))
    }

    /// Refuses new calls from the trunk from now on.
    pub fn drain(&self) {
        self.shared.lock().agent.drain();
    }

    /// Asks the peer from now on whether it is alive, and tells whether it is.
    pub fn watch(&self) -> watch::Receiver<bool> {
        self.shared.with(Agent::watch);
        self.shared.up.subscribe()
    }

    /// A call got no answer at all: the peer is asked at once.
    pub fn suspect(&self) {
        self.shared.with(Agent::suspect);
    }

    /// The peer is known to be dead. Never without [`Self::watch`].
    pub fn is_down(&self) -> bool {
        !*self.shared.up.borrow()
    }

    /// Legs that stand.
    pub fn legs(&self) -> usize {
        self.shared.lock().agent.legs()
    }
}

/// The leg of a real trunk. Dropping it hangs up.
pub struct SipHandle {
    shared: Arc<Shared>,
    id: LegId,
    events: mpsc::Receiver<LegEvent>,
}

impl SipLeg for SipHandle {
    fn attach(&self, media: LocalMedia) -> Result<Option<MediaPlan>, AgentError> {
        self.shared.with(|agent, _| agent.attach_media(self.id, media))
    }

    fn ring(&self) -> Result<(), AgentError> {
        self.shared.with(|agent, now| agent.ring(now, self.id))
    }

    fn progress(&self) -> Result<(), AgentError> {
        self.shared.with(|agent, now| agent.progress(now, self.id))
    }

    fn answer(&self) -> Result<(), AgentError> {
        self.shared.with(|agent, now| agent.answer(now, self.id))
    }

    fn hang_up(&self, status: u16) {
        self.shared.with(|agent, now| agent.hang_up(now, self.id, status));
    }

    fn next(&mut self) -> Pin<Box<dyn Future<Output = Option<LegEvent>> + Send + '_>> {
        Box::pin(self.events.recv())
    }
}

impl Drop for SipHandle {
    fn drop(&mut self) {
        self.hang_up(480);
    }
}

struct Driver {
    shared: Arc<Shared>,
    udp: UdpSocket,
    connections: Connections,
    events: mpsc::Receiver<TcpEvent>,
    incoming: mpsc::Sender<IncomingCall>,
    stop: CancellationToken,
}

impl Driver {
    async fn run(mut self) {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let deadline = self.flush();
            tokio::select! {
                () = self.stop.cancelled() => return,
                received = self.udp.recv_from(&mut buffer) => self.received(received, &mut buffer).await,
                Some(event) = self.events.recv() => self.tcp(event),
                () = self.shared.wake.notified() => {}
                () = tokio::time::sleep_until(deadline) => {
                    self.shared.lock().agent.handle_timeout(Instant::now().into_std());
                }
            }
        }
    }

    async fn received(&mut self, first: io::Result<(usize, SocketAddr)>, buffer: &mut [u8]) {
        let mut received = first;
        for _ in 0..BATCH {
            match received {
                Ok((length, source)) => self.datagram(&buffer[..length], source),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    // ICMP of an earlier datagram, or no memory: the socket itself is sound.
                    tracing::debug!(%error, "receiving SIP failed; going on");
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    return;
                }
            }
            received = self.udp.try_recv_from(buffer);
        }
    }

    fn datagram(&mut self, bytes: &[u8], source: SocketAddr) {
        let now = Instant::now().into_std();
        let answer = self.shared.lock().agent.handle_datagram(now, Bytes::copy_from_slice(bytes), source);
        if let Some(answer) = answer {
            let _ = self.udp.try_send_to(&answer, source);
        }
    }

    fn tcp(&mut self, event: TcpEvent) {
        let now = Instant::now().into_std();
        match event {
            TcpEvent::Accepted(stream, peer) => {
                if self.shared.lock().agent.serves(peer.ip()) {
                    self.connections.accepted(stream, peer);
                }
            }
            TcpEvent::Message(id, peer, message) => {
                let flow = Flow::Tcp { connection: Some(id), peer };
                self.shared.lock().agent.handle_message(now, *message, flow);
            }
            TcpEvent::Closed(id, peer) => {
                self.connections.closed(id);
                let mut state = self.shared.lock();
                for connection in [None, Some(id)] {
                    state.agent.handle_transport_failure(now, Flow::Tcp { connection, peer });
                }
            }
        }
    }

    /// Sends and hands out what waits; returns the next deadline.
    fn flush(&mut self) -> Instant {
        let shared = self.shared.clone();
        let mut state = shared.lock();
        while let Some(incoming) = state.agent.poll_incoming() {
            self.announce(&mut state, incoming);
        }
        while let Some((id, event)) = state.agent.poll_event() {
            deliver(&mut state, id, event);
        }
        if let Some(up) = state.agent.poll_health() {
            self.shared.up.send_replace(up);
        }
        while let Some((flow, bytes)) = state.agent.poll_transmit() {
            match flow {
                // Lost like any datagram; the transaction repeats it.
                Flow::Udp(peer) => drop(self.udp.try_send_to(&bytes, peer)),
                Flow::Tcp { connection, peer } => self.connections.send(connection, peer, bytes),
            }
        }
        let idle = Instant::now() + Duration::from_secs(3600);
        state.agent.next_timeout().map_or(idle, Instant::from_std)
    }

    fn announce(&self, state: &mut State, incoming: Incoming) {
        let id = incoming.leg;
        let Ok(place) = self.incoming.try_reserve() else {
            state.agent.hang_up(Instant::now().into_std(), id, 503);
            return;
        };
        let (sender, events) = mpsc::channel(EVENTS);
        state.legs.insert(id, sender);
        let handle = SipHandle { shared: self.shared.clone(), id, events };
        place.send((incoming, Box::new(handle)));
    }
}

fn deliver(state: &mut State, id: LegId, event: LegEvent) {
    let ended = matches!(event, LegEvent::Ended(_));
    let Some(sender) = state.legs.get(&id) else { return };
    let taken = sender.try_send(event).is_ok();
    if !taken && !ended {
        tracing::warn!(leg = id.0, "a call does not take its SIP events: it is ended");
        state.agent.hang_up(Instant::now().into_std(), id, 500);
        let _ = sender.try_send(LegEvent::Ended(End::of(EndCause::Overrun)));
    }
    if ended || !taken {
        state.legs.remove(&id);
    }
}

async fn bind_both(bind: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let fixed = bind.port() != 0;
    // With port 0 the port that UDP got may be taken for TCP: then another one.
    for _ in 0..16 {
        let udp = UdpSocket::bind(bind).await?;
        let socket = socket2::SockRef::from(&udp);
        let _ = socket.set_recv_buffer_size(1 << 20);
        match TcpListener::bind(udp.local_addr()?).await {
            Ok(tcp) => return Ok((udp, tcp)),
            Err(error) if fixed => return Err(error),
            Err(_) => {}
        }
    }
    Err(io::Error::new(io::ErrorKind::AddrInUse, "no port that is free for UDP and TCP"))
}

#[cfg(test)]
#[path = "driver_tests.rs"]
mod tests;
