//! The sync log as a stream that resumes by itself from the last position seen ([EVENT-SYNC-20]).

use ahoy_proto::fault::Fault;
use ahoy_proto::v1::{self, sync_frame};
use ahoy_transport::Stream;

use crate::error::{ClientError, Stage};
use crate::session::Session;

/// What the log says next.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly every event is an item, and is moved once")]
pub enum SyncEvent {
    /// A message, or what became of one.
    Item(v1::SyncItem),
    /// Everything up to this position was sent; what follows is new.
    CaughtUp(u64),
}

/// The account's or service's sync log after a position. Survives lost connections; nothing is given
/// twice. Back-pressure is the connection's: what is not read is not sent.
pub struct SyncStream {
    session: Session,
    position: u64,
    stream: Option<Stream>,
}

impl SyncStream {
    pub(crate) fn new(session: Session, after: u64) -> Self {
        Self { session, position: after, stream: None }
    }

    /// The position of the last item given; store it to resume later.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The next item, as soon as there is one; waits through lost connections. Cancel-safe.
    ///
    /// # Errors
    /// When the homeserver refuses the log for good, or the session ended.
    pub async fn next(&mut self) -> Result<SyncEvent, ClientError> {
        loop {
            if self.stream.is_none() {
                self.stream = Some(self.open().await?);
            }
            let Some(stream) = self.stream.as_mut() else { continue };
            let frame = stream.recv::<v1::SyncFrame>().await;
            match frame {
                Ok(Some(v1::SyncFrame { frame: Some(frame) })) => match self.take(frame)? {
                    Some(event) => return Ok(event),
                    None if self.stream.is_none() => self.session.shared.pause_after_loss().await?,
                    None => {}
                },
                Ok(Some(v1::SyncFrame { frame: None })) => {} // a kind of frame from the future
                Ok(None) | Err(_) => {
                    self.stream = None;
                    self.session.shared.pause_after_loss().await?;
                }
            }
        }
    }

    fn take(&mut self, frame: sync_frame::Frame) -> Result<Option<SyncEvent>, ClientError> {
        match frame {
            sync_frame::Frame::Item(item) if item.position <= self.position => Ok(None),
            sync_frame::Frame::Item(item) => {
                self.position = item.position;
                Ok(Some(SyncEvent::Item(item)))
            }
            sync_frame::Frame::CaughtUp(caught_up) => Ok(Some(SyncEvent::CaughtUp(caught_up.position))),
            sync_frame::Frame::Error(error) => {
                self.stream = None;
                let fault = Fault::from(error);
                if fault.is_retry() {
                    return Ok(None);
                }
                Err(ClientError::new(Stage::Request, self.session.subject(), fault))
            }
        }
    }

    async fn open(&self) -> Result<Stream, ClientError> {
        loop {
            let connection = self.session.shared.link_after(0).await?.connection;
            let open = v1::open::Open::Sync(v1::SyncOpen { after: self.position });
            match connection.open(open).await {
                Ok(stream) => return Ok(stream),
                Err(_) => self.session.shared.pause_after_loss().await?,
            }
        }
    }
}
