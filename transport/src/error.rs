//! Who is at fault when the wire fails, and the one place where that becomes a wire code.

use std::io;
use std::time::Duration;

use ahoy_proto::fault::Fault;
use ahoy_proto::frame::FrameError;
use ahoy_proto::session::SessionError;
use ahoy_proto::v1::ErrorCode;
use quinn::{ConnectionError, TransportErrorCode, VarInt};

/// Why a connection ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Closed {
    /// This side closed it.
    #[error("closed by this side")]
    Here,
    /// The peer closed it in order.
    #[error("closed by the other side")]
    ByPeer,
    /// The peer closed it and said why.
    #[error("closed by the other side: {0}")]
    Refused(Fault),
    /// Nothing was heard for the idle time.
    #[error("the other side went silent")]
    Silent,
    /// The peer forgot the connection, most likely by a restart.
    #[error("the other side lost the connection")]
    Reset,
    /// The peer takes no connection at present: it drains, or too many are in progress.
    #[error("the other side takes no connections at present")]
    Busy,
    /// The peer broke QUIC or TLS, or offers no protocol that is spoken here.
    #[error("the other side does not speak this protocol correctly")]
    Protocol,
}

impl From<ConnectionError> for Closed {
    fn from(error: ConnectionError) -> Self {
        tracing::debug!(%error, "connection ended");
        match error {
            ConnectionError::ApplicationClosed(close) if close.error_code == VarInt::from_u32(0) => {
                Self::ByPeer
            }
            ConnectionError::ApplicationClosed(close) => {
                Self::Refused(fault_of(close.error_code, &String::from_utf8_lossy(&close.reason)))
            }
            ConnectionError::LocallyClosed => Self::Here,
            ConnectionError::TimedOut => Self::Silent,
            ConnectionError::Reset => Self::Reset,
            ConnectionError::ConnectionClosed(close)
                if close.error_code == TransportErrorCode::CONNECTION_REFUSED =>
            {
                Self::Busy
            }
            ConnectionError::ConnectionClosed(_)
            | ConnectionError::TransportError(_)
            | ConnectionError::VersionMismatch
            | ConnectionError::CidsExhausted => Self::Protocol,
        }
    }
}

impl Closed {
    /// What a user or peer is told.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Refused(fault) => fault.clone(),
            other => Fault::new(ErrorCode::Unavailable, other.to_string()),
        }
    }
}

/// Why a connection could not be made or authenticated.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The peer's host name or address cannot be dialled. The caller's mistake.
    #[error("cannot dial this address: {0}")]
    Address(String),
    /// Nothing answered in time.
    #[error("no answer within {} ms", .0.as_millis())]
    NoAnswer(Duration),
    /// The connection ended during the handshake.
    #[error("the connection failed: {0}")]
    Closed(#[from] Closed),
    /// The handshake's rules were broken, or the peer refused.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The peer asked for a name that is not served here.
    #[error("refused the other side: {0}")]
    NotServed(Fault),
    /// The peer broke the framing.
    #[error("the other side broke the framing: {0}")]
    Frame(#[from] FrameError),
    /// The peer showed no usable certificate.
    #[error("the other side showed no usable certificate")]
    NoCertificate,
}

impl ConnectError {
    /// What a user or peer is told.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Session(error) => error.fault(),
            Self::Closed(Closed::Refused(fault)) | Self::NotServed(fault) => fault.clone(),
            Self::Frame(error) => (*error).into(),
            Self::NoCertificate => Fault::new(ErrorCode::PeerNotAuthentic, self.to_string()),
            Self::Address(_) | Self::NoAnswer(_) | Self::Closed(_) => {
                Fault::new(ErrorCode::PeerUnreachable, self.to_string())
            }
        }
    }
}

impl From<StreamError> for ConnectError {
    fn from(error: StreamError) -> Self {
        match error {
            StreamError::Lost(closed) => Self::Closed(closed),
            StreamError::Frame(error) => Self::Frame(error),
            StreamError::TooLarge { .. } => {
                Self::Session(SessionError::Malformed("the proof is too large for a handshake"))
            }
            StreamError::Reset(fault) | StreamError::Refused(fault) => {
                Self::Session(SessionError::Refused(fault))
            }
            StreamError::Ended => Self::Closed(Closed::ByPeer),
            StreamError::Deadline(time) => Self::NoAnswer(time),
            StreamError::Draining(_) => Self::Closed(Closed::Here),
        }
    }
}

/// Why a stream failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The peer gave the stream up, with a code.
    #[error("the other side reset the stream: {0}")]
    Reset(Fault),
    /// The peer answered with an error.
    #[error("{0}")]
    Refused(Fault),
    /// The peer's bytes break the framing; the stream was reset, the connection lives. [WIRE-FRAME-04]
    #[error("the other side broke the framing: {0}")]
    Frame(FrameError),
    /// The peer finished where an answer was due.
    #[error("the other side finished the stream without an answer")]
    Ended,
    /// This side's message is over what the peer takes. Nothing was sent.
    #[error("a message of {size} bytes is over the limit of {limit}")]
    TooLarge {
        /// Bytes of the message.
        size: usize,
        /// Bytes that the peer takes.
        limit: usize,
    },
    /// No answer within the caller's deadline.
    #[error("no answer within {} ms", .0.as_millis())]
    Deadline(Duration),
    /// The peer drains: open nothing new here.
    #[error("the other side is going away, reconnect after {} ms", .0.as_millis())]
    Draining(Duration),
    /// The connection is gone.
    #[error(transparent)]
    Lost(#[from] Closed),
}

impl StreamError {
    /// What a user or peer is told.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Reset(fault) | Self::Refused(fault) => fault.clone(),
            Self::Frame(error) => (*error).into(),
            Self::Ended => Fault::new(ErrorCode::Malformed, self.to_string()),
            Self::TooLarge { .. } => Fault::new(ErrorCode::FrameTooLarge, self.to_string()),
            Self::Deadline(_) => Fault::new(ErrorCode::Timeout, self.to_string()),
            Self::Draining(after) => {
                Fault::new(ErrorCode::Unavailable, "the other side is going away").with_retry_after(*after)
            }
            Self::Lost(closed) => closed.fault(),
        }
    }

    /// Whether the connection itself is gone.
    pub fn is_connection_lost(&self) -> bool {
        matches!(self, Self::Lost(_))
    }
}

impl From<quinn::WriteError> for StreamError {
    fn from(error: quinn::WriteError) -> Self {
        match error {
            quinn::WriteError::Stopped(code) => Self::Reset(fault_of(code, "")),
            quinn::WriteError::ConnectionLost(error) => Self::Lost(error.into()),
            // A stream that this side has finished, or 0-RTT, which is off.
            quinn::WriteError::ClosedStream | quinn::WriteError::ZeroRttRejected => Self::Lost(Closed::Here),
        }
    }
}

impl From<quinn::ReadError> for StreamError {
    fn from(error: quinn::ReadError) -> Self {
        match error {
            quinn::ReadError::Reset(code) => Self::Reset(fault_of(code, "")),
            quinn::ReadError::ConnectionLost(error) => Self::Lost(error.into()),
            quinn::ReadError::ClosedStream
            | quinn::ReadError::IllegalOrderedRead
            | quinn::ReadError::ZeroRttRejected => Self::Lost(Closed::Here),
        }
    }
}

/// Why an endpoint could not start. Local faults.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The UDP socket.
    #[error("cannot listen on UDP {address}: {source}")]
    Socket {
        /// Where.
        address: std::net::SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// TLS refused its configuration.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

/// The QUIC application code that stands for an error code, on streams and connections alike. [WIRE-ERR-04]
pub(crate) fn code(code: ErrorCode) -> VarInt {
    VarInt::from_u32(u32::try_from(i32::from(code)).unwrap_or(0))
}

/// The fault that a QUIC application code stands for.
fn fault_of(code: VarInt, message: &str) -> Fault {
    let code = i32::try_from(code.into_inner()).ok().and_then(|code| ErrorCode::try_from(code).ok());
    Fault::new(code.unwrap_or(ErrorCode::Unspecified), message)
}
