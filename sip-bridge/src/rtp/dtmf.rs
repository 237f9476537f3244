//! Telephone events (RFC 4733): digits read out of packets once each, and digits written as
//! packets where the other leg has no telephone-event.

use super::Packet;

const DIGITS: &[u8] = b"0123456789*#ABCD";
/// Volume of a sent tone: -10 dBm0.
const VOLUME: u8 = 10;
/// Silence after a tone, in 20 ms steps.
const GAP_STEPS: u32 = 3;
/// Low and high frequency of each digit, in the order of [`DIGITS`], in hertz.
const FREQUENCIES: [(u16, u16); 16] = [
    (941, 1336),
    (697, 1209),
    (697, 1336),
    (697, 1477),
    (770, 1209),
    (770, 1336),
    (770, 1477),
    (852, 1209),
    (852, 1336),
    (852, 1477),
    (941, 1209),
    (941, 1477),
    (697, 1633),
    (770, 1633),
    (852, 1633),
    (941, 1633),
];
/// Peak of a sine of -10 dBm0 in G.711, whose full scale is +3.14 dBm0.
const AMPLITUDE: f64 = 7200.0;
/// Samples per step.
const STEP: u16 = 160;

/// The digit of an event code.
pub fn digit_of(event: u8) -> Option<char> {
    DIGITS.get(usize::from(event)).copied().map(char::from)
}

/// Whether every character is a DTMF digit, and there are at most 64.
pub fn is_dialable(digits: &str) -> bool {
    digits.len() <= 64 && digits.bytes().all(|byte| DIGITS.contains(&byte.to_ascii_uppercase()))
}

/// Reads digits; every event counts once, at its first packet.
#[derive(Debug, Default)]
pub struct DtmfReader {
    last: Option<(u32, u32)>,
}

impl DtmfReader {
    /// The digit that starts with this packet, and its duration so far in milliseconds.
    pub fn read(&mut self, packet: &Packet<'_>) -> Option<char> {
        let [event, ..] = packet.payload else { return None };
        if packet.payload.len() < 4 {
            return None;
        }
        let name = (packet.ssrc, packet.timestamp);
        if self.last == Some(name) {
            return None;
        }
        self.last = Some(name);
        digit_of(*event)
    }
}

/// A tone being sent, in steps of 20 ms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tone {
    event: u8,
    steps: u32,
    done: u32,
}

/// What one step of a tone sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// The payload, and how often: the end of an event is sent three times.
    pub payload: Option<([u8; 4], u8)>,
    /// The first packet of the event.
    pub first: bool,
}

impl Tone {
    /// A tone of at least 40 ms for a digit.
    pub fn new(digit: char, duration_ms: u32) -> Option<Self> {
        let upper = u8::try_from(digit.to_ascii_uppercase()).ok()?;
        let event = DIGITS.iter().position(|known| *known == upper)?;
        let steps = duration_ms.clamp(40, 2000).div_ceil(20);
        Some(Self { event: u8::try_from(event).ok()?, steps, done: 0 })
    }

    /// The sound of the 20 ms that [`Self::step`] gave last, at 8 kHz: the two frequencies of
    /// ITU-T Q.23, each at -10 dBm0, for a far side without telephone-event.
    pub fn sound(&self) -> [i16; STEP as usize] {
        let (low, high) = FREQUENCIES[usize::from(self.event)];
        let start = self.done.saturating_sub(1) * u32::from(STEP);
        std::array::from_fn(|index| {
            let seconds = (f64::from(start) + index as f64) / 8000.0;
            let wave = |hz: u16| (std::f64::consts::TAU * f64::from(hz) * seconds).sin();
            (AMPLITUDE * (wave(low) + wave(high))) as i16
        })
    }

    /// The next 20 ms; `None` when tone and gap are over.
    pub fn step(&mut self) -> Option<Step> {
        self.done += 1;
        if self.done > self.steps + GAP_STEPS {
            return None;
        }
        if self.done > self.steps {
            return Some(Step { payload: None, first: false });
        }
        let end = self.done == self.steps;
        let duration = u16::try_from(self.done).unwrap_or(u16::MAX).saturating_mul(STEP).to_be_bytes();
        let payload = [self.event, u8::from(end) << 7 | VOLUME, duration[0], duration[1]];
        Some(Step { payload: Some((payload, if end { 3 } else { 1 })), first: self.done == 1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tone_lengthens_ends_three_times_and_leaves_a_gap() {
        let mut tone = Tone::new('#', 100).unwrap();
        let steps: Vec<Step> = std::iter::from_fn(|| tone.step()).collect();
        assert_eq!(steps.len(), 5 + 3);
        assert_eq!(steps[0], Step { payload: Some(([11, 10, 0, 160], 1)), first: true });
        assert_eq!(steps[4].payload, Some(([11, 0x8a, 3, 32], 3)));
        assert_eq!(steps[5].payload, None);
        assert_eq!(Tone::new('x', 100), None);
    }

    #[test]
    fn an_event_counts_once_however_many_packets_it_has() {
        let mut reader = DtmfReader::default();
        let mut read = |timestamp, payload: &[u8]| {
            reader.read(&Packet {
                marker: false,
                payload_type: 101,
                sequence: 0,
                timestamp,
                ssrc: 1,
                payload,
            })
        };
        assert_eq!(read(160, &[5, 10, 0, 160]), Some('5'));
        assert_eq!(read(160, &[5, 0x8a, 1, 64]), None);
        assert_eq!(read(999, &[5, 10, 0, 160]), Some('5'));
        assert_eq!(read(1999, &[16, 10, 0, 160]), None, "flash is no digit");
        assert_eq!(read(2999, &[5]), None);
    }
}
