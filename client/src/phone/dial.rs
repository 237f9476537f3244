//! Placing a call with audio.

use tokio_util::sync::CancellationToken;

use super::talk::{Side, Talk};
use super::{CallReport, DialPlan, Mark, Timeline, media_config, media_error};
use crate::call::PlaceCall;
use crate::error::ClientError;
use crate::media::MediaSession;
use crate::session::Session;

/// Calls, and stays until the call is over; a cancelled `stop` hangs up. Busy, declined and the like are
/// reports, not errors.
///
/// # Errors
/// When the call could not even be placed: media, connection, a refusal of the stream.
pub async fn dial(
    session: &Session,
    plan: DialPlan,
    mut timeline: Timeline<'_>,
    stop: &CancellationToken,
) -> Result<CallReport, ClientError> {
    let config = media_config(session, &plan.audio);
    let (media, sdp) = MediaSession::offer(config.clone()).await.map_err(|e| media_error(&e))?;
    if let Some(path) = &plan.audio.record {
        media.record(path).map_err(|e| media_error(&e))?;
    }
    let place =
        PlaceCall { to: plan.to.clone(), from: plan.from, sdp, ring: plan.ring, display: plan.display };
    let call = session.place_call(place).await?;
    timeline.mark(Mark::Invited, plan.to.to_string());
    let talk = Talk::new(Side::Caller, call, media, plan.audio, config, timeline);
    Ok(talk.run(plan.to, stop).await)
}
