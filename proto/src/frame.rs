//! Decides where a message begins and ends on a stream: a varint length and a protobuf message.

use bytes::{Buf as _, Bytes, BytesMut};
use prost::Message;

use crate::fault::Fault;
use crate::limit;
use crate::v1::ErrorCode;

/// A length of 32 bits takes at most five bytes.
const LENGTH_BYTES: u32 = 5;

/// The bytes of `message` as one frame. `[WIRE-FRAME-01]`
///
/// It does not check the limit: use [`encode_within`] where the size is not known to be small.
pub fn encode<M: Message>(message: &M) -> Bytes {
    message.encode_length_delimited_to_vec().into()
}

/// [`encode`], refusing a message of more than `limit` bytes.
///
/// # Errors
/// [`FrameError::TooLarge`].
pub fn encode_within<M: Message>(message: &M, limit: usize) -> Result<Bytes, FrameError> {
    let declared = message.encoded_len();
    if declared > limit {
        return Err(FrameError::TooLarge { declared: declared as u64, limit });
    }
    Ok(encode(message))
}

/// Cuts a stream of bytes, in chunks of any size, into frames.
#[derive(Debug)]
pub struct FrameDecoder {
    limit: usize,
    state: State,
}

#[derive(Debug)]
enum State {
    Length { value: u64, bytes: u32 },
    Body { missing: usize, have: BytesMut },
}

const START: State = State::Length { value: 0, bytes: 0 };

impl Default for FrameDecoder {
    fn default() -> Self {
        Self::new(limit::FRAME_BYTES)
    }
}

impl FrameDecoder {
    /// For frames of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { limit, state: START }
    }

    /// Changes the limit from the next frame on.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Takes what it needs from `chunk` and returns the next whole frame, `None` when it needs more bytes.
    ///
    /// A frame over the limit is refused when its length is known, before anything of it is kept; what is kept
    /// is what arrived, never what was announced. `[WIRE-FRAME-02]`
    ///
    /// # Errors
    /// [`FrameError::TooLarge`], [`FrameError::Length`]. The stream cannot be read any further.
    pub fn decode(&mut self, chunk: &mut Bytes) -> Result<Option<Bytes>, FrameError> {
        loop {
            match &mut self.state {
                State::Length { value, bytes } => {
                    if !chunk.has_remaining() {
                        return Ok(None);
                    }
                    let byte = chunk.get_u8();
                    *value |= u64::from(byte & 0x7f) << (7 * *bytes);
                    *bytes += 1;
                    if byte & 0x80 == 0 {
                        // One length has one form: the handshake's transcript covers these bytes. `[WIRE-FRAME-03]`
                        if byte == 0 && *bytes > 1 {
                            return Err(FrameError::Length);
                        }
                        self.state = body(*value, self.limit)?;
                    } else if *bytes == LENGTH_BYTES {
                        return Err(FrameError::Length);
                    }
                }
                State::Body { missing, have } => {
                    let now = (*missing).min(chunk.remaining());
                    *missing -= now;
                    let whole = *missing == 0;
                    let frame = match (whole, have.is_empty()) {
                        (true, true) => chunk.split_to(now),
                        (true, false) => {
                            have.extend_from_slice(&chunk.split_to(now));
                            std::mem::take(have).freeze()
                        }
                        (false, _) => {
                            have.extend_from_slice(&chunk.split_to(now));
                            return Ok(None);
                        }
                    };
                    self.state = START;
                    return Ok(Some(frame));
                }
            }
        }
    }

    /// [`FrameDecoder::decode`] and then the message in it.
    ///
    /// # Errors
    /// As there, and [`FrameError::Malformed`], after which the next frame can be read.
    pub fn decode_message<M: Message + Default>(
        &mut self,
        chunk: &mut Bytes,
    ) -> Result<Option<M>, FrameError> {
        match self.decode(chunk)? {
            Some(frame) => M::decode(frame).map(Some).map_err(|_| FrameError::Malformed),
            None => Ok(None),
        }
    }

    /// The stream has ended: was it between two frames?
    ///
    /// # Errors
    /// [`FrameError::Truncated`] when it was inside one.
    pub fn finish(&self) -> Result<(), FrameError> {
        match self.state {
            State::Length { bytes: 0, .. } => Ok(()),
            _ => Err(FrameError::Truncated),
        }
    }
}

fn body(declared: u64, limit: usize) -> Result<State, FrameError> {
    match usize::try_from(declared) {
        Ok(missing) if missing <= limit => Ok(State::Body { missing, have: BytesMut::new() }),
        _ => Err(FrameError::TooLarge { declared, limit }),
    }
}

/// Why a stream of frames cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Over the limit of this stream.
    #[error("a frame of {declared} bytes is over the limit of {limit}")]
    TooLarge {
        /// Bytes announced.
        declared: u64,
        /// Bytes allowed.
        limit: usize,
    },
    /// The length prefix is not a minimal varint of 32 bits.
    #[error("the length of a frame is not a minimal varint")]
    Length,
    /// The stream ended inside a frame.
    #[error("the stream ended inside a frame")]
    Truncated,
    /// Not the message that belongs here.
    #[error("a frame does not decode as the message that is due")]
    Malformed,
}

impl From<FrameError> for Fault {
    fn from(e: FrameError) -> Self {
        let code = match e {
            FrameError::TooLarge { .. } => ErrorCode::FrameTooLarge,
            FrameError::Length | FrameError::Truncated | FrameError::Malformed => ErrorCode::Malformed,
        };
        Fault::new(code, e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::{ControlFrame, Want, control_frame::Frame};
    use proptest::prelude::*;

    fn want(name: &str) -> ControlFrame {
        ControlFrame { frame: Some(Frame::Want(Want { name: name.into() })) }
    }

    #[test]
    fn refuses_a_frame_over_the_limit_before_keeping_any_of_it() {
        let mut decoder = FrameDecoder::new(300);
        let mut chunk = Bytes::from_static(&[0xad, 0x02, 1, 2, 3]);
        assert_eq!(decoder.decode(&mut chunk), Err(FrameError::TooLarge { declared: 301, limit: 300 }));
        assert_eq!(chunk.len(), 3);
        assert!(matches!(encode_within(&want(&"a".repeat(301)), 300), Err(FrameError::TooLarge { .. })));
    }

    #[test]
    fn refuses_lengths_that_are_not_minimal_or_too_long() {
        for bad in [&[0x80, 0x00][..], &[0x81, 0x80, 0x00], &[0xff; 10]] {
            let got = FrameDecoder::default().decode(&mut Bytes::copy_from_slice(bad));
            assert_eq!(got, Err(FrameError::Length), "{bad:x?}");
        }
    }

    #[test]
    fn tells_an_end_inside_a_frame_from_one_between_frames() {
        let mut decoder = FrameDecoder::default();
        assert_eq!(decoder.finish(), Ok(()));
        assert_eq!(decoder.decode(&mut Bytes::from_static(&[5, 1])), Ok(None));
        assert_eq!(decoder.finish(), Err(FrameError::Truncated));
    }

    #[test]
    fn a_frame_that_is_no_message_leaves_the_next_one_readable() {
        let mut decoder = FrameDecoder::default();
        let mut chunk = Bytes::from([&[2, 0xff, 0xff][..], &encode(&want("bank.example"))].concat());
        assert_eq!(decoder.decode_message::<ControlFrame>(&mut chunk), Err(FrameError::Malformed));
        assert_eq!(decoder.decode_message(&mut chunk), Ok(Some(want("bank.example"))));
    }

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in_however_they_are_cut(
            names in proptest::collection::vec("[a-z.]{0,300}", 0..8),
            cuts in proptest::collection::vec(1..50usize, 1..8),
        ) {
            let sent: Vec<_> = names.iter().map(|n| want(n)).collect();
            let mut wire = Bytes::from(sent.iter().flat_map(|m| encode(m).to_vec()).collect::<Vec<_>>());
            let mut decoder = FrameDecoder::default();
            let mut got = Vec::new();
            for cut in cuts.iter().cycle() {
                let mut chunk = wire.split_to((*cut).min(wire.len()));
                while let Some(message) = decoder.decode_message::<ControlFrame>(&mut chunk)? {
                    got.push(message);
                }
                if wire.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(got, sent);
            prop_assert_eq!(decoder.finish(), Ok(()));
        }
    }
}
