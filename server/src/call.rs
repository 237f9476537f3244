//! Decides how a call passes through this homeserver: from a client or a peer, to a peer, a service or the devices of
//! a person.
//!
//! `hop` carries messages over one stream and survives its connection; `relay` passes a call on to another
//! homeserver; `answer` asks everybody who answers for one of our addresses.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use ahoy_proto::address::Address;
use ahoy_proto::call::{hangup, hangup_for, lowered};
use ahoy_proto::fault::Fault;
use ahoy_proto::invite::{self, CallId, InviteBody};
use ahoy_proto::name::Name;
use ahoy_proto::time::Timestamp;
use ahoy_proto::v1::call_frame::Message;
use ahoy_proto::v1::{self, ErrorCode, HangupReason};
use ahoy_transport::Stream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::checked::malformed;
use crate::house::House;
use crate::online::Client;
use crate::peer::Peer;
use crate::wake::lock;

mod answer;
mod glare;
mod hop;
mod relay;

use glare::{Glare, Unanswered};
use hop::{Ends, Event, Opener, Return};

/// How long an opened call may take to say what it is.
const INVITE_TIME: std::time::Duration = std::time::Duration::from_secs(10);

/// When to try again while the homeserver has as many calls as it takes, or stops.
const FULL: std::time::Duration = std::time::Duration::from_secs(5);
/// The part of a name's calls that one other name may have at once.
const FOREIGN_SHARE: usize = 4;

/// Where the hop of an accepted call takes the stream on which it is resumed.
type Resumable = mpsc::Sender<Box<Return>>;

/// Calls in progress.
#[derive(Default)]
pub struct Calls {
    accepted: Mutex<HashMap<(CallId, Opener), Resumable>>,
    running: Mutex<HashMap<Name, usize>>,
    foreign: Mutex<HashMap<Name, usize>>,
    hops: Arc<()>,
    glare: Glare,
}

impl Calls {
    /// How many run.
    pub fn count(&self) -> usize {
        lock(&self.running).values().sum()
    }

    /// Whether nothing of any call is left, not even a hang-up that is still on its way.
    pub fn is_idle(&self) -> bool {
        self.count() == 0 && Arc::strong_count(&self.hops) == 1
    }

    /// Counts a hop for as long as it is kept.
    fn hop(&self) -> Arc<()> {
        self.hops.clone()
    }

    /// Counts a call of one of our names.
    fn begin<'a>(&'a self, name: &Name, limit: usize) -> Result<Running<'a>, Fault> {
        Running::begin(&self.running, name, limit)
    }

    /// Counts a call of another name, which has a part of what ours have: it cannot take up all of it.
    fn begin_foreign<'a>(&'a self, name: &Name, limit: usize) -> Result<Running<'a>, Fault> {
        Running::begin(&self.foreign, name, (limit / FOREIGN_SHARE).max(1))
    }

    /// Registers an accepted hop, unless the call has one already.
    fn accept(&self, key: &(CallId, Opener), resume: Resumable) -> bool {
        let mut accepted = lock(&self.accepted);
        let is_new = !accepted.contains_key(key);
        if is_new {
            accepted.insert(key.clone(), resume);
        }
        is_new
    }

    /// Hands a resumed stream to the hop that waits for it.
    fn resume(&self, call: CallId, opener: Opener, back: Box<Return>) -> Result<(), Box<Return>> {
        let hop = lock(&self.accepted).get(&(call, opener)).cloned();
        match hop {
            Some(hop) => hop.try_send(back).map_err(mpsc::error::TrySendError::into_inner),
            None => Err(back),
        }
    }
}

/// Counts a call of a name while it lives.
struct Running<'a> {
    counts: &'a Mutex<HashMap<Name, usize>>,
    name: Name,
}

impl<'a> Running<'a> {
    fn begin(counts: &'a Mutex<HashMap<Name, usize>>, name: &Name, limit: usize) -> Result<Self, Fault> {
        let mut running = lock(counts);
        let count = running.get(name).copied().unwrap_or(0);
        if count >= limit {
            let fault = Fault::new(ErrorCode::Limit, "too many calls at once; try again later");
            return Err(fault.with_retry_after(FULL));
        }
        running.insert(name.clone(), count + 1);
        Ok(Self { counts, name: name.clone() })
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut running = lock(self.counts);
        if let Some(count) = running.get_mut(&self.name) {
            *count -= 1;
            if *count == 0 {
                running.remove(&self.name);
            }
        }
    }
}

/// A call that one of our own clients places or resumes.
pub async fn from_client(house: Arc<House>, client: Arc<Client>, open: v1::CallOpen, stream: Stream) {
    let opener = Opener::Client(client.speaker.owner.clone(), client.speaker.device);
    let Some((call, stream)) = arrive(&house, opener.clone(), &open, stream).await else { return };
    let Some((mut ends, mut events)) = hop::accept(&house, call, opener, stream).await else { return };
    let result = place(&house, &client, &open, call, &mut ends, &mut events).await;
    if let Err(fault) = result {
        ends.hang_up(hangup_for(&fault));
    }
}

/// A call that another homeserver brings or resumes.
pub async fn from_peer(house: Arc<House>, peer: Arc<Peer>, open: v1::CallOpen, stream: Stream) {
    let from = Address::from_wire(&open.from, &house.policy);
    let Some(from) = from.ok().filter(|from| peer.speaks_for(from.name())) else {
        let fault = Fault::new(ErrorCode::NotAllowed, "this connection does not speak for the caller");
        return hop::refuse(stream, &fault).await;
    };
    let opener = Opener::Peer(from.name().clone());
    let Some((call, stream)) = arrive(&house, opener.clone(), &open, stream).await else { return };
    let Some((mut ends, mut events)) = hop::accept(&house, call, opener, stream).await else { return };
    let result = receive(&house, &from, &open, call, &mut ends, &mut events).await;
    if let Err(fault) = result {
        ends.hang_up(hangup_for(&fault));
    }
}

/// The id of a new call; a resumed one is handed on and is nothing new.
async fn arrive(
    house: &House,
    opener: Opener,
    open: &v1::CallOpen,
    stream: Stream,
) -> Option<(CallId, Stream)> {
    let Ok(call) = CallId::try_from(&open.call[..]) else {
        hop::refuse(stream, &malformed("a call id has 16 bytes")).await;
        return None;
    };
    let Some(resume) = open.resume.clone() else { return Some((call, stream)) };
    let back = Box::new(Return { resume, stream });
    if let Err(back) = house.calls.resume(call, opener, back) {
        hop::refuse(back.stream, &Fault::new(ErrorCode::UnknownCall, "there is no such call to resume"))
            .await;
    }
    None
}

/// A client's call: checked, signed, and passed on.
async fn place(
    house: &Arc<House>,
    client: &Client,
    open: &v1::CallOpen,
    call: CallId,
    ends: &mut Ends,
    events: &mut mpsc::Receiver<(usize, Event)>,
) -> Result<(), Fault> {
    let begun = house.clock.now();
    let speaker = &client.speaker;
    let limiter = if client.is_service { &house.limiter.service_calls } else { &house.limiter.device_calls };
    limiter.admit(speaker.device, "calls", begun)?;
    let _running = admit(house, &client.home.desk)?;
    let from = caller(house, client, &open.from)?;
    let to = Address::from_wire(&open.to, &house.policy)?;
    let invite = await_invite(house, events).await?;
    let body = invite::check_invite(&invite, &house.policy)?;
    check_body(&body, call, &from, &to)?;
    let Some(unanswered) = meet(house, call, &from, &to, ends) else { return Ok(()) };
    let signed = invite::sign_invite(invite, &client.home.desk.key);
    let placed = Placed { body, invite: signed, begun, unanswered };
    if house.names.contains_key(to.name()) {
        return answer::run(house, placed, ends, events).await;
    }
    relay::run(house, placed, ends, events).await
}

/// A call whose Invite was found in order.
struct Placed<'a> {
    body: InviteBody,
    invite: v1::Invite,
    begun: Timestamp,
    unanswered: Unanswered<'a>,
}

/// Looks whether the callee is calling the caller; whoever has the higher call id is told so. `[CALL-INVITE-21]`
fn meet<'a>(
    house: &'a House,
    call: CallId,
    from: &Address,
    to: &Address,
    ends: &Ends,
) -> Option<Unanswered<'a>> {
    let unanswered = house.calls.glare.enter(call, from, to);
    if unanswered.is_none() {
        let superseded = hangup(HangupReason::Superseded);
        answer::count_end(house, &superseded);
        ends.hang_up(superseded);
    }
    unanswered
}

/// A peer's call: verified, and answered by whoever answers for the address.
async fn receive(
    house: &Arc<House>,
    from: &Address,
    open: &v1::CallOpen,
    call: CallId,
    ends: &mut Ends,
    events: &mut mpsc::Receiver<(usize, Event)>,
) -> Result<(), Fault> {
    let begun = house.clock.now();
    house.limiter.peer_calls.admit(from.name().clone(), "calls", begun)?;
    let to = Address::from_wire(&open.to, &house.policy)?;
    let home = house.home(to.name())?.clone();
    let _running = admit(house, &home.desk)?;
    let _share = house.calls.begin_foreign(from.name(), home.desk.limits.calls)?;
    let invite = await_invite(house, events).await?;
    let resolution = house.keys.resolution(from.name()).await?;
    let body = invite::verify_invite(&invite, &resolution.card, &house.policy, house.clock.now())?;
    check_body(&body, call, from, &to)?;
    let Some(unanswered) = meet(house, call, from, &to, ends) else { return Ok(()) };
    answer::run(house, Placed { body, invite, begun, unanswered }, ends, events).await
}

fn admit<'a>(house: &'a House, desk: &crate::desk::Desk) -> Result<Running<'a>, Fault> {
    if house.draining.is_cancelled() {
        return Err(stopping());
    }
    house.calls.begin(&desk.name, desk.limits.calls)
}

/// Who calls: the device's account, or an address that the service claimed.
fn caller(house: &House, client: &Client, from: &str) -> Result<Address, Fault> {
    if let Some(own) = &client.speaker.own
        && (from.is_empty() || own.to_string() == from)
    {
        return Ok(own.clone());
    }
    let from = Address::from_wire(from, &house.policy)?;
    let may = client.is_service && client.speaker.claimed.contains(&from);
    if may { Ok(from) } else { Err(Fault::new(ErrorCode::NotAllowed, "you may not call as that address")) }
}

fn stopping() -> Fault {
    let fault = Fault::new(ErrorCode::Unavailable, "the homeserver is stopping; try again shortly");
    fault.with_retry_after(FULL)
}

async fn await_invite(
    house: &House,
    events: &mut mpsc::Receiver<(usize, Event)>,
) -> Result<v1::Invite, Fault> {
    let first = tokio::select! {
        first = timeout(INVITE_TIME, events.recv()) => first,
        () = house.cut.cancelled() => return Err(stopping()),
    };
    match first {
        Ok(Some((_, Event::Message(Message::Invite(invite))))) => Ok(invite),
        Ok(Some((_, Event::Message(_)))) => {
            Err(Fault::new(ErrorCode::OutOfOrder, "a call begins with its Invite"))
        }
        Ok(Some((_, Event::Lost(_))) | None) => Err(Fault::new(ErrorCode::Unavailable, "the caller is gone")),
        Err(_) => Err(Fault::new(ErrorCode::Timeout, "no Invite came in time")),
    }
}

/// The signed body must be that of the stream it came on. `[CALL-INVITE-06]`
fn check_body(body: &InviteBody, call: CallId, from: &Address, to: &Address) -> Result<(), Fault> {
    if body.call == call && body.from == *from && body.to == *to {
        return Ok(());
    }
    Err(malformed("the Invite is of another call, caller or callee than its stream"))
}

/// The Invite for the next hop: less time is left.
fn lower(invite: &v1::Invite, begun: Timestamp, now: Timestamp) -> Result<v1::Invite, Fault> {
    let left = lowered(invite.remaining_ms, now.since(begun));
    let remaining_ms = left.ok_or_else(|| Fault::new(ErrorCode::Timeout, "no time is left for the call"))?;
    Ok(v1::Invite { remaining_ms, ..invite.clone() })
}

/// Waits for a moment; for ever when there is none.
async fn until(house: &House, at: Option<Timestamp>) {
    match at {
        Some(at) => tokio::time::sleep(at.since(house.clock.now())).await,
        None => std::future::pending().await,
    }
}
