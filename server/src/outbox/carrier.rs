//! Decides how a batch of items reaches its destination: over a pipe to a peer, or straight into another ledger of
//! this homeserver. The pump does not know which.

use std::sync::Arc;
use std::time::Duration;

use ahoy_proto::fault::Fault;
use ahoy_proto::name::Name;
use ahoy_proto::v1::{self, ErrorCode, pipe_frame};
use ahoy_transport::{Connection, RecvHalf, SendHalf};
use tokio::time::timeout;

use crate::home::Home;
use crate::inbox;

/// How long the peer has to accept a pipe.
const ACCEPT_TIME: Duration = Duration::from_secs(10);
/// How long it has to acknowledge something.
const ACK_TIME: Duration = Duration::from_secs(60);

/// An open pipe.
pub enum Carrier {
    /// To a peer.
    Remote {
        /// Our items.
        send: Box<SendHalf>,
        /// Its acknowledgements.
        recv: Box<RecvHalf>,
    },
    /// To another name, or the same one, of this homeserver.
    Local {
        /// Whose items these are.
        source: Name,
        /// Who takes them.
        destination: Arc<Home>,
        /// The pipe's fence.
        epoch: u64,
        /// What was acknowledged and not yet looked at.
        taken: Vec<v1::PipeAck>,
        /// Why the pipe ended.
        stopped: Option<Fault>,
    },
}

impl Carrier {
    /// Opens a pipe over a connection.
    pub async fn remote(
        connection: &Connection,
        source: &Name,
        destination: &Name,
        epoch: u64,
    ) -> Result<(Self, v1::PipeAccept), Fault> {
        let open = v1::PipeOpen {
            source: source.to_string(),
            destination: destination.to_string(),
            pipe_epoch: epoch,
            positions: Vec::new(),
        };
        let stream = connection.open(v1::open::Open::Pipe(open)).await.map_err(|error| error.fault())?;
        let (send, mut recv) = stream.split();
        let first = timeout(ACCEPT_TIME, recv.recv::<v1::PipeFrame>()).await.map_err(|_| late())?;
        match first.map_err(|error| error.fault())?.and_then(|frame| frame.frame) {
            Some(pipe_frame::Frame::Accept(v1::PipeAccept { error: Some(error), .. })) => Err(error.into()),
            Some(pipe_frame::Frame::Accept(accept)) => {
                Ok((Self::Remote { send: Box::new(send), recv: Box::new(recv) }, accept))
            }
            Some(pipe_frame::Frame::Error(error)) => Err(error.into()),
            _ => Err(Fault::new(ErrorCode::OutOfOrder, "the peer did not accept the pipe")),
        }
    }

    /// Opens a pipe within this homeserver.
    pub async fn local(
        source: &Name,
        destination: Arc<Home>,
        epoch: u64,
    ) -> Result<(Self, v1::PipeAccept), Fault> {
        let accept = destination.open_pipe(source, epoch).await?;
        Ok((
            Self::Local { source: source.clone(), destination, epoch, taken: Vec::new(), stopped: None },
            accept,
        ))
    }

    /// Sends items. To a local destination they are durable when this returns.
    pub async fn send(&mut self, items: Vec<v1::PipeItem>) -> Result<(), Fault> {
        match self {
            Self::Remote { send, .. } => {
                let frames = items
                    .into_iter()
                    .map(|item| v1::PipeFrame { frame: Some(pipe_frame::Frame::Item(item)) });
                let frames: Vec<v1::PipeFrame> = frames.collect();
                send.send_batch(&frames).await.map_err(|error| error.fault())
            }
            Self::Local { source, destination, epoch, taken, stopped } => {
                let policy = &destination.desk.policy;
                let items = items.into_iter().map(|item| inbox::read(item, policy)).collect();
                let result = destination.take(source, *epoch, items).await?;
                taken.push(result.ack);
                *stopped = result.stopped;
                Ok(())
            }
        }
    }

    /// The next acknowledgements: those that are there, at least one. Cancel-safe.
    pub async fn acks(&mut self) -> Result<Vec<v1::PipeAck>, Fault> {
        match self {
            Self::Remote { recv, .. } => {
                let first = timeout(ACK_TIME, recv.recv::<v1::PipeFrame>()).await.map_err(|_| late())?;
                let mut acks = vec![ack_of(first.map_err(|error| error.fault())?)?];
                while let Some(frame) = recv.try_recv::<v1::PipeFrame>().map_err(|error| error.fault())? {
                    acks.push(ack_of(Some(frame))?);
                }
                Ok(acks)
            }
            Self::Local { taken, stopped, .. } => {
                if !taken.is_empty() {
                    return Ok(std::mem::take(taken));
                }
                match stopped.take() {
                    Some(fault) => Err(fault),
                    None => std::future::pending().await,
                }
            }
        }
    }

    /// Says that nothing more comes.
    pub fn finish(&mut self) {
        if let Self::Remote { send, .. } = self {
            send.finish();
        }
    }
}

fn ack_of(frame: Option<v1::PipeFrame>) -> Result<v1::PipeAck, Fault> {
    match frame.map(|frame| frame.frame) {
        Some(Some(pipe_frame::Frame::Ack(ack))) => Ok(ack),
        Some(Some(pipe_frame::Frame::Error(error))) => Err(error.into()),
        Some(_) => {
            Err(Fault::new(ErrorCode::OutOfOrder, "the peer sent something else than an acknowledgement"))
        }
        None => Err(Fault::new(ErrorCode::Unavailable, "the peer closed the pipe")),
    }
}

fn late() -> Fault {
    Fault::new(ErrorCode::Timeout, "the peer did not answer in time")
}
