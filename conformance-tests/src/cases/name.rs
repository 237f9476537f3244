//! Names: what the subject believes of DNS and anchors, asked through a device's `Explain`.

use anyhow::ensure;

use ahoy_proto::v1::ErrorCode;
use ahoy_testkit::dns::{Data, Signing, ZoneRecord};

use super::{Case, Seen};
use crate::moment::now_s;
use crate::refusal::expect_refusal;
use crate::sign::{anchor_text, sign_anchor};
use crate::world::{Site, World};

const DAY: u64 = 24 * 3600;

pub(super) const CASES: &[Case] = &[
    Case::new(
        "name-secure",
        &["NAME-LEVEL-02", "NAME-ANCHOR-08"],
        "a signed zone and anchor are Secure",
        |w| Box::pin(secure(w)),
    ),
    Case::new("name-cname", &["NAME-ANCHOR-13", "NAME-LEVEL-01"], "a CNAME to the record is followed", |w| {
        Box::pin(cname(w))
    }),
    Case::new("name-cname-loop", &["NAME-ANCHOR-13"], "a CNAME loop is DnsUnavailable", |w| {
        Box::pin(cname_loop(w))
    }),
    Case::new("name-foreign-text", &["NAME-ANCHOR-01"], "other TXT beside the anchor is noise", |w| {
        Box::pin(foreign_text(w))
    }),
    Case::new("name-only-foreign-text", &["NAME-ANCHOR-01"], "other TXT alone is no anchor", |w| {
        Box::pin(only_foreign_text(w))
    }),
    Case::new(
        "name-spoiled-by-forms",
        &["NAME-ANCHOR-03"],
        "spaces and quotes that DNS forms add are deleted",
        |w| Box::pin(spoiled(w)),
    ),
    Case::new("name-unknown-tag", &["NAME-ANCHOR-07"], "an unknown lower-case tag is ignored", |w| {
        Box::pin(unknown_tag(w))
    }),
    Case::new(
        "name-critical-tag",
        &["NAME-ANCHOR-07", "NAME-ANCHOR-12"],
        "an unknown upper-case tag is BadRecord",
        |w| Box::pin(critical_tag(w)),
    ),
    Case::new(
        "name-second-record",
        &["NAME-ANCHOR-12"],
        "an unusable record beside a usable one is ignored",
        |w| Box::pin(second_record(w)),
    ),
    Case::new(
        "name-bad-signature",
        &["NAME-ANCHOR-08"],
        "an anchor with another signature is BadRecord",
        |w| Box::pin(bad_signature(w)),
    ),
    Case::new("name-replayed-record", &["NAME-ANCHOR-08"], "another name's anchor is BadRecord", |w| {
        Box::pin(replayed(w))
    }),
    Case::new("name-oversized", &["NAME-ANCHOR-02"], "an anchor over 1000 characters is BadRecord", |w| {
        Box::pin(oversized(w))
    }),
    Case::new("name-wrong-order", &["NAME-ANCHOR-04"], "tags out of order are BadRecord", |w| {
        Box::pin(wrong_order(w))
    }),
    Case::new("name-weak-key", &["NAME-ANCHOR-05"], "a key of small order is BadRecord", |w| {
        Box::pin(weak_key(w))
    }),
    Case::new("name-bad-endpoint", &["NAME-ANCHOR-06"], "an IP address as endpoint is BadRecord", |w| {
        Box::pin(bad_endpoint(w))
    }),
    Case::new("name-from-the-future", &["NAME-ANCHOR-09"], "an anchor over 24 h ahead is BadRecord", |w| {
        Box::pin(from_the_future(w))
    }),
    Case::new(
        "name-expired",
        &["NAME-ANCHOR-10", "NAME-LEVEL-06"],
        "an anchor long past its end is AnchorExpired",
        |w| Box::pin(expired(w)),
    ),
    Case::new("name-tombstone", &["NAME-ANCHOR-06"], "`e=.` is NotInService", |w| Box::pin(tombstone(w))),
    Case::new(
        "name-absent",
        &["NAME-ANCHOR-01", "NAME-LEVEL-10"],
        "a name without zone is NotOnNetwork",
        |w| Box::pin(absent(w)),
    ),
    Case::new("name-bogus-zone", &["NAME-LEVEL-04"], "a tampered zone is DnsBogus", |w| Box::pin(bogus(w))),
    Case::new("name-expired-zone", &["NAME-LEVEL-04"], "a zone with old signatures is DnsBogus", |w| {
        Box::pin(expired_zone(w))
    }),
    Case::new(
        "name-stripped-zone",
        &["NAME-LEVEL-04"],
        "a zone stripped of its signatures is DnsBogus",
        |w| Box::pin(stripped(w)),
    ),
    Case::new(
        "name-unsigned-zone",
        &["NAME-LEVEL-02"],
        "an unknown name in an unsigned zone is NotSecure",
        |w| Box::pin(unsigned(w)),
    ),
    Case::new("name-key-mismatch", &["NAME-LEVEL-03"], "another key for a pinned name is KeyMismatch", |w| {
        Box::pin(key_mismatch(w))
    }),
    Case::new("name-rollback", &["NAME-LEVEL-03"], "an older anchor does not replace the known one", |w| {
        Box::pin(rollback(w))
    }),
    Case::new(
        "name-continuity",
        &["NAME-LEVEL-04", "NAME-LEVEL-03"],
        "a pinned name in a zone that became bogus is kept",
        |w| Box::pin(continuity(w)),
    ),
    Case::new(
        "name-invalid",
        &["NAME-ADDR-03", "NAME-ADDR-06", "NAME-ADDR-05"],
        "single labels, IP literals and public suffixes are NameInvalid",
        |w| Box::pin(invalid(w)),
    ),
    Case::new("name-special-use", &["NAME-ADDR-04"], "special-use names are NameInvalid", |w| {
        Box::pin(special_use(w))
    }),
    Case::new(
        "name-three-anchors",
        &["NAME-ANCHOR-11"],
        "of three usable anchors the oldest does not count",
        |w| Box::pin(three_anchors(w)),
    ),
    Case::new(
        "name-silent-dns",
        &["NAME-LEVEL-05"],
        "while DNS is silent a pinned name is kept and an unknown one is DnsUnavailable",
        |w| Box::pin(silent(w)),
    ),
    Case::new(
        "name-typed",
        &["NAME-ADDR-01"],
        "capital letters and a trailing dot are read as typed names",
        |w| Box::pin(typed(w)),
    ),
];

fn site(world: &World, label: &str) -> Site {
    Site::new(world.name(label))
}

/// Publishes this text, signed for the site, in a signed zone, and asks.
async fn explain_signed(world: &World, site: &Site, text: &str) -> anyhow::Result<String> {
    explain_published(world, site, &sign_anchor(&site.name, &site.key, text), Signing::Signed).await
}

async fn explain_published(
    world: &World,
    site: &Site,
    anchor: &str,
    signing: Signing,
) -> anyhow::Result<String> {
    world.publish(site, anchor, signing)?;
    explain(world, &site.name).await
}

/// The level that the subject gives a name.
async fn explain(world: &World, name: &str) -> anyhow::Result<String> {
    Ok(world.device(0).await?.explain(name).await?.level)
}

fn is_secure(level: String) -> Seen {
    ensure!(level == "Secure", "expected Secure, got {level:?}");
    Ok("Secure".into())
}

/// Shows the right card for a site and this anchor, so that only DNS decides.
fn show_card(world: &World, site: &Site, anchor: &str) {
    let card = world.card(site, anchor);
    world.peer.show_card(&site.name, crate::sign::sign_card(&card, &site.key));
}

async fn secure(world: &World) -> Seen {
    let site = site(world, "good");
    world.open_site(&site)?;
    let answer = world.device(0).await?.explain(&site.name).await?;
    ensure!(!answer.steps.is_empty(), "the explanation has no steps");
    is_secure(answer.level)
}

async fn cname(world: &World) -> Seen {
    let (site, operator) = (site(world, "aliased"), site(world, "operator"));
    let anchor = sign_anchor(&site.name, &site.key, &world.anchor_text(&site)?);
    show_card(world, &site, &anchor);
    let target = format!("aliased-anchor.{}", operator.name);
    world.put_zone(&operator, vec![ZoneRecord::new(target.clone(), Data::Text(anchor))], Signing::Signed)?;
    let alias = ZoneRecord::new(format!("_ahoy.{}", site.name), Data::Alias(target));
    world.put_zone(&site, vec![alias], Signing::Signed)?;
    is_secure(explain(world, &site.name).await?)
}

async fn cname_loop(world: &World) -> Seen {
    let site = site(world, "loop");
    let alias = |from: &str, to: &str| {
        ZoneRecord::new(format!("{from}.{}", site.name), Data::Alias(format!("{to}.{}", site.name)))
    };
    world.put_zone(
        &site,
        vec![alias("_ahoy", "one"), alias("one", "two"), alias("two", "one")],
        Signing::Signed,
    )?;
    expect_refusal(explain(world, &site.name).await, ErrorCode::DnsUnavailable)
}

async fn foreign_text(world: &World) -> Seen {
    let site = site(world, "noise");
    let anchor = sign_anchor(&site.name, &site.key, &world.anchor_text(&site)?);
    show_card(world, &site, &anchor);
    let text = |data: &str| ZoneRecord::new(format!("_ahoy.{}", site.name), Data::Text(data.to_owned()));
    let records = vec![text("v=spf1 -all"), text("site-verification=abc"), text(&anchor)];
    world.put_zone(&site, records, Signing::Signed)?;
    is_secure(explain(world, &site.name).await?)
}

async fn only_foreign_text(world: &World) -> Seen {
    let site = site(world, "onlynoise");
    expect_refusal(
        explain_published(world, &site, "v=spf1 -all", Signing::Signed).await,
        ErrorCode::NotOnNetwork,
    )
}

async fn spoiled(world: &World) -> Seen {
    let site = site(world, "spoiled");
    let anchor = sign_anchor(&site.name, &site.key, &world.anchor_text(&site)?);
    show_card(world, &site, &anchor);
    let (front, back) = anchor.split_at(anchor.len() / 2);
    let spoiled = format!("\"{front} \" \"\t{back}\"");
    is_secure(explain_published(world, &site, &spoiled, Signing::Signed).await?)
}

async fn unknown_tag(world: &World) -> Seen {
    let site = site(world, "newtag");
    let text = format!("{};z=later", world.anchor_text(&site)?);
    show_card(world, &site, &sign_anchor(&site.name, &site.key, &text));
    is_secure(explain_signed(world, &site, &text).await?)
}

async fn critical_tag(world: &World) -> Seen {
    let site = site(world, "critical");
    let text = format!("{};Z=must", world.anchor_text(&site)?);
    expect_refusal(explain_signed(world, &site, &text).await, ErrorCode::BadRecord)
}

async fn second_record(world: &World) -> Seen {
    let site = site(world, "tworecords");
    let anchor = sign_anchor(&site.name, &site.key, &world.anchor_text(&site)?);
    show_card(world, &site, &anchor);
    let text = |data: &str| ZoneRecord::new(format!("_ahoy.{}", site.name), Data::Text(data.to_owned()));
    world.put_zone(&site, vec![text("v=ahoy1;k=broken"), text(&anchor)], Signing::Signed)?;
    is_secure(explain(world, &site.name).await?)
}

async fn bad_signature(world: &World) -> Seen {
    let site = site(world, "badsig");
    let other = Site::new(site.name.clone());
    let text = world.anchor_text(&site)?;
    let anchor = sign_anchor(&site.name, &other.key, &text);
    expect_refusal(explain_published(world, &site, &anchor, Signing::Signed).await, ErrorCode::BadRecord)
}

async fn replayed(world: &World) -> Seen {
    let site = site(world, "replay");
    let anchor = sign_anchor(&world.home.name, &site.key, &world.anchor_text(&site)?);
    expect_refusal(explain_published(world, &site, &anchor, Signing::Signed).await, ErrorCode::BadRecord)
}

async fn oversized(world: &World) -> Seen {
    let site = site(world, "oversized");
    let text = format!("{};z={}", world.anchor_text(&site)?, "x".repeat(1000));
    expect_refusal(explain_signed(world, &site, &text).await, ErrorCode::BadRecord)
}

async fn wrong_order(world: &World) -> Seen {
    let site = site(world, "order");
    let text = format!("{};x={}", world.anchor_text(&site)?, now_s() + DAY);
    expect_refusal(explain_signed(world, &site, &text).await, ErrorCode::BadRecord)
}

async fn weak_key(world: &World) -> Seen {
    let site = site(world, "weakkey");
    let mut neutral = [0; 32];
    neutral[0] = 1;
    let own = crate::sign::base64url(&site.key.public());
    let text = world.anchor_text(&site)?.replace(&own, &crate::sign::base64url(&neutral));
    expect_refusal(explain_signed(world, &site, &text).await, ErrorCode::BadRecord)
}

async fn bad_endpoint(world: &World) -> Seen {
    let site = site(world, "literal");
    let text = anchor_text(&site.key, now_s(), &format!("e={}:2469", world.net.address()?.ip()));
    expect_refusal(explain_signed(world, &site, &text).await, ErrorCode::BadRecord)
}

async fn from_the_future(world: &World) -> Seen {
    let site = site(world, "future");
    let text = anchor_text(&site.key, now_s() + 2 * DAY, &format!("e=hs.{}", site.name));
    expect_refusal(explain_signed(world, &site, &text).await, ErrorCode::BadRecord)
}

async fn expired(world: &World) -> Seen {
    let site = site(world, "expired");
    // Beyond the 30 days for which a secure anchor is still good for an introduction.
    let (signed, end) = (now_s() - 60 * DAY, now_s() - 40 * DAY);
    let text = anchor_text(&site.key, signed, &format!("x={end};e=hs.{}", site.name));
    expect_refusal(explain_signed(world, &site, &text).await, ErrorCode::AnchorExpired)
}

async fn tombstone(world: &World) -> Seen {
    let site = site(world, "closed");
    let text = anchor_text(&site.key, now_s(), "e=.");
    expect_refusal(explain_signed(world, &site, &text).await, ErrorCode::NotInService)
}

async fn absent(world: &World) -> Seen {
    expect_refusal(explain(world, &world.name("absent")).await, ErrorCode::NotOnNetwork)
}

async fn broken_zone(world: &World, label: &str, signing: Signing, wanted: ErrorCode) -> Seen {
    let site = site(world, label);
    let anchor = sign_anchor(&site.name, &site.key, &world.anchor_text(&site)?);
    show_card(world, &site, &anchor);
    expect_refusal(explain_published(world, &site, &anchor, signing).await, wanted)
}

async fn bogus(world: &World) -> Seen {
    broken_zone(world, "bogus", Signing::Tampered, ErrorCode::DnsBogus).await
}

async fn expired_zone(world: &World) -> Seen {
    broken_zone(world, "oldzone", Signing::Expired, ErrorCode::DnsBogus).await
}

async fn stripped(world: &World) -> Seen {
    broken_zone(world, "stripped", Signing::Stripped, ErrorCode::DnsBogus).await
}

async fn unsigned(world: &World) -> Seen {
    broken_zone(world, "unsigned", Signing::Unsigned, ErrorCode::NotSecure).await
}

async fn key_mismatch(world: &World) -> Seen {
    let site = site(world, "newowner");
    world.open_site(&site)?;
    is_secure(explain(world, &site.name).await?)?;
    let other = Site::new(site.name.clone());
    world.open_site(&other)?;
    expect_refusal(explain(world, &site.name).await, ErrorCode::KeyMismatch)
}

async fn rollback(world: &World) -> Seen {
    let site = site(world, "rollback");
    world.open_site(&site)?;
    is_secure(explain(world, &site.name).await?)?;
    // An older anchor of the same key that takes the name out of service.
    let old = anchor_text(&site.key, now_s() - DAY, "e=.");
    let level = explain_signed(world, &site, &old).await?;
    ensure!(!level.is_empty(), "the name was given up for an older anchor");
    Ok(format!("kept, {level}"))
}

async fn continuity(world: &World) -> Seen {
    let site = site(world, "turnedbogus");
    world.open_site(&site)?;
    is_secure(explain(world, &site.name).await?)?;
    world.dns.set_signing(&site.name, Signing::Tampered)?;
    let level = explain(world, &site.name).await?;
    ensure!(level == "Continuity", "expected Continuity, got {level:?}");
    Ok(level)
}

async fn invalid(world: &World) -> Seen {
    let device = world.device(0).await?;
    let long = format!("{}{}", "a23456789.".repeat(25), world.name("long"));
    let names = ["bank", "com", "co.uk", "127.0.0.1", "a..b.com", "-a.com", "a b.com", &long];
    for name in names {
        let refused = expect_refusal(device.explain(name).await, ErrorCode::NameInvalid);
        refused.map_err(|error| error.context(format!("{name:?}")))?;
    }
    Ok(format!("{} spellings refused", names.len()))
}

async fn special_use(world: &World) -> Seen {
    let device = world.device(0).await?;
    for name in ["shop.localhost", "shop.onion", "shop.internal", "shop.invalid"] {
        let refused = expect_refusal(device.explain(name).await, ErrorCode::NameInvalid);
        refused.map_err(|error| error.context(format!("{name:?}")))?;
    }
    Ok("4 names refused".into())
}

async fn typed(world: &World) -> Seen {
    let name = format!("{}.", world.home.name.to_uppercase());
    is_secure(explain(world, &name).await?)
}

async fn three_anchors(world: &World) -> Seen {
    let site = site(world, "three");
    let (second, third) = (Site::new(site.name.clone()), Site::new(site.name.clone()));
    let port = world.net.address()?.port();
    let anchor = |of: &Site, age: u64| {
        let text = anchor_text(&of.key, now_s() - age, &format!("e=hs.{}:{port}", site.name));
        sign_anchor(&site.name, &of.key, &text)
    };
    // The card rests on the oldest, so that it is good only if that one counts.
    let oldest = anchor(&site, 300);
    show_card(world, &site, &oldest);
    let text = |data: String| ZoneRecord::new(format!("_ahoy.{}", site.name), Data::Text(data));
    let records = vec![text(oldest), text(anchor(&second, 200)), text(anchor(&third, 100))];
    world.put_zone(&site, records, Signing::Signed)?;
    expect_refusal(explain(world, &site.name).await, ErrorCode::PeerNotAuthentic)
}

async fn silent(world: &World) -> Seen {
    let (known, unknown) = (site(world, "keptinsilence"), site(world, "neverseen"));
    world.open_site(&known)?;
    world.open_site(&unknown)?;
    is_secure(explain(world, &known.name).await?)?;
    let device = world.device(0).await?;
    world.dns.set_silent(true);
    let begun = tokio::time::Instant::now();
    let kept = device.explain(&known.name).await;
    let took = begun.elapsed();
    let refused = device.explain(&unknown.name).await;
    world.dns.set_silent(false);
    let level = kept?.level;
    ensure!(level == "Continuity", "the pinned name is {level:?}");
    ensure!(took.as_millis() < 3500, "the pinned name took {} ms", took.as_millis());
    let seen = expect_refusal(refused.map(|answer| answer.level), ErrorCode::DnsUnavailable)?;
    Ok(format!("kept after {} ms; {seen}", took.as_millis()))
}
