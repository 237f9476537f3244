//! Decides which of an offer's audio formats the desk phone takes, and writes its own descriptions.

use std::net::{IpAddr, SocketAddr};

/// What the phone needs to know of the other side's session description.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteAudio {
    /// Where RTP goes.
    pub address: SocketAddr,
    /// 8 (PCMA) or 0 (PCMU): the first of the description's formats that the phone speaks.
    pub payload_type: u8,
    /// Payload type of telephone-event at 8 kHz, where offered.
    pub telephone_event: Option<u8>,
}

/// Reads the first usable `m=audio` of a session description; `None` when there is none (answer 488).
pub fn parse(text: &str) -> Option<RemoteAudio> {
    let mut session_ip: Option<IpAddr> = None;
    let mut media: Option<(u16, Vec<u8>)> = None;
    let (mut media_ip, mut telephone_event) = (None, None);
    for line in text.lines().map(str::trim_end) {
        if let Some(rest) = line.strip_prefix("m=") {
            if media.is_some() {
                break;
            }
            let mut words = rest.split(' ');
            if words.next() == Some("audio") {
                let port = words.next()?.parse().ok()?;
                media = Some((port, words.skip(1).filter_map(|f| f.parse().ok()).collect()));
            }
        } else if let Some(rest) = line.strip_prefix("c=IN IP4 ") {
            let ip = rest.parse().ok();
            if media.is_some() { media_ip = ip } else { session_ip = ip }
        } else if let Some((number, "telephone-event/8000")) =
            line.strip_prefix("a=rtpmap:").and_then(|rest| rest.split_once(' '))
        {
            telephone_event = number.parse().ok();
        }
    }
    let (port, formats) = media?;
    let payload_type = formats.into_iter().find(|f| matches!(f, 0 | 8))?;
    let ip = media_ip.or(session_ip)?;
    Some(RemoteAudio { address: SocketAddr::new(ip, port), payload_type, telephone_event })
}

/// An offer of PCMA, PCMU and telephone-event at `local`.
pub fn offer(local: SocketAddr) -> String {
    describe(local, &[8, 0], Some(101))
}

/// The answer to `remote` at `local`.
pub fn answer(local: SocketAddr, remote: &RemoteAudio) -> String {
    describe(local, &[remote.payload_type], remote.telephone_event)
}

fn describe(local: SocketAddr, formats: &[u8], telephone_event: Option<u8>) -> String {
    let all: Vec<String> = formats.iter().copied().chain(telephone_event).map(|f| f.to_string()).collect();
    let (ip, port) = (local.ip(), local.port());
    let mut text = format!(
        "v=0\r\no=phone 1 1 IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\nm=audio {port} RTP/AVP {}\r\n",
        all.join(" ")
    );
    for format in formats {
        let name = if *format == 8 { "PCMA" } else { "PCMU" };
        text.push_str(&format!("a=rtpmap:{format} {name}/8000\r\n"));
    }
    if let Some(event) = telephone_event {
        text.push_str(&format!("a=rtpmap:{event} telephone-event/8000\r\na=fmtp:{event} 0-15\r\n"));
    }
    text.push_str("a=ptime:20\r\na=sendrecv\r\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_names_the_first_format_both_speak() {
        let offer = "v=0\r\nc=IN IP4 127.0.0.9\r\nm=audio 4000 RTP/AVP 9 0 8 96\r\na=rtpmap:96 telephone-event/8000\r\n";
        let remote = parse(offer).expect("audio");
        assert_eq!(remote.payload_type, 0);
        assert_eq!(remote.telephone_event, Some(96));
        assert_eq!(parse(&answer(remote.address, &remote)), Some(remote));
    }

    #[test]
    fn a_description_without_g711_is_refused() {
        assert_eq!(parse("v=0\r\nc=IN IP4 127.0.0.9\r\nm=audio 4000 RTP/AVP 9\r\n"), None);
        assert_eq!(parse("v=0\r\nc=IN IP4 127.0.0.9\r\nm=image 4000 udptl t38\r\n"), None);
    }
}
