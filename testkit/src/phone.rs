//! A desk phone in software: a small SIP user agent over UDP that rings, answers, plays a tone, records what
//! it hears and can dial out. It stands where a company's phone stands in tests and in the demo.

mod incoming;
mod line;
mod message;
mod outgoing;
mod rtp;
pub mod sdp;

use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
};

use ahoy_proto::time::Entropy;
use serde::{Deserialize, Serialize};
use tokio::{net::UdpSocket, sync::mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use line::Line;
pub use rtp::AudioReport;

/// What an extension of the phone does with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Behaviour {
    /// 180, then 200 after the ring time.
    Answer,
    /// 200 at once, without any provisional response.
    AnswerAtOnce,
    /// 486.
    Busy,
    /// 603 after the ring time.
    Decline,
    /// 180 and nothing more.
    Ring,
    /// 183 with a tone, then 480 after the ring time.
    EarlyThenUnavailable,
}

/// How a phone is set up.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PhoneConfig {
    /// UDP address of SIP; RTP uses other ports of the same IP address.
    pub bind: SocketAddr,
    /// The user part that the phone calls from.
    pub user: String,
    /// What each extension does; any other is answered 404.
    pub extensions: BTreeMap<String, Behaviour>,
    /// Milliseconds between ringing and the answer.
    pub ring_ms: u64,
    /// The tone that it plays, in hertz.
    pub tone_hz: u32,
    /// Where recordings go; none are made without it.
    pub record_dir: Option<PathBuf>,
}

/// What a phone can be told to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Command {
    /// Dial `uri`, sending the request to `to`.
    Call {
        /// Request-URI, e.g. `sip:caller%40home.example@127.0.0.2:5060`.
        uri: String,
        /// Where the request goes.
        to: SocketAddr,
    },
    /// Press keys in a call (all calls, when `call` is empty).
    Press {
        /// Call-ID, as events name it.
        call: String,
        /// Digits.
        digits: String,
    },
    /// End a call (all calls, when `call` is empty).
    Hangup {
        /// Call-ID.
        call: String,
    },
    /// Stop.
    Quit,
}

/// What a phone reports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The phone is on.
    Ready {
        /// Its SIP address.
        address: SocketAddr,
    },
    /// An INVITE came.
    Incoming {
        /// Call-ID.
        call: String,
        /// The From header.
        from: String,
        /// The extension that was dialled.
        extension: String,
    },
    /// The phone's own call rings at the other side.
    Ringing {
        /// Call-ID.
        call: String,
        /// 180 or 183.
        status: u16,
    },
    /// Either side picked up.
    Answered {
        /// Call-ID.
        call: String,
    },
    /// The first audio packet.
    FirstAudio {
        /// Call-ID.
        call: String,
        /// Its source.
        from: SocketAddr,
        /// Milliseconds since the audio was set up.
        after_ms: u64,
    },
    /// A key was pressed at the other side.
    Dtmf {
        /// Call-ID.
        call: String,
        /// `0-9*#A-D`.
        digit: char,
    },
    /// The phone's own call was refused.
    Rejected {
        /// Call-ID.
        call: String,
        /// SIP status.
        status: u16,
    },
    /// A call is over.
    Ended {
        /// Call-ID.
        call: String,
        /// `local`, `remote`, `cancelled` or `timeout`.
        by: String,
        /// RTP packets sent.
        sent: u64,
        /// RTP packets received.
        received: u64,
        /// Digits heard.
        digits: String,
        /// The recording.
        recording: Option<PathBuf>,
    },
}

/// A running phone.
#[derive(Debug)]
pub struct Phone {
    /// What happens at the phone. Read it: at 1,024 unread events the phone waits.
    pub events: mpsc::Receiver<Event>,
    /// Tells it what to do.
    pub commands: mpsc::Sender<Command>,
    /// Its SIP address.
    pub address: SocketAddr,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Phone {
    /// Switches a phone on.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn start(config: PhoneConfig, entropy: Arc<dyn Entropy>) -> io::Result<Self> {
        let socket = UdpSocket::bind(config.bind).await?;
        let address = socket.local_addr()?;
        let (events_in, events) = mpsc::channel(1024);
        let (commands, commands_out) = mpsc::channel(64);
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let line = Line {
            socket,
            address,
            config,
            entropy,
            events: events_in,
            calls: HashMap::new(),
            tasks: tasks.clone(),
            finished: mpsc::channel(256),
        };
        tasks.spawn(line.run(commands_out, stop.clone()));
        tasks.close();
        Ok(Self { events, commands, address, stop, tasks })
    }

    /// Switches it off and waits until its recordings are written.
    pub async fn stop(self) {
        self.stop.cancel();
        drop(self.events);
        self.tasks.wait().await;
    }
}
