//! The SDK against a tiny homeserver on loopback: real QUIC, real handshake, real signatures.

mod call;
mod homeserver;
#[cfg(feature = "media")]
mod phone;
mod session;
