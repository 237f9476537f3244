//! Decides who is let in, and what each kind of peer may open once it is.

use std::sync::Arc;
use std::time::Duration;

use ahoy_proto::address::Address;
use ahoy_proto::event::device_tag;
use ahoy_proto::fault::Fault;
use ahoy_proto::key::PublicKey;
use ahoy_proto::name::Name;
use ahoy_proto::v1::{self, ErrorCode, auth, open};
use ahoy_transport::{Arrived, CardBook as _, Connection, ControlEvent, Incoming, Stream, StreamError};
use futures_util::future::join_all;
use tokio::time::{Instant, timeout, timeout_at};

use crate::account::{self, DeviceLogin, ServiceLogin};
use crate::checked::malformed;
use crate::directory::service_owner;
use crate::house::House;
use crate::metrics;
use crate::online::Client;
use crate::peer::{self, Peer};
use crate::submit::Speaker;
use crate::{call, pipe, request, sync};

/// How long a peer may take to read an answer on its control stream.
const CONTROL_TIME: Duration = Duration::from_secs(5);
/// How long all the claims of a handshake may take together; the dialler waits a little longer.
const CLAIMS_TIME: Duration = Duration::from_secs(8);
/// Connections of one device that are kept: a new one ends the oldest.
const CONNECTIONS_OF_A_DEVICE: usize = 8;

/// Lets peers in until the endpoint drains.
pub async fn accept(house: Arc<House>) {
    loop {
        let incoming = tokio::select! {
            incoming = house.endpoint.accept() => incoming,
            () = house.stop.cancelled() => return,
        };
        let Some(incoming) = incoming else { return };
        let task = arrive(house.clone(), incoming);
        spawn(&house, task);
    }
}

/// Asks everybody who is connected, clients and homeservers, to come back later. `[WIRE-STREAM-03]`
pub async fn send_away(house: &House, reconnect_after: Duration) {
    let asked = house.endpoint.connections().into_iter().map(|connection| async move {
        // Who is gone, or does not read, need not be asked.
        let _ = timeout(CONTROL_TIME, connection.go_away(reconnect_after)).await;
    });
    join_all(asked).await;
}

/// A task that ends with the homeserver.
pub fn spawn(house: &House, task: impl Future<Output = ()> + Send + 'static) {
    let stop = house.stop.clone();
    house.tracker.spawn(async move {
        tokio::select! {
            () = task => {}
            () = stop.cancelled() => {}
        }
    });
}

async fn arrive(house: Arc<House>, incoming: Incoming) {
    let remote = incoming.remote_addr();
    let arrived = match incoming.greet(&*house).await {
        Ok(Some(arrived)) => arrived,
        Ok(None) => return count_handshake(&house, "card"),
        Err(error) => {
            tracing::debug!(%remote, %error, "a handshake failed");
            return count_handshake(&house, "failed");
        }
    };
    match arrived.auth.clone() {
        auth::Auth::Server(claims) => homeserver(house, arrived, claims).await,
        auth::Auth::Device(proof) => match device(&house, &arrived, proof).await {
            Ok(login) => client(house, arrived, login).await,
            Err(fault) => refuse(&house, arrived, fault).await,
        },
        auth::Auth::Service(proof) => match service(&house, &arrived, proof).await {
            Ok(login) => client(house, arrived, login).await,
            Err(fault) => refuse(&house, arrived, fault).await,
        },
    }
}

async fn refuse(house: &House, arrived: Arrived, fault: Fault) {
    tracing::info!(remote = %arrived.remote, %fault, "a sign-in was refused");
    count_handshake(house, "refused");
    arrived.refuse(&fault).await;
}

fn count_handshake(house: &House, outcome: &'static str) {
    house.metrics.handshakes.get_or_create(&metrics::Outcome { outcome }).inc();
}

/// What a sign-in leads to.
struct LogIn {
    home: Arc<crate::home::Home>,
    speaker: Speaker,
    is_service: bool,
    calls: bool,
    sync_head: u64,
}

async fn device(house: &House, arrived: &Arrived, proof: v1::DeviceAuth) -> Result<LogIn, Fault> {
    let account = Address::from_wire(&proof.account, &house.policy)?;
    let home = house.home(account.name())?.clone();
    if account.name() != &arrived.wanted || account.local().is_none() {
        return Err(malformed("a device signs in at the name of its account"));
    }
    let device = tag(&proof.device_key)?;
    let label = proof.enrol.as_ref().map(|enrol| enrol.label.clone()).unwrap_or_default();
    let enrol = open_invite(house, proof.enrol)?;
    let key = proof.device_key.clone();
    let login = DeviceLogin { account: account.clone(), key, binding: proof.binding, enrol, label };
    let sync_head = home.ledger.write(move |page| account::sign_in_device(page, &login)).await?;
    let owner = account.to_string();
    let speaker = Speaker { owner, device, own: Some(account), claimed: Vec::new() };
    Ok(LogIn { home, speaker, is_service: false, calls: true, sync_head })
}

async fn service(house: &House, arrived: &Arrived, proof: v1::ServiceAuth) -> Result<LogIn, Fault> {
    let name = Name::from_wire(&proof.name, &house.policy)?;
    let home = house.home(&name)?.clone();
    if name != arrived.wanted {
        return Err(malformed("a service signs in at the name that it serves"));
    }
    let device = tag(&proof.service_key)?;
    let addresses = proof.addresses.iter().map(|text| Address::from_wire(text, &house.policy));
    let addresses = addresses.collect::<Result<Vec<_>, _>>()?;
    let login = ServiceLogin {
        service: proof.service.clone(),
        key: proof.service_key.clone(),
        enrol: open_invite(house, proof.enrol)?,
        addresses: addresses.clone(),
        calls: proof.calls,
        messages: proof.messages,
    };
    let sync_head = home.ledger.write(move |page| account::sign_in_service(page, &login)).await?;
    let speaker = Speaker { owner: service_owner(&proof.service), device, own: None, claimed: addresses };
    Ok(LogIn { home, speaker, is_service: true, calls: proof.calls, sync_head })
}

fn tag(key: &[u8]) -> Result<[u8; 8], Fault> {
    let key = PublicKey::from_bytes(key).map_err(|_| malformed("the key is no ed25519 public key"))?;
    Ok(device_tag(&key))
}

fn open_invite(house: &House, enrol: Option<v1::Enrol>) -> Result<Option<crate::invite::Invite>, Fault> {
    let Some(enrol) = enrol else { return Ok(None) };
    let invite = house.invites.verify(&enrol.invite, house.clock.now(), &house.policy);
    invite.map(Some).map_err(|error| error.fault())
}

async fn client(house: Arc<House>, arrived: Arrived, login: LogIn) {
    let remote = arrived.remote;
    let ready = v1::Ready { sync_head: login.sync_head, ..v1::Ready::default() };
    let connection = match arrived.ready(ready).await {
        Ok(connection) => connection,
        Err(error) => return tracing::debug!(%remote, %error, "a client left at sign-in"),
    };
    count_handshake(&house, "ok");
    let LogIn { home, speaker, is_service, calls, .. } = login;
    let role = if is_service { "service" } else { "device" };
    tracing::info!(%remote, owner = %speaker.owner, "signed in");
    let client = Arc::new(Client { home, speaker, is_service, calls, connection });
    house.online.add(client.clone(), CONNECTIONS_OF_A_DEVICE);
    let gauge = house.metrics.connections.get_or_create_owned(&metrics::Peer { role });
    gauge.inc();
    serve_client(&house, &client).await;
    gauge.dec();
    house.online.remove(&client);
    let why = client.connection.closed().await;
    tracing::info!(%remote, owner = %client.speaker.owner, %why, "gone");
}

async fn serve_client(house: &Arc<House>, client: &Arc<Client>) {
    loop {
        tokio::select! {
            opened = client.connection.accept() => match opened {
                Some((open, stream)) => open_client(house, client, open, stream),
                None => return,
            },
            event = client.connection.control_event() => match event {
                Some(event) => control(house, &client.connection, None, event).await,
                None => return,
            },
        }
    }
}

fn open_client(house: &Arc<House>, client: &Arc<Client>, open: open::Open, mut stream: Stream) {
    let (house2, client) = (house.clone(), client.clone());
    match open {
        open::Open::Request(request) => {
            spawn(house, async move {
                let response = request::from_client(&house2, &client, request).await;
                request::answer(stream, response).await;
            });
        }
        open::Open::Sync(open) => {
            spawn(house, sync::serve(client.home.clone(), client.speaker.owner.clone(), open, stream));
        }
        open::Open::Call(open) => spawn(house, call::from_client(house2, client, open, stream)),
        open::Open::Pipe(_) => stream.reset(ErrorCode::NotAllowed),
        open::Open::Blob(_) => stream.reset(ErrorCode::Unsupported),
    }
}

async fn homeserver(house: Arc<House>, arrived: Arrived, claims: v1::ServerAuth) {
    let (names, fault) = believed(&house, &arrived, claims).await;
    let Some(first) = names.first().cloned() else {
        let fault =
            fault.unwrap_or_else(|| Fault::new(ErrorCode::ClaimRefused, "a homeserver claims a name"));
        return refuse(&house, arrived, fault).await;
    };
    let remote = arrived.remote;
    let Some(_guest) = house.guests.admit(first.registrable_domain(), &arrived.wanted) else {
        let fault = Fault::new(ErrorCode::Limit, "too many connections between these homeservers");
        return refuse(&house, arrived, fault).await;
    };
    let ready = v1::Ready { names: names.iter().map(Name::to_string).collect(), ..v1::Ready::default() };
    let connection = match arrived.ready(ready).await {
        Ok(connection) => connection,
        Err(error) => return tracing::debug!(%remote, %error, "a peer left at sign-in"),
    };
    count_handshake(&house, "ok");
    for name in &names {
        house.heard(name);
    }
    tracing::info!(%remote, ?names, "a homeserver connected");
    serve_peer(house.clone(), Peer::new(connection, &first, names)).await;
}

/// The claims that are believed. A stranger causes one lookup; once a name is believed, the others are looked up too.
/// `[WIRE-AUTH-12]`
async fn believed(house: &House, arrived: &Arrived, claims: v1::ServerAuth) -> (Vec<Name>, Option<Fault>) {
    let mut names = Vec::new();
    let end = Instant::now() + CLAIMS_TIME;
    for claim in claims.claims.into_iter().filter_map(|claim| claim.card) {
        // What cannot be judged in time may be claimed again after `Ready`.
        let Ok(verdict) = timeout_at(end, peer::believe(house, &claim, arrived.spki)).await else { break };
        match verdict {
            Ok(name) => names.push(name),
            Err(fault) if names.is_empty() => return (names, Some(fault)),
            Err(fault) => tracing::debug!(remote = %arrived.remote, %fault, "a claim was refused"),
        }
    }
    (names, None)
}

/// Serves what the other side opens on a connection that we made.
pub fn serve_dialled(house: &House, peer: Arc<Peer>) {
    if let Some(house2) = house.me.upgrade() {
        spawn(house, serve_peer(house2, peer));
    }
}

async fn serve_peer(house: Arc<House>, peer: Arc<Peer>) {
    let gauge = house.metrics.connections.get_or_create_owned(&metrics::Peer { role: "homeserver" });
    gauge.inc();
    loop {
        tokio::select! {
            opened = peer.connection.accept() => match opened {
                Some((open, stream)) => open_peer(&house, &peer, open, stream),
                None => break,
            },
            event = peer.connection.control_event() => match event {
                Some(event) => control(&house, &peer.connection, Some(&peer), event).await,
                None => break,
            },
        }
    }
    gauge.dec();
}

fn open_peer(house: &Arc<House>, peer: &Arc<Peer>, open: open::Open, mut stream: Stream) {
    let (house2, peer) = (house.clone(), peer.clone());
    match open {
        open::Open::Request(request) => {
            spawn(house, async move {
                let response = request::from_peer(&house2, &peer, request).await;
                request::answer(stream, response).await;
            });
        }
        open::Open::Pipe(open) => spawn(house, pipe::serve(house2, peer, open, stream)),
        open::Open::Call(open) => spawn(house, call::from_peer(house2, peer, open, stream)),
        open::Open::Sync(_) => stream.reset(ErrorCode::NotAllowed),
        open::Open::Blob(_) => stream.reset(ErrorCode::Unsupported),
    }
}

/// What the other side says on the control stream.
async fn control(house: &Arc<House>, connection: &Connection, peer: Option<&Arc<Peer>>, event: ControlEvent) {
    match event {
        ControlEvent::Want(name) => {
            let missing =
                || Fault::new(ErrorCode::NameNotServed, format!("this homeserver does not serve {name}"));
            let card = house.card(&name).ok_or_else(missing);
            say(connection, connection.answer_want(&name, card)).await;
        }
        ControlEvent::Claim(card) => {
            let Some(peer) = peer.cloned() else { return };
            // Whoever has 64 claims in doubt waits with the next until one is decided. `[WIRE-AUTH-02]`
            let Ok(place) = peer.claims.clone().acquire_owned().await else { return };
            let house2 = house.clone();
            spawn(house, async move {
                claim(&house2, &peer, card).await;
                drop(place);
            });
        }
        ControlEvent::CardChanged { name, seq } => {
            if peer.is_some_and(|peer| peer.speaks_for(&name)) {
                house.resolver.card_changed(&name, seq);
            }
        }
        ControlEvent::GoAway(_) => {}
    }
}

async fn claim(house: &House, peer: &Peer, card: v1::Signed) {
    use prost::Message as _;
    let spki = peer.connection.spki();
    let verdict =
        peer::believe(house, &card, spki).await.and_then(|name| peer.add(name.clone()).map(|()| name));
    let claimed = v1::Card::decode(&card.body[..]).map(|card| card.name).unwrap_or_default();
    let Ok(name) = Name::from_wire(&claimed, &house.policy) else { return };
    say(&peer.connection, peer.connection.answer_claim(&name, verdict.map(|_| ()))).await;
}

/// Answers on the control stream; a peer that does not read it is disconnected.
async fn say(connection: &Connection, answer: impl Future<Output = Result<(), StreamError>>) {
    // A peer that is gone needs no answer.
    if timeout(CONTROL_TIME, answer).await.is_err() {
        connection.close_with(&Fault::new(ErrorCode::Timeout, "the control stream is not read"));
    }
}
