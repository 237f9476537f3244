//! Calls: placed and received, resumed over another connection, protected against replay and slowness.

use std::time::Duration;

use ahoy_client::{Call, PlaceCall, Session};
use ahoy_proto::invite::{InviteBody, check_invite, unsigned_invite};
use ahoy_proto::time::{Clock, Timestamp};
use ahoy_proto::v1::{self, ErrorCode, Hangup, HangupReason, call_frame::Message, open::Open};
use ahoy_transport::clock::SystemClock;
use ahoy_transport::{Connection, Stream, StreamError};
use bytes::Bytes;

use crate::homeserver::{Homeserver, INVITE, address, call_stream, frame, policy, say, soon, token};

const TOKEN_1: &str = "token-1-token-1-";
const TOKEN_2: &str = "token-2-token-2-";
const SDP: &str = "v=0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 8\r\n";

async fn signed_in(home: &mut Homeserver) -> (Session, Connection) {
    let session = Session::sign_in_device(&home.network(), home.device(1, Some(INVITE))).await.expect("in");
    let connection = home.arrival().await.connection;
    (session, connection)
}

fn to_support(ring: Option<Duration>) -> PlaceCall {
    PlaceCall {
        to: address("support@bank.example"),
        from: None,
        sdp: SDP.into(),
        ring,
        display: "Ann".into(),
    }
}

fn dtmf(digits: &str) -> Message {
    Message::Dtmf(v1::Dtmf { digits: digits.into(), duration_ms: 100 })
}

fn answer() -> Message {
    Message::Answer(v1::Answer { sdp: SDP.into(), ..v1::Answer::default() })
}

/// A placed call, its stream at the homeserver with the first token given and the Invite read.
async fn placed(session: &Session, connection: &Connection) -> (Call, Stream, v1::CallOpen) {
    let call = session.place_call(to_support(None)).await.expect("placed");
    let (open, mut stream) = call_stream(connection).await;
    say(&mut stream, 0, token(TOKEN_1)).await;
    let first = frame(&mut stream).await;
    assert_eq!(first.counter, 1);
    assert!(matches!(first.message, Some(Message::Invite(_))));
    (call, stream, open)
}

#[tokio::test]
async fn an_invite_vouches_for_its_offer_and_the_answer_reaches_the_caller() {
    let mut home = Homeserver::start().await;
    let (session, connection) = signed_in(&mut home).await;
    let mut call = session.place_call(to_support(None)).await.expect("placed");
    let (open, mut stream) = call_stream(&connection).await;
    assert_eq!((open.from.as_str(), open.to.as_str()), ("ann@home.example", "support@bank.example"));
    let Some(Message::Invite(invite)) = frame(&mut stream).await.message else { panic!("an Invite") };
    let body = check_invite(&invite, &policy()).expect("vouches for its offer");
    assert_eq!((&body.call[..], invite.remaining_ms), (&open.call[..], 90_000));
    say(&mut stream, 0, token(TOKEN_1)).await;
    say(&mut stream, 1, Message::Ringing(v1::Ringing::default())).await;
    say(&mut stream, 2, answer()).await;
    assert!(matches!(soon(call.next()).await, Some(Message::Ringing(_))));
    assert!(matches!(soon(call.next()).await, Some(Message::Answer(answer)) if answer.sdp == SDP));
    say(&mut stream, 3, Message::Hangup(Hangup { sip_status: 200, ..Hangup::default() })).await;
    assert!(matches!(soon(call.next()).await, Some(Message::Hangup(hangup)) if hangup.sip_status == 200));
    assert!(soon(call.next()).await.is_none());
    assert!(call.send(dtmf("1")).await.is_err());
}

#[tokio::test]
async fn a_placed_call_goes_on_over_the_next_connection_and_loses_nothing() {
    let mut home = Homeserver::start().await;
    let (session, connection) = signed_in(&mut home).await;
    let (mut call, mut stream, open) = placed(&session, &connection).await;
    say(&mut stream, 1, answer()).await;
    assert_eq!(soon(call.next()).await, Some(answer()));
    connection.close();
    soon(connection.closed()).await;
    for digit in ["1", "2"] {
        call.send(dtmf(digit)).await.expect("the call lives");
    }
    let connection = home.arrival().await.connection;
    let (again, mut stream) = call_stream(&connection).await;
    assert_eq!(again.call, open.call);
    let resume = again.resume.expect("a resumption");
    assert_eq!((&resume.token[..], resume.last_received), (TOKEN_1.as_bytes(), 1));
    say(&mut stream, 0, token(TOKEN_2)).await;
    say(&mut stream, 0, Message::Resumed(v1::Resumed { last_received: 1 })).await;
    // The homeserver does not know what arrived before the cut: a repeat is not given twice.
    say(&mut stream, 1, answer()).await;
    say(&mut stream, 2, dtmf("9")).await;
    assert_eq!(soon(call.next()).await, Some(dtmf("9")));
    for (counter, digit) in [(2, "1"), (3, "2")] {
        let next = frame(&mut stream).await;
        assert_eq!((next.counter, next.message), (counter, Some(dtmf(digit))));
    }
    assert_eq!(call.resumptions(), 1);
    // The next cut is resumed with the next token.
    connection.close();
    let connection = home.arrival().await.connection;
    let (again, _stream) = call_stream(&connection).await;
    assert_eq!(again.resume.expect("a resumption").token, TOKEN_2);
}

#[tokio::test]
async fn a_call_that_the_homeserver_forgot_ends_as_connection_lost() {
    let mut home = Homeserver::start().await;
    let (session, connection) = signed_in(&mut home).await;
    let (mut call, mut stream, _) = placed(&session, &connection).await;
    // Heard by the program, so the token before it has arrived too.
    say(&mut stream, 1, Message::Ringing(v1::Ringing::default())).await;
    assert!(matches!(soon(call.next()).await, Some(Message::Ringing(_))));
    connection.close();
    let connection = home.arrival().await.connection;
    let (_, mut stream) = call_stream(&connection).await;
    let unknown = ahoy_proto::fault::Fault::new(ErrorCode::UnknownCall, "restarted");
    say(&mut stream, 0, Message::Error(unknown.to_wire())).await;
    let Some(Message::Hangup(hangup)) = soon(call.next()).await else { panic!("the end") };
    assert_eq!(hangup.reason(), HangupReason::ConnectionLost);
}

#[tokio::test]
async fn nobody_answers_in_time_and_both_sides_hear_it() {
    let mut home = Homeserver::start().await;
    let (session, connection) = signed_in(&mut home).await;
    let mut call = session.place_call(to_support(Some(Duration::from_millis(300)))).await.expect("placed");
    let (_, mut stream) = call_stream(&connection).await;
    assert!(matches!(frame(&mut stream).await.message, Some(Message::Invite(_))));
    let Some(Message::Hangup(there)) = frame(&mut stream).await.message else { panic!("a hang-up") };
    let Some(Message::Hangup(here)) = soon(call.next()).await else { panic!("a hang-up") };
    assert_eq!((there.reason(), here.reason()), (HangupReason::NoAnswer, HangupReason::NoAnswer));
}

#[tokio::test]
async fn a_dropped_call_is_hung_up() {
    let mut home = Homeserver::start().await;
    let (session, connection) = signed_in(&mut home).await;
    let (call, mut stream, _) = placed(&session, &connection).await;
    drop(call);
    let Some(Message::Hangup(hangup)) = frame(&mut stream).await.message else { panic!("a hang-up") };
    assert_eq!(hangup.reason(), HangupReason::Cancelled);
}

#[tokio::test]
async fn a_program_that_does_not_read_loses_that_call_alone() {
    let mut home = Homeserver::start().await;
    let (session, connection) = signed_in(&mut home).await;
    let (mut slow, mut slow_stream, _) = placed(&session, &connection).await;
    let (mut quick, mut quick_stream, _) = placed(&session, &connection).await;
    let reset = async {
        say(&mut slow_stream, 1, answer()).await;
        for counter in 2..=1000 {
            let message = v1::CallFrame { counter, message: Some(dtmf("5")) };
            if slow_stream.send(&message).await.is_err() {
                break;
            }
        }
        loop {
            match slow_stream.recv::<v1::CallFrame>().await {
                Ok(Some(_)) => continue,
                other => return other,
            }
        }
    };
    let Err(StreamError::Reset(fault)) = soon(reset).await else { panic!("reset") };
    assert_eq!(fault.code, ErrorCode::SlowReader);
    say(&mut quick_stream, 1, Message::Ringing(v1::Ringing::default())).await;
    assert!(matches!(soon(quick.next()).await, Some(Message::Ringing(_))));
    // What waited is still there, the end after it.
    let mut waited = 0;
    let hangup = loop {
        match soon(slow.next()).await.expect("the end is told") {
            Message::Hangup(hangup) => break hangup,
            _ => waited += 1,
        }
    };
    assert_eq!((waited, hangup.message.as_str()), (64, "SlowReader"));
}

/// A call that the homeserver opens to the client.
async fn ring(connection: &Connection, call: &[u8; 16]) -> (Stream, Bytes) {
    let open = v1::CallOpen {
        call: Bytes::copy_from_slice(call),
        to: "ann@home.example".into(),
        from: "support@bank.example".into(),
        resume: None,
    };
    let mut stream = connection.open(Open::Call(open)).await.expect("the connection lives");
    let (from, to) = (address("support@bank.example"), address("ann@home.example"));
    let body = InviteBody::new(*call, from, to, now(), SDP);
    say(&mut stream, 1, Message::Invite(unsigned_invite(&body, SDP.into(), 90_000, String::new()))).await;
    let Some(Message::Token(token)) = frame(&mut stream).await.message else { panic!("a token first") };
    (stream, token.token)
}

fn now() -> Timestamp {
    SystemClock.now()
}

async fn resume(connection: &Connection, call: &[u8; 16], token: &Bytes, last_received: u64) -> Stream {
    let open = v1::CallOpen {
        call: Bytes::copy_from_slice(call),
        to: "ann@home.example".into(),
        from: "support@bank.example".into(),
        resume: Some(v1::Resume { token: token.clone(), last_received }),
    };
    connection.open(Open::Call(open)).await.expect("the connection lives")
}

#[tokio::test]
async fn a_received_call_is_resumed_with_its_token_and_only_once_with_each() {
    let mut home = Homeserver::start().await;
    let (session, connection) = signed_in(&mut home).await;
    let (mut stream, first) = ring(&connection, &[3; 16]).await;
    let incoming = soon(session.next_call()).await.expect("a call");
    assert_eq!(
        (incoming.from.to_string().as_str(), incoming.invite.sdp.as_str()),
        ("support@bank.example", SDP)
    );
    let call = incoming.accept();
    call.send(Message::Ringing(v1::Ringing::default())).await.expect("the call lives");
    assert_eq!(frame(&mut stream).await.counter, 1);
    connection.close();
    soon(connection.closed()).await;
    call.send(answer()).await.expect("the call lives");

    let connection = home.arrival().await.connection;
    let mut stranger = resume(&connection, &[3; 16], &Bytes::from_static(b"guess"), 1).await;
    assert_refused(&mut stranger, ErrorCode::BadResumeToken).await;
    let mut stream = resume(&connection, &[3; 16], &first, 1).await;
    let Some(Message::Token(second)) = frame(&mut stream).await.message else { panic!("a new token") };
    let Some(Message::Resumed(resumed)) = frame(&mut stream).await.message else { panic!("resumed") };
    assert_eq!(resumed.last_received, 1, "the Invite");
    assert_ne!(second.token, first);
    let replayed = frame(&mut stream).await;
    assert_eq!(replayed.counter, 2);
    assert!(matches!(replayed.message, Some(Message::Answer(_))));

    let mut replay = resume(&connection, &[3; 16], &first, 1).await;
    assert_refused(&mut replay, ErrorCode::BadResumeToken).await;
    // The call itself was not disturbed.
    say(&mut stream, 2, Message::Hangup(Hangup::default())).await;
    let mut call = call;
    assert!(matches!(soon(call.next()).await, Some(Message::Hangup(_))));
    let mut late = resume(&connection, &[3; 16], &second.token, 2).await;
    assert_refused(&mut late, ErrorCode::UnknownCall).await;
}

#[tokio::test]
async fn a_stream_that_only_seems_open_is_superseded_by_a_resumption() {
    let mut home = Homeserver::start().await;
    let (session, connection) = signed_in(&mut home).await;
    let (_stuck, first) = ring(&connection, &[4; 16]).await;
    let call = soon(session.next_call()).await.expect("a call").accept();
    let mut stream = resume(&connection, &[4; 16], &first, 0).await;
    assert!(matches!(frame(&mut stream).await.message, Some(Message::Token(_))));
    assert!(matches!(frame(&mut stream).await.message, Some(Message::Resumed(_))));
    call.send(Message::Ringing(v1::Ringing::default())).await.expect("the call lives");
    assert!(matches!(frame(&mut stream).await.message, Some(Message::Ringing(_))));
}

#[tokio::test]
async fn an_invite_with_another_offer_than_it_vouches_for_does_not_ring() {
    let mut home = Homeserver::start().await;
    let (_session, connection) = signed_in(&mut home).await;
    let open = v1::CallOpen {
        call: Bytes::copy_from_slice(&[5; 16]),
        to: "ann@home.example".into(),
        from: "support@bank.example".into(),
        resume: None,
    };
    let mut stream = connection.open(Open::Call(open)).await.expect("the connection lives");
    let (from, to) = (address("support@bank.example"), address("ann@home.example"));
    let body = InviteBody::new([5; 16], from, to, now(), SDP);
    let invite = unsigned_invite(&body, "v=0\r\nanother\r\n".into(), 90_000, String::new());
    say(&mut stream, 1, Message::Invite(invite)).await;
    assert!(matches!(frame(&mut stream).await.message, Some(Message::Token(_))));
    assert_refused(&mut stream, ErrorCode::Malformed).await;
}

#[tokio::test]
async fn a_call_that_nobody_takes_up_is_declined_when_it_is_dropped() {
    let mut home = Homeserver::start().await;
    let (session, connection) = signed_in(&mut home).await;
    let (mut stream, _) = ring(&connection, &[6; 16]).await;
    drop(soon(session.next_call()).await.expect("a call"));
    let Some(Message::Hangup(hangup)) = frame(&mut stream).await.message else { panic!("a hang-up") };
    assert_eq!(hangup.reason(), HangupReason::Declined);
}

async fn assert_refused(stream: &mut Stream, code: ErrorCode) {
    let Some(Message::Error(error)) = frame(stream).await.message else { panic!("an error") };
    assert_eq!(error.code(), code);
}
