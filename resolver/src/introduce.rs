//! The DNS half of a resolution: from a name to the anchors at `_ahoy.<name>`, aliases followed by hand.

use std::collections::HashSet;
use std::time::Duration;

use ahoy_proto::anchor::{self, Anchor, AnchorError};
use ahoy_proto::name::Name;
use ahoy_proto::time::Timestamp;
use bytes::Bytes;
use tokio::time::{Instant, timeout_at};

use crate::trail::Trail;
use crate::view::{DnsAnswer, DnsFault, DnsView, Found, Standing};

/// Aliases that are followed `[NAME-ANCHOR-13]`.
pub(crate) const MAX_ALIASES: usize = 8;
/// For how long after its end a secure record still introduces a stranger `[NAME-LEVEL-06]`.
pub(crate) const EXPIRY_GRACE: Duration = Duration::from_secs(30 * 86_400);

/// What DNS says about a name.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Heard {
    /// One or two anchors, newest first; `expired`: past their date, within the grace.
    Anchors { anchors: Vec<Anchor>, expired: bool, standing: Standing, ttl: u32 },
    /// A record that wants to be an anchor but is not usable.
    Invalid(AnchorError),
    /// Nothing, or only foreign text.
    Absent { standing: Standing, foreign: bool, ttl: u32 },
    /// No answer that may be used.
    Fault(DnsFault),
}

/// Asks DNS, until `deadline`.
pub(crate) async fn introduce(
    view: &dyn DnsView,
    name: &Name,
    now: Timestamp,
    deadline: Instant,
    trail: &mut Trail,
) -> Heard {
    let mut owner = name.anchor_owner();
    let mut seen = HashSet::new();
    let (mut standing, mut ttl) = (Standing::Secure, u32::MAX);
    for _ in 0..=MAX_ALIASES {
        let since = Instant::now();
        let asked = timeout_at(deadline, view.text(&owner)).await;
        let answer = asked.unwrap_or_else(|_| Err(DnsFault::Unavailable("no answer in time".into())));
        trail.add(since, format!("TXT {owner}"), describe(&answer));
        let answer = match answer {
            Ok(answer) => answer,
            Err(fault) => return Heard::Fault(fault),
        };
        standing = standing.and(answer.standing);
        ttl = ttl.min(answer.ttl);
        match answer.found {
            Found::Text(records) => return read(name, &records, standing, ttl, now, trail),
            Found::Nothing => {
                return Heard::Absent { standing, foreign: false, ttl };
            }
            Found::Alias(target) => {
                if !seen.insert(owner) {
                    return Heard::Fault(DnsFault::Unavailable("the aliases form a loop".into()));
                }
                owner = target;
            }
        }
    }
    Heard::Fault(DnsFault::Unavailable(format!("more than {MAX_ALIASES} aliases")))
}

fn read(
    name: &Name,
    records: &[Vec<Bytes>],
    standing: Standing,
    ttl: u32,
    now: Timestamp,
    trail: &mut Trail,
) -> Heard {
    let since = Instant::now();
    let selected = anchor::select(name, records, now);
    match &selected {
        Ok(anchors) => {
            let newest = &anchors[0];
            trail.add(since, "anchor", format!("valid, key {}, signed {}", newest.key, newest.signed_at));
        }
        Err(error) => trail.add(since, "anchor", error),
    }
    let anchors = |anchors, expired| Heard::Anchors { anchors, expired, standing, ttl };
    match selected {
        Ok(usable) => anchors(usable, false),
        Err(AnchorError::None) => Heard::Absent { standing, foreign: true, ttl },
        Err(AnchorError::Expired) => match lately_expired(name, records, now) {
            Some(old) => anchors(vec![old], true),
            None => Heard::Invalid(AnchorError::Expired),
        },
        Err(error) => Heard::Invalid(error),
    }
}

/// The newest anchor that was valid until less than the grace ago.
fn lately_expired(name: &Name, records: &[Vec<Bytes>], now: Timestamp) -> Option<Anchor> {
    records
        .iter()
        .take(ahoy_proto::limit::ANCHOR_CANDIDATES)
        .filter_map(|record| Anchor::parse(&String::from_utf8_lossy(&record.concat())).ok())
        .filter(|anchor| now <= anchor.not_after() + EXPIRY_GRACE)
        .filter(|anchor| anchor.verify(name, anchor.not_after().min(now)).is_ok())
        .max_by_key(|anchor| anchor.signed_at)
}

fn describe(answer: &Result<DnsAnswer, DnsFault>) -> String {
    let answer = match answer {
        Ok(answer) => answer,
        Err(fault) => return fault.to_string(),
    };
    let found = match &answer.found {
        Found::Text(records) => format!("{} text record(s)", records.len()),
        Found::Alias(target) => format!("alias of {target}"),
        Found::Nothing => "nothing".into(),
    };
    let standing = match answer.standing {
        Standing::Secure => "secure",
        Standing::Insecure => "insecure",
    };
    format!("{found}, {standing}, TTL {} s", answer.ttl)
}
