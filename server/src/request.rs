//! Decides who may ask what, and answers: one request, one response.

use std::sync::Arc;
use std::time::Duration;

use ahoy_proto::address::Address;
use ahoy_proto::conversation::ConversationId;
use ahoy_proto::fault::Fault;
use ahoy_proto::limit;
use ahoy_proto::name::Name;
use ahoy_proto::v1::{self, ErrorCode, request, response};
use ahoy_resolver::{Resolution, ResolveError, Step};
use ahoy_transport::{CardBook as _, Stream};
use tokio::time::{Instant, sleep_until, timeout};

use crate::conversation;
use crate::home::{Home, broken, read};
use crate::house::House;
use crate::metrics::Operation;
use crate::online::Client;
use crate::peer::Peer;
use crate::record::Conversation;
use crate::submit::{self, may_speak};

/// What every refusal of a contact question takes: more than any of its look-ups.
const REFUSAL_TIME: Duration = Duration::from_millis(20);

/// Sends the response and ends the stream.
pub async fn answer(mut stream: Stream, response: Result<response::Response, Fault>) {
    let response = response.unwrap_or_else(|fault| response::Response::Error(fault.to_wire()));
    // Whoever asked may have gone, or may not read.
    let sent = timeout(limit::REQUEST_TIME, stream.send(&v1::Response { response: Some(response) })).await;
    match sent {
        Ok(Ok(())) => stream.finish(),
        Ok(Err(_)) => {}
        Err(_) => stream.reset(ErrorCode::Timeout),
    }
}

/// A request of a device or service.
pub async fn from_client(
    house: &House,
    client: &Arc<Client>,
    request: v1::Request,
) -> Result<response::Response, Fault> {
    let Some(request) = request.request else { return Err(Fault::unsupported("this request")) };
    let operation = operation(&request);
    let result = match admit(house, client, &request) {
        Ok(()) => client_request(house, client, request).await,
        Err(fault) => Err(fault),
    };
    count(house, operation, result.is_ok());
    result
}

fn admit(house: &House, client: &Client, request: &request::Request) -> Result<(), Fault> {
    let (device, now) = (client.speaker.device, house.clock.now());
    match (request, client.is_service) {
        (request::Request::Submit(_), false) => house.limiter.device_messages.admit(device, "messages", now),
        (request::Request::Submit(_), true) => house.limiter.service_messages.admit(device, "messages", now),
        _ => house.limiter.requests.admit(device, "requests", now),
    }
}

async fn client_request(
    house: &House,
    client: &Arc<Client>,
    request: request::Request,
) -> Result<response::Response, Fault> {
    match request {
        request::Request::Submit(message) => {
            let speaker = client.speaker.clone();
            let ack = client.home.ledger.write(move |page| submit::submit(page, &speaker, message)).await?;
            Ok(response::Response::Submit(ack))
        }
        request::Request::Fetch(fetch) => {
            let policy = &house.policy;
            let is_party = |text: &String| {
                Address::from_wire(text, policy)
                    .is_ok_and(|a| may_speak(&client.home.desk, &client.speaker, &a))
            };
            answer_fetch(house, &client.home, &fetch, |record| {
                is_party(&record.first) || is_party(&record.second)
            })
        }
        request::Request::Who(who) => answer_who(house, &who).await,
        request::Request::Explain(explain) if !client.is_service => answer_explain(house, &explain).await,
        request::Request::Peers(_) if !client.is_service => answer_peers(house, &client.home),
        request::Request::Explain(_) | request::Request::Peers(_) | request::Request::Contact(_) => {
            Err(Fault::new(ErrorCode::NotAllowed, "this request is not for you to make"))
        }
    }
}

/// A request of another homeserver.
pub async fn from_peer(
    house: &House,
    peer: &Peer,
    request: v1::Request,
) -> Result<response::Response, Fault> {
    let Some(request) = request.request else { return Err(Fault::unsupported("this request")) };
    let operation = operation(&request);
    let limited = house.limiter.peer_requests.admit(peer.domain.clone(), "requests", house.clock.now());
    let result = match (limited, request) {
        (Err(fault), _) => Err(fault),
        (Ok(()), request::Request::Contact(contact)) => answer_contact(house, peer, &contact).await,
        (Ok(()), request::Request::Fetch(fetch)) => peer_fetch(house, peer, &fetch),
        (Ok(()), _) => Err(Fault::new(ErrorCode::NotAllowed, "this request is not for a homeserver to make")),
    };
    count(house, operation, result.is_ok());
    result
}

async fn answer_contact(
    house: &House,
    peer: &Peer,
    contact: &v1::Contact,
) -> Result<response::Response, Fault> {
    let from = Address::from_wire(&contact.from, &house.policy)?;
    let to = Address::from_wire(&contact.address, &house.policy)?;
    if !peer.speaks_for(from.name()) {
        return Err(Fault::new(
            ErrorCode::NotAllowed,
            "this connection does not speak for the asking address",
        ));
    }
    let home = house.home(to.name())?;
    let from_is_line = is_line(house, &from).await?;
    let begun = Instant::now();
    let answer = home.answer_contact(&from, from_is_line, &to).map(response::Response::Contact);
    if answer.is_err() {
        // Nobody there, refusing and blocked take the same time. `[CONV-HUB-03]`
        sleep_until(begun + REFUSAL_TIME).await;
    }
    answer
}

/// Whether the card of an address's name has it as a line.
async fn is_line(house: &House, address: &Address) -> Result<bool, Fault> {
    let local = address.local().map_or("", |local| local.as_str());
    let resolution = house.keys.resolution(address.name()).await?;
    Ok(resolution.card.card.lines.iter().any(|line| line.local == local))
}

fn peer_fetch(house: &House, peer: &Peer, fetch: &v1::Fetch) -> Result<response::Response, Fault> {
    let id = ConversationId::from_wire(&fetch.conversation, &house.policy)?;
    let home = house.home(id.hub())?;
    let speaks_for = |text: &String| {
        Address::from_wire(text, &house.policy).is_ok_and(|address| peer.speaks_for(address.name()))
    };
    answer_fetch(house, home, fetch, |record| speaks_for(&record.first) || speaks_for(&record.second))
}

fn answer_fetch(
    house: &House,
    home: &Home,
    fetch: &v1::Fetch,
    may_read: impl Fn(&Conversation) -> bool,
) -> Result<response::Response, Fault> {
    let id = ConversationId::from_wire(&fetch.conversation, &house.policy)?;
    let answer = conversation::fetch(&*home.store, &home.partition, &home.shelf(), fetch, &id, may_read);
    read(answer).map(response::Response::Fetch)
}

async fn answer_who(house: &House, who: &v1::Who) -> Result<response::Response, Fault> {
    let address = Address::parse(&who.address, &house.policy)?;
    let local = address.local().map_or("", |local| local.as_str());
    let (level, card) = match house.names.get(address.name()) {
        Some(_) => {
            // How others see our own name; nothing is said when they cannot.
            let seen = house.keys.resolution(address.name()).await;
            let level = seen.map(|resolution| resolution.level.to_string()).unwrap_or_default();
            (level, own_card(house, address.name())?)
        }
        None => {
            let resolution = house.keys.resolution(address.name()).await?;
            (resolution.level.to_string(), resolution.card.card.clone())
        }
    };
    let display_name = card.display_names.first().map(|text| text.text.clone()).unwrap_or_default();
    let line = card.lines.into_iter().find(|line| line.local == local);
    Ok(response::Response::Who(v1::WhoAnswer { level, display_name, line }))
}

fn own_card(house: &House, name: &Name) -> Result<v1::Card, Fault> {
    use prost::Message as _;
    let card = house.card(name).and_then(|signed| v1::Card::decode(signed.body).ok());
    card.ok_or_else(|| Fault::new(ErrorCode::Internal, "the card cannot be read"))
}

async fn answer_explain(house: &House, explain: &v1::Explain) -> Result<response::Response, Fault> {
    let name = Name::parse(&explain.name, &house.policy)?;
    if !explain.fresh {
        // Who asks for the current state gets it; the steps are those of the resolution that is remembered.
        if let Some(Ok(resolution)) = house.resolver.remembered(&name) {
            return Ok(response::Response::Explain(explained(&Ok(resolution.clone()), &resolution.steps)));
        }
    }
    let explanation = house.resolver.explain(&name).await;
    Ok(response::Response::Explain(explained(&explanation.outcome, &explanation.steps)))
}

fn explained(outcome: &Result<Arc<Resolution>, ResolveError>, steps: &[Step]) -> v1::ExplainAnswer {
    let step = |step: &Step| v1::ExplainStep {
        what: step.what.clone(),
        outcome: step.outcome.clone(),
        ok: true,
        elapsed_us: u32::try_from(step.took_us).unwrap_or(u32::MAX),
    };
    let mut answer =
        v1::ExplainAnswer { steps: steps.iter().map(step).collect(), ..v1::ExplainAnswer::default() };
    match outcome {
        Ok(resolution) => {
            answer.level = resolution.level.to_string();
            answer.warnings = resolution.warnings.iter().map(ToString::to_string).collect();
        }
        Err(error) => {
            answer.error = Some(error.fault().to_wire());
            // The last step is the one that failed.
            if let Some(last) = answer.steps.last_mut() {
                last.ok = false;
            }
        }
    }
    answer
}

fn answer_peers(house: &House, home: &Home) -> Result<response::Response, Fault> {
    let served = house.served(&home.desk.name)?;
    let mut peers = Vec::new();
    for line in served.outbox.lines() {
        let status = line.status();
        let queued = served.outbox.waiting(&line.destination, 10_000).map_err(|error| broken(&error))?;
        let ms = |time: Option<ahoy_proto::time::Timestamp>| {
            time.map_or(0, ahoy_proto::time::Timestamp::as_millis)
        };
        peers.push(v1::PeerStatus {
            name: line.destination.to_string(),
            queued: queued as u64,
            last_success_ms: ms(status.last_success),
            next_retry_ms: ms(status.next_retry),
            last_error: status.last_error.map(|fault| fault.to_wire()),
            connected: status.connected,
        });
    }
    Ok(response::Response::Peers(v1::PeersAnswer { peers }))
}

fn operation(request: &request::Request) -> &'static str {
    match request {
        request::Request::Contact(_) => "contact",
        request::Request::Submit(_) => "submit",
        request::Request::Fetch(_) => "fetch",
        request::Request::Explain(_) => "explain",
        request::Request::Peers(_) => "peers",
        request::Request::Who(_) => "who",
    }
}

fn count(house: &House, operation: &'static str, is_ok: bool) {
    let outcome = if is_ok { "ok" } else { "refused" };
    house.metrics.requests.get_or_create(&Operation { operation, outcome }).inc();
}
