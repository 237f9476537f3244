//! The agent against a scripted trunk, in virtual time.

use proptest::prelude::*;

use super::*;
use crate::sdp::{Codec, Direction};
use crate::sip::LegEvent as E;

const PEER: &str = "127.0.0.1:5070";
const SDP: &str = "v=0\r\no=pbx 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n\
    m=audio 4000 RTP/AVP 8 101\r\na=rtpmap:101 telephone-event/8000\r\n";

struct Rig {
    agent: Agent,
    now: Instant,
}

impl Rig {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut AgentConfig)) -> Self {
        let peer: SocketAddr = PEER.parse().unwrap();
        let mut config = AgentConfig {
            advertised: "127.0.0.2:5060".parse().unwrap(),
            peer,
            transport: Transport::Udp,
            sources: vec![peer.ip()],
            large_over_tcp: true,
            timers: Timers::default(),
            limits: AgentLimits::default(),
        };
        change(&mut config);
        let mut counter = 0u64;
        let random = Box::new(move || {
            counter += 1;
            counter
        });
        Self { agent: Agent::new(config, random), now: tokio::time::Instant::now().into_std() }
    }

    fn feed(&mut self, text: &str) -> Vec<String> {
        self.feed_from(text, PEER)
    }

    fn feed_from(&mut self, text: &str, source: &str) -> Vec<String> {
        let bytes = Bytes::copy_from_slice(text.as_bytes());
        self.agent.handle_datagram(self.now, bytes, source.parse().unwrap());
        self.sent()
    }

    fn sent(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.agent.poll_transmit())
            .map(|(_, bytes)| String::from_utf8_lossy(&bytes).into_owned())
            .collect()
    }

    fn pass(&mut self, seconds: f64) -> Vec<String> {
        let until = self.now + Duration::from_secs_f64(seconds);
        while let Some(next) = self.agent.next_timeout().filter(|next| *next <= until) {
            self.now = next;
            self.agent.handle_timeout(next);
        }
        self.now = until;
        self.sent()
    }

    fn events(&mut self) -> Vec<E> {
        std::iter::from_fn(|| self.agent.poll_event()).map(|(_, event)| event).collect()
    }

    fn invite(&mut self) -> (LegId, String) {
        let media = LocalMedia::new("127.0.0.2:30000".parse().unwrap(), Codec::ALL.to_vec(), 1);
        let call = OutgoingInvite {
            target: Uri::parse(Bytes::from_static(b"sip:200@127.0.0.1:5070")).unwrap(),
            from: Identity {
                display: Some("A \"b\"".into()),
                user: "caller@home.example".into(),
                asserted: true,
            },
            media,
        };
        let leg = self.agent.invite(self.now, call).unwrap();
        let mut sent = self.sent();
        assert_eq!(sent.len(), 1);
        (leg, sent.remove(0))
    }

    /// An inbound call up to `Incoming`, with media attached.
    fn incoming(&mut self, body: &str) -> LegId {
        self.feed(&request("INVITE", 1, "", body));
        let incoming = self.agent.poll_incoming().expect("a call");
        let media = LocalMedia::new("127.0.0.2:30000".parse().unwrap(), Codec::ALL.to_vec(), 1);
        self.agent.attach_media(incoming.leg, media).unwrap();
        incoming.leg
    }

    /// An inbound call, answered and acknowledged; returns our tag.
    fn established(&mut self) -> (LegId, String) {
        let leg = self.incoming(SDP);
        self.agent.answer(self.now, leg).unwrap();
        let ok = self.sent().pop().unwrap();
        let tag = tag_of(&ok);
        self.feed(&request("ACK", 1, &tag, ""));
        assert_eq!(self.events(), [E::Confirmed(None)]);
        (leg, tag)
    }
}

fn request(method: &str, sequence: u32, to_tag: &str, body: &str) -> String {
    request_with(method, sequence, to_tag, "", body)
}

fn request_with(method: &str, sequence: u32, to_tag: &str, headers: &str, body: &str) -> String {
    let to_tag = if to_tag.is_empty() { String::new() } else { format!(";tag={to_tag}") };
    let kind = if body.is_empty() { "" } else { "Content-Type: application/sdp\r\n" };
    let branch = if method == "CANCEL" { "INVITE" } else { method };
    format!(
        "{method} sip:caller%40home.example@127.0.0.2:5060 SIP/2.0\r\n\
         Via: SIP/2.0/UDP 127.0.0.1:5070;branch=z9hG4bK{branch}{sequence};rport\r\nMax-Forwards: 70\r\n\
         From: \"Desk\" <sip:200@127.0.0.1:5070>;tag=pbx\r\nTo: <sip:caller%40home.example@127.0.0.2>{to_tag}\r\n\
         Call-ID: in-1\r\nCSeq: {sequence} {method}\r\nContact: <sip:200@127.0.0.1:5070>\r\n{kind}{headers}\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn header<'a>(message: &'a str, name: &str) -> &'a str {
    message
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .unwrap_or_else(|| panic!("no {name} in {message}"))
        .trim()
}

fn tag_of(response: &str) -> String {
    header(response, "To").rsplit_once(";tag=").expect("a tag").1.to_owned()
}

fn response(request: &str, status: &str, tag: &str, extra: &str, body: &str) -> String {
    let tag = if tag.is_empty() { String::new() } else { format!(";tag={tag}") };
    let kind = if body.is_empty() { "" } else { "Content-Type: application/sdp\r\n" };
    format!(
        "SIP/2.0 {status}\r\nVia: {}\r\nFrom: {}\r\nTo: {}{tag}\r\nCall-ID: {}\r\nCSeq: {}\r\n\
         Contact: <sip:200@127.0.0.1:5070>\r\n{kind}{extra}Content-Length: {}\r\n\r\n{body}",
        header(request, "Via"),
        header(request, "From"),
        header(request, "To"),
        header(request, "Call-ID"),
        header(request, "CSeq"),
        body.len()
    )
}

fn status(message: &str) -> &str {
    message.split(' ').nth(1).unwrap_or_default()
}

#[test]
fn an_outgoing_call_rings_plays_early_media_is_answered_and_hung_up() {
    let mut rig = Rig::new();
    let (leg, invite) = rig.invite();
    assert!(
        invite.contains("From: \"A \\\"b\\\"\" <sip:caller%40home.example@127.0.0.2:5060>;tag="),
        "{invite}"
    );
    assert!(invite.contains("P-Asserted-Identity: "));
    rig.feed(&response(&invite, "100 Trying", "", "", ""));
    rig.feed(&response(&invite, "180 Ringing", "a", "", ""));
    rig.feed(&response(&invite, "183 Progress", "a", "", SDP));
    let ack = rig.feed(&response(&invite, "200 OK", "a", "", SDP));
    assert!(ack[0].starts_with("ACK sip:200@127.0.0.1:5070 SIP/2.0\r\n"), "{ack:?}");
    let events = rig.events();
    assert!(
        matches!(&events[..], [E::Trying, E::Ringing, E::Early(_), E::Answered(plan)]
        if plan.codec == Codec::Pcma && plan.dtmf.is_some()),
        "{events:?}"
    );
    // A repeated 2xx means that the ACK was lost: it is sent again, and nothing else happens.
    assert_eq!(rig.feed(&response(&invite, "200 OK", "a", "", SDP)), ack);
    assert_eq!(rig.events(), []);
    rig.agent.hang_up(rig.now, leg, 480);
    let bye = rig.sent();
    assert!(bye[0].starts_with("BYE ") && header(&bye[0], "CSeq") == "2 BYE");
    rig.feed(&response(&bye[0], "200 OK", "", "", ""));
    assert_eq!(rig.agent.legs(), 0);
}

#[test]
fn a_refused_call_reports_status_and_q850_and_is_acknowledged() {
    let mut rig = Rig::new();
    let (_, invite) = rig.invite();
    let ack =
        rig.feed(&response(&invite, "486 Busy Here", "a", "Reason: Q.850;cause=17;text=\"busy\"\r\n", ""));
    assert!(ack[0].starts_with("ACK "));
    let expected = End { cause: EndCause::Rejected, status: Some(486), q850: Some(17), retry_after: None };
    assert_eq!(rig.events(), [E::Ended(expected)]);
    assert_eq!(rig.agent.legs(), 0);
}

#[test]
fn a_cancelled_call_waits_for_a_provisional_and_then_cancels() {
    let mut rig = Rig::new();
    let (leg, invite) = rig.invite();
    rig.agent.hang_up(rig.now, leg, 480);
    assert_eq!(rig.sent(), Vec::<String>::new(), "nothing to cancel before a provisional");
    assert_eq!(rig.events(), [E::Ended(End::of(EndCause::Local))]);
    let cancel = rig.feed(&response(&invite, "180 Ringing", "a", "", "")).remove(0);
    assert!(cancel.starts_with("CANCEL ") && header(&cancel, "Via") == header(&invite, "Via"));
    rig.feed(&response(&cancel, "200 OK", "a", "", ""));
    rig.feed(&response(&invite, "487 Request Terminated", "a", "", ""));
    assert_eq!((rig.events(), rig.agent.legs()), (vec![], 0));
}

#[test]
fn a_2xx_that_crosses_the_cancel_is_acknowledged_and_hung_up() {
    let mut rig = Rig::new();
    let (leg, invite) = rig.invite();
    rig.feed(&response(&invite, "180 Ringing", "a", "", ""));
    rig.agent.hang_up(rig.now, leg, 480);
    rig.sent();
    let sent = rig.feed(&response(&invite, "200 OK", "a", "", SDP));
    assert!(sent[0].starts_with("ACK ") && sent[1].starts_with("BYE "), "{sent:?}");
}

#[test]
fn an_invite_stuck_after_180_is_abandoned_after_the_cancel_goes_unanswered() {
    let mut rig = Rig::new();
    let (leg, invite) = rig.invite();
    rig.feed(&response(&invite, "180 Ringing", "a", "", ""));
    rig.pass(300.0);
    assert_eq!(rig.agent.legs(), 1, "it may ring for long");
    rig.agent.hang_up(rig.now, leg, 480);
    rig.pass(33.0);
    assert_eq!((rig.agent.legs(), rig.agent.transactions()), (0, 0));
}

#[test]
fn a_dead_trunk_is_a_timeout_after_seven_sends() {
    let mut rig = Rig::new();
    rig.invite();
    let resent = rig.pass(33.0);
    assert_eq!(resent.len(), 6);
    assert_eq!(rig.events(), [E::Ended(End::of(EndCause::Timeout))]);
    assert_eq!((rig.agent.legs(), rig.agent.transactions()), (0, 0));
}

#[test]
fn a_second_fork_that_answers_is_ended_and_the_first_stands() {
    let mut rig = Rig::new();
    let (_, invite) = rig.invite();
    rig.feed(&response(&invite, "200 OK", "a", "", SDP));
    rig.events();
    let sent = rig.feed(&response(&invite, "200 OK", "b", "", SDP));
    assert!(
        sent[0].starts_with("ACK ") && sent[1].starts_with("BYE ") && sent[1].contains(";tag=b"),
        "{sent:?}"
    );
    assert_eq!((rig.events(), rig.agent.legs()), (vec![], 1));
}

#[test]
fn an_answer_without_media_ends_the_call() {
    let mut rig = Rig::new();
    let (_, invite) = rig.invite();
    let sent = rig.feed(&response(&invite, "200 OK", "a", "", ""));
    assert!(sent[1].starts_with("BYE "));
    assert_eq!(rig.events(), [E::Ended(End::of(EndCause::Media))]);
}

#[test]
fn a_reliable_provisional_is_acknowledged_once() {
    let mut rig = Rig::new();
    let (_, invite) = rig.invite();
    let ringing = response(&invite, "180 Ringing", "a", "Require: 100rel\r\nRSeq: 7\r\n", "");
    let prack = rig.feed(&ringing);
    assert!(prack[0].starts_with("PRACK ") && header(&prack[0], "RAck") == "7 1 INVITE");
    assert_eq!(rig.feed(&ringing), Vec::<String>::new());
}

#[test]
fn an_incoming_call_is_announced_rung_answered_and_ended() {
    let mut rig = Rig::new();
    let sent = rig.feed(&request("INVITE", 1, "", SDP));
    assert_eq!(status(&sent[0]), "100");
    let incoming = rig.agent.poll_incoming().expect("a call");
    assert_eq!((incoming.user, incoming.caller), (b"caller@home.example".to_vec(), b"200".to_vec()));
    assert_eq!(incoming.display.as_deref(), Some("Desk"));
    let media = LocalMedia::new("127.0.0.2:30000".parse().unwrap(), Codec::ALL.to_vec(), 1);
    let plan = rig.agent.attach_media(incoming.leg, media).unwrap().expect("an offer");
    assert_eq!(plan.remote_rtp, Some("127.0.0.1:4000".parse().unwrap()));
    rig.agent.ring(rig.now, incoming.leg).unwrap();
    rig.agent.progress(rig.now, incoming.leg).unwrap();
    rig.agent.answer(rig.now, incoming.leg).unwrap();
    let sent = rig.sent();
    assert_eq!(sent.iter().map(|text| status(text)).collect::<Vec<_>>(), ["180", "183", "200"]);
    assert!(sent[2].contains("m=audio 30000 RTP/AVP 8 101"));
    let tag = tag_of(&sent[2]);
    assert_eq!(rig.pass(2.0).len(), 2, "the 2xx is repeated until its ACK");
    rig.feed(&request("ACK", 1, &tag, ""));
    assert_eq!(rig.pass(20.0), Vec::<String>::new());
    assert_eq!(rig.events(), [E::Confirmed(None)]);
    let ok = rig.feed(&request_with("BYE", 2, &tag, "Reason: Q.850;cause=16\r\n", ""));
    assert_eq!(status(&ok[0]), "200");
    let end = End { cause: EndCause::RemoteBye, status: None, q850: Some(16), retry_after: None };
    assert_eq!((rig.events(), rig.agent.legs()), (vec![E::Ended(end)], 0));
}

#[test]
fn a_2xx_that_is_never_acknowledged_ends_the_call_with_bye() {
    let mut rig = Rig::new();
    let leg = rig.incoming(SDP);
    rig.agent.answer(rig.now, leg).unwrap();
    let sent = rig.pass(33.0);
    assert_eq!(
        sent.iter().filter(|text| text.starts_with("SIP/2.0 200")).count(),
        11,
        "T1 doubling to T2, for 32 s"
    );
    assert!(sent.iter().any(|text| text.starts_with("BYE ")));
    assert_eq!(rig.events(), [E::Ended(End::of(EndCause::NoAck))]);
}

#[test]
fn hanging_up_before_the_ack_waits_for_it() {
    let mut rig = Rig::new();
    let leg = rig.incoming(SDP);
    rig.agent.answer(rig.now, leg).unwrap();
    let tag = tag_of(&rig.sent()[0]);
    rig.agent.hang_up(rig.now, leg, 480);
    assert_eq!(rig.sent(), Vec::<String>::new());
    assert!(rig.feed(&request("ACK", 1, &tag, ""))[0].starts_with("BYE "));
}

#[test]
fn an_incoming_call_that_is_cancelled_gets_487_and_one_answered_before_does_not() {
    let mut rig = Rig::new();
    rig.incoming(SDP);
    let sent = rig.feed(&request_with("CANCEL", 1, "", "Reason: SIP;cause=200\r\n", ""));
    assert_eq!(sent.iter().map(|text| status(text)).collect::<Vec<_>>(), ["200", "487"]);
    assert!(matches!(rig.events()[..], [E::Ended(End { cause: EndCause::RemoteCancel, .. })]));

    let mut rig = Rig::new();
    let leg = rig.incoming(SDP);
    rig.agent.answer(rig.now, leg).unwrap();
    rig.sent();
    let sent = rig.feed(&request("CANCEL", 1, "", ""));
    assert_eq!((sent.len(), status(&sent[0])), (1, "200"));
    assert_eq!((rig.events(), rig.agent.legs()), (vec![], 1));
}

#[test]
fn an_offerless_invite_gets_our_offer_and_takes_the_answer_from_the_ack() {
    let mut rig = Rig::new();
    let leg = rig.incoming("");
    rig.agent.progress(rig.now, leg).unwrap();
    assert_eq!(status(&rig.sent()[0]), "180", "an unreliable provisional carries no offer");
    rig.agent.answer(rig.now, leg).unwrap();
    let ok = rig.sent().remove(0);
    assert!(ok.contains("m=audio 30000 RTP/AVP 8 0 101\r\n"), "{ok}");
    rig.feed(&request("ACK", 1, &tag_of(&ok), SDP));
    let events = rig.events();
    assert!(matches!(&events[..], [E::Confirmed(Some(plan))] if plan.codec == Codec::Pcma), "{events:?}");
}

#[test]
fn hold_and_resume_by_reinvite_and_update_are_answered_with_their_mirror() {
    for method in ["INVITE", "UPDATE"] {
        let mut rig = Rig::new();
        let (_, tag) = rig.established();
        let held = SDP.replace("m=audio", "a=sendonly\r\nm=audio");
        let ok = rig.feed(&request(method, 2, &tag, &held)).remove(0);
        assert!(ok.starts_with("SIP/2.0 200") && ok.contains("a=recvonly"), "{ok}");
        rig.feed(&request("ACK", 2, &tag, ""));
        rig.feed(&request(method, 3, &tag, SDP));
        let events = rig.events();
        let directions: Vec<Direction> = events
            .iter()
            .map(|event| match event {
                E::Media(plan) => plan.direction,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(directions, [Direction { sends: false, receives: true }, Direction::BOTH], "{method}");
    }
}

#[test]
fn an_offerless_reinvite_takes_its_answer_from_the_ack() {
    let mut rig = Rig::new();
    let (_, tag) = rig.established();
    let ok = rig.feed(&request("INVITE", 2, &tag, "")).remove(0);
    assert!(ok.contains("m=audio 30000"), "{ok}");
    rig.feed(&request("ACK", 2, &tag, &SDP.replace("4000", "4100")));
    assert!(
        matches!(&rig.events()[..], [E::Media(plan)] if plan.remote_rtp == Some("127.0.0.1:4100".parse().unwrap()))
    );
}

#[test]
fn an_image_alone_is_488_and_the_call_goes_on() {
    let mut rig = Rig::new();
    let (_, tag) = rig.established();
    let fax = "v=0\r\nc=IN IP4 127.0.0.1\r\nm=image 5000 udptl t38\r\n";
    assert_eq!(status(&rig.feed(&request("INVITE", 2, &tag, fax))[0]), "488");
    rig.feed(&request("ACK", 2, &tag, ""));
    let both = format!("{SDP}m=image 5000 udptl t38\r\n");
    let ok = rig.feed(&request("INVITE", 3, &tag, &both)).remove(0);
    assert!(ok.starts_with("SIP/2.0 200") && ok.contains("m=image 0 udptl t38"), "{ok}");
    assert_eq!(rig.agent.legs(), 1);
}

#[test]
fn a_reinvite_during_an_unacknowledged_one_is_500_and_an_old_number_too() {
    let mut rig = Rig::new();
    let (_, tag) = rig.established();
    rig.feed(&request("INVITE", 5, &tag, SDP));
    assert_eq!(status(&rig.feed(&request("INVITE", 6, &tag, SDP))[0]), "500");
    assert_eq!(status(&rig.feed(&request("OPTIONS", 4, &tag, ""))[0]), "500");
    assert_eq!(rig.agent.legs(), 1);
}

#[test]
fn a_session_timer_is_agreed_and_a_silent_far_side_is_given_up() {
    let mut rig = Rig::new();
    rig.feed(&request_with("INVITE", 1, "", "Supported: timer\r\nSession-Expires: 120\r\n", SDP));
    let leg = rig.agent.poll_incoming().unwrap().leg;
    let media = LocalMedia::new("127.0.0.2:30000".parse().unwrap(), Codec::ALL.to_vec(), 1);
    rig.agent.attach_media(leg, media).unwrap();
    rig.agent.answer(rig.now, leg).unwrap();
    let ok = rig.sent().pop().unwrap();
    assert_eq!(header(&ok, "Session-Expires"), "120;refresher=uac");
    let tag = tag_of(&ok);
    rig.feed(&request("ACK", 1, &tag, ""));
    rig.pass(60.0);
    let ok = rig.feed(&request_with(
        "UPDATE",
        2,
        &tag,
        "Supported: timer\r\nSession-Expires: 120;refresher=uac\r\n",
        "",
    ));
    assert_eq!(header(&ok[0], "Session-Expires"), "120;refresher=uac");
    rig.events();
    assert_eq!(rig.pass(80.0), Vec::<String>::new(), "refreshed");
    assert!(rig.pass(20.0)[0].starts_with("BYE "));
    assert_eq!(rig.events(), [E::Ended(End::of(EndCause::Timeout))]);
}

#[test]
fn a_session_timer_that_we_keep_is_refreshed_by_update() {
    let mut rig = Rig::new();
    let (_, invite) = rig.invite();
    rig.feed(&response(&invite, "200 OK", "a", "Session-Expires: 100;refresher=uac\r\n", SDP));
    let update = rig.pass(51.0);
    assert!(update[0].starts_with("UPDATE "), "{update:?}");
    let sent = rig.feed(&response(&update[0], "481 Gone", "", "", ""));
    assert!(sent[0].starts_with("BYE "));
}

#[test]
fn a_required_100rel_gets_reliable_provisionals_until_prack() {
    let mut rig = Rig::new();
    rig.feed(&request_with("INVITE", 1, "", "Require: 100rel\r\n", SDP));
    let leg = rig.agent.poll_incoming().unwrap().leg;
    let media = LocalMedia::new("127.0.0.2:30000".parse().unwrap(), Codec::ALL.to_vec(), 1);
    rig.agent.attach_media(leg, media).unwrap();
    rig.agent.progress(rig.now, leg).unwrap();
    let progress = rig.sent().pop().unwrap();
    assert_eq!((status(&progress), header(&progress, "RSeq")), ("183", "1"));
    assert_eq!(rig.pass(2.0).len(), 2);
    let tag = tag_of(&progress);
    let prack = request_with("PRACK", 2, &tag, "RAck: 1 1 INVITE\r\n", "");
    assert_eq!(status(&rig.feed(&prack)[0]), "200");
    assert_eq!(rig.pass(5.0), Vec::<String>::new());
}

#[test]
fn refusals_name_what_is_wrong() {
    for (text, expected, header_line) in [
        (request("OPTIONS", 1, "", ""), "200", "Allow: INVITE"),
        (request("REFER", 1, "", ""), "405", "Allow: INVITE"),
        (request("NEWMETHOD", 1, "", ""), "405", "Allow: INVITE"),
        (
            request_with("INVITE", 1, "", "Require: nothing, 100rel\r\n", SDP),
            "420",
            "Unsupported: nothing\r\n",
        ),
        (request("INVITE", 1, "", SDP).replace("Max-Forwards: 70", "Max-Forwards: 0"), "483", ""),
        (
            request("INVITE", 1, "", SDP).replace("application/sdp", "text/plain"),
            "415",
            "Accept: application/sdp",
        ),
        (request("INVITE", 1, "", SDP).replace("CSeq: 1 INVITE", "CSeq: 1 BYE"), "400", ""),
        (
            request("INVITE", 1, "", SDP)
                .replace("INVITE sip:caller%40home.example@127.0.0.2:5060", "INVITE tel:911"),
            "416",
            "",
        ),
        (request("BYE", 1, "", ""), "481", ""),
        (request("BYE", 1, "nosuch", ""), "481", ""),
        (request("INVITE", 1, "nosuch", SDP), "481", ""),
        (request("CANCEL", 1, "", ""), "481", ""),
    ] {
        let mut rig = Rig::new();
        let sent = rig.feed(&text);
        assert_eq!((sent.len(), status(&sent[0])), (1, expected), "{text}\n{sent:?}");
        assert!(sent[0].contains(header_line), "{}", sent[0]);
        assert_eq!(rig.agent.legs(), 0);
    }
}

#[test]
fn strangers_are_refused_without_state() {
    let mut rig = Rig::new();
    let sent = rig.feed_from(&request("INVITE", 1, "", SDP), "127.0.0.9:5060");
    assert_eq!(status(&sent[0]), "403");
    assert_eq!((rig.agent.transactions(), rig.agent.poll_incoming().is_none()), (0, true));
}

#[test]
fn a_flood_costs_refusals_and_bounded_memory() {
    let mut rig = Rig::with(|config| config.limits.transactions = 100);
    let mut answered = 0;
    for number in 0..5000 {
        answered += rig.feed(&request("OPTIONS", number + 1, "", "")).len();
    }
    assert_eq!(answered, 1000, "a burst of two seconds' worth");
    assert!(rig.agent.transactions() <= 100);
}

#[test]
fn the_same_call_by_another_way_is_482() {
    let mut rig = Rig::new();
    rig.incoming(SDP);
    let other = request("INVITE", 1, "", SDP).replace("z9hG4bKINVITE1", "z9hG4bKother");
    assert_eq!(status(&rig.feed(&other)[0]), "482");
}

#[test]
fn a_draining_bridge_refuses_new_calls_with_a_hint() {
    let mut rig = Rig::new();
    rig.agent.drain();
    let sent = rig.feed(&request("INVITE", 1, "", SDP));
    assert_eq!((status(&sent[0]), header(&sent[0], "Retry-After")), ("503", "10"));
}

#[test]
fn a_large_invite_leaves_over_tcp_and_falls_back_to_udp() {
    let mut rig = Rig::new();
    let media = LocalMedia::new("127.0.0.2:30000".parse().unwrap(), Codec::ALL.to_vec(), 1);
    let display = Some("x".repeat(900));
    let call = OutgoingInvite {
        target: Uri::parse(Bytes::from_static(b"sip:200@127.0.0.1:5070")).unwrap(),
        from: Identity { display, user: "a@b.example".into(), asserted: false },
        media,
    };
    rig.agent.invite(rig.now, call).unwrap();
    let (flow, bytes) = rig.agent.poll_transmit().unwrap();
    assert_eq!(flow.transport(), Transport::Tcp);
    assert!(String::from_utf8_lossy(&bytes).contains("Via: SIP/2.0/TCP "));
    rig.agent.handle_transport_failure(rig.now, flow);
    let (flow, bytes) = rig.agent.poll_transmit().unwrap();
    assert_eq!(flow.transport(), Transport::Udp);
    assert!(String::from_utf8_lossy(&bytes).contains("Via: SIP/2.0/UDP "));
    assert_eq!(rig.events(), []);
}

#[test]
fn a_keep_alive_is_answered_and_noise_is_not() {
    let mut rig = Rig::new();
    let mut feed = |bytes: &'static [u8]| {
        rig.agent.handle_datagram(rig.now, Bytes::from_static(bytes), PEER.parse().unwrap())
    };
    assert_eq!(feed(b"\r\n\r\n"), Some(Bytes::from_static(b"\r\n")));
    assert_eq!(feed(b"\r\n"), None);
    assert_eq!(feed(b"hello"), None);
    assert_eq!(rig.sent(), Vec::<String>::new());
}

#[test]
fn responses_go_where_rfc_3581_says() {
    let mut rig = Rig::new();
    let with = request("OPTIONS", 1, "", "");
    rig.agent.handle_datagram(rig.now, Bytes::from(with.clone()), "127.0.0.1:9999".parse().unwrap());
    let (flow, bytes) = rig.agent.poll_transmit().unwrap();
    assert_eq!(flow.peer().port(), 9999);
    assert!(String::from_utf8_lossy(&bytes).contains(";rport=9999;received=127.0.0.1"));
    let without = with.replace(";rport", "").replace("OPTIONS1", "OPTIONS9");
    rig.agent.handle_datagram(rig.now, Bytes::from(without), "127.0.0.1:9999".parse().unwrap());
    let (flow, _) = rig.agent.poll_transmit().unwrap();
    assert_eq!(flow.peer().port(), 5070);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_mutated_datagram_panics_the_agent(
        which in 0usize..5,
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..3), 0..10),
    ) {
        let mut bytes = match which {
            0 => request("INVITE", 1, "", SDP),
            1 => request_with("INVITE", 1, "", "Require: 100rel\r\nSession-Expires: 90;refresher=uas\r\nSupported: timer\r\n\
                Record-Route: <sip:10.0.0.1;lr>, <sip:p>\r\nP-Asserted-Identity: \"x\" <sip:a@b>\r\n", SDP),
            2 => request("OPTIONS", 1, "", ""),
            3 => request_with("CANCEL", 1, "", "Reason: SIP;cause=200\r\n", ""),
            _ => "SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 127.0.0.2:5060;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\n\
                To: <sip:c@d>;tag=2\r\nCall-ID: x\r\nCSeq: 1 INVITE\r\nContact: <sip:c@127.0.0.1>\r\n\r\n".to_owned(),
        }.into_bytes();
        for (at, byte, what) in edits {
            let at = at.index(bytes.len().max(1));
            match what {
                0 if at < bytes.len() => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ if at < bytes.len() => { bytes.remove(at); }
                _ => {}
            }
        }
        crate::sip::fuzz_datagram(&bytes);
    }
}
