//! SIP messages at the edge: what a datagram is, and the few headers that the agent reads and
//! writes by hand. Building goes through sipx-sip's checked builders, so no header is injected.

use std::net::SocketAddr;

use bytes::Bytes;
use sipx_sip::headers::{From as FromHeader, To as ToHeader, first_hop_end};
use sipx_sip::{
    Header, HeaderName, Headers, Host, Limits, Message, Request, Response, ResponseBuilder, StatusCode, Uri,
    Via, parse_datagram,
};

use super::flow::Flow;

/// The methods that the bridge serves; everything else is 405. [BRIDGE-SIP-01]
pub const ALLOW: &str = "INVITE, ACK, CANCEL, BYE, OPTIONS, UPDATE, PRACK";
/// The option tags that it knows; another `Require` is 420. [BRIDGE-SIP-02]
pub const SUPPORTED: [&str; 2] = ["100rel", "timer"];
/// `User-Agent` and `Server`.
pub const PRODUCT: &str = concat!("ahoy-bridge/", env!("CARGO_PKG_VERSION"));
/// RFC 3261 section 8.1.1.6.
pub const MAX_FORWARDS: u8 = 70;

/// What one datagram is.
#[derive(Debug)]
pub enum Datagram {
    /// CRLF CRLF: answered with CRLF (RFC 5626 section 4.4.1).
    Ping,
    /// CRLF, or nothing: needs no answer.
    Pong,
    /// A message.
    Message(Box<Message>),
    /// Not SIP, or not framed.
    Garbage,
}

/// Sorts a datagram. Total: no input panics.
pub fn read_datagram(bytes: Bytes) -> Datagram {
    let blank = bytes.iter().all(|byte| matches!(byte, b'\r' | b'\n' | 0));
    if blank && bytes.len() >= 4 {
        return Datagram::Ping;
    }
    if blank {
        return Datagram::Pong;
    }
    match parse_datagram(bytes, &Limits::datagram()) {
        Ok(message) => Datagram::Message(Box::new(message)),
        Err(_) => Datagram::Garbage,
    }
}

/// Fuzz entry: a stranger's datagram through the whole agent.
pub fn fuzz_datagram(data: &[u8]) {
    super::agent::fuzz(data);
}

/// The reason phrase that goes with a status that we send.
pub fn reason_phrase(status: u16) -> &'static str {
    match status {
        100 => "Trying",
        180 => "Ringing",
        183 => "Session Progress",
        200 => "OK",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        410 => "Gone",
        415 => "Unsupported Media Type",
        416 => "Unsupported URI Scheme",
        420 => "Bad Extension",
        480 => "Temporarily Unavailable",
        481 => "Call/Transaction Does Not Exist",
        482 => "Loop Detected",
        483 => "Too Many Hops",
        486 => "Busy Here",
        487 => "Request Terminated",
        488 => "Not Acceptable Here",
        491 => "Request Pending",
        500 => "Server Internal Error",
        503 => "Service Unavailable",
        504 => "Server Time-out",
        505 => "Version Not Supported",
        600 => "Busy Everywhere",
        603 => "Decline",
        _ => "Failure",
    }
}

/// A response to `request`, or `None` when it lacks what a response must copy (it is then
/// dropped: nobody could match the answer).
pub fn respond(request: &Request, status: u16) -> Option<ResponseBuilder> {
    let code = StatusCode::new(status)?;
    ResponseBuilder::to_request(request, code, reason_phrase(status)).ok()
}

/// The same with `tag` on its `To`, unless the request already has one.
pub fn respond_tagged(request: &Request, status: u16, tag: &str) -> Option<ResponseBuilder> {
    let builder = respond(request, status)?;
    if to_tag(&request.headers).is_some() {
        return Some(builder);
    }
    let mut to = request.headers.value(&HeaderName::To)?.into_owned();
    to.extend_from_slice(format!(";tag={tag}").as_bytes());
    // A `To` that may be read but not written (an escaped NUL) is answered without a tag.
    builder.set_header(&HeaderName::To, to).ok().or_else(|| respond(request, status))
}

/// Marks the topmost `Via` with where the request really came from (RFC 3261 section 18.2.1,
/// RFC 3581), so that each response built from it finds the way back.
pub fn mark_received(request: &mut Request, source: SocketAddr) {
    let Some(Ok(via)) = request.headers.typed::<Via>() else {
        return;
    };
    let sent_from = match &via.host {
        Host::Ip(ip) => Some(*ip),
        Host::Name(_) => None,
    };
    if via.rport().is_none() && sent_from == Some(source.ip()) {
        return;
    }
    let Some(first) = request.headers.remove_first(&HeaderName::Via) else {
        return;
    };
    let whole = first.value().into_owned();
    let (hop, rest) = whole.split_at(first_hop_end(&whole).min(whole.len()));
    let mut value = Vec::with_capacity(whole.len() + 64);
    for (index, part) in hop.split(|byte| *byte == b';').enumerate() {
        let name = part.trim_ascii();
        if index > 0 && name.len() >= 8 && name[..8].eq_ignore_ascii_case(b"received") {
            continue;
        }
        if index > 0 {
            value.push(b';');
        }
        if index > 0 && name.eq_ignore_ascii_case(b"rport") {
            value.extend_from_slice(format!("rport={}", source.port()).as_bytes());
        } else {
            value.extend_from_slice(part);
        }
    }
    value.extend_from_slice(format!(";received={}", source.ip()).as_bytes());
    value.extend_from_slice(rest);
    match Header::build(HeaderName::Via, value) {
        Ok(header) => request.headers.push_front(header),
        Err(_) => request.headers.push_front(first),
    }
}

/// Whether the topmost `Via` of a response is ours (RFC 3261 section 18.1.2).
pub fn came_back(response: &Response, advertised: SocketAddr) -> bool {
    match response.headers.typed::<Via>() {
        Some(Ok(via)) => {
            let host = matches!(&via.host, Host::Ip(ip) if *ip == advertised.ip());
            host && via.port.unwrap_or(5060) == advertised.port()
        }
        _ => false,
    }
}

/// Where a response over UDP goes: back to the source when it asked for that (RFC 3581), else
/// to the port its `Via` names, at the address it came from.
pub fn response_flow(request: &Request, flow: Flow) -> Flow {
    let Flow::Udp(source) = flow else {
        return flow;
    };
    match request.headers.typed::<Via>() {
        Some(Ok(via)) if via.rport().is_none() => {
            Flow::Udp(SocketAddr::new(source.ip(), via.port.unwrap_or(5060)))
        }
        _ => flow,
    }
}

/// The `From` tag.
pub fn from_tag(headers: &Headers) -> Option<Vec<u8>> {
    let from = headers.typed::<FromHeader>()?.ok()?;
    from.tag().map(<[u8]>::to_vec)
}

/// The `To` tag.
pub fn to_tag(headers: &Headers) -> Option<Vec<u8>> {
    let to = headers.typed::<ToHeader>()?.ok()?;
    to.tag().map(<[u8]>::to_vec)
}

/// A header's value, owned.
pub fn value(headers: &Headers, name: &HeaderName) -> Option<Bytes> {
    headers.value(name).map(|value| Bytes::from(value.into_owned()))
}

/// The tokens of a comma-separated header, over all its rows, lower-cased.
pub fn tokens(headers: &Headers, name: &HeaderName) -> Vec<String> {
    headers
        .get_all(name)
        .flat_map(|header| {
            let value = String::from_utf8_lossy(&header.value()).into_owned();
            value.split(',').map(|token| token.trim().to_ascii_lowercase()).collect::<Vec<_>>()
        })
        .filter(|token| !token.is_empty())
        .collect()
}

/// The socket address that a SIP URI names, if its host is an IP address.
pub fn socket_address(uri: &Uri) -> Option<SocketAddr> {
    match uri.host()? {
        Host::Ip(ip) => Some(SocketAddr::new(*ip, uri.port().unwrap_or(5060))),
        Host::Name(_) => None,
    }
}

/// An SDP body, if the message has one; `Err` when its body is of another kind.
pub fn sdp_body(headers: &Headers, body: &Bytes) -> Result<Option<Bytes>, UnsupportedBody> {
    if body.is_empty() {
        return Ok(None);
    }
    let encoded = headers
        .value(&HeaderName::ContentEncoding)
        .is_some_and(|value| !value.eq_ignore_ascii_case(b"identity"));
    match headers.typed::<sipx_sip::headers::ContentType>() {
        Some(Ok(kind)) if !encoded && kind.is("application", "sdp") => Ok(Some(body.clone())),
        _ => Err(UnsupportedBody),
    }
}

/// A body that is not plain SDP: 415.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnsupportedBody;
