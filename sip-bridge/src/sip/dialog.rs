//! A dialog (RFC 3261 section 12): who, in which order, and by which way requests go.

use std::net::SocketAddr;

use bytes::Bytes;
use sipx_sip::headers::{Address, Contact};
use sipx_sip::{BuildError, HeaderName, Headers, Method, Request, RequestBuilder, Response, Uri};

use super::message;

/// What names a dialog in a request from the far side.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DialogId {
    /// `Call-ID`.
    pub call: Bytes,
    /// Our tag.
    pub local: Bytes,
    /// Their tag; empty for a peer older than RFC 3261.
    pub remote: Bytes,
}

impl DialogId {
    /// The dialog that a received request says it belongs to.
    pub fn of_request(headers: &Headers) -> Option<Self> {
        Some(Self {
            call: message::value(headers, &HeaderName::CallId)?,
            local: message::to_tag(headers)?.into(),
            remote: message::from_tag(headers).unwrap_or_default().into(),
        })
    }

    /// The dialog that a received response makes or belongs to.
    pub fn of_response(headers: &Headers) -> Option<Self> {
        Some(Self {
            call: message::value(headers, &HeaderName::CallId)?,
            local: message::from_tag(headers)?.into(),
            remote: message::to_tag(headers)?.into(),
        })
    }
}

/// One dialog.
#[derive(Debug, Clone)]
pub struct Dialog {
    /// Its name.
    pub id: DialogId,
    /// Our `From` of its requests, with our tag.
    local: Bytes,
    /// Their address, with their tag.
    remote: Bytes,
    /// Number of our last request.
    pub local_sequence: u32,
    /// Number of their last request.
    pub remote_sequence: Option<u32>,
    routes: Vec<Bytes>,
    target: Uri,
}

impl Dialog {
    /// The dialog that `response` makes for `invite`, which we sent.
    pub fn from_response(invite: &Request, response: &Response, sequence: u32) -> Option<Self> {
        let mut routes = record_routes(&response.headers);
        routes.reverse();
        Some(Self {
            id: DialogId::of_response(&response.headers)?,
            local: message::value(&invite.headers, &HeaderName::From)?,
            remote: message::value(&response.headers, &HeaderName::To)?,
            local_sequence: sequence,
            remote_sequence: None,
            routes,
            target: contact(&response.headers).unwrap_or_else(|| invite.uri.clone()),
        })
    }

    /// The dialog of a 2xx whose INVITE is forgotten: enough to acknowledge and end it.
    pub fn from_stray(response: &Response) -> Option<Self> {
        let headers = &response.headers;
        let mut routes = record_routes(headers);
        routes.reverse();
        Some(Self {
            id: DialogId::of_response(headers)?,
            local: message::value(headers, &HeaderName::From)?,
            remote: message::value(headers, &HeaderName::To)?,
            local_sequence: headers.typed::<sipx_sip::CSeq>()?.ok()?.sequence,
            remote_sequence: None,
            routes,
            target: contact(headers)?,
        })
    }

    /// The dialog that we make by answering `invite` with `tag`; `None` without a `Contact`.
    pub fn from_request(invite: &Request, tag: &str) -> Option<Self> {
        let headers = &invite.headers;
        let mut local = message::value(headers, &HeaderName::To)?.to_vec();
        local.extend_from_slice(format!(";tag={tag}").as_bytes());
        let sequence = headers.typed::<sipx_sip::CSeq>()?.ok()?.sequence;
        Some(Self {
            id: DialogId {
                call: message::value(headers, &HeaderName::CallId)?,
                local: tag.as_bytes().to_vec().into(),
                remote: message::from_tag(headers).unwrap_or_default().into(),
            },
            local: local.into(),
            remote: message::value(headers, &HeaderName::From)?,
            local_sequence: 0,
            remote_sequence: Some(sequence),
            routes: record_routes(headers),
            target: contact(headers)?,
        })
    }

    /// Takes over the `Contact` of a target refresh (re-INVITE, UPDATE and their 2xx).
    pub fn refresh_target(&mut self, headers: &Headers) {
        if let Some(target) = contact(headers) {
            self.target = target;
        }
    }

    /// A request in this dialog with the next number; the caller adds `Via` and `Contact`.
    pub fn request(&mut self, method: Method) -> Result<RequestBuilder, BuildError> {
        self.local_sequence = self.local_sequence.wrapping_add(1);
        self.request_numbered(method, self.local_sequence)
    }

    /// The same with a given number: an ACK carries that of its INVITE.
    pub fn request_numbered(&self, method: Method, sequence: u32) -> Result<RequestBuilder, BuildError> {
        let (uri, routes) = self.way();
        let mut builder = RequestBuilder::new(method.clone(), uri)
            .max_forwards(message::MAX_FORWARDS)
            .header(HeaderName::From, self.local.clone())?
            .header(HeaderName::To, self.remote.clone())?
            .header(HeaderName::CallId, self.id.call.clone())?
            .cseq(sequence, &method)?;
        for route in routes {
            builder = builder.header(HeaderName::Route, route)?;
        }
        Ok(builder)
    }

    /// Where the next request goes, if the way names an IP address.
    pub fn next_hop(&self) -> Option<SocketAddr> {
        match self.routes.first() {
            Some(route) => message::socket_address(&Address::parse(route, "Route").ok()?.uri),
            None => message::socket_address(&self.target),
        }
    }

    /// Request-URI and `Route`; a first hop without `lr` routes strictly (section 12.2.1.1).
    fn way(&self) -> (Uri, Vec<Bytes>) {
        let first = self.routes.first().and_then(|route| Address::parse(route, "Route").ok());
        match first {
            Some(first) if !first.uri.params().is_some_and(|params| params.contains("lr")) => {
                let mut routes = self.routes[1..].to_vec();
                let mut last = b"<".to_vec();
                self.target.write_to(&mut last);
                last.push(b'>');
                routes.push(last.into());
                (first.uri, routes)
            }
            _ => (self.target.clone(), self.routes.clone()),
        }
    }
}

fn contact(headers: &Headers) -> Option<Uri> {
    let contact = headers.typed::<Contact>()?.ok()?;
    contact.0.uri.scheme().is_sip().then_some(contact.0.uri)
}

fn record_routes(headers: &Headers) -> Vec<Bytes> {
    headers
        .get_all(&HeaderName::RecordRoute)
        .flat_map(|header| Address::parse_list(&header.value(), "Record-Route").unwrap_or_default())
        .map(|route| {
            let mut text = b"<".to_vec();
            route.uri.write_to(&mut text);
            text.push(b'>');
            Bytes::from(text)
        })
        .collect()
}
