//! Messages on one QUIC stream: what is written together leaves together, and what breaks the framing
//! ends this stream alone. [WIRE-FRAME-04]

use std::collections::VecDeque;
use std::slice;
use std::sync::Arc;

use ahoy_proto::fault::Fault;
use ahoy_proto::frame::{FrameDecoder, FrameError};
use ahoy_proto::v1::ErrorCode;
use bytes::{Bytes, BytesMut};
use prost::Message;
use tokio::sync::OwnedSemaphorePermit;

use crate::connection::Connection;
use crate::error::{StreamError, code};

/// A batch is written out when it has grown to so many bytes.
const BATCH_BYTES: usize = 64 * 1024;
/// Received chunks taken from QUIC at once.
const CHUNKS: usize = 16;

/// A bidirectional stream of frames. Dropping it finishes what was sent and stops what is received.
#[derive(Debug)]
pub struct Stream {
    send: SendHalf,
    recv: RecvHalf,
}

impl Stream {
    pub(crate) fn new(mut send: SendHalf, mut recv: RecvHalf, connection: Connection) -> Self {
        let connection = Arc::new(Held::new(connection));
        send.held = Some(connection.clone());
        recv.held = Some(connection);
        Self { send, recv }
    }

    /// Sends one message now.
    ///
    /// # Errors
    /// See [`SendHalf::flush`]; [`StreamError::TooLarge`] before anything is sent.
    pub async fn send<M: Message>(&mut self, message: &M) -> Result<(), StreamError> {
        self.send.send(message).await
    }

    /// Sends messages in as few packets as they fit.
    ///
    /// # Errors
    /// As [`Stream::send`].
    pub async fn send_batch<'a, M: Message + 'a>(
        &mut self,
        messages: impl IntoIterator<Item = &'a M>,
    ) -> Result<(), StreamError> {
        self.send.send_batch(messages).await
    }

    /// The next message; `None` when the peer has finished. Cancel-safe.
    ///
    /// # Errors
    /// [`StreamError::Frame`] when the peer breaks the framing, after both directions were reset with the
    /// code; [`StreamError::Reset`], [`StreamError::Lost`].
    pub async fn recv<M: Message + Default>(&mut self) -> Result<Option<M>, StreamError> {
        let received = self.recv.recv().await;
        if let Err(StreamError::Frame(error)) = &received {
            self.send.reset(Fault::from(*error).code);
        }
        received
    }

    /// Says that nothing more will be sent. What was sent still arrives.
    pub fn finish(&mut self) {
        self.send.finish();
    }

    /// Gives up both directions with a code.
    pub fn reset(&mut self, code: ErrorCode) {
        self.send.reset(code);
        self.recv.stop(code);
    }

    /// The two directions, for two tasks.
    pub fn split(self) -> (SendHalf, RecvHalf) {
        (self.send, self.recv)
    }

    /// The connection that carries the stream.
    pub fn connection(&self) -> &Connection {
        self.send.connection()
    }
}

/// Keeps the connection open while a stream is, and counts it as busy.
#[derive(Debug)]
pub(crate) struct Held(Connection);

impl Held {
    fn new(connection: Connection) -> Self {
        connection.stream_opened();
        Self(connection)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.stream_closed();
    }
}

/// The sending direction.
#[derive(Debug)]
pub struct SendHalf {
    quic: quinn::SendStream,
    // Whole frames not handed to QUIC yet. `leaving` is written first; a cancelled write continues there.
    leaving: Bytes,
    gathered: BytesMut,
    limit: usize,
    // The place in the count of this kind of stream, free as soon as this side is done with it.
    place: Option<OwnedSemaphorePermit>,
    held: Option<Arc<Held>>,
}

impl SendHalf {
    pub(crate) fn new(quic: quinn::SendStream, limit: usize) -> Self {
        Self { quic, leaving: Bytes::new(), gathered: BytesMut::new(), limit, place: None, held: None }
    }

    pub(crate) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    pub(crate) fn hold_place(&mut self, place: OwnedSemaphorePermit) {
        self.place = Some(place);
    }

    fn connection(&self) -> &Connection {
        &self.held.as_ref().expect("a public stream is made by `Stream::new`").0
    }

    /// Appends a message to the batch without sending it. The caller bounds the batch: [`SendHalf::gathered`].
    ///
    /// # Errors
    /// [`StreamError::TooLarge`].
    pub fn feed<M: Message>(&mut self, message: &M) -> Result<(), StreamError> {
        let size = message.encoded_len();
        if size > self.limit {
            return Err(StreamError::TooLarge { size, limit: self.limit });
        }
        self.gathered.reserve(size + 5);
        message.encode_length_delimited(&mut self.gathered).expect("room was reserved");
        Ok(())
    }

    pub(crate) fn feed_frame(&mut self, frame: &[u8]) {
        self.gathered.extend_from_slice(frame);
    }

    /// Bytes fed and not flushed.
    pub fn gathered(&self) -> usize {
        self.gathered.len()
    }

    /// Hands the batch to QUIC, waiting for the peer's credit. Cancel-safe: the rest leaves with the next call.
    ///
    /// # Errors
    /// [`StreamError::Reset`] when the peer stopped reading, [`StreamError::Lost`].
    pub async fn flush(&mut self) -> Result<(), StreamError> {
        loop {
            if self.leaving.is_empty() {
                if self.gathered.is_empty() {
                    return Ok(());
                }
                self.leaving = self.gathered.split().freeze();
            }
            self.quic.write_chunks(slice::from_mut(&mut self.leaving)).await?;
        }
    }

    /// Sends one message now.
    ///
    /// # Errors
    /// [`StreamError::TooLarge`], and those of [`SendHalf::flush`].
    pub async fn send<M: Message>(&mut self, message: &M) -> Result<(), StreamError> {
        self.feed(message)?;
        self.flush().await
    }

    /// Sends messages in as few packets as they fit.
    ///
    /// # Errors
    /// As [`SendHalf::send`]; messages before one that is too large may have been sent.
    pub async fn send_batch<'a, M: Message + 'a>(
        &mut self,
        messages: impl IntoIterator<Item = &'a M>,
    ) -> Result<(), StreamError> {
        for message in messages {
            self.feed(message)?;
            if self.gathered.len() >= BATCH_BYTES {
                self.flush().await?;
            }
        }
        self.flush().await
    }

    /// Says that nothing more will be sent. What was flushed still arrives.
    pub fn finish(&mut self) {
        self.place = None;
        // An error says that the stream is finished or reset already.
        let _ = self.quic.finish();
    }

    /// Gives the direction up with a code; what was not delivered is dropped.
    pub fn reset(&mut self, reason: ErrorCode) {
        self.place = None;
        self.leaving = Bytes::new();
        self.gathered.clear();
        let _ = self.quic.reset(code(reason));
    }

    /// Resolves when the peer has all of a finished stream, or wants no more of it.
    pub async fn delivered(&mut self) {
        // Both outcomes mean that waiting longer brings nothing.
        let _ = self.quic.stopped().await;
    }
}

impl Drop for SendHalf {
    fn drop(&mut self) {
        // QUIC would finish the stream in the middle of a frame, which reads like an orderly end.
        if !self.leaving.is_empty() || !self.gathered.is_empty() {
            self.reset(ErrorCode::Internal);
        }
    }
}

/// The receiving direction.
#[derive(Debug)]
pub struct RecvHalf {
    quic: quinn::RecvStream,
    chunk: Bytes,
    chunks: VecDeque<Bytes>,
    decoder: FrameDecoder,
    // On the side that opened the stream: its place in the count of this kind.
    place: Option<OwnedSemaphorePermit>,
    // Bytes that may still be received before authentication. [WIRE-HELLO-02]
    budget: Option<usize>,
    held: Option<Arc<Held>>,
}

impl RecvHalf {
    pub(crate) fn new(quic: quinn::RecvStream, limit: usize) -> Self {
        let decoder = FrameDecoder::new(limit);
        Self {
            quic,
            chunk: Bytes::new(),
            chunks: VecDeque::new(),
            decoder,
            place: None,
            budget: None,
            held: None,
        }
    }

    /// At most `bytes` in all may arrive until [`RecvHalf::lift_budget`].
    pub(crate) fn with_budget(mut self, bytes: usize) -> Self {
        self.budget = Some(bytes);
        self
    }

    pub(crate) fn with_place(mut self, place: Option<OwnedSemaphorePermit>) -> Self {
        self.place = place;
        self
    }

    pub(crate) fn lift_budget(&mut self, limit: usize) {
        self.budget = None;
        self.decoder.set_limit(limit);
    }

    /// Whether bytes beyond the last frame have been received.
    pub(crate) fn has_more(&self) -> bool {
        !self.chunk.is_empty() || !self.chunks.is_empty()
    }

    /// The next message; `None` when the peer has finished. Cancel-safe.
    ///
    /// # Errors
    /// [`StreamError::Frame`] when the peer breaks the framing, after the stream was stopped with the code;
    /// [`StreamError::Reset`], [`StreamError::Lost`].
    pub async fn recv<M: Message + Default>(&mut self) -> Result<Option<M>, StreamError> {
        match self.recv_frame().await? {
            Some(frame) => M::decode(frame).map(Some).map_err(|_| self.broken(FrameError::Malformed)),
            None => Ok(None),
        }
    }

    /// A message that has arrived whole already, without waiting.
    ///
    /// # Errors
    /// [`StreamError::Frame`], as [`RecvHalf::recv`].
    pub fn try_recv<M: Message + Default>(&mut self) -> Result<Option<M>, StreamError> {
        match self.buffered()? {
            Some(frame) => M::decode(frame).map(Some).map_err(|_| self.broken(FrameError::Malformed)),
            None => Ok(None),
        }
    }

    /// The payload of the next frame.
    pub(crate) async fn recv_frame(&mut self) -> Result<Option<Bytes>, StreamError> {
        loop {
            if let Some(frame) = self.buffered()? {
                return Ok(Some(frame));
            }
            let mut fresh: [Bytes; CHUNKS] = Default::default();
            let Some(count) = self.quic.read_chunks(&mut fresh).await? else {
                return self.decoder.finish().map(|()| None).map_err(StreamError::Frame);
            };
            for chunk in fresh.into_iter().take(count) {
                self.spend(chunk.len())?;
                self.chunks.push_back(chunk);
            }
        }
    }

    fn buffered(&mut self) -> Result<Option<Bytes>, StreamError> {
        loop {
            match self.decoder.decode(&mut self.chunk) {
                Ok(Some(frame)) => return Ok(Some(frame)),
                Ok(None) => match self.chunks.pop_front() {
                    Some(chunk) => self.chunk = chunk,
                    None => return Ok(None),
                },
                Err(error) => return Err(self.broken(error)),
            }
        }
    }

    fn spend(&mut self, bytes: usize) -> Result<(), StreamError> {
        let Some(left) = &mut self.budget else { return Ok(()) };
        match left.checked_sub(bytes) {
            Some(rest) => {
                *left = rest;
                Ok(())
            }
            None => {
                let error = FrameError::TooLarge { declared: bytes as u64, limit: *left };
                Err(self.broken(error))
            }
        }
    }

    fn broken(&mut self, error: FrameError) -> StreamError {
        self.stop(Fault::from(error).code);
        StreamError::Frame(error)
    }

    /// Tells the peer to send no more, with a code.
    pub fn stop(&mut self, reason: ErrorCode) {
        let _ = self.quic.stop(code(reason));
    }
}
