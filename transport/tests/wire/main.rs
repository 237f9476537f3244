//! Real endpoints on loopback.

mod fixture;
mod handshake;
mod stream;
