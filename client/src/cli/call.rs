//! `ahoy call` and `ahoy answer`: talk through WAV files, with every step and its milliseconds.

use std::path::PathBuf;
use std::time::Duration;

use ahoy_client::Session;
use ahoy_client::media::Source;
use ahoy_client::outcome;
use ahoy_client::phone::{self, AnswerPlan, AudioPlan, CallReport, DialPlan, Mark, Step, Timeline};
use tokio_util::sync::CancellationToken;

use super::Failure;
use super::home::Home;
use super::read::printable;

/// What both directions take.
#[derive(clap::Args)]
struct Audio {
    /// A WAV file to play from the answer on, or `tone:HZ`; silence without it.
    #[arg(long, value_name = "F.wav", value_parser = parse_source)]
    play: Option<Source>,
    /// Where to record what is heard.
    #[arg(long, value_name = "F.wav")]
    record: Option<PathBuf>,
    /// Keys to press one second after the answer: 0-9 * # A-D.
    #[arg(long, value_name = "KEYS", value_parser = parse_keys)]
    dtmf: Option<String>,
    /// Hang up so long after the answer; without it, when the other side does or with Ctrl-C.
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    duration: Option<Duration>,
    /// One JSON object per line.
    #[arg(long)]
    json: bool,
}

/// Arguments of `ahoy call`.
#[derive(clap::Args)]
pub struct Call {
    /// Who to call.
    address: String,
    /// Give up without an answer after so long (90 at most).
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    ring: Option<Duration>,
    #[command(flatten)]
    audio: Audio,
}

/// Arguments of `ahoy answer`.
#[derive(clap::Args)]
pub struct Answer {
    /// Answer one call, then end with its exit status.
    #[arg(long)]
    once: bool,
    /// Ring for so long before the answer.
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds, default_value = "0")]
    after: Duration,
    #[command(flatten)]
    audio: Audio,
}

pub async fn call(home: &Home, command: Call, stop: &CancellationToken) -> Result<u8, Failure> {
    let to = home.address(&command.address)?;
    let account = home.account()?;
    let json = command.audio.json;
    let mut timeline = Timeline::new(move |step| println!("{}", step_line(step, json)));
    let network = home.network().await?;
    let resolution = network.resolve(account.name()).await?;
    timeline.mark(Mark::Resolved, format!("{} {}", resolution.name, resolution.level));
    let session = home.sign_in(&network).await?;
    timeline.mark(Mark::Connected, session.subject());
    let plan = DialPlan {
        to,
        from: None,
        ring: command.ring,
        display: home.config.display.clone(),
        audio: plan(home, &command.audio),
    };
    let report = phone::dial(&session, plan, timeline, stop).await?;
    println!("{}", report_text(&report, json));
    session.close().await;
    network.close().await;
    Ok(report.exit_status())
}

pub async fn answer(home: &Home, command: Answer, stop: &CancellationToken) -> Result<u8, Failure> {
    let network = home.network().await?;
    let session = home.sign_in(&network).await?;
    let json = command.audio.json;
    if json {
        println!("{}", serde_json::json!({ "step": "waiting", "account": session.subject() }));
    } else {
        println!("waiting for calls to {} (Ctrl-C ends it)", session.subject());
    }
    let mut status = 0;
    loop {
        let incoming = tokio::select! {
            incoming = session.next_call() => incoming,
            () = stop.cancelled() => break,
        };
        let Some(incoming) = incoming else { return Err(ended(&session)) };
        let timeline = Timeline::new(move |step| println!("{}", step_line(step, json)));
        let plan = AnswerPlan { after: command.after, audio: plan(home, &command.audio) };
        match phone::answer(&session, incoming, plan, timeline, stop).await {
            Ok(report) => {
                println!("{}", report_text(&report, json));
                status = report.exit_status();
            }
            Err(error) if command.once => return Err(error.into()),
            Err(error) => eprintln!("ahoy: {error}"),
        }
        if command.once || stop.is_cancelled() {
            break;
        }
    }
    session.close().await;
    network.close().await;
    Ok(if command.once { status } else { 0 })
}

fn ended(session: &Session) -> Failure {
    match &*session.status().borrow() {
        ahoy_client::Status::Refused(error) => error.clone().into(),
        _ => Failure::Plain("the session ended".to_owned()),
    }
}

fn plan(home: &Home, audio: &Audio) -> AudioPlan {
    AudioPlan {
        play: audio.play.clone().unwrap_or(Source::Silence),
        record: audio.record.clone(),
        dtmf: audio.dtmf.clone(),
        duration: audio.duration,
        bind_ips: home.config.media_bind.clone(),
        relay_only: home.config.relay_only,
    }
}

fn step_line(step: &Step, json: bool) -> String {
    if json {
        let (name, ms) = (step.mark.name(), step.ms);
        return serde_json::json!({ "step": name, "ms": ms, "detail": step.detail }).to_string();
    }
    format!("{:>8} ms  {:<12} {}", step.ms, step.mark.name(), step.detail)
}

fn report_text(report: &CallReport, json: bool) -> String {
    let recording = report.recording.as_ref();
    if json {
        return serde_json::json!({
            "report": outcome::reason_name(report.reason()),
            "answered": report.answered,
            "peer": report.peer.to_string(),
            "ended_here": report.ended_here,
            "sip_status": report.hangup.sip_status,
            "message": report.hangup.message,
            "exit_status": report.exit_status(),
            "packets_sent": report.media.packets_sent,
            "packets_received": report.media.packets_received,
            "recorded_seconds": recording.map(|r| r.seconds),
            "dtmf": report.dtmf,
            "resumptions": report.resumptions,
        })
        .to_string();
    }
    let who = if report.ended_here { "by this side" } else { "by the other side" };
    let mut text =
        format!("the call with {} ended {who}: {}", report.peer, outcome::sentence(report.reason()));
    if report.hangup.sip_status != 0 {
        text += &format!(" (SIP {})", report.hangup.sip_status);
    }
    if !report.hangup.message.is_empty() {
        text += &format!(" ({})", printable(&report.hangup.message));
    }
    if let Some(recording) = recording {
        text += &format!("; {:.1} s recorded", recording.seconds);
    }
    if !report.dtmf.is_empty() {
        text += &format!("; keys pressed over there: {}", report.dtmf);
    }
    text
}

fn parse_source(text: &str) -> Result<Source, String> {
    match text.strip_prefix("tone:") {
        Some(hz) => {
            hz.parse().map(|hz| Source::Tone { hz }).map_err(|_| format!("{hz:?} is no frequency in Hz"))
        }
        None => Ok(Source::Wav(PathBuf::from(text))),
    }
}

fn parse_keys(text: &str) -> Result<String, String> {
    match text.chars().find(|c| !"0123456789*#ABCDabcd".contains(*c)) {
        Some(other) => Err(format!("{other:?} is no telephone key; keys are 0-9, *, #, A-D")),
        None if text.is_empty() => Err("no keys".to_owned()),
        None => Ok(text.to_ascii_uppercase()),
    }
}

/// Longest time that may be given: a day.
const LONGEST: f64 = 86_400.0;

fn parse_seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=LONGEST).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err(format!("{text:?} is no number of seconds between 0 and {LONGEST}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_a_telephone() {
        assert_eq!(parse_keys("12#a").expect("keys"), "12#A");
        assert!(parse_keys("12x").expect_err("no key").contains("'x'"));
    }

    #[test]
    fn seconds_may_have_a_fraction_but_no_end_of_time() {
        assert_eq!(parse_seconds("1.5").expect("a time"), Duration::from_millis(1500));
        for bad in ["-1", "NaN", "inf", "1e9", "soon"] {
            assert!(parse_seconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_step_is_one_json_object_with_its_milliseconds() {
        let step = Step { mark: Mark::FirstAudio, ms: 73, detail: String::new() };
        let value: serde_json::Value = serde_json::from_str(&step_line(&step, true)).expect("JSON");
        assert_eq!((value["step"].as_str(), value["ms"].as_u64()), (Some("first_audio"), Some(73)));
    }
}
