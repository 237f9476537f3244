//! Puts the homeserver's parts to work: accepts connections until told to stop.

use std::sync::Arc;

use ahoy_proto::fault::Fault;
use ahoy_proto::time::{Clock, Entropy};
use ahoy_proto::v1::ErrorCode;
use ahoy_resolver::Resolver;
use ahoy_transport::{Endpoint, Incoming};

use crate::card_book::CardBook;
use crate::config::Config;
use crate::invite::InviteKey;
use crate::lifecycle::Tasks;
use crate::metrics::{Metrics, Outcome};
use crate::store::Store;

/// What a homeserver is made of.
pub struct Parts {
    /// Names, lines, limits, policies.
    pub config: Arc<Config>,
    /// Everything that lasts.
    pub store: Arc<dyn Store>,
    /// The UDP port, accepting.
    pub endpoint: Endpoint,
    /// Finds other names.
    pub resolver: Arc<Resolver>,
    /// The served names, their keys, and their cards.
    pub cards: Arc<CardBook>,
    /// Reads invite tokens.
    pub invites: InviteKey,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub entropy: Arc<dyn Entropy>,
    /// What tasks are spawned on, with the soft and the hard token.
    pub tasks: Tasks,
    /// What is counted.
    pub metrics: Metrics,
}

/// A running homeserver.
pub struct Homeserver {
    parts: Arc<Parts>,
}

/// Starts accepting. Everything that it starts runs on `parts.tasks`.
pub async fn start(parts: Parts) -> anyhow::Result<Homeserver> {
    let parts = Arc::new(parts);
    let accepting = parts.clone();
    parts.tasks.spawn("accept", async move {
        let (soft, hard) = (accepting.tasks.soft().clone(), accepting.tasks.hard().clone());
        loop {
            let incoming = tokio::select! {
                incoming = accepting.endpoint.accept() => incoming,
                () = soft.cancelled() => return Ok(()),
            };
            let Some(incoming) = incoming else { anyhow::bail!("the UDP port was closed") };
            let (parts, hard) = (accepting.clone(), hard.clone());
            accepting.tasks.spawn("arrive", async move {
                hard.run_until_cancelled(arrive(&parts, incoming)).await;
                Ok(())
            });
        }
    });
    Ok(Homeserver { parts })
}

impl Homeserver {
    /// Returns when no call is alive.
    pub async fn idle(&self) {}

    /// Tells peers that the connections end, and closes the port.
    pub async fn close(self) {
        self.parts.endpoint.close().await;
    }
}

async fn arrive(parts: &Parts, incoming: Incoming) {
    let outcome = match incoming.greet(&*parts.cards).await {
        Ok(None) => "card",
        Ok(Some(arrived)) => {
            let fault = Fault::new(ErrorCode::Unavailable, "this homeserver serves cards alone for now");
            arrived.refuse(&fault).await;
            "refused"
        }
        Err(error) => {
            tracing::debug!(%error, "a handshake failed");
            "failed"
        }
    };
    parts.metrics.handshakes.get_or_create(&Outcome { outcome }).inc();
}
