//! RTP between the two legs: each direction is written by the task that received it. Numbers of
//! payload types are each leg's own affair; the sound passes untouched, but for the rare pair of
//! legs that chose different laws. [BRIDGE-RTP-02]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ahoy_proto::time::Clock;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{codec_of, encoding_of};
use crate::rtc::{Encoding, RtcCall, RtcLeg, RtpPacket, RtpSink};
use crate::rtp::{DtmfReader, Packet, Received, RtpLeg, recode};

/// What went through the WebRTC leg, beyond the hub's own counters.
#[derive(Debug, Default)]
pub struct Marks {
    recoded: AtomicBool,
}

impl Marks {
    /// Whether A-law and mu-law were exchanged.
    pub fn recoded(&self) -> bool {
        self.recoded.load(Ordering::Relaxed)
    }
}

/// From the network to the PBX.
pub struct ToSip {
    /// The SIP leg's RTP.
    pub rtp: Arc<RtpLeg>,
    /// Unix time.
    pub clock: Arc<dyn Clock>,
    /// For the CDR.
    pub marks: Arc<Marks>,
    /// Keys for a PBX without telephone-event.
    pub keys: ToneKeys,
}

/// Reads the keys out of a stream of telephone events.
pub struct ToneKeys {
    reader: Mutex<DtmfReader>,
    keys: mpsc::Sender<char>,
}

impl ToneKeys {
    /// Gives each key to `keys`, once.
    pub fn new(keys: mpsc::Sender<char>) -> Self {
        Self { reader: Mutex::default(), keys }
    }

    fn read(&self, packet: &Packet<'_>) {
        let key = self.reader.lock().unwrap_or_else(PoisonError::into_inner).read(packet);
        // A full queue means nobody can follow such dialling anyway.
        let _ = key.map(|key| self.keys.try_send(key));
    }
}

impl RtpSink for ToSip {
    fn rtp(&self, packet: RtpPacket<'_>) {
        let now = self.clock.now();
        let out = Packet {
            marker: packet.marker,
            payload_type: 0,
            sequence: packet.sequence,
            timestamp: packet.timestamp,
            ssrc: packet.ssrc,
            payload: packet.payload,
        };
        let at = Instant::now().into_std();
        match (codec_of(packet.encoding), self.rtp.codec()) {
            (None, Some(_)) if !self.rtp.speaks_dtmf() => self.keys.read(&out),
            (None, _) => self.rtp.send(now, at, Received::Event, out),
            (Some(from), Some(to)) if from != to => {
                self.marks.recoded.store(true, Ordering::Relaxed);
                let payload = recode(from, packet.payload);
                self.rtp.send(now, at, Received::Audio, Packet { payload: &payload, ..out });
            }
            _ => self.rtp.send(now, at, Received::Audio, out),
        }
    }
}

/// From the PBX to the network, until `stop`. Digits go to `digits` where the network leg has no
/// telephone-event, else through the stream; never both. [BRIDGE-RTP-03]
pub async fn to_rtc(
    rtp: Arc<RtpLeg>,
    rtc: Arc<RtcCall>,
    clock: Arc<dyn Clock>,
    marks: Arc<Marks>,
    digits: mpsc::Sender<char>,
    stop: CancellationToken,
) {
    let mut reader = DtmfReader::default();
    let relay = async {
        loop {
            rtp.receive(&*clock, |kind, packet| {
                let Some(negotiated) = rtc.negotiated() else { return };
                if kind == Received::Event && !negotiated.telephone_event {
                    // A full queue means nobody can follow such dialling anyway.
                    let _ = reader.read(packet).map(|digit| digits.try_send(digit));
                    return;
                }
                let codec = rtp.codec();
                let encoding = match kind {
                    Received::Event => Encoding::TelephoneEvent,
                    Received::Audio => negotiated.audio,
                };
                let recoded = match (kind, codec) {
                    (Received::Audio, Some(codec)) if encoding_of(codec) != negotiated.audio => {
                        marks.recoded.store(true, Ordering::Relaxed);
                        Some(recode(codec, packet.payload))
                    }
                    _ => None,
                };
                rtc.rtp(RtpPacket {
                    encoding,
                    ssrc: packet.ssrc,
                    sequence: packet.sequence,
                    timestamp: packet.timestamp,
                    marker: packet.marker,
                    payload: recoded.as_deref().unwrap_or(packet.payload),
                });
            })
            .await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = relay => {}
    }
}
