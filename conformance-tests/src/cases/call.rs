//! Calls: who is asked, and what is relayed and checked on the way.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use tokio::time::sleep;

use ahoy_proto::v1::{self, ErrorCode, HangupReason as Reason, call_frame::Message, open::Open};

use super::{Case, Seen};
use crate::leg::{ANSWER, Call, Leg, check_invite, invite, reason_name};
use crate::moment::now_ms;
use crate::refusal::{Refused, Skipped, expect_refusal};
use crate::session::Session;
use crate::sign::Key;
use crate::world::World;

pub(super) const CASES: &[Case] = &[
    Case::new(
        "call-to-nobody",
        &["CALL-BRANCH-10", "CALL-END-02"],
        "a call to nobody ends with NOT_REACHABLE",
        |w| Box::pin(to_nobody(w)),
    ),
    Case::new(
        "call-to-absent-name",
        &["CALL-END-02"],
        "a call to a name that is not on the network ends, and says why",
        |w| Box::pin(to_absent_name(w)),
    ),
    Case::new(
        "call-to-a-refusing-person",
        &["CONV-HUB-03"],
        "a stranger's call to a refusing person and to nobody end alike",
        |w| Box::pin(to_refusing(w)),
    ),
    Case::new(
        "call-to-an-empty-line",
        &["CALL-BRANCH-10"],
        "a call to a line whose service is away ends with TRUNK_DOWN",
        |w| Box::pin(to_empty_line(w)),
    ),
    Case::new(
        "call-relayed",
        &[
            "CALL-INVITE-03",
            "CALL-INVITE-04",
            "CALL-RESUME-01",
            "CALL-RESUME-03",
            "CALL-BRANCH-01",
            "CALL-BRANCH-02",
        ],
        "Invite, Ringing, Answer and Hangup pass between a device and a service",
        |w| Box::pin(relayed(w)),
    ),
    Case::new("call-between-people", &["CALL-BRANCH-10"], "a person's device is called by another's", |w| {
        Box::pin(people(w))
    }),
    Case::new(
        "call-from-afar",
        &["CALL-INVITE-03", "CALL-INVITE-04"],
        "a remote Invite reaches the service as it was signed, with less time",
        |w| Box::pin(from_afar(w)),
    ),
    Case::new(
        "call-to-afar",
        &["CALL-INVITE-03", "CALL-INVITE-04", "CALL-INVITE-06"],
        "a call to a remote person reaches our homeserver signed, and is relayed both ways",
        |w| Box::pin(to_afar(w)),
    ),
    Case::new(
        "call-bad-invites",
        &["CALL-INVITE-01", "CALL-INVITE-02", "CALL-INVITE-03", "CALL-INVITE-05", "CALL-INVITE-06"],
        "remote Invites that break a rule are refused and reach nobody",
        |w| Box::pin(bad_invites(w)),
    ),
    Case::new("call-as-another", &["CALL-INVITE-07", "SVC-CLAIM-03"], "nobody calls as somebody else", |w| {
        Box::pin(as_another(w))
    }),
    Case::new(
        "call-without-invite",
        &["CALL-BRANCH-02"],
        "a call that does not begin with its Invite is ended",
        |w| Box::pin(without_invite(w)),
    ),
];

/// Long enough that no case waits for it.
pub(super) const RING: u32 = 60_000;

/// A call of the first device to the line.
pub(super) fn to_line(world: &World) -> anyhow::Result<Call> {
    Ok(Call::new(&world.person(0)?.name, world.line()?))
}

pub(super) fn ringing() -> Message {
    Message::Ringing(v1::Ringing::default())
}

pub(super) fn answer(sdp: &str) -> Message {
    Message::Answer(v1::Answer { sdp: sdp.to_owned(), ..v1::Answer::default() })
}

/// A device calls the line's service; both ends of the call, ringing.
pub(super) async fn ring(call: &Call, device: &Session, service: &Session) -> anyhow::Result<(Leg, Leg)> {
    let (mut caller, mut callee) = loop {
        let mut caller = call.place(device, None, RING).await?;
        tokio::select! {
            taken = call.taken(service) => {
                break (caller, taken.context("the call did not reach the service")?.0);
            }
            end = caller.end() => match end? {
                // One device places many calls here.
                end if end.reason() == Reason::Limited => sleep(Duration::from_secs(1)).await,
                end => bail!("the call ended with {} {:?}", reason_name(end.reason()), end.message),
            },
        }
    };
    callee.send(ringing()).await?;
    let Message::Ringing(rings) = caller.next().await? else { bail!("Ringing was not relayed") };
    ensure!(!rings.branch.is_empty(), "CALL-BRANCH-02: the branch has no id");
    Ok((caller, callee))
}

/// The same, answered.
pub(super) async fn connect(call: &Call, device: &Session, service: &Session) -> anyhow::Result<(Leg, Leg)> {
    let (mut caller, mut callee) = ring(call, device, service).await?;
    callee.send(answer(ANSWER)).await?;
    match caller.next().await? {
        Message::Answer(answer) if answer.sdp == ANSWER => Ok((caller, callee)),
        other => bail!("instead of the Answer {other:?} came"),
    }
}

/// How a call that the first device places ends.
async fn placed_ends(world: &World, to: &str) -> anyhow::Result<v1::Hangup> {
    let device = world.device(0).await?;
    Call::new(&world.person(0)?.name, to).place(&device, None, RING).await?.end().await
}

async fn to_nobody(world: &World) -> Seen {
    let end = placed_ends(world, &format!("no-such-person@{}", world.subject.name)).await?;
    ensure!(end.reason() == Reason::NotReachable, "ended with {}", reason_name(end.reason()));
    Ok(format!("NOT_REACHABLE {:?}", end.message))
}

async fn to_absent_name(world: &World) -> Seen {
    let end = placed_ends(world, &format!("ann@{}", world.name("absent"))).await?;
    let good = [Reason::NotReachable, Reason::Failed, Reason::NotFound].contains(&end.reason());
    ensure!(good && !end.message.is_empty(), "ended with {} {:?}", reason_name(end.reason()), end.message);
    Ok(format!("{} {:?}", reason_name(end.reason()), end.message))
}

async fn to_refusing(world: &World) -> Seen {
    let _person = world.device(0).await?;
    let session = world.homeserver().await?;
    let mut ends = Vec::new();
    for to in [format!("zzz@{}", world.subject.name), world.person(0)?.name.clone()] {
        let call = Call::new(&world.home.address("stranger"), &to);
        let mut leg = call.place(&session, Some(&world.home.message_key), 2000).await?;
        let mut end = leg.end().await?;
        if end.reason() == Reason::NoAnswer {
            bail!(Skipped(format!("{to} lets strangers in: start the subject with people who do not")));
        }
        end.message = end.message.replace(&to, "ADDRESS");
        ends.push(end);
    }
    ensure!(ends[0] == ends[1], "told apart: {:?} and {:?}", ends[0], ends[1]);
    ensure!(ends[0].reason() == Reason::NotReachable, "ended with {}", reason_name(ends[0].reason()));
    Ok("both NOT_REACHABLE".into())
}

async fn to_empty_line(world: &World) -> Seen {
    drop(world.service().await?);
    // The subject needs a moment to notice that the service is gone.
    sleep(Duration::from_millis(300)).await;
    let end = placed_ends(world, world.line()?).await?;
    ensure!(end.reason() == Reason::TrunkDown, "ended with {}", reason_name(end.reason()));
    Ok(format!("TRUNK_DOWN {:?}", end.message))
}

async fn relayed(world: &World) -> Seen {
    let (device, service) = (world.device(0).await?, world.service().await?);
    let call = to_line(world)?;
    let sent = call.invite(None, 0);
    let mut caller = Leg::new(device.open(Open::Call(call.open())).await?);
    caller.send(Message::Invite(sent.clone())).await?;
    let (mut callee, got) = call.taken(&service).await.context("the call did not reach the service")?;
    ensure!(got.body == sent.body && got.sdp == sent.sdp, "the Invite's body or offer was changed");
    check_invite(&got, &world.subject_card().await?)?;
    let expected = 1..=90_000;
    ensure!(expected.contains(&got.remaining_ms), "CALL-INVITE-04: {} ms remain of 0", got.remaining_ms);
    callee.send(ringing()).await?;
    let Message::Ringing(rings) = caller.next().await? else { bail!("Ringing was not relayed") };
    callee.send(answer(ANSWER)).await?;
    let Message::Answer(answered) = caller.next().await? else { bail!("Answer was not relayed") };
    ensure!(answered.sdp == ANSWER, "the Answer's SDP was changed");
    ensure!(answered.branch == rings.branch && !rings.branch.is_empty(), "CALL-BRANCH-02: branch ids differ");
    ensure!(caller.token.is_some(), "CALL-RESUME-03: no token was given");
    caller.hang_up(Reason::Normal).await?;
    callee.ends_with(Reason::Normal).await
}

async fn people(world: &World) -> Seen {
    let (ann, bob) = (world.device(0).await?, world.device(1).await?);
    let call = Call::new(&world.person(0)?.name, &world.person(1)?.name);
    let (mut caller, mut callee) = connect(&call, &ann, &bob).await?;
    callee.hang_up(Reason::Normal).await?;
    caller.ends_with(Reason::Normal).await
}

async fn from_afar(world: &World) -> Seen {
    let (service, session) = (world.service().await?, world.homeserver().await?);
    let call = Call::new(&world.home.address("caller"), world.line()?);
    let sent = call.invite(Some(&world.home.message_key), 60_000);
    let mut caller = Leg::new(session.open(Open::Call(call.open())).await?);
    // Time that passes on this hop.
    sleep(Duration::from_millis(400)).await;
    caller.send(Message::Invite(sent.clone())).await?;
    let (mut callee, got) = call.taken(&service).await.context("the call did not reach the service")?;
    ensure!(got.body == sent.body, "the signed body was changed");
    ensure!((&got.key, &got.signature) == (&sent.key, &sent.signature), "the signature was changed");
    ensure!(
        (1..=59_800).contains(&got.remaining_ms),
        "CALL-INVITE-04: {} ms remain of 60000 after 400",
        got.remaining_ms
    );
    callee.send(ringing()).await?;
    callee.send(answer(ANSWER)).await?;
    let Message::Ringing(_) = caller.next().await? else { bail!("Ringing was not relayed") };
    let Message::Answer(_) = caller.next().await? else { bail!("Answer was not relayed") };
    callee.hang_up(Reason::Normal).await?;
    caller.ends_with(Reason::Normal).await?;
    Ok(format!("answered, {} ms remained of 60000", got.remaining_ms))
}

async fn to_afar(world: &World) -> Seen {
    let device = world.device(0).await?;
    let call = Call::new(&world.person(0)?.name, &world.home.address("callee"));
    let mut caller = call.place(&device, None, 30_000).await?;
    let (open, stream) = world.peer.call(&call.id, Duration::from_secs(10)).await?;
    let (mut callee, got) = call.answered(open, stream).await?;
    check_invite(&got, &world.subject_card().await?)?;
    ensure!((1..=30_000).contains(&got.remaining_ms), "CALL-INVITE-04: {} ms remain", got.remaining_ms);
    let branch = Bytes::from_static(b"branch-1");
    callee.send(Message::Ringing(v1::Ringing { branch: branch.clone(), sdp: String::new() })).await?;
    let Message::Ringing(rings) = caller.next().await? else { bail!("Ringing was not relayed") };
    ensure!(rings.branch == branch, "the branch id of the callee's homeserver was changed");
    callee
        .send(Message::Answer(v1::Answer { branch, sdp: ANSWER.into(), answered_by: String::new() }))
        .await?;
    let Message::Answer(_) = caller.next().await? else { bail!("Answer was not relayed") };
    caller.hang_up(Reason::Normal).await?;
    callee.ends_with(Reason::Normal).await
}

type Spoil = fn(&Call, &Key) -> v1::Invite;

async fn bad_invites(world: &World) -> Seen {
    let spoils: [(&str, Spoil); 9] = [
        ("a stranger's signature", |call, _| call.invite(Some(&Key::generate()), RING)),
        ("no signature", |call, _| call.invite(None, RING)),
        ("another offer than the hash says", |call, key| v1::Invite {
            sdp: ANSWER.into(),
            ..call.invite(Some(key), RING)
        }),
        ("a time 11 min ago", |call, key| {
            invite(&v1::InviteBody { time_ms: now_ms() - 660_000, ..call.body() }, Some(key), RING)
        }),
        ("another call's body", |call, key| Call::new(&call.from, &call.to).invite(Some(key), RING)),
        ("another callee's body", |call, key| {
            invite(&v1::InviteBody { to: call.from.clone(), ..call.body() }, Some(key), RING)
        }),
        ("a caller in capitals", |call, key| {
            invite(&v1::InviteBody { from: call.from.to_uppercase(), ..call.body() }, Some(key), RING)
        }),
        ("6 diversions", |call, key| {
            let diversion =
                v1::Diversion { from: call.to.clone(), to: call.to.clone(), reason: String::new() };
            invite(&v1::InviteBody { diversions: vec![diversion; 6], ..call.body() }, Some(key), RING)
        }),
        ("a body that does not decode", |call, key| {
            let body = Bytes::from_static(&[0x0a, 0x7f]);
            let signature = key.sign("ahoy-invite-v1", &[&body]);
            v1::Invite { body, signature, ..call.invite(Some(key), RING) }
        }),
    ];
    let (service, session) = (world.service().await?, world.homeserver().await?);
    for (what, spoil) in spoils {
        let call = Call::new(&world.home.address("forger"), world.line()?);
        let mut leg = Leg::new(session.open(Open::Call(call.open())).await?);
        leg.send(Message::Invite(spoil(&call, &world.home.message_key))).await?;
        let end = leg.end().await.with_context(|| format!("{what}: the call was not ended"))?;
        ensure!(end.reason() != Reason::NoAnswer, "{what}: it rang");
    }
    while let Ok((open, _)) = service.accept(Duration::from_millis(300)).await {
        if let Open::Call(open) = open {
            ensure!(!open.from.starts_with("forger"), "a refused call reached the service: {open:?}");
        }
    }
    Ok(format!("{} refused, none reached the service", spoils.len()))
}

async fn as_another(world: &World) -> Seen {
    let (device, session) = (world.device(0).await?, world.homeserver().await?);
    let call = Call::new(&world.person(1)?.name, world.line()?);
    let end = call.place(&device, None, RING).await?.end().await.context("a device as another person")?;
    ensure!(end.reason() == Reason::Forbidden, "ended with {}", reason_name(end.reason()));
    let call = Call::new(&format!("x@{}", world.name("unclaimed")), world.line()?);
    let mut leg = call.place(&session, Some(&world.home.message_key), RING).await?;
    match leg.end().await {
        Ok(end) => ensure!(end.reason() == Reason::Forbidden, "ended with {}", reason_name(end.reason())),
        refused => drop(expect_refusal(refused, ErrorCode::NotAllowed)?),
    }
    Ok("both refused".into())
}

async fn without_invite(world: &World) -> Seen {
    let device = world.device(0).await?;
    let mut leg = Leg::new(device.open(Open::Call(to_line(world)?.open())).await?);
    leg.send(ringing()).await?;
    match leg.end().await {
        Ok(end) => Ok(format!("{} {:?}", reason_name(end.reason()), end.message)),
        Err(error) if error.is::<Refused>() => Ok(format!("{error:#}")),
        Err(error) => Err(error),
    }
}
