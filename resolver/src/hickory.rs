//! The validating view: hickory's DNSSEC validator over configured servers. The only file that
//! decides what hickory's verdicts mean.
//!
//! It stands below hickory's own caching resolver on purpose: that one follows aliases by itself
//! and does not remember negative or bogus answers when it validates.

use std::collections::HashSet;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join};
use hickory_net::dnssec::DnssecDnsHandle;
use hickory_net::runtime::TokioRuntimeProvider;
use hickory_net::xfer::{DnsHandle, FirstAnswer, RetryDnsHandle};
use hickory_net::{DnsError, NetError};
use hickory_proto::dnssec::Proof;
use hickory_proto::dnssec::rdata::{DNSKEY, DNSSECRData};
use hickory_proto::op::{DnsRequestOptions, Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverOpts};
use hickory_resolver::{NameServerPool, PoolContext, TlsConfig};
use tokio::sync::OnceCell;

use crate::config::{DnsConfig, DnsConfigError, resolv_conf_servers};
use crate::trust::TrustConfig;
use crate::view::{DnsAnswer, DnsFault, DnsView, Found, Standing};

/// How long one query may take, and how often it is sent: a dead server must not eat the 5 s that
/// a whole resolution has.
const QUERY_TIMEOUT: Duration = Duration::from_millis(1500);
const QUERY_RETRIES: usize = 1;
/// Aliases of an endpoint's host that are followed.
const MAX_HOST_ALIASES: usize = 8;
/// Negative answers without an SOA: remember them this long, seconds.
const NEGATIVE_TTL: u32 = 300;

type Pool = RetryDnsHandle<NameServerPool<TokioRuntimeProvider>>;

/// A [`DnsView`] that validates by itself, through the configured servers (recursive or
/// authoritative).
pub struct HickoryView {
    pool: Pool,
    trust: TrustConfig,
    validator: OnceCell<DnssecDnsHandle<Pool>>,
}

impl HickoryView {
    /// Reads the trust anchors and prepares the connections; sends nothing yet.
    ///
    /// # Errors
    /// An unreadable or unusable trust anchor file; no server.
    pub fn new(config: &DnsConfig) -> Result<Self, DnsConfigError> {
        let trust = match &config.trust_anchor {
            Some(path) => TrustConfig::load(path)?,
            None => TrustConfig::iana(),
        };
        let servers = match config.servers.is_empty() {
            false => config.servers.clone(),
            true => resolv_conf_servers(&fs::read_to_string("/etc/resolv.conf").unwrap_or_default()),
        };
        if servers.is_empty() {
            return Err(DnsConfigError::NoServer);
        }
        let tls = TlsConfig::new().map_err(|_| DnsConfigError::NoServer)?;
        let context = Arc::new(PoolContext::new(options(), tls));
        let pool = NameServerPool::from_config(
            servers.iter().map(name_server),
            context,
            TokioRuntimeProvider::new(),
        );
        Ok(Self { pool: RetryDnsHandle::new(pool, QUERY_RETRIES), trust, validator: OnceCell::new() })
    }

    /// The validator, once the keys behind the DS lines are known.
    async fn validator(&self) -> Result<&DnssecDnsHandle<Pool>, DnsFault> {
        self.validator
            .get_or_try_init(|| async {
                let mut keys = Vec::new();
                let zones: HashSet<&Name> = self.trust.digests.iter().map(|(zone, _)| zone).collect();
                for zone in zones {
                    keys.extend(self.zone_keys(zone).await?);
                }
                let anchors = self.trust.anchors(&keys).map_err(DnsFault::Bogus)?;
                Ok(DnssecDnsHandle::with_trust_anchor(self.pool.clone(), Arc::new(anchors)))
            })
            .await
    }

    /// The DNSKEYs of `zone`, unvalidated: the DS line is what judges them.
    async fn zone_keys(&self, zone: &Name) -> Result<Vec<(Name, DNSKEY)>, DnsFault> {
        let query = Query::query(zone.clone(), RecordType::DNSKEY);
        let response = self.pool.lookup(query, request_options(true)).first_answer().await;
        let message = response.map_err(|error| fault(&error))?.into_message();
        Ok(message
            .answers
            .into_iter()
            .filter_map(|record| match record.data {
                RData::DNSSEC(DNSSECRData::DNSKEY(key)) => Some((record.name, key)),
                _ => None,
            })
            .collect())
    }

    async fn ask(&self, owner: &Name, kind: RecordType) -> Result<DnsAnswer, DnsFault> {
        let query = Query::query(owner.clone(), kind);
        let validator = self.validator().await?;
        match validator.lookup(query, request_options(true)).first_answer().await {
            Ok(response) => judge(owner, &response.into_message(), Standing::Secure),
            Err(NetError::Dns(DnsError::Nsec { response, proof, .. })) if proof.is_insecure() => {
                judge(owner, &response.into_message(), Standing::Insecure)
            }
            Err(error) => Err(fault(&error)),
        }
    }

    async fn text_or_alias(&self, owner: &str) -> Result<DnsAnswer, DnsFault> {
        let owner = parse(owner)?;
        match self.ask(&owner, RecordType::TXT).await {
            Err(DnsFault::Bogus(detail)) => {
                // hickory calls some good CNAME -> TXT answers bogus: the alias alone may validate.
                match self.ask(&owner, RecordType::CNAME).await {
                    Ok(answer) if matches!(answer.found, Found::Alias(_)) => Ok(answer),
                    _ => Err(DnsFault::Bogus(detail)),
                }
            }
            other => other,
        }
    }

    async fn host_addresses(&self, host: &Name, kind: RecordType) -> Result<Vec<IpAddr>, DnsFault> {
        let mut owner = host.clone();
        for _ in 0..=MAX_HOST_ALIASES {
            let query = Query::query(owner.clone(), kind);
            let response = self.pool.lookup(query, request_options(false)).first_answer().await;
            let message = match response {
                Ok(response) => response.into_message(),
                Err(error) if error.is_no_records_found() => return Ok(Vec::new()),
                Err(error) => return Err(fault(&error)),
            };
            match chase(&mut owner, &message.answers) {
                found if !found.is_empty() => return Ok(found),
                _ if message.answers.iter().any(|r| r.record_type() == RecordType::CNAME) => {}
                _ => return Ok(Vec::new()),
            }
        }
        Ok(Vec::new())
    }
}

impl DnsView for HickoryView {
    fn text<'a>(&'a self, owner: &'a str) -> BoxFuture<'a, Result<DnsAnswer, DnsFault>> {
        self.text_or_alias(owner).boxed()
    }

    fn addresses<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Result<Vec<IpAddr>, DnsFault>> {
        async move {
            let host = parse(host)?;
            let (v4, v6) =
                join(self.host_addresses(&host, RecordType::A), self.host_addresses(&host, RecordType::AAAA))
                    .await;
            match (v4, v6) {
                (Ok(mut v4), Ok(v6)) => {
                    v4.extend(v6);
                    Ok(v4)
                }
                (Ok(found), Err(_)) | (Err(_), Ok(found)) if !found.is_empty() => Ok(found),
                (Err(error), _) | (_, Err(error)) => Err(error),
            }
        }
        .boxed()
    }
}

fn options() -> ResolverOpts {
    let mut options = ResolverOpts::default();
    options.timeout = QUERY_TIMEOUT;
    options.attempts = QUERY_RETRIES;
    options.case_randomization = true;
    options.use_hosts_file = ResolveHosts::Never;
    options
}

fn request_options(dnssec: bool) -> DnsRequestOptions {
    let mut options = DnsRequestOptions::default();
    options.use_edns = true;
    options.edns_set_dnssec_ok = dnssec;
    options.recursion_desired = true;
    options.case_randomization = true;
    options
}

fn name_server(address: &SocketAddr) -> NameServerConfig {
    let mut server = NameServerConfig::udp_and_tcp(address.ip());
    for connection in &mut server.connections {
        let connection: &mut ConnectionConfig = connection;
        connection.port = address.port();
    }
    server
}

fn parse(name: &str) -> Result<Name, DnsFault> {
    let mut name = Name::from_ascii(name).map_err(|error| DnsFault::Unavailable(error.to_string()))?;
    name.set_fqdn(true);
    Ok(name)
}

/// What hickory's failure means: a server that says SERVFAIL may have found it bogus, so that is
/// bogus too; everything else means that nobody answered.
fn fault(error: &NetError) -> DnsFault {
    match error {
        NetError::Dns(DnsError::DnssecBogus | DnsError::Nsec { .. }) => {
            DnsFault::Bogus("DNSSEC validation failed".into())
        }
        NetError::Dns(DnsError::ResponseCode(ResponseCode::ServFail)) => {
            DnsFault::Bogus("the DNS server answers SERVFAIL".into())
        }
        other => DnsFault::Unavailable(other.to_string()),
    }
}

/// Reads a validated message; `ceiling` is the best standing that it may get.
fn judge(owner: &Name, message: &Message, ceiling: Standing) -> Result<DnsAnswer, DnsFault> {
    match message.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain => {}
        ResponseCode::ServFail => {
            return Err(DnsFault::Bogus("the DNS server answers SERVFAIL".into()));
        }
        code => return Err(DnsFault::Unavailable(format!("the DNS server answers {code}"))),
    }
    let at_owner = |kind: RecordType| -> Vec<&Record> {
        let wanted = |record: &&Record| record.name == *owner && record.record_type() == kind;
        message.answers.iter().filter(wanted).collect()
    };
    let aliases = at_owner(RecordType::CNAME);
    if let Some(RData::CNAME(target)) = aliases.first().map(|record| &record.data) {
        let target = target.0.to_ascii().trim_end_matches('.').to_ascii_lowercase();
        return positive(&aliases, Found::Alias(target), ceiling);
    }
    let texts = at_owner(RecordType::TXT);
    if texts.is_empty() {
        return negative(message, ceiling);
    }
    let records = texts.iter().filter_map(|record| match &record.data {
        RData::TXT(text) => Some(text.txt_data.iter().map(|s| Bytes::copy_from_slice(s)).collect()),
        _ => None,
    });
    positive(&texts, Found::Text(records.collect()), ceiling)
}

fn positive(records: &[&Record], found: Found, ceiling: Standing) -> Result<DnsAnswer, DnsFault> {
    let mut standing = ceiling;
    for record in records {
        standing = standing.and(match record.proof {
            Proof::Secure => Standing::Secure,
            Proof::Insecure => Standing::Insecure,
            // Indeterminate means that nothing validated it: never better than bogus.
            Proof::Bogus | Proof::Indeterminate => {
                return Err(DnsFault::Bogus("a record's signature does not validate".into()));
            }
        });
    }
    let ttl = records.iter().map(|record| record.ttl).min().unwrap_or(NEGATIVE_TTL);
    Ok(DnsAnswer { found, standing, ttl })
}

/// A denial is secure when hickory verified NSEC or NSEC3 records for it (it returns an error
/// otherwise) and none of them is an opt-out span, which hides unsigned delegations.
fn negative(message: &Message, ceiling: Standing) -> Result<DnsAnswer, DnsFault> {
    let mut standing = Standing::Insecure;
    for record in &message.authorities {
        if record.proof.is_bogus() {
            return Err(DnsFault::Bogus("the denial's signature does not validate".into()));
        }
        match &record.data {
            RData::DNSSEC(DNSSECRData::NSEC(_)) if record.proof.is_secure() => standing = ceiling,
            RData::DNSSEC(DNSSECRData::NSEC3(proof)) if record.proof.is_secure() => {
                standing = ceiling;
                if proof.opt_out() {
                    standing = Standing::Insecure;
                    break;
                }
            }
            _ => {}
        }
    }
    let ttl = message.authorities.iter().find_map(|record| match &record.data {
        RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
        _ => None,
    });
    Ok(DnsAnswer { found: Found::Nothing, standing, ttl: ttl.unwrap_or(NEGATIVE_TTL) })
}

/// Follows the aliases inside one message, moving `owner`; the addresses at its end.
fn chase(owner: &mut Name, answers: &[Record]) -> Vec<IpAddr> {
    for _ in 0..=MAX_HOST_ALIASES {
        let found: Vec<IpAddr> = answers
            .iter()
            .filter(|record| record.name == *owner)
            .filter_map(|record| match &record.data {
                RData::A(a) => Some(IpAddr::V4(a.0)),
                RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
                _ => None,
            })
            .collect();
        let alias = answers.iter().find_map(|record| match &record.data {
            RData::CNAME(target) if record.name == *owner => Some(target.0.clone()),
            _ => None,
        });
        match alias {
            Some(target) if found.is_empty() => *owner = target,
            _ => return found,
        }
    }
    Vec::new()
}
