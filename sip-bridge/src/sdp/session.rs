//! Offer and answer (RFC 3264) of the SIP leg: one audio stream of G.711 with
//! telephone-event. The answer names one codec, so that nothing changes in mid-stream.

use std::fmt::Write as _;
use std::net::SocketAddr;

use super::{Codec, Description, Section};

/// The payload type that we offer telephone-event with.
const DTMF_PAYLOAD_TYPE: u8 = 101;

/// Who sends and who receives, as seen by the side that it is said about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Direction {
    /// It sends RTP.
    pub sends: bool,
    /// It wants RTP.
    pub receives: bool,
}

impl Direction {
    /// Media both ways.
    pub const BOTH: Self = Self { sends: true, receives: true };

    /// The same seen from the other end.
    #[must_use]
    pub fn reversed(self) -> Self {
        Self { sends: self.receives, receives: self.sends }
    }

    fn attribute(self) -> &'static str {
        match (self.sends, self.receives) {
            (true, true) => "sendrecv",
            (true, false) => "sendonly",
            (false, true) => "recvonly",
            (false, false) => "inactive",
        }
    }
}

/// What both sides agreed on: what the relay needs to send and to understand RTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaPlan {
    /// Where the far side said that it receives RTP; `None` while it holds with 0.0.0.0.
    pub remote_rtp: Option<SocketAddr>,
    /// Where it receives RTCP.
    pub remote_rtcp: Option<SocketAddr>,
    /// The codec, with the payload type that we send and the one that we are sent.
    pub codec: Codec,
    /// Payload types of the codec: ours to send, theirs to us.
    pub audio: Profile,
    /// Payload types of telephone-event, where both sides speak it (RFC 4733).
    pub dtmf: Option<Profile>,
    /// What we may do: send, and expect to receive.
    pub direction: Direction,
}

/// Payload types of one format, per direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Profile {
    /// The number that we write into packets to the far side.
    pub send: u8,
    /// The number that packets from the far side carry.
    pub receive: u8,
}

/// There is no audio stream that both sides speak: SIP 488. [BRIDGE-SDP-02]
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no audio section offers PCMA or PCMU over RTP/AVP")]
pub struct NoMedia;

/// Our end of the stream, and the state of the negotiation.
#[derive(Debug, Clone)]
pub struct LocalMedia {
    address: SocketAddr,
    codecs: Vec<Codec>,
    session: u64,
    version: u64,
    last_body: String,
}

struct Chosen<'a> {
    index: usize,
    section: &'a Section,
    codec: Codec,
    payload_type: u8,
    dtmf: Option<u8>,
}

impl LocalMedia {
    /// Advertises `address` (RTP; RTCP is one above) and `codecs`, the preferred first.
    /// `session` is the random `o=` id.
    pub fn new(address: SocketAddr, codecs: Vec<Codec>, session: u64) -> Self {
        Self { address, codecs, session: session >> 2, version: 0, last_body: String::new() }
    }

    /// The address that we advertise.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Our offer, both ways.
    pub fn offer(&mut self) -> String {
        let mut formats: Vec<(u8, String)> = self
            .codecs
            .iter()
            .map(|codec| (codec.static_payload_type(), format!("{}/8000", codec.name())))
            .collect();
        formats.push((DTMF_PAYLOAD_TYPE, "telephone-event/8000".to_owned()));
        let section = self.audio_section("RTP/AVP", &formats, Direction::BOTH);
        self.describe(section)
    }

    /// Our answer to `offer`, and what it means. A section other than the chosen audio one is
    /// refused with port 0, in its place. [BRIDGE-SDP-03]
    pub fn answer(&mut self, offer: &Description) -> Result<(String, MediaPlan), NoMedia> {
        let chosen = self.choose(offer).ok_or(NoMedia)?;
        let direction = chosen.section.direction().reversed();
        let mut formats = vec![(chosen.payload_type, format!("{}/8000", chosen.codec.name()))];
        if let Some(dtmf) = chosen.dtmf {
            formats.push((dtmf, "telephone-event/8000".to_owned()));
        }
        let mut sections = String::new();
        for (index, section) in offer.media.iter().enumerate() {
            if index == chosen.index {
                sections += &self.audio_section(&section.protocol, &formats, direction);
            } else {
                let formats =
                    if section.formats.is_empty() { "0".to_owned() } else { section.formats.join(" ") };
                let _ = write!(sections, "m={} 0 {} {formats}\r\n", section.kind, section.protocol);
            }
        }
        let plan = plan(&chosen, chosen.payload_type, chosen.dtmf, direction);
        Ok((self.describe(sections), plan))
    }

    /// What the far side's answer to our offer means.
    pub fn accept(&self, answer: &Description) -> Result<MediaPlan, NoMedia> {
        let chosen = self.choose(answer).ok_or(NoMedia)?;
        let direction = chosen.section.direction().reversed();
        let ours = chosen.codec.static_payload_type();
        let dtmf = chosen.dtmf.map(|_| DTMF_PAYLOAD_TYPE);
        Ok(plan(&chosen, ours, dtmf, direction))
    }

    /// The first audio section with a common codec; our order of codecs decides.
    fn choose<'a>(&self, description: &'a Description) -> Option<Chosen<'a>> {
        for (index, section) in description.media.iter().enumerate() {
            let speaks_rtp = matches!(section.protocol.as_str(), "RTP/AVP" | "RTP/AVPF");
            if section.kind != "audio" || section.port == 0 || !speaks_rtp {
                continue;
            }
            let types: Vec<u8> = section
                .formats
                .iter()
                .filter_map(|format| format.parse().ok())
                .filter(|number| *number < 128)
                .collect();
            let of = |wanted: &str| {
                types.iter().copied().find(|number| {
                    section
                        .encoding(*number)
                        .is_some_and(|(name, rate)| rate == 8000 && name.eq_ignore_ascii_case(wanted))
                })
            };
            for codec in &self.codecs {
                if let Some(payload_type) = of(codec.name()) {
                    let dtmf = of("telephone-event");
                    return Some(Chosen { index, section, codec: *codec, payload_type, dtmf });
                }
            }
        }
        None
    }

    fn audio_section(&self, protocol: &str, formats: &[(u8, String)], direction: Direction) -> String {
        let mut text = format!("m=audio {} {protocol}", self.address.port());
        for (number, _) in formats {
            let _ = write!(text, " {number}");
        }
        text += "\r\n";
        for (number, encoding) in formats {
            let _ = write!(text, "a=rtpmap:{number} {encoding}\r\n");
            if encoding.starts_with("telephone-event") {
                let _ = write!(text, "a=fmtp:{number} 0-15\r\n");
            }
        }
        let _ = write!(text, "a=ptime:20\r\na={}\r\n", direction.attribute());
        text
    }

    /// Puts the session lines in front; the version rises only when something changed
    /// (RFC 3264 section 8).
    fn describe(&mut self, sections: String) -> String {
        if sections != self.last_body {
            self.version += 1;
            self.last_body = sections;
        }
        let family = if self.address.is_ipv4() { "IP4" } else { "IP6" };
        let ip = self.address.ip();
        format!(
            "v=0\r\no=ahoy {} {} IN {family} {ip}\r\ns=-\r\nc=IN {family} {ip}\r\nt=0 0\r\n{}",
            self.session, self.version, self.last_body
        )
    }
}

fn plan(chosen: &Chosen<'_>, receive: u8, dtmf_receive: Option<u8>, direction: Direction) -> MediaPlan {
    MediaPlan {
        remote_rtp: chosen.section.rtp_address(),
        remote_rtcp: chosen.section.rtcp_address(),
        codec: chosen.codec,
        audio: Profile { send: chosen.payload_type, receive },
        dtmf: chosen.dtmf.zip(dtmf_receive).map(|(send, receive)| Profile { send, receive }),
        direction,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(codecs: &[Codec]) -> LocalMedia {
        LocalMedia::new("192.0.2.1:30000".parse().unwrap(), codecs.to_vec(), 77)
    }

    fn read(media: &str) -> Description {
        let text =
            format!("v=0\r\no=- 1 1 IN IP4 198.51.100.7\r\ns=-\r\nc=IN IP4 198.51.100.7\r\nt=0 0\r\n{media}");
        Description::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn answers_with_the_codec_that_we_prefer_and_their_payload_types() {
        let offer = read("m=audio 4000 RTP/AVP 0 96 8 9\r\na=rtpmap:96 telephone-event/8000\r\n");
        let (body, plan) = local(&[Codec::Pcma, Codec::Pcmu]).answer(&offer).unwrap();
        assert!(body.contains("m=audio 30000 RTP/AVP 8 96\r\n"), "{body}");
        assert_eq!(plan.codec, Codec::Pcma);
        assert_eq!(plan.dtmf, Some(Profile { send: 96, receive: 96 }));
        assert_eq!(plan.remote_rtp, Some("198.51.100.7:4000".parse().unwrap()));
        assert_eq!(plan.direction, Direction::BOTH);
    }

    #[test]
    fn keeps_our_own_payload_type_for_what_we_receive_when_the_answer_renumbers() {
        let mut local = local(&[Codec::Pcma]);
        local.offer();
        let answer = read("m=audio 4000 RTP/AVP 8 110\r\na=rtpmap:110 telephone-event/8000\r\n");
        let plan = local.accept(&answer).unwrap();
        assert_eq!(plan.dtmf, Some(Profile { send: 110, receive: 101 }));
    }

    #[test]
    fn refuses_an_image_section_beside_audio_with_port_zero_and_alone_altogether() {
        let both = read("m=image 5000 udptl t38\r\nm=audio 4000 RTP/AVP 8\r\n");
        let (body, _) = local(&Codec::ALL).answer(&both).unwrap();
        assert!(body.contains("m=image 0 udptl t38\r\nm=audio 30000 RTP/AVP 8\r\n"), "{body}");
        let alone = read("m=image 5000 udptl t38\r\n");
        assert_eq!(local(&Codec::ALL).answer(&alone), Err(NoMedia));
    }

    #[test]
    fn answers_every_kind_of_hold_with_its_mirror() {
        for (line, ours) in [
            ("a=sendonly", "a=recvonly"),
            ("a=recvonly", "a=sendonly"),
            ("a=inactive", "a=inactive"),
            ("c=IN IP4 0.0.0.0", "a=recvonly"),
        ] {
            let offer = read(&format!("m=audio 4000 RTP/AVP 8\r\n{line}\r\n"));
            let (body, plan) = local(&Codec::ALL).answer(&offer).unwrap();
            assert!(body.contains(ours), "{line}: {body}");
            assert_eq!(plan.direction.sends, ours == "a=sendonly", "{line}");
        }
    }

    #[test]
    fn raises_the_version_only_when_something_changed() {
        let mut local = local(&Codec::ALL);
        let offer = read("m=audio 4000 RTP/AVP 8\r\n");
        let (first, _) = local.answer(&offer).unwrap();
        let (again, _) = local.answer(&offer).unwrap();
        assert_eq!(first, again);
        let held = read("m=audio 4000 RTP/AVP 8\r\na=sendonly\r\n");
        let (held, _) = local.answer(&held).unwrap();
        assert!(first.contains("o=ahoy 19 1 ") && held.contains("o=ahoy 19 2 "));
    }

    #[test]
    fn refuses_encrypted_and_foreign_codecs() {
        for media in [
            "m=audio 4000 RTP/SAVP 8\r\n",
            "m=audio 4000 RTP/AVP 9\r\n",
            "m=audio 0 RTP/AVP 8\r\n",
            "m=audio 4000 RTP/AVP 97\r\na=rtpmap:97 PCMA/16000\r\n",
        ] {
            assert_eq!(local(&Codec::ALL).answer(&read(media)), Err(NoMedia), "{media}");
        }
    }

    #[test]
    fn our_offer_is_understood_by_our_own_reader() {
        let mut ours = local(&[Codec::Pcmu, Codec::Pcma]);
        let offer = Description::parse(ours.offer().as_bytes()).unwrap();
        let (_, plan) = local(&[Codec::Pcmu]).answer(&offer).unwrap();
        assert_eq!((plan.codec, plan.dtmf.is_some()), (Codec::Pcmu, true));
    }
}
