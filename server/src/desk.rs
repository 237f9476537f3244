//! Decides what a served name is made of: its key, its lines with their routes, its policies.

use std::collections::BTreeMap;
use std::sync::Arc;

use ahoy_proto::address::{Address, Local};
use ahoy_proto::key::SigningKey;
use ahoy_proto::name::{Name, NamePolicy};
use ahoy_proto::time::{Clock, Entropy};

use crate::limit::Limits;
use crate::metrics::Metrics;

/// A served name, as its ledger sees it.
pub struct Desk {
    /// The name.
    pub name: Name,
    /// Signs its events, placements and invites; its public half is in the card.
    pub key: Arc<SigningKey>,
    /// Its lines, by local part; `None` is the front desk.
    pub lines: BTreeMap<Option<Local>, Line>,
    /// Which names exist at all.
    pub policy: NamePolicy,
    /// Who may write to or call its people without having been written to.
    pub first_contact: FirstContact,
    /// Bounds on what others may ask for.
    pub limits: Limits,
    /// Figures about the homeserver.
    pub metrics: Metrics,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub entropy: Arc<dyn Entropy>,
}

/// A line and its route of one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its local part; `None` is the front desk.
    pub local: Option<Local>,
    /// What people read.
    pub label: String,
    /// Who answers: a call goes to every target that answers calls, a message to every target that takes messages.
    pub targets: Vec<Target>,
}

/// Who answers for a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A service, by name.
    Service(String),
    /// An account of the same name.
    Account(Address),
}

/// A target that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the target `{0}` is neither `service:<name>` nor `account:<local part>`")]
pub struct TargetError(pub String);

impl Target {
    /// Reads `service:bridge` or `account:ann`, the latter of `name`.
    pub fn parse(text: &str, name: &Name) -> Result<Self, TargetError> {
        let wrong = || TargetError(text.to_owned());
        match text.split_once(':') {
            Some(("service", service)) if !service.is_empty() && service.len() <= 64 => {
                Ok(Self::Service(service.to_owned()))
            }
            Some(("account", local)) => {
                let local = Local::parse(local).map_err(|_| wrong())?;
                Ok(Self::Account(Address::new(Some(local), name.clone())))
            }
            _ => Err(wrong()),
        }
    }
}

/// Who may reach a person that does not know them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FirstContact {
    /// Everybody whose name resolves.
    #[default]
    Anyone,
    /// Those whom the person wrote to or called before.
    Known,
    /// Nobody at all.
    Nobody,
}

impl Desk {
    /// The line of an address of this name, if it is one.
    pub fn line(&self, address: &Address) -> Option<&Line> {
        if address.name() != &self.name {
            return None;
        }
        self.lines.get(&address.local().cloned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_service_or_an_account_of_the_same_name() {
        let name = Name::parse("bank.example", &NamePolicy::allowing(["example"])).unwrap();
        assert_eq!(Target::parse("service:bridge", &name), Ok(Target::Service("bridge".into())));
        let Ok(Target::Account(ann)) = Target::parse("account:ann", &name) else { panic!("an account") };
        assert_eq!(ann.to_string(), "ann@bank.example");
        assert!(Target::parse("phone:200", &name).is_err());
        assert!(Target::parse("service:", &name).is_err());
    }
}
