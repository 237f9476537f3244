//! Decides what a name is: a DNS domain that may take part, in its one wire form, and how it is shown.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};
use unicode_security::{RestrictionLevel, RestrictionLevelDetection as _};

use crate::fault::Fault;
use crate::limit;
use crate::v1::ErrorCode;

/// Domains that are nobody's, or mean something else than a domain (RFC 6761 and its registry, RFC 9476).
const SPECIAL_USE: [&str; 14] = [
    "alt",
    "arpa",
    "example",
    "example.com",
    "example.net",
    "example.org",
    "home",
    "internal",
    "invalid",
    "lan",
    "local",
    "localhost",
    "onion",
    "test",
];

/// Longest input that is looked at: the longest name, each character escaped as four UTF-8 bytes.
const INPUT_BYTES: usize = 4 * 254;

/// Which special-use domains may be names; everything else about names is fixed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamePolicy {
    allowed: Arc<BTreeSet<String>>,
}

impl NamePolicy {
    /// No special-use domain: the open network.
    pub fn strict() -> Self {
        Self::default()
    }

    /// The given special-use domains, such as `example`, and everything under them: for tests and the demo.
    pub fn allowing<I>(domains: I) -> Self
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let clean = |d: I::Item| d.as_ref().trim_matches('.').to_ascii_lowercase();
        Self { allowed: Arc::new(domains.into_iter().map(clean).collect()) }
    }

    /// The special-use domain that `name` lies in, unless it is allowed.
    fn special_use(&self, name: &str) -> Option<&'static str> {
        if self.allowed.iter().any(|domain| lies_in(name, domain)) {
            return None;
        }
        SPECIAL_USE.into_iter().find(|domain| lies_in(name, domain))
    }
}

/// Whether `name` is `domain` or below it.
fn lies_in(name: &str, domain: &str) -> bool {
    name.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// A name: lower-case A-labels without trailing dot. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

impl Name {
    /// Reads what a person typed: any case, any script, one trailing dot. `[NAME-ADDR-01]`
    ///
    /// # Errors
    /// [`NameError`] with what is wrong.
    pub fn parse(text: &str, policy: &NamePolicy) -> Result<Self, NameError> {
        let text = text.trim();
        let text = text.strip_suffix('.').unwrap_or(text);
        let ascii = to_ascii(text)?;
        check(&ascii, policy)?;
        Ok(Self(ascii.into()))
    }

    /// Reads a name from the wire, which must be in canonical form already. `[NAME-ADDR-02]`
    ///
    /// # Errors
    /// [`NameError::NotCanonical`] when another spelling was sent, else as [`Name::parse`].
    pub fn from_wire(text: &str, policy: &NamePolicy) -> Result<Self, NameError> {
        let ascii = to_ascii(text)?;
        if ascii != text {
            return Err(NameError::NotCanonical);
        }
        check(&ascii, policy)?;
        Ok(Self(text.into()))
    }

    /// The wire form.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// For people: U-labels where UTS 39 finds a single script or better than "highly restrictive", else the
    /// A-label. `[NAME-ADDR-08]`
    pub fn to_display(&self) -> String {
        let is_safe = |label: &[char], _tld: &[char], _bidi: bool| {
            let label: String = label.iter().collect();
            label.as_str().check_restriction_level(RestrictionLevel::HighlyRestrictive)
        };
        let (shown, ok) =
            Uts46::new().to_user_interface(self.0.as_bytes(), AsciiDenyList::STD3, Hyphens::Check, is_safe);
        if ok.is_ok() { shown.into_owned() } else { self.0.to_string() }
    }

    /// The domain that somebody registered: one label more than the public suffix. Limits count by it.
    pub fn registrable_domain(&self) -> &str {
        psl::domain_str(&self.0).unwrap_or(&self.0)
    }

    /// Owner of the anchor record: `_ahoy.<name>`.
    pub fn anchor_owner(&self) -> String {
        format!("_ahoy.{}", self.0)
    }
}

fn to_ascii(text: &str) -> Result<Cow<'_, str>, NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > INPUT_BYTES {
        return Err(NameError::TooLong);
    }
    if text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok() {
        return Err(NameError::IpLiteral);
    }
    Uts46::new()
        .to_ascii(text.as_bytes(), AsciiDenyList::STD3, Hyphens::Check, DnsLength::Verify)
        .map_err(|_| NameError::NotADomain)
}

/// The rules on a domain that UTS 46 accepts. `[NAME-ADDR-03]` to `[NAME-ADDR-06]`
fn check(name: &str, policy: &NamePolicy) -> Result<(), NameError> {
    if name.len() > limit::NAME_BYTES {
        return Err(NameError::TooLong);
    }
    let Some((_, last)) = name.rsplit_once('.') else {
        return Err(NameError::SingleLabel);
    };
    // No top-level domain is a number; resolvers read such names as addresses.
    if is_number(last) {
        return Err(NameError::IpLiteral);
    }
    if let Some(domain) = policy.special_use(name) {
        return Err(NameError::SpecialUse(domain));
    }
    // An unknown top-level domain is a suffix by the default rule only, and its single label is refused above.
    if psl::suffix(name.as_bytes()).is_some_and(|s| s.is_known() && s.as_bytes() == name.as_bytes()) {
        return Err(NameError::PublicSuffix);
    }
    Ok(())
}

/// Whether a last label makes resolvers read the whole as an IPv4 address (WHATWG URL section 3.5).
pub(crate) fn is_number(label: &str) -> bool {
    let hex = label.strip_prefix("0x").is_some_and(|h| h.bytes().all(|b| b.is_ascii_hexdigit()));
    hex || label.bytes().all(|b| b.is_ascii_digit())
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Name({})", self.0)
    }
}

/// Why a text is not a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing there.
    #[error("the name is empty")]
    Empty,
    /// UTS 46 refuses it: a character, a hyphen's place, a label's length.
    #[error("not a domain name: a label has a character, hyphen or length that DNS names do not have")]
    NotADomain,
    /// Longer than a name can be.
    #[error("the name is longer than {} characters", limit::NAME_BYTES)]
    TooLong,
    /// One label.
    #[error("a name needs at least two labels, such as `bank.example`")]
    SingleLabel,
    /// An address of a machine.
    #[error("an IP address is not a name")]
    IpLiteral,
    /// Everybody's.
    #[error("this is a public suffix, under which anybody may register, not a name")]
    PublicSuffix,
    /// Reserved.
    #[error("`{0}` is a special-use domain; only a test configuration may allow it")]
    SpecialUse(&'static str),
    /// Another spelling of a name.
    #[error("the name is not in its wire form (lower-case A-labels, no trailing dot)")]
    NotCanonical,
}

impl From<NameError> for Fault {
    fn from(e: NameError) -> Self {
        Fault::new(ErrorCode::NameInvalid, e.to_string())
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
    fn folds_case_script_and_trailing_dot_into_one_form() {
        for (typed, wire) in [
            ("Bank.Example", "bank.example"),
            ("bank.example.", "bank.example"),
            (" bücher.de ", "xn--bcher-kva.de"),
            ("BÜCHER.DE", "xn--bcher-kva.de"),
            ("straße.de", "xn--strae-oqa.de"),
            ("ｂａｎｋ。example", "bank.example"),
        ] {
            assert_eq!(Name::parse(typed, &demo()).expect(typed).as_str(), wire);
        }
    }

    #[test]
    fn refuses_what_is_not_a_name_with_the_reason() {
        use NameError::*;
        for (typed, why) in [
            ("", Empty),
            (".", Empty),
            ("bank", SingleLabel),
            ("192.0.2.1", IpLiteral),
            ("[2001:db8::1]", IpLiteral),
            ("2001:db8::1", IpLiteral),
            ("bank.0x7f", IpLiteral),
            ("co.uk", PublicSuffix),
            ("anything.ck", PublicSuffix),
            ("github.io", PublicSuffix),
            ("bank..example", NotADomain),
            ("-bank.example", NotADomain),
            ("ba_nk.example", NotADomain),
            ("ba nk.example", NotADomain),
            ("xn--zzzzzzzz.example", NotADomain),
            ("bank.localhost", SpecialUse("localhost")),
            ("bank.test", SpecialUse("test")),
            ("printer.home.arpa", SpecialUse("arpa")),
            ("shop.example.com", SpecialUse("example.com")),
        ] {
            assert_eq!(Name::parse(typed, &demo()), Err(why), "{typed}");
        }
        let label = "a".repeat(63);
        let long = format!("{label}.{label}.{label}.{}.de", "a".repeat(53));
        assert_eq!(long.len(), 248);
        assert_eq!(Name::parse(&long, &demo()), Err(TooLong));
        assert!(Name::parse(&long[1..], &demo()).is_ok());
        assert_eq!(Name::parse(&"é".repeat(1000), &demo()), Err(TooLong));
    }

    #[test]
    fn special_use_names_pass_only_where_the_policy_lists_them() {
        assert_eq!(Name::parse("bank.example", &NamePolicy::strict()), Err(NameError::SpecialUse("example")));
        assert!(Name::parse("bank.example", &demo()).is_ok());
        assert!(Name::parse("notexample.de", &NamePolicy::strict()).is_ok());
        assert!(Name::parse("a.b.example.com", &NamePolicy::allowing(["example.com"])).is_ok());
    }

    #[test]
    fn the_wire_takes_only_the_canonical_form() {
        assert!(Name::from_wire("xn--bcher-kva.de", &demo()).is_ok());
        for other in ["Bank.example", "bücher.de", "bank.example.", " bank.example"] {
            assert!(Name::from_wire(other, &demo()).is_err(), "{other}");
        }
    }

    #[test]
    fn shows_a_u_label_only_when_its_script_is_single() {
        let shown = |text: &str| Name::parse(text, &demo()).expect(text).to_display();
        assert_eq!(shown("bücher.de"), "bücher.de");
        assert_eq!(shown("почта.рф"), "почта.рф");
        // Cyrillic "а" in a Latin word.
        assert_eq!(shown("b\u{430}nk.de"), "xn--bnk-6cd.de");
    }

    #[test]
    fn the_registrable_domain_is_one_label_above_the_suffix() {
        let domain = |text: &str| Name::parse(text, &demo()).expect(text).registrable_domain().to_owned();
        assert_eq!(domain("a.b.shop.co.uk"), "shop.co.uk");
        assert_eq!(domain("me.github.io"), "me.github.io");
        assert_eq!(domain("a.bank.example"), "bank.example");
    }

    proptest! {
        #[test]
        fn every_name_is_its_own_wire_form(text in "\\PC{0,40}(\\.[a-z]{2,5})?") {
            if let Ok(name) = Name::parse(&text, &demo()) {
                prop_assert_eq!(Name::from_wire(name.as_str(), &demo()), Ok(name.clone()));
                prop_assert_eq!(Name::parse(&name.to_display(), &demo()), Ok(name));
            }
        }
    }
}
