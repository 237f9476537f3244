//! Who gets in, and what a stranger gets instead.

use ahoy_proto::card::{CardSource, FetchError, FetchedCard};
use ahoy_proto::fault::Fault;
use ahoy_proto::session::SessionError;
use ahoy_proto::v1::{self, ErrorCode, Role, auth};
use ahoy_transport::ConnectError;

use crate::fixture::*;

#[tokio::test]
async fn a_device_signs_in_and_both_sides_see_each_other() {
    let (client, server) = (endpoint(), endpoint());
    let dial = async {
        let greeted = greet(&client, &server, Role::Device).await.expect("a greeting");
        assert_eq!(greeted.spki(), server.spki());
        assert_eq!(greeted.server_hello().card, Some(card()));
        greeted.as_device(&device()).await.expect("a welcome")
    };
    let accept = async {
        let arrived = arrive(&server).await.expect("a good proof").expect("not a card reader");
        assert_eq!(
            (arrived.role, arrived.spki, arrived.wanted.as_str()),
            (Role::Device, None, "home.example")
        );
        assert!(matches!(&arrived.auth, auth::Auth::Device(d) if d.account == "ann@home.example"));
        arrived.ready(v1::Ready { sync_head: 7, ..Default::default() }).await.expect("a live connection")
    };
    let ((connection, ready), accepted) = within(async { tokio::join!(dial, accept) }).await;
    assert_eq!(ready.sync_head, 7);
    assert_eq!(connection.remote_addr(), server.local_addr());
    assert_eq!(accepted.remote_addr(), client.local_addr());
}

#[tokio::test]
async fn a_service_and_a_homeserver_sign_in_each_with_their_own_proof() {
    let (client, server) = (endpoint(), endpoint());
    let dial = async {
        let greeted = greet(&client, &server, Role::Service).await.expect("a greeting");
        greeted.as_service(&service()).await.expect("a welcome");
        let greeted = greet(&client, &server, Role::Homeserver).await.expect("a greeting");
        greeted.as_homeserver(vec![card()]).await.expect("a welcome")
    };
    let accept = async {
        let arrived = arrive(&server).await.expect("a good proof").expect("a service");
        assert!(matches!(&arrived.auth, auth::Auth::Service(s) if s.service == "bridge" && s.calls));
        let first = arrived.ready(v1::Ready::default()).await.expect("a live connection");
        let arrived = arrive(&server).await.expect("claims").expect("a homeserver");
        assert_eq!(arrived.spki, Some(client.spki()), "a homeserver shows its certificate");
        let second = arrived.ready(v1::Ready::default()).await.expect("a live connection");
        (first, second)
    };
    within(async { tokio::join!(dial, accept) }).await;
}

#[tokio::test]
async fn a_card_reader_gets_the_card_and_nothing_else() {
    let (client, server) = (endpoint(), endpoint());
    let dial = async {
        let greeted = greet(&client, &server, Role::CardReader).await.expect("a greeting");
        assert_eq!(greeted.server_hello().card, Some(card()));
        greeted.close();
    };
    let (arrived, ()) = within(async { tokio::join!(arrive(&server), dial) }).await;
    assert!(arrived.expect("an orderly end").is_none());
}

#[tokio::test]
async fn a_name_that_is_not_served_is_refused_by_its_code() {
    let (client, server) = (endpoint(), endpoint());
    let hello = ahoy_transport::Hello::new(Role::Device, name("other.example"));
    let dial = client.greet(server.local_addr(), "hs.home.example", hello);
    let (greeted, _) = within(async { tokio::join!(dial, arrive(&server)) }).await;
    assert_eq!(greeted.expect_err("not served").fault().code, ErrorCode::NameNotServed);
}

#[tokio::test]
async fn the_homeservers_refusal_reaches_the_device_with_its_reason() {
    let (client, server) = (endpoint(), endpoint());
    let fault = Fault::new(ErrorCode::UnknownDevice, "this account has no such device");
    let dial = async {
        let greeted = greet(&client, &server, Role::Device).await.expect("a greeting");
        greeted.as_device(&device()).await.expect_err("unknown")
    };
    let accept = async {
        let arrived = arrive(&server).await.expect("a good proof").expect("a device");
        arrived.refuse(&fault).await;
    };
    let (refused, ()) = within(async { tokio::join!(dial, accept) }).await;
    let ConnectError::Session(SessionError::Refused(told)) = refused else { panic!("{refused}") };
    assert_eq!(told, fault);
}

#[tokio::test]
async fn the_endpoint_fetches_cards_for_the_resolver() {
    let (client, server) = (endpoint(), endpoint());
    let wanted = name("home.example");
    let fetch = client.fetch(&wanted, "hs.home.example", server.local_addr());
    let (fetched, _) = within(async { tokio::join!(fetch, arrive(&server)) }).await;
    assert_eq!(fetched, Ok(FetchedCard { signed: card(), spki: server.spki() }));
    let other = name("other.example");
    let fetch = client.fetch(&other, "hs.home.example", server.local_addr());
    let (fetched, _) = within(async { tokio::join!(fetch, arrive(&server)) }).await;
    assert!(matches!(fetched, Err(FetchError::Refused(fault)) if fault.code == ErrorCode::NameNotServed));
}

#[tokio::test]
async fn a_client_that_came_before_is_spared_the_retry() {
    let (client, server) = (endpoint(), endpoint());
    for has_visited in [false, true] {
        let dial = async {
            let greeted = greet(&client, &server, Role::Device).await.expect("a greeting");
            greeted.as_device(&device()).await.expect("a welcome").0
        };
        let accept = async {
            let incoming = server.accept().await.expect("an open endpoint");
            assert_eq!(incoming.has_visited(), has_visited);
            let arrived = incoming.greet(&Book).await.expect("a good proof").expect("a device");
            arrived.ready(v1::Ready::default()).await.expect("a live connection")
        };
        within(async { tokio::join!(dial, accept) }).await;
    }
}
