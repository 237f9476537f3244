//! The accepting half of the handshake over a real connection: bounded in time, bytes and streams until
//! the homeserver says `Ready`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ahoy_proto::fault::Fault;
use ahoy_proto::limit;
use ahoy_proto::name::Name;
use ahoy_proto::session::{self, Binding, HelloAwaited, ServerTerms};
use ahoy_proto::time::random;
use ahoy_proto::v1::{self, ErrorCode, Role, auth};
use tokio::time::{Instant, timeout, timeout_at};

use crate::admission::Place;
use crate::connection::{Authenticated, Connection};
use crate::dial::{next_frame, peer_spki};
use crate::endpoint::{Registry, abandon};
use crate::error::{Closed, ConnectError, StreamError, code};
use crate::limits::PeerLimits;
use crate::stream::{RecvHalf, SendHalf};

/// How long a refusal may take to reach the peer before the connection is closed over it.
const REFUSAL_TIME: Duration = Duration::from_secs(1);

/// The cards that a homeserver serves, looked up per hello. Must not block.
pub trait CardBook: Send + Sync {
    /// The signed card of `name`, if it is served here.
    fn card(&self, name: &Name) -> Option<v1::Signed>;
}

/// A peer whose address is validated and of which nothing else is known.
#[derive(Debug)]
pub struct Incoming {
    incoming: quinn::Incoming,
    place: Place,
    own_spki: [u8; 32],
    registry: Arc<Registry>,
}

/// A peer whose proof holds for this connection. Whether it is enrolled, and whether its claims are true, is
/// for the homeserver to decide: `ready` or `refuse`. Dropping it closes the connection.
#[derive(Debug)]
pub struct Arrived {
    /// Where it connects from.
    pub remote: SocketAddr,
    /// SHA-256 of the SPKI that it showed; always there for a homeserver.
    pub spki: Option<[u8; 32]>,
    /// As what it authenticated.
    pub role: Role,
    /// The name that it asked for.
    pub wanted: Name,
    /// What it proved (device, service) or claims (homeserver).
    pub auth: auth::Auth,
    /// Optional behaviour that it understands.
    pub features: Vec<String>,
    quic: quinn::Connection,
    send: SendHalf,
    recv: RecvHalf,
    peer: PeerLimits,
    place: Place,
    registry: Arc<Registry>,
}

impl Incoming {
    pub(crate) fn new(
        incoming: quinn::Incoming,
        place: Place,
        own_spki: [u8; 32],
        registry: Arc<Registry>,
    ) -> Self {
        Self { incoming, place, own_spki, registry }
    }

    /// Where it connects from.
    pub fn remote_addr(&self) -> SocketAddr {
        self.incoming.remote_address()
    }

    /// Whether it proved its address by a token from an earlier visit, and not by a Retry.
    pub fn has_visited(&self) -> bool {
        // Only a Retry's own token forbids a second Retry.
        self.incoming.may_retry()
    }

    /// Runs the handshake up to the peer's proof. `None`: it only wanted the card, and has it.
    ///
    /// # Errors
    /// [`ConnectError`], after the peer was told. Everything takes the handshake's time at most.
    pub async fn greet(self, book: &dyn CardBook) -> Result<Option<Arrived>, ConnectError> {
        let time = self.registry.limits().handshake_time;
        let end = Instant::now() + time;
        let late = ConnectError::NoAnswer(time);
        let connecting = self.incoming.accept().map_err(Closed::from)?;
        let Ok(connected) = timeout_at(end, connecting).await else { return Err(late) };
        let quic = connected.map_err(Closed::from)?;
        let accepting = Accepting { quic: quic.clone(), place: self.place, registry: self.registry };
        match timeout_at(end, accepting.hello(book, self.own_spki)).await {
            Ok(outcome) => outcome,
            Err(_) => {
                quic.close(code(ErrorCode::Timeout), b"the handshake took too long");
                Err(late)
            }
        }
    }
}

struct Accepting {
    quic: quinn::Connection,
    place: Place,
    registry: Arc<Registry>,
}

impl Accepting {
    async fn hello(self, book: &dyn CardBook, own_spki: [u8; 32]) -> Result<Option<Arrived>, ConnectError> {
        let (send, recv) = self.quic.accept_bi().await.map_err(Closed::from)?;
        let mut send = SendHalf::new(send, limit::HANDSHAKE_BYTES);
        let mut recv = RecvHalf::new(recv, limit::HANDSHAKE_BYTES).with_budget(limit::HANDSHAKE_BYTES);
        match self.exchange(book, own_spki, &mut send, &mut recv).await {
            Ok(None) => Ok(None),
            Ok(Some(Proved { authenticated, spki })) => {
                let hello = authenticated.hello();
                Ok(Some(Arrived {
                    remote: self.quic.remote_address(),
                    spki,
                    role: authenticated.role(),
                    wanted: authenticated.wanted().clone(),
                    features: hello.features.clone(),
                    peer: PeerLimits::from_wire(hello.limits.as_ref()),
                    auth: authenticated.into_auth(),
                    quic: self.quic,
                    send,
                    recv,
                    place: self.place,
                    registry: self.registry,
                }))
            }
            Err(error) => {
                refuse(&self.quic, &mut send, &error).await;
                Err(error)
            }
        }
    }

    async fn exchange(
        &self,
        book: &dyn CardBook,
        own_spki: [u8; 32],
        send: &mut SendHalf,
        recv: &mut RecvHalf,
    ) -> Result<Option<Proved>, ConnectError> {
        let met = HelloAwaited::new(self.registry.policy().clone()).receive(next_frame(recv).await?)?;
        let role = met.role();
        let Some(card) = book.card(met.wanted()) else {
            let fault =
                Fault::new(ErrorCode::NameNotServed, "this homeserver does not serve the wanted name");
            return Err(ConnectError::NotServed(fault));
        };
        let spki = peer_spki(&self.quic);
        if role == Role::Homeserver && spki.is_none() {
            return Err(ConnectError::NoCertificate);
        }
        let limits = self.registry.limits().to_wire();
        let nonce = random(self.registry.entropy());
        let terms = ServerTerms { card, features: Vec::new(), limits };
        let (awaited, frame) = met.answer(terms, nonce, self.registry.clock().now())?;
        send.feed_frame(&frame);
        send.flush().await?;
        if role == Role::CardReader {
            // It closes when it has the card.
            send.finish();
            self.quic.closed().await;
            return Ok(None);
        }
        let proof = next_frame(recv).await?;
        if recv.has_more() {
            return Err(session::SessionError::OutOfOrder("more than its proof before Ready").into());
        }
        let authenticated = awaited.receive(proof, &Binding::Spki(own_spki))?;
        Ok(Some(Proved { authenticated, spki }))
    }
}

struct Proved {
    authenticated: session::Authenticated,
    spki: Option<[u8; 32]>,
}

/// Says why on the stream, waits a moment for it to be read, and closes.
async fn refuse(quic: &quinn::Connection, send: &mut SendHalf, error: &ConnectError) {
    if !matches!(error, ConnectError::Closed(_)) {
        send_refusal(send, &error.fault()).await;
    }
    abandon(quic, error);
}

async fn send_refusal(send: &mut SendHalf, fault: &Fault) {
    send.feed_frame(&session::refusal(fault));
    let delivery = async {
        if send.flush().await.is_ok() {
            send.finish();
            send.delivered().await;
        }
    };
    // The close that follows carries code and message too.
    let _ = timeout(REFUSAL_TIME, delivery).await;
}

impl Arrived {
    /// Ends the handshake: from here on both sides open streams.
    ///
    /// # Errors
    /// [`ConnectError::Closed`] when the peer is gone.
    pub async fn ready(mut self, ready: v1::Ready) -> Result<Connection, ConnectError> {
        self.send.feed_frame(&session::Authenticated::ready(ready));
        let time = self.registry.limits().handshake_time;
        let sent = timeout(time, self.send.flush()).await;
        sent.unwrap_or(Err(StreamError::Deadline(time)))?;
        let Self { quic, spki, send, recv, peer, registry, place, .. } = self;
        drop(place);
        Ok(Connection::start(Authenticated { quic, spki, send, recv, peer }, &registry))
    }

    /// Tells the peer why not, and closes.
    pub async fn refuse(mut self, fault: &Fault) {
        send_refusal(&mut self.send, fault).await;
        self.quic.close(code(fault.code), fault.message.as_bytes());
    }
}
