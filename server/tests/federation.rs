//! Messages and calls between two homeservers, over real endpoints on loopback.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod world;

use std::sync::Arc;

use ahoy_proto::invite::{InviteBody, unsigned_invite};
use ahoy_proto::time::Clock as _;
use ahoy_proto::v1::call_frame::Message;
use ahoy_proto::v1::sync_item::Item;
use ahoy_proto::v1::{self, ErrorCode, HangupReason, request, response};
use ahoy_transport::ControlEvent;
use ahoy_transport::clock::SystemClock;
use bytes::Bytes;
use futures_util::StreamExt as _;
use prost::Message as _;
use world::{Client, Leg, PATIENCE, Server, Time, World, address, soon, text};

const SUPPORT: &str = "support@bank.example";
const CALLER: &str = "caller@home.example";

fn event(item: Item) -> v1::EventBody {
    let Item::Event(placed) = item else { panic!("an event, not {item:?}") };
    v1::EventBody::decode(placed.event.unwrap().body).unwrap()
}

fn body_text(body: &v1::EventBody) -> &str {
    match body.content.as_ref().and_then(|content| content.content.as_ref()) {
        Some(v1::content::Content::Text(text)) => &text.body,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_reaches_the_bot_of_another_homeserver_and_its_reply_comes_back() {
    let world = World::start().await;
    let device = world.home.device(CALLER, 1).await;
    let bot = world.bank.service("bot", 2, false, true).await;
    device.submit(text(1, SUPPORT, "Is anybody there?")).await.unwrap();

    let mut heard = bot.sync(0).await;
    let question = heard.next().await;
    assert_eq!(question.address, SUPPORT);
    let question = event(question.item.unwrap());
    assert_eq!((body_text(&question), question.origin.as_str()), ("Is anybody there?", CALLER));
    let reply = v1::Submit { to: String::new(), conversation: question.conversation, ..text(1, "", "Yes.") };
    bot.submit(v1::Submit { from: SUPPORT.into(), ..reply }).await.unwrap();

    let mut log = device.sync(0).await;
    assert!(matches!(log.next().await.item, Some(Item::Pending(_))));
    let Some(Item::Placed(placed)) = log.next().await.item else { panic!("placed") };
    assert_eq!(placed.seq, 1);
    let answer = event(log.next().await.item.unwrap());
    assert_eq!((body_text(&answer), answer.origin.as_str()), ("Yes.", SUPPORT));
    assert!(matches!(heard.next().await.item, Some(Item::Pending(_))));
    let Some(Item::Placed(placed)) = heard.next().await.item else { panic!("placed") };
    assert_eq!(placed.seq, 2);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_of_two_homeservers_write_to_each_other_whoever_is_the_hub() {
    let world = World::start().await;
    let ann = world.home.device("ann@home.example", 1).await;
    let bob = world.bank.device("bob@bank.example", 2).await;
    ann.submit(text(1, "bob@bank.example", "hello")).await.unwrap();
    let mut bobs = bob.sync(0).await;
    assert_eq!(body_text(&event(bobs.next().await.item.unwrap())), "hello");
    bob.submit(text(1, "ann@home.example", "hello yourself")).await.unwrap();
    let mut anns = ann.sync(0).await;
    loop {
        if let Some(item @ Item::Event(_)) = anns.next().await.item {
            assert_eq!(body_text(&event(item)), "hello yourself");
            break;
        }
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_to_an_unknown_address_fails_with_the_one_answer() {
    let world = World::start().await;
    let device = world.home.device(CALLER, 1).await;
    device.submit(text(1, "nobody@bank.example", "hello?")).await.unwrap();
    let mut log = device.sync(0).await;
    assert!(matches!(log.next().await.item, Some(Item::Pending(_))));
    let Some(Item::Failed(failed)) = log.next().await.item else { panic!("failed") };
    assert_eq!(failed.error.unwrap().code(), ErrorCode::NotReachable);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_a_dead_peer_arrives_in_order_and_once_when_it_returns() {
    let world = World::start().await;
    let device = world.home.device(CALLER, 1).await;
    let bot = world.bank.service("bot", 2, false, true).await;
    let mut log = bot.sync(0).await;
    device.submit(text(0, SUPPORT, "0")).await.unwrap();
    log.next().await;
    drop((log, bot));

    let World { dir, table, home, bank } = world;
    let port = bank.addr.port();
    bank.stop().await;
    for id in 1..=200 {
        device.submit(text(id, SUPPORT, &id.to_string())).await.unwrap();
    }
    let Ok(response::Response::Peers(peers)) = device.request(request::Request::Peers(v1::Peers {})).await
    else {
        panic!("an answer about peers")
    };
    assert_eq!(peers.peers[0].name, "bank.example");
    assert!(peers.peers[0].queued >= 200);
    let bank = Server::start(&dir.path().join("bank"), "bank.example", &table, port).await;
    let bot = bank.service("bot", 2, false, true).await;
    let mut log = bot.sync(0).await;
    for id in 0..=200 {
        assert_eq!(body_text(&event(log.next().await.item.unwrap())), id.to_string());
    }
    home.stop().await;
    bank.stop().await;
}

/// Submits messages `from..to`, many at once, each again until it is acknowledged.
async fn flood(device: &Arc<Client>, from: u64, to: u64) {
    let messages = futures_util::stream::iter(from..to);
    let each = messages.map(|id| {
        let device = device.clone();
        async move { device.submit(text(id, SUPPORT, &id.to_string())).await.unwrap() }
    });
    each.buffer_unordered(48).collect::<Vec<_>>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_messages_arrive_once_in_order_although_the_hub_restarts_in_between() {
    const COUNT: u64 = 10_000;
    let world = World::start().await;
    let device = Arc::new(world.home.device(CALLER, 1).await);
    let bot = world.bank.service("bot", 2, false, true).await;
    drop(bot);
    let begun = tokio::time::Instant::now();
    flood(&device, 0, COUNT / 2).await;
    let World { dir, table, home, bank } = world;
    let port = bank.addr.port();
    bank.stop().await;
    flood(&device, COUNT / 2, COUNT).await;
    let bank = Server::start(&dir.path().join("bank"), "bank.example", &table, port).await;
    let bot = bank.service("bot", 2, false, true).await;
    let mut log = bot.sync(0).await;
    let mut heard = Vec::new();
    while heard.len() < COUNT as usize {
        heard.push(event(log.next().await.item.unwrap()).client_id);
    }
    let elapsed = begun.elapsed();
    println!("{COUNT} messages and a restart in {elapsed:?}");
    let mut log = device.sync(0).await;
    let (mut sent, mut placed) = (Vec::new(), 0);
    while placed < COUNT {
        match log.next().await.item {
            Some(Item::Pending(pending)) => sent.push(pending.client_id),
            Some(Item::Placed(_)) => placed += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(heard, sent, "in the order in which they became durable, none missing, none twice");
    home.stop().await;
    bank.stop().await;
}

async fn invite(leg: &mut Leg, call: [u8; 16], to: &str) {
    let sdp = "v=0\r\n".to_owned();
    let body = InviteBody::new(call, address(CALLER), address(to), SystemClock.now(), &sdp);
    leg.say(Message::Invite(unsigned_invite(&body, sdp, 30_000, "Ann".into()))).await;
}

fn ringing() -> Message {
    Message::Ringing(v1::Ringing { branch: Bytes::from_static(b"phone"), sdp: String::new() })
}

fn answer() -> Message {
    let branch = Bytes::from_static(b"phone");
    Message::Answer(v1::Answer { branch, sdp: "v=0\r\nanswer".into(), answered_by: SUPPORT.into() })
}

fn hang_up() -> Message {
    Message::Hangup(v1::Hangup { reason: HangupReason::Normal.into(), ..v1::Hangup::default() })
}

fn dtmf(digits: &str) -> Message {
    Message::Dtmf(v1::Dtmf { digits: digits.into(), duration_ms: 100 })
}

fn reason(message: &Message) -> HangupReason {
    let Message::Hangup(hangup) = message else { panic!("a hang-up, not {message:?}") };
    hangup.reason()
}

/// A call between the device and the bridge that was answered.
async fn connected(device: &Client, bridge: &Client, call: [u8; 16]) -> (Leg, Leg) {
    let mut caller = device.call(call, "", SUPPORT, None).await;
    invite(&mut caller, call, SUPPORT).await;
    let (open, mut callee) = bridge.ringing().await;
    assert_eq!((open.to.as_str(), open.from.as_str()), (SUPPORT, CALLER));
    let Message::Invite(invite) = callee.hear().await else { panic!("an invite") };
    assert!(invite.remaining_ms <= 30_000 && !invite.signature.is_empty());
    callee.say(ringing()).await;
    assert!(matches!(caller.hear().await, Message::Ringing(_)));
    callee.say(answer()).await;
    let Message::Answer(answer) = caller.hear().await else { panic!("an answer") };
    assert_eq!(answer.sdp, "v=0\r\nanswer");
    (caller, callee)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_passes_two_homeservers_to_a_service_and_is_hung_up() {
    let world = World::start().await;
    let device = world.home.device(CALLER, 1).await;
    let bridge = world.bank.service("bridge", 3, true, false).await;
    let (mut caller, mut callee) = connected(&device, &bridge, [1; 16]).await;
    caller.say(dtmf("12#")).await;
    let Message::Dtmf(dtmf) = callee.hear().await else { panic!("digits") };
    assert_eq!(dtmf.digits, "12#");
    callee.say(hang_up()).await;
    assert_eq!(reason(&caller.hear().await), HangupReason::Normal);
    soon(world.home.homeserver.idle(PATIENCE)).await;
    soon(world.bank.homeserver.idle(PATIENCE)).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_goes_on_when_the_callers_connection_is_replaced() {
    let world = World::start().await;
    let device = world.home.device(CALLER, 1).await;
    let bridge = world.bank.service("bridge", 3, true, false).await;
    let (caller, mut callee) = connected(&device, &bridge, [2; 16]).await;
    device.connection.close();
    callee.say(dtmf("7")).await;

    let device = world.home.device(CALLER, 1).await;
    let resume = v1::Resume { token: caller.token.clone(), last_received: caller.heard };
    let mut again = device.call([2; 16], "", SUPPORT, Some(resume)).await;
    (again.sent, again.heard) = (caller.sent, caller.heard);
    let Message::Dtmf(digits) = again.hear().await else { panic!("digits") };
    assert_eq!(digits.digits, "7");
    again.say(hang_up()).await;
    assert_eq!(reason(&callee.hear().await), HangupReason::Normal);
    let stale = v1::Resume { token: caller.token, last_received: 0 };
    let mut late = device.call([2; 16], "", SUPPORT, Some(stale)).await;
    let frame = soon(late.stream.recv::<v1::CallFrame>()).await.unwrap().unwrap();
    let Some(Message::Error(error)) = frame.message else { panic!("an error") };
    assert!(matches!(error.code(), ErrorCode::UnknownCall | ErrorCode::BadResumeToken));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_nobody_can_take_ends_with_its_reason() {
    let world = World::start().await;
    let device = world.home.device(CALLER, 1).await;
    let cases = [
        ([3; 16], SUPPORT, HangupReason::TrunkDown),
        ([4; 16], "nobody@bank.example", HangupReason::NotReachable),
    ];
    for (call, to, expected) in cases {
        let mut leg = device.call(call, "", to, None).await;
        invite(&mut leg, call, to).await;
        assert_eq!(reason(&leg.hear().await), expected);
    }
    let World { dir: _dir, table: _, home, bank } = world;
    bank.stop().await;
    let mut leg = device.call([5; 16], "", SUPPORT, None).await;
    invite(&mut leg, [5; 16], SUPPORT).await;
    let end = reason(&leg.hear().await);
    assert!(matches!(end, HangupReason::NotReachable | HangupReason::Unavailable), "{end:?}");
    home.stop().await;
}

/// The bridge's end of a call that came back to it.
async fn brought_back(bridge: &Client, before: &Leg) -> Leg {
    let (open, mut leg) = bridge.resumed(before).await;
    let resume = open.resume.expect("it is resumed, not opened anew");
    assert_eq!(resume.token, before.token, "with the token that it was given");
    (leg.sent, leg.heard) = (before.sent, before.heard);
    assert_eq!(resume.last_received, before.sent, "everything that was said had arrived");
    leg
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_goes_on_when_the_bridge_reconnects() {
    let world = World::start().await;
    let device = world.home.device(CALLER, 1).await;
    let bridge = world.bank.service("bridge", 3, true, false).await;
    let (mut caller, callee) = connected(&device, &bridge, [6; 16]).await;
    bridge.connection.close();
    caller.say(dtmf("1")).await;
    let bridge = world.bank.service("bridge", 3, true, false).await;
    let mut callee = brought_back(&bridge, &callee).await;
    let Message::Dtmf(digits) = callee.hear().await else { panic!("digits") };
    assert_eq!(digits.digits, "1", "what was said meanwhile is not lost");
    callee.say(hang_up()).await;
    assert_eq!(reason(&caller.hear().await), HangupReason::Normal);
    soon(world.bank.homeserver.idle(PATIENCE)).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_goes_on_when_the_connection_between_the_homeservers_is_replaced() {
    let world = World::start().await;
    let device = world.home.device(CALLER, 1).await;
    let bridge = world.bank.service("bridge", 3, true, false).await;
    let (mut caller, mut callee) = connected(&device, &bridge, [7; 16]).await;
    let between = |c: &ahoy_transport::Connection| c.remote_addr() == world.bank.addr;
    let cut: Vec<_> = world.home.endpoint.connections().into_iter().filter(between).collect();
    assert!(!cut.is_empty());
    cut.iter().for_each(ahoy_transport::Connection::close);
    caller.say(dtmf("2")).await;
    callee.say(dtmf("3")).await;
    let Message::Dtmf(heard) = callee.hear().await else { panic!("digits") };
    assert_eq!(heard.digits, "2");
    let Message::Dtmf(heard) = caller.hear().await else { panic!("digits") };
    assert_eq!(heard.digits, "3");
    caller.say(hang_up()).await;
    assert_eq!(reason(&callee.hear().await), HangupReason::Normal);
    world.stop().await;
}

async fn invite_from(leg: &mut Leg, call: [u8; 16], from: &str, to: &str) {
    let sdp = "v=0\r\n".to_owned();
    let body = InviteBody::new(call, address(from), address(to), SystemClock.now(), &sdp);
    leg.say(Message::Invite(unsigned_invite(&body, sdp, 30_000, String::new()))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_people_who_call_each_other_the_lower_call_survives() {
    const ANN: &str = "ann@home.example";
    const BOB: &str = "bob@bank.example";
    for (anns, bobs) in [([1; 16], [2; 16]), ([4; 16], [3; 16])] {
        let world = World::start().await;
        let ann = world.home.device(ANN, 1).await;
        let bob = world.bank.device(BOB, 2).await;
        let mut from_ann = ann.call(anns, "", BOB, None).await;
        let mut from_bob = bob.call(bobs, "", ANN, None).await;
        tokio::join!(invite_from(&mut from_ann, anns, ANN, BOB), invite_from(&mut from_bob, bobs, BOB, ANN),);
        let (loser, winner, callee, low) =
            if anns < bobs { (from_bob, from_ann, &bob, anns) } else { (from_ann, from_bob, &ann, bobs) };
        let (mut loser, mut winner) = (loser, winner);
        assert_eq!(reason(&loser.hear().await), HangupReason::Superseded);
        let (open, mut leg) = callee.ringing().await;
        assert_eq!(open.call[..], low);
        assert!(matches!(leg.hear().await, Message::Invite(_)));
        leg.say(answer()).await;
        assert!(matches!(winner.hear().await, Message::Answer(_)));
        leg.say(hang_up()).await;
        assert_eq!(reason(&winner.hear().await), HangupReason::Normal);
        world.stop().await;
    }
}

/// Both homeservers, of which the bank gives live calls so long when it stops.
async fn draining_world(drain: std::time::Duration) -> World {
    let dir = tempfile::tempdir().unwrap();
    let table = world::Table::default();
    let home = Server::start(&dir.path().join("home"), "home.example", &table, 0).await;
    let time = Time { drain, ..Time::default() };
    let bank = Server::start_with(&dir.path().join("bank"), "bank.example", &table, 0, time).await;
    World { dir, table, home, bank }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_homeserver_that_stops_lets_live_calls_finish_and_takes_no_new_ones() {
    let mut world = draining_world(PATIENCE).await;
    let device = world.home.device(CALLER, 1).await;
    let bridge = world.bank.service("bridge", 3, true, false).await;
    let (mut caller, mut callee) = connected(&device, &bridge, [8; 16]).await;
    world.bank.signal();
    loop {
        if let Some(ControlEvent::GoAway(after)) = soon(bridge.connection.control_event()).await {
            assert!(!after.is_zero(), "it says when to come back");
            break;
        }
    }
    let to_bank = |c: &ahoy_transport::Connection| c.remote_addr() == world.bank.addr;
    let peers: Vec<_> = world.home.endpoint.connections().into_iter().filter(to_bank).collect();
    for peer in peers {
        soon(async {
            while peer.going_away().is_none() {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    let mut late = device.call([9; 16], "", SUPPORT, None).await;
    invite(&mut late, [9; 16], SUPPORT).await;
    let Message::Hangup(refused) = late.hear().await else { panic!("a hang-up") };
    assert_eq!(refused.reason(), HangupReason::Unavailable);
    assert!(refused.retry_after_ms > 0, "{refused:?}");

    caller.say(dtmf("5")).await;
    assert!(matches!(callee.hear().await, Message::Dtmf(_)), "the live call goes on");
    device.submit(text(1, SUPPORT, "queued")).await.unwrap();
    callee.say(hang_up()).await;
    assert_eq!(reason(&caller.hear().await), HangupReason::Normal);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_outlives_the_drain_is_hung_up_on_both_sides() {
    let mut world = draining_world(std::time::Duration::from_millis(300)).await;
    let device = world.home.device(CALLER, 1).await;
    let bridge = world.bank.service("bridge", 3, true, false).await;
    let (mut caller, mut callee) = connected(&device, &bridge, [8; 16]).await;
    world.bank.signal();
    let Message::Hangup(end) = callee.hear().await else { panic!("a hang-up") };
    assert_eq!(end.reason(), HangupReason::Unavailable);
    assert_eq!(reason(&caller.hear().await), HangupReason::Unavailable);
    world.stop().await;
}

/// Copies a stopped homeserver's folder, as a backup does.
fn copy(from: &std::path::Path, to: &std::path::Path) {
    let _ = std::fs::remove_dir_all(to);
    let copied = std::process::Command::new("cp").arg("-a").args([from, to]).status().unwrap();
    assert!(copied.success());
}

/// Has the bot say something in the conversation.
async fn reply(bot: &Client, conversation: &Bytes, id: u64, words: &str) {
    let reply = v1::Submit { to: String::new(), conversation: conversation.clone(), ..text(id, "", words) };
    bot.submit(v1::Submit { from: SUPPORT.into(), ..reply }).await.unwrap();
}

/// What the owner of a log has heard from others, up to these words.
async fn heard_up_to(client: &Client, last: &str) -> Vec<String> {
    let (mut log, mut heard) = (client.sync(0).await, Vec::new());
    while heard.last().map(String::as_str) != Some(last) {
        if let Some(item @ Item::Event(_)) = log.next().await.item {
            heard.push(body_text(&event(item)).to_owned());
        }
    }
    heard
}

/// Both homeservers after one question and answer, and the conversation.
async fn in_conversation() -> (World, Client, Client, Bytes) {
    let world = World::start().await;
    let device = world.home.device(CALLER, 1).await;
    let bot = world.bank.service("bot", 2, false, true).await;
    device.submit(text(1, SUPPORT, "question")).await.unwrap();
    let conversation = event(bot.sync(0).await.next().await.item.unwrap()).conversation;
    reply(&bot, &conversation, 1, "first").await;
    assert_eq!(heard_up_to(&device, "first").await, ["first"]);
    (world, device, bot, conversation)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_was_restored_fetches_what_it_missed_in_order() {
    let (world, device, bot, conversation) = in_conversation().await;
    let World { dir, table, home, bank } = world;
    let (live, backup, port) = (dir.path().join("home"), dir.path().join("backup"), home.addr.port());
    drop(device);
    home.stop().await;
    copy(&live, &backup);
    let home = Server::start(&live, "home.example", &table, port).await;
    let device = home.device(CALLER, 1).await;
    reply(&bot, &conversation, 2, "second").await;
    reply(&bot, &conversation, 3, "third").await;
    assert_eq!(heard_up_to(&device, "third").await, ["first", "second", "third"]);
    drop(device);
    home.stop().await;
    copy(&backup, &live);
    let home = Server::start(&live, "home.example", &table, port).await;
    let device = home.device(CALLER, 1).await;
    reply(&bot, &conversation, 4, "fourth").await;
    assert_eq!(heard_up_to(&device, "fourth").await, ["first", "second", "third", "fourth"]);
    home.stop().await;
    bank.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_was_restored_is_contradicted_and_goes_on_in_a_new_epoch() {
    let (world, device, bot, conversation) = in_conversation().await;
    let World { dir, table, home, bank } = world;
    let (live, backup, port) = (dir.path().join("bank"), dir.path().join("backup"), bank.addr.port());
    drop(bot);
    bank.stop().await;
    copy(&live, &backup);
    let bank = Server::start(&live, "bank.example", &table, port).await;
    let bot = bank.service("bot", 2, false, true).await;
    reply(&bot, &conversation, 2, "forgotten by the hub").await;
    heard_up_to(&device, "forgotten by the hub").await;
    drop(bot);
    bank.stop().await;
    copy(&backup, &live);
    let bank = Server::start(&live, "bank.example", &table, port).await;
    let bot = bank.service("bot", 2, false, true).await;
    reply(&bot, &conversation, 3, "after the backup").await;
    let heard = heard_up_to(&device, "after the backup").await;
    assert_eq!(heard, ["first", "forgotten by the hub", "after the backup"]);
    device.submit(text(2, SUPPORT, "all here")).await.unwrap();
    let last = heard_up_to(&bot, "all here").await;
    assert_eq!(last, ["question", "all here"], "and the other way too");
    home.stop().await;
    bank.stop().await;
}

/// The system's clock, that many milliseconds ahead.
#[derive(Default)]
struct Ahead(std::sync::atomic::AtomicU64);

impl ahoy_proto::time::Clock for Ahead {
    fn now(&self) -> ahoy_proto::time::Timestamp {
        let ahead = self.0.load(std::sync::atomic::Ordering::SeqCst);
        SystemClock.now() + std::time::Duration::from_millis(ahead)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_to_a_dead_peer_fails_after_30_days() {
    let dir = tempfile::tempdir().unwrap();
    let table = world::Table::default();
    let clock = Arc::new(Ahead::default());
    let time = Time { clock: clock.clone(), ..Time::default() };
    let bank = Server::start(&dir.path().join("bank"), "bank.example", &table, 0).await;
    bank.stop().await;
    let home = Server::start_with(&dir.path().join("home"), "home.example", &table, 0, time).await;
    let device = home.device(CALLER, 1).await;
    device.submit(text(1, SUPPORT, "Is anybody there?")).await.unwrap();
    let mut log = device.sync(0).await;
    assert!(matches!(log.next().await.item, Some(Item::Pending(_))));
    clock.0.store(31 * 24 * 60 * 60 * 1000, std::sync::atomic::Ordering::SeqCst);
    let Some(Item::Failed(failed)) = log.next().await.item else { panic!("failed") };
    assert_eq!(failed.error.unwrap().code(), ErrorCode::TooOld);
    home.stop().await;
}
