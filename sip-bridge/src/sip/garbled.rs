//! A request that the parser refuses: 400, where the lines that a response must copy can be read
//! (RFC 3261 section 21.4.1). [BRIDGE-SIP-16]

use bytes::Bytes;

use super::message::PRODUCT;

/// Longest datagram, and most `Via` lines, that are looked at.
const LONGEST: usize = 16 * 1024;
const MOST_VIAS: usize = 16;

/// Long and short name of each header that a response copies, `Via` first.
const COPIED: [(&str, &str); 5] =
    [("via", "v"), ("from", "f"), ("to", "t"), ("call-id", "i"), ("cseq", "cseq")];

/// The 400 for a datagram that is not a SIP message, if it is a request at all and not an ACK. Total.
pub fn refuse_undecodable(datagram: &[u8]) -> Option<Bytes> {
    if datagram.len() > LONGEST {
        return None;
    }
    let head = String::from_utf8_lossy(datagram);
    let mut lines = head.split('\n').map(|line| line.trim_end_matches('\r'));
    let first = lines.next()?;
    let method = first.split(' ').next()?;
    let is_request = first.contains(" SIP/2.") && !method.starts_with("SIP/") && !method.is_empty();
    if !is_request || method == "ACK" {
        return None;
    }
    let mut found: [Vec<&str>; 5] = Default::default();
    for line in lines.take_while(|line| !line.is_empty()) {
        let Some((name, _)) = line.split_once(':') else { continue };
        let name = name.trim().to_ascii_lowercase();
        if let Some(index) = COPIED.iter().position(|(long, short)| name == *long || name == *short) {
            found[index].push(line);
        }
    }
    let [vias, rest @ ..] = &found;
    // One of each, or nobody could match the answer; a control character could hide another line.
    let whole = !vias.is_empty() && vias.len() <= MOST_VIAS && rest.iter().all(|lines| lines.len() == 1);
    let plain = found.iter().flatten().all(|line| !line.chars().any(char::is_control));
    if !whole || !plain || rest[3][0].trim_end().ends_with("ACK") {
        return None;
    }
    let copied: Vec<&str> = found.iter().flatten().copied().collect();
    Some(Bytes::from(format!(
        "SIP/2.0 400 Bad Request\r\n{}\r\nServer: {PRODUCT}\r\nContent-Length: 0\r\n\r\n",
        copied.join("\r\n")
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GARBLED: &str = "OPTIONS sip:a b@c SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:5070;branch=z9hG4bK1\r\nf: <sip:p@x>;tag=1\r\n\
        To: <sip:q@x>\r\nCall-ID: 7\r\nCSeq: 1 OPTIONS\r\nno colon here\r\nContent-Length: many\r\n\r\n";

    #[test]
    fn a_garbled_request_is_answered_with_the_lines_that_it_has() {
        let text = String::from_utf8(refuse_undecodable(GARBLED.as_bytes()).unwrap().to_vec()).unwrap();
        assert!(
            text.starts_with(
                "SIP/2.0 400 Bad Request\r\nVia: SIP/2.0/UDP 127.0.0.1:5070;branch=z9hG4bK1\r\n"
            ),
            "{text}"
        );
        assert!(
            text.contains("\r\nf: <sip:p@x>;tag=1\r\n") && text.contains("\r\nCSeq: 1 OPTIONS\r\n"),
            "{text}"
        );
        assert!(!text.contains("no colon"), "{text}");
        assert!(sipx_sip::parse_datagram(Bytes::from(text), &sipx_sip::Limits::datagram()).is_ok());
    }

    #[test]
    fn what_cannot_be_matched_or_must_not_be_answered_is_not() {
        for (from, to) in [
            ("OPTIONS sip", "SIP/2.0 200"),
            ("OPTIONS sip", "ACK sip"),
            ("1 OPTIONS", "1 ACK"),
            ("Via:", "Vya:"),
            ("Call-ID: 7", "Call-ID: 7\r\nCall-ID: 8"),
            ("To: <sip:q@x>", "To: <sip:q\u{0}@x>"),
            (" SIP/2.0\r\nVia", " HTTP/1.1\r\nVia"),
        ] {
            assert!(GARBLED.contains(from));
            assert_eq!(refuse_undecodable(GARBLED.replacen(from, to, 1).as_bytes()), None, "{to:?}");
        }
        assert_eq!(refuse_undecodable(&vec![b'a'; LONGEST + 1]), None);
    }

    proptest! {
        #[test]
        fn never_panics_on_noise(cut in 0..GARBLED.len(), byte: u8, at in 0..GARBLED.len()) {
            let mut bytes = GARBLED.as_bytes()[..cut].to_vec();
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
            let _ = refuse_undecodable(&bytes);
        }
    }
}
