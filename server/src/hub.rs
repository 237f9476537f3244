//! Decides the order of a conversation: the hub gives each event a position, chains it to the one before, and tells
//! the followers.

use ahoy_proto::address::Address;
use ahoy_proto::attestation::{self, Context};
use ahoy_proto::conversation::ConversationId;
use ahoy_proto::fault::Fault;
use ahoy_proto::limit;
use ahoy_proto::name::Name;
use ahoy_proto::placement::{new_epoch, placement_hash};
use ahoy_proto::v1::{self, ConversationKind, ErrorCode};
use bytes::Bytes;
use prost::Message;

use crate::checked::{Checked, malformed};
use crate::directory::{self, not_reachable};
use crate::follow::{self, Arrival};
use crate::ledger::Outcome;
use crate::page::Page;
use crate::record::{Conversation, Deduplication, Queued};
use crate::store::StoreError;
use crate::{conversation, layout};

/// A placement that the page signs when it is closed.
pub struct Unsigned {
    body: Bytes,
    epoch: u64,
    seq: u64,
    checked: Checked,
    /// How often it is written: once by position, and once per sync log or queue.
    copies: usize,
    /// When it is placed anew: the one follower that lacks it.
    only: Option<Address>,
}

impl Unsigned {
    /// About how many bytes it will write.
    pub fn weight(&self) -> usize {
        self.copies * (self.checked.event.body.len() + self.body.len() + 512)
    }
}

/// Places an event, or recognises it as placed. `[EVENT-PLACE-06]`
pub fn place(page: &mut Page<'_>, checked: Checked) -> Outcome<()> {
    let seen = deduplication_key(&checked);
    if let Some(placed) = page.record::<Deduplication>(&seen)? {
        return repeat(page, &checked, &placed);
    }
    if let Err(fault) = may_be_placed(page, &checked)? {
        return Ok(Err(fault));
    }
    let (epoch, seq, body) = next_position(page, &checked)?;
    let placed = Deduplication {
        event_id: Bytes::copy_from_slice(&checked.id),
        epoch,
        seq,
        time_ms: page.now.as_millis(),
        content_hash: checked.content_hash(),
    };
    page.put_record(seen, &placed);
    let copies = 1 + copies_for(page, &checked.to)? + copies_for(page, &checked.origin)?;
    page.place(Unsigned { body, epoch, seq, checked, copies, only: None });
    Ok(Ok(()))
}

/// A follower holds another placement at this one's position, so this store is older than what the hub has said: the
/// conversation goes on in a new epoch that names its base placement, and the event is placed anew for that follower.
/// Everybody else keeps what they have. `[EVENT-PLACE-08]`
pub fn contradicted(page: &mut Page<'_>, item: &Queued) -> Result<(), StoreError> {
    let Ok(placed) = v1::PlacedEvent::decode(&item.placed[..]) else { return Ok(()) };
    let Some(placement) = &placed.placement else { return Ok(()) };
    let Ok(body) = v1::PlacementBody::decode(&placement.body[..]) else { return Ok(()) };
    let Some(event) = placed.event else { return Ok(()) };
    let Ok(checked) = Checked::new(event, &page.desk.policy) else { return Ok(()) };
    let Ok(only) = Address::from_wire(&item.recipient, &page.desk.policy) else { return Ok(()) };
    if checked.conversation.hub() != &page.desk.name || item.is_second {
        return Ok(());
    }
    let key = layout::conversation(&checked.conversation);
    let Some(mut record) = page.record::<Conversation>(&key)? else { return Ok(()) };
    if record.epoch == body.epoch {
        record.epoch = new_epoch(&*page.desk.entropy);
        record.seq = 0;
        record.base = std::mem::take(&mut record.head);
        tracing::error!(name = %page.desk.name, follower = %only.name(), "a conversation goes on in a new epoch: \
            a follower holds placements that this store does not; was it restored from a backup?");
        page.put_record(key, &record);
    }
    let (epoch, seq, body) = next_position(page, &checked)?;
    let seen = deduplication_key(&checked);
    if let Some(mut placed) = page.record::<Deduplication>(&seen)? {
        (placed.epoch, placed.seq) = (epoch, seq);
        page.put_record(seen, &placed);
    }
    page.place(Unsigned { body, epoch, seq, checked, copies: 2, only: Some(only) });
    Ok(())
}

fn deduplication_key(checked: &Checked) -> Bytes {
    let body = &checked.body;
    layout::deduplication(&checked.conversation, &body.origin, &body.device, &body.client_id)
}

fn copies_for(page: &Page<'_>, party: &Address) -> Result<usize, StoreError> {
    let desk = page.desk.clone();
    if party.name() == &desk.name { Ok(directory::owners(&desk, page, party)?.len()) } else { Ok(1) }
}

/// The same message again: its origin is told the position once more; another message under its id is refused.
/// `[EVENT-PLACE-07]`
fn repeat(page: &mut Page<'_>, checked: &Checked, placed: &Deduplication) -> Outcome<()> {
    if placed.event_id[..] != checked.id && placed.content_hash != checked.content_hash() {
        return Ok(Err(Fault::new(ErrorCode::ClientIdReused, "this client id was used for another message")));
    }
    let key = layout::placed(&checked.conversation, placed.epoch, placed.seq);
    // In the page that places it, its position is on its way already.
    let Some(bytes) = page.value(&key)? else { return Ok(Ok(())) };
    if checked.origin.name() != &page.desk.name {
        let item = Queued { recipient: checked.origin.to_string(), placed: bytes, ..Queued::default() };
        page.enqueue(checked.origin.name(), item)?;
    }
    Ok(Ok(()))
}

fn may_be_placed(page: &mut Page<'_>, checked: &Checked) -> Outcome<()> {
    let age = page.now.as_millis().saturating_sub(checked.body.time_ms);
    if u128::from(age) > limit::EVENT_LIFE.as_millis() {
        return Ok(Err(Fault::new(ErrorCode::TooOld, "the message is older than 30 days")));
    }
    let ahead = checked.body.time_ms.saturating_sub(page.now.as_millis());
    if u128::from(ahead) > limit::CLOCK_SKEW.as_millis() {
        return Ok(Err(malformed(
            "the message is from the future: a clock is wrong by more than 10 minutes",
        )));
    }
    if checked.to.name() == &page.desk.name {
        return may_be_delivered(page, checked);
    }
    // The addressee of our own message has a queue, whose room was looked at when the message was handed in: refusing
    // here would hold up whatever else we say.
    Ok(Ok(()))
}

/// Whether the addressee, who is ours, takes messages from the sender in a conversation of this kind.
pub fn may_be_delivered(page: &mut Page<'_>, checked: &Checked) -> Outcome<()> {
    let desk = page.desk.clone();
    let is_line = desk.line(&checked.to).is_some();
    let by_line_id = checked.conversation == ConversationId::line(&checked.to, &checked.origin);
    if checked.conversation.kind() == ConversationKind::Line && by_line_id && !is_line {
        return Ok(Err(not_reachable(&checked.to)));
    }
    let admitted = directory::admits(&desk, page, &checked.origin, &checked.to)?;
    if !admitted || directory::owners(&desk, page, &checked.to)?.is_empty() {
        return Ok(Err(not_reachable(&checked.to)));
    }
    Ok(Ok(()))
}

/// Takes the next position of the conversation. `[EVENT-PLACE-06]`
fn next_position(page: &mut Page<'_>, checked: &Checked) -> Result<(u64, u64, Bytes), StoreError> {
    let key = layout::conversation(&checked.conversation);
    let known: Option<Conversation> = page.record(&key)?;
    let mut record = known.unwrap_or_else(|| conversation::record(checked, &page.desk.name));
    if record.epoch == 0 {
        record.epoch = new_epoch(&*page.desk.entropy);
    }
    record.seq += 1;
    let body = v1::PlacementBody {
        conversation: checked.body.conversation.clone(),
        epoch: record.epoch,
        seq: record.seq,
        event_id: Bytes::copy_from_slice(&checked.id),
        previous: record.head.clone(),
        time_ms: page.now.as_millis(),
        base: if record.seq == 1 { record.base.clone() } else { Bytes::new() },
    };
    let body = Bytes::from(body.encode_to_vec());
    record.head = Bytes::copy_from_slice(&placement_hash(&body));
    page.put_record(key, &record);
    Ok((record.epoch, record.seq, body))
}

/// Signs placements, 64 under one signature, stores the placed events and tells the followers.
pub fn sign(page: &mut Page<'_>, unsigned: Vec<Unsigned>) -> Result<(), StoreError> {
    page.desk.metrics.events_placed.inc_by(unsigned.len() as u64);
    for batch in unsigned.chunks(limit::ATTESTED_LEAVES) {
        let bodies: Vec<Bytes> = batch.iter().map(|u| u.body.clone()).collect();
        let attestations = attestation::attest(&bodies, Context::Placements, &page.desk.key);
        for (unsigned, attestation) in batch.iter().zip(attestations) {
            let placement = v1::Placement { body: unsigned.body.clone(), attestation: Some(attestation) };
            let placed =
                v1::PlacedEvent { event: Some(unsigned.checked.event.clone()), placement: Some(placement) };
            publish(page, unsigned, placed)?;
        }
    }
    Ok(())
}

fn publish(page: &mut Page<'_>, unsigned: &Unsigned, placed: v1::PlacedEvent) -> Result<(), StoreError> {
    let checked = &unsigned.checked;
    let bytes = Bytes::from(placed.encode_to_vec());
    page.put(layout::placed(&checked.conversation, unsigned.epoch, unsigned.seq), bytes.clone());
    let arrival = Arrival { checked, epoch: unsigned.epoch, seq: unsigned.seq, placed };
    if let Some(only) = &unsigned.only {
        let item =
            Queued { recipient: only.to_string(), placed: bytes, is_second: true, ..Queued::default() };
        return page.enqueue(only.name(), item);
    }
    for follower in [&checked.to, &checked.origin] {
        if follower.name() == &page.desk.name {
            follow::deliver(page, follower, &arrival)?;
        } else {
            tell(page, follower.name(), follower, bytes.clone())?;
        }
    }
    Ok(())
}

fn tell(page: &mut Page<'_>, name: &Name, recipient: &Address, placed: Bytes) -> Result<(), StoreError> {
    page.enqueue(name, Queued { recipient: recipient.to_string(), placed, ..Queued::default() })
}
