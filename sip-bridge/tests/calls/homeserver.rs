//! A homeserver on loopback that signs one service in: real DNS answers, card, QUIC and handshake.
//! What happens on a call's stream is the test's script.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use ahoy_client::{Network, NetworkParts, ServiceLogin};
use ahoy_proto::address::{Address, Local};
use ahoy_proto::anchor::{AnchorDraft, AnchorEndpoint};
use ahoy_proto::card::sign_card;
use ahoy_proto::invite::{InviteBody, unsigned_invite};
use ahoy_proto::key::SigningKey;
use ahoy_proto::name::{Name, NamePolicy};
use ahoy_proto::time::{Clock, random};
use ahoy_proto::v1::{self, HangupReason, call_frame::Message, open::Open};
use ahoy_resolver::{DnsAnswer, DnsFault, DnsView, Found, MemoryPins, Standing};
use ahoy_transport::clock::{OsEntropy, SystemClock};
use ahoy_transport::{CardBook, Connection, Endpoint, EndpointConfig, Stream, TlsIdentity};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::rig::soon;

/// The name that the bridge serves.
pub const NAME: &str = "bank.example";

pub fn policy() -> NamePolicy {
    NamePolicy::allowing(["example"])
}

pub fn address(text: &str) -> Address {
    Address::parse(text, &policy()).expect("an address")
}

pub struct Homeserver {
    anchor: String,
    arrivals: mpsc::Receiver<Connection>,
    _tasks: JoinSet<()>,
}

impl Homeserver {
    pub fn start() -> Self {
        ahoy_transport::install_crypto_provider();
        let identity = TlsIdentity::generate(&OsEntropy).expect("a key");
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let config = EndpointConfig::new(loopback, identity).accepting().with_policy(policy());
        let endpoint = Endpoint::bind(config).expect("a free port");
        let port = endpoint.local_addr().port();
        let key = SigningKey::from_seed(random(&OsEntropy));
        let name = Name::parse(NAME, &policy()).expect("a name");
        let at = AnchorEndpoint::new("hs.bank.example", port, 10, 10).expect("an endpoint");
        let draft =
            AnchorDraft { signed_at: SystemClock.now(), endpoints: vec![at], ..AnchorDraft::default() };
        let anchor = draft.sign(&name, &key).expect("within the rules");
        let book = Arc::new(Book { card: card(&name, &anchor, &key, &endpoint) });
        let (sender, arrivals) = mpsc::channel(16);
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(endpoint, book, sender));
        Self { anchor, arrivals, _tasks: tasks }
    }

    /// The next sign-in.
    pub async fn arrival(&mut self) -> Connection {
        soon(self.arrivals.recv()).await.expect("the acceptor lives")
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

    pub fn login() -> ServiceLogin {
        ServiceLogin {
            name: Name::parse(NAME, &policy()).expect("a name"),
            service: Local::parse("bridge").expect("a local part"),
            key: SigningKey::from_seed([9; 32]),
            invite: None,
            addresses: vec![address("support@bank.example")],
            calls: true,
            messages: false,
        }
    }
}

fn card(name: &Name, anchor: &str, key: &SigningKey, endpoint: &Endpoint) -> v1::Signed {
    let now = SystemClock.now().as_secs();
    let message_key = v1::MessageKey {
        key: Bytes::copy_from_slice(key.public().as_bytes()),
        not_before: now - 60,
        not_after: 0,
    };
    let at = v1::CardEndpoint {
        host: "hs.bank.example".into(),
        port: endpoint.local_addr().port().into(),
        priority: 10,
        weight: 10,
    };
    let card = v1::Card {
        name: name.to_string(),
        seq: 1,
        not_before: now - 60,
        not_after: now + 3600,
        anchor: anchor.to_owned(),
        tls_spki: vec![Bytes::copy_from_slice(&endpoint.spki())],
        message_keys: vec![message_key],
        endpoints: vec![at],
        version_min: 1,
        version_max: 1,
        ..v1::Card::default()
    };
    sign_card(&card, key)
}

struct Book {
    card: v1::Signed,
}

impl CardBook for Book {
    fn card(&self, name: &Name) -> Option<v1::Signed> {
        (name.as_str() == NAME).then(|| self.card.clone())
    }
}

async fn accept(endpoint: Endpoint, book: Arc<Book>, sender: mpsc::Sender<Connection>) {
    let mut tasks = JoinSet::new();
    while let Some(incoming) = endpoint.accept().await {
        let (book, sender) = (book.clone(), sender.clone());
        tasks.spawn(async move {
            let Ok(Some(arrived)) = incoming.greet(&*book).await else { return };
            if let Ok(connection) = arrived.ready(v1::Ready::default()).await {
                let _ = sender.send(connection).await;
            }
        });
    }
}

/// `_ahoy.bank.example`, as a validating resolver answers.
struct Zone {
    anchor: String,
}

impl DnsView for Zone {
    fn text<'a>(&'a self, owner: &'a str) -> BoxFuture<'a, Result<DnsAnswer, DnsFault>> {
        let found = match owner {
            "_ahoy.bank.example" => Found::Text(vec![vec![Bytes::from(self.anchor.clone())]]),
            _ => Found::Nothing,
        };
        Box::pin(async { Ok(DnsAnswer { found, standing: Standing::Secure, ttl: 300 }) })
    }

    fn addresses<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Vec<IpAddr>, DnsFault>> {
        Box::pin(async { Ok(vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]) })
    }
}

/// The homeserver's end of one call's stream.
pub struct Hop {
    stream: Stream,
    counter: u64,
}

impl Hop {
    /// A call from `caller@home.example` to `to`, with this offer.
    pub async fn ring(connection: &Connection, to: &str, sdp: &str) -> Self {
        let call: [u8; 16] = random(&OsEntropy);
        let open = v1::CallOpen {
            call: Bytes::copy_from_slice(&call),
            to: to.into(),
            from: "caller@home.example".into(),
            resume: None,
        };
        let stream = connection.open(Open::Call(open)).await.expect("the connection lives");
        let mut hop = Self { stream, counter: 0 };
        let from = address("caller@home.example");
        let body = InviteBody::new(call, from, address(to), SystemClock.now(), sdp);
        hop.say(Message::Invite(unsigned_invite(&body, sdp.into(), 90_000, "Ann".into()))).await;
        hop
    }

    /// The next call that the bridge places, and its Invite.
    pub async fn placed(connection: &Connection) -> (Self, v1::CallOpen, v1::Invite) {
        loop {
            let (open, stream) = soon(connection.accept()).await.expect("the connection lives");
            let v1::open::Open::Call(open) = open else { continue };
            let mut hop = Self { stream, counter: 0 };
            let token = Message::Token(v1::HopToken { token: Bytes::from_static(b"token-token-token") });
            let frame = v1::CallFrame { counter: 0, message: Some(token) };
            hop.stream.send(&frame).await.expect("the stream lives");
            let Message::Invite(invite) = hop.next().await else { panic!("an Invite comes first") };
            return (hop, open, invite);
        }
    }

    pub async fn say(&mut self, message: Message) {
        self.counter += 1;
        let frame = v1::CallFrame { counter: self.counter, message: Some(message) };
        self.stream.send(&frame).await.expect("the stream lives");
    }

    /// The next message of the bridge.
    pub async fn next(&mut self) -> Message {
        loop {
            let frame = soon(self.stream.recv::<v1::CallFrame>()).await.expect("the stream lives");
            match frame.expect("not finished").message.expect("a message") {
                Message::Token(_) => {}
                message => return message,
            }
        }
    }

    /// Skips what comes until a message that `wanted` knows.
    pub async fn until<T>(&mut self, wanted: impl Fn(Message) -> Option<T>) -> T {
        loop {
            if let Some(found) = wanted(self.next().await) {
                return found;
            }
        }
    }

    /// The end of the call.
    pub async fn hangup(&mut self) -> v1::Hangup {
        self.until(|message| match message {
            Message::Hangup(hangup) => Some(hangup),
            _ => None,
        })
        .await
    }

    pub async fn hang_up(&mut self, reason: HangupReason) {
        self.say(Message::Hangup(v1::Hangup { reason: reason.into(), ..v1::Hangup::default() })).await;
    }

    /// What the bridge says within this time, if anything.
    pub async fn said_within(&mut self, time: std::time::Duration) -> Option<Message> {
        let frame = tokio::time::timeout(time, self.stream.recv::<v1::CallFrame>()).await.ok()?;
        frame.ok()??.message
    }
}
