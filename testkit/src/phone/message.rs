//! The SIP messages that the desk phone writes, and what it reads out of those that it gets.

use std::net::SocketAddr;

use bytes::Bytes;
use sipx_sip::{
    HeaderName, Headers, Limits, Message, Method, Request, RequestBuilder, Response, ResponseBuilder,
    StatusCode, Uri,
    headers::{Address, CSeq},
    parse_datagram,
};

/// The phone's side of a dialog (RFC 3261 section 12).
pub(super) struct Dialog {
    pub call_id: String,
    /// Our From or To, with our tag.
    local: String,
    /// Theirs, with their tag once it is known.
    remote: String,
    /// Where requests within the dialog are addressed to.
    target: String,
    contact: String,
    sent_by: SocketAddr,
    local_cseq: u32,
    /// The INVITE as sent, when we are the caller.
    pub sent_invite: Option<Bytes>,
    local_tag: String,
}

impl Dialog {
    pub(super) fn as_callee(invite: &Request, tag: String, address: SocketAddr) -> anyhow::Result<Self> {
        let target =
            contact_uri(&invite.headers).ok_or_else(|| anyhow::anyhow!("the INVITE has no Contact"))?;
        Ok(Self {
            call_id: call_id(&invite.headers).unwrap_or_default(),
            local: format!("{};tag={tag}", header_text(&invite.headers, &HeaderName::To)),
            remote: header_text(&invite.headers, &HeaderName::From),
            target,
            contact: format!("<sip:{address}>"),
            sent_by: address,
            local_cseq: 100,
            sent_invite: None,
            local_tag: tag,
        })
    }

    pub(super) fn as_caller(
        uri: &str,
        user: &str,
        tag: String,
        call_token: String,
        address: SocketAddr,
    ) -> anyhow::Result<Self> {
        Uri::parse(Bytes::copy_from_slice(uri.as_bytes()))?;
        Ok(Self {
            call_id: format!("{call_token}@{}", address.ip()),
            local: format!("<sip:{user}@{address}>;tag={tag}"),
            remote: format!("<{uri}>"),
            target: uri.to_owned(),
            contact: format!("<sip:{user}@{address}>"),
            sent_by: address,
            local_cseq: 1,
            sent_invite: None,
            local_tag: tag,
        })
    }

    /// A request of this dialog with the given CSeq.
    pub(super) fn request(
        &self,
        method: Method,
        cseq: u32,
        branch: &str,
        sdp: Option<String>,
    ) -> anyhow::Result<Bytes> {
        let uri = Uri::parse(Bytes::from(self.target.clone()))?;
        let mut builder = RequestBuilder::new(method.clone(), uri)
            .header(HeaderName::Via, format!("SIP/2.0/UDP {};rport;branch=z9hG4bK{branch}", self.sent_by))?
            .max_forwards(70)
            .header(HeaderName::From, self.local.clone())?
            .header(HeaderName::To, self.remote.clone())?
            .header(HeaderName::CallId, self.call_id.clone())?
            .cseq(cseq, &method)?
            .header(HeaderName::Contact, self.contact.clone())?;
        if let Some(sdp) = sdp {
            builder = builder.header(HeaderName::ContentType, "application/sdp")?.body(sdp);
        }
        Ok(Message::Request(builder.build()).to_bytes())
    }

    pub(super) fn next_request(&mut self, method: Method, branch: &str) -> anyhow::Result<Bytes> {
        self.local_cseq += 1;
        self.request(method, self.local_cseq, branch, None)
    }

    /// Takes the remote tag and target from a response to our INVITE.
    pub(super) fn learn(&mut self, response: &Response) {
        self.remote = header_text(&response.headers, &HeaderName::To);
        if let Some(target) = contact_uri(&response.headers) {
            self.target = target;
        }
    }
}

/// A response; inside a dialog with our tag and Contact, with `sdp` as its body.
pub(super) fn response(
    request: &Request,
    status: u16,
    reason: &'static str,
    dialog: Option<&Dialog>,
    sdp: Option<String>,
) -> Option<Bytes> {
    let mut builder = ResponseBuilder::to_request(request, StatusCode::new(status)?, reason).ok()?;
    if let Some(dialog) = dialog {
        let to = header_text(&request.headers, &HeaderName::To);
        if !to.contains(";tag=") {
            builder = builder.set_header(&HeaderName::To, format!("{to};tag={}", dialog.local_tag)).ok()?;
        }
        builder = builder.header(HeaderName::Contact, dialog.contact.clone()).ok()?;
        for route in request.headers.get_all(&HeaderName::RecordRoute) {
            builder = builder.header(HeaderName::RecordRoute, Bytes::copy_from_slice(&route.value())).ok()?;
        }
    }
    if status == 405 || (status == 200 && request.method == Method::Options) {
        builder = builder.header(HeaderName::Allow, "INVITE, ACK, CANCEL, BYE, OPTIONS").ok()?;
    }
    if let Some(sdp) = sdp {
        builder = builder.header(HeaderName::ContentType, "application/sdp").ok()?.body(sdp);
    }
    Some(Message::Response(builder.build()).to_bytes())
}

/// The ACK of a final response above 299: it belongs to the INVITE's transaction (RFC 3261 section 17.1.1.3).
pub(super) fn ack_of_refusal(invite: &Bytes, response: &Response) -> Option<Bytes> {
    sibling(invite, Method::Ack, Some(header_text(&response.headers, &HeaderName::To)))
}

/// The CANCEL of an INVITE (RFC 3261 section 9.1).
pub(super) fn cancel_of(invite: &Bytes) -> Option<Bytes> {
    sibling(invite, Method::Cancel, None)
}

fn sibling(invite: &Bytes, method: Method, to: Option<String>) -> Option<Bytes> {
    let Ok(Message::Request(invite)) = parse_datagram(invite.clone(), &Limits::datagram()) else {
        return None;
    };
    let number = cseq(&invite.headers)?;
    let to = to.unwrap_or_else(|| header_text(&invite.headers, &HeaderName::To));
    let request = RequestBuilder::new(method.clone(), invite.uri.clone())
        .header(HeaderName::Via, header_text(&invite.headers, &HeaderName::Via))
        .and_then(|b| {
            b.max_forwards(70).header(HeaderName::From, header_text(&invite.headers, &HeaderName::From))
        })
        .and_then(|b| b.header(HeaderName::To, to))
        .and_then(|b| b.header(HeaderName::CallId, header_text(&invite.headers, &HeaderName::CallId)))
        .and_then(|b| b.cseq(number, &method))
        .ok()?;
    Some(Message::Request(request.build()).to_bytes())
}

pub(super) fn call_id(headers: &Headers) -> Option<String> {
    headers.value(&HeaderName::CallId).map(|v| String::from_utf8_lossy(&v).into_owned())
}

pub(super) fn header_text(headers: &Headers, name: &HeaderName) -> String {
    headers.value(name).map(|v| String::from_utf8_lossy(&v).into_owned()).unwrap_or_default()
}

pub(super) fn cseq(headers: &Headers) -> Option<u32> {
    headers.typed::<CSeq>()?.ok().map(|c| c.sequence)
}

pub(super) fn cseq_method(headers: &Headers) -> Option<String> {
    let text = header_text(headers, &HeaderName::CSeq);
    text.split_whitespace().nth(1).map(str::to_owned)
}

/// The decoded user part of a SIP URI.
pub(super) fn user(uri: &Uri) -> Option<String> {
    uri.decoded_user().map(|u| String::from_utf8_lossy(&u).into_owned())
}

fn contact_uri(headers: &Headers) -> Option<String> {
    let address = Address::parse(&headers.value(&HeaderName::Contact)?, "Contact").ok()?;
    Some(String::from_utf8_lossy(&address.uri.to_bytes()).into_owned())
}
