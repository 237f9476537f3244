//! What a resolution answers: who a name is, how far that was verified, where it is, and every step.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use ahoy_proto::anchor::Anchor;
use ahoy_proto::card::VerifiedCard;
use ahoy_proto::key::PublicKey;
use ahoy_proto::name::Name;
use ahoy_proto::time::Timestamp;
use serde::Serialize;

use crate::error::ResolveError;

/// How far a name was verified. There is no lower level: anything else is a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Not validated now, but its key is the one known for it, and its card is fresh.
    Continuity,
    /// Every record used is DNSSEC-secure, and the pin rules hold.
    Secure,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Continuity => "Continuity",
            Self::Secure => "Secure",
        })
    }
}

/// A place to connect to, in the order to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedEndpoint {
    /// DNS host name; the SNI.
    pub host: String,
    /// UDP port.
    pub port: u16,
    /// Lower is tried first.
    pub priority: u16,
    /// Share among equals of priority.
    pub weight: u16,
    /// Where the host is now; may be empty when its look-up failed.
    pub addrs: Vec<SocketAddr>,
}

/// Something that its owner or the operator should know although the name is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warning {
    /// DNS has been bogus for more than an hour.
    DnsBogus {
        /// Since when.
        since: Timestamp,
    },
    /// DNS does not answer; the last good record is used.
    DnsUnavailable,
    /// The published record is older than the one known; that one is used. A rollback?
    OlderRecord,
    /// The published record is not valid; the last good one is used.
    BadRecord(String),
    /// The record is gone from DNS; the last good one is used for now.
    Withdrawn {
        /// Since when.
        since: Timestamp,
    },
    /// The record is past its date.
    Expired,
    /// The record commits to another next key than the one known for this key; not believed.
    CommitmentChanged,
    /// No endpoint answers; the last card, still in force, is used.
    PeerDown(String),
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DnsBogus { since } => write!(f, "DNS has not validated since {since}"),
            Self::DnsUnavailable => f.write_str("DNS does not answer; the last good record is used"),
            Self::OlderRecord => {
                f.write_str("DNS shows an older record than the one known; the known one is used")
            }
            Self::BadRecord(detail) => write!(f, "the published record is not valid: {detail}"),
            Self::Withdrawn { since } => write!(f, "the record is gone from DNS since {since}"),
            Self::Expired => f.write_str("the record is past its date"),
            Self::CommitmentChanged => {
                f.write_str("the record commits to another next key; the known record is used")
            }
            Self::PeerDown(detail) => write!(f, "no endpoint answers, the last card is used: {detail}"),
        }
    }
}

/// One step of a resolution, for `explain`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Microseconds from the start of the resolution to the start of this step.
    pub at_us: u64,
    /// Microseconds that it took.
    pub took_us: u64,
    /// What was done, e.g. `TXT _ahoy.bank.example`.
    pub what: String,
    /// What came of it.
    pub outcome: String,
}

/// A name that is believed.
#[derive(Clone, Debug)]
pub struct Resolution {
    /// Who.
    pub name: Name,
    /// The key of the name, `k`.
    pub key: PublicKey,
    /// How far it was verified.
    pub level: Level,
    /// The anchor that the card rests on.
    pub anchor: Anchor,
    /// Where to connect, in the order to try; never empty.
    pub endpoints: Vec<ResolvedEndpoint>,
    /// The verified card.
    pub card: VerifiedCard,
    /// The end of the card's life; nothing that rests on this may outlive it.
    pub not_after: Timestamp,
    /// When the key was first seen here.
    pub first_seen: Timestamp,
    /// What to tell people.
    pub warnings: Vec<Warning>,
    /// How it was found.
    pub steps: Vec<Step>,
}

/// Every step of one resolution and what came of it.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// Who was asked for.
    pub name: Name,
    /// The answer or the refusal.
    pub outcome: Result<Arc<Resolution>, ResolveError>,
    /// How it was found, whichever it is.
    pub steps: Vec<Step>,
}
