//! The desk phone's ear and mouth: sends a tone, records what arrives, notes the digits.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use ahoy_proto::time::Entropy;
use audio_codec::{Decoder, Encoder};
use tokio::{net::UdpSocket, sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{Event, sdp::RemoteAudio};
use crate::tone::{self, Tone};

const FRAME: usize = 160;
/// Ten minutes at 8 kHz: what a recording may grow to.
const LONGEST_RECORDING: usize = 8000 * 600;

/// One call's audio.
pub(super) struct Audio {
    pub socket: UdpSocket,
    pub remote: RemoteAudio,
    pub tone_hz: u32,
    pub record: Option<PathBuf>,
    pub call: String,
    pub events: mpsc::Sender<Event>,
    pub digits: mpsc::Receiver<char>,
    pub stop: CancellationToken,
}

/// What one call's audio came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AudioReport {
    /// RTP packets sent.
    pub sent: u64,
    /// RTP packets with audio received.
    pub received: u64,
    /// Digits heard, in order.
    pub digits: String,
    /// Where the recording is.
    pub recording: Option<PathBuf>,
}

struct Ear {
    samples: Vec<i16>,
    first_timestamp: Option<u32>,
    event_timestamp: Option<u32>,
    report: AudioReport,
}

struct Packet<'a> {
    payload_type: u8,
    timestamp: u32,
    payload: &'a [u8],
}

impl Audio {
    /// Runs until the call stops it, then writes the recording.
    pub(super) async fn run(mut self, entropy: &dyn Entropy) -> AudioReport {
        let mut ear = Ear {
            samples: Vec::new(),
            first_timestamp: None,
            event_timestamp: None,
            report: AudioReport::default(),
        };
        let mut mouth = Mouth::new(&self.remote, self.tone_hz, entropy);
        let mut tick = tokio::time::interval(Duration::from_millis(20));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
        let started = Instant::now();
        let mut buffer = [0_u8; 2048];
        loop {
            tokio::select! {
                () = self.stop.cancelled() => break,
                _ = tick.tick() => {
                    if self.socket.send_to(&mouth.next_packet(), self.remote.address).await.is_ok() {
                        ear.report.sent += 1;
                    }
                }
                Some(digit) = self.digits.recv() => mouth.press(digit),
                received = self.socket.recv_from(&mut buffer) => {
                    if let Ok((length, from)) = received {
                        self.hear(&mut ear, &buffer[..length], from, started).await;
                    }
                }
            }
        }
        self.write_recording(&mut ear);
        ear.report
    }

    async fn hear(&self, ear: &mut Ear, datagram: &[u8], from: SocketAddr, started: Instant) {
        let Some(packet) = parse(datagram) else { return };
        if Some(packet.payload_type) == self.remote.telephone_event {
            if let Some(digit) = ear.note_digit(&packet) {
                self.tell(Event::Dtmf { call: self.call.clone(), digit }).await;
            }
        } else if packet.payload_type == self.remote.payload_type {
            if ear.report.received == 0 {
                let after_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
                self.tell(Event::FirstAudio { call: self.call.clone(), from, after_ms }).await;
            }
            ear.note_audio(&packet);
        }
    }

    async fn tell(&self, event: Event) {
        // The reader of events may be gone already: the call goes on without it.
        let _ = self.events.send(event).await;
    }

    fn write_recording(&self, ear: &mut Ear) {
        let Some(path) = &self.record else { return };
        match tone::write_wav(path, &ear.samples) {
            Ok(()) => ear.report.recording = Some(path.clone()),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the recording could not be written")
            }
        }
    }
}

impl Ear {
    /// One digit per event: every packet of a telephone event carries the same timestamp (RFC 4733
    /// section 2.5.1.2).
    fn note_digit(&mut self, packet: &Packet<'_>) -> Option<char> {
        if packet.payload.len() < 4 || self.event_timestamp == Some(packet.timestamp) {
            return None;
        }
        self.event_timestamp = Some(packet.timestamp);
        let digit = b"0123456789*#ABCD".get(usize::from(packet.payload[0])).map(|d| char::from(*d))?;
        self.report.digits.push(digit);
        Some(digit)
    }

    fn note_audio(&mut self, packet: &Packet<'_>) {
        self.report.received += 1;
        let first = *self.first_timestamp.get_or_insert(packet.timestamp);
        let at = packet.timestamp.wrapping_sub(first) as usize;
        let heard = decode(packet.payload_type, packet.payload);
        if at + heard.len() > LONGEST_RECORDING {
            return;
        }
        if self.samples.len() < at + heard.len() {
            self.samples.resize(at + heard.len(), 0);
        }
        self.samples[at..at + heard.len()].copy_from_slice(&heard);
    }
}

/// What the phone says: a tone, and digits when keys are pressed.
struct Mouth {
    tone: Tone,
    payload_type: u8,
    telephone_event: Option<u8>,
    sequence: u16,
    timestamp: u32,
    ssrc: u32,
    keys: std::collections::VecDeque<u8>,
    /// Event code, its timestamp, and frames sent of it.
    pressed: Option<(u8, u32, u16)>,
}

impl Mouth {
    fn new(remote: &RemoteAudio, tone_hz: u32, entropy: &dyn Entropy) -> Self {
        let mut random = [0_u8; 10];
        entropy.fill(&mut random);
        Self {
            tone: Tone::new(tone_hz),
            payload_type: remote.payload_type,
            telephone_event: remote.telephone_event,
            sequence: u16::from_be_bytes([random[0], random[1]]),
            timestamp: u32::from_be_bytes([random[2], random[3], random[4], random[5]]),
            ssrc: u32::from_be_bytes([random[6], random[7], random[8], random[9]]),
            keys: std::collections::VecDeque::new(),
            pressed: None,
        }
    }

    fn press(&mut self, digit: char) {
        let code = b"0123456789*#ABCD".iter().position(|d| char::from(*d) == digit.to_ascii_uppercase());
        if let Some(code) = code.and_then(|c| u8::try_from(c).ok()) {
            self.keys.push_back(code);
        }
    }

    fn next_packet(&mut self) -> Vec<u8> {
        self.sequence = self.sequence.wrapping_add(1);
        self.timestamp = self.timestamp.wrapping_add(FRAME as u32);
        if self.pressed.is_none() {
            self.pressed = self.keys.pop_front().map(|code| (code, self.timestamp, 0));
        }
        match (self.telephone_event, self.pressed) {
            (Some(payload_type), Some((code, began, frames))) => {
                self.key_packet(payload_type, code, began, frames)
            }
            _ => self.tone_packet(),
        }
    }

    fn tone_packet(&mut self) -> Vec<u8> {
        let samples: Vec<i16> = self.tone.by_ref().take(FRAME).collect();
        let payload = encode(self.payload_type, &samples);
        let mut packet = self.header(self.payload_type, self.timestamp, false);
        packet.extend_from_slice(&payload);
        packet
    }

    /// Five frames of key, then the end packet three times, as RFC 4733 section 2.5.1.4 says.
    fn key_packet(&mut self, payload_type: u8, code: u8, began: u32, frames: u16) -> Vec<u8> {
        let end = frames >= 5;
        let duration = (frames.min(5) + 1) * FRAME as u16;
        let mut packet = self.header(payload_type, began, frames == 0);
        packet.extend_from_slice(&[code, if end { 0x8a } else { 0x0a }]);
        packet.extend_from_slice(&duration.to_be_bytes());
        self.pressed = if frames >= 7 { None } else { Some((code, began, frames + 1)) };
        packet
    }

    fn header(&self, payload_type: u8, timestamp: u32, marker: bool) -> Vec<u8> {
        let mut packet = vec![0x80, payload_type | if marker { 0x80 } else { 0 }];
        packet.extend_from_slice(&self.sequence.to_be_bytes());
        packet.extend_from_slice(&timestamp.to_be_bytes());
        packet.extend_from_slice(&self.ssrc.to_be_bytes());
        packet
    }
}

/// G.711, one byte a sample; a codec error leaves silence.
fn decode(payload_type: u8, payload: &[u8]) -> Vec<i16> {
    let mut samples = vec![0; payload.len()];
    let decoded = match payload_type {
        8 => audio_codec::pcma::PcmaDecoder::new().decode_into(payload, &mut samples),
        _ => audio_codec::pcmu::PcmuDecoder::new().decode_into(payload, &mut samples),
    };
    samples.truncate(decoded.unwrap_or(0));
    samples
}

fn encode(payload_type: u8, samples: &[i16]) -> Vec<u8> {
    let mut payload = vec![0; samples.len()];
    let encoded = match payload_type {
        8 => audio_codec::pcma::PcmaEncoder::new().encode_into(samples, &mut payload),
        _ => audio_codec::pcmu::PcmuEncoder::new().encode_into(samples, &mut payload),
    };
    payload.truncate(encoded.unwrap_or(0));
    payload
}

/// RFC 3550 section 5.1: version 2, contributing sources and extension skipped.
fn parse(datagram: &[u8]) -> Option<Packet<'_>> {
    let [first, second, _, _, t0, t1, t2, t3, ..] = *datagram else { return None };
    let mut at = 12 + 4 * usize::from(first & 0x0f);
    if first >> 6 != 2 || datagram.len() < at {
        return None;
    }
    if first & 0x10 != 0 {
        let words = datagram.get(at + 2..at + 4)?;
        at += 4 + 4 * usize::from(u16::from_be_bytes([words[0], words[1]]));
    }
    let payload = datagram.get(at..)?;
    Some(Packet { payload_type: second & 0x7f, timestamp: u32::from_be_bytes([t0, t1, t2, t3]), payload })
}
