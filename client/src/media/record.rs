//! Decides where received audio lies in a recording: by RTP timestamp, in order, gaps as silence.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::source::RATE;
use super::{MediaError, RecordingStats};

/// Frames wait this long (in samples) for earlier ones: 200 ms.
const WINDOW: i64 = 1600;
/// A jump beyond this (in samples, 5 s) is a sender that started a new timeline, not a gap.
const LARGEST_GAP: i64 = 40_000;
/// No frame of G.711 is longer than this many samples (500 ms); longer payloads are not written.
const LONGEST_FRAME: usize = 4000;

/// Puts frames into the order of their timestamps, with silence where some are missing.
#[derive(Default)]
pub(super) struct Timeline {
    /// The last raw timestamp and the position that it stands for.
    last: Option<(u32, i64)>,
    newest: i64,
    written: Option<i64>,
    pending: BTreeMap<i64, Vec<i16>>,
}

impl Timeline {
    /// Takes a frame; samples that are now final go to `sink`.
    pub(super) fn insert(&mut self, timestamp: u32, samples: Vec<i16>, sink: &mut impl FnMut(&[i16])) {
        if samples.is_empty() || samples.len() > LONGEST_FRAME {
            return;
        }
        let position = self.place(timestamp);
        self.last = Some((timestamp, position));
        let length = i64::try_from(samples.len()).expect("below the longest frame");
        self.newest = self.newest.max(position + length);
        // What arrives after its place was written, or twice, is lost: the recording never moves back.
        if self.written.is_none_or(|written| position >= written) {
            self.pending.entry(position).or_insert(samples);
        }
        self.release(self.newest - WINDOW, sink);
    }

    fn place(&self, timestamp: u32) -> i64 {
        let Some((last, position)) = self.last else { return 0 };
        let moved = i64::from(timestamp.wrapping_sub(last).cast_signed());
        if moved.abs() > LARGEST_GAP { self.newest } else { position + moved }
    }

    fn release(&mut self, until: i64, sink: &mut impl FnMut(&[i16])) {
        while let Some(entry) = self.pending.first_entry() {
            let position = *entry.key();
            if position > until {
                break;
            }
            let samples = entry.remove();
            let written = self.written.unwrap_or(position);
            for _ in written..position {
                sink(&[0]);
            }
            // Overlap (a sender that changes its frame length) is cut, not doubled.
            let skip = usize::try_from(written - position).unwrap_or(0).min(samples.len());
            sink(&samples[skip..]);
            let end = position + i64::try_from(samples.len()).expect("below the longest frame");
            self.written = Some(end.max(written));
        }
    }

    /// Writes what still waits.
    pub(super) fn finish(&mut self, sink: &mut impl FnMut(&[i16])) {
        self.release(i64::MAX, sink);
    }
}

/// A recording on its way to a file.
pub(super) struct Recorder {
    path: PathBuf,
    writer: hound::WavWriter<BufWriter<File>>,
    timeline: Timeline,
    packets: u64,
    first_packet: Option<Duration>,
    failed: Option<hound::Error>,
}

impl Recorder {
    /// Creates the file at once, so that a path that cannot be written is an error before the call.
    pub(super) fn create(path: &Path) -> Result<Self, MediaError> {
        let spec = hound::WavSpec {
            channels: 1,
            sample_rate: RATE,
            bits_per_sample: 16,
            sample_format: hound::SampleFormat::Int,
        };
        let writer = hound::WavWriter::create(path, spec)
            .map_err(|source| MediaError::Wav { path: path.to_owned(), source })?;
        Ok(Self {
            path: path.to_owned(),
            writer,
            timeline: Timeline::default(),
            packets: 0,
            first_packet: None,
            failed: None,
        })
    }

    pub(super) fn packet(&mut self, timestamp: u32, samples: Vec<i16>, since_connected: Duration) {
        self.packets += 1;
        self.first_packet.get_or_insert(since_connected);
        let (writer, failed) = (&mut self.writer, &mut self.failed);
        self.timeline.insert(timestamp, samples, &mut |samples| write(writer, failed, samples));
    }

    pub(super) fn finish(mut self) -> Result<RecordingStats, MediaError> {
        let (writer, failed) = (&mut self.writer, &mut self.failed);
        self.timeline.finish(&mut |samples| write(writer, failed, samples));
        let seconds = f64::from(self.writer.duration()) / f64::from(RATE);
        let path = self.path;
        let finalized = self.writer.finalize();
        match self.failed.map_or(finalized, Err) {
            Ok(()) => Ok(RecordingStats { seconds, packets: self.packets, first_packet: self.first_packet }),
            Err(source) => Err(MediaError::Wav { path, source }),
        }
    }
}

fn write(writer: &mut hound::WavWriter<BufWriter<File>>, failed: &mut Option<hound::Error>, samples: &[i16]) {
    for sample in samples {
        // The first failure is kept and reported when the recording ends; the call goes on.
        if failed.is_none() {
            *failed = writer.write_sample(*sample).err();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn play(frames: &[(u32, i16)]) -> Vec<i16> {
        let mut out = Vec::new();
        let mut timeline = Timeline::default();
        for (timestamp, value) in frames {
            timeline.insert(*timestamp, vec![*value; 160], &mut |s| out.extend_from_slice(s));
        }
        timeline.finish(&mut |s| out.extend_from_slice(s));
        out.chunks(160).map(|frame| frame[0]).collect()
    }

    #[test]
    fn frames_are_ordered_by_timestamp_even_when_the_first_comes_late() {
        assert_eq!(play(&[(160, 2), (0, 1), (480, 4), (320, 3)]), [1, 2, 3, 4]);
    }

    #[test]
    fn a_gap_is_silence_and_a_repeat_is_dropped() {
        assert_eq!(play(&[(0, 1), (0, 9), (480, 4)]), [1, 0, 0, 4]);
    }

    #[test]
    fn the_timestamp_may_wrap_around() {
        let start = u32::MAX - 159;
        assert_eq!(play(&[(start, 1), (0, 2), (160, 3)]), [1, 2, 3]);
    }

    #[test]
    fn a_new_timeline_continues_where_the_old_one_ended() {
        assert_eq!(play(&[(0, 1), (160, 2), (3_000_000_000, 3), (3_000_000_160, 4)]), [1, 2, 3, 4]);
    }

    #[test]
    fn what_is_too_late_is_dropped() {
        let mut frames: Vec<(u32, i16)> = (0..20).map(|n| (n * 160, 1)).collect();
        frames.push((0, 9));
        assert_eq!(play(&frames), [1; 20]);
    }
}
