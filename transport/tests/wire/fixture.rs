//! Two endpoints and the pieces that a test needs to make them talk.

use std::net::SocketAddr;
use std::time::Duration;

use ahoy_proto::address::{Address, Local};
use ahoy_proto::key::SigningKey;
use ahoy_proto::name::{Name, NamePolicy};
use ahoy_proto::v1::{self, Role};
use ahoy_transport::clock::OsEntropy;
use ahoy_transport::{
    Arrived, CardBook, ConnectError, Connection, DeviceCredentials, Endpoint, EndpointConfig, Greeted, Hello,
    ServiceCredentials, TlsIdentity, TransportLimits,
};

/// Far above what anything here takes, far below a test runner's patience.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Serves `home.example` with a card that the transport does not look into.
pub struct Book;

impl CardBook for Book {
    fn card(&self, name: &Name) -> Option<v1::Signed> {
        (name.as_str() == "home.example").then(card)
    }
}

pub fn card() -> v1::Signed {
    v1::Signed { body: "card".into(), signature: vec![1; 64].into(), signer: vec![2; 32].into() }
}

pub fn policy() -> NamePolicy {
    NamePolicy::allowing(["example"])
}

pub fn name(text: &str) -> Name {
    Name::parse(text, &policy()).expect("a name")
}

pub fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().expect("an address")
}

pub fn endpoint_with(limits: TransportLimits) -> Endpoint {
    let identity = TlsIdentity::generate(&OsEntropy).expect("a key");
    let config = EndpointConfig::new(loopback(), identity).accepting().with_policy(policy());
    Endpoint::bind(config.with_limits(limits)).expect("a free port")
}

pub fn endpoint() -> Endpoint {
    endpoint_with(TransportLimits::default())
}

pub fn device() -> DeviceCredentials {
    DeviceCredentials {
        account: Address::parse("ann@home.example", &policy()).expect("an address"),
        key: SigningKey::from_seed([1; 32]),
        enrol: None,
    }
}

pub fn service() -> ServiceCredentials {
    ServiceCredentials {
        service: Local::parse("bridge").expect("a local part"),
        key: SigningKey::from_seed([2; 32]),
        enrol: None,
        addresses: vec![Address::parse("support@home.example", &policy()).expect("an address")],
        calls: true,
        messages: false,
    }
}

pub async fn greet(from: &Endpoint, to: &Endpoint, role: Role) -> Result<Greeted, ConnectError> {
    let hello = Hello::new(role, name("home.example"));
    from.greet(to.local_addr(), "hs.home.example", hello).await
}

/// The next arrival at `server`.
pub async fn arrive(server: &Endpoint) -> Result<Option<Arrived>, ConnectError> {
    server.accept().await.expect("an open endpoint").greet(&Book).await
}

/// A device's connection, at the client and at the server.
pub async fn connected(client: &Endpoint, server: &Endpoint) -> (Connection, Connection) {
    let dial = async {
        let greeted = greet(client, server, Role::Device).await.expect("a greeting");
        greeted.as_device(&device()).await.expect("a welcome").0
    };
    let accept = async {
        let arrived = arrive(server).await.expect("a good proof").expect("not a card reader");
        arrived.ready(v1::Ready::default()).await.expect("a live connection")
    };
    within(async { tokio::join!(dial, accept) }).await
}

/// Fails the test when `future` hangs.
pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("does not hang")
}

pub fn who(address: &str) -> v1::Request {
    v1::Request { request: Some(v1::request::Request::Who(v1::Who { address: address.to_owned() })) }
}

pub fn known(display_name: &str) -> v1::Response {
    let answer = v1::WhoAnswer { display_name: display_name.to_owned(), ..Default::default() };
    v1::Response { response: Some(v1::response::Response::Who(answer)) }
}
