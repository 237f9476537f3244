//! Decides what a placed event means to a follower: who of ours hears it, and what its sender is told.

use ahoy_proto::address::Address;
use ahoy_proto::conversation::ConversationId;
use ahoy_proto::fault::Fault;
use ahoy_proto::placement::placement_hash;
use ahoy_proto::v1::sync_item::Item;
use ahoy_proto::v1::{self, ErrorCode};
use bytes::Bytes;
use prost::Message;

use crate::checked::Checked;
use crate::directory::Shelf;
use crate::ledger::Outcome;
use crate::page::Page;
use crate::record::{Conversation, Submission};
use crate::store::StoreError;
use crate::{conversation, directory, hub, layout};

/// A placed event that goes into sync logs.
pub struct Arrival<'a> {
    /// The event.
    pub checked: &'a Checked,
    /// Its position.
    pub epoch: u64,
    /// Its position.
    pub seq: u64,
    /// As the hub sent it.
    pub placed: v1::PlacedEvent,
}

/// Takes a placed event from its hub, which is the source of the pipe.
pub fn accept(
    page: &mut Page<'_>,
    recipient: &Address,
    checked: Checked,
    placed: v1::PlacedEvent,
    body: &v1::PlacementBody,
) -> Outcome<()> {
    let position = layout::placed(&checked.conversation, body.epoch, body.seq);
    if let Some(stored) = page.value(&position)? {
        return Ok(same_placement(stored, &placed));
    }
    if recipient == &checked.to
        && let Err(fault) = hub::may_be_delivered(page, &checked)?
    {
        return Ok(Err(fault));
    }
    let key = layout::conversation(&checked.conversation);
    let known: Option<Conversation> = page.record(&key)?;
    let mut record = known.unwrap_or_else(|| conversation::record(&checked, checked.conversation.hub()));
    let follows_head = record.epoch == body.epoch && record.seq + 1 == body.seq;
    if follows_head && record.head != body.previous {
        return Ok(Err(Fault::new(ErrorCode::Epoch, "the placement does not follow the one before it")));
    }
    if record.epoch != body.epoch || record.seq < body.seq {
        record.epoch = body.epoch;
        record.seq = body.seq;
        let body = placed.placement.as_ref().map_or(Bytes::new(), |placement| placement.body.clone());
        record.head = Bytes::copy_from_slice(&placement_hash(&body));
        page.put_record(key, &record);
    }
    page.put(position, placed.encode_to_vec());
    deliver(page, recipient, &Arrival { checked: &checked, epoch: body.epoch, seq: body.seq, placed })?;
    Ok(Ok(()))
}

/// A position that is taken: by the same placement, which came before, or by another one. Then the hub's store is older
/// than what the hub has said; it hears so and goes on in a new epoch. `[EVENT-PLACE-08]`
fn same_placement(stored: Bytes, placed: &v1::PlacedEvent) -> Result<(), Fault> {
    let body = |placed: &v1::PlacedEvent| placed.placement.as_ref().map(|placement| placement.body.clone());
    let is_same = v1::PlacedEvent::decode(stored).is_ok_and(|stored| body(&stored) == body(placed));
    let taken = || Fault::new(ErrorCode::Epoch, "another event was placed at this position before");
    if is_same { Ok(()) } else { Err(taken()) }
}

/// The first position to ask the hub for, when what it placed before `body` is not here. `[EVENT-DELIVER-12]`
pub fn gap_before(
    shelf: &impl Shelf,
    conversation: &ConversationId,
    body: &v1::PlacementBody,
) -> Result<Option<u64>, StoreError> {
    if body.seq <= 1 || shelf.value(&layout::placed(conversation, body.epoch, body.seq - 1))?.is_some() {
        return Ok(None);
    }
    let record: Option<Conversation> = shelf.record(&layout::conversation(conversation))?;
    let known = record.filter(|record| record.epoch == body.epoch && record.seq < body.seq);
    Ok(Some(known.map_or(1, |record| record.seq + 1)))
}

/// Writes a placed event into the sync logs that `party`, an address of ours, stands for.
pub fn deliver(page: &mut Page<'_>, party: &Address, arrival: &Arrival<'_>) -> Result<(), StoreError> {
    let checked = arrival.checked;
    let mut told = None;
    if party == &checked.origin {
        let placed = v1::Placed {
            client_id: checked.body.client_id.clone(),
            conversation: checked.body.conversation.clone(),
            epoch: arrival.epoch,
            seq: arrival.seq,
            event_id: Bytes::copy_from_slice(&checked.id),
            device: checked.body.device.clone(),
        };
        told = settle(page, party, &checked.body, Item::Placed(placed))?;
    }
    let desk = page.desk.clone();
    for owner in directory::owners(&desk, page, party)? {
        if told.as_ref() != Some(&owner) {
            page.log(&owner, party, Item::Event(arrival.placed.clone()))?;
        }
    }
    Ok(())
}

/// Tells the sender that its message cannot be delivered.
pub fn fail(
    page: &mut Page<'_>,
    origin: &Address,
    body: &v1::EventBody,
    fault: &Fault,
) -> Result<(), StoreError> {
    let failed = v1::Failed {
        client_id: body.client_id.clone(),
        error: Some(fault.to_wire()),
        device: body.device.clone(),
    };
    settle(page, origin, body, Item::Failed(failed)).map(|_| ())
}

/// Writes the one outcome of a submission into its owner's log, and says whose that is.
fn settle(
    page: &mut Page<'_>,
    origin: &Address,
    body: &v1::EventBody,
    outcome: Item,
) -> Result<Option<String>, StoreError> {
    let key = layout::submission(&origin.to_string(), &body.device, &body.client_id);
    let Some(mut submission) = page.record::<Submission>(&key)? else { return Ok(None) };
    if !submission.settled {
        submission.settled = true;
        page.put_record(key, &submission);
        let waited = page.now.as_millis().saturating_sub(submission.time_ms);
        page.desk.metrics.placement_seconds.0.observe(waited as f64 / 1000.0);
        page.log(&submission.owner, origin, outcome)?;
    }
    Ok(Some(submission.owner))
}
