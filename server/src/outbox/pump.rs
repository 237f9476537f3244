//! Decides how one queue is carried: in order, a window at a time, again after a failure, given up after 30 days.

use std::collections::VecDeque;
use std::ops::Bound;
use std::sync::Arc;

use ahoy_proto::address::Address;
use ahoy_proto::attestation::{self, Context};
use ahoy_proto::delivery::{Backoff, expired};
use ahoy_proto::fault::Fault;
use ahoy_proto::limit;
use ahoy_proto::name::Name;
use ahoy_proto::v1::{self, ErrorCode, pipe_item};
use bytes::Bytes;
use futures_util::FutureExt as _;
use prost::Message;
use tokio::time::{sleep, timeout};

use super::carrier::Carrier;
use super::{FORGOTTEN_AFTER, IDLE, Line, Outbox};
use crate::home::{Home, broken};
use crate::house::House;
use crate::ledger::Outcome;
use crate::page::{Page, decode};
use crate::peer::Link;
use crate::record::Queued;
use crate::store::{KeyRange, Order, StoreError};
use crate::wake::lock;
use crate::{contact, follow, hub, layout, submit};

/// Items that are read from the store at once.
const STEP: usize = 256;
/// Bytes of items that are sent at once.
const STEP_BYTES: usize = 384 * 1024;

/// Carries one queue.
pub struct Pump {
    house: Arc<House>,
    home: Arc<Home>,
    outbox: Arc<Outbox>,
    line: Arc<Line>,
}

struct Flight {
    window: usize,
    cursor: u64,
    sent: VecDeque<u64>,
}

impl Pump {
    /// A pump for a line of the outbox.
    pub fn new(house: Arc<House>, outbox: Arc<Outbox>, line: Arc<Line>) -> Self {
        Self { house, home: outbox.home.clone(), outbox, line }
    }

    /// Carries what is queued, until there has been nothing for a long time.
    pub async fn run(self) {
        let mut backoff = Backoff::new();
        loop {
            if !self.has_work() {
                let woken = timeout(FORGOTTEN_AFTER, self.line.work.notified()).await;
                if woken.is_err() && self.outbox.retire(&self.line, || self.has_work()) {
                    return;
                }
                continue;
            }
            let result = self.round(&mut backoff).await;
            lock(&self.line.status).connected = false;
            if let Err(fault) = result {
                self.wait(&mut backoff, fault).await;
            }
        }
    }

    fn has_work(&self) -> bool {
        if !lock(&self.line.strangers).is_empty() {
            return true;
        }
        // A store that cannot be read is tried again with the usual delays.
        self.rows(0, 1).map_or(true, |rows| !rows.is_empty())
    }

    /// Waits for the next try: its time, or anything heard from the peer. `[EVENT-DELIVER-03]`
    async fn wait(&self, backoff: &mut Backoff, fault: Fault) {
        tracing::info!(source = %self.home.desk.name, destination = %self.line.destination, %fault, "delivery waits");
        let now = self.house.clock.now();
        let next = backoff.failed(now, fault.retry_after, &*self.house.entropy);
        {
            let mut status = lock(&self.line.status);
            status.next_retry = Some(next);
            status.last_error = Some(fault);
        }
        // What was heard before the failure is no reason to try again at once.
        let _ = self.line.heard.notified().now_or_never();
        tokio::select! {
            () = sleep(next.since(now)) => {}
            () = self.line.heard.notified() => backoff.heard(),
        }
        lock(&self.line.status).next_retry = None;
        if let Err(fault) = self.expire().await {
            tracing::error!(%fault, "old messages could not be given up");
        }
    }

    /// One connection's worth of work; `Ok` when there was nothing to do for a while.
    async fn round(&self, backoff: &mut Backoff) -> Result<(), Fault> {
        let link = match self.house.link(&self.home.desk.name, &self.line.destination).await {
            Ok(link) => link,
            Err(fault) if is_no_destination(&fault) => return self.turn_away(fault).await,
            Err(fault) => return Err(fault),
        };
        self.ask(&link).await?;
        if self.rows(0, 1).map_err(|error| broken(&error))?.is_empty() {
            return Ok(());
        }
        let destination = self.line.destination.clone();
        let epoch = self.home.ledger.write(move |page| page.next_pipe_epoch(&destination).map(Ok)).await?;
        let source = &self.home.desk.name;
        let (mut carrier, accept) = match &link {
            Link::Local(home) => Carrier::local(source, home.clone(), epoch).await?,
            Link::Remote(connection) => {
                Carrier::remote(connection, source, &self.line.destination, epoch).await?
            }
        };
        backoff.heard();
        lock(&self.line.status).connected = true;
        let window = accept.window.clamp(1, limit::PIPE_WINDOW) as usize;
        self.settle_before(accept).await?;
        self.carry(&link, &mut carrier, window, backoff).await
    }

    async fn carry(
        &self,
        link: &Link,
        carrier: &mut Carrier,
        window: usize,
        backoff: &mut Backoff,
    ) -> Result<(), Fault> {
        let mut flight = Flight { window, cursor: 0, sent: VecDeque::new() };
        loop {
            self.ask(link).await?;
            let more = self.fill(carrier, &mut flight).await?;
            let idle = flight.sent.is_empty();
            tokio::select! {
                acks = carrier.acks() => match acks {
                    Ok(acks) => {
                        self.settle(&mut flight, acks).await?;
                        backoff.heard();
                    }
                    // A pipe that ends while nothing is on the way is opened again when it is needed.
                    Err(_) if idle => return Ok(()),
                    Err(fault) => return Err(fault),
                },
                () = self.line.work.notified(), if !more => {}
                () = sleep(IDLE), if idle => {
                    carrier.finish();
                    return Ok(());
                }
            }
        }
    }

    /// Sends what fits the window; says whether more is waiting for room.
    async fn fill(&self, carrier: &mut Carrier, flight: &mut Flight) -> Result<bool, Fault> {
        while flight.sent.len() < flight.window {
            let room = (flight.window - flight.sent.len()).min(STEP);
            let rows = self.rows(flight.cursor, room).map_err(|error| broken(&error))?;
            if rows.is_empty() {
                return Ok(false);
            }
            let items = self.attest(rows);
            flight.sent.extend(items.iter().map(|item| item.seq));
            flight.cursor = flight.sent.back().copied().unwrap_or(flight.cursor);
            carrier.send(items).await?;
            if matches!(carrier, Carrier::Local { .. }) {
                return Ok(true);
            }
        }
        Ok(true)
    }

    /// Queued items behind a number. What does not decode is passed over.
    fn rows(&self, after: u64, limit: usize) -> Result<Vec<(u64, Queued)>, StoreError> {
        let destination = &self.line.destination;
        let range = KeyRange {
            start: Bound::Excluded(layout::queued(destination, after).to_vec()),
            ..KeyRange::prefix(layout::outbox(destination))
        };
        let rows = self.home.store.scan(&self.home.partition, &range, limit, Order::Ascending)?;
        let mut bytes = 0;
        let fits = |(_, value): &(Bytes, Bytes)| {
            bytes += value.len();
            bytes <= STEP_BYTES + value.len()
        };
        let rows = rows.into_iter().take_while(fits);
        Ok(rows
            .filter_map(|(key, value)| Some((layout::trailing_number(&key), decode(&key, &value)?)))
            .collect())
    }

    /// Makes pipe items; events are attested now, so that a key may have changed since they were queued.
    fn attest(&self, rows: Vec<(u64, Queued)>) -> Vec<v1::PipeItem> {
        let submits = rows.iter().filter(|(_, queued)| !queued.submit.is_empty());
        let bodies: Vec<Bytes> = submits.map(|(_, queued)| queued.submit.clone()).collect();
        let mut attestations = bodies
            .chunks(limit::ATTESTED_LEAVES)
            .flat_map(|chunk| attestation::attest(chunk, Context::Events, &self.home.desk.key));
        let mut items = Vec::with_capacity(rows.len());
        for (seq, queued) in rows {
            let item = if queued.submit.is_empty() {
                v1::PlacedEvent::decode(queued.placed).ok().map(pipe_item::Item::Placed)
            } else {
                let attestation = attestations.next();
                Some(pipe_item::Item::Submit(v1::Event { body: queued.submit, attestation }))
            };
            items.push(v1::PipeItem { seq, item, recipient: queued.recipient });
        }
        items
    }

    /// What the destination had taken before this pipe opened.
    async fn settle_before(&self, accept: v1::PipeAccept) -> Result<(), Fault> {
        loop {
            let rows = self.rows(0, STEP).map_err(|error| broken(&error))?;
            let sent: Vec<u64> =
                rows.iter().map(|(seq, _)| *seq).filter(|seq| *seq <= accept.received).collect();
            if sent.is_empty() {
                return Ok(());
            }
            self.acknowledged(sent, accept.refused.clone()).await?;
        }
    }

    async fn settle(&self, flight: &mut Flight, acks: Vec<v1::PipeAck>) -> Result<(), Fault> {
        let up_to = acks.iter().map(|ack| ack.up_to).max().unwrap_or(0);
        let refused = acks.into_iter().flat_map(|ack| ack.refused).collect();
        let mut done = Vec::new();
        while let Some(seq) = flight.sent.front().copied().filter(|seq| *seq <= up_to) {
            flight.sent.pop_front();
            done.push(seq);
        }
        self.acknowledged(done, refused).await
    }

    async fn acknowledged(&self, done: Vec<u64>, refused: Vec<v1::PipeRefusal>) -> Result<(), Fault> {
        let destination = self.line.destination.clone();
        self.home.ledger.write(move |page| acknowledge(page, &destination, &done, refused)).await?;
        let mut status = lock(&self.line.status);
        status.last_success = Some(self.house.clock.now());
        status.last_error = None;
        Ok(())
    }

    /// Asks the open contact questions of this destination.
    async fn ask(&self, link: &Link) -> Result<(), Fault> {
        loop {
            let Some(pair) = lock(&self.line.strangers).first().cloned() else { return Ok(()) };
            let answer = match self.house.contact(link, &self.home.desk, &pair.0, &pair.1).await {
                Ok(answer) => contact::check(&self.home.desk, &pair.0, &pair.1, &answer),
                Err(fault) if fault.is_retry() => return Err(fault),
                Err(fault) => Err(fault),
            };
            // Whoever writes to the pair from here on puts it back.
            lock(&self.line.strangers).remove(&pair);
            if let Err(fault) = self.answered(&pair, Arc::new(answer)).await {
                lock(&self.line.strangers).insert(pair);
                return Err(fault);
            }
        }
    }

    /// Fails what waits for an answer of a name that cannot give one. What is addressed to a known conversation of
    /// the name waits its time: the name may come back.
    async fn turn_away(&self, fault: Fault) -> Result<(), Fault> {
        let pairs: Vec<(Address, Address)> = lock(&self.line.strangers).iter().cloned().collect();
        for pair in pairs {
            lock(&self.line.strangers).remove(&pair);
            if let Err(broken) = self.answered(&pair, Arc::new(Err(fault.clone()))).await {
                lock(&self.line.strangers).insert(pair);
                return Err(broken);
            }
        }
        if self.has_work() { Err(fault) } else { Ok(()) }
    }

    async fn answered(
        &self,
        pair: &(Address, Address),
        answer: Arc<Result<crate::record::ContactRecord, Fault>>,
    ) -> Result<(), Fault> {
        let mut more = true;
        while more {
            let (pair, answer) = (pair.clone(), answer.clone());
            more =
                self.home.ledger.write(move |page| submit::answered(page, &pair.0, &pair.1, &answer)).await?;
        }
        Ok(())
    }

    /// Gives up what waited for 30 days. `[EVENT-DELIVER-05]`
    async fn expire(&self) -> Result<(), Fault> {
        let oldest = self.house.clock.now().before(limit::EVENT_LIFE).as_millis();
        let rows = self.rows(0, STEP).map_err(|error| broken(&error))?;
        let old: Vec<u64> = rows.iter().filter(|(_, q)| q.queued_ms < oldest).map(|(seq, _)| *seq).collect();
        let fault = expired(lock(&self.line.status).last_error.as_ref());
        if !old.is_empty() {
            let refused =
                old.iter().map(|seq| v1::PipeRefusal { seq: *seq, error: Some(fault.to_wire()) }).collect();
            let destination = self.line.destination.clone();
            self.home.ledger.write(move |page| acknowledge(page, &destination, &old, refused)).await?;
        }
        let pairs: Vec<(Address, Address)> = lock(&self.line.strangers).iter().cloned().collect();
        for (from, to) in pairs {
            let fault = fault.clone();
            self.home.ledger.write(move |page| submit::expire(page, &from, &to, oldest, &fault)).await?;
        }
        Ok(())
    }
}

/// Whether a name is none, or not in service, until its owner changes something: waiting alone does not help, and who
/// wrote there has to know. Another key than the pinned one may be an attack on them, which passes.
fn is_no_destination(fault: &Fault) -> bool {
    matches!(
        fault.code,
        ErrorCode::NameInvalid
            | ErrorCode::NotOnNetwork
            | ErrorCode::BadRecord
            | ErrorCode::AnchorExpired
            | ErrorCode::NotSecure
            | ErrorCode::NotInService
    )
}

/// Removes items that are done with; the senders of refused ones are told.
fn acknowledge(
    page: &mut Page<'_>,
    destination: &Name,
    done: &[u64],
    refused: Vec<v1::PipeRefusal>,
) -> Outcome<()> {
    for refusal in refused.into_iter().filter(|refusal| done.contains(&refusal.seq)) {
        let Some(item) = page.record::<Queued>(&layout::queued(destination, refusal.seq))? else { continue };
        let fault = Fault::from(refusal.error.unwrap_or_default());
        if item.submit.is_empty() {
            tracing::warn!(%destination, %fault, "a follower refused a placed event");
            if fault.code == ErrorCode::Epoch {
                hub::contradicted(page, &item)?;
            }
            continue;
        }
        let Ok(body) = v1::EventBody::decode(&item.submit[..]) else { continue };
        let Ok(origin) = Address::from_wire(&body.origin, &page.desk.policy) else { continue };
        follow::fail(page, &origin, &body, &fault)?;
    }
    page.desk.metrics.items_delivered.inc_by(done.len() as u64);
    for seq in done {
        page.dequeue(destination, *seq)?;
    }
    Ok(Ok(()))
}
