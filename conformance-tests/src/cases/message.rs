//! Messages within the subject: what a device hands in, and what its sync log and the line's service hear.

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;

use ahoy_proto::v1::{self, ErrorCode, open::Open, request, response, sync_item::Item};

use super::{Case, Seen};
use crate::event::{self, Placed, check_placed, text, words};
use crate::moment::{now_ms, random};
use crate::refusal::{Skipped, check_error, expect_refusal};
use crate::session::Session;
use crate::world::World;

pub(super) const CASES: &[Case] = &[
    Case::new(
        "message-idempotent",
        &["EVENT-DELIVER-11", "EVENT-SYNC-02"],
        "a repeated Submit is acknowledged alike and placed once",
        |w| Box::pin(idempotent(w)),
    ),
    Case::new(
        "message-client-id-reused",
        &["EVENT-DELIVER-11"],
        "another message under a used client id is refused with CLIENT_ID_REUSED",
        |w| Box::pin(client_id_reused(w)),
    ),
    Case::new(
        "message-placed",
        &[
            "EVENT-SYNC-02",
            "EVENT-ATTEST-01",
            "EVENT-ATTEST-04",
            "EVENT-ATTEST-05",
            "EVENT-PLACE-01",
            "EVENT-PLACE-04",
            "CONV-ID-02",
        ],
        "a message is Pending, then Placed, and reaches the line's service with proofs that verify",
        |w| Box::pin(placed(w)),
    ),
    Case::new(
        "message-chain",
        &["EVENT-PLACE-02", "EVENT-PLACE-06"],
        "each placement of a conversation names the hash of the one before",
        |w| Box::pin(chain(w)),
    ),
    Case::new(
        "message-reply",
        &["SVC-CLAIM-03", "SVC-CLAIM-04"],
        "the service answers as its line, and the person hears it",
        |w| Box::pin(reply(w)),
    ),
    Case::new("message-direct", &["CONV-ID-02"], "two people of the subject write to each other", |w| {
        Box::pin(direct(w))
    }),
    Case::new(
        "message-to-the-front-desk",
        &["NAME-ADDR-09"],
        "the bare name is the front desk, a line of its own",
        |w| Box::pin(front_desk(w)),
    ),
    Case::new(
        "message-typed-address",
        &["NAME-ADDR-07", "NAME-ADDR-01"],
        "an address in capitals is read as typed, and is canonical on the wire",
        |w| Box::pin(typed_address(w)),
    ),
    Case::new("message-epochs", &["EVENT-PLACE-03"], "two conversations have two epochs", |w| {
        Box::pin(epochs(w))
    }),
    Case::new(
        "message-to-nobody",
        &["EVENT-SYNC-02", "CONV-HUB-03"],
        "a message to nobody is Failed with NOT_REACHABLE in the sync log",
        |w| Box::pin(to_nobody(w)),
    ),
    Case::new(
        "message-to-absent-name",
        &["CONV-HUB-04", "EVENT-SYNC-02"],
        "a message to a name that is not on the network is Failed with NOT_ON_NETWORK",
        |w| Box::pin(to_absent_name(w)),
    ),
    Case::new(
        "message-sync-position",
        &["EVENT-SYNC-01"],
        "a sync subscription continues after its position, in rising order",
        |w| Box::pin(sync_position(w)),
    ),
    Case::new(
        "message-precondition",
        &["WIRE-ERR-01"],
        "a reserved precondition is refused with UNSUPPORTED",
        |w| Box::pin(precondition(w)),
    ),
    Case::new(
        "message-encrypted",
        &["EVENT-ATTEST-07"],
        "reserved encrypted content is refused with UNSUPPORTED",
        |w| Box::pin(encrypted(w)),
    ),
    Case::new(
        "message-of-the-future",
        &["EVENT-ATTEST-07"],
        "content of an unknown type with a fallback is taken",
        |w| Box::pin(of_the_future(w)),
    ),
    Case::new(
        "message-out-of-range",
        &["EVENT-ATTEST-02"],
        "a client id of 15 bytes is refused with MALFORMED, a fallback over 4096 bytes with FRAME_TOO_LARGE",
        |w| Box::pin(out_of_range(w)),
    ),
    Case::new(
        "message-group",
        &["CONV-ID-01"],
        "a conversation of a reserved kind is refused with UNSUPPORTED",
        |w| Box::pin(group(w)),
    ),
    Case::new("message-of-others", &["EVENT-SYNC-03"], "who is not in a conversation cannot fetch it", |w| {
        Box::pin(of_others(w))
    }),
    Case::new("message-as-another", &["SVC-CLAIM-03"], "a device cannot speak as another address", |w| {
        Box::pin(as_another(w))
    }),
    Case::new("message-pipe-by-a-device", &["WIRE-STREAM-06"], "a device's pipe is reset", |w| {
        Box::pin(device_pipe(w))
    }),
];

fn submission(to: &str, words: &str) -> v1::Submit {
    v1::Submit {
        to: to.to_owned(),
        client_id: Bytes::copy_from_slice(&random::<16>()),
        content: Some(text(words)),
        ..v1::Submit::default()
    }
}

/// Words that no other message has.
fn unique(what: &str) -> String {
    format!("{what} {}", now_ms())
}

/// How the sync log says that a submission ended.
async fn settled(device: &Session, submit: &v1::Submit) -> anyhow::Result<Result<v1::Placed, v1::Error>> {
    let mut log = device.sync(0).await?;
    log.find(|item| match &item.item {
        Some(Item::Placed(placed)) if placed.client_id == submit.client_id => Some(Ok(placed.clone())),
        Some(Item::Failed(failed)) if failed.client_id == submit.client_id => {
            Some(Err(failed.error.clone().unwrap_or_default()))
        }
        _ => None,
    })
    .await
    .context("neither Placed nor Failed came")
}

/// The placed event in a log that says these words.
async fn heard(session: &Session, wanted: &str) -> anyhow::Result<v1::PlacedEvent> {
    let mut log = session.sync(0).await?;
    log.find(|item| match &item.item {
        Some(Item::Event(placed)) => {
            let body: v1::EventBody = prost::Message::decode(placed.event.as_ref()?.body.clone()).ok()?;
            (words(body.content.as_ref()) == wanted).then(|| placed.clone())
        }
        _ => None,
    })
    .await
    .with_context(|| format!("{wanted:?} was not heard"))
}

/// Says something to the line and gives the service's checked copy.
async fn say(world: &World, device: &Session, service: &Session, words: &str) -> anyhow::Result<Placed> {
    device.submit(submission(world.line()?, words)).await?;
    let card = world.subject_card().await?;
    check_placed(&heard(service, words).await?, &card, &card)
}

async fn idempotent(world: &World) -> Seen {
    let (device, _service) = (world.device(0).await?, world.service().await?);
    let submit = submission(world.line()?, &unique("once"));
    let (first, again) = (device.submit(submit.clone()).await?, device.submit(submit.clone()).await?);
    ensure!(first == again, "acknowledged differently: {first:?} and {again:?}");
    if let Err(error) = settled(&device, &submit).await? {
        bail!("it failed: {error:?}");
    }
    let third = device.submit(submit.clone()).await?;
    ensure!(third == first, "after it was placed, acknowledged differently: {third:?}");
    let items = device.sync(0).await?.all().await?;
    let count = |wanted: fn(&Item) -> Option<&Bytes>| {
        let ids = items.iter().filter_map(|item| item.item.as_ref().and_then(wanted));
        ids.filter(|id| **id == submit.client_id).count()
    };
    let pending = count(|item| if let Item::Pending(p) = item { Some(&p.client_id) } else { None });
    let placed = count(|item| if let Item::Placed(p) = item { Some(&p.client_id) } else { None });
    ensure!((pending, placed) == (1, 1), "{pending} Pending and {placed} Placed in the log");
    Ok("one Pending, one Placed, three equal acknowledgements".into())
}

async fn client_id_reused(world: &World) -> Seen {
    let (device, _service) = (world.device(0).await?, world.service().await?);
    let submit = submission(world.line()?, &unique("first"));
    device.submit(submit.clone()).await?;
    let other = v1::Submit { content: Some(text("second")), ..submit };
    expect_refusal(device.submit(other).await, ErrorCode::ClientIdReused)
}

async fn placed(world: &World) -> Seen {
    let (device, service) = (world.device(0).await?, world.service().await?);
    let (line, person) = (world.line()?, &world.person(0)?.name);
    let submit = submission(line, &unique("placed"));
    let ack = device.submit(submit.clone()).await?;
    ensure!(ack.client_id == submit.client_id, "the acknowledgement is for another client id");
    let told = settled(&device, &submit).await?;
    let Ok(told) = told else { bail!("it failed: {told:?}") };
    let card = world.subject_card().await?;
    let seen = check_placed(&heard(&service, words(submit.content.as_ref())).await?, &card, &card)?;
    ensure!(
        seen.event.origin == *person && seen.event.to == line,
        "from {} to {}",
        seen.event.origin,
        seen.event.to
    );
    ensure!(
        seen.event.client_id == submit.client_id && seen.event.content == submit.content,
        "another message"
    );
    ensure!(seen.event.conversation == event::line(line, person), "CONV-ID-02: another conversation id");
    ensure!(seen.event.nonce.len() == 16 && seen.event.device.len() == 8, "EVENT-ATTEST-02: nonce or device");
    ensure!(told.event_id == seen.id[..], "the sender was told another event id");
    ensure!(
        (told.epoch, told.seq) == (seen.placement.epoch, seen.placement.seq),
        "the sender was told another position"
    );
    Ok(format!("seq {} of epoch {:x}", told.seq, told.epoch))
}

async fn chain(world: &World) -> Seen {
    let (device, service) = (world.device(0).await?, world.service().await?);
    let first = say(world, &device, &service, &unique("first link")).await?;
    let second = say(world, &device, &service, &unique("second link")).await?;
    ensure!(
        second.placement.seq == first.placement.seq + 1,
        "seq {} after {}",
        second.placement.seq,
        first.placement.seq
    );
    ensure!(
        second.placement.previous == first.hash[..],
        "EVENT-PLACE-02: `previous` is not the hash of the one before"
    );
    let fetch = v1::Fetch { conversation: first.event.conversation, epoch: 0, from_seq: 1, limit: 256 };
    let fetched = match device.request(request::Request::Fetch(fetch)).await? {
        response::Response::Fetch(answer) => answer,
        other => bail!("the answer to Fetch is {other:?}"),
    };
    let card = world.subject_card().await?;
    let mut previous: Option<Placed> = None;
    for event in &fetched.events {
        let next = check_placed(event, &card, &card)?;
        if let Some(before) = &previous {
            ensure!(next.placement.seq == before.placement.seq + 1, "Fetch leaves a gap");
            ensure!(
                next.placement.previous == before.hash[..],
                "EVENT-PLACE-02: the fetched chain is broken"
            );
        }
        previous = Some(next);
    }
    ensure!(fetched.events.len() >= 2, "Fetch gave {} events", fetched.events.len());
    Ok(format!("{} placements in one chain", fetched.events.len()))
}

async fn reply(world: &World) -> Seen {
    let (device, service) = (world.device(0).await?, world.service().await?);
    let asked = say(world, &device, &service, &unique("question")).await?;
    let answer = unique("answer");
    let submit = v1::Submit {
        conversation: asked.event.conversation.clone(),
        client_id: Bytes::copy_from_slice(&random::<16>()),
        content: Some(text(&answer)),
        from: world.line()?.to_owned(),
        ..v1::Submit::default()
    };
    service.submit(submit).await?;
    let card = world.subject_card().await?;
    let seen = check_placed(&heard(&device, &answer).await?, &card, &card)?;
    ensure!(seen.event.origin == world.line()?, "the answer comes from {}", seen.event.origin);
    ensure!(seen.event.conversation == asked.event.conversation, "the answer is in another conversation");
    Ok(format!("heard from {}", seen.event.origin))
}

async fn direct(world: &World) -> Seen {
    let (ann, bob) = (world.device(0).await?, world.device(1).await?);
    let (from, to) = (&world.person(0)?.name, &world.person(1)?.name);
    let said = unique("hello");
    ann.submit(submission(to, &said)).await?;
    let card = world.subject_card().await?;
    let seen = check_placed(&heard(&bob, &said).await?, &card, &card)?;
    ensure!(seen.event.conversation == event::direct(from, to).0, "CONV-ID-02: another conversation id");
    Ok("the second person heard it".into())
}

async fn fails_with(world: &World, to: &str, wanted: ErrorCode) -> Seen {
    let device = world.device(0).await?;
    let submit = submission(to, &unique("lost"));
    device.submit(submit.clone()).await?;
    match settled(&device, &submit).await? {
        Ok(_) => bail!("a message to {to} was placed"),
        Err(error) => check_error(&error, wanted),
    }
}

async fn to_nobody(world: &World) -> Seen {
    fails_with(world, &format!("no-such-person@{}", world.subject.name), ErrorCode::NotReachable).await
}

async fn to_absent_name(world: &World) -> Seen {
    fails_with(world, &format!("ann@{}", world.name("absent")), ErrorCode::NotOnNetwork).await
}

async fn sync_position(world: &World) -> Seen {
    let (device, service) = (world.device(0).await?, world.service().await?);
    say(world, &device, &service, &unique("before")).await?;
    let before = device.sync(0).await?.all().await?;
    let positions: Vec<u64> = before.iter().map(|item| item.position).collect();
    ensure!(positions.is_sorted_by(|a, b| a < b), "positions do not rise: {positions:?}");
    let middle = positions[positions.len() / 2];
    let after = device.sync(middle).await?.all().await?;
    let expected: Vec<u64> = positions.into_iter().filter(|position| *position > middle).collect();
    let seen: Vec<u64> = after.iter().map(|item| item.position).take(expected.len()).collect();
    ensure!(seen == expected, "after {middle}: {seen:?} instead of {expected:?}");
    let again = device.sync(0).await?.all().await?;
    ensure!(again[..before.len()] == before[..], "the log reads differently the second time");
    Ok(format!("{} items, {} of them after {middle}", before.len(), expected.len()))
}

async fn precondition(world: &World) -> Seen {
    let device = world.device(0).await?;
    let precondition = Some(v1::Precondition { group_epoch: 1 });
    let submit = v1::Submit { precondition, ..submission(world.line()?, "x") };
    refused_as_unsupported(device.submit(submit).await)
}

/// Here UNSUPPORTED is what the spec asks for, and anything else is a failure.
fn refused_as_unsupported<T>(attempt: anyhow::Result<T>) -> Seen {
    expect_refusal(attempt, ErrorCode::Unsupported)
}

async fn encrypted(world: &World) -> Seen {
    let device = world.device(0).await?;
    let sealed = v1::content::Content::Encrypted(v1::Encrypted { mls: Bytes::from_static(b"sealed") });
    let content = Some(v1::Content { fallback: "sealed".into(), content: Some(sealed) });
    refused_as_unsupported(device.submit(v1::Submit { content, ..submission(world.line()?, "x") }).await)
}

async fn of_the_future(world: &World) -> Seen {
    let (device, _service) = (world.device(0).await?, world.service().await?);
    let content = Some(v1::Content { fallback: "a hologram".into(), content: None });
    let submit = v1::Submit { content, ..submission(world.line()?, "x") };
    device.submit(submit.clone()).await?;
    match settled(&device, &submit).await? {
        Ok(_) => Ok("placed".into()),
        Err(error) => bail!("it failed: {error:?}"),
    }
}

async fn out_of_range(world: &World) -> Seen {
    let device = world.device(0).await?;
    let short = v1::Submit { client_id: Bytes::from_static(&[1; 15]), ..submission(world.line()?, "x") };
    let seen =
        expect_refusal(device.submit(short).await, ErrorCode::Malformed).context("a short client id")?;
    let content = Some(v1::Content { fallback: "x".repeat(4097), content: None });
    let long = v1::Submit { content, ..submission(world.line()?, "x") };
    expect_refusal(device.submit(long).await, ErrorCode::FrameTooLarge).context("a long fallback")?;
    let nothing = v1::Submit { content: None, ..submission(world.line()?, "x") };
    expect_refusal(device.submit(nothing).await, ErrorCode::Malformed).context("no content")?;
    Ok(seen)
}

async fn group(world: &World) -> Seen {
    let device = world.device(0).await?;
    let mut conversation = event::line(world.line()?, &world.person(0)?.name).to_vec();
    conversation[0] = v1::ConversationKind::Group as u8;
    let submit = v1::Submit { to: String::new(), conversation: conversation.into(), ..submission("", "x") };
    refused_as_unsupported(device.submit(submit).await)
}

async fn of_others(world: &World) -> Seen {
    let (ann, bob, service) = (world.device(0).await?, world.device(1).await?, world.service().await?);
    let said = say(world, &ann, &service, &unique("private")).await?;
    let fetch = v1::Fetch { conversation: said.event.conversation, epoch: 0, from_seq: 1, limit: 10 };
    expect_refusal(bob.request(request::Request::Fetch(fetch)).await, ErrorCode::UnknownConversation)
}

async fn as_another(world: &World) -> Seen {
    let device = world.device(0).await?;
    let from = world.person(1)?.name.clone();
    let submit = v1::Submit { from, ..submission(world.line()?, "x") };
    expect_refusal(device.submit(submit).await, ErrorCode::NotAllowed)
}

async fn device_pipe(world: &World) -> Seen {
    let device = world.device(0).await?;
    let open = v1::PipeOpen {
        source: world.home.name.clone(),
        destination: world.subject.name.clone(),
        pipe_epoch: now_ms(),
        positions: Vec::new(),
    };
    let mut stream = device.open(Open::Pipe(open)).await?;
    let end: anyhow::Result<()> = Err(stream.end(crate::frame::PATIENCE).await.into());
    expect_refusal(end, ErrorCode::NotAllowed)
}

async fn front_desk(world: &World) -> Seen {
    let (device, service) = (world.device(0).await?, world.service().await?);
    let name = &world.subject.name;
    if !world.desk()?.addresses.contains(name) {
        bail!(Skipped(format!("needs {name} itself among the addresses of --service-invite")));
    }
    let said = unique("to the front desk");
    device.submit(submission(name, &said)).await?;
    let card = world.subject_card().await?;
    let seen = check_placed(&heard(&service, &said).await?, &card, &card)?;
    ensure!(seen.event.to == *name, "the event is to {:?}", seen.event.to);
    ensure!(seen.event.conversation == event::line(name, &seen.event.origin), "CONV-ID-02: another id");
    Ok(format!("heard at {name}"))
}

async fn typed_address(world: &World) -> Seen {
    let (device, service) = (world.device(0).await?, world.service().await?);
    let (line, said) = (world.line()?, unique("shouted"));
    device.submit(submission(&line.to_uppercase(), &said)).await?;
    let card = world.subject_card().await?;
    let seen = check_placed(&heard(&service, &said).await?, &card, &card)?;
    ensure!(seen.event.to == line, "the event is to {:?}", seen.event.to);
    for bad in ["a b@bank.example", "-a@bank.example", "a@@bank.example", "@bank.example"] {
        let refused = device.submit(submission(bad, &said)).await;
        ensure!(refused.is_err(), "a message to {bad:?} was taken");
    }
    Ok(format!("heard at {line}"))
}

async fn epochs(world: &World) -> Seen {
    let (ann, bob, service) = (world.device(0).await?, world.device(1).await?, world.service().await?);
    let one = say(world, &ann, &service, &unique("one")).await?.placement.epoch;
    let other = say(world, &bob, &service, &unique("other")).await?.placement.epoch;
    ensure!(one != other && one > 1 << 20 && other > 1 << 20, "epochs {one:x} and {other:x} are not random");
    Ok(format!("{one:x} and {other:x}"))
}
