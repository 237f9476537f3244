//! Two homeservers in one process, with real endpoints on loopback and real stores; DNS is a table.

#![allow(dead_code, reason = "each test uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ahoy_proto::address::{Address, Local};
use ahoy_proto::key::SigningKey;
use ahoy_proto::name::{Name, NamePolicy};
use ahoy_proto::time::Clock;
use ahoy_proto::v1::call_frame::Message;
use ahoy_proto::v1::{self, Role, open, request, response, sync_frame};
use ahoy_resolver::{DnsAnswer, DnsFault, DnsView, Found, MemoryPins, Resolver, ResolverLimits, Standing};
use ahoy_transport::clock::{OsEntropy, SystemClock};
use ahoy_transport::{
    ConnectError, Connection, DeviceCredentials, Endpoint, EndpointConfig, Hello, ServiceCredentials, Stream,
    TlsIdentity, install_crypto_provider,
};
use ahoyd::card_book::CardBook;
use ahoyd::config::Config;
use ahoyd::homeserver::{self, Homeserver, Parts};
use ahoyd::invite::{Grant, InviteKey, VALID_FOR};
use ahoyd::lifecycle::{Lifecycle, Signal};
use ahoyd::metrics::Metrics;
use ahoyd::name_folder::NameFolder;
use ahoyd::store::{self, Store};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub const PATIENCE: Duration = Duration::from_secs(20);

pub fn policy() -> NamePolicy {
    NamePolicy::allowing(["example"])
}

pub fn address(text: &str) -> Address {
    Address::parse(text, &policy()).unwrap()
}

pub fn name(text: &str) -> Name {
    Name::parse(text, &policy()).unwrap()
}

/// Fails the test when something takes too long.
pub async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it happens soon")
}

#[derive(Clone, Default)]
pub struct Table(Arc<Mutex<HashMap<String, String>>>);

impl DnsView for Table {
    fn text<'a>(&'a self, owner: &'a str) -> BoxFuture<'a, Result<DnsAnswer, DnsFault>> {
        let text = self.0.lock().unwrap().get(owner).cloned();
        let found = text.map_or(Found::Nothing, |text| Found::Text(vec![vec![Bytes::from(text)]]));
        Box::pin(async move { Ok(DnsAnswer { found, standing: Standing::Secure, ttl: 300 }) })
    }

    fn addresses<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Vec<IpAddr>, DnsFault>> {
        Box::pin(async { Ok(vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]) })
    }
}

pub struct Server {
    pub addr: SocketAddr,
    pub name: Name,
    pub invites: InviteKey,
    pub homeserver: Arc<Homeserver>,
    stop: Option<oneshot::Sender<()>>,
    life: JoinHandle<()>,
    pub endpoint: Endpoint,
}

/// What time it is, and how long live calls have when it stops.
#[derive(Clone)]
pub struct Time {
    pub clock: Arc<dyn Clock>,
    pub drain: Duration,
}

impl Default for Time {
    fn default() -> Self {
        Self { clock: Arc::new(SystemClock), drain: Duration::ZERO }
    }
}

struct Once(Option<oneshot::Receiver<()>>);

impl Signal for Once {
    async fn next(&mut self) {
        match self.0.take() {
            // A dropped sender stops too.
            Some(stop) => drop(stop.await),
            None => std::future::pending().await,
        }
    }
}

fn config_text(name: &str, port: u16) -> String {
    let lines = if name == "bank.example" {
        "[[line]]\nlocal = \"support\"\nlabel = \"Support\"\nkind = \"pbx\"\n\
         targets = [\"service:bridge\", \"service:bot\"]\n"
    } else {
        ""
    };
    format!(
        "name = \"{name}\"\nendpoint = \"hs.{name}:{port}\"\nlisten = \"127.0.0.1:{port}\"\n\
         http_listen = \"127.0.0.1:0\"\nspecial_use_allowed = [\"example\"]\n\
         [limits]\ndevice_messages = 100000.0\nservice_messages = 100000.0\n{lines}"
    )
}

impl Server {
    /// Starts a homeserver; on the port that it had when there is one.
    pub async fn start(dir: &Path, text: &str, table: &Table, port: u16) -> Self {
        Self::start_with(dir, text, table, port, Time::default()).await
    }

    /// The same, with another idea of time.
    pub async fn start_with(dir: &Path, text: &str, table: &Table, port: u16, time: Time) -> Self {
        let config = |port| config_text(text, port);
        Self::launch(dir, &[text], config, table, port, time, |store| store).await.unwrap()
    }

    /// Starts a homeserver of these names, the first of which is [`Server::name`], with a store that `wrap` makes of
    /// the real one.
    pub async fn launch(
        dir: &Path,
        names: &[&str],
        config: impl Fn(u16) -> String,
        table: &Table,
        port: u16,
        time: Time,
        wrap: impl FnOnce(Arc<dyn Store>) -> Arc<dyn Store>,
    ) -> anyhow::Result<Self> {
        install_crypto_provider();
        std::fs::create_dir_all(dir).unwrap();
        let identity = TlsIdentity::load_or_create(dir, &OsEntropy).unwrap();
        let spki = identity.spki();
        let bind = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let endpoint = soon(bound(bind, identity)).await;
        let addr = endpoint.local_addr();
        let config = Config::parse(&config(addr.port()), &dir.join("ahoyd.toml")).unwrap();
        let config = Arc::new(config);
        let mut folders = Vec::new();
        for text in names {
            let name = name(text);
            let folder = NameFolder::set_up(&config, &name, false, &SystemClock, &OsEntropy).unwrap();
            table.0.lock().unwrap().insert(format!("_ahoy.{name}"), folder.anchor.text().to_owned());
            folders.push(folder);
        }
        let name = name(names[0]);
        let store = wrap(store::open(&config.store_dir(), 1 << 20).unwrap());
        let clock = time.clock.clone();
        let cards = CardBook::open(folders, config.clone(), spki, store.clone(), clock.clone()).await?;
        let resolver = Resolver::new(
            Arc::new(table.clone()),
            Arc::new(MemoryPins::default()),
            Arc::new(endpoint.clone()),
            clock.clone(),
            ResolverLimits::default(),
        );
        let lifecycle = Lifecycle::default();
        let parts = Parts {
            config: config.clone(),
            store,
            endpoint: endpoint.clone(),
            resolver: Arc::new(resolver),
            cards: Arc::new(cards),
            invites: InviteKey::load_or_create(&config.data_dir, &OsEntropy).unwrap(),
            clock,
            entropy: Arc::new(OsEntropy),
            tasks: lifecycle.tasks(),
            metrics: Metrics::default(),
        };
        let homeserver = Arc::new(homeserver::start(parts).await?);
        let (stop, stopped) = oneshot::channel();
        let idle = homeserver.clone();
        let tracker = tokio_util::task::TaskTracker::new();
        let life = tracker.spawn(async move {
            let deadline =
                if time.drain.is_zero() { Duration::ZERO } else { time.drain + homeserver::CUT_TIME };
            lifecycle
                .run(Once(Some(stopped)), || async move { idle.idle(time.drain).await }, deadline)
                .await
                .unwrap();
        });
        let invites = InviteKey::load_or_create(&config.data_dir, &OsEntropy).unwrap();
        Ok(Self { addr, name, invites, homeserver, stop: Some(stop), life, endpoint })
    }

    /// Asks it to stop, as a signal would.
    pub fn signal(&mut self) {
        drop(self.stop.take());
    }

    /// Stops it and waits until its store is closed.
    pub async fn stop(mut self) {
        self.signal();
        soon(self.life).await.unwrap();
        self.endpoint.close().await;
    }

    pub fn invite(&self, grant: &Grant) -> v1::Enrol {
        let invite = self.invites.issue(grant, VALID_FOR, &SystemClock, &OsEntropy);
        v1::Enrol { invite, label: "test".into() }
    }

    /// Signs a device in, with an invite of its own.
    pub async fn device(&self, account: &str, seed: u8) -> Client {
        let account = address(account);
        let enrol = self.invite(&Grant::Account(account.clone()));
        self.device_with(account, seed, enrol).await.unwrap()
    }

    /// Signs a device in with this invite.
    pub async fn device_with(
        &self,
        account: Address,
        seed: u8,
        enrol: v1::Enrol,
    ) -> Result<Client, ConnectError> {
        let hello = Hello::new(Role::Device, account.name().clone());
        let key = SigningKey::from_seed([seed; 32]);
        let credentials = DeviceCredentials { account, key, enrol: Some(enrol) };
        let endpoint = dialler();
        let greeted = soon(endpoint.greet(self.addr, "hs.example", hello)).await?;
        let (connection, _) = soon(greeted.as_device(&credentials)).await?;
        Ok(Client { connection, _endpoint: endpoint })
    }

    /// Signs a service in, with an invite of its own.
    pub async fn service(&self, service: &str, seed: u8, calls: bool, messages: bool) -> Client {
        let enrol = self.invite(&support(service));
        self.service_with(service, seed, calls, messages, enrol).await.unwrap()
    }

    /// Signs a service in with this invite.
    pub async fn service_with(
        &self,
        service: &str,
        seed: u8,
        calls: bool,
        messages: bool,
        enrol: v1::Enrol,
    ) -> Result<Client, ConnectError> {
        let credentials = ServiceCredentials {
            service: Local::parse(service).unwrap(),
            key: SigningKey::from_seed([seed; 32]),
            enrol: Some(enrol),
            addresses: vec![address("support@bank.example")],
            calls,
            messages,
        };
        let endpoint = dialler();
        let hello = Hello::new(Role::Service, name("bank.example"));
        let greeted = soon(endpoint.greet(self.addr, "hs.example", hello)).await?;
        let (connection, _) = soon(greeted.as_service(&credentials)).await?;
        Ok(Client { connection, _endpoint: endpoint })
    }
}

/// What a service of the bank may answer for.
pub fn support(service: &str) -> Grant {
    let addresses = vec![address("support@bank.example")];
    Grant::Service { name: name("bank.example"), service: service.into(), addresses }
}

/// Takes the port; one that was just given up may take a moment to be free.
async fn bound(bind: SocketAddr, identity: TlsIdentity) -> Endpoint {
    loop {
        let config = EndpointConfig::new(bind, identity.clone()).accepting().with_policy(policy());
        match Endpoint::bind(config) {
            Ok(endpoint) => return endpoint,
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

fn dialler() -> Endpoint {
    let identity = TlsIdentity::generate(&OsEntropy).unwrap();
    let config = EndpointConfig::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), identity);
    Endpoint::bind(config.with_policy(policy())).unwrap()
}

/// A signed-in device or service.
pub struct Client {
    pub connection: Connection,
    _endpoint: Endpoint,
}

impl Client {
    pub async fn request(
        &self,
        request: request::Request,
    ) -> Result<response::Response, ahoy_proto::fault::Fault> {
        let request = v1::Request { request: Some(request) };
        let response = self.connection.request(request, PATIENCE).await.map_err(|error| error.fault())?;
        match response.response {
            Some(response::Response::Error(error)) => Err(error.into()),
            other => Ok(other.expect("an answer")),
        }
    }

    pub async fn submit(&self, submit: v1::Submit) -> Result<v1::SubmitAck, ahoy_proto::fault::Fault> {
        match self.request(request::Request::Submit(submit)).await? {
            response::Response::Submit(ack) => Ok(ack),
            other => panic!("{other:?}"),
        }
    }

    pub async fn sync(&self, after: u64) -> Sync {
        let stream = self.connection.open(open::Open::Sync(v1::SyncOpen { after })).await.unwrap();
        Sync { stream }
    }

    pub async fn call(&self, id: [u8; 16], from: &str, to: &str, resume: Option<v1::Resume>) -> Leg {
        let call = Bytes::copy_from_slice(&id);
        let open = v1::CallOpen { call, to: to.into(), from: from.into(), resume };
        Leg {
            stream: self.connection.open(open::Open::Call(open)).await.unwrap(),
            sent: 0,
            heard: 0,
            token: Bytes::new(),
        }
    }

    /// The next call that is brought back to it. The other side waits to hear how far it was.
    pub async fn resumed(&self, before: &Leg) -> (v1::CallOpen, Leg) {
        let (open, mut leg) = self.ringing().await;
        let resumed = Message::Resumed(v1::Resumed { last_received: before.heard });
        leg.stream.send(&v1::CallFrame { counter: 0, message: Some(resumed) }).await.unwrap();
        (open, leg)
    }

    /// The next call that is brought to it.
    pub async fn ringing(&self) -> (v1::CallOpen, Leg) {
        match soon(self.connection.accept()).await {
            Some((open::Open::Call(open), stream)) => {
                let mut leg = Leg { stream, sent: 0, heard: 0, token: Bytes::from_static(&[7; 16]) };
                let token = v1::HopToken { token: leg.token.clone() };
                let frame = v1::CallFrame { counter: 0, message: Some(Message::Token(token)) };
                leg.stream.send(&frame).await.unwrap();
                (open, leg)
            }
            other => panic!("not a call: {other:?}"),
        }
    }
}

pub struct Sync {
    stream: Stream,
}

impl Sync {
    /// The next item, passing over the marks that all was sent.
    pub async fn next(&mut self) -> v1::SyncItem {
        loop {
            let frame = soon(self.stream.recv::<v1::SyncFrame>()).await.unwrap().expect("the log goes on");
            match frame.frame {
                Some(sync_frame::Frame::Item(item)) => return item,
                Some(sync_frame::Frame::CaughtUp(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

/// One end of a call.
pub struct Leg {
    pub stream: Stream,
    pub sent: u64,
    pub heard: u64,
    pub token: Bytes,
}

impl Leg {
    pub async fn say(&mut self, message: Message) {
        self.sent += 1;
        let frame = v1::CallFrame { counter: self.sent, message: Some(message) };
        self.stream.send(&frame).await.unwrap();
    }

    pub async fn hear(&mut self) -> Message {
        loop {
            let frame = soon(self.stream.recv::<v1::CallFrame>()).await.unwrap().expect("the call goes on");
            if frame.counter > 0 {
                assert_eq!(frame.counter, self.heard + 1, "no gap and no repeat");
                self.heard = frame.counter;
                return frame.message.unwrap();
            }
            match frame.message {
                Some(Message::Token(token)) => self.token = token.token,
                Some(Message::Resumed(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

/// Both homeservers of the story, and where they live.
pub struct World {
    pub dir: tempfile::TempDir,
    pub table: Table,
    pub home: Server,
    pub bank: Server,
}

impl World {
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let table = Table::default();
        let home = Server::start(&dir.path().join("home"), "home.example", &table, 0).await;
        let bank = Server::start(&dir.path().join("bank"), "bank.example", &table, 0).await;
        Self { dir, table, home, bank }
    }

    pub async fn stop(self) {
        self.home.stop().await;
        self.bank.stop().await;
    }
}

pub fn text(id: u64, to: &str, text: &str) -> v1::Submit {
    let mut client_id = [0; 16];
    client_id[..8].copy_from_slice(&id.to_be_bytes());
    let text = v1::Text { body: text.to_owned(), ..v1::Text::default() };
    v1::Submit {
        to: to.to_owned(),
        client_id: Bytes::copy_from_slice(&client_id),
        content: Some(v1::Content {
            fallback: String::new(),
            content: Some(v1::content::Content::Text(text)),
        }),
        ..v1::Submit::default()
    }
}
