//! Plays the source of a delivery pipe towards the subject.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use tokio::time::timeout;

use ahoy_proto::v1::{self, open::Open, pipe_frame, pipe_item::Item};

use crate::frame::{End, PATIENCE, Stream};
use crate::moment::now_ms;
use crate::refusal::Refused;
use crate::session::Session;
use crate::world::World;

/// An open pipe from the suite's main name to the subject's.
pub struct Pipe {
    /// What the subject said when it accepted.
    pub accept: v1::PipeAccept,
    stream: Stream,
    last: u64,
    acknowledged: u64,
    refused: Vec<v1::PipeRefusal>,
    _session: Option<Session>,
}

impl Pipe {
    /// Opens a pipe on a connection of its own, with an epoch above every one before.
    ///
    /// # Errors
    /// [`Refused`], [`End`].
    pub async fn open(world: &World) -> anyhow::Result<Self> {
        let session = world.homeserver().await?;
        let mut pipe = Self::open_on(world, &session, now_ms()).await?;
        pipe._session = Some(session);
        Ok(pipe)
    }

    /// Opens a pipe on a connection with this epoch.
    ///
    /// # Errors
    /// [`Refused`], [`End`].
    pub async fn open_on(world: &World, session: &Session, epoch: u64) -> anyhow::Result<Self> {
        Self::open_as(&world.home.name, &world.subject.name, session, epoch).await
    }

    /// Opens a pipe between these names.
    ///
    /// # Errors
    /// [`Refused`], [`End`].
    pub async fn open_as(
        source: &str,
        destination: &str,
        session: &Session,
        epoch: u64,
    ) -> anyhow::Result<Self> {
        let open = v1::PipeOpen {
            source: source.to_owned(),
            destination: destination.to_owned(),
            pipe_epoch: epoch,
            positions: Vec::new(),
        };
        let mut stream = session.open(Open::Pipe(open)).await?;
        let accept = match stream.recv::<v1::PipeFrame>().await?.frame {
            Some(pipe_frame::Frame::Accept(v1::PipeAccept { error: Some(error), .. })) => {
                bail!(Refused(error))
            }
            Some(pipe_frame::Frame::Accept(accept)) => accept,
            Some(pipe_frame::Frame::Error(error)) => bail!(Refused(error)),
            other => bail!("a pipe begins with {other:?}"),
        };
        let last = accept.received;
        ensure!(accept.window > 0, "EVENT-DELIVER-02: a window of 0");
        Ok(Self { accept, stream, last, acknowledged: last, refused: Vec::new(), _session: None })
    }

    /// Sends an item under the next number, which it gives.
    ///
    /// # Errors
    /// [`End`].
    pub async fn send(&mut self, recipient: &str, item: Item) -> anyhow::Result<u64> {
        self.last += 1;
        self.send_as(self.last, recipient, item).await?;
        Ok(self.last)
    }

    /// Sends an event for placement.
    ///
    /// # Errors
    /// [`End`].
    pub async fn submit(&mut self, recipient: &str, event: v1::Event) -> anyhow::Result<u64> {
        self.send(recipient, Item::Submit(event)).await
    }

    /// Sends an item under this number.
    ///
    /// # Errors
    /// [`End`].
    pub async fn send_as(&mut self, seq: u64, recipient: &str, item: Item) -> anyhow::Result<()> {
        let item = v1::PipeItem { seq, item: Some(item), recipient: recipient.to_owned() };
        Ok(self.stream.send(&v1::PipeFrame { frame: Some(pipe_frame::Frame::Item(item)) }).await?)
    }

    /// Waits until an item is acknowledged, and says whether it was refused.
    ///
    /// # Errors
    /// [`Refused`] when the pipe ends with an error, [`End`].
    pub async fn outcome(&mut self, seq: u64) -> anyhow::Result<Option<v1::Error>> {
        let acknowledged = async {
            while self.acknowledged < seq {
                self.read_ack().await?;
            }
            anyhow::Ok(())
        };
        timeout(PATIENCE, acknowledged).await.map_err(|_| End::Silent(PATIENCE))??;
        let refusal = self.refused.iter().find(|refusal| refusal.seq == seq);
        Ok(refusal.map(|refusal| refusal.error.clone().unwrap_or_default()))
    }

    /// Waits until an item is acknowledged without a refusal.
    ///
    /// # Errors
    /// [`Refused`], [`End`].
    pub async fn accepted(&mut self, seq: u64) -> anyhow::Result<()> {
        match self.outcome(seq).await? {
            Some(error) => Err(anyhow::Error::from(Refused(error))).with_context(|| format!("item {seq}")),
            None => Ok(()),
        }
    }

    /// How the pipe ends when nothing more is sent.
    ///
    /// # Errors
    /// [`Refused`] when it ends with an error, [`End`] otherwise: there is always one.
    pub async fn end(&mut self, time: Duration) -> anyhow::Result<()> {
        let ended = async {
            loop {
                self.read_ack().await?;
            }
        };
        timeout(time, ended).await.unwrap_or_else(|_| Err(End::Silent(time).into()))
    }

    async fn read_ack(&mut self) -> anyhow::Result<()> {
        match self.stream.recv::<v1::PipeFrame>().await?.frame {
            Some(pipe_frame::Frame::Ack(ack)) => {
                ensure!(
                    ack.up_to <= self.last,
                    "EVENT-DELIVER-02: item {} was acknowledged and never sent",
                    ack.up_to
                );
                self.acknowledged = self.acknowledged.max(ack.up_to);
                self.refused.extend(ack.refused);
                Ok(())
            }
            Some(pipe_frame::Frame::Error(error)) => bail!(Refused(error)),
            other => bail!("an acknowledgement was awaited, and {other:?} came"),
        }
    }
}
