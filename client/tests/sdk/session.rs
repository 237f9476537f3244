//! Signing in, staying signed in, and reading the sync log across lost connections.

use std::time::Duration;

use ahoy_client::{Session, Stage, Status, SyncEvent};
use ahoy_proto::fault::Fault;
use ahoy_proto::v1::{self, ErrorCode, auth, open::Open, request, response, sync_frame, sync_item};
use ahoy_transport::{Connection, Stream};

use crate::homeserver::{Homeserver, INVITE, soon};

#[tokio::test]
async fn a_device_enrols_with_an_invite_and_returns_without_one() {
    let mut home = Homeserver::start().await;
    let network = home.network();
    let session = Session::sign_in_device(&network, home.device(1, Some(INVITE))).await.expect("enrolled");
    assert_eq!(session.sync_head(), 7);
    assert_eq!(session.stun_addr().expect("connected").port(), home.port);
    session.close().await;
    home.arrival().await;
    Session::sign_in_device(&network, home.device(1, None)).await.expect("known");
    let auth::Auth::Device(device) = home.arrival().await.auth else { panic!("a device") };
    assert_eq!((device.account.as_str(), device.enrol), ("ann@home.example", None));
}

#[tokio::test]
async fn a_used_invite_is_refused_by_name_to_another_key_but_not_to_the_same() {
    let home = Homeserver::start().await;
    let network = home.network();
    Session::sign_in_device(&network, home.device(1, Some(INVITE))).await.expect("enrolled");
    // The answer to the first use may have been lost: the same key is in.
    Session::sign_in_device(&network, home.device(1, Some(INVITE))).await.expect("enrolled before");
    let Err(error) = Session::sign_in_device(&network, home.device(2, Some(INVITE))).await else {
        panic!("the invite was used")
    };
    assert_eq!((error.stage, error.code()), (Stage::SignIn, ErrorCode::BadInvite));
    assert!(error.advice().contains("ahoyd invite"), "{}", error.advice());
}

#[tokio::test]
async fn a_service_uses_its_configured_invite_only_while_its_key_is_unknown() {
    let mut home = Homeserver::start().await;
    let network = home.network();
    for enrols in [true, false] {
        let session = Session::sign_in_service(&network, home.service(Some(INVITE))).await.expect("in");
        let auth::Auth::Service(service) = home.arrival().await.auth else { panic!("a service") };
        assert_eq!(service.enrol.is_some(), enrols);
        assert_eq!(service.addresses, ["support@home.example"]);
        session.close().await;
    }
}

#[tokio::test]
async fn nothing_is_proved_to_a_server_whose_tls_key_is_not_in_the_card() {
    let mut home = Homeserver::with_card_for(Some([7; 32])).await;
    let Err(error) = Session::sign_in_device(&home.network(), home.device(1, Some(INVITE))).await else {
        panic!("the server is not authentic")
    };
    assert_eq!(error.code(), ErrorCode::PeerNotAuthentic);
    assert!(home.nobody_arrived());
}

#[tokio::test]
async fn a_request_asked_while_the_connection_is_lost_is_answered_over_the_next() {
    let mut home = Homeserver::start().await;
    let session = Session::sign_in_device(&home.network(), home.device(1, Some(INVITE))).await.expect("in");
    home.arrival().await.connection.close();
    let mut status = session.status();
    soon(status.wait_for(|status| !matches!(status, Status::Online))).await.expect("noticed");
    let asking = session.request(request::Request::Who(v1::Who { address: "bob@home.example".into() }));
    let answering = async {
        let connection = home.arrival().await.connection;
        let (mut stream, request) = next_request(&connection).await;
        assert!(matches!(request, request::Request::Who(_)));
        let who = v1::WhoAnswer { level: "Secure".into(), ..v1::WhoAnswer::default() };
        let answer = v1::Response { response: Some(response::Response::Who(who)) };
        stream.send(&answer).await.expect("the stream lives");
        stream.finish();
        connection
    };
    let (answer, _connection) = soon(async { tokio::join!(asking, answering) }).await;
    assert!(matches!(answer.expect("answered"), response::Response::Who(who) if who.level == "Secure"));
    assert!(matches!(*session.status().borrow(), Status::Online));
}

#[tokio::test]
async fn a_refused_request_tells_the_homeservers_code() {
    let mut home = Homeserver::start().await;
    let session = Session::sign_in_device(&home.network(), home.device(1, Some(INVITE))).await.expect("in");
    let connection = home.arrival().await.connection;
    let submitting = session.submit(v1::Submit { to: "x@home.example".into(), ..v1::Submit::default() });
    let refusing = async {
        let (mut stream, _) = next_request(&connection).await;
        let fault = Fault::new(ErrorCode::QueueFull, "10000 wait").with_retry_after(Duration::from_secs(3));
        let error = v1::Response { response: Some(response::Response::Error(fault.to_wire())) };
        stream.send(&error).await.expect("the stream lives");
        stream.finish();
    };
    let (result, ()) = soon(async { tokio::join!(submitting, refusing) }).await;
    let error = result.expect_err("refused");
    assert_eq!((error.code(), error.is_retryable()), (ErrorCode::QueueFull, true));
    assert_eq!(error.fault.retry_after, Some(Duration::from_secs(3)));
}

#[tokio::test]
async fn a_draining_homeserver_is_left_and_returned_to() {
    let mut home = Homeserver::start().await;
    let session = Session::sign_in_device(&home.network(), home.device(1, Some(INVITE))).await.expect("in");
    let first = home.arrival().await.connection;
    first.go_away(Duration::from_millis(50)).await.expect("told");
    let mut status = session.status();
    let second = home.arrival().await.connection;
    soon(status.wait_for(|status| matches!(status, Status::Online))).await.expect("back");
    assert_ne!(first.id(), second.id());
    // Calls may live on the first one: the homeserver decides when it ends.
    assert!(first.is_closed().is_none());
}

#[tokio::test]
async fn a_device_that_was_removed_stops_trying() {
    let mut home = Homeserver::start().await;
    let session = Session::sign_in_device(&home.network(), home.device(1, Some(INVITE))).await.expect("in");
    home.forget_everybody();
    home.arrival().await.connection.close();
    let mut status = session.status();
    let refused = soon(status.wait_for(|status| matches!(status, Status::Refused(_)))).await.expect("told");
    let Status::Refused(error) = &*refused else { panic!("just matched") };
    assert_eq!(error.code(), ErrorCode::UnknownDevice);
}

#[tokio::test]
async fn the_sync_log_goes_on_after_a_cut_and_gives_nothing_twice() {
    let mut home = Homeserver::start().await;
    let session = Session::sign_in_device(&home.network(), home.device(1, Some(INVITE))).await.expect("in");
    let mut log = session.sync(3);
    let cut = tokio::sync::Notify::new();
    let serving = async {
        let connection = home.arrival().await.connection;
        let mut stream = next_sync(&connection, 3).await;
        for position in [4, 6] {
            stream.send(&item(position)).await.expect("the stream lives");
        }
        soon(cut.notified()).await;
        connection.close();
        let connection = home.arrival().await.connection;
        let mut stream = next_sync(&connection, 6).await;
        // A homeserver that repeats itself is forgiven.
        for position in [6, 9] {
            stream.send(&item(position)).await.expect("the stream lives");
        }
        (connection, stream)
    };
    let reading = async {
        let mut seen = Vec::new();
        while seen.last() != Some(&9) {
            let SyncEvent::Item(item) = soon(log.next()).await.expect("an item") else { continue };
            seen.push(item.position);
            if item.position == 6 {
                cut.notify_one();
            }
        }
        seen
    };
    let (_kept, seen) = soon(async { tokio::join!(serving, reading) }).await;
    assert_eq!(seen, [4, 6, 9]);
    assert_eq!(log.position(), 9);
}

fn item(position: u64) -> v1::SyncFrame {
    let placed = sync_item::Item::Placed(v1::Placed::default());
    let item = v1::SyncItem { position, item: Some(placed), ..v1::SyncItem::default() };
    v1::SyncFrame { frame: Some(sync_frame::Frame::Item(item)) }
}

async fn next_sync(connection: &Connection, after: u64) -> Stream {
    let Some((Open::Sync(open), stream)) = soon(connection.accept()).await else { panic!("a sync stream") };
    assert_eq!(open.after, after);
    stream
}

async fn next_request(connection: &Connection) -> (Stream, request::Request) {
    let Some((Open::Request(request), stream)) = soon(connection.accept()).await else { panic!("a request") };
    (stream, request.request.expect("not empty"))
}
