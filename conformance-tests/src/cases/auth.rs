//! Sign-in: device and service proofs, invites, and the claims of homeservers.

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;

use ahoy_proto::v1::{self, ErrorCode, Role, control_frame::Frame};

use super::{Case, Seen};
use crate::frame::End;
use crate::quic::Show;
use crate::refusal::{Refused, Skipped, expect_refusal};
use crate::session::{Greeted, auth, control, greet, hello, proof};
use crate::sign::{Key, sign_anchor, sign_card};
use crate::world::{Site, World, claim};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "auth-device",
        &["WIRE-AUTH-03", "WIRE-AUTH-04", "WIRE-AUTH-10"],
        "an enrolled device signs in again without an invite",
        |w| Box::pin(device(w)),
    ),
    Case::new(
        "auth-bad-proof",
        &["WIRE-AUTH-03"],
        "a device proof with another signature is refused with BAD_PROOF",
        |w| Box::pin(bad_proof(w)),
    ),
    Case::new(
        "auth-other-context",
        &["WIRE-AUTH-03"],
        "a device proof under the service's context is refused with BAD_PROOF",
        |w| Box::pin(other_context(w)),
    ),
    Case::new(
        "auth-other-binding",
        &["WIRE-AUTH-05"],
        "a proof bound to another TLS key is refused with BAD_PROOF",
        |w| Box::pin(other_binding(w)),
    ),
    Case::new(
        "auth-replay",
        &["WIRE-AUTH-04"],
        "an Auth replayed on another connection is refused with BAD_PROOF",
        |w| Box::pin(replay(w)),
    ),
    Case::new("auth-role", &["WIRE-AUTH-07"], "an Auth of another role than the hello's is refused", |w| {
        Box::pin(role(w))
    }),
    Case::new("auth-other-name", &["WIRE-AUTH-07"], "an account of another name is refused", |w| {
        Box::pin(other_name(w))
    }),
    Case::new(
        "auth-unknown-device",
        &["SVC-CLAIM-02", "WIRE-AUTH-10"],
        "a device that was never enrolled is refused with UNKNOWN_DEVICE",
        |w| Box::pin(unknown_device(w)),
    ),
    Case::new(
        "auth-bad-invite",
        &["SVC-CLAIM-02"],
        "an invite that was not issued is refused with BAD_INVITE",
        |w| Box::pin(bad_invite(w)),
    ),
    Case::new(
        "auth-spent-invite",
        &["WIRE-AUTH-11", "SVC-CLAIM-02"],
        "an invite works once: the second device is refused with BAD_INVITE",
        |w| Box::pin(spent_invite(w)),
    ),
    Case::new(
        "auth-more-after-auth",
        &["WIRE-STREAM-05"],
        "a frame behind Auth, before Ready, is refused with OUT_OF_ORDER",
        |w| Box::pin(more_after_auth(w)),
    ),
    Case::new(
        "auth-service",
        &["SVC-CLAIM-01"],
        "a service signs in with the addresses of its invite, and with no others",
        |w| Box::pin(service(w)),
    ),
    Case::new(
        "auth-claim",
        &["WIRE-AUTH-09", "NAME-CARD-07"],
        "a homeserver whose TLS key is in its name's card is believed",
        |w| Box::pin(claimed(w)),
    ),
    Case::new(
        "auth-claim-with-another-key",
        &["WIRE-AUTH-09", "NAME-CARD-07"],
        "a claim over a TLS key that the card does not list is refused with CLAIM_REFUSED",
        |w| Box::pin(claim_with_other_key(w)),
    ),
    Case::new(
        "auth-claim-of-a-stranger",
        &["WIRE-AUTH-09", "NAME-CARD-01"],
        "a self-made card of somebody else's name is refused",
        |w| Box::pin(claim_of_a_stranger(w)),
    ),
    Case::new(
        "auth-claim-of-the-subject",
        &["WIRE-AUTH-09"],
        "a claim of the subject's own name is refused",
        |w| Box::pin(claim_of_the_subject(w)),
    ),
    Case::new("auth-claim-later", &["WIRE-STREAM-01"], "a name joins later by Claim", |w| {
        Box::pin(claim_later(w))
    }),
    Case::new(
        "auth-too-many-claims",
        &["WIRE-AUTH-02"],
        "an Auth with 65 claims is refused with MALFORMED",
        |w| Box::pin(too_many_claims(w)),
    ),
    Case::new(
        "auth-one-lookup",
        &["WIRE-AUTH-12"],
        "a stranger's 40 claims cause no more look-ups than one",
        |w| Box::pin(one_lookup(w)),
    ),
    Case::new(
        "auth-line-as-account",
        &["SVC-CLAIM-05"],
        "signing up for a line's address is refused with ADDRESS_TAKEN",
        |w| Box::pin(line_as_account(w)),
    ),
    Case::new(
        "auth-no-certificate",
        &["WIRE-AUTH-07"],
        "a homeserver without a certificate is refused",
        |w| Box::pin(no_certificate(w)),
    ),
];

async fn device(world: &World) -> Seen {
    drop(world.device(0).await?);
    let again = world.device(0).await.context("the second time, without an invite")?;
    Ok(format!("signed in twice, log head {}", again.ready.sync_head))
}

/// Signs in as the first device with what `change` makes of the right proof.
async fn device_with(
    world: &World,
    change: impl FnOnce(&Greeted, &mut v1::DeviceAuth),
) -> anyhow::Result<()> {
    drop(world.device(0).await?);
    let greeted = world.greet(Role::Device).await?;
    let mut proved = world.person(0)?.auth(&greeted, None);
    if let Some(v1::auth::Auth::Device(device)) = &mut proved.auth {
        change(&greeted, device);
    }
    greeted.authenticate(proved).await.map(|_| ())
}

async fn bad_proof(world: &World) -> Seen {
    let flipped = device_with(world, |_, device| {
        let mut signature = device.signature.to_vec();
        signature[40] ^= 1;
        device.signature = signature.into();
    });
    let seen = expect_refusal(flipped.await, ErrorCode::BadProof)?;
    let empty = device_with(world, |_, device| device.signature = Bytes::new());
    expect_refusal(empty.await, ErrorCode::BadProof).context("an empty signature")?;
    Ok(seen)
}

async fn other_context(world: &World) -> Seen {
    let (account, name) = (world.person(0)?, world.subject.name.clone());
    let changed = device_with(world, |greeted, device| {
        let (transcript, spki) = (&greeted.transcript, &greeted.spki);
        device.signature = proof(&account.key, "ahoy-service-v1", transcript, &account.name, &name, spki);
    });
    expect_refusal(changed.await, ErrorCode::BadProof)
}

async fn other_binding(world: &World) -> Seen {
    let (account, name) = (world.person(0)?, world.subject.name.clone());
    let changed = device_with(world, |greeted, device| {
        let transcript = &greeted.transcript;
        device.signature = proof(&account.key, "ahoy-device-v1", transcript, &account.name, &name, &[9; 32]);
    });
    expect_refusal(changed.await, ErrorCode::BadProof)
}

async fn replay(world: &World) -> Seen {
    drop(world.device(0).await?);
    let account = world.person(0)?;
    let first = world.greet(Role::Device).await?;
    let seen = account.auth(&first, None);
    first.authenticate(seen.clone()).await.context("the first time")?;
    let second = world.greet(Role::Device).await?;
    expect_refusal(second.authenticate(seen).await, ErrorCode::BadProof)
}

async fn role(world: &World) -> Seen {
    let account = world.person(0)?;
    let greeted = world.greet(Role::Service).await?;
    let proved = account.auth(&greeted, None);
    expect_refusal(greeted.authenticate(proved).await, ErrorCode::OutOfOrder)
}

async fn other_name(world: &World) -> Seen {
    let greeted = world.greet(Role::Device).await?;
    let proved = greeted.device_auth(&world.home.address("ann"), &Key::generate(), None);
    match greeted.authenticate(proved).await {
        Ok(_) => bail!("a device of another name was signed in"),
        Err(error) => match error.downcast_ref::<Refused>() {
            Some(refused) => Ok(refused.to_string()),
            None => Err(error),
        },
    }
}

async fn unknown_device(world: &World) -> Seen {
    let greeted = world.greet(Role::Device).await?;
    let proved = greeted.device_auth(&world.person(0)?.name, &Key::generate(), None);
    expect_refusal(greeted.authenticate(proved).await, ErrorCode::UnknownDevice)
}

async fn enrol_with(world: &World, account: &str, invite: &str) -> anyhow::Result<()> {
    let greeted = world.greet(Role::Device).await?;
    let proved = greeted.device_auth(account, &Key::generate(), Some(invite));
    greeted.authenticate(proved).await.map(|_| ())
}

async fn bad_invite(world: &World) -> Seen {
    let account = world.person(0)?;
    let seen = expect_refusal(enrol_with(world, &account.name, "nonsense").await, ErrorCode::BadInvite)?;
    let mut changed = account.invite.clone();
    let last = changed.pop().context("an empty invite")?;
    changed.push(if last == 'A' { 'B' } else { 'A' });
    changed
        .replace_range(changed.len() / 2..=changed.len() / 2, if changed.contains('x') { "y" } else { "x" });
    expect_refusal(enrol_with(world, &account.name, &changed).await, ErrorCode::BadInvite)
        .context("a changed token")?;
    Ok(seen)
}

async fn spent_invite(world: &World) -> Seen {
    drop(world.device(0).await?);
    let account = world.person(0)?;
    let seen = expect_refusal(enrol_with(world, &account.name, &account.invite).await, ErrorCode::BadInvite)?;
    world.device(0).await.context("the device that the invite enrolled")?;
    Ok(seen)
}

async fn more_after_auth(world: &World) -> Seen {
    drop(world.device(0).await?);
    let mut greeted = world.greet(Role::Device).await?;
    let proved = control(Frame::Auth(world.person(0)?.auth(&greeted, None)));
    let more = control(Frame::Want(v1::Want { name: world.subject.name.clone() }));
    let mut bytes = Vec::new();
    for frame in [proved, more] {
        bytes.extend_from_slice(&crate::frame::framed(&prost::Message::encode_to_vec(&frame)));
    }
    greeted.stream.send_bytes(&bytes).await?;
    let answer = match greeted.stream.recv::<v1::ControlFrame>().await {
        Ok(v1::ControlFrame { frame: Some(Frame::Error(error)) }) => Err(Refused(error).into()),
        Ok(other) => Ok(other),
        Err(end) => Err(end.into()),
    };
    expect_refusal(answer, ErrorCode::OutOfOrder)
}

async fn service(world: &World) -> Seen {
    drop(world.service().await?);
    let desk = world.desk()?;
    let greeted = world.greet(Role::Service).await?;
    let mut wanted = desk.addresses.clone();
    wanted.push(format!("not-ours@{}", world.subject.name));
    let proved = greeted.service_auth(&desk.name, &desk.key, &wanted, None);
    let seen = expect_refusal(greeted.authenticate(proved).await, ErrorCode::NotAllowed)?;
    drop(world.service().await?);
    Ok(seen)
}

async fn claimed(world: &World) -> Seen {
    let session = world.homeserver().await?;
    Ok(format!("believed: {:?}", session.ready.names))
}

async fn claim_with(world: &World, show_other_key: bool, cards: Vec<v1::Signed>) -> anyhow::Result<()> {
    let net = if show_other_key { &world.stranger } else { &world.net };
    let hello = hello(Role::Homeserver, &world.subject.name);
    let greeted = greet(net, &world.subject, Show::Certificate, hello).await?;
    let session = greeted.authenticate(claim(cards)).await?;
    ensure!(
        !session.ready.names.is_empty(),
        Refused(v1::Error {
            code: ErrorCode::ClaimRefused.into(),
            message: "Ready without a name".into(),
            ..v1::Error::default()
        })
    );
    Ok(())
}

async fn claim_with_other_key(world: &World) -> Seen {
    let card = world.peer.card(&world.home.name).context("the suite shows its own card")?;
    expect_refusal(claim_with(world, true, vec![card]).await, ErrorCode::ClaimRefused)
}

async fn claim_of_a_stranger(world: &World) -> Seen {
    // A card that the stranger signed itself, with its own TLS key in it.
    let fake = Site::new(world.home.name.clone());
    let anchor = sign_anchor(&fake.name, &fake.key, &world.anchor_text(&fake)?);
    let mut card = world.card(&fake, &anchor);
    card.tls_spki = vec![Bytes::copy_from_slice(&world.stranger.spki)];
    card.seq += 1000;
    let claimed = claim_with(world, true, vec![sign_card(&card, &fake.key)]).await;
    expect_refusal(claimed, ErrorCode::ClaimRefused)
}

async fn claim_of_the_subject(world: &World) -> Seen {
    let greeted = world.greet(Role::CardReader).await?;
    let card = greeted.hello.card.clone().context("a ServerHello without a card")?;
    expect_refusal(claim_with(world, false, vec![card]).await, ErrorCode::ClaimRefused)
}

async fn claim_later(world: &World) -> Seen {
    let site = Site::new(world.name("joined"));
    world.open_site(&site)?;
    let mut session = world.homeserver().await?;
    let card = world.peer.card(&site.name);
    session.control.send(&control(Frame::Claim(v1::Claim { card }))).await?;
    match session.control.recv::<v1::ControlFrame>().await?.frame {
        Some(Frame::Claimed(v1::Claimed { name, error: None })) if name == site.name => {
            Ok(format!("{name} was accepted"))
        }
        Some(Frame::Claimed(v1::Claimed { error: Some(error), .. })) => Err(Refused(error).into()),
        other => bail!("the answer to Claim is {other:?}"),
    }
}

async fn too_many_claims(world: &World) -> Seen {
    let card = v1::Signed::default();
    expect_refusal(claim_with(world, false, vec![card; 65]).await, ErrorCode::Malformed)
}

async fn no_certificate(world: &World) -> Seen {
    let hello = hello(Role::Homeserver, &world.subject.name);
    let attempt = async {
        let greeted = greet(&world.net, &world.subject, Show::Nothing, hello).await?;
        greeted.authenticate(auth(v1::auth::Auth::Server(v1::ServerAuth::default()))).await
    };
    match attempt.await {
        Ok(_) => bail!("a homeserver without a certificate was signed in"),
        Err(error) if error.is::<Refused>() || matches!(error.downcast_ref(), Some(End::Closed(..))) => {
            Ok(format!("{error:#}"))
        }
        Err(error) => Err(error),
    }
}

async fn one_lookup(world: &World) -> Seen {
    let card = |n: usize| {
        let site = Site::new(world.name(&format!("claimed{n}")));
        let anchor = sign_anchor(&site.name, &site.key, &world.anchor_text(&site)?);
        anyhow::Ok(sign_card(&world.card(&site, &anchor), &site.key))
    };
    let before = world.dns.queries();
    ensure!(
        claim_with(world, false, vec![card(0)?]).await.is_err(),
        "a claim of a name without zone was believed"
    );
    let one = world.dns.queries() - before;
    let cards = (1..=40).map(card).collect::<anyhow::Result<Vec<_>>>()?;
    ensure!(claim_with(world, false, cards).await.is_err(), "claims of names without zone were believed");
    let all = world.dns.queries() - before - one;
    ensure!(all <= 2 * one, "40 claims caused {all} queries, one caused {one}");
    Ok(format!("{one} queries for one claim, {all} for 40"))
}

async fn line_as_account(world: &World) -> Seen {
    let line = world.line()?;
    let Some(account) = world.devices.iter().find(|account| account.name == line) else {
        bail!(Skipped(format!("needs an --invite for {line}")));
    };
    expect_refusal(enrol_with(world, line, &account.invite).await, ErrorCode::AddressTaken)
}
