//! Plays a remote homeserver: shows the cards of the suite's names, answers `Contact`, takes deliveries, and hands
//! calls to the case that waits for them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use prost::Message as _;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;

use ahoy_proto::v1::{self, ControlFrame, control_frame::Frame, open::Open, pipe_frame, request, response};

use crate::event;
use crate::frame::{End, Stream};
use crate::moment::{now_ms, random};
use crate::quic::{Net, peer_spki};
use crate::session::control;

/// How long a stranger may take for its handshake, and a stream for its `Open`.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Items that may be unacknowledged.
const WINDOW: u32 = 64;
/// Local parts that begin like this are nobody at the suite's homeserver.
pub const NOBODY: &str = "nobody";
/// About these, `Contact` is answered with another pair's conversation.
pub const LIAR: &str = "liar";
/// About these, the first `Contact` is answered with a time to wait.
pub const BUSY: &str = "busy";
/// That time.
pub const BUSY_FOR: Duration = Duration::from_millis(3500);

/// An item as it came over a pipe.
#[derive(Debug, Clone)]
pub struct Delivered {
    /// On which pipe, counted from 1.
    pub pipe: u64,
    /// The pipe's source.
    pub source: String,
    /// The pipe's destination.
    pub destination: String,
    /// As sent.
    pub item: v1::PipeItem,
}

#[derive(Default)]
struct State {
    cards: HashMap<String, v1::Signed>,
    connections: Vec<quinn::Connection>,
    delivered: Vec<Delivered>,
    pipes: u64,
    received: HashMap<(String, String), (u64, u64)>,
    holds_acks: bool,
    wrongs: Vec<String>,
    odd: HashMap<String, Odd>,
    met: Vec<String>,
    trusting: Vec<String>,
    asked: Vec<(String, Instant)>,
}

/// What a homeserver is shown for a name instead of what readers of cards see.
#[derive(Debug, Clone, Default)]
pub struct Odd {
    /// Another card.
    pub card: Option<v1::Signed>,
    /// A clock that is so many milliseconds ahead.
    pub ahead_ms: u64,
}

/// The suite's homeserver. It serves for as long as it is held.
pub struct Peer {
    state: Arc<Shared>,
    calls: tokio::sync::Mutex<mpsc::Receiver<(v1::CallOpen, Stream)>>,
}

struct Shared {
    net: Net,
    state: Mutex<State>,
    changed: watch::Sender<u64>,
    calls: mpsc::Sender<(v1::CallOpen, Stream)>,
    tasks: TaskTracker,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wrong(&self, what: String) {
        self.lock().wrongs.push(what);
    }
}

impl Peer {
    /// Accepts on this port from now on.
    pub fn start(net: Net) -> Self {
        let (sender, calls) = mpsc::channel(64);
        let shared = Arc::new(Shared {
            net,
            state: Mutex::default(),
            changed: watch::channel(0).0,
            calls: sender,
            tasks: TaskTracker::new(),
        });
        let accepting = shared.clone();
        shared.tasks.spawn(async move {
            while let Some(incoming) = accepting.net.endpoint.accept().await {
                let shared = accepting.clone();
                accepting.tasks.spawn(async move {
                    if let Err(error) = serve(&shared, incoming).await {
                        tracing::debug!(%error, "a connection of the subject ended");
                    }
                });
            }
        });
        Self { state: shared, calls: tokio::sync::Mutex::new(calls) }
    }

    /// Shows this card for its name from now on.
    pub fn show_card(&self, name: &str, card: v1::Signed) {
        self.state.lock().cards.insert(name.to_owned(), card);
    }

    /// The card that it shows for a name.
    pub fn card(&self, name: &str) -> Option<v1::Signed> {
        self.state.lock().cards.get(name).cloned()
    }

    /// Whether deliveries are left without acknowledgement.
    pub fn hold_acks(&self, hold: bool) {
        self.state.lock().holds_acks = hold;
    }

    /// Shows homeservers something odd for a name from now on.
    pub fn be_odd(&self, name: &str, odd: Odd) {
        self.state.lock().odd.insert(name.to_owned(), odd);
    }

    /// Whether the subject came as a homeserver that wants this name.
    pub fn was_met(&self, name: &str) -> bool {
        self.state.lock().met.iter().any(|met| met == name)
    }

    /// Whether the subject authenticated where this name was shown.
    pub fn was_trusted(&self, name: &str) -> bool {
        self.state.lock().trusting.iter().any(|trusted| trusted == name)
    }

    /// When `Contact` was asked for this address.
    pub fn asked(&self, address: &str) -> Vec<Instant> {
        let state = self.state.lock();
        state.asked.iter().filter(|(asked, _)| asked == address).map(|(_, at)| *at).collect()
    }

    /// Closes every connection that the subject made.
    pub fn cut(&self) {
        for connection in self.state.lock().connections.drain(..) {
            connection.close(0_u32.into(), b"cut");
        }
    }

    /// What the subject did wrong on its connections so far.
    pub fn wrongs(&self) -> Vec<String> {
        self.state.lock().wrongs.clone()
    }

    /// Everything for which `wanted` gives something, once there are `count` of them.
    ///
    /// # Errors
    /// [`End::Silent`] when they do not come in time.
    pub async fn deliveries<T>(
        &self,
        count: usize,
        time: Duration,
        wanted: impl Fn(&Delivered) -> Option<T>,
    ) -> anyhow::Result<Vec<T>> {
        let mut changed = self.state.changed.subscribe();
        let found = async {
            loop {
                changed.borrow_and_update();
                let found: Vec<T> = self.state.lock().delivered.iter().filter_map(&wanted).collect();
                if found.len() >= count {
                    return found;
                }
                if changed.changed().await.is_err() {
                    return found;
                }
            }
        };
        timeout(time, found).await.map_err(|_| End::Silent(time).into())
    }

    /// The next call of the subject with this id; older ones are dropped.
    ///
    /// # Errors
    /// [`End::Silent`] when none comes.
    pub async fn call(&self, call: &[u8], time: Duration) -> anyhow::Result<(v1::CallOpen, Stream)> {
        let mut calls = self.calls.lock().await;
        let found = async {
            loop {
                let (open, stream) = calls.recv().await.context("the suite's homeserver ended")?;
                if open.call == call {
                    return Ok((open, stream));
                }
            }
        };
        timeout(time, found).await.map_err(|_| End::Silent(time))?
    }
}

async fn serve(shared: &Arc<Shared>, incoming: quinn::Incoming) -> anyhow::Result<()> {
    let connection = incoming.await.map_err(End::from)?;
    let handshake = async {
        let mut stream = Stream::new(connection.accept_bi().await.map_err(End::from)?);
        let (role, name) = greet(shared, &mut stream).await?;
        if role != v1::Role::Homeserver {
            stream.finish();
            return Ok(None);
        }
        let names = authenticate(shared, &connection, &mut stream, name).await?;
        stream.send(&control(Frame::Ready(v1::Ready { names, ..v1::Ready::default() }))).await?;
        anyhow::Ok(Some(stream))
    };
    let Some(stream) = timeout(HANDSHAKE, handshake).await.context("the handshake took too long")?? else {
        // A reader of cards closes the connection itself.
        let _ = timeout(HANDSHAKE, connection.closed()).await;
        return Ok(());
    };
    shared.lock().connections.push(connection.clone());
    let answering = shared.clone();
    shared.tasks.spawn(async move {
        // The connection's end ends it.
        let _ = answer_control(&answering, stream).await;
    });
    loop {
        let stream = Stream::new(connection.accept_bi().await.map_err(End::from)?);
        let (serving, connection) = (shared.clone(), connection.clone());
        shared.tasks.spawn(async move {
            if let Err(error) = stream_of(&serving, stream).await {
                tracing::debug!(%error, remote = %connection.remote_address(), "a stream ended");
            }
        });
    }
}

async fn greet(shared: &Shared, stream: &mut Stream) -> anyhow::Result<(v1::Role, String)> {
    let Some(Frame::ClientHello(hello)) = stream.recv::<ControlFrame>().await?.frame else {
        shared.wrong("WIRE-HELLO-05: the first frame was no ClientHello".into());
        bail!("no hello");
    };
    if hello.nonce.len() != 32 || !hello.versions.contains(&1) {
        shared.wrong("WIRE-HELLO-05: a hello without version 1 or a 32-byte nonce".into());
    }
    let (mut card, mut odd) = {
        let mut state = shared.lock();
        if hello.role() == v1::Role::Homeserver {
            state.met.push(hello.wanted_name.clone());
        }
        let odd = state.odd.get(&hello.wanted_name).filter(|_| hello.role() == v1::Role::Homeserver);
        (state.cards.get(&hello.wanted_name).cloned(), odd.cloned().unwrap_or_default())
    };
    if odd.card.is_some() {
        card = odd.card.take();
    }
    let Some(card) = card else {
        let error = v1::Error {
            code: v1::ErrorCode::NameNotServed.into(),
            class: v1::ErrorClass::Permanent.into(),
            message: "the suite does not serve it".into(),
            ..v1::Error::default()
        };
        stream.send(&control(Frame::Error(error))).await?;
        bail!("{:?} is not served", hello.wanted_name);
    };
    let answer = v1::ServerHello {
        card: Some(card),
        version: 1,
        time_ms: now_ms() + odd.ahead_ms,
        nonce: Bytes::copy_from_slice(&random::<32>()),
        ..v1::ServerHello::default()
    };
    stream.send(&control(Frame::ServerHello(answer))).await?;
    Ok((hello.role(), hello.wanted_name))
}

/// Takes the subject's claims: each must list the TLS key that the connection shows [NAME-CARD-07].
async fn authenticate(
    shared: &Shared,
    connection: &quinn::Connection,
    stream: &mut Stream,
    shown: String,
) -> anyhow::Result<Vec<String>> {
    let auth = match stream.recv::<ControlFrame>().await?.frame {
        Some(Frame::Auth(auth)) => auth,
        Some(Frame::Error(error)) => bail!("the subject refuses: {error:?}"),
        _ => {
            shared.wrong("WIRE-HELLO-05: the second frame was no Auth".into());
            bail!("no Auth");
        }
    };
    shared.lock().trusting.push(shown);
    let Some(v1::auth::Auth::Server(claims)) = auth.auth else {
        shared.wrong("WIRE-AUTH-07: a homeserver sent another kind of Auth".into());
        bail!("no claims");
    };
    let spki = peer_spki(connection).inspect_err(|_| {
        shared.wrong("WIRE-AUTH-07: a homeserver shows no certificate".into());
    })?;
    let mut names = Vec::new();
    for claim in claims.claims {
        match claimed(&claim, &spki) {
            Ok(name) => names.push(name),
            Err(error) => shared.wrong(format!("NAME-CARD-07: {error:#}")),
        }
    }
    ensure!(!names.is_empty(), "no claim holds");
    Ok(names)
}

fn claimed(claim: &v1::Claim, spki: &[u8]) -> anyhow::Result<String> {
    let signed = claim.card.as_ref().context("a claim without a card")?;
    let card = v1::Card::decode(signed.body.clone()).context("a claimed card that does not decode")?;
    ensure!(card.tls_spki.iter().any(|key| key == spki), "the claimed card does not list the TLS key shown");
    Ok(card.name)
}

async fn answer_control(shared: &Shared, mut stream: Stream) -> anyhow::Result<()> {
    loop {
        let answer =
            match stream.recv_within(Duration::from_secs(3600)).await.map(|f: ControlFrame| f.frame)? {
                Some(Frame::Want(want)) => {
                    let card = shared.lock().cards.get(&want.name).cloned();
                    Frame::Card(v1::CardAnswer { name: want.name, card, error: None })
                }
                Some(Frame::Claim(claim)) => {
                    let signed = claim.card.unwrap_or_default();
                    let name = v1::Card::decode(signed.body).map(|card| card.name).unwrap_or_default();
                    Frame::Claimed(v1::Claimed { name, error: None })
                }
                _ => continue,
            };
        stream.send(&control(answer)).await?;
    }
}

async fn stream_of(shared: &Shared, mut stream: Stream) -> anyhow::Result<()> {
    match stream.recv_within::<v1::Open>(HANDSHAKE).await?.open {
        Some(Open::Request(v1::Request { request: Some(request::Request::Contact(contact)) })) => {
            let earlier = {
                let mut state = shared.lock();
                state.asked.push((contact.address.clone(), Instant::now()));
                state.asked.iter().filter(|(asked, _)| *asked == contact.address).count() - 1
            };
            let response = Some(answer_contact(&contact, earlier));
            stream.send(&v1::Response { response }).await?;
            stream.finish();
            // Kept until the subject has it.
            stream.end(HANDSHAKE).await;
            Ok(())
        }
        Some(Open::Pipe(open)) => take_pipe(shared, open, stream).await,
        Some(Open::Call(open)) => shared.calls.try_send((open, stream)).ok().context("too many calls wait"),
        other => bail!("the suite's homeserver does not serve {other:?}"),
    }
}

fn answer_contact(contact: &v1::Contact, earlier: usize) -> response::Response {
    if contact.address.starts_with(BUSY) && earlier == 0 {
        return response::Response::Error(v1::Error {
            code: v1::ErrorCode::RateLimited.into(),
            class: v1::ErrorClass::Retry.into(),
            retry_after_ms: u32::try_from(BUSY_FOR.as_millis()).unwrap_or(u32::MAX),
            message: "later".into(),
        });
    }
    if contact.address.starts_with(NOBODY) {
        return response::Response::Error(v1::Error {
            code: v1::ErrorCode::NotReachable.into(),
            class: v1::ErrorClass::Permanent.into(),
            message: format!("{} cannot be reached", contact.address),
            ..v1::Error::default()
        });
    }
    let (mut conversation, hub) = event::direct(&contact.address, &contact.from);
    if contact.address.starts_with(LIAR) {
        conversation = event::direct(&format!("other-{}", contact.address), &contact.from).0;
    }
    response::Response::Contact(v1::ContactAnswer {
        kind: v1::AddressKind::Person.into(),
        hub,
        conversation,
        canonical: contact.address.clone(),
    })
}

async fn take_pipe(shared: &Shared, open: v1::PipeOpen, mut stream: Stream) -> anyhow::Result<()> {
    let ends = (open.source.clone(), open.destination.clone());
    let (pipe, accept) = {
        let mut state = shared.lock();
        let (epoch, received) = state.received.get(&ends).copied().unwrap_or_default();
        if open.pipe_epoch <= epoch {
            let wrong = format!("EVENT-DELIVER-01: pipe_epoch {} after {epoch}", open.pipe_epoch);
            state.wrongs.push(wrong);
        }
        state.received.insert(ends.clone(), (open.pipe_epoch, received));
        state.pipes += 1;
        (state.pipes, v1::PipeAccept { received, window: WINDOW, ..v1::PipeAccept::default() })
    };
    stream.send(&v1::PipeFrame { frame: Some(pipe_frame::Frame::Accept(accept)) }).await?;
    loop {
        let frame = stream.recv_within::<v1::PipeFrame>(Duration::from_secs(3600)).await?;
        let Some(pipe_frame::Frame::Item(item)) = frame.frame else {
            shared.wrong("a pipe carried something else than an item".into());
            bail!("no item");
        };
        let seq = item.seq;
        let holds = {
            let mut state = shared.lock();
            let (source, destination) = ends.clone();
            state.delivered.push(Delivered { pipe, source, destination, item });
            let holds = state.holds_acks;
            if let Some(received) = state.received.get_mut(&ends).filter(|_| !holds) {
                received.1 = received.1.max(seq);
            }
            holds
        };
        shared.changed.send_modify(|count| *count += 1);
        if !holds {
            let ack = v1::PipeAck { up_to: seq, refused: Vec::new() };
            stream.send(&v1::PipeFrame { frame: Some(pipe_frame::Frame::Ack(ack)) }).await?;
        }
    }
}
