//! Decides what a follower does when it sees that it missed something: it asks the hub, before it takes what came after,
//! so that its readers see everything in order. `[EVENT-DELIVER-12]`

use std::collections::HashSet;

use ahoy_proto::address::Address;
use ahoy_proto::conversation::ConversationId;
use ahoy_proto::fault::Fault;
use ahoy_proto::limit;
use ahoy_proto::name::Name;
use ahoy_proto::v1::{self, ErrorCode, pipe_item, request, response};

use crate::follow;
use crate::home::{Home, broken};
use crate::house::House;
use crate::inbox::{self, Item, What};
use crate::peer::Peer;

/// Questions asked for one gap. What is missing beyond that stays missing, and the log says so.
const QUESTIONS: usize = 64;

/// Fills the gaps that these items would leave. An error is one that may pass: the pipe ends and is tried again.
pub async fn fill(
    house: &House,
    peer: &Peer,
    home: &Home,
    source: &Name,
    items: &[Item],
) -> Result<(), Fault> {
    let mut coming = HashSet::new();
    for item in items {
        let What::Placed { recipient, checked, body, .. } = &item.what else { continue };
        let id = checked.conversation.clone();
        let follows = coming.contains(&(id.clone(), body.epoch, body.seq - 1));
        coming.insert((id.clone(), body.epoch, body.seq));
        if follows {
            continue;
        }
        let gap = follow::gap_before(&home.shelf(), &id, body).map_err(|error| broken(&error))?;
        if let Some(from) = gap {
            tracing::info!(name = %home.desk.name, hub = %source, from, to = body.seq - 1, "placed events are missing");
            let gap = Gap { house, peer, home, source, recipient, id, epoch: body.epoch };
            gap.close(from, body.seq).await?;
        }
    }
    Ok(())
}

struct Gap<'a> {
    house: &'a House,
    peer: &'a Peer,
    home: &'a Home,
    source: &'a Name,
    recipient: &'a Address,
    id: ConversationId,
    epoch: u64,
}

impl Gap<'_> {
    /// Asks for positions `from..to` and takes them.
    async fn close(&self, mut from: u64, to: u64) -> Result<(), Fault> {
        for _ in 0..QUESTIONS {
            if from >= to {
                return Ok(());
            }
            let events = match self.ask(from, to).await {
                Err(fault) if !fault.is_retry() => {
                    tracing::warn!(hub = %self.source, %fault, "the hub does not fill a gap");
                    return Ok(());
                }
                answer => answer?,
            };
            let items = self.read(events);
            let Some(last) = items.iter().filter_map(position).max().filter(|last| *last >= from) else {
                tracing::warn!(hub = %self.source, from, "the hub does not have what is missing");
                return Ok(());
            };
            let mut good = Vec::with_capacity(items.len());
            for item in items {
                match super::verify(self.house, self.source, &item.what).await {
                    Ok(()) => good.push(item),
                    Err(fault) if fault.is_retry() => return Err(fault),
                    Err(fault) => tracing::warn!(hub = %self.source, %fault, "a fetched event is not good"),
                }
            }
            self.home.fill(self.source, good).await?;
            from = last + 1;
        }
        tracing::warn!(hub = %self.source, from, to, "too much is missing to be fetched");
        Ok(())
    }

    async fn ask(&self, from: u64, to: u64) -> Result<Vec<v1::PlacedEvent>, Fault> {
        let fetch = v1::Fetch {
            conversation: self.id.to_bytes(),
            epoch: self.epoch,
            from_seq: from,
            limit: u32::try_from(to - from).unwrap_or(u32::MAX).min(limit::FETCH_EVENTS),
        };
        let request = v1::Request { request: Some(request::Request::Fetch(fetch)) };
        let response = self.peer.connection.request(request, limit::REQUEST_TIME).await;
        match response.map_err(|error| error.fault())?.response {
            Some(response::Response::Fetch(answer)) => Ok(answer.events),
            _ => Err(Fault::new(ErrorCode::Malformed, "the hub answered another question")),
        }
    }

    /// Only events of this conversation and epoch are looked at, whatever the hub answers.
    fn read(&self, events: Vec<v1::PlacedEvent>) -> Vec<Item> {
        let item = |placed| v1::PipeItem {
            seq: 0,
            item: Some(pipe_item::Item::Placed(placed)),
            recipient: self.recipient.to_string(),
        };
        let items = events.into_iter().map(|placed| inbox::read(item(placed), &self.house.policy));
        let is_asked_for = |item: &Item| match &item.what {
            What::Placed { checked, body, .. } => {
                checked.conversation == self.id
                    && body.epoch == self.epoch
                    && inbox::concerns(&self.home.desk.name, self.source, &item.what).is_ok()
            }
            What::Submit(_) | What::Refused(_) => false,
        };
        items.filter(is_asked_for).collect()
    }
}

fn position(item: &Item) -> Option<u64> {
    match &item.what {
        What::Placed { body, .. } => Some(body.seq),
        What::Submit(_) | What::Refused(_) => None,
    }
}
