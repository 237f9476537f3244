//! Decides what of an SDP the media session understands: G.711 and one telephone-event line, nothing else.
//!
//! webrtc's codec search ignores the clock rate, so an offer with several telephone-event lines would be
//! answered with the wrong one, and it writes `PCMA/8000/1`, which stricter stacks refuse. Both are put right
//! here, on the text, before and after the library sees it.

use super::MediaError;

/// The two codecs of RFC 3551 that every WebRTC endpoint speaks (RFC 7874 section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// G.711 A-law.
    Pcma,
    /// G.711 mu-law.
    Pcmu,
}

/// What an answer settled, as payload types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Payloads {
    pub(super) send: (Codec, u8),
    pub(super) pcma: Option<u8>,
    pub(super) pcmu: Option<u8>,
    pub(super) dtmf: Option<u8>,
}

impl Payloads {
    /// The codec that a received payload type stands for.
    pub(super) fn codec(&self, payload_type: u8) -> Option<Codec> {
        match Some(payload_type) {
            pt if pt == self.pcma => Some(Codec::Pcma),
            pt if pt == self.pcmu => Some(Codec::Pcmu),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Audio(Codec),
    Dtmf,
}

/// The first `m=audio` section of an SDP, as lines without their line ends.
struct AudioSection<'a> {
    lines: Vec<&'a str>,
    first: usize,
    last: usize,
}

impl<'a> AudioSection<'a> {
    fn find(sdp: &'a str) -> Option<Self> {
        let lines: Vec<&str> = sdp.lines().map(|line| line.trim_end_matches('\r')).collect();
        let first = lines.iter().position(|line| line.starts_with("m=audio "))?;
        let last = lines[first + 1..]
            .iter()
            .position(|line| line.starts_with("m="))
            .map_or(lines.len(), |next| first + 1 + next);
        Some(Self { lines, first, last })
    }

    fn attributes(&self) -> &[&'a str] {
        &self.lines[self.first + 1..self.last]
    }

    /// Port 0 means that the section was refused (RFC 3264 section 6).
    fn refused(&self) -> bool {
        self.lines[self.first].split(' ').nth(1) == Some("0")
    }

    fn formats(&self) -> impl Iterator<Item = &'a str> + '_ {
        self.lines[self.first].split(' ').skip(3)
    }

    fn kind(&self, format: &str) -> Option<Kind> {
        let mapped = self.attributes().iter().find_map(|line| {
            let (pt, encoding) = line.strip_prefix("a=rtpmap:")?.split_once(' ')?;
            (pt == format).then_some(encoding)
        });
        match mapped.map(str::to_ascii_lowercase).as_deref() {
            Some("pcma/8000" | "pcma/8000/1") => Some(Kind::Audio(Codec::Pcma)),
            Some("pcmu/8000" | "pcmu/8000/1") => Some(Kind::Audio(Codec::Pcmu)),
            Some("telephone-event/8000" | "telephone-event/8000/1") => Some(Kind::Dtmf),
            // Static payload types need no rtpmap line (RFC 3551 section 6).
            None if format == "8" => Some(Kind::Audio(Codec::Pcma)),
            None if format == "0" => Some(Kind::Audio(Codec::Pcmu)),
            _ => None,
        }
    }
}

/// Drops from an offer every audio format except G.711 and the first `telephone-event/8000` [CALL-MEDIA-08].
pub(super) fn narrow(offer: &str) -> Result<String, MediaError> {
    let section = AudioSection::find(offer).ok_or(MediaError::NoMedia)?;
    if section.refused() {
        return Err(MediaError::NoMedia);
    }
    let mut kept: Vec<&str> = Vec::new();
    let mut seen: Vec<Kind> = Vec::new();
    for format in section.formats() {
        if let Some(kind) = section.kind(format).filter(|kind| !seen.contains(kind)) {
            seen.push(kind);
            kept.push(format);
        }
    }
    if !seen.iter().any(|kind| matches!(kind, Kind::Audio(_))) {
        return Err(MediaError::NoCommonCodec);
    }
    let media: Vec<&str> = section.lines[section.first].split(' ').take(3).collect();
    let media = format!("{} {}", media.join(" "), kept.join(" "));
    let mut out = String::with_capacity(offer.len());
    for (index, line) in section.lines.iter().enumerate() {
        let inside = index > section.first && index < section.last;
        if inside && names_other_format(line, &kept) {
            continue;
        }
        out.push_str(if index == section.first { &media } else { line });
        out.push_str("\r\n");
    }
    Ok(plain(&out))
}

fn names_other_format(line: &str, kept: &[&str]) -> bool {
    ["a=rtpmap:", "a=fmtp:", "a=rtcp-fb:"].iter().any(|prefix| {
        line.strip_prefix(prefix).is_some_and(|rest| {
            let format = rest.split(' ').next().unwrap_or_default();
            format != "*" && !kept.contains(&format)
        })
    })
}

/// Writes `PCMA/8000` for `PCMA/8000/1` [CALL-MEDIA-07]: one channel is the default and some stacks compare the text.
pub(super) fn plain(sdp: &str) -> String {
    let mut out = String::with_capacity(sdp.len());
    for line in sdp.lines() {
        let line = line.trim_end_matches('\r');
        let line = match line.strip_suffix("/8000/1") {
            Some(start) if line.starts_with("a=rtpmap:") => {
                out.push_str(start);
                "/8000"
            }
            _ => line,
        };
        out.push_str(line);
        out.push_str("\r\n");
    }
    out
}

/// Reads what an answer settled.
///
/// # Errors
/// [`MediaError::NoMedia`] for an answer that refuses the audio, which would connect in silence [CALL-MEDIA-02].
pub(super) fn settled(answer: &str) -> Result<Payloads, MediaError> {
    let section = AudioSection::find(answer).ok_or(MediaError::NoMedia)?;
    if section.refused() {
        return Err(MediaError::NoMedia);
    }
    let find = |wanted: Kind| {
        section
            .formats()
            .find(|format| section.kind(format) == Some(wanted))
            .and_then(|format| format.parse::<u8>().ok())
    };
    let send = section
        .formats()
        .find_map(|format| match section.kind(format) {
            Some(Kind::Audio(codec)) => Some((codec, format.parse::<u8>().ok()?)),
            _ => None,
        })
        .ok_or(MediaError::NoCommonCodec)?;
    Ok(Payloads {
        send,
        pcma: find(Kind::Audio(Codec::Pcma)),
        pcmu: find(Kind::Audio(Codec::Pcmu)),
        dtmf: find(Kind::Dtmf),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BROWSER: &str = "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n\
        m=audio 9 UDP/TLS/RTP/SAVPF 111 0 8 110 126\r\na=rtpmap:111 opus/48000/2\r\na=rtcp-fb:111 transport-cc\r\n\
        a=fmtp:111 minptime=10\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000/1\r\n\
        a=rtpmap:110 telephone-event/48000\r\na=rtpmap:126 telephone-event/8000\r\na=sendrecv\r\n";

    #[test]
    fn an_offer_keeps_g711_and_the_eight_kilohertz_events_only() {
        let narrowed = narrow(BROWSER).expect("offers G.711");
        assert!(narrowed.contains("m=audio 9 UDP/TLS/RTP/SAVPF 0 8 126\r\n"), "{narrowed}");
        for gone in ["opus", "transport-cc", "minptime", "48000", "8000/1"] {
            assert!(!narrowed.contains(gone), "{gone} in {narrowed}");
        }
        assert!(narrowed.ends_with("a=sendrecv\r\n"));
    }

    #[test]
    fn an_answer_without_media_is_an_error() {
        let refused = BROWSER.replace("m=audio 9", "m=audio 0");
        assert!(matches!(settled(&refused), Err(MediaError::NoMedia)));
        assert!(matches!(settled("v=0\r\n"), Err(MediaError::NoMedia)));
    }

    #[test]
    fn an_answer_names_the_codec_to_send_and_the_event_type() {
        let payloads = settled(BROWSER).expect("answers G.711");
        assert_eq!(payloads.send, (Codec::Pcmu, 0));
        assert_eq!((payloads.pcma, payloads.dtmf), (Some(8), Some(126)));
        assert_eq!(payloads.codec(8), Some(Codec::Pcma));
    }

    #[test]
    fn an_offer_of_opus_alone_has_no_common_codec() {
        let opus = "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=rtpmap:111 opus/48000/2\r\n";
        assert!(matches!(narrow(opus), Err(MediaError::NoCommonCodec)));
    }

    #[test]
    fn garbage_is_an_error_and_never_a_panic() {
        for text in
            ["", "m=audio", "m=audio ", "m=audio 9", "m=audio 9 X 300\r\na=rtpmap:300 PCMA/8000", "\r\n\u{0}"]
        {
            let _ = narrow(text);
            let _ = settled(text);
            let _ = plain(text);
        }
    }
}
