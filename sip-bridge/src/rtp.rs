//! RTP of the SIP leg: packets (RFC 3550), telephone-event (RFC 4733), sockets and the stream
//! that we send. Payloads pass through untouched.

mod dtmf;
mod g711;
mod leg;
mod stream;

pub use dtmf::{DtmfReader, Tone, digit_of, is_dialable};
pub use g711::{encode_sound, recode};
pub use leg::{PortRange, Received, RtpLeg, Traffic};
pub use stream::OutStream;

/// A packet, its payload borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    /// The marker bit: start of a talk spurt or of a tone.
    pub marker: bool,
    /// 0 to 127.
    pub payload_type: u8,
    /// Wraps at 65,536.
    pub sequence: u16,
    /// In samples at 8 kHz.
    pub timestamp: u32,
    /// Names the source.
    pub ssrc: u32,
    /// Without header extension and padding.
    pub payload: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Reads a datagram; `None` when it is not RTP version 2 or RTCP (RFC 5761 section 4).
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (head, mut rest) = bytes.split_at_checked(12)?;
        if head[0] >> 6 != 2 || (192..=223).contains(&head[1]) {
            return None;
        }
        rest = rest.get(usize::from(head[0] & 0x0f) * 4..)?;
        if head[0] & 0x10 != 0 {
            let words = rest.get(2..4)?;
            let length = usize::from(u16::from_be_bytes([words[0], words[1]])) * 4;
            rest = rest.get(4 + length..)?;
        }
        if head[0] & 0x20 != 0 {
            let padding = usize::from(*rest.last()?);
            rest = rest.get(..rest.len().checked_sub(padding)?)?;
        }
        Some(Self {
            marker: head[1] & 0x80 != 0,
            payload_type: head[1] & 0x7f,
            sequence: u16::from_be_bytes([head[2], head[3]]),
            timestamp: u32::from_be_bytes([head[4], head[5], head[6], head[7]]),
            ssrc: u32::from_be_bytes([head[8], head[9], head[10], head[11]]),
            payload: rest,
        })
    }

    /// Writes the packet.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(12 + self.payload.len());
        out.push(0x80);
        out.push(u8::from(self.marker) << 7 | self.payload_type & 0x7f);
        out.extend_from_slice(&self.sequence.to_be_bytes());
        out.extend_from_slice(&self.timestamp.to_be_bytes());
        out.extend_from_slice(&self.ssrc.to_be_bytes());
        out.extend_from_slice(self.payload);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn skips_contributors_extension_and_padding() {
        let mut bytes = vec![0x80 | 0x20 | 0x10 | 1, 0x88, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3];
        bytes.extend([9; 4]);
        bytes.extend([0, 0, 0, 1, 7, 7, 7, 7]);
        bytes.extend([1, 2, 3, 0, 2]);
        let packet = Packet::parse(&bytes).unwrap();
        assert_eq!((packet.payload, packet.payload_type, packet.marker), (&[1, 2, 3][..], 8, true));
    }

    #[test]
    fn refuses_rtcp_and_short_datagrams() {
        assert_eq!(Packet::parse(&[0x80, 200, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3]), None);
        assert_eq!(Packet::parse(&[0x80; 11]), None);
        assert_eq!(
            Packet::parse(&[0xa0, 8, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 9]),
            None,
            "padding beyond the packet"
        );
    }

    proptest! {
        #[test]
        fn reads_what_it_wrote(marker: bool, payload_type in 0u8..64, sequence: u16, timestamp: u32, ssrc: u32,
            payload in proptest::collection::vec(any::<u8>(), 0..200)) {
            let packet = Packet { marker, payload_type, sequence, timestamp, ssrc, payload: &payload };
            let bytes = packet.to_bytes();
            prop_assert_eq!(Packet::parse(&bytes), Some(packet));
        }

        #[test]
        fn never_panics_on_noise(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Packet::parse(&bytes);
        }
    }
}
