//! Decides how a sync log reaches its readers: from a position on, in order, then whatever is added, for as long as
//! the stream lives. Wakes are a courtesy; reading by position is what is right.

use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use ahoy_proto::v1::{self, sync_frame};
use ahoy_transport::{SendHalf, Stream, StreamError};
use prost::Message;
use tokio::time::sleep;

use crate::home::{Home, broken};
use crate::layout;
use crate::store::{KeyRange, Order};

/// Items read at once.
const STEP: usize = 64;
/// How often the log is read although nobody woke the reader.
const POLL: Duration = Duration::from_secs(30);
/// Bytes that are gathered before they are handed to the connection.
const BATCH_BYTES: usize = 128 * 1024;

/// Serves one subscription until its reader goes. `[EVENT-SYNC-01]`
pub async fn serve(home: Arc<Home>, owner: String, open: v1::SyncOpen, stream: Stream) {
    let (mut send, mut recv) = stream.split();
    let follow = async {
        if let Err(error) = follow(&home, &owner, open.after, &mut send).await {
            tracing::debug!(%owner, %error, "a sync stream ended");
        }
    };
    tokio::select! {
        () = follow => {}
        // The reader says nothing; when its side ends it is gone.
        _ = recv.recv::<v1::SyncFrame>() => {}
    }
}

async fn follow(home: &Home, owner: &str, mut after: u64, send: &mut SendHalf) -> Result<(), StreamError> {
    let mut woken = home.wakes.watch(owner);
    let mut told = None;
    loop {
        woken.borrow_and_update();
        let rows = match rows(home, owner, after) {
            Ok(rows) => rows,
            Err(error) => {
                let error = sync_frame::Frame::Error(broken(&error).to_wire());
                return send.send(&v1::SyncFrame { frame: Some(error) }).await;
            }
        };
        let mut is_last = rows.len() < STEP;
        for item in rows {
            if send.gathered() > BATCH_BYTES {
                // What a slow reader waits for is read again later, and not kept for it.
                is_last = false;
                break;
            }
            after = item.position;
            match send.feed(&v1::SyncFrame { frame: Some(sync_frame::Frame::Item(item)) }) {
                // An item that does not fit a frame would stop its reader for ever.
                Err(error @ StreamError::TooLarge { .. }) => {
                    tracing::error!(%owner, position = after, %error, "a sync item cannot be sent");
                }
                fed => fed?,
            }
        }
        if is_last && told != Some(after) {
            told = Some(after);
            let caught_up = sync_frame::Frame::CaughtUp(v1::CaughtUp { position: after });
            send.feed(&v1::SyncFrame { frame: Some(caught_up) })?;
        }
        send.flush().await?;
        if is_last {
            tokio::select! {
                _ = woken.changed() => {}
                () = sleep(POLL) => {}
            }
        }
    }
}

fn rows(home: &Home, owner: &str, after: u64) -> Result<Vec<v1::SyncItem>, crate::store::StoreError> {
    let range = KeyRange {
        start: Bound::Excluded(layout::sync(owner, after).to_vec()),
        ..KeyRange::prefix(layout::sync_log(owner))
    };
    let rows = home.store.scan(&home.partition, &range, STEP, Order::Ascending)?;
    // An item that does not decode would stop its reader for ever: pass over it, keeping the position.
    let read = |(key, value): (bytes::Bytes, bytes::Bytes)| {
        v1::SyncItem::decode(value)
            .unwrap_or(v1::SyncItem { position: layout::trailing_number(&key), ..Default::default() })
    };
    Ok(rows.into_iter().map(read).collect())
}
