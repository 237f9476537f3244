//! Decides how frames are written to and read from a QUIC stream, and how every way for it to end is told apart.
//!
//! A codec of the suite's own: varint length, then protobuf [WIRE-FRAME-01].

use std::fmt;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use prost::Message;
use quinn::{ReadError, RecvStream, SendStream, WriteError};
use tokio::time::timeout;

/// The largest frame that is legal unless advertised otherwise [WIRE-FRAME-02].
pub const FRAME_BYTES: usize = 256 * 1024;
/// How long the suite waits for a frame that has to come.
pub const PATIENCE: Duration = Duration::from_secs(8);

/// Why no further frame comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The stream was finished in order, between two frames.
    Finished,
    /// The stream was reset or stopped with this code.
    Reset(u64),
    /// The connection was closed by the subject with this code and text.
    Closed(u64, String),
    /// The connection was lost some other way.
    Lost(String),
    /// What came is no frame.
    Malformed(String),
    /// Nothing came for so long.
    Silent(Duration),
}

impl std::error::Error for End {}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finished => f.write_str("the stream was finished"),
            Self::Reset(code) => write!(f, "the stream was reset with code {code}"),
            Self::Closed(code, why) => write!(f, "the connection was closed with code {code} ({why})"),
            Self::Lost(why) => write!(f, "the connection was lost ({why})"),
            Self::Malformed(why) => write!(f, "what came is no frame: {why}"),
            Self::Silent(time) => write!(f, "nothing came for {} ms", time.as_millis()),
        }
    }
}

impl From<quinn::ConnectionError> for End {
    fn from(error: quinn::ConnectionError) -> Self {
        match error {
            quinn::ConnectionError::ApplicationClosed(close) => {
                Self::Closed(close.error_code.into_inner(), String::from_utf8_lossy(&close.reason).into())
            }
            other => Self::Lost(other.to_string()),
        }
    }
}

impl From<ReadError> for End {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Reset(code) => Self::Reset(code.into_inner()),
            ReadError::ConnectionLost(error) => error.into(),
            other => Self::Lost(other.to_string()),
        }
    }
}

impl From<WriteError> for End {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Stopped(code) => Self::Reset(code.into_inner()),
            WriteError::ConnectionLost(error) => error.into(),
            other => Self::Lost(other.to_string()),
        }
    }
}

/// The bytes of a frame around `payload`.
pub fn framed(payload: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(payload.len() + 5);
    put_length(&mut out, payload.len());
    out.extend_from_slice(payload);
    out.freeze()
}

/// A varint: seven bits at a time, the lowest first.
pub fn put_length(out: &mut BytesMut, mut length: usize) {
    while length >= 0x80 {
        out.extend_from_slice(&[(length & 0x7f) as u8 | 0x80]);
        length >>= 7;
    }
    out.extend_from_slice(&[length as u8]);
}

/// The length at the front of `bytes` and how many bytes it takes; `None` while it is not complete [WIRE-FRAME-03].
fn length(bytes: &[u8]) -> Result<Option<(usize, usize)>, End> {
    let mut value = 0_u64;
    for (index, byte) in bytes.iter().enumerate().take(5) {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            if index > 0 && *byte == 0 {
                return Err(End::Malformed("a length that is not minimal".into()));
            }
            if value > FRAME_BYTES as u64 {
                return Err(End::Malformed(format!("a frame of {value} bytes")));
            }
            return Ok(Some((value as usize, index + 1)));
        }
    }
    if bytes.len() >= 5 { Err(End::Malformed("a length of more than 32 bits".into())) } else { Ok(None) }
}

/// A bidirectional stream of frames.
#[derive(Debug)]
pub struct Stream {
    send: SendStream,
    recv: RecvStream,
    buffer: BytesMut,
}

impl Stream {
    /// Over the two halves of a QUIC stream.
    pub fn new((send, recv): (SendStream, RecvStream)) -> Self {
        Self { send, recv, buffer: BytesMut::new() }
    }

    /// Sends one message.
    ///
    /// # Errors
    /// When the subject stopped reading or is gone.
    pub async fn send<M: Message>(&mut self, message: &M) -> Result<(), End> {
        self.send_bytes(&framed(&message.encode_to_vec())).await
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// As [`Stream::send`].
    pub async fn send_bytes(&mut self, bytes: &[u8]) -> Result<(), End> {
        let sent = timeout(PATIENCE, self.send.write_all(bytes)).await;
        Ok(sent.map_err(|_| End::Silent(PATIENCE))??)
    }

    /// Says that nothing more will be sent.
    pub fn finish(&mut self) {
        // A stream that is gone already cannot be finished, which is what the next read tells.
        let _ = self.send.finish();
    }

    /// The next frame's payload within [`PATIENCE`]. Cancel-safe.
    ///
    /// # Errors
    /// [`End`].
    pub async fn payload(&mut self) -> Result<Bytes, End> {
        self.payload_within(PATIENCE).await
    }

    /// The next frame's payload within a time.
    ///
    /// # Errors
    /// [`End`].
    pub async fn payload_within(&mut self, time: Duration) -> Result<Bytes, End> {
        timeout(time, self.read_payload()).await.unwrap_or(Err(End::Silent(time)))
    }

    /// The next message within [`PATIENCE`]. Cancel-safe.
    ///
    /// # Errors
    /// [`End`].
    pub async fn recv<M: Message + Default>(&mut self) -> Result<M, End> {
        self.recv_within(PATIENCE).await
    }

    /// The next message within a time.
    ///
    /// # Errors
    /// [`End`].
    pub async fn recv_within<M: Message + Default>(&mut self, time: Duration) -> Result<M, End> {
        decode(self.payload_within(time).await?)
    }

    async fn read_payload(&mut self) -> Result<Bytes, End> {
        loop {
            if let Some((size, prefix)) = length(&self.buffer)?
                && self.buffer.len() >= prefix + size
            {
                self.buffer.advance(prefix);
                return Ok(self.buffer.split_to(size).freeze());
            }
            match self.recv.read_chunk(64 * 1024, true).await? {
                Some(chunk) => self.buffer.extend_from_slice(&chunk.bytes),
                None if self.buffer.is_empty() => return Err(End::Finished),
                None => return Err(End::Malformed("the stream was finished within a frame".into())),
            }
        }
    }

    /// How the stream ends when nothing more is awaited on it: frames in between are passed over.
    pub async fn end(&mut self, time: Duration) -> End {
        let ended = async {
            loop {
                if let Err(end) = self.read_payload().await {
                    return end;
                }
            }
        };
        timeout(time, ended).await.unwrap_or(End::Silent(time))
    }
}

/// Reads a message.
///
/// # Errors
/// [`End::Malformed`].
pub fn decode<M: Message + Default>(payload: Bytes) -> Result<M, End> {
    M::decode(payload).map_err(|error| End::Malformed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_minimal_whole_and_within_the_limit() {
        assert_eq!(length(&[]), Ok(None));
        assert_eq!(length(&[0x80]), Ok(None));
        assert_eq!(length(&[0x00]), Ok(Some((0, 1))));
        assert_eq!(length(&[0x80, 0x80, 0x10]), Ok(Some((FRAME_BYTES, 3))));
        for bad in [&[0x80, 0x00][..], &[0x81, 0x80, 0x10], &[0xff; 5]] {
            assert!(length(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_frame_is_its_length_and_its_payload() {
        assert_eq!(framed(b"ab")[..], [2, b'a', b'b']);
        assert_eq!(framed(&[7; 200])[..3], [0xc8, 0x01, 7]);
    }
}
