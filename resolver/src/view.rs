//! What the resolver asks of DNS: one owner's text records, and a host's addresses.
//!
//! A view answers for the one owner that was asked about. It never follows an alias for text
//! records: the resolver does that itself, so that it can AND the standing of every hop
//! `[NAME-LEVEL-01]`.

use std::net::IpAddr;

use bytes::Bytes;
use futures_util::future::BoxFuture;

/// How far an answer was proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Every record used validates up to a trust anchor; for a denial, without an NSEC3 opt-out span.
    Secure,
    /// Provably outside the signed tree, or a denial that an opt-out span weakens.
    Insecure,
}

impl Standing {
    /// The weaker of the two: a chain is as good as its worst link.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Secure, Self::Secure) => Self::Secure,
            _ => Self::Insecure,
        }
    }
}

/// What stands at an owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// The TXT records; of each, its character-strings in order.
    Text(Vec<Vec<Bytes>>),
    /// A CNAME: look there.
    Alias(String),
    /// No such owner, or none of its records is text.
    Nothing,
}

/// An answer that is not bogus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsAnswer {
    /// What stands at the owner.
    pub found: Found,
    /// How far it was proven.
    pub standing: Standing,
    /// Seconds it may be remembered, as published (for a denial, its negative TTL).
    pub ttl: u32,
}

/// Why there is no answer. Never to be read as "unsigned" or "not there".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DnsFault {
    /// Validation failed, or a validating server says so (SERVFAIL).
    #[error("bogus: {0}")]
    Bogus(String),
    /// No answer in time, refused, or no server reachable.
    #[error("unavailable: {0}")]
    Unavailable(String),
}

/// One vantage point on DNS.
pub trait DnsView: Send + Sync {
    /// The text records at `owner` (absolute, without trailing dot), or the alias that stands there.
    fn text<'a>(&'a self, owner: &'a str) -> BoxFuture<'a, Result<DnsAnswer, DnsFault>>;

    /// The IPv4 and IPv6 addresses of `host`. Needs no DNSSEC: the card authenticates whoever answers
    /// there. An empty list means that the host has none.
    fn addresses<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Result<Vec<IpAddr>, DnsFault>>;
}
