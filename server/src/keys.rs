//! Decides whose signature an event or placement bears: one of the message keys of the name that it speaks for, at
//! the time that counts, whoever delivers it. `[EVENT-ATTEST-05]`

use std::sync::{Arc, Mutex};

use ahoy_proto::attestation::{self, Context, RootCache};
use ahoy_proto::card::VerifiedCard;
use ahoy_proto::fault::Fault;
use ahoy_proto::name::Name;
use ahoy_proto::time::Timestamp;
use ahoy_proto::v1::{self, ErrorCode};
use ahoy_resolver::{Resolution, Resolver};

use crate::checked::Checked;
use crate::house::House;
use crate::wake::lock;

/// Verified roots that are remembered.
const ROOTS: usize = 16 * 1024;

/// Judges signatures.
pub struct Keys {
    resolver: Arc<Resolver>,
    roots: Mutex<RootCache>,
}

impl Keys {
    /// Finds the keys of foreign names through `resolver`.
    pub fn new(resolver: Arc<Resolver>) -> Self {
        Self { resolver, roots: Mutex::new(RootCache::new(ROOTS)) }
    }

    /// What is known of a foreign name.
    pub async fn resolution(&self, name: &Name) -> Result<Arc<Resolution>, Fault> {
        self.resolver.resolve(name).await.map_err(|error| error.fault())
    }

    /// Whether the event's origin attested it, with a key that was good at `at`.
    pub async fn check_event(&self, house: &House, checked: &Checked, at: Timestamp) -> Result<(), Fault> {
        let Some(attestation) = &checked.event.attestation else { return Err(unsigned("the event")) };
        self.check(house, checked.origin.name(), &checked.event.body, attestation, Context::Events, at).await
    }

    /// Whether `hub` signed the placement.
    pub async fn check_placement(
        &self,
        house: &House,
        hub: &Name,
        placement: &v1::Placement,
        at: Timestamp,
    ) -> Result<(), Fault> {
        let Some(attestation) = &placement.attestation else { return Err(unsigned("the placement")) };
        self.check(house, hub, &placement.body, attestation, Context::Placements, at).await
    }

    async fn check(
        &self,
        house: &House,
        name: &Name,
        body: &[u8],
        attestation: &v1::Attestation,
        context: Context,
        at: Timestamp,
    ) -> Result<(), Fault> {
        if let Some(served) = house.names.get(name) {
            let key = served.home.desk.key.public();
            let mut roots = lock(&self.roots);
            return Ok(attestation::verify_by(body, attestation, context, &key, &mut roots)?);
        }
        let resolution = self.resolution(name).await?;
        let card: &VerifiedCard = &resolution.card;
        let mut roots = lock(&self.roots);
        Ok(attestation::verify(body, attestation, context, card, at, &mut roots)?)
    }
}

fn unsigned(what: &str) -> Fault {
    Fault::new(ErrorCode::BadAttestation, format!("{what} is not attested"))
}
