//! Decides what the resolver asks of whoever can connect: one card from one endpoint.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;

use crate::fault::Fault;
use crate::name::Name;
use crate::v1;

/// Fetches cards. Implemented by the transport, and by tables in tests.
pub trait CardSource: Send + Sync {
    /// Connects to `addr` with `host` as SNI, sends a `ClientHello` of role `CARD_READER` that wants `name`, and
    /// returns the signed card, not yet verified, with the TLS key that was seen.
    ///
    /// # Errors
    /// [`FetchError`]; the implementation has a deadline of its own.
    fn fetch<'a>(
        &'a self,
        name: &'a Name,
        host: &'a str,
        addr: SocketAddr,
    ) -> Pin<Box<dyn Future<Output = Result<FetchedCard, FetchError>> + Send + 'a>>;
}

/// What an endpoint showed.
#[derive(Clone, Debug, PartialEq)]
pub struct FetchedCard {
    /// The card as received.
    pub signed: v1::Signed,
    /// SHA-256 of the SubjectPublicKeyInfo of the TLS key.
    pub spki: [u8; 32],
}

/// Why an endpoint gave no card.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// Nothing came in time.
    #[error("the endpoint did not answer in time")]
    Timeout,
    /// No connection.
    #[error("no connection to the endpoint: {0}")]
    Unreachable(String),
    /// The endpoint refused, for example because it does not serve the name.
    #[error("the endpoint refused: {0}")]
    Refused(Fault),
    /// The endpoint does not speak the protocol.
    #[error("the endpoint does not speak the protocol: {0}")]
    Protocol(String),
}
