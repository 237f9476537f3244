//! What the subject sends to other homeservers, and what it takes from other hubs.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use prost::Message as _;

use ahoy_proto::v1::{self, ErrorCode, pipe_item, sync_item::Item};

use super::delivery::{DELIVERY, to_line};
use super::{Case, Seen};
use crate::event::{self, EVENTS, attest, check_attested, check_placed, text, words};
use crate::moment::{now_ms, random};
use crate::peer::{BUSY, BUSY_FOR, LIAR, NOBODY, Odd};
use crate::pipe::Pipe;
use crate::refusal::check_error;
use crate::session::Session;
use crate::sign::{Key, sign_card};
use crate::world::{Site, World};

pub(super) const CASES: &[Case] = &[
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
        &["EVENT-PLACE-05", "EVENT-PLACE-08"],
        "a placement that does not follow the known head, or holds a taken position, is refused with EPOCH",
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
    let taken = v1::PlacementBody { epoch: position.epoch, seq: 1, ..v1::PlacementBody::default() };
    let (other, _) = place_at(&answer, &world.home.message_key, taken)?;
    let seq = pipe.send(person, pipe_item::Item::Placed(other)).await?;
    let refused = pipe.outcome(seq).await?.context("another event at a taken position was accepted")?;
    check_error(&refused, ErrorCode::Epoch).context("a taken position")?;
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
