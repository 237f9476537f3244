//! What the peer starts on a ready connection: reads each new stream's `Open` and the control stream, and
//! hands both to the application through bounded queues.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ahoy_proto::fault::Fault;
use ahoy_proto::name::{Name, NamePolicy};
use ahoy_proto::v1::control_frame::Frame;
use ahoy_proto::v1::open::Open as Kind;
use ahoy_proto::v1::{self, ControlFrame, ErrorCode};
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::endpoint::Registry;
use crate::error::{StreamError, code};
use crate::limits::{PeerLimits, TransportLimits};
use crate::stream::{RecvHalf, SendHalf};

/// Streams whose `Open` is being read, or that wait for the application.
const BACKLOG: usize = 64;

/// What the peer says on the control stream after `Ready`.
#[derive(Debug, Clone, PartialEq)]
pub enum ControlEvent {
    /// It asks for a card: `Connection::answer_want`.
    Want(Name),
    /// It claims a name: resolve the card's name, then `Connection::answer_claim`.
    Claim(v1::Signed),
    /// A name of its has a newer card.
    CardChanged {
        /// Which.
        name: Name,
        /// The new card's number.
        seq: u64,
    },
    /// It drains: open nothing new, reconnect after this time.
    GoAway(Duration),
}

/// A stream whose kind is known.
#[derive(Debug)]
pub(crate) struct Arriving {
    pub(crate) open: Kind,
    pub(crate) send: SendHalf,
    pub(crate) recv: RecvHalf,
}

/// Questions by name, with those who wait for the answer.
#[derive(Debug)]
pub(crate) struct Pending<T>(Mutex<HashMap<String, Vec<oneshot::Sender<T>>>>);

impl<T> Default for Pending<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone> Pending<T> {
    fn answer(&self, name: &str, answer: &T) {
        for waiting in self.lock().remove(name).unwrap_or_default() {
            // One who no longer waits has met its deadline.
            let _ = waiting.send(answer.clone());
        }
    }
}

impl<T> Pending<T> {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Vec<oneshot::Sender<T>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, name: &str, waiting: oneshot::Sender<T>, most: usize) -> bool {
        let mut pending = self.lock();
        let room = pending.values().map(Vec::len).sum::<usize>() < most;
        if room {
            pending.entry(name.to_owned()).or_default().push(waiting);
        }
        room
    }

    pub(crate) fn forget_abandoned(&self, name: &str) {
        let mut pending = self.lock();
        if let Some(waiting) = pending.get_mut(name) {
            waiting.retain(|one| !one.is_closed());
            if waiting.is_empty() {
                pending.remove(name);
            }
        }
    }

    fn fail_all(&self) {
        self.lock().clear();
    }
}

/// What the driver and the connection's handle both touch.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) wants: Pending<v1::CardAnswer>,
    pub(crate) claims: Pending<v1::Claimed>,
    pub(crate) going_away: watch::Sender<Option<Duration>>,
    refusing: AtomicBool,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            wants: Pending::default(),
            claims: Pending::default(),
            going_away: watch::Sender::new(None),
            refusing: AtomicBool::new(false),
        }
    }
}

impl Shared {
    pub(crate) fn refuse_streams(&self) {
        self.refusing.store(true, Ordering::Release);
    }
}

/// How many more streams of each kind the peer may open.
#[derive(Debug)]
struct Places {
    request: Arc<Semaphore>,
    call: Arc<Semaphore>,
    pipe: Arc<Semaphore>,
    sync: Arc<Semaphore>,
}

impl Places {
    fn new(limits: &TransportLimits) -> Self {
        let places = |count: u32| Arc::new(Semaphore::new(count as usize));
        Self {
            request: places(limits.request_streams),
            call: places(limits.call_streams),
            pipe: places(limits.pipe_streams),
            sync: places(limits.sync_streams),
        }
    }

    /// A place for this kind of stream, or the code that refuses it. [WIRE-STREAM-02]
    fn take(&self, open: &Kind) -> Result<OwnedSemaphorePermit, ErrorCode> {
        let places = match open {
            Kind::Request(_) => &self.request,
            Kind::Call(_) => &self.call,
            Kind::Pipe(_) => &self.pipe,
            Kind::Sync(_) => &self.sync,
            Kind::Blob(_) => return Err(ErrorCode::Unsupported),
        };
        places.clone().try_acquire_owned().map_err(|_| ErrorCode::Limit)
    }
}

pub(crate) struct Driver {
    quic: quinn::Connection,
    peer: PeerLimits,
    limits: TransportLimits,
    policy: NamePolicy,
    shared: Arc<Shared>,
    places: Places,
    streams: mpsc::Sender<Arriving>,
    events: mpsc::Sender<ControlEvent>,
}

impl Driver {
    pub(crate) fn new(
        quic: quinn::Connection,
        peer: PeerLimits,
        registry: &Registry,
        shared: Arc<Shared>,
        streams: mpsc::Sender<Arriving>,
        events: mpsc::Sender<ControlEvent>,
    ) -> Self {
        let limits = registry.limits().clone();
        let places = Places::new(&limits);
        Self { quic, peer, limits, policy: registry.policy().clone(), shared, places, streams, events }
    }

    pub(crate) async fn run(self, mut control: RecvHalf) {
        let closed = self.quic.closed();
        tokio::pin!(closed);
        let mut opening = FuturesUnordered::new();
        let mut arrived: VecDeque<Arriving> = VecDeque::new();
        let mut event: Option<ControlEvent> = None;
        loop {
            tokio::select! {
                _ = &mut closed => break,
                // A peer whose streams nobody takes waits for QUIC's credit, and for nobody else's.
                Ok((send, recv)) = self.quic.accept_bi(), if opening.len() + arrived.len() < BACKLOG => {
                    opening.push(self.read_open(send, recv));
                }
                Some(stream) = opening.next() => arrived.extend(stream),
                Ok(place) = self.streams.reserve(), if !arrived.is_empty() => {
                    if let Some(stream) = arrived.pop_front() {
                        place.send(stream);
                    }
                    while let Some(stream) = arrived.pop_front() {
                        if let Err(mpsc::error::TrySendError::Full(stream)) = self.streams.try_send(stream) {
                            arrived.push_front(stream);
                            break;
                        }
                    }
                }
                Ok(place) = self.events.reserve(), if event.is_some() => {
                    if let Some(event) = event.take() {
                        place.send(event);
                    }
                }
                frame = control.recv(), if event.is_none() => match self.controlled(frame) {
                    Ok(next) => event = next,
                    // Closing now would put this side's name on a loss that has another reason.
                    Err(_) if self.quic.close_reason().is_some() => break,
                    Err(fault) => self.quic.close(code(fault.code), fault.message.as_bytes()),
                },
            }
        }
        self.shared.wants.fail_all();
        self.shared.claims.fail_all();
    }

    /// Reads what a new stream is. A stream that does not say so in time, or is one too many, is reset.
    async fn read_open(&self, send: quinn::SendStream, recv: quinn::RecvStream) -> Option<Arriving> {
        let mut send = SendHalf::new(send, self.peer.frame_bytes);
        let mut recv = RecvHalf::new(recv, self.limits.frame_bytes);
        match self.admit(&mut recv).await {
            Ok((open, place)) => {
                send.hold_place(place);
                Some(Arriving { open, send, recv })
            }
            Err(reason) => {
                send.reset(reason);
                recv.stop(reason);
                None
            }
        }
    }

    async fn admit(&self, recv: &mut RecvHalf) -> Result<(Kind, OwnedSemaphorePermit), ErrorCode> {
        let open = timeout(self.limits.handshake_time, recv.recv::<v1::Open>()).await;
        let open = match open.map_err(|_| ErrorCode::Timeout)? {
            Ok(Some(v1::Open { open: Some(open) })) => open,
            Ok(Some(_)) => return Err(ErrorCode::Unsupported),
            Ok(None) => return Err(ErrorCode::Malformed),
            Err(error) => return Err(error.fault().code),
        };
        if self.shared.refusing.load(Ordering::Acquire) {
            return Err(ErrorCode::Unavailable);
        }
        let place = self.places.take(&open)?;
        Ok((open, place))
    }

    /// Acts on one control frame. What it may not hold ends the connection.
    fn controlled(
        &self,
        frame: Result<Option<ControlFrame>, StreamError>,
    ) -> Result<Option<ControlEvent>, Fault> {
        let frame = match frame {
            Ok(Some(frame)) => frame.frame,
            // The control stream lives as long as the connection. [WIRE-STREAM-01]
            Ok(None) => return Err(Fault::new(ErrorCode::Unspecified, "")),
            Err(error) => return Err(error.fault()),
        };
        Ok(match frame {
            Some(Frame::Want(want)) => Some(ControlEvent::Want(self.name(&want.name)?)),
            Some(Frame::Card(answer)) => {
                self.shared.wants.answer(&answer.name, &answer);
                None
            }
            Some(Frame::Claim(v1::Claim { card: Some(card) })) => Some(ControlEvent::Claim(card)),
            Some(Frame::Claim(_)) => return Err(Fault::new(ErrorCode::Malformed, "a claim without a card")),
            Some(Frame::Claimed(answer)) => {
                self.shared.claims.answer(&answer.name, &answer);
                None
            }
            Some(Frame::GoAway(away)) => {
                let after = Duration::from_millis(away.reconnect_after_ms.into());
                self.shared.going_away.send_replace(Some(after));
                Some(ControlEvent::GoAway(after))
            }
            Some(Frame::CardChanged(changed)) => {
                Some(ControlEvent::CardChanged { name: self.name(&changed.name)?, seq: changed.seq })
            }
            Some(Frame::Error(error)) => return Err(error.into()),
            Some(Frame::ClientHello(_) | Frame::ServerHello(_) | Frame::Auth(_) | Frame::Ready(_)) => {
                return Err(Fault::new(ErrorCode::OutOfOrder, "a handshake frame after Ready"));
            }
            // A frame from the future.
            None => None,
        })
    }

    fn name(&self, text: &str) -> Result<Name, Fault> {
        Name::from_wire(text, &self.policy)
            .map_err(|_| Fault::new(ErrorCode::NameInvalid, "not a name in wire form"))
    }
}
