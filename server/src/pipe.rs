//! Decides how a delivery pipe from a peer is served: read what is there, look at every signature, one commit, one
//! acknowledgement.

use std::sync::Arc;
use std::time::Duration;

use ahoy_proto::fault::Fault;
use ahoy_proto::name::Name;
use ahoy_proto::v1::{self, ErrorCode, pipe_frame, pipe_item};
use ahoy_transport::{RecvHalf, SendHalf, Stream, StreamError};
use tokio::time::{sleep, timeout};

use crate::home::Home;
use crate::house::House;
use crate::inbox::{self, Item, What};
use crate::peer::Peer;

mod gap;

/// How long a source may leave an acknowledgement unread.
const READ_TIME: Duration = Duration::from_secs(30);
/// Items taken at once.
const BATCH: usize = 512;
/// Bytes of items taken at once.
const BATCH_BYTES: usize = 512 * 1024;

/// Serves a pipe until its source closes it or something stops it.
pub async fn serve(house: Arc<House>, peer: Arc<Peer>, open: v1::PipeOpen, stream: Stream) {
    let (mut send, mut recv) = stream.split();
    match begin(&house, &peer, &open).await {
        Ok((source, home, accept)) => {
            let accept = v1::PipeFrame { frame: Some(pipe_frame::Frame::Accept(accept)) };
            if tell(&mut send, &accept).await.is_err() {
                return;
            }
            let result = run(&house, &peer, &home, &source, open.pipe_epoch, (&mut send, &mut recv)).await;
            if let Err(fault) = result {
                tracing::debug!(%source, %fault, "a pipe ended");
                let error = pipe_frame::Frame::Error(fault.to_wire());
                // The source may be gone, which is as good as being told.
                let _ = tell(&mut send, &v1::PipeFrame { frame: Some(error) }).await;
            }
        }
        Err(fault) => {
            let accept = v1::PipeAccept { error: Some(fault.to_wire()), ..v1::PipeAccept::default() };
            // As above.
            let _ = tell(&mut send, &v1::PipeFrame { frame: Some(pipe_frame::Frame::Accept(accept)) }).await;
        }
    }
    send.finish();
    // The source may never read it.
    let _ = timeout(READ_TIME, send.delivered()).await;
}

/// Sends a frame to a source that may not read.
async fn tell(send: &mut SendHalf, frame: &v1::PipeFrame) -> Result<(), Fault> {
    let sent = timeout(READ_TIME, send.send(frame)).await;
    sent.unwrap_or(Err(StreamError::Deadline(READ_TIME))).map_err(|error| error.fault())
}

async fn begin(
    house: &House,
    peer: &Peer,
    open: &v1::PipeOpen,
) -> Result<(Name, Arc<Home>, v1::PipeAccept), Fault> {
    let source = Name::from_wire(&open.source, &house.policy)?;
    if !peer.speaks_for(&source) {
        return Err(Fault::new(
            ErrorCode::NotAllowed,
            "this connection does not speak for the pipe's source",
        ));
    }
    let destination = Name::from_wire(&open.destination, &house.policy)?;
    let home = house.home(&destination)?.clone();
    house.limiter.peer_pipes.admit(source.clone(), "pipes", house.clock.now())?;
    let accept = home.open_pipe(&source, open.pipe_epoch).await?;
    Ok((source, home, accept))
}

async fn run(
    house: &House,
    peer: &Peer,
    home: &Home,
    source: &Name,
    epoch: u64,
    (send, recv): (&mut SendHalf, &mut RecvHalf),
) -> Result<(), Fault> {
    loop {
        let batch = gather(recv).await?;
        if batch.is_empty() {
            return Ok(());
        }
        let count = u32::try_from(batch.len()).expect("a batch has at most 512 items");
        while let Err(wait) = house.limiter.peer_items.take(source.clone(), count, house.clock.now()) {
            sleep(wait).await;
        }
        let (items, stop) = inspect(house, home, source, batch).await;
        gap::fill(house, peer, home, source, &items).await?;
        let taken = home.take(source, epoch, items).await?;
        let ack = v1::PipeFrame { frame: Some(pipe_frame::Frame::Ack(taken.ack)) };
        tell(send, &ack).await?;
        if let Some(fault) = taken.stopped.or(stop) {
            return Err(fault);
        }
    }
}

/// The items that have arrived, at least one; none when the source has finished.
async fn gather(recv: &mut RecvHalf) -> Result<Vec<v1::PipeItem>, Fault> {
    let mut batch = Vec::new();
    let mut bytes = 0;
    let mut next = recv.recv::<v1::PipeFrame>().await.map_err(|error| error.fault())?;
    while let Some(frame) = next {
        let Some(pipe_frame::Frame::Item(item)) = frame.frame else {
            return Err(Fault::new(ErrorCode::OutOfOrder, "a pipe carries items only"));
        };
        bytes += weight(&item);
        batch.push(item);
        if batch.len() >= BATCH || bytes >= BATCH_BYTES {
            break;
        }
        next = recv.try_recv::<v1::PipeFrame>().map_err(|error| error.fault())?;
    }
    Ok(batch)
}

fn weight(item: &v1::PipeItem) -> usize {
    match &item.item {
        Some(pipe_item::Item::Submit(event)) => event.body.len(),
        Some(pipe_item::Item::Placed(placed)) => placed.event.as_ref().map_or(0, |event| event.body.len()),
        None => 0,
    }
}

/// Looks at the items' bytes and signatures. What cannot be judged now, because a name does not resolve, stops the
/// pipe there.
async fn inspect(
    house: &House,
    home: &Home,
    source: &Name,
    batch: Vec<v1::PipeItem>,
) -> (Vec<Item>, Option<Fault>) {
    let mut items = Vec::with_capacity(batch.len());
    for item in batch {
        let mut item = inbox::read(item, &house.policy);
        let verdict = match inbox::concerns(&home.desk.name, source, &item.what) {
            Ok(()) => verify(house, source, &item.what).await,
            // Nobody is looked up for what is none of this pipe's business.
            foreign => foreign,
        };
        if let Err(fault) = verdict {
            if fault.is_retry() {
                return (items, Some(fault));
            }
            item.what = What::Refused(fault);
        }
        items.push(item);
    }
    (items, None)
}

async fn verify(house: &House, source: &Name, what: &What) -> Result<(), Fault> {
    match what {
        // An event for placement is judged as of now, when it is placed.
        What::Submit(checked) => house.keys.check_event(house, checked, house.clock.now()).await,
        What::Placed { checked, placed, body, .. } => {
            let at = ahoy_proto::time::Timestamp::from_millis(body.time_ms);
            let placement = placed.placement.as_ref().expect("`placement_body` found it");
            house.keys.check_placement(house, source, placement, at).await?;
            house.keys.check_event(house, checked, at).await
        }
        What::Refused(_) => Ok(()),
    }
}
