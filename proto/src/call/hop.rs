//! Decides what one hop of a call remembers, so that a connection may die and the call goes on.

use std::collections::VecDeque;

use bytes::Bytes;
use subtle::ConstantTimeEq as _;

use crate::fault::Fault;
use crate::limit;
use crate::time::Timestamp;
use crate::v1::call_frame::Message;
use crate::v1::{CallFrame, ErrorCode, HopToken, Resume, Resumed};

/// Shortest token that is taken, in bytes.
const TOKEN_BYTES: usize = 16;

/// One side of one hop: the counters of both directions, and the last 64 messages sent.
///
/// The acceptor gives tokens, the opener keeps the last one. Each stream of the hop begins with the acceptor's
/// token; a resumed one goes on with `Resumed` and the replay.
#[derive(Debug, Default)]
pub struct HopBuffer {
    sent: VecDeque<CallFrame>,
    last_sent: u64,
    last_received: u64,
    /// Acceptor: the token that is out. Opener: the token that was given.
    token: Option<Bytes>,
    /// Since when there is no connection, and the newest message sent before.
    lost: Option<(Timestamp, u64)>,
}

/// What to send on a resumed stream, in this order.
#[derive(Clone, Debug, PartialEq)]
pub struct Resumption {
    /// Frames to send before anything else.
    pub frames: Vec<CallFrame>,
}

impl HopBuffer {
    /// A hop on which nothing was said.
    pub fn new() -> Self {
        Self::default()
    }

    /// Numbers a message and keeps it. While the connection is lost, it is sent by the replay. `[CALL-RESUME-01]`
    ///
    /// # Errors
    /// [`HopError::Full`] when 64 messages wait for a connection: the call ends.
    pub fn send(&mut self, message: Message) -> Result<CallFrame, HopError> {
        if let Some((_, before)) = self.lost
            && self.last_sent - before >= limit::CALL_BUFFER as u64
        {
            return Err(HopError::Full);
        }
        self.last_sent += 1;
        let frame = CallFrame { counter: self.last_sent, message: Some(message) };
        if self.sent.len() == limit::CALL_BUFFER {
            self.sent.pop_front();
        }
        self.sent.push_back(frame.clone());
        Ok(frame)
    }

    /// A frame arrived. `None`: a repeat, or nothing for the call.
    ///
    /// The hop's own messages are handled here: a token is kept; `Resumed` is for [`HopBuffer::resumed`] and an
    /// `Error` for the driver, which look at the frame first.
    ///
    /// # Errors
    /// [`HopError::Gap`] when a message is missing between, [`HopError::Uncounted`] when it has no number.
    pub fn receive(&mut self, frame: CallFrame) -> Result<Option<Message>, HopError> {
        match frame.message {
            Some(Message::Token(HopToken { token })) => {
                if token.len() < TOKEN_BYTES || token.len() > 4 * TOKEN_BYTES {
                    return Err(HopError::Token);
                }
                self.token = Some(token);
                Ok(None)
            }
            Some(Message::Resumed(_) | Message::Error(_)) => Ok(None),
            _ if frame.counter == 0 => Err(HopError::Uncounted),
            _ if frame.counter <= self.last_received => Ok(None),
            _ if frame.counter > self.last_received + 1 => Err(HopError::Gap),
            message => {
                self.last_received = frame.counter;
                // A message from the future counts, and is nothing here.
                Ok(message)
            }
        }
    }

    /// Acceptor: the first frame of a stream. `token` is random, used once, known to nobody else. `[CALL-RESUME-03]`
    pub fn give_token(&mut self, token: [u8; TOKEN_BYTES]) -> CallFrame {
        let token = Bytes::copy_from_slice(&token);
        self.token = Some(token.clone());
        uncounted(Message::Token(HopToken { token }))
    }

    /// The connection died at `now`.
    pub fn lost(&mut self, now: Timestamp) {
        self.lost.get_or_insert((now, self.last_sent));
    }

    /// Whether the hop has no connection.
    pub fn is_lost(&self) -> bool {
        self.lost.is_some()
    }

    /// When the call ends with `connection lost` unless the hop is resumed before. `[CALL-RESUME-05]`
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        self.lost.map(|(at, _)| at + limit::RESUME_TIME)
    }

    /// Opener: what to open the next stream with; `None` when the acceptor never gave a token.
    pub fn resume(&self) -> Option<Resume> {
        let token = self.token.clone()?;
        Some(Resume { token, last_received: self.last_received })
    }

    /// Acceptor: the opener is back, on a connection of the same device or name, which the driver has checked.
    /// An older stream of the hop that still seems open is superseded. `[CALL-RESUME-04]`
    ///
    /// # Errors
    /// [`HopError::Token`] for another token or a spent one, [`HopError::Gone`] when too much is missing.
    pub fn accept(&mut self, resume: &Resume, next: [u8; TOKEN_BYTES]) -> Result<Resumption, HopError> {
        let own = self.token.as_ref().ok_or(HopError::Token)?;
        if !bool::from(own.ct_eq(&resume.token)) {
            return Err(HopError::Token);
        }
        let replay = self.replay(resume.last_received)?;
        self.lost = None;
        let resumed = uncounted(Message::Resumed(Resumed { last_received: self.last_received }));
        let mut frames = vec![self.give_token(next), resumed];
        frames.extend(replay);
        Ok(Resumption { frames })
    }

    /// Opener: the acceptor's `Resumed` arrived.
    ///
    /// # Errors
    /// [`HopError::Gone`] when the acceptor misses more than is kept, or claims what was not sent.
    pub fn resumed(&mut self, resumed: &Resumed) -> Result<Resumption, HopError> {
        let frames = self.replay(resumed.last_received)?;
        self.lost = None;
        Ok(Resumption { frames })
    }

    /// The messages after `last_received`. `[CALL-RESUME-02]`
    fn replay(&self, last_received: u64) -> Result<Vec<CallFrame>, HopError> {
        let oldest = self.last_sent - self.sent.len() as u64;
        if last_received < oldest || last_received > self.last_sent {
            return Err(HopError::Gone);
        }
        Ok(self.sent.iter().filter(|frame| frame.counter > last_received).cloned().collect())
    }
}

fn uncounted(message: Message) -> CallFrame {
    CallFrame { counter: 0, message: Some(message) }
}

/// Why a hop cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HopError {
    /// Too much waits.
    #[error("more than {} messages wait for the connection", limit::CALL_BUFFER)]
    Full,
    /// A message is missing.
    #[error("a call message is missing")]
    Gap,
    /// A message without its number.
    #[error("a call message has no counter")]
    Uncounted,
    /// What is missing is not kept any more.
    #[error("the call cannot be resumed: messages are missing that are not kept")]
    Gone,
    /// Not the token that was given last.
    #[error("the resume token is not the one that was given last")]
    Token,
}

impl From<HopError> for Fault {
    fn from(e: HopError) -> Self {
        let code = match e {
            HopError::Full => ErrorCode::SlowReader,
            HopError::Gap | HopError::Uncounted => ErrorCode::OutOfOrder,
            HopError::Gone => ErrorCode::UnknownCall,
            HopError::Token => ErrorCode::BadResumeToken,
        };
        Fault::new(code, e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::NOW;
    use crate::v1;
    use proptest::prelude::*;

    fn message(i: u32) -> Message {
        Message::Dtmf(v1::Dtmf { digits: "1".into(), duration_ms: i })
    }

    fn token(frame: &CallFrame) -> Bytes {
        match &frame.message {
            Some(Message::Token(t)) => t.token.clone(),
            other => panic!("not a token: {other:?}"),
        }
    }

    #[test]
    fn a_repeat_is_ignored_and_a_gap_is_refused() {
        let mut hop = HopBuffer::new();
        let frame = |counter| CallFrame { counter, message: Some(message(1)) };
        assert_eq!(hop.receive(frame(1)), Ok(Some(message(1))));
        assert_eq!(hop.receive(frame(1)), Ok(None));
        assert_eq!(hop.receive(frame(3)), Err(HopError::Gap));
        assert_eq!(hop.receive(frame(0)), Err(HopError::Uncounted));
        assert_eq!(hop.receive(frame(2)), Ok(Some(message(1))));
    }

    #[test]
    fn a_token_works_once() {
        let (mut acceptor, mut opener) = (HopBuffer::new(), HopBuffer::new());
        assert_eq!(opener.resume(), None);
        opener.receive(acceptor.give_token([1; 16])).expect("a token");
        let resume = opener.resume().expect("has a token");
        let back = acceptor.accept(&resume, [2; 16]).expect("the token given last");
        assert_eq!(token(&back.frames[0])[..], [2; 16]);
        assert_eq!(acceptor.accept(&resume, [3; 16]), Err(HopError::Token));
        let short = CallFrame { counter: 0, message: Some(Message::Token(HopToken { token: Bytes::new() })) };
        assert_eq!(opener.receive(short), Err(HopError::Token));
    }

    #[test]
    fn more_than_the_buffer_cannot_be_replayed_nor_wait() {
        let mut hop = HopBuffer::new();
        hop.give_token([1; 16]);
        for i in 0..70 {
            hop.send(message(i)).expect("connected");
        }
        let resume = |last_received| Resume { token: Bytes::from_static(&[1; 16]), last_received };
        assert_eq!(hop.accept(&resume(5), [2; 16]), Err(HopError::Gone));
        assert_eq!(hop.accept(&resume(71), [2; 16]), Err(HopError::Gone));
        hop.lost(NOW);
        assert_eq!(hop.poll_timeout(), Some(NOW + limit::RESUME_TIME));
        for i in 0..64 {
            hop.send(message(i)).expect("waits");
        }
        assert_eq!(hop.send(message(0)), Err(HopError::Full));
        assert_eq!(hop.accept(&resume(70), [2; 16]).map(|r| r.frames.len()), Ok(2 + 64));
        assert!(!hop.is_lost());
    }

    proptest! {
        /// Whatever a dying connection swallows in either direction, each side gets every message once, in order.
        #[test]
        fn nothing_is_lost_or_doubled_over_connections_that_die(
            rounds in proptest::collection::vec((0..8u32, 0..8u32, 0..9usize, 0..9usize), 1..20),
        ) {
            let (mut opener, mut acceptor) = (HopBuffer::new(), HopBuffer::new());
            opener.receive(acceptor.give_token([0; 16]))?;
            let (mut at_opener, mut at_acceptor) = (Vec::new(), Vec::new());
            let (mut from_opener, mut from_acceptor) = (0, 0);
            for (round, (up, down, up_arrives, down_arrives)) in rounds.into_iter().enumerate() {
                let ups: Vec<_> = (0..up).map(|i| opener.send(message(from_opener + i))).collect::<Result<_, _>>()?;
                let downs: Vec<_> = (0..down).map(|i| acceptor.send(message(from_acceptor + i))).collect::<Result<_, _>>()?;
                (from_opener, from_acceptor) = (from_opener + up, from_acceptor + down);
                for frame in ups.into_iter().take(up_arrives) {
                    at_acceptor.extend(acceptor.receive(frame)?);
                }
                for frame in downs.into_iter().take(down_arrives) {
                    at_opener.extend(opener.receive(frame)?);
                }
                opener.lost(NOW);
                acceptor.lost(NOW);
                let resume = opener.resume().expect("has a token");
                for frame in acceptor.accept(&resume, [round as u8 + 1; 16])?.frames {
                    if let Some(Message::Resumed(resumed)) = &frame.message {
                        for frame in opener.resumed(resumed)?.frames {
                            at_acceptor.extend(acceptor.receive(frame)?);
                        }
                    }
                    at_opener.extend(opener.receive(frame)?);
                }
            }
            prop_assert_eq!(at_acceptor, (0..from_opener).map(message).collect::<Vec<_>>());
            prop_assert_eq!(at_opener, (0..from_acceptor).map(message).collect::<Vec<_>>());
        }
    }
}
