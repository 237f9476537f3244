//! The way to the network: one UDP endpoint and one resolver, and from a name to a greeted homeserver
//! whose card was verified before anything was proved to it ([WIRE-AUTH-20], spec section 3.3).

use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ahoy_proto::card::verify_card;
use ahoy_proto::fault::Fault;
use ahoy_proto::name::{Name, NamePolicy};
use ahoy_proto::time::{Clock, Entropy};
use ahoy_proto::v1::{self, ErrorCode, Role};
pub use ahoy_resolver::DnsConfig;
use ahoy_resolver::{
    DnsView, Explanation, FilePins, HickoryView, PinStore, Resolution, Resolver, ResolverLimits,
};
use ahoy_transport::clock::{OsEntropy, SystemClock};
use ahoy_transport::{Endpoint, EndpointConfig, Greeted, Hello, TlsIdentity};
use tokio::time::timeout;

use crate::error::{ClientError, Stage};

/// Longest wait from a name to its verified card.
pub const RESOLVE_DEADLINE: Duration = Duration::from_secs(5);
/// Longest wait for all endpoints of a homeserver together.
pub const GREET_DEADLINE: Duration = Duration::from_secs(10);
/// Longest wait for the answer to a device's or service's proof.
pub const SIGN_IN_DEADLINE: Duration = Duration::from_secs(5);

/// Longest wait for look-ups when the network is closed.
const CLOSE_TIME: Duration = Duration::from_secs(2);

/// What a [`Network`] needs to know.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// Folder for the TLS identity and the pinned keys; created with mode 0700.
    pub data_dir: PathBuf,
    /// DNS servers and trust anchor.
    pub dns: DnsConfig,
    /// Special-use names (RFC 6761) that count as names, for tests and demonstrations.
    pub special_use_allowed: Vec<String>,
    /// UDP address to send from; port 0 = any.
    pub bind: SocketAddr,
}

/// What a [`Network`] is made of, for programs and tests that bring their own DNS, clock or chance.
pub struct NetworkParts {
    /// The vantage point on DNS.
    pub view: Arc<dyn DnsView>,
    /// Where keys are remembered.
    pub pins: Arc<dyn PinStore>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Gives nonces, ids and jitter.
    pub entropy: Arc<dyn Entropy>,
    /// Which special-use names count as names.
    pub policy: NamePolicy,
    /// UDP address to send from.
    pub bind: SocketAddr,
    /// The endpoint's TLS key. Devices and services do not show it.
    pub identity: TlsIdentity,
}

/// One UDP endpoint and one resolver, shared by any number of sessions. Clones are cheap.
#[derive(Clone)]
pub struct Network {
    endpoint: Endpoint,
    resolver: Resolver,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    policy: NamePolicy,
}

impl Network {
    /// Opens the socket and the pins. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// What of `config` cannot be used: the folder, the DNS section, the address.
    pub async fn open(config: NetworkConfig) -> Result<Self, ClientError> {
        let dir = config.data_dir.display().to_string();
        let local = |error: &dyn std::fmt::Display| ClientError::local(dir.clone(), error.to_string());
        let entropy: Arc<dyn Entropy> = Arc::new(OsEntropy);
        // Keys and pins lie here: nobody else's business.
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&config.data_dir);
        made.map_err(|e| local(&e))?;
        let identity = TlsIdentity::load_or_create(&config.data_dir, &*entropy).map_err(|e| local(&e))?;
        let pins = FilePins::open(config.data_dir.join("pins")).map_err(|e| local(&e))?;
        let view = HickoryView::new(&config.dns).map_err(|e| ClientError::local("[dns]", e.to_string()))?;
        Self::from_parts(NetworkParts {
            view: Arc::new(view),
            pins: Arc::new(pins),
            clock: Arc::new(SystemClock),
            entropy,
            policy: NamePolicy::allowing(config.special_use_allowed.iter().map(String::as_str)),
            bind: config.bind,
            identity,
        })
    }

    /// A network of given parts. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn from_parts(parts: NetworkParts) -> Result<Self, ClientError> {
        let NetworkParts { view, pins, clock, entropy, policy, bind, identity } = parts;
        ahoy_transport::install_crypto_provider();
        let mut config = EndpointConfig::new(bind, identity).with_policy(policy.clone());
        (config.clock, config.entropy) = (clock.clone(), entropy.clone());
        let endpoint = Endpoint::bind(config).map_err(|e| ClientError::local("bind", e.to_string()))?;
        let resolver =
            Resolver::new(view, pins, Arc::new(endpoint.clone()), clock.clone(), ResolverLimits::default());
        Ok(Self { endpoint, resolver, clock, entropy, policy })
    }

    /// From a name to its verified card, within 5 s.
    ///
    /// # Errors
    /// One of the closed refusals of spec section 2.6.
    pub async fn resolve(&self, name: &Name) -> Result<Arc<Resolution>, ClientError> {
        let error = |fault| ClientError::new(Stage::Resolve, name.as_str(), fault);
        match timeout(RESOLVE_DEADLINE, self.resolver.resolve(name)).await {
            Ok(Ok(resolution)) => Ok(resolution),
            Ok(Err(refusal)) => Err(error(refusal.fault())),
            Err(_) => Err(error(Fault::new(ErrorCode::Timeout, "no verified answer within 5 seconds"))),
        }
    }

    /// Every step of a resolution, as this machine sees it.
    pub async fn explain(&self, name: &Name) -> Explanation {
        self.resolver.explain(name).await
    }

    /// The clock of this network.
    pub fn clock(&self) -> Arc<dyn Clock> {
        self.clock.clone()
    }

    /// The random source of this network.
    pub fn entropy(&self) -> Arc<dyn Entropy> {
        self.entropy.clone()
    }

    /// Which special-use names count as names here.
    pub fn policy(&self) -> &NamePolicy {
        &self.policy
    }

    /// Closes every connection; waits until the peers were told (at most 2 s).
    pub async fn close(&self) {
        self.endpoint.close().await;
        // What is being looked up has a deadline of its own and nobody waits for it any more.
        let _ = timeout(CLOSE_TIME, self.resolver.close()).await;
    }

    /// Resolves `name` and greets its homeserver, endpoint by endpoint. What is returned has shown a TLS
    /// key that the verified card lists; nothing was proved to it yet.
    pub(crate) async fn greet(&self, name: &Name, role: Role) -> Result<(Greeted, SocketAddr), ClientError> {
        let resolution = self.resolve(name).await?;
        let greeted = timeout(GREET_DEADLINE, self.greet_endpoints(&resolution, role)).await;
        let failed = match greeted {
            Ok(Ok(greeted)) => return Ok(greeted),
            Ok(Err(fault)) => fault,
            Err(_) => Fault::new(ErrorCode::PeerUnreachable, "no endpoint answered within 10 seconds"),
        };
        // The endpoints may have moved: the next attempt asks afresh.
        self.resolver.invalidate(name);
        Err(ClientError::new(Stage::Connect, name.as_str(), failed))
    }

    async fn greet_endpoints(
        &self,
        resolution: &Resolution,
        role: Role,
    ) -> Result<(Greeted, SocketAddr), Fault> {
        let mut last = Fault::new(ErrorCode::PeerUnreachable, "the card lists no address");
        for endpoint in &resolution.endpoints {
            for addr in &endpoint.addrs {
                match self.greet_one(resolution, &endpoint.host, *addr, role).await {
                    Ok(greeted) => return Ok((greeted, *addr)),
                    Err(fault) => {
                        tracing::debug!(name = %resolution.name, %addr, %fault, "endpoint passed over");
                        last = fault;
                    }
                }
            }
        }
        Err(last)
    }

    async fn greet_one(
        &self,
        resolution: &Resolution,
        host: &str,
        addr: SocketAddr,
        role: Role,
    ) -> Result<Greeted, Fault> {
        let hello = Hello {
            role,
            wanted: resolution.name.clone(),
            features: Vec::new(),
            limits: v1::Limits::default(),
        };
        let greeted = self.endpoint.greet(addr, host, hello).await.map_err(|error| error.fault())?;
        match self.vouched(resolution, &greeted) {
            Ok(()) => Ok(greeted),
            Err(fault) => {
                greeted.refuse(&fault);
                Err(fault)
            }
        }
    }

    /// Whether the card, as resolved or as just shown, lists the TLS key that was seen.
    fn vouched(&self, resolution: &Resolution, greeted: &Greeted) -> Result<(), Fault> {
        if resolution.card.lists_tls(&greeted.spki()) && resolution.card.is_in_force(self.clock.now()) {
            return Ok(());
        }
        let not_authentic = |why: &str| Fault::new(ErrorCode::PeerNotAuthentic, why);
        let shown = greeted.server_hello().card.as_ref().ok_or_else(|| not_authentic("it shows no card"))?;
        let card = verify_card(shown, &resolution.name, &resolution.anchor, self.clock.now())
            .map_err(|error| not_authentic(&error.to_string()))?;
        if !card.may_replace(&resolution.card) {
            return Err(not_authentic("it shows an older card than the one known"));
        }
        if !card.lists_tls(&greeted.spki()) {
            return Err(not_authentic("its TLS key is not in the card of the name"));
        }
        Ok(())
    }
}
