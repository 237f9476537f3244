//! The driver against peers on real loopback sockets.

use std::net::IpAddr;

use sipx_sip::{Timers, Uri};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::*;
use crate::sdp::Codec;
use crate::sip::{AgentLimits, Identity, Transport};

const SDP: &str =
    "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 8\r\n";

struct Rig {
    port: SipPort,
    incoming: mpsc::Receiver<IncomingCall>,
    stop: CancellationToken,
    tracker: TaskTracker,
}

async fn rig(peer: SocketAddr, transport: Transport) -> Rig {
    let config = AgentConfig {
        advertised: "127.0.0.1:0".parse().unwrap(),
        peer,
        transport,
        sources: vec![IpAddr::from([127, 0, 0, 1])],
        large_over_tcp: true,
        timers: Timers::default(),
        limits: AgentLimits { requests_per_second: 100_000, ..AgentLimits::default() },
    };
    let mut counter = 0;
    let random = Box::new(move || {
        counter += 1;
        counter
    });
    let (stop, tracker) = (CancellationToken::new(), TaskTracker::new());
    let (port, incoming) =
        SipPort::bind("127.0.0.1:0".parse().unwrap(), config, random, &tracker, stop.clone()).await.unwrap();
    Rig { port, incoming, stop, tracker }
}

impl Rig {
    async fn end(self) {
        self.stop.cancel();
        self.tracker.close();
        within(self.tracker.wait()).await;
    }
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(10), work).await.expect("in time")
}

async fn read(socket: &UdpSocket) -> (String, SocketAddr) {
    let mut buffer = [0; 4096];
    let (length, from) = within(socket.recv_from(&mut buffer)).await.unwrap();
    (String::from_utf8_lossy(&buffer[..length]).into_owned(), from)
}

fn call() -> OutgoingInvite {
    OutgoingInvite {
        target: Uri::parse(Bytes::from_static(b"sip:200@127.0.0.1")).unwrap(),
        from: Identity { display: None, user: "a@b.example".into(), asserted: false },
        media: LocalMedia::new("127.0.0.1:30000".parse().unwrap(), Codec::ALL.to_vec(), 1),
    }
}

fn answer(request: &str, status: &str, body: &str, contact: SocketAddr) -> String {
    let pick = |name: &str| {
        let line = request.lines().find(|line| line.starts_with(name)).expect("the header");
        format!("{line}\r\n")
    };
    let kind = if body.is_empty() { "" } else { "Content-Type: application/sdp\r\n" };
    let to = pick("To:").trim_end().to_owned() + ";tag=x\r\n";
    let (via, from, call, cseq) = (pick("Via:"), pick("From:"), pick("Call-ID:"), pick("CSeq:"));
    format!(
        "SIP/2.0 {status}\r\n{via}{from}{to}{call}{cseq}Contact: <sip:200@{contact}>\r\n{kind}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn options(number: usize, transport: &str, port: u16) -> String {
    format!(
        "OPTIONS sip:bridge@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/{transport} 127.0.0.1:{port};branch=z9hG4bKo{number};rport\r\n\
         Max-Forwards: 70\r\nFrom: <sip:p@127.0.0.1>;tag=p\r\nTo: <sip:bridge@127.0.0.1>\r\nCall-ID: o{number}\r\n\
         CSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
    )
}

#[tokio::test]
async fn a_call_over_udp_is_placed_answered_and_ended() {
    let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let at = peer.local_addr().unwrap();
    let rig = rig(at, Transport::Udp).await;
    let mut leg = rig.port.invite(call()).unwrap();
    let (invite, bridge) = read(&peer).await;
    assert_eq!(bridge, rig.port.local_addr());
    peer.send_to(answer(&invite, "180 Ringing", "", at).as_bytes(), bridge).await.unwrap();
    assert_eq!(within(leg.next()).await, Some(LegEvent::Trying));
    assert_eq!(within(leg.next()).await, Some(LegEvent::Ringing));
    peer.send_to(answer(&invite, "200 OK", SDP, at).as_bytes(), bridge).await.unwrap();
    assert!(matches!(within(leg.next()).await, Some(LegEvent::Answered(_))));
    assert!(read(&peer).await.0.starts_with("ACK "));
    drop(leg);
    assert!(read(&peer).await.0.starts_with("BYE "));
    rig.end().await;
}

#[tokio::test]
async fn a_call_over_tcp_leaves_from_the_bound_address_and_comes_back() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let rig = rig(at, Transport::Tcp).await;
    let mut leg = rig.port.invite(call()).unwrap();
    let (mut stream, from) = within(listener.accept()).await.unwrap();
    assert_eq!(from.ip(), rig.port.local_addr().ip());
    let mut buffer = vec![0; 4096];
    let length = within(stream.read(&mut buffer)).await.unwrap();
    let invite = String::from_utf8_lossy(&buffer[..length]).into_owned();
    stream.write_all(answer(&invite, "486 Busy", "", at).as_bytes()).await.unwrap();
    let end = within(leg.next()).await;
    assert!(matches!(end, Some(LegEvent::Ended(End { status: Some(486), .. }))), "{end:?}");
    rig.end().await;
}

#[tokio::test]
async fn a_trunk_that_refuses_tcp_fails_the_call_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let peer = listener.local_addr().unwrap();
    drop(listener);
    let rig = rig(peer, Transport::Tcp).await;
    let mut leg = rig.port.invite(call()).unwrap();
    assert_eq!(within(leg.next()).await, Some(LegEvent::Ended(End::of(EndCause::Transport))));
    rig.end().await;
}

#[tokio::test]
async fn a_peer_that_pipelines_and_never_reads_costs_only_its_connection() {
    let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let rig = rig(peer.local_addr().unwrap(), Transport::Udp).await;
    let mut greedy = TcpStream::connect(rig.port.local_addr()).await.unwrap();
    let pipelined: String = (0..20_000).map(|number| options(number, "TCP", 9)).collect();
    let flood = async {
        // The bridge closes the connection in the middle: that is the point.
        let _ = greedy.write_all(pipelined.as_bytes()).await;
    };
    let asked = async {
        for number in 0..50 {
            let port = peer.local_addr().unwrap().port();
            peer.send_to(options(number, "UDP", port).as_bytes(), rig.port.local_addr()).await.unwrap();
            assert!(read(&peer).await.0.starts_with("SIP/2.0 200"));
        }
    };
    within(async { tokio::join!(flood, asked) }).await;
    rig.end().await;
}

#[tokio::test]
async fn a_keep_alive_over_tcp_is_answered_and_half_a_message_harms_nobody() {
    let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let rig = rig(peer.local_addr().unwrap(), Transport::Udp).await;
    let mut half = TcpStream::connect(rig.port.local_addr()).await.unwrap();
    half.write_all(b"INVITE sip:x SIP/2.0\r\nVia:").await.unwrap();
    let mut stream = TcpStream::connect(rig.port.local_addr()).await.unwrap();
    stream.write_all(b"\r\n\r\n").await.unwrap();
    let mut pong = [0; 2];
    within(stream.read_exact(&mut pong)).await.unwrap();
    assert_eq!(&pong, b"\r\n");
    rig.end().await;
}

#[tokio::test]
async fn an_incoming_call_is_answered_through_its_leg() {
    let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut rig = rig(peer.local_addr().unwrap(), Transport::Udp).await;
    let port = peer.local_addr().unwrap().port();
    let invite = options(1, "UDP", port)
        .replace("OPTIONS", "INVITE")
        .replace("Content-Length: 0\r\n\r\n", &format!(
            "Contact: <sip:p@127.0.0.1:{port}>\r\nContent-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{SDP}", SDP.len()));
    peer.send_to(invite.as_bytes(), rig.port.local_addr()).await.unwrap();
    let (_, leg) = within(rig.incoming.recv()).await.expect("a call");
    assert!(read(&peer).await.0.starts_with("SIP/2.0 100"));
    let media = LocalMedia::new("127.0.0.1:30000".parse().unwrap(), Codec::ALL.to_vec(), 1);
    assert!(leg.attach(media).unwrap().is_some());
    leg.answer().unwrap();
    assert!(read(&peer).await.0.starts_with("SIP/2.0 200"));
    rig.end().await;
}
