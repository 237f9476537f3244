//! Decides what an address is: `local@name`, or the bare name, which is the front desk.

use std::fmt;
use std::sync::Arc;

use crate::fault::Fault;
use crate::limit;
use crate::name::{Name, NameError, NamePolicy};
use crate::v1::ErrorCode;

/// The part before the `@`: `[a-z0-9]([a-z0-9._+-]{0,62}[a-z0-9])?`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Local(Arc<str>);

impl Local {
    /// Reads what a person typed; ASCII upper case is folded. `[NAME-ADDR-07]`
    ///
    /// # Errors
    /// [`AddressError::Local`] when it does not match.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        // Bounded before it is copied.
        if text.len() > limit::LOCAL_BYTES {
            return Err(AddressError::Local);
        }
        Self::from_wire(&text.to_ascii_lowercase())
    }

    /// Reads a local part from the wire, lower-case already.
    ///
    /// # Errors
    /// [`AddressError::Local`] when it does not match.
    pub fn from_wire(text: &str) -> Result<Self, AddressError> {
        let is_outer = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let bytes = text.as_bytes();
        let fits = (1..=limit::LOCAL_BYTES).contains(&bytes.len());
        let ends = bytes.first().is_some_and(is_outer) && bytes.last().is_some_and(is_outer);
        if fits && ends && bytes.iter().all(|b| is_outer(b) || b"._+-".contains(b)) {
            Ok(Self(text.into()))
        } else {
            Err(AddressError::Local)
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Local({})", self.0)
    }
}

/// `[local "@"] name`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    local: Option<Local>,
    name: Name,
}

impl Address {
    /// An address of `name`; without a local part, its front desk.
    pub fn new(local: Option<Local>, name: Name) -> Self {
        Self { local, name }
    }

    /// Reads what a person typed, with or without `ahoy:`. `[NAME-ADDR-09]`
    ///
    /// # Errors
    /// [`AddressError`] with the part that is wrong.
    pub fn parse(text: &str, policy: &NamePolicy) -> Result<Self, AddressError> {
        let text = text.trim();
        let text = match text.get(..5) {
            Some(scheme) if scheme.eq_ignore_ascii_case("ahoy:") => &text[5..],
            _ => text,
        };
        match text.rsplit_once('@') {
            Some((local, name)) => Ok(Self::new(Some(Local::parse(local)?), Name::parse(name, policy)?)),
            None => Ok(Self::new(None, Name::parse(text, policy)?)),
        }
    }

    /// Reads an address from the wire, which must be in canonical form.
    ///
    /// # Errors
    /// [`AddressError`] with the part that is wrong.
    pub fn from_wire(text: &str, policy: &NamePolicy) -> Result<Self, AddressError> {
        match text.rsplit_once('@') {
            Some((local, name)) => {
                Ok(Self::new(Some(Local::from_wire(local)?), Name::from_wire(name, policy)?))
            }
            None => Ok(Self::new(None, Name::from_wire(text, policy)?)),
        }
    }

    /// The part before the `@`; `None` is the front desk.
    pub fn local(&self) -> Option<&Local> {
        self.local.as_ref()
    }

    /// The name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// `ahoy:local@name`. No character of an address needs escaping in a URI.
    pub fn to_uri(&self) -> String {
        format!("ahoy:{self}")
    }

    /// For people: the name by its display rule.
    pub fn to_display(&self) -> String {
        match &self.local {
            Some(local) => format!("{local}@{}", self.name.to_display()),
            None => self.name.to_display(),
        }
    }
}

impl From<Name> for Address {
    fn from(name: Name) -> Self {
        Self::new(None, name)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(local) = &self.local {
            write!(f, "{local}@")?;
        }
        write!(f, "{}", self.name)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

/// Why a text is not an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// The local part does not match its rule.
    #[error(
        "the part before the @ must be 1 to {} letters, digits, or . _ + - between them",
        limit::LOCAL_BYTES
    )]
    Local,
    /// The name is none.
    #[error(transparent)]
    Name(#[from] NameError),
}

impl From<AddressError> for Fault {
    fn from(e: AddressError) -> Self {
        match e {
            AddressError::Name(e) => e.into(),
            AddressError::Local => Fault::new(ErrorCode::Malformed, e.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn demo() -> NamePolicy {
        NamePolicy::allowing(["example"])
    }

    #[test]
    fn reads_an_address_a_front_desk_and_a_uri() {
        let support = Address::parse("ahoy:Support@Bank.example", &demo()).expect("address");
        assert_eq!(support.to_string(), "support@bank.example");
        assert_eq!(support.to_uri(), "ahoy:support@bank.example");
        let desk = Address::parse("bank.example", &demo()).expect("front desk");
        assert_eq!((desk.local(), desk.to_string().as_str()), (None, "bank.example"));
    }

    #[test]
    fn refuses_local_parts_outside_the_rule() {
        let long = "a".repeat(65);
        for local in ["", ".a", "a.", "a b", "-a", "a+", "ä", "a@b", "a/b", long.as_str()] {
            let text = format!("{local}@bank.example");
            assert_eq!(Address::parse(&text, &demo()), Err(AddressError::Local), "{text}");
        }
        assert!(Address::parse(&format!("{}@bank.example", "a".repeat(64)), &demo()).is_ok());
    }

    #[test]
    fn the_wire_takes_no_upper_case_and_no_scheme() {
        for text in ["Support@bank.example", "ahoy:support@bank.example", "support@Bank.example"] {
            assert!(Address::from_wire(text, &demo()).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_address_is_read_back_from_its_text(
            local in proptest::option::of("[a-z0-9]([a-z0-9._+-]{0,62}[a-z0-9])?"),
            name in "[a-z]([a-z0-9]{0,20})?(\\.[a-z]{3,9}){1,3}",
        ) {
            let Ok(name) = Name::parse(&name, &demo()) else { return Ok(()) };
            let local = local.map(|l| Local::parse(&l).expect("matches the rule"));
            let address = Address::new(local, name);
            prop_assert_eq!(Address::from_wire(&address.to_string(), &demo()), Ok(address.clone()));
            prop_assert_eq!(Address::parse(&address.to_uri(), &demo()), Ok(address));
        }
    }
}
