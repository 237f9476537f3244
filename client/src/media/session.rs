//! Decides the life of one media session: who may call what when, and what its tasks share.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use audio_codec::Decoder;
use audio_codec::pcma::PcmaDecoder;
use audio_codec::pcmu::PcmuDecoder;
use rtc::rtp;
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use webrtc::media_stream::track_remote::{TrackRemote, TrackRemoteEvent};
use webrtc::peer_connection::RTCPeerConnectionState;

use super::dtmf::Incoming;
use super::peer::Events;
use super::record::Recorder;
use super::sdp::{Codec, Payloads};
use super::send::Outbox;
use super::source::Player;
use super::{MediaError, MediaEvent, MediaStats, RecordingStats, Source};

/// Events that wait for a slow reader; beyond this the oldest are dropped.
const EVENTS: usize = 256;
/// Digits that wait to be sent: eleven seconds of keys.
const DIGITS: usize = 64;

/// What the tasks of a session share.
pub(super) struct Shared {
    /// Gone once the session is closed, so that readers see the end.
    events: Mutex<Option<broadcast::Sender<MediaEvent>>>,
    first_events: Mutex<Option<broadcast::Receiver<MediaEvent>>>,
    connected: watch::Sender<Option<Instant>>,
    payloads: Mutex<Option<Payloads>>,
    outbox: Mutex<Outbox>,
    inbox: Mutex<Inbox>,
    sent: AtomicU64,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

#[derive(Default)]
struct Inbox {
    recorder: Option<Recorder>,
    digits: Incoming,
    packets: u64,
    first_audio: Option<Duration>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every critical section leaves the value whole, so a panic elsewhere does not spoil it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn new() -> Self {
        let (events, first) = broadcast::channel(EVENTS);
        Self {
            events: Mutex::new(Some(events)),
            first_events: Mutex::new(Some(first)),
            connected: watch::channel(None).0,
            payloads: Mutex::new(None),
            outbox: Mutex::new(Outbox { player: Player::Silence, digits: VecDeque::new() }),
            inbox: Mutex::new(Inbox::default()),
            sent: AtomicU64::new(0),
            tasks: TaskTracker::new(),
            cancel: CancellationToken::new(),
        }
    }

    pub(super) fn connected(&self) -> watch::Receiver<Option<Instant>> {
        self.connected.subscribe()
    }

    pub(super) fn payloads(&self) -> Option<Payloads> {
        *lock(&self.payloads)
    }

    pub(super) fn settle(&self, payloads: Payloads) {
        *lock(&self.payloads) = Some(payloads);
    }

    pub(super) fn with_outbox<T>(&self, act: impl FnOnce(&mut Outbox) -> T) -> T {
        act(&mut lock(&self.outbox))
    }

    pub(super) fn count_sent(&self) {
        self.sent.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn emit(&self, event: MediaEvent) {
        // Nobody listening is fine: the events are news, the statistics keep the facts.
        let _ = lock(&self.events).as_ref().map(|events| events.send(event));
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<MediaEvent> {
        let first = lock(&self.first_events).take();
        let events = lock(&self.events);
        // A receiver without a sender ends at once, which is what a closed session has to say.
        let live = || events.as_ref().map_or_else(|| broadcast::channel(1).1, broadcast::Sender::subscribe);
        first.unwrap_or_else(live)
    }

    /// Runs a task until it ends or the session is closed.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let cancel = self.cancel.clone();
        self.tasks.spawn(async move {
            let _ = cancel.run_until_cancelled(task).await;
        });
    }

    /// Runs `last` once, when the session is closed or dropped.
    pub(super) fn at_end(&self, last: impl Future<Output = ()> + Send + 'static) {
        let cancel = self.cancel.clone();
        self.tasks.spawn(async move {
            cancel.cancelled().await;
            last.await;
        });
    }

    pub(super) fn cancel(&self) {
        self.tasks.close();
        *lock(&self.events) = None;
        self.cancel.cancel();
    }

    pub(super) async fn ended(&self) {
        self.tasks.wait().await;
    }

    pub(super) fn play(&self, source: &Source) -> Result<(), MediaError> {
        let player = Player::open(source)?;
        self.with_outbox(|outbox| outbox.player = player);
        Ok(())
    }

    pub(super) fn dtmf(&self, digits: &str) -> Result<(), MediaError> {
        if self.payloads().is_some_and(|payloads| payloads.dtmf.is_none()) {
            return Err(MediaError::NoDtmf);
        }
        let events = digits
            .chars()
            .map(|digit| super::dtmf::event(digit).ok_or(MediaError::Digit(digit)))
            .collect::<Result<Vec<u8>, _>>()?;
        self.with_outbox(|outbox| {
            if outbox.digits.len() + events.len() > DIGITS {
                return Err(MediaError::TooManyDigits(DIGITS));
            }
            outbox.digits.extend(events);
            Ok(())
        })
    }

    pub(super) fn record(&self, path: &Path) -> Result<(), MediaError> {
        let recorder = Recorder::create(path)?;
        let mut inbox = lock(&self.inbox);
        if inbox.recorder.is_some() {
            return Err(MediaError::AlreadyRecording);
        }
        inbox.recorder = Some(recorder);
        Ok(())
    }

    pub(super) fn finish_recording(&self) -> Result<RecordingStats, MediaError> {
        let recorder = lock(&self.inbox).recorder.take();
        recorder.ok_or(MediaError::NotRecording)?.finish()
    }

    pub(super) fn stats(&self) -> MediaStats {
        let inbox = lock(&self.inbox);
        MediaStats {
            packets_sent: self.sent.load(Ordering::Relaxed),
            packets_received: inbox.packets,
            first_audio: inbox.first_audio,
        }
    }

    fn received(&self, packet: &rtp::Packet) {
        let Some(payloads) = self.payloads() else { return };
        let since = self.connected.borrow().map_or(Duration::ZERO, |at| at.elapsed());
        let mut inbox = lock(&self.inbox);
        inbox.packets += 1;
        if Some(packet.header.payload_type) == payloads.dtmf {
            if let Some(digit) = inbox.digits.packet(packet.header.timestamp, &packet.payload) {
                self.emit(MediaEvent::Dtmf(digit));
            }
            return;
        }
        let Some(codec) = payloads.codec(packet.header.payload_type) else { return };
        if inbox.first_audio.is_none() {
            inbox.first_audio = Some(since);
            self.emit(MediaEvent::FirstAudio);
        }
        if let Some(recorder) = &mut inbox.recorder {
            recorder.packet(packet.header.timestamp, decode(codec, &packet.payload), since);
        }
    }

    async fn receive(self: Arc<Self>, track: Arc<dyn TrackRemote>) {
        while let Some(event) = track.poll().await {
            if let TrackRemoteEvent::OnRtpPacket(packet) = event {
                self.received(&packet);
            }
        }
    }
}

fn decode(codec: Codec, payload: &[u8]) -> Vec<i16> {
    let mut samples = vec![0; payload.len()];
    let written = match codec {
        Codec::Pcma => PcmaDecoder::new().decode_into(payload, &mut samples),
        Codec::Pcmu => PcmuDecoder::new().decode_into(payload, &mut samples),
    };
    samples.truncate(written.unwrap_or(0));
    samples
}

/// What the library's callbacks reach; weak, so that a dropped session ends although the library lives on.
pub(super) struct Callbacks(pub(super) std::sync::Weak<Shared>);

impl Events for Callbacks {
    fn state(&self, state: RTCPeerConnectionState) {
        let Some(shared) = self.0.upgrade() else { return };
        match state {
            RTCPeerConnectionState::Connected => {
                shared.connected.send_if_modified(|at| {
                    let first = at.is_none();
                    at.get_or_insert_with(Instant::now);
                    first
                });
                shared.emit(MediaEvent::Connected);
            }
            RTCPeerConnectionState::Disconnected => shared.emit(MediaEvent::Disconnected),
            RTCPeerConnectionState::Failed => shared.emit(MediaEvent::Failed),
            _ => {}
        }
    }

    fn track(&self, track: Arc<dyn TrackRemote>) {
        if let Some(shared) = self.0.upgrade() {
            shared.spawn(Arc::clone(&shared).receive(track));
        }
    }
}
