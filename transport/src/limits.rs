//! The named limits of an endpoint, with their defaults.

use std::time::Duration;

use ahoy_proto::limit;
use ahoy_proto::v1;

/// What an endpoint allows and how long it waits. `Default` is right for a server on the open network.
#[derive(Debug, Clone)]
pub struct TransportLimits {
    /// From the first packet of a connection to its `Auth`. [WIRE-HELLO-03]
    pub handshake_time: Duration,
    /// A connection silent for so long is dead. [WIRE-STREAM-04]
    pub idle_time: Duration,
    /// How often an otherwise silent connection shows that it lives.
    pub keep_alive: Duration,
    /// Largest frame, in bytes.
    pub frame_bytes: usize,
    /// Streams of each kind that the peer may have open at once on one connection.
    pub request_streams: u32,
    /// Call streams, likewise.
    pub call_streams: u32,
    /// Delivery pipes, likewise: one per pair of names.
    pub pipe_streams: u32,
    /// Sync subscriptions, likewise.
    pub sync_streams: u32,
    /// Handshakes in progress from one /24 or /56. [WIRE-AUTH-01]
    pub pending_per_prefix: usize,
    /// Handshakes in progress in all.
    pub pending_in_all: usize,
    /// STUN answers per second to one /24 or /56.
    pub stun_per_prefix: u32,
    /// STUN answers per second in all.
    pub stun_in_all: u32,
}

impl Default for TransportLimits {
    fn default() -> Self {
        Self {
            handshake_time: limit::HANDSHAKE_TIME,
            idle_time: limit::IDLE_TIME,
            keep_alive: Duration::from_secs(3),
            frame_bytes: limit::FRAME_BYTES,
            request_streams: limit::REQUEST_STREAMS,
            call_streams: limit::CALL_STREAMS,
            pipe_streams: 64,
            sync_streams: 4,
            pending_per_prefix: 256,
            pending_in_all: 4096,
            stun_per_prefix: 500,
            stun_in_all: 20_000,
        }
    }
}

impl TransportLimits {
    /// As the hello advertises them.
    pub fn to_wire(&self) -> v1::Limits {
        v1::Limits {
            frame_bytes: u32::try_from(self.frame_bytes).unwrap_or(u32::MAX),
            request_streams: self.request_streams,
            call_streams: self.call_streams,
            pipe_window: limit::PIPE_WINDOW,
            content_bytes: limit::CONTENT_BYTES as u32,
            idle_timeout_ms: u32::try_from(self.idle_time.as_millis()).unwrap_or(u32::MAX),
        }
    }

    /// QUIC streams that the peer may have open once it is ready.
    pub(crate) fn streams(&self) -> u32 {
        self.request_streams + self.call_streams + self.pipe_streams + self.sync_streams
    }
}

/// What the peer accepts, as it advertised: 0 stands for the default.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PeerLimits {
    pub(crate) frame_bytes: usize,
    pub(crate) request_streams: usize,
    pub(crate) call_streams: usize,
}

impl PeerLimits {
    pub(crate) fn from_wire(limits: Option<&v1::Limits>) -> Self {
        let limits = limits.cloned().unwrap_or_default();
        let or = |value: u32, default: usize| if value == 0 { default } else { value as usize };
        // Never more than ours: a peer cannot make this side send what no other peer would take.
        let most = |value: u32, default: usize| or(value, default).min(default * 16);
        Self {
            frame_bytes: or(limits.frame_bytes, limit::FRAME_BYTES).min(limit::FRAME_BYTES),
            request_streams: most(limits.request_streams, limit::REQUEST_STREAMS as usize),
            call_streams: most(limits.call_streams, limit::CALL_STREAMS as usize),
        }
    }
}
