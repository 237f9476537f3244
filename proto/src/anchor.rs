//! Decides what an anchor is: the one signed TXT record with which a name takes part.
//!
//! Writing one is in [`AnchorDraft`]; which of the records at an owner count is in [`select`].

mod draft;
mod read;
mod select;

use std::fmt;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::address::Local;
use crate::fault::Fault;
use crate::key::PublicKey;
use crate::limit;
use crate::name::{self, Name};
use crate::time::Timestamp;
use crate::v1::ErrorCode;

pub use draft::AnchorDraft;
pub use select::select;

/// Context of an anchor's signature.
pub const CONTEXT: &str = "ahoy-anchor-v1";
const NEXT_CONTEXT: &[u8] = b"ahoy-next-v1\0";
const PRIORITY: u16 = 10;
const WEIGHT: u16 = 10;

/// A well-formed anchor. Whether it is of a name and in force is [`Anchor::verify`]'s answer.
#[derive(Clone, PartialEq, Eq)]
pub struct Anchor {
    /// The text without spaces, tabs, quotes and backslashes.
    text: String,
    /// Length of the part of `text` that is signed.
    signed: usize,
    signature: [u8; 64],
    /// `k`: the key of the name.
    pub key: PublicKey,
    /// `s`: when it was signed; rises with every anchor of a key.
    pub signed_at: Timestamp,
    /// `x`: the end of its life, if it says so.
    pub expires: Option<Timestamp>,
    /// `n`: the [`commitment`] to the next key.
    pub next: Option<[u8; 16]>,
    /// `e`: where its homeserver is; empty = deliberately not in service.
    pub endpoints: Vec<AnchorEndpoint>,
    /// `c`: what it can do, by letter.
    pub capabilities: Option<String>,
    /// `l`: its lines.
    pub lines: Option<AnchorLines>,
}

/// The lines that an anchor names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnchorLines {
    /// One to 16 of them.
    pub lines: Vec<Local>,
    /// Whether there are no others; if not, the card has them.
    pub complete: bool,
}

/// Where a homeserver listens, with SRV's meaning of priority and weight (RFC 2782).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AnchorEndpoint {
    host: String,
    port: u16,
    priority: u16,
    weight: u16,
}

impl AnchorEndpoint {
    /// An endpoint with all four values.
    ///
    /// # Errors
    /// [`AnchorError::Endpoint`] when the host is no lower-case host name or the port is 0.
    pub fn new(host: &str, port: u16, priority: u16, weight: u16) -> Result<Self, AnchorError> {
        if port == 0 || !is_host(host) {
            return Err(AnchorError::Endpoint);
        }
        Ok(Self { host: host.to_owned(), port, priority, weight })
    }

    /// An endpoint on the default port, 2469.
    ///
    /// # Errors
    /// As [`AnchorEndpoint::new`].
    pub fn at(host: &str) -> Result<Self, AnchorError> {
        Self::new(host, limit::PORT, PRIORITY, WEIGHT)
    }

    /// DNS host name; also the SNI.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// UDP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Lower is tried first.
    pub fn priority(&self) -> u16 {
        self.priority
    }

    /// Share among equals of priority.
    pub fn weight(&self) -> u16 {
        self.weight
    }
}

impl fmt::Display for AnchorEndpoint {
    /// The shortest form in an anchor.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.host)?;
        let (default, weighted) = (self.priority == PRIORITY, self.weight != WEIGHT);
        if self.port != limit::PORT || !default || weighted {
            write!(f, ":{}", self.port)?;
        }
        if !default || weighted {
            write!(f, "/{}", self.priority)?;
        }
        if weighted {
            write!(f, "/{}", self.weight)?;
        }
        Ok(())
    }
}

/// A lower-case host name of at least two labels: letters, digits, inner hyphens, no number at the end.
fn is_host(host: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    host.len() <= 253
        && host.split('.').all(is_label)
        && host.rsplit_once('.').is_some_and(|(_, last)| !name::is_number(last))
}

impl Anchor {
    /// Reads one record's text: the grammar and the critical tags. `[NAME-ANCHOR-01]` to `[NAME-ANCHOR-07]`
    ///
    /// # Errors
    /// [`AnchorError::NotAnAnchor`] for another TXT record, else the rule that is broken.
    pub fn parse(text: &str) -> Result<Self, AnchorError> {
        read::read(text)
    }

    /// Whether it is `name`'s and in force at `now`. `[NAME-ANCHOR-08]` to `[NAME-ANCHOR-10]`
    ///
    /// # Errors
    /// [`AnchorError::Signature`] (also for another name's anchor), [`AnchorError::FromTheFuture`],
    /// [`AnchorError::Expired`].
    pub fn verify(&self, name: &Name, now: Timestamp) -> Result<(), AnchorError> {
        self.verify_signature(name)?;
        if self.signed_at > now + limit::ANCHOR_AHEAD {
            return Err(AnchorError::FromTheFuture);
        }
        if now > self.not_after() {
            return Err(AnchorError::Expired);
        }
        Ok(())
    }

    /// Whether its key signed it for `name`, at whatever time: for anchors of the past (a rotation chain).
    ///
    /// # Errors
    /// [`AnchorError::Signature`].
    pub fn verify_signature(&self, name: &Name) -> Result<(), AnchorError> {
        let signed = &self.text[..self.signed];
        let (name_len, text_len) = lengths(name, signed);
        let parts = [&[name_len][..], name.as_str().as_bytes(), &text_len, signed.as_bytes()];
        self.key.verify_parts(CONTEXT, &parts, &self.signature).map_err(|_| AnchorError::Signature)
    }

    /// The end of its life: `x`, else 400 days after `s`. It is in force up to and including this moment.
    pub fn not_after(&self) -> Timestamp {
        self.expires.unwrap_or(self.signed_at + limit::ANCHOR_LIFE)
    }

    /// Whether it says that the name is deliberately not in service (`e=.`).
    pub fn is_tombstone(&self) -> bool {
        self.endpoints.is_empty()
    }

    /// The text, one line, as it is signed and compared.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// SHA-256 of the text: how a delegation names it.
    pub fn sha256(&self) -> [u8; 32] {
        Sha256::digest(&self.text).into()
    }

    /// Life left at `now`.
    pub fn remaining(&self, now: Timestamp) -> Duration {
        self.not_after().since(now)
    }
}

impl fmt::Display for Anchor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Anchor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Anchor({})", self.text)
    }
}

/// How an anchor commits to a key that it does not show: the first 16 bytes of
/// `SHA-256("ahoy-next-v1" 0x00 key)`.
pub fn commitment(next: &PublicKey) -> [u8; 16] {
    let hash: [u8; 32] =
        Sha256::new_with_prefix(NEXT_CONTEXT).chain_update(next.as_bytes()).finalize().into();
    std::array::from_fn(|i| hash[i])
}

fn lengths(name: &Name, signed: &str) -> (u8, [u8; 2]) {
    let name = u8::try_from(name.as_str().len()).expect("a name has at most 247 bytes");
    let text = u16::try_from(signed.len()).expect("an anchor has at most 1000 characters");
    (name, text.to_be_bytes())
}

/// Why a text is not a usable anchor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum AnchorError {
    /// No anchor among the records.
    #[error("there is no Ahoy record")]
    None,
    /// Some other TXT record.
    #[error("not an Ahoy record: it does not begin with `v=ahoy1;`")]
    NotAnAnchor,
    /// More than 1000 characters.
    #[error("the record has more than {} characters", limit::ANCHOR_CHARS)]
    TooLong,
    /// A character outside printable ASCII.
    #[error("the record has a character outside printable ASCII")]
    Character,
    /// A tag is missing, empty, repeated, misplaced, or its value does not match the grammar.
    #[error("the record's `{0}=` is missing, misplaced or malformed")]
    Tag(&'static str),
    /// `k` is no usable key.
    #[error("the record's `k=` is not an ed25519 public key in base64url")]
    Key,
    /// An endpoint in `e` is malformed, or there are more than four.
    #[error("the record's `e=` must be `.` or one to four of host[:port[/priority[/weight]]]")]
    Endpoint,
    /// An upper-case tag that is not known here.
    #[error("the record has a critical tag that is not known here")]
    Critical,
    /// Wrongly signed, or signed for another name.
    #[error("the record's signature does not verify for this name")]
    Signature,
    /// `s` is more than 24 hours ahead.
    #[error("the record says that it was signed in the future")]
    FromTheFuture,
    /// Past its life.
    #[error("the record has expired")]
    Expired,
}

impl AnchorError {
    /// The requirement that is broken.
    pub fn rule(self) -> &'static str {
        match self {
            Self::None | Self::NotAnAnchor => "NAME-ANCHOR-01",
            Self::TooLong => "NAME-ANCHOR-02",
            Self::Character => "NAME-ANCHOR-03",
            Self::Tag(_) => "NAME-ANCHOR-04",
            Self::Key => "NAME-ANCHOR-05",
            Self::Endpoint => "NAME-ANCHOR-06",
            Self::Critical => "NAME-ANCHOR-07",
            Self::Signature => "NAME-ANCHOR-08",
            Self::FromTheFuture => "NAME-ANCHOR-09",
            Self::Expired => "NAME-ANCHOR-10",
        }
    }
}

impl From<AnchorError> for Fault {
    fn from(e: AnchorError) -> Self {
        let code = match e {
            AnchorError::None | AnchorError::NotAnAnchor => ErrorCode::NotOnNetwork,
            AnchorError::Expired => ErrorCode::AnchorExpired,
            _ => ErrorCode::BadRecord,
        };
        Fault::new(code, e.to_string())
    }
}
