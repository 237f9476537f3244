//! What the homeserver counts, in Prometheus' terms.
//!
//! Labels have few values, and none that a stranger chooses: a name in a label would be unbounded memory.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::store::{Stats, Store};

/// Who is at the other end: `device`, `service`, `homeserver`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Peer {
    /// The role, in lower case.
    pub role: &'static str,
}

/// How something ended: `ok`, or the name of an error code or hang-up reason.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Outcome {
    /// A word of a closed list.
    pub outcome: &'static str,
}

/// What was done, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Operation {
    /// A word of a closed list: `submit`, `sync`.
    pub operation: &'static str,
    /// `ok` or the name of an error code.
    pub outcome: &'static str,
}

/// The homeserver's counters. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Authenticated connections that are open.
    pub connections: Family<Peer, Gauge>,
    /// Handshakes by outcome.
    pub handshakes: Family<Outcome, Counter>,
    /// Requests and streams by kind and outcome.
    pub requests: Family<Operation, Counter>,
    /// Events placed in conversations whose hub is here.
    pub events_placed: Counter,
    /// Items delivered to other homeservers and acknowledged by them.
    pub items_delivered: Counter,
    /// Items that wait for other homeservers.
    pub items_queued: Gauge,
    /// Seconds from submission to placement, as the origin saw it.
    pub placement_seconds: PlacementSeconds,
    /// Calls that are alive.
    pub calls: Gauge,
    /// Calls that ended, by reason.
    pub calls_ended: Family<Outcome, Counter>,
    /// Resolutions of names by outcome.
    pub resolutions: Family<Outcome, Counter>,
}

/// A histogram from 1 ms to 2 min.
#[derive(Clone, Debug)]
pub struct PlacementSeconds(pub Histogram);

impl Default for PlacementSeconds {
    fn default() -> Self {
        Self(Histogram::new(exponential_buckets(0.001, 2.0, 18)))
    }
}

impl Metrics {
    /// The registry that `/metrics` shows: these, and the figures of `store`.
    pub fn registry(&self, store: Arc<dyn Store>) -> Registry {
        let mut registry = Registry::with_prefix("ahoyd");
        registry.register("connections", "Authenticated connections that are open", self.connections.clone());
        registry.register("handshakes", "Handshakes by outcome", self.handshakes.clone());
        registry.register("requests", "Requests and streams by kind and outcome", self.requests.clone());
        registry.register("events_placed", "Events placed by this hub", self.events_placed.clone());
        registry.register(
            "items_delivered",
            "Items acknowledged by other homeservers",
            self.items_delivered.clone(),
        );
        registry.register("items_queued", "Items that wait for other homeservers", self.items_queued.clone());
        registry.register(
            "placement_seconds",
            "From submission to placement",
            self.placement_seconds.0.clone(),
        );
        registry.register("calls", "Calls that are alive", self.calls.clone());
        registry.register("calls_ended", "Calls that ended, by reason", self.calls_ended.clone());
        registry.register("resolutions", "Resolutions of names by outcome", self.resolutions.clone());
        registry.register_collector(Box::new(StoreFigures(store)));
        registry
    }
}

struct StoreFigures(Arc<dyn Store>);

impl fmt::Debug for StoreFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoreFigures")
    }
}

impl Collector for StoreFigures {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let Stats { commits, conflicts, groups, write_micros, bytes, waiting_kib } = self.0.stats();
        let counters = [
            ("store_commits", "Durable commits", commits),
            ("store_conflicts", "Commits refused by a precondition", conflicts),
            ("store_groups", "Groups of commits, one sync of the disk each", groups),
            ("store_write_microseconds", "Time spent writing and syncing groups", write_micros),
            ("store_bytes", "Bytes of keys and values in durable commits", bytes),
        ];
        for (name, help, value) in counters {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter_type())?)?;
        }
        let waiting = ConstGauge::new(i64::try_from(waiting_kib).unwrap_or(i64::MAX));
        let help = "KiB of batches that wait to be committed";
        waiting.encode(encoder.encode_descriptor("store_waiting_kib", help, None, gauge_type())?)
    }
}

fn counter_type() -> prometheus_client::metrics::MetricType {
    <Counter<u64, AtomicU64> as prometheus_client::metrics::TypedMetric>::TYPE
}

fn gauge_type() -> prometheus_client::metrics::MetricType {
    <Gauge as prometheus_client::metrics::TypedMetric>::TYPE
}
