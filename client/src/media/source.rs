//! Decides what the outgoing audio sounds like, frame by frame: 160 samples, 8 kHz, mono.

use std::f64::consts::TAU;
use std::path::{Path, PathBuf};

use audio_codec::resampler::{COEFFS_LEN, Resampler};

use super::MediaError;

/// Samples in one 20 ms frame of 8 kHz audio.
pub(super) const FRAME: usize = 160;
/// Sampling rate of G.711 and of every recording, in Hz.
pub(super) const RATE: u32 = 8000;
/// A file longer than this is refused: it is held in memory while it plays.
const LONGEST_SECONDS: u32 = 3600;

/// What a session plays.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// A WAV file, any rate and width, mixed to mono; silence follows its end.
    Wav(PathBuf),
    /// A sine tone without end, at a third of full scale.
    Tone {
        /// Frequency in Hz, below 4000.
        hz: f64,
    },
    /// Silence frames, which keep NAT mappings and symmetric RTP latches open.
    Silence,
}

/// A source opened for playing.
pub(super) enum Player {
    Samples { samples: Vec<i16>, next: usize },
    Tone { step: f64, phase: f64 },
    Silence,
}

impl Player {
    pub(super) fn open(source: &Source) -> Result<Self, MediaError> {
        match source {
            Source::Silence => Ok(Self::Silence),
            Source::Tone { hz } if *hz > 0.0 && *hz < f64::from(RATE) / 2.0 => {
                Ok(Self::Tone { step: TAU * hz / f64::from(RATE), phase: 0.0 })
            }
            Source::Tone { hz } => Err(MediaError::Tone(*hz)),
            Source::Wav(path) => Ok(Self::Samples { samples: read_wav(path)?, next: 0 }),
        }
    }

    /// Fills one frame; `true` when the source ended with it.
    pub(super) fn fill(&mut self, frame: &mut [i16; FRAME]) -> bool {
        match self {
            Self::Silence => frame.fill(0),
            Self::Tone { step, phase } => {
                for sample in frame.iter_mut() {
                    #[expect(clippy::cast_possible_truncation, reason = "within +-11000")]
                    let value = (phase.sin() * 11_000.0) as i16;
                    *sample = value;
                    *phase = (*phase + *step) % TAU;
                }
            }
            Self::Samples { samples, next } => {
                let rest = &samples[*next..];
                let count = rest.len().min(FRAME);
                frame[..count].copy_from_slice(&rest[..count]);
                frame[count..].fill(0);
                *next += count;
                return *next == samples.len();
            }
        }
        false
    }
}

fn read_wav(path: &Path) -> Result<Vec<i16>, MediaError> {
    let wrong = |source| MediaError::Wav { path: path.to_owned(), source };
    let reader = hound::WavReader::open(path).map_err(wrong)?;
    let spec = reader.spec();
    if spec.sample_rate == 0 || spec.channels == 0 || reader.duration() / spec.sample_rate > LONGEST_SECONDS {
        return Err(MediaError::WavTooLong { path: path.to_owned(), seconds: LONGEST_SECONDS });
    }
    let samples = match spec.sample_format {
        hound::SampleFormat::Float => reader
            .into_samples::<f32>()
            .map(|sample| sample.map(|s| narrow(f64::from(s) * f64::from(i16::MAX))))
            .collect::<Result<Vec<i16>, _>>(),
        hound::SampleFormat::Int => {
            let scale = f64::from(1u32 << 15) / (1u64 << (spec.bits_per_sample - 1)) as f64;
            reader
                .into_samples::<i32>()
                .map(|sample| sample.map(|s| narrow(f64::from(s) * scale)))
                .collect::<Result<Vec<i16>, _>>()
        }
    }
    .map_err(wrong)?;
    let mono = mix(&samples, usize::from(spec.channels));
    if spec.sample_rate == RATE {
        return Ok(mono);
    }
    let mut coefficients = vec![0.0; COEFFS_LEN];
    let wrong_rate = || MediaError::WavRate { path: path.to_owned(), rate: spec.sample_rate };
    let (from, to) = (spec.sample_rate as usize, RATE as usize);
    let mut resampler = Resampler::new(from, to, &mut coefficients).map_err(|_| wrong_rate())?;
    let mut out = vec![0; resampler.max_output_samples(mono.len())];
    let count = resampler.resample_into(&mono, &mut out).map_err(|_| wrong_rate())?;
    out.truncate(count);
    Ok(out)
}

#[expect(clippy::cast_possible_truncation, reason = "clamped to the range of i16")]
fn narrow(sample: f64) -> i16 {
    sample.clamp(f64::from(i16::MIN), f64::from(i16::MAX)) as i16
}

fn mix(samples: &[i16], channels: usize) -> Vec<i16> {
    if channels == 1 {
        return samples.to_vec();
    }
    samples
        .chunks_exact(channels)
        .map(|frame| narrow(frame.iter().map(|s| f64::from(*s)).sum::<f64>() / frame.len() as f64))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, rate: u32, channels: u16, count: usize) {
        let spec = hound::WavSpec {
            channels,
            sample_rate: rate,
            bits_per_sample: 16,
            sample_format: hound::SampleFormat::Int,
        };
        let mut writer = hound::WavWriter::create(path, spec).expect("a temporary file");
        for _ in 0..count * usize::from(channels) {
            writer.write_sample(1000i16).expect("room on the disk");
        }
        writer.finalize().expect("room on the disk");
    }

    #[test]
    fn a_file_ends_and_is_followed_by_silence() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("short.wav");
        write(&path, 8000, 1, 200);
        let mut player = Player::open(&Source::Wav(path)).expect("a WAV file");
        let mut frame = [0; FRAME];
        assert!(!player.fill(&mut frame));
        assert_eq!(frame, [1000; FRAME]);
        assert!(player.fill(&mut frame));
        assert_eq!((frame[39], frame[40]), (1000, 0));
    }

    #[test]
    fn stereo_at_another_rate_becomes_mono_at_eight_kilohertz() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("cd.wav");
        write(&path, 44_100, 2, 44_100);
        let samples = read_wav(&path).expect("a WAV file");
        assert!((7900..=8100).contains(&samples.len()), "{}", samples.len());
        assert!((samples[4000] - 1000).abs() < 50, "{}", samples[4000]);
    }

    #[test]
    fn what_is_no_wav_file_is_named_in_the_error() {
        let error = Player::open(&Source::Wav("no-such.wav".into())).err().expect("no such file");
        assert!(error.to_string().contains("no-such.wav"), "{error}");
        assert!(Player::open(&Source::Tone { hz: 5000.0 }).is_err());
    }
}
