//! Decides what the WebRTC library may see of a peer's SDP, and which encodings it offers.

use super::Encoding;

/// Longest SDP that is looked at, in bytes; a call's is 1 to 4 KiB.
pub(super) const LONGEST: usize = 32 * 1024;

/// Rewrites `PCMA/8000/1` to `PCMA/8000`: the library compares the text and would refuse the audio.
pub(super) fn plain(sdp: &str) -> String {
    let mut out = String::with_capacity(sdp.len() + 2);
    for line in sdp.lines() {
        let line = line.trim_end_matches('\r');
        let kept = match line.strip_suffix("/1") {
            Some(start) if line.starts_with("a=rtpmap:") && start.ends_with("/8000") => start,
            _ => line,
        };
        out.push_str(kept);
        out.push_str("\r\n");
    }
    out
}

/// The encodings of the first audio section, in its order; empty when it is refused or missing.
pub(super) fn encodings(sdp: &str) -> Vec<Encoding> {
    let mut lines = sdp.lines().skip_while(|line| !line.starts_with("m=audio "));
    let Some(media) = lines.next() else { return Vec::new() };
    let mut words = media.split_ascii_whitespace().skip(1);
    if words.next() == Some("0") {
        return Vec::new();
    }
    let attributes: Vec<&str> = lines.take_while(|line| !line.starts_with("m=")).collect();
    let mapping = |format: &str| {
        attributes.iter().find_map(|line| {
            let (number, encoding) = line.strip_prefix("a=rtpmap:")?.trim_end().split_once(' ')?;
            (number == format).then(|| encoding.to_ascii_lowercase())
        })
    };
    let mut found = Vec::new();
    for format in words.skip(1) {
        let encoding = match mapping(format).as_deref() {
            Some("pcma/8000" | "pcma/8000/1") => Encoding::Pcma,
            Some("pcmu/8000" | "pcmu/8000/1") => Encoding::Pcmu,
            Some("telephone-event/8000" | "telephone-event/8000/1") => Encoding::TelephoneEvent,
            // Static payload types need no rtpmap line (RFC 3551 section 6).
            None if format == "8" => Encoding::Pcma,
            None if format == "0" => Encoding::Pcmu,
            _ => continue,
        };
        if !found.contains(&encoding) {
            found.push(encoding);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_channel_count_of_one_is_left_out() {
        let sdp = "a=rtpmap:8 PCMA/8000/1\na=rtpmap:111 opus/48000/2\r\na=fmtp:8 a/8000/1\r\n";
        assert_eq!(plain(sdp), "a=rtpmap:8 PCMA/8000\r\na=rtpmap:111 opus/48000/2\r\na=fmtp:8 a/8000/1\r\n");
    }

    #[test]
    fn encodings_are_listed_in_the_order_of_the_offer() {
        let sdp = "v=0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111 0 8 110 126\r\na=rtpmap:111 opus/48000/2\r\n\
            a=rtpmap:8 PCMA/8000\r\na=rtpmap:110 telephone-event/48000\r\na=rtpmap:126 telephone-event/8000\r\n\
            m=video 9 UDP/TLS/RTP/SAVPF 96\r\na=rtpmap:96 VP8/90000\r\n";
        assert_eq!(encodings(sdp), [Encoding::Pcmu, Encoding::Pcma, Encoding::TelephoneEvent]);
    }

    #[test]
    fn refused_or_missing_audio_offers_nothing() {
        for sdp in ["", "m=audio 0 RTP/AVP 8\r\n", "m=video 9 RTP/AVP 96\r\n", "m=audio ", "m=audio 9"] {
            assert_eq!(encodings(sdp), [], "{sdp:?}");
        }
    }
}
