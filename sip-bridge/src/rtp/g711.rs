//! A-law to mu-law and back, byte by byte: for the rare call whose two sides chose differently.

use std::sync::LazyLock;

use audio_codec::{Decoder, Encoder, pcma, pcmu};

use crate::sdp::Codec;

static TO_PCMU: LazyLock<[u8; 256]> = LazyLock::new(|| table(Codec::Pcma));
static TO_PCMA: LazyLock<[u8; 256]> = LazyLock::new(|| table(Codec::Pcmu));

/// The same sound in the other law.
pub fn recode(from: Codec, payload: &[u8]) -> Vec<u8> {
    let table = match from {
        Codec::Pcma => &*TO_PCMU,
        Codec::Pcmu => &*TO_PCMA,
    };
    payload.iter().map(|byte| table[usize::from(*byte)]).collect()
}

/// Linear samples as this codec sends them.
pub fn encode_sound(codec: Codec, samples: &[i16]) -> Vec<u8> {
    match codec {
        Codec::Pcma => samples.iter().map(|sample| encode(&mut pcma::PcmaEncoder::new(), *sample)).collect(),
        Codec::Pcmu => samples.iter().map(|sample| encode(&mut pcmu::PcmuEncoder::new(), *sample)).collect(),
    }
}

fn table(from: Codec) -> [u8; 256] {
    let mut table = [0; 256];
    for (byte, out) in (0..=255).zip(&mut table) {
        *out = match from {
            Codec::Pcma => encode(&mut pcmu::PcmuEncoder::new(), decode(&mut pcma::PcmaDecoder::new(), byte)),
            Codec::Pcmu => encode(&mut pcma::PcmaEncoder::new(), decode(&mut pcmu::PcmuDecoder::new(), byte)),
        };
    }
    table
}

fn decode(decoder: &mut impl Decoder, byte: u8) -> i16 {
    let mut sample = [0];
    decoder.decode_into(&[byte], &mut sample).expect("one byte is one sample in G.711");
    sample[0]
}

fn encode(encoder: &mut impl Encoder, sample: i16) -> u8 {
    let mut byte = [0];
    encoder.encode_into(&[sample], &mut byte).expect("one sample is one byte in G.711");
    byte[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_stays_silence_and_loudness_stays_close() {
        let linear = |codec, byte: u8| match codec {
            Codec::Pcma => i32::from(decode(&mut pcma::PcmaDecoder::new(), byte)),
            Codec::Pcmu => i32::from(decode(&mut pcmu::PcmuDecoder::new(), byte)),
        };
        for byte in 0..=255u8 {
            for (from, to) in [(Codec::Pcma, Codec::Pcmu), (Codec::Pcmu, Codec::Pcma)] {
                let (before, after) = (linear(from, byte), linear(to, recode(from, &[byte])[0]));
                assert!(
                    (before - after).abs() <= before.abs() / 16 + 16,
                    "{from:?} {byte}: {before} {after}"
                );
            }
        }
    }
}
