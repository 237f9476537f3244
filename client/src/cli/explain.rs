//! `ahoy explain` and `ahoy peers`: what is believed, and what is queued.

use ahoy_client::Session;
use ahoy_client::error::{ClientError, Stage, advice, code_name};
use ahoy_proto::fault::Fault;
use ahoy_proto::v1::{self, request, response};
use ahoy_resolver::Explanation;

use super::Failure;
use super::home::Home;

/// Arguments of `ahoy explain`.
#[derive(clap::Args)]
pub struct Explain {
    /// The name (of an address, its name).
    name: String,
    /// As the homeserver of this account sees it, not as this machine does.
    #[arg(long)]
    server: bool,
    /// Do not use what was cached. (With --server; this machine starts without a cache.)
    #[arg(long)]
    fresh: bool,
    /// One JSON object per line.
    #[arg(long)]
    json: bool,
}

/// Arguments of `ahoy peers`.
#[derive(clap::Args)]
pub struct Peers {
    /// One JSON object per line.
    #[arg(long)]
    json: bool,
}

/// An explanation, wherever it comes from.
struct Told {
    level: String,
    steps: Vec<v1::ExplainStep>,
    warnings: Vec<String>,
    error: Option<Fault>,
}

pub async fn explain(home: &Home, command: Explain) -> Result<u8, Failure> {
    let name = home.address(&command.name)?.name().clone();
    let network = home.network().await?;
    let told = if command.server {
        let session = home.sign_in(&network).await?;
        let told = ask(&session, name.as_str(), command.fresh).await?;
        session.close().await;
        told
    } else {
        local(&network.explain(&name).await)
    };
    network.close().await;
    print(&told, command.json);
    match told.error {
        None => Ok(0),
        Some(fault) => Err(ClientError::new(Stage::Resolve, name.as_str(), fault).into()),
    }
}

/// The explanation of this machine's own resolver. Only the step that ended a refused look-up failed.
fn local(explanation: &Explanation) -> Told {
    let steps = explanation.steps.iter().enumerate().map(|(index, step)| v1::ExplainStep {
        what: step.what.clone(),
        outcome: step.outcome.clone(),
        ok: explanation.outcome.is_ok() || index + 1 < explanation.steps.len(),
        elapsed_us: u32::try_from(step.took_us).unwrap_or(u32::MAX),
    });
    let steps = steps.collect();
    match &explanation.outcome {
        Ok(resolution) => Told {
            level: resolution.level.to_string(),
            steps,
            warnings: resolution.warnings.iter().map(ToString::to_string).collect(),
            error: None,
        },
        Err(refusal) => {
            Told { level: String::new(), steps, warnings: Vec::new(), error: Some(refusal.fault()) }
        }
    }
}

async fn ask(session: &Session, name: &str, fresh: bool) -> Result<Told, Failure> {
    let question = request::Request::Explain(v1::Explain { name: name.to_owned(), fresh });
    match session.request(question).await? {
        response::Response::Explain(answer) => Ok(Told {
            level: answer.level,
            steps: answer.steps,
            warnings: answer.warnings,
            error: answer.error.map(Fault::from),
        }),
        _ => Err(Failure::Plain("the homeserver answered something else than asked: update it".to_owned())),
    }
}

fn print(told: &Told, json: bool) {
    for step in &told.steps {
        if json {
            let (what, outcome, ok, us) = (&step.what, &step.outcome, step.ok, step.elapsed_us);
            let line = serde_json::json!({ "what": what, "outcome": outcome, "ok": ok, "elapsed_us": us });
            println!("{line}");
        } else {
            let sign = if step.ok { "ok  " } else { "FAIL" };
            let ms = f64::from(step.elapsed_us) / 1000.0;
            println!("{sign} {ms:>8.1} ms  {}: {}", step.what, step.outcome);
        }
    }
    let code = told.error.as_ref().map(|fault| code_name(fault.code));
    if json {
        println!("{}", serde_json::json!({ "level": told.level, "error": code, "warnings": told.warnings }));
        return;
    }
    for warning in &told.warnings {
        println!("warning: {warning}");
    }
    if code.is_none() {
        println!("level: {}", told.level);
    }
}

pub async fn peers(home: &Home, command: Peers) -> Result<u8, Failure> {
    let network = home.network().await?;
    let session = home.sign_in(&network).await?;
    let answer = session.request(request::Request::Peers(v1::Peers {})).await?;
    session.close().await;
    network.close().await;
    let response::Response::Peers(answer) = answer else {
        return Err(Failure::Plain(
            "the homeserver answered something else than asked: update it".to_owned(),
        ));
    };
    if answer.peers.is_empty() && !command.json {
        println!("no peers yet");
    }
    for peer in &answer.peers {
        println!("{}", if command.json { peer_json(peer).to_string() } else { peer_line(peer) });
    }
    Ok(0)
}

fn peer_json(peer: &v1::PeerStatus) -> serde_json::Value {
    let error = peer.last_error.clone().map(Fault::from).map(|fault| code_name(fault.code));
    serde_json::json!({ "name": peer.name, "queued": peer.queued, "connected": peer.connected,
        "last_success_ms": peer.last_success_ms, "next_retry_ms": peer.next_retry_ms, "last_error": error })
}

fn peer_line(peer: &v1::PeerStatus) -> String {
    let state = if peer.connected { "connected" } else { "not connected" };
    let mut line = format!("{}: {state}, {} queued", peer.name, peer.queued);
    if let Some(error) = peer.last_error.clone() {
        let fault = Fault::from(error);
        line +=
            &format!("; last error {}: {} ({})", code_name(fault.code), fault.message, advice(fault.code));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_with_an_error_is_shown_with_its_name_and_advice() {
        let peer = v1::PeerStatus {
            name: "bank.example".into(),
            queued: 3,
            last_error: Some(Fault::new(v1::ErrorCode::PeerUnreachable, "no endpoint").to_wire()),
            ..v1::PeerStatus::default()
        };
        let line = peer_line(&peer);
        assert!(
            line.starts_with("bank.example: not connected, 3 queued; last error PeerUnreachable"),
            "{line}"
        );
    }
}
