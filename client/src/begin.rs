//! How a hop of a call begins: placed from here, or arriving from the homeserver.

use std::sync::Arc;
use std::time::Duration;

use ahoy_proto::address::Address;
use ahoy_proto::call::{HopBuffer, ring_time};
use ahoy_proto::fault::Fault;
use ahoy_proto::invite::{InviteBody, check_invite, unsigned_invite};
use ahoy_proto::limit;
use ahoy_proto::time::random;
use ahoy_proto::v1::open::Open as Kind;
use ahoy_proto::v1::{self, ErrorCode, HangupReason, call_frame::Message};
use ahoy_transport::{Stream, StreamError};
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::call::{Call, IncomingCall, PlaceCall};
use crate::error::{ClientError, Stage};
use crate::hop::{self, Arrival, Hop, Side};
use crate::rules::Rules;
use crate::session::{Session, Shared};

/// Longest wait for a connection, and for the Invite after a call stream was opened.
const BEGIN_TIME: Duration = Duration::from_secs(10);
/// Longest wait for the Invite on a stream that the homeserver opened.
const INVITE_TIME: Duration = Duration::from_secs(5);
/// Attempts to resume one call that may wait for its task.
const ARRIVALS: usize = 4;

/// Opens a call on the session's connection and sends the Invite.
pub(crate) async fn place(session: &Session, place: PlaceCall) -> Result<Call, ClientError> {
    let shared = &session.shared;
    let subject = place.to.to_string();
    let error = |fault| ClientError::new(Stage::Call, subject.clone(), fault);
    if place.sdp.len() > limit::SDP_BYTES {
        return Err(error(Fault::new(ErrorCode::Malformed, "the SDP is larger than 16 KiB")));
    }
    let Some(from) = place.from.clone().or_else(|| session.own_address().cloned()) else {
        return Err(error(Fault::new(ErrorCode::Malformed, "this service has no address to call from")));
    };
    let id = random::<16>(&*shared.network.entropy());
    let ring = place.ring.unwrap_or(limit::RING_TIME).min(limit::RING_TIME);
    let invite = invite(shared, id, &from, &place, ring);
    let id = Bytes::copy_from_slice(&id);
    let open = hop::call_open(&id, &from, &place.to, None);
    let opening = async {
        loop {
            let link = shared.link_after(0).await?;
            match link.connection.open(open.clone()).await {
                Ok(stream) => return Ok(stream),
                Err(StreamError::Lost(_) | StreamError::Draining(_)) => shared.pause_after_loss().await?,
                Err(failed) => return Err(error(failed.fault())),
            }
        }
    };
    let stream = match timeout(BEGIN_TIME, opening).await {
        Ok(stream) => stream?,
        Err(_) => {
            return Err(error(Fault::new(ErrorCode::Timeout, "no connection to the homeserver for 10 s")));
        }
    };
    let end = (Side::Opener, Rules::caller(shared.network.clock().now(), ring));
    let (call, hop) = Hop::new(shared, (id, from, place.to), end, (stream, HopBuffer::new()));
    shared.hops.spawn(hop.run(Some(invite)));
    Ok(call)
}

fn invite(shared: &Shared, id: [u8; 16], from: &Address, place: &PlaceCall, ring: Duration) -> v1::Invite {
    let now = shared.network.clock().now();
    let body = InviteBody::new(id, from.clone(), place.to.clone(), now, &place.sdp);
    let mut display = place.display.clone();
    display.truncate(display.floor_char_boundary(limit::CALLER_DISPLAY_BYTES));
    // The homeserver signs for the name; from the device to it the connection vouches.
    unsigned_invite(&body, place.sdp.clone(), u32::try_from(ring.as_millis()).unwrap_or(u32::MAX), display)
}

/// A stream that the homeserver opened: a call, a call that goes on, or something that is not for clients.
pub(crate) fn arrived(shared: &Arc<Shared>, open: Kind, mut stream: Stream) {
    let Kind::Call(open) = open else {
        stream.reset(ErrorCode::Unsupported);
        return;
    };
    let shared = shared.clone();
    let tracker = shared.tracker.clone();
    tracker.spawn(async move {
        match open.resume {
            Some(resume) => resumed(&shared, &open.call, Arrival { resume, stream }).await,
            None => called(&shared, open, stream).await,
        }
    });
}

async fn resumed(shared: &Shared, call: &Bytes, arrival: Arrival) {
    let waiting = shared.calls.lock().expect("no holder panics").get(call).cloned();
    let refused = match waiting {
        Some(waiting) => match waiting.try_send(arrival) {
            Ok(()) => return,
            Err(error) => error.into_inner(),
        },
        None => arrival,
    };
    let mut stream = refused.stream;
    hop::refuse(&mut stream, &Fault::new(ErrorCode::UnknownCall, "no such call here")).await;
}

async fn called(shared: &Arc<Shared>, open: v1::CallOpen, mut stream: Stream) {
    let mut buffer = HopBuffer::new();
    let given = buffer.give_token(random(&*shared.network.entropy()));
    let first = async {
        stream.send(&given).await.ok()?;
        stream.recv::<v1::CallFrame>().await.ok()?
    };
    let Ok(first) = timeout(INVITE_TIME, first).await else {
        return hop::refuse(&mut stream, &Fault::new(ErrorCode::Timeout, "no Invite within 5 seconds")).await;
    };
    let checked = match first.map(|frame| buffer.receive(frame)) {
        Some(Ok(Some(Message::Invite(invite)))) => check(shared, &open, invite),
        Some(Err(error)) => Err(error.into()),
        _ => Err(Fault::new(ErrorCode::OutOfOrder, "a call begins with its Invite")),
    };
    let ((from, to), invite) = match checked {
        Ok(checked) => checked,
        Err(fault) => return hop::refuse(&mut stream, &fault).await,
    };
    let (arrivals_in, arrivals) = mpsc::channel(ARRIVALS);
    if !register(shared, &open.call, arrivals_in) {
        return hop::refuse(&mut stream, &Fault::new(ErrorCode::Limit, "this call rings here already")).await;
    }
    let rules = Rules::callee(shared.network.clock().now(), ring_time(invite.remaining_ms));
    let parties = (open.call, from.clone(), to.clone());
    let (call, hop) = Hop::new(shared, parties, (Side::Acceptor(arrivals), rules), (stream, buffer));
    shared.hops.spawn(hop.run(None));
    if let Err(full) = shared.incoming.try_send(IncomingCall { from, to, invite, call }) {
        full.into_inner().decline(HangupReason::Unavailable).await;
    }
}

fn register(shared: &Shared, call: &Bytes, arrivals: mpsc::Sender<Arrival>) -> bool {
    let mut calls = shared.calls.lock().expect("no holder panics");
    if calls.contains_key(call) {
        return false;
    }
    calls.insert(call.clone(), arrivals);
    true
}

/// The Invite must be for this call, and vouch for the offer that it carries ([CALL-INVITE-20]).
fn check(
    shared: &Shared,
    open: &v1::CallOpen,
    invite: v1::Invite,
) -> Result<((Address, Address), v1::Invite), Fault> {
    let policy = shared.network.policy();
    let body = check_invite(&invite, policy)?;
    if body.call[..] != open.call[..] {
        return Err(Fault::new(ErrorCode::Malformed, "the Invite is of another call"));
    }
    let to = Address::from_wire(&open.to, policy)?;
    Ok(((body.from, to), invite))
}
