//! Who signs in: a person's device, or a service that answers for addresses.

use ahoy_proto::address::{Address, Local};
use ahoy_proto::key::SigningKey;
use ahoy_proto::name::Name;
use ahoy_proto::v1;

/// A device of an account (spec section 3.3).
#[derive(Clone, Debug)]
pub struct DeviceLogin {
    /// The account's address.
    pub account: Address,
    /// The device's own key.
    pub key: SigningKey,
    /// Present when this key is new to the account. Presented once; a reconnect does without it.
    pub enrol: Option<Enrolment>,
}

/// A service of a name: a bot, a SIP bridge (spec section 7.1).
#[derive(Clone, Debug)]
pub struct ServiceLogin {
    /// The homeserver's name.
    pub name: Name,
    /// Which service of it, e.g. `bridge`.
    pub service: Local,
    /// The service's own key.
    pub key: SigningKey,
    /// The invite that enrols this key, used only while the key is not enrolled; may stay configured.
    pub invite: Option<String>,
    /// The addresses claimed, within what the invite allows.
    pub addresses: Vec<Address>,
    /// Answers calls.
    pub calls: bool,
    /// Answers messages.
    pub messages: bool,
}

/// An invite token, and what this device calls itself.
#[derive(Clone)]
pub struct Enrolment {
    /// As the operator gave it.
    pub invite: String,
    /// "Ann's laptop", at most 64 bytes.
    pub label: String,
}

impl std::fmt::Debug for Enrolment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Enrolment").field("label", &self.label).finish_non_exhaustive()
    }
}

impl Enrolment {
    /// The wire form.
    pub(crate) fn to_wire(&self) -> v1::Enrol {
        v1::Enrol { invite: self.invite.clone(), label: self.label.clone() }
    }
}

/// Either of the two.
#[derive(Clone, Debug)]
pub(crate) enum Login {
    Device(DeviceLogin),
    Service(ServiceLogin),
}

impl Login {
    /// The name whose homeserver is asked.
    pub(crate) fn name(&self) -> &Name {
        match self {
            Login::Device(device) => device.account.name(),
            Login::Service(service) => &service.name,
        }
    }

    /// For messages: `ann@home.example` or `service bridge of bank.example`.
    pub(crate) fn subject(&self) -> String {
        match self {
            Login::Device(device) => device.account.to_string(),
            Login::Service(service) => format!("service {} of {}", service.service, service.name),
        }
    }

    /// The address that calls and messages come from when none is given.
    pub(crate) fn own_address(&self) -> Option<&Address> {
        match self {
            Login::Device(device) => Some(&device.account),
            Login::Service(service) => service.addresses.first(),
        }
    }

    /// The role announced in the hello.
    pub(crate) fn role(&self) -> v1::Role {
        match self {
            Login::Device(_) => v1::Role::Device,
            Login::Service(_) => v1::Role::Service,
        }
    }

    /// What enrols this key, if it is to be enrolled.
    pub(crate) fn enrolment(&self) -> Option<Enrolment> {
        match self {
            Login::Device(device) => device.enrol.clone(),
            Login::Service(service) => service
                .invite
                .as_ref()
                .map(|invite| Enrolment { invite: invite.clone(), label: service.service.to_string() }),
        }
    }

    /// Whether the invite is shown at the first try. A person's device signs up on purpose, so it is; a
    /// service keeps its invite in its configuration and is enrolled already at every start but one.
    pub(crate) fn enrols_first(&self) -> bool {
        matches!(self, Login::Device(_))
    }
}
