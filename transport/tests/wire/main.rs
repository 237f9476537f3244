//! Real endpoints on loopback.

mod fixture;
mod handshake;
mod restart;
mod stream;
