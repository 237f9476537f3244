//! Decides how the WebRTC library is set up, and what of its events the session hears.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use rtc::media_stream::MediaStreamTrack;
use rtc::peer_connection::configuration::media_engine::{
    MIME_TYPE_PCMA, MIME_TYPE_PCMU, MIME_TYPE_TELEPHONE_EVENT,
};
use rtc::rtp_transceiver::rtp_sender::{
    RTCRtpCodec, RTCRtpCodecParameters, RTCRtpCodingParameters, RTCRtpEncodingParameters, RtpCodecKind,
};
use tokio::sync::watch;
use tokio::time::timeout;
use webrtc::media_stream::track_local::TrackLocal;
use webrtc::media_stream::track_local::static_rtp::TrackLocalStaticRTP;
use webrtc::media_stream::track_remote::TrackRemote;
use webrtc::peer_connection::{
    MediaEngine, PeerConnection, PeerConnectionBuilder, PeerConnectionEventHandler, RTCConfigurationBuilder,
    RTCIceGatheringState, RTCIceServer, RTCPeerConnectionState, Registry, SettingEngineBuilder,
    configure_rtcp_reports,
};

use super::{MediaConfig, MediaError};

/// Gathering waits this long for the STUN server; the host candidates are there at once.
const GATHER_DEADLINE: Duration = Duration::from_secs(1);
/// The path counts as lost after this much silence: the call asks for an ICE restart [CALL-MEDIA-03].
const DISCONNECTED_AFTER: Duration = Duration::from_secs(2);
const FAILED_AFTER: Duration = Duration::from_secs(15);
const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// Between two connectivity checks: the pace of RFC 8445 section 14.2 (the library's 200 ms clips what is said first).
const CHECK_INTERVAL: Duration = Duration::from_millis(50);
/// Checks of one pair of candidates before it is given up: two seconds' worth.
const CHECKS: u16 = 40;

/// What the session does with the library's events.
pub(super) trait Events: Send + Sync + 'static {
    fn state(&self, state: RTCPeerConnectionState);
    fn track(&self, track: Arc<dyn TrackRemote>);
}

/// A peer connection, its outgoing track, and the state of its gathering.
pub(super) struct Peer {
    pub(super) connection: Arc<dyn PeerConnection>,
    pub(super) track: Arc<TrackLocalStaticRTP>,
    gathered: watch::Receiver<u64>,
}

struct Handler {
    events: Arc<dyn Events>,
    gathered: watch::Sender<u64>,
}

type Done<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

// The trait is declared with `async_trait`; these are the signatures that the macro writes.
impl PeerConnectionEventHandler for Handler {
    fn on_ice_gathering_state_change<'s, 'a>(&'s self, state: RTCIceGatheringState) -> Done<'a>
    where
        's: 'a,
        Self: 'a,
    {
        if state == RTCIceGatheringState::Complete {
            self.gathered.send_modify(|count| *count += 1);
        }
        Box::pin(std::future::ready(()))
    }

    fn on_connection_state_change<'s, 'a>(&'s self, state: RTCPeerConnectionState) -> Done<'a>
    where
        's: 'a,
        Self: 'a,
    {
        self.events.state(state);
        Box::pin(std::future::ready(()))
    }

    fn on_track<'s, 'a>(&'s self, track: Arc<dyn TrackRemote>) -> Done<'a>
    where
        's: 'a,
        Self: 'a,
    {
        self.events.track(track);
        Box::pin(std::future::ready(()))
    }
}

impl Peer {
    pub(super) async fn build(
        config: &MediaConfig,
        ssrc: u32,
        events: Arc<dyn Events>,
    ) -> Result<Self, MediaError> {
        if config.relay_only {
            return Err(MediaError::NoRelay);
        }
        let zero = Some(Duration::ZERO);
        // The waits give the library time to find a better kind of path; a call wants the first that works.
        let settings = SettingEngineBuilder::new()
            .with_host_acceptance_min_wait(zero)
            .with_srflx_acceptance_min_wait(zero)
            .with_prflx_acceptance_min_wait(zero)
            .with_relay_acceptance_min_wait(zero)
            .with_ice_timeouts(Some(DISCONNECTED_AFTER), Some(FAILED_AFTER), Some(KEEP_ALIVE))
            .with_ice_connection_attempts(Some(CHECK_INTERVAL), Some(CHECKS))
            // Joining the multicast group fails on a machine without a default route.
            .with_multicast_dns_mode(rtc::ice::mdns::MulticastDnsMode::Disabled)
            .with_include_loopback_candidate(true)
            // A restart is asked for because the path is lost, so its sockets are replaced too.
            .with_discard_local_candidates_during_ice_restart(true)
            .build();
        let servers = config
            .stun
            .map(|stun| RTCIceServer { urls: vec![format!("stun:{stun}")], ..Default::default() })
            .into_iter()
            .collect();
        let (gathered_tx, gathered) = watch::channel(0);
        let connection = PeerConnectionBuilder::new()
            .with_configuration(RTCConfigurationBuilder::new().with_ice_servers(servers).build())
            .with_media_engine(engine()?)
            .with_interceptor_registry(configure_rtcp_reports(Registry::new()))
            .with_setting_engine(settings)
            .with_handler(Arc::new(Handler { events, gathered: gathered_tx }))
            .with_udp_addrs(bind_addresses(&config.bind_ips)?)
            .build()
            .await?;
        let connection: Arc<dyn PeerConnection> = Arc::new(connection);
        let track = Arc::new(TrackLocalStaticRTP::new(outgoing(ssrc)));
        Ok(Self { connection, track, gathered })
    }

    /// Adds the outgoing track. The library would offer its codec alone, so it is told the others too.
    pub(super) async fn add_track(&self) -> Result<(), MediaError> {
        self.connection.add_track(Arc::clone(&self.track) as Arc<dyn TrackLocal>).await?;
        for transceiver in self.connection.get_transceivers().await {
            transceiver.set_codec_preferences(codecs()).await?;
        }
        Ok(())
    }

    /// Waits until the candidates of the local description are complete, for as long as that makes sense.
    pub(super) async fn described(&self, before: u64) -> Result<String, MediaError> {
        let mut gathered = self.gathered.clone();
        // A STUN server that does not answer costs its candidates, not the call.
        let _ = timeout(GATHER_DEADLINE, gathered.wait_for(|count| *count > before)).await;
        let description = self.connection.local_description().await.ok_or(MediaError::Closed)?;
        Ok(super::sdp::plain(&description.sdp))
    }

    pub(super) fn gatherings(&self) -> u64 {
        *self.gathered.borrow()
    }
}

fn bind_addresses(ips: &[IpAddr]) -> Result<Vec<SocketAddr>, MediaError> {
    if !ips.is_empty() {
        return Ok(ips.iter().map(|ip| SocketAddr::new(*ip, 0)).collect());
    }
    let usable = if_addrs::get_if_addrs()
        .map_err(MediaError::Interfaces)?
        .into_iter()
        .map(|interface| interface.ip())
        .filter(|ip| !ip.is_loopback() && !ip.is_unspecified() && !is_link_local(ip));
    // A wildcard is expanded by the library at every restart, which is how a call survives a change of network.
    let mut wildcards: Vec<SocketAddr> = usable
        .map(|ip| match ip {
            IpAddr::V4(_) => SocketAddr::from(([0, 0, 0, 0], 0)),
            IpAddr::V6(_) => SocketAddr::from(([0; 16], 0)),
        })
        .collect();
    wildcards.sort_unstable();
    wildcards.dedup();
    if wildcards.is_empty() {
        wildcards.push(SocketAddr::from(([127, 0, 0, 1], 0)));
    }
    Ok(wildcards)
}

fn is_link_local(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

fn codec(mime_type: &str, payload_type: u8, fmtp: &str) -> RTCRtpCodecParameters {
    RTCRtpCodecParameters {
        rtp_codec: RTCRtpCodec {
            mime_type: mime_type.to_owned(),
            clock_rate: super::source::RATE,
            channels: 0,
            sdp_fmtp_line: fmtp.to_owned(),
            rtcp_feedback: vec![],
        },
        payload_type,
    }
}

/// All that is ever offered: two codecs and their telephone events.
fn codecs() -> Vec<RTCRtpCodecParameters> {
    vec![
        codec(MIME_TYPE_PCMA, 8, ""),
        codec(MIME_TYPE_PCMU, 0, ""),
        codec(MIME_TYPE_TELEPHONE_EVENT, 101, "0-15"),
    ]
}

fn engine() -> Result<MediaEngine, MediaError> {
    let mut engine = MediaEngine::default();
    for codec in codecs() {
        engine.register_codec(codec, RtpCodecKind::Audio)?;
    }
    Ok(engine)
}

fn outgoing(ssrc: u32) -> MediaStreamTrack {
    let encoding = RTCRtpEncodingParameters {
        rtp_coding_parameters: RTCRtpCodingParameters { ssrc: Some(ssrc), ..Default::default() },
        codec: codec(MIME_TYPE_PCMA, 8, "").rtp_codec,
        ..Default::default()
    };
    MediaStreamTrack::new(
        "ahoy".to_owned(),
        "audio".to_owned(),
        "audio".to_owned(),
        RtpCodecKind::Audio,
        vec![encoding],
    )
}
