//! Decides whether audio came through: makes tones, measures their share of a recording, reads and writes WAV.

use std::{f64::consts::TAU, path::Path};

/// Samples per second of every recording here: G.711's rate.
pub const RATE: u32 = 8000;

/// An endless sine wave, 8 kHz, 16-bit.
#[derive(Debug, Clone)]
pub struct Tone {
    step: f64,
    phase: f64,
}

impl Tone {
    /// A tone of `hz` hertz at a quarter of full scale.
    pub fn new(hz: u32) -> Self {
        Self { step: TAU * f64::from(hz) / f64::from(RATE), phase: 0.0 }
    }
}

impl Iterator for Tone {
    type Item = i16;

    fn next(&mut self) -> Option<i16> {
        let sample = (self.phase.sin() * 8192.0) as i16;
        self.phase = (self.phase + self.step) % TAU;
        Some(sample)
    }
}

/// The share of the energy of `samples` that lies at `hz`, 0.0 to 1.0 (Goertzel over blocks of 200 ms,
/// so that a gap or a phase jump between blocks does not cancel what is there).
pub fn share(samples: &[i16], hz: u32) -> f64 {
    let total: f64 = samples.iter().map(|s| f64::from(*s).powi(2)).sum();
    if total == 0.0 {
        return 0.0;
    }
    let block = (RATE / 5) as usize;
    let coefficient = 2.0 * (TAU * f64::from(hz) / f64::from(RATE)).cos();
    let at_frequency: f64 =
        samples.chunks(block).map(|b| goertzel_energy(b, coefficient) * 2.0 / b.len() as f64).sum();
    at_frequency / total
}

fn goertzel_energy(block: &[i16], coefficient: f64) -> f64 {
    let (mut a, mut b) = (0.0_f64, 0.0_f64);
    for sample in block {
        (a, b) = (f64::from(*sample) + coefficient * a - b, a);
    }
    a * a + b * b - coefficient * a * b
}

/// Where sound begins: the offset in milliseconds of the first 10 ms whose level is above -40 dBFS.
pub fn onset_ms(samples: &[i16]) -> Option<u32> {
    let window = (RATE / 100) as usize;
    let loud = |w: &[i16]| w.iter().map(|s| f64::from(*s).abs()).sum::<f64>() / w.len() as f64 > 300.0;
    samples.chunks_exact(window).position(loud).and_then(|i| u32::try_from(i * 10).ok())
}

/// Reads a WAV file as 16-bit mono (the first channel of several).
///
/// # Errors
/// When the file is missing or not 16-bit PCM.
pub fn read_wav(path: &Path) -> anyhow::Result<Vec<i16>> {
    let mut reader = hound::WavReader::open(path)?;
    let channels = usize::from(reader.spec().channels.max(1));
    let samples: Vec<i16> = reader.samples::<i16>().collect::<Result<_, _>>()?;
    Ok(samples.into_iter().step_by(channels).collect())
}

/// Writes 16-bit mono at 8 kHz.
///
/// # Errors
/// When the file cannot be written.
pub fn write_wav(path: &Path, samples: &[i16]) -> anyhow::Result<()> {
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: RATE,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut writer = hound::WavWriter::create(path, spec)?;
    for sample in samples {
        writer.write_sample(*sample)?;
    }
    Ok(writer.finalize()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tone_is_found_at_its_own_frequency_and_nowhere_else() {
        let samples: Vec<i16> = Tone::new(440).take(16_000).collect();
        assert!(share(&samples, 440) > 0.95);
        assert!(share(&samples, 620) < 0.01);
        assert_eq!(share(&[0; 16_000], 440), 0.0);
    }

    #[test]
    fn onset_is_where_the_sound_begins() {
        let mut samples = vec![0_i16; 800];
        samples.extend(Tone::new(440).take(800));
        assert_eq!(onset_ms(&samples), Some(100));
        assert_eq!(onset_ms(&[0; 800]), None);
    }

    #[test]
    fn a_wav_file_reads_back_as_written() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("tone.wav");
        let samples: Vec<i16> = Tone::new(700).take(1_600).collect();
        write_wav(&path, &samples).expect("write");
        assert_eq!(read_wav(&path).expect("read"), samples);
    }
}
