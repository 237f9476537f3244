//! Cards: whom the subject believes at an endpoint, and the subject's own anchor and card.

use anyhow::{Context as _, ensure};

use ahoy_proto::v1::{self, ErrorCode, Role};
use ahoy_testkit::dns::Signing;

use super::{Case, Seen};
use crate::moment::now_s;
use crate::refusal::expect_refusal;
use crate::sign::{Key, check_card, sign_anchor, sign_card};
use crate::world::{Site, World};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "card-of-the-subject",
        &[
            "NAME-CARD-01",
            "NAME-CARD-02",
            "NAME-CARD-03",
            "NAME-CARD-05",
            "NAME-CARD-06",
            "NAME-CARD-07",
            "WIRE-HELLO-05",
        ],
        "the subject's anchor and card verify",
        |w| Box::pin(own(w)),
    ),
    Case::new(
        "card-for-readers",
        &["WIRE-HELLO-05"],
        "a reader of cards gets the card and two hellos never share a nonce",
        |w| Box::pin(nonces(w)),
    ),
    Case::new(
        "card-without-tls-key",
        &["NAME-CARD-07"],
        "a server whose TLS key is not in its card is PeerNotAuthentic",
        |w| Box::pin(without_tls_key(w)),
    ),
    Case::new(
        "card-by-a-stranger",
        &["NAME-CARD-01"],
        "a card signed by another key is PeerNotAuthentic",
        |w| Box::pin(by_a_stranger(w)),
    ),
    Case::new(
        "card-bad-signature",
        &["NAME-CARD-01"],
        "a card changed after it was signed is PeerNotAuthentic",
        |w| Box::pin(bad_signature(w)),
    ),
    Case::new("card-expired", &["NAME-CARD-06"], "an expired card is PeerNotAuthentic", |w| {
        Box::pin(expired(w))
    }),
    Case::new("card-not-yet", &["NAME-CARD-06"], "a card from over 10 min ahead is PeerNotAuthentic", |w| {
        Box::pin(not_yet(w))
    }),
    Case::new(
        "card-too-long-a-life",
        &["NAME-CARD-05"],
        "a card with a life over 7 days is PeerNotAuthentic",
        |w| Box::pin(long_life(w)),
    ),
    Case::new("card-of-another-name", &["NAME-CARD-03"], "another name's card is PeerNotAuthentic", |w| {
        Box::pin(of_another_name(w))
    }),
    Case::new("card-too-large", &["NAME-CARD-02"], "a card over 16 KiB is PeerNotAuthentic", |w| {
        Box::pin(too_large(w))
    }),
    Case::new(
        "card-with-another-anchor",
        &["NAME-CARD-04"],
        "a card with another key's anchor is PeerNotAuthentic",
        |w| Box::pin(other_anchor(w)),
    ),
    Case::new(
        "card-that-revokes-its-key",
        &["NAME-CARD-08"],
        "a card that revokes its own key is PeerNotAuthentic",
        |w| Box::pin(revoked(w)),
    ),
    Case::new(
        "card-by-an-operator",
        &["NAME-CARD-09"],
        "a card signed under a valid delegation is Secure, under one for another anchor PeerNotAuthentic",
        |w| Box::pin(delegated(w)),
    ),
    Case::new(
        "card-rolled-back",
        &["NAME-CARD-10"],
        "a card with a lower seq than the known one is refused",
        |w| Box::pin(rolled_back(w)),
    ),
    Case::new(
        "card-server-gone",
        &["NAME-LEVEL-10"],
        "a name whose endpoint does not answer is PeerUnreachable within 5 s",
        |w| Box::pin(server_gone(w)),
    ),
];

async fn own(world: &World) -> Seen {
    let greeted = world.greet(Role::CardReader).await?;
    let signed = greeted.hello.card.as_ref().context("a ServerHello without a card")?;
    let card = check_card(signed, &world.subject.name, &world.anchor, &greeted.spki)?;
    ensure!(!card.message_keys.is_empty(), "the card has no message key");
    let left = card.not_after - now_s().min(card.not_after);
    Ok(format!("seq {}, {} lines, in force for {} h more", card.seq, card.lines.len(), left / 3600))
}

async fn nonces(world: &World) -> Seen {
    let (one, other) = (world.greet(Role::CardReader).await?, world.greet(Role::CardReader).await?);
    ensure!(one.hello.nonce != other.hello.nonce, "two hellos have the same nonce");
    Ok("a card each, nonces differ".into())
}

/// Publishes a good anchor with whatever card `change` makes, and asks.
async fn explain_with(
    world: &World,
    label: &str,
    make: impl FnOnce(&Site, v1::Card) -> v1::Signed,
) -> anyhow::Result<String> {
    let site = Site::new(world.name(label));
    let anchor = sign_anchor(&site.name, &site.key, &world.anchor_text(&site)?);
    world.publish(&site, &anchor, Signing::Signed)?;
    let card = world.card(&site, &anchor);
    world.peer.show_card(&site.name, make(&site, card));
    Ok(world.device(0).await?.explain(&site.name).await?.level)
}

async fn refused(world: &World, label: &str, make: impl FnOnce(&Site, v1::Card) -> v1::Signed) -> Seen {
    expect_refusal(explain_with(world, label, make).await, ErrorCode::PeerNotAuthentic)
}

async fn without_tls_key(world: &World) -> Seen {
    refused(world, "notlskey", |site, mut card| {
        card.tls_spki = vec![vec![9; 32].into()];
        sign_card(&card, &site.key)
    })
    .await
}

async fn by_a_stranger(world: &World) -> Seen {
    refused(world, "cardstranger", |_, card| sign_card(&card, &Key::generate())).await
}

async fn bad_signature(world: &World) -> Seen {
    refused(world, "cardbadsig", |site, mut card| {
        let before = sign_card(&card, &site.key);
        card.seq += 1;
        v1::Signed { signature: before.signature, ..sign_card(&card, &site.key) }
    })
    .await
}

async fn expired(world: &World) -> Seen {
    refused(world, "cardexpired", |site, mut card| {
        (card.not_before, card.not_after) = (now_s() - 7200, now_s() - 3600);
        sign_card(&card, &site.key)
    })
    .await
}

async fn not_yet(world: &World) -> Seen {
    refused(world, "cardnotyet", |site, mut card| {
        (card.not_before, card.not_after) = (now_s() + 3600, now_s() + 7200);
        sign_card(&card, &site.key)
    })
    .await
}

async fn long_life(world: &World) -> Seen {
    refused(world, "cardlonglife", |site, mut card| {
        card.not_after = card.not_before + 8 * 24 * 3600;
        sign_card(&card, &site.key)
    })
    .await
}

async fn of_another_name(world: &World) -> Seen {
    let other = world.home.name.clone();
    refused(world, "cardothername", |site, mut card| {
        card.name = other;
        sign_card(&card, &site.key)
    })
    .await
}

async fn too_large(world: &World) -> Seen {
    refused(world, "cardtoolarge", |site, mut card| {
        let label = |n: u32| v1::CardLine {
            local: format!("line{n}"),
            labels: vec![v1::LocalText { language: "en".into(), text: "x".repeat(200) }],
            ..v1::CardLine::default()
        };
        card.lines = (0..80).map(label).collect();
        sign_card(&card, &site.key)
    })
    .await
}

async fn other_anchor(world: &World) -> Seen {
    refused(world, "cardotheranchor", |site, mut card| {
        let other = Site::new(site.name.clone());
        let text = crate::sign::anchor_text(&other.key, now_s(), &format!("e=hs.{}", site.name));
        card.anchor = sign_anchor(&site.name, &other.key, &text);
        sign_card(&card, &site.key)
    })
    .await
}

async fn revoked(world: &World) -> Seen {
    refused(world, "cardrevoked", |site, mut card| {
        card.revoked_keys = vec![v1::RevokedKey { key: site.key.public(), revoked_from: now_s() - 60 }];
        sign_card(&card, &site.key)
    })
    .await
}

/// A card that an operator's key signs under a delegation for the anchor with this hash.
fn operated(site: &Site, mut card: v1::Card, anchor: &str) -> v1::Signed {
    use prost::Message as _;
    use sha2::Digest as _;
    let operator = Key::generate();
    let delegation = v1::Delegation {
        name: site.name.clone(),
        anchor_sha256: sha2::Sha256::digest(anchor).to_vec().into(),
        operator_key: operator.public(),
        scopes: vec!["card".into()],
        not_before: now_s() - 60,
        not_after: now_s() + 3600,
    };
    let body = bytes::Bytes::from(delegation.encode_to_vec());
    card.delegation = Some(v1::Signed {
        signature: site.key.sign("ahoy-delegation-v1", &[&body]),
        signer: site.key.public(),
        body,
    });
    sign_card(&card, &operator)
}

async fn delegated(world: &World) -> Seen {
    let good = explain_with(world, "operated", |site, card| {
        let anchor = card.anchor.clone();
        operated(site, card, &anchor)
    });
    let level = good.await.context("a valid delegation")?;
    ensure!(level == "Secure", "expected Secure under a valid delegation, got {level:?}");
    refused(world, "misoperated", |site, card| operated(site, card, "another anchor")).await
}

async fn rolled_back(world: &World) -> Seen {
    let site = Site::new(world.name("cardrollback"));
    world.open_site(&site)?;
    let device = world.device(0).await?;
    ensure!(device.explain(&site.name).await?.level == "Secure", "the first card is not believed");
    let anchor = sign_anchor(&site.name, &site.key, &world.anchor_text(&site)?);
    world.publish(&site, &anchor, Signing::Signed)?;
    let mut card = world.card(&site, &anchor);
    card.seq -= 1000;
    world.peer.show_card(&site.name, sign_card(&card, &site.key));
    match device.explain(&site.name).await {
        // The known card stays good for its life.
        Ok(answer) if !answer.warnings.is_empty() => {
            Ok(format!("kept the known card: {:?}", answer.warnings))
        }
        other => expect_refusal(other, ErrorCode::PeerNotAuthentic),
    }
}

async fn server_gone(world: &World) -> Seen {
    let site = Site::new(world.name("gone"));
    let text = crate::sign::anchor_text(&site.key, now_s(), &format!("e=hs.{}:9", site.name));
    world.publish(&site, &sign_anchor(&site.name, &site.key, &text), Signing::Signed)?;
    let device = world.device(0).await?;
    let begun = tokio::time::Instant::now();
    let seen = expect_refusal(device.explain(&site.name).await, ErrorCode::PeerUnreachable)?;
    let took = begun.elapsed().as_millis();
    ensure!(took < 5500, "it took {took} ms");
    Ok(format!("{seen} after {took} ms"))
}
