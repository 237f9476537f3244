//! What a message must be before it costs a transaction: from the trunk, within its rate,
//! valid, of a method and with extensions that the bridge serves. Refusals here are stateless.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Instant;

use sipx_sip::headers::MaxForwards;
use sipx_sip::{HeaderName, Message, Method, Request, validate_request, validate_response};

use super::agent::Agent;
use super::flow::Flow;
use super::message;

/// Most source addresses whose rate is remembered.
const SOURCES: usize = 1024;

/// Token buckets per source address, bounded in number.
pub struct Gate {
    rate: f64,
    buckets: HashMap<IpAddr, (f64, Instant)>,
}

impl Gate {
    /// `rate` requests per second and source, with a burst of twice that.
    pub fn new(rate: u32) -> Self {
        Self { rate: f64::from(rate), buckets: HashMap::new() }
    }

    /// Takes one token of `source`; `false` when it has none.
    pub fn admits(&mut self, now: Instant, source: IpAddr) -> bool {
        let burst = self.rate * 2.0;
        if self.buckets.len() >= SOURCES && !self.buckets.contains_key(&source) {
            let rate = self.rate;
            self.buckets.retain(|_, (tokens, at)| {
                *tokens + now.saturating_duration_since(*at).as_secs_f64() * rate < burst
            });
            if self.buckets.len() >= SOURCES {
                return false;
            }
        }
        let (tokens, at) = self.buckets.entry(source).or_insert((burst, now));
        *tokens = (*tokens + now.saturating_duration_since(*at).as_secs_f64() * self.rate).min(burst);
        *at = now;
        let admitted = *tokens >= 1.0;
        if admitted {
            *tokens -= 1.0;
        }
        admitted
    }
}

/// A refusal before any state: the status, and one header that explains it.
struct Refusal(u16, Option<(HeaderName, String)>);

impl From<u16> for Refusal {
    fn from(status: u16) -> Self {
        Self(status, None)
    }
}

impl Agent {
    /// Whether the message goes on to the transactions. Answers it here when not.
    pub(super) fn passes_gate(&mut self, now: Instant, message: &Message, flow: Flow) -> bool {
        let source = flow.peer().ip();
        let trusted = self.config.sources.contains(&source);
        if !self.gate.admits(now, source) {
            return false;
        }
        let request = match message {
            Message::Response(response) => {
                let ours = message::came_back(response, self.config.advertised);
                return trusted && ours && validate_response(response).is_empty();
            }
            Message::Request(request) => request,
        };
        if trusted && self.transactions.knows(request) {
            return true;
        }
        let refusal = if trusted { self.refusal(request) } else { Some(403.into()) };
        match refusal {
            None => true,
            Some(Refusal(status, header)) => {
                self.refuse_stateless(request, status, header, flow);
                false
            }
        }
    }

    /// The order of RFC 3261 section 8.2: validity, method, Request-URI, loop, extensions.
    fn refusal(&self, request: &Request) -> Option<Refusal> {
        let fatal = validate_request(request)
            .into_iter()
            // Max-Forwards came with RFC 3261; a user agent can do without it.
            .find(|finding| !finding.is_repairable());
        if let Some(finding) = fatal {
            return Some(finding.status().into());
        }
        if request.method == Method::Ack {
            return None;
        }
        if !is_served(&request.method) {
            let allow = (HeaderName::Allow, message::ALLOW.to_owned());
            return Some(Refusal(405, Some(allow)));
        }
        if !request.uri.scheme().is_sip() {
            return Some(416.into());
        }
        let spent = matches!(request.headers.typed::<MaxForwards>(), Some(Ok(MaxForwards(0))));
        if spent && request.method == Method::Invite {
            return Some(483.into());
        }
        let unknown: Vec<String> = message::tokens(&request.headers, &HeaderName::Require)
            .into_iter()
            .filter(|tag| !message::SUPPORTED.contains(&tag.as_str()))
            .collect();
        if !unknown.is_empty() && request.method != Method::Cancel {
            return Some(Refusal(420, Some((HeaderName::Unsupported, unknown.join(", ")))));
        }
        if !self.transactions.has_room() {
            return Some(Refusal(503, Some((HeaderName::RetryAfter, "5".to_owned()))));
        }
        None
    }

    fn refuse_stateless(
        &mut self,
        request: &Request,
        status: u16,
        header: Option<(HeaderName, String)>,
        flow: Flow,
    ) {
        if request.method == Method::Ack {
            return;
        }
        // The same tag for every copy of the request (RFC 3261 section 8.2.7).
        let Some(mut builder) = message::respond_tagged(request, status, "ahoy-refused") else {
            return;
        };
        if let Some((name, value)) = header {
            match builder.header(name, value) {
                Ok(with) => builder = with,
                Err(_) => return,
            }
        }
        let response = builder.build();
        let flow = message::response_flow(request, flow);
        self.transactions.send_plain(flow, &Message::Response(response));
    }
}

fn is_served(method: &Method) -> bool {
    matches!(
        method,
        Method::Invite
            | Method::Ack
            | Method::Cancel
            | Method::Bye
            | Method::Options
            | Method::Update
            | Method::Prack
    )
}
