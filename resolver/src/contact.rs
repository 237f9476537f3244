//! The card half of a resolution: endpoints in their order, a fresh card from the first that can prove
//! to be the name.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ahoy_proto::anchor::{Anchor, AnchorEndpoint};
use ahoy_proto::card::{CardSource, FetchedCard, VerifiedCard, verify_card};
use ahoy_proto::name::Name;
use ahoy_proto::time::Timestamp;
use futures_util::future::join_all;
use tokio::time::{Instant, timeout, timeout_at};

use crate::error::ResolveError;
use crate::resolution::ResolvedEndpoint;
use crate::trail::Trail;
use crate::view::DnsView;

/// Time for one address to answer, so that a dead one leaves time for the next.
const ATTEMPT: Duration = Duration::from_millis(1500);
/// Addresses of one host that are tried.
const ADDRESSES_TRIED: usize = 4;

/// What is needed to reach a name whose anchors are believed.
pub(crate) struct Contact<'a> {
    pub(crate) view: &'a dyn DnsView,
    pub(crate) cards: &'a dyn CardSource,
    pub(crate) name: &'a Name,
    /// Believed anchors, newest first.
    pub(crate) anchors: &'a [Anchor],
    /// A card with a lower `seq` is a replay.
    pub(crate) least_seq: u64,
    /// Where the hosts were last time, for when DNS is broken.
    pub(crate) known_hosts: &'a HashMap<String, Vec<IpAddr>>,
    pub(crate) now: Timestamp,
    pub(crate) deadline: Instant,
}

/// A card that its sender may show, and where everything is.
pub(crate) struct Reached {
    pub(crate) card: VerifiedCard,
    pub(crate) endpoints: Vec<ResolvedEndpoint>,
    pub(crate) hosts: HashMap<String, Vec<IpAddr>>,
}

impl Contact<'_> {
    /// Tries the anchors' endpoints until one shows an authentic card `[NAME-CARD-07]`.
    pub(crate) async fn reach(&self, trail: &mut Trail) -> Result<Reached, ResolveError> {
        let mut hosts = HashMap::new();
        let mut failures = Failures::default();
        let all: Vec<AnchorEndpoint> = self.anchors.iter().flat_map(|a| a.endpoints.clone()).collect();
        for endpoint in in_order(&all, self.now) {
            for ip in self.host(endpoint.host(), &mut hosts, trail).await.iter().take(ADDRESSES_TRIED) {
                let addr = SocketAddr::new(*ip, endpoint.port());
                match self.card_from(endpoint.host(), addr, &mut failures, trail).await {
                    Some(card) => return Ok(self.complete(card, hosts, trail).await),
                    None if Instant::now() >= self.deadline => return Err(failures.into_error(self.name)),
                    None => {}
                }
            }
        }
        Err(failures.into_error(self.name))
    }

    async fn card_from(
        &self,
        host: &str,
        addr: SocketAddr,
        failures: &mut Failures,
        trail: &mut Trail,
    ) -> Option<VerifiedCard> {
        let since = Instant::now();
        let what = format!("card from {host} {addr}");
        let left = self.deadline.saturating_duration_since(since).min(ATTEMPT);
        let fetched = match timeout(left, self.cards.fetch(self.name, host, addr)).await {
            Ok(Ok(fetched)) => fetched,
            Ok(Err(error)) => {
                trail.add(since, what, &error);
                failures.unreachable.push(format!("{addr}: {error}"));
                return None;
            }
            Err(_) => {
                trail.add(since, what, "no answer in time");
                failures.unreachable.push(format!("{addr}: no answer in time"));
                return None;
            }
        };
        match self.authenticate(&fetched) {
            Ok(card) => {
                trail.add(since, what, format!("authentic, seq {}, until {}", card.seq, card.not_after));
                Some(card)
            }
            Err(reason) => {
                trail.add(since, what, &reason);
                failures.not_authentic.push(format!("{addr}: {reason}"));
                None
            }
        }
    }

    /// The card must be the name's under a believed anchor, list the TLS key seen, and not be older
    /// than the one known.
    fn authenticate(&self, fetched: &FetchedCard) -> Result<VerifiedCard, String> {
        let mut refusal = String::from("no anchor to judge it by");
        for anchor in self.anchors {
            match verify_card(&fetched.signed, self.name, anchor, self.now) {
                Ok(card) if !card.lists_tls(&fetched.spki) => {
                    return Err("its TLS key is not in its card".into());
                }
                Ok(card) if card.seq < self.least_seq => {
                    return Err(format!("its card has seq {}, below the known {}", card.seq, self.least_seq));
                }
                Ok(card) => return Ok(card),
                Err(error) => refusal = error.to_string(),
            }
        }
        Err(refusal)
    }

    /// Adds the addresses of the card's own endpoints, in the order to try.
    async fn complete(
        &self,
        card: VerifiedCard,
        mut hosts: HashMap<String, Vec<IpAddr>>,
        trail: &mut Trail,
    ) -> Reached {
        let mut missing: Vec<&str> = card.reach().iter().map(AnchorEndpoint::host).collect();
        missing.sort_unstable();
        missing.dedup();
        missing.retain(|host| !hosts.contains_key(*host));
        if !missing.is_empty() {
            let since = Instant::now();
            let found = join_all(missing.iter().map(|host| self.look_up(host))).await;
            trail.add(since, format!("A/AAAA {}", missing.join(" ")), format!("{} host(s)", found.len()));
            hosts.extend(
                missing.iter().map(|host| (*host).to_owned()).zip(found.into_iter().map(|(ips, _)| ips)),
            );
        }
        let endpoints = in_order(card.reach(), self.now)
            .into_iter()
            .map(|endpoint| {
                let ips = hosts.get(endpoint.host()).cloned().unwrap_or_default();
                ResolvedEndpoint {
                    host: endpoint.host().to_owned(),
                    port: endpoint.port(),
                    priority: endpoint.priority(),
                    weight: endpoint.weight(),
                    addrs: ips.into_iter().map(|ip| SocketAddr::new(ip, endpoint.port())).collect(),
                }
            })
            .collect();
        hosts.retain(|_, ips| !ips.is_empty());
        Reached { card, endpoints, hosts }
    }

    async fn host(
        &self,
        host: &str,
        hosts: &mut HashMap<String, Vec<IpAddr>>,
        trail: &mut Trail,
    ) -> Vec<IpAddr> {
        if let Some(ips) = hosts.get(host) {
            return ips.clone();
        }
        let since = Instant::now();
        let (ips, source) = self.look_up(host).await;
        let list: Vec<String> = ips.iter().map(IpAddr::to_string).collect();
        trail.add(since, format!("A/AAAA {host}"), format!("{} {source}", list.join(" ")));
        hosts.insert(host.to_owned(), ips.clone());
        ips
    }

    /// The addresses of `host`: from DNS, else those of last time.
    async fn look_up(&self, host: &str) -> (Vec<IpAddr>, String) {
        let limit = self.deadline.min(Instant::now() + ATTEMPT);
        let known = || self.known_hosts.get(host).cloned().unwrap_or_default();
        match timeout_at(limit, self.view.addresses(host)).await {
            Ok(Ok(ips)) => (ips, String::new()),
            Ok(Err(fault)) => (known(), format!("(DNS {fault}; those of last time)")),
            Err(_) => (known(), "(DNS silent; those of last time)".into()),
        }
    }
}

#[derive(Default)]
struct Failures {
    unreachable: Vec<String>,
    not_authentic: Vec<String>,
}

impl Failures {
    /// An impostor is worse news than a dead host.
    fn into_error(self, name: &Name) -> ResolveError {
        let name = name.to_string();
        match self.not_authentic.is_empty() {
            false => ResolveError::PeerNotAuthentic { name, detail: self.not_authentic.join("; ") },
            true if self.unreachable.is_empty() => {
                ResolveError::PeerUnreachable { name, detail: "its hosts have no addresses".into() }
            }
            true => ResolveError::PeerUnreachable { name, detail: self.unreachable.join("; ") },
        }
    }
}

/// Lowest priority first; among equals a draw by weight (RFC 2782), made from the time, because it
/// only spreads load.
fn in_order(endpoints: &[AnchorEndpoint], now: Timestamp) -> Vec<&AnchorEndpoint> {
    let mut rest: Vec<&AnchorEndpoint> = endpoints.iter().collect();
    rest.sort_by_key(|endpoint| (endpoint.priority(), endpoint.weight() != 0));
    let mut ordered = Vec::with_capacity(rest.len());
    while let Some(first) = rest.first() {
        let priority = first.priority();
        let equals = rest.iter().take_while(|endpoint| endpoint.priority() == priority).count();
        let total: u64 = rest[..equals].iter().map(|endpoint| u64::from(endpoint.weight())).sum();
        let mut hasher = DefaultHasher::new();
        (now.as_millis(), ordered.len()).hash(&mut hasher);
        let mut draw = hasher.finish() % (total + 1);
        let drawn = rest[..equals].iter().position(|endpoint| {
            let weight = u64::from(endpoint.weight());
            let hit = draw <= weight;
            draw = draw.saturating_sub(weight);
            hit
        });
        ordered.push(rest.remove(drawn.unwrap_or(0)));
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(host: &str, priority: u16, weight: u16) -> AnchorEndpoint {
        AnchorEndpoint::new(host, 2469, priority, weight).unwrap()
    }

    #[test]
    fn lower_priorities_come_first_and_weights_share_the_load() {
        let endpoints =
            [endpoint("z.example", 20, 10), endpoint("a.example", 10, 90), endpoint("b.example", 10, 10)];
        let mut first = HashMap::new();
        for ms in 0..1000 {
            let order = in_order(&endpoints, Timestamp::from_millis(ms));
            assert_eq!(order.len(), 3);
            assert_eq!(order[2].host(), "z.example");
            *first.entry(order[0].host()).or_insert(0) += 1;
        }
        assert!((820..960).contains(&first["a.example"]), "{first:?}");
    }
}
