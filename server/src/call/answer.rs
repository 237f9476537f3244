//! Decides who is asked when somebody calls one of our addresses, and lets the first answer win.

use std::sync::Arc;

use ahoy_proto::address::Address;
use ahoy_proto::call::{BranchKey, Call, Output, hangup, hangup_for, reason, ring_time};
use ahoy_proto::fault::Fault;
use ahoy_proto::invite::InviteBody;
use ahoy_proto::time::{Timestamp, random};
use ahoy_proto::v1::call_frame::Message;
use ahoy_proto::v1::{self, Hangup, HangupReason};
use bytes::Bytes;
use tokio::sync::mpsc;

use super::glare::{Unanswered, superseded};
use super::hop::{self, Ends, Event, Reach};
use super::{Placed, lower, stopping, until};
use crate::desk::Target;
use crate::directory::{self, service_owner};
use crate::home::{Home, broken};
use crate::house::House;
use crate::metrics::Outcome;
use crate::online::Client;

/// The caller's hop has number 0; the branches follow in their order.
const CALLER: usize = 0;

struct Leg {
    key: BranchKey,
    ends: Ends,
}

/// Asks everybody who answers for the callee, until the call is over.
pub async fn run(
    house: &Arc<House>,
    placed: Placed<'_>,
    caller: &mut Ends,
    events: &mut mpsc::Receiver<(usize, Event)>,
) -> Result<(), Fault> {
    let Placed { body, invite, begun, unanswered } = placed;
    let home = house.home(body.to.name())?.clone();
    let clients = match answerers(house, &home, &body.from, &body.to)? {
        Ok(clients) => clients,
        Err(hangup) => {
            count_end(house, &hangup);
            caller.hang_up(hangup);
            return Ok(());
        }
    };
    let now = house.clock.now();
    let invite = lower(&invite, begun, now)?;
    let mut call = Call::new(now, ring_time(invite.remaining_ms), None);
    let legs = ask(house, &mut call, &body, &invite, &clients, caller);
    house.metrics.calls.inc();
    let end = drive(house, &mut call, &legs, caller, events, unanswered).await;
    house.metrics.calls.dec();
    count_end(house, &end);
    Ok(())
}

/// The clients that answer for `to`, or the end that the caller is told. A line's state is said openly, a person's is
/// not. `[CALL-BRANCH-10]`
fn answerers(
    house: &House,
    home: &Home,
    from: &Address,
    to: &Address,
) -> Result<Result<Vec<Arc<Client>>, Hangup>, Fault> {
    let name = &home.desk.name;
    let Some(line) = home.desk.line(to) else {
        let admitted =
            directory::admits(&home.desk, &home.shelf(), from, to).map_err(|error| broken(&error))?;
        let devices = if admitted { house.online.of(name, &to.to_string()) } else { Vec::new() };
        let none = || hangup(HangupReason::NotReachable);
        return Ok(if devices.is_empty() { Err(none()) } else { Ok(devices) });
    };
    let mut clients = Vec::new();
    let mut has_service = false;
    for target in &line.targets {
        match target {
            Target::Account(account) => clients.extend(house.online.of(name, &account.to_string())),
            Target::Service(service) => {
                has_service = true;
                let all = house.online.of(name, &service_owner(service));
                clients.extend(all.into_iter().rfind(|client| client.answers(to)));
            }
        }
    }
    clients.truncate(ahoy_proto::limit::CALL_BRANCHES);
    if !clients.is_empty() {
        return Ok(Ok(clients));
    }
    let why = if has_service { HangupReason::TrunkDown } else { HangupReason::NotReachable };
    Ok(Err(ahoy_proto::call::describe(why, 0, "nobody who answers for this line is connected")))
}

/// Opens a hop to each client and invites it.
fn ask(
    house: &Arc<House>,
    call: &mut Call,
    body: &InviteBody,
    invite: &v1::Invite,
    clients: &[Arc<Client>],
    caller: &Ends,
) -> Vec<Leg> {
    let mut legs = Vec::new();
    for client in clients {
        let id: [u8; 8] = random(&*house.entropy);
        let Ok(key) = call.add_branch(Bytes::copy_from_slice(&id)) else { break };
        let reach = Reach::Client {
            name: client.home.desk.name.clone(),
            owner: client.speaker.owner.clone(),
            device: client.speaker.device,
        };
        let open = v1::CallOpen {
            call: Bytes::copy_from_slice(&body.call),
            to: body.to.to_string(),
            from: body.from.to_string(),
            resume: None,
        };
        let ends = hop::open(house, CALLER + 1 + legs.len(), reach, open, caller.events());
        if let Err(hangup) = ends.send(Message::Invite(invite.clone())) {
            call.branch_lost(key, hangup);
        }
        legs.push(Leg { key, ends });
    }
    legs
}

async fn drive(
    house: &House,
    call: &mut Call,
    legs: &[Leg],
    caller: &Ends,
    events: &mut mpsc::Receiver<(usize, Event)>,
    unanswered: Unanswered<'_>,
) -> Hangup {
    let mut unanswered = Some(unanswered);
    loop {
        if let Some(end) = perform(call, legs, caller) {
            return end;
        }
        if call.connected().is_some() {
            unanswered = None;
        }
        let deadline = call.poll_timeout();
        tokio::select! {
            event = events.recv() => match event {
                Some((CALLER, event)) => from_caller(call, caller, event),
                Some((number, event)) => from_branch(call, &legs[number - 1], event, house.clock.now()),
                None => return hangup(HangupReason::Failed),
            },
            () = until(house, deadline) => call.handle_timeout(house.clock.now()),
            () = superseded(unanswered.as_ref()) => call.hang_up(hangup(HangupReason::Superseded)),
            () = house.cut.cancelled() => call.hang_up(hangup_for(&stopping())),
        }
    }
}

fn from_caller(call: &mut Call, caller: &Ends, event: Event) {
    match event {
        Event::Message(message) => {
            if let Err(error) = call.handle_caller(message) {
                let hangup = hangup_for(&error.into());
                caller.hang_up(hangup.clone());
                call.caller_lost(hangup);
            }
        }
        Event::Lost(hangup) => call.caller_lost(hangup),
    }
}

fn from_branch(call: &mut Call, leg: &Leg, event: Event, now: Timestamp) {
    match event {
        Event::Message(message) => {
            if let Err(error) = call.handle_branch(leg.key, message, now) {
                let hangup = hangup_for(&error.into());
                leg.ends.hang_up(hangup.clone());
                call.branch_lost(leg.key, hangup);
            }
        }
        Event::Lost(hangup) => call.branch_lost(leg.key, hangup),
    }
}

/// Does what the call asks for; returns its end.
fn perform(call: &mut Call, legs: &[Leg], caller: &Ends) -> Option<Hangup> {
    while let Some(output) = call.poll_output() {
        match output {
            Output::ToCaller(message) => {
                if let Err(hangup) = caller.send(message) {
                    call.caller_lost(hangup);
                }
            }
            Output::ToBranch(key, message) => {
                let leg = legs.iter().find(|leg| leg.key == key);
                if let Some(Err(hangup)) = leg.map(|leg| leg.ends.send(message)) {
                    call.branch_lost(key, hangup);
                }
            }
            Output::Connected(_) => {}
            Output::Ended(hangup) => return Some(hangup),
        }
    }
    None
}

/// Counts how a call ended.
pub fn count_end(house: &House, end: &Hangup) {
    let outcome = match reason(end) {
        HangupReason::Normal => "normal",
        HangupReason::Cancelled => "cancelled",
        HangupReason::Busy => "busy",
        HangupReason::Declined => "declined",
        HangupReason::NoAnswer => "no_answer",
        HangupReason::NotReachable | HangupReason::NotFound => "not_reachable",
        HangupReason::TrunkDown => "trunk_down",
        HangupReason::ConnectionLost => "connection_lost",
        HangupReason::Superseded => "superseded",
        _ => "failed",
    };
    house.metrics.calls_ended.get_or_create(&Outcome { outcome }).inc();
}
