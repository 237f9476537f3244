//! Decides how digits become telephone events and back (RFC 4733 section 2).

/// One event lasts 100 ms: PBXs ignore shorter ones, and ITU-T Q.24 asks for 40 ms at least.
const FRAMES: u16 = 5;
/// The last packet is sent three times, because nothing else repeats it (RFC 4733 section 2.5.1.4).
const END_PACKETS: u16 = 3;
/// Frames of pause after a digit, so that two equal digits stay two.
const PAUSE_FRAMES: u16 = 3;
const FRAME_SAMPLES: u16 = 160;
/// -10 dBm0, the level that phones send.
const VOLUME: u8 = 10;

const DIGITS: &str = "0123456789*#ABCD";

/// The event number of a digit (`0`-`9`, `*`, `#`, `A`-`D`), or `None` when there is no such key.
pub(super) fn event(digit: char) -> Option<u8> {
    let position = DIGITS.find(digit.to_ascii_uppercase())?;
    u8::try_from(position).ok()
}

fn digit(event: u8) -> Option<char> {
    DIGITS.chars().nth(usize::from(event))
}

/// One digit on its way out; each call of [`Outgoing::next`] is one 20 ms frame.
pub(super) struct Outgoing {
    event: u8,
    sent: u16,
}

/// What to send in this frame instead of audio.
pub(super) enum Frame {
    /// A telephone-event payload; the first one carries the marker bit.
    Event { payload: [u8; 4], first: bool },
    /// Nothing: the pause after the digit.
    Pause,
}

impl Outgoing {
    pub(super) fn new(event: u8) -> Self {
        Self { event, sent: 0 }
    }

    /// The next frame, or `None` when the digit and its pause are over.
    pub(super) fn next(&mut self) -> Option<Frame> {
        let index = self.sent;
        self.sent += 1;
        if index >= FRAMES + END_PACKETS + PAUSE_FRAMES {
            return None;
        }
        if index >= FRAMES + END_PACKETS {
            return Some(Frame::Pause);
        }
        let ended = index >= FRAMES;
        let duration = (index + 1).min(FRAMES + 1) * FRAME_SAMPLES;
        let [high, low] = duration.to_be_bytes();
        let flags = if ended { 0x80 } else { 0 } | VOLUME;
        Some(Frame::Event { payload: [self.event, flags, high, low], first: index == 0 })
    }
}

/// Turns received event packets into digits, once per event however often it is repeated.
#[derive(Default)]
pub(super) struct Incoming {
    last: Option<u32>,
}

impl Incoming {
    /// The digit, on the first packet of a new event: packets of one event share their timestamp.
    pub(super) fn packet(&mut self, timestamp: u32, payload: &[u8]) -> Option<char> {
        let [event, _, _, _] = *payload.first_chunk::<4>()?;
        let digit = digit(event)?;
        // Late repeats of an older event must not count again.
        if self.last.is_some_and(|last| timestamp.wrapping_sub(last).cast_signed() <= 0) {
            return None;
        }
        self.last = Some(timestamp);
        Some(digit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packets(digit: char) -> Vec<[u8; 4]> {
        let mut outgoing = Outgoing::new(event(digit).expect("a key"));
        std::iter::from_fn(|| outgoing.next())
            .filter_map(|frame| match frame {
                Frame::Event { payload, .. } => Some(payload),
                Frame::Pause => None,
            })
            .collect()
    }

    #[test]
    fn a_digit_ends_with_three_packets_of_the_same_duration() {
        let packets = packets('#');
        let ends: Vec<_> = packets.iter().filter(|packet| packet[1] & 0x80 != 0).collect();
        assert_eq!(ends.len(), 3);
        assert!(ends.iter().all(|packet| packet == &ends[0] && packet[0] == 11));
        let durations: Vec<u16> = packets.iter().map(|p| u16::from_be_bytes([p[2], p[3]])).collect();
        assert!(durations.is_sorted(), "{durations:?}");
    }

    #[test]
    fn repeated_and_late_packets_count_once() {
        let mut incoming = Incoming::default();
        let mut heard = String::new();
        for (timestamp, key) in [(u32::MAX - 10, '1'), (1000, '2'), (3000, '#')] {
            for payload in packets(key) {
                heard.extend(incoming.packet(timestamp, &payload));
            }
        }
        heard.extend(incoming.packet(1000, &packets('2')[0]));
        assert_eq!(heard, "12#");
    }

    #[test]
    fn short_payloads_and_unknown_events_are_no_digits() {
        let mut incoming = Incoming::default();
        assert_eq!(incoming.packet(1, &[1, 2, 3]), None);
        assert_eq!(incoming.packet(1, &[16, 0, 0, 0]), None);
        assert_eq!(event('x'), None);
    }
}
