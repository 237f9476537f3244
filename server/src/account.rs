//! Decides who may sign in: devices of accounts and services, enrolled once with an invite token and known by key
//! from then on.

use ahoy_proto::address::Address;
use ahoy_proto::fault::Fault;
use ahoy_proto::v1::ErrorCode;
use bytes::Bytes;

use crate::checked::malformed;
use crate::invite::{Grant, Invite, InviteError};
use crate::layout;
use crate::ledger::Outcome;
use crate::page::Page;
use crate::record::{Account, Device, Service};

/// Longest label of a device, in bytes.
const LABEL_BYTES: usize = 64;
/// Addresses that a service may claim at once.
const CLAIMS: usize = 1024;

/// A device that wants to sign in; its proof was verified.
#[derive(Clone, Debug)]
pub struct DeviceLogin {
    /// The account.
    pub account: Address,
    /// Its ed25519 key.
    pub key: Bytes,
    /// `BindingKind` of its proof.
    pub binding: i32,
    /// Present when the key is new.
    pub enrol: Option<Invite>,
    /// What its owner calls it.
    pub label: String,
}

/// A service that wants to sign in; its proof was verified.
#[derive(Clone, Debug)]
pub struct ServiceLogin {
    /// Its name.
    pub service: String,
    /// Its ed25519 key.
    pub key: Bytes,
    /// Present when the key is new.
    pub enrol: Option<Invite>,
    /// Addresses that it answers for.
    pub addresses: Vec<Address>,
    /// Answers calls.
    pub calls: bool,
    /// Takes messages.
    pub messages: bool,
}

/// Signs a device in, enrolling it when it brings a token. Returns the head of the account's sync log.
/// `[WIRE-AUTH-10]`
pub fn sign_in_device(page: &mut Page<'_>, login: &DeviceLogin) -> Outcome<u64> {
    let owner = login.account.to_string();
    let key = layout::device(&login.account, &login.key);
    if let Some(device) = page.record::<Device>(&key)? {
        if device.binding != login.binding {
            return Ok(Err(Fault::new(
                ErrorCode::BadProof,
                "this device was enrolled with another kind of binding",
            )));
        }
        return page.head(&owner).map(Ok);
    }
    let Some(grant) = &login.enrol else {
        let message = "this device is not enrolled: sign up with an invite token";
        return Ok(Err(Fault::new(ErrorCode::UnknownDevice, message)));
    };
    if page.desk.line(&login.account).is_some() {
        return Ok(Err(Fault::new(ErrorCode::AddressTaken, "this address is a line")));
    }
    if login.label.len() > LABEL_BYTES {
        return Ok(Err(malformed("the device's label is longer than 64 bytes")));
    }
    if let Err(fault) = spend(page, grant, &Grant::Account(login.account.clone()))? {
        return Ok(Err(fault));
    }
    let enrolled_ms = page.now.as_millis();
    page.put_record(key, &Device { label: login.label.clone(), enrolled_ms, binding: login.binding });
    let account = layout::account(&login.account);
    if page.value(&account)?.is_none() {
        page.put_record(account, &Account { created_ms: enrolled_ms });
    }
    page.head(&owner).map(Ok)
}

/// Signs a service in with the addresses that it claims, within what its enrolment allows. Returns the head of its
/// sync log. `[SVC-CLAIM-01]`
pub fn sign_in_service(page: &mut Page<'_>, login: &ServiceLogin) -> Outcome<u64> {
    let key = layout::service(&login.service);
    let known: Option<Service> = page.record(&key)?;
    let mut record = match enrolled(page, login, known.clone())? {
        Ok(record) => record,
        Err(fault) => return Ok(Err(fault)),
    };
    if login.addresses.len() > CLAIMS {
        return Ok(Err(malformed("a service claims at most 1024 addresses")));
    }
    let claimed: Vec<String> = login.addresses.iter().map(ToString::to_string).collect();
    if let Some(foreign) = claimed.iter().find(|address| !record.allowed.contains(address)) {
        let message = format!("the enrolment of this service does not allow {foreign}");
        return Ok(Err(Fault::new(ErrorCode::NotAllowed, message)));
    }
    record.claimed = claimed;
    record.calls = login.calls;
    record.messages = login.messages;
    if known.as_ref() != Some(&record) {
        if let Some(grant) =
            login.enrol.as_ref().filter(|_| known.is_none_or(|known| known.key != record.key))
        {
            page.put_record(layout::spent(&grant.nonce), &Account { created_ms: page.now.as_millis() });
        }
        page.put_record(key, &record);
    }
    page.head(&crate::directory::service_owner(&login.service)).map(Ok)
}

/// The service's record: the known one for its key, or a new one by its token, which is not spent yet.
fn enrolled(page: &Page<'_>, login: &ServiceLogin, known: Option<Service>) -> Outcome<Service> {
    if let Some(record) = known.filter(|record| record.key == login.key) {
        return Ok(Ok(record));
    }
    let Some(grant) = &login.enrol else {
        let message = "this service is not enrolled with that key: sign in with an invite token";
        return Ok(Err(Fault::new(ErrorCode::UnknownDevice, message)));
    };
    let (service, addresses) = match &grant.grant {
        Grant::Service { name, service, addresses } if *name == page.desk.name => (service, addresses),
        _ => return Ok(Err(InviteError::OtherGrant.fault())),
    };
    if *service != login.service {
        return Ok(Err(InviteError::OtherGrant.fault()));
    }
    if page.value(&layout::spent(&grant.nonce))?.is_some() {
        return Ok(Err(InviteError::Spent.fault()));
    }
    Ok(Ok(Service {
        key: login.key.clone(),
        allowed: addresses.iter().map(ToString::to_string).collect(),
        enrolled_ms: page.now.as_millis(),
        ..Service::default()
    }))
}

/// Uses a token up. `[WIRE-AUTH-11]`
fn spend(page: &mut Page<'_>, invite: &Invite, wanted: &Grant) -> Outcome<()> {
    if invite.grant != *wanted {
        return Ok(Err(InviteError::OtherGrant.fault()));
    }
    let spent = layout::spent(&invite.nonce);
    if page.value(&spent)?.is_some() {
        return Ok(Err(InviteError::Spent.fault()));
    }
    page.put_record(spent, &Account { created_ms: page.now.as_millis() });
    Ok(Ok(()))
}
