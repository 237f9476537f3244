//! Proves a name's absence with the right NSEC records.
//!
//! hickory-server 0.26.3 proves that the parent of the missing name does not exist, not that no wildcard
//! at the closest encloser does (RFC 4035 section 3.1.3.2): its denials of names two labels below an
//! existing one do not validate. Everything else is hickory's.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use hickory_proto::rr::{LowerName, Name, RecordSet, RecordType, RrKey, TSigResponseContext};
use hickory_server::dnssec::NxProofKind;
use hickory_server::server::{Request, RequestInfo};
use hickory_server::zone_handler::{
    AuthLookup, AxfrPolicy, LookupControlFlow, LookupOptions, LookupRecords, Nsec3QueryInfo, ZoneHandler,
    ZoneType,
};

use super::sign::BuiltZone;

pub(super) struct ProvingZone(pub(super) BuiltZone);

type Sets = BTreeMap<RrKey, Arc<RecordSet>>;

/// The NSEC record at or before `name` in canonical order.
fn covering(sets: &Sets, name: &LowerName) -> Option<Arc<RecordSet>> {
    sets.iter()
        .rev()
        .find(|(key, _)| key.record_type == RecordType::NSEC && key.name() <= name)
        .map(|(_, set)| set.clone())
}

/// The longest ancestor of `name` that exists, empty ones included.
fn closest_encloser(sets: &Sets, origin: &LowerName, name: &LowerName) -> LowerName {
    let mut candidate = name.base_name();
    while candidate != *origin && origin.zone_of(&candidate) {
        if sets.keys().any(|key| candidate.zone_of(key.name())) {
            return candidate;
        }
        candidate = candidate.base_name();
    }
    origin.clone()
}

#[async_trait]
impl ZoneHandler for ProvingZone {
    fn zone_type(&self) -> ZoneType {
        self.0.zone_type()
    }

    fn axfr_policy(&self) -> AxfrPolicy {
        self.0.axfr_policy()
    }

    fn origin(&self) -> &LowerName {
        self.0.origin()
    }

    async fn lookup(
        &self,
        name: &LowerName,
        kind: RecordType,
        info: Option<&RequestInfo<'_>>,
        options: LookupOptions,
    ) -> LookupControlFlow<AuthLookup> {
        self.0.lookup(name, kind, info, options).await
    }

    async fn search(
        &self,
        request: &Request,
        options: LookupOptions,
    ) -> (LookupControlFlow<AuthLookup>, Option<TSigResponseContext>) {
        self.0.search(request, options).await
    }

    async fn nsec_records(&self, name: &LowerName, options: LookupOptions) -> LookupControlFlow<AuthLookup> {
        let sets = self.0.records().await;
        let mut proofs: Vec<Arc<RecordSet>> = covering(&sets, name).into_iter().collect();
        let matches = proofs.first().is_some_and(|set| LowerName::from(set.name()) == *name);
        if !matches {
            let encloser = Name::from(closest_encloser(&sets, self.origin(), name));
            if let Ok(wildcard) = encloser.prepend_label("*") {
                proofs.extend(covering(&sets, &LowerName::from(wildcard)));
            }
            proofs.dedup();
        }
        LookupControlFlow::Continue(Ok(LookupRecords::many(options, proofs).into()))
    }

    async fn nsec3_records(
        &self,
        info: Nsec3QueryInfo<'_>,
        options: LookupOptions,
    ) -> LookupControlFlow<AuthLookup> {
        self.0.nsec3_records(info, options).await
    }

    fn nx_proof_kind(&self) -> Option<&NxProofKind> {
        self.0.nx_proof_kind()
    }
}
