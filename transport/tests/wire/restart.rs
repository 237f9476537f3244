//! What a peer notices of a homeserver that died without a word and came back.

use std::time::Duration;

use ahoy_proto::v1;
use ahoy_transport::clock::OsEntropy;
use ahoy_transport::{Endpoint, EndpointConfig, TlsIdentity};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::fixture::*;

/// Half of the idle time, after which silence alone would end the connection.
const SOON: Duration = Duration::from_secs(5);

fn server_at(bind: std::net::SocketAddr, identity: TlsIdentity) -> Endpoint {
    Endpoint::bind(EndpointConfig::new(bind, identity).accepting().with_policy(policy()))
        .expect("a free port")
}

#[tokio::test]
async fn a_restarted_server_ends_the_connections_of_its_predecessor_at_once() {
    let identity = TlsIdentity::generate(&OsEntropy).expect("a key");
    let client = endpoint();
    let first = tokio::runtime::Runtime::new().expect("a runtime");
    let (told, port) = oneshot::channel();
    let first_identity = identity.clone();
    first.spawn(async move {
        let server = server_at(loopback(), first_identity);
        told.send(server.local_addr()).expect("the test waits for it");
        let arrived = arrive(&server).await.expect("a good proof").expect("not a card reader");
        let _connection = arrived.ready(v1::Ready::default()).await.expect("a live connection");
        std::future::pending::<()>().await;
    });
    let address = port.await.expect("the server starts");
    let hello = ahoy_transport::Hello::new(v1::Role::Device, name("home.example"));
    let greeted = within(client.greet(address, "hs.home.example", hello)).await.expect("a greeting");
    let (connection, _) = within(greeted.as_device(&device())).await.expect("a welcome");
    // Its tasks are dropped where they stand: nobody says goodbye.
    tokio::task::spawn_blocking(move || first.shutdown_timeout(PATIENCE)).await.expect("no panic");

    let _second = server_at(address, identity);
    let since = Instant::now();
    let request = connection.request(who("ann@home.example"), PATIENCE);
    within(request).await.expect_err("the connection is gone");
    within(connection.closed()).await;
    assert!(since.elapsed() < SOON, "noticed after {:?}", since.elapsed());
}
