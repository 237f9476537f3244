//! The RTP end of one SIP leg: its pair of ports, where packets go (latched once per SDP), and
//! what went through, for the CDR. [BRIDGE-RTP-01]

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use ahoy_proto::time::{Clock, Timestamp};
use serde::Serialize;
use tokio::net::UdpSocket;

use super::{OutStream, Packet, Tone, encode_sound};
use crate::sdp::{Codec, MediaPlan};

/// Attempts to find a free even/odd pair before giving up.
const ATTEMPTS: u32 = 200;

/// The RTP ports of a trunk, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(try_from = "[u16; 2]")]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl TryFrom<[u16; 2]> for PortRange {
    type Error = String;

    fn try_from([first, last]: [u16; 2]) -> Result<Self, Self::Error> {
        if first < 1024 || last <= first {
            return Err(format!(
                "rtp_ports = [{first}, {last}]: the first must be at least 1024 and below the last"
            ));
        }
        Ok(Self { first, last })
    }
}

/// What went one way.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Traffic {
    /// RTP packets.
    pub packets: u64,
    /// Payload bytes.
    pub bytes: u64,
    /// When the first one went, in milliseconds of Unix time.
    pub first_ms: Option<u64>,
    /// The address in the SDP: ours for what came in, theirs for what went out.
    pub advertised: Option<SocketAddr>,
    /// Where packets really came from, or went to.
    pub actual: Option<SocketAddr>,
}

impl Traffic {
    fn count(&mut self, now: Timestamp, bytes: usize, actual: SocketAddr) {
        self.packets += 1;
        self.bytes += bytes as u64;
        self.first_ms.get_or_insert(now.as_millis());
        self.actual = Some(actual);
    }
}

/// What a received packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// The negotiated codec.
    Audio,
    /// A telephone event.
    Event,
}

struct Inner {
    plan: Option<MediaPlan>,
    latched: Option<SocketAddr>,
    stream: OutStream,
    /// A tone of ours is being sent: audio of the other leg waits.
    tone: bool,
    received: Traffic,
    sent: Traffic,
}

/// The RTP end of one SIP leg.
pub struct RtpLeg {
    rtp: UdpSocket,
    rtcp: UdpSocket,
    inner: Mutex<Inner>,
}

impl RtpLeg {
    /// Binds an even port and the odd one above it; `advertised` is the address for the SDP.
    /// `random` picks the first port to try and the first numbers of our stream.
    pub async fn bind(
        bind: IpAddr,
        range: PortRange,
        advertised: IpAddr,
        random: [u64; 2],
    ) -> io::Result<Self> {
        let pairs = u64::from((range.last - range.first).div_ceil(2)).max(1);
        let mut error = io::Error::new(io::ErrorKind::AddrInUse, "no free pair in rtp_ports");
        for attempt in 0..ATTEMPTS.min(u32::try_from(pairs).unwrap_or(ATTEMPTS)) {
            let pair = (random[0].wrapping_add(u64::from(attempt))) % pairs;
            let port = range.first.next_multiple_of(2) + u16::try_from(pair * 2).unwrap_or(0);
            if port >= range.last {
                continue;
            }
            match bind_pair(bind, port).await {
                Ok((rtp, rtcp)) => {
                    let stream = OutStream::new(
                        (random[1] >> 32) as u32,
                        (random[1] & 0x7fff) as u16,
                        (random[1] >> 16) as u32,
                    );
                    let received =
                        Traffic { advertised: Some(SocketAddr::new(advertised, port)), ..Traffic::default() };
                    let inner = Inner {
                        plan: None,
                        latched: None,
                        stream,
                        tone: false,
                        received,
                        sent: Traffic::default(),
                    };
                    return Ok(Self { rtp, rtcp, inner: Mutex::new(inner) });
                }
                Err(failed) => error = failed,
            }
        }
        Err(error)
    }

    /// The local port.
    pub fn port(&self) -> io::Result<u16> {
        Ok(self.rtp.local_addr()?.port())
    }

    /// Takes over a plan. A new remote address unlatches: once per SDP, not once per packet.
    pub fn set_plan(&self, plan: MediaPlan) {
        let mut inner = self.lock();
        let before = inner.plan.as_ref().and_then(|plan| plan.remote_rtp);
        if plan.remote_rtp.is_some() && plan.remote_rtp != before {
            inner.latched = None;
            inner.sent.advertised = plan.remote_rtp;
        }
        inner.plan = Some(plan);
    }

    /// Waits for the next packet that belongs to the call and gives it to `take`. Errors of the
    /// socket are survived. Cancel-safe.
    pub async fn receive(&self, clock: &dyn Clock, mut take: impl FnMut(Received, &Packet<'_>)) {
        let mut buffer = [0; 2048];
        let mut control = [0; 512];
        tokio::select! {
            received = self.rtp.recv_from(&mut buffer) => {
                if let Ok((length, source)) = received
                    && let Some(packet) = Packet::parse(&buffer[..length])
                    && let Some(kind) = self.admit(clock.now(), source, &packet)
                {
                    take(kind, &packet);
                }
            }
            // Reports of the far side; read so that they do not fill the socket.
            _ = self.rtcp.recv_from(&mut control) => {}
        }
    }

    fn admit(&self, now: Timestamp, source: SocketAddr, packet: &Packet<'_>) -> Option<Received> {
        let mut inner = self.lock();
        let plan = inner.plan.as_ref()?;
        let audio = packet.payload_type == plan.audio.receive || packet.payload_type == plan.audio.send;
        let event = plan
            .dtmf
            .is_some_and(|dtmf| packet.payload_type == dtmf.receive || packet.payload_type == dtmf.send);
        let kind = if audio {
            Received::Audio
        } else if event {
            Received::Event
        } else {
            return None;
        };
        // The address that the SDP names always counts; any other one only when it is first.
        if plan.remote_rtp == Some(source) || inner.latched.is_none() {
            inner.latched = Some(source);
        }
        if inner.latched != Some(source) {
            return None;
        }
        inner.received.count(now, packet.payload.len(), source);
        Some(kind)
    }

    /// Sends a packet of the other leg; dropped while the far side does not want any.
    pub fn send(&self, now: Timestamp, at: Instant, kind: Received, packet: Packet<'_>) {
        let mut inner = self.lock();
        if inner.tone {
            return;
        }
        let Some((target, payload_type)) = inner.target(kind) else { return };
        let out = inner.stream.map(at, packet, payload_type).to_bytes();
        self.transmit(&mut inner, now, target, &out);
    }

    /// Sends 20 ms of a tone of our own; `false` when it is over.
    pub fn send_tone(&self, now: Timestamp, at: Instant, tone: &mut Tone) -> bool {
        let mut inner = self.lock();
        let step = tone.step();
        inner.tone = step.is_some_and(|step| step.payload.is_some());
        let Some((payload, times)) = step.and_then(|step| step.payload) else {
            return step.is_some();
        };
        let Some((target, payload_type)) = inner.target(Received::Event) else {
            self.send_sound(&mut inner, now, at, tone);
            return true;
        };
        for number in 0..times {
            let fresh = number == 0 && step.is_some_and(|step| step.first);
            let out = inner.stream.insert(at, &payload, payload_type, fresh).to_bytes();
            self.transmit(&mut inner, now, target, &out);
        }
        true
    }

    /// The far side has no telephone-event: the tone goes into the audio. [BRIDGE-RTP-03]
    fn send_sound(&self, inner: &mut Inner, now: Timestamp, at: Instant, tone: &Tone) {
        let Some((target, payload_type)) = inner.target(Received::Audio) else { return };
        let Some(codec) = inner.plan.as_ref().filter(|plan| plan.dtmf.is_none()).map(|plan| plan.codec)
        else {
            return;
        };
        let sound = encode_sound(codec, &tone.sound());
        let out = inner.stream.insert_audio(at, &sound, payload_type).to_bytes();
        self.transmit(inner, now, target, &out);
    }

    /// The codec agreed on, once there is one.
    pub fn codec(&self) -> Option<Codec> {
        self.lock().plan.as_ref().map(|plan| plan.codec)
    }

    fn transmit(&self, inner: &mut Inner, now: Timestamp, target: SocketAddr, out: &[u8]) {
        // A full socket buffer loses the packet, as the network would.
        if self.rtp.try_send_to(out, target).is_ok() {
            inner.sent.count(now, out.len() - 12, target);
        }
    }

    /// Whether the far side negotiated telephone-event.
    pub fn speaks_dtmf(&self) -> bool {
        self.lock().plan.as_ref().is_some_and(|plan| plan.dtmf.is_some())
    }

    /// What came in and what went out so far.
    pub fn traffic(&self) -> (Traffic, Traffic) {
        let inner = self.lock();
        (inner.received.clone(), inner.sent.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn target(&self, kind: Received) -> Option<(SocketAddr, u8)> {
        let plan = self.plan.as_ref().filter(|plan| plan.direction.sends)?;
        let payload_type = match kind {
            Received::Audio => plan.audio.send,
            Received::Event => plan.dtmf?.send,
        };
        Some((self.latched.or(plan.remote_rtp)?, payload_type))
    }
}

async fn bind_pair(bind: IpAddr, port: u16) -> io::Result<(UdpSocket, UdpSocket)> {
    let rtp = UdpSocket::bind(SocketAddr::new(bind, port)).await?;
    let rtcp = UdpSocket::bind(SocketAddr::new(bind, port + 1)).await?;
    // The first send right after `bind` would find the socket not ready.
    rtp.writable().await?;
    Ok((rtp, rtcp))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sdp::{Codec, Direction, Profile};

    struct Still;
    impl Clock for Still {
        fn now(&self) -> Timestamp {
            Timestamp::from_millis(1_000)
        }
    }

    fn plan(remote: SocketAddr) -> MediaPlan {
        MediaPlan {
            remote_rtp: Some(remote),
            remote_rtcp: None,
            codec: Codec::Pcma,
            audio: Profile { send: 8, receive: 8 },
            dtmf: Some(Profile { send: 110, receive: 101 }),
            direction: Direction::BOTH,
        }
    }

    fn packet(payload_type: u8, sequence: u16) -> Packet<'static> {
        Packet { marker: false, payload_type, sequence, timestamp: 0, ssrc: 1, payload: &[1, 2, 3, 4] }
    }

    async fn leg() -> RtpLeg {
        let range = PortRange::try_from([20_000, 40_000]).unwrap();
        let local = IpAddr::from([127, 0, 0, 1]);
        RtpLeg::bind(local, range, local, [u64::from(std::process::id()) * 7919, 1]).await.unwrap()
    }

    async fn received(leg: &RtpLeg) -> Option<(Received, u16)> {
        let mut seen = None;
        let work = leg.receive(&Still, |kind, packet| seen = Some((kind, packet.sequence)));
        tokio::time::timeout(std::time::Duration::from_secs(5), work).await.expect("in time");
        seen
    }

    #[tokio::test]
    async fn latches_onto_the_first_source_and_lets_the_named_address_win() {
        let leg = leg().await;
        let to = SocketAddr::from(([127, 0, 0, 1], leg.port().unwrap()));
        let named = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (first, second) =
            (UdpSocket::bind("127.0.0.1:0").await.unwrap(), UdpSocket::bind("127.0.0.1:0").await.unwrap());
        leg.set_plan(plan(named.local_addr().unwrap()));
        first.send_to(&packet(8, 1).to_bytes(), to).await.unwrap();
        assert_eq!(received(&leg).await, Some((Received::Audio, 1)));
        second.send_to(&packet(8, 2).to_bytes(), to).await.unwrap();
        assert_eq!(received(&leg).await, None, "a second source does not take over");
        first.send_to(&packet(101, 3).to_bytes(), to).await.unwrap();
        assert_eq!(received(&leg).await, Some((Received::Event, 3)));
        named.send_to(&packet(8, 4).to_bytes(), to).await.unwrap();
        assert_eq!(received(&leg).await, Some((Received::Audio, 4)));
        let (came, _) = leg.traffic();
        assert_eq!((came.packets, came.first_ms, came.actual), (3, Some(1000), named.local_addr().ok()));
    }

    #[tokio::test]
    async fn a_tone_of_ours_silences_the_other_leg_and_keeps_one_timestamp() {
        let leg = leg().await;
        let far = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        leg.set_plan(plan(far.local_addr().unwrap()));
        let at = tokio::time::Instant::now().into_std();
        let now = Timestamp::from_millis(1);
        let mut tone = Tone::new('5', 60).unwrap();
        leg.send(now, at, Received::Audio, packet(8, 1));
        while leg.send_tone(now, at, &mut tone) {
            leg.send(now, at, Received::Audio, packet(8, 2));
        }
        let mut seen = Vec::new();
        let mut buffer = [0; 100];
        for _ in 0..leg.traffic().1.packets {
            let length = far.recv(&mut buffer).await.unwrap();
            let packet = Packet::parse(&buffer[..length]).unwrap();
            seen.push((packet.payload_type, packet.marker, packet.timestamp));
        }
        let events: Vec<_> = seen.iter().filter(|(kind, ..)| *kind == 110).collect();
        assert_eq!(events.len(), 5, "two, and the end three times: {seen:?}");
        assert!(events.iter().all(|event| event.2 == events[0].2) && events[0].1);
        assert_eq!(seen.iter().filter(|(kind, ..)| *kind == 8).count(), 1 + 3, "before, and in the gap");
    }

    #[tokio::test]
    async fn sends_with_their_payload_types_and_not_while_held() {
        let leg = leg().await;
        let far = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut agreed = plan(far.local_addr().unwrap());
        leg.set_plan(agreed.clone());
        let at = tokio::time::Instant::now().into_std();
        leg.send(Timestamp::from_millis(1), at, Received::Event, packet(126, 1));
        let mut buffer = [0; 100];
        let length = far.recv(&mut buffer).await.unwrap();
        assert_eq!(Packet::parse(&buffer[..length]).unwrap().payload_type, 110);
        agreed.direction.sends = false;
        leg.set_plan(agreed);
        leg.send(Timestamp::from_millis(1), at, Received::Audio, packet(8, 2));
        assert_eq!(leg.traffic().1.packets, 1);
    }
}
