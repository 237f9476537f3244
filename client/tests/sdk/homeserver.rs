//! A tiny homeserver on loopback: real DNS answers, card, QUIC and handshake; what happens after `Ready`
//! is the test's script.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ahoy_client::{DeviceLogin, Enrolment, Network, NetworkParts, ServiceLogin};
use ahoy_proto::address::{Address, Local};
use ahoy_proto::anchor::{AnchorDraft, AnchorEndpoint};
use ahoy_proto::card::sign_card;
use ahoy_proto::fault::Fault;
use ahoy_proto::key::SigningKey;
use ahoy_proto::name::{Name, NamePolicy};
use ahoy_proto::time::{Clock, random};
use ahoy_proto::v1::{self, ErrorCode, auth, call_frame::Message};
use ahoy_resolver::{DnsAnswer, DnsFault, DnsView, Found, MemoryPins, Standing};
use ahoy_transport::clock::{OsEntropy, SystemClock};
use ahoy_transport::{CardBook, Connection, Endpoint, EndpointConfig, Stream, TlsIdentity};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

pub const INVITE: &str = "an-invite";
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for something that a working program does soon.
pub async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what).await.expect("happens soon")
}

pub fn policy() -> NamePolicy {
    NamePolicy::allowing(["example"])
}

pub fn address(text: &str) -> Address {
    Address::parse(text, &policy()).expect("an address")
}

struct Book {
    name: Name,
    card: v1::Signed,
}

impl CardBook for Book {
    fn card(&self, name: &Name) -> Option<v1::Signed> {
        (*name == self.name).then(|| self.card.clone())
    }
}

#[derive(Default)]
struct Enrolled {
    keys: HashSet<Bytes>,
    spent: bool,
}

/// Who signed in, on which connection.
pub struct Arrival {
    pub auth: auth::Auth,
    pub connection: Connection,
}

pub struct Homeserver {
    pub port: u16,
    anchor: String,
    name: Name,
    arrivals: mpsc::Receiver<Arrival>,
    enrolled: Arc<Mutex<Enrolled>>,
    _tasks: JoinSet<()>,
}

impl Homeserver {
    pub async fn start() -> Self {
        Self::with_card_for(None).await
    }

    /// With a card that lists `spki` instead of the server's own TLS key.
    pub async fn with_card_for(spki: Option<[u8; 32]>) -> Self {
        ahoy_transport::install_crypto_provider();
        let identity = TlsIdentity::generate(&OsEntropy).expect("a key");
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let config = EndpointConfig::new(loopback, identity).accepting().with_policy(policy());
        let endpoint = Endpoint::bind(config).expect("a free port");
        let port = endpoint.local_addr().port();
        let name = Name::parse("home.example", &policy()).expect("a name");
        let key = SigningKey::from_seed(random(&OsEntropy));
        let anchor = AnchorDraft {
            signed_at: SystemClock.now(),
            endpoints: vec![AnchorEndpoint::new("hs.home.example", port, 10, 10).expect("an endpoint")],
            ..AnchorDraft::default()
        };
        let anchor = anchor.sign(&name, &key).expect("within the rules");
        let now = SystemClock.now().as_secs();
        let card = v1::Card {
            name: name.to_string(),
            seq: 1,
            not_before: now - 60,
            not_after: now + 3600,
            anchor: anchor.clone(),
            tls_spki: vec![Bytes::copy_from_slice(&spki.unwrap_or(endpoint.spki()))],
            message_keys: vec![v1::MessageKey {
                key: Bytes::copy_from_slice(key.public().as_bytes()),
                not_before: now - 60,
                not_after: 0,
            }],
            endpoints: vec![v1::CardEndpoint {
                host: "hs.home.example".into(),
                port: port.into(),
                priority: 10,
                weight: 10,
            }],
            version_min: 1,
            version_max: 1,
            ..v1::Card::default()
        };
        let book = Arc::new(Book { name: name.clone(), card: sign_card(&card, &key) });
        let (sender, arrivals) = mpsc::channel(16);
        let mut tasks = JoinSet::new();
        let enrolled = Arc::new(Mutex::new(Enrolled::default()));
        tasks.spawn(accept(endpoint.clone(), book, enrolled.clone(), sender));
        Self { port, anchor, name, arrivals, enrolled, _tasks: tasks }
    }

    /// The next device or service that signs in.
    pub async fn arrival(&mut self) -> Arrival {
        soon(self.arrivals.recv()).await.expect("the acceptor lives")
    }

    /// Whether nobody has signed in.
    pub fn nobody_arrived(&mut self) -> bool {
        self.arrivals.try_recv().is_err()
    }

    /// Enrols the key that `device` and `service` make of this seed.
    pub fn know(&self, seed: u8) {
        let key = SigningKey::from_seed([seed; 32]).public();
        let key = Bytes::copy_from_slice(key.as_bytes());
        self.enrolled.lock().expect("no panic").keys.insert(key);
    }

    /// Removes every device and service; the invite stays used.
    pub fn forget_everybody(&self) {
        self.enrolled.lock().expect("no panic").keys.clear();
    }

    /// A network that finds this homeserver through DNS.
    pub fn network(&self) -> Network {
        let parts = NetworkParts {
            view: Arc::new(Zone { anchor: self.anchor.clone() }),
            pins: Arc::new(MemoryPins::default()),
            clock: Arc::new(SystemClock),
            entropy: Arc::new(OsEntropy),
            policy: policy(),
            bind: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            identity: TlsIdentity::generate(&OsEntropy).expect("a key"),
        };
        Network::from_parts(parts).expect("a free port")
    }

    pub fn device(&self, seed: u8, invite: Option<&str>) -> DeviceLogin {
        DeviceLogin {
            account: address("ann@home.example"),
            key: SigningKey::from_seed([seed; 32]),
            enrol: invite.map(|invite| Enrolment { invite: invite.into(), label: "test".into() }),
        }
    }

    pub fn service(&self, invite: Option<&str>) -> ServiceLogin {
        ServiceLogin {
            name: self.name.clone(),
            service: Local::parse("bridge").expect("a local part"),
            key: SigningKey::from_seed([9; 32]),
            invite: invite.map(Into::into),
            addresses: vec![address("support@home.example")],
            calls: true,
            messages: false,
        }
    }
}

async fn accept(
    endpoint: Endpoint,
    book: Arc<Book>,
    enrolled: Arc<Mutex<Enrolled>>,
    sender: mpsc::Sender<Arrival>,
) {
    let mut tasks = JoinSet::new();
    while let Some(incoming) = endpoint.accept().await {
        let (book, sender, enrolled) = (book.clone(), sender.clone(), enrolled.clone());
        tasks.spawn(async move {
            let Ok(Some(arrived)) = incoming.greet(&*book).await else { return };
            let auth = arrived.auth.clone();
            let verdict = admit(&mut enrolled.lock().expect("no panic"), &auth);
            match verdict {
                Err(fault) => arrived.refuse(&fault).await,
                Ok(()) => {
                    let ready = v1::Ready { sync_head: 7, ..v1::Ready::default() };
                    if let Ok(connection) = arrived.ready(ready).await {
                        let _ = sender.send(Arrival { auth, connection }).await;
                    }
                }
            }
        });
    }
}

fn admit(enrolled: &mut Enrolled, auth: &auth::Auth) -> Result<(), Fault> {
    let (key, enrol) = match auth {
        auth::Auth::Device(device) => (&device.device_key, &device.enrol),
        auth::Auth::Service(service) => (&service.service_key, &service.enrol),
        auth::Auth::Server(_) => return Err(Fault::unsupported("a homeserver")),
    };
    match enrol {
        Some(enrol) if enrol.invite == INVITE && !enrolled.spent => {
            enrolled.spent = true;
            enrolled.keys.insert(key.clone());
            Ok(())
        }
        Some(_) => Err(Fault::new(ErrorCode::BadInvite, "unknown or used")),
        None if enrolled.keys.contains(key) => Ok(()),
        None => Err(Fault::new(ErrorCode::UnknownDevice, "not enrolled")),
    }
}

/// `_ahoy.home.example`, as a validating resolver answers.
struct Zone {
    anchor: String,
}

impl DnsView for Zone {
    fn text<'a>(&'a self, owner: &'a str) -> BoxFuture<'a, Result<DnsAnswer, DnsFault>> {
        let found = match owner {
            "_ahoy.home.example" => Found::Text(vec![vec![Bytes::from(self.anchor.clone())]]),
            _ => Found::Nothing,
        };
        Box::pin(async { Ok(DnsAnswer { found, standing: Standing::Secure, ttl: 300 }) })
    }

    fn addresses<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Vec<IpAddr>, DnsFault>> {
        Box::pin(async { Ok(vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]) })
    }
}

/// The next call stream that the client opens.
pub async fn call_stream(connection: &Connection) -> (v1::CallOpen, Stream) {
    loop {
        match soon(connection.accept()).await.expect("the connection lives") {
            (v1::open::Open::Call(open), stream) => return (open, stream),
            _ => continue,
        }
    }
}

/// The next frame, which must come.
pub async fn frame(stream: &mut Stream) -> v1::CallFrame {
    soon(stream.recv::<v1::CallFrame>()).await.expect("the stream lives").expect("not finished")
}

pub async fn say(stream: &mut Stream, counter: u64, message: Message) {
    stream.send(&v1::CallFrame { counter, message: Some(message) }).await.expect("the stream lives");
}

pub fn token(text: &'static str) -> Message {
    Message::Token(v1::HopToken { token: Bytes::from_static(text.as_bytes()) })
}
