//! How long the wire takes on loopback: connecting, a request, and a long pipe. `cargo bench -p ahoy-transport`.

use std::net::SocketAddr;
use std::time::Duration;

use ahoy_proto::address::Address;
use ahoy_proto::key::SigningKey;
use ahoy_proto::name::{Name, NamePolicy};
use ahoy_proto::v1::open::Open;
use ahoy_proto::v1::{self, Role};
use ahoy_transport::clock::OsEntropy;
use ahoy_transport::{CardBook, Connection, DeviceCredentials, Endpoint, EndpointConfig, Hello, TlsIdentity};
use tokio::time::Instant;

const CONNECTIONS: usize = 100;
const REQUESTS: usize = 5_000;
const ITEMS: u64 = 500_000;
const BATCH: u64 = 128;

struct Book;

impl CardBook for Book {
    fn card(&self, _: &Name) -> Option<v1::Signed> {
        Some(v1::Signed { body: vec![7; 1500].into(), ..Default::default() })
    }
}

fn policy() -> NamePolicy {
    NamePolicy::allowing(["example"])
}

fn endpoint() -> Endpoint {
    let identity = TlsIdentity::generate(&OsEntropy).expect("a key");
    let bind: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    let config = EndpointConfig::new(bind, identity).accepting().with_policy(policy());
    Endpoint::bind(config).expect("a free port")
}

async fn connect(client: &Endpoint, server: &Endpoint, host: &str) -> (Connection, Connection, bool) {
    let name = Name::parse("home.example", &policy()).expect("a name");
    let account = Address::parse("ann@home.example", &policy()).expect("an address");
    let device = DeviceCredentials { account, key: SigningKey::from_seed([1; 32]), enrol: None };
    let dial = async {
        let greeted = client.greet(server.local_addr(), host, Hello::new(Role::Device, name));
        greeted.await.expect("a greeting").as_device(&device).await.expect("a welcome").0
    };
    let accept = async {
        let incoming = server.accept().await.expect("open");
        let has_visited = incoming.has_visited();
        let arrived = incoming.greet(&Book).await.expect("a good proof").expect("a device");
        (arrived.ready(v1::Ready::default()).await.expect("live"), has_visited)
    };
    let (ours, (theirs, has_visited)) = tokio::join!(dial, accept);
    (ours, theirs, has_visited)
}

fn print(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |share: usize| times[(times.len() - 1) * share / 100].as_secs_f64() * 1e3;
    println!("{what:<44} p50 {:>8.3} ms   p99 {:>8.3} ms   n {}", at(50), at(99), times.len());
}

async fn connecting(fresh: bool) -> Vec<Duration> {
    let (client, server) = (endpoint(), endpoint());
    connect(&client, &server, "first.example").await;
    let mut times = Vec::new();
    for round in 0..CONNECTIONS {
        // A host never seen has no address token, so the server asks for a Retry.
        let host = if fresh { format!("h{round}.example") } else { "first.example".to_owned() };
        let start = Instant::now();
        let (ours, theirs, has_visited) = connect(&client, &server, &host).await;
        let elapsed = start.elapsed();
        // Only what the line says is counted: a token was used, or a Retry was made.
        if has_visited != fresh {
            times.push(elapsed);
        }
        // A round trip after `Ready`, so that the tokens for the next visit have arrived.
        let (mut stream, accepted) =
            tokio::join!(ours.open(Open::Call(v1::CallOpen::default())), theirs.accept());
        drop(accepted);
        let _ = stream.as_mut().expect("a stream").recv::<v1::CallFrame>().await;
    }
    times
}

async fn answer_requests(connection: Connection) {
    let answer = v1::response::Response::Who(v1::WhoAnswer { level: "Secure".into(), ..Default::default() });
    let response = v1::Response { response: Some(answer) };
    while let Some((_, mut stream)) = connection.accept().await {
        if stream.send(&response).await.is_ok() {
            stream.finish();
        }
    }
}

async fn requests() {
    let (client, server) = (endpoint(), endpoint());
    let (ours, theirs, _) = connect(&client, &server, "hs.example").await;
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(answer_requests(theirs));
    let ask = |connection: Connection| async move {
        let who = v1::request::Request::Who(v1::Who { address: "ann@home.example".into() });
        let start = Instant::now();
        let response = connection.request(v1::Request { request: Some(who) }, Duration::from_secs(5)).await;
        response.expect("an answer");
        start.elapsed()
    };
    let mut times = Vec::new();
    let start = Instant::now();
    for _ in 0..REQUESTS {
        times.push(ask(ours.clone()).await);
    }
    println!("{:<44} {:>8.0} /s", "requests, one at a time", REQUESTS as f64 / start.elapsed().as_secs_f64());
    print("  each", times);
    let start = Instant::now();
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..32 {
        let ours = ours.clone();
        asking.spawn(async move {
            for _ in 0..REQUESTS / 8 {
                ask(ours.clone()).await;
            }
        });
    }
    asking.join_all().await;
    println!(
        "{:<44} {:>8.0} /s",
        "requests, 32 at a time",
        (REQUESTS * 4) as f64 / start.elapsed().as_secs_f64()
    );
}

fn item(seq: u64) -> v1::PipeFrame {
    let event = v1::Event { body: vec![7; 460].into(), attestation: None };
    let item = v1::pipe_item::Item::Submit(event);
    let item = v1::PipeItem { seq, item: Some(item), recipient: String::new() };
    v1::PipeFrame { frame: Some(v1::pipe_frame::Frame::Item(item)) }
}

async fn pipe() {
    let (client, server) = (endpoint(), endpoint());
    let (ours, theirs, _) = connect(&client, &server, "hs.example").await;
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move {
        let (_, mut stream) = theirs.accept().await.expect("a pipe");
        let mut expected = 0;
        while let Some(frame) = stream.recv::<v1::PipeFrame>().await.expect("frames") {
            let Some(v1::pipe_frame::Frame::Item(item)) = frame.frame else { panic!("an item") };
            assert_eq!(item.seq, expected, "in order");
            expected += 1;
        }
        assert_eq!(expected, ITEMS);
        theirs.close();
    });
    let mut stream = ours.open(Open::Pipe(v1::PipeOpen::default())).await.expect("a stream");
    let start = Instant::now();
    for first in (0..ITEMS).step_by(BATCH as usize) {
        let batch: Vec<_> = (first..ITEMS.min(first + BATCH)).map(item).collect();
        stream.send_batch(&batch).await.expect("a live stream");
    }
    stream.finish();
    while tasks.join_next().await.transpose().expect("every item arrived").is_some() {}
    let rate = ITEMS as f64 / start.elapsed().as_secs_f64();
    println!(
        "{:<44} {rate:>8.0} /s   (ceiling of a bare QUIC stream: 435,000 to 555,000)",
        "pipe, 470-byte items, batches of 128"
    );
}

fn main() {
    ahoy_transport::install_crypto_provider();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        print("connect and sign in, address unknown (Retry)", connecting(true).await);
        print("connect and sign in, address known (token)", connecting(false).await);
        requests().await;
        pipe().await;
    });
}
