//! Decides how the bridge speaks WebRTC: one [`RtcHub`] for all calls, one [`RtcCall`] for each.
//!
//! Calls that the bridge answers share one UDP socket, told apart by ICE ufrag, transaction and verified address;
//! a call that it offers has sockets of its own, because two calls between the same two sockets cannot be told
//! apart [CALL-MEDIA-05]. RTP never waits in a channel: a packet is written to the other side by the task that
//! received it, through [`RtpSink`], so each direction of a call costs one wake-up per packet.
//!
//! The library underneath is str0m, in RTP mode with full ICE; the rest of the bridge sees [`RtcLeg`] only.

mod endpoint;
mod hub;
mod leg;
mod rewrite;
mod sdp;
mod stun;
mod timer;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ahoy_proto::time::Entropy;

/// Fuzz entry: a datagram on a media socket, and what a socket makes of it.
pub fn fuzz_stun(data: &[u8]) {
    let _ = (stun::classify(data), stun::request_transaction(data));
}

/// Fuzz entry: a peer's SDP, up to the library.
pub fn fuzz_sdp(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if text.len() <= sdp::LONGEST {
        let _ = (sdp::encodings(&text), sdp::advertised(&text));
        let _ = str0m::change::SdpOffer::from_sdp_string(&sdp::plain(&text));
    }
}

pub use hub::{RtcCall, RtcEvents, RtcHub};
pub use rewrite::Rewriter;

/// What an RTP payload is, whatever number a side gave it. All have a clock of 8 kHz.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// G.711 A-law.
    Pcma,
    /// G.711 mu-law.
    Pcmu,
    /// RFC 4733 telephone events.
    TelephoneEvent,
}

impl Encoding {
    /// Whether it carries sound, as opposed to keys.
    pub fn is_audio(self) -> bool {
        self != Self::TelephoneEvent
    }
}

/// One RTP packet between the two sides of a call, decrypted and without header extensions.
#[derive(Debug, Clone, Copy)]
pub struct RtpPacket<'a> {
    /// What the payload is; each side maps it to its own payload type.
    pub encoding: Encoding,
    /// The source, as the side that received the packet saw it.
    pub ssrc: u32,
    /// As received; the receiver of the relayed stream sees it through a [`Rewriter`].
    pub sequence: u16,
    /// In samples of 8 kHz, as received.
    pub timestamp: u32,
    /// Start of a talk spurt or of an event.
    pub marker: bool,
    /// What RTP carries.
    pub payload: &'a [u8],
}

/// Where a side of a call puts the packets it received: the other side.
///
/// Called from the task that read the packet, with no lock held. It must not block or await: a packet that
/// cannot be sent at once is dropped, as UDP would.
pub trait RtpSink: Send + Sync {
    /// Sends the packet on.
    fn rtp(&self, packet: RtpPacket<'_>);
}

/// The WebRTC side of a call, as the rest of the bridge sees it. Nothing here waits.
pub trait RtcLeg: RtpSink {
    /// What the SDP exchange settled; `None` before it is complete.
    fn negotiated(&self) -> Option<Negotiated>;
    /// Puts received packets into `sink` from now on; they are dropped while there is none.
    fn relay_to(&self, sink: Option<Arc<dyn RtpSink>>);
    /// Completes an offer of [`RtcHub::offer`] or [`RtcLeg::restart`].
    ///
    /// # Errors
    /// [`RtcError::NoMedia`] for an answer without audio; [`RtcError::Sdp`] for one that cannot be used.
    fn accept_answer(&self, answer: &str) -> Result<(), RtcError>;
    /// Starts an ICE restart: the offer for the peer. Media goes on over the old path meanwhile.
    ///
    /// # Errors
    /// [`RtcError::OutOfOrder`] while the first exchange is not complete.
    fn restart(&self) -> Result<String, RtcError>;
    /// Answers the peer's ICE restart (or any later offer of the same media).
    ///
    /// # Errors
    /// As [`RtcHub::answer`].
    fn accept_restart(&self, offer: &str) -> Result<String, RtcError>;
    /// The counters so far.
    fn stats(&self) -> RtcStats;
    /// Says goodbye to the peer and frees everything. Repeating it is harmless.
    fn close(&self);
}

/// What an SDP exchange settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Negotiated {
    /// The codec that both sides send.
    pub audio: Encoding,
    /// Whether telephone events were negotiated; otherwise keys travel as call messages.
    pub telephone_event: bool,
}

/// What happened on the WebRTC side of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RtcEvent {
    /// ICE and DTLS are up, for the first time or after a restart.
    Connected,
    /// ICE lost its path: time for a restart.
    Disconnected,
    /// Media goes over this pair now.
    SelectedPair {
        /// Our address, of the socket.
        local: SocketAddr,
        /// The peer's address.
        remote: SocketAddr,
    },
    /// RTP flowed and then stopped for 2 s: time for a restart, unless the call is held.
    Stalled,
    /// RTP flows again after [`RtcEvent::Stalled`].
    Resumed,
    /// Our public address changed: the peer cannot reach us until a restart.
    MappingChanged,
    /// Nothing at all, not even a connectivity check, for 15 s: the peer is gone.
    Lost,
    /// The peer closed the connection, or it failed beyond repair.
    Closed,
}

/// Counters of the WebRTC side of a call. Times count from the creation of the call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RtcStats {
    /// RTP packets received from the peer.
    pub packets_in: u64,
    /// RTP packets sent to the peer.
    pub packets_out: u64,
    /// Payload bytes received.
    pub bytes_in: u64,
    /// Payload bytes sent.
    pub bytes_out: u64,
    /// The address that our SDP advertises first, and the peer's, of the last exchange.
    pub advertised: (Option<SocketAddr>, Option<SocketAddr>),
    /// Packets from the other side that had no place here: not connected yet, encoding not negotiated, too late.
    pub packets_refused: u64,
    /// When ICE and DTLS came up first.
    pub connected: Option<Duration>,
    /// When the first packet came from the peer.
    pub first_in: Option<Duration>,
    /// When the first packet went to the peer.
    pub first_out: Option<Duration>,
    /// The pair that media goes over: ours, the peer's.
    pub selected_pair: Option<(SocketAddr, SocketAddr)>,
}

/// What a hub needs.
#[derive(Clone)]
pub struct RtcConfig {
    /// Where answered calls share their socket. An unspecified address stands for every interface; port 0 for
    /// any. Offered calls bind the same address with port 0.
    pub bind: SocketAddr,
    /// The homeserver's STUN port; [`RtcHub::set_stun`] changes it.
    pub stun: Option<SocketAddr>,
    /// Calls beyond this many are refused.
    pub max_calls: usize,
    /// Where random bytes come from.
    pub entropy: Arc<dyn Entropy>,
}

/// Why a WebRTC leg cannot do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum RtcError {
    /// The SDP has no audio, or refuses it.
    #[error("the SDP carries no audio (no m=audio line, or its port is 0)")]
    NoMedia,
    /// No codec in common.
    #[error("no common codec: the peer offers none of those that the trunk speaks")]
    NoCommonCodec,
    /// The SDP is longer than any call needs.
    #[error("the SDP is {0} bytes long, more than {max}", max = sdp::LONGEST)]
    TooLong(usize),
    /// The SDP cannot be used.
    #[error("the SDP cannot be used: {0}")]
    Sdp(String),
    /// An answer without an offer, or a restart before the first exchange.
    #[error("no offer of ours waits for this answer, or the first exchange is not complete")]
    OutOfOrder,
    /// The hub carries as many calls as it may.
    #[error("all {0} calls of the hub are in use")]
    Full(usize),
    /// The call is closed.
    #[error("the call is closed")]
    Closed,
    /// No socket could be bound.
    #[error("cannot bind media sockets at {address}: {source}")]
    Bind {
        /// The configured address.
        address: SocketAddr,
        /// What the operating system says.
        source: std::io::Error,
    },
}
