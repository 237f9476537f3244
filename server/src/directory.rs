//! Decides what an address of ours is (a person, a line, nobody), who hears what is sent to it, and who may reach it.
//!
//! Unknown, refusing and blocked look the same to a stranger: one answer. `[CONV-HUB-03]`

use ahoy_proto::address::Address;
use ahoy_proto::fault::Fault;
use ahoy_proto::v1::{AddressKind, ErrorCode};
use bytes::Bytes;
use prost::Message;

use crate::desk::{Desk, FirstContact, Target};
use crate::layout;
use crate::page::{Page, decode};
use crate::record::{Account, ContactRecord, Service};
use crate::store::{Partition, Read, StoreError};

/// Something to look addresses up in: a page under construction, or the store as it stands.
pub trait Shelf {
    /// The value under a key of the name's partition.
    fn value(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError>;

    /// The record under a key.
    fn record<T: Message + Default>(&self, key: &[u8]) -> Result<Option<T>, StoreError> {
        Ok(self.value(key)?.and_then(|bytes| decode(key, &bytes)))
    }
}

impl Shelf for Page<'_> {
    fn value(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Page::value(self, key)
    }
}

/// The store as it stands.
pub struct Standing<'a>(pub &'a dyn Read, pub &'a Partition);

impl Shelf for Standing<'_> {
    fn value(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.0.get(self.1, key)
    }
}

/// The one answer to a stranger about somebody who is unknown, refuses, or blocked them.
pub fn not_reachable(address: &Address) -> Fault {
    Fault::new(ErrorCode::NotReachable, format!("{address} cannot be reached"))
}

/// What `address` is, or `None` for nobody.
pub fn kind_of(
    desk: &Desk,
    shelf: &impl Shelf,
    address: &Address,
) -> Result<Option<AddressKind>, StoreError> {
    if desk.line(address).is_some() {
        return Ok(Some(AddressKind::Line));
    }
    let account: Option<Account> = shelf.record(&layout::account(address))?;
    Ok(account.map(|_| AddressKind::Person))
}

/// The owners of the sync logs that hear what is sent to `address`; empty when nobody takes messages there.
pub fn owners(desk: &Desk, shelf: &impl Shelf, address: &Address) -> Result<Vec<String>, StoreError> {
    let Some(line) = desk.line(address) else {
        let account: Option<Account> = shelf.record(&layout::account(address))?;
        return Ok(account.map(|_| address.to_string()).into_iter().collect());
    };
    let mut owners = Vec::new();
    for target in &line.targets {
        match target {
            Target::Account(account) => {
                if shelf.value(&layout::account(account))?.is_some() {
                    owners.push(account.to_string());
                }
            }
            Target::Service(name) => {
                let service: Option<Service> = shelf.record(&layout::service(name))?;
                if service.is_some_and(|s| s.messages && claims(&s, address)) {
                    owners.push(service_owner(name));
                }
            }
        }
    }
    Ok(owners)
}

/// Whether the first-contact policy lets `from` reach `to`, who exists here.
pub fn admits(desk: &Desk, shelf: &impl Shelf, from: &Address, to: &Address) -> Result<bool, StoreError> {
    if desk.line(to).is_some() || from.name() == to.name() {
        return Ok(true);
    }
    match desk.first_contact {
        FirstContact::Anyone => Ok(true),
        FirstContact::Nobody => Ok(false),
        FirstContact::Known => {
            let known: Option<ContactRecord> =
                shelf.record(&layout::contact(&to.to_string(), &from.to_string()))?;
            Ok(known.is_some())
        }
    }
}

/// The owner name of a service's sync log.
pub fn service_owner(service: &str) -> String {
    format!("service:{service}")
}

/// Whether a service claimed `address` when it last signed in.
pub fn claims(service: &Service, address: &Address) -> bool {
    let address = address.to_string();
    service.claimed.contains(&address)
}
