//! An authoritative DNS server in this process: signed zones that change at run time, and zones that
//! are broken on purpose.
//!
//! One parent zone (by default `example.`) is the trust anchor and delegates, with a DS, to each
//! signed zone below it and, provably without, to each unsigned one. A zone outside the parent is an
//! island with a trust anchor line of its own.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use async_trait::async_trait;
use hickory_net::runtime::Time;
use hickory_proto::op::{Header, HeaderCounts, Metadata};
use hickory_proto::rr::{LowerName, Name, RecordType};
use hickory_server::Server;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::Catalog;
use serde::Deserialize;
use tokio::net::{TcpListener, UdpSocket};

mod denial;
mod sign;

use denial::ProvingZone;
use sign::ZoneKey;

/// Seconds that a TCP client may stay silent.
const TCP_IDLE: Duration = Duration::from_secs(10);
/// Responses that may wait for a slow TCP client.
const TCP_BUFFER: usize = 32;
/// Tries to find a port that is free for UDP and TCP.
const PORT_TRIES: usize = 20;

/// How a zone is signed, or what is wrong with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Signing {
    /// Valid signatures, a DS at the parent.
    #[default]
    Signed,
    /// Not signed, and the parent proves that there is no DS.
    Unsigned,
    /// Signed, then its text and alias records were changed: bogus.
    Tampered,
    /// All signatures ended a month ago: bogus.
    Expired,
    /// Not signed although the parent holds a DS: what an attacker who strips signatures shows. Bogus.
    Stripped,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// A TXT record; longer text is split into strings of 255 bytes.
    Text(String),
    /// A TXT record of exactly these strings.
    Strings(Vec<String>),
    /// A CNAME.
    Alias(String),
    /// An A or AAAA record.
    Address(IpAddr),
}

impl Data {
    pub(crate) fn kind(&self) -> RecordType {
        match self {
            Self::Text(_) | Self::Strings(_) => RecordType::TXT,
            Self::Alias(_) => RecordType::CNAME,
            Self::Address(IpAddr::V4(_)) => RecordType::A,
            Self::Address(IpAddr::V6(_)) => RecordType::AAAA,
        }
    }
}

/// One record; `owner` is absolute, with or without the trailing dot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZoneRecord {
    /// Where it stands.
    pub owner: String,
    /// Seconds.
    pub ttl: u32,
    /// What it says.
    pub data: Data,
}

impl ZoneRecord {
    /// A record with a TTL of 300 s.
    pub fn new(owner: impl Into<String>, data: Data) -> Self {
        Self { owner: owner.into(), ttl: 300, data }
    }
}

/// A zone as it is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    /// Its apex, e.g. `home.example`.
    pub name: String,
    /// How it is signed.
    pub signing: Signing,
    /// All but SOA, NS and what DNSSEC adds.
    pub records: Vec<ZoneRecord>,
}

impl Zone {
    /// A signed zone.
    pub fn signed(name: impl Into<String>, records: Vec<ZoneRecord>) -> Self {
        Self { name: name.into(), signing: Signing::Signed, records }
    }
}

struct Entry {
    zone: Zone,
    key: ZoneKey,
}

#[derive(Default)]
struct Zones {
    parent: Option<Name>,
    parent_key: Option<ZoneKey>,
    children: BTreeMap<LowerName, Entry>,
    serial: u32,
}

/// What the sockets answer from: one catalogue per zone, so that a DS is answered by the parent.
type Served = Vec<(LowerName, Catalog)>;

struct Shared {
    served: RwLock<Arc<Served>>,
    silent: AtomicBool,
    queries: AtomicU64,
}

/// A running server; dropping it closes its sockets.
pub struct ZoneServer {
    address: SocketAddr,
    zones: Mutex<Zones>,
    shared: Arc<Shared>,
    _server: Server<Handler>,
}

impl ZoneServer {
    /// Listens on UDP and TCP at `bind` (port 0: any) with `parent` (e.g. `example`) as its only zone.
    ///
    /// # Errors
    /// An address in use, or a parent that is not a domain name.
    pub async fn start(bind: SocketAddr, parent: &str) -> Result<Self> {
        let (udp, tcp) = bind_both(bind).await?;
        let address = udp.local_addr()?;
        let shared = Arc::new(Shared {
            served: RwLock::default(),
            silent: AtomicBool::new(false),
            queries: AtomicU64::new(0),
        });
        let mut server = Server::new(Handler(shared.clone()));
        server.register_socket(udp);
        server.register_listener(tcp, TCP_IDLE, TCP_BUFFER);
        let zones = Zones {
            parent: Some(sign::parse_name(parent)?),
            parent_key: Some(ZoneKey::generate()?),
            ..Zones::default()
        };
        let this = Self { address, zones: Mutex::new(zones), shared, _server: server };
        this.rebuild(&mut this.lock())?;
        Ok(this)
    }

    /// A server on a free port of 127.0.0.1 with the parent `example.` and these zones.
    ///
    /// # Errors
    /// No socket, or a record that is not valid.
    pub async fn start_with(zones: impl IntoIterator<Item = Zone>) -> Result<Self> {
        let server = Self::start(SocketAddr::from(([127, 0, 0, 1], 0)), "example").await?;
        for zone in zones {
            server.put_zone(zone)?;
        }
        Ok(server)
    }

    /// Where it listens, UDP and TCP.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Adds a zone or replaces the one of that name, which keeps its key.
    ///
    /// # Errors
    /// A record that is not valid, or outside the zone; the zones stay as they were.
    pub fn put_zone(&self, zone: Zone) -> Result<()> {
        let name = LowerName::from(sign::parse_name(&zone.name)?);
        for record in &zone.records {
            let owner = LowerName::from(sign::parse_name(&record.owner)?);
            if !name.zone_of(&owner) {
                bail!("{} is not in the zone {}", record.owner, zone.name);
            }
        }
        let mut zones = self.lock();
        let key = match zones.children.remove(&name) {
            Some(entry) => entry.key,
            None => ZoneKey::generate()?,
        };
        zones.children.insert(name, Entry { zone, key });
        self.rebuild(&mut zones)
    }

    /// Replaces all zones below the parent; zones whose name stays keep their key.
    ///
    /// # Errors
    /// As [`Self::put_zone`].
    pub fn replace_zones(&self, zones: Vec<Zone>) -> Result<()> {
        let keep: Vec<LowerName> = zones
            .iter()
            .map(|zone| sign::parse_name(&zone.name).map(LowerName::from))
            .collect::<Result<_>>()?;
        for zone in zones {
            self.put_zone(zone)?;
        }
        let mut zones = self.lock();
        zones.children.retain(|name, _| keep.contains(name));
        self.rebuild(&mut zones)
    }

    /// Replaces all records of one owner and type by `records` (empty: removes them).
    ///
    /// # Errors
    /// No zone holds `owner`.
    pub fn replace(&self, owner: &str, kind: RecordType, records: Vec<ZoneRecord>) -> Result<()> {
        let name = LowerName::from(sign::parse_name(owner)?);
        let mut zones = self.lock();
        let entry = zones
            .children
            .iter_mut()
            .filter(|(zone, _)| zone.zone_of(&name))
            .max_by_key(|(zone, _)| zone.num_labels())
            .map(|(_, entry)| entry)
            .ok_or_else(|| anyhow!("no zone here holds {owner}"))?;
        let same = |record: &ZoneRecord| {
            record.data.kind() == kind
                && sign::parse_name(&record.owner).is_ok_and(|other| LowerName::from(other) == name)
        };
        entry.zone.records.retain(|record| !same(record));
        entry.zone.records.extend(records);
        self.rebuild(&mut zones)
    }

    /// Publishes the anchor of `name` (at `_ahoy.<name>`), in place of any other text there.
    ///
    /// # Errors
    /// No zone holds it.
    pub fn publish_anchor(&self, name: &str, anchor: &str) -> Result<()> {
        let owner = format!("_ahoy.{name}");
        let record = ZoneRecord::new(owner.clone(), Data::Text(anchor.to_owned()));
        self.replace(&owner, RecordType::TXT, vec![record])
    }

    /// Signs a zone in another way, or breaks it.
    ///
    /// # Errors
    /// No such zone.
    pub fn set_signing(&self, zone: &str, signing: Signing) -> Result<()> {
        let name = LowerName::from(sign::parse_name(zone)?);
        let mut zones = self.lock();
        let entry = zones.children.get_mut(&name);
        entry.ok_or_else(|| anyhow!("no zone {zone} here"))?.zone.signing = signing;
        self.rebuild(&mut zones)
    }

    /// When `true`, queries are swallowed: the server looks dead.
    pub fn set_silent(&self, silent: bool) {
        self.shared.silent.store(silent, Ordering::SeqCst);
    }

    /// Queries received so far, silent times included.
    pub fn queries(&self) -> u64 {
        self.shared.queries.load(Ordering::SeqCst)
    }

    /// The trust anchor file: a DNSKEY line for the parent and for each signed island.
    ///
    /// # Errors
    /// None in practice; a key that cannot be encoded.
    pub fn trust_anchor(&self) -> Result<String> {
        self.trust_lines(ZoneKey::dnskey_line)
    }

    /// The same trust anchors as DS lines.
    ///
    /// # Errors
    /// As [`Self::trust_anchor`].
    pub fn trust_anchor_ds(&self) -> Result<String> {
        self.trust_lines(ZoneKey::ds_line)
    }

    fn trust_lines(&self, line: impl Fn(&ZoneKey, &Name) -> Result<String>) -> Result<String> {
        let zones = self.lock();
        let mut lines = String::new();
        if let (Some(parent), Some(key)) = (&zones.parent, &zones.parent_key) {
            lines += &line(key, parent)?;
        }
        for (name, entry) in &zones.children {
            let below = zones.parent.as_ref().is_some_and(|parent| parent.zone_of(name));
            if !below && entry.zone.signing != Signing::Unsigned {
                lines += &line(&entry.key, name)?;
            }
        }
        Ok(lines)
    }

    /// Every zone as a signed zone file (apex without trailing dot, text), parent included, for
    /// another server such as NSD to serve under the same trust anchor.
    ///
    /// # Errors
    /// As [`Self::put_zone`].
    pub fn zone_files(&self) -> Result<Vec<(String, String)>> {
        let zones = self.lock();
        let built = build(&zones)?;
        built
            .into_iter()
            .map(|(name, zone)| {
                let apex = name.to_string().trim_end_matches('.').to_owned();
                Ok((apex, sign::zone_file(zone)?))
            })
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Zones> {
        self.zones.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rebuild(&self, zones: &mut Zones) -> Result<()> {
        zones.serial += 1;
        let served = build(zones)?
            .into_iter()
            .map(|(name, zone)| {
                let mut catalog = Catalog::new();
                catalog.upsert(name.clone(), vec![Arc::new(ProvingZone(zone))]);
                (name, catalog)
            })
            .collect();
        *self.shared.served.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(served);
        Ok(())
    }
}

/// All zones, signed as asked, the parent with their delegations.
fn build(zones: &Zones) -> Result<Vec<(LowerName, sign::BuiltZone)>> {
    let mut built = Vec::new();
    let mut delegations = Vec::new();
    for (name, entry) in &zones.children {
        let zone = sign::build_zone(name, &entry.zone, &entry.key, zones.serial)
            .with_context(|| format!("zone {name}"))?;
        built.push((name.clone(), zone));
        if zones.parent.as_ref().is_some_and(|parent| parent.zone_of(name)) {
            let signed = entry.zone.signing != Signing::Unsigned;
            delegations.push((Name::from(name.clone()), signed.then_some(&entry.key)));
        }
    }
    if let (Some(parent), Some(key)) = (&zones.parent, &zones.parent_key) {
        let zone = sign::build_parent(parent, key, &delegations, zones.serial)?;
        built.push((LowerName::from(parent), zone));
    }
    Ok(built)
}

/// UDP and TCP on the same port.
async fn bind_both(bind: SocketAddr) -> Result<(UdpSocket, TcpListener)> {
    let mut last = None;
    for _ in 0..PORT_TRIES {
        let udp = UdpSocket::bind(bind).await.with_context(|| format!("cannot bind UDP {bind}"))?;
        match TcpListener::bind(udp.local_addr()?).await {
            Ok(tcp) => return Ok((udp, tcp)),
            Err(error) if bind.port() == 0 => last = Some(error),
            Err(error) => return Err(error).with_context(|| format!("cannot bind TCP {bind}")),
        }
    }
    Err(anyhow!("no port is free for both UDP and TCP: {last:?}"))
}

struct Handler(Arc<Shared>);

impl Handler {
    /// The closest zone that holds the question; for a DS, the one above.
    fn zone_for(served: &Served, request: &Request) -> Option<usize> {
        let info = request.request_info().ok()?;
        let (name, kind) = (info.query.name(), info.query.query_type());
        let holds = |zone: &LowerName| zone.zone_of(name) && (kind != RecordType::DS || zone != name);
        let closest = |candidates: &dyn Fn(&LowerName) -> bool| {
            (0..served.len())
                .filter(|&index| candidates(&served[index].0))
                .max_by_key(|&index| served[index].0.num_labels())
        };
        closest(&holds).or_else(|| closest(&|zone| zone.zone_of(name)))
    }
}

#[async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        response: R,
    ) -> ResponseInfo {
        self.0.queries.fetch_add(1, Ordering::SeqCst);
        if self.0.silent.load(Ordering::SeqCst) {
            return unanswered(request);
        }
        let served = {
            let guard = self.0.served.read().unwrap_or_else(PoisonError::into_inner);
            guard.clone()
        };
        match Self::zone_for(&served, request) {
            Some(index) => served[index].1.handle_request::<R, T>(request, response).await,
            None => Catalog::new().handle_request::<R, T>(request, response).await,
        }
    }
}

/// What the server's log needs of a query that got no answer.
fn unanswered(request: &Request) -> ResponseInfo {
    ResponseInfo::from(Header {
        metadata: Metadata::response_from_request(&request.metadata),
        counts: HeaderCounts::default(),
    })
}
