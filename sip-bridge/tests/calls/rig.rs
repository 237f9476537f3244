//! One bridge between its homeserver and its PBX, and a person's media on the far side.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

use ahoy_bridge::call::{Exchange, LiveTrunk};
use ahoy_bridge::cdr::Cdr;
use ahoy_bridge::rtc::{RtcConfig, RtcHub};
use ahoy_bridge::trunk;
use ahoy_client::media::{MediaConfig, MediaEvent, MediaEvents, MediaSession, Source};
use ahoy_client::{Network, Session};
use ahoy_proto::name::Name;
use ahoy_proto::v1::{self, call_frame::Message};
use ahoy_transport::Connection;
use ahoy_transport::clock::{OsEntropy, SystemClock};
use tempfile::TempDir;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::homeserver::{Homeserver, Hop, NAME, policy};
use crate::pbx::{Dialog, Pbx, Sip};

const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for something that a working program does soon.
pub async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what).await.expect("happens soon")
}

/// Polls until it is so.
pub async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let polling = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, polling).await.unwrap_or_else(|_| panic!("never: {what}"));
}

static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Log;

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LOG.lock().expect("no writer panics").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Whether one line of the log has all of these.
pub fn logged(parts: &[&str]) -> bool {
    let text = LOG.lock().expect("no writer panics").clone();
    String::from_utf8_lossy(&text).lines().any(|line| parts.iter().all(|part| line.contains(part)))
}

fn keep_log() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(|| Log);
        subscriber.with_max_level(tracing::Level::INFO).init();
    });
}

pub struct World {
    _home: Homeserver,
    pub link: Connection,
    pub exchange: Arc<Exchange>,
    pub pbx: Pbx,
    network: Network,
    tasks: TaskTracker,
    stop: CancellationToken,
    folder: TempDir,
}

impl World {
    pub async fn start() -> Self {
        Self::with("").await
    }

    /// With further lines for the trunk's file.
    pub async fn with(further: &str) -> Self {
        keep_log();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut pbx = Pbx::start().await;
        // Most tests read the PBX's socket only when something must come.
        let probe = if further.contains("probe") { "" } else { "probe = false\n" };
        let text = format!(
            "bind = \"127.0.0.1:0\"\npeer = \"{}\"\nrtp_ports = [20000, 49999]\noutbound_line = \"support\"\n{probe}{further}\n\
             [lines]\nsupport = \"sip:200@{}\"\n[short_codes]\n9001 = \"caller@home.example\"\n",
            pbx.at(),
            pbx.at()
        );
        std::fs::write(folder.path().join("pbx.toml"), text).expect("a writable folder");
        let mut home = Homeserver::start();
        let network = home.network();
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let name = Name::parse(NAME, &policy()).expect("a name");
        let (mut trunks, mut incoming) = (Vec::new(), Vec::new());
        for trunk in trunk::load_folder(folder.path(), &name, &policy()).expect("a good file") {
            let bound = LiveTrunk::bind(trunk, Arc::new(OsEntropy), &tasks, stop.clone()).await;
            let (live, calls) = bound.expect("a free port");
            pbx.bridge = live.port.local_addr();
            trunks.push(live);
            incoming.push(calls);
        }
        let hub = RtcHub::bind(RtcConfig {
            bind: "127.0.0.1:0".parse().expect("an address"),
            stun: None,
            max_calls: 64,
            entropy: Arc::new(OsEntropy),
        });
        let exchange = Arc::new(Exchange {
            trunks,
            hub: hub.expect("a free port"),
            session: Session::start_service(&network, Homeserver::login()),
            cdr: Cdr::open(&folder.path().join("cdr.jsonl")).await.expect("a writable folder"),
            clock: Arc::new(SystemClock),
            entropy: Arc::new(OsEntropy),
            policy: policy(),
            calls: TaskTracker::new(),
            draining: CancellationToken::new(),
            cut: CancellationToken::new(),
        });
        tasks.spawn(exchange.clone().run(incoming));
        let link = home.arrival().await;
        Self { _home: home, link, exchange, pbx, network, tasks, stop, folder }
    }

    /// The CDR of the only call, once it is over.
    pub async fn cdr(&self) -> serde_json::Value {
        let path: PathBuf = self.folder.path().join("cdr.jsonl");
        let read = || std::fs::read_to_string(&path).unwrap_or_default();
        eventually("a CDR is written", || read().ends_with('\n')).await;
        let text = read();
        assert_eq!(text.lines().count(), 1, "one call, one line: {text}");
        serde_json::from_str(&text).expect("JSON")
    }

    /// Nothing is left of any call, and everything stops.
    pub async fn end(self) {
        eventually("the WebRTC legs are closed", || self.exchange.hub.calls() == 0).await;
        self.exchange.drain(Duration::from_secs(5)).await;
        assert!(!self.exchange.cut.is_cancelled(), "no call had to be cut");
        self.exchange.session.close().await;
        self.exchange.hub.close().await;
        self.stop.cancel();
        self.tasks.close();
        soon(self.tasks.wait()).await;
        self.network.close().await;
    }

    /// A call from the network that the PBX has just been asked to take.
    pub async fn rings_at_pbx(&mut self, person: Person) -> (Person, Hop, Sip) {
        let mut hop = Hop::ring(&self.link, "support@bank.example", &person.offer).await;
        let invite = self.pbx.request("INVITE").await;
        self.pbx.reply(&invite, "100 Trying", "").await;
        let Message::Early(early) = hop.next().await else {
            panic!("the SDP comes with the first sign of life")
        };
        person.media.accept_answer(&early.sdp).await.expect("an answer with media");
        (person, hop, invite)
    }

    /// A call from the network that the PBX answered with this audio. Media is up.
    pub async fn answered_by_pbx(&mut self, person: Person, formats: &str) -> Joined {
        let (mut person, mut hop, invite) = self.rings_at_pbx(person).await;
        let sdp = self.pbx.sdp(formats, "sendrecv");
        self.pbx.reply(&invite, "200 OK", &sdp).await;
        self.pbx.request("ACK").await;
        let Message::Answer(_) = hop.next().await else { panic!("an answer") };
        person.event(MediaEvent::Connected).await;
        let dialog = self.pbx.dialog_of(&invite);
        Joined { person, hop, dialog, invite }
    }
}

/// A call that stands.
pub struct Joined {
    pub person: Person,
    pub hop: Hop,
    pub dialog: Dialog,
    pub invite: Sip,
}

/// A person's media.
pub struct Person {
    pub media: MediaSession,
    pub offer: String,
    events: MediaEvents,
}

fn config() -> MediaConfig {
    let ip: IpAddr = "127.0.0.2".parse().expect("an address");
    MediaConfig { bind_ips: vec![ip], stun: None, relay_only: false }
}

impl Person {
    /// One who calls, and plays a tone.
    pub async fn calling() -> Self {
        let (media, offer) = MediaSession::offer(config()).await.expect("an offer");
        Self::with(media, offer)
    }

    /// One whose client takes no telephone events.
    pub async fn calling_without_keys() -> Self {
        let mut person = Self::calling().await;
        person.offer = without_keys(&person.offer);
        person
    }

    /// One who is called; the second value is the answer.
    pub async fn called(offer: &str) -> (Self, String) {
        let (media, answer) = MediaSession::answer(config(), offer).await.expect("an answer");
        (Self::with(media, offer.to_owned()), answer)
    }

    fn with(media: MediaSession, offer: String) -> Self {
        media.play(Source::Tone { hz: 440.0 }).expect("a tone");
        let events = media.events();
        Self { media, offer, events }
    }

    pub async fn event(&mut self, wanted: MediaEvent) {
        let found = async {
            while let Some(event) = self.events.next().await {
                if event == wanted {
                    return;
                }
            }
            panic!("the session closed before {wanted:?}");
        };
        timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("no {wanted:?}"));
    }
}

/// The SDP without telephone events.
pub fn without_keys(sdp: &str) -> String {
    let is_key = |line: &&str| line.starts_with("a=rtpmap:") && line.contains("telephone-event");
    let number = sdp.lines().find(is_key).and_then(|line| line["a=rtpmap:".len()..].split(' ').next());
    let number = number.expect("telephone events are offered");
    let mut out = String::new();
    for line in sdp.lines() {
        let of_keys =
            ["rtpmap", "fmtp", "rtcp-fb"].iter().any(|kind| line.starts_with(&format!("a={kind}:{number} ")));
        if of_keys {
            continue;
        }
        let kept = if line.starts_with("m=audio") {
            line.replace(&format!(" {number}"), "")
        } else {
            line.to_owned()
        };
        out += &kept;
        out += "\r\n";
    }
    out
}

/// A hold message.
pub fn hold(message: Message) -> Option<v1::HoldDirection> {
    match message {
        Message::Hold(hold) => Some(hold.direction()),
        _ => None,
    }
}
