//! One call with audio: a [`Call`](crate::call::Call) and a media session, tied together, with a timeline.
//!
//! The command line and the demonstration place and answer calls with [`dial`] and [`answer`]; a program
//! that brings media of its own (the SIP bridge) uses the call alone.

mod answer;
mod dial;
mod talk;
mod timeline;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use ahoy_proto::address::Address;
use ahoy_proto::v1::{Hangup, HangupReason};

use crate::error::ClientError;
use crate::media::{MediaConfig, MediaError, MediaStats, RecordingStats, Source};
use crate::outcome;
use crate::session::Session;

pub use answer::answer;
pub use dial::dial;
pub use timeline::{Mark, Step, Timeline};

/// What is heard, kept and pressed during a call.
#[derive(Clone, Debug)]
pub struct AudioPlan {
    /// Played from the answer on.
    pub play: Source,
    /// Where to record what is received, as 8 kHz mono WAV; begins with the first packet.
    pub record: Option<PathBuf>,
    /// Keys pressed one second after answer and media are there.
    pub dtmf: Option<String>,
    /// Hang up so long after the answer; `None` = when the other side does.
    pub duration: Option<Duration>,
    /// Local addresses for media; empty = every interface.
    pub bind_ips: Vec<IpAddr>,
    /// Hide this side's address (refused until there is a relay).
    pub relay_only: bool,
}

impl Default for AudioPlan {
    fn default() -> Self {
        Self {
            play: Source::Silence,
            record: None,
            dtmf: None,
            duration: None,
            bind_ips: Vec::new(),
            relay_only: false,
        }
    }
}

/// A call to place.
#[derive(Clone, Debug)]
pub struct DialPlan {
    /// Who is called.
    pub to: Address,
    /// Which of a service's addresses calls; `None` = the session's own.
    pub from: Option<Address>,
    /// Time until an answer; `None` = 90 s.
    pub ring: Option<Duration>,
    /// A name to show, unverified.
    pub display: String,
    /// The audio.
    pub audio: AudioPlan,
}

/// How to answer a call.
#[derive(Clone, Debug, Default)]
pub struct AnswerPlan {
    /// Ring for so long before the answer.
    pub after: Duration,
    /// The audio.
    pub audio: AudioPlan,
}

/// What became of a call.
#[derive(Clone, Debug)]
pub struct CallReport {
    /// The other party.
    pub peer: Address,
    /// Whether it was answered.
    pub answered: bool,
    /// How it ended, with the SIP status behind it, if any.
    pub hangup: Hangup,
    /// Whether this side hung up.
    pub ended_here: bool,
    /// Every step with its milliseconds.
    pub steps: Vec<Step>,
    /// The recording, when one was asked for and audio came.
    pub recording: Option<RecordingStats>,
    /// Packets both ways.
    pub media: MediaStats,
    /// Keys that the other side pressed.
    pub dtmf: String,
    /// How often the signalling moved to another connection.
    pub resumptions: u32,
}

impl CallReport {
    /// The reason of the end.
    pub fn reason(&self) -> HangupReason {
        outcome::reason(&self.hangup)
    }

    /// As [`outcome::exit_status`].
    pub fn exit_status(&self) -> u8 {
        outcome::exit_status(self.reason(), self.answered)
    }
}

/// The media configuration of a call on this session.
fn media_config(session: &Session, plan: &AudioPlan) -> MediaConfig {
    MediaConfig { bind_ips: plan.bind_ips.clone(), stun: session.stun_addr(), relay_only: plan.relay_only }
}

fn media_error(error: &MediaError) -> ClientError {
    ClientError::local("audio", error.to_string())
}
