//! The Ahoy wire: one UDP port for QUIC and STUN, TLS identities, the handshake, streams of frames.
//!
//! The only crate that names quinn. Accept with [`Endpoint::accept`] -> [`Incoming::greet`] ->
//! [`Arrived::ready`]; dial with [`Endpoint::greet`] -> [`Greeted::as_device`] and its siblings. Both end in
//! a [`Connection`].

mod admission;
mod arrive;
mod cards;
pub mod clock;
mod connection;
mod dial;
mod driver;
mod endpoint;
mod error;
#[cfg(test)]
mod hostile;
pub mod identity;
mod limits;
mod reset;
mod socket;
mod stream;
pub mod stun;
mod tls;
mod token;

pub use ahoy_proto::session::{DeviceCredentials, Hello, ServiceCredentials};
pub use arrive::{Arrived, CardBook, Incoming};
pub use connection::Connection;
pub use dial::Greeted;
pub use driver::ControlEvent;
pub use endpoint::{Endpoint, EndpointConfig};
pub use error::{BindError, Closed, ConnectError, StreamError};
pub use identity::{IdentityError, TlsIdentity};
pub use limits::TransportLimits;
pub use stream::{RecvHalf, SendHalf, Stream};
pub use tls::{ALPN, install_crypto_provider};
