//! What is remembered of a call while it lasts, and its CDR at the end.

use std::time::Duration;

use ahoy_proto::time::{Clock, Timestamp};
use ahoy_proto::v1::HangupReason;

use super::relay::Marks;
use crate::cdr::{Leg, Record, Way};
use crate::rtc::{RtcCall, RtcLeg};
use crate::rtp::{RtpLeg, Traffic};
use crate::sip::End;

/// A record in the making.
pub struct Report {
    record: Record,
}

impl Report {
    /// A call that the bridge has just seen.
    pub fn new(now: Timestamp, way: Way, trunk: &str, from: String, to: String) -> Self {
        let record = Record {
            call: String::new(),
            way,
            trunk: trunk.to_owned(),
            from,
            to,
            start_ms: now.as_millis(),
            ringing_ms: None,
            answered_ms: None,
            end_ms: 0,
            reason: String::new(),
            sip_end: None,
            sip_status: None,
            q850: None,
            codec: None,
            recoded: false,
            sip: Leg::default(),
            rtc: Leg::default(),
            ice_pair: None,
        };
        Self { record }
    }

    /// Its id in the network.
    pub fn named(&mut self, call: &[u8]) {
        self.record.call = call.iter().map(|byte| format!("{byte:02x}")).collect();
    }

    /// It rings.
    pub fn ringing(&mut self, clock: &dyn Clock) {
        self.record.ringing_ms.get_or_insert(clock.now().as_millis());
    }

    /// It was answered.
    pub fn answered(&mut self, clock: &dyn Clock) {
        self.record.answered_ms.get_or_insert(clock.now().as_millis());
    }

    /// Whether it was answered.
    pub fn is_answered(&self) -> bool {
        self.record.answered_ms.is_some()
    }

    /// How the SIP leg ended.
    pub fn sip_ended(&mut self, end: &End) {
        self.record.sip_end = Some(end.cause);
        self.record.sip_status = end.status;
        self.record.q850 = end.q850;
    }

    /// What went through both legs.
    pub fn media(&mut self, rtp: &RtpLeg, rtc: &RtcCall, marks: &Marks) {
        let (received, sent) = rtp.traffic();
        self.record.sip = Leg { received, sent };
        self.record.codec = rtp.codec().map(|codec| codec.name());
        self.record.recoded = marks.recoded();
        let stats = rtc.stats();
        let theirs = stats.selected_pair.map(|(_, theirs)| theirs);
        // The WebRTC leg counts from its creation, which is the first thing that a call does.
        let start = self.record.start_ms;
        let leg = |packets, bytes, first: Option<Duration>, advertised| Traffic {
            packets,
            bytes,
            first_ms: first.map(|after| start + u64::try_from(after.as_millis()).unwrap_or(0)),
            advertised,
            // The pair carries both directions; where nothing flowed there is no actual address.
            actual: theirs.filter(|_| packets > 0),
        };
        self.record.rtc = Leg {
            received: leg(stats.packets_in, stats.bytes_in, stats.first_in, stats.advertised.0),
            sent: leg(stats.packets_out, stats.bytes_out, stats.first_out, stats.advertised.1),
        };
        self.record.ice_pair = stats.selected_pair;
    }

    /// The finished record.
    pub fn finish(mut self, now: Timestamp, reason: HangupReason) -> Record {
        self.record.end_ms = now.as_millis();
        self.record.reason = reason.as_str_name().trim_start_matches("HANGUP_REASON_").to_ascii_lowercase();
        self.record
    }
}
