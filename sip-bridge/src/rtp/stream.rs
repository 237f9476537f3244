//! The stream that we send to the SIP side: one SSRC with rising numbers, whatever happens to
//! the source behind it (a new one after an ICE restart), with tones of ours in between.

use std::time::{Duration, Instant};

use super::Packet;

/// A jump in sequence numbers beyond this is a new source.
const LARGEST_JUMP: i16 = 1000;

/// Maps packets of changing sources onto one stream.
#[derive(Debug)]
pub struct OutStream {
    ssrc: u32,
    sequence: u16,
    timestamp: u32,
    sent_at: Option<Instant>,
    source: Option<Source>,
    /// What was sent last is audio of our own.
    own_audio: bool,
}

#[derive(Debug)]
struct Source {
    ssrc: u32,
    last: u16,
    sequence_offset: u16,
    timestamp_offset: u32,
}

impl OutStream {
    /// A stream with these first numbers, random as RFC 3550 section 5.1 wants them.
    pub fn new(ssrc: u32, sequence: u16, timestamp: u32) -> Self {
        Self { ssrc, sequence, timestamp, sent_at: None, source: None, own_audio: false }
    }

    /// The packet to send for one of the source's.
    pub fn map<'a>(&mut self, now: Instant, packet: Packet<'a>, payload_type: u8) -> Packet<'a> {
        let same = self.source.as_ref().is_some_and(|source| {
            source.ssrc == packet.ssrc
                && packet.sequence.wrapping_sub(source.last).cast_signed().unsigned_abs()
                    < LARGEST_JUMP.unsigned_abs()
        });
        if !same {
            self.adopt(now, &packet);
        }
        let source = self.source.as_mut().expect("adopted above if it was absent");
        let sequence = packet.sequence.wrapping_add(source.sequence_offset);
        let timestamp = packet.timestamp.wrapping_add(source.timestamp_offset);
        if packet.sequence.wrapping_sub(source.last).cast_signed() >= 0 {
            source.last = packet.sequence;
            self.sequence = sequence;
            self.timestamp = timestamp;
            self.sent_at = Some(now);
        }
        let marker = packet.marker || !same;
        Packet { marker, payload_type, sequence, timestamp, ssrc: self.ssrc, payload: packet.payload }
    }

    /// A packet of our own, in place: `timestamp` continues real time when `fresh`, else repeats
    /// that of the event that goes on. What the source sends later continues after it.
    pub fn insert<'a>(
        &mut self,
        now: Instant,
        payload: &'a [u8],
        payload_type: u8,
        fresh: bool,
    ) -> Packet<'a> {
        if fresh {
            self.timestamp = self.timestamp_at(now);
            self.sent_at = Some(now);
        }
        self.sequence = self.sequence.wrapping_add(1);
        (self.source, self.own_audio) = (None, false);
        let (sequence, timestamp) = (self.sequence, self.timestamp);
        Packet { marker: fresh, payload_type, sequence, timestamp, ssrc: self.ssrc, payload }
    }

    /// 20 ms of audio of our own; a run of them is one frame apart whatever the time says.
    pub fn insert_audio<'a>(&mut self, now: Instant, payload: &'a [u8], payload_type: u8) -> Packet<'a> {
        let first = self.source.is_some() || !self.own_audio;
        self.timestamp = if first { self.timestamp_at(now) } else { self.timestamp.wrapping_add(160) };
        (self.sent_at, self.own_audio, self.source) = (Some(now), true, None);
        self.sequence = self.sequence.wrapping_add(1);
        let (sequence, timestamp) = (self.sequence, self.timestamp);
        Packet { marker: first, payload_type, sequence, timestamp, ssrc: self.ssrc, payload }
    }

    fn adopt(&mut self, now: Instant, packet: &Packet<'_>) {
        self.own_audio = false;
        let sequence = self.sequence.wrapping_add(1);
        let timestamp = self.timestamp_at(now);
        self.source = Some(Source {
            ssrc: packet.ssrc,
            last: packet.sequence,
            sequence_offset: sequence.wrapping_sub(packet.sequence),
            timestamp_offset: timestamp.wrapping_sub(packet.timestamp),
        });
    }

    /// Where the media clock stands: at least one frame after the last packet.
    fn timestamp_at(&self, now: Instant) -> u32 {
        let passed = self.sent_at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let samples = u32::try_from(passed.as_millis().saturating_mul(8) & 0xffff_ffff).unwrap_or(0);
        self.timestamp.wrapping_add(samples.max(160))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(ssrc: u32, sequence: u16, timestamp: u32) -> Packet<'static> {
        Packet { marker: false, payload_type: 0, sequence, timestamp, ssrc, payload: &[] }
    }

    fn numbers(packet: Packet<'_>) -> (u32, u16, u32) {
        (packet.ssrc, packet.sequence, packet.timestamp)
    }

    #[test]
    fn loss_and_reordering_are_passed_on() {
        let now = tokio::time::Instant::now().into_std();
        let mut out = OutStream::new(7, 10, 1000);
        assert_eq!(numbers(out.map(now, packet(1, 65_535, 50), 8)), (7, 11, 1160));
        assert_eq!(numbers(out.map(now, packet(1, 1, 370), 8)), (7, 13, 1480));
        assert_eq!(numbers(out.map(now, packet(1, 0, 210), 8)), (7, 12, 1320));
    }

    #[test]
    fn a_new_source_continues_the_stream_in_real_time() {
        let now = tokio::time::Instant::now().into_std();
        let mut out = OutStream::new(7, 0, 0);
        out.map(now, packet(1, 500, 500), 8);
        let later = now + Duration::from_millis(100);
        let mapped = out.map(later, packet(2, 9, 77), 8);
        assert_eq!((numbers(mapped), mapped.marker), ((7, 2, 960), true));
    }

    #[test]
    fn a_tone_sits_between_packets_and_keeps_its_timestamp() {
        let now = tokio::time::Instant::now().into_std();
        let mut out = OutStream::new(7, 0, 0);
        out.map(now, packet(1, 500, 500), 8);
        let later = now + Duration::from_millis(20);
        let first = numbers(out.insert(later, &[1], 101, true));
        let second = numbers(out.insert(later, &[1], 101, false));
        assert_eq!((first, second), ((7, 2, 320), (7, 3, 320)));
        let after = numbers(out.map(later + Duration::from_millis(160), packet(1, 510, 2100), 8));
        assert_eq!(after, (7, 4, 1600));
    }
}
