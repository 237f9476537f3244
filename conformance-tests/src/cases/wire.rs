//! Wire: frames, hellos, streams, and what a stranger can do.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bytes::{Bytes, BytesMut};
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout};

use ahoy_proto::v1::{self, ErrorCode, Role, control_frame::Frame, open::Open, request};

use super::{Case, Seen};
use crate::frame::{End, PATIENCE, Stream, put_length};
use crate::moment::random;
use crate::quic::Show;
use crate::refusal::expect_refusal;
use crate::session::{Session, control, greet, hello};
use crate::world::World;

/// The handshake's time, and what a slow machine may add [WIRE-HELLO-03].
const HANDSHAKE: Duration = Duration::from_millis(5000);
const SLACK: Duration = Duration::from_millis(1500);

pub(super) const CASES: &[Case] = &[
    Case::new(
        "wire-version",
        &["WIRE-HELLO-05", "WIRE-ERR-02", "WIRE-ERR-03"],
        "a hello without a common version is refused with VERSION",
        |w| Box::pin(version(w)),
    ),
    Case::new(
        "wire-unknown-name",
        &["WIRE-HELLO-05"],
        "a wanted name that is not served is refused with NAME_NOT_SERVED",
        |w| Box::pin(unknown_name(w)),
    ),
    Case::new(
        "wire-name-form",
        &["NAME-ADDR-02", "WIRE-HELLO-05"],
        "a wanted name in capitals is refused with MALFORMED",
        |w| Box::pin(name_form(w)),
    ),
    Case::new("wire-short-nonce", &["WIRE-HELLO-05"], "a nonce of 31 bytes is refused with MALFORMED", |w| {
        Box::pin(short_nonce(w))
    }),
    Case::new("wire-no-role", &["WIRE-HELLO-05"], "a hello without a role is refused with MALFORMED", |w| {
        Box::pin(no_role(w))
    }),
    Case::new("wire-other-alpn", &["WIRE-HELLO-01"], "a connection without the ALPN fails", |w| {
        Box::pin(alpn(w))
    }),
    Case::new(
        "wire-not-a-hello",
        &["WIRE-HELLO-05", "WIRE-STREAM-05"],
        "another first frame than a ClientHello is refused with OUT_OF_ORDER",
        |w| Box::pin(not_a_hello(w)),
    ),
    Case::new(
        "wire-garbage",
        &["WIRE-FRAME-01", "WIRE-FRAME-03"],
        "garbage on the first stream ends that connection and nothing else",
        |w| Box::pin(garbage(w)),
    ),
    Case::new("wire-second-stream", &["WIRE-STREAM-05"], "no second stream is served before Ready", |w| {
        Box::pin(second_stream(w))
    }),
    Case::new("wire-too-much", &["WIRE-HELLO-02"], "a hello over 32 KiB is refused", |w| {
        Box::pin(too_much(w))
    }),
    Case::new(
        "wire-silence",
        &["WIRE-HELLO-03"],
        "a connection that proves nothing is closed after 5 s",
        |w| Box::pin(silence(w)),
    ),
    Case::new(
        "wire-frame-limit",
        &["WIRE-FRAME-02", "WIRE-FRAME-04", "WIRE-ERR-04"],
        "a frame over the limit resets its stream with FRAME_TOO_LARGE and leaves the connection",
        |w| Box::pin(frame_limit(w)),
    ),
    Case::new(
        "wire-not-a-message",
        &["WIRE-FRAME-04", "WIRE-ERR-04"],
        "a frame that does not decode resets its stream with MALFORMED and leaves the connection",
        |w| Box::pin(not_a_message(w)),
    ),
    Case::new(
        "wire-long-length",
        &["WIRE-FRAME-03", "WIRE-FRAME-04"],
        "a length that is not minimal resets its stream and leaves the connection",
        |w| Box::pin(long_length(w)),
    ),
    Case::new(
        "wire-no-early-data",
        &["WIRE-HELLO-06"],
        "a second connection can neither resume TLS nor send data early",
        |w| Box::pin(no_early_data(w)),
    ),
    Case::new(
        "wire-blob",
        &["WIRE-STREAM-02", "WIRE-ERR-01"],
        "a blob stream is reset with UNSUPPORTED",
        |w| Box::pin(blob(w)),
    ),
    Case::new(
        "wire-unknown-stream",
        &["WIRE-STREAM-02"],
        "a stream of an unknown kind is reset with UNSUPPORTED",
        |w| Box::pin(unknown_stream(w)),
    ),
    Case::new(
        "wire-unknown-request",
        &["WIRE-ERR-01"],
        "an unknown request is answered with UNSUPPORTED",
        |w| Box::pin(unknown_request(w)),
    ),
    Case::new(
        "wire-want",
        &["WIRE-STREAM-01"],
        "Want is answered with the card, or with NAME_NOT_SERVED",
        |w| Box::pin(want(w)),
    ),
    Case::new(
        "wire-hello-after-ready",
        &["WIRE-STREAM-01"],
        "a handshake frame after Ready closes the connection with OUT_OF_ORDER",
        |w| Box::pin(hello_after_ready(w)),
    ),
    Case::new("wire-keep-alive", &["WIRE-STREAM-04"], "a connection that only keeps alive lives on", |w| {
        Box::pin(alive(w))
    }),
    Case::new(
        "wire-stun",
        &["WIRE-STREAM-07", "CALL-MEDIA-20"],
        "the QUIC port answers a STUN binding request with the sender's address",
        |w| Box::pin(stun(w)),
    ),
];

async fn say_hello(world: &World, hello: v1::ClientHello) -> anyhow::Result<()> {
    greet(&world.net, &world.subject, Show::Nothing, hello).await.map(|_| ())
}

fn right(world: &World) -> v1::ClientHello {
    hello(Role::Device, &world.subject.name)
}

async fn version(world: &World) -> Seen {
    let hello = v1::ClientHello { versions: vec![98, 99], ..right(world) };
    expect_refusal(say_hello(world, hello).await, ErrorCode::Version)
}

async fn unknown_name(world: &World) -> Seen {
    let hello = v1::ClientHello { wanted_name: world.name("unserved"), ..right(world) };
    expect_refusal(say_hello(world, hello).await, ErrorCode::NameNotServed)
}

async fn name_form(world: &World) -> Seen {
    let hello = v1::ClientHello { wanted_name: world.subject.name.to_uppercase(), ..right(world) };
    expect_refusal(say_hello(world, hello).await, ErrorCode::Malformed)
}

async fn short_nonce(world: &World) -> Seen {
    let hello = v1::ClientHello { nonce: Bytes::from_static(&[7; 31]), ..right(world) };
    expect_refusal(say_hello(world, hello).await, ErrorCode::Malformed)
}

async fn no_role(world: &World) -> Seen {
    let hello = v1::ClientHello { role: 0, ..right(world) };
    expect_refusal(say_hello(world, hello).await, ErrorCode::Malformed)
}

async fn alpn(world: &World) -> Seen {
    let subject = &world.subject;
    match world.net.connect(subject.address, &subject.host, Show::OtherProtocol).await {
        Ok(_) => bail!("a connection with the ALPN `ahoy/none` was accepted"),
        Err(error) => Ok(format!("{error:#}")),
    }
}

/// A connection with its first stream, on which nothing was said.
async fn first_stream(world: &World) -> anyhow::Result<(quinn::Connection, Stream)> {
    let subject = &world.subject;
    let connection = world.net.connect(subject.address, &subject.host, Show::Nothing).await?;
    let stream = Stream::new(connection.open_bi().await.map_err(End::from)?);
    Ok((connection, stream))
}

async fn not_a_hello(world: &World) -> Seen {
    let (_connection, mut stream) = first_stream(world).await?;
    stream.send(&control(Frame::Want(v1::Want { name: world.subject.name.clone() }))).await?;
    expect_refusal(refusal_on(&mut stream).await, ErrorCode::OutOfOrder)
}

/// What the subject says on the first stream instead of going on.
async fn refusal_on(stream: &mut Stream) -> anyhow::Result<()> {
    match stream.recv::<v1::ControlFrame>().await?.frame {
        Some(Frame::Error(error)) => bail!(crate::refusal::Refused(error)),
        other => {
            tracing::debug!(?other, "the subject went on");
            Ok(())
        }
    }
}

async fn garbage(world: &World) -> Seen {
    let mut ends = Vec::new();
    let noise = random::<512>();
    let overlong = [0xff_u8; 64];
    for bytes in [&noise[..], &overlong, &[0x00], &[0x80, 0x00], b"GET / HTTP/1.1\r\n\r\n"] {
        let (connection, mut stream) = first_stream(world).await?;
        stream.send_bytes(bytes).await?;
        stream.finish();
        let ended = timeout(HANDSHAKE + SLACK, connection.closed()).await;
        ends.push(ended.context("the connection stays open after garbage")?.to_string());
    }
    world.greet(Role::CardReader).await.context("after garbage the subject serves nobody")?;
    Ok(format!("{} connections closed, the next one served", ends.len()))
}

async fn second_stream(world: &World) -> Seen {
    let greeted = world.greet(Role::Device).await?;
    let opened = timeout(Duration::from_secs(1), greeted.connection.open_bi()).await;
    let Ok(opened) = opened else { return Ok("no credit for a second stream".into()) };
    let mut stream = Stream::new(opened.map_err(End::from)?);
    let explain = v1::Explain { name: world.subject.name.clone(), fresh: false };
    let request = v1::Request { request: Some(request::Request::Explain(explain)) };
    stream.send(&v1::Open { open: Some(Open::Request(request)) }).await?;
    match stream.recv_within::<v1::Response>(Duration::from_secs(2)).await {
        Ok(answer) => bail!("a stranger's request was answered: {answer:?}"),
        Err(end) => Ok(format!("not served: {end}")),
    }
}

async fn too_much(world: &World) -> Seen {
    let (connection, mut stream) = first_stream(world).await?;
    let features = vec!["x".repeat(40_000)];
    let hello = v1::ClientHello { features, ..right(world) };
    // The subject may stop reading before all of it is sent.
    let sent = stream.send(&control(Frame::ClientHello(hello))).await;
    let refused = match sent {
        Ok(()) => refusal_on(&mut stream).await,
        Err(end) => Err(end.into()),
    };
    ensure!(refused.is_err(), "a hello of 40 KB was answered");
    let ended = timeout(HANDSHAKE + SLACK, connection.closed()).await;
    Ok(ended.context("the connection stays open")?.to_string())
}

async fn silence(world: &World) -> Seen {
    let begun = Instant::now();
    let (connection, _stream) = first_stream(world).await?;
    let closed = timeout(HANDSHAKE + SLACK, connection.closed()).await;
    let why = closed.context("a silent connection was not closed within 6.5 s")?;
    let hello = world.greet(Role::Device).await?;
    let after_hello = timeout(HANDSHAKE + SLACK, hello.connection.closed()).await;
    after_hello.context("a connection that is silent after its hello was not closed within 6.5 s")?;
    Ok(format!("closed ({why}); both within {} ms", begun.elapsed().as_millis()))
}

/// Opens a stream on a ready connection, writes these bytes, and gives the code with which it ends.
async fn stream_with(session: &Session, bytes: &[u8]) -> anyhow::Result<()> {
    let opened = timeout(PATIENCE, session.connection.open_bi()).await.context("no credit")?;
    let mut stream = Stream::new(opened.map_err(End::from)?);
    // A stream that is stopped in the middle cannot be written; how it ended is read next.
    let _ = stream.send_bytes(bytes).await;
    Err(stream.end(PATIENCE).await.into())
}

/// The connection must still serve.
async fn still_serves(session: &Session) -> anyhow::Result<()> {
    let peers = session.request(request::Request::Peers(v1::Peers {})).await;
    peers.map(|_| ()).context("the connection does not serve any more")
}

async fn frame_limit(world: &World) -> Seen {
    let session = world.device(0).await?;
    let mut bytes = BytesMut::new();
    put_length(&mut bytes, 262_145);
    bytes.extend_from_slice(&[0; 4096]);
    let seen = expect_refusal(stream_with(&session, &bytes).await, ErrorCode::FrameTooLarge)?;
    still_serves(&session).await?;
    Ok(seen)
}

async fn not_a_message(world: &World) -> Seen {
    let session = world.device(0).await?;
    let seen = expect_refusal(stream_with(&session, &[3, 0x0a, 0x7f, 0x01]).await, ErrorCode::Malformed)?;
    still_serves(&session).await?;
    Ok(seen)
}

async fn long_length(world: &World) -> Seen {
    let session = world.device(0).await?;
    let seen = expect_refusal(stream_with(&session, &[0x80, 0x00]).await, ErrorCode::Malformed)?;
    still_serves(&session).await?;
    Ok(seen)
}

async fn blob(world: &World) -> Seen {
    let session = world.device(0).await?;
    let open = v1::BlobOpen { sha256: Bytes::from_static(&[1; 32]), offset: 0 };
    let mut stream = session.open(Open::Blob(open)).await?;
    let end: anyhow::Result<()> = Err(stream.end(PATIENCE).await.into());
    let seen = expect_refusal(end, ErrorCode::Unsupported)?;
    still_serves(&session).await?;
    Ok(seen)
}

async fn unknown_stream(world: &World) -> Seen {
    let session = world.device(0).await?;
    // Field 100, a message of two bytes.
    let seen = expect_refusal(
        stream_with(&session, &[5, 0xa2, 0x06, 0x02, 0x08, 0x01]).await,
        ErrorCode::Unsupported,
    )?;
    still_serves(&session).await?;
    Ok(seen)
}

async fn unknown_request(world: &World) -> Seen {
    let session = world.device(0).await?;
    let mut stream = session.open(Open::Request(v1::Request { request: None })).await?;
    stream.finish();
    let answer = match stream.recv::<v1::Response>().await {
        Ok(v1::Response { response: Some(v1::response::Response::Error(error)) }) => {
            Err(crate::refusal::Refused(error).into())
        }
        Ok(_) => Ok(()),
        Err(end) => Err(end.into()),
    };
    expect_refusal(answer, ErrorCode::Unsupported)
}

async fn want(world: &World) -> Seen {
    let mut session = world.homeserver().await?;
    let name = world.subject.name.clone();
    session.control.send(&control(Frame::Want(v1::Want { name: name.clone() }))).await?;
    let card = match session.control.recv::<v1::ControlFrame>().await?.frame {
        Some(Frame::Card(v1::CardAnswer { name: of, card: Some(card), error: None })) if of == name => card,
        other => bail!("the answer to Want is {other:?}"),
    };
    crate::sign::check_card(&card, &name, &world.anchor, &session.spki)?;
    let unserved = world.name("unserved");
    session.control.send(&control(Frame::Want(v1::Want { name: unserved }))).await?;
    let answer = match session.control.recv::<v1::ControlFrame>().await?.frame {
        Some(Frame::Card(v1::CardAnswer { error: Some(error), .. })) => {
            Err(crate::refusal::Refused(error).into())
        }
        other => Ok(other),
    };
    expect_refusal(answer, ErrorCode::NameNotServed)
}

async fn hello_after_ready(world: &World) -> Seen {
    let mut session = world.device(0).await?;
    session.control.send(&control(Frame::ClientHello(right(world)))).await?;
    let ended = timeout(PATIENCE, session.connection.closed()).await;
    let end = End::from(ended.context("the connection goes on after a second hello")?);
    expect_refusal(Err::<(), _>(end.into()), ErrorCode::OutOfOrder)
}

async fn alive(world: &World) -> Seen {
    let session = world.device(0).await?;
    // Longer than the idle time-out of 10 s; the QUIC layer keeps the connection alive meanwhile.
    let gone = timeout(Duration::from_secs(12), session.connection.closed()).await;
    if let Ok(why) = gone {
        bail!("closed although it was kept alive: {why}");
    }
    still_serves(&session).await?;
    Ok("alive after 12 s".into())
}

async fn stun(world: &World) -> Seen {
    let socket = UdpSocket::bind((world.net.address()?.ip(), 0)).await?;
    let id = random::<12>();
    let mut request = vec![0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42];
    request.extend_from_slice(&id);
    socket.send_to(&request, world.subject.address).await?;
    let mut answer = [0; 1500];
    let received = timeout(Duration::from_secs(2), socket.recv_from(&mut answer)).await;
    let (size, from) = received.context("no answer to a STUN binding request within 2 s")??;
    ensure!(from == world.subject.address, "the answer comes from {from}");
    let mapped = mapped_address(&answer[..size], &id).context("the answer has no XOR-MAPPED-ADDRESS")?;
    ensure!(mapped == socket.local_addr()?, "the answer maps us to {mapped}");
    Ok(format!("mapped to {mapped}"))
}

/// XOR-MAPPED-ADDRESS, IPv4, of a binding success (RFC 8489 section 14.2).
fn mapped_address(answer: &[u8], id: &[u8; 12]) -> Option<std::net::SocketAddr> {
    let (header, mut attributes) = answer.split_at_checked(20)?;
    if header[..2] != [1, 1] || header[4..8] != [0x21, 0x12, 0xa4, 0x42] || header[8..] != id[..] {
        return None;
    }
    loop {
        let (head, rest) = attributes.split_at_checked(4)?;
        let size = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let value = rest.get(..size)?;
        if head[..2] == [0, 0x20] && size == 8 && value[1] == 1 {
            let port = u16::from_be_bytes([value[2] ^ 0x21, value[3] ^ 0x12]);
            let ip = [value[4] ^ 0x21, value[5] ^ 0x12, value[6] ^ 0xa4, value[7] ^ 0x42];
            return Some((ip, port).into());
        }
        attributes = rest.get(size.next_multiple_of(4)..)?;
    }
}

async fn no_early_data(world: &World) -> Seen {
    // The first connection would bring the ticket.
    drop(world.device(0).await?);
    let subject = &world.subject;
    let connecting = world.net.connecting(subject.address, &subject.host)?;
    if connecting.into_0rtt().is_ok() {
        bail!("the subject gave a ticket for early data");
    }
    Ok("no ticket for early data".into())
}
