//! `ahoy read`: what the sync log holds after the position shown last.

use std::io::Write;

use ahoy_client::SyncEvent;
use ahoy_client::error::code_name;
use ahoy_client::message::{Message, MessageError};
use ahoy_proto::fault::Fault;
use ahoy_proto::v1::{self, sync_item};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::Failure;
use super::home::Home;

/// Without `--follow`: how long the homeserver may take from one item to the next.
const ITEM_TIME: std::time::Duration = std::time::Duration::from_secs(10);

/// Arguments of `ahoy read`.
#[derive(clap::Args)]
pub struct Read {
    /// Stay, and show what arrives.
    #[arg(long, short)]
    follow: bool,
    /// One JSON object per line.
    #[arg(long)]
    json: bool,
    /// Show everything again, from the start.
    #[arg(long)]
    all: bool,
}

pub async fn run(home: &Home, command: Read, stop: &CancellationToken) -> Result<u8, Failure> {
    let network = home.network().await?;
    let session = home.sign_in(&network).await?;
    let mut log = session.sync(if command.all { 0 } else { home.position("sync")? });
    loop {
        let next = async {
            if command.follow { Ok(log.next().await) } else { timeout(ITEM_TIME, log.next()).await }
        };
        let event = tokio::select! {
            event = next => match event {
                Ok(event) => event?,
                Err(_) => return Err(Failure::Plain("the homeserver sent nothing for 10 s: try again".to_owned())),
            },
            () = stop.cancelled() => break,
        };
        match event {
            SyncEvent::Item(item) => {
                if let Some(line) = line(&item, command.json) {
                    // Shown first, remembered after: a crash in between shows it twice rather than never.
                    let shown = writeln!(std::io::stdout(), "{line}");
                    shown.map_err(|error| format!("cannot write to standard output: {error}"))?;
                }
                home.set_position("sync", item.position)?;
            }
            SyncEvent::CaughtUp(_) if !command.follow => break,
            SyncEvent::CaughtUp(_) => {}
        }
    }
    session.close().await;
    Ok(0)
}

/// What is shown of an item; nothing of those that only confirm.
fn line(item: &v1::SyncItem, json: bool) -> Option<String> {
    match item.item.as_ref()? {
        sync_item::Item::Event(placed) => Some(match Message::from_placed(placed) {
            Ok(message) if json => message_json(item, &message).to_string(),
            Ok(message) => format!("{} -> {}: {}", message.from, message.to, printable(&message.text())),
            Err(error) => unreadable(item, &error, json),
        }),
        sync_item::Item::Pending(pending) if json => Some(
            serde_json::json!({ "kind": "pending", "position": item.position, "client_id": hex(&pending.client_id),
                "to": pending.to, "time_ms": pending.time_ms,
                "text": pending.content.as_ref().map_or("", |content| &content.fallback) })
            .to_string(),
        ),
        sync_item::Item::Placed(placed) if json => Some(
            serde_json::json!({ "kind": "placed", "position": item.position, "client_id": hex(&placed.client_id),
                "seq": placed.seq, "epoch": placed.epoch })
            .to_string(),
        ),
        sync_item::Item::Failed(failed) => {
            let fault = Fault::from(failed.error.clone().unwrap_or_default());
            Some(if json {
                serde_json::json!({ "kind": "failed", "position": item.position,
                    "client_id": hex(&failed.client_id), "error": code_name(fault.code), "message": fault.message })
                .to_string()
            } else {
                let advice = ahoy_client::error::advice(fault.code);
                format!("a message was not delivered: {}: {}; {advice}", code_name(fault.code), fault.message)
            })
        }
        _ => None,
    }
}

fn message_json(item: &v1::SyncItem, message: &Message) -> serde_json::Value {
    serde_json::json!({ "kind": "message", "position": item.position, "from": message.from, "to": message.to,
        "text": message.text(), "time_ms": message.time_ms, "event_id": hex(&message.event_id),
        "conversation": hex(&message.conversation), "epoch": message.epoch, "seq": message.seq,
        "address": item.address })
}

fn unreadable(item: &v1::SyncItem, error: &MessageError, json: bool) -> String {
    if json {
        return serde_json::json!({ "kind": "unreadable", "position": item.position, "error": error.to_string() })
            .to_string();
    }
    format!("(a message that cannot be shown: {error})")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Without what could steer a terminal: a stranger wrote it.
pub fn printable(text: &str) -> String {
    text.chars().filter(|c| *c == '\n' || !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strangers_text_cannot_steer_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\nc\u{7}"), "a[2Jb\nc");
    }

    #[test]
    fn a_failure_is_shown_with_its_name_and_advice() {
        let failed = v1::Failed {
            error: Some(Fault::new(v1::ErrorCode::NotOnNetwork, "no record").to_wire()),
            ..v1::Failed::default()
        };
        let item = v1::SyncItem { item: Some(sync_item::Item::Failed(failed)), ..v1::SyncItem::default() };
        let line = line(&item, false).expect("shown");
        assert!(line.contains("NotOnNetwork: no record; the name has no Ahoy record"), "{line}");
    }
}
