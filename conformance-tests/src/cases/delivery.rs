//! Delivery to the subject: first contact, pipes, and what it does as a hub with what it gets.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use prost::Message as _;

use ahoy_proto::v1::{self, ErrorCode, pipe_item, request, response, sync_item::Item};

use super::{Case, Seen};
use crate::event::{self, EVENTS, Placed, attest, check_placed};
use crate::moment::now_ms;
use crate::pipe::Pipe;
use crate::refusal::{Refused, Skipped, check_error, expect_refusal};
use crate::session::Session;
use crate::sign::Key;
use crate::world::World;

/// How long the subject may take to deliver to the suite, retries included.
pub(super) const DELIVERY: Duration = Duration::from_secs(15);

pub(super) const CASES: &[Case] = &[
    Case::new(
        "delivery-contact",
        &["CONV-ID-01", "CONV-ID-02", "CONV-HUB-02"],
        "Contact names a line's kind, hub and conversation",
        |w| Box::pin(contact(w)),
    ),
    Case::new(
        "delivery-contact-strangers",
        &["CONV-HUB-03"],
        "unknown and refusing people get the same answer",
        |w| Box::pin(contact_strangers(w)),
    ),
    Case::new(
        "delivery-contact-for-others",
        &["NAME-CARD-07"],
        "Contact from an address of an unclaimed name is refused",
        |w| Box::pin(contact_for_others(w)),
    ),
    Case::new(
        "delivery-placed",
        &["EVENT-DELIVER-02", "EVENT-PLACE-04", "EVENT-PLACE-06"],
        "an event for a line is acknowledged, placed, heard by its service and sent back to us",
        |w| Box::pin(placed(w)),
    ),
    Case::new(
        "delivery-batch",
        &["EVENT-ATTEST-03", "EVENT-ATTEST-04"],
        "64 events under one signature are all placed, in order",
        |w| Box::pin(batch(w)),
    ),
    Case::new(
        "delivery-duplicate",
        &["EVENT-PLACE-07", "EVENT-DELIVER-08"],
        "the same event again is acknowledged and not placed again",
        |w| Box::pin(duplicate(w)),
    ),
    Case::new(
        "delivery-bad-attestation",
        &["EVENT-ATTEST-05", "EVENT-ATTEST-04", "EVENT-DELIVER-08"],
        "a wrong attestation is refused with BAD_ATTESTATION and the next item goes on",
        |w| Box::pin(bad_attestation(w)),
    ),
    Case::new(
        "delivery-bad-shape",
        &["EVENT-ATTEST-03"],
        "an attestation whose size, index and path do not fit is refused",
        |w| Box::pin(bad_shape(w)),
    ),
    Case::new(
        "delivery-malformed-event",
        &["EVENT-ATTEST-02", "CONV-ID-03", "NAME-ADDR-02"],
        "events with fields out of range are refused with MALFORMED, one by one",
        |w| Box::pin(malformed_event(w)),
    ),
    Case::new(
        "delivery-too-old",
        &["EVENT-DELIVER-05"],
        "an event older than 30 days is refused with TOO_OLD",
        |w| Box::pin(too_old(w)),
    ),
    Case::new(
        "delivery-wrong-hub",
        &["EVENT-PLACE-06", "CONV-HUB-01"],
        "an event for another hub is refused with WRONG_HUB",
        |w| Box::pin(wrong_hub(w)),
    ),
    Case::new("delivery-of-others", &["EVENT-ATTEST-05"], "a name cannot submit another name's event", |w| {
        Box::pin(of_others(w))
    }),
    Case::new(
        "delivery-stale-pipe",
        &["EVENT-DELIVER-01"],
        "a pipe whose epoch does not rise is refused with STALE_PIPE, and a newer one ends the older",
        |w| Box::pin(stale_pipe(w)),
    ),
    Case::new(
        "delivery-reopened",
        &["EVENT-DELIVER-08"],
        "a reopened pipe says how far it came and what was refused",
        |w| Box::pin(reopened(w)),
    ),
    Case::new(
        "delivery-pipe-for-others",
        &["EVENT-DELIVER-10"],
        "a pipe of a name that was not claimed is refused",
        |w| Box::pin(pipe_for_others(w)),
    ),
];

async fn ask(session: &Session, address: &str, from: &str) -> anyhow::Result<v1::ContactAnswer> {
    let contact = v1::Contact { address: address.to_owned(), from: from.to_owned() };
    match session.request(request::Request::Contact(contact)).await? {
        response::Response::Contact(answer) => Ok(answer),
        other => bail!("the answer to Contact is {other:?}"),
    }
}

async fn contact(world: &World) -> Seen {
    drop(world.service().await?);
    let (line, from) = (world.line()?, world.home.address("asker"));
    let answer = ask(&world.homeserver().await?, line, &from).await?;
    ensure!(answer.kind() == v1::AddressKind::Line, "{line} is {:?}", answer.kind());
    ensure!(answer.hub == world.subject.name, "the hub is {:?}", answer.hub);
    ensure!(answer.conversation == event::line(line, &from), "CONV-ID-02: another conversation id");
    Ok(format!("a line, ordered by {}", answer.hub))
}

async fn contact_strangers(world: &World) -> Seen {
    drop(world.device(0).await?);
    let (session, from) = (world.homeserver().await?, world.home.address("stranger"));
    let refused = |attempt: anyhow::Result<v1::ContactAnswer>| match attempt {
        Err(error) => error.downcast::<Refused>().map(|refused| Some(refused.0)),
        Ok(_) => Ok(None),
    };
    let nobody = format!("zzz@{}", world.subject.name);
    let unknown = refused(ask(&session, &nobody, &from).await)?.context("a person who does not exist")?;
    check_error(&unknown, ErrorCode::NotReachable)?;
    let person = &world.person(0)?.name;
    let Some(refusing) = refused(ask(&session, person, &from).await)? else {
        bail!(Skipped(format!("{person} lets strangers in: start the subject with people who do not")));
    };
    let plain = |error: &v1::Error, address: &str| v1::Error {
        message: error.message.replace(address, "ADDRESS"),
        ..error.clone()
    };
    let (unknown, refusing) = (plain(&unknown, &nobody), plain(&refusing, person));
    ensure!(unknown == refusing, "told apart: {unknown:?} and {refusing:?}");
    Ok(format!("both: {}", unknown.message))
}

async fn contact_for_others(world: &World) -> Seen {
    let from = format!("x@{}", world.name("unclaimed"));
    let session = world.homeserver().await?;
    expect_refusal(ask(&session, world.line()?, &from).await, ErrorCode::NotAllowed)
}

/// A new event of one of ours to the line.
pub(super) fn to_line(world: &World, local: &str, said: &str) -> anyhow::Result<v1::EventBody> {
    let (line, origin) = (world.line()?, world.home.address(local));
    Ok(event::event_body(&origin, line, &event::line(line, &origin), said))
}

fn own_card(world: &World) -> anyhow::Result<v1::Card> {
    let signed = world.peer.card(&world.home.name).context("the suite shows its own card")?;
    Ok(v1::Card::decode(signed.body)?)
}

/// What came back to us of this event, placed; waits for `count` of them.
async fn returned(world: &World, body: &[u8], count: usize) -> anyhow::Result<Vec<v1::PlacedEvent>> {
    let found = world.peer.deliveries(count, DELIVERY, |delivered| match &delivered.item.item {
        Some(pipe_item::Item::Placed(placed)) => {
            placed.event.as_ref().filter(|event| event.body == body).map(|_| placed.clone())
        }
        _ => None,
    });
    found.await.context("the placed event did not come back to its origin")
}

async fn checked_return(world: &World, body: &[u8]) -> anyhow::Result<Placed> {
    let returned = returned(world, body, 1).await?;
    let placed = returned.first().context("nothing came back")?;
    check_placed(placed, &world.subject_card().await?, &own_card(world)?)
}

async fn placed(world: &World) -> Seen {
    let service = world.service().await?;
    let said = format!("from afar {}", now_ms());
    let sent = event::event(&to_line(world, "writer", &said)?, &world.home.message_key);
    let mut pipe = Pipe::open(world).await?;
    let seq = pipe.submit(world.line()?, sent.clone()).await?;
    pipe.accepted(seq).await?;
    let back = checked_return(world, &sent.body).await?;
    let mut log = service.sync(0).await?;
    let heard = log.find(|item| match &item.item {
        Some(Item::Event(placed)) if placed.event.as_ref().is_some_and(|e| e.body == sent.body) => Some(()),
        _ => None,
    });
    heard.await.context("the line's service did not hear it")?;
    Ok(format!("placed at {} of epoch {:x}", back.placement.seq, back.placement.epoch))
}

async fn batch(world: &World) -> Seen {
    drop(world.service().await?);
    let bodies =
        (0..64).map(|n| to_line(world, "batch", &format!("{n} of a batch")).map(|b| b.encode_to_vec()));
    let bodies: Vec<Bytes> = bodies.map(|b| b.map(Bytes::from)).collect::<Result<_, _>>()?;
    let attestations = attest(&bodies, EVENTS, &world.home.message_key);
    let mut pipe = Pipe::open(world).await?;
    let mut last = 0;
    for (body, attestation) in bodies.iter().zip(attestations) {
        let event = v1::Event { body: body.clone(), attestation: Some(attestation) };
        last = pipe.submit(world.line()?, event).await?;
    }
    pipe.accepted(last).await?;
    let mut before = 0;
    for body in &bodies {
        let seq = checked_return(world, body).await?.placement.seq;
        ensure!(before == 0 || seq == before + 1, "placed at {seq} after {before}");
        before = seq;
    }
    Ok(format!("64 placed, the last at {before}"))
}

async fn duplicate(world: &World) -> Seen {
    drop(world.service().await?);
    let sent = event::event(&to_line(world, "twice", "the same again")?, &world.home.message_key);
    let mut pipe = Pipe::open(world).await?;
    let first = pipe.submit(world.line()?, sent.clone()).await?;
    pipe.accepted(first).await?;
    let one = checked_return(world, &sent.body).await?;
    let second = pipe.submit(world.line()?, sent.clone()).await?;
    pipe.accepted(second).await.context("the repeat")?;
    let follower = event::event(&to_line(world, "twice", "and another")?, &world.home.message_key);
    let third = pipe.submit(world.line()?, follower.clone()).await?;
    pipe.accepted(third).await?;
    let next = checked_return(world, &follower.body).await?;
    ensure!(
        next.placement.seq == one.placement.seq + 1,
        "the repeat took a position: {} and then {}",
        one.placement.seq,
        next.placement.seq
    );
    let positions = returned(world, &sent.body, 1).await?;
    let card = world.subject_card().await?;
    for placed in &positions {
        let seq = check_placed(placed, &card, &own_card(world)?)?.placement.seq;
        ensure!(seq == one.placement.seq, "it was placed at {seq} too");
    }
    Ok(format!("one position, told {} times", positions.len()))
}

/// Sends `wrong`, then something right, and gives why the first was refused.
async fn refused_and_on(world: &World, wrong: v1::Event) -> anyhow::Result<v1::Error> {
    drop(world.service().await?);
    let right = event::event(&to_line(world, "after", "what comes after")?, &world.home.message_key);
    let mut pipe = Pipe::open(world).await?;
    let first = pipe.submit(world.line()?, wrong).await?;
    let second = pipe.submit(world.line()?, right.clone()).await?;
    pipe.accepted(second).await.context("the item behind the refused one")?;
    checked_return(world, &right.body).await?;
    pipe.outcome(first).await?.context("it was accepted")
}

async fn bad_attestation(world: &World) -> Seen {
    let body = to_line(world, "forger", "forged")?;
    let by_stranger = refused_and_on(world, event::event(&body, &Key::generate())).await?;
    let seen = check_error(&by_stranger, ErrorCode::BadAttestation)?;
    let mut changed = event::event(&body, &world.home.message_key);
    changed.body = to_line(world, "forger", "changed")?.encode_to_vec().into();
    let changed = refused_and_on(world, changed).await?;
    check_error(&changed, ErrorCode::BadAttestation).context("a body that was changed afterwards")?;
    let mut bare = event::event(&to_line(world, "forger", "bare")?, &world.home.message_key);
    bare.attestation = None;
    let bare = refused_and_on(world, bare).await.context("no attestation at all")?;
    ensure!(bare.class() != v1::ErrorClass::Retry, "an event without attestation is to be retried");
    Ok(seen)
}

async fn bad_shape(world: &World) -> Seen {
    let mut seen = String::new();
    for (size, index, path) in [(0, 0, 0), (65, 0, 0), (1, 1, 0), (2, 0, 0), (1, 0, 1), (64, 3, 40)] {
        let mut wrong = event::event(&to_line(world, "shape", "misshapen")?, &world.home.message_key);
        if let Some(attestation) = &mut wrong.attestation {
            (attestation.size, attestation.index) = (size, index);
            attestation.path = vec![Bytes::from_static(&[5; 32]); path];
        }
        let refused = refused_and_on(world, wrong).await;
        let refused = refused.with_context(|| format!("size {size}, index {index}, {path} hashes"))?;
        seen = check_error(&refused, ErrorCode::BadAttestation)?;
    }
    Ok(seen)
}

type Change = fn(&mut v1::EventBody);

async fn malformed_event(world: &World) -> Seen {
    let changes: [(&str, Change); 6] = [
        ("a client id of 3 bytes", |body| body.client_id = Bytes::from_static(b"abc")),
        ("no nonce", |body| body.nonce = Bytes::new()),
        ("no content", |body| body.content = None),
        ("an origin in capitals", |body| body.origin = body.origin.to_uppercase()),
        ("a conversation id that is none", |body| body.conversation = Bytes::from_static(b"x")),
        ("another pair's conversation", |body| {
            body.conversation = event::line(&body.to, &format!("other-{}", body.origin));
        }),
    ];
    for (what, change) in changes {
        let mut body = to_line(world, "malformed", what)?;
        change(&mut body);
        let wrong = event::event(&body, &world.home.message_key);
        let refused = refused_and_on(world, wrong).await.with_context(|| what.to_owned())?;
        check_error(&refused, ErrorCode::Malformed).with_context(|| what.to_owned())?;
    }
    Ok(format!("{} refused one by one", changes.len()))
}

async fn too_old(world: &World) -> Seen {
    let mut body = to_line(world, "late", "from last month")?;
    body.time_ms -= 31 * 24 * 3600 * 1000;
    let old = event::event(&body, &world.home.message_key);
    check_error(&refused_and_on(world, old).await?, ErrorCode::TooOld)
}

async fn wrong_hub(world: &World) -> Seen {
    let person = &world.person(0)?.name;
    let origin = event::person_with_hub("hub", &world.home.name, person, &world.home.name);
    let (conversation, _) = event::direct(&origin, person);
    let body = event::event_body(&origin, person, &conversation, "you are not the hub");
    let wrong = event::event(&body, &world.home.message_key);
    check_error(&refused_and_on(world, wrong).await?, ErrorCode::WrongHub)
}

async fn of_others(world: &World) -> Seen {
    let (line, origin) = (world.line()?, format!("x@{}", world.name("good")));
    let body = event::event_body(&origin, line, &event::line(line, &origin), "not ours to say");
    let refused = refused_and_on(world, event::event(&body, &world.home.message_key)).await?;
    ensure!(refused.class() == v1::ErrorClass::Auth, "refused with {refused:?}, which is not of class auth");
    Ok(refused.message)
}

async fn stale_pipe(world: &World) -> Seen {
    let session = world.homeserver().await?;
    let epoch = now_ms();
    let mut older = Pipe::open_on(world, &session, epoch).await?;
    let same = Pipe::open_on(world, &session, epoch).await.map(|_| ());
    let seen = expect_refusal(same, ErrorCode::StalePipe).context("the same epoch")?;
    let lower = Pipe::open_on(world, &session, epoch - 1).await.map(|_| ());
    expect_refusal(lower, ErrorCode::StalePipe).context("a lower epoch")?;
    let mut newer = Pipe::open_on(world, &session, epoch + 1).await?;
    // Whatever the older pipe still carries must have no effect.
    let late = event::event(&to_line(world, "late", "on the old pipe")?, &world.home.message_key);
    older.submit(world.line()?, late).await?;
    expect_refusal(older.end(DELIVERY).await, ErrorCode::StalePipe).context("the older pipe")?;
    let event = event::event(&to_line(world, "fresh", "on the new pipe")?, &world.home.message_key);
    drop(world.service().await?);
    let seq = newer.submit(world.line()?, event).await?;
    newer.accepted(seq).await.context("the newer pipe")?;
    Ok(seen)
}

async fn reopened(world: &World) -> Seen {
    drop(world.service().await?);
    let mut pipe = Pipe::open(world).await?;
    let forged = event::event(&to_line(world, "reopen", "forged")?, &Key::generate());
    let wrong = pipe.submit(world.line()?, forged).await?;
    let right = event::event(&to_line(world, "reopen", "right")?, &world.home.message_key);
    let last = pipe.submit(world.line()?, right).await?;
    pipe.accepted(last).await?;
    drop(pipe);
    let pipe = Pipe::open(world).await?;
    ensure!(pipe.accept.received == last, "received {} instead of {last}", pipe.accept.received);
    let repeated = pipe.accept.refused.iter().any(|refusal| refusal.seq == wrong);
    ensure!(
        repeated,
        "the refusal of item {wrong} is not told again: its acknowledgement may have been lost"
    );
    Ok(format!("received {last}, {} refusals told again", pipe.accept.refused.len()))
}

async fn pipe_for_others(world: &World) -> Seen {
    let session = world.homeserver().await?;
    let source = world.name("unclaimed");
    let opened = Pipe::open_as(&source, &world.subject.name, &session, now_ms()).await;
    expect_refusal(opened.map(|_| ()), ErrorCode::NotAllowed)
}
