//! Call control: the trunks, the WebRTC hub and the service session, and one task per call that
//! joins a leg of each. Decides nothing about SIP or ICE, only who is told what, and when.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ahoy_client::Session;
use ahoy_proto::address::Address;
use ahoy_proto::name::NamePolicy;
use ahoy_proto::time::{Clock, Entropy};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cdr::Cdr;
use crate::rtc::{Encoding, RtcHub};
use crate::rtp::RtpLeg;
use crate::sdp::{Codec, LocalMedia};
use crate::sip::{AgentConfig, AgentLimits, IncomingCall, SipPort};
use crate::trunk::Trunk;

mod inbound;
mod joint;
mod outbound;
mod relay;
mod report;

/// A trunk with its sockets.
pub struct LiveTrunk {
    /// What its file says.
    pub trunk: Trunk,
    /// Its SIP side.
    pub port: SipPort,
    /// Where its RTP sockets bind.
    media_ip: IpAddr,
    /// What its SDP says.
    advertised: IpAddr,
}

/// Everything that a call needs.
pub struct Exchange {
    /// The trunks, in the order of their files.
    pub trunks: Vec<Arc<LiveTrunk>>,
    /// The WebRTC side.
    pub hub: RtcHub,
    /// The service session at the homeserver.
    pub session: Session,
    /// Where calls are recorded.
    pub cdr: Cdr,
    /// Unix time.
    pub clock: Arc<dyn Clock>,
    /// Random numbers.
    pub entropy: Arc<dyn Entropy>,
    /// Which names count as names.
    pub policy: NamePolicy,
    /// One task per call.
    pub calls: TaskTracker,
    /// New calls are refused.
    pub draining: CancellationToken,
    /// Calls that still stand are hung up.
    pub cut: CancellationToken,
}

impl LiveTrunk {
    /// Binds a trunk's SIP sockets.
    pub async fn bind(
        trunk: Trunk,
        entropy: Arc<dyn Entropy>,
        tracker: &TaskTracker,
        stop: CancellationToken,
    ) -> std::io::Result<(Arc<Self>, mpsc::Receiver<IncomingCall>)> {
        let peer = resolve(&trunk.file.peer).await?;
        let bind = trunk.file.bind;
        let own = if bind.ip().is_unspecified() { own_address_towards(peer).await? } else { bind.ip() };
        let advertised = trunk.advertised(own, peer.ip());
        let mut sources = vec![peer.ip()];
        sources.extend(&trunk.file.sources);
        let config = AgentConfig {
            advertised: SocketAddr::new(advertised, bind.port()),
            peer,
            transport: trunk.file.transport,
            sources,
            large_over_tcp: trunk.file.large_over_tcp,
            timers: sipx_sip::Timers::default(),
            limits: AgentLimits::default(),
        };
        let random = Box::new(move || random_u64(&*entropy));
        let (port, incoming) = SipPort::bind(bind, config, random, tracker, stop.clone()).await?;
        tracing::info!(trunk = %trunk.id, local = %port.local_addr(), %peer, %advertised, "trunk is bound");
        if trunk.file.probe {
            tracker.spawn(stop.run_until_cancelled_owned(follow(port.watch(), trunk.id.clone(), peer)));
        }
        Ok((Arc::new(Self { trunk, port, media_ip: bind.ip(), advertised }), incoming))
    }

    /// Ports and our half of the SDP for one call, the preferred codec first.
    async fn media(
        &self,
        entropy: &dyn Entropy,
        first: Option<Codec>,
    ) -> std::io::Result<(RtpLeg, LocalMedia)> {
        let random = [random_u64(entropy), random_u64(entropy)];
        let rtp = RtpLeg::bind(self.media_ip, self.trunk.file.rtp_ports, self.advertised, random).await?;
        let address = SocketAddr::new(self.advertised, rtp.port()?);
        let mut codecs: Vec<Codec> = first.into_iter().collect();
        codecs.extend(self.trunk.codecs.iter().filter(|codec| Some(**codec) != first));
        Ok((rtp, LocalMedia::new(address, codecs, random_u64(entropy))))
    }

    /// The encodings of the WebRTC leg, in the trunk's order.
    fn encodings(&self) -> Vec<Encoding> {
        let audio = self.trunk.codecs.iter().map(|codec| encoding_of(*codec));
        audio.chain([Encoding::TelephoneEvent]).collect()
    }
}

impl Exchange {
    /// Serves calls of the network until the session ends, and those of the trunks until drained.
    pub async fn run(self: Arc<Self>, incoming: Vec<mpsc::Receiver<IncomingCall>>) {
        for (trunk, calls) in self.trunks.iter().cloned().zip(incoming) {
            let exchange = self.clone();
            self.calls.spawn(async move { exchange.serve_trunk(trunk, calls).await });
        }
        // Also while draining: whoever calls then is told so, until the session ends.
        while let Some(call) = self.session.next_call().await {
            let exchange = self.clone();
            self.calls.spawn(async move { outbound::serve(exchange, call).await });
        }
    }

    async fn serve_trunk(self: Arc<Self>, trunk: Arc<LiveTrunk>, mut calls: mpsc::Receiver<IncomingCall>) {
        loop {
            let call = tokio::select! {
                () = self.draining.cancelled() => break,
                call = calls.recv() => call,
            };
            let Some((incoming, leg)) = call else { break };
            let (exchange, trunk) = (self.clone(), trunk.clone());
            self.calls.spawn(async move { inbound::serve(exchange, trunk, incoming, leg).await });
        }
    }

    /// Refuses new calls, waits for those that stand, and cuts them after `patience`.
    pub async fn drain(&self, patience: Duration) {
        self.draining.cancel();
        for trunk in &self.trunks {
            trunk.port.drain();
        }
        self.calls.close();
        if tokio::time::timeout(patience, self.calls.wait()).await.is_err() {
            tracing::warn!(calls = self.calls.len(), "calls outlasted the drain: they are hung up");
            self.cut.cancel();
            // Each task now ends after its last message.
            let _ = tokio::time::timeout(Duration::from_secs(5), self.calls.wait()).await;
        }
    }

    fn line(&self, line: &Address) -> Option<(Arc<LiveTrunk>, sipx_sip::Uri)> {
        self.trunks.iter().find_map(|trunk| Some((trunk.clone(), trunk.trunk.target(line)?.clone())))
    }
}

/// Says in the log when a trunk goes down and when it is back.
async fn follow(mut up: watch::Receiver<bool>, trunk: String, peer: SocketAddr) {
    while up.changed().await.is_ok() {
        if *up.borrow_and_update() {
            tracing::info!(trunk, %peer, "trunk is up again: the PBX answers");
        } else {
            tracing::warn!(trunk, %peer, "trunk is down: the PBX does not answer OPTIONS, calls to its lines are \
                refused until it does (probe = false for a PBX that never answers OPTIONS)");
        }
    }
}

fn random_u64(entropy: &dyn Entropy) -> u64 {
    let mut bytes = [0; 8];
    entropy.fill(&mut bytes);
    u64::from_be_bytes(bytes)
}

fn encoding_of(codec: Codec) -> Encoding {
    match codec {
        Codec::Pcma => Encoding::Pcma,
        Codec::Pcmu => Encoding::Pcmu,
    }
}

fn codec_of(encoding: Encoding) -> Option<Codec> {
    match encoding {
        Encoding::Pcma => Some(Codec::Pcma),
        Encoding::Pcmu => Some(Codec::Pcmu),
        Encoding::TelephoneEvent => None,
    }
}

async fn resolve(peer: &str) -> std::io::Result<SocketAddr> {
    let missing = || std::io::Error::other(format!("peer = \"{peer}\": no address; write host:port"));
    tokio::net::lookup_host(peer).await.map_err(|_| missing())?.next().ok_or_else(missing)
}

/// The address that the operating system would send from; nothing is sent.
async fn own_address_towards(peer: SocketAddr) -> std::io::Result<IpAddr> {
    let any: IpAddr = if peer.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
    let socket = tokio::net::UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    socket.connect(peer).await?;
    Ok(socket.local_addr()?.ip())
}
