//! The rules of belief and the failure table, over a table of answers and a virtual clock.

use std::net::Ipv4Addr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ahoy_proto::anchor::{AnchorEndpoint, commitment};
use ahoy_proto::v1::ErrorCode;
use ahoy_resolver::{DnsAnswer, DnsFault, Found, Level, PinStore, Standing, Warning};
use futures_util::future::join_all;

use crate::world::{DAY, HOST, HOUR, World, bank, key, nothing, text};

fn bogus() -> DnsFault {
    DnsFault::Bogus("tampered".into())
}

fn alias(target: &str, standing: Standing) -> DnsAnswer {
    DnsAnswer { found: Found::Alias(target.into()), standing, ttl: 3600 }
}

async fn code(world: &mut World) -> ErrorCode {
    world.afresh().await.expect_err("a refusal").code()
}

#[tokio::test]
async fn a_validated_name_is_secure_and_pinned() {
    let world = World::new();
    let found = world.resolver.resolve(&bank()).await.unwrap();
    assert_eq!((found.level, found.key), (Level::Secure, key(1).public()));
    assert_eq!(found.endpoints[0].addrs, ["127.0.0.1:2469".parse().unwrap()]);
    assert_eq!(found.not_after, world.now() + DAY);
    let pin = world.pins.load(&bank()).unwrap().unwrap();
    assert_eq!((pin.first_seen, pin.card_seq), (world.now().as_millis(), 1));
    let whats: Vec<_> = found.steps.iter().map(|step| step.what.as_str()).collect();
    assert!(
        whats.contains(&"TXT _ahoy.bank.example") && whats.contains(&"A/AAAA hs.bank.example"),
        "{whats:?}"
    );
}

#[tokio::test]
async fn an_unsigned_zone_does_not_introduce_a_stranger() {
    let mut world = World::new();
    let anchor = world.anchor(1, |_| ());
    world.publish(&anchor, Standing::Insecure);
    assert_eq!(code(&mut world).await, ErrorCode::NotSecure);
    assert_eq!(world.pins.load(&bank()).unwrap(), None);
    assert_eq!(world.cards.fetched.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn an_insecure_answer_with_the_pinned_key_is_continuity_and_with_another_a_mismatch() {
    let mut world = World::new();
    world.afresh().await.unwrap();
    let anchor = world.anchor(1, |_| ());
    world.publish(&anchor, Standing::Insecure);
    assert_eq!(world.afresh().await.unwrap().level, Level::Continuity);
    for standing in [Standing::Insecure, Standing::Secure] {
        let other = world.anchor(2, |_| ());
        world.publish(&other, standing);
        world.serve(2, &other, |_| ());
        assert_eq!(code(&mut world).await, ErrorCode::KeyMismatch);
    }
}

#[tokio::test]
async fn bogus_refuses_a_stranger_and_keeps_a_known_name_on_its_last_record() {
    let mut world = World::new();
    world.fail(bogus());
    assert_eq!(code(&mut world).await, ErrorCode::DnsBogus);
    world.publish(&world.anchor(1, |_| ()), Standing::Secure);
    let anchor = world.anchor(1, |_| ());
    world.serve(1, &anchor, |_| ());
    world.afresh().await.unwrap();
    world.fail(bogus());
    let found = world.afresh().await.unwrap();
    assert_eq!((found.level, found.warnings.as_slice()), (Level::Continuity, &[][..]));
    world.clock.advance(HOUR);
    let found = world.afresh().await.unwrap();
    assert!(matches!(found.warnings[..], [Warning::DnsBogus { .. }]), "{:?}", found.warnings);
    world.clock.advance(DAY);
    assert_eq!(code(&mut world).await, ErrorCode::PeerNotAuthentic, "its card has expired");
    world.serve(1, &anchor, |card| card.seq = 2);
    assert_eq!(world.afresh().await.unwrap().level, Level::Continuity, "a fresh card under the last record");
}

#[tokio::test(start_paused = true)]
async fn a_dead_dns_refuses_a_stranger_within_five_seconds_and_serves_a_known_name_within_two() {
    let mut world = World::new();
    world.view.set_silent(true);
    let start = tokio::time::Instant::now();
    assert_eq!(code(&mut world).await, ErrorCode::DnsUnavailable);
    assert!(start.elapsed() <= Duration::from_secs(5));
    world.view.set_silent(false);
    world.afresh().await.unwrap();
    world.view.set_silent(true);
    let start = tokio::time::Instant::now();
    let found = world.afresh().await.unwrap();
    assert_eq!((found.level, found.warnings.clone()), (Level::Continuity, vec![Warning::DnsUnavailable]));
    assert!(start.elapsed() <= Duration::from_millis(3500), "{:?}", start.elapsed());
    world.clock.advance(3 * DAY + HOUR);
    let anchor = world.pins.load(&bank()).unwrap().unwrap().anchor;
    world.serve(1, &anchor, |card| card.seq = 2);
    assert_eq!(code(&mut world).await, ErrorCode::DnsUnavailable, "older than three days");
}

#[tokio::test]
async fn a_withdrawn_record_is_believed_gone_after_two_checks_fifteen_minutes_apart() {
    let mut world = World::new();
    world.view.put("_ahoy.bank.example", Ok(nothing(Standing::Secure)));
    assert_eq!(code(&mut world).await, ErrorCode::NotOnNetwork, "a stranger at once");
    world.publish(&world.anchor(1, |_| ()), Standing::Secure);
    world.afresh().await.unwrap();
    world.view.put("_ahoy.bank.example", Ok(nothing(Standing::Secure)));
    let found = world.afresh().await.unwrap();
    assert!(matches!(found.warnings[..], [Warning::Withdrawn { .. }]));
    world.clock.advance(Duration::from_secs(901));
    assert_eq!(code(&mut world).await, ErrorCode::NotOnNetwork);
    assert!(world.pins.load(&bank()).unwrap().is_some(), "the pin stays");
}

#[tokio::test]
async fn an_unproven_denial_is_believed_after_a_day() {
    let mut world = World::new();
    world.afresh().await.unwrap();
    world.view.put("_ahoy.bank.example", Ok(nothing(Standing::Insecure)));
    world.afresh().await.unwrap();
    world.clock.advance(23 * HOUR);
    world.afresh().await.unwrap();
    world.clock.advance(2 * HOUR);
    assert_eq!(code(&mut world).await, ErrorCode::NotOnNetwork);
}

#[tokio::test]
async fn foreign_text_is_not_on_the_network_and_a_broken_record_is_a_bad_record() {
    let mut world = World::new();
    world.publish("v=spf1 -all", Standing::Secure);
    assert_eq!(code(&mut world).await, ErrorCode::NotOnNetwork);
    let broken = world.anchor(1, |_| ()).replace(HOST, "hx.bank.example");
    world.publish(&broken, Standing::Secure);
    assert_eq!(code(&mut world).await, ErrorCode::BadRecord);
    world.publish(&world.anchor(1, |_| ()), Standing::Secure);
    world.afresh().await.unwrap();
    world.publish(&broken, Standing::Secure);
    let found = world.afresh().await.unwrap();
    assert_eq!(found.level, Level::Continuity);
    assert!(matches!(found.warnings[..], [Warning::BadRecord(_)]));
}

#[tokio::test]
async fn an_expired_record_introduces_a_stranger_for_thirty_days_and_only_over_dnssec() {
    let mut world = World::new();
    let expires = world.now() + HOUR;
    let anchor = world.anchor(1, |draft| draft.expires = Some(expires));
    world.clock.advance(2 * HOUR);
    world.serve(1, &anchor, |_| ());
    world.publish(&anchor, Standing::Insecure);
    assert_eq!(code(&mut world).await, ErrorCode::AnchorExpired);
    world.publish(&anchor, Standing::Secure);
    let found = world.afresh().await.unwrap();
    assert_eq!((found.level, found.warnings.clone()), (Level::Secure, vec![Warning::Expired]));
    let mut stranger = World::new();
    stranger.clock.advance(31 * DAY + 2 * HOUR);
    stranger.publish(&anchor, Standing::Secure);
    assert_eq!(code(&mut stranger).await, ErrorCode::AnchorExpired);
}

#[tokio::test]
async fn an_older_record_of_the_pinned_key_is_a_rollback_and_the_known_one_is_used() {
    let mut world = World::new();
    let old = world.anchor(1, |_| ());
    world.clock.advance(HOUR);
    let new = world.anchor(1, |_| ());
    world.publish(&new, Standing::Secure);
    world.serve(1, &new, |_| ());
    world.afresh().await.unwrap();
    world.publish(&old, Standing::Secure);
    let found = world.afresh().await.unwrap();
    assert_eq!((found.anchor.text(), found.warnings.clone()), (new.as_str(), vec![Warning::OlderRecord]));
}

#[tokio::test]
async fn a_commitment_is_pinned_once_and_cannot_change_under_the_same_key() {
    let mut world = World::new();
    let committed = world.anchor(1, |draft| draft.next = Some(commitment(&key(7).public())));
    world.publish(&committed, Standing::Secure);
    world.serve(1, &committed, |_| ());
    world.afresh().await.unwrap();
    world.clock.advance(HOUR);
    let thief = world.anchor(1, |draft| draft.next = Some(commitment(&key(8).public())));
    world.publish(&thief, Standing::Secure);
    let found = world.afresh().await.unwrap();
    assert_eq!(found.warnings, [Warning::CommitmentChanged]);
    assert_eq!(found.anchor.text(), committed);
}

#[tokio::test]
async fn a_tombstone_is_not_in_service_and_keeps_the_pin() {
    let mut world = World::new();
    world.afresh().await.unwrap();
    world.clock.advance(HOUR);
    let tombstone = world.anchor(1, |draft| draft.endpoints.clear());
    world.publish(&tombstone, Standing::Secure);
    assert_eq!(code(&mut world).await, ErrorCode::NotInService);
    assert_eq!(world.pins.load(&bank()).unwrap().unwrap().anchor, tombstone);
    world.fail(bogus());
    assert_eq!(code(&mut world).await, ErrorCode::NotInService, "DNS trouble does not revive it");
}

#[tokio::test]
async fn a_chain_of_aliases_is_as_good_as_its_worst_link_and_has_an_end() {
    let mut world = World::new();
    let anchor = world.anchor(1, |_| ());
    world.view.put("_ahoy.bank.example", Ok(alias("bank.op.example", Standing::Secure)));
    world.view.put("bank.op.example", Ok(text(&anchor, Standing::Insecure)));
    assert_eq!(code(&mut world).await, ErrorCode::NotSecure);
    world.view.put("bank.op.example", Ok(text(&anchor, Standing::Secure)));
    assert_eq!(world.afresh().await.unwrap().level, Level::Secure);
    let mut world = World::new();
    world.view.put("_ahoy.bank.example", Ok(alias("loop.example", Standing::Secure)));
    world.view.put("loop.example", Ok(alias("_ahoy.bank.example", Standing::Secure)));
    assert_eq!(code(&mut world).await, ErrorCode::DnsUnavailable);
    for hop in 0..9 {
        let owner = if hop == 0 { "_ahoy.bank.example".into() } else { format!("h{hop}.example") };
        world.view.put(&owner, Ok(alias(&format!("h{}.example", hop + 1), Standing::Secure)));
    }
    world.view.put("h8.example", Ok(text(&anchor, Standing::Secure)));
    assert!(world.afresh().await.is_ok(), "eight aliases");
    world.view.put("h8.example", Ok(alias("h9.example", Standing::Secure)));
    world.view.put("h9.example", Ok(text(&anchor, Standing::Secure)));
    let mut stranger = World::new();
    std::mem::swap(&mut stranger.view, &mut world.view);
    assert_eq!(code(&mut stranger).await, ErrorCode::DnsUnavailable, "nine");
}

#[tokio::test]
async fn a_server_whose_tls_key_or_card_is_not_the_names_is_not_authentic() {
    let mut world = World::new();
    let anchor = world.anchor(1, |_| ());
    let mut impostor = world.card(1, &anchor, |_| ());
    impostor.spki = [8; 32];
    world.serve_at(Ipv4Addr::LOCALHOST, impostor);
    assert_eq!(code(&mut world).await, ErrorCode::PeerNotAuthentic);
    world.serve(2, &anchor, |_| ());
    assert_eq!(code(&mut world).await, ErrorCode::PeerNotAuthentic);
    world.cards.served.lock().unwrap().clear();
    assert_eq!(code(&mut world).await, ErrorCode::PeerUnreachable);
}

#[tokio::test]
async fn a_card_with_a_lower_seq_than_the_known_one_is_a_replay() {
    let mut world = World::new();
    let anchor = world.anchor(1, |_| ());
    world.serve(1, &anchor, |card| card.seq = 5);
    world.afresh().await.unwrap();
    world.serve(1, &anchor, |card| card.seq = 4);
    assert_eq!(code(&mut world).await, ErrorCode::PeerNotAuthentic);
}

#[tokio::test]
async fn the_next_endpoint_is_tried_when_the_first_is_dead_or_an_impostor() {
    let mut world = World::new();
    let second = AnchorEndpoint::new("b.bank.example", 2469, 20, 10).unwrap();
    let anchor = world.anchor(1, |draft| draft.endpoints.push(second));
    world.publish(&anchor, Standing::Secure);
    world.view.host("b.bank.example", Ipv4Addr::new(127, 0, 0, 2));
    world.serve_at(Ipv4Addr::new(127, 0, 0, 2), world.card(1, &anchor, |_| ()));
    world.serve(3, &anchor, |_| ());
    let found = world.afresh().await.unwrap();
    assert_eq!(found.endpoints.len(), 2);
    world.cards.served.lock().unwrap().remove(&"127.0.0.1:2469".parse().unwrap());
    assert!(world.afresh().await.is_ok());
}

#[tokio::test]
async fn a_dead_peer_keeps_its_last_card_while_that_is_in_force() {
    let world = World::new();
    world.resolver.resolve(&bank()).await.unwrap();
    world.cards.served.lock().unwrap().clear();
    let explained = world.resolver.explain(&bank()).await;
    let found = explained.outcome.unwrap();
    assert!(matches!(found.warnings[..], [Warning::PeerDown(_)]));
    world.clock.advance(DAY + HOUR);
    let explained = world.resolver.explain(&bank()).await;
    assert_eq!(explained.outcome.unwrap_err().code(), ErrorCode::PeerUnreachable);
}

#[tokio::test]
async fn refusals_are_remembered_and_bogus_ever_longer() {
    let world = World::new();
    world.fail(bogus());
    let asked = || world.view.asked.load(Ordering::SeqCst);
    for (number, pause) in [30, 60, 120, 240, 300, 300].into_iter().enumerate() {
        assert!(world.resolver.resolve(&bank()).await.is_err());
        world.clock.advance(Duration::from_secs(pause - 1));
        assert!(world.resolver.resolve(&bank()).await.is_err());
        assert_eq!(asked(), number as u64 + 1, "asked again too early");
        world.clock.advance(Duration::from_secs(2));
    }
}

#[tokio::test]
async fn a_hundred_askers_cause_one_resolution() {
    let world = World::new();
    let name = bank();
    let all = join_all((0..100).map(|_| world.resolver.resolve(&name))).await;
    assert!(all.iter().all(Result::is_ok));
    assert_eq!(world.view.asked.load(Ordering::SeqCst), 1);
    assert_eq!(world.cards.fetched.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_used_name_is_renewed_behind_the_answer_before_it_grows_stale() {
    let world = World::new();
    world.resolver.resolve(&bank()).await.unwrap();
    world.clock.advance(Duration::from_secs(3500));
    world.resolver.resolve(&bank()).await.unwrap();
    world.resolver.close().await;
    assert_eq!(world.view.asked.load(Ordering::SeqCst), 2);
    world.clock.advance(Duration::from_secs(2000));
    world.resolver.resolve(&bank()).await.unwrap();
    assert_eq!(world.view.asked.load(Ordering::SeqCst), 2, "the renewal was remembered");
}

#[tokio::test]
async fn a_changed_card_is_fetched_anew_and_an_old_announcement_ignored() {
    let world = World::new();
    world.resolver.resolve(&bank()).await.unwrap();
    let anchor = world.pins.load(&bank()).unwrap().unwrap().anchor;
    world.serve(1, &anchor, |card| card.seq = 2);
    world.resolver.card_changed(&bank(), 1);
    assert_eq!(world.resolver.resolve(&bank()).await.unwrap().card.seq, 1);
    world.resolver.card_changed(&bank(), 2);
    assert_eq!(world.resolver.resolve(&bank()).await.unwrap().card.seq, 2);
}
