//! Real signed zones: the testkit's server, hickory's validator.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};

use ahoy_resolver::{DnsConfig, DnsFault, DnsView, Found, HickoryView, Standing};
use ahoy_testkit::dns::{Data, Signing, Zone, ZoneRecord, ZoneServer};

struct Scene {
    server: ZoneServer,
    view: HickoryView,
    _folder: tempfile::TempDir,
}

async fn scene(zones: Vec<Zone>) -> Scene {
    let server = ZoneServer::start_with(zones).await.unwrap();
    let lines = server.trust_anchor().unwrap();
    let (view, folder) = view_of(&server, &lines);
    Scene { server, view, _folder: folder }
}

fn view_of(server: &ZoneServer, trust: &str) -> (HickoryView, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("anchor.key");
    fs::write(&file, trust).unwrap();
    let config = DnsConfig { servers: vec![server.address()], trust_anchor: Some(file) };
    (HickoryView::new(&config).unwrap(), folder)
}

fn bank() -> Zone {
    let record = |owner: &str, data| ZoneRecord::new(owner, data);
    Zone::signed(
        "bank.example",
        vec![
            record("_ahoy.bank.example", Data::Text("v=ahoy1;".to_owned() + &"x".repeat(300))),
            record("alias.bank.example", Data::Alias("_ahoy.bank.example".into())),
            record("hs.bank.example", Data::Address(Ipv4Addr::new(127, 0, 0, 9).into())),
            record("www.bank.example", Data::Alias("hs.bank.example".into())),
        ],
    )
}

#[tokio::test]
async fn a_signed_zone_below_the_trust_anchor_is_secure() {
    let scene = scene(vec![bank()]).await;
    let answer = scene.view.text("_ahoy.bank.example").await.unwrap();
    assert_eq!(answer.standing, Standing::Secure);
    let Found::Text(records) = answer.found else { panic!("{answer:?}") };
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].iter().map(|string| string.len()).collect::<Vec<_>>(), [255, 53]);
}

#[tokio::test]
async fn an_alias_is_reported_and_not_followed() {
    let scene = scene(vec![bank()]).await;
    let answer = scene.view.text("alias.bank.example").await.unwrap();
    assert_eq!(answer.found, Found::Alias("_ahoy.bank.example".into()));
    assert_eq!(answer.standing, Standing::Secure);
}

#[tokio::test]
async fn a_signed_denial_is_secure_for_a_missing_name_and_for_missing_text() {
    let scene = scene(vec![bank()]).await;
    for owner in ["_ahoy.nobody.bank.example", "hs.bank.example", "_ahoy.nozone.example"] {
        let answer = scene.view.text(owner).await;
        let answer = answer.unwrap_or_else(|fault| panic!("{owner}: {fault}"));
        assert_eq!((answer.found, answer.standing), (Found::Nothing, Standing::Secure), "{owner}");
    }
}

#[tokio::test]
async fn a_zone_without_ds_is_insecure_for_what_is_there_and_what_is_not() {
    let scene = scene(vec![Zone { signing: Signing::Unsigned, ..bank() }]).await;
    let answer = scene.view.text("_ahoy.bank.example").await.unwrap();
    assert!(matches!(answer.found, Found::Text(_)));
    assert_eq!(answer.standing, Standing::Insecure);
    let answer = scene.view.text("_ahoy.nobody.bank.example").await.unwrap();
    assert_eq!((answer.found, answer.standing), (Found::Nothing, Standing::Insecure));
}

#[tokio::test]
async fn tampered_expired_and_stripped_zones_are_bogus_and_never_insecure() {
    for signing in [Signing::Tampered, Signing::Expired, Signing::Stripped] {
        let scene = scene(vec![Zone { signing, ..bank() }]).await;
        let answer = scene.view.text("_ahoy.bank.example").await;
        assert!(matches!(answer, Err(DnsFault::Bogus(_))), "{signing:?}: {answer:?}");
        let denial = scene.view.text("_ahoy.nobody.bank.example").await;
        let is_unsigned = matches!(&denial, Ok(answer) if answer.standing == Standing::Insecure);
        assert!(!is_unsigned, "{signing:?}: {denial:?}");
    }
}

#[tokio::test]
async fn a_ds_trust_anchor_works_and_a_foreign_key_is_bogus() {
    let server = ZoneServer::start_with([bank()]).await.unwrap();
    let ds = server.trust_anchor_ds().unwrap();
    let (view, _folder) = view_of(&server, &ds);
    let answer = view.text("_ahoy.bank.example").await.unwrap();
    assert_eq!(answer.standing, Standing::Secure);
    let other = ZoneServer::start_with([]).await.unwrap();
    for lines in [other.trust_anchor().unwrap(), other.trust_anchor_ds().unwrap()] {
        let (view, _folder) = view_of(&server, &lines);
        let answer = view.text("_ahoy.bank.example").await;
        assert!(matches!(answer, Err(DnsFault::Bogus(_))), "{answer:?}");
    }
}

#[tokio::test]
async fn an_island_outside_the_parent_has_its_own_trust_anchor() {
    let record = ZoneRecord::new("_ahoy.ahoy.test", Data::Text("island".into()));
    let scene = scene(vec![Zone::signed("ahoy.test", vec![record])]).await;
    let answer = scene.view.text("_ahoy.ahoy.test").await.unwrap();
    assert_eq!(answer.standing, Standing::Secure);
}

#[tokio::test]
async fn addresses_are_found_through_aliases_and_without_dnssec() {
    for signing in [Signing::Signed, Signing::Stripped] {
        let scene = scene(vec![Zone { signing, ..bank() }]).await;
        for host in ["hs.bank.example", "www.bank.example"] {
            let found = scene.view.addresses(host).await.unwrap();
            assert_eq!(found, [IpAddr::from([127, 0, 0, 9])], "{host}");
        }
        assert_eq!(scene.view.addresses("no.bank.example").await.unwrap(), [] as [IpAddr; 0]);
    }
}

#[tokio::test]
async fn a_silent_server_is_unavailable_and_what_changes_is_seen() {
    let scene = scene(vec![bank()]).await;
    scene.view.text("_ahoy.bank.example").await.unwrap();
    scene.server.publish_anchor("bank.example", "second").unwrap();
    let answer = scene.view.text("_ahoy.bank.example").await.unwrap();
    assert_eq!(answer.found, Found::Text(vec![vec!["second".into()]]));
    assert_eq!(answer.standing, Standing::Secure);
    scene.server.set_silent(true);
    let answer = scene.view.text("_ahoy.bank.example").await;
    assert!(matches!(answer, Err(DnsFault::Unavailable(_))), "{answer:?}");
}
