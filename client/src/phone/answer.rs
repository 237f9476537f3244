//! Answering a call with audio: ring, then answer; no SDP leaves before the answer, so that nobody learns
//! a person's network address without their doing (spec section 6.3).

use ahoy_proto::v1::{self, HangupReason, call_frame::Message};
use bytes::Bytes;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::talk::{Side, Talk};
use super::{AnswerPlan, CallReport, Mark, Timeline, media_config, media_error};
use crate::call::{Call, IncomingCall};
use crate::error::ClientError;
use crate::media::{MediaSession, MediaStats};
use crate::session::Session;

/// Rings for `plan.after`, answers, and stays until the call is over; a cancelled `stop` hangs up.
///
/// # Errors
/// When this side has no media for the offer; the caller is told `Media`.
pub async fn answer(
    session: &Session,
    incoming: IncomingCall,
    plan: AnswerPlan,
    mut timeline: Timeline<'_>,
    stop: &CancellationToken,
) -> Result<CallReport, ClientError> {
    let peer = incoming.from.clone();
    let offer = incoming.invite.sdp.clone();
    let mut call = incoming.accept();
    timeline.mark(Mark::Invited, peer.to_string());
    let branch = Bytes::copy_from_slice(&call.id()[..8.min(call.id().len())]);
    let ringing = v1::Ringing { branch: branch.clone(), sdp: String::new() };
    // A call that is over already says so at `next`.
    let _ = call.send(Message::Ringing(ringing)).await;
    timeline.mark(Mark::Ringing, "");
    if let Some(ended) = ring(&mut call, Instant::now() + plan.after, stop).await {
        timeline.mark(Mark::Ended, crate::outcome::reason_name(crate::outcome::reason(&ended)));
        return Ok(unanswered(peer, ended, stop.is_cancelled(), &timeline, &call));
    }
    let config = media_config(session, &plan.audio);
    let (media, sdp) = match MediaSession::answer(config.clone(), &offer).await {
        Ok(both) => both,
        Err(error) => {
            call.hangup(HangupReason::Media).await;
            return Err(media_error(&error));
        }
    };
    let mut talk = Talk::new(Side::Callee, call, media, plan.audio, config, timeline);
    talk.answer(branch, sdp).await.map_err(|e| media_error(&e))?;
    Ok(talk.run(peer, stop).await)
}

/// Until `until`: `None`; the caller gave up, or this side did: how it ended.
async fn ring(call: &mut Call, until: Instant, stop: &CancellationToken) -> Option<v1::Hangup> {
    let mut stopping = false;
    loop {
        tokio::select! {
            () = sleep_until(until), if !stopping => return None,
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                call.hangup(HangupReason::Declined).await;
            }
            message = call.next() => match message {
                Some(Message::Hangup(hangup)) => return Some(hangup),
                Some(_) => {}
                None => return Some(v1::Hangup::default()),
            },
        }
    }
}

fn unanswered(
    peer: ahoy_proto::address::Address,
    hangup: v1::Hangup,
    ended_here: bool,
    timeline: &Timeline<'_>,
    call: &Call,
) -> CallReport {
    CallReport {
        peer,
        answered: false,
        hangup,
        ended_here,
        steps: timeline.steps().to_vec(),
        recording: None,
        media: MediaStats { packets_sent: 0, packets_received: 0, first_audio: None },
        dtmf: String::new(),
        resumptions: call.resumptions(),
    }
}
