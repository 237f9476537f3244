//! What peers that keep no rule get: raw QUIC against a real endpoint.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ahoy_proto::address::Address;
use ahoy_proto::frame::FrameError;
use ahoy_proto::key::SigningKey;
use ahoy_proto::limit;
use ahoy_proto::name::{Name, NamePolicy};
use ahoy_proto::session::{Binding, DeviceCredentials, Hello, HelloSent, ServerMet, SessionError};
use ahoy_proto::time::Clock;
use ahoy_proto::v1::open::Open;
use ahoy_proto::v1::{self, ErrorCode, Role};
use bytes::Bytes;
use futures_util::FutureExt;
use tokio::net::UdpSocket;
use tokio::time::timeout;

use crate::clock::{OsEntropy, SystemClock};
use crate::stream::{RecvHalf, SendHalf};
use crate::{
    Arrived, CardBook, Closed, ConnectError, Connection, Endpoint, EndpointConfig, StreamError, TlsIdentity,
    TransportLimits, stun, tls,
};

struct Book;

impl CardBook for Book {
    fn card(&self, _: &Name) -> Option<v1::Signed> {
        Some(v1::Signed::default())
    }
}

fn policy() -> NamePolicy {
    NamePolicy::allowing(["example"])
}

fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

fn server(limits: TransportLimits) -> Endpoint {
    let identity = TlsIdentity::generate(&OsEntropy).unwrap();
    let config = EndpointConfig::new(loopback(), identity).accepting().with_policy(policy());
    Endpoint::bind(config.with_limits(limits)).unwrap()
}

fn credentials() -> DeviceCredentials {
    DeviceCredentials {
        account: Address::parse("ann@home.example", &policy()).unwrap(),
        key: SigningKey::from_seed([1; 32]),
        enrol: None,
    }
}

fn hello(role: Role) -> (HelloSent, Bytes) {
    let wanted = Name::parse("home.example", &policy()).unwrap();
    HelloSent::new(Hello::new(role, wanted), &OsEntropy)
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), future).await.expect("does not hang")
}

/// A QUIC client without rules. The endpoint must outlive the connection.
struct Raw {
    quic: quinn::Connection,
    send: SendHalf,
    recv: RecvHalf,
    _endpoint: quinn::Endpoint,
}

impl Raw {
    async fn connect(to: &Endpoint) -> Self {
        Self::connect_to(to.local_addr()).await
    }

    async fn connect_to(address: SocketAddr) -> Self {
        let endpoint = quinn::Endpoint::client(loopback()).unwrap();
        let config = quinn::ClientConfig::new(Arc::new(tls::client(None).unwrap()));
        let quic = endpoint.connect_with(config, address, "hs.example").unwrap().await.unwrap();
        let (send, recv) = quic.open_bi().await.unwrap();
        let send = SendHalf::new(send, limit::FRAME_BYTES);
        Self { quic, send, recv: RecvHalf::new(recv, limit::FRAME_BYTES), _endpoint: endpoint }
    }

    async fn write(&mut self, frame: &[u8]) {
        self.send.feed_frame(frame);
        self.send.flush().await.unwrap();
    }

    async fn meet(&mut self) -> ServerMet {
        let (sent, frame) = hello(Role::Device);
        self.write(&frame).await;
        let answer = self.recv.recv_frame().await.unwrap().unwrap();
        sent.receive(answer, SystemClock.now()).unwrap()
    }
}

async fn arrive(server: &Endpoint) -> Result<Option<Arrived>, ConnectError> {
    server.accept().await.unwrap().greet(&Book).await
}

/// Runs `attack` on a raw connection; what the server made of it, and how the connection ended.
async fn attacked<F: Future<Output = Raw>>(
    server: &Endpoint,
    attack: impl FnOnce(Raw) -> F,
) -> (ConnectError, Closed) {
    let attacker = async {
        let raw = attack(Raw::connect(server).await).await;
        Closed::from(raw.quic.closed().await)
    };
    let (arrived, closed) = within(async { tokio::join!(arrive(server), attacker) }).await;
    (arrived.expect_err("refused"), closed)
}

fn assert_refused(closed: Closed, code: ErrorCode) {
    let Closed::Refused(fault) = closed else { panic!("{closed}") };
    assert_eq!(fault.code, code);
}

fn assert_bad_proof((error, closed): (ConnectError, Closed)) {
    assert!(matches!(error, ConnectError::Session(SessionError::BadProof)), "{error}");
    assert_refused(closed, ErrorCode::BadProof);
}

#[tokio::test]
async fn a_proof_for_another_tls_key_is_refused_as_a_relay() {
    let server = server(TransportLimits::default());
    let relay = |mut raw: Raw| async {
        let met = raw.meet().await;
        let (_, proof) = met.prove_device(&credentials(), &Binding::Spki([9; 32])).unwrap();
        raw.write(&proof).await;
        raw
    };
    assert_bad_proof(attacked(&server, relay).await);
}

#[tokio::test]
async fn a_proof_replayed_from_another_handshake_is_refused() {
    let server = server(TransportLimits::default());
    let own = Binding::Spki(server.spki());
    let mut earlier = None;
    let honest = async {
        let mut raw = Raw::connect(&server).await;
        let (_, proof) = raw.meet().await.prove_device(&credentials(), &own).unwrap();
        raw.write(&proof).await;
        earlier = Some(proof);
        raw
    };
    let (arrived, _raw) = within(async { tokio::join!(arrive(&server), honest) }).await;
    assert!(arrived.expect("a good proof").is_some());
    let proof = earlier.unwrap();
    let replay = |mut raw: Raw| async {
        raw.meet().await;
        raw.write(&proof).await;
        raw
    };
    assert_bad_proof(attacked(&server, replay).await);
}

#[tokio::test]
async fn a_proof_by_another_key_than_it_names_is_refused() {
    let server = server(TransportLimits::default());
    let own = Binding::Spki(server.spki());
    let forge = |mut raw: Raw| async {
        let (_, proof) = raw.meet().await.prove_device(&credentials(), &own).unwrap();
        let other = SigningKey::from_seed([2; 32]).public();
        let ours = credentials().key.public();
        let at = proof.windows(32).position(|window| window == ours.as_bytes()).unwrap();
        let mut forged = proof.to_vec();
        forged[at..at + 32].copy_from_slice(other.as_bytes());
        raw.write(&forged).await;
        raw
    };
    assert_bad_proof(attacked(&server, forge).await);
}

#[tokio::test]
async fn garbage_on_the_first_stream_is_refused_as_malformed() {
    let server = server(TransportLimits::default());
    for garbage in [&b"\x05GET /"[..], &[0; 1], &[0x80, 0x00]] {
        let (_, closed) = attacked(&server, |mut raw: Raw| async {
            raw.write(garbage).await;
            raw
        })
        .await;
        assert_refused(closed, ErrorCode::Malformed);
    }
}

#[tokio::test]
async fn a_stranger_cannot_send_more_than_the_handshakes_bytes() {
    let server = server(TransportLimits::default());
    let (error, closed) = attacked(&server, |mut raw: Raw| async {
        raw.write(&[0x81, 0x80, 0x02]).await;
        raw
    })
    .await;
    assert!(matches!(error, ConnectError::Frame(FrameError::TooLarge { declared: 32769, .. })), "{error}");
    assert_refused(closed, ErrorCode::FrameTooLarge);
}

#[tokio::test]
async fn a_silent_stranger_is_let_go_when_its_time_is_over() {
    let handshake_time = Duration::from_millis(300);
    let server = server(TransportLimits { handshake_time, ..TransportLimits::default() });
    let (error, closed) = attacked(&server, |raw: Raw| async { raw }).await;
    assert!(matches!(error, ConnectError::NoAnswer(time) if time == handshake_time), "{error}");
    assert_refused(closed, ErrorCode::Timeout);
}

#[tokio::test]
async fn there_is_one_stream_before_ready_and_nothing_after_the_proof() {
    let server = server(TransportLimits::default());
    let own = Binding::Spki(server.spki());
    let (error, closed) = attacked(&server, |mut raw: Raw| async {
        let met = raw.meet().await;
        assert!(raw.quic.open_bi().now_or_never().is_none(), "no credit for a second stream");
        assert!(raw.quic.open_uni().now_or_never().is_none(), "nor for one of the other kind");
        let (_, proof) = met.prove_device(&credentials(), &own).unwrap();
        raw.write(&[&proof[..], &[0]].concat()).await;
        raw
    })
    .await;
    assert!(matches!(error, ConnectError::Session(SessionError::OutOfOrder(_))), "{error}");
    assert_refused(closed, ErrorCode::OutOfOrder);
}

#[tokio::test]
async fn strangers_beyond_the_budget_of_their_prefix_are_turned_away() {
    let server = server(TransportLimits { pending_per_prefix: 1, ..TransportLimits::default() });
    let (first, raw) = within(async {
        tokio::join!(server.accept(), async {
            let endpoint = quinn::Endpoint::client(loopback()).unwrap();
            let config = quinn::ClientConfig::new(Arc::new(tls::client(None).unwrap()));
            let one = endpoint.connect_with(config.clone(), server.local_addr(), "hs.example").unwrap();
            (endpoint, config, one)
        })
    })
    .await;
    assert!(first.is_some());
    let (endpoint, config, _one) = raw;
    let second = endpoint.connect_with(config, server.local_addr(), "hs.example").unwrap();
    let refused = within(async {
        tokio::select! {
            _ = server.accept() => panic!("a second handshake was admitted"),
            refused = second => refused.expect_err("turned away"),
        }
    })
    .await;
    assert_eq!(Closed::from(refused), Closed::Busy);
}

async fn sign_in(address: SocketAddr, spki: [u8; 32]) -> Raw {
    let mut raw = Raw::connect_to(address).await;
    let (sent, proof) = raw.meet().await.prove_device(&credentials(), &Binding::Spki(spki)).unwrap();
    raw.write(&proof).await;
    sent.receive(raw.recv.recv_frame().await.unwrap().unwrap()).unwrap();
    raw
}

/// A raw client and the server's side of a connection that is ready.
async fn ready(server: &Endpoint) -> (Raw, Connection) {
    let client = sign_in(server.local_addr(), server.spki());
    let accept = async {
        let arrived = arrive(server).await.unwrap().unwrap();
        arrived.ready(v1::Ready::default()).await.unwrap()
    };
    within(async { tokio::join!(client, accept) }).await
}

async fn open(raw: &Raw, open: Open) -> (SendHalf, RecvHalf) {
    let (send, recv) = within(raw.quic.open_bi()).await.unwrap();
    let mut send = SendHalf::new(send, limit::FRAME_BYTES);
    send.send(&v1::Open { open: Some(open) }).await.unwrap();
    (send, RecvHalf::new(recv, limit::FRAME_BYTES))
}

fn call() -> Open {
    Open::Call(v1::CallOpen::default())
}

async fn assert_reset(recv: &mut RecvHalf, expected: ErrorCode) {
    let error = within(recv.recv::<v1::CallFrame>()).await.expect_err("reset");
    let StreamError::Reset(fault) = error else { panic!("{error}") };
    assert_eq!(fault.code, expected);
}

#[tokio::test]
async fn a_frame_over_its_limit_resets_its_stream_and_leaves_the_connection() {
    let server = server(TransportLimits::default());
    let (raw, connection) = ready(&server).await;
    let (mut send, mut recv) = open(&raw, call()).await;
    let (_, mut stream) = within(connection.accept()).await.unwrap();
    send.feed_frame(&[0x81, 0x80, 0x10, 1, 2, 3]);
    send.flush().await.unwrap();
    let error = within(stream.recv::<v1::CallFrame>()).await.unwrap_err();
    assert!(matches!(error, StreamError::Frame(FrameError::TooLarge { declared: 262_145, .. })), "{error}");
    assert_reset(&mut recv, ErrorCode::FrameTooLarge).await;
    let (_send, _recv) = open(&raw, call()).await;
    assert!(matches!(within(connection.accept()).await, Some((Open::Call(_), _))));
}

#[tokio::test]
async fn one_stream_too_many_of_its_kind_is_reset_and_a_place_comes_back() {
    let server = server(TransportLimits { call_streams: 2, ..TransportLimits::default() });
    let (raw, connection) = ready(&server).await;
    let _first = open(&raw, call()).await;
    let _second = open(&raw, call()).await;
    let (_, mut one) = within(connection.accept()).await.unwrap();
    let (_, _two) = within(connection.accept()).await.unwrap();
    let (_send, mut third) = open(&raw, call()).await;
    assert_reset(&mut third, ErrorCode::Limit).await;
    let request = v1::Request::default();
    let (_send, _recv) = open(&raw, Open::Request(request)).await;
    assert!(matches!(within(connection.accept()).await, Some((Open::Request(_), _))), "kinds count apart");
    one.finish();
    let (_send, _recv) = open(&raw, call()).await;
    assert!(matches!(within(connection.accept()).await, Some((Open::Call(_), _))));
}

#[tokio::test]
async fn kinds_that_are_not_implemented_or_unknown_are_reset_as_unsupported() {
    let server = server(TransportLimits::default());
    let (raw, _connection) = ready(&server).await;
    let (_send, mut recv) = open(&raw, Open::Blob(v1::BlobOpen::default())).await;
    assert_reset(&mut recv, ErrorCode::Unsupported).await;
    let (send, recv) = raw.quic.open_bi().await.unwrap();
    let (mut send, mut recv) = (SendHalf::new(send, 64), RecvHalf::new(recv, 64));
    send.feed_frame(&[0]);
    send.flush().await.unwrap();
    assert_reset(&mut recv, ErrorCode::Unsupported).await;
}

#[tokio::test]
async fn a_handshake_frame_after_ready_ends_the_connection() {
    let server = server(TransportLimits::default());
    let (mut raw, connection) = ready(&server).await;
    raw.write(&hello(Role::Device).1).await;
    assert_refused(within(async { Closed::from(raw.quic.closed().await) }).await, ErrorCode::OutOfOrder);
    assert_eq!(within(connection.closed()).await, Closed::Here);
    assert!(within(connection.accept()).await.is_none());
}

#[tokio::test]
async fn a_writer_that_stops_in_the_middle_of_a_frame_did_not_end_in_order() {
    let server = server(TransportLimits::default());
    let (raw, connection) = ready(&server).await;
    let (mut send, _recv) = open(&raw, call()).await;
    let (_, mut stream) = within(connection.accept()).await.unwrap();
    send.feed_frame(&[9, 1, 2]);
    send.flush().await.unwrap();
    send.finish();
    let error = within(stream.recv::<v1::CallFrame>()).await.unwrap_err();
    assert_eq!(error, StreamError::Frame(FrameError::Truncated));
}

#[tokio::test]
async fn a_peer_that_vanishes_is_noticed_after_the_idle_time() {
    let limits = TransportLimits {
        idle_time: Duration::from_millis(400),
        keep_alive: Duration::from_millis(100),
        ..TransportLimits::default()
    };
    let server = server(limits);
    // A runtime that stops without a word: nothing of the client runs or sends after it.
    let (vanish, vanished) = std::sync::mpsc::channel::<()>();
    let (met, meeting) = tokio::sync::oneshot::channel();
    let address = server.local_addr();
    let spki = server.spki();
    let client = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let raw = runtime.block_on(sign_in(address, spki));
        met.send(()).unwrap();
        vanished.recv().unwrap();
        std::mem::forget(raw);
    });
    let accept = async {
        let arrived = arrive(&server).await.unwrap().unwrap();
        arrived.ready(v1::Ready::default()).await.unwrap()
    };
    let (connection, _) = within(async { tokio::join!(accept, meeting) }).await;
    assert_eq!(within(connection.closed()).await, Closed::Silent);
    vanish.send(()).unwrap();
    client.join().unwrap();
}

#[tokio::test]
async fn the_port_answers_stun_while_quic_goes_on() {
    let server = server(TransportLimits::default());
    let (raw, connection) = ready(&server).await;
    let socket = UdpSocket::bind(loopback()).await.unwrap();
    for round in 0..10 {
        let transaction = [round; 12];
        socket.send_to(&stun::binding_request(transaction), server.local_addr()).await.unwrap();
        let mut answer = [0; 128];
        let (length, from) = within(socket.recv_from(&mut answer)).await.unwrap();
        assert_eq!(from, server.local_addr());
        let seen = stun::parse_response(&answer[..length], &transaction);
        assert_eq!(seen, Some(socket.local_addr().unwrap()));
        let (_send, _recv) = open(&raw, call()).await;
        assert!(within(connection.accept()).await.is_some());
    }
}
