//! What ready connections carry.

use std::time::Duration;

use ahoy_proto::fault::Fault;
use ahoy_proto::v1::open::Open;
use ahoy_proto::v1::{self, ErrorCode};
use ahoy_transport::{Closed, Connection, ControlEvent, StreamError, TransportLimits};

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
    let deadline = Duration::from_millis(50);
    assert_eq!(ours.request(who("a@home.example"), deadline).await, Err(StreamError::Deadline(deadline)));
}

#[tokio::test]
async fn an_error_response_is_the_errors_code() {
    let (client, server) = (endpoint(), endpoint());
    let (ours, theirs) = connected(&client, &server).await;
    let refuse = async {
        let (_, mut stream) = theirs.accept().await.expect("a stream");
        let error = Fault::new(ErrorCode::NotAllowed, "not you").to_wire();
        let response = v1::Response { response: Some(v1::response::Response::Error(error)) };
        stream.send(&response).await.expect("a live stream");
        stream.finish();
    };
    let (response, ()) =
        within(async { tokio::join!(ours.request(who("a@b.example"), PATIENCE), refuse) }).await;
    assert_eq!(response.expect_err("refused").fault().code, ErrorCode::NotAllowed);
}

fn call() -> Open {
    Open::Call(v1::CallOpen::default())
}

fn ringing(counter: u64) -> v1::CallFrame {
    let message = v1::call_frame::Message::Ringing(v1::Ringing::default());
    v1::CallFrame { counter, message: Some(message) }
}

#[tokio::test]
async fn a_batch_arrives_whole_and_in_order_in_both_halves() {
    let (client, server) = (endpoint(), endpoint());
    let (ours, theirs) = connected(&client, &server).await;
    let (mut send, mut recv) = within(ours.open(call())).await.expect("a stream").split();
    let frames: Vec<_> = (1..=5000).map(ringing).collect();
    let echo = async {
        let (_, mut stream) = theirs.accept().await.expect("a stream");
        while let Some(frame) = stream.recv::<v1::CallFrame>().await.expect("frames") {
            stream.send(&frame).await.expect("a live stream");
        }
        stream.finish();
    };
    let write = async {
        send.send_batch(&frames).await.expect("a live stream");
        send.finish();
    };
    let read = async {
        let mut got = Vec::new();
        while let Some(frame) = recv.recv::<v1::CallFrame>().await.expect("frames") {
            got.push(frame);
        }
        got
    };
    let ((), (), got) = within(async { tokio::join!(echo, write, read) }).await;
    assert_eq!(got, frames);
}

#[tokio::test]
async fn a_message_over_the_limit_is_not_sent_and_the_stream_lives() {
    let (client, server) = (endpoint(), endpoint());
    let (ours, theirs) = connected(&client, &server).await;
    let mut stream = within(ours.open(call())).await.expect("a stream");
    let early = v1::Early { sdp: "x".repeat(300_000), ..Default::default() };
    let large = v1::CallFrame { counter: 1, message: Some(v1::call_frame::Message::Early(early)) };
    assert!(matches!(stream.send(&large).await, Err(StreamError::TooLarge { limit: 262_144, .. })));
    stream.send(&ringing(1)).await.expect("a live stream");
    let (_, mut accepted) = within(theirs.accept()).await.expect("a stream");
    assert_eq!(within(accepted.recv()).await, Ok(Some(ringing(1))));
}

#[tokio::test]
async fn calls_beyond_the_peers_count_wait_for_a_place() {
    let limits = TransportLimits { call_streams: 1, ..TransportLimits::default() };
    let (client, server) = (endpoint(), endpoint_with(limits));
    let (ours, theirs) = connected(&client, &server).await;
    let first = within(ours.open(call())).await.expect("a stream");
    let (_, mut accepted) = within(theirs.accept()).await.expect("a stream");
    let second = ours.open(call());
    tokio::pin!(second);
    assert!(futures_util::poll!(&mut second).is_pending());
    accepted.finish();
    drop(first);
    within(second).await.expect("a place");
    assert!(matches!(within(theirs.accept()).await, Some((Open::Call(_), _))));
}

#[tokio::test]
async fn names_are_asked_for_and_claimed_on_the_control_stream() {
    let (client, server) = (endpoint(), endpoint());
    let (ours, theirs) = connected(&client, &server).await;
    let bank = name("bank.example");
    let serve = async {
        assert_eq!(theirs.control_event().await, Some(ControlEvent::Want(bank.clone())));
        theirs.answer_want(&bank, Ok(card())).await.expect("a live connection");
        assert_eq!(theirs.control_event().await, Some(ControlEvent::Claim(card())));
        let refusal = Fault::new(ErrorCode::ClaimRefused, "not in the card");
        theirs.answer_claim(&bank, Err(refusal)).await.expect("a live connection");
    };
    let ask = async {
        assert_eq!(ours.want(&bank, PATIENCE).await, Ok(card()));
        ours.claim(&bank, card(), PATIENCE).await.expect_err("refused").fault().code
    };
    let ((), code) = within(async { tokio::join!(serve, ask) }).await;
    assert_eq!(code, ErrorCode::ClaimRefused);
}

#[tokio::test]
async fn draining_lets_open_streams_end_and_new_ones_nowhere() {
    let (client, server) = (endpoint(), endpoint());
    let (ours, theirs) = connected(&client, &server).await;
    let mut stream = within(ours.open(call())).await.expect("a stream");
    let (_, mut accepted) = within(theirs.accept()).await.expect("a stream");
    let after = Duration::from_millis(1500);
    let client_side = async {
        assert_eq!(ours.control_event().await, Some(ControlEvent::GoAway(after)));
        assert!(matches!(ours.open(call()).await, Err(StreamError::Draining(wait)) if wait == after));
        stream.send(&ringing(1)).await.expect("open streams go on");
        stream.finish();
        assert_eq!(stream.recv::<v1::CallFrame>().await, Ok(None));
        ours.closed().await
    };
    let server_side = async {
        assert_eq!(accepted.recv().await, Ok(Some(ringing(1))));
        assert_eq!(accepted.recv::<v1::CallFrame>().await, Ok(None));
        accepted.finish();
        drop(accepted);
    };
    let drain = server.drain(after, PATIENCE);
    let (closed, (), ()) = within(async { tokio::join!(client_side, server_side, drain) }).await;
    assert!(matches!(closed, Closed::Refused(fault) if fault.code == ErrorCode::Unavailable));
    assert!(server.accept().await.is_none());
}

#[tokio::test]
async fn a_drain_ends_at_its_deadline_whatever_is_open() {
    let (client, server) = (endpoint(), endpoint());
    let (ours, theirs) = connected(&client, &server).await;
    let _stream = within(ours.open(call())).await.expect("a stream");
    let _accepted = within(theirs.accept()).await.expect("a stream");
    within(server.drain(Duration::ZERO, Duration::from_millis(50))).await;
    assert!(within(ours.closed()).await.fault().is_retry());
}
