//! Decides what is forgotten: by which message an id was used, 32 days later. `[EVENT-PLACE-07]`

use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use ahoy_proto::fault::Fault;
use ahoy_proto::limit;
use bytes::Bytes;
use prost::Message;
use tokio::time::sleep;

use crate::home::{Home, broken};
use crate::house::House;
use crate::layout::Kind;
use crate::record::{Deduplication, Submission};
use crate::store::{KeyRange, Order};

/// How often a name's data is looked through.
const EVERY: Duration = Duration::from_secs(6 * 60 * 60);
/// Rows looked at between two commits.
const STEP: usize = 1024;

/// Looks through a name's data for ever.
pub async fn run(house: Arc<House>, home: Arc<Home>) {
    while house.stop.run_until_cancelled(sleep(EVERY)).await.is_some() {
        for kind in [Kind::Deduplication, Kind::Submission] {
            if let Err(fault) = sweep(&home, kind).await {
                tracing::error!(name = %home.desk.name, %fault, "old ids could not be forgotten");
            }
        }
    }
}

/// Removes the rows of one kind that are older than 32 days.
pub async fn sweep(home: &Home, kind: Kind) -> Result<(), Fault> {
    let oldest = home.desk.clock.now().before(limit::DEDUPLICATION_LIFE).as_millis();
    let mut range = KeyRange::prefix([kind as u8]);
    loop {
        let rows = home.store.scan(&home.partition, &range, STEP, Order::Ascending);
        let rows = rows.map_err(|error| broken(&error))?;
        let Some((last, _)) = rows.last() else { return Ok(()) };
        range.start = Bound::Excluded(last.to_vec());
        let is_old = |(_, value): &(Bytes, Bytes)| time_of(kind, value).is_some_and(|time| time < oldest);
        let old: Vec<Bytes> = rows.into_iter().filter(is_old).map(|(key, _)| key).collect();
        if !old.is_empty() {
            let forget = move |page: &mut crate::page::Page<'_>| {
                old.into_iter().for_each(|key| page.delete(key));
                Ok(Ok(()))
            };
            home.ledger.write(forget).await?;
        }
    }
}

fn time_of(kind: Kind, value: &[u8]) -> Option<u64> {
    match kind {
        Kind::Deduplication => Deduplication::decode(value).ok().map(|record| record.time_ms),
        Kind::Submission => Submission::decode(value).ok().map(|record| record.time_ms),
        _ => None,
    }
}
