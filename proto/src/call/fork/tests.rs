//! Holds the rules of forking: who wins, who is told what, when it ends.

use super::*;
use crate::testing::NOW;
use crate::v1;

const RING: Duration = Duration::from_secs(90);

fn after(s: u64) -> Timestamp {
    NOW + Duration::from_secs(s)
}

fn ringing(branch: &str, sdp: &str) -> Message {
    Message::Ringing(v1::Ringing { branch: branch.to_owned().into(), sdp: sdp.into() })
}

fn early(branch: &str, sdp: &str) -> Message {
    Message::Early(v1::Early { branch: branch.to_owned().into(), sdp: sdp.into() })
}

fn answer(branch: &str, sdp: &str) -> Message {
    let branch = branch.to_owned().into();
    Message::Answer(v1::Answer { branch, sdp: sdp.into(), answered_by: String::new() })
}

fn ended(branch: &str, reason: HangupReason) -> Output {
    let branch = branch.to_owned().into();
    Output::ToCaller(Message::BranchEnded(BranchEnded { branch, reason: reason.into() }))
}

fn bye(reason: HangupReason) -> Message {
    Message::Hangup(hangup(reason))
}

fn call_with<const N: usize>(ids: [&'static str; N]) -> (Call, [BranchKey; N]) {
    let mut call = Call::new(NOW, RING, None);
    let keys = ids.map(|id| call.add_branch(id).expect("room"));
    (call, keys)
}

fn drain(call: &mut Call) -> Vec<Output> {
    std::iter::from_fn(|| call.poll_output()).collect()
}

#[test]
fn the_first_answer_wins_and_the_others_hear_answered_elsewhere() {
    let (mut call, [a, b, c]) = call_with(["a", "b", "c"]);
    call.handle_branch(a, ringing("", ""), NOW).expect("rings");
    call.handle_branch(b, ringing("own", ""), NOW).expect("rings");
    assert_eq!(
        drain(&mut call),
        [Output::ToCaller(ringing("a", "")), Output::ToCaller(ringing("b", ""))],
        "the homeserver names the branches"
    );
    call.handle_branch(b, answer("", "sdp"), NOW).expect("answers");
    let elsewhere = HangupReason::AnsweredElsewhere;
    assert_eq!(
        drain(&mut call),
        [
            Output::ToBranch(a, bye(elsewhere)),
            ended("a", elsewhere),
            Output::ToBranch(c, bye(elsewhere)),
            Output::ToCaller(answer("b", "sdp")),
            Output::Connected(b),
        ]
    );
    call.handle_branch(a, answer("", "late"), NOW).expect("crossed on the way");
    assert_eq!((drain(&mut call), call.connected(), call.poll_timeout()), (vec![], Some(b), None));
}

#[test]
fn after_the_answer_messages_flow_both_ways_until_one_side_hangs_up() {
    let (mut call, [a]) = call_with(["a"]);
    call.handle_branch(a, answer("", "sdp"), NOW).expect("answers");
    drain(&mut call);
    let dtmf = Message::Dtmf(v1::Dtmf { digits: "1".into(), duration_ms: 90 });
    call.handle_caller(dtmf.clone()).expect("connected");
    call.handle_branch(a, Message::Hold(v1::Hold::default()), NOW).expect("connected");
    assert_eq!(
        drain(&mut call),
        [Output::ToBranch(a, dtmf), Output::ToCaller(Message::Hold(v1::Hold::default()))]
    );
    call.handle_caller(bye(HangupReason::Normal)).expect("always");
    let normal = hangup(HangupReason::Normal);
    assert_eq!(
        drain(&mut call),
        [Output::ToBranch(a, bye(HangupReason::Normal)), Output::Ended(normal.clone())]
    );
    assert_eq!(call.ended(), Some(&normal));
    call.handle_branch(a, bye(HangupReason::Busy), NOW).expect("late");
    assert_eq!(drain(&mut call), []);
}

#[test]
fn a_caller_that_hangs_up_before_the_answer_cancels_every_branch() {
    let (mut call, [a, b]) = call_with(["a", "b"]);
    call.handle_caller(bye(HangupReason::Normal)).expect("always");
    assert_eq!(
        drain(&mut call),
        [
            Output::ToBranch(a, bye(HangupReason::Cancelled)),
            Output::ToBranch(b, bye(HangupReason::Cancelled)),
            Output::Ended(hangup(HangupReason::Normal)),
        ]
    );
}

#[test]
fn when_every_branch_has_ended_the_caller_hears_the_most_telling_reason() {
    let (mut call, [a, b]) = call_with(["a", "b"]);
    call.handle_branch(a, ringing("", ""), NOW).expect("rings");
    call.handle_branch(a, bye(HangupReason::Busy), NOW).expect("ends");
    call.branch_lost(b, hangup(HangupReason::TrunkDown));
    assert_eq!(
        drain(&mut call)[1..],
        [
            ended("a", HangupReason::Busy),
            Output::ToCaller(bye(HangupReason::Busy)),
            Output::Ended(hangup(HangupReason::Busy)),
        ]
    );
}

#[test]
fn nobody_answers_within_ninety_seconds() {
    let (mut call, [a]) = call_with(["a"]);
    assert_eq!(call.poll_timeout(), Some(after(90)));
    call.handle_timeout(after(89));
    assert_eq!(drain(&mut call), []);
    call.handle_timeout(after(90));
    let no_answer = HangupReason::NoAnswer;
    assert_eq!(
        drain(&mut call),
        [
            Output::ToBranch(a, bye(no_answer)),
            Output::ToCaller(bye(no_answer)),
            Output::Ended(hangup(no_answer)),
        ]
    );
    assert_eq!(call.poll_timeout(), None);
}

#[test]
fn early_media_extends_the_deadline_once() {
    let (mut call, [a]) = call_with(["a"]);
    call.handle_branch(a, early("", "sdp"), after(10)).expect("early");
    assert_eq!(call.poll_timeout(), Some(after(190)));
    call.handle_branch(a, ringing("", ""), after(20)).expect("rings");
    call.handle_branch(a, early("", ""), after(100)).expect("early");
    assert_eq!(call.poll_timeout(), Some(after(190)));
}

#[test]
fn a_later_branch_does_not_use_the_offer_that_an_earlier_one_took() {
    let (mut call, [a, b]) = call_with(["a", "b"]);
    call.handle_branch(a, early("", "sdp of a"), NOW).expect("early");
    call.handle_branch(b, early("", "sdp of b"), NOW).expect("early");
    assert_eq!(
        drain(&mut call),
        [Output::ToCaller(early("a", "sdp of a")), Output::ToCaller(early("b", ""))]
    );
    call.handle_branch(b, answer("", "sdp of b"), NOW).expect("answers");
    let request = Message::OfferRequest(OfferRequest { branch: "b".into() });
    assert_eq!(
        drain(&mut call)[2..],
        [Output::ToCaller(request), Output::ToCaller(answer("b", "")), Output::Connected(b)]
    );
    let offer = Message::Offer(v1::Offer { branch: "b".into(), sdp: "new offer".into() });
    call.handle_caller(offer.clone()).expect("was asked for");
    let reply = Message::OfferAnswer(v1::OfferAnswer { branch: "b".into(), sdp: "new answer".into() });
    call.handle_branch(b, reply.clone(), NOW).expect("was offered");
    assert_eq!(drain(&mut call), [Output::ToBranch(b, offer), Output::ToCaller(reply)]);
}

#[test]
fn a_side_that_breaks_the_rules_changes_nothing() {
    let (mut call, [a]) = call_with(["a"]);
    assert_eq!(call.handle_branch(a, answer("", ""), NOW), Err(CallError::Field("sdp")));
    let offer = Message::Offer(v1::Offer { branch: "x".into(), sdp: "o".into() });
    assert_eq!(call.handle_caller(offer), Err(CallError::UnknownBranch));
    assert_eq!(drain(&mut call), []);
    assert_eq!(call.state(a), Some(BranchState::Inviting));
    call.branch_lost(a, hangup(HangupReason::Failed));
    assert_eq!(call.ended().map(reason), Some(HangupReason::Failed));
}

#[test]
fn a_call_has_at_most_sixteen_branches() {
    let mut call = Call::new(NOW, RING, None);
    for i in 0..16u8 {
        call.add_branch(vec![i]).expect("room");
    }
    assert_eq!(call.add_branch(vec![16]), Err(CallError::TooManyBranches));
}
