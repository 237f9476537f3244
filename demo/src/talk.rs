//! Decides what a call has to show: its steps in order, the tone at both ends, the digits.

use std::{path::PathBuf, time::Duration};

use ahoy_testkit::{phone::Event, tone};
use anyhow::{Context, bail, ensure};
use serde::Deserialize;

use crate::process::Process;

/// One line of `ahoy call --json` or `ahoy answer --json`.
#[derive(Debug, Clone, Deserialize)]
pub struct Step {
    /// Which step.
    pub step: String,
    /// Milliseconds since the command began.
    #[serde(default)]
    pub ms: u64,
    /// More about it.
    #[serde(default)]
    pub detail: String,
}

/// The last line of the same.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Report {
    /// How the call ended.
    pub report: String,
    /// Whether anybody picked up.
    pub answered: bool,
    /// SIP status, 0 = none.
    #[serde(default)]
    pub sip_status: u32,
    /// Keys heard.
    #[serde(default)]
    pub dtmf: String,
    /// Packets.
    #[serde(default)]
    pub packets_sent: u64,
    /// Packets.
    #[serde(default)]
    pub packets_received: u64,
}

/// What one end of a call saw.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Steps in order.
    pub steps: Vec<Step>,
    /// The end.
    pub report: Report,
}

impl Seen {
    /// When a step happened.
    pub fn ms(&self, step: &str) -> Option<u64> {
        self.steps.iter().find(|s| s.step == step).map(|s| s.ms)
    }
}

/// Reads a call's lines until its report.
///
/// # Errors
/// When it does not come in time.
pub async fn follow(ahoy: &mut Process, deadline: Duration) -> anyhow::Result<Seen> {
    let mut seen = Seen::default();
    seen.report = ahoy
        .expect("the end of the call", deadline, |line| {
            if let Ok(step) = serde_json::from_str::<Step>(line) {
                seen.steps.push(step);
                return None;
            }
            serde_json::from_str::<Report>(line).ok()
        })
        .await?;
    Ok(seen)
}

/// Waits for an event of the phone.
///
/// # Errors
/// When it does not come in time.
pub async fn phone_event(
    phone: &mut Process,
    what: &str,
    deadline: Duration,
    wanted: impl Fn(&Event) -> bool,
) -> anyhow::Result<Event> {
    phone.expect(what, deadline, |line| serde_json::from_str(line).ok().filter(&wanted)).await
}

/// The phone's side of a finished call.
#[derive(Debug, Clone)]
pub struct PhoneSide {
    /// Digits heard.
    pub digits: String,
    /// RTP packets that it sent, from its 200 OK on.
    pub sent: u64,
    /// What it heard.
    pub recording: PathBuf,
}

/// Waits until the phone's call is over.
///
/// # Errors
/// When that does not happen in time or nothing was recorded.
pub async fn phone_side(phone: &mut Process, deadline: Duration) -> anyhow::Result<PhoneSide> {
    match phone_event(phone, "end of the phone's call", deadline, |e| matches!(e, Event::Ended { .. }))
        .await?
    {
        Event::Ended { digits, sent, recording: Some(recording), .. } => {
            Ok(PhoneSide { digits, sent, recording })
        }
        other => bail!("the phone recorded nothing: {other:?}"),
    }
}

/// The share of `hz` in a recording from `skip` after its first sound, over five seconds.
///
/// # Errors
/// When there is no sound, or less than five seconds of it, or the share is not above 0.9.
pub fn prove_tone(whose: &str, recording: &std::path::Path, hz: u32, skip: Duration) -> anyhow::Result<f64> {
    const SECONDS: usize = 5;
    let samples = tone::read_wav(recording).with_context(|| format!("{whose}: {}", recording.display()))?;
    let onset = tone::onset_ms(&samples)
        .with_context(|| format!("{whose} heard nothing: {} is silent", recording.display()))?;
    let rate = tone::RATE as usize;
    let from = (onset as usize + usize::try_from(skip.as_millis())?) * rate / 1000;
    let window = samples.get(from..from + SECONDS * rate).with_context(|| {
        format!("{whose} heard {:.1} s only, {SECONDS} s are wanted", samples.len() as f64 / rate as f64)
    })?;
    let share = tone::share(window, hz);
    ensure!(share > 0.9, "{whose} heard {hz} Hz with a share of {share:.2} only ({})", recording.display());
    Ok(share)
}
