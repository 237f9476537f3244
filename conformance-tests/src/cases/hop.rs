//! Hops of a call: numbers, tokens, and what happens when a connection is lost in the middle of a call.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use tokio::time::{Instant, sleep};

use ahoy_proto::v1::{self, ErrorCode, HangupReason as Reason, call_frame::Message};

use super::call::{RING, answer, connect, ring, ringing, to_line};
use super::{Case, Seen};
use crate::leg::{ANSWER, Call, Leg};
use crate::moment::random;
use crate::refusal::{Refused, expect_refusal};
use crate::session::Session;
use crate::world::World;

pub(super) const CASES: &[Case] = &[
    Case::new("hop-gap", &["CALL-RESUME-01"], "a message whose number leaves a gap ends the hop", |w| {
        Box::pin(gap(w))
    }),
    Case::new(
        "hop-repeat",
        &["CALL-RESUME-01"],
        "a message with a number that was received is ignored",
        |w| Box::pin(repeat(w)),
    ),
    Case::new(
        "hop-resumed",
        &["CALL-RESUME-02", "CALL-RESUME-03", "CALL-RESUME-04"],
        "a device that lost its connection resumes its call and hears what it missed",
        |w| Box::pin(resumed(w)),
    ),
    Case::new(
        "hop-superseded",
        &["CALL-RESUME-04"],
        "Resume takes over from a stream that is still open",
        |w| Box::pin(superseded(w)),
    ),
    Case::new(
        "hop-reused-token",
        &["CALL-RESUME-03", "CALL-RESUME-04"],
        "a token that was used is refused with BAD_RESUME_TOKEN, and the call goes on",
        |w| Box::pin(reused_token(w)),
    ),
    Case::new(
        "hop-unknown-call",
        &["CALL-RESUME-04"],
        "Resume of an unknown call is refused with UNKNOWN_CALL",
        |w| Box::pin(unknown_call(w)),
    ),
    Case::new(
        "hop-of-another",
        &["CALL-RESUME-04"],
        "another person's call cannot be resumed, token or not",
        |w| Box::pin(of_another(w)),
    ),
    Case::new(
        "hop-too-much-missing",
        &["CALL-RESUME-02"],
        "Resume that claims what was not sent is refused with UNKNOWN_CALL",
        |w| Box::pin(too_much(w)),
    ),
    Case::new(
        "hop-not-resumed",
        &["CALL-RESUME-05"],
        "a hop that is not resumed for 15 s ends the call with CONNECTION_LOST",
        |w| Box::pin(not_resumed(w)),
    ),
    Case::new(
        "hop-resumed-by-the-subject",
        &["CALL-RESUME-02", "CALL-RESUME-04"],
        "the subject resumes a call to us after we lost its connection",
        |w| Box::pin(by_the_subject(w)),
    ),
];

async fn gap(world: &World) -> Seen {
    let (device, service) = (world.device(0).await?, world.service().await?);
    let (mut caller, mut callee) = connect(&to_line(world)?, &device, &service).await?;
    let digits = v1::Dtmf { digits: "1".into(), duration_ms: 0 };
    caller.send_as(caller.sent + 2, Message::Dtmf(digits)).await?;
    let seen = match caller.end().await {
        Ok(end) => format!("{:?} {:?}", end.reason(), end.message),
        Err(error) if error.is::<Refused>() => format!("{error:#}"),
        Err(error) => return Err(error.context("the hop goes on over a gap")),
    };
    callee.end().await.context("the callee was not told")?;
    Ok(seen)
}

async fn repeat(world: &World) -> Seen {
    let (device, service) = (world.device(0).await?, world.service().await?);
    let (mut caller, mut callee) = connect(&to_line(world)?, &device, &service).await?;
    let digits = |digits: &str| Message::Dtmf(v1::Dtmf { digits: digits.into(), duration_ms: 0 });
    caller.send(digits("1")).await?;
    caller.send_as(caller.sent, digits("2")).await?;
    caller.send_as(1, digits("3")).await?;
    caller.send(digits("4")).await?;
    let (first, second) = (callee.next().await?, callee.next().await?);
    ensure!((&first, &second) == (&digits("1"), &digits("4")), "the callee heard {first:?}, then {second:?}");
    caller.hang_up(Reason::Normal).await?;
    callee.ends_with(Reason::Normal).await?;
    Ok("two repeats were ignored".into())
}

/// Opens a stream that resumes the caller's hop and reads the acceptor's `Resumed`.
async fn resume(call: &Call, session: &Session, leg: Leg) -> anyhow::Result<(Leg, u64)> {
    let stream = call.resume(session, leg.to_resume()?).await?;
    let before = leg.token.clone();
    let mut leg = leg.on(stream);
    let resumed = match leg.next().await? {
        Message::Resumed(resumed) => resumed,
        other => bail!("the answer to Resume begins with {other:?}"),
    };
    ensure!(leg.token != before, "CALL-RESUME-03: the resumed stream has no new token");
    Ok((leg, resumed.last_received))
}

async fn resumed(world: &World) -> Seen {
    let (device, service) = (world.device(0).await?, world.service().await?);
    let call = to_line(world)?;
    let (caller, mut callee) = ring(&call, &device, &service).await?;
    drop(device);
    callee.send(answer(ANSWER)).await?;
    sleep(Duration::from_millis(200)).await;
    let device = world.device(0).await?;
    let (mut caller, last) = resume(&call, &device, caller).await?;
    ensure!(last == 1, "the subject received {last} messages instead of the Invite alone");
    let Message::Answer(answered) = caller.next().await? else { bail!("the Answer was not replayed") };
    ensure!(answered.sdp == ANSWER, "the replayed Answer has another SDP");
    caller.hang_up(Reason::Normal).await?;
    callee.ends_with(Reason::Normal).await?;
    Ok("the Answer that came meanwhile was replayed".into())
}

async fn superseded(world: &World) -> Seen {
    let (device, service) = (world.device(0).await?, world.service().await?);
    let call = to_line(world)?;
    let (caller, mut callee) = connect(&call, &device, &service).await?;
    let again = world.device(0).await?;
    let stream = call.resume(&again, caller.to_resume()?).await?;
    let (mut caller, mut old) = caller.moved_to(stream);
    let Message::Resumed(_) = caller.next().await? else { bail!("it was not resumed") };
    let digits = Message::Dtmf(v1::Dtmf { digits: "7".into(), duration_ms: 0 });
    caller.send(digits.clone()).await?;
    ensure!(callee.next().await? == digits, "the callee did not hear the resumed stream");
    let end = old.end(Duration::from_secs(3)).await;
    ensure!(!matches!(end, crate::frame::End::Silent(_)), "the old stream stays open");
    caller.hang_up(Reason::Normal).await?;
    callee.ends_with(Reason::Normal).await?;
    Ok(format!("taken over; the old stream: {end}"))
}

async fn refused_resume(call: &Call, session: &Session, resume: v1::Resume, wanted: ErrorCode) -> Seen {
    let mut leg = Leg::new(call.resume(session, resume).await?);
    expect_refusal(leg.next().await, wanted)
}

async fn reused_token(world: &World) -> Seen {
    let (device, service) = (world.device(0).await?, world.service().await?);
    let call = to_line(world)?;
    let (caller, mut callee) = connect(&call, &device, &service).await?;
    let spent = caller.to_resume()?;
    let (mut caller, _) = resume(&call, &device, caller).await?;
    let seen = refused_resume(&call, &device, spent, ErrorCode::BadResumeToken).await?;
    let digits = Message::Dtmf(v1::Dtmf { digits: "8".into(), duration_ms: 0 });
    caller.send(digits.clone()).await?;
    let heard = callee.next().await.context("after the refused Resume")?;
    ensure!(heard == digits, "after the refused Resume the callee heard {heard:?}");
    caller.hang_up(Reason::Normal).await?;
    callee.ends_with(Reason::Normal).await?;
    Ok(seen)
}

async fn unknown_call(world: &World) -> Seen {
    let device = world.device(0).await?;
    let resume = v1::Resume { token: Bytes::copy_from_slice(&random::<16>()), last_received: 0 };
    refused_resume(&to_line(world)?, &device, resume, ErrorCode::UnknownCall).await
}

async fn of_another(world: &World) -> Seen {
    let (device, service, other) = (world.device(0).await?, world.service().await?, world.device(1).await?);
    let call = to_line(world)?;
    let (mut caller, mut callee) = connect(&call, &device, &service).await?;
    let seen = refused_resume(&call, &other, caller.to_resume()?, ErrorCode::UnknownCall).await?;
    caller.hang_up(Reason::Normal).await?;
    callee.ends_with(Reason::Normal).await.context("the call did not go on")?;
    Ok(seen)
}

async fn too_much(world: &World) -> Seen {
    let (device, service) = (world.device(0).await?, world.service().await?);
    let call = to_line(world)?;
    let (caller, _callee) = connect(&call, &device, &service).await?;
    let beyond = v1::Resume { last_received: caller.received + 1000, ..caller.to_resume()? };
    refused_resume(&call, &device, beyond, ErrorCode::UnknownCall).await
}

async fn not_resumed(world: &World) -> Seen {
    let (device, service) = (world.device(0).await?, world.service().await?);
    let (_caller, mut callee) = connect(&to_line(world)?, &device, &service).await?;
    let begun = Instant::now();
    drop(device);
    let end = callee.end_within(Duration::from_secs(20)).await.context("the callee was not told")?;
    let took = begun.elapsed().as_millis();
    ensure!(end.reason() == Reason::ConnectionLost, "ended with {:?}", end.reason());
    ensure!((13_000..18_000).contains(&took), "after {took} ms instead of 15 s");
    Ok(format!("CONNECTION_LOST after {took} ms"))
}

async fn by_the_subject(world: &World) -> Seen {
    let device = world.device(0).await?;
    let call = Call::new(&world.person(0)?.name, &world.home.address("callee"));
    let mut caller = call.place(&device, None, RING).await?;
    let (open, stream) = world.peer.call(&call.id, Duration::from_secs(10)).await?;
    let (mut callee, _) = call.answered(open, stream).await?;
    callee.send(ringing()).await?;
    let Message::Ringing(_) = caller.next().await? else { bail!("Ringing was not relayed") };
    world.peer.cut();
    let (open, stream) =
        world.peer.call(&call.id, Duration::from_secs(15)).await.context("it was not resumed")?;
    let resume = open.resume.context("the call was opened anew: it would ring twice")?;
    ensure!(Some(&resume.token) == callee.token.as_ref(), "it was resumed with another token");
    ensure!(resume.last_received == 1, "it says that it received {}", resume.last_received);
    let mut callee = callee.on(stream);
    callee.give_token().await?;
    callee.send_as(0, Message::Resumed(v1::Resumed { last_received: callee.received })).await?;
    callee.send(answer(ANSWER)).await?;
    let Message::Answer(_) = caller.next().await? else { bail!("the Answer was not relayed") };
    caller.hang_up(Reason::Normal).await?;
    callee.ends_with(Reason::Normal).await
}
