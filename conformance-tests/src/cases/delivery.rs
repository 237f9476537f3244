//! Delivery between homeservers: first contact, pipes in both directions, and what a hub does with what it gets.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use prost::Message as _;

use ahoy_proto::v1::{self, ErrorCode, pipe_item, request, response, sync_item::Item};

use super::{Case, Seen};
use crate::event::{self, EVENTS, Placed, attest, check_attested, check_placed, text, words};
use crate::moment::{now_ms, random};
use crate::peer::{BUSY, BUSY_FOR, LIAR, NOBODY, Odd};
use crate::pipe::Pipe;
use crate::refusal::{Refused, Skipped, check_error, expect_refusal};
use crate::session::Session;
use crate::sign::{Key, sign_card};
use crate::world::{Site, World};

/// How long the subject may take to deliver to the suite, retries included.
const DELIVERY: Duration = Duration::from_secs(15);

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
    Case::new(
        "delivery-to-us-as-hub",
        &["CONV-HUB-01", "EVENT-ATTEST-04", "EVENT-ATTEST-05"],
        "a message reaches its remote hub attested, and our placement reaches the sender",
        |w| Box::pin(to_us_as_hub(w)),
    ),
    Case::new(
        "delivery-bad-placement",
        &["EVENT-PLACE-04"],
        "a placement that a stranger signed is refused",
        |w| Box::pin(bad_placement(w)),
    ),
    Case::new(
        "delivery-to-us-as-follower",
        &["CONV-HUB-01", "EVENT-PLACE-01", "EVENT-PLACE-04"],
        "a message that the subject orders reaches us placed",
        |w| Box::pin(to_us_as_follower(w)),
    ),
    Case::new(
        "delivery-again",
        &["EVENT-DELIVER-03", "EVENT-DELIVER-01"],
        "what was not acknowledged is delivered again after a cut, the same bytes",
        |w| Box::pin(again(w)),
    ),
    Case::new(
        "delivery-refused-by-us",
        &["EVENT-SYNC-02"],
        "a person who is nobody here fails the message at its sender",
        |w| Box::pin(refused_by_us(w)),
    ),
    Case::new(
        "delivery-broken-chain",
        &["EVENT-PLACE-05"],
        "a placement that does not follow the known head is refused with EPOCH",
        |w| Box::pin(broken_chain(w)),
    ),
    Case::new(
        "delivery-from-another-hub",
        &["EVENT-DELIVER-09"],
        "a placed event of a conversation that another name orders is refused with WRONG_HUB",
        |w| Box::pin(from_another_hub(w)),
    ),
    Case::new(
        "delivery-wrong-contact",
        &["CONV-ID-04"],
        "a ContactAnswer with another pair's conversation fails the message",
        |w| Box::pin(wrong_contact(w)),
    ),
    Case::new(
        "delivery-retry-after",
        &["EVENT-DELIVER-04"],
        "a peer that asks to be left alone for 3.5 s is",
        |w| Box::pin(retry_after(w)),
    ),
    Case::new(
        "delivery-to-an-impostor",
        &["WIRE-AUTH-08"],
        "the subject claims nothing towards a server whose TLS key is not in the card that it shows",
        |w| Box::pin(to_an_impostor(w)),
    ),
    Case::new(
        "delivery-to-a-wrong-clock",
        &["WIRE-HELLO-04"],
        "the subject claims nothing towards a server whose clock is an hour ahead",
        |w| Box::pin(to_a_wrong_clock(w)),
    ),
    Case::new(
        "delivery-conduct",
        &["WIRE-HELLO-05", "WIRE-AUTH-07", "EVENT-DELIVER-01"],
        "on its own connections the subject kept the rules all along",
        |w| Box::pin(conduct(w)),
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
fn to_line(world: &World, local: &str, said: &str) -> anyhow::Result<v1::EventBody> {
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

/// Has the first device write to somebody of ours, and gives its session and the client id.
async fn write_to(world: &World, to: &str, said: &str) -> anyhow::Result<(Session, Bytes)> {
    let device = world.device(0).await?;
    let client_id = Bytes::copy_from_slice(&random::<16>());
    let submit = v1::Submit {
        to: to.to_owned(),
        client_id: client_id.clone(),
        content: Some(text(said)),
        ..v1::Submit::default()
    };
    device.submit(submit).await?;
    Ok((device, client_id))
}

/// Submitted events of ours to place that say these words.
async fn submitted(world: &World, said: &str, count: usize) -> anyhow::Result<Vec<(u64, v1::Event)>> {
    let found = world.peer.deliveries(count, DELIVERY, |delivered| match &delivered.item.item {
        Some(pipe_item::Item::Submit(event)) => {
            let body = v1::EventBody::decode(event.body.clone()).ok()?;
            (words(body.content.as_ref()) == said).then(|| (delivered.pipe, event.clone()))
        }
        _ => None,
    });
    found.await.with_context(|| format!("{said:?} was not delivered"))
}

fn person_at_our_hub(world: &World, prefix: &str) -> anyhow::Result<String> {
    Ok(event::person_with_hub(prefix, &world.home.name, &world.person(0)?.name, &world.home.name))
}

/// Places an event as its hub, the first of its conversation in an epoch of its own.
fn place(event: &v1::Event, key: &Key) -> anyhow::Result<(v1::PlacedEvent, v1::PlacementBody)> {
    let first = v1::PlacementBody {
        epoch: u64::from_be_bytes(random::<8>()) | 1,
        seq: 1,
        ..v1::PlacementBody::default()
    };
    place_at(event, key, first)
}

/// Places an event at this position.
fn place_at(
    event: &v1::Event,
    key: &Key,
    position: v1::PlacementBody,
) -> anyhow::Result<(v1::PlacedEvent, v1::PlacementBody)> {
    let decoded = v1::EventBody::decode(event.body.clone())?;
    let body = v1::PlacementBody {
        conversation: decoded.conversation,
        event_id: Bytes::copy_from_slice(&event::leaf(&event.body)),
        time_ms: now_ms(),
        ..position
    };
    let bytes = Bytes::from(body.encode_to_vec());
    let attestation = attest(std::slice::from_ref(&bytes), event::PLACEMENTS, key).pop();
    let placement = Some(v1::Placement { body: bytes, attestation });
    Ok((v1::PlacedEvent { event: Some(event.clone()), placement }, body))
}

async fn to_us_as_hub(world: &World) -> Seen {
    let to = person_at_our_hub(world, "reader")?;
    let said = format!("to the remote hub {}", now_ms());
    let (device, client_id) = write_to(world, &to, &said).await?;
    let events = submitted(world, &said, 1).await?;
    let (_, event) = events.first().context("nothing was delivered")?;
    let card = world.subject_card().await?;
    check_attested(&event.body, event.attestation.as_ref(), EVENTS, &card, now_ms())?;
    let body = v1::EventBody::decode(event.body.clone())?;
    ensure!(body.conversation == event::direct(&to, &body.origin).0, "CONV-ID-02: another conversation id");
    ensure!(body.client_id == client_id && body.to == to, "another message");
    let (placed, position) = place(event, &world.home.message_key)?;
    let mut pipe = Pipe::open(world).await?;
    let seq = pipe.send(&body.origin, pipe_item::Item::Placed(placed)).await?;
    pipe.accepted(seq).await?;
    let mut log = device.sync(0).await?;
    let told = log.find(|item| match &item.item {
        Some(Item::Placed(placed)) if placed.client_id == client_id => Some(placed.clone()),
        _ => None,
    });
    let told = told.await.context("the sender was not told the position")?;
    ensure!((told.epoch, told.seq) == (position.epoch, 1), "the sender was told another position");
    Ok("attested, placed by us, told to the sender".into())
}

async fn bad_placement(world: &World) -> Seen {
    let to = person_at_our_hub(world, "doubter")?;
    let said = format!("to be placed by a stranger {}", now_ms());
    write_to(world, &to, &said).await?;
    let events = submitted(world, &said, 1).await?;
    let (_, event) = events.first().context("nothing was delivered")?;
    let (placed, _) = place(event, &Key::generate())?;
    let mut pipe = Pipe::open(world).await?;
    let seq = pipe.send(&world.person(0)?.name, pipe_item::Item::Placed(placed)).await?;
    check_error(&pipe.outcome(seq).await?.context("it was accepted")?, ErrorCode::BadAttestation)
}

async fn to_us_as_follower(world: &World) -> Seen {
    let person = &world.person(0)?.name;
    let to = event::person_with_hub("follower", &world.home.name, person, &world.subject.name);
    let said = format!("ordered by the subject {}", now_ms());
    write_to(world, &to, &said).await?;
    let found = world.peer.deliveries(1, DELIVERY, |delivered| match &delivered.item.item {
        Some(pipe_item::Item::Placed(placed)) => {
            let body = v1::EventBody::decode(placed.event.as_ref()?.body.clone()).ok()?;
            let right = words(body.content.as_ref()) == said && delivered.item.recipient == to;
            right.then(|| placed.clone())
        }
        _ => None,
    });
    let found = found.await.context("the placed event was not delivered")?;
    let card = world.subject_card().await?;
    let placed = check_placed(found.first().context("nothing was delivered")?, &card, &card)?;
    ensure!(placed.event.conversation == event::direct(&to, person).0, "CONV-ID-02: another conversation id");
    Ok(format!("seq {} of epoch {:x}", placed.placement.seq, placed.placement.epoch))
}

async fn again(world: &World) -> Seen {
    let to = person_at_our_hub(world, "sleeper")?;
    let said = format!("until it is heard {}", now_ms());
    world.peer.hold_acks(true);
    let delivered = async {
        write_to(world, &to, &said).await?;
        let once = submitted(world, &said, 1).await?;
        world.peer.cut();
        anyhow::Ok(once)
    };
    let once = delivered.await;
    world.peer.hold_acks(false);
    once?;
    let both = submitted(world, &said, 2).await.context("it was not delivered a second time")?;
    let [(first_pipe, first), (second_pipe, second), ..] = &both[..] else { bail!("it was delivered once") };
    ensure!(first_pipe != second_pipe, "it came twice on one pipe");
    ensure!(first.body == second.body, "the second delivery has other bytes");
    let card = world.subject_card().await?;
    check_attested(&second.body, second.attestation.as_ref(), EVENTS, &card, now_ms())?;
    Ok(format!("on pipes {first_pipe} and {second_pipe}, the same bytes"))
}

async fn refused_by_us(world: &World) -> Seen {
    let (device, client_id) = write_to(world, &world.home.address(NOBODY), "is anybody there?").await?;
    let mut log = device.sync(0).await?;
    let failed = log.find(|item| match &item.item {
        Some(Item::Failed(failed)) if failed.client_id == client_id => failed.error.clone(),
        _ => None,
    });
    check_error(&failed.await.context("the sender was not told")?, ErrorCode::NotReachable)
}

/// An event that somebody of ours says to the first person, in a conversation that we order.
async fn ours(world: &World, origin: &str, said: &str) -> anyhow::Result<v1::Event> {
    let person = &world.person(0)?.name;
    let (conversation, _) = event::direct(origin, person);
    Ok(event::event(&event::event_body(origin, person, &conversation, said), &world.home.message_key))
}

async fn broken_chain(world: &World) -> Seen {
    let origin = person_at_our_hub(world, "chainer")?;
    // The person writes first, so that the answer is not a stranger's.
    let said = format!("before the chain {}", now_ms());
    write_to(world, &origin, &said).await?;
    let (_, asked) = submitted(world, &said, 1).await?.remove(0);
    let (first, position) = place(&asked, &world.home.message_key)?;
    let person = &world.person(0)?.name;
    let mut pipe = Pipe::open(world).await?;
    let seq = pipe.send(person, pipe_item::Item::Placed(first.clone())).await?;
    pipe.accepted(seq).await?;
    let answer = ours(world, &origin, "a link").await?;
    let next = |previous: Bytes| v1::PlacementBody {
        epoch: position.epoch,
        seq: 2,
        previous,
        ..v1::PlacementBody::default()
    };
    let (broken, _) =
        place_at(&answer, &world.home.message_key, next(Bytes::copy_from_slice(&random::<32>())))?;
    let seq = pipe.send(person, pipe_item::Item::Placed(broken)).await?;
    let refused = pipe.outcome(seq).await?.context("a link to nowhere was accepted")?;
    let seen = check_error(&refused, ErrorCode::Epoch)?;
    let head = first.placement.context("it was placed above")?.body;
    let (whole, _) =
        place_at(&answer, &world.home.message_key, next(Bytes::copy_from_slice(&event::leaf(&head))))?;
    let seq = pipe.send(person, pipe_item::Item::Placed(whole)).await?;
    pipe.accepted(seq).await.context("the right link")?;
    Ok(seen)
}

async fn from_another_hub(world: &World) -> Seen {
    let event = event::event(&to_line(world, "usurper", "ordered by us")?, &world.home.message_key);
    let (placed, _) = place(&event, &world.home.message_key)?;
    let mut pipe = Pipe::open(world).await?;
    let seq = pipe.send(world.line()?, pipe_item::Item::Placed(placed)).await?;
    let refused = pipe.outcome(seq).await?.context("it was accepted")?;
    // The placement is signed by the wrong name, which may be found first.
    check_error(&refused, ErrorCode::WrongHub).or_else(|_| check_error(&refused, ErrorCode::BadAttestation))
}

/// How a message to this address of ours ends for its sender.
async fn failure(world: &World, to: &str) -> anyhow::Result<v1::Error> {
    let (device, client_id) = write_to(world, to, "will it arrive?").await?;
    let mut log = device.sync(0).await?;
    let failed = log.find(|item| match &item.item {
        Some(Item::Failed(failed)) if failed.client_id == client_id => failed.error.clone(),
        _ => None,
    });
    failed.await.context("the sender was not told")
}

async fn wrong_contact(world: &World) -> Seen {
    let error = failure(world, &world.home.address(LIAR)).await?;
    ensure!(error.class() == v1::ErrorClass::Permanent, "failed with {error:?}");
    Ok(error.message)
}

async fn retry_after(world: &World) -> Seen {
    let to = person_at_our_hub(world, BUSY)?;
    let said = format!("after a while {}", now_ms());
    write_to(world, &to, &said).await?;
    submitted(world, &said, 1).await?;
    let asked = world.peer.asked(&to);
    let [first, second, ..] = asked[..] else { bail!("Contact was asked {} times", asked.len()) };
    let waited = second - first;
    ensure!(waited >= BUSY_FOR, "asked again after {} ms", waited.as_millis());
    Ok(format!("asked again after {} ms", waited.as_millis()))
}

/// Has the first person write to a name that shows homeservers something odd; it must not be trusted.
async fn distrusted(world: &World, label: &str, odd: impl FnOnce(&Site, v1::Card) -> Odd) -> Seen {
    let site = Site::new(world.name(label));
    world.open_site(&site)?;
    let card = world.peer.card(&site.name).context("the site was opened")?;
    world.peer.be_odd(&site.name, odd(&site, v1::Card::decode(card.body)?));
    write_to(world, &site.address("reader"), "to the wrong one").await?;
    // Time for the connection, and for a second try.
    tokio::time::sleep(Duration::from_secs(3)).await;
    ensure!(world.peer.was_met(&site.name), "the subject did not connect, so nothing was seen");
    ensure!(!world.peer.was_trusted(&site.name), "the subject authenticated all the same");
    ensure!(world.peer.asked(&site.address("reader")).is_empty(), "the subject asked all the same");
    Ok("nothing was claimed".into())
}

async fn to_an_impostor(world: &World) -> Seen {
    distrusted(world, "impostor", |site, card| {
        let card = v1::Card { tls_spki: vec![Bytes::from_static(&[6; 32])], seq: card.seq + 1, ..card };
        Odd { card: Some(sign_card(&card, &site.key)), ahead_ms: 0 }
    })
    .await
}

async fn to_a_wrong_clock(world: &World) -> Seen {
    distrusted(world, "wrongclock", |_, _| Odd { card: None, ahead_ms: 3_600_000 }).await
}

async fn conduct(world: &World) -> Seen {
    let wrongs = world.peer.wrongs();
    ensure!(wrongs.is_empty(), "{}", wrongs.join("; "));
    Ok("nothing to complain about".into())
}
