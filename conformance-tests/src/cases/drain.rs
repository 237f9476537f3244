//! Draining: what a subject that is asked to stop still does. Runs last: the subject is gone after it.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use ahoy_proto::v1::{self, ControlFrame, HangupReason as Reason, call_frame::Message, control_frame::Frame};

use super::call::{RING, connect, to_line};
use super::{Case, Seen};
use crate::frame::End;
use crate::refusal::Refused;
use crate::world::World;

pub(super) const CASES: &[Case] = &[Case::new(
    "drain",
    &["WIRE-STREAM-03", "CALL-END-04"],
    "a subject that stops says GoAway, takes no new call, and lets a live one go on",
    |w| Box::pin(drain(w)),
)];

async fn drain(world: &World) -> Seen {
    let (mut device, service) = (world.device(0).await?, world.service().await?);
    let call = to_line(world)?;
    let (mut caller, mut callee) = connect(&call, &device, &service).await?;
    world.stop_subject().await?;
    let away = loop {
        match device.control.recv::<ControlFrame>().await.context("no GoAway came")?.frame {
            Some(Frame::GoAway(away)) => break away,
            Some(Frame::Error(error)) => bail!(Refused(error)),
            _ => {}
        }
    };
    let digits = Message::Dtmf(v1::Dtmf { digits: "5".into(), duration_ms: 0 });
    caller.send(digits.clone()).await?;
    ensure!(callee.next().await? == digits, "the live call does not go on");
    let refused = match to_line(world)?.place(&device, None, RING).await {
        Ok(mut leg) => leg.end().await,
        Err(error) => Err(error),
    };
    let how = match refused {
        Ok(end) if end.reason() == Reason::Unavailable => {
            format!("Hangup UNAVAILABLE, {} ms", end.retry_after_ms)
        }
        Ok(end) => bail!("a new call ended with {:?} {:?}", end.reason(), end.message),
        Err(error) => match error.downcast_ref::<End>() {
            Some(End::Reset(code)) if *code == v1::ErrorCode::Unavailable as u64 => {
                "reset with UNAVAILABLE".into()
            }
            _ => return Err(error.context("a new call")),
        },
    };
    caller.hang_up(Reason::Normal).await?;
    callee.ends_with(Reason::Normal).await.context("the live call's end")?;
    let gone = tokio::time::timeout(Duration::from_secs(5), device.connection.closed()).await;
    gone.context("the connection stays open after the last call")?;
    Ok(format!("back after {} ms; a new call: {how}", away.reconnect_after_ms))
}
