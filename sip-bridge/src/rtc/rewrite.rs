//! Decides sequence numbers and timestamps of a relayed stream, so that its receiver sees one stream however
//! often the source behind it changes (a re-INVITE, a transfer, announcement then agent) [BRIDGE-RTP-20].

/// Loss and reordering are passed on; a jump beyond this is a new source, even with the same SSRC.
const LARGEST_JUMP: i16 = 3000;
/// Samples from the last packet of one source to the first of the next: one 20 ms frame at 8 kHz.
const FRAME: u32 = 160;

/// Maps the numbers of changing sources onto one stream.
#[derive(Debug)]
pub struct Rewriter {
    source: Option<Source>,
    /// The highest sequence number sent, extended beyond 16 bits.
    last_sequence: u64,
    last_timestamp: u32,
}

#[derive(Debug)]
struct Source {
    ssrc: u32,
    last_sequence: u16,
    timestamp_offset: u32,
}

impl Rewriter {
    /// A stream whose first packet follows these numbers; RFC 3550 wants them random.
    #[must_use]
    pub fn new(sequence: u16, timestamp: u32) -> Self {
        // Below 2^15, so that the receiver sees the first rollover and counts it (RFC 3711 section 3.3.1).
        Self { source: None, last_sequence: u64::from(sequence & 0x7fff), last_timestamp: timestamp }
    }

    /// The extended sequence number and the timestamp to send for a packet; `None` for one that is too late
    /// to have a place.
    pub fn map(&mut self, ssrc: u32, sequence: u16, timestamp: u32) -> Option<(u64, u32)> {
        let moved = self.source.as_ref().filter(|source| source.ssrc == ssrc).and_then(|source| {
            let moved = sequence.wrapping_sub(source.last_sequence).cast_signed();
            (-LARGEST_JUMP..LARGEST_JUMP).contains(&moved).then_some(moved)
        });
        let Some(moved) = moved else {
            return Some(self.adopt(ssrc, sequence, timestamp));
        };
        let source = self.source.as_mut().expect("it gave the difference above");
        let out_timestamp = timestamp.wrapping_add(source.timestamp_offset);
        if moved > 0 {
            source.last_sequence = sequence;
            self.last_sequence += u64::from(moved.unsigned_abs());
            self.last_timestamp = out_timestamp;
            Some((self.last_sequence, out_timestamp))
        } else {
            let out = self.last_sequence.checked_sub(u64::from(moved.unsigned_abs()))?;
            Some((out, out_timestamp))
        }
    }

    fn adopt(&mut self, ssrc: u32, sequence: u16, timestamp: u32) -> (u64, u32) {
        self.last_sequence += 1;
        self.last_timestamp = self.last_timestamp.wrapping_add(FRAME);
        let timestamp_offset = self.last_timestamp.wrapping_sub(timestamp);
        self.source = Some(Source { ssrc, last_sequence: sequence, timestamp_offset });
        (self.last_sequence, self.last_timestamp)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn loss_and_reordering_pass_through() {
        let mut rewriter = Rewriter::new(99, 1000);
        let mut map = |sequence, timestamp| rewriter.map(1, sequence, timestamp);
        assert_eq!(map(65_535, 5000), Some((100, 1160)));
        assert_eq!(map(1, 5320), Some((102, 1480)));
        assert_eq!(map(0, 5160), Some((101, 1320)));
        assert_eq!(map(2, 5480), Some((103, 1640)));
    }

    #[test]
    fn a_new_source_continues_the_stream() {
        let mut rewriter = Rewriter::new(0, 0);
        rewriter.map(1, 500, 500);
        assert_eq!(rewriter.map(2, 9, 77_000), Some((2, 320)));
        assert_eq!(rewriter.map(2, 10, 77_160), Some((3, 480)));
        assert_eq!(rewriter.map(2, 40_000, 1), Some((4, 640)), "same SSRC, restarted");
    }

    proptest! {
        #[test]
        fn no_input_panics(packets in proptest::collection::vec((0u32..3, any::<u16>(), any::<u32>()), 0..200)) {
            let mut rewriter = Rewriter::new(u16::MAX, u32::MAX);
            for (ssrc, sequence, timestamp) in packets {
                let _ = rewriter.map(ssrc, sequence, timestamp);
            }
        }
    }
}
