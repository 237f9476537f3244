//! The dialling half of the handshake over a real connection.

use std::net::SocketAddr;
use std::sync::Arc;

use ahoy_proto::fault::Fault;
use ahoy_proto::limit;
use ahoy_proto::name::Name;
use ahoy_proto::session::{
    AuthSent, Binding, DeviceCredentials, Hello, HelloSent, ServerMet, ServiceCredentials, SessionError,
};
use ahoy_proto::v1;
use bytes::Bytes;
use rustls::pki_types::CertificateDer;
use tokio::time::timeout;

use crate::connection::{Authenticated, Connection};
use crate::endpoint::{Registry, abandon};
use crate::error::{Closed, ConnectError, StreamError, code};
use crate::limits::PeerLimits;
use crate::stream::{RecvHalf, SendHalf};
use crate::tls::spki_sha256;

/// A server that has shown its card. Dropping this closes the connection; nothing was proved to it.
#[derive(Debug)]
pub struct Greeted {
    met: ServerMet,
    quic: quinn::Connection,
    send: SendHalf,
    recv: RecvHalf,
    spki: [u8; 32],
    registry: Arc<Registry>,
}

/// Connects, says hello, and reads the server's answer.
pub(crate) async fn greet(
    connecting: quinn::Connecting,
    mut hello: Hello,
    registry: Arc<Registry>,
) -> Result<Greeted, ConnectError> {
    let quic = connecting.await.map_err(Closed::from)?;
    let spki = peer_spki(&quic).ok_or(ConnectError::NoCertificate)?;
    let (send, recv) = quic.open_bi().await.map_err(Closed::from)?;
    let mut send = SendHalf::new(send, limit::HANDSHAKE_BYTES);
    let mut recv = RecvHalf::new(recv, limit::HANDSHAKE_BYTES).with_budget(limit::HANDSHAKE_BYTES);
    if hello.limits == v1::Limits::default() {
        hello.limits = registry.limits().to_wire();
    }
    let (sent, frame) = HelloSent::new(hello, registry.entropy());
    send.feed_frame(&frame);
    let met = async {
        send.flush().await?;
        let answer = next_frame(&mut recv).await?;
        Ok(sent.receive(answer, registry.clock().now())?)
    };
    match met.await {
        Ok(met) => Ok(Greeted { met, quic, send, recv, spki, registry }),
        Err(error) => {
            abandon(&quic, &error);
            Err(error)
        }
    }
}

/// SHA-256 of the SPKI of the certificate that the peer showed.
pub(crate) fn peer_spki(quic: &quinn::Connection) -> Option<[u8; 32]> {
    let certificates = quic.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    spki_sha256(certificates.first()?).ok()
}

/// The next frame of a handshake, which may not end before it is over.
pub(crate) async fn next_frame(recv: &mut RecvHalf) -> Result<Bytes, StreamError> {
    recv.recv_frame().await?.ok_or(StreamError::Ended)
}

impl Greeted {
    /// The server's card, limits, features and time.
    pub fn server_hello(&self) -> &v1::ServerHello {
        self.met.server_hello()
    }

    /// SHA-256 of the SPKI that the server showed: it must be in the card.
    pub fn spki(&self) -> [u8; 32] {
        self.spki
    }

    /// The name that was asked for.
    pub fn wanted(&self) -> &Name {
        self.met.wanted()
    }

    /// Where the server is.
    pub fn remote_addr(&self) -> SocketAddr {
        self.quic.remote_address()
    }

    /// Signs in as a person's device.
    ///
    /// # Errors
    /// [`ConnectError::Session`] with the server's reason when it refuses.
    pub async fn as_device(
        self,
        credentials: &DeviceCredentials,
    ) -> Result<(Connection, v1::Ready), ConnectError> {
        let binding = Binding::Spki(self.spki);
        self.authenticate(|met| met.prove_device(credentials, &binding)).await
    }

    /// Signs in as a service of the wanted name.
    ///
    /// # Errors
    /// As [`Greeted::as_device`].
    pub async fn as_service(
        self,
        credentials: &ServiceCredentials,
    ) -> Result<(Connection, v1::Ready), ConnectError> {
        let binding = Binding::Spki(self.spki);
        self.authenticate(|met| met.prove_service(credentials, &binding)).await
    }

    /// Claims the names of these cards. `Ready.names` says which were accepted.
    ///
    /// # Errors
    /// As [`Greeted::as_device`].
    pub async fn as_homeserver(
        self,
        cards: Vec<v1::Signed>,
    ) -> Result<(Connection, v1::Ready), ConnectError> {
        self.authenticate(|met| met.claim(cards)).await
    }

    /// Closes in order, as a reader of cards does.
    pub fn close(self) {
        self.quic.close(code(v1::ErrorCode::Unspecified), b"");
    }

    /// Closes and tells the server why it was not believed.
    pub fn refuse(self, fault: &Fault) {
        self.quic.close(code(fault.code), fault.message.as_bytes());
    }

    async fn authenticate(
        self,
        prove: impl FnOnce(ServerMet) -> Result<(AuthSent, Bytes), SessionError>,
    ) -> Result<(Connection, v1::Ready), ConnectError> {
        let Self { met, quic, mut send, mut recv, spki, registry } = self;
        let peer = PeerLimits::from_wire(met.server_hello().limits.as_ref());
        let (sent, frame) = prove(met)?;
        let decided = async {
            send.feed_frame(&frame);
            send.flush().await?;
            let answer = next_frame(&mut recv).await?;
            Ok::<_, ConnectError>(sent.receive(answer)?)
        };
        // The server may look our names up meanwhile, which has a deadline of its own.
        let decided = timeout(limit::REQUEST_TIME, decided).await;
        match decided.unwrap_or(Err(ConnectError::NoAnswer(limit::REQUEST_TIME))) {
            Ok(ready) => {
                let authenticated = Authenticated { quic, spki: Some(spki), send, recv, peer };
                Ok((Connection::start(authenticated, &registry), ready))
            }
            Err(error) => {
                abandon(&quic, &error);
                Err(error)
            }
        }
    }
}
