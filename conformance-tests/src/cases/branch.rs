//! Branches of a call: what each side may say when, which branch wins, and how a call ends.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use tokio::time::{Instant, sleep};

use ahoy_proto::v1::{self, HangupReason as Reason, call_frame::Message};

use super::call::{RING, answer, connect, ring, ringing, to_line};
use super::{Case, Seen};
use crate::leg::{ANSWER, Call, Leg, reason_name};
use crate::refusal::Skipped;
use crate::session::Session;
use crate::world::World;

pub(super) const CASES: &[Case] = &[
    Case::new("call-refused", &["CALL-BRANCH-07"], "BUSY, DECLINED and NOT_FOUND reach the caller", |w| {
        Box::pin(refused(w))
    }),
    Case::new("call-unknown-reason", &["CALL-END-01"], "an unknown reason acts as NORMAL", |w| {
        Box::pin(unknown_reason(w))
    }),
    Case::new(
        "call-ring-deadline",
        &["CALL-BRANCH-05"],
        "without an answer in the ring time both sides get NO_ANSWER",
        |w| Box::pin(ring_deadline(w)),
    ),
    Case::new("call-early-media", &["CALL-BRANCH-06"], "early media extends the ring time", |w| {
        Box::pin(early(w))
    }),
    Case::new(
        "call-cancelled",
        &["CALL-END-03"],
        "a caller's hang-up before the answer reaches the callee as CANCELLED",
        |w| Box::pin(cancelled(w)),
    ),
    Case::new(
        "call-in-progress",
        &["CALL-BRANCH-01"],
        "Hold, Dtmf and ICE restarts pass both ways after the answer",
        |w| Box::pin(in_progress(w)),
    ),
    Case::new(
        "call-glare",
        &["CALL-INVITE-21"],
        "of two people who call each other the call with the lower id survives",
        |w| Box::pin(glare(w)),
    ),
    Case::new("call-transfer", &["WIRE-ERR-01"], "a reserved Transfer ends the call with FAILED", |w| {
        Box::pin(transfer(w))
    }),
    Case::new(
        "call-caller-out-of-turn",
        &["CALL-BRANCH-02", "CALL-BRANCH-03"],
        "an Answer, or an Offer nobody asked for, by the caller ends the call with FAILED",
        |w| Box::pin(caller_out_of_turn(w)),
    ),
    Case::new(
        "call-second-sdp",
        &["CALL-BRANCH-04"],
        "a branch that changes its SDP is ended with FAILED",
        |w| Box::pin(second_sdp(w)),
    ),
    Case::new(
        "call-answer-without-sdp",
        &["CALL-MEDIA-01"],
        "an answer without SDP on a branch that has none is refused",
        |w| Box::pin(without_sdp(w)),
    ),
    Case::new(
        "call-first-answer-wins",
        &["CALL-BRANCH-08"],
        "the first answer ends the other branches with ANSWERED_ELSEWHERE",
        |w| Box::pin(first_answer(w)),
    ),
    Case::new(
        "call-later-branch",
        &["CALL-BRANCH-09", "CALL-BRANCH-03"],
        "a branch that answers after the offer was spent gets an offer of its own",
        |w| Box::pin(later_branch(w)),
    ),
];

async fn refused(world: &World) -> Seen {
    let (device, service) = (world.device(0).await?, world.service().await?);
    for reason in [Reason::Busy, Reason::Declined, Reason::NotFound] {
        let (mut caller, mut callee) = ring(&to_line(world)?, &device, &service).await?;
        callee.hang_up(reason).await?;
        caller.ends_with(reason).await?;
    }
    Ok("each as it was said".into())
}

async fn unknown_reason(world: &World) -> Seen {
    let (device, service) = (world.device(0).await?, world.service().await?);
    let (mut caller, mut callee) = connect(&to_line(world)?, &device, &service).await?;
    callee.send(Message::Hangup(v1::Hangup { reason: 99, ..v1::Hangup::default() })).await?;
    let end = caller.end().await.context("the call did not end")?;
    ensure!([1, 99].contains(&end.reason), "ended with {}", end.reason);
    Ok(format!("reason {}", end.reason))
}

async fn ring_deadline(world: &World) -> Seen {
    let (device, service) = (world.device(0).await?, world.service().await?);
    let call = to_line(world)?;
    let begun = Instant::now();
    let mut caller = call.place(&device, None, 1500).await?;
    let (mut callee, _) = call.taken(&service).await?;
    callee.send(ringing()).await?;
    caller.ends_with(Reason::NoAnswer).await.context("the caller")?;
    let took = begun.elapsed().as_millis();
    callee.ends_with(Reason::NoAnswer).await.context("the callee")?;
    ensure!((1200..4000).contains(&took), "after {took} ms instead of 1500");
    Ok(format!("both after {took} ms"))
}

async fn early(world: &World) -> Seen {
    let (device, service) = (world.device(0).await?, world.service().await?);
    let call = to_line(world)?;
    let mut caller = call.place(&device, None, 1500).await?;
    let (mut callee, _) = call.taken(&service).await?;
    callee.send(Message::Early(v1::Early { sdp: ANSWER.into(), ..v1::Early::default() })).await?;
    let Message::Early(early) = caller.next().await? else { bail!("Early was not relayed") };
    ensure!(early.sdp == ANSWER, "its SDP was changed");
    sleep(Duration::from_millis(2500)).await;
    callee.send(answer(ANSWER)).await?;
    match caller.next().await? {
        Message::Answer(_) => {}
        other => bail!("the call ended while early media flowed: {other:?}"),
    }
    caller.hang_up(Reason::Normal).await?;
    callee.ends_with(Reason::Normal).await?;
    Ok("answered 1 s after the ring time".into())
}

async fn cancelled(world: &World) -> Seen {
    let (device, service) = (world.device(0).await?, world.service().await?);
    let (mut caller, mut callee) = ring(&to_line(world)?, &device, &service).await?;
    caller.hang_up(Reason::Normal).await?;
    callee.ends_with(Reason::Cancelled).await
}

async fn in_progress(world: &World) -> Seen {
    let (device, service) = (world.device(0).await?, world.service().await?);
    let (mut caller, mut callee) = connect(&to_line(world)?, &device, &service).await?;
    let messages = [
        Message::Dtmf(v1::Dtmf { digits: "12#".into(), duration_ms: 120 }),
        Message::Hold(v1::Hold { direction: v1::HoldDirection::BySender.into() }),
        Message::Hold(v1::Hold { direction: v1::HoldDirection::None.into() }),
        Message::IceRestart(v1::IceRestart {
            sdp: crate::leg::OFFER.into(),
            generation: 1,
            ..Default::default()
        }),
    ];
    for message in messages {
        caller.send(message.clone()).await?;
        same(&callee.next().await?, &message).context("from the caller")?;
    }
    let restarted = v1::IceRestartAnswer { sdp: ANSWER.into(), generation: 1, ..Default::default() };
    callee.send(Message::IceRestartAnswer(restarted.clone())).await?;
    same(&caller.next().await?, &Message::IceRestartAnswer(restarted))?;
    let digits = Message::Dtmf(v1::Dtmf { digits: "9".into(), duration_ms: 0 });
    callee.send(digits.clone()).await?;
    same(&caller.next().await?, &digits).context("from the callee")?;
    callee.hang_up(Reason::Normal).await?;
    caller.ends_with(Reason::Normal).await?;
    Ok("6 messages".into())
}

/// Equal but for the branch, which each hop names as it likes.
fn same(got: &Message, wanted: &Message) -> anyhow::Result<()> {
    let plain = |message: &Message| match message.clone() {
        Message::IceRestart(m) => Message::IceRestart(v1::IceRestart { branch: Bytes::new(), ..m }),
        Message::IceRestartAnswer(m) => {
            Message::IceRestartAnswer(v1::IceRestartAnswer { branch: Bytes::new(), ..m })
        }
        Message::Offer(m) => Message::Offer(v1::Offer { branch: Bytes::new(), ..m }),
        Message::OfferAnswer(m) => Message::OfferAnswer(v1::OfferAnswer { branch: Bytes::new(), ..m }),
        other => other,
    };
    ensure!(plain(got) == plain(wanted), "expected {wanted:?}, got {got:?}");
    Ok(())
}

async fn transfer(world: &World) -> Seen {
    let (device, service) = (world.device(0).await?, world.service().await?);
    let (mut caller, mut callee) = connect(&to_line(world)?, &device, &service).await?;
    let transfer = v1::Transfer { target: world.home.address("other"), ..v1::Transfer::default() };
    caller.send(Message::Transfer(transfer)).await?;
    let seen = caller.ends_with(Reason::Failed).await?;
    callee.end().await.context("the callee was not told")?;
    Ok(seen)
}

async fn caller_out_of_turn(world: &World) -> Seen {
    let (device, service) = (world.device(0).await?, world.service().await?);
    let offer = v1::Offer { sdp: crate::leg::OFFER.into(), ..v1::Offer::default() };
    for message in [answer(ANSWER), Message::Offer(offer)] {
        let (mut caller, mut callee) = ring(&to_line(world)?, &device, &service).await?;
        caller.send(message.clone()).await?;
        caller.ends_with(Reason::Failed).await.with_context(|| format!("{message:?}"))?;
        callee.end().await.context("the callee was not told")?;
    }
    Ok("both ended with FAILED".into())
}

async fn second_sdp(world: &World) -> Seen {
    let (device, service) = (world.device(0).await?, world.service().await?);
    let (mut caller, mut callee) = ring(&to_line(world)?, &device, &service).await?;
    callee.send(Message::Early(v1::Early { sdp: ANSWER.into(), ..v1::Early::default() })).await?;
    let Message::Early(_) = caller.next().await? else { bail!("Early was not relayed") };
    callee.send(answer(&format!("{ANSWER}a=other\r\n"))).await?;
    callee.ends_with(Reason::Failed).await.context("the branch")?;
    let seen = caller.ends_with(Reason::Failed).await.context("the caller")?;
    Ok(seen)
}

async fn without_sdp(world: &World) -> Seen {
    let (device, service) = (world.device(0).await?, world.service().await?);
    let (mut caller, mut callee) = ring(&to_line(world)?, &device, &service).await?;
    callee.send(answer("")).await?;
    let at_callee = callee.end().await.context("the branch was not ended")?;
    let at_caller = caller.end().await.context("the caller was not told")?;
    Ok(format!("{}, {}", reason_name(at_callee.reason()), reason_name(at_caller.reason())))
}

/// A call to the line that rings at the service and at the second person: all three ends.
async fn ring_both(
    world: &World,
    device: &Session,
    service: &Session,
    other: &Session,
) -> anyhow::Result<[Leg; 3]> {
    let needed =
        "needs a second --service-invite address whose line rings at the service and at the second account";
    let line = world.desk()?.addresses.get(1).ok_or_else(|| Skipped(needed.into()))?;
    let call = Call::new(&world.person(0)?.name, line);
    let mut caller = call.place(device, None, RING).await?;
    let (mut first, _) = call.taken(service).await.context("the call did not reach the service")?;
    let Ok((mut second, _)) = call.taken_within(other, Duration::from_secs(3)).await else {
        bail!(Skipped(needed.into()));
    };
    first.send(ringing()).await?;
    second.send(ringing()).await?;
    for _ in 0..2 {
        let Message::Ringing(_) = caller.next().await? else { bail!("Ringing was not relayed") };
    }
    Ok([caller, first, second])
}

async fn first_answer(world: &World) -> Seen {
    let (device, service, other) = (world.device(0).await?, world.service().await?, world.device(1).await?);
    let [mut caller, mut first, mut second] = ring_both(world, &device, &service, &other).await?;
    second.send(answer(ANSWER)).await?;
    first.ends_with(Reason::AnsweredElsewhere).await.context("the other branch")?;
    let answered = async {
        loop {
            if let Message::Answer(answer) = caller.next().await? {
                return anyhow::Ok(answer);
            }
        }
    };
    ensure!(answered.await?.sdp == ANSWER, "the answer's SDP was changed");
    caller.hang_up(Reason::Normal).await?;
    second.ends_with(Reason::Normal).await?;
    Ok("ANSWERED_ELSEWHERE at the other branch".into())
}

async fn later_branch(world: &World) -> Seen {
    let (device, service, other) = (world.device(0).await?, world.service().await?, world.device(1).await?);
    let [mut caller, mut first, mut second] = ring_both(world, &device, &service, &other).await?;
    first.send(Message::Early(v1::Early { sdp: ANSWER.into(), ..v1::Early::default() })).await?;
    let Message::Early(_) = caller.next().await? else { bail!("Early was not relayed") };
    let other_sdp = format!("{ANSWER}a=second\r\n");
    second.send(answer(&other_sdp)).await?;
    let asked = loop {
        match caller.next().await? {
            Message::OfferRequest(request) => break request,
            Message::Answer(answer) => ensure!(answer.sdp.is_empty(), "the spent offer was answered twice"),
            Message::BranchEnded(_) => {}
            other => bail!("instead of OfferRequest {other:?} came"),
        }
    };
    let offer = Message::Offer(v1::Offer { branch: asked.branch.clone(), sdp: crate::leg::OFFER.into() });
    caller.send(offer.clone()).await?;
    same(&second.next().await?, &offer).context("at the branch")?;
    let reply = v1::OfferAnswer { branch: Bytes::new(), sdp: other_sdp };
    second.send(Message::OfferAnswer(reply.clone())).await?;
    loop {
        match caller.next().await? {
            Message::OfferAnswer(got) => {
                ensure!(got.branch == asked.branch, "the OfferAnswer is of another branch");
                same(&Message::OfferAnswer(got), &Message::OfferAnswer(reply))?;
                break;
            }
            Message::Answer(_) | Message::BranchEnded(_) => {}
            other => bail!("instead of OfferAnswer {other:?} came"),
        }
    }
    caller.hang_up(Reason::Normal).await?;
    second.ends_with(Reason::Normal).await?;
    Ok("OfferRequest, Offer, OfferAnswer".into())
}

async fn glare(world: &World) -> Seen {
    let (ann, bob) = (world.device(0).await?, world.device(1).await?);
    let (one, other) = (&world.person(0)?.name, &world.person(1)?.name);
    let mut lower = Call::new(one, other);
    let mut higher = Call::new(other, one);
    if higher.id < lower.id {
        std::mem::swap(&mut lower.id, &mut higher.id);
    }
    let mut survivor = lower.place(&ann, None, RING).await?;
    let (mut callee, _) = lower.taken(&bob).await?;
    let mut loser = higher.place(&bob, None, RING).await?;
    let seen = loser.ends_with(Reason::Superseded).await?;
    callee.send(answer(ANSWER)).await?;
    let Message::Answer(_) = survivor.next().await? else { bail!("the surviving call did not go on") };
    survivor.hang_up(Reason::Normal).await?;
    callee.ends_with(Reason::Normal).await?;
    Ok(seen)
}
