//! SDP of the SIP leg (RFC 8866): what a description from a PBX says, in the few terms the
//! bridge decides by. Reading is tolerant, since PBXs are; bounds come before allocation.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

mod session;

pub use session::{Direction, LocalMedia, MediaPlan, NoMedia, Profile};

/// Largest description read, in bytes. [BRIDGE-SDP-01]
pub const MAX_BYTES: usize = 16 * 1024;
/// Most media sections, formats per section and attributes per section read. [BRIDGE-SDP-01]
const MAX_MEDIA: usize = 16;
const MAX_FORMATS: usize = 64;
const MAX_ATTRIBUTES: usize = 128;

/// A codec that the bridge relays without transcoding (RFC 3551 section 4.5.14).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Codec {
    /// G.711 A-law, static payload type 8.
    Pcma,
    /// G.711 mu-law, static payload type 0.
    Pcmu,
}

impl Codec {
    /// Both, in the order a European PBX prefers.
    pub const ALL: [Self; 2] = [Self::Pcma, Self::Pcmu];

    /// The encoding name as `a=rtpmap` writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pcma => "PCMA",
            Self::Pcmu => "PCMU",
        }
    }

    /// The static payload type of RFC 3551.
    pub fn static_payload_type(self) -> u8 {
        match self {
            Self::Pcma => 8,
            Self::Pcmu => 0,
        }
    }

    /// The codec of an encoding name, in any case.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|codec| codec.name().eq_ignore_ascii_case(name))
    }
}

/// Why a description cannot be read. Answered 400 or 488 by who asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SdpError {
    /// Over [`MAX_BYTES`].
    #[error("the SDP has {0} bytes, at most {MAX_BYTES} are read")]
    TooLong(usize),
    /// Not a description at all: no `v=0` first, or a media line that is none.
    #[error("line {line} of the SDP is not what RFC 8866 allows there")]
    Syntax {
        /// Counted from one.
        line: usize,
    },
    /// More sections, formats or attributes than read.
    #[error("the SDP has too many {0}")]
    TooMany(&'static str),
}

/// A session description, reduced to its media sections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// The media sections, in order; an answer must have as many.
    pub media: Vec<Section>,
}

/// One `m=` section with the session-level defaults applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// `audio`, `image`, ...
    pub kind: String,
    /// The port; 0 refuses or disables the section.
    pub port: u16,
    /// `RTP/AVP`, `udptl`, ...
    pub protocol: String,
    /// The format tokens as written.
    pub formats: Vec<String>,
    /// The connection address, if it is an IP address.
    pub address: Option<IpAddr>,
    attributes: Vec<(String, String)>,
}

impl Section {
    /// The value of the first attribute of this name; flags have an empty value.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes(name).next()
    }

    fn attributes<'a, 'n>(&'a self, name: &'n str) -> impl Iterator<Item = &'a str> + use<'a, 'n> {
        self.attributes.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// `encoding name, clock rate` of a payload type: its `rtpmap`, or the static meaning.
    pub fn encoding(&self, payload_type: u8) -> Option<(String, u32)> {
        for map in self.attributes("rtpmap") {
            let Some((number, rest)) = map.split_once(' ') else {
                continue;
            };
            if number.parse() != Ok(payload_type) {
                continue;
            }
            let mut parts = rest.trim().split('/');
            let name = parts.next()?.to_owned();
            return Some((name, parts.next()?.trim().parse().ok()?));
        }
        match payload_type {
            0 => Some(("PCMU".to_owned(), 8000)),
            8 => Some(("PCMA".to_owned(), 8000)),
            _ => None,
        }
    }

    /// Where RTP goes: `None` without an address, with port 0, or on `c=0.0.0.0`.
    pub fn rtp_address(&self) -> Option<SocketAddr> {
        let address = self.address.filter(|address| !address.is_unspecified())?;
        (self.port != 0).then_some(SocketAddr::new(address, self.port))
    }

    /// Where RTCP goes: `a=rtcp` (RFC 3605), else the port above RTP.
    pub fn rtcp_address(&self) -> Option<SocketAddr> {
        let rtp = self.rtp_address()?;
        let stated = self.attribute("rtcp").and_then(|value| value.split(' ').next()?.parse().ok());
        let port = stated.or_else(|| rtp.port().checked_add(1))?;
        Some(SocketAddr::new(rtp.ip(), port))
    }

    /// The direction as the side that wrote it sees it; `c=0.0.0.0` is the hold of RFC 2543.
    pub fn direction(&self) -> Direction {
        let written = ["sendrecv", "sendonly", "recvonly", "inactive"]
            .into_iter()
            .find(|name| self.attribute(name).is_some())
            .unwrap_or("sendrecv");
        let held = self.address.is_some_and(|address| address.is_unspecified());
        Direction {
            sends: matches!(written, "sendrecv" | "sendonly"),
            receives: matches!(written, "sendrecv" | "recvonly") && !held,
        }
    }
}

impl Description {
    /// Reads a description. Never panics, allocates at most a small multiple of the input.
    pub fn parse(bytes: &[u8]) -> Result<Self, SdpError> {
        if bytes.len() > MAX_BYTES {
            return Err(SdpError::TooLong(bytes.len()));
        }
        let text = String::from_utf8_lossy(bytes);
        let mut session = Defaults::default();
        let mut media: Vec<Section> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim_end();
            let syntax = SdpError::Syntax { line: index + 1 };
            if line.is_empty() {
                continue;
            }
            let (kind, value) = line.split_once('=').ok_or(syntax.clone())?;
            match kind {
                "v" if index == 0 && value.trim() == "0" => {}
                _ if index == 0 => return Err(syntax),
                "m" if media.len() == MAX_MEDIA => return Err(SdpError::TooMany("media sections")),
                "m" => media.push(parse_media(value, &session).ok_or(syntax)?),
                "c" => match media.last_mut() {
                    Some(section) => section.address = parse_connection(value),
                    None => session.address = parse_connection(value),
                },
                "a" => {
                    let attributes = match media.last_mut() {
                        Some(section) => &mut section.attributes,
                        None => &mut session.attributes,
                    };
                    if attributes.len() == MAX_ATTRIBUTES {
                        return Err(SdpError::TooMany("attributes"));
                    }
                    let (name, value) = value.split_once(':').unwrap_or((value, ""));
                    attributes.push((name.trim().to_owned(), value.trim().to_owned()));
                }
                _ => {}
            }
        }
        if text.trim().is_empty() {
            return Err(SdpError::Syntax { line: 1 });
        }
        for section in &mut media {
            section.apply_session_direction(&session.attributes);
        }
        Ok(Self { media })
    }
}

impl Section {
    /// A direction at session level holds for sections that state none (RFC 8866 section 6.7).
    fn apply_session_direction(&mut self, session: &[(String, String)]) {
        const NAMES: [&str; 4] = ["sendrecv", "sendonly", "recvonly", "inactive"];
        if NAMES.iter().any(|name| self.attribute(name).is_some()) {
            return;
        }
        let inherited = session.iter().find(|(name, _)| NAMES.contains(&name.as_str()));
        self.attributes.extend(inherited.cloned());
    }
}

#[derive(Default)]
struct Defaults {
    address: Option<IpAddr>,
    attributes: Vec<(String, String)>,
}

fn parse_media(value: &str, session: &Defaults) -> Option<Section> {
    let mut words = value.split_whitespace();
    let kind = words.next()?.to_ascii_lowercase();
    let port = words.next()?;
    // `49170/2` counts ports; only the first matters here.
    let port = port.split('/').next()?.parse().ok()?;
    let protocol = words.next()?.to_owned();
    let formats: Vec<String> = words.take(MAX_FORMATS).map(str::to_owned).collect();
    Some(Section { kind, port, protocol, formats, address: session.address, attributes: Vec::new() })
}

fn parse_connection(value: &str) -> Option<IpAddr> {
    let mut words = value.split_whitespace();
    let (network, family, address) = (words.next()?, words.next()?, words.next()?);
    if network != "IN" || !matches!(family, "IP4" | "IP6") {
        return None;
    }
    let address: IpAddr = address.split('/').next()?.parse().ok()?;
    // `c=IN IP6 ::` holds as 0.0.0.0 does; the family no longer matters then.
    Some(if address.is_unspecified() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { address })
}

/// Fuzz entry: a description from a stranger is read, answered and forgotten.
pub fn fuzz(data: &[u8]) {
    if let Ok(description) = Description::parse(data) {
        let mut local =
            LocalMedia::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 40_000)), Codec::ALL.to_vec(), 1);
        let _ = local.answer(&description);
        let _ = local.accept(&description);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_session_level_connection_and_direction_as_defaults() {
        let text = "v=0\r\no=- 1 1 IN IP4 10.0.0.1\r\ns=-\r\nc=IN IP4 10.0.0.1\r\nt=0 0\r\n\
                    a=sendonly\r\nm=audio 4000 RTP/AVP 8 101\r\na=rtpmap:101 telephone-event/8000\r\n\
                    m=audio 5000/2 RTP/AVP 0\r\nc=IN IP4 10.0.0.2/127\r\na=inactive\r\n";
        let read = Description::parse(text.as_bytes()).unwrap();
        let [first, second] = &read.media[..] else { panic!("two sections") };
        assert_eq!(first.rtp_address(), Some("10.0.0.1:4000".parse().unwrap()));
        assert_eq!(first.rtcp_address(), Some("10.0.0.1:4001".parse().unwrap()));
        assert_eq!(first.direction(), Direction { sends: true, receives: false });
        assert_eq!(first.encoding(101), Some(("telephone-event".to_owned(), 8000)));
        assert_eq!(second.rtp_address(), Some("10.0.0.2:5000".parse().unwrap()));
        assert_eq!(second.direction(), Direction { sends: false, receives: false });
    }

    #[test]
    fn refuses_what_is_not_a_description() {
        for text in ["", "hello", "m=audio 1 RTP/AVP 0", "v=0\r\nm=audio x RTP/AVP 0", "v=1\r\n"] {
            assert!(Description::parse(text.as_bytes()).is_err(), "{text:?}");
        }
        let many = format!("v=0\r\n{}", "m=audio 1 RTP/AVP 0\r\n".repeat(17));
        assert_eq!(Description::parse(many.as_bytes()), Err(SdpError::TooMany("media sections")));
        assert!(matches!(Description::parse(&[b'a'; 20_000]), Err(SdpError::TooLong(20_000))));
    }

    #[test]
    fn reads_the_rtcp_port_of_rfc_3605() {
        let text = "v=0\r\nc=IN IP4 10.0.0.1\r\nm=audio 4000 RTP/AVP 8\r\na=rtcp:9999 IN IP4 10.0.0.1\r\n";
        let read = Description::parse(text.as_bytes()).unwrap();
        assert_eq!(read.media[0].rtcp_address(), Some("10.0.0.1:9999".parse().unwrap()));
    }

    proptest! {
        #[test]
        fn never_panics_on_a_mutated_description(
            edits in proptest::collection::vec((0usize..400, any::<u8>()), 0..12)
        ) {
            let mut bytes = b"v=0\r\no=- 1 1 IN IP4 10.0.0.1\r\ns=-\r\nc=IN IP4 10.0.0.1\r\nt=0 0\r\n\
                m=audio 4000 RTP/AVP 8 0 101\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:101 telephone-event/8000\r\n\
                a=fmtp:101 0-15\r\na=ptime:20\r\na=rtcp:5\r\nm=image 0 udptl t38\r\n".to_vec();
            for (at, byte) in edits {
                let at = at % bytes.len();
                bytes[at] = byte;
            }
            fuzz(&bytes);
        }

        #[test]
        fn never_panics_on_noise(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            fuzz(&bytes);
        }
    }
}
