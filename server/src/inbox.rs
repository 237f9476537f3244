//! Decides what a name does with the items of a delivery pipe: each has its effect once, in order, and is acknowledged
//! when that is durable.
//!
//! The same code takes what a peer sends and what another name of this homeserver sends.

use ahoy_proto::address::Address;
use ahoy_proto::fault::Fault;
use ahoy_proto::limit;
use ahoy_proto::name::{Name, NamePolicy};
use ahoy_proto::v1::{self, ErrorCode, pipe_item};
use bytes::Bytes;
use prost::Message;

use crate::checked::{Checked, malformed};
use crate::ledger::Outcome;
use crate::page::{Page, decode};
use crate::record::Received;
use crate::store::StoreError;
use crate::{follow, hub, layout};

/// An item whose bytes and signatures have been looked at.
pub struct Item {
    /// Its number in the pipe.
    pub seq: u64,
    /// What it is.
    pub what: What,
}

/// What an item asks for.
pub enum What {
    /// An event for us to place.
    Submit(Box<Checked>),
    /// An event that its hub placed, for one of our addresses.
    Placed {
        /// The address.
        recipient: Address,
        /// The event.
        checked: Box<Checked>,
        /// As sent.
        placed: Box<v1::PlacedEvent>,
        /// Decoded from it.
        body: Box<v1::PlacementBody>,
    },
    /// Something that was found wrong already.
    Refused(Fault),
}

/// What became of some items.
pub struct Taken {
    /// Acknowledges what was dealt with.
    pub ack: v1::PipeAck,
    /// What the page had no room for; hand it in again.
    pub rest: Vec<Item>,
    /// Why the rest was not; the pipe ends and its source tries again.
    pub stopped: Option<Fault>,
}

impl Taken {
    fn from(seq: u64) -> Self {
        Self { ack: v1::PipeAck { up_to: seq, refused: Vec::new() }, rest: Vec::new(), stopped: None }
    }
}

/// Opens a pipe: fences older ones off and says how far the source has come. `[EVENT-DELIVER-01]`
pub fn open(page: &mut Page<'_>, source: &Name, epoch: u64) -> Outcome<v1::PipeAccept> {
    let key = layout::received(source);
    let mut received: Received = page.record(&key)?.unwrap_or_default();
    if epoch <= received.pipe_epoch {
        return Ok(Err(stale()));
    }
    received.pipe_epoch = epoch;
    page.put_record(key, &received);
    let rows = page.rows(&layout::refusals(source), limit::PIPE_WINDOW as usize)?;
    Ok(Ok(v1::PipeAccept {
        received: received.seq,
        window: limit::PIPE_WINDOW,
        refused: rows.iter().filter_map(|(key, value)| decode(key, value)).collect(),
        ..v1::PipeAccept::default()
    }))
}

/// Takes items in order. What was taken before is acknowledged again and nothing else; what cannot be taken now
/// stops the pipe; what never can is refused and blocks nothing. `[EVENT-DELIVER-08]`
pub fn take(page: &mut Page<'_>, source: &Name, epoch: u64, items: Vec<Item>) -> Outcome<Taken> {
    let key = layout::received(source);
    let mut received: Received = page.record(&key)?.unwrap_or_default();
    if epoch != received.pipe_epoch {
        return Ok(Err(stale()));
    }
    let mut taken = Taken::from(received.seq);
    let mut items = items.into_iter();
    while let Some(item) = items.next() {
        if item.seq <= received.seq {
            continue;
        }
        if page.is_full() {
            // Many copies of large messages: one commit could not hold them.
            taken.rest = std::iter::once(item).chain(items).collect();
            break;
        }
        if let Err(fault) = apply(page, source, item.what)? {
            if fault.is_retry() {
                taken.stopped = Some(fault);
                break;
            }
            let refusal = v1::PipeRefusal { seq: item.seq, error: Some(fault.to_wire()) };
            page.put_record(layout::refusal(source, received.count), &refusal);
            taken.ack.refused.push(refusal);
        }
        received.seq = item.seq;
        received.count += 1;
    }
    forget_refusals(page, source, received.count)?;
    taken.ack.up_to = received.seq;
    page.put_record(key, &received);
    Ok(Ok(taken))
}

/// Takes what was fetched to fill a gap. `[EVENT-DELIVER-12]`
pub fn fill(page: &mut Page<'_>, source: &Name, items: Vec<Item>) -> Outcome<()> {
    for item in items {
        if let Err(fault) = apply(page, source, item.what)? {
            tracing::warn!(name = %page.desk.name, %source, %fault, "a fetched event was not taken");
        }
    }
    Ok(Ok(()))
}

fn apply(page: &mut Page<'_>, source: &Name, what: What) -> Outcome<()> {
    if let Err(fault) = concerns(&page.desk.name, source, &what) {
        return Ok(Err(fault));
    }
    match what {
        What::Submit(checked) => hub::place(page, *checked),
        What::Placed { recipient, checked, placed, body } => {
            follow::accept(page, &recipient, *checked, *placed, &body)
        }
        What::Refused(fault) => Ok(Err(fault)),
    }
}

/// Whether an item is of those that `source` may send to `own`: its own events for conversations that we order, and
/// what it placed in those that it orders, for us. `[EVENT-DELIVER-09]`
pub fn concerns(own: &Name, source: &Name, what: &What) -> Result<(), Fault> {
    match what {
        What::Submit(checked) if checked.origin.name() != source => {
            Err(Fault::new(ErrorCode::NotAllowed, "a name submits its own events only"))
        }
        What::Submit(checked) if checked.conversation.hub() != own => {
            Err(Fault::new(ErrorCode::WrongHub, "another name orders this conversation"))
        }
        What::Placed { recipient, checked, .. } => {
            let is_party = recipient == &checked.to || recipient == &checked.origin;
            if checked.conversation.hub() == source && is_party && recipient.name() == own {
                return Ok(());
            }
            Err(Fault::new(ErrorCode::WrongHub, "this name does not order that conversation for us"))
        }
        What::Submit(_) | What::Refused(_) => Ok(()),
    }
}

/// A sender has at most a window of items in doubt, so older refusals have been heard.
fn forget_refusals(page: &mut Page<'_>, source: &Name, count: u64) -> Result<(), StoreError> {
    const STEP: usize = 64;
    loop {
        let rows = page.rows(&layout::refusals(source), STEP)?;
        let is_old = |key: &Bytes| layout::trailing_number(key) + u64::from(limit::PIPE_WINDOW) < count;
        let old: Vec<Bytes> = rows.into_iter().map(|(key, _)| key).take_while(is_old).collect();
        let more = old.len() == STEP;
        old.into_iter().for_each(|key| page.delete(key));
        if !more {
            return Ok(());
        }
    }
}

fn stale() -> Fault {
    Fault::new(ErrorCode::StalePipe, "a newer pipe between these names is open")
}

/// Decodes and checks the body of a placement.
fn placement_body(placed: &v1::PlacedEvent, checked: &Checked) -> Result<v1::PlacementBody, Fault> {
    let placement =
        placed.placement.as_ref().ok_or_else(|| malformed("a placed event without its placement"))?;
    let body = v1::PlacementBody::decode(&placement.body[..])
        .map_err(|_| malformed("the placement does not decode"))?;
    if body.event_id[..] != checked.id || body.conversation != checked.body.conversation {
        return Err(malformed("the placement is of another event"));
    }
    if body.epoch == 0 || body.seq == 0 {
        return Err(malformed("the placement has no position"));
    }
    Ok(body)
}

/// Reads an item without looking at its signatures.
pub fn read(item: v1::PipeItem, policy: &NamePolicy) -> Item {
    let seq = item.seq;
    Item { seq, what: what_of(item, policy).unwrap_or_else(What::Refused) }
}

fn what_of(item: v1::PipeItem, policy: &NamePolicy) -> Result<What, Fault> {
    match item.item {
        Some(pipe_item::Item::Submit(event)) => Ok(What::Submit(Box::new(Checked::new(event, policy)?))),
        Some(pipe_item::Item::Placed(placed)) => {
            let recipient = Address::from_wire(&item.recipient, policy)?;
            let event = placed.event.clone().ok_or_else(|| malformed("a placed event without its event"))?;
            let checked = Checked::new(event, policy)?;
            let body = placement_body(&placed, &checked)?;
            Ok(What::Placed {
                recipient,
                checked: Box::new(checked),
                placed: Box::new(placed),
                body: Box::new(body),
            })
        }
        None => Err(Fault::unsupported("pipe items of this kind")),
    }
}
