//! The rules of belief, as one pure function: what DNS says, what is pinned, what the clock shows.
//!
//! Rotation, hold-downs and corroboration are not decided here yet: where they would apply, the name
//! is refused (`KeyMismatch`, `NotSecure`).

use std::time::Duration;

use ahoy_proto::anchor::{Anchor, AnchorError};
use ahoy_proto::base64url;
use ahoy_proto::name::Name;
use ahoy_proto::time::Timestamp;

use crate::error::ResolveError;
use crate::introduce::Heard;
use crate::pin::Pin;
use crate::resolution::{Level, Warning};
use crate::view::{DnsFault, Standing};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// A record is remembered at least and at most this long, whatever its TTL `[NAME-ANCHOR-14]`.
const TTL_MIN: Duration = MINUTE;
const TTL_MAX: Duration = DAY;
const REFUSAL_HOLD: Duration = Duration::from_secs(300);
const BOGUS_HOLD: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(300));
const SILENCE_HOLD: (Duration, Duration) = (Duration::from_secs(5), MINUTE);
/// A known name works this long on its last record while DNS is silent (RFC 8767).
const STALE: Duration = Duration::from_secs(3 * 86_400);
const ABSENT_RECHECK: Duration = Duration::from_secs(900);
const BOGUS_WARNING: Duration = HOUR;

/// How long an outcome is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    /// This long.
    For(Duration),
    /// The first time this long, then doubling up to the second.
    Doubling(Duration, Duration),
}

/// Anchors to believe, newest first (two during a rotation), all of the same standing.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Belief {
    pub(crate) anchors: Vec<Anchor>,
    pub(crate) level: Level,
    pub(crate) warnings: Vec<Warning>,
}

/// The outcome of the DNS half.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Verdict {
    pub(crate) belief: Result<Belief, ResolveError>,
    pub(crate) hold: Hold,
    /// The pin as it should be now; `None` for a stranger.
    pub(crate) pin: Option<Pin>,
}

/// Decides. `known` is the pin with its anchor read.
pub(crate) fn judge(name: &Name, heard: Heard, known: Option<(Pin, Anchor)>, now: Timestamp) -> Verdict {
    match known {
        Some((pin, stored)) => Known { name, pin, stored, now }.judge(heard),
        None => {
            let (belief, hold) = stranger(name, heard);
            Verdict { belief, hold, pin: None }
        }
    }
}

fn clamp(ttl: u32) -> Hold {
    Hold::For(Duration::from_secs(ttl.into()).clamp(TTL_MIN, TTL_MAX))
}

/// How long "not on the network" is remembered `[NAME-LEVEL-07]`.
fn absent_hold(standing: Standing, foreign: bool, ttl: u32) -> Hold {
    let longest = match (standing, foreign) {
        (Standing::Secure, false) => HOUR,
        _ => Duration::from_secs(900),
    };
    Hold::For(Duration::from_secs(ttl.into()).clamp(TTL_MIN, longest))
}

/// A name without a pin: only a fully validated record introduces it `[NAME-LEVEL-02]`.
fn stranger(name: &Name, heard: Heard) -> (Result<Belief, ResolveError>, Hold) {
    let name = name.to_string();
    let no_detail = String::new;
    match heard {
        Heard::Anchors { anchors, expired, standing: Standing::Secure, ttl } => {
            let warnings = if expired { vec![Warning::Expired] } else { Vec::new() };
            let belief = Belief { anchors, level: Level::Secure, warnings };
            (Ok(belief), clamp(ttl))
        }
        Heard::Anchors { standing: Standing::Insecure, expired: true, .. } => refuse_expired(name),
        Heard::Anchors { .. } => {
            let detail = no_detail();
            (Err(ResolveError::NotSecure { name, detail }), Hold::For(REFUSAL_HOLD))
        }
        Heard::Invalid(AnchorError::Expired) => refuse_expired(name),
        Heard::Invalid(error) => {
            let detail = error.to_string();
            (Err(ResolveError::BadRecord { name, detail }), Hold::For(REFUSAL_HOLD))
        }
        Heard::Absent { standing, foreign, ttl } => {
            let detail = if foreign { "only other text records".into() } else { no_detail() };
            (Err(ResolveError::NotOnNetwork { name, detail }), absent_hold(standing, foreign, ttl))
        }
        Heard::Fault(DnsFault::Bogus(detail)) => {
            (Err(ResolveError::DnsBogus { name, detail }), Hold::Doubling(BOGUS_HOLD.0, BOGUS_HOLD.1))
        }
        Heard::Fault(DnsFault::Unavailable(detail)) => (
            Err(ResolveError::DnsUnavailable { name, detail }),
            Hold::Doubling(SILENCE_HOLD.0, SILENCE_HOLD.1),
        ),
    }
}

fn refuse_expired(name: String) -> (Result<Belief, ResolveError>, Hold) {
    let detail = String::new();
    (Err(ResolveError::AnchorExpired { name, detail }), Hold::For(REFUSAL_HOLD))
}

struct Known<'a> {
    name: &'a Name,
    pin: Pin,
    stored: Anchor,
    now: Timestamp,
}

impl Known<'_> {
    fn judge(mut self, heard: Heard) -> Verdict {
        if !matches!(heard, Heard::Fault(DnsFault::Bogus(_))) {
            self.pin.bogus_since = None;
        }
        if !matches!(heard, Heard::Absent { .. } | Heard::Fault(_)) {
            self.pin.absent_since = None;
        }
        match heard {
            Heard::Anchors { anchors, expired, standing, ttl } => {
                self.published(&anchors, expired, standing, ttl)
            }
            Heard::Invalid(AnchorError::Expired) => self.last_good(Warning::Expired, Hold::For(REFUSAL_HOLD)),
            Heard::Invalid(error) => {
                self.last_good(Warning::BadRecord(error.to_string()), Hold::For(REFUSAL_HOLD))
            }
            Heard::Absent { standing, .. } => self.absent(standing),
            Heard::Fault(DnsFault::Bogus(_)) => self.bogus(),
            Heard::Fault(DnsFault::Unavailable(detail)) => self.silent(detail),
        }
    }

    /// A published record counts when its key is the pinned one `[NAME-LEVEL-03]`.
    fn published(mut self, anchors: &[Anchor], expired: bool, standing: Standing, ttl: u32) -> Verdict {
        let Some(own) = anchors.iter().find(|anchor| anchor.key == self.stored.key) else {
            let detail = format!("known key {}, published key {}", self.stored.key, anchors[0].key);
            let name = self.name.to_string();
            return self.refuse(ResolveError::KeyMismatch { name, detail }, Hold::For(REFUSAL_HOLD));
        };
        if own.signed_at < self.stored.signed_at {
            return self.last_good(Warning::OlderRecord, clamp(ttl));
        }
        if let Some(pinned) = &self.pin.next
            && own.next.map(|next| base64url::encode(&next)).as_ref() != Some(pinned)
        {
            return self.last_good(Warning::CommitmentChanged, Hold::For(REFUSAL_HOLD));
        }
        if standing == Standing::Secure && self.pin.next.is_none() {
            self.pin.next = own.next.map(|next| base64url::encode(&next));
        }
        self.pin.anchor = own.text().to_owned();
        self.pin.confirmed = self.now.as_millis();
        let (level, warnings) = match (standing, expired) {
            (Standing::Secure, false) => (Level::Secure, Vec::new()),
            (Standing::Insecure, false) => (Level::Continuity, Vec::new()),
            (_, true) => (Level::Continuity, vec![Warning::Expired]),
        };
        let belief = Belief { anchors: vec![own.clone()], level, warnings };
        self.believe(belief, clamp(ttl))
    }

    /// Gone: believed for a while yet, because a zone is quickly broken `[NAME-LEVEL-08]`.
    fn absent(mut self, standing: Standing) -> Verdict {
        let since = *self.pin.absent_since.get_or_insert(self.now.as_millis());
        let gone_for = self.now.since(Timestamp::from_millis(since));
        let patience = match standing {
            Standing::Secure => ABSENT_RECHECK,
            Standing::Insecure => DAY,
        };
        if gone_for >= patience {
            let (name, detail) = (self.name.to_string(), "its record was withdrawn".into());
            return self.refuse(ResolveError::NotOnNetwork { name, detail }, Hold::For(ABSENT_RECHECK));
        }
        let since = Timestamp::from_millis(since);
        self.last_good(Warning::Withdrawn { since }, Hold::For(ABSENT_RECHECK))
    }

    /// Bogus is "unusable now", never "unsigned": the last good record stands `[NAME-LEVEL-04]`.
    fn bogus(mut self) -> Verdict {
        let since = Timestamp::from_millis(*self.pin.bogus_since.get_or_insert(self.now.as_millis()));
        let hold = Hold::Doubling(BOGUS_HOLD.0, BOGUS_HOLD.1);
        if self.now.since(since) >= BOGUS_WARNING {
            return self.last_good(Warning::DnsBogus { since }, hold);
        }
        self.on_stored(Vec::new(), hold)
    }

    /// Silence: the last good record for three days `[NAME-LEVEL-05]`.
    fn silent(self, detail: String) -> Verdict {
        let hold = Hold::Doubling(SILENCE_HOLD.0, SILENCE_HOLD.1);
        if self.now.since(Timestamp::from_millis(self.pin.confirmed)) > STALE {
            let name = self.name.to_string();
            return self.refuse(ResolveError::DnsUnavailable { name, detail }, hold);
        }
        self.last_good(Warning::DnsUnavailable, hold)
    }

    fn last_good(self, warning: Warning, hold: Hold) -> Verdict {
        self.on_stored(vec![warning], hold)
    }

    fn on_stored(self, warnings: Vec<Warning>, hold: Hold) -> Verdict {
        let belief = Belief { anchors: vec![self.stored.clone()], level: Level::Continuity, warnings };
        self.believe(belief, hold)
    }

    fn believe(self, belief: Belief, hold: Hold) -> Verdict {
        Verdict { belief: Ok(belief), hold, pin: Some(self.pin) }
    }

    fn refuse(self, error: ResolveError, hold: Hold) -> Verdict {
        Verdict { belief: Err(error), hold, pin: Some(self.pin) }
    }
}
