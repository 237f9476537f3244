//! A signed-in session: requests, the sync log and calls over one connection that renews itself.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ahoy_proto::address::Address;
use ahoy_proto::limit;
use ahoy_proto::v1::{self, ErrorCode, request, response};
use ahoy_transport::{Connection, StreamError};
use bytes::Bytes;
use tokio::sync::{Mutex as AsyncMutex, mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::begin;
use crate::call::{Call, IncomingCall, PlaceCall};
use crate::error::{ClientError, Stage};
use crate::hop;
use crate::login::{DeviceLogin, Login, ServiceLogin};
use crate::network::Network;
use crate::supervisor;
use crate::sync::SyncStream;

/// Calls that may wait for [`Session::next_call`]; one more is told `Unavailable`.
pub const INCOMING_CALLS: usize = 32;
/// Wait after a lost stream before the next is opened, so that a homeserver that closes at once is not
/// asked in a tight loop.
const STREAM_PAUSE: Duration = Duration::from_millis(200);

/// How the session stands.
#[derive(Clone, Debug)]
pub enum Status {
    /// Resolving, connecting or signing in.
    Connecting,
    /// Signed in.
    Online,
    /// The homeserver drains; a new connection follows, calls go on meanwhile.
    Draining,
    /// The last attempt failed; the next one follows after `retry_in`.
    Waiting {
        /// Until the next attempt.
        retry_in: Duration,
        /// Why.
        error: ClientError,
    },
    /// Refused for good: nothing more is tried.
    Refused(ClientError),
    /// Closed by this side.
    Closed,
}

/// A live, signed-in connection.
#[derive(Clone)]
pub(crate) struct Link {
    pub(crate) connection: Connection,
    pub(crate) ready: Arc<v1::Ready>,
    /// Rises with each connection of this session.
    pub(crate) serial: u64,
}

/// What the session's tasks share.
pub(crate) struct Shared {
    pub(crate) network: Network,
    pub(crate) login: Login,
    pub(crate) status: watch::Sender<Status>,
    pub(crate) link: watch::Sender<Option<Link>>,
    /// The homeserver's address that answered last: it answers STUN too.
    pub(crate) stun: Mutex<Option<SocketAddr>>,
    /// Calls that a homeserver may resume, by call id.
    pub(crate) calls: Mutex<HashMap<Bytes, mpsc::Sender<hop::Arrival>>>,
    pub(crate) incoming: mpsc::Sender<IncomingCall>,
    /// The tasks of calls, which say goodbye before the connection is closed.
    pub(crate) hops: TaskTracker,
    pub(crate) tracker: TaskTracker,
    pub(crate) stop: CancellationToken,
    serial: AtomicU64,
}

/// A signed-in device or service. Clones share the connection; it ends with the last clone.
#[derive(Clone)]
pub struct Session {
    pub(crate) shared: Arc<Shared>,
    incoming: Arc<AsyncMutex<mpsc::Receiver<IncomingCall>>>,
    _guard: Arc<DropGuard>,
}

impl Session {
    /// Resolves the account's homeserver, verifies it, and signs the device in.
    ///
    /// # Errors
    /// The first attempt's failure, retryable or not. Once signed in, the session reconnects by itself.
    pub async fn sign_in_device(network: &Network, login: DeviceLogin) -> Result<Self, ClientError> {
        Self::sign_in(network, Login::Device(login)).await
    }

    /// Resolves the name's homeserver, verifies it, and signs the service in.
    ///
    /// # Errors
    /// As [`Session::sign_in_device`].
    pub async fn sign_in_service(network: &Network, login: ServiceLogin) -> Result<Self, ClientError> {
        Self::sign_in(network, Login::Service(login)).await
    }

    /// A service session that starts at once and keeps trying until its homeserver is there:
    /// [`Session::status`] tells. For programs that start before their homeserver does.
    pub fn start_service(network: &Network, login: ServiceLogin) -> Self {
        let session = Self::new(network, Login::Service(login));
        session.shared.tracker.spawn(supervisor::run(session.shared.clone(), None));
        session
    }

    async fn sign_in(network: &Network, login: Login) -> Result<Self, ClientError> {
        let session = Self::new(network, login);
        let first = supervisor::attempt(&session.shared, true).await?;
        let link = supervisor::publish(&session.shared, first);
        session.shared.tracker.spawn(supervisor::run(session.shared.clone(), Some(link)));
        Ok(session)
    }

    fn new(network: &Network, login: Login) -> Self {
        let (incoming, receiver) = mpsc::channel(INCOMING_CALLS);
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared {
            network: network.clone(),
            login,
            status: watch::Sender::new(Status::Connecting),
            link: watch::Sender::new(None),
            stun: Mutex::new(None),
            calls: Mutex::new(HashMap::new()),
            incoming,
            hops: TaskTracker::new(),
            tracker: TaskTracker::new(),
            stop: stop.clone(),
            serial: AtomicU64::new(0),
        });
        Self { shared, incoming: Arc::new(AsyncMutex::new(receiver)), _guard: Arc::new(stop.drop_guard()) }
    }

    /// How the session stands, and every change of it.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.shared.status.subscribe()
    }

    /// The address that calls and messages come from when none is given: the account, or the service's
    /// first address.
    pub fn own_address(&self) -> Option<&Address> {
        self.shared.login.own_address()
    }

    /// For messages to people: who is signed in.
    pub fn subject(&self) -> String {
        self.shared.login.subject()
    }

    /// The network that this session runs on.
    pub fn network(&self) -> &Network {
        &self.shared.network
    }

    /// The newest position of the sync log when the current connection was made; 0 before the first one.
    pub fn sync_head(&self) -> u64 {
        self.shared.link.borrow().as_ref().map_or(0, |link| link.ready.sync_head)
    }

    /// The homeserver's UDP address that answers STUN binding requests ([CALL-MEDIA-20]); `None` before
    /// the first connection.
    pub fn stun_addr(&self) -> Option<SocketAddr> {
        *self.shared.stun.lock().expect("no holder panics")
    }

    /// Hands a message to the homeserver, which owns it once this returns. Safe to repeat: the client
    /// id of `submit` makes a repeat harmless, and this repeats by itself after a lost connection.
    ///
    /// # Errors
    /// The homeserver's refusal, or `Timeout` when it cannot be reached within the deadline (10 s).
    pub async fn submit(&self, submit: v1::Submit) -> Result<v1::SubmitAck, ClientError> {
        match self.request(request::Request::Submit(submit)).await? {
            response::Response::Submit(ack) => Ok(ack),
            _ => Err(self.unexpected_answer()),
        }
    }

    /// Asks the homeserver something; waits for a connection, and repeats over a new one when it is lost
    /// before the answer (every request of this version may be repeated).
    ///
    /// # Errors
    /// The homeserver's refusal, or `Timeout` after 10 s.
    pub async fn request(&self, request: request::Request) -> Result<response::Response, ClientError> {
        let request = v1::Request { request: Some(request) };
        match timeout(limit::REQUEST_TIME, self.request_until_answered(request)).await {
            Ok(answer) => answer,
            Err(_) => Err(self.shared.error(ErrorCode::Timeout, "no answer within 10 seconds")),
        }
    }

    async fn request_until_answered(&self, request: v1::Request) -> Result<response::Response, ClientError> {
        loop {
            let connection = self.shared.link_after(0).await?.connection;
            match connection.request(request.clone(), limit::REQUEST_TIME).await {
                Ok(v1::Response { response: Some(answer) }) => return Ok(answer),
                Ok(v1::Response { response: None }) => return Err(self.unexpected_answer()),
                Err(error) if is_passing(&error) => self.shared.pause_after_loss().await?,
                Err(error) => return Err(ClientError::new(Stage::Request, self.subject(), error.fault())),
            }
        }
    }

    /// The sync log after `position` (0 = from the start).
    pub fn sync(&self, after: u64) -> SyncStream {
        SyncStream::new(self.clone(), after)
    }

    /// Opens a call. Returns as soon as the Invite is on its way; [`Call::next`] tells the rest.
    ///
    /// # Errors
    /// When no connection could be had within 10 s, or the homeserver refused the call's stream.
    pub async fn place_call(&self, place: PlaceCall) -> Result<Call, ClientError> {
        begin::place(self, place).await
    }

    /// The next call for this device or service; `None` when the session ended. Cancel-safe.
    pub async fn next_call(&self) -> Option<IncomingCall> {
        let mut incoming = self.incoming.lock().await;
        tokio::select! {
            call = incoming.recv() => call,
            _ = self.shared.ended() => None,
        }
    }

    /// Ends the session: hangs up its calls, closes the connection, waits for its tasks (at most 4 s).
    pub async fn close(&self) {
        self.shared.stop.cancel();
        self.shared.tracker.close();
        if timeout(Duration::from_secs(4), self.shared.tracker.wait()).await.is_err() {
            tracing::debug!("tasks of the session did not end in time");
        }
    }

    fn unexpected_answer(&self) -> ClientError {
        self.shared.error(ErrorCode::Unsupported, "the homeserver answered something else than asked")
    }
}

/// Whether a request that failed so is worth another connection.
fn is_passing(error: &StreamError) -> bool {
    match error {
        StreamError::Lost(_) | StreamError::Draining(_) | StreamError::Ended => true,
        StreamError::Reset(fault) => fault.code == ErrorCode::Unavailable,
        _ => false,
    }
}

impl Shared {
    /// A number for the next connection, from 1.
    pub(crate) fn next_serial(&self) -> u64 {
        self.serial.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Waits for a connection younger than `serial`, as long as one may still come.
    pub(crate) async fn link_after(&self, serial: u64) -> Result<Link, ClientError> {
        let mut links = self.link.subscribe();
        let wanted = links.wait_for(|link| link.as_ref().is_some_and(|link| link.serial > serial));
        tokio::select! {
            link = wanted => {
                let link = link.map_err(|_| self.closed())?.clone();
                link.ok_or_else(|| self.closed())
            }
            error = self.ended() => Err(error),
        }
    }

    /// A short wait after something was lost, or the end of the session.
    pub(crate) async fn pause_after_loss(&self) -> Result<(), ClientError> {
        tokio::select! {
            () = sleep(STREAM_PAUSE) => Ok(()),
            error = self.ended() => Err(error),
        }
    }

    /// Resolves when no connection will come any more, with the reason.
    pub(crate) async fn ended(&self) -> ClientError {
        let mut statuses = self.status.subscribe();
        let over = statuses.wait_for(|status| matches!(status, Status::Refused(_) | Status::Closed));
        tokio::select! {
            () = self.stop.cancelled() => self.closed(),
            status = over => match status.as_deref() {
                Ok(Status::Refused(error)) => error.clone(),
                _ => self.closed(),
            },
        }
    }

    fn closed(&self) -> ClientError {
        self.error(ErrorCode::Unavailable, "the session was closed")
    }

    fn error(&self, code: ErrorCode, message: &str) -> ClientError {
        ClientError::of(Stage::Request, self.login.subject(), code, message)
    }
}
