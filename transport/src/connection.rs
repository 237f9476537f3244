//! An authenticated connection: streams by kind, each kind within its own count, and what the control
//! stream carries after `Ready`.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use ahoy_proto::fault::Fault;
use ahoy_proto::name::Name;
use ahoy_proto::v1::control_frame::Frame;
use ahoy_proto::v1::open::Open as Kind;
use ahoy_proto::v1::{self, ControlFrame, ErrorCode};
use quinn::VarInt;
use tokio::sync::{Mutex, Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use crate::driver::{Arriving, ControlEvent, Driver, Pending, Shared};
use crate::endpoint::Registry;
use crate::error::{Closed, StreamError, code};
use crate::limits::PeerLimits;
use crate::stream::{RecvHalf, SendHalf, Stream};

/// Bytes that a connection may have on the way to a reader: eight stuck streams do not stop a ninth.
const RECEIVE_WINDOW: u32 = 8 * STREAM_WINDOW;
/// The same for one stream: two of the largest frames.
pub(crate) const STREAM_WINDOW: u32 = 2 * ahoy_proto::limit::FRAME_BYTES as u32;
/// Streams and control events that wait for the application.
const QUEUE: usize = 64;
/// Questions on the control stream that wait for an answer.
const QUESTIONS: usize = 64;
/// How long a finished exchange waits for the peer's end of stream before it counts as over anyway.
const LINGER: Duration = Duration::from_millis(100);

/// A connection after `Ready`. Cloning shares it; it is closed when the last clone and stream are dropped.
#[derive(Debug, Clone)]
pub struct Connection(Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    id: u64,
    quic: quinn::Connection,
    spki: Option<[u8; 32]>,
    peer: PeerLimits,
    frame_bytes: usize,
    requests: Arc<Semaphore>,
    calls: Arc<Semaphore>,
    shared: Arc<Shared>,
    control: Mutex<SendHalf>,
    streams: Mutex<mpsc::Receiver<Arriving>>,
    events: Mutex<mpsc::Receiver<ControlEvent>>,
    busy: AtomicUsize,
    quiet: Notify,
    registry: Weak<Registry>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.quic.close(code(ErrorCode::Unspecified), b"");
        if let Some(registry) = self.registry.upgrade() {
            registry.remove(self.id);
        }
    }
}

/// What the handshake leaves behind.
pub(crate) struct Authenticated {
    pub(crate) quic: quinn::Connection,
    pub(crate) spki: Option<[u8; 32]>,
    pub(crate) send: SendHalf,
    pub(crate) recv: RecvHalf,
    pub(crate) peer: PeerLimits,
}

impl Connection {
    /// Lets the peer open streams, and starts reading what it sends.
    pub(crate) fn start(authenticated: Authenticated, registry: &Arc<Registry>) -> Self {
        let Authenticated { quic, spki, mut send, mut recv, peer } = authenticated;
        let limits = registry.limits();
        recv.lift_budget(limits.frame_bytes);
        send.set_limit(peer.frame_bytes);
        quic.set_receive_window(VarInt::from_u32(RECEIVE_WINDOW));
        quic.set_max_concurrent_bi_streams(VarInt::from_u32(limits.streams()));
        let (streams_in, streams) = mpsc::channel(QUEUE);
        let (events_in, events) = mpsc::channel(QUEUE);
        let shared = Arc::new(Shared::default());
        let connection = Self(Arc::new(Inner {
            id: registry.next_id(),
            quic: quic.clone(),
            spki,
            peer,
            frame_bytes: limits.frame_bytes,
            requests: Arc::new(Semaphore::new(peer.request_streams)),
            calls: Arc::new(Semaphore::new(peer.call_streams)),
            shared: shared.clone(),
            control: Mutex::new(send),
            streams: Mutex::new(streams),
            events: Mutex::new(events),
            busy: AtomicUsize::new(0),
            quiet: Notify::new(),
            registry: Arc::downgrade(registry),
        }));
        registry.insert(connection.id(), Arc::downgrade(&connection.0));
        let driver = Driver::new(quic, peer, registry, shared, streams_in, events_in);
        registry.spawn(driver.run(recv));
        connection
    }

    pub(crate) fn from_inner(inner: Arc<Inner>) -> Self {
        Self(inner)
    }

    /// Opens a stream and says what it is. Requests and calls wait while the peer's count is full: bound it.
    ///
    /// # Errors
    /// [`StreamError::Draining`] after the peer's `GoAway`; else [`StreamError::Lost`], `TooLarge`.
    pub async fn open(&self, open: Kind) -> Result<Stream, StreamError> {
        let mut stream = self.begin(open).await?;
        stream.0.flush().await?;
        Ok(Stream::new(stream.0, stream.1, self.clone()))
    }

    async fn begin(&self, open: Kind) -> Result<(SendHalf, RecvHalf), StreamError> {
        if let Some(after) = self.going_away() {
            return Err(StreamError::Draining(after));
        }
        let place = self.place(&open).await;
        let (send, recv) = self.0.quic.open_bi().await.map_err(Closed::from)?;
        let mut send = SendHalf::new(send, self.0.peer.frame_bytes);
        // On this side the place lasts until the exchange is over, so that the peer never counts one more.
        let recv = RecvHalf::new(recv, self.0.frame_bytes).with_place(place);
        send.feed(&v1::Open { open: Some(open) })?;
        Ok((send, recv))
    }

    async fn place(&self, open: &Kind) -> Option<OwnedSemaphorePermit> {
        let places = match open {
            Kind::Request(_) => &self.0.requests,
            Kind::Call(_) => &self.0.calls,
            Kind::Sync(_) | Kind::Pipe(_) | Kind::Blob(_) => return None,
        };
        Some(places.clone().acquire_owned().await.expect("these semaphores are never closed"))
    }

    /// The next stream that the peer opened; `None` when the connection is gone. Cancel-safe.
    pub async fn accept(&self) -> Option<(Kind, Stream)> {
        let Arriving { open, send, recv } = self.0.streams.lock().await.recv().await?;
        Some((open, Stream::new(send, recv, self.clone())))
    }

    /// One request and its response, within `deadline`.
    ///
    /// # Errors
    /// [`StreamError::Refused`] when the response is an error; [`StreamError::Deadline`]; those of
    /// [`Connection::open`].
    pub async fn request(
        &self,
        request: v1::Request,
        deadline: Duration,
    ) -> Result<v1::Response, StreamError> {
        let exchange = self.exchange(request);
        timeout(deadline, exchange).await.unwrap_or(Err(StreamError::Deadline(deadline)))
    }

    async fn exchange(&self, request: v1::Request) -> Result<v1::Response, StreamError> {
        let (mut send, recv) = self.begin(Kind::Request(request)).await?;
        send.flush().await?;
        // Finished before the peer answers: both frames share a packet with the end of stream.
        send.finish();
        let mut stream = Stream::new(send, recv, self.clone());
        let response: v1::Response = stream.recv().await?.ok_or(StreamError::Ended)?;
        // The peer's count goes down with its end of stream, which travels right behind the response.
        let _ = timeout(LINGER, stream.recv::<v1::Response>()).await;
        match response.response {
            Some(v1::response::Response::Error(error)) => Err(StreamError::Refused(error.into())),
            Some(_) => Ok(response),
            None => Err(StreamError::Refused(Fault::unsupported("this kind of response"))),
        }
    }

    /// Asks for the card of another name that the peer serves.
    ///
    /// # Errors
    /// [`StreamError::Refused`] with the peer's reason, [`StreamError::Deadline`], [`StreamError::Lost`].
    pub async fn want(&self, name: &Name, deadline: Duration) -> Result<v1::Signed, StreamError> {
        let frame = Frame::Want(v1::Want { name: name.as_str().to_owned() });
        let answer = self.ask(&self.0.shared.wants, name, frame, deadline).await?;
        match (answer.error, answer.card) {
            (None, Some(card)) => Ok(card),
            (Some(error), _) => Err(StreamError::Refused(error.into())),
            (None, None) => Err(StreamError::Ended),
        }
    }

    /// Claims another name for this side: the peer looks the connection's TLS key up in its card.
    ///
    /// # Errors
    /// As [`Connection::want`].
    pub async fn claim(&self, name: &Name, card: v1::Signed, deadline: Duration) -> Result<(), StreamError> {
        let frame = Frame::Claim(v1::Claim { card: Some(card) });
        let answer = self.ask(&self.0.shared.claims, name, frame, deadline).await?;
        answer.error.map_or(Ok(()), |error| Err(StreamError::Refused(error.into())))
    }

    async fn ask<T>(
        &self,
        pending: &Pending<T>,
        name: &Name,
        frame: Frame,
        deadline: Duration,
    ) -> Result<T, StreamError> {
        let (answered, answer) = oneshot::channel();
        if !pending.add(name.as_str(), answered, QUESTIONS) {
            return Err(StreamError::Refused(Fault::new(ErrorCode::Limit, "too many questions at once")));
        }
        let exchange = async {
            self.control(frame).await?;
            answer.await.map_err(|_| StreamError::Lost(self.close_reason()))
        };
        let outcome = timeout(deadline, exchange).await;
        pending.forget_abandoned(name.as_str());
        outcome.unwrap_or(Err(StreamError::Deadline(deadline)))
    }

    /// What the peer says on the control stream; `None` when the connection is gone. Cancel-safe.
    pub async fn control_event(&self) -> Option<ControlEvent> {
        self.0.events.lock().await.recv().await
    }

    /// Answers [`ControlEvent::Want`].
    ///
    /// # Errors
    /// [`StreamError::Lost`], `TooLarge`.
    pub async fn answer_want(&self, name: &Name, card: Result<v1::Signed, Fault>) -> Result<(), StreamError> {
        let name = name.as_str().to_owned();
        let answer = match card {
            Ok(card) => v1::CardAnswer { name, card: Some(card), error: None },
            Err(fault) => v1::CardAnswer { name, card: None, error: Some(fault.into()) },
        };
        self.control(Frame::Card(answer)).await
    }

    /// Answers [`ControlEvent::Claim`] for the name found in the claimed card.
    ///
    /// # Errors
    /// [`StreamError::Lost`].
    pub async fn answer_claim(&self, name: &Name, verdict: Result<(), Fault>) -> Result<(), StreamError> {
        let error = verdict.err().map(Into::into);
        self.control(Frame::Claimed(v1::Claimed { name: name.as_str().to_owned(), error })).await
    }

    /// Tells the peer that a name has a newer card.
    ///
    /// # Errors
    /// [`StreamError::Lost`].
    pub async fn card_changed(&self, name: &Name, seq: u64) -> Result<(), StreamError> {
        self.control(Frame::CardChanged(v1::CardChanged { name: name.as_str().to_owned(), seq })).await
    }

    /// Tells the peer to open nothing new here, and resets what it opens all the same with `unavailable`.
    /// Streams that are open go on. [WIRE-STREAM-03]
    ///
    /// # Errors
    /// [`StreamError::Lost`].
    pub async fn go_away(&self, reconnect_after: Duration) -> Result<(), StreamError> {
        self.0.shared.refuse_streams();
        let reconnect_after_ms = u32::try_from(reconnect_after.as_millis()).unwrap_or(u32::MAX);
        self.control(Frame::GoAway(v1::GoAway { reconnect_after_ms })).await
    }

    /// After the peer's `GoAway`: how long it asks to wait before connecting anew.
    pub fn going_away(&self) -> Option<Duration> {
        *self.0.shared.going_away.borrow()
    }

    async fn control(&self, frame: Frame) -> Result<(), StreamError> {
        let mut control = self.0.control.lock().await;
        control.send(&ControlFrame { frame: Some(frame) }).await
    }

    /// Closes at once and in order. What was not delivered is lost: finish streams first.
    pub fn close(&self) {
        self.0.quic.close(code(ErrorCode::Unspecified), b"");
    }

    /// Closes at once and says why.
    pub fn close_with(&self, fault: &Fault) {
        self.0.quic.close(code(fault.code), fault.message.as_bytes());
    }

    /// Resolves when the connection is gone.
    pub async fn closed(&self) -> Closed {
        self.0.quic.closed().await.into()
    }

    /// Whether the connection is gone, and why.
    pub fn is_closed(&self) -> Option<Closed> {
        self.0.quic.close_reason().map(Closed::from)
    }

    fn close_reason(&self) -> Closed {
        self.is_closed().unwrap_or(Closed::ByPeer)
    }

    /// Where the peer's packets come from, as of now.
    pub fn remote_addr(&self) -> SocketAddr {
        self.0.quic.remote_address()
    }

    /// SHA-256 of the SPKI that the peer showed; a device or service shows none.
    pub fn spki(&self) -> Option<[u8; 32]> {
        self.0.spki
    }

    /// Unique within the endpoint.
    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// The current estimate of the round-trip time.
    pub fn rtt(&self) -> Duration {
        self.0.quic.rtt()
    }

    pub(crate) fn stream_opened(&self) {
        self.0.busy.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn stream_closed(&self) {
        if self.0.busy.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.quiet.notify_waiters();
        }
    }

    /// Resolves when no stream is open, the connection is gone, or it is `deadline`.
    pub(crate) async fn quiet(&self, deadline: Instant) {
        let quiet = async {
            loop {
                let notified = self.0.quiet.notified();
                if self.0.busy.load(Ordering::Acquire) == 0 {
                    return;
                }
                notified.await;
            }
        };
        let either = async {
            tokio::select! {
                () = quiet => {}
                _ = self.0.quic.closed() => {}
            }
        };
        // Running out of time is one of the three expected outcomes.
        let _ = timeout_at(deadline, either).await;
    }
}
