//! Decides what a call sounds like at a person's end: WebRTC audio, played, recorded, and steered by keys.
//!
//! G.711 and RFC 4733 telephone events, nothing else, so that a bridge relays without transcoding. A session is
//! made from either side of the offer; every SDP it returns is complete, because call signalling carries no
//! trickled candidates.
//!
//! ```no_run
//! # async fn call() -> Result<(), ahoy_client::media::MediaError> {
//! use ahoy_client::media::{MediaConfig, MediaSession, Source};
//! let (session, offer) = MediaSession::offer(MediaConfig::default()).await?;
//! session.record("answer.wav".as_ref())?;
//! session.play(Source::Tone { hz: 440.0 })?;
//! # let answer = offer;
//! session.accept_answer(&answer).await?;
//! # Ok(())
//! # }
//! ```

mod dtmf;
mod peer;
mod record;
mod sdp;
mod send;
mod session;
mod source;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rand::TryRng;
use tokio::sync::broadcast;
use webrtc::peer_connection::RTCSessionDescription;

pub use sdp::Codec;
pub use source::Source;

use peer::Peer;
use session::{Callbacks, Shared};

/// Where a session's sockets are and how it learns its public address.
#[derive(Debug, Clone, Default)]
pub struct MediaConfig {
    /// Local addresses to bind, one socket each; empty means every interface that others can reach
    /// (loopback only when there is no other).
    pub bind_ips: Vec<IpAddr>,
    /// The homeserver's STUN port, for a server-reflexive candidate.
    pub stun: Option<SocketAddr>,
    /// Hide this side's address behind a relay. There is none yet: such a session is refused.
    pub relay_only: bool,
}

/// What happened in a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MediaEvent {
    /// ICE and DTLS are up, for the first time or again.
    Connected,
    /// Nothing came from the peer for 2 s: time for an ICE restart.
    Disconnected,
    /// The path is lost for good unless an ICE restart brings another.
    Failed,
    /// The first audio packet was received.
    FirstAudio,
    /// The peer pressed a key.
    Dtmf(char),
    /// The WAV file that was playing has ended; silence follows.
    PlaybackEnded,
}

/// Why a media operation failed.
#[derive(Debug, thiserror::Error)]
pub enum MediaError {
    /// The SDP has no audio, or refuses it with port 0.
    #[error("the other side offers no audio (no m=audio line, or its port is 0)")]
    NoMedia,
    /// The SDP offers no codec that this side speaks.
    #[error("no common codec: the other side offers neither PCMA nor PCMU")]
    NoCommonCodec,
    /// `relay_only` was asked for.
    #[error("relay-only media is not supported yet: turn it off, or do not call")]
    NoRelay,
    /// Telephone events were not negotiated; send the digits as a call message instead.
    #[error("the other side takes no telephone events in its audio: send the digits as a message")]
    NoDtmf,
    /// Not a key of a telephone.
    #[error("{0:?} is no telephone key; keys are 0-9, *, #, A-D")]
    Digit(char),
    /// The digits do not fit the queue.
    #[error("more than {0} digits are waiting; send fewer at a time")]
    TooManyDigits(usize),
    /// A tone outside of what 8 kHz sampling can carry.
    #[error("a tone of {0} Hz cannot be played: choose one between 0 and 4000 Hz")]
    Tone(f64),
    /// A WAV file could not be read or written.
    #[error("{}: {source}", .path.display())]
    Wav {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: hound::Error,
    },
    /// A WAV file too long to hold in memory.
    #[error("{}: longer than {seconds} s, or its header is wrong; play a shorter file", .path.display())]
    WavTooLong {
        /// The file.
        path: PathBuf,
        /// The longest that is played.
        seconds: u32,
    },
    /// A WAV file of a sampling rate that cannot be converted.
    #[error("{}: {rate} samples per second cannot be converted to 8000", .path.display())]
    WavRate {
        /// The file.
        path: PathBuf,
        /// Its sampling rate in Hz.
        rate: u32,
    },
    /// `record` while a recording runs.
    #[error("this session is being recorded already")]
    AlreadyRecording,
    /// `finish_recording` without a recording.
    #[error("this session is not being recorded")]
    NotRecording,
    /// The network interfaces could not be listed.
    #[error("cannot list the network interfaces: {0}")]
    Interfaces(std::io::Error),
    /// The operating system gave no random bytes.
    #[error("no random bytes from the operating system: {0}")]
    Entropy(rand::rngs::SysError),
    /// The session is closed.
    #[error("the media session is closed")]
    Closed,
    /// The WebRTC library refused something.
    #[error("WebRTC: {0}")]
    Rtc(#[from] webrtc::error::Error),
    /// The WebRTC library could not use the network.
    #[error("WebRTC: {0}")]
    Io(#[from] std::io::Error),
}

/// What a finished recording holds.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordingStats {
    /// Length of the file.
    pub seconds: f64,
    /// Audio packets that went into it.
    pub packets: u64,
    /// Time from the connection to the first packet.
    pub first_packet: Option<Duration>,
}

/// Counters of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaStats {
    /// RTP packets sent, telephone events included.
    pub packets_sent: u64,
    /// RTP packets received, telephone events included.
    pub packets_received: u64,
    /// Time from the connection to the first audio packet received.
    pub first_audio: Option<Duration>,
}

/// The events of one session, from its beginning for the first reader.
pub struct MediaEvents(broadcast::Receiver<MediaEvent>);

impl MediaEvents {
    /// The next event; `None` when the session is closed. A reader that falls 256 events behind misses the oldest.
    pub async fn next(&mut self) -> Option<MediaEvent> {
        loop {
            match self.0.recv().await {
                Ok(event) => return Some(event),
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

/// One audio connection to a peer. Dropping it ends it; [`MediaSession::close`] also waits for that.
pub struct MediaSession {
    peer: Peer,
    shared: Arc<Shared>,
}

impl MediaSession {
    /// Makes a session and the SDP offer for it, with all candidates gathered (at most 1 s for the STUN server).
    ///
    /// # Errors
    /// [`MediaError::NoRelay`], [`MediaError::Interfaces`], or what the WebRTC library says.
    pub async fn offer(config: MediaConfig) -> Result<(Self, String), MediaError> {
        let session = Self::new(&config).await?;
        let offer = session.describe_offer().await?;
        Ok((session, offer))
    }

    /// Makes a session from the peer's offer, and the SDP answer, with all candidates gathered.
    ///
    /// # Errors
    /// [`MediaError::NoMedia`] or [`MediaError::NoCommonCodec`] for an offer that this side cannot answer.
    pub async fn answer(config: MediaConfig, offer: &str) -> Result<(Self, String), MediaError> {
        let offer = sdp::narrow(offer)?;
        let session = Self::new(&config).await?;
        let answer = session.describe_answer(offer).await?;
        Ok((session, answer))
    }

    async fn new(config: &MediaConfig) -> Result<Self, MediaError> {
        // RFC 3550 wants these unpredictable and nothing depends on their values, so no seed is passed in.
        let mut seed = [0u8; 10];
        rand::rngs::SysRng.try_fill_bytes(&mut seed).map_err(MediaError::Entropy)?;
        let (ssrc, seed) = seed.split_first_chunk::<4>().expect("ten bytes");
        let ssrc = u32::from_be_bytes(*ssrc);
        let shared = Arc::new(Shared::new());
        let peer = Peer::build(config, ssrc, Arc::new(Callbacks(Arc::downgrade(&shared)))).await?;
        let connection = Arc::clone(&peer.connection);
        shared.at_end(async move {
            // It is gone either way; the library only reports that it was closed before.
            let _ = connection.close().await;
        });
        let session = Self { peer, shared };
        session.peer.add_track().await?;
        let stream = send::Stream::new(ssrc, seed.try_into().expect("six of ten bytes are left"));
        session.shared.spawn(send::run(Arc::clone(&session.shared), Arc::clone(&session.peer.track), stream));
        Ok(session)
    }

    async fn describe_offer(&self) -> Result<String, MediaError> {
        let before = self.peer.gatherings();
        let offer = self.peer.connection.create_offer(None).await?;
        self.peer.connection.set_local_description(offer).await?;
        self.peer.described(before).await
    }

    async fn describe_answer(&self, offer: String) -> Result<String, MediaError> {
        self.peer.connection.set_remote_description(RTCSessionDescription::offer(offer)?).await?;
        let before = self.peer.gatherings();
        let answer = self.peer.connection.create_answer(None).await?;
        self.peer.connection.set_local_description(answer).await?;
        let answer = self.peer.described(before).await?;
        self.shared.settle(sdp::settled(&answer)?);
        Ok(answer)
    }

    /// Takes the peer's answer to the offer of [`MediaSession::offer`] or [`MediaSession::restart_ice`].
    ///
    /// # Errors
    /// [`MediaError::NoMedia`] when it refuses the audio: such a call would connect and stay silent.
    pub async fn accept_answer(&self, answer: &str) -> Result<(), MediaError> {
        let payloads = sdp::settled(answer)?;
        let answer = RTCSessionDescription::answer(answer.to_owned())?;
        self.peer.connection.set_remote_description(answer).await?;
        self.shared.settle(payloads);
        Ok(())
    }

    /// Plays a source from now on, or from the moment of the connection when that is later. Silence until then.
    ///
    /// # Errors
    /// [`MediaError::Wav`] for a file that cannot be read, [`MediaError::Tone`] for a frequency out of range.
    pub fn play(&self, source: Source) -> Result<(), MediaError> {
        self.shared.play(&source)
    }

    /// Records what is received, from its first packet on, as 16-bit mono WAV at 8 kHz. Best called before the
    /// answer is known.
    ///
    /// # Errors
    /// [`MediaError::Wav`] when the file cannot be created, [`MediaError::AlreadyRecording`].
    pub fn record(&self, path: &Path) -> Result<(), MediaError> {
        self.shared.record(path)
    }

    /// Ends the recording and completes its file.
    ///
    /// # Errors
    /// [`MediaError::NotRecording`], or [`MediaError::Wav`] when any write failed.
    pub fn finish_recording(&self) -> Result<RecordingStats, MediaError> {
        self.shared.finish_recording()
    }

    /// Queues keys (`0-9`, `*`, `#`, `A-D`) as telephone events, 100 ms each (RFC 4733).
    ///
    /// # Errors
    /// [`MediaError::NoDtmf`] when the peer takes none: send them as a call message then.
    pub fn dtmf(&self, digits: &str) -> Result<(), MediaError> {
        self.shared.dtmf(digits)
    }

    /// The events; the first reader gets them from the beginning, further ones from now.
    pub fn events(&self) -> MediaEvents {
        MediaEvents(self.shared.subscribe())
    }

    /// Starts an ICE restart with new sockets: the offer to send to the peer, whose answer goes to
    /// [`MediaSession::accept_answer`].
    ///
    /// # Errors
    /// What the WebRTC library says; the old path goes on.
    pub async fn restart_ice(&self) -> Result<String, MediaError> {
        self.peer.connection.restart_ice().await?;
        self.describe_offer().await
    }

    /// Answers the peer's ICE restart.
    ///
    /// # Errors
    /// As [`MediaSession::answer`].
    pub async fn accept_restart(&self, offer: &str) -> Result<String, MediaError> {
        self.describe_answer(sdp::narrow(offer)?).await
    }

    /// The counters so far.
    pub fn stats(&self) -> MediaStats {
        self.shared.stats()
    }

    /// Ends the session and waits until its tasks are gone. A recording must be finished before.
    pub async fn close(&self) {
        self.shared.cancel();
        self.shared.ended().await;
    }
}

impl Drop for MediaSession {
    fn drop(&mut self) {
        self.shared.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loopback() -> MediaConfig {
        MediaConfig { bind_ips: vec![[127, 0, 0, 1].into()], ..Default::default() }
    }

    #[tokio::test]
    async fn an_offer_names_g711_and_events_and_all_its_candidates() {
        let (session, offer) = MediaSession::offer(loopback()).await.expect("an offer");
        assert!(offer.contains("m=audio 9 UDP/TLS/RTP/SAVPF 8 0 101\r\n"), "{offer}");
        assert!(offer.contains("127.0.0.1") && offer.contains("a=end-of-candidates"), "{offer}");
        session.close().await;
    }

    #[tokio::test]
    async fn an_answer_keeps_the_numbers_of_the_offer_and_its_codec() {
        let (caller, offer) = MediaSession::offer(loopback()).await.expect("an offer");
        let browser = offer
            .replace("SAVPF 8 0 101", "SAVPF 111 0 110 126")
            .replace("a=rtpmap:8 PCMA/8000\r\n", "a=rtpmap:111 opus/48000/2\r\n")
            .replace("a=rtpmap:101 tele", "a=rtpmap:110 telephone-event/48000\r\na=rtpmap:126 tele")
            .replace("a=fmtp:101", "a=fmtp:126");
        let (callee, answer) = MediaSession::answer(loopback(), &browser).await.expect("an answer");
        assert!(answer.contains(" UDP/TLS/RTP/SAVPF 0 126\r\n"), "{answer}");
        assert!(answer.contains("a=rtpmap:126 telephone-event/8000\r\n"), "{answer}");
        callee.dtmf("1").expect("telephone events are settled");
        assert!(matches!(callee.dtmf("x"), Err(MediaError::Digit('x'))));
        callee.close().await;
        caller.close().await;
    }

    async fn hear(events: &mut MediaEvents, wanted: MediaEvent) {
        let heard = async { while events.next().await.expect("the session lives") != wanted {} };
        tokio::time::timeout(Duration::from_secs(10), heard).await.expect("heard in time");
    }

    #[tokio::test]
    async fn two_sessions_hear_each_other() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("heard.wav");
        let (caller, offer) = MediaSession::offer(loopback()).await.expect("an offer");
        let (callee, answer) = MediaSession::answer(loopback(), &offer).await.expect("an answer");
        callee.record(&path).expect("a file");
        caller.play(Source::Tone { hz: 440.0 }).expect("a tone");
        let mut events = callee.events();
        caller.accept_answer(&answer).await.expect("an answer with media");
        hear(&mut events, MediaEvent::FirstAudio).await;
        caller.dtmf("7").expect("a key");
        hear(&mut events, MediaEvent::Dtmf('7')).await;
        let stats = callee.finish_recording().expect("a recording");
        assert!(hound::WavReader::open(&path).expect("a WAV file").duration() > 0, "{stats:?}");
        caller.close().await;
        callee.close().await;
        assert_eq!(events.next().await, None, "a closed session has no more events");
    }

    #[tokio::test]
    async fn relay_only_is_refused_instead_of_leaking_an_address() {
        let config = MediaConfig { relay_only: true, ..loopback() };
        assert!(matches!(MediaSession::offer(config).await, Err(MediaError::NoRelay)));
    }
}
