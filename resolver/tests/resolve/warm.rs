//! How fast a remembered name is answered, and a cold one over real DNS. Prints; asserts only what
//! holds on any machine.

use std::fs;
use std::net::Ipv4Addr;
use std::sync::Arc;

use ahoy_resolver::{DnsConfig, HickoryView, MemoryPins, Resolver, ResolverLimits};
use ahoy_testkit::dns::{Data, Zone, ZoneRecord, ZoneServer};
use tokio::time::Instant;

use crate::world::{HOST, World, bank};

#[tokio::test]
async fn a_remembered_name_is_answered_without_asking_anybody() {
    const ROUNDS: u32 = 200_000;
    let world = World::new();
    let name = bank();
    world.resolver.resolve(&name).await.unwrap();
    let start = Instant::now();
    for _ in 0..ROUNDS {
        std::hint::black_box(world.resolver.resolve(&name).await.unwrap());
    }
    let per_second = f64::from(ROUNDS) / start.elapsed().as_secs_f64();
    println!("warm: {per_second:.0} resolutions/s on one core");
    assert_eq!(world.view.asked.load(std::sync::atomic::Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_cold_name_is_found_over_real_dns() {
    let world = World::new();
    let anchor = world.anchor(1, |_| ());
    let host = ZoneRecord::new(HOST, Data::Address(Ipv4Addr::LOCALHOST.into()));
    let server = ZoneServer::start_with([Zone::signed("bank.example", vec![host])]).await.unwrap();
    server.publish_anchor("bank.example", &anchor).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("anchor.key");
    fs::write(&file, server.trust_anchor().unwrap()).unwrap();
    let config = DnsConfig { servers: vec![server.address()], trust_anchor: Some(file) };
    let resolver = Resolver::new(
        Arc::new(HickoryView::new(&config).unwrap()),
        Arc::new(MemoryPins::default()),
        world.cards.clone(),
        world.clock.clone(),
        ResolverLimits::default(),
    );
    let explained = resolver.explain(&bank()).await;
    for step in &explained.steps {
        println!("{:>7} us +{:>6} us  {}: {}", step.at_us, step.took_us, step.what, step.outcome);
    }
    let found = explained.outcome.unwrap();
    assert_eq!(found.level, ahoy_resolver::Level::Secure);
    let mut again = Vec::new();
    for _ in 0..20 {
        let start = Instant::now();
        resolver.explain(&bank()).await.outcome.unwrap();
        again.push(start.elapsed());
    }
    again.sort();
    println!("cold, validation chain known: p50 {:?}, slowest {:?}", again[10], again[19]);
}
