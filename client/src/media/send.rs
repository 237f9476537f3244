//! Decides what leaves the session and when: one packet each 20 ms, audio or telephone event.

use std::collections::VecDeque;
use std::time::Duration;

use audio_codec::Encoder;
use audio_codec::pcma::PcmaEncoder;
use audio_codec::pcmu::PcmuEncoder;
use bytes::Bytes;
use rtc::rtp;
use webrtc::media_stream::track_local::TrackLocal;
use webrtc::media_stream::track_local::static_rtp::TrackLocalStaticRTP;

use super::MediaEvent;
use super::dtmf::{Frame, Outgoing};
use super::sdp::{Codec, Payloads};
use super::session::Shared;
use super::source::{FRAME, Player};

/// Time from one packet to the next.
pub(super) const PTIME: Duration = Duration::from_millis(20);

/// What the session wants to be heard; shared with the sending task.
pub(super) struct Outbox {
    pub(super) player: Player,
    pub(super) digits: VecDeque<u8>,
}

/// The RTP side of the sending task.
pub(super) struct Stream {
    ssrc: u32,
    sequence: u16,
    timestamp: u32,
    event: Option<(Outgoing, u32)>,
    marker: bool,
}

impl Stream {
    /// `seed` gives the random starting points that RFC 3550 section 5.1 asks for.
    pub(super) fn new(ssrc: u32, seed: [u8; 6]) -> Self {
        let [a, b, c, d, e, f] = seed;
        Self {
            ssrc,
            sequence: u16::from_be_bytes([a, b]),
            timestamp: u32::from_be_bytes([c, d, e, f]),
            event: None,
            marker: true,
        }
    }

    /// The packet of this frame, if it has one, and whether the source ended with it.
    fn frame(&mut self, payloads: &Payloads, outbox: &mut Outbox) -> (Option<rtp::Packet>, bool) {
        let now = self.timestamp;
        self.timestamp = self.timestamp.wrapping_add(u32::try_from(FRAME).expect("160"));
        if let Some(packet) = self.event_frame(payloads, outbox, now) {
            return (packet, false);
        }
        let mut samples = [0i16; FRAME];
        let ended = outbox.player.fill(&mut samples);
        if ended {
            outbox.player = Player::Silence;
        }
        let (codec, payload_type) = payloads.send;
        let marker = std::mem::take(&mut self.marker);
        (Some(self.packet(payload_type, now, marker, encode(codec, &samples))), ended)
    }

    /// `Some` while a digit is under way: events take the place of audio (RFC 4733 section 2.5.1.1).
    fn event_frame(
        &mut self,
        payloads: &Payloads,
        outbox: &mut Outbox,
        now: u32,
    ) -> Option<Option<rtp::Packet>> {
        let payload_type = payloads.dtmf?;
        loop {
            if self.event.is_none() {
                self.event = Some((Outgoing::new(outbox.digits.pop_front()?), now));
            }
            let (outgoing, start) = self.event.as_mut().expect("set above");
            let start = *start;
            match outgoing.next() {
                Some(Frame::Event { payload, first }) => {
                    let payload = Bytes::copy_from_slice(&payload);
                    return Some(Some(self.packet(payload_type, start, first, payload)));
                }
                Some(Frame::Pause) => {
                    self.marker = true;
                    return Some(None);
                }
                None => self.event = None,
            }
        }
    }

    fn packet(&mut self, payload_type: u8, timestamp: u32, marker: bool, payload: Bytes) -> rtp::Packet {
        self.sequence = self.sequence.wrapping_add(1);
        let header = rtp::Header {
            version: 2,
            marker,
            payload_type,
            sequence_number: self.sequence,
            timestamp,
            ssrc: self.ssrc,
            ..Default::default()
        };
        rtp::Packet { header, payload }
    }
}

fn encode(codec: Codec, samples: &[i16; FRAME]) -> Bytes {
    let mut out = [0u8; FRAME];
    let written = match codec {
        Codec::Pcma => PcmaEncoder::new().encode_into(samples, &mut out),
        Codec::Pcmu => PcmuEncoder::new().encode_into(samples, &mut out),
    };
    debug_assert_eq!(written, Ok(FRAME));
    Bytes::copy_from_slice(&out)
}

/// Sends until the session is closed; starts with the connection, so that nothing played is cut off.
pub(super) async fn run(
    shared: std::sync::Arc<Shared>,
    track: std::sync::Arc<TrackLocalStaticRTP>,
    mut stream: Stream,
) {
    let mut connected = shared.connected();
    if connected.wait_for(Option::is_some).await.is_err() {
        return;
    }
    let mut ticks = tokio::time::interval(PTIME);
    loop {
        ticks.tick().await;
        let Some(payloads) = shared.payloads() else { continue };
        let (packet, ended) = shared.with_outbox(|outbox| stream.frame(&payloads, outbox));
        if let Some(packet) = packet {
            if track.write_rtp(packet).await.is_err() {
                return;
            }
            shared.count_sent();
        }
        if ended {
            shared.emit(MediaEvent::PlaybackEnded);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payloads() -> Payloads {
        Payloads { send: (Codec::Pcma, 8), pcma: Some(8), pcmu: None, dtmf: Some(101) }
    }

    #[test]
    fn digits_replace_audio_and_the_clock_goes_on() {
        let mut stream = Stream::new(7, [0; 6]);
        let mut outbox = Outbox { player: Player::Silence, digits: VecDeque::from([1]) };
        let packets: Vec<_> = (0..20).filter_map(|_| stream.frame(&payloads(), &mut outbox).0).collect();
        let (events, audio): (Vec<_>, Vec<_>) = packets.iter().partition(|p| p.header.payload_type == 101);
        assert_eq!(events.len(), 8);
        assert!(events.iter().all(|p| p.header.timestamp == 0));
        assert!(events[0].header.marker && !events[1].header.marker);
        assert_eq!(audio[0].header.timestamp, 11 * 160);
        assert!(audio[0].header.marker, "talk starts again after a digit");
        let sequences: Vec<u16> = packets.iter().map(|p| p.header.sequence_number).collect();
        assert!(sequences.windows(2).all(|pair| pair[1] == pair[0] + 1), "{sequences:?}");
    }

    #[test]
    fn without_a_negotiated_event_type_no_event_is_sent() {
        let mut stream = Stream::new(7, [0; 6]);
        let mut outbox = Outbox { player: Player::Silence, digits: VecDeque::from([1]) };
        let none = Payloads { dtmf: None, ..payloads() };
        let packet = stream.frame(&none, &mut outbox).0.expect("audio");
        assert_eq!(packet.header.payload_type, 8);
    }
}
