//! Decides the life of WebRTC calls in the bridge: who makes them, who wakes them, who frees them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::endpoint::{Endpoint, Line};
use super::leg::{self, Arrival, Leg, Received};
use super::timer::{LegId, Timers};
use super::{
    Encoding, Negotiated, Rewriter, RtcConfig, RtcError, RtcEvent, RtcLeg, RtcStats, RtpPacket, RtpSink, sdp,
};

/// How often our public address is asked for: NAT boxes forget an idle mapping after 30 s at the earliest.
const MAPPING_INTERVAL: Duration = Duration::from_secs(15);
/// Waits for the STUN server's answer, each after a request; then the next interval.
const MAPPING_RETRIES: [Duration; 3] =
    [Duration::from_millis(250), Duration::from_millis(500), Duration::from_secs(1)];
/// A call waits this long for a socket's first mapping; then it goes on with its host candidates.
const MAPPING_DEADLINE: Duration = Duration::from_millis(600);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic in one call must not take the others along; each value is whole between statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// All WebRTC calls of a bridge. Cheap to clone; the tasks end with [`RtcHub::close`] or the last clone.
#[derive(Clone)]
pub struct RtcHub {
    hub: Arc<Hub>,
    _guard: Arc<Guard>,
}

struct Guard(CancellationToken);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

struct Hub {
    config: RtcConfig,
    shared: Arc<Endpoint>,
    calls: Mutex<HashMap<LegId, Arc<Call>>>,
    next: AtomicU64,
    timers: Timers,
    stun: watch::Sender<Option<SocketAddr>>,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

/// One call as the hub's tasks see it.
pub(super) struct Call {
    pub(super) id: LegId,
    myself: Weak<Call>,
    endpoint: Arc<Endpoint>,
    leg: Mutex<Leg>,
    sink: RwLock<Option<Arc<dyn RtpSink>>>,
}

/// The WebRTC side of one call. Dropping it closes the call.
pub struct RtcCall {
    call: Arc<Call>,
    hub: Arc<Hub>,
}

/// The events of one call.
pub struct RtcEvents(mpsc::Receiver<RtcEvent>);

impl RtcEvents {
    /// The next event; `None` once the call is closed and all were read. At most 64 wait; more are dropped.
    pub async fn next(&mut self) -> Option<RtcEvent> {
        self.0.recv().await
    }
}

impl RtcHub {
    /// Binds the shared sockets and starts the hub's tasks.
    ///
    /// # Errors
    /// [`RtcError::Bind`].
    pub fn bind(config: RtcConfig) -> Result<Self, RtcError> {
        let cancel = CancellationToken::new();
        let bind = |source| RtcError::Bind { address: config.bind, source };
        let shared = Arc::new(Endpoint::bind(config.bind, cancel.child_token()).map_err(bind)?);
        let stun = watch::channel(config.stun).0;
        let hub = Arc::new(Hub {
            config,
            shared,
            calls: Mutex::default(),
            next: AtomicU64::new(1),
            timers: Timers::default(),
            stun,
            tasks: TaskTracker::new(),
            cancel: cancel.clone(),
        });
        hub.serve(&hub.shared);
        let ticking = Arc::clone(&hub);
        hub.spawn(cancel.clone(), async move { ticking.tick().await });
        Ok(Self { hub, _guard: Arc::new(Guard(cancel)) })
    }

    /// The first address of the shared sockets.
    pub fn local_addr(&self) -> SocketAddr {
        self.hub.shared.local(0)
    }

    /// Changes the STUN server, for instance after the homeserver moved.
    pub fn set_stun(&self, server: Option<SocketAddr>) {
        self.hub.stun.send_if_modified(|current| std::mem::replace(current, server) != server);
    }

    /// Calls under way.
    pub fn calls(&self) -> usize {
        lock(&self.hub.calls).len()
    }

    /// Answers a peer's offer on the shared sockets. The answer is final and names one codec: the first of
    /// `encodings` that the offer has [BRIDGE-SDP-20]; telephone events when both have them.
    ///
    /// # Errors
    /// [`RtcError::NoMedia`], [`RtcError::NoCommonCodec`], [`RtcError::Sdp`], [`RtcError::Full`].
    pub async fn answer(
        &self,
        offer: &str,
        encodings: &[Encoding],
    ) -> Result<(RtcCall, RtcEvents, String), RtcError> {
        let offered = if offer.len() > sdp::LONGEST { Vec::new() } else { sdp::encodings(offer) };
        if offered.is_empty() {
            return Err(RtcError::NoMedia);
        }
        let common = encodings.iter().copied().filter(|encoding| offered.contains(encoding));
        let audio = common.clone().find(|encoding| encoding.is_audio()).ok_or(RtcError::NoCommonCodec)?;
        let accepted: Vec<Encoding> = [audio].into_iter().chain(common.filter(|e| !e.is_audio())).collect();
        self.hub.mapped(&self.hub.shared).await;
        let (call, events) = self.hub.call(Arc::clone(&self.hub.shared), &accepted)?;
        let answer = self.hub.with(&call.call, |leg| leg.accept_offer(offer))?;
        Ok((call, events, answer))
    }

    /// Makes an offer on sockets of its own.
    ///
    /// # Errors
    /// [`RtcError::Bind`], [`RtcError::Full`].
    pub async fn offer(&self, encodings: &[Encoding]) -> Result<(RtcCall, RtcEvents, String), RtcError> {
        let address = SocketAddr::new(self.hub.config.bind.ip(), 0);
        let bind = |source| RtcError::Bind { address, source };
        let own = Arc::new(Endpoint::bind(address, self.hub.cancel.child_token()).map_err(bind)?);
        // Held over the waits below: the sockets are freed even when this future is dropped there.
        let guard = own.cancel.clone().drop_guard();
        self.hub.serve(&own);
        self.hub.mapped(&own).await;
        let (call, events) = self.hub.call(own, encodings)?;
        let offer = self.hub.with(&call.call, Leg::offer)?;
        guard.disarm();
        Ok((call, events, offer))
    }

    /// Closes every call and waits until the hub's tasks are gone.
    pub async fn close(&self) {
        let calls: Vec<Arc<Call>> = lock(&self.hub.calls).values().cloned().collect();
        for call in calls {
            self.hub.end(&call);
        }
        self.hub.tasks.close();
        self.hub.cancel.cancel();
        self.hub.tasks.wait().await;
    }
}

impl Hub {
    fn spawn(&self, cancel: CancellationToken, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(async move {
            let _ = cancel.run_until_cancelled(task).await;
        });
    }

    /// Starts the tasks of an endpoint: one reader per socket, one that watches its public address.
    fn serve(self: &Arc<Self>, endpoint: &Arc<Endpoint>) {
        for socket in 0..endpoint.sockets() {
            let (hub, reading) = (Arc::clone(self), Arc::clone(endpoint));
            self.spawn(endpoint.cancel.clone(), async move {
                reading
                    .read(socket, |socket, source, datagram| hub.datagram(&reading, socket, source, datagram))
                    .await;
            });
        }
        let (hub, asking) = (Arc::clone(self), Arc::clone(endpoint));
        self.spawn(endpoint.cancel.clone(), async move { hub.watch_mapping(&asking).await });
    }

    async fn watch_mapping(&self, endpoint: &Endpoint) {
        let mut stun = self.stun.subscribe();
        loop {
            let server = *stun.borrow_and_update();
            let asked = async {
                let Some(server) = server else { return std::future::pending().await };
                for wait in MAPPING_RETRIES {
                    endpoint.ask(server, || self.random()).await;
                    tokio::time::sleep(wait).await;
                    if !endpoint.asking() {
                        break;
                    }
                }
                tokio::time::sleep(MAPPING_INTERVAL).await;
            };
            tokio::select! {
                () = asked => {}
                changed = stun.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Waits for the endpoint's first mapping, as long as that makes sense.
    async fn mapped(&self, endpoint: &Endpoint) {
        if self.stun.borrow().is_some() {
            // A silent STUN server costs its candidate, not the call.
            let _ = timeout(MAPPING_DEADLINE, endpoint.mapped()).await;
        }
    }

    fn random<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.config.entropy.fill(&mut bytes);
        bytes
    }

    fn call(
        self: &Arc<Self>,
        endpoint: Arc<Endpoint>,
        encodings: &[Encoding],
    ) -> Result<(RtcCall, RtcEvents), RtcError> {
        let [a, b, timestamp @ ..] = self.random::<6>();
        let rewriter = Rewriter::new(u16::from_be_bytes([a, b]), u32::from_be_bytes(timestamp));
        let (sender, events) = mpsc::channel(leg::EVENTS);
        let mut leg = Leg::new(encodings, endpoint.candidates(), rewriter, sender, now());
        let ufrag = leg.ufrag();
        let mut calls = lock(&self.calls);
        if calls.len() >= self.config.max_calls {
            return Err(RtcError::Full(self.config.max_calls));
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let call = Arc::new_cyclic(|myself| Call {
            id,
            myself: myself.clone(),
            endpoint,
            leg: Mutex::new(leg),
            sink: RwLock::new(None),
        });
        calls.insert(id, Arc::clone(&call));
        drop(calls);
        call.endpoint.expect(ufrag, &call);
        Ok((RtcCall { call, hub: Arc::clone(self) }, RtcEvents(events)))
    }

    /// Changes a leg, sends what it has to say, re-arms its timer, and relays what it received.
    fn with<T>(&self, call: &Call, act: impl FnOnce(&mut Leg) -> T) -> T {
        let mut received: Vec<Received> = Vec::new();
        let mut leg = lock(&call.leg);
        let result = act(&mut leg);
        leg.drain(&Line { endpoint: &call.endpoint, call: &call.myself }, &mut received);
        let deadline = leg.deadline();
        let sooner = leg.armed.is_none_or(|armed| deadline < armed);
        if sooner {
            leg.armed = Some(deadline);
        }
        // The sink may be the other leg of a call between two hubs: never hold one lock while taking another.
        drop(leg);
        if sooner {
            self.timers.arm(deadline, call.id);
        }
        if !received.is_empty() {
            call.relay(&received);
        }
        result
    }

    fn datagram(&self, endpoint: &Endpoint, socket: usize, source: SocketAddr, datagram: &[u8]) {
        let server = *self.stun.borrow();
        if server == Some(source) {
            self.mapping(endpoint, datagram);
        }
        let Some(attributed) = endpoint.attribute(socket, source, datagram) else { return };
        let now = now();
        let arrival =
            Arrival { source, local: endpoint.local(socket), datagram, is_stun: attributed.is_stun };
        if self.with(&attributed.call, |leg| leg.receive(&arrival, now)) {
            endpoint.learn(&attributed, now);
        }
    }

    fn mapping(&self, endpoint: &Endpoint, datagram: &[u8]) {
        let Some(change) = endpoint.answered(datagram) else { return };
        for call in endpoint.calls() {
            self.with(&call, |leg| leg.remap(change.old.clone(), change.new.clone()));
        }
    }

    async fn tick(&self) {
        loop {
            for (at, id) in self.timers.due().await {
                let Some(call) = lock(&self.calls).get(&id).cloned() else { continue };
                // Armed anew since, for an earlier time: that entry did the work.
                if lock(&call.leg).armed != Some(at) {
                    continue;
                }
                let now = now();
                self.with(&call, |leg| {
                    leg.armed = None;
                    leg.tick(now);
                });
            }
            tokio::task::consume_budget().await;
        }
    }

    fn end(&self, call: &Call) {
        if lock(&self.calls).remove(&call.id).is_none() {
            return;
        }
        self.with(call, Leg::close);
        // Two calls that relay into each other would keep each other alive.
        call.set_sink(None);
        call.endpoint.forget(call.id);
        if !std::ptr::eq(Arc::as_ptr(&self.shared), Arc::as_ptr(&call.endpoint)) {
            call.endpoint.cancel.cancel();
        }
    }
}

impl Call {
    fn set_sink(&self, sink: Option<Arc<dyn RtpSink>>) {
        *self.sink.write().unwrap_or_else(PoisonError::into_inner) = sink;
    }

    fn relay(&self, received: &[Received]) {
        let sink = self.sink.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(sink) = sink {
            for packet in received {
                sink.rtp(packet.as_packet());
            }
        }
    }
}

impl RtcCall {
    fn open(&self) -> Result<(), RtcError> {
        let open = lock(&self.hub.calls).contains_key(&self.call.id);
        if open { Ok(()) } else { Err(RtcError::Closed) }
    }
}

impl RtpSink for RtcCall {
    fn rtp(&self, packet: RtpPacket<'_>) {
        let now = now();
        self.hub.with(&self.call, |leg| leg.write(&packet, now));
    }
}

impl RtcLeg for RtcCall {
    fn negotiated(&self) -> Option<Negotiated> {
        lock(&self.call.leg).negotiated()
    }

    fn relay_to(&self, sink: Option<Arc<dyn RtpSink>>) {
        self.call.set_sink(sink);
    }

    fn accept_answer(&self, answer: &str) -> Result<(), RtcError> {
        self.open()?;
        self.hub.with(&self.call, |leg| leg.accept_answer(answer))
    }

    fn restart(&self) -> Result<String, RtcError> {
        self.open()?;
        let (offer, ufrag) = self.hub.with(&self.call, Leg::restart)?;
        self.call.endpoint.expect(ufrag, &self.call);
        Ok(offer)
    }

    fn accept_restart(&self, offer: &str) -> Result<String, RtcError> {
        self.open()?;
        let (answer, ufrag) = self.hub.with(&self.call, |leg| (leg.accept_offer(offer), leg.ufrag()));
        self.call.endpoint.expect(ufrag, &self.call);
        answer
    }

    fn stats(&self) -> RtcStats {
        lock(&self.call.leg).stats()
    }

    fn close(&self) {
        self.hub.end(&self.call);
    }
}

impl Drop for RtcCall {
    fn drop(&mut self) {
        self.hub.end(&self.call);
    }
}
