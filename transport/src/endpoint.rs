//! One UDP port: dials peers, accepts them, answers STUN, and drains.

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use ahoy_proto::fault::Fault;
use ahoy_proto::limit;
use ahoy_proto::name::NamePolicy;
use ahoy_proto::session::Hello;
use ahoy_proto::time::{Clock, Entropy};
use ahoy_proto::v1::{ErrorCode, Role};
use futures_util::future::join_all;
use quinn::{
    ClientConfig, IdleTimeout, Runtime, ServerConfig, TokioRuntime, TransportConfig, ValidationTokenConfig,
    VarInt,
};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admission::{Admission, ReplyBudget};
use crate::arrive::Incoming;
use crate::clock::{OsEntropy, SystemClock};
use crate::connection::{Connection, Inner, STREAM_WINDOW};
use crate::dial::{self, Greeted};
use crate::error::{BindError, Closed, ConnectError, code};
use crate::identity::TlsIdentity;
use crate::limits::TransportLimits;
use crate::reset::endpoint_config;
use crate::socket::SharedSocket;
use crate::tls;
use crate::token::UsedTokens;

/// How long `close` waits for the last packets to leave.
const CLOSE_TIME: Duration = Duration::from_secs(2);
/// Address tokens given to a client, each of which spares it one Retry, and how long they are good.
const TOKENS: u32 = 2;
const TOKEN_LIFE: Duration = Duration::from_secs(24 * 60 * 60);
/// Bytes that a connection may have waiting to be acknowledged.
const SEND_WINDOW: u64 = 8 * 1024 * 1024;

/// What an endpoint is made of.
pub struct EndpointConfig {
    /// UDP address; port 0 takes a free one.
    pub bind: SocketAddr,
    /// The TLS key, shown to everybody who connects and, as a homeserver, to whom it connects.
    pub identity: TlsIdentity,
    /// Whether peers may connect.
    pub accept: bool,
    /// Tells the time that hellos carry.
    pub clock: Arc<dyn Clock>,
    /// Gives the nonces.
    pub entropy: Arc<dyn Entropy>,
    /// Which special-use names may appear.
    pub policy: NamePolicy,
    /// What is allowed and how long is waited.
    pub limits: TransportLimits,
}

impl EndpointConfig {
    /// A dialling endpoint with the system's clock, random source and default limits.
    pub fn new(bind: SocketAddr, identity: TlsIdentity) -> Self {
        Self {
            bind,
            identity,
            accept: false,
            clock: Arc::new(SystemClock),
            entropy: Arc::new(OsEntropy),
            policy: NamePolicy::strict(),
            limits: TransportLimits::default(),
        }
    }

    /// The same, accepting connections too.
    #[must_use]
    pub fn accepting(mut self) -> Self {
        self.accept = true;
        self
    }

    /// With other names allowed.
    #[must_use]
    pub fn with_policy(mut self, policy: NamePolicy) -> Self {
        self.policy = policy;
        self
    }

    /// With other limits.
    #[must_use]
    pub fn with_limits(mut self, limits: TransportLimits) -> Self {
        self.limits = limits;
        self
    }
}

/// A UDP port that speaks Ahoy. Cloning shares it.
#[derive(Clone)]
pub struct Endpoint(Arc<Parts>);

struct Parts {
    quic: quinn::Endpoint,
    identity: TlsIdentity,
    with_certificate: ClientConfig,
    without_certificate: ClientConfig,
    admission: Admission,
    registry: Arc<Registry>,
    draining: CancellationToken,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint").field("local_addr", &self.local_addr()).finish_non_exhaustive()
    }
}

impl Endpoint {
    /// Opens the port. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`BindError`], always a local fault.
    pub fn bind(config: EndpointConfig) -> Result<Self, BindError> {
        let at = |source| BindError::Socket { address: config.bind, source };
        let socket = std::net::UdpSocket::bind(config.bind).map_err(at)?;
        let socket = TokioRuntime.wrap_udp_socket(socket).map_err(at)?;
        let limits = &config.limits;
        let budget = ReplyBudget::new(limits.stun_per_prefix, limits.stun_in_all);
        let shared = Arc::new(SharedSocket::new(socket, budget));
        let server = if config.accept { Some(server_config(&config)?) } else { None };
        let mut quic_config = endpoint_config(config.identity.reset_key(), config.entropy.clone());
        // The first byte tells QUIC from STUN only while the fixed bit is set (RFC 9443 section 3).
        quic_config.grease_quic_bit(false);
        let quic =
            quinn::Endpoint::new_with_abstract_socket(quic_config, server, shared, Arc::new(TokioRuntime))
                .map_err(at)?;
        let admission = Admission::new(limits.pending_per_prefix, limits.pending_in_all);
        let with_certificate = client_config(Some(&config.identity), limits)?;
        let without_certificate = client_config(None, limits)?;
        let identity = config.identity.clone();
        let registry = Arc::new(Registry::new(config));
        let draining = CancellationToken::new();
        let parts =
            Parts { quic, identity, with_certificate, without_certificate, admission, registry, draining };
        Ok(Self(Arc::new(parts)))
    }

    /// The address that was bound; the same port answers STUN.
    pub fn local_addr(&self) -> SocketAddr {
        self.0.quic.local_addr().expect("a bound socket has an address")
    }

    /// SHA-256 of this endpoint's SPKI, for its cards.
    pub fn spki(&self) -> [u8; 32] {
        self.0.identity.spki()
    }

    /// Connects and exchanges hellos. `host` goes into SNI and means nothing else. Nothing is proved to the
    /// server yet: check its card and SPKI first.
    ///
    /// # Errors
    /// [`ConnectError`], within the handshake's time.
    pub async fn greet(&self, addr: SocketAddr, host: &str, hello: Hello) -> Result<Greeted, ConnectError> {
        let limits = self.0.registry.limits();
        let config = match hello.role {
            Role::Homeserver => &self.0.with_certificate,
            // People's devices are not to be recognised by a certificate.
            _ => &self.0.without_certificate,
        };
        let connecting = self
            .0
            .quic
            .connect_with(config.clone(), addr, host)
            .map_err(|e| ConnectError::Address(format!("{host} at {addr}: {e}")))?;
        let greeting = dial::greet(connecting, hello, self.0.registry.clone());
        timeout(limits.handshake_time, greeting)
            .await
            .unwrap_or(Err(ConnectError::NoAnswer(limits.handshake_time)))
    }

    /// The next connection from a validated address and within the budgets; `None` once the endpoint drains
    /// or is closed. Cancel-safe.
    pub async fn accept(&self) -> Option<Incoming> {
        loop {
            let incoming = tokio::select! {
                incoming = self.0.quic.accept() => incoming?,
                () = self.0.draining.cancelled() => return None,
            };
            if !incoming.remote_address_validated() {
                // Stateless, and never larger than the packet that it answers. [WIRE-AUTH-06]
                let _ = incoming.retry();
                continue;
            }
            match self.0.admission.admit(incoming.remote_address().ip()) {
                Some(place) => {
                    let registry = self.0.registry.clone();
                    return Some(Incoming::new(incoming, place, self.0.identity.spki(), registry));
                }
                None => {
                    tracing::debug!(remote = %incoming.remote_address(), "too many handshakes at once");
                    incoming.refuse();
                }
            }
        }
    }

    /// Connections that are ready.
    pub fn connections(&self) -> Vec<Connection> {
        self.0.registry.all()
    }

    /// Accepts nothing new, asks every peer to go, lets open streams end until `deadline`, then closes.
    pub async fn drain(&self, reconnect_after: Duration, deadline: Duration) {
        self.0.draining.cancel();
        self.0.quic.set_server_config(None);
        let end = Instant::now() + deadline;
        let fault = Fault::new(ErrorCode::Unavailable, "this server is shutting down");
        let connections = self.connections();
        join_all(connections.iter().map(|connection| async {
            // A peer that does not read its control stream must not hold the others up.
            let _ = tokio::time::timeout_at(end, connection.go_away(reconnect_after)).await;
            connection.quiet(end).await;
            connection.close_with(&fault);
        }))
        .await;
        self.close().await;
    }

    /// Closes every connection now, and waits a moment for the peers to hear of it.
    pub async fn close(&self) {
        self.0.draining.cancel();
        self.0.quic.close(code(ErrorCode::Unspecified), b"");
        self.0.registry.tasks.close();
        let ended = async {
            self.0.quic.wait_idle().await;
            self.0.registry.tasks.wait().await;
        };
        // A peer that cannot be reached must not keep the process alive.
        let _ = timeout(CLOSE_TIME, ended).await;
    }
}

fn server_config(config: &EndpointConfig) -> Result<ServerConfig, BindError> {
    let mut server = ServerConfig::with_crypto(Arc::new(tls::server(&config.identity)?));
    server.transport_config(Arc::new(transport_config(&config.limits, 1)));
    let mut tokens = ValidationTokenConfig::default();
    tokens.sent(TOKENS).lifetime(TOKEN_LIFE).log(Arc::new(UsedTokens::default()));
    server.validation_token_config(tokens);
    server.max_incoming(config.limits.pending_in_all);
    server.incoming_buffer_size(limit::HANDSHAKE_BYTES as u64);
    server.incoming_buffer_size_total((limit::HANDSHAKE_BYTES * 256) as u64);
    Ok(server)
}

fn client_config(
    identity: Option<&TlsIdentity>,
    limits: &TransportLimits,
) -> Result<ClientConfig, BindError> {
    let mut client = ClientConfig::new(Arc::new(tls::client(identity)?));
    client.transport_config(Arc::new(transport_config(limits, 0)));
    Ok(client)
}

/// Before `Ready` the peer has `streams` streams and the handshake's bytes. [WIRE-HELLO-02]
fn transport_config(limits: &TransportLimits, streams: u32) -> TransportConfig {
    let mut transport = TransportConfig::default();
    let idle = IdleTimeout::try_from(limits.idle_time).unwrap_or(VarInt::MAX.into());
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(streams))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(Some(idle))
        .keep_alive_interval(Some(limits.keep_alive))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(limit::HANDSHAKE_BYTES as u32))
        .send_window(SEND_WINDOW);
    transport
}

/// What connections share: who is connected, and on what their tasks run.
pub(crate) struct Registry {
    config: EndpointConfig,
    tasks: TaskTracker,
    next: AtomicU64,
    connections: Mutex<HashMap<u64, Weak<Inner>>>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").finish_non_exhaustive()
    }
}

impl Registry {
    fn new(config: EndpointConfig) -> Self {
        let connections = Mutex::default();
        Self { config, tasks: TaskTracker::new(), next: AtomicU64::new(1), connections }
    }

    pub(crate) fn limits(&self) -> &TransportLimits {
        &self.config.limits
    }

    pub(crate) fn policy(&self) -> &NamePolicy {
        &self.config.policy
    }

    pub(crate) fn clock(&self) -> &dyn Clock {
        self.config.clock.as_ref()
    }

    pub(crate) fn entropy(&self) -> &dyn Entropy {
        self.config.entropy.as_ref()
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    pub(crate) fn next_id(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn insert(&self, id: u64, connection: Weak<Inner>) {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner).insert(id, connection);
    }

    pub(crate) fn remove(&self, id: u64) {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    fn all(&self) -> Vec<Connection> {
        let connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections.values().filter_map(Weak::upgrade).map(Connection::from_inner).collect()
    }
}

/// Ends a connection whose handshake failed on this side, telling the peer why.
pub(crate) fn abandon(quic: &quinn::Connection, error: &ConnectError) {
    // Who refused or is gone needs no reason from us.
    if !matches!(error, ConnectError::Closed(Closed::Refused(_))) {
        let fault = error.fault();
        quic.close(code(fault.code), fault.message.as_bytes());
    }
}
