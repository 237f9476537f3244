//! Decides what the WebRTC library may see of a peer's SDP, and which encodings it offers.

use std::net::{IpAddr, SocketAddr};

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

/// Where the peer says that its audio goes first: its server-reflexive candidate, else its first
/// host candidate, else the address of its `m=` and `c=` lines. Names are not looked up.
pub(super) fn advertised(sdp: &str) -> Option<SocketAddr> {
    let candidate = |line: &str| {
        let words: Vec<&str> = line.strip_prefix("a=candidate:")?.split_ascii_whitespace().collect();
        let [_, "1", protocol, _, ip, port, "typ", kind, ..] = words[..] else { return None };
        let usable = protocol.eq_ignore_ascii_case("udp") && matches!(kind, "host" | "srflx");
        let address = SocketAddr::new(ip.parse().ok()?, port.parse().ok()?);
        usable.then_some((kind == "srflx", address))
    };
    let first_of = |reflexive| {
        sdp.lines().filter_map(candidate).find(|(kind, _)| *kind == reflexive).map(|(_, address)| address)
    };
    let written = || {
        let port =
            sdp.lines().find_map(|line| line.strip_prefix("m=audio "))?.split(' ').next()?.parse().ok()?;
        let ip: IpAddr =
            sdp.lines().find_map(|line| line.strip_prefix("c=IN IP4 "))?.trim_end().parse().ok()?;
        (!ip.is_unspecified() && port > 9).then_some(SocketAddr::new(ip, port))
    };
    first_of(true).or_else(|| first_of(false)).or_else(written)
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
    fn the_public_address_is_what_a_peer_advertises_first() {
        let host = "a=candidate:1 1 udp 2130706431 10.0.0.7 4000 typ host\r\n";
        let public = "a=candidate:2 1 UDP 1694498815 192.0.2.7 4001 typ srflx raddr 10.0.0.7 rport 4000\r\n";
        let hidden = "a=candidate:3 1 udp 1 abc.local 4002 typ host\r\n";
        let rtcp = "a=candidate:1 2 udp 1 10.0.0.9 4003 typ host\r\n";
        let lines = "m=audio 5000 RTP/AVP 8\r\nc=IN IP4 192.0.2.1\r\n";
        for (sdp, expected) in [
            (format!("{rtcp}{hidden}{host}{public}"), Some("192.0.2.7:4001")),
            (format!("{hidden}{host}"), Some("10.0.0.7:4000")),
            (lines.to_owned(), Some("192.0.2.1:5000")),
            (lines.replace("192.0.2.1", "0.0.0.0"), None),
            ("a=candidate:".to_owned(), None),
        ] {
            assert_eq!(advertised(&sdp), expected.map(|text| text.parse().unwrap()), "{sdp}");
        }
    }

    #[test]
    fn refused_or_missing_audio_offers_nothing() {
        for sdp in ["", "m=audio 0 RTP/AVP 8\r\n", "m=video 9 RTP/AVP 96\r\n", "m=audio ", "m=audio 9"] {
            assert_eq!(encodings(sdp), [], "{sdp:?}");
        }
    }
}
