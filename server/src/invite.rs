//! Invite tokens: what makes one good, and for what.
//!
//! A token holds all that it grants and is signed with a key of this homeserver, so that `ahoyd invite` needs nothing
//! but that key and works while `ahoyd` runs. That it is used once is the business of whoever redeems it: the commit
//! that enrols also records [`Invite::nonce`], under the precondition that it is absent.

use std::path::Path;
use std::time::Duration;

use ahoy_proto::address::{Address, Local};
use ahoy_proto::fault::Fault;
use ahoy_proto::key::SigningKey;
use ahoy_proto::name::{Name, NamePolicy};
use ahoy_proto::time::{Clock, Entropy, Timestamp, random};
use ahoy_proto::v1::ErrorCode;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use prost::Message;

use crate::key_file::{self, KeyFileError};

const FILE: &str = "invite.key";
const CONTEXT: &str = "ahoyd-invite-v1";
/// What a token begins with, so that people and secret scanners can tell what it is.
const TAG: &str = "ahoyinvite_";
const SIGNATURE: usize = 64;
/// Longest token that is looked at.
const MAX_TOKEN: usize = 4096;
/// Addresses that one service invite may allow.
pub const MAX_ADDRESSES: usize = 64;
/// How long a token is good for unless said otherwise.
pub const VALID_FOR: Duration = Duration::from_secs(7 * 24 * 3600);

/// What a token allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grant {
    /// To enrol a device of this account, which is made if there is none.
    Account(Address),
    /// To enrol a service key.
    Service {
        /// The served name that it works for.
        name: Name,
        /// The service, for example `bridge`.
        service: String,
        /// The addresses that it may answer for, all of `name`.
        addresses: Vec<Address>,
    },
}

impl Grant {
    /// The served name that it is about.
    pub fn name(&self) -> &Name {
        match self {
            Self::Account(address) => address.name(),
            Self::Service { name, .. } => name,
        }
    }

    /// Reads what the operator typed. `account` and `addresses` must be of one of `served`.
    pub fn parse(
        account: Option<&str>,
        service: Option<&str>,
        addresses: &[String],
        served: &[Name],
        policy: &NamePolicy,
    ) -> Result<Self, GrantError> {
        let ours = |text: &str| -> Result<Address, GrantError> {
            let address = Address::parse(text, policy)
                .map_err(|error| GrantError::Address { text: text.to_owned(), why: error.to_string() })?;
            if served.contains(address.name()) { Ok(address) } else { Err(GrantError::Foreign(address)) }
        };
        match (account, service) {
            (Some(account), None) if addresses.is_empty() => {
                let address = ours(account)?;
                if address.local().is_none() {
                    Err(GrantError::FrontDesk(address))
                } else {
                    Ok(Self::Account(address))
                }
            }
            (None, Some(service)) if (1..=MAX_ADDRESSES).contains(&addresses.len()) => {
                let service = service_name(service).ok_or_else(|| GrantError::Service(service.to_owned()))?;
                let addresses = addresses.iter().map(|text| ours(text)).collect::<Result<Vec<_>, _>>()?;
                let name = addresses[0].name().clone();
                match addresses.iter().find(|address| address.name() != &name) {
                    Some(other) => Err(GrantError::TwoNames(name, other.clone())),
                    None => Ok(Self::Service { name, service, addresses }),
                }
            }
            _ => Err(GrantError::Neither),
        }
    }
}

/// A service's name follows the rule for local parts.
fn service_name(text: &str) -> Option<String> {
    Local::parse(text).ok().map(|local| local.as_str().to_owned())
}

/// What is wrong with what the operator typed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    /// Not an address.
    #[error("`{text}` is not an address: {why}")]
    Address {
        /// What was typed.
        text: String,
        /// Why it is none.
        why: String,
    },
    /// Of a name that is not served here.
    #[error("{0} is of a name that this homeserver does not serve: see `name` in its configuration")]
    Foreign(Address),
    /// A person's account needs a local part.
    #[error("{0} is a front desk, not an account: write someone@{0}")]
    FrontDesk(Address),
    /// Not a service name.
    #[error("`{0}` is not a service name: use up to 64 letters, digits, dots, hyphens")]
    Service(String),
    /// Addresses of two names.
    #[error("{1} is not of {0}: a service works for one name; make an invite for each")]
    TwoNames(Name, Address),
    /// Neither kind, or both.
    #[error("give either one account (`caller@home.example`), or `--service NAME` with 1 to 64 `--address`")]
    Neither,
}

/// A token that verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invite {
    /// What it allows.
    pub grant: Grant,
    /// Identifies the token: to be recorded when it is used.
    pub nonce: [u8; 16],
    /// When it ends.
    pub not_after: Timestamp,
}

/// Why a token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InviteError {
    /// Not a token, or damaged.
    #[error("this is not a whole invite token: copy all of it, beginning with {TAG}")]
    Malformed,
    /// Not signed by this homeserver.
    #[error("this invite was not made by this homeserver")]
    Foreign,
    /// Too late.
    #[error("this invite has expired: ask for a new one")]
    Expired,
    /// Used before.
    #[error("this invite has been used: ask for a new one")]
    Spent,
    /// Good, but for something else.
    #[error("this invite is for something else")]
    OtherGrant,
}

impl InviteError {
    /// As told to who presented the token.
    pub fn fault(&self) -> Fault {
        Fault::new(ErrorCode::BadInvite, self.to_string())
    }
}

#[derive(Clone, PartialEq, Message)]
struct Body {
    #[prost(bytes = "vec", tag = "1")]
    nonce: Vec<u8>,
    #[prost(uint64, tag = "2")]
    not_after: u64,
    #[prost(string, tag = "3")]
    account: String,
    #[prost(string, tag = "4")]
    service: String,
    #[prost(string, repeated, tag = "5")]
    addresses: Vec<String>,
}

/// Makes and verifies the tokens of one homeserver.
pub struct InviteKey(SigningKey);

impl InviteKey {
    /// The key in `data_dir`, made when there is none.
    pub fn load_or_create(data_dir: &Path, entropy: &dyn Entropy) -> Result<Self, KeyFileError> {
        Ok(Self(key_file::load_or_create(&data_dir.join(FILE), entropy)?))
    }

    /// From a key in memory.
    pub fn new(key: SigningKey) -> Self {
        Self(key)
    }

    /// A token for `grant`, good for `valid_for`.
    pub fn issue(
        &self,
        grant: &Grant,
        valid_for: Duration,
        clock: &dyn Clock,
        entropy: &dyn Entropy,
    ) -> String {
        let nonce: [u8; 16] = random(entropy);
        let mut body = Body {
            nonce: nonce.to_vec(),
            not_after: clock.now().after(valid_for).as_secs(),
            ..Body::default()
        };
        match grant {
            Grant::Account(address) => body.account = address.to_string(),
            Grant::Service { service, addresses, .. } => {
                body.service = service.clone();
                body.addresses = addresses.iter().map(Address::to_string).collect();
            }
        }
        let mut token = body.encode_to_vec();
        let signature = self.0.sign(CONTEXT, &[&token]);
        token.extend_from_slice(&signature);
        format!("{TAG}{}", URL_SAFE_NO_PAD.encode(token))
    }

    /// What `token` grants, if it is ours and still good. `policy` is that of the names served.
    pub fn verify(&self, token: &str, now: Timestamp, policy: &NamePolicy) -> Result<Invite, InviteError> {
        if token.len() > MAX_TOKEN {
            return Err(InviteError::Malformed);
        }
        let text = token.trim().strip_prefix(TAG).ok_or(InviteError::Malformed)?;
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| InviteError::Malformed)?;
        let (body, signature) = bytes.split_last_chunk::<SIGNATURE>().ok_or(InviteError::Malformed)?;
        self.0.public().verify(CONTEXT, body, signature).map_err(|_| InviteError::Foreign)?;
        let body = Body::decode(body).map_err(|_| InviteError::Malformed)?;
        let not_after = Timestamp::from_secs(body.not_after);
        if now > not_after {
            return Err(InviteError::Expired);
        }
        let nonce = body.nonce[..].try_into().map_err(|_| InviteError::Malformed)?;
        Ok(Invite { grant: grant_of(&body, policy)?, nonce, not_after })
    }
}

/// Signed by us, so that nothing here should fail; a name that was allowed then may be refused now.
fn grant_of(body: &Body, policy: &NamePolicy) -> Result<Grant, InviteError> {
    let address = |text: &String| Address::from_wire(text, policy).map_err(|_| InviteError::Malformed);
    if body.service.is_empty() {
        return Ok(Grant::Account(address(&body.account)?));
    }
    let addresses = body.addresses.iter().map(address).collect::<Result<Vec<_>, _>>()?;
    let name = addresses.first().ok_or(InviteError::Malformed)?.name().clone();
    Ok(Grant::Service { name, service: body.service.clone(), addresses })
}

/// Fuzz entry: any bytes a stranger may send as a token.
pub fn fuzz(bytes: &[u8]) {
    if let Ok(token) = std::str::from_utf8(bytes) {
        let _ = InviteKey::new(SigningKey::from_seed([1; 32])).verify(
            token,
            Timestamp::ZERO,
            &NamePolicy::strict(),
        );
    }
    if let Ok(body) = Body::decode(bytes) {
        let _ = grant_of(&body, &NamePolicy::strict());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    struct At(u64);

    impl Clock for At {
        fn now(&self) -> Timestamp {
            Timestamp::from_secs(self.0)
        }
    }

    struct Sevens;

    impl Entropy for Sevens {
        fn fill(&self, out: &mut [u8]) {
            out.fill(7);
        }
    }

    fn policy() -> NamePolicy {
        NamePolicy::allowing(["example"])
    }

    fn key(seed: u8) -> InviteKey {
        InviteKey::new(SigningKey::from_seed([seed; 32]))
    }

    fn parse(account: Option<&str>, service: Option<&str>, addresses: &[&str]) -> Result<Grant, GrantError> {
        let served = ["bank.example", "shop.example"].map(|name| Name::parse(name, &policy()).unwrap());
        let addresses: Vec<String> = addresses.iter().map(|text| (*text).to_owned()).collect();
        Grant::parse(account, service, &addresses, &served, &policy())
    }

    fn token(grant: &Grant) -> String {
        key(1).issue(grant, Duration::from_secs(60), &At(1000), &Sevens)
    }

    #[test]
    fn a_token_grants_what_it_was_made_for() {
        let account = parse(Some("Caller@bank.example"), None, &[]).unwrap();
        let bridge = parse(None, Some("bridge"), &["support@bank.example", "bank.example"]).unwrap();
        for grant in [account, bridge] {
            let invite = key(1).verify(&token(&grant), Timestamp::from_secs(1060), &policy()).unwrap();
            assert_eq!(invite, Invite { grant, nonce: [7; 16], not_after: Timestamp::from_secs(1060) });
        }
    }

    #[test]
    fn refuses_an_expired_token_and_one_of_another_homeserver() {
        let token = token(&parse(Some("ann@bank.example"), None, &[]).unwrap());
        let verify = |key: InviteKey, at| key.verify(&token, Timestamp::from_secs(at), &policy());
        assert_eq!(verify(key(1), 1061), Err(InviteError::Expired));
        assert_eq!(verify(key(2), 1000), Err(InviteError::Foreign));
        assert_eq!(InviteError::Foreign.fault().code, ErrorCode::BadInvite);
    }

    #[test]
    fn refuses_what_the_operator_cannot_grant() {
        assert!(matches!(parse(Some("ann@other.example"), None, &[]), Err(GrantError::Foreign(_))));
        assert!(matches!(parse(Some("bank.example"), None, &[]), Err(GrantError::FrontDesk(_))));
        assert!(matches!(parse(Some("no address"), None, &[]), Err(GrantError::Address { .. })));
        assert!(matches!(parse(None, Some("bridge"), &[]), Err(GrantError::Neither)));
        assert!(matches!(parse(None, None, &[]), Err(GrantError::Neither)));
        assert!(matches!(parse(None, Some("a b"), &["bank.example"]), Err(GrantError::Service(_))));
        let two = parse(None, Some("bot"), &["a@bank.example", "a@shop.example"]);
        assert!(matches!(two, Err(GrantError::TwoNames(..))));
    }

    proptest! {
        #[test]
        fn a_changed_token_is_refused(at in any::<prop::sample::Index>(), letter in "[A-Za-z0-9_-]") {
            let good = token(&parse(Some("ann@bank.example"), None, &[]).unwrap());
            let mut bad = good.clone();
            let at = at.index(bad.len());
            bad.replace_range(at..=at, &letter);
            prop_assume!(bad != good);
            prop_assert!(key(1).verify(&bad, Timestamp::from_secs(1000), &policy()).is_err());
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            fuzz(&bytes);
        }
    }
}
