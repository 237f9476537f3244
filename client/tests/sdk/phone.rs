//! A call with audio from one client to another, through a homeserver that only passes the messages on.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ahoy_client::media::Source;
use ahoy_client::phone::{self, AnswerPlan, AudioPlan, DialPlan, Mark, Timeline};
use ahoy_client::{Network, Session};
use ahoy_proto::v1::{self, HangupReason, call_frame::Message, open::Open};
use ahoy_transport::{Connection, Stream};
use tokio_util::sync::CancellationToken;

use crate::homeserver::{Homeserver, address, call_stream, say, soon, token};

async fn both(home: &mut Homeserver) -> ((Session, Connection), (Session, Connection), Network) {
    let network = home.network();
    home.know(1);
    home.know(9);
    let ann = Session::sign_in_device(&network, home.device(1, None)).await.expect("known");
    let ann_link = home.arrival().await.connection;
    let desk = Session::sign_in_service(&network, home.service(None)).await.expect("known");
    let desk_link = home.arrival().await.connection;
    ((ann, ann_link), (desk, desk_link), network)
}

/// Passes a call from one connection to the other until either side ends it.
async fn pass_on(from: &Connection, to: &Connection) {
    let (open, mut caller) = call_stream(from).await;
    say(&mut caller, 0, token("token-1-token-1-")).await;
    let mut callee = to.open(Open::Call(open)).await.expect("the connection lives");
    loop {
        let passed = tokio::select! {
            frame = caller.recv::<v1::CallFrame>() => pass(frame.ok().flatten(), &mut callee).await,
            frame = callee.recv::<v1::CallFrame>() => pass(frame.ok().flatten(), &mut caller).await,
        };
        if passed.is_none() {
            return;
        }
    }
}

async fn pass(frame: Option<v1::CallFrame>, to: &mut Stream) -> Option<()> {
    let frame = frame?;
    if frame.counter == 0 {
        return Some(());
    }
    to.send(&frame).await.ok()?;
    let over = matches!(frame.message, Some(Message::Hangup(_)));
    if over {
        to.finish();
    }
    (!over).then_some(())
}

fn audio(hz: f64, record: std::path::PathBuf) -> AudioPlan {
    AudioPlan {
        play: Source::Tone { hz },
        record: Some(record),
        bind_ips: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
        ..AudioPlan::default()
    }
}

#[tokio::test]
async fn two_clients_hear_each_other_and_the_keys_arrive() {
    let mut home = Homeserver::start().await;
    let dir = tempfile::tempdir().expect("a folder");
    let ((ann, ann_link), (desk, desk_link), _network) = both(&mut home).await;
    let plan = DialPlan {
        to: address("support@home.example"),
        from: None,
        ring: None,
        display: "Ann".into(),
        audio: AudioPlan {
            dtmf: Some("12#".into()),
            duration: Some(Duration::from_secs(3)),
            ..audio(440.0, dir.path().join("ann.wav"))
        },
    };
    let answer_plan =
        AnswerPlan { after: Duration::from_millis(50), audio: audio(880.0, dir.path().join("desk.wav")) };
    let stop = CancellationToken::new();
    let dialling = phone::dial(&ann, plan, Timeline::new(|_| {}), &stop);
    let answering = async {
        let incoming = soon(desk.next_call()).await.expect("a call");
        assert_eq!(incoming.invite.caller_display, "Ann");
        phone::answer(&desk, incoming, answer_plan, Timeline::new(|_| {}), &stop).await
    };
    let passing = pass_on(&ann_link, &desk_link);
    let (here, there, ()) = soon(async { tokio::join!(dialling, answering, passing) }).await;
    let (here, there) = (here.expect("placed"), there.expect("answered"));
    for report in [&here, &there] {
        assert!(report.answered);
        assert_eq!(report.exit_status(), 0, "{report:?}");
        let recording = report.recording.as_ref().expect("recorded");
        assert!(recording.seconds > 1.5, "{report:?}");
        for mark in [Mark::Ringing, Mark::Answered, Mark::MediaUp, Mark::FirstAudio, Mark::Ended] {
            assert!(report.steps.iter().any(|step| step.mark == mark), "{mark:?} in {report:?}");
        }
    }
    assert_eq!((here.ended_here, there.ended_here), (true, false));
    assert_eq!(there.dtmf, "12#");
}

#[tokio::test]
async fn a_caller_who_gives_up_is_heard_while_it_rings() {
    let mut home = Homeserver::start().await;
    let ((ann, ann_link), (desk, desk_link), _network) = both(&mut home).await;
    let plan = DialPlan {
        to: address("support@home.example"),
        from: None,
        ring: None,
        display: String::new(),
        audio: AudioPlan { bind_ips: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)], ..AudioPlan::default() },
    };
    let (give_up, patient) = (CancellationToken::new(), CancellationToken::new());
    let dialling = phone::dial(
        &ann,
        plan,
        Timeline::new(|step| {
            if step.mark == Mark::Ringing {
                give_up.cancel();
            }
        }),
        &give_up,
    );
    let answering = async {
        let incoming = soon(desk.next_call()).await.expect("a call");
        let plan = AnswerPlan { after: Duration::from_secs(60), ..AnswerPlan::default() };
        phone::answer(&desk, incoming, plan, Timeline::new(|_| {}), &patient).await
    };
    let passing = pass_on(&ann_link, &desk_link);
    let (here, there, ()) = soon(async { tokio::join!(dialling, answering, passing) }).await;
    for report in [here.expect("placed"), there.expect("rang")] {
        assert_eq!((report.answered, report.reason()), (false, HangupReason::Cancelled));
        assert_eq!(report.exit_status(), 12);
    }
}
