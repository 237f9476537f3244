//! Decides what belongs together for one served name: its desk, its part of the store, its ledger, its outbox.

use std::sync::Arc;

use ahoy_proto::address::Address;
use ahoy_proto::fault::Fault;
use ahoy_proto::name::Name;
use ahoy_proto::v1::{self, ErrorCode};

use crate::contact;
use crate::desk::Desk;
use crate::directory::Standing;
use crate::inbox::{self, Item, Taken};
use crate::ledger::{Ledger, Outcome};
use crate::store::{Partition, Store, StoreError};
use crate::wake::Wakes;

/// One served name.
pub struct Home {
    /// Its key, lines and policies.
    pub desk: Arc<Desk>,
    /// The store of the homeserver.
    pub store: Arc<dyn Store>,
    /// Its part of the store.
    pub partition: Partition,
    /// Where changes are handed in.
    pub ledger: Ledger,
    /// Who hears of them.
    pub wakes: Arc<Wakes>,
}

impl Home {
    /// The name's data as it stands.
    pub fn shelf(&self) -> Standing<'_> {
        Standing(&*self.store, &self.partition)
    }

    /// Answers the contact question about an address of this name.
    pub fn answer_contact(
        &self,
        from: &Address,
        from_is_line: bool,
        to: &Address,
    ) -> Result<v1::ContactAnswer, Fault> {
        read(contact::answer(&self.desk, &self.shelf(), from, from_is_line, to))
    }

    /// Opens a pipe from `source`.
    pub async fn open_pipe(&self, source: &Name, epoch: u64) -> Result<v1::PipeAccept, Fault> {
        let source = source.clone();
        self.ledger.write(move |page| inbox::open(page, &source, epoch)).await
    }

    /// Takes placed events that were fetched to fill a gap. What cannot be taken is left out: it stays a gap.
    pub async fn fill(&self, source: &Name, items: Vec<Item>) -> Result<(), Fault> {
        let source = source.clone();
        self.ledger.write(move |page| inbox::fill(page, &source, items)).await
    }

    /// Takes items of a pipe; returns when they are durable.
    pub async fn take(&self, source: &Name, epoch: u64, mut items: Vec<Item>) -> Result<Taken, Fault> {
        let mut refused = Vec::new();
        loop {
            let source = source.clone();
            let mut taken = self.ledger.write(move |page| inbox::take(page, &source, epoch, items)).await?;
            refused.append(&mut taken.ack.refused);
            if taken.rest.is_empty() {
                taken.ack.refused = refused;
                return Ok(taken);
            }
            items = taken.rest;
        }
    }
}

/// The outcome of a read, a failing store told as an internal fault.
pub fn read<T>(outcome: Outcome<T>) -> Result<T, Fault> {
    outcome.unwrap_or_else(|error| Err(broken(&error)))
}

/// What others are told when the store cannot be read.
pub fn broken(error: &StoreError) -> Fault {
    tracing::error!(%error, "the store cannot be read");
    Fault::new(ErrorCode::Internal, "the store of this homeserver failed; try again later")
}
