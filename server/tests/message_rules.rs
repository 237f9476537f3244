//! What the ledgers of two names do with messages, without any wire between them: every step is one commit, and
//! every step may happen twice.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use std::collections::BTreeMap;
use std::sync::Arc;

use ahoy_proto::address::{Address, Local};
use ahoy_proto::attestation::{Context, attest};
use ahoy_proto::key::SigningKey;
use ahoy_proto::name::{Name, NamePolicy};
use ahoy_proto::time::{Entropy, Timestamp};
use ahoy_proto::v1::{self, ErrorCode, content::Content as Kind, sync_item::Item as SyncKind};
use ahoy_testkit::clock::VirtualClock;
use ahoyd::account::{DeviceLogin, ServiceLogin, sign_in_device, sign_in_service};
use ahoyd::contact;
use ahoyd::desk::{Desk, FirstContact, Line, Target};
use ahoyd::home::Home;
use ahoyd::inbox::{Item, What};
use ahoyd::invite::{Grant, Invite};
use ahoyd::layout;
use ahoyd::ledger::Ledger;
use ahoyd::limit::Limits;
use ahoyd::metrics::Metrics;
use ahoyd::record::Queued;
use ahoyd::store::{self, KeyRange, Order};
use ahoyd::submit::{self, Speaker};
use ahoyd::sweep::sweep;
use ahoyd::wake::Wakes;
use bytes::Bytes;
use prost::Message as _;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

struct Counting(std::sync::atomic::AtomicU64);

impl Entropy for Counting {
    fn fill(&self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            let n = self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
            chunk.copy_from_slice(&n.to_le_bytes()[..chunk.len()]);
        }
    }
}

fn policy() -> NamePolicy {
    NamePolicy::allowing(["example"])
}

fn address(text: &str) -> Address {
    Address::parse(text, &policy()).unwrap()
}

struct World {
    _dir: tempfile::TempDir,
    clock: Arc<VirtualClock>,
    stop: CancellationToken,
    tracker: TaskTracker,
    caller: Arc<Home>,
    bank: Arc<Home>,
}

fn open(
    world: &tempfile::TempDir,
    name: &str,
    seed: u8,
    tracker: &TaskTracker,
    stop: &CancellationToken,
    clock: &Arc<VirtualClock>,
) -> Arc<Home> {
    let name = Name::parse(name, &policy()).unwrap();
    let support = Local::parse("support").unwrap();
    let targets = vec![Target::Service("bot".into()), Target::Account(address("ann@bank.example"))];
    let line = Line { local: Some(support.clone()), label: "Support".into(), targets };
    let lines = if name.as_str() == "bank.example" {
        BTreeMap::from([(Some(support), line)])
    } else {
        BTreeMap::new()
    };
    let desk = Arc::new(Desk {
        name: name.clone(),
        key: Arc::new(SigningKey::from_seed([seed; 32])),
        lines,
        policy: policy(),
        first_contact: FirstContact::Anyone,
        limits: Limits::default(),
        metrics: Metrics::default(),
        clock: clock.clone(),
        entropy: Arc::new(Counting(u64::from(seed << 4).into())),
    });
    let store = store::open(&world.path().join(name.as_str()), 1 << 20).unwrap();
    let wakes = Arc::new(Wakes::default());
    let told = wakes.clone();
    let (ledger, run) =
        Ledger::new(desk.clone(), store.clone(), Box::new(move |woken| told.tell(woken)), stop.clone());
    tracker.spawn(run);
    Arc::new(Home { partition: layout::partition(&name), desk, store, ledger, wakes })
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (stop, tracker) = (CancellationToken::new(), TaskTracker::new());
        let clock = Arc::new(VirtualClock::at(Timestamp::from_secs(1_800_000_000)));
        let caller = open(&dir, "home.example", 1, &tracker, &stop, &clock);
        let bank = open(&dir, "bank.example", 2, &tracker, &stop, &clock);
        Self { _dir: dir, clock, stop, tracker, caller, bank }
    }

    /// A world with the caller's device and the bot signed in.
    async fn peopled() -> Self {
        let world = Self::new();
        let account = address("caller@home.example");
        let grant = Grant::Account(account.clone());
        let login = device(&account, 7, Some(Invite { grant, nonce: [1; 16], not_after: Timestamp::MAX }));
        world.caller.ledger.write(move |page| sign_in_device(page, &login)).await.unwrap();
        let login = bot(8, vec![address("support@bank.example")]);
        world.bank.ledger.write(move |page| sign_in_service(page, &login)).await.unwrap();
        world
    }

    async fn end(self) {
        self.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }

    async fn say(&self, id: u8, text: &str) -> Result<v1::SubmitAck, ahoy_proto::fault::Fault> {
        let message = message(id, "support@bank.example", text);
        self.caller.ledger.write(move |page| submit::submit(page, &caller(), message)).await
    }

    async fn make_contact(&self) {
        let (from, to) = (address("caller@home.example"), address("support@bank.example"));
        let answer = self.bank.answer_contact(&from, false, &to).unwrap();
        let record = contact::check(&self.caller.desk, &from, &to, &answer);
        let more = self.caller.ledger.write(move |page| submit::answered(page, &from, &to, &record)).await;
        assert!(!more.unwrap());
    }
}

fn device(account: &Address, key: u8, enrol: Option<Invite>) -> DeviceLogin {
    let key = Bytes::copy_from_slice(SigningKey::from_seed([key; 32]).public().as_bytes());
    DeviceLogin { account: account.clone(), key, binding: 1, enrol, label: "test".into() }
}

fn bot(key: u8, addresses: Vec<Address>) -> ServiceLogin {
    let name = Name::parse("bank.example", &policy()).unwrap();
    let grant =
        Grant::Service { name, service: "bot".into(), addresses: vec![address("support@bank.example")] };
    ServiceLogin {
        service: "bot".into(),
        key: Bytes::copy_from_slice(SigningKey::from_seed([key; 32]).public().as_bytes()),
        enrol: Some(Invite { grant, nonce: [2; 16], not_after: Timestamp::MAX }),
        addresses,
        calls: false,
        messages: true,
    }
}

fn caller() -> Speaker {
    let own = Some(address("caller@home.example"));
    Speaker { owner: "caller@home.example".into(), device: [7; 8], own, claimed: Vec::new() }
}

fn message(id: u8, to: &str, text: &str) -> v1::Submit {
    let text = v1::Text { body: text.to_owned(), ..v1::Text::default() };
    v1::Submit {
        to: to.to_owned(),
        client_id: Bytes::copy_from_slice(&[id; 16]),
        content: Some(v1::Content { fallback: String::new(), content: Some(Kind::Text(text)) }),
        ..v1::Submit::default()
    }
}

fn queue(home: &Home, destination: &Home) -> Vec<(u64, Queued)> {
    let range = KeyRange::prefix(layout::outbox(&destination.desk.name));
    let rows = home.store.scan(&home.partition, &range, 10_000, Order::Ascending).unwrap();
    rows.into_iter()
        .map(|(key, value)| (layout::trailing_number(&key), Queued::decode(value).unwrap()))
        .collect()
}

fn log(home: &Home, owner: &str) -> Vec<SyncKind> {
    let range = KeyRange::prefix(layout::sync_log(owner));
    let rows = home.store.scan(&home.partition, &range, 10_000, Order::Ascending).unwrap();
    rows.into_iter().map(|(_, value)| v1::SyncItem::decode(value).unwrap().item.unwrap()).collect()
}

/// Carries everything that is queued, as the pump would, and returns the acknowledgement.
async fn carry(from: &Home, to: &Home, epoch: u64) -> Result<ahoyd::inbox::Taken, ahoy_proto::fault::Fault> {
    let rows = queue(from, to);
    let items = rows.into_iter().map(|(seq, queued)| {
        let item = if queued.submit.is_empty() {
            v1::pipe_item::Item::Placed(v1::PlacedEvent::decode(queued.placed).unwrap())
        } else {
            let attestation = attest(&[&queued.submit], Context::Events, &from.desk.key).pop();
            v1::pipe_item::Item::Submit(v1::Event { body: queued.submit, attestation })
        };
        v1::PipeItem { seq, item: Some(item), recipient: queued.recipient }
    });
    let items = items.map(|item| ahoyd::inbox::read(item, &to.desk.policy)).collect();
    to.take(&from.desk.name, epoch, items).await
}

#[tokio::test]
async fn a_message_waits_for_its_contact_and_is_then_placed_once_however_often_it_is_carried() {
    let world = World::peopled().await;
    let ack = world.say(1, "Is anybody there?").await.unwrap();
    assert_eq!(
        world.say(1, "Is anybody there?").await.unwrap(),
        ack,
        "a repeated submission is the same one"
    );
    assert!(queue(&world.caller, &world.bank).is_empty(), "nothing is queued before the contact is known");
    world.make_contact().await;
    assert_eq!(queue(&world.caller, &world.bank).len(), 1);

    world.bank.open_pipe(&world.caller.desk.name, 5).await.unwrap();
    let first = carry(&world.caller, &world.bank, 5).await.unwrap();
    let second = carry(&world.caller, &world.bank, 5).await.unwrap();
    assert_eq!(first.ack, second.ack);
    assert!(matches!(&log(&world.bank, "service:bot")[..], [SyncKind::Event(_)]));

    world.caller.open_pipe(&world.bank.desk.name, 1).await.unwrap();
    for _ in 0..2 {
        carry(&world.bank, &world.caller, 1).await.unwrap();
    }
    let log = log(&world.caller, "caller@home.example");
    let [SyncKind::Pending(pending), SyncKind::Placed(placed)] = &log[..] else { panic!("{log:?}") };
    assert_eq!(pending.client_id, placed.client_id);
    assert_eq!(placed.seq, 1);
    world.end().await;
}

#[tokio::test]
async fn messages_keep_their_order_when_some_were_written_before_the_contact_was_known() {
    let world = World::peopled().await;
    for id in 1..=20 {
        world.say(id, "early").await.unwrap();
    }
    world.make_contact().await;
    for id in 21..=40 {
        world.say(id, "late").await.unwrap();
    }
    world.bank.open_pipe(&world.caller.desk.name, 1).await.unwrap();
    carry(&world.caller, &world.bank, 1).await.unwrap();
    let ids: Vec<u8> = log(&world.bank, "service:bot")
        .into_iter()
        .map(|item| {
            let SyncKind::Event(placed) = item else { panic!("an event") };
            v1::EventBody::decode(placed.event.unwrap().body).unwrap().client_id[0]
        })
        .collect();
    assert_eq!(ids, (1..=40).collect::<Vec<u8>>());
    world.end().await;
}

#[tokio::test]
async fn a_client_id_that_is_used_for_another_message_is_refused() {
    let world = World::peopled().await;
    world.say(1, "one").await.unwrap();
    assert_eq!(world.say(1, "two").await.unwrap_err().code, ErrorCode::ClientIdReused);
    world.end().await;
}

#[tokio::test]
async fn an_older_pipe_is_fenced_off_by_a_newer_one() {
    let world = World::peopled().await;
    world.say(1, "hello").await.unwrap();
    world.make_contact().await;
    world.bank.open_pipe(&world.caller.desk.name, 5).await.unwrap();
    world.bank.open_pipe(&world.caller.desk.name, 6).await.unwrap();
    let late = carry(&world.caller, &world.bank, 5).await.map(|_| ());
    assert_eq!(late.unwrap_err().code, ErrorCode::StalePipe);
    let again = world.bank.open_pipe(&world.caller.desk.name, 6).await;
    assert_eq!(again.unwrap_err().code, ErrorCode::StalePipe);
    world.end().await;
}

#[tokio::test]
async fn a_refused_item_is_reported_again_when_the_next_pipe_opens_and_blocks_nothing() {
    let world = World::peopled().await;
    let bank = &world.bank;
    let source = world.caller.desk.name.clone();
    bank.open_pipe(&source, 1).await.unwrap();
    world.say(1, "hello").await.unwrap();
    world.make_contact().await;
    let bad = ahoy_proto::fault::Fault::new(ErrorCode::BadAttestation, "not signed");
    let item = Item { seq: 7, what: What::Refused(bad) };
    let taken = bank.take(&source, 1, vec![item]).await.unwrap();
    assert_eq!((taken.ack.up_to, taken.ack.refused.len()), (7, 1));
    carry(&world.caller, bank, 1).await.unwrap();
    assert_eq!(log(bank, "service:bot").len(), 1);
    let accept = bank.open_pipe(&source, 2).await.unwrap();
    assert_eq!(accept.refused, taken.ack.refused);
    world.end().await;
}

#[tokio::test]
async fn strangers_get_one_answer_for_unknown_addresses_and_lines_without_anybody() {
    let world = World::new();
    let from = address("caller@home.example");
    let unknown = world.bank.answer_contact(&from, false, &address("nobody@bank.example")).unwrap_err();
    let empty = world.bank.answer_contact(&from, false, &address("support@bank.example")).unwrap_err();
    assert_eq!(unknown.code, ErrorCode::NotReachable);
    assert_eq!(empty.code, ErrorCode::NotReachable);
    world.end().await;
}

#[tokio::test]
async fn a_device_enrols_once_per_token_and_signs_in_by_key_from_then_on() {
    let world = World::new();
    let account = address("caller@home.example");
    let invite = Invite { grant: Grant::Account(account.clone()), nonce: [9; 16], not_after: Timestamp::MAX };
    let sign_in = |login: DeviceLogin| world.caller.ledger.write(move |page| sign_in_device(page, &login));
    assert_eq!(sign_in(device(&account, 1, None)).await.unwrap_err().code, ErrorCode::UnknownDevice);
    sign_in(device(&account, 1, Some(invite.clone()))).await.unwrap();
    sign_in(device(&account, 1, Some(invite.clone()))).await.unwrap();
    sign_in(device(&account, 1, None)).await.unwrap();
    assert_eq!(
        sign_in(device(&account, 2, Some(invite.clone()))).await.unwrap_err().code,
        ErrorCode::BadInvite
    );
    let other = address("other@home.example");
    assert_eq!(sign_in(device(&other, 3, Some(invite))).await.unwrap_err().code, ErrorCode::BadInvite);
    world.end().await;
}

#[tokio::test]
async fn a_service_claims_only_what_its_enrolment_allows() {
    let world = World::new();
    let sign_in = |login: ServiceLogin| world.bank.ledger.write(move |page| sign_in_service(page, &login));
    let foreign = sign_in(bot(8, vec![address("sales@bank.example")])).await;
    assert_eq!(foreign.unwrap_err().code, ErrorCode::NotAllowed);
    sign_in(bot(8, vec![address("support@bank.example")])).await.unwrap();
    let stolen = sign_in(ServiceLogin { enrol: None, ..bot(9, Vec::new()) }).await;
    assert_eq!(stolen.unwrap_err().code, ErrorCode::UnknownDevice);
    let spent = sign_in(bot(9, Vec::new())).await;
    assert_eq!(spent.unwrap_err().code, ErrorCode::BadInvite);
    world.end().await;
}

#[tokio::test]
async fn drafts_that_no_single_commit_could_hold_become_events_all_the_same() {
    let world = World::peopled().await;
    let large = "x".repeat(60 * 1024);
    for id in 0..100 {
        world.say(id, &large).await.unwrap();
    }
    let (from, to) = (address("caller@home.example"), address("support@bank.example"));
    let answer = world.bank.answer_contact(&from, false, &to).unwrap();
    let record = Arc::new(contact::check(&world.caller.desk, &from, &to, &answer));
    loop {
        let (from, to, record) = (from.clone(), to.clone(), record.clone());
        let more = world.caller.ledger.write(move |page| submit::answered(page, &from, &to, &record)).await;
        if !more.unwrap() {
            break;
        }
    }
    assert_eq!(queue(&world.caller, &world.bank).len(), 100);
    world.bank.open_pipe(&world.caller.desk.name, 1).await.unwrap();
    carry(&world.caller, &world.bank, 1).await.unwrap();
    assert_eq!(log(&world.bank, "service:bot").len(), 100, "nor does the hub commit them all at once");
    world.end().await;
}

#[tokio::test]
async fn what_is_refused_is_remembered_for_a_window_and_no_longer() {
    let world = World::peopled().await;
    let source = world.caller.desk.name.clone();
    world.bank.open_pipe(&source, 1).await.unwrap();
    for batch in 0..6 {
        let refused = |n: u64| Item {
            seq: 1 + batch * 500 + n,
            what: What::Refused(ahoy_proto::fault::Fault::new(ErrorCode::Malformed, "no")),
        };
        let taken = world.bank.take(&source, 1, (0..500).map(refused).collect()).await.unwrap();
        assert_eq!(taken.ack.refused.len(), 500);
    }
    let accept = world.bank.open_pipe(&source, 2).await.unwrap();
    let heard: Vec<u64> = accept.refused.iter().map(|refusal| refusal.seq).collect();
    assert_eq!(heard, (3_000 - 1023..=3_000).collect::<Vec<u64>>(), "the newest, as many as may be in doubt");
    world.end().await;
}

#[test]
fn an_event_that_would_not_fit_a_frame_with_its_placement_is_refused() {
    let body = v1::EventBody { kind: "k".repeat(80 * 1024), ..v1::EventBody::default() };
    let event = v1::Event { body: body.encode_to_vec().into(), attestation: None };
    let Err(fault) = ahoyd::checked::Checked::new(event, &policy()) else { panic!("it is taken") };
    assert_eq!((fault.code, &*fault.message), (ErrorCode::Malformed, "the event is too large"));
}

fn days(count: u64) -> std::time::Duration {
    std::time::Duration::from_secs(count * 24 * 60 * 60)
}

fn count(home: &Home, kind: layout::Kind) -> usize {
    let range = KeyRange::prefix([kind as u8]);
    home.store.scan(&home.partition, &range, 10_000, Order::Ascending).unwrap().len()
}

#[tokio::test]
async fn a_message_that_waited_for_more_than_30_days_is_refused_by_its_hub() {
    let world = World::peopled().await;
    world.say(1, "in time").await.unwrap();
    world.make_contact().await;
    world.clock.advance(days(1));
    world.say(2, "later").await.unwrap();
    world.clock.advance(days(30) - std::time::Duration::from_secs(1));
    world.bank.open_pipe(&world.caller.desk.name, 1).await.unwrap();
    let taken = carry(&world.caller, &world.bank, 1).await.unwrap();
    let codes: Vec<ErrorCode> =
        taken.ack.refused.iter().map(|refusal| refusal.error.as_ref().unwrap().code()).collect();
    assert_eq!(codes, [ErrorCode::TooOld], "the one of 31 days; that of a second less than 30 is placed");
    assert_eq!(log(&world.bank, "service:bot").len(), 1);
    world.end().await;
}

#[tokio::test]
async fn ids_are_forgotten_after_32_days_and_not_before() {
    let world = World::peopled().await;
    world.say(1, "old").await.unwrap();
    world.make_contact().await;
    world.bank.open_pipe(&world.caller.desk.name, 1).await.unwrap();
    carry(&world.caller, &world.bank, 1).await.unwrap();
    world.clock.advance(days(32));
    world.say(2, "new").await.unwrap();
    for (passed, left) in [(0, [2, 1]), (1, [1, 0])] {
        world.clock.advance(std::time::Duration::from_millis(passed));
        sweep(&world.caller, layout::Kind::Submission).await.unwrap();
        sweep(&world.bank, layout::Kind::Deduplication).await.unwrap();
        let kept =
            [count(&world.caller, layout::Kind::Submission), count(&world.bank, layout::Kind::Deduplication)];
        assert_eq!(kept, left, "{passed} ms past 32 days");
    }
    world.end().await;
}
