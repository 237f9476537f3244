//! Decides what one WebRTC leg does with time, packets and SDP. No sockets, no tasks: it is told the time, and
//! what it sends goes to a [`Wire`].

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use str0m::change::{SdpAnswer, SdpOffer, SdpPendingOffer};
use str0m::format::{Codec, FormatParams};
use str0m::media::{Direction, Frequency, MediaKind, Mid, Pt};
use str0m::net::{Protocol, Receive};
use str0m::rtp::RtpWrite;
use str0m::{Candidate, Event, IceConnectionState, Input, Output, Rtc};
use tokio::sync::mpsc;

use super::rewrite::Rewriter;
use super::{Encoding, Negotiated, RtcError, RtcEvent, RtcStats, RtpPacket, sdp};

/// RTP that flowed and stops for this long is a stall [CALL-MEDIA-04].
const STALLED_AFTER: Duration = Duration::from_secs(2);
/// A peer that shows no sign of life for this long is gone; the library would take 28 s.
const LOST_AFTER: Duration = Duration::from_secs(15);
/// First retransmission of a connectivity check; the library's 250 ms cost a call's set-up a quarter second
/// for each check that was lost because the peer was not ready.
const FIRST_CHECK_RETRY: Duration = Duration::from_millis(60);
/// Events that wait for the call's controller; a controller that reads none of 64 does not work.
pub(super) const EVENTS: usize = 64;
/// The payload type of telephone events in our offers; G.711 has static ones.
const TELEPHONE_EVENT: u8 = 101;

/// Sends datagrams; never waits.
pub(super) trait Wire {
    fn send(&self, from: SocketAddr, to: SocketAddr, datagram: &[u8]);
}

/// A datagram for a leg, and how to believe it.
pub(super) struct Arrival<'a> {
    pub(super) source: SocketAddr,
    pub(super) local: SocketAddr,
    pub(super) datagram: &'a [u8],
    /// STUN carries a proof of its own; the rest is attributed by address only.
    pub(super) is_stun: bool,
}

/// A received RTP packet on its way to the sink.
pub(super) struct Received {
    encoding: Encoding,
    packet: str0m::rtp::RtpPacket,
}

impl Received {
    pub(super) fn as_packet(&self) -> RtpPacket<'_> {
        let header = &self.packet.header;
        RtpPacket {
            encoding: self.encoding,
            ssrc: *header.ssrc,
            sequence: header.sequence_number,
            timestamp: header.timestamp,
            marker: header.marker,
            payload: &self.packet.payload,
        }
    }
}

pub(super) struct Leg {
    rtc: Rtc,
    mid: Option<Mid>,
    payload_types: Vec<(Pt, Encoding)>,
    negotiated: Option<Negotiated>,
    pending: Option<SdpPendingOffer>,
    rewriter: Rewriter,
    events: mpsc::Sender<RtcEvent>,
    stats: RtcStats,
    created: Instant,
    connected: bool,
    ice_up: bool,
    last_rtp: Option<Instant>,
    last_heard: Option<Instant>,
    /// Next timeout of the library.
    library: Instant,
    closed: bool,
    /// The timer entry that will wake this leg, if any.
    pub(super) armed: Option<Instant>,
}

impl Leg {
    pub(super) fn new(
        encodings: &[Encoding],
        candidates: Vec<Candidate>,
        rewriter: Rewriter,
        events: mpsc::Sender<RtcEvent>,
        now: Instant,
    ) -> Self {
        let mut config = str0m::RtcConfig::new().clear_codecs().set_rtp_mode(true);
        config.set_initial_stun_rto(FIRST_CHECK_RETRY);
        for encoding in encodings {
            match encoding {
                Encoding::Pcma => config.codec_config().enable_pcma(true, false),
                Encoding::Pcmu => config.codec_config().enable_pcmu(true, false),
                Encoding::TelephoneEvent => config.codec_config().add_config(
                    TELEPHONE_EVENT.into(),
                    None,
                    Codec::Tele,
                    Frequency::EIGHT_KHZ,
                    None,
                    FormatParams { telephone_event_max: Some(15), ..FormatParams::default() },
                ),
            }
        }
        let mut rtc = config.build(now);
        for candidate in candidates {
            rtc.add_local_candidate(candidate);
        }
        Self {
            rtc,
            mid: None,
            payload_types: Vec::new(),
            negotiated: None,
            pending: None,
            rewriter,
            events,
            stats: RtcStats::default(),
            created: now,
            connected: false,
            ice_up: false,
            last_rtp: None,
            last_heard: None,
            library: now,
            closed: false,
            armed: None,
        }
    }

    /// The ufrag that checks for this leg carry.
    pub(super) fn ufrag(&mut self) -> String {
        self.rtc.direct_api().local_ice_credentials().ufrag
    }

    pub(super) fn offer(&mut self) -> Result<String, RtcError> {
        let mut changes = self.rtc.sdp_api();
        let mid = changes.add_media(MediaKind::Audio, Direction::SendRecv, None, None, None);
        let (offer, pending) = changes.apply().ok_or(RtcError::OutOfOrder)?;
        self.mid = Some(mid);
        self.pending = Some(pending);
        let offer = offer.to_sdp_string();
        self.stats.advertised.0 = sdp::advertised(&offer);
        Ok(offer)
    }

    /// Makes a restart offer; the second value is the ufrag that the peer's checks will carry once it has it.
    pub(super) fn restart(&mut self) -> Result<(String, String), RtcError> {
        if self.negotiated.is_none() {
            return Err(RtcError::OutOfOrder);
        }
        let mut changes = self.rtc.sdp_api();
        let credentials = changes.ice_restart(true);
        let (offer, pending) = changes.apply().ok_or(RtcError::OutOfOrder)?;
        self.pending = Some(pending);
        let offer = offer.to_sdp_string();
        self.stats.advertised.0 = sdp::advertised(&offer);
        Ok((offer, credentials.ufrag))
    }

    pub(super) fn accept_answer(&mut self, answer: &str) -> Result<(), RtcError> {
        let answer = checked(answer)?;
        if sdp::encodings(&answer).is_empty() {
            return Err(RtcError::NoMedia);
        }
        let parsed = SdpAnswer::from_sdp_string(&answer).map_err(|e| RtcError::Sdp(e.to_string()))?;
        let pending = self.pending.take().ok_or(RtcError::OutOfOrder)?;
        let accepted = self.rtc.sdp_api().accept_answer(pending, parsed);
        accepted.map_err(|e| RtcError::Sdp(e.to_string()))?;
        self.stats.advertised.1 = sdp::advertised(&answer);
        self.settle(&answer)
    }

    pub(super) fn accept_offer(&mut self, offer: &str) -> Result<String, RtcError> {
        let offer = checked(offer)?;
        let parsed = SdpOffer::from_sdp_string(&offer).map_err(|e| RtcError::Sdp(e.to_string()))?;
        let answer = self.rtc.sdp_api().accept_offer(parsed).map_err(|e| RtcError::Sdp(e.to_string()))?;
        // An offer of ours that crossed theirs is void now (the library invalidates it too).
        self.pending = None;
        let answer = answer.to_sdp_string();
        self.stats.advertised = (sdp::advertised(&answer), sdp::advertised(&offer));
        self.mid = first_audio_mid(&answer);
        self.settle(&answer)?;
        Ok(answer)
    }

    fn settle(&mut self, answer: &str) -> Result<(), RtcError> {
        let media = self.mid.and_then(|mid| self.rtc.media(mid)).ok_or(RtcError::NoMedia)?;
        let known = self.rtc.codec_config().params();
        self.payload_types = media
            .remote_pts()
            .iter()
            .filter_map(|pt| {
                let params = known.iter().find(|params| params.pt() == *pt)?;
                let encoding = match params.spec().codec {
                    Codec::PCMA => Encoding::Pcma,
                    Codec::PCMU => Encoding::Pcmu,
                    Codec::Tele => Encoding::TelephoneEvent,
                    _ => return None,
                };
                Some((*pt, encoding))
            })
            .collect();
        let has = |wanted| self.payload_types.iter().any(|(_, encoding)| *encoding == wanted);
        let order = sdp::encodings(answer);
        let audio = order.into_iter().find(|encoding| encoding.is_audio() && has(*encoding));
        let audio = audio.ok_or(RtcError::NoMedia)?;
        self.negotiated = Some(Negotiated { audio, telephone_event: has(Encoding::TelephoneEvent) });
        Ok(())
    }

    pub(super) fn negotiated(&self) -> Option<Negotiated> {
        self.negotiated
    }

    pub(super) fn stats(&self) -> RtcStats {
        self.stats
    }

    /// Sends a packet of the other side to the peer.
    pub(super) fn write(&mut self, packet: &RtpPacket<'_>, now: Instant) {
        if !self.try_write(packet, now) {
            self.stats.packets_refused += 1;
        }
    }

    fn try_write(&mut self, packet: &RtpPacket<'_>, now: Instant) -> bool {
        let payload_type = self.payload_types.iter().find(|(_, encoding)| *encoding == packet.encoding);
        let (Some((payload_type, _)), Some(mid), true) = (payload_type, self.mid, self.connected) else {
            return false;
        };
        let Some((sequence, timestamp)) = self.rewriter.map(packet.ssrc, packet.sequence, packet.timestamp)
        else {
            return false;
        };
        let mut api = self.rtc.direct_api();
        let Some(stream) = api.stream_tx_by_mid(mid, None) else { return false };
        let write = RtpWrite::new(*payload_type, sequence.into(), timestamp, now, packet.payload);
        stream.write_rtp(write.marker(packet.marker));
        self.stats.packets_out += 1;
        self.stats.bytes_out += packet.payload.len() as u64;
        self.stats.first_out.get_or_insert(now.saturating_duration_since(self.created));
        // Without this the packet waits for the library's next timeout, 8 ms on average.
        self.input(Input::Timeout(now));
        true
    }

    /// Takes a datagram; `true` when it proved to belong to this leg.
    pub(super) fn receive(&mut self, arrival: &Arrival<'_>, now: Instant) -> bool {
        let Ok(receive) = Receive::new(Protocol::Udp, arrival.source, arrival.local, arrival.datagram) else {
            return false;
        };
        let input = Input::Receive(now, receive);
        let proved = arrival.is_stun && self.rtc.accepts(&input);
        if arrival.is_stun && !proved {
            return false;
        }
        if proved {
            self.last_heard = Some(now);
        }
        self.input(input);
        proved
    }

    /// Does what is due.
    pub(super) fn tick(&mut self, now: Instant) {
        if self.library <= now {
            self.input(Input::Timeout(now));
        }
        if self.last_rtp.is_some_and(|at| now >= at + STALLED_AFTER) {
            // Counted once: the next packet sets it again.
            self.last_rtp = None;
            self.emit(RtcEvent::Stalled);
        }
        if self.last_heard.is_some_and(|at| now >= at + LOST_AFTER) {
            self.last_heard = None;
            self.emit(RtcEvent::Lost);
        }
    }

    /// When [`Leg::tick`] is due.
    pub(super) fn deadline(&self) -> Instant {
        let stalled = self.last_rtp.map(|at| at + STALLED_AFTER);
        let lost = self.last_heard.map(|at| at + LOST_AFTER);
        [stalled, lost].into_iter().flatten().fold(self.library, Instant::min)
    }

    /// Our public address changed from `old` to `new`.
    pub(super) fn remap(&mut self, old: Option<Candidate>, new: Option<Candidate>) {
        if let Some(old) = old {
            self.rtc.direct_api().invalidate_candidate(&old);
            self.emit(RtcEvent::MappingChanged);
        }
        if let Some(new) = new {
            self.rtc.add_local_candidate(new);
        }
    }

    pub(super) fn close(&mut self) {
        self.closed = true;
        // It is over either way; an error only means that no goodbye can be said.
        let _ = self.rtc.close();
    }

    fn input(&mut self, input: Input<'_>) {
        if let Err(error) = self.rtc.handle_input(input) {
            self.fail(&error);
        }
    }

    fn fail(&mut self, error: &str0m::RtcError) {
        tracing::debug!(%error, "WebRTC leg failed");
        self.rtc.disconnect();
        self.end();
    }

    fn end(&mut self) {
        if !std::mem::replace(&mut self.closed, true) {
            self.emit(RtcEvent::Closed);
        }
    }

    fn emit(&self, event: RtcEvent) {
        // A full queue means a controller that does not read: the call is lost to it anyway.
        let _ = self.events.try_send(event);
    }

    /// Sends what waits and collects what was received. Must follow every change.
    pub(super) fn drain(&mut self, wire: &impl Wire, received: &mut Vec<Received>) {
        loop {
            match self.rtc.poll_output() {
                Ok(Output::Timeout(at)) => {
                    self.library = at;
                    return;
                }
                Ok(Output::Transmit(transmit)) => {
                    self.note_pair(transmit.source, transmit.destination, &transmit.contents);
                    wire.send(transmit.source, transmit.destination, &transmit.contents);
                }
                Ok(Output::Event(event)) => self.event(event, received),
                Err(error) => self.fail(&error),
            }
        }
    }

    fn note_pair(&mut self, local: SocketAddr, remote: SocketAddr, datagram: &[u8]) {
        // Only the nominated pair carries anything but STUN.
        let nominated = datagram.first().is_some_and(|first| *first > 3);
        if nominated && self.stats.selected_pair != Some((local, remote)) {
            self.stats.selected_pair = Some((local, remote));
            self.emit(RtcEvent::SelectedPair { local, remote });
        }
    }

    fn event(&mut self, event: Event, received: &mut Vec<Received>) {
        match event {
            Event::Connected => {
                self.connected = true;
                let at = self.last_heard.map(|at| at.saturating_duration_since(self.created));
                self.stats.connected = self.stats.connected.or(at);
                self.emit(RtcEvent::Connected);
            }
            Event::IceConnectionStateChange(state) => self.ice(state),
            Event::RtpPacket(packet) => self.received(packet, received),
            Event::Closed => self.end(),
            _ => {}
        }
    }

    fn ice(&mut self, state: IceConnectionState) {
        let was = std::mem::replace(&mut self.ice_up, state.is_connected());
        // The first time, DTLS is still to come and reports when it is done.
        if self.ice_up && !was && self.connected {
            self.emit(RtcEvent::Connected);
        }
        if state.is_disconnected() {
            self.emit(RtcEvent::Disconnected);
        }
    }

    fn received(&mut self, packet: str0m::rtp::RtpPacket, received: &mut Vec<Received>) {
        let at = packet.timestamp;
        self.stats.packets_in += 1;
        self.stats.bytes_in += packet.payload.len() as u64;
        self.stats.first_in.get_or_insert(at.saturating_duration_since(self.created));
        self.last_heard = Some(at);
        if self.last_rtp.replace(at).is_none() && self.stats.packets_in > 1 {
            self.emit(RtcEvent::Resumed);
        }
        let known = self.payload_types.iter().find(|(pt, _)| *pt == packet.header.payload_type);
        if let Some((_, encoding)) = known {
            received.push(Received { encoding: *encoding, packet });
        }
    }
}

fn checked(text: &str) -> Result<String, RtcError> {
    if text.len() > sdp::LONGEST {
        return Err(RtcError::TooLong(text.len()));
    }
    Ok(sdp::plain(text))
}

fn first_audio_mid(answer: &str) -> Option<Mid> {
    let audio = answer.lines().skip_while(|line| !line.starts_with("m=audio "));
    let mut section = audio.skip(1).take_while(|line| !line.starts_with("m="));
    section.find_map(|line| line.strip_prefix("a=mid:")).map(|mid| Mid::from(mid.trim_end()))
}
