//! Decides how a change of a name's data is put together: reads that see earlier changes of the same commit, and one
//! batch at the end.
//!
//! One ledger per name writes one page at a time, so what a page read cannot change before it is committed. Placements
//! are collected and signed together when the page is closed: 64 of them cost one signature.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use ahoy_proto::address::Address;
use ahoy_proto::name::Name;
use ahoy_proto::time::Timestamp;
use ahoy_proto::v1;
use bytes::Bytes;
use prost::Message;

use crate::desk::Desk;
use crate::hub::Unsigned;
use crate::record::QueueState;
use crate::store::{Batch, KeyRange, Order, Partition, Read, StoreError};
use crate::{hub, layout};

/// A page is closed when it holds so many bytes; a single job stays below three times that.
pub const PAGE_BYTES: usize = 1024 * 1024;

/// What a ledger remembers from page to page, so that it need not be read again. Valid as long as every page commits.
#[derive(Default)]
pub struct Memory {
    heads: HashMap<String, u64>,
    queues: HashMap<Name, Queue>,
    drafts: Option<u64>,
    draft_order: u64,
}

#[derive(Clone, Default)]
struct Queue {
    state: QueueState,
    length: u64,
}

/// Whom to wake when a page is durable.
#[derive(Default)]
pub struct Woken {
    /// Owners whose sync log grew, and its new head.
    pub owners: BTreeMap<String, u64>,
    /// Destination names that have something new queued.
    pub queues: BTreeSet<Name>,
    /// Pairs of addresses with a message that waits for its contact question.
    pub strangers: BTreeSet<(Address, Address)>,
}

/// One commit under construction.
pub struct Page<'a> {
    /// Whose data this is.
    pub desk: &'a Arc<Desk>,
    /// When the page was opened.
    pub now: Timestamp,
    /// Whom to wake afterwards.
    pub woken: Woken,
    read: &'a dyn Read,
    partition: &'a Partition,
    memory: &'a mut Memory,
    writes: BTreeMap<Bytes, Option<Bytes>>,
    bytes: usize,
    unsigned: Vec<Unsigned>,
}

impl<'a> Page<'a> {
    /// An empty page.
    pub fn new(
        desk: &'a Arc<Desk>,
        read: &'a dyn Read,
        partition: &'a Partition,
        memory: &'a mut Memory,
    ) -> Self {
        let now = desk.clock.now();
        Self {
            desk,
            now,
            woken: Woken::default(),
            read,
            partition,
            memory,
            writes: BTreeMap::new(),
            bytes: 0,
            unsigned: Vec::new(),
        }
    }

    /// The value under `key` as this page would leave it.
    pub fn value(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        match self.writes.get(key) {
            Some(value) => Ok(value.clone()),
            None => self.read.get(self.partition, key),
        }
    }

    /// The record under `key`. A record that does not decode counts as absent and is logged: it was not ours.
    pub fn record<T: Message + Default>(&self, key: &[u8]) -> Result<Option<T>, StoreError> {
        Ok(self.value(key)?.and_then(|bytes| decode(key, &bytes)))
    }

    /// At most `limit` rows whose key begins with `prefix`, in order, as this page would leave them.
    pub fn rows(&self, prefix: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let own =
            self.writes.range::<[u8], _>((std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded));
        let own = own.take_while(|(key, _)| key.starts_with(prefix));
        // What this page removes may be what a scan of `limit` rows would find.
        let wanted = limit + own.clone().filter(|(_, value)| value.is_none()).count();
        let stored = self.read.scan(self.partition, &KeyRange::prefix(prefix), wanted, Order::Ascending)?;
        let mut rows: BTreeMap<Bytes, Option<Bytes>> =
            stored.into_iter().map(|(key, value)| (key, Some(value))).collect();
        rows.extend(own.map(|(key, value)| (key.clone(), value.clone())));
        Ok(rows.into_iter().filter_map(|(key, value)| Some((key, value?))).take(limit).collect())
    }

    /// Sets `key`.
    pub fn put(&mut self, key: Bytes, value: impl Into<Bytes>) {
        let value = value.into();
        self.bytes += key.len() + value.len();
        self.writes.insert(key, Some(value));
    }

    /// Sets `key` to a record.
    pub fn put_record(&mut self, key: Bytes, record: &impl Message) {
        self.put(key, record.encode_to_vec());
    }

    /// Removes `key`.
    pub fn delete(&mut self, key: Bytes) {
        self.bytes += key.len();
        self.writes.insert(key, None);
    }

    /// Bytes that the page would write, placements not yet signed included: an estimate to close it in time.
    pub fn weight(&self) -> usize {
        self.bytes + self.unsigned.iter().map(Unsigned::weight).sum::<usize>()
    }

    /// Appends to an owner's sync log and returns the position.
    pub fn log(
        &mut self,
        owner: &str,
        address: &Address,
        item: v1::sync_item::Item,
    ) -> Result<u64, StoreError> {
        let position = self.head(owner)? + 1;
        let item = v1::SyncItem { position, address: address.to_string(), item: Some(item) };
        self.put_record(layout::sync(owner, position), &item);
        self.memory.heads.insert(owner.to_owned(), position);
        self.woken.owners.insert(owner.to_owned(), position);
        Ok(position)
    }

    /// Newest position of an owner's sync log; 0 when it is empty.
    pub fn head(&mut self, owner: &str) -> Result<u64, StoreError> {
        if let Some(head) = self.memory.heads.get(owner) {
            return Ok(*head);
        }
        let head = newest(self.read, self.partition, &layout::sync_log(owner))?;
        self.memory.heads.insert(owner.to_owned(), head);
        Ok(head)
    }

    /// Whether the page holds so much that what comes next belongs on another one.
    pub fn is_full(&self) -> bool {
        self.weight() >= PAGE_BYTES
    }

    /// Remembers a placement to be signed when the page is closed.
    pub fn place(&mut self, unsigned: Unsigned) {
        self.unsigned.push(unsigned);
    }

    /// Appends to a destination's queue. The caller has checked [`Page::queue_length`].
    pub fn enqueue(&mut self, destination: &Name, mut item: crate::record::Queued) -> Result<(), StoreError> {
        item.queued_ms = self.now.as_millis();
        let queue = self.queue(destination)?;
        let seq = queue.state.next;
        queue.state.next += 1;
        queue.length += 1;
        let state = queue.state.clone();
        self.put_record(layout::queued(destination, seq), &item);
        self.put_record(layout::queue_state(destination), &state);
        self.desk.metrics.items_queued.inc();
        self.woken.queues.insert(destination.clone());
        Ok(())
    }

    /// Removes an item of a destination's queue.
    pub fn dequeue(&mut self, destination: &Name, seq: u64) -> Result<(), StoreError> {
        let queue = self.queue(destination)?;
        queue.length = queue.length.saturating_sub(1);
        self.desk.metrics.items_queued.dec();
        self.delete(layout::queued(destination, seq));
        Ok(())
    }

    /// How many items wait for a destination.
    pub fn queue_length(&mut self, destination: &Name) -> Result<u64, StoreError> {
        Ok(self.queue(destination)?.length)
    }

    /// A pipe epoch above all earlier ones of this queue.
    pub fn next_pipe_epoch(&mut self, destination: &Name) -> Result<u64, StoreError> {
        let now = self.now.as_millis();
        let queue = self.queue(destination)?;
        queue.state.pipe_epoch = now.max(queue.state.pipe_epoch + 1);
        let state = queue.state.clone();
        self.put_record(layout::queue_state(destination), &state);
        Ok(state.pipe_epoch)
    }

    /// The queue's counters. Numbers start from the clock after a restart, so that a queue restored from an old
    /// backup does not hand out numbers that the receiver has seen. `[EVENT-DELIVER-07]`
    fn queue(&mut self, destination: &Name) -> Result<&mut Queue, StoreError> {
        if !self.memory.queues.contains_key(destination) {
            let state: Option<QueueState> = self.record(&layout::queue_state(destination))?;
            let mut state = state.unwrap_or_default();
            state.next = state.next.max(self.now.as_millis() << 20);
            let length = count(self.read, self.partition, &layout::outbox(destination))?;
            self.desk.metrics.items_queued.inc_by(i64::try_from(length).unwrap_or(i64::MAX));
            self.memory.queues.insert(destination.clone(), Queue { state, length });
        }
        Ok(self.memory.queues.get_mut(destination).expect("it was inserted above"))
    }

    /// How many messages wait for an answer to their contact question.
    pub fn drafts(&mut self) -> Result<&mut u64, StoreError> {
        if self.memory.drafts.is_none() {
            self.memory.drafts = Some(count(self.read, self.partition, &[layout::Kind::Draft as u8])?);
        }
        Ok(self.memory.drafts.as_mut().expect("it was set above"))
    }

    /// Counts a new draft and gives it a number that sorts behind the ones before.
    pub fn next_draft(&mut self) -> Result<u64, StoreError> {
        let now = self.now.as_millis() << 20;
        *self.drafts()? += 1;
        self.memory.draft_order = now.max(self.memory.draft_order + 1);
        Ok(self.memory.draft_order)
    }

    /// Signs what was placed, and turns the page into a batch.
    pub fn close(mut self) -> Result<(Batch, Woken), StoreError> {
        let unsigned = std::mem::take(&mut self.unsigned);
        hub::sign(&mut self, unsigned)?;
        let mut batch = Batch::new(self.partition);
        for (key, value) in self.writes {
            batch = match value {
                Some(value) => batch.put(key, value),
                None => batch.delete(key),
            };
        }
        Ok((batch, self.woken))
    }
}

/// The highest trailing number among the keys with this prefix; 0 when there is none.
pub fn newest(read: &dyn Read, partition: &Partition, prefix: &[u8]) -> Result<u64, StoreError> {
    let rows = read.scan(partition, &KeyRange::prefix(prefix), 1, Order::Descending)?;
    Ok(rows.first().map_or(0, |(key, _)| layout::trailing_number(key)))
}

/// A record, or `None` with a line in the log when it does not decode.
pub fn decode<T: Message + Default>(key: &[u8], bytes: &[u8]) -> Option<T> {
    T::decode(bytes)
        .inspect_err(|error| tracing::error!(key = %key.escape_ascii(), %error, "a record in the store does not decode"))
        .ok()
}

fn count(read: &dyn Read, partition: &Partition, prefix: &[u8]) -> Result<u64, StoreError> {
    const STEP: usize = 4096;
    let mut range = KeyRange::prefix(prefix);
    let mut count = 0;
    loop {
        let rows = read.scan(partition, &range, STEP, Order::Ascending)?;
        count += rows.len() as u64;
        match rows.last() {
            Some((last, _)) if rows.len() == STEP => range.start = std::ops::Bound::Excluded(last.to_vec()),
            _ => return Ok(count),
        }
    }
}
