//! Where a SIP message came from or goes to.

use std::net::SocketAddr;

/// A transport protocol of the SIP leg.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// RFC 3261 over datagrams.
    Udp,
    /// RFC 3261 over a stream.
    Tcp,
}

impl Transport {
    /// As `Via` writes it.
    pub fn token(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
        }
    }
}

/// A way to reach one peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Flow {
    /// A datagram to this address.
    Udp(SocketAddr),
    /// A stream: this connection if it still stands, else whichever reaches `peer`.
    Tcp {
        /// The connection that the request came over; `None` for requests of our own.
        connection: Option<u64>,
        /// The far end.
        peer: SocketAddr,
    },
}

impl Flow {
    /// A flow for a request of our own.
    pub fn to(transport: Transport, peer: SocketAddr) -> Self {
        match transport {
            Transport::Udp => Self::Udp(peer),
            Transport::Tcp => Self::Tcp { connection: None, peer },
        }
    }

    /// The far end.
    pub fn peer(self) -> SocketAddr {
        match self {
            Self::Udp(peer) | Self::Tcp { peer, .. } => peer,
        }
    }

    /// The protocol.
    pub fn transport(self) -> Transport {
        match self {
            Self::Udp(_) => Transport::Udp,
            Self::Tcp { .. } => Transport::Tcp,
        }
    }
}
