//! What ready connections carry.

use ahoy_proto::v1::open::Open;
use ahoy_proto::v1::{self, ErrorCode};
use ahoy_transport::{Connection, StreamError};

use crate::fixture::*;

/// Answers one request.
async fn answer(connection: &Connection) {
    let (open, mut stream) = connection.accept().await.expect("a stream");
    let Open::Request(v1::Request { request: Some(v1::request::Request::Who(who)) }) = open else {
        panic!("a question")
    };
    stream.send(&known(&who.address)).await.expect("a live stream");
    stream.finish();
}

#[tokio::test]
async fn a_request_is_answered() {
    let (client, server) = (endpoint(), endpoint());
    let (ours, theirs) = connected(&client, &server).await;
    let request = ours.request(who("ann@home.example"), PATIENCE);
    let (response, ()) = within(async { tokio::join!(request, answer(&theirs)) }).await;
    assert_eq!(response, Ok(known("ann@home.example")));
}

#[tokio::test]
async fn both_sides_may_open_streams() {
    let (client, server) = (endpoint(), endpoint());
    let (ours, theirs) = connected(&client, &server).await;
    let request = theirs.request(who("bob@home.example"), PATIENCE);
    let (response, ()) = within(async { tokio::join!(request, answer(&ours)) }).await;
    assert_eq!(response, Ok(known("bob@home.example")));
}

#[tokio::test]
async fn a_request_without_an_answer_ends_at_its_deadline() {
    let (client, server) = (endpoint(), endpoint());
    let (ours, _theirs) = connected(&client, &server).await;
    let deadline = std::time::Duration::from_millis(50);
    assert_eq!(ours.request(who("a@home.example"), deadline).await, Err(StreamError::Deadline(deadline)));
}

#[tokio::test]
async fn an_error_response_is_the_errors_code() {
    let (client, server) = (endpoint(), endpoint());
    let (ours, theirs) = connected(&client, &server).await;
    let refuse = async {
        let (_, mut stream) = theirs.accept().await.expect("a stream");
        let error = ahoy_proto::fault::Fault::new(ErrorCode::NotAllowed, "not you").to_wire();
        let response = v1::Response { response: Some(v1::response::Response::Error(error)) };
        stream.send(&response).await.expect("a live stream");
        stream.finish();
    };
    let (response, ()) =
        within(async { tokio::join!(ours.request(who("a@b.example"), PATIENCE), refuse) }).await;
    assert_eq!(response.expect_err("refused").fault().code, ErrorCode::NotAllowed);
}
