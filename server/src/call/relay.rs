//! Decides how a call of ours is passed on to the callee's homeserver: message by message, each within the rules.

use std::sync::Arc;

use ahoy_proto::call::{Change, Outgoing, hangup, hangup_for, ring_time};
use ahoy_proto::fault::Fault;
use ahoy_proto::time::Timestamp;
use ahoy_proto::v1::call_frame::Message;
use ahoy_proto::v1::{self, Hangup, HangupReason};
use bytes::Bytes;
use tokio::sync::mpsc;

use super::glare::superseded;
use super::hop::{self, Ends, Event, Reach};
use super::{Placed, lower, stopping, until};
use crate::house::House;

/// The caller's hop has number 0, the hop to the peer number 1.
const CALLER: usize = 0;

/// Relays a call until it is over. An error is told to the caller by whoever called this.
pub async fn run(
    house: &Arc<House>,
    placed: Placed<'_>,
    caller: &mut Ends,
    events: &mut mpsc::Receiver<(usize, Event)>,
) -> Result<(), Fault> {
    let Placed { body, invite, begun, unanswered } = placed;
    let mut unanswered = Some(unanswered);
    let now = house.clock.now();
    let invite = lower(&invite, begun, now)?;
    let mut call = Outgoing::new(now, ring_time(invite.remaining_ms), None);
    let reach = Reach::Peer { source: body.from.name().clone(), destination: body.to.name().clone() };
    let open = v1::CallOpen {
        call: Bytes::copy_from_slice(&body.call),
        to: body.to.to_string(),
        from: body.from.to_string(),
        resume: None,
    };
    let peer = hop::open(house, CALLER + 1, reach, open, caller.events());
    let held = house.metrics.calls.clone();
    held.inc();
    let mut end = peer.send(Message::Invite(invite)).err();
    while end.is_none() {
        if call.connected().is_some() {
            unanswered = None;
        }
        let deadline = call.poll_timeout();
        end = tokio::select! {
            event = events.recv() => match event {
                Some((CALLER, event)) => from_caller(&mut call, &peer, event),
                Some((_, event)) => from_callee(&mut call, caller, event, house.clock.now()),
                None => return Ok(()),
            },
            () = until(house, deadline) => call.handle_timeout(house.clock.now()),
            () = superseded(unanswered.as_ref()) => Some(hangup(HangupReason::Superseded)),
            () = house.cut.cancelled() => Some(hangup_for(&stopping())),
        };
    }
    held.dec();
    let end = end.expect("the loop ended with it");
    super::answer::count_end(house, &end);
    // Both are told; whoever hung up or is gone does not listen any more.
    peer.hang_up(end.clone());
    caller.hang_up(end);
    Ok(())
}

fn from_caller(call: &mut Outgoing, peer: &Ends, event: Event) -> Option<Hangup> {
    let message = match event {
        Event::Message(message) => message,
        Event::Lost(hangup) => return Some(hangup),
    };
    match call.handle_caller(&message) {
        Ok(Change::Ended(hangup)) => Some(hangup),
        Ok(Change::Late) => None,
        Ok(_) => peer.send(message).err(),
        Err(error) => Some(hangup_for(&error.into())),
    }
}

fn from_callee(call: &mut Outgoing, caller: &Ends, event: Event, now: Timestamp) -> Option<Hangup> {
    let message = match event {
        Event::Message(message) => message,
        Event::Lost(hangup) => return Some(hangup),
    };
    match call.handle_callee(&message, now) {
        Ok(Change::Ended(hangup)) => Some(hangup),
        Ok(Change::Late) => None,
        Ok(_) => caller.send(message).err(),
        Err(error) => Some(hangup_for(&error.into())),
    }
}
